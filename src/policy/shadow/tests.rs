//! What a shadow is spared, decided without a relay around it.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::protocol::item::Counting;

const ALL: fn(&Quantities) -> bool = |_| true;

fn settings(text: &str) -> Settings {
    toml::from_str(text).unwrap()
}

fn left_out(
    settings: &Settings,
    kinds: &[&str],
    (trace, event): (u128, u128),
    take: impl FnMut(&Quantities) -> bool,
) -> Vec<(u16, DropReason)> {
    let kinds: Vec<ItemType> = kinds.iter().map(|kind| ItemType::from_name(kind)).collect();
    let candidate = |kind| {
        let mut quantities = Quantities::new();
        ItemType::count(kind, 10, Counting::default(), &mut quantities);
        Candidate { kind, is_event: kind.is_event(), quantities }
    };
    let items: Vec<Candidate<'_>> = kinds.iter().map(candidate).collect();
    settings.left_out(&items, Identity { trace, event }, take)
}

#[test]
fn only_the_listed_types_get_through_and_what_depends_on_an_event_goes_with_it() {
    let out = |text: &str, kinds: &[&str]| {
        let out = left_out(&settings(text), kinds, (1, 1), ALL);
        assert!(out.iter().all(|(_, why)| *why == DropReason::Filtered));
        out.into_iter().map(|(position, _)| position).collect::<Vec<_>>()
    };
    assert!(out("", &["event", "session"]).is_empty());
    assert_eq!(out("items = [\"event\"]", &["event", "session", "new_word"]), [1, 2]);
    assert_eq!(out("items = [\"event\"]", &["event", "attachment"]), [1]);
    assert_eq!(out("items = [\"attachment\", \"session\"]", &["attachment", "event", "session"]), [0, 1]);
    assert!(out("items = [\"attachment\"]", &["attachment"]).is_empty());
    assert_eq!(out("items = []", &["client_report", "form_data"]), [1]);
    // Of two events one gets through, and with it what may depend on it.
    assert_eq!(out("items = [\"event\", \"attachment\"]", &["attachment", "transaction", "event"]), [1]);
}

#[test]
fn of_what_is_sampled_and_capped_the_dependants_go_too_and_cost_nothing() {
    let sampled =
        left_out(&settings("sample = { transaction = 0 }"), &["profile", "transaction", "session"], (1, 1), ALL);
    assert_eq!(sampled, [(0, DropReason::Sampled), (1, DropReason::Sampled)]);
    let mut asked = vec![];
    let none = |item: &Quantities| {
        asked.push(item.to_string());
        false
    };
    let out = left_out(&settings("sample = { session = 0 }"), &["attachment", "session", "event", "log"], (1, 1), none);
    let capped = |position| (position, DropReason::Capped);
    assert_eq!(out, [capped(0), (1, DropReason::Sampled), capped(2), capped(3)]);
    assert_eq!(asked, ["error=1", "log_byte=10 log_item=1"]);
}

#[test]
fn what_can_never_get_through_is_known_before_it_comes() {
    let settings = settings("items = [\"event\", \"session\"]\nsample = { session = 0, error = 0.1 }");
    let never = |kind: ItemType| settings.never_takes(&kind, &kind.categories(Counting::default()));
    assert!(never(ItemType::Transaction) && never(ItemType::Session));
    assert!(!never(ItemType::Event) && !never(ItemType::ClientReport));
}

#[test]
fn what_is_no_part_of_the_whole_is_refused_and_the_rest_is_said_in_words() {
    for text in [
        "sample = { error = 1.5 }",
        "sample = { error = -1 }",
        "sample = { error = nan }",
        "sample = { eror = 0.5 }",
        "items = [\"evnt\"]",
        "items = \"event\"",
        "kinds = []",
    ] {
        assert!(toml::from_str::<Settings>(text).is_err(), "{text}");
    }
    let some = settings("items = [\"event\"]\nsample = { error = 1, transaction = 0.001 }\ndaily_cap = { error = 9 }");
    let shown = r#"{"items":["event"],"sample":{"error":1.0,"transaction":0.001},"daily_cap":{"error":9}}"#;
    assert_eq!(serde_json::to_string(&some).unwrap(), shown);
    assert_eq!(some.to_string(), "only event; 100% of error; 0.1% of transaction; at most 9 error a day");
    assert!((0..1000).all(|id| some.sample[&Category::Error].has(id)));
    assert!(settings("").is_open() && !some.is_open());
}

/// Ids as clients make them: random, or of one millisecond, which differ in their last bits only.
fn id(seed: u64, in_a_row: bool, n: u64) -> u128 {
    let random = u128::from(seed ^ n.wrapping_mul(0x2545_f491_4f6c_dd1d)) * u128::from(seed | 1);
    if in_a_row { u128::from(seed) << 64 | u128::from(n) } else { random.rotate_left(67) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn of_a_trace_all_is_kept_or_nothing_and_of_traces_the_part_that_was_asked_for(
        part in 0_u32..=100, seed in any::<u64>(), in_a_row in any::<bool>(),
    ) {
        const TRACES: u32 = 4000;
        let text = format!("sample = {{ transaction = {0:.2}, profile = {0:.2}, span = {0:.2} }}", f64::from(part) / 100.0);
        let settings = settings(&text);
        let mut kept = 0;
        for n in 0..u64::from(TRACES) {
            let trace = id(seed, in_a_row, n);
            // Three services, each with an event of its own, and one that sends its spans by themselves.
            let decisions: BTreeSet<bool> = (0..3).map(|service| {
                let out = left_out(&settings, &["transaction", "profile"], (trace, id(!seed, in_a_row, n * 3 + service)), ALL);
                assert!(out.is_empty() || out.len() == 2, "a transaction and its profile");
                out.is_empty()
            }).chain([left_out(&settings, &["span"], (trace, 0), ALL).is_empty()]).collect();
            prop_assert_eq!(decisions.len(), 1, "trace {:032x} is torn apart", trace);
            kept += u32::from(decisions.contains(&true));
        }
        // Six standard deviations of a fair draw: once in 500 million times by chance.
        let (expected, p) = (f64::from(TRACES) * f64::from(part) / 100.0, f64::from(part) / 100.0);
        let tolerance = 6.0 * (f64::from(TRACES) * p * (1.0 - p)).sqrt() + 1.0;
        prop_assert!((f64::from(kept) - expected).abs() <= tolerance, "{} of {}, {} expected", kept, TRACES, expected);
    }

    #[test]
    fn a_smaller_part_lies_within_a_larger_one(small in 0.0..1.0_f64, more in 0.0..1.0_f64, id in any::<u128>()) {
        let has = |part: f64| settings(&format!("sample = {{ error = {part:.6} }}")).sample[&Category::Error].has(id);
        prop_assert!(!has(small * more) || has(small.max(small * more)));
    }
}

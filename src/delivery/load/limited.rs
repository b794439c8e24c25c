//! Divides a request that was answered with 429: items that were taken, and items that are left.
//!
//! Rule: an item that was not sent was not taken, even if the limit that held it back has ended by the time of the answer.

use crate::clock::Timestamp;
use crate::delivery::quirks::Quirks;
use crate::journal::{Claim, Progress};
use crate::policy::cooldown::Cooldown;
use crate::protocol::category::Quantities;

use super::{Load, Part, positions, select, sum};

/// Divides a record by the limits that are known with the answer: the quantities of `sent` that the upstream has taken, and what is left,
/// none of which is sent now. `takes_the_rest` is whether the answer tells of limits, and comes from an upstream that takes what it does not
/// limit. `Err` when the upstream may not have taken that: until when all of `sent` waits; `None` when none of it is limited.
pub(in crate::delivery) fn divide(
    claim: &Claim,
    sent: &Load,
    cooldown: &Cooldown,
    (quirks, takes_the_rest): (&Quirks, bool),
    now: Timestamp,
) -> Result<(Quantities, Load), Option<Timestamp>> {
    let select_of = |items| {
        let progress = Progress { items, ..claim.progress.clone() };
        select(&Claim { progress, ..claim.clone() }, cooldown, quirks, now)
    };
    let was_sent = select_of(sent.positions().or_else(|| claim.progress.items.clone()));
    let is_known = was_sent.is_empty() || (takes_the_rest && was_sent.has_limited());
    if !is_known {
        return Err(was_sent.limited_until);
    }
    let was_not = match sent.whole {
        true => Load::default(),
        false => select_of(Some(positions(&[&sent.later, &sent.limited]))),
    };
    let left = Load {
        later: joined(&[&was_not.send, &was_not.later]),
        limited: joined(&[&was_sent.limited, &was_not.limited]),
        limited_until: was_sent.limited_until.max(was_not.limited_until),
        ..Load::default()
    };
    Ok((sum(&[&was_sent.send, &was_sent.later]), left))
}

fn joined(parts: &[&Part]) -> Part {
    Part { items: positions(parts), quantities: sum(parts) }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, OnceLock};
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::delivery::quirks;
    use crate::delivery::settings::{Kind, OnRateLimit};
    use crate::journal::body::Body;
    use crate::journal::{Client, Lease, Record, RecordId, Settlement};
    use crate::protocol::category::Category;
    use crate::protocol::rate_limits::RateLimit;

    const T: Timestamp = Timestamp::from_millis(1_700_000_000_000);
    const CATEGORIES: [Category; 4] = [Category::Error, Category::Session, Category::Feedback, Category::Attachment];

    fn claim() -> Claim {
        let text = "{}\n{\"type\":\"event\"}\n{}\n{\"type\":\"session\"}\n{}\n{\"type\":\"feedback\"}\n{}\n{\"type\":\"attachment\"}\nx\n";
        let body = Body::from(Bytes::from(text));
        let quantities = body.outline().unwrap().quantities();
        let (id, located) = (RecordId::from_number(1), OnceLock::new());
        let (target, ends) = (serde_json::from_str("0").unwrap(), tokio::time::Instant::now());
        let lease = Lease { target, record: id, owner: 1, number: 1, ends };
        let (project, client) = ("shop".into(), Client::default());
        let record = Record { id, accepted_at: T, project, event_id: None, quantities, client, body, located };
        Claim { lease, record: Arc::new(record), progress: Progress::default(), backfilled: false }
    }

    /// The limits whose bit is set.
    fn limits(bits: usize) -> Cooldown {
        let categories =
            CATEGORIES.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1).map(|(_, category)| *category);
        let categories: Vec<Category> = categories.collect();
        let limit = RateLimit { retry_after: Duration::from_secs(60), categories: Some(categories) };
        let mut cooldown = Cooldown::default();
        cooldown.apply(&"shop".into(), &[limit], T);
        cooldown
    }

    fn is_within(part: &Quantities, whole: &Quantities) -> bool {
        part.iter().all(|entry| whole.iter().any(|other| other.0 == entry.0 && other.1 >= entry.1))
    }

    #[test]
    fn only_sent_items_count_as_delivered_whatever_is_limited() {
        let claim = claim();
        let mut divided = 0;
        for (kind, before, after) in cases() {
            let sent = select(&claim, &limits(before), quirks::of(kind), T);
            let limited = select(&claim, &limits(after), quirks::of(kind), T).limited.quantities;
            let Ok((taken, left)) =
                divide(&claim, &sent, &limits(after), (quirks::of(kind), quirks::of(kind).takes_the_rest_on_429), T)
            else {
                continue;
            };
            divided += 1;
            for mode in [OnRateLimit::Hold, OnRateLimit::Drop] {
                let what = format!("{kind:?} {before:04b} {after:04b} {mode:?}");
                let Settlement { dropped, rest, .. } = left.remainder(mode, Progress::default(), T);
                let dropped = dropped.map(|(_, quantities)| quantities).unwrap_or_default();
                let waits = rest.as_ref().map(|rest| rest.quantities.clone()).unwrap_or_default();
                let parts = [&taken, &dropped, &waits].into_iter().flat_map(Quantities::iter).collect();
                let all = &claim.record.quantities;
                assert!(is_within(&parts, all) && is_within(all, &parts), "{what}");
                assert!(is_within(&taken, &sent.send.quantities) && is_within(&dropped, &limited), "{what}");
                assert!(taken.iter().all(|(taken, _)| limited.iter().all(|(limited, _)| taken != limited)), "{what}");
                assert!(rest.is_none_or(|rest| (rest.due > T) == left.later.items.is_empty()), "{what}");
            }
        }
        assert!(divided > 400, "{divided}");
    }

    fn cases() -> impl Iterator<Item = (Kind, usize, usize)> {
        let kinds = [Kind::Sentry, Kind::Relay, Kind::Glitchtip, Kind::Bugsink, Kind::Generic];
        kinds.into_iter().flat_map(|kind| (0..256).map(move |bits| (kind, bits & 15, bits >> 4)))
    }

    #[test]
    fn a_429_that_limits_no_sent_item_has_taken_nothing() {
        let claim = claim();
        let sent = select(&claim, &limits(0b0010), quirks::of(Kind::Sentry), T);
        let divided = divide(&claim, &sent, &limits(0b0010), (quirks::of(Kind::Sentry), true), T);
        assert_eq!(divided.map(|(taken, _)| taken), Err(None));
    }
}

//! The health of the relay in a word and a sentence. `switchyard status` and the status page begin with it; `switchyard status --check`
//! ends with it.
//!
//! Rule: data is being lost while submissions are not accepted, and if items were dropped in the last two hours although an upstream
//! should have got them. What was refused for lack of room, or because every upstream in use limits it, is named for two hours, and is
//! `Degraded` once the refusals have ended.
//! Items that only wait are not lost. The status alone decides.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::policy::outcome::{Cause, DropReason};
use crate::printable;
use crate::protocol::category::Category;

use super::gaps;
pub use super::level::{Health, Level};
use super::metrics::Refused;
use super::status::{AccountStatus, RelayStatus, Status, UpstreamStatus};
use super::words;

/// The age of the oldest waiting envelope above which it is reported, in seconds.
const LATE: f64 = 300.0;
/// The same for an upstream that limits what it takes.
const LATE_WHEN_LIMITED: f64 = 900.0;
/// The total length of gaps from which the relay is `Degraded`. An upgrade takes less.
const LONG_GAP: Duration = Duration::from_secs(60);
/// The most characters of an error that are repeated.
const LONGEST_WHY: usize = 120;

/// Judges a status.
pub fn judge(status: &Status) -> Health {
    let mut reasons = of_relay(status);
    for upstream in &status.upstreams {
        reasons.extend(of_upstream(upstream));
    }
    reasons.sort_by_key(|(level, _)| std::cmp::Reverse(*level));
    let level = reasons.first().map_or(Level::Well, |(level, _)| *level);
    let reasons: Vec<String> = reasons.into_iter().map(|(_, why)| why).collect();
    let calm = (level == Level::Well).then(|| calm(status));
    let why = calm.into_iter().chain(reasons).collect::<Vec<_>>().join("; ");
    let sentence = format!("{}: {why}.", level.words());
    Health { level, sentence: printable::in_a_line(&sentence).collect() }
}

fn calm(status: &Status) -> String {
    let (limited, others): (Vec<_>, Vec<_>) = status.upstreams.iter().partition(|own| limited_until(own).is_some());
    let waiting = |those: &[&UpstreamStatus]| -> u64 { those.iter().map(|own| own.backlog.envelopes).sum() };
    let waits = match waiting(&others) {
        0 if waiting(&limited) > 0 => "nothing else waits".to_owned(),
        0 => "nothing waits".to_owned(),
        n => words::those(n, "envelope", "is under way", "are under way"),
    };
    let lost = words::without_relay(&status.gaps)
        .map_or("nothing was lost in the last two hours".to_owned(), |length| uncounted(&length));
    format!("{} is the primary, {}, {waits}, {lost}", status.primary, takers(status))
}

/// The upstreams that take submissions, and those that limit them, with the end of the limit.
fn takers(status: &Status) -> String {
    let all: Vec<&UpstreamStatus> = status.upstreams.iter().filter(|upstream| upstream.role != "removed").collect();
    let is_alone = !status.mirror && all.len() > 1;
    let takes = |upstream: &&&UpstreamStatus| {
        limited_until(upstream).is_none() && (!is_alone || upstream.name == status.primary)
    };
    let names: Vec<&str> = all.iter().filter(takes).map(|upstream| upstream.name.as_str()).collect();
    let mirror = if is_alone { " and nobody else does, for the mirror is off" } else { "" };
    let who = match names.as_slice() {
        [] => None,
        [one] => Some(format!("{one} takes")),
        few @ ([_, _] | [_, _, _]) => Some(format!("{} take", words::names(few))),
        most if most.len() < all.len() => Some(format!("{} of {} upstreams take", most.len(), all.len())),
        many => Some(format!("all {} upstreams take", many.len())),
    };
    let limit = |upstream: &&UpstreamStatus| {
        limited_until(upstream).map(|until| limits(upstream, Some(until)) + &waiting_for(upstream))
    };
    let limited = all.iter().filter_map(limit);
    who.map(|who| format!("{who} what comes{mirror}")).into_iter().chain(limited).collect::<Vec<_>>().join(", ")
}

/// When the limits of an upstream end that hold back everything that waits for it; `None` if they do not hold back everything. What no
/// limit can hold back, such as client reports, says nothing of that.
fn limited_until(upstream: &UpstreamStatus) -> Option<Timestamp> {
    let is_limited = |account: &AccountStatus| {
        let mut own = upstream.limits.iter().filter(|limit| limit.category == account.category);
        own.any(|limit| limit.projects.is_empty() || limit.projects.contains(&account.project))
    };
    let counts = |category: &str| {
        Category::counts_items(category) && Category::from_name(category).is_none_or(Category::can_be_limited)
    };
    let mut waiting = upstream.accounts.iter().filter(|account| account.pending > 0 && counts(&account.category));
    let takes_none = upstream.state == "limited" && waiting.all(is_limited);
    upstream.limits.iter().map(|limit| limit.until).max().filter(|_| takes_none)
}

fn limits(upstream: &UpstreamStatus, until: Option<Timestamp>) -> String {
    let until = until.map_or(String::new(), |until| format!(" until {}", until.in_words()));
    let concerns_all = upstream.limits.iter().any(|limit| limit.projects.is_empty());
    let mut projects: Vec<String> = upstream.limits.iter().flat_map(|limit| limit.projects.clone()).collect();
    projects.sort_unstable();
    projects.dedup();
    let of = words::projects(&projects).filter(|_| !concerns_all).map_or(String::new(), |own| format!(" of {own}"));
    format!("{} limits what it takes{of}{until}", upstream.name)
}

/// The time whose data cannot be counted, in words.
fn uncounted(length: &str) -> String {
    format!("the relay did not run for {length} in the last two hours, and what services sent then nobody can count")
}

fn of_relay(status: &Status) -> Vec<(Level, String)> {
    let mut reasons = vec![];
    if let Some(why) = &status.not_ready {
        reasons.push((Level::LosingData, format!("nothing is accepted, {}", short(why))));
    }
    if let Some(why) = &status.unread {
        reasons.push((Level::Degraded, format!("nobody knows what waits, {}", short(why))));
    }
    if status.difference != 0 {
        let why = format!(
            "the accounts differ by {}, which is a defect",
            words::some(status.difference.unsigned_abs(), "item")
        );
        reasons.push((Level::LosingData, why));
    }
    let gone = gaps::length(&status.gaps);
    if let Some(length) = words::without_relay(&status.gaps).filter(|_| gone >= LONG_GAP) {
        reasons.push((Level::Degraded, uncounted(&length)));
    }
    reasons.extend(of_senders(status));
    if status.config.error.is_some() {
        reasons
            .push((Level::Degraded, "the configuration file has problems, and an older one stays in force".to_owned()));
    }
    reasons.extend(of_others(&status.journal.relays).map(|why| (Level::Degraded, why)));
    reasons
}

/// What was refused in the last two hours. What was refused for lack of room, or because every upstream in use limits it, is lost, and data
/// is being lost while such refusals go on. The relay's own limits lose nothing that it was to keep. A wrong DSN may be that of a service
/// whose errors nobody sees. Where browsers send, strangers reach the listener as well, so wrong keys are named and do not degrade.
fn of_senders(status: &Status) -> impl Iterator<Item = (Level, String)> {
    let of_what = |goes_on: bool| if goes_on { Level::LosingData } else { Level::Degraded };
    let for_room = words::refused_with_503(status).map(|told| (of_what(status.refusing), told));
    let for_limits = words::refused_under_limits(status).map(|told| (of_what(status.limiting), told));
    let of_dsns = if status.browsers().next().is_some() { Level::Well } else { Level::Degraded };
    let wrong_dsn = status.turned_away(Refused::is_for_its_dsn);
    let were = words::those(wrong_dsn, "request", "was", "were");
    let why = "for a key or project that is not configured, see the log";
    let wrong_dsn = (wrong_dsn > 0).then(|| (of_dsns, format!("{were} refused in the last two hours {why}")));
    for_room.into_iter().chain(for_limits).chain(wrong_dsn)
}

/// The relays that are gone, the envelopes on their machines alone, and the relays whose files differ.
fn of_others(relays: &[RelayStatus]) -> impl Iterator<Item = String> {
    let named = |which: fn(&&RelayStatus) -> bool| {
        relays.iter().filter(which).map(|relay| relay.name.as_str()).collect::<Vec<_>>()
    };
    let gone = match named(|relay| !relay.alive && !relay.own).as_slice() {
        [] => None,
        [one] => Some(format!("the relay {one} is gone")),
        more => Some(format!("the relays {} are gone", words::names(more))),
    };
    let spilled: u64 = relays.iter().map(|relay| relay.spilled).sum();
    let spilled = (spilled > 0).then(|| {
        let waits = words::those(spilled, "envelope", "is", "are");
        format!("{waits} kept on the disk of {} alone", words::names(&named(|relay| relay.spilled > 0)))
    });
    let differing = match named(|relay| relay.alive && !relay.differs.is_empty()).as_slice() {
        [] => None,
        [one] => Some(format!("the file of {one} differs from the common configuration, which stays in force")),
        more => Some(format!(
            "the files of {} differ from the common configuration, which stays in force",
            words::names(more)
        )),
    };
    gone.into_iter().chain(spilled).chain(differing)
}

fn of_upstream(upstream: &UpstreamStatus) -> Vec<(Level, String)> {
    let name = &upstream.name;
    let mut reasons = vec![];
    let (lost, refused) = (upstream.lately.lost, upstream.lately.refused);
    if lost > 0 {
        let (items, were) = (words::some(lost, "item"), words::verb(lost, "was", "were"));
        let lost = DropReason::ALL.into_iter().filter(|reason| reason.cause() == Cause::Lost).map(DropReason::meaning);
        let why = lost.collect::<Vec<_>>().join(" or ");
        let sentence = format!("{items} for {name} {were} dropped in the last two hours, for {why}");
        reasons.push((Level::LosingData, sentence));
    }
    if let Some(why) = trouble(upstream) {
        reasons.push((Level::Degraded, why + &waiting_for(upstream)));
    }
    if refused > 0 {
        let items = words::some(refused, "item");
        let why = format!("{name} refused {items} for good in the last two hours, see the dead letters");
        reasons.push((Level::Degraded, why));
    }
    if upstream.canary.as_ref().is_some_and(|canary| canary.state == "failing") {
        reasons.push((Level::Degraded, format!("canaries do not get through to {name}")));
    }
    if let Some(missing) = upstream.verification.as_ref().map(|own| own.missing).filter(|missing| *missing > 0) {
        let (events, are) = (words::some(missing, "event"), words::verb(missing, "is", "are"));
        reasons.push((Level::Degraded, format!("{events} that {name} took {are} missing there")));
    }
    reasons.extend(upstream.stranded.iter().map(|stranded| (Level::Degraded, format!("at {name} {stranded}"))));
    reasons
}

fn waiting_for(upstream: &UpstreamStatus) -> String {
    match upstream.backlog.envelopes {
        0 => String::new(),
        n => format!(" ({})", words::those(n, "envelope", "waits for it", "wait for it")),
    }
}

/// What is wrong with an upstream; `None` if nothing is.
fn trouble(upstream: &UpstreamStatus) -> Option<String> {
    let name = &upstream.name;
    let why = upstream.last_error.as_ref().map_or(String::new(), |error| format!(", {}", short(&error.what)));
    let oldest = upstream.backlog.oldest_seconds;
    match upstream.state.as_str() {
        "down" | "probing" => Some(format!("{name} is down{why}")),
        "failing" => Some(format!("requests to {name} fail{why}")),
        "misconfigured" => {
            let whom = words::projects(&upstream.refused_projects).unwrap_or_else(|| "us".to_owned());
            Some(format!("{name} does not let {whom} in{why}"))
        }
        "limited" if oldest > LATE_WHEN_LIMITED => Some(limits(upstream, limited_until(upstream))),
        "up" if oldest > LATE => Some(format!("what waits for {name} is up to {:.0} minutes old", oldest / 60.0)),
        _ => None,
    }
}

fn short(text: &str) -> String {
    let text = text.trim_end_matches('.');
    let mut short: String = text.chars().take(LONGEST_WHY).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// The remedy for an upstream's last trouble, in words; empty if there is nothing to do.
pub fn remedy(upstream: &UpstreamStatus) -> &'static str {
    match upstream.state.as_str() {
        "misconfigured"
            if upstream.last_error.as_ref().is_some_and(|error| error.what.contains("508 Loop Detected")) =>
        {
            "A DSN of this upstream leads back to this relay: put the DSN there that the tracker shows."
        }
        "misconfigured" => {
            "Look at the DSNs of this upstream in the configuration: its key or project is not known there."
        }
        "down" | "probing" | "failing" => {
            "Look whether the tracker runs and can be reached from here. It is asked again at least once a minute; when it \
             answers, what waits is sent."
        }
        "limited" => "It asks for a pause. What waits is sent when it ends; raise its quota if this goes on.",
        "removed" => "It is no longer configured. What waits for it expires.",
        _ if upstream.dead_letters > 0 => {
            "Look at the dead letters: retry them when the cause is mended, or discard them."
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn status(changes: &[(&str, Value)]) -> Health {
        let mut status = json!({
            "version": "1", "started_at": "2026-01-01T00:00:00Z", "now": "2026-01-01T03:00:00Z", "ready": true,
            "primary": "a", "mirror": true, "difference": 0, "config": {"path": "c.toml", "loaded_at": "2026-01-01T00:00:00Z", "error": null},
            "journal": {"size_bytes": 3, "disk_free_bytes": null}, "projects": [], "switches": [],
            "upstreams": [{
                "name": "a", "role": "primary", "state": "up", "delivered": 5, "dropped": {"expired": 3},
                "backlog": {"envelopes": 0, "bytes": 0, "oldest_seconds": 0.0}, "dead_letters": 1, "last_delivery_at": null,
                "last_error": null, "limits": [], "accounts": [], "difference": 0,
            }],
        });
        for (place, value) in changes {
            let (parent, name) = place.rsplit_once('/').unwrap();
            status.pointer_mut(parent).unwrap()[name] = value.clone();
        }
        judge(&serde_json::from_value(status).unwrap())
    }

    fn relay(name: &str, alive: bool, spilled: u64) -> Value {
        json!({ "name": name, "version": "1", "started_at": "2026-01-01T00:00:00Z", "alive": alive, "own": false, "leases": 0,
            "spilled": spilled, "spilled_bytes": spilled })
    }

    #[test]
    fn gone_relays_spilled_envelopes_and_differing_files_are_told_by_name() {
        let mut relays = json!([relay("one", true, 0), relay("two", false, 3), relay("three", false, 0)]);
        relays[0]["differs"] = json!(["mirror"]);
        let told = "Degraded: the relays two and three are gone; 3 envelopes are kept on the disk of two alone; \
            the file of one differs from the common configuration, which stays in force.";
        assert_eq!(status(&[("/journal/relays", relays)]).sentence, told);
    }

    #[test]
    fn each_condition_has_its_level() {
        let calm =
            "All well: a is the primary, a takes what comes, nothing waits, nothing was lost in the last two hours.";
        assert_eq!(status(&[]), Health { level: Level::Well, sentence: calm.to_owned() });
        let degraded = [
            ("/upstreams/0/state", json!("down")),
            ("/upstreams/0/state", json!("misconfigured")),
            ("/upstreams/0/lately", json!({ "lost": 0, "refused": 2 })),
            ("/upstreams/0/backlog", json!({ "envelopes": 9, "bytes": 9, "oldest_seconds": 301.0 })),
            ("/unread", json!("the journal failed")),
            ("/config/error", json!("line 3")),
            ("/gaps", json!([{ "from": "2026-01-01T02:00:00Z", "to": "2026-01-01T02:10:00Z" }])),
            ("/journal/relays", json!([relay("two", false, 0)])),
            ("/journal/relays", json!([relay("two", true, 1)])),
        ];
        for change in degraded {
            assert_eq!(status(std::slice::from_ref(&change)).level, Level::Degraded, "{change:?}");
        }
        let gap = json!([{ "from": "2026-01-01T02:00:00Z", "to": "2026-01-01T02:00:05Z" }]);
        let Health { level, sentence } = status(&[("/gaps", gap)]);
        let uncounted =
            "the relay did not run for 5 s in the last two hours, and what services sent then nobody can count.";
        assert!(level == Level::Well && sentence.ends_with(uncounted), "{sentence}");
        let losing = [
            ("/not_ready", json!("the journal is full")),
            ("/upstreams/0/lately", json!({ "lost": 2, "refused": 0 })),
            ("/difference", json!(-1)),
        ];
        for change in losing {
            assert_eq!(status(std::slice::from_ref(&change)).level, Level::LosingData, "{change:?}");
        }
    }

    #[test]
    fn an_upstream_whose_limits_hold_back_all_that_waits_is_named_apart() {
        let limited = |pending: &str| {
            let limits = json!([{ "category": "error", "until": "2026-01-01T03:15:00Z" }]);
            let accounts = json!([{ "project": "shop", "category": pending, "accepted": 9, "delivered": 0, "dropped": {},
                "pending": 9, "difference": 0 }]);
            let other = json!({ "name": "b", "role": "shadow", "state": "limited", "delivered": 0, "dropped": {}, "dead_letters": 0,
                "backlog": {"envelopes": 9, "bytes": 9, "oldest_seconds": 20.0}, "last_delivery_at": null, "last_error": null,
                "limits": limits, "accounts": accounts, "difference": 0 });
            let mut removed = other.clone();
            (removed["name"], removed["role"], removed["state"]) = (json!("c"), json!("removed"), json!("removed"));
            removed["backlog"] = json!({ "envelopes": 0, "bytes": 0, "oldest_seconds": 0.0 });
            let own = json!({ "name": "a", "role": "primary", "state": "up", "delivered": 5, "dropped": {}, "dead_letters": 0,
                "backlog": {"envelopes": 0, "bytes": 0, "oldest_seconds": 0.0}, "last_delivery_at": null, "last_error": null,
                "limits": [], "accounts": [], "difference": 0 });
            json!([own, other, removed])
        };
        let lost = "nothing was lost in the last two hours.";
        let told = |pending: &str, change: Option<(&str, Value)>| {
            let mut changes = vec![("/upstreams", limited(pending))];
            changes.extend(change);
            status(&changes).sentence
        };
        let until = "b limits what it takes until 1 Jan 2026, 03:15:00 UTC";
        let well = "All well: a is the primary, a";
        let waits = "(9 envelopes wait for it), nothing else waits";
        assert_eq!(told("error", None), format!("{well} takes what comes, {until} {waits}, {lost}"));
        let under_way = "9 envelopes are under way";
        assert_eq!(told("internal", None), told("error", None), "no limit holds back a client report");
        assert_eq!(told("log_item", None), format!("{well} and b take what comes, {under_way}, {lost}"));
        let old = json!({ "envelopes": 9, "bytes": 9, "oldest_seconds": 901.0 });
        let late = format!("Degraded: {until} (9 envelopes wait for it).");
        assert_eq!(told("error", Some(("/upstreams/1/backlog", old))), late);
        let alone = told("error", Some(("/mirror", json!(false))));
        assert!(alone.contains("a takes what comes and nobody else does, for the mirror is off, b limits"), "{alone}");
    }

    #[test]
    fn refusals_for_lack_of_room_lose_data_and_then_degrade_for_two_hours() {
        let refused = || ("/refused_requests", json!({ "journal_full": 2304, "project_share": 1, "rate_limited": 7 }));
        let why = "2,305 submissions were refused with 503 in the last two hours (journal_full and project_share).";
        let now = status(&[refused(), ("/refusing", json!(true))]);
        assert_eq!(now, Health { level: Level::LosingData, sentence: format!("Losing data: {why}") });
        assert_eq!(status(&[refused()]), Health { level: Level::Degraded, sentence: format!("Degraded: {why}") });
        let limited = ("/refused_requests", json!({ "rate_limited": 7, "malformed": 5 }));
        assert_eq!(status(&[limited]).level, Level::Well, "limits of ours lose nothing");
    }

    #[test]
    fn refusals_because_every_upstream_limits_lose_data_and_then_degrade_for_two_hours() {
        let refused = || ("/refused_items", json!({ "upstream_limited": 30, "rate_limited": 7, "collapsed": 9 }));
        let why = "30 items were refused in the last two hours, because every upstream in use limited them.";
        let now = status(&[refused(), ("/limiting", json!(true))]);
        assert_eq!(now, Health { level: Level::LosingData, sentence: format!("Losing data: {why}") });
        assert_eq!(status(&[refused()]), Health { level: Level::Degraded, sentence: format!("Degraded: {why}") });
        let own = ("/refused_items", json!({ "rate_limited": 7, "collapsed": 9 }));
        assert_eq!(status(&[own]).level, Level::Well, "limits of ours lose nothing");
    }

    #[test]
    fn the_projects_of_a_refusal_and_of_a_limit_are_named_unless_they_are_all() {
        let refuses = |projects: Value| {
            status(&[("/upstreams/0/state", json!("misconfigured")), ("/upstreams/0/refused_projects", projects)])
                .sentence
        };
        assert_eq!(refuses(json!([])), "Degraded: a does not let us in.");
        assert_eq!(refuses(json!(["web"])), "Degraded: a does not let project web in.");
        assert_eq!(refuses(json!(["app", "web"])), "Degraded: a does not let projects app and web in.");
        assert_eq!(refuses(json!(["a", "b", "c", "d"])), "Degraded: a does not let 4 projects in.");
        let limits = json!([{ "category": "error", "until": "2026-01-01T03:15:00Z", "projects": ["shop"] }]);
        let waits = |project: &str| {
            let account = json!({ "project": project, "category": "error", "accepted": 9, "delivered": 0, "dropped": {},
                "pending": 9, "difference": 0 });
            let limited = ("/upstreams/0/state", json!("limited"));
            status(&[limited, ("/upstreams/0/limits", limits.clone()), ("/upstreams/0/accounts", json!([account]))])
        };
        let told = "a limits what it takes of project shop until 1 Jan 2026, 03:15:00 UTC";
        assert!(waits("shop").sentence.contains(told), "{}", waits("shop").sentence);
        assert!(waits("web").sentence.contains("a takes what comes"), "{}", waits("web").sentence);
    }

    #[test]
    fn a_wrong_dsn_degrades_only_a_relay_that_strangers_do_not_reach() {
        let refused = || ("/refused_requests", json!({ "unknown_project": 2, "mismatch": 1, "malformed": 5 }));
        let why =
            "3 requests were refused in the last two hours for a key or project that is not configured, see the log.";
        assert_eq!(status(&[refused()]), Health { level: Level::Degraded, sentence: format!("Degraded: {why}") });
        let shop = json!([{ "name": "shop", "id": "1", "primary": "a", "mirror": true, "browsers": true, "upstreams": ["a"] }]);
        let Health { level, sentence } = status(&[refused(), ("/projects", shop)]);
        assert!(
            level == Level::Well && sentence.ends_with(&format!("nothing was lost in the last two hours; {why}")),
            "{sentence}"
        );
        let malformed = ("/refused_requests", json!({ "malformed": 5, "too_large": 1 }));
        assert_eq!(status(&[malformed]).level, Level::Well);
    }

    #[test]
    fn the_gravest_reason_comes_first_in_one_line_without_control_characters() {
        let error = json!({ "at": "2026-01-01T02:00:00Z", "what": "refused\u{1b}[2J\nby all" });
        let backlog = json!({ "envelopes": 9, "bytes": 9, "oldest_seconds": 1.0 });
        let health = status(&[
            ("/upstreams/0/state", json!("down")),
            ("/upstreams/0/last_error", error),
            ("/upstreams/0/backlog", backlog),
            ("/not_ready", json!("the journal is full.")),
        ]);
        let expected = "Losing data: nothing is accepted, the journal is full; a is down, refused [2J by all (9 envelopes wait for it).";
        assert_eq!(health.sentence, expected);
    }
}

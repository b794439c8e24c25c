//! Texts for names and lists in status and report. Text and pages share the wording.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::policy::outcome::{DropReason, RefusalReason};
use crate::protocol::category::Category;

use super::gaps::{self, GapStatus};
use super::metrics::Refused;
pub use super::numbers::{count, some, those, verb};
use super::status::{LimitStatus, RelayStatus, StandbyStatus, Status};

/// The number of items dropped for a reason, and the meaning of the reason.
pub fn dropped(reason: &str, items: u64) -> String {
    match meaning(reason) {
        "" => format!("{reason} {items}"),
        meaning => format!("{reason} {items} ({meaning})"),
    }
}

/// The meaning of a drop reason; empty if the reason is unknown.
pub fn meaning(reason: &str) -> &'static str {
    DropReason::from_name(reason).map_or("", DropReason::meaning)
}

/// Projects by name, or how many they are; `None` if there are none.
pub fn projects(all: &[String]) -> Option<String> {
    match all {
        [] => None,
        [one] => Some(format!("project {one}")),
        few @ ([_, _] | [_, _, _]) => {
            Some(format!("projects {}", names(&few.iter().map(String::as_str).collect::<Vec<_>>())))
        }
        many => Some(format!("{} projects", many.len())),
    }
}

/// Rate limits, one line for all that end at the same time and concern the same projects.
pub fn limits(limits: &[LimitStatus]) -> Vec<String> {
    let mut ends: Vec<(Timestamp, &[String])> = limits.iter().map(|limit| (limit.until, &*limit.projects)).collect();
    ends.sort_unstable();
    ends.dedup();
    let all = Category::ALL.into_iter().filter(|category| category.can_be_limited()).count();
    let line = |(until, projects): (Timestamp, &[String])| {
        let own = limits.iter().filter(|limit| (limit.until, &*limit.projects) == (until, projects));
        let names: Vec<&str> = own.map(|limit| limit.category.as_str()).collect();
        let names = if names.len() == all { "everything".to_owned() } else { names.join(", ") };
        let of = self::projects(projects).map_or(String::new(), |projects| format!(" of {projects}"));
        format!("{names}{of} until {}", until.in_words())
    };
    ends.into_iter().map(line).collect()
}

/// How long ago a moment was.
pub fn ago(now: Timestamp, at: Timestamp) -> String {
    match now.since(at) {
        moment if moment.as_secs() == 0 => "just now".to_owned(),
        length => format!("{} ago", span(length)),
    }
}

/// How long the relay did not run or stood still in these gaps; `None` if less than a second.
pub fn without_relay(gaps: &[GapStatus]) -> Option<String> {
    let length = gaps::length(gaps);
    (length >= Duration::from_secs(1)).then(|| span(length))
}

/// The number of submissions refused for lack of room in the last two hours, and why; `None` if there were none.
pub fn refused_with_503(status: &Status) -> Option<String> {
    let submissions = status.turned_away(Refused::is_for_want_of_room);
    let meant = Refused::ALL.into_iter().filter(|reason| reason.is_for_want_of_room()).map(Refused::name);
    let reasons: Vec<&str> = meant.filter(|reason| status.refused_requests.contains_key(*reason)).collect();
    let were = those(submissions, "submission", "was", "were");
    (submissions > 0).then(|| format!("{were} refused with 503 in the last two hours ({})", names(&reasons)))
}

/// The number of items refused in the last two hours because every upstream in use limited them; `None` if there were none.
pub fn refused_under_limits(status: &Status) -> Option<String> {
    let items = status.refused_items.get(RefusalReason::UpstreamLimited.name()).copied().filter(|items| *items > 0)?;
    let were = those(items, "item", "was", "were");
    Some(format!("{were} refused in the last two hours, because every upstream in use limited them"))
}

/// Names in a list, with "and" before the last.
pub fn names(all: &[&str]) -> String {
    match all {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [others @ .., last] => format!("{} and {last}", others.join(", ")),
    }
}

/// How long a delivery took: in tenths of a second from one second to two minutes.
pub fn lag(seconds: f64) -> String {
    match seconds {
        short @ 1.0..120.0 => format!("{short:.1} s"),
        other => self::seconds(other),
    }
}

/// Whether a relay runs, and for how long.
pub fn life(now: Timestamp, relay: &RelayStatus) -> String {
    if relay.alive { format!("up for {}", span(now.since(relay.started_at))) } else { "gone".to_owned() }
}

/// What in a relay's file differs from the common configuration; `None` if nothing does.
pub fn differing(relay: &RelayStatus) -> Option<String> {
    let names: Vec<&str> = relay.differs.iter().map(String::as_str).collect();
    (!names.is_empty()).then(|| format!("its file differs in {}", self::names(&names)))
}

/// The envelopes that are only on a relay's machine.
pub fn kept(relay: &RelayStatus) -> String {
    match relay.spilled {
        0 => "nothing".to_owned(),
        n => format!("{} ({})", some(n, "envelope"), bytes(relay.spilled_bytes)),
    }
}

/// How far a standby is behind.
pub fn behind(standby: &StandbyStatus) -> String {
    standby.lag_seconds.map_or("behind, and not known how far".to_owned(), |lag| format!("{} behind", seconds(lag)))
}

/// A span of time in one unit.
pub fn span(length: Duration) -> String {
    match length.as_secs() {
        0 => format!("{} ms", length.as_millis()),
        s @ 1..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s @ 7200..=172_799 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

/// A number of seconds in one unit.
pub fn seconds(n: f64) -> String {
    span(Duration::try_from_secs_f64(n).unwrap_or_default())
}

/// A number of bytes in one unit, rounded down.
pub fn bytes(n: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let (unit, name) = units.into_iter().find(|(unit, _)| n >= *unit).unwrap_or((1, "bytes"));
    format!("{} {name}", n / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_end_together_are_one_line() {
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1000);
        let limit = |category: &str, until| LimitStatus { category: category.to_owned(), until, projects: vec![] };
        let mut all: Vec<LimitStatus> = Category::ALL
            .into_iter()
            .filter(|category| category.can_be_limited())
            .map(|category| limit(category.name(), at(60)))
            .collect();
        assert_eq!(limits(&all), ["everything until 1 Jan 1970, 00:01:00 UTC"]);
        all.truncate(2);
        all.push(limit("log_item", at(30)));
        let (a, b) = (&all[0].category, &all[1].category);
        let told =
            ["log_item until 1 Jan 1970, 00:00:30 UTC".to_owned(), format!("{a}, {b} until 1 Jan 1970, 00:01:00 UTC")];
        assert_eq!(limits(&all), told);
        all.iter_mut().for_each(|limit| limit.projects = vec!["shop".to_owned(), "web".to_owned()]);
        assert_eq!(limits(&all)[0], "log_item of projects shop and web until 1 Jan 1970, 00:00:30 UTC");
        assert!(limits(&[]).is_empty());
    }

    #[test]
    fn times_and_names_are_written_as_people_read_them() {
        for (seconds, told) in [(0.0, "0 ms"), (0.25, "250 ms"), (1.25, "1.2 s"), (30.0, "30.0 s"), (10802.0, "3 h")] {
            assert_eq!(lag(seconds), told);
        }
        assert_eq!([names(&["a"]), names(&["a", "b"]), names(&["a", "b", "c"])], ["a", "a and b", "a, b and c"]);
        let at = Timestamp::from_millis(1_767_571_207_999);
        assert_eq!(at.in_words(), "5 Jan 2026, 00:00:07 UTC");
        assert_eq!((ago(at, at), ago(at + Duration::from_secs(61), at)), ("just now".into(), "61 s ago".into()));
    }
}

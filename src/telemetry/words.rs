//! How status and report say what a name or a list alone does not tell a person. One wording for text and pages.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::protocol::category::Category;

use super::status::LimitStatus;

/// How many items were dropped for a reason, and what that means.
pub fn dropped(reason: &str, items: u64) -> String {
    match meaning(reason) {
        "" => format!("{reason} {items}"),
        meaning => format!("{reason} {items} ({meaning})"),
    }
}

/// What it means that an upstream does not get something for this reason; empty for a reason that is not known.
pub fn meaning(reason: &str) -> &'static str {
    match reason {
        "mirror_off" => "the mirror was off",
        "filtered" => "the items of its shadow section leave them out",
        "sampled" => "left out by the sample of its shadow section",
        "capped" => "over the daily_cap of its shadow section",
        "rate_limited" => "it limited them, and on_rate_limit is drop",
        "expired" => "they waited longer than max_age",
        "evicted" => "the journal was full",
        "rejected" => "it refused them for good: see the dead letters",
        "unsupported" => "it has no place for them",
        _ => "",
    }
}

/// Rate limits, one line for all that end together.
pub fn limits(limits: &[LimitStatus]) -> Vec<String> {
    let mut ends: Vec<Timestamp> = limits.iter().map(|limit| limit.until).collect();
    ends.sort_unstable();
    ends.dedup();
    let all = Category::ALL.into_iter().filter(|category| category.can_be_limited()).count();
    let line = |until: Timestamp| {
        let own = limits.iter().filter(|limit| limit.until == until);
        let names: Vec<&str> = own.map(|limit| limit.category.as_str()).collect();
        let names = if names.len() == all { "everything".to_owned() } else { names.join(", ") };
        format!("{names} until {until}")
    };
    ends.into_iter().map(line).collect()
}

/// How long ago something was.
pub fn ago(now: Timestamp, at: Timestamp) -> String {
    format!("{} ago", span(now.since(at)))
}

/// A span of time as a person reads it.
pub fn span(length: Duration) -> String {
    match length.as_secs() {
        0 => format!("{} ms", length.as_millis()),
        s @ 1..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s @ 7200..=172_799 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

/// The same of a number of seconds.
pub fn seconds(n: f64) -> String {
    span(Duration::try_from_secs_f64(n).unwrap_or_default())
}

/// A number of bytes as a person reads it.
pub fn bytes(n: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let (unit, name) = units.into_iter().find(|(unit, _)| n >= *unit).unwrap_or((1, "bytes"));
    format!("{} {name}", n / unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::outcome::DropReason;

    #[test]
    fn limits_that_end_together_are_one_line() {
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1000);
        let limit = |category: &str, until| LimitStatus { category: category.to_owned(), until };
        let mut all: Vec<LimitStatus> = Category::ALL
            .into_iter()
            .filter(|category| category.can_be_limited())
            .map(|category| limit(category.name(), at(60)))
            .collect();
        assert_eq!(limits(&all), ["everything until 1970-01-01T00:01:00Z"]);
        all.truncate(2);
        all.push(limit("log_item", at(30)));
        let (a, b) = (&all[0].category, &all[1].category);
        let told = ["log_item until 1970-01-01T00:00:30Z".to_owned(), format!("{a}, {b} until 1970-01-01T00:01:00Z")];
        assert_eq!(limits(&all), told);
        assert!(limits(&[]).is_empty());
    }

    #[test]
    fn every_reason_has_a_meaning() {
        for reason in DropReason::ALL {
            assert_ne!(meaning(reason.name()), "", "{reason}");
        }
    }
}

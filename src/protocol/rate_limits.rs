//! `X-Sentry-Rate-Limits`: parses what upstreams send and formats what clients are sent ("Rate Limiting" in Sentry's developer docs).
//!
//! `<seconds>:<category;category>:<scope>:<reason>[:<namespaces>], …`. No categories means all categories.

use std::fmt::Write as _;
use std::time::Duration;

use super::category::Category;

/// One limit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RateLimit {
    /// How long it lasts from now.
    pub retry_after: Duration,
    /// The limited categories; `None` limits all.
    pub categories: Option<Vec<Category>>,
}

/// The longest wait that the relay keeps to or tells a client; after it, a longer limit is tried again. SDKs obey every limit, so one
/// wrong header of an upstream must not silence them for days.
pub const LONGEST_KEPT: Duration = Duration::from_secs(3600);

/// A wait longer than this is logged for the operator.
pub const REMARKABLE: Duration = Duration::from_secs(24 * 3600);

/// A longer limit is read as this.
pub const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// Parses one header line. Skips parts that cannot be parsed, and limits whose categories are all unknown.
pub fn parse(header: &str) -> Vec<RateLimit> {
    header.split(',').filter_map(parse_one).collect()
}

fn parse_one(text: &str) -> Option<RateLimit> {
    let mut parts = text.split(':').map(str::trim);
    let retry_after = seconds(parts.next()?)?;
    let names = parts.next().unwrap_or("");
    if names.is_empty() {
        return Some(RateLimit { retry_after, categories: None });
    }
    let known: Vec<Category> = names.split(';').filter_map(|name| Category::from_name(name.trim())).collect();
    (!known.is_empty()).then_some(RateLimit { retry_after, categories: Some(known) })
}

/// A number of seconds, whole or fractional, cut to [`LONGEST`]; `None` if it is negative or no finite number.
pub fn seconds(text: &str) -> Option<Duration> {
    let secs: f64 = text.trim().parse().ok()?;
    if !secs.is_finite() || secs < 0.0 {
        return None;
    }
    Some(Duration::try_from_secs_f64(secs).unwrap_or(LONGEST).min(LONGEST))
}

/// Whole seconds, rounded up: a client that is told 0 does not wait.
pub fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// Formats limits as one header value, in whole seconds, rounded up.
pub fn format(limits: &[RateLimit], scope: &str, reason: &str) -> String {
    let mut out = String::new();
    for limit in limits {
        let gap = if out.is_empty() { "" } else { ", " };
        let names: Vec<&str> = limit.categories.iter().flatten().map(|c| c.name()).collect();
        let secs = whole_seconds(limit.retry_after);
        write!(out, "{gap}{secs}:{}:{scope}:{reason}", names.join(";")).expect("writing to a string cannot fail");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bugsinks_header_names_transactions() {
        let limits = parse("86400:transaction;span:organization");
        assert_eq!(limits.len(), 1);
        assert_eq!(limits[0].retry_after, Duration::from_secs(86400));
        assert_eq!(limits[0].categories, Some(vec![Category::Transaction, Category::Span]));
    }

    #[test]
    fn empty_categories_mean_all_and_a_limit_of_unknown_ones_is_skipped() {
        assert_eq!(parse("60::key"), vec![RateLimit { retry_after: Duration::from_secs(60), categories: None }]);
        assert_eq!(parse("60:sourcemaps:key"), vec![]);
        assert_eq!(parse("60: foo ; error :key")[0].categories, Some(vec![Category::Error]));
    }

    #[test]
    fn one_header_may_hold_several_limits_fractions_and_garbage() {
        let limits =
            parse("1.5:error:organization:quota_exceeded, x:error, , -1:error, inf::, 7:session:project:r:custom");
        let millis: Vec<u128> = limits.iter().map(|l| l.retry_after.as_millis()).collect();
        assert_eq!(millis, [1500, 7000]);
    }

    #[test]
    fn an_absurd_limit_is_cut() {
        assert_eq!(parse("1e300::")[0].retry_after, LONGEST);
    }

    #[test]
    fn a_client_that_must_wait_is_never_told_0() {
        for (nanos, told) in [(0, 0), (1, 1), (200_000, 1), (1_000_000_000, 1), (1_000_000_001, 2)] {
            assert_eq!(whole_seconds(Duration::from_nanos(nanos)), told, "{nanos}");
        }
        let limit = RateLimit { retry_after: Duration::from_micros(200), categories: Some(vec![Category::Error]) };
        assert_eq!(format(&[limit], "project", "x"), "1:error:project:x");
    }

    proptest! {
        #[test]
        fn a_formatted_limit_parses_back(secs in 0u64..2_000_000, picks in proptest::collection::vec(0usize..19, 0..5)) {
            let mut categories: Vec<Category> = picks.into_iter().map(|i| Category::ALL[i]).collect();
            categories.dedup();
            let limit = RateLimit {
                retry_after: Duration::from_secs(secs),
                categories: (!categories.is_empty()).then_some(categories),
            };
            prop_assert_eq!(parse(&format(std::slice::from_ref(&limit), "project", "limit")), vec![limit]);
        }

        #[test]
        fn no_header_makes_the_parser_panic(header in "\\PC{0,200}") {
            for limit in parse(&header) {
                prop_assert!(limit.retry_after <= LONGEST);
            }
        }
    }
}

//! Cooldowns: the rate limits that an upstream has told, by project and category ("Rate Limiting" in Sentry's developer documentation).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::Timestamp;
use crate::protocol::category::{Category, Quantities};
use crate::protocol::rate_limits::{self, RateLimit};

/// How long a 429 without a header limits.
pub const BARE_429: Duration = Duration::from_secs(60);

/// How long a 429 limits at least, whatever it says: a tracker that names a time in the past would be asked again at once, for each
/// envelope, as fast as it answers.
const SHORTEST_429: Duration = Duration::from_secs(1);

/// What another relay says of a limit's end is later than it is by at most so much: a second, and what it takes to tell.
const ROUNDED: Duration = Duration::from_secs(2);

/// A category that an upstream limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    /// The category.
    pub category: Category,
    /// The latest end, over the projects.
    pub until: Timestamp,
    /// The projects of which it is limited.
    pub projects: Vec<Arc<str>>,
}

/// The rate limits of one upstream and their ends.
#[derive(Clone, Debug, Default)]
pub struct Cooldown(HashMap<Arc<str>, Limits>);

#[derive(Clone, Debug, Default)]
struct Limits {
    all: Timestamp,
    categories: [Timestamp; Category::ALL.len()],
}

/// The limits that an answer carries. `limits` are the lines of `X-Sentry-Rate-Limits`, which count on any status;
/// `retry_after` counts for all categories on a 429 without them. A 429 limits for a second at least.
pub fn limits_of<'a>(
    is_429: bool,
    limits: impl Iterator<Item = &'a str>,
    retry_after: Option<&str>,
    now: Timestamp,
) -> Vec<RateLimit> {
    let mut found: Vec<RateLimit> = limits.flat_map(rate_limits::parse).collect();
    if is_429 && found.is_empty() {
        let wait = retry_after.and_then(|text| wait_of(text, now)).unwrap_or(BARE_429);
        found.push(RateLimit { retry_after: wait, categories: None });
    }
    if is_429 {
        found.iter_mut().for_each(|limit| limit.retry_after = limit.retry_after.max(SHORTEST_429));
    }
    found
}

/// `Retry-After`: seconds or a date (RFC 9110, section 10.2.3).
fn wait_of(text: &str, now: Timestamp) -> Option<Duration> {
    rate_limits::seconds(text).or_else(|| {
        let date = httpdate::parse_http_date(text.trim()).ok()?;
        let since_epoch = date.duration_since(std::time::SystemTime::UNIX_EPOCH).ok()?;
        let at = Timestamp::from_millis(u64::try_from(since_epoch.as_millis()).ok()?);
        Some(at.since(now).min(rate_limits::LONGEST))
    })
}

impl Cooldown {
    /// Adds the limits of an answer for `project`. The latest end wins. None holds for more than
    /// [`LONGEST_KEPT`](rate_limits::LONGEST_KEPT): then the upstream is tried again, and repeats a limit that still holds. Returns whether
    /// a limit now ends in a later second than before.
    pub fn apply(&mut self, project: &Arc<str>, limits: &[RateLimit], now: Timestamp) -> bool {
        let mut is_news = false;
        self.each(project, limits, now, |slot, until| {
            is_news |= until.as_secs() > slot.as_secs();
            *slot = until.max(*slot);
        });
        is_news
    }

    /// Adds a limit that relays told each other, whose end was rounded up to whole seconds. If a limit with about the same end is known
    /// here, it keeps its own end; otherwise a retry at its end would find the rounded one. Once that end has passed, the told limit is a
    /// new one.
    pub fn follow(&mut self, project: &Arc<str>, limit: RateLimit, now: Timestamp) {
        self.each(project, &[limit], now, |slot, until| {
            if *slot <= now || until.since(*slot) > ROUNDED {
                *slot = until;
            }
        });
    }

    /// Calls `extend` for each limit with the end that is known and the end that it would have.
    fn each(
        &mut self,
        project: &Arc<str>,
        limits: &[RateLimit],
        now: Timestamp,
        mut extend: impl FnMut(&mut Timestamp, Timestamp),
    ) {
        for limit in limits.iter().filter(|limit| !limit.retry_after.is_zero()) {
            let until = now + limit.retry_after.min(rate_limits::LONGEST_KEPT);
            let known = self.0.entry(Arc::clone(project)).or_default();
            match &limit.categories {
                None => extend(&mut known.all, until),
                Some(categories) => {
                    categories.iter().for_each(|category| extend(&mut known.categories[*category as usize], until))
                }
            }
        }
    }

    /// When the limit on a category of a project ends; `None` when it is not limited.
    pub fn until(&self, project: &str, category: Category, now: Timestamp) -> Option<Timestamp> {
        let limits = self.0.get(project)?;
        let until = limits.all.max(limits.categories[category as usize]);
        (until > now && category.can_be_limited()).then_some(until)
    }

    /// Whether any category of the project may be limited: a quick check.
    pub fn touches(&self, project: &str) -> bool {
        self.0.contains_key(project)
    }

    /// The latest end for each category that is limited in any project, for metrics and status.
    pub fn by_category(&self, now: Timestamp) -> Vec<Limited> {
        if self.0.is_empty() {
            return vec![];
        }
        let limited = |category| {
            let ends =
                self.0.keys().filter_map(|project| Some((self.until(project, category, now)?, Arc::clone(project))));
            let (ends, projects): (Vec<Timestamp>, _) = ends.unzip();
            Some(Limited { category, until: ends.into_iter().max()?, projects })
        };
        Category::ALL.into_iter().filter_map(limited).collect()
    }

    /// Moves the ends back, because the clock was set back by `by`: limits are told as spans of time.
    pub fn set_back(&mut self, by: Duration) {
        for limits in self.0.values_mut() {
            for slot in limits.categories.iter_mut().chain([&mut limits.all]) {
                *slot = *slot - by;
            }
        }
    }

    /// When the next limit ends.
    pub fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        let ends = self.0.values().flat_map(|l| l.categories.iter().chain([&l.all]));
        ends.copied().filter(|end| *end > now).min()
    }

    /// Forgets limits that have ended. Returns whether there were any.
    pub fn forget_ended(&mut self, now: Timestamp) -> bool {
        let mut ended = false;
        for limits in self.0.values_mut() {
            for slot in limits.categories.iter_mut().chain([&mut limits.all]) {
                if *slot != Timestamp::default() && *slot <= now {
                    *slot = Timestamp::default();
                    ended = true;
                }
            }
        }
        self.0.retain(|_, l| l.categories.iter().chain([&l.all]).any(|slot| *slot != Timestamp::default()));
        ended
    }
}

/// The cooldowns of all upstreams, and the categories that they never store. Workers write them; the intake reads them without
/// waiting. Clones share one value.
#[derive(Clone, Debug, Default)]
pub struct Cooldowns(Arc<ArcSwap<BTreeMap<Arc<str>, Standing>>>);

#[derive(Clone, Debug, Default)]
struct Standing {
    never: &'static [Category],
    limits: Arc<Cooldown>,
}

impl Cooldowns {
    /// Adds an upstream, which never stores the categories `never`.
    pub fn know(&self, upstream: &Arc<str>, never: &'static [Category]) {
        self.change(|all| all.entry(Arc::clone(upstream)).or_default().never = never);
    }

    /// Forgets an upstream.
    pub fn forget(&self, upstream: &str) {
        self.change(|all| drop(all.remove(upstream)));
    }

    /// Sets the limits of a known upstream.
    pub fn tell(&self, upstream: &str, cooldown: &Cooldown) {
        let limits = Arc::new(cooldown.clone());
        self.change(|all| {
            if let Some(standing) = all.get_mut(upstream) {
                standing.limits = Arc::clone(&limits);
            }
        });
    }

    fn change(&self, change: impl Fn(&mut BTreeMap<Arc<str>, Standing>)) {
        self.0.rcu(|all| {
            let mut all = BTreeMap::clone(all);
            change(&mut all);
            all
        });
    }

    /// Whether no upstream limits anything of the project: a quick check.
    pub fn is_clear(&self, project: &str) -> bool {
        !self.0.load().values().any(|standing| standing.limits.touches(project))
    }

    /// The category by which all of `upstreams` limit a submission of these quantities, and the end of the first of these limits. `None`
    /// when an upstream takes it now, and when none ever stores it, because then no limit keeps it out.
    pub fn until<'a>(
        &self,
        upstreams: impl IntoIterator<Item = &'a Arc<str>>,
        project: &str,
        quantities: &Quantities,
        now: Timestamp,
    ) -> Option<(Category, Timestamp)> {
        let all = self.0.load();
        let categories = || quantities.iter().map(|(category, _)| category);
        let stores = |standing: &&Standing| !categories().any(|category| standing.never.contains(&category));
        let limit = |standing: &Standing| {
            let limits = categories().filter_map(|c| Some((c, standing.limits.until(project, c, now)?)));
            limits.max_by_key(|(_, until)| *until)
        };
        let limits = upstreams.into_iter().filter_map(|upstream| all.get(upstream)).filter(stores).map(limit);
        // An upstream without a limit takes it.
        limits.min_by_key(|limit| limit.map(|(_, until)| until)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn after(secs: u64) -> Timestamp {
        T + Duration::from_secs(secs)
    }

    #[test]
    fn what_is_told_among_relays_in_whole_seconds_makes_no_limit_longer_that_is_known_here() {
        let (mut cooldown, project) = (Cooldown::default(), Arc::from("shop"));
        let limit = |ms| RateLimit { retry_after: Duration::from_millis(ms), categories: Some(vec![Category::Error]) };
        let now = Timestamp::from_millis(1_000_400);
        cooldown.apply(&project, &[limit(1000)], now);
        cooldown.follow(&project, limit(1600), now);
        assert_eq!(cooldown.until("shop", Category::Error, now), Some(now + Duration::from_millis(1000)));
        cooldown.follow(&project, limit(60_000), now);
        assert_eq!(cooldown.until("shop", Category::Error, now), Some(now + Duration::from_secs(60)));
    }

    #[test]
    fn a_limit_that_another_relay_meets_right_after_one_has_ended_holds_here_too() {
        let (mut cooldown, project) = (Cooldown::default(), Arc::from("shop"));
        let limit =
            |secs| RateLimit { retry_after: Duration::from_secs(secs), categories: Some(vec![Category::Error]) };
        cooldown.apply(&project, &[limit(1)], T);
        cooldown.follow(&project, limit(2), after(1));
        assert_eq!(cooldown.until("shop", Category::Error, after(1)), Some(after(3)));
    }

    #[test]
    fn no_limit_holds_for_more_than_an_hour_whatever_a_header_says() {
        let project: Arc<str> = "shop".into();
        for header in ["999999999999:error", "1e300:error", "86400:error:key"] {
            let mut cooldown = Cooldown::default();
            cooldown.apply(&project, &rate_limits::parse(header), T);
            assert_eq!(cooldown.until("shop", Category::Error, T), Some(after(3600)), "{header}");
            assert_eq!(cooldown.until("shop", Category::Error, after(3600)), None);
        }
        for header in ["inf:error", "NaN:error", "-1:error"] {
            assert_eq!(rate_limits::parse(header), [], "{header}");
        }
        let mut cooldown = Cooldown::default();
        let far = limits_of(true, [].into_iter(), Some("Fri, 31 Dec 9999 23:59:59 GMT"), T);
        cooldown.apply(&project, &far, T);
        assert_eq!(cooldown.until("shop", Category::Error, T), Some(after(3600)));
    }

    #[test]
    fn a_limit_holds_its_categories_of_its_project_until_it_ends() {
        let mut cooldown = Cooldown::default();
        let project: Arc<str> = "shop".into();
        cooldown.apply(&project, &rate_limits::parse("60:transaction:key, 30:transaction;error:key"), T);
        assert_eq!(cooldown.until("shop", Category::Transaction, T), Some(after(60)));
        assert_eq!(cooldown.until("shop", Category::Error, T), Some(after(30)));
        assert_eq!(cooldown.until("other", Category::Error, T), None);
        assert_eq!(cooldown.until("shop", Category::Session, T), None);
        assert_eq!(cooldown.next_end(T), Some(after(30)));
        let (mut moved, back) = (cooldown.clone(), Duration::from_secs(7200));
        moved.set_back(back);
        assert_eq!(moved.until("shop", Category::Error, T - back), Some(after(30) - back));
        assert!(cooldown.forget_ended(after(30)));
        assert_eq!(cooldown.until("shop", Category::Error, after(30)), None);
        assert!(cooldown.forget_ended(after(60)) && !cooldown.touches("shop"));
    }

    #[test]
    fn a_limit_of_all_categories_spares_client_reports() {
        let mut cooldown = Cooldown::default();
        cooldown.apply(&"p".into(), &rate_limits::parse("60::organization"), T);
        assert_eq!(cooldown.until("p", Category::Session, T), Some(after(60)));
        assert_eq!(cooldown.until("p", Category::Internal, T), None);
        assert_eq!(cooldown.by_category(T).len(), Category::ALL.len() - 2);
    }

    #[test]
    fn what_no_upstream_takes_is_limited_until_the_first_takes_it_again() {
        let (cooldowns, names): (Cooldowns, [Arc<str>; 2]) = (Cooldowns::default(), ["a".into(), "b".into()]);
        let tell = |upstream: &str, limits: &str| {
            let mut cooldown = Cooldown::default();
            cooldown.apply(&"p".into(), &rate_limits::parse(limits), T);
            cooldowns.tell(upstream, &cooldown);
        };
        let of = |category| Quantities::from_iter([(category, 1)]);
        let until = |upstreams: &[Arc<str>], category| {
            cooldowns.until(upstreams, "p", &of(category), T).map(|(limited, until)| {
                assert_eq!(limited, category);
                until
            })
        };
        names.iter().for_each(|name| cooldowns.know(name, &[]));
        tell("a", "60:error:key");
        assert_eq!((cooldowns.is_clear("p"), cooldowns.is_clear("q")), (false, true));
        assert_eq!(until(&names, Category::Error), None);
        tell("b", "30::organization");
        assert_eq!((until(&names, Category::Error), until(&names, Category::Session)), (Some(after(30)), None));
        assert_eq!(until(&names[..1], Category::Error), Some(after(60)));
        assert_eq!(until(&names[1..], Category::Session), Some(after(30)));
        assert_eq!((until(&names[1..], Category::Internal), until(&names[1..], Category::Unknown)), (None, None));
        assert_eq!(cooldowns.until(&names, "q", &of(Category::Error), T), None);
        assert_eq!(until(&[], Category::Error), None, "nobody refuses it");
        let log = Quantities::from_iter([(Category::LogByte, 9), (Category::LogItem, 1)]);
        tell("a", "60:log_item:key");
        assert_eq!(cooldowns.until(&names[..1], "p", &log, T), Some((Category::LogItem, after(60))));
        tell("b", "");
        assert_eq!(until(&names, Category::Error), None);
        cooldowns.forget("a");
        tell("a", "60::key");
        assert!(cooldowns.is_clear("p"), "who is gone limits nothing");
    }

    #[test]
    fn an_upstream_that_never_stores_a_category_does_not_take_it() {
        let (cooldowns, names): (Cooldowns, [Arc<str>; 2]) =
            (Cooldowns::default(), ["bugsink".into(), "sentry".into()]);
        cooldowns.know(&names[0], &[Category::Transaction]);
        cooldowns.know(&names[1], &[]);
        let until = |upstreams: &[Arc<str>], category| {
            cooldowns.until(upstreams, "p", &Quantities::from_iter([(category, 1)]), T).map(|(_, until)| until)
        };
        let mut cooldown = Cooldown::default();
        cooldown.apply(&"p".into(), &rate_limits::parse("60:transaction;error:key"), T);
        cooldowns.tell("sentry", &cooldown);
        assert_eq!((until(&names, Category::Transaction), until(&names, Category::Error)), (Some(after(60)), None));
        assert_eq!(until(&names[..1], Category::Transaction), None, "it is unsupported, and counted so");
    }

    #[test]
    fn retry_after_counts_only_on_a_429_without_limits() {
        let wait = |is_429, header: &[&str], retry| limits_of(is_429, header.iter().copied(), retry, T);
        assert_eq!(wait(false, &[], Some("5")), vec![]);
        assert_eq!(wait(true, &[], Some("5"))[0].retry_after, Duration::from_secs(5));
        assert_eq!(wait(true, &[], None)[0].retry_after, BARE_429);
        assert_eq!(wait(true, &["7:error:key"], Some("5"))[0].retry_after, Duration::from_secs(7));
        assert_eq!(wait(true, &[], Some("Tue, 14 Nov 2023 22:13:50 GMT"))[0].retry_after, Duration::from_secs(30));
        for (header, retry) in [(&[][..], "0"), (&[], "Tue, 14 Nov 2023 22:13:10 GMT"), (&["0:error:key"], "9")] {
            assert_eq!(wait(true, header, Some(retry))[0].retry_after, SHORTEST_429, "{header:?} {retry}");
        }
        assert_eq!(wait(false, &["7:error:key", "9:session:key"], None).len(), 2);
    }
}

//! The buckets behind the inbound limits: one for each project and category that has a [`Limit`].
//!
//! Rule: over any window no more passes than rate × window + burst. A changed configuration keeps what was spent.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::protocol::category::{Category, Quantities};
use crate::protocol::rate_limits::RateLimit;

use super::limits::{Limit, Limits};

/// The buckets of all projects. Fixed once made; the buckets in it fill and empty.
#[derive(Debug, Default)]
pub struct Limiter(HashMap<Arc<str>, Share>);

/// What is known of one project.
#[derive(Debug, Default)]
struct Share {
    buckets: Buckets,
    /// Whether a browser that sends for it brings limits that do not hold yet.
    awaits_browsers: bool,
}

/// The buckets of one project.
#[derive(Debug, Default)]
pub struct Buckets(Vec<(Category, Arc<Bucket>)>);

/// A limit that has been reached: of what, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reached {
    /// The category.
    pub category: Category,
    /// When one more may come.
    pub wait: Duration,
}

impl Reached {
    /// The limit as clients are told it.
    pub fn told(self) -> RateLimit {
        RateLimit { retry_after: self.wait, categories: Some(vec![self.category]) }
    }
}

impl Limiter {
    /// The buckets for `projects` under `limits`; browsers were seen to send for those in `seen`. Those that were there before keep what was spent.
    ///
    /// `now` here and elsewhere is a time that only goes on, [`Clock::uptime`](crate::clock::Clock::uptime).
    pub fn new<'a>(
        limits: &Limits,
        projects: impl Iterator<Item = &'a Arc<str>>,
        seen: &BTreeSet<Arc<str>>,
        before: &Self,
        now: Duration,
    ) -> Self {
        let share = |project: &Arc<str>| {
            let (old, seen) = (before.of(project), seen.contains(project));
            let bucket =
                |(category, limit)| (category, Bucket::following(old.and_then(|b| b.of(category)), limit, now));
            let buckets = Buckets(limits.in_force(project, seen).into_iter().map(bucket).collect());
            Share { buckets, awaits_browsers: !seen && !limits.browsers.contains_key(project) }
        };
        Self(projects.map(|project| (Arc::clone(project), share(project))).collect())
    }

    /// The buckets of a project; `None` when it has no limits.
    pub fn of(&self, project: &str) -> Option<&Buckets> {
        self.0.get(project).map(|share| &share.buckets).filter(|buckets| !buckets.0.is_empty())
    }

    /// Whether limits come to hold for this project with the first browser that sends for it.
    pub fn awaits_browsers(&self, project: &str) -> bool {
        self.0.get(project).is_some_and(|share| share.awaits_browsers)
    }
}

impl Buckets {
    fn of(&self, category: Category) -> Option<&Arc<Bucket>> {
        self.0.iter().find(|(own, _)| *own == category).map(|(_, bucket)| bucket)
    }

    /// Takes what an item counts as out of its buckets, or says which of them has not enough.
    pub fn take(&self, item: &Quantities, now: Duration) -> Result<(), Reached> {
        for (category, quantity) in item.iter() {
            let Some(bucket) = self.of(category) else { continue };
            bucket.take(quantity, now).map_err(|wait| Reached { category, wait })?;
        }
        Ok(())
    }
}

type Governor = RateLimiter<NotKeyed, InMemoryState, Told, NoOpMiddleware<Duration>>;

#[derive(Debug)]
struct Bucket {
    limit: Limit,
    told: Told,
    governor: Governor,
}

impl Bucket {
    fn full(limit: Limit, now: Duration) -> Self {
        let told = Told(Arc::new(AtomicU64::new(nanos(now))));
        let quota = Quota::with_period(limit.interval()).expect("an interval is never zero").allow_burst(limit.burst());
        Self { limit, governor: RateLimiter::direct_with_clock(quota, told.clone()), told }
    }

    /// The bucket that comes after `before`: the same, or another one with as much spent.
    fn following(before: Option<&Arc<Self>>, limit: Limit, now: Duration) -> Arc<Self> {
        match before {
            Some(before) if before.limit == limit => Arc::clone(before),
            Some(before) => {
                let after = Self::full(limit, now);
                let spent = before.limit.burst().get() - before.take_all(now);
                let taken = after.take(spent.min(limit.burst().get()).into(), now);
                debug_assert!(taken.is_ok(), "a full bucket has that much");
                Arc::new(after)
            }
            None => Arc::new(Self::full(limit, now)),
        }
    }

    /// Takes `quantity`, or says when as much may be there. More than a full bucket holds never is.
    fn take(&self, quantity: u64, now: Duration) -> Result<(), Duration> {
        self.told.0.fetch_max(nanos(now), Ordering::Relaxed);
        let fits = |n: &NonZeroU32| *n <= self.limit.burst();
        let Some(n) = u32::try_from(quantity).ok().and_then(NonZeroU32::new).filter(fits) else {
            return if quantity == 0 { Ok(()) } else { Err(self.limit.interval()) };
        };
        match self.governor.check_n(n) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(until)) => Err(until.wait_time_from(self.told.now())),
            Err(_) => Err(self.limit.interval()),
        }
    }

    /// Takes whatever is there; returns how much that was.
    fn take_all(&self, now: Duration) -> u32 {
        let halves = (0..u32::BITS).rev().map(|bit| 1 << bit);
        halves.filter(|half: &u32| self.take(u64::from(*half), now).is_ok()).sum()
    }
}

/// The time as it was last told.
#[derive(Clone, Debug)]
struct Told(Arc<AtomicU64>);

impl Clock for Told {
    type Instant = Duration;
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(text: &str) -> Limits {
        Limits { all: toml::from_str(text).unwrap(), ..Limits::default() }
    }

    fn limiter(text: &str, before: &Limiter, now: Duration) -> Limiter {
        Limiter::new(&limits(text), [&"shop".into()].into_iter(), &BTreeSet::new(), before, now)
    }

    fn take(limiter: &Limiter, quantity: u64, now: Duration) -> Result<(), Duration> {
        let item = [(Category::Error, quantity)].into_iter().collect();
        limiter.of("shop").unwrap().take(&item, now).map_err(|reached| reached.wait)
    }

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn what_is_over_the_burst_waits_for_the_rate() {
        let limiter = limiter("error = { rate = \"10/s\", burst = 3 }", &Limiter::default(), ms(0));
        assert!((0..3).all(|_| take(&limiter, 1, ms(5)).is_ok()));
        assert_eq!(take(&limiter, 1, ms(5)), Err(ms(100)));
        assert_eq!(take(&limiter, 1, ms(80)), Err(ms(25)));
        assert_eq!(take(&limiter, 1, ms(105)), Ok(()));
        assert!(take(&limiter, 1, ms(105)).is_err());
        assert!(take(&limiter, 4, ms(60_000)).is_err(), "more than a full bucket");
        assert_eq!(take(&limiter, 3, ms(60_000)), Ok(()));
        assert!(limiter.of("other").is_none());
        let session = [(Category::Session, 9)].into_iter().collect();
        assert_eq!(limiter.of("shop").unwrap().take(&session, ms(0)), Ok(()), "another category");
    }

    #[test]
    fn a_changed_configuration_keeps_what_was_spent() {
        let first = limiter("error = \"10/m\"", &Limiter::default(), ms(0));
        assert!((0..7).all(|_| take(&first, 1, ms(0)).is_ok()));
        let same = limiter("error = \"10/m\"\nsession = \"1/s\"", &first, ms(0));
        assert!((0..3).all(|_| take(&same, 1, ms(0)).is_ok()));
        assert!(take(&same, 1, ms(0)).is_err(), "nothing was given back");
        let larger = limiter("error = \"15/m\"", &same, ms(0));
        assert!((0..5).all(|_| take(&larger, 1, ms(0)).is_ok()));
        assert!(take(&larger, 1, ms(0)).is_err(), "ten were spent before");
        let smaller = limiter("error = \"2/m\"", &larger, ms(0));
        assert!(take(&smaller, 1, ms(0)).is_err());
        assert!(take(&smaller, 1, ms(30_000)).is_ok());
    }

    #[test]
    fn the_first_browser_brings_limits_and_gives_nothing_back() {
        let limits = limits("error = \"3/m\"");
        let limiter = |seen: &[&str], before: &Limiter| {
            let seen = seen.iter().map(|name| Arc::from(*name)).collect();
            Limiter::new(&limits, [&"shop".into(), &"app".into()].into_iter(), &seen, before, ms(0))
        };
        let before = limiter(&[], &Limiter::default());
        assert!(before.awaits_browsers("shop") && before.awaits_browsers("app") && !before.awaits_browsers("other"));
        assert!((0..3).all(|_| take(&before, 1, ms(0)).is_ok()));
        let after = limiter(&["shop"], &before);
        assert!(!after.awaits_browsers("shop") && after.awaits_browsers("app"));
        assert!(take(&after, 1, ms(0)).is_err(), "what was spent stays spent");
        let sessions = [(Category::Session, 1001)].into_iter().collect();
        assert!(after.of("shop").unwrap().take(&sessions, ms(0)).is_err());
        assert!(after.of("app").unwrap().take(&sessions, ms(0)).is_ok(), "another project's browsers are its own");
    }

    proptest! {
        #[test]
        fn never_more_passes_than_rate_and_burst_over_any_window(
            amount in 1u32..2000,
            unit in 0usize..3,
            burst in proptest::option::of(1u32..500),
            tries in proptest::collection::vec((0u64..3000, 1u64..20), 1..200),
            reload in 0usize..400,
        ) {
            let unit = ["s", "m", "h"][unit];
            let burst_text = burst.map_or(String::new(), |burst| format!(", burst = {burst}"));
            let text = format!("error = {{ rate = \"{amount}/{unit}\"{burst_text} }}");
            let limit = limits(&text).all.categories[&Category::Error];
            let mut limiter = limiter(&text, &Limiter::default(), ms(0));
            let (mut now, mut passed) = (ms(0), vec![]);
            for (i, (pause, quantity)) in tries.into_iter().enumerate() {
                now += ms(pause);
                if i == reload {
                    // A reload gives nothing away.
                    limiter = Limiter::new(&limits(&text), [&"shop".into()].into_iter(), &BTreeSet::new(), &limiter, now);
                }
                if take(&limiter, quantity, now).is_ok() {
                    passed.push((now, quantity));
                }
            }
            for (i, (from, _)) in passed.iter().enumerate() {
                let mut sum = 0;
                for (to, quantity) in &passed[i..] {
                    sum += quantity;
                    let window = (*to - *from).as_nanos();
                    let most = u128::from(limit.burst().get()) + window / limit.interval().as_nanos();
                    prop_assert!(u128::from(sum) <= most, "{sum} in {window} ns, {most} at most");
                }
            }
        }
    }
}

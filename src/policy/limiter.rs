//! The buckets behind the inbound limits: one for each project and category that has a [`Limit`].
//!
//! Rule: in any window at most rate × window + burst passes. A changed configuration keeps what was spent.
//!
//! Relays that share a journal divide each limit: an item costs a bucket as many times as there are relays with a part in it. A relay
//! gives up its part when nothing came for ten seconds and its bucket is full. When something comes again, it starts with the equal
//! part, as if all relays had one, and takes more once the others were told twice that it is busy. One relay may have used up the whole
//! limit before the others start, so n relays together let in at most (2n - 1)/n of it. An exchange skips buckets in which this relay
//! has the equal part, so that unused limits cost nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::protocol::category::{Category, Quantities};
use crate::protocol::rate_limits::RateLimit;

use super::limits::{Limit, Limits};

/// How long nothing must come under a limit before a relay gives up its part.
const LATELY: Duration = Duration::from_secs(10);
/// How often the others are told that a limit is busy here before this relay takes more than the equal part. By then each has told us.
const HEARD: u8 = 2;

/// The buckets of all projects. The set is fixed; the buckets fill and empty.
#[derive(Debug, Default)]
pub struct Limiter {
    shares: HashMap<Arc<str>, Share>,
    /// The number of relays; zero for a single one.
    relays: AtomicU32,
    active: Arc<Active>,
}

/// A limit, by project and category.
type Limited = (Arc<str>, Category);

/// The limits that were used since this relay last had the equal part.
type Active = Mutex<BTreeSet<Limited>>;

/// The limits of one project.
#[derive(Debug, Default)]
struct Share {
    buckets: Buckets,
    /// Whether the first request of a browser puts limits in force.
    awaits_browsers: bool,
}

/// The buckets of one project.
#[derive(Debug, Default)]
pub struct Buckets(Vec<(Category, Arc<Bucket>)>);

/// A limit that has been reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reached {
    /// The category.
    pub category: Category,
    /// The wait until one more may come.
    pub wait: Duration,
}

impl Reached {
    /// The limit for the client's `X-Sentry-Rate-Limits`.
    pub fn told(self) -> RateLimit {
        RateLimit { retry_after: self.wait, categories: Some(vec![self.category]) }
    }
}

impl Limiter {
    /// The buckets for `projects` under `limits`; browsers have sent for the projects in `seen`. Buckets of `before` keep what was spent.
    ///
    /// `now` here and elsewhere is a time that only goes on, [`Clock::uptime`](crate::clock::Clock::uptime).
    pub fn new<'a>(
        limits: &Limits,
        projects: impl Iterator<Item = &'a Arc<str>>,
        seen: &BTreeSet<Arc<str>>,
        before: &Self,
        now: Duration,
    ) -> Self {
        let relays = before.relays.load(Ordering::Relaxed);
        let share = |project: &Arc<str>| {
            let (old, seen) = (before.of(project), seen.contains(project));
            let bucket = |(category, limit)| {
                let new = || {
                    let of = (Arc::clone(project), category);
                    Arc::new(Bucket::full(of, limit, (relays, Arc::clone(&before.active)), now))
                };
                let before = old.and_then(|buckets| buckets.of(category));
                (category, before.map_or_else(new, |old| old.followed(limit, now)))
            };
            let buckets = Buckets(limits.in_force(project, seen).into_iter().map(bucket).collect());
            Share { buckets, awaits_browsers: !seen && !limits.browsers.contains_key(project) }
        };
        let shares = projects.map(|project| (Arc::clone(project), share(project))).collect();
        Self { shares, relays: relays.into(), active: Arc::clone(&before.active) }
    }

    /// The buckets of a project; `None` when it has no limits.
    pub fn of(&self, project: &str) -> Option<&Buckets> {
        self.shares.get(project).map(|share| &share.buckets).filter(|buckets| !buckets.0.is_empty())
    }

    /// Whether the first request of a browser puts limits of this project in force.
    pub fn awaits_browsers(&self, project: &str) -> bool {
        self.shares.get(project).is_some_and(|share| share.awaits_browsers)
    }

    /// The limits in which this relay has a part, to tell the others.
    pub fn busy(&self, now: Duration) -> BTreeSet<Limited> {
        let is_busy = |limited: &&Limited| self.bucket(limited).is_some_and(|bucket| bucket.is_told_busy(now));
        self.active().iter().filter(is_busy).cloned().collect()
    }

    /// Divides the limits among `relays`. `others` is the number of other relays with a part, by limit; `None` if it is unknown, so that
    /// each relay takes the equal part.
    pub fn divide(&self, relays: u32, others: Option<&BTreeMap<Limited, u32>>, now: Duration) {
        let divide = |bucket: &Bucket| {
            bucket.divide(relays, others.map(|others| others.get(&bucket.of).copied().unwrap_or(0)), now);
        };
        let mut active = self.active();
        if self.relays.swap(relays, Ordering::Relaxed) != relays {
            let all = self.shares.values().flat_map(|share| &share.buckets.0);
            all.for_each(|(_, bucket)| divide(bucket));
        }
        active.retain(|limited| {
            let Some(bucket) = self.bucket(limited) else { return false };
            divide(bucket);
            bucket.stays_active(now)
        });
    }

    /// Divides the limits among the last known number of relays, when the exchange fails.
    pub fn divide_unheard(&self, now: Duration) {
        self.divide(self.relays.load(Ordering::Relaxed), None, now);
    }

    fn bucket(&self, (project, category): &Limited) -> Option<&Arc<Bucket>> {
        self.shares.get(project)?.buckets.of(*category)
    }

    fn active(&self) -> MutexGuard<'_, BTreeSet<Limited>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buckets {
    fn of(&self, category: Category) -> Option<&Arc<Bucket>> {
        self.0.iter().find(|(own, _)| *own == category).map(|(_, bucket)| bucket)
    }

    /// Takes an item's quantities out of their buckets, or returns the limit that is reached.
    pub fn take(&self, item: &Quantities, now: Duration) -> Result<(), Reached> {
        for (category, quantity) in item.iter() {
            let Some(bucket) = self.of(category) else { continue };
            bucket.take(quantity, now).map_err(|wait| Reached { category, wait })?;
        }
        Ok(())
    }
}

/// A bucket, and this relay's part of it.
#[derive(Debug)]
struct Bucket {
    of: Limited,
    limit: Limit,
    active: Arc<Active>,
    /// Whether the limit is in [`Active`].
    is_active: AtomicBool,
    /// The number of relays that divide the limit.
    parts: AtomicU32,
    /// When it was last used, in nanoseconds of uptime; zero: never.
    asked: AtomicU64,
    /// How often in a row the others were told that it is busy.
    told: AtomicU8,
    meter: Mutex<Meter>,
}

impl Bucket {
    fn full(of: Limited, limit: Limit, (relays, active): (u32, Arc<Active>), now: Duration) -> Self {
        let (parts, asked, told) = (AtomicU32::new(relays.max(1)), AtomicU64::new(0), AtomicU8::new(0));
        let (is_active, meter) = (AtomicBool::new(false), Mutex::new(Meter::spent(limit, 0, now)));
        Self { of, limit, active, is_active, parts, asked, told, meter }
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bucket under a changed limit: the same if it did not change, or another one with as much spent.
    fn followed(self: &Arc<Self>, limit: Limit, now: Duration) -> Arc<Self> {
        if self.limit == limit {
            return Arc::clone(self);
        }
        let copy = |value: &AtomicU32| AtomicU32::new(value.load(Ordering::Relaxed));
        let spent = self.meter().lacks(now).min(limit.burst().get().into());
        Arc::new(Self {
            of: self.of.clone(),
            limit,
            active: Arc::clone(&self.active),
            is_active: AtomicBool::new(self.is_active.load(Ordering::SeqCst)),
            parts: copy(&self.parts),
            asked: AtomicU64::new(self.asked.load(Ordering::Relaxed)),
            told: AtomicU8::new(self.told.load(Ordering::Relaxed)),
            meter: Mutex::new(Meter::spent(limit, spent, now)),
        })
    }

    /// Takes `quantity`, or returns the wait until it may be there. More than a full bucket never is. A quantity above this relay's part
    /// passes when the part is full, and the debt is worked off afterwards.
    fn take(&self, quantity: u64, now: Duration) -> Result<(), Duration> {
        self.asked.fetch_max(nanos(now).max(1), Ordering::SeqCst);
        if !self.is_active.swap(true, Ordering::SeqCst) {
            self.active.lock().unwrap_or_else(PoisonError::into_inner).insert(self.of.clone());
        }
        if quantity > self.limit.burst().get().into() {
            return Err(self.limit.interval());
        }
        let parts = u64::from(self.parts.load(Ordering::Relaxed));
        self.meter().take(quantity * parts, now)
    }

    /// Whether this relay is busy under the limit, as the others are told now.
    fn is_told_busy(&self, now: Duration) -> bool {
        let is_busy = self.is_busy(now);
        let told = if is_busy { self.told.load(Ordering::Relaxed).saturating_add(1).min(HEARD) } else { 0 };
        self.told.store(told, Ordering::Relaxed);
        is_busy
    }

    fn is_busy(&self, now: Duration) -> bool {
        let asked = self.asked.load(Ordering::SeqCst);
        let is_recent = asked > 0 && nanos(now).saturating_sub(asked) < nanos(LATELY);
        is_recent || self.meter().whole_at > now
    }

    /// Whether the next exchange must look at it again.
    fn stays_active(&self, now: Duration) -> bool {
        let is_told = self.told.load(Ordering::Relaxed) > 0;
        self.is_active.store(is_told, Ordering::SeqCst);
        is_told || self.is_busy(now) && !self.is_active.swap(true, Ordering::SeqCst)
    }

    fn divide(&self, relays: u32, others: Option<u32>, now: Duration) {
        let known = others.filter(|_| self.told.load(Ordering::Relaxed) >= HEARD);
        if others.is_none() {
            self.told.store(0, Ordering::Relaxed);
        }
        let parts = known.map_or(relays, |others| others.saturating_add(1).min(relays)).max(1);
        let before = self.parts.swap(parts, Ordering::Relaxed);
        if before != parts {
            self.keep_spent((before, parts), now);
        }
    }

    /// Carries what was spent over to a changed part, even more than it holds, so that leaving and returning gains nothing.
    fn keep_spent(&self, (before, parts): (u32, u32), now: Duration) {
        let mut meter = self.meter();
        let left = u128::from(nanos(meter.whole_at.saturating_sub(now))) * u128::from(parts) / u128::from(before);
        *meter = Meter::whole_in(self.limit, Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX)), now);
    }
}

type Governor = RateLimiter<NotKeyed, InMemoryState, Told, StateInformationMiddleware>;

/// The fill of a bucket. More than it holds can be taken from a full one: its clock stands still until the debt is worked off.
#[derive(Debug)]
struct Meter {
    limit: Limit,
    governor: Governor,
    /// Its time: [`START`] plus the uptime, less `behind`; it never goes back.
    time: Told,
    behind: Duration,
    /// The uptime at which it is full again.
    whole_at: Duration,
}

impl Meter {
    /// A full bucket of which `spent` was taken.
    fn spent(limit: Limit, spent: u64, now: Duration) -> Self {
        let time = Told(Arc::new(AtomicU64::new(nanos(START + now))));
        let quota = Quota::with_period(limit.interval()).expect("an interval is never zero").allow_burst(limit.burst());
        let governor = RateLimiter::direct_with_clock(quota, time.clone()).with_middleware();
        let mut meter = Self { limit, governor, time, behind: Duration::ZERO, whole_at: now };
        let taken = meter.take(spent, now);
        debug_assert!(taken.is_ok(), "it is full");
        meter
    }

    fn take(&mut self, quantity: u64, now: Duration) -> Result<(), Duration> {
        let (interval, burst) = (self.limit.interval(), self.limit.burst().get());
        let at_once = u32::try_from(quantity).unwrap_or(u32::MAX).min(burst);
        let Some(at_once) = NonZeroU32::new(at_once) else { return Ok(()) };
        let time = (START + now).saturating_sub(self.behind);
        self.time.0.fetch_max(nanos(time), Ordering::Relaxed);
        let left = match self.governor.check_n(at_once) {
            Ok(Ok(now)) => now.remaining_burst_capacity(),
            Ok(Err(until)) => return Err(until.wait_time_from(time)),
            Err(_) => return Err(interval),
        };
        let stands_still = self.time.now().saturating_sub(time);
        let more = times(interval, quantity - u64::from(at_once.get()));
        self.behind += more;
        self.whole_at = now + stands_still + more + times(interval, burst.saturating_sub(left).into());
        Ok(())
    }

    /// A bucket that is full again after `left`.
    fn whole_in(limit: Limit, left: Duration, now: Duration) -> Self {
        let spent = nanos(left).div_ceil(nanos(limit.interval()));
        // Part of the next unit has come already.
        Self::spent(limit, spent, now.saturating_sub(times(limit.interval(), spent).saturating_sub(left)))
    }

    /// How much is missing until it is full.
    fn lacks(&self, now: Duration) -> u64 {
        nanos(self.whole_at.saturating_sub(now)).div_ceil(nanos(self.limit.interval()))
    }
}

/// Far enough before the first uptime to fall behind.
const START: Duration = Duration::from_secs(1 << 32);

/// The time as it was last told.
#[derive(Clone, Debug)]
struct Told(Arc<AtomicU64>);

impl Clock for Told {
    type Instant = Duration;
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

fn times(interval: Duration, count: u64) -> Duration {
    Duration::from_nanos(nanos(interval).saturating_mul(count).min(nanos(START)))
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

    fn others(count: u32) -> BTreeMap<(Arc<str>, Category), u32> {
        BTreeMap::from([(("shop".into(), Category::Error), count)])
    }

    #[test]
    fn relays_that_let_in_at_once_divide_a_limit_and_one_alone_has_it_when_the_others_were_heard_twice() {
        let relay = limiter("error = \"6/m\"", &Limiter::default(), ms(0));
        relay.divide(3, Some(&others(0)), ms(0));
        assert!((0..2).all(|_| take(&relay, 1, ms(0)).is_ok()));
        assert_eq!(take(&relay, 1, ms(0)), Err(ms(30_000)), "its part is a third");
        assert_eq!(relay.busy(ms(0)).len(), 1);
        relay.divide(3, Some(&others(0)), ms(0));
        assert!(take(&relay, 1, ms(0)).is_err(), "another may not have told yet");
        relay.busy(ms(0));
        relay.divide(3, Some(&others(0)), ms(0));
        assert!((0..4).all(|_| take(&relay, 1, ms(0)).is_ok()), "it is alone, and has spent no more than came");
        assert_eq!(take(&relay, 1, ms(0)), Err(ms(10_000)));
        relay.busy(ms(20_000));
        relay.divide(3, Some(&others(1)), ms(20_000));
        assert_eq!(take(&relay, 1, ms(20_000)), Err(ms(40_000)), "it has half, and has spent more");
        relay.divide_unheard(ms(20_000));
        assert_eq!(take(&relay, 1, ms(20_000)), Err(ms(90_000)), "nothing is heard: a third");
        assert_eq!((relay.busy(ms(139_999)).len(), relay.busy(ms(140_000)).len()), (1, 0), "its part is whole again");
    }

    #[test]
    fn of_many_limits_only_those_are_looked_at_under_which_something_comes() {
        let names: Vec<Arc<str>> = (0..1000).map(|number| format!("project {number}").into()).collect();
        let limits = limits("error = \"6/m\"");
        let relay = Limiter::new(&limits, names.iter(), &BTreeSet::new(), &Limiter::default(), ms(0));
        relay.divide(3, Some(&BTreeMap::new()), ms(0));
        assert_eq!(relay.active().len(), 0);
        let one = [(Category::Error, 1)].into_iter().collect();
        assert_eq!(relay.of("project 7").unwrap().take(&one, ms(0)), Ok(()));
        let own = BTreeSet::from([(Arc::clone(&names[7]), Category::Error)]);
        let relay = Limiter::new(&limits, names.iter(), &BTreeSet::new(), &relay, ms(0));
        for now in [ms(0), ms(1), ms(9_999)] {
            assert_eq!(relay.busy(now), own);
            relay.divide(3, Some(&BTreeMap::new()), now);
            assert_eq!(*relay.active(), own);
        }
        assert!(relay.busy(ms(11_000)).is_empty());
        relay.divide(3, Some(&BTreeMap::new()), ms(11_000));
        assert_eq!(relay.active().len(), 0, "it is full, and its part is that of all");
        relay.divide(2, Some(&BTreeMap::new()), ms(11_000));
        let mut all = relay.shares.values().flat_map(|share| &share.buckets.0);
        assert!(all.all(|(_, bucket)| bucket.parts.load(Ordering::Relaxed) == 2), "each has another one now");
    }

    #[test]
    fn one_that_comes_and_goes_gives_nothing_of_a_limit_away() {
        let relay = limiter("error = \"100/m\"", &Limiter::default(), ms(0));
        assert_eq!(take(&relay, 100, ms(0)), Ok(()));
        for round in 1..=40 {
            let now = ms(1_000 * round);
            relay.busy(now);
            relay.busy(now);
            relay.divide(2, Some(&others(u32::from(round % 2 == 1))), now);
        }
        let more = (0..100).take_while(|_| take(&relay, 1, ms(40_000)).is_ok()).count();
        assert!((49..=51).contains(&more), "the half of 20 s, the whole of 20 s, and nothing got lost: {more}");
    }

    #[test]
    fn what_is_more_than_a_part_holds_goes_when_the_part_is_full_and_is_made_up_for() {
        let relay = limiter("error = \"6/m\"", &Limiter::default(), ms(0));
        relay.divide(3, None, ms(0));
        assert_eq!(take(&relay, 6, ms(0)), Ok(()));
        assert_eq!(take(&relay, 1, ms(0)), Err(ms(150_000)));
        assert!(take(&relay, 7, ms(600_000)).is_err(), "more than the limit holds never goes");
        let larger = limiter("error = \"9/m\"", &relay, ms(600_000));
        assert!((0..3).all(|_| take(&larger, 1, ms(600_000)).is_ok()) && take(&larger, 1, ms(600_000)).is_err());
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

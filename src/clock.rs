//! Time. The only reader of the system clock; all other code is passed a [`Timestamp`] or a [`Clock`].
//!
//! The clock is anchored to tokio's clock, so a test that pauses tokio's time pauses this clock as well.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use tokio::runtime::Handle;
use tokio::time::Instant;

/// The format of a moment for people.
const IN_WORDS: &[BorrowedFormatItem<'_>] =
    format_description!("[day padding:none] [month repr:short] [year], [hour]:[minute]:[second] UTC");

/// A moment: milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment `millis` milliseconds after the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// Seconds since the epoch with millisecond precision, the unit of Prometheus timestamps.
    #[expect(clippy::cast_precision_loss, reason = "exact until the year 287396")]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// The time passed since `earlier`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The moment for people, to the second: `5 Jan 2026, 14:03:07 UTC`.
    pub fn in_words(self) -> String {
        let nanos = i128::from(self.0) * 1_000_000;
        let told = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok().and_then(|at| at.format(IN_WORDS).ok());
        told.unwrap_or_else(|| self.to_string())
    }

    /// The hour of this moment, counted from the epoch: the key of hourly totals.
    pub const fn hour(self) -> u64 {
        self.0 / 3_600_000
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(millis(rhs)))
    }
}

impl std::ops::Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(millis(rhs)))
    }
}

/// RFC 3339 in UTC with milliseconds, the format of logs, status and JSON.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.0) * 1_000_000;
        match OffsetDateTime::from_unix_timestamp_nanos(nanos).map(|t| t.format(&Rfc3339)) {
            Ok(Ok(text)) => f.write_str(&text),
            _ => write!(f, "{}ms", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The text is no RFC 3339 timestamp of 1970 or later.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a time as in 2026-01-31T12:00:00Z")]
pub struct InvalidTimestamp;

impl std::str::FromStr for Timestamp {
    type Err = InvalidTimestamp;
    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| InvalidTimestamp)?;
        u64::try_from(at.unix_timestamp_nanos() / 1_000_000).map(Self).map_err(|_| InvalidTimestamp)
    }
}

/// The smallest change of the clock after which it is in doubt, because it may have been set wrong and be set back.
const JUMP: Duration = Duration::from_secs(3600);
/// How long the clock is in doubt after such a change.
const DOUBT: Duration = Duration::from_secs(600);

/// A clock: the system's time when it was anchored, plus the time that passed on tokio's clock since.
#[derive(Clone, Debug)]
pub struct Clock {
    anchor: Instant,
    setting: Arc<Setting>,
    /// The runtime whose time a simulated clock shows, in threads outside of tokio as well; `None` if it follows the system's clock.
    simulated_by: Option<Handle>,
}

/// The setting of a clock.
#[derive(Debug)]
struct Setting {
    /// Milliseconds since the epoch at the anchor.
    epoch: AtomicU64,
    /// The end of the doubt, in milliseconds since the anchor.
    doubtful_until: AtomicU64,
}

impl Clock {
    /// A clock anchored to the system's time now.
    pub fn system() -> Self {
        Self::starting(system_millis(), None)
    }

    /// A clock that shows `start` now and then follows only tokio's clock: for simulated time.
    ///
    /// # Panics
    ///
    /// Outside of a runtime.
    pub fn simulated(start: Timestamp) -> Self {
        Self::starting(start.0, Some(Handle::current()))
    }

    fn starting(epoch: u64, simulated_by: Option<Handle>) -> Self {
        let setting = Setting { epoch: epoch.into(), doubtful_until: 0.into() };
        Self { anchor: Instant::now(), setting: Arc::new(setting), simulated_by }
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.at(self.instant_now())
    }

    fn instant_now(&self) -> Instant {
        let _within = self.simulated_by.as_ref().map(Handle::enter);
        Instant::now()
    }

    /// The wall-clock time of a tokio instant.
    pub fn at(&self, instant: Instant) -> Timestamp {
        let passed = millis(instant.saturating_duration_since(self.anchor));
        Timestamp(self.setting.epoch.load(Ordering::Relaxed).saturating_add(passed))
    }

    /// The time since this clock was made. It never jumps, whatever happens to the system's clock.
    pub fn uptime(&self) -> Duration {
        self.instant_now().saturating_duration_since(self.anchor)
    }

    /// The time since the machine started in whole seconds, sleep included (sysinfo(2)): nobody can set it. A simulated clock returns 0,
    /// because a simulated machine neither sleeps nor stands still.
    pub fn since_boot(&self) -> Duration {
        match &self.simulated_by {
            Some(_) => Duration::ZERO,
            None => Duration::from_secs(u64::try_from(rustix::system::sysinfo().uptime).unwrap_or_default()),
        }
    }

    /// The tokio instant at which this clock will show `when`; now if `when` is past.
    pub fn instant(&self, when: Timestamp) -> Instant {
        self.instant_now() + when.since(self.now())
    }

    /// Sets the clock to the system's after that was set or the machine slept. Differences under a second are left alone.
    pub fn resync(&self) {
        let (system, ours) = (system_millis(), self.now().as_millis());
        if self.simulated_by.is_none() && system.abs_diff(ours) >= 1000 {
            self.set(Timestamp(system));
        }
    }

    /// Sets the clock to `now`.
    pub fn set(&self, now: Timestamp) {
        let uptime = self.uptime();
        let epoch = now.0.saturating_sub(millis(uptime));
        let before = self.setting.epoch.swap(epoch, Ordering::Relaxed);
        if before.abs_diff(epoch) >= millis(JUMP) {
            self.setting.doubtful_until.store(millis(uptime + DOUBT), Ordering::Relaxed);
            tracing::warn!(from = %(Timestamp(before) + uptime), to = %now, "the clock was set; for ten minutes nothing expires");
        }
    }

    /// The time of the anchor by the present setting. It moves by as much as the clock is set.
    pub fn epoch(&self) -> Timestamp {
        Timestamp(self.setting.epoch.load(Ordering::Relaxed))
    }

    /// Whether the clock was set by so much, and so recently, that nothing may be dropped for its age.
    pub fn is_doubtful(&self) -> bool {
        millis(self.uptime()) < self.setting.doubtful_until.load(Ordering::Relaxed)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the system clock")]
fn system_millis() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_clock_follows_a_paused_tokio() {
        let clock = Clock::system();
        let before = clock.now();
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(clock.now().since(before), Duration::from_secs(3600));
    }

    #[tokio::test(start_paused = true)]
    async fn a_simulated_clock_shows_the_same_time_to_every_thread() {
        let clock = Clock::simulated(Timestamp::from_millis(1_700_000_000_000));
        tokio::time::advance(Duration::from_secs(3600)).await;
        let (here, elsewhere) = (clock.now(), clock.clone());
        let there = std::thread::spawn(move || elsewhere.now()).join().unwrap();
        assert_eq!((here, there), (Timestamp::from_millis(1_700_003_600_000), here));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_jump_of_an_hour_the_clock_is_in_doubt_for_ten_minutes() {
        let clock = Clock::simulated(Timestamp::from_millis(1_700_000_000_000));
        clock.set(clock.now() - Duration::from_secs(60));
        assert!(!clock.is_doubtful(), "a minute is no jump");
        let before = clock.epoch();
        clock.set(clock.now() + 100 * JUMP);
        assert_eq!(clock.epoch().since(before), 100 * JUMP);
        tokio::time::advance(DOUBT - Duration::from_secs(1)).await;
        assert!(clock.is_doubtful());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!clock.is_doubtful());
    }

    #[test]
    fn a_timestamp_prints_as_rfc_3339_and_reads_back() {
        let at = Timestamp::from_millis(1_700_000_000_123);
        assert_eq!(at.to_string(), "2023-11-14T22:13:20.123Z");
        let json = serde_json::to_string(&at).unwrap();
        assert_eq!(serde_json::from_str::<Timestamp>(&json).unwrap(), at);
    }
}

//! One upstream's circuit: whether it is tried at all, and how fast after it came back.
//!
//! Closed, it works. After [`THRESHOLD`] failures in a row it opens and nothing is sent. When the wait is over one request
//! probes it (half open): a failure opens it for longer, a success closes it, and what waited goes out slowly at first.

use std::time::Duration;

use crate::clock::Timestamp;

use super::backoff::Backoff;

/// Failures in a row that open the circuit.
pub const THRESHOLD: u32 = 5;

/// The state, by the name it has in metrics and status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Requests flow.
    Closed,
    /// Nothing is sent.
    Open,
    /// One request is finding out.
    HalfOpen,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The name in labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// The circuit of one upstream.
#[derive(Clone, Debug)]
pub struct Circuit {
    state: State,
    /// Failures since the last success.
    failures: u32,
    /// When the first of them was.
    since: Timestamp,
    /// Times it opened since it was last closed.
    openings: u32,
    /// While open: when to probe.
    until: Timestamp,
    pace: Option<Pace>,
}

impl Default for Circuit {
    fn default() -> Self {
        let (since, until) = (Timestamp::default(), Timestamp::default());
        Self { state: State::Closed, failures: 0, since, openings: 0, until, pace: None }
    }
}

impl Circuit {
    /// The state at `now`.
    pub const fn state(&self) -> State {
        self.state
    }

    /// How many requests may be started now, at most `room`.
    pub fn permits(&mut self, now: Timestamp, room: usize, in_flight: usize) -> usize {
        match self.state {
            State::Closed => self.paced(now, room),
            // The wait is over: open becomes half open with one probe.
            State::Open if now >= self.until && in_flight == 0 => {
                self.state = State::HalfOpen;
                room.min(1)
            }
            State::HalfOpen if in_flight == 0 => room.min(1),
            State::Open | State::HalfOpen => 0,
        }
    }

    /// Tells that `count` requests were started.
    pub fn started(&mut self, count: usize) {
        if let Some(pace) = &mut self.pace {
            pace.sent += count as u64;
        }
    }

    /// When [`Circuit::permits`] will allow more than now without anything else happening.
    pub fn wakes_at(&self, now: Timestamp) -> Option<Timestamp> {
        match self.state {
            // Past it, a request that still hangs is waited for.
            State::Open => Some(self.until).filter(|until| *until > now),
            State::Closed => self.pace.map(|_| now + Pace::STEP),
            State::HalfOpen => None,
        }
    }

    /// The upstream answered: it is there. Returns whether this ended an outage.
    pub fn succeeded(&mut self, now: Timestamp) -> bool {
        let ended = self.state != State::Closed;
        if ended {
            // Half open, or open with a late answer: closed, and slowly.
            self.slow_start(now);
        }
        (self.state, self.failures, self.openings) = (State::Closed, 0, 0);
        ended
    }

    /// The clock was set back by so much: what it waits for moves with it.
    pub fn set_back(&mut self, by: Duration) {
        (self.since, self.until) = (self.since - by, self.until - by);
        if let Some(pace) = &mut self.pace {
            pace.since = pace.since - by;
        }
    }

    /// When the failures since the last success began.
    pub fn failing_since(&self) -> Timestamp {
        self.since
    }

    /// The upstream failed. Returns whether this opened the circuit.
    pub fn failed(&mut self, now: Timestamp) -> bool {
        if self.failures == 0 {
            self.since = now;
        }
        self.failures = self.failures.saturating_add(1);
        let opens = match self.state {
            State::Closed => self.failures >= THRESHOLD,
            State::HalfOpen => true,
            State::Open => false,
        };
        if opens {
            self.openings = self.openings.saturating_add(1);
            self.until = now + Backoff::CIRCUIT.after(self.openings);
            self.state = State::Open;
            self.pace = None;
        }
        opens && self.openings == 1
    }

    /// What waited goes out slowly at first: after an outage, and after a rate limit has ended.
    pub fn slow_start(&mut self, now: Timestamp) {
        self.pace = Some(Pace { since: now, sent: 0 });
    }

    fn paced(&mut self, now: Timestamp, room: usize) -> usize {
        match self.pace {
            None => room,
            Some(pace) if now.since(pace.since) >= Pace::LENGTH => {
                self.pace = None;
                room
            }
            Some(pace) => room.min(usize::try_from(pace.allowed(now).saturating_sub(pace.sent)).unwrap_or(room)),
        }
    }
}

/// Slow start: 20 requests in the first second, and each second twice as many as in the one before, for eight seconds.
#[derive(Clone, Copy, Debug)]
struct Pace {
    since: Timestamp,
    sent: u64,
}

impl Pace {
    const LENGTH: Duration = Duration::from_secs(8);
    const STEP: Duration = Duration::from_millis(50);

    /// How many requests may have been started by `now`.
    fn allowed(self, now: Timestamp) -> u64 {
        let seconds = now.since(self.since).as_secs_f64();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 20 × 2^8")]
        let allowed = (20.0 * (seconds.exp2() - 1.0)) as u64;
        allowed + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Timestamp = Timestamp::from_millis(1_000_000);

    fn open() -> Circuit {
        let mut circuit = Circuit::default();
        for _ in 0..THRESHOLD {
            circuit.failed(T);
        }
        circuit
    }

    #[test]
    fn it_opens_after_the_threshold_and_a_success_in_between_starts_the_count_again() {
        let mut circuit = Circuit::default();
        for _ in 0..THRESHOLD - 1 {
            assert!(!circuit.failed(T));
        }
        circuit.succeeded(T);
        for _ in 0..THRESHOLD - 1 {
            circuit.failed(T);
        }
        assert_eq!(circuit.state(), State::Closed);
        assert!(circuit.failed(T));
        assert_eq!((circuit.state(), circuit.permits(T, 8, 0)), (State::Open, 0));
    }

    #[test]
    fn one_probe_decides_and_failed_probes_come_ever_later() {
        let mut circuit = open();
        let mut at = T;
        let mut waits = vec![];
        for _ in 0..10 {
            let next = circuit.wakes_at(at).unwrap();
            waits.push(next.since(at));
            at = next;
            assert_eq!(circuit.permits(at, 8, 0), 1);
            assert_eq!(circuit.permits(at, 8, 1), 0, "one probe at a time");
            circuit.failed(at);
        }
        assert!(waits[4] > waits[0] && waits[9] <= Duration::from_secs(60));
        at = circuit.wakes_at(at).unwrap();
        assert_eq!(circuit.permits(at, 8, 0), 1);
        assert!(circuit.succeeded(at));
        assert_eq!(circuit.state(), State::Closed);
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_wait_longer() {
        let mut circuit = open();
        let (by, wait) = (Duration::from_secs(900), circuit.wakes_at(T).unwrap().since(T));
        circuit.set_back(by);
        assert_eq!(circuit.wakes_at(T - by), Some(T - by + wait));
        let at = T - by + wait;
        assert_eq!(circuit.permits(at, 8, 0), 1);
        circuit.succeeded(at);
        circuit.started(1);
        circuit.set_back(Duration::from_secs(60));
        assert_eq!(
            circuit.permits(at - Duration::from_secs(52), 8, 0),
            8,
            "the slow start is over after eight seconds"
        );
    }

    #[test]
    fn after_an_outage_the_pace_doubles_each_second_and_then_ends() {
        let mut circuit = open();
        let since = circuit.wakes_at(T).unwrap();
        circuit.permits(since, 8, 0);
        circuit.succeeded(since);
        let mut sent_in = |from: u64, to: u64| {
            let mut sent = 0;
            for ms in (from..to).step_by(50) {
                let permits = circuit.permits(since + Duration::from_millis(ms), 1000, 0);
                circuit.started(permits);
                sent += permits;
            }
            sent
        };
        let (first, second, third) = (sent_in(0, 1000), sent_in(1000, 2000), sent_in(2000, 3000));
        assert!((15..=25).contains(&first) && (35..=45).contains(&second) && (75..=85).contains(&third));
        assert_eq!(circuit.permits(since + Duration::from_secs(8), 1000, 0), 1000);
    }
}

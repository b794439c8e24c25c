//! The circuit breaker of one upstream: whether requests may be sent, and how fast after an outage.
//!
//! While the circuit is closed, requests flow. [`THRESHOLD`] failed records in a row open it, and nothing is sent. After a wait it is
//! half open: the first probe is a question, an envelope without items, which costs no record an attempt. An answer lets one record at
//! a time probe further. A record that is taken closes the circuit with a slow start; one that fails opens it for longer. After a
//! question without an answer the next probe is a record, because not every upstream understands the question.
//!
//! When fewer records fail again and again, the upstream is asked at most once a minute, and only silence opens the circuit. When a
//! single record fails with an error answer, the upstream is asked earlier. Failures of projects that wait alone
//! ([`Suspects`](super::suspects::Suspects)) say nothing about the upstream and do not count.

use std::time::Duration;

use crate::clock::Timestamp;

use smallvec::SmallVec;

use crate::vocabulary::vocabulary;

use super::backoff::Backoff;
use super::standing::Share;

/// The number of failed records in a row that opens the circuit.
pub const THRESHOLD: usize = 5;
/// The least time between two questions while the circuit is closed, and how long an answer counts.
pub const EACH: Duration = Duration::from_secs(60);

vocabulary! {
    /// The state, by the name it has in metrics and status.
    pub enum State {
        /// Requests flow.
        Closed = "closed",
        /// Nothing is sent.
        Open = "open",
        /// One request at a time probes.
        HalfOpen = "half_open",
    }
}

/// The state of a circuit, as relays that share a journal tell each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// It is closed.
    Closed,
    /// It is open.
    Open(Outage),
    /// It is half open, and the upstream answers questions.
    Reached,
}

/// An outage, during which the circuit is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outage {
    /// When the failures began.
    pub since: Timestamp,
    /// When to probe.
    pub until: Timestamp,
    /// How often the circuit opened since it was last closed.
    pub openings: u32,
    /// Whether the next probe is a question.
    pub asks_next: bool,
}

/// The circuit of one upstream.
#[derive(Clone, Debug)]
pub struct Circuit {
    state: State,
    /// Failures since the last success.
    failures: usize,
    /// The first records that failed.
    records: SmallVec<[u64; THRESHOLD]>,
    /// When the first of these failures happened.
    since: Timestamp,
    question: Question,
    /// Whether the next probe is a question, not a record.
    asks_next: bool,
    /// When the last question was asked.
    asked: Option<Timestamp>,
    /// Whether a question was answered since the last failure.
    answered: bool,
    /// When the last question was answered; `None` after a success.
    answered_at: Option<Timestamp>,
    /// Whether a recent answer vouched for the upstream at the last failure.
    vouched: bool,
    /// How often it opened since it was last closed.
    openings: u32,
    /// When to probe, while open.
    until: Timestamp,
    pace: Option<Pace>,
    /// This relay's share of the slow start.
    share: Share,
}

/// The state of the question to the upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Question {
    /// There is none.
    None,
    /// The question is to be asked.
    Due,
    /// The question is under way.
    Asked,
    /// The upstream answered while the circuit was half open.
    Answered,
}

impl Default for Circuit {
    fn default() -> Self {
        let never = Timestamp::default();
        Self {
            state: State::Closed,
            failures: 0,
            records: SmallVec::new(),
            since: never,
            question: Question::None,
            asks_next: true,
            asked: None,
            answered: false,
            answered_at: None,
            vouched: false,
            openings: 0,
            until: never,
            pace: None,
            share: Share::WHOLE,
        }
    }
}

impl Circuit {
    /// The state at `now`.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Sets this relay's share of the slow start.
    pub fn divide(&mut self, share: Share) {
        self.share = share;
    }

    /// The state to tell the other relays.
    pub fn seen(&self) -> Seen {
        let Self { since, until, openings, asks_next, .. } = *self;
        match self.state {
            State::Closed => Seen::Closed,
            State::HalfOpen if self.question == Question::Answered => Seen::Reached,
            State::Open | State::HalfOpen => Seen::Open(Outage { since, until, openings, asks_next }),
        }
    }

    /// Takes over the state that another relay found: open, or half open if a question `reached` the upstream.
    pub fn follow(&mut self, outage: Outage, reached: bool) {
        let Outage { since, until, openings, asks_next } = outage;
        (self.since, self.until, self.openings, self.asks_next) = (since, until, openings, asks_next);
        (self.state, self.question) =
            if reached { (State::HalfOpen, Question::Answered) } else { (State::Open, Question::None) };
        (self.failures, self.pace, self.answered_at) = (self.failures.max(1), None, None);
    }

    /// Whether a probe is due.
    pub fn wants_probe(&self, now: Timestamp, in_flight: usize) -> bool {
        let is_due = match self.state {
            State::Closed => false,
            State::Open => now >= self.until,
            State::HalfOpen => self.question != Question::Asked,
        };
        is_due && in_flight == 0
    }

    /// Whether to ask the upstream now. The caller asks, and reports by [`Circuit::answered`] or [`Circuit::unanswered`].
    pub fn asks(&mut self, now: Timestamp, in_flight: usize) -> bool {
        let is_due = match self.state {
            State::Closed => self.question == Question::Due,
            State::Open => self.asks_next && now >= self.until && in_flight == 0,
            State::HalfOpen => false,
        };
        if is_due {
            self.question = Question::Asked;
            self.asked = Some(now);
            if self.state == State::Open {
                // The wait is over: open becomes half open with a question.
                self.state = State::HalfOpen;
            }
        }
        is_due
    }

    /// Reports an answer to the question. If the circuit is half open, records may probe now, one at a time.
    pub fn answered(&mut self, now: Timestamp) {
        if self.question == Question::Asked {
            (self.answered, self.answered_at) = (true, Some(now));
            self.question = if self.state == State::HalfOpen { Question::Answered } else { Question::None };
        }
    }

    /// Reports that the question got no answer. Returns whether an outage begins.
    pub fn unanswered(&mut self, now: Timestamp) -> bool {
        if self.question != Question::Asked {
            return false;
        }
        // Closed or half open becomes open, and the next probe is a record.
        self.open(now, false)
    }

    /// Whether the upstream answers questions, but is not known to take records.
    pub fn is_reached(&self) -> bool {
        self.question == Question::Answered
    }

    /// Whether the last failure is likelier the record's fault than the upstream's: few records fail, and the upstream has answered a
    /// question lately or since the failure before.
    pub fn vouches(&self) -> bool {
        self.state == State::Closed && self.records.len() < THRESHOLD && self.vouched
    }

    /// As [`Circuit::vouches`], when only one record fails.
    pub fn blames_one(&self) -> bool {
        self.vouches() && self.records.len() == 1
    }

    /// Reports that the failed record got an error answer from the upstream itself. If no other record fails, the upstream is asked.
    pub fn doubts_one(&mut self, now: Timestamp) {
        if self.failures > 1 && self.records.len() == 1 {
            self.wants_answer(now);
        }
    }

    fn wants_answer(&mut self, now: Timestamp) {
        let is_recent = self.asked.is_some_and(|asked| now.since(asked) < EACH && asked <= now);
        if self.state == State::Closed && self.question == Question::None && !is_recent {
            self.question = Question::Due;
        }
    }

    /// The number of requests that may start now, at most `room`.
    pub fn permits(&mut self, now: Timestamp, room: usize, in_flight: usize) -> usize {
        match self.state {
            State::Closed => self.paced(now, room),
            // The wait is over: open becomes half open with one record, when no question comes first.
            State::Open if !self.asks_next && now >= self.until && in_flight == 0 => {
                self.state = State::HalfOpen;
                room.min(1)
            }
            State::HalfOpen if self.question != Question::Asked && in_flight == 0 => room.min(1),
            State::Open | State::HalfOpen => 0,
        }
    }

    /// Reports that `count` requests were started.
    pub fn started(&mut self, count: usize) {
        if let Some(pace) = &mut self.pace {
            pace.sent += count as u64;
        }
    }

    /// When [`Circuit::permits`] will allow more by the passing of time alone.
    pub fn wakes_at(&self, now: Timestamp) -> Option<Timestamp> {
        match self.state {
            // Past it, a request that still hangs is waited for.
            State::Open => Some(self.until).filter(|until| *until > now),
            State::Closed => self.pace.map(|_| now + Pace::STEP),
            State::HalfOpen => None,
        }
    }

    /// Reports that the upstream took a record. Returns whether this ended an outage.
    pub fn succeeded(&mut self, now: Timestamp) -> bool {
        let ended = self.state != State::Closed;
        if ended {
            // Half open, or open with a late answer: becomes closed with a slow start.
            self.slow_start(now);
        }
        (self.state, self.failures, self.openings) = (State::Closed, 0, 0);
        (self.question, self.asks_next, self.answered, self.answered_at) = (Question::None, true, false, None);
        self.records.clear();
        ended
    }

    /// Moves all times back, because the clock was set back by `by`.
    pub fn set_back(&mut self, by: Duration) {
        (self.since, self.until) = (self.since - by, self.until - by);
        (self.asked, self.answered_at) = (self.asked.map(|at| at - by), self.answered_at.map(|at| at - by));
        if let Some(pace) = &mut self.pace {
            pace.since = pace.since - by;
        }
    }

    /// When the failures since the last success began.
    pub fn failing_since(&self) -> Timestamp {
        self.since
    }

    /// Reports that a record failed; `alone` if its project waits alone. Returns whether an outage begins.
    pub fn failed(&mut self, now: Timestamp, record: u64, alone: bool) -> bool {
        if alone {
            // A half open circuit stays so: records of other projects may probe next.
            return false;
        }
        if self.failures == 0 {
            self.since = now;
        }
        self.failures = self.failures.saturating_add(1);
        let lately = self.answered_at.is_some_and(|at| now.since(at) < EACH);
        self.vouched = std::mem::take(&mut self.answered) || lately;
        if self.records.len() < THRESHOLD && !self.records.contains(&record) {
            self.records.push(record);
        }
        match self.state {
            State::Closed if self.records.len() >= THRESHOLD => self.open(now, true),
            State::Closed => {
                if self.failures >= THRESHOLD {
                    self.wants_answer(now);
                }
                false
            }
            State::HalfOpen => self.open(now, true),
            State::Open => false,
        }
    }

    fn open(&mut self, now: Timestamp, asks_next: bool) -> bool {
        self.openings = self.openings.saturating_add(1);
        self.until = now + Backoff::CIRCUIT.after(self.openings);
        (self.state, self.question, self.asks_next, self.pace) = (State::Open, Question::None, asks_next, None);
        self.answered_at = None;
        self.openings == 1
    }

    /// Begins a slow start: after an outage, and after a rate limit has ended.
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
            Some(pace) => {
                let allowed = self.share.part(pace.allowed(now));
                room.min(usize::try_from(allowed.saturating_sub(pace.sent)).unwrap_or(room))
            }
        }
    }
}

/// Slow start: 20 requests in the first second, then twice as many in each second as in the one before, for eight seconds.
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
        for record in 0..THRESHOLD as u64 {
            circuit.failed(T, record, false);
        }
        circuit
    }

    #[test]
    fn it_opens_after_the_threshold_and_a_success_in_between_starts_the_count_again() {
        let mut circuit = Circuit::default();
        let most = THRESHOLD as u64;
        assert!(!(1..most).any(|record| circuit.failed(T, record, false)));
        circuit.succeeded(T);
        assert!(!(1..most).any(|record| circuit.failed(T, record, false)));
        assert!(!circuit.failed(T, most, true), "what fails alone is not counted");
        assert_eq!(circuit.state(), State::Closed);
        assert!(circuit.failed(T, most, false));
        assert_eq!((circuit.state(), circuit.permits(T, 8, 0)), (State::Open, 0));
    }

    #[test]
    fn one_probe_decides_and_failed_probes_come_ever_later_by_question_and_record_in_turn() {
        let mut circuit = open();
        let mut at = T;
        let mut waits = vec![];
        for turn in 0..10 {
            let next = circuit.wakes_at(at).unwrap();
            waits.push(next.since(at));
            at = next;
            assert!(!circuit.asks(at, 1), "what is under way is waited for");
            assert_eq!(circuit.asks(at, 0), turn % 2 == 0);
            if turn % 2 == 0 {
                assert_eq!((circuit.permits(at, 8, 0), circuit.asks(at, 0)), (0, false), "the answer is waited for");
                circuit.unanswered(at);
            } else {
                assert_eq!((circuit.permits(at, 8, 0), circuit.permits(at, 8, 1)), (1, 0), "one probe at a time");
                circuit.failed(at, 1, false);
            }
        }
        assert!(waits[4] > waits[0] && waits[9] <= Duration::from_secs(60));
        at = circuit.wakes_at(at).unwrap();
        assert!(circuit.asks(at, 0));
        circuit.answered(at);
        assert_eq!(circuit.permits(at, 8, 0), 1, "an answer lets a record try at once");
        assert!(circuit.succeeded(at));
        assert_eq!(circuit.state(), State::Closed);
    }

    #[test]
    fn a_circuit_follows_that_of_another_relay_and_probes_when_that_would() {
        let (mut circuit, seen) = (Circuit::default(), open().seen());
        let Seen::Open(outage) = seen else { panic!("{seen:?}") };
        circuit.follow(outage, false);
        assert_eq!((circuit.state(), circuit.seen()), (State::Open, seen));
        assert!(!circuit.wants_probe(T, 0) && !circuit.wants_probe(outage.until, 1));
        assert!(circuit.wants_probe(outage.until, 0) && circuit.asks(outage.until, 0));
        assert_eq!(circuit.seen(), seen, "that it is asked is no news");
        circuit.answered(outage.until);
        assert_eq!(circuit.seen(), Seen::Reached);
        circuit.failed(outage.until, 1, false);
        let Seen::Open(longer) = circuit.seen() else { panic!("{circuit:?}") };
        assert!(longer.openings == 2 && longer.until.since(outage.until) >= Duration::from_secs(1));
        circuit.follow(longer, true);
        assert!(circuit.wants_probe(longer.until, 0) && !circuit.asks(longer.until, 0));
        assert_eq!(circuit.permits(longer.until, 8, 0), 1, "a record is next");
        assert!(circuit.succeeded(longer.until));
        assert_eq!(circuit.seen(), Seen::Closed);
    }

    #[test]
    fn relays_that_come_back_together_are_as_slow_as_one() {
        let started = |share| {
            let mut circuit = Circuit::default();
            circuit.divide(share);
            circuit.slow_start(T);
            circuit.permits(T + Duration::from_millis(1500), 1000, 0)
        };
        let parts = (0..3).map(|position| started(Share { position, of: 3 }));
        assert_eq!(parts.sum::<usize>(), started(Share::WHOLE));
    }

    #[test]
    fn what_fails_alone_while_half_open_leaves_the_next_try_to_others() {
        let mut circuit = open();
        let at = circuit.wakes_at(T).unwrap();
        assert!(circuit.asks(at, 0));
        circuit.answered(at);
        assert!(circuit.is_reached());
        circuit.failed(at, 1, true);
        assert_eq!((circuit.state(), circuit.permits(at, 8, 0)), (State::HalfOpen, 1));
        circuit.failed(at, 2, false);
        assert_eq!((circuit.state(), circuit.is_reached()), (State::Open, false));
    }

    #[test]
    fn one_record_that_fails_again_and_again_is_no_outage_while_the_upstream_answers() {
        let mut circuit = Circuit::default();
        for _ in 1..THRESHOLD {
            circuit.failed(T, 1, false);
            assert!(!circuit.asks(T, 0));
        }
        for turn in 0..20 {
            let at = T + EACH * turn;
            assert!(!circuit.failed(at, 1, false));
            assert!(!circuit.vouches(), "the last answer is a minute old");
            assert!(circuit.asks(at, 0) && !circuit.asks(at, 0), "asked once");
            circuit.answered(at);
            assert_eq!((circuit.state(), circuit.permits(at, 8, 0)), (State::Closed, 8));
            assert!(!circuit.failed(at, 1, false) && circuit.blames_one());
            assert!(!circuit.asks(at, 0), "not twice a minute");
        }
        let at = T + EACH * 20;
        circuit.failed(at, 1, false);
        assert!(circuit.asks(at, 0) && circuit.unanswered(at), "silence is one");
        assert_eq!(circuit.state(), State::Open);
        assert!(!circuit.vouches());
    }

    #[test]
    fn a_single_record_that_is_answered_with_an_error_twice_has_the_upstream_asked() {
        let mut circuit = Circuit::default();
        circuit.failed(T, 1, false);
        circuit.doubts_one(T);
        assert!(!circuit.asks(T, 0), "once may be chance");
        circuit.failed(T, 1, false);
        circuit.doubts_one(T);
        assert!(circuit.asks(T, 0));
        circuit.answered(T);
        circuit.failed(T, 2, false);
        assert_eq!((circuit.vouches(), circuit.blames_one()), (true, false), "another one fails, too");
        let at = T + EACH;
        circuit.doubts_one(at);
        assert!(!circuit.asks(at, 0));
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_wait_longer() {
        let mut circuit = open();
        let (by, wait) = (Duration::from_secs(900), circuit.wakes_at(T).unwrap().since(T));
        circuit.set_back(by);
        assert_eq!(circuit.wakes_at(T - by), Some(T - by + wait));
        let at = T - by + wait;
        assert!(circuit.asks(at, 0));
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
        circuit.asks(since, 0);
        circuit.answered(since);
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

//! Turns for records that must be sent alone, because the upstream loses all events that it stores in one batch with them.
//!
//! Rules: such a record is sent when nothing else has been under way for [`QUIET`], and nothing else begins for as long after it. There
//! is one turn in [`BETWEEN`], so that other records lose at most a tenth of the time. The records wait in a line of bounded length.

use std::time::Duration;

use crate::clock::Timestamp;

/// How long nothing else is under way before and after. GlitchTip 5 gathers a batch for 2 s (glitchtip-backend, celery batches); with
/// 3 s it stored 6 of 6 neighbours.
pub const QUIET: Duration = Duration::from_secs(3);
/// The time from one turn to the next.
pub const BETWEEN: Duration = Duration::from_secs(60);
/// How far into the future the line reaches.
const LINE: Duration = Duration::from_secs(3600);

/// The turns at one upstream.
#[derive(Clone, Debug)]
pub struct Apart {
    turn: Turn,
    /// When another record's request last ended.
    others: Timestamp,
    /// No turn begins before this.
    next: Timestamp,
    /// The last place in the line.
    line: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    /// No record has the turn.
    None,
    /// A record waits for other requests to end.
    Waits,
    /// The record is under way.
    Goes,
    /// The record's request has ended; others wait until then.
    Quiet(Timestamp),
}

/// The place in the line of a record that was claimed now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// It has the turn, and is sent once [`Apart::step`] says so.
    Turn,
    /// It waits until then.
    Later(Timestamp),
    /// The line is full.
    None,
}

/// What may happen now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Any request may begin.
    Open,
    /// The record that has the turn is sent.
    Go,
    /// Nothing begins before this time; `None`: before a request has ended.
    Wait(Option<Timestamp>),
}

impl Apart {
    /// Turns from `now` on. Requests before that are unknown, so one may just have ended.
    pub fn new(now: Timestamp) -> Self {
        Self { turn: Turn::None, others: now, next: now, line: now }
    }

    /// Gives a place to a record that was claimed now.
    pub fn place(&mut self, now: Timestamp) -> Place {
        if self.turn == Turn::None && self.next <= now {
            self.turn = Turn::Waits;
            return Place::Turn;
        }
        let place = (self.line + BETWEEN).max(self.next).max(now + BETWEEN);
        if place.since(now) > LINE {
            return Place::None;
        }
        self.line = place;
        Place::Later(place)
    }

    /// What may happen now, with `under_way` requests.
    pub fn step(&mut self, under_way: usize, now: Timestamp) -> Step {
        match self.turn {
            Turn::None => Step::Open,
            Turn::Waits if under_way > 0 => Step::Wait(None),
            Turn::Waits => {
                let from = self.others + QUIET;
                if now < from { Step::Wait(Some(from)) } else { Step::Go }
            }
            Turn::Goes => Step::Wait(None),
            Turn::Quiet(until) if now < until => Step::Wait(Some(until)),
            Turn::Quiet(_) => {
                self.turn = Turn::None;
                Step::Open
            }
        }
    }

    /// Reports that the record with the turn was sent.
    pub fn goes(&mut self) {
        self.turn = Turn::Goes;
    }

    /// Reports that the record with the turn is not sent.
    pub fn forgo(&mut self) {
        self.turn = Turn::None;
    }

    /// Whether the record with the turn is under way.
    pub fn is_going(&self) -> bool {
        self.turn == Turn::Goes
    }

    /// Reports that a request has ended: that of the record with the turn, if it is under way.
    pub fn ended(&mut self, now: Timestamp) {
        if self.is_going() {
            (self.turn, self.next) = (Turn::Quiet(now + QUIET), now + BETWEEN);
        } else {
            self.others = now;
        }
    }

    /// Moves all times back, because the clock was set back by `by`.
    pub fn set_back(&mut self, by: Duration) {
        if let Turn::Quiet(until) = &mut self.turn {
            *until = *until - by;
        }
        (self.others, self.next, self.line) = (self.others - by, self.next - by, self.line - by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + 1000 * seconds)
    }

    #[test]
    fn it_goes_when_nothing_else_did_for_three_seconds_and_nothing_else_goes_for_as_long() {
        let mut apart = Apart::new(at(0));
        assert_eq!(apart.step(4, at(0)), Step::Open);
        assert_eq!(apart.place(at(10)), Place::Turn);
        assert_eq!(apart.step(2, at(10)), Step::Wait(None), "two others are under way");
        apart.ended(at(11));
        assert_eq!(apart.step(0, at(11)), Step::Wait(Some(at(14))));
        assert_eq!(apart.step(0, at(14)), Step::Go);
        apart.goes();
        assert_eq!(apart.step(1, at(14)), Step::Wait(None));
        apart.ended(at(15));
        assert_eq!(apart.step(0, at(15)), Step::Wait(Some(at(18))));
        assert_eq!(apart.step(0, at(18)), Step::Open);
    }

    #[test]
    fn after_a_start_it_waits_as_if_something_had_just_gone() {
        let mut apart = Apart::new(at(0));
        assert_eq!(apart.place(at(0)), Place::Turn);
        assert_eq!(apart.step(0, at(1)), Step::Wait(Some(at(3))));
    }

    #[test]
    fn a_storm_waits_in_line_a_minute_apart_and_what_has_no_place_is_told() {
        let mut apart = Apart::new(at(0));
        assert_eq!(apart.place(at(0)), Place::Turn);
        let places: Vec<Place> = (0..100).map(|_| apart.place(at(0))).collect();
        let expected: Vec<Place> =
            (1..=100).map(|n| if n <= 60 { Place::Later(at(60 * n)) } else { Place::None }).collect();
        assert_eq!(places, expected);
    }

    #[test]
    fn the_next_turn_begins_a_minute_after_the_last_one() {
        let mut apart = Apart::new(at(0));
        apart.place(at(0));
        apart.goes();
        apart.ended(at(5));
        assert_eq!(apart.step(0, at(8)), Step::Open);
        assert_eq!(apart.place(at(8)), Place::Later(at(68)));
        assert_eq!(apart.place(at(66)), Place::Turn);
        apart.forgo();
        assert_eq!(apart.step(3, at(66)), Step::Open);
    }

    #[test]
    fn a_clock_that_is_set_back_makes_nothing_wait_longer() {
        let mut apart = Apart::new(at(1000));
        apart.place(at(1000));
        apart.goes();
        apart.ended(at(1000));
        apart.set_back(Duration::from_secs(900));
        assert_eq!(apart.step(0, at(100)), Step::Wait(Some(at(103))));
        assert_eq!(apart.step(0, at(103)), Step::Open);
        assert_eq!(apart.place(at(160)), Place::Turn);
    }
}

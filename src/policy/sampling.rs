//! Chooses the stored events whose copy at the tracker is compared with what was sent.
//!
//! Rule: a kind of event that was never compared comes first, while the day has room. Of all known kinds together a few events are
//! compared each hour, and at most half of the day's, so that new kinds find room.

/// The part of the day's room that known kinds may use in an hour: half of it over 24 hours.
const PARTS: u64 = 48;

/// The room for comparisons with one tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The most in 24 hours.
    pub most: u64,
    /// Comparisons in the last 24 hours.
    pub day: u64,
    /// Comparisons in this hour.
    pub hour: u64,
}

impl Room {
    /// Whether one more event may be compared; `is_new` if none of its kind was compared before.
    pub fn takes(&self, is_new: bool) -> bool {
        match is_new {
            true => self.day < self.most,
            false => self.day * 2 < self.most && self.hour < (self.most / PARTS).max(1),
        }
    }

    /// Counts a comparison.
    pub fn take(&mut self) {
        self.day += 1;
        self.hour += 1;
    }
}

/// The budget of one step for reading bodies to find the kinds of their events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    bytes: usize,
}

impl Reading {
    /// The bytes of bodies after which a step reads no further one.
    const MOST: usize = 4 << 20;

    /// Whether another body may be read.
    pub const fn goes_on(self) -> bool {
        self.bytes < Self::MOST
    }

    /// Counts a body that was read.
    pub const fn count(&mut self, bytes: usize) {
        self.bytes += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_reads_four_mebibytes_and_the_rest_of_a_body() {
        let (mut reading, mut bodies) = (Reading::default(), 0);
        while reading.goes_on() {
            reading.count((1 << 20) - 1);
            bodies += 1;
        }
        assert_eq!(bodies, 5, "the fifth begins below the limit and is the last");
        let mut small = Reading::default();
        (0..32).for_each(|_| small.count(8 << 10));
        assert!(small.goes_on(), "usual events are all looked into");
    }

    #[test]
    fn new_kinds_may_take_the_whole_day_and_known_ones_half_of_it_an_hour_at_a_time() {
        let takes = |most, day, hour| {
            let room = Room { most, day, hour };
            (room.takes(true), room.takes(false))
        };
        assert_eq!(takes(0, 0, 0), (false, false));
        assert_eq!(takes(1, 0, 0), (true, true));
        assert_eq!(takes(50, 0, 0), (true, true));
        assert_eq!(takes(50, 1, 1), (true, false), "one in an hour");
        assert_eq!(takes(50, 24, 0), (true, true));
        assert_eq!(takes(50, 25, 0), (true, false), "half of the day");
        assert_eq!(takes(50, 49, 49), (true, false));
        assert_eq!(takes(50, 50, 0), (false, false));
        assert_eq!(takes(480, 100, 9), (true, true), "ten in an hour");
        assert_eq!(takes(480, 100, 10), (true, false));
    }
}

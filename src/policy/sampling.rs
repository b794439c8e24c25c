//! Which stored events have the tracker's copy compared with what was sent.
//!
//! Rule: a kind of event that was never compared goes first, as long as the day has room. Of kinds that were, one is compared each
//! hour, and no more than half of the day: the rest of the room is left for what is new.

/// How often a kind that is known is compared in an hour, at least, as a part of the day: half of it over 24 hours.
const PARTS: u64 = 48;

/// How much room there is for comparisons with one tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The most in 24 hours.
    pub most: u64,
    /// How many there were in the last 24 hours.
    pub day: u64,
    /// How many of them in this hour.
    pub hour: u64,
}

impl Room {
    /// Whether one more event may be compared. `is_new`: none of its kind was compared before.
    pub fn takes(&self, is_new: bool) -> bool {
        match is_new {
            true => self.day < self.most,
            false => self.day * 2 < self.most && self.hour < (self.most / PARTS).max(1),
        }
    }

    /// Takes the room of one.
    pub fn take(&mut self) {
        self.day += 1;
        self.hour += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

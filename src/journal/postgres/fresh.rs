//! The records that this relay has committed for a target and that were not handed out, as far as memory allows: their bodies need not be
//! read back. No SQL here.
//!
//! Rule: nothing here says that a record still waits. The database does, and is asked before a record of these is handed out.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::journal::Record;

/// The most records of a target that are held.
const RECORDS: usize = 256;
/// The most bytes of their bodies, except for the last.
const BYTES: usize = 1 << 20;

/// A record with the number of its project.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) record: Arc<Record>,
    pub(super) project: i32,
}

impl Kept {
    /// The number of the record as a column has it.
    pub(super) fn number(&self) -> i64 {
        self.record.id.number().cast_signed()
    }

    /// The memory that the body takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.record.body.in_memory()
    }
}

/// The newest of these records, in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    records: VecDeque<Kept>,
    bytes: usize,
    /// All records that were committed after this number are here, or were handed out.
    since: i64,
    /// The number up to which records were handed out, as far as is known.
    reached: i64,
}

impl Fresh {
    /// Adds a record that was just committed, unless it was handed out. Drops the oldest when there are too many.
    pub(super) fn push(&mut self, kept: Kept) {
        if kept.number() <= self.reached {
            return;
        }
        self.bytes += kept.bytes();
        self.records.push_back(kept);
        while self.records.len() > RECORDS || (self.bytes > BYTES && self.records.len() > 1) {
            self.since = self.pop().unwrap_or(self.since);
        }
    }

    /// Reports that records were handed out up to this number.
    pub(super) fn note_reached(&mut self, reached: i64) {
        self.reached = self.reached.max(reached);
        while self.records.front().is_some_and(|kept| kept.number() <= reached) {
            self.pop();
        }
    }

    /// Forgets all records, because there may be others up to this number and up to the last one that is here.
    pub(super) fn interrupt(&mut self, number: i64) {
        let last = self.records.back().map_or(number, Kept::number);
        (self.records, self.bytes) = (VecDeque::new(), 0);
        self.since = self.since.max(number).max(last);
    }

    fn pop(&mut self) -> Option<i64> {
        let gone = self.records.pop_front()?;
        self.bytes -= gone.bytes();
        Some(gone.number())
    }

    /// Returns whether all records are here that this relay has committed and that were not handed out, as far as is known.
    pub(super) fn is_whole(&self) -> bool {
        self.reached >= self.since
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &Kept> {
        self.records.iter()
    }

    /// The record of this number, if it is here.
    pub(super) fn get(&self, number: i64) -> Option<Kept> {
        let at = self.records.binary_search_by_key(&number, Kept::number).ok()?;
        self.records.get(at).cloned()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::OnceLock;

    use super::*;
    use crate::clock::Timestamp;
    use crate::journal::{Client, RecordId};
    use crate::protocol::category::Quantities;

    pub(in crate::journal::postgres) fn kept(number: u64, bytes: usize) -> Kept {
        let record = Record {
            id: RecordId(number),
            accepted_at: Timestamp::default(),
            project: "p".into(),
            event_id: None,
            quantities: Quantities::new(),
            client: Client::default(),
            body: bytes::Bytes::from(vec![0; bytes]).into(),
            located: OnceLock::new(),
        };
        Kept { record: Arc::new(record), project: 1 }
    }

    #[test]
    fn the_newest_records_are_held_within_bounds_and_dropped_ones_are_noticed() {
        let mut fresh = Fresh::default();
        (1..=RECORDS as u64).for_each(|number| fresh.push(kept(number, 1)));
        assert!(fresh.is_whole() && fresh.get(1).is_some());
        fresh.push(kept(RECORDS as u64 + 1, 1));
        assert!(!fresh.is_whole() && fresh.get(1).is_none() && fresh.get(2).is_some());
        fresh.note_reached(1);
        assert!(fresh.is_whole(), "what is not here was handed out");
        fresh.push(kept(1000, BYTES));
        assert_eq!(fresh.records().map(Kept::number).collect::<Vec<_>>(), [1000]);
        fresh.interrupt(1001);
        assert!(fresh.is_empty() && !fresh.is_whole());
    }

    #[test]
    fn records_lost_by_an_interruption_are_missed_until_they_were_handed_out() {
        let mut fresh = Fresh::default();
        (1..=100).for_each(|number| fresh.push(kept(number, 1)));
        fresh.interrupt(64);
        fresh.push(kept(101, 1));
        for reached in [64, 99] {
            fresh.note_reached(reached);
            assert!(!fresh.is_whole(), "what came after {reached} is not here");
        }
        fresh.note_reached(100);
        assert!(fresh.is_whole() && fresh.get(101).is_some());
    }
}

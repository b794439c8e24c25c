//! Sets unreadable records aside, so that those behind them are delivered.
//!
//! Rules: a row that makes no sense is set aside at once. A row that the disk does not give is tried again first, because the failure may
//! pass. Records that were read before it are handed out.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::{Error, ErrorCode, Row};

use crate::journal::log::tell_set_aside;
use crate::journal::sqlite::decode::{self, Loaded};
use crate::journal::sqlite::queue::{Leased, NEVER, Ready, Target};
use crate::journal::sqlite::writer::group;
use crate::journal::{Progress, Rest, Settlement};

use super::{Read, Reader};

/// A record is set aside when the disk has failed to give it this often in a row, for at least [`LONG`].
const TRIES: u32 = 5;
/// See [`TRIES`].
const LONG: Duration = Duration::from_secs(5);
/// The most records that are remembered.
const MOST: usize = 1024;

/// A record that cannot be handed out: its number, its lease, and the reason.
pub(super) type Unreadable = (u64, Leased, String);

/// The records that the disk has failed to give, by target and number: when that began, and how often in a row.
#[derive(Debug, Default)]
pub(super) struct Failures(BTreeMap<(u8, i64), (Instant, u32)>);

impl Failures {
    /// Counts another failure. Returns whether the record is lost.
    fn again(&mut self, which: (u8, i64), now: Instant) -> bool {
        if self.0.len() >= MOST {
            self.0.clear();
        }
        let (since, tries) = self.0.entry(which).or_insert((now, 0));
        *tries += 1;
        let is_lost = *tries >= TRIES && now.duration_since(*since) >= LONG;
        if is_lost {
            self.0.remove(&which);
        }
        is_lost
    }
}

impl Reader {
    /// Reads the record of a row. `None` if that fails and others were `read` before it.
    pub(super) fn load(
        &self,
        target: &Target,
        row: &Row<'_>,
        (put_off, read): (bool, usize),
    ) -> rusqlite::Result<Option<Loaded>> {
        match decode::load(&self.conn, &self.shared, row, put_off) {
            Ok(loaded) => {
                self.given(target, row)?;
                Ok(Some(loaded))
            }
            Err(_) if read > 0 => Ok(None),
            Err(error) if self.is_lost(target, row, &error)? => Ok(Some(decode::unreadable_row(row, put_off, &error)?)),
            Err(error) => Err(error),
        }
    }

    fn given(&self, target: &Target, row: &Row<'_>) -> rusqlite::Result<()> {
        let mut failed = self.failed.borrow_mut();
        if !failed.0.is_empty() {
            failed.0.remove(&(target.id.0, row.get(0)?));
        }
        Ok(())
    }

    /// Counts a failed read. Returns whether the disk has failed so often that the record is set aside.
    fn is_lost(&self, target: &Target, row: &Row<'_>, error: &Error) -> rusqlite::Result<bool> {
        if error.sqlite_error_code() != Some(ErrorCode::SystemIoFailure) {
            return Ok(false);
        }
        Ok(self.failed.borrow_mut().again((target.id.0, row.get(0)?), Instant::now()))
    }

    pub(super) fn set_all_aside(&self, target: &Target, unreadable: Vec<Unreadable>) {
        for (id, lease, why) in unreadable {
            target.queue().leases.insert(id, lease);
            self.set_aside(target, id, &why);
        }
    }

    /// Ends the lease of a record that cannot be read: it stays pending and never comes due.
    pub(super) fn set_aside(&self, target: &Target, id: u64, why: &str) {
        self.shared.counters.set_aside.fetch_add(1, Ordering::Relaxed);
        tell_set_aside(&target.name, id, why);
        let mut queue = target.queue();
        let quantities = queue.leases.get(&id).map(|lease| lease.quantities.clone()).unwrap_or_default();
        let rest = Rest { due: NEVER, progress: Progress::default(), quantities };
        queue.end(id, Settlement { rest: Some(rest), ..Settlement::default() });
        drop(queue);
        group::wake(&self.shared, &self.commands, true);
    }
}

/// Separates records from unreadable ones.
pub(super) fn apart(loaded: Read) -> (Vec<Ready>, Vec<Unreadable>) {
    let (mut ready, mut unreadable) = (vec![], vec![]);
    for (loaded, _) in loaded {
        match loaded {
            Loaded::Record(record) => ready.push(record),
            Loaded::Unreadable { id, lease, why } => unreadable.push((id, lease, why)),
        }
    }
    (ready, unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_lost_after_five_failed_reads_over_five_seconds() {
        let (mut failures, began) = (Failures::default(), Instant::now());
        let mut again = |seconds| failures.again((1, 7), began + Duration::from_secs_f64(seconds));
        assert!(![0.0, 0.5, 1.0, 1.5, 2.0, 4.9].map(&mut again).contains(&true), "often, and not for long");
        assert!(again(5.0) && !again(5.0), "it is told once");
        assert!(![6.0, 9.0, 12.0].map(&mut again).contains(&true), "for long, and not often");
        assert!(again(13.0));
        (0..2 * MOST as i64).for_each(|id| assert!(!failures.again((1, id), began)));
        assert!(failures.0.len() <= MOST);
    }
}

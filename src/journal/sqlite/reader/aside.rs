//! Records that cannot be read: set aside, so that those behind them go on.
//!
//! Rules: a row that makes no sense is set aside at once; one that the disk does not give is tried again first, for that may pass. What
//! was read before it is handed out.

use std::sync::atomic::Ordering;

use rusqlite::{Error, ErrorCode, Row};

use crate::clock::Timestamp;
use crate::journal::sqlite::decode::{self, Loaded};
use crate::journal::sqlite::group;
use crate::journal::sqlite::queue::{Leased, NEVER, Ready, Target};
use crate::journal::{Progress, Rest, Settlement};
use crate::telemetry::log::{self, Line};

use super::Reader;

/// How often the disk may fail to give a record. Whoever wants it asks each second.
const TRIES: u32 = 5;
/// As many are remembered at most, by target and number.
const MOST: usize = 1024;

/// What cannot be handed out: a record's number, what was to be leased, and why.
pub(super) type Unreadable = (u64, Leased, String);

impl Reader {
    /// Reads the record of a row; `None` when the disk does not give it, and others were `read` before it.
    pub(super) fn load(
        &self,
        target: &Target,
        row: &Row<'_>,
        (put_off, read): (bool, usize),
    ) -> rusqlite::Result<Option<Loaded>> {
        match decode::load(&self.conn, &self.shared, row, put_off) {
            Ok(loaded) => Ok(Some(loaded)),
            Err(_) if read > 0 => Ok(None),
            Err(error) if self.is_lost(target, row, &error)? => Ok(Some(decode::unreadable_row(row, put_off, &error)?)),
            Err(error) => Err(error),
        }
    }

    /// Whether the disk has failed to give a record so often that it is set aside.
    fn is_lost(&self, target: &Target, row: &Row<'_>, error: &Error) -> rusqlite::Result<bool> {
        if error.sqlite_error_code() != Some(ErrorCode::SystemIoFailure) {
            return Ok(false);
        }
        let which = (target.id.0, row.get::<_, i64>(0)?);
        let mut failed = self.failed.borrow_mut();
        if failed.len() >= MOST {
            failed.clear();
        }
        let tries = failed.entry(which).or_default();
        *tries += 1;
        let is_lost = *tries >= TRIES;
        if is_lost {
            failed.remove(&which);
        }
        Ok(is_lost)
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
        if let Some(Line { suppressed }) = log::admit("set aside", &target.name) {
            let message = "a record cannot be read and is set aside";
            tracing::error!(record.id = id, upstream.name = %target.name, why, suppressed, "{message}");
        }
        let mut queue = target.queue();
        let quantities = queue.leases.get(&id).map(|lease| lease.quantities.clone()).unwrap_or_default();
        let rest = Rest { due: NEVER, progress: Progress::default(), quantities };
        queue.end(id, Settlement { rest: Some(rest), ..Settlement::default() });
        drop(queue);
        group::wake(&self.shared, &self.commands, true);
    }
}

/// What can be handed out, and what cannot be read.
pub(super) fn apart(loaded: Vec<(Loaded, Option<Timestamp>)>) -> (Vec<Ready>, Vec<Unreadable>) {
    let (mut ready, mut unreadable) = (vec![], vec![]);
    for (loaded, _) in loaded {
        match loaded {
            Loaded::Record(record) => ready.push(record),
            Loaded::Unreadable { id, lease, why } => unreadable.push((id, lease, why)),
        }
    }
    (ready, unreadable)
}

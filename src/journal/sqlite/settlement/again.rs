//! Settled records that wait again, and the dead letters that come and go with a pass.

use rusqlite::{Connection, params};

use crate::clock::Timestamp;
use crate::journal::Progress;
use crate::journal::sqlite::accounts::Book;
use crate::journal::sqlite::queue::NEVER;
use crate::journal::sqlite::verification;
use crate::journal::verification::first_try;
use crate::policy::outcome::Outcome;
use crate::protocol::category::Quantities;

use super::{Pass, write_row};

/// A settled record that is to wait again.
#[derive(Debug)]
pub(in crate::journal::sqlite) struct Again {
    pub(in crate::journal::sqlite) id: u64,
    pub(in crate::journal::sqlite) project: u32,
    pub(in crate::journal::sqlite) size: u64,
    /// The positions of the items; `None` means all.
    pub(in crate::journal::sqlite) items: Option<Vec<u16>>,
    pub(in crate::journal::sqlite) quantities: Quantities,
}

impl Pass {
    /// Lets a settled record, at or below the watermark, wait again, due at `due`. False if it waits already. It can be handed out only
    /// after the commit, because the reader sees nothing earlier.
    pub(in crate::journal::sqlite) fn take_up(
        &mut self,
        conn: &Connection,
        again: Again,
        due: Timestamp,
        (now, book): (Timestamp, &mut Book),
    ) -> rusqlite::Result<bool> {
        let mut waits = conn.prepare_cached("SELECT 1 FROM pending WHERE target = ?1 AND record = ?2")?;
        if waits.exists(params![self.target.id.0, again.id.cast_signed()])? {
            return Ok(false);
        }
        conn.prepare_cached("DELETE FROM missed WHERE record = ?1 AND target = ?2")?
            .execute(params![again.id.cast_signed(), self.target.id.0])?;
        let progress = Progress { items: again.items.clone(), ..Progress::default() };
        write_row(conn, self.target.id, again.id, due, &progress, Some(&again.quantities))?;
        let again_from = first_try(due, now);
        verification::look_again(conn, self.target.id, (again.id, again.project, &again.quantities), again_from)?;
        book.note(now, Some(self.target.id), again.project, Outcome::Returned, &again.quantities);
        self.returned.push((again, due));
        Ok(true)
    }

    /// The number of waiting records that are not leased, counted up to `most`. Those set aside do not count. To be called after
    /// [`Pass::settle`].
    pub(in crate::journal::sqlite) fn waiting(&self, conn: &Connection, most: usize) -> rusqlite::Result<usize> {
        let (ready, busy) = {
            let queue = self.target.queue();
            // While the queue is not live, it may hold less than what waits: this counts as enough.
            let ready = if queue.live { queue.ready.len() } else { most };
            (ready, queue.leased_rows())
        };
        if ready >= most {
            return Ok(most);
        }
        let mut select = conn.prepare_cached("SELECT record FROM pending WHERE target = ?1 AND due < ?2")?;
        let mut rows = select.query(params![self.target.id.0, NEVER.as_millis().cast_signed()])?;
        let mut waiting = ready;
        while waiting < most
            && let Some(row) = rows.next()?
        {
            waiting += usize::from(!busy.contains(&row.get::<_, i64>(0)?.cast_unsigned()));
        }
        Ok(waiting)
    }

    /// Notes that this transaction removes `count` dead letters.
    pub(in crate::journal::sqlite) fn forget_letters(&mut self, count: u64) {
        self.letters_gone += count;
    }

    /// The dead letters that this transaction writes: for each, the project and the size in bytes.
    pub(in crate::journal::sqlite) fn letters(&self) -> impl Iterator<Item = (u32, u64)> {
        self.ended.iter().filter_map(|ended| {
            let letter = ended.settlement.dead_letter.as_ref()?;
            Some((ended.lease.project, ended.lease.size + letter.answer.len() as u64))
        })
    }
}

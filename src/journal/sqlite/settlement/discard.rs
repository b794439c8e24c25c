//! Discards waiting records for their age, and the parts that discard and eviction share.
//!
//! Rule: leased records are left alone. Each untried record that is dropped comes before all that stay untried.

use rusqlite::{Connection, params};

use crate::clock::Timestamp;
use crate::journal::sqlite::accounts::Book;
use crate::journal::sqlite::compare;
use crate::journal::sqlite::queue::Target;
use crate::journal::sqlite::space::Age;
use crate::policy::outcome::DropReason;
use crate::protocol::category::Quantities;

use super::Pass;

/// A record that is dropped.
#[derive(Debug)]
pub(super) struct Victim {
    pub(super) id: u64,
    pub(super) project: u32,
    pub(super) size: u64,
    pub(super) quantities: Quantities,
}

impl Pass {
    /// Discards old waiting records; returns how many. Settlements that await their commit are written first.
    pub(in crate::journal::sqlite) fn discard(
        conn: &Connection,
        target: &std::sync::Arc<Target>,
        (mut age, reason, limit): (Age<'_>, DropReason, usize),
        (now, book): (Timestamp, &mut Book),
        passes: &mut Vec<Self>,
    ) -> rusqlite::Result<usize> {
        target.queue().frozen = true;
        Self::settle(conn, target, (now, true), book, passes)?;
        let Some(pass) = passes.last_mut() else { return Ok(0) };
        let more = pass.find_rows(conn, &mut age, limit)?;
        for victim in &pass.victims {
            conn.prepare_cached("DELETE FROM pending WHERE target = ?1 AND record = ?2")?
                .execute(params![target.id.0, victim.id.cast_signed()])?;
        }
        pass.find_next_due(conn)?;
        if more {
            pass.find_fresh(conn, &mut age, limit)?;
        }
        if pass.last_fresh > 0 {
            pass.advance(conn, pass.last_fresh, now)?;
        }
        pass.note_victims(conn, reason, (now, book))?;
        Ok(pass.victims.len())
    }

    /// Posts the victims as dropped for the target.
    pub(super) fn note_victims(
        &self,
        conn: &Connection,
        reason: DropReason,
        (now, book): (Timestamp, &mut Book),
    ) -> rusqlite::Result<()> {
        for victim in &self.victims {
            let lost = (victim.id, &victim.quantities);
            book.note_dropped(conn, now, (self.target.id, victim.project), reason, lost);
            compare::note_missed(conn, &self.target, victim.id, reason)?;
        }
        Ok(())
    }

    /// The numbers between which untried records that are not leased lie: after the first, up to the second.
    pub(super) fn untried(&self) -> (u64, u64) {
        let queue = self.target.queue();
        let from = queue.ready.front().map_or(queue.handed, |ready| ready.record.id.0 - 1);
        (from.max(queue.watermark), queue.committed)
    }

    /// Finds old rows, in order of acceptance, and leaves leased ones alone. True if no row is left, so that untried records are next.
    fn find_rows(&mut self, conn: &Connection, age: &mut Age<'_>, limit: usize) -> rusqlite::Result<bool> {
        let busy = self.target.queue().leased_rows();
        let mut rows = conn.prepare_cached(
            "SELECT r.id, r.accepted_at, r.project, r.size, coalesce(p.quantities, r.quantities)
             FROM pending p JOIN record r ON r.id = p.record WHERE p.target = ?1 ORDER BY p.record",
        )?;
        let mut rows = rows.query([self.target.id.0])?;
        while self.victims.len() < limit {
            let Some(row) = rows.next()? else { return Ok(true) };
            if !age.has(conn, row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?)? {
                return Ok(false);
            }
            let victim = Victim::read(row)?;
            if !busy.contains(&victim.id) {
                self.victims.push(victim);
            }
        }
        Ok(false)
    }

    /// Finds when the next row comes due once the discarded ones are gone.
    pub(super) fn find_next_due(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let busy = self.target.queue().leased_rows();
        let mut rows = conn.prepare_cached("SELECT record, due FROM pending WHERE target = ?1 ORDER BY due, record")?;
        let mut rows = rows.query([self.target.id.0])?;
        self.next_due = Some(None);
        while let Some(row) = rows.next()? {
            if !busy.contains(&row.get::<_, i64>(0)?.cast_unsigned()) {
                self.next_due = Some(Some(Timestamp::from_millis(row.get::<_, i64>(1)?.cast_unsigned())));
                break;
            }
        }
        Ok(())
    }

    /// Finds old untried records that are not leased, in order of acceptance.
    fn find_fresh(&mut self, conn: &Connection, age: &mut Age<'_>, limit: usize) -> rusqlite::Result<()> {
        let (from, to) = self.untried();
        let mut rows = conn.prepare_cached(
            "SELECT id, accepted_at, project, size, quantities, targets FROM record
             WHERE id > ?1 AND id <= ?2 ORDER BY id",
        )?;
        let mut rows = rows.query([from.cast_signed(), to.cast_signed()])?;
        while self.victims.len() < limit {
            let Some(row) = rows.next()? else { break };
            if !age.has(conn, row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?)? {
                break;
            }
            if row.get::<_, i64>(5)? & self.target.bit() != 0 {
                let victim = Victim::read(row)?;
                self.last_fresh = victim.id;
                self.victims.push(victim);
            }
        }
        Ok(())
    }
}

impl Victim {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get::<_, i64>(0)?.cast_unsigned(),
            project: row.get(2)?,
            size: row.get::<_, i64>(3)?.cast_unsigned(),
            // Unreadable quantities count as nothing, here as in the backlog.
            quantities: row.get_ref(4)?.as_str().ok().and_then(|text| text.parse().ok()).unwrap_or_default(),
        })
    }
}

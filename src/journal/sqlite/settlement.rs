//! Writes settlements, one [`Pass`] per target and commit.
//!
//! Rule: a commit raises the target's watermark to the highest record that it settles, and gives each unsettled record below it a row in
//! `pending`. So a record that is delivered at the first try costs no row. Settlements out of order wait a moment for those of older
//! records, which then need no rows either.

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::{Connection, params};

use crate::clock::Timestamp;
use crate::journal::backfill::BACKGROUND;
use crate::journal::{Progress, Rest, TargetId, bounded};
use crate::policy::outcome::Outcome;

mod again;
mod discard;
mod evict;
mod rows;

pub(super) use again::Again;
use discard::Victim;
pub(super) use evict::{Eviction, Gone};
pub(super) use rows::write_dead_letter;
use rows::write_row;

use super::accounts::Book;
use super::compare;
use super::queue::{Ended, NEVER, Target};

/// How many records an idle target's watermark lags behind the last commit before it catches up.
const FAR_BEHIND: u64 = 1024;

/// The changes of one transaction for one target, and what undoes them in memory.
#[derive(Debug)]
pub(super) struct Pass {
    target: Arc<Target>,
    watermark_before: u64,
    /// The time of the transaction, if it settles something that the target took.
    delivered_at: Option<Timestamp>,
    rowed: Vec<u64>,
    ended: Vec<Ended>,
    victims: Vec<Victim>,
    last_fresh: u64,
    /// Untried records below `last_fresh` that stay. They have rows from now on.
    skipped: Vec<u64>,
    /// Set by a discard or an eviction: when the next row comes due.
    next_due: Option<Option<Timestamp>>,
    /// Set by `hasten`: rows are due from then on.
    hastened: Option<Timestamp>,
    /// Settled records that wait again, with their due times.
    returned: Vec<(Again, Timestamp)>,
    /// The number of dead letters that this transaction removes.
    letters_gone: u64,
}

impl Pass {
    fn begin(target: &Arc<Target>, all: bool) -> Self {
        let mut queue = target.queue();
        let ended = queue.take_ended(all);
        queue.committing.extend(ended.iter().map(|ended| ended.id));
        let watermark_before = queue.watermark;
        drop(queue);
        Self {
            target: Arc::clone(target),
            watermark_before,
            delivered_at: None,
            rowed: vec![],
            ended,
            victims: vec![],
            last_fresh: 0,
            skipped: vec![],
            next_due: None,
            hastened: None,
            returned: vec![],
            letters_gone: 0,
        }
    }

    /// Whether this target has nothing to commit now, or nothing at all with `all`.
    pub(super) fn idle(target: &Target, all: bool) -> bool {
        !target.queue().has_ended(all)
    }

    /// Writes the settlements that await their commit: with `all` all of them, otherwise those in order. The pass is in `passes` before
    /// anything can fail.
    pub(super) fn settle(
        conn: &Connection,
        target: &Arc<Target>,
        (now, all): (Timestamp, bool),
        book: &mut Book,
        passes: &mut Vec<Self>,
    ) -> rusqlite::Result<()> {
        passes.push(Self::begin(target, all));
        let Some(pass) = passes.last_mut() else { return Ok(()) };
        let Some(highest) = pass.ended.iter().map(|ended| ended.id).max() else { return Ok(()) };
        pass.delivered_at = pass.ended.iter().any(|ended| !ended.settlement.delivered.is_empty()).then_some(now);
        pass.advance(conn, highest, now)?;
        for ended in &pass.ended {
            write_ended(conn, target, ended)?;
            note_ended(conn, book, target.id, ended, now);
        }
        Ok(())
    }

    /// Raises the watermark to `last`, the last record committed, if it lags far behind and nothing in between waits. The next start then
    /// has less to count.
    pub(super) fn catch_up(
        conn: &Connection,
        target: &Arc<Target>,
        (last, now): (u64, Timestamp),
        passes: &mut Vec<Self>,
    ) -> rusqlite::Result<()> {
        {
            let queue = target.queue();
            if queue.watermark + FAR_BEHIND > last || !queue.is_clear() {
                return Ok(());
            }
        }
        passes.push(Self::begin(target, true));
        let Some(pass) = passes.last_mut() else { return Ok(()) };
        pass.advance(conn, last, now)
    }

    /// Raises the watermark to `last`, the last record committed, if nothing in between waits.
    pub(super) fn rise(&mut self, conn: &Connection, last: u64, now: Timestamp) -> rusqlite::Result<()> {
        let is_clear = self.target.queue().is_clear();
        if is_clear { self.advance(conn, last, now) } else { Ok(()) }
    }

    /// Makes rows due now that are not due yet, the next ones first; returns how many. A leased record gets its due time when it is
    /// settled. Rows that are set aside or backfilled stay.
    pub(super) fn hasten(
        conn: &Connection,
        target: &Arc<Target>,
        limit: usize,
        (now, book): (Timestamp, &mut Book),
        passes: &mut Vec<Self>,
    ) -> rusqlite::Result<usize> {
        Self::settle(conn, target, (now, true), book, passes)?;
        let Some(pass) = passes.last_mut() else { return Ok(0) };
        pass.hastened = Some(now);
        let (at, never) = (now.as_millis().cast_signed(), BACKGROUND.as_millis().cast_signed());
        let limit = bounded(limit);
        conn.prepare_cached(
            "UPDATE pending SET due = ?2 WHERE target = ?1 AND record IN (SELECT record FROM pending
             WHERE target = ?1 AND due > ?2 AND due < ?3 ORDER BY due LIMIT ?4)",
        )?
        .execute(params![target.id.0, at, never, limit])
    }

    fn advance(&mut self, conn: &Connection, watermark: u64, now: Timestamp) -> rusqlite::Result<()> {
        let (watermark, rowed) = {
            let mut queue = self.target.queue();
            let rowed = queue.advance(watermark);
            (queue.watermark, rowed)
        };
        // Noted before writing, so that `undo` knows of these rows whatever fails.
        self.rowed.extend_from_slice(&rowed);
        for id in rowed {
            write_row(conn, self.target.id, id, now, &Progress::default(), None)?;
        }
        if watermark != self.watermark_before || self.delivered_at.is_some() {
            let delivered_at = self.delivered_at.map(|at| at.as_millis().cast_signed());
            conn.prepare_cached(
                "UPDATE target SET watermark = ?2, delivered_at = coalesce(?3, delivered_at) WHERE id = ?1",
            )?
            .execute(params![self.target.id.0, watermark.cast_signed(), delivered_at])?;
        }
        Ok(())
    }

    /// Applies the committed transaction to memory.
    pub(super) fn finish(self) {
        let mut queue = self.target.queue();
        for Ended { lease, settlement, .. } in self.ended {
            queue.dead_letters += u64::from(settlement.dead_letter.is_some());
            match settlement.rest {
                None => queue.tally.leave(lease.project, lease.size, &lease.quantities),
                Some(rest) => {
                    queue.tally.change(lease.project, &lease.quantities, &rest.quantities);
                    if self.next_due.is_none() {
                        queue.put_off(rest.due);
                    }
                }
            }
        }
        queue.dead_letters = queue.dead_letters.saturating_sub(self.letters_gone);
        for (again, due) in self.returned {
            queue.tally.enter(again.project, again.size, &again.quantities);
            queue.wait(due);
        }
        if let Some(at) = self.delivered_at {
            queue.latest.note_delivered(at);
        }
        if let Some(due) = self.hastened {
            queue.put_off(due);
        }
        for victim in &self.victims {
            queue.tally.leave(victim.project, victim.size, &victim.quantities);
        }
        if let Some(next_due) = self.next_due {
            let victims = self.victims.iter().map(|victim| victim.id);
            let gone: HashSet<u64> = victims.chain(self.skipped).collect();
            queue.forget(&gone, self.last_fresh);
            queue.next_due = next_due;
        }
        queue.committing.clear();
        drop(queue);
        self.target.changed.notify_one();
    }

    /// Takes the changes back after a rollback. The settlements await the next commit. Passes are undone last first.
    pub(super) fn undo(self) {
        let mut queue = self.target.queue();
        queue.retreat(self.watermark_before, &self.rowed);
        let since = std::mem::replace(&mut queue.ended, self.ended);
        queue.ended.extend(since);
        queue.committing.clear();
        queue.frozen = false;
        drop(queue);
        self.target.changed.notify_one();
    }

    /// Lets claims go on. To be called when every pass of the transaction is finished.
    pub(super) fn thaw(target: &Target) {
        let was = std::mem::take(&mut target.queue().frozen);
        if was {
            target.changed.notify_one();
        }
    }
}

fn note_ended(conn: &Connection, book: &mut Book, target: TargetId, ended: &Ended, now: Timestamp) {
    let Ended { id, lease, settlement } = ended;
    book.note(now, Some(target), lease.project, Outcome::Delivered, &settlement.delivered);
    if let Some((reason, dropped)) = &settlement.dropped {
        book.note_dropped(conn, now, (target, lease.project), *reason, (*id, dropped));
    }
}

fn write_ended(conn: &Connection, target: &Target, ended: &Ended) -> rusqlite::Result<()> {
    if let Some((reason, _)) = &ended.settlement.dropped {
        compare::note_missed(conn, target, ended.id, *reason)?;
    }
    let target = target.id;
    if let Some(letter) = &ended.settlement.dead_letter {
        let quantities = ended.settlement.dropped.as_ref().map(|(_, quantities)| quantities);
        write_dead_letter(conn, target, (ended.id, ended.lease.project), letter, quantities)?;
    }
    match &ended.settlement.rest {
        // Set aside: the unreadable parts of the row stay as they are, for the next start to read.
        Some(rest) if rest.due == NEVER && ended.lease.row => conn
            .prepare_cached("UPDATE pending SET due = ?3 WHERE target = ?1 AND record = ?2")?
            .execute(params![target.0, ended.id.cast_signed(), NEVER.as_millis().cast_signed()])
            .map(drop),
        Some(Rest { due, progress, quantities }) => write_row(conn, target, ended.id, *due, progress, Some(quantities)),
        None if ended.lease.row => conn
            .prepare_cached("DELETE FROM pending WHERE target = ?1 AND record = ?2")?
            .execute(params![target.0, ended.id.cast_signed()])
            .map(drop),
        None => Ok(()),
    }
}

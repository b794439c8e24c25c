//! The ledger's rows: the changes of one commit to the hourly totals, and their postings. Each drop also counts the loss that the target is
//! to be told.
//!
//! Rule: the rows are written in the transaction of the change that they record. The postings go out after its commit.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::clock::Timestamp;
use crate::journal::TargetId;
use crate::journal::body::Body;
use crate::journal::evidence::KEPT;
use crate::journal::losses::{Loss, spans_in};
use crate::policy::outcome::{DropReason, Outcome};
use crate::protocol::category::{Category, Quantities};
use crate::telemetry::ledger::{Account, AccountKey, Posting};

use super::evidence;
use super::losses::{Bodies, Losses};
use super::shared::Shared;

/// The intake's number in the column `target`.
const INTAKE: i64 = -1;
/// Hours after which rows are summed up into the hour 0.
const KEPT_HOURS: u64 = KEPT.as_secs() / 3600;

/// Hour, target, project and category of an account.
type Whose = (u64, i64, u32, Category);

/// An account and an outcome: the key of a row.
type Row = (u64, i64, u32, Category, Outcome);

/// The most rows whose totals are remembered.
const MOST_TOTALS: usize = 8192;

/// The totals of the rows that were written last. Replacing a row costs two thirds of updating it.
///
/// Rule: it agrees with the disk. It is cleared after a rollback, and after rows were changed otherwise.
#[derive(Debug, Default)]
pub(super) struct Totals(BTreeMap<Row, u64>);

impl Totals {
    /// Adds to a row and returns its new total.
    fn add(&mut self, conn: &Connection, row: Row, quantity: u64) -> rusqlite::Result<u64> {
        if let Some(total) = self.0.get_mut(&row) {
            *total = total.saturating_add(quantity);
            return Ok(*total);
        }
        let (hour, target, project, category, outcome) = row;
        let mut select = conn.prepare_cached(
            "SELECT quantity FROM ledger WHERE hour = ?1 AND target = ?2 AND project = ?3 AND category = ?4 AND outcome = ?5",
        )?;
        let row_of = params![hour.cast_signed(), target, project, category.name(), outcome.name()];
        let before = select.query_row(row_of, |found| found.get::<_, i64>(0)).optional()?;
        let total = before.unwrap_or(0).cast_unsigned().saturating_add(quantity);
        if self.0.len() >= MOST_TOTALS {
            self.0.clear();
        }
        self.0.insert(row, total);
        Ok(total)
    }
}

/// The changes of one commit.
#[derive(Debug, Default)]
pub(super) struct Book {
    rows: BTreeMap<Row, u64>,
    losses: Losses,
    /// Reads the bodies of dropped records, to count their spans.
    bodies: Option<Rc<Bodies>>,
}

impl Book {
    /// Gives it access to bodies.
    pub(super) fn reads(&mut self, bodies: &Rc<Bodies>) {
        self.bodies = Some(Rc::clone(bodies));
    }

    /// Notes a change; a `target` of `None` is the intake's account.
    pub(super) fn note(
        &mut self,
        at: Timestamp,
        target: Option<TargetId>,
        project: u32,
        outcome: Outcome,
        quantities: &Quantities,
    ) {
        let target = target.map_or(INTAKE, |id| i64::from(id.0));
        for (category, quantity) in quantities.iter() {
            *self.rows.entry((at.hour(), target, project, category, outcome)).or_default() += quantity;
        }
    }

    /// Notes that a target does not get these quantities of a record.
    pub(super) fn note_dropped(
        &mut self,
        conn: &Connection,
        at: Timestamp,
        (target, project): (TargetId, u32),
        reason: DropReason,
        (record, quantities): (u64, &Quantities),
    ) {
        self.note(at, Some(target), project, Outcome::Dropped(reason), quantities);
        let Some(reason) = reason.reported_as() else { return };
        let spans = self.bodies.as_ref().and_then(|bodies| bodies.spans_of(conn, record, quantities));
        let spans = spans.map(|spans| (Category::Span, spans));
        quantities.iter().chain(spans).for_each(|lost| self.losses.add(target, project, reason, lost));
    }

    /// Notes that a backfill takes up a record: in the hour when it was withheld, and no more than was withheld then. Records from before
    /// the target existed were never withheld; only [`Outcome::Returned`] tells of them.
    pub(super) fn note_backfilled(
        &mut self,
        conn: &Connection,
        accepted_at: Timestamp,
        (target, project): (TargetId, u32),
        quantities: &Quantities,
    ) -> rusqlite::Result<()> {
        for (category, quantity) in quantities.iter() {
            let whose = (accepted_at.hour(), i64::from(target.0), project, category);
            let quantity = quantity.min(self.account(conn, whose)?.withheld());
            self.add(whose, Outcome::Backfilled, quantity);
        }
        Ok(())
    }

    /// Notes that a dead letter is retried: in the hour of the refusal, and no more than was refused then. The refusal was posted with its
    /// commit, perhaps in the next hour.
    pub(super) fn note_retried(
        &mut self,
        conn: &Connection,
        refused_at: Timestamp,
        (target, project): (TargetId, u32),
        quantities: &Quantities,
    ) -> rusqlite::Result<()> {
        for (category, mut left) in quantities.iter() {
            for hour in [refused_at.hour(), refused_at.hour() + 1] {
                let whose = (hour, i64::from(target.0), project, category);
                let quantity = left.min(self.account(conn, whose)?.refused());
                self.add(whose, Outcome::Retried, quantity);
                left -= quantity;
            }
        }
        Ok(())
    }

    fn add(&mut self, (hour, target, project, category): Whose, outcome: Outcome, quantity: u64) {
        if quantity > 0 {
            *self.rows.entry((hour, target, project, category, outcome)).or_default() += quantity;
        }
    }

    /// The account of an hour, including the changes of this commit.
    fn account(&self, conn: &Connection, whose: Whose) -> rusqlite::Result<Account> {
        let (hour, target, project, category) = whose;
        let mut select = conn.prepare_cached(
            "SELECT outcome, quantity FROM ledger WHERE hour = ?1 AND target = ?2 AND project = ?3 AND category = ?4",
        )?;
        let mut rows = select.query(params![hour.cast_signed(), target, project, category.name()])?;
        let mut account = Account::default();
        while let Some(row) = rows.next()? {
            if let Some(outcome) = row.get_ref(0)?.as_str().ok().and_then(Outcome::from_name) {
                account.post(outcome, row.get::<_, i64>(1)?.cast_unsigned());
            }
        }
        for ((at, owner, own, what, outcome), quantity) in &self.rows {
            if (*at, *owner, *own, *what) == whose {
                account.post(*outcome, *quantity);
            }
        }
        Ok(account)
    }

    /// Notes that a target does not get a record that is being accepted.
    pub(super) fn note_withheld(
        &mut self,
        at: Timestamp,
        (target, project): (TargetId, u32),
        reason: DropReason,
        (body, quantities): (&Body, &Quantities),
    ) {
        self.note(at, Some(target), project, Outcome::Accepted, quantities);
        self.note(at, Some(target), project, Outcome::Dropped(reason), quantities);
        let Some(reason) = reason.reported_as() else { return };
        let transactions = quantities.iter().find(|(category, _)| *category == Category::Transaction);
        let spans = transactions.map(|(_, count)| (Category::Span, spans_in(body).max(count)));
        quantities.iter().chain(spans).for_each(|lost| self.losses.add(target, project, reason, lost));
    }

    /// Notes a loss that has no record.
    pub(super) fn note_loss(&mut self, project: u32, loss: &Loss) {
        self.losses.add(loss.target, project, loss.reason, (loss.category, loss.quantity));
    }

    /// Writes the rows.
    pub(super) fn write(&self, conn: &Connection, totals: &mut Totals) -> rusqlite::Result<()> {
        let mut replace = conn.prepare_cached("INSERT OR REPLACE INTO ledger VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
        for (row, quantity) in &self.rows {
            let total = totals.add(conn, *row, *quantity)?.cast_signed();
            let (hour, target, project, category, outcome) = row;
            replace.execute(params![hour.cast_signed(), target, project, category.name(), outcome.name(), total])?;
        }
        self.losses.write(conn)
    }

    /// The changes as postings.
    pub(super) fn postings(&self, shared: &Shared) -> Vec<Posting> {
        let (targets, projects) = (shared.targets(), shared.projects());
        let posting = |(&(_, target, project, category, outcome), &quantity)| {
            let upstream = match usize::try_from(target) {
                Ok(at) => Some(Arc::clone(&targets.get(at)?.name)),
                Err(_) => None,
            };
            let project = Arc::clone(projects.get(project as usize)?);
            Some(Posting { key: AccountKey { upstream, project, category }, outcome, quantity })
        };
        self.rows.iter().filter_map(posting).collect()
    }
}

/// Sums the rows older than 90 days into the hour 0, and forgets the evidence of that time.
pub(super) fn roll_up(conn: &Connection, now: Timestamp) -> rusqlite::Result<()> {
    let tx = conn.unchecked_transaction()?;
    evidence::forget(&tx, now)?;
    let oldest = now.hour().saturating_sub(KEPT_HOURS).cast_signed();
    tx.execute(
        "INSERT INTO ledger SELECT 0, target, project, category, outcome, sum(quantity) FROM ledger
         WHERE hour > 0 AND hour < ?1 GROUP BY target, project, category, outcome
         ON CONFLICT DO UPDATE SET quantity = quantity + excluded.quantity",
        [oldest],
    )?;
    tx.execute("DELETE FROM ledger WHERE hour > 0 AND hour < ?1", [oldest])?;
    tx.commit()
}

/// Posts the totals that are on disk.
pub(super) fn post_totals(conn: &Connection, shared: &Shared) -> rusqlite::Result<()> {
    let mut sums = conn.prepare(
        "SELECT target, project, category, outcome, sum(quantity) FROM ledger
         GROUP BY target, project, category, outcome",
    )?;
    let mut book = Book::default();
    let mut rows = sums.query([])?;
    while let Some(row) = rows.next()? {
        let (category, outcome) = (row.get_ref(2)?.as_str(), row.get_ref(3)?.as_str());
        let known = (category.ok().and_then(Category::from_name), outcome.ok().and_then(Outcome::from_name));
        if let (Some(category), Some(outcome)) = known {
            let quantity: i64 = row.get(4)?;
            *book.rows.entry((0, row.get(0)?, row.get(1)?, category, outcome)).or_default() += quantity.cast_unsigned();
        }
    }
    shared.ledger.post(&book.postings(shared));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::schema::FORMATS;
    use super::super::steps;
    use super::*;
    use crate::telemetry::series::Step;

    #[test]
    fn a_failed_roll_up_counts_no_step_twice() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(&FORMATS.concat()).unwrap();
        let hour = 480_000 * 3_600_000;
        for n in 0..12 {
            let at = Timestamp::from_millis(hour + n * 300_000);
            let step = Step { at, accepted: 3, delivered: 2, lost: 1, waiting: 0, lag_p99: None };
            steps::write(&conn, TargetId(1), &step).unwrap();
        }
        let said = |what| conn.query_row(&format!("SELECT {what} FROM step"), [], |row| row.get::<_, i64>(0)).unwrap();
        conn.execute_batch("CREATE TRIGGER full BEFORE DELETE ON step BEGIN SELECT RAISE(ABORT, 'full'); END").unwrap();
        let later = Timestamp::from_millis(hour + 72 * 3_600_000);
        for _ in 0..2 {
            roll_up(&conn, later).unwrap_err();
            assert_eq!((said("sum(accepted)"), said("count(*)")), (36, 12), "all of it or nothing");
        }
        conn.execute_batch("DROP TRIGGER full").unwrap();
        roll_up(&conn, later).unwrap();
        assert_eq!((said("sum(accepted)"), said("count(*)")), (36, 1));
    }

    #[test]
    fn a_ledger_row_holds_the_committed_total_whether_remembered_or_not() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(&FORMATS.concat()).unwrap();
        let said = || conn.query_row("SELECT sum(quantity) FROM ledger", [], |row| row.get::<_, i64>(0)).unwrap();
        let mut book = Book::default();
        book.note(Timestamp::default(), None, 0, Outcome::Accepted, &[(Category::Error, 2)].into_iter().collect());
        let mut totals = Totals::default();
        for commits in 1..=3 {
            book.write(&conn, &mut totals).unwrap();
            assert_eq!(said(), 2 * commits);
        }
        conn.execute_batch("BEGIN").unwrap();
        book.write(&conn, &mut totals).unwrap();
        conn.execute_batch("ROLLBACK").unwrap();
        // The writer does the same after a rollback.
        totals = Totals::default();
        book.write(&conn, &mut totals).unwrap();
        assert_eq!(said(), 8);
    }
}

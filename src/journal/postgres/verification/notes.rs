//! Writes the results of lookups: the cursor, the rows, and the postings.
//!
//! Rule: rows and postings change in one transaction, and nothing changes twice.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::journal::TargetId;
use crate::journal::postgres::fault::Fault;
use crate::journal::postgres::hand::incarnation;
use crate::journal::postgres::letters::{self, New};
use crate::journal::postgres::record::ms;
use crate::journal::postgres::shared::Shared;
use crate::journal::postgres::work::Work;
use crate::journal::verification::{Advance, Finding, MISSING, Note, Notes, lost, one_event};
use crate::policy::outcome::Outcome;

use super::content;

/// Writes the results for one target.
pub(super) async fn note(shared: &Arc<Shared>, target: TargetId, notes: Notes) -> Result<(), Fault> {
    Work::run(shared, async |work| write(work, target, &notes).await).await
}

async fn write(work: &mut Work, target: TargetId, notes: &Notes) -> Result<(), Fault> {
    let now = work.now();
    work.lock(target).await?;
    let reached = advance(work, target, notes.fresh.as_ref()).await?;
    let is_below = |id: i64| reached.cursors.get(&incarnation(id)).is_some_and(|cursor| id <= *cursor);
    let fresh = notes
        .fresh
        .iter()
        .filter(|_| reached.is_new)
        .flat_map(|fresh| fresh.found.iter().filter(|(record, _)| record.number() <= fresh.to.number()));
    let again = notes.again.iter().filter(|(record, _)| is_below(record.number().cast_signed()));
    let found: Vec<Found<'_>> = fresh
        .map(|(record, finding)| Found { id: record.number().cast_signed(), finding, is_fresh: true })
        .chain(again.map(|(record, finding)| Found { id: record.number().cast_signed(), finding, is_fresh: false }))
        .collect();
    let known = know(work, target, &found).await?;
    let mut writing = Writing { target, now, known, rows: BTreeMap::new(), gone: BTreeSet::new() };
    for found in &found {
        writing.note(work, found).await?;
    }
    writing.write(work).await?;
    forget_gone(work, target, now).await?;
    content::write(work, target, &notes.compared, now).await
}

/// How far the look for a target's events came.
struct Cursors {
    cursors: HashMap<i32, i64>,
    /// Whether these notes moved a cursor.
    is_new: bool,
}

/// Moves the cursor if it is where the notes say.
async fn advance(work: &Work, target: TargetId, fresh: Option<&Advance>) -> Result<Cursors, Fault> {
    let number = i16::from(target.0);
    let rows = work.query("SELECT incarnation, reached FROM verification WHERE target = $1", &[&number]).await?;
    let mut cursors: HashMap<i32, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut is_new = false;
    if let Some(Advance { from, to, .. }) = fresh {
        let (from, to) = (from.number().cast_signed(), to.number().cast_signed());
        let of = incarnation(from);
        let stands = cursors.get(&of).copied().unwrap_or(i64::from(of) << 40);
        is_new = stands == from && from < to && to < (i64::from(of) + 1) << 40;
        if is_new {
            work.execute(
                "INSERT INTO verification VALUES ($1, $2, $3)
                 ON CONFLICT (target, incarnation) DO UPDATE SET reached = excluded.reached",
                &[&number, &of, &to],
            )
            .await?;
            cursors.insert(of, to);
        }
    }
    Ok(Cursors { cursors, is_new })
}

/// The result of a lookup of a record.
struct Found<'a> {
    id: i64,
    finding: &'a Finding,
    /// Whether the cursor passes it only now.
    is_fresh: bool,
}

/// What is kept of a record that was looked up.
struct Known {
    project: i32,
    /// The state of its row and how often it was repaired; `None` without a row.
    row: Option<(i16, i32)>,
}

async fn know(work: &Work, target: TargetId, found: &[Found<'_>]) -> Result<HashMap<i64, Known>, Fault> {
    let ids: Vec<i64> = found.iter().map(|found| found.id).collect();
    let rows = work
        .query(
            "SELECT r.id, r.project, l.state, l.repairs FROM record r LEFT JOIN look l ON l.target = $1 AND l.record = r.id
             WHERE r.id = ANY($2)",
            &[&i16::from(target.0), &ids],
        )
        .await?;
    let known = |row: &tokio_postgres::Row| {
        let state: Option<i16> = row.get(2);
        (row.get(0), Known { project: row.get(1), row: state.map(|state| (state, row.get(3))) })
    };
    Ok(rows.iter().map(known).collect())
}

/// A row to be written.
struct Row {
    project: i32,
    state: i16,
    due: i64,
    looks: i32,
}

/// The changes of one target's rows.
struct Writing {
    target: TargetId,
    now: Timestamp,
    known: HashMap<i64, Known>,
    rows: BTreeMap<i64, Row>,
    gone: BTreeSet<i64>,
}

impl Writing {
    /// Takes in the result for a record.
    async fn note(&mut self, work: &mut Work, found: &Found<'_>) -> Result<(), Fault> {
        // The record was pruned meanwhile: nobody will ever know, and its row goes when it comes due.
        let Some(known) = self.known.get_mut(&found.id) else { return Ok(()) };
        let project = known.project;
        let Some((posted, note)) = found.finding.note(found.is_fresh, known.row.is_some()) else { return Ok(()) };
        if let Some(outcome) = posted {
            post(work, self.target, project, outcome);
        }
        let (state, due, looked) = match note {
            Note::Stored => {
                known.row = None;
                self.forget(found.id);
                return Ok(());
            }
            Note::GivenUp(why) => return self.give_up(work, found.id, why).await,
            Note::Row(state, due, looked) => (state, due, looked),
        };
        known.row = Some((state, known.row.map_or(0, |(_, repairs)| repairs)));
        self.gone.remove(&found.id);
        let row = self.rows.entry(found.id).or_insert(Row { project, state, due: 0, looks: 0 });
        (row.state, row.due, row.looks) = (state, ms(due), row.looks + looked);
        Ok(())
    }

    fn forget(&mut self, id: i64) {
        self.rows.remove(&id);
        self.gone.insert(id);
    }

    /// Makes a dead letter of an event that was lost each time. The letter keeps the record, and can be retried.
    async fn give_up(&mut self, work: &mut Work, record: i64, why: &str) -> Result<(), Fault> {
        let Some(known) = self.known.get_mut(&record) else { return Ok(()) };
        let Some((_, repairs)) = known.row.take() else { return Ok(()) };
        let (target, project) = (self.target, known.project);
        let refusal = lost(self.now, why, repairs.cast_unsigned());
        letters::write(work, New { target, record, project, refusal, quantities: None }).await?;
        post(work, target, project, Outcome::Lost);
        self.forget(record);
        Ok(())
    }

    async fn write(self, work: &Work) -> Result<(), Fault> {
        let number = i16::from(self.target.0);
        if !self.gone.is_empty() {
            let gone: Vec<i64> = self.gone.into_iter().collect();
            work.execute("DELETE FROM look WHERE target = $1 AND record = ANY($2)", &[&number, &gone]).await?;
        }
        if self.rows.is_empty() {
            return Ok(());
        }
        let ids: Vec<i64> = self.rows.keys().copied().collect();
        let projects: Vec<i32> = self.rows.values().map(|row| row.project).collect();
        let states: Vec<i16> = self.rows.values().map(|row| row.state).collect();
        let dues: Vec<i64> = self.rows.values().map(|row| row.due).collect();
        let looks: Vec<i32> = self.rows.values().map(|row| row.looks).collect();
        work.execute(
            "INSERT INTO look AS l (target, record, project, state, due, looks, since, repairs)
             SELECT $1, r, p, s, d, k, $2, 0
             FROM unnest($3::bigint[], $4::int[], $5::smallint[], $6::bigint[], $7::int[]) AS u(r, p, s, d, k)
             ON CONFLICT (target, record)
             DO UPDATE SET state = excluded.state, due = excluded.due, looks = l.looks + excluded.looks",
            &[&number, &ms(self.now), &ids, &projects, &states, &dues, &looks],
        )
        .await
    }
}

/// Posts one event.
pub(super) fn post(work: &mut Work, target: TargetId, project: i32, outcome: Outcome) {
    let now = work.now();
    work.book.note(now, Some(target), project, outcome, &one_event());
}

/// Removes a bounded number of due rows whose records are gone. A missing event is then lost for good.
async fn forget_gone(work: &mut Work, target: TargetId, now: Timestamp) -> Result<(), Fault> {
    let rows = work
        .query(
            "DELETE FROM look WHERE target = $1 AND record IN (
                 SELECT l.record FROM look l WHERE l.target = $1 AND l.due <= $2
                 AND NOT EXISTS (SELECT 1 FROM record r WHERE r.id = l.record) LIMIT 256)
             RETURNING project, state",
            &[&i16::from(target.0), &ms(now)],
        )
        .await?;
    for row in rows.iter().filter(|row| row.get::<_, i16>(1) == MISSING) {
        post(work, target, row.get(0), Outcome::Lost);
    }
    Ok(())
}

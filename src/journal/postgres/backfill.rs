//! Backfills: begins, continues and cancels them, and counts their records beforehand.
//!
//! Rules: a record is taken up only at or below the frontier of the target, where it counts as settled without a row. Taking it up sets the
//! target's bit as well: the target is meant to get the record from then on. A backfill ends with the newest record that each relay had
//! taken when it began.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio_postgres::Row;

use crate::clock::Timestamp;
use crate::journal::backfill::{BACKGROUND, Backfill, BackfillStep, Scope, Survey};
use crate::journal::{Cursor, TargetId, bounded};

use super::again::{self, Again};
use super::fault::Fault;
use super::letters::quantities;
use super::places;
use super::record::{NEVER, ms, time};
use super::shared::Shared;
use super::work::Work;

/// The most records that one step of a backfill reads.
const LOOK: i64 = 2048;
/// The most records that one step of a survey reads.
const SURVEY: i64 = 20_000;

const COLUMNS: &str = "target, projects, since, until, reached, found, taken, started_at, ended_at, cancelled, bounds";

/// A backfill, and its last record of each incarnation.
struct Kept {
    backfill: Backfill,
    bounds: Vec<i64>,
}

/// A record that the target lacks.
struct Lacking {
    accepted_at: Timestamp,
    again: Again,
}

/// Does a step of a target's backfill; returns the backfill after it, `None` if there is none.
pub(super) async fn step(
    shared: &Arc<Shared>,
    target: TargetId,
    step: BackfillStep,
) -> Result<Option<Backfill>, Fault> {
    shared.know_names().await?;
    Work::run(shared, async |work| act(work, target, step).await).await
}

async fn act(work: &mut Work, target: TargetId, step: BackfillStep) -> Result<Option<Backfill>, Fault> {
    work.lock(target).await?;
    if let BackfillStep::Begin(begun) = step {
        let begun = begin(work, *begun).await?;
        keep(work, &begun).await?;
        return Ok(Some(begun.backfill));
    }
    let sql = format!("SELECT {COLUMNS} FROM backfill WHERE target = $1");
    let Some(mut kept) = work.query_opt(&sql, &[&i16::from(target.0)]).await?.map(|row| read(&row)) else {
        return Ok(None);
    };
    if !kept.backfill.is_running() {
        return Ok(Some(kept.backfill));
    }
    match step {
        BackfillStep::GoOn(most) => go_on(work, &mut kept, most).await?,
        BackfillStep::Begin(_) | BackfillStep::Cancel => {
            (kept.backfill.cancelled, kept.backfill.ended_at) = (true, Some(work.now()));
        }
    }
    keep(work, &kept).await?;
    Ok(Some(kept.backfill))
}

async fn begin(work: &Work, begun: Backfill) -> Result<Kept, Fault> {
    let rows = work
        .query(
            "SELECT q.newest FROM node n CROSS JOIN LATERAL (
                 SELECT max(id) AS newest FROM record
                 WHERE id > n.incarnation::bigint << 40 AND id < (n.incarnation::bigint + 1) << 40) q
             WHERE q.newest IS NOT NULL ORDER BY 1",
            &[],
        )
        .await?;
    let bounds: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    let until = bounds.last().copied().unwrap_or(0);
    Ok(Kept { backfill: Backfill { until: Cursor::from_number(until.cast_unsigned()), ..begun }, bounds })
}

/// Takes up records between the backfill's position and the frontiers of the target.
async fn go_on(work: &mut Work, kept: &mut Kept, most: usize) -> Result<(), Fault> {
    let target = kept.backfill.scope.target;
    pass(work, target).await?;
    let room = most.saturating_sub(idle(work, target, most).await?);
    if room == 0 {
        return Ok(());
    }
    let (mut found, reached) = find(work, kept, room).await?;
    let ids: Vec<i64> = found.iter().map(|lacking| lacking.again.id).collect();
    let meant = work
        .query(
            "UPDATE record SET targets = targets | (1::bigint << $1) WHERE id = ANY($2) RETURNING id",
            &[&i32::from(target.0), &ids],
        )
        .await?;
    // Records that have just been removed are left out.
    let meant: HashSet<i64> = meant.iter().map(|row| row.get(0)).collect();
    found.retain(|lacking| meant.contains(&lacking.again.id));
    for Lacking { accepted_at, again } in &found {
        again::note_backfilled(work, *accepted_at, (target, again.project), &again.quantities).await?;
    }
    let found: Vec<Again> = found.into_iter().map(|lacking| lacking.again).collect();
    again::take_up(work, target, &found).await?;
    let backfill = &mut kept.backfill;
    backfill.taken += found.len() as u64;
    backfill.reached = Cursor::from_number(reached.cast_unsigned());
    if reached >= backfill.until.number().cast_signed() {
        backfill.ended_at = Some(work.now());
    }
    Ok(())
}

/// Raises the frontiers over records that are not meant for the target.
async fn pass(work: &Work, target: TargetId) -> Result<(), Fault> {
    let number = i16::from(target.0);
    work.execute(places::BEGIN, &[&number]).await?;
    work.execute(
        "UPDATE frontier f SET reached = q.passed FROM (
             SELECT f.incarnation, coalesce(min(r.id) FILTER (WHERE r.targets & (1::bigint << $2) <> 0) - 1, max(r.id)) AS passed
             FROM frontier f CROSS JOIN LATERAL (
                 SELECT id, targets FROM record
                 WHERE id > f.reached AND id < (f.incarnation::bigint + 1) << 40 ORDER BY id LIMIT $3) r
             WHERE f.target = $1 GROUP BY f.incarnation) q
         WHERE f.target = $1 AND f.incarnation = q.incarnation AND f.reached < q.passed",
        &[&number, &i32::from(target.0), &LOOK],
    ).await
}

/// The number of records that wait and are not being tried, counted up to `most`, without those set aside and those that other relays have
/// in hand.
async fn idle(work: &Work, target: TargetId, most: usize) -> Result<usize, Fault> {
    let (number, limit) = (i16::from(target.0), bounded(most));
    work.execute(places::FREE, &[&number, &work.shared.incarnation]).await?;
    let count = work
        .query_opt(
            "SELECT (SELECT count(*) FROM (
                 SELECT 1 FROM pending WHERE target = $1 AND owner IS NULL AND due < $2 LIMIT $3) AS p)
             + (SELECT count(*) FROM (
                 SELECT 1 FROM frontier f CROSS JOIN LATERAL (
                     SELECT targets FROM record
                     WHERE id > f.reached AND id < (f.incarnation::bigint + 1) << 40 ORDER BY id LIMIT $3) r
                 WHERE f.target = $1 AND r.targets & (1::bigint << $4) <> 0 LIMIT $3) AS u)",
            &[&number, &ms(NEVER), &limit, &i32::from(number)],
        )
        .await?;
    let ready = work.shared.hand(target).state().ready.len();
    Ok(ready + count.map_or(0, |row| row.get::<_, i64>(0) as usize))
}

/// Finds up to `room` records of the scope that the target lacks, below its frontiers, among a bounded number. Also returns the position
/// reached.
async fn find(work: &Work, kept: &Kept, room: usize) -> Result<(Vec<Lacking>, i64), Fault> {
    let Backfill { scope, reached, .. } = &kept.backfill;
    let (mut reached, mut found, mut look) = (reached.number().cast_signed(), vec![], LOOK);
    let frontiers = work
        .query("SELECT incarnation::bigint, reached FROM frontier WHERE target = $1", &[&i16::from(scope.target.0)])
        .await?;
    let frontiers: HashMap<i64, i64> = frontiers.iter().map(|row| (row.get(0), row.get(1))).collect();
    for bound in &kept.bounds {
        if *bound <= reached {
            continue;
        }
        let end = frontiers.get(&(bound >> 40)).map_or(0, |frontier| *bound.min(frontier));
        let rows = work
            .query(
                "SELECT id, accepted_at, project, size, quantities, targets FROM record
                 WHERE id > $1 AND id <= $2 AND quantities <> '' ORDER BY id LIMIT $3",
                &[&reached, &end, &look],
            )
            .await?;
        for row in &rows {
            let lacking = lacking(work, scope, row);
            if lacking.is_some() && found.len() == room {
                return Ok((found, reached));
            }
            found.extend(lacking);
            reached = row.get(0);
        }
        look -= rows.len() as i64;
        if look <= 0 {
            break;
        }
        reached = reached.max(end);
        if end < *bound {
            break;
        }
    }
    Ok((found, reached))
}

fn lacking(work: &Work, scope: &Scope, row: &Row) -> Option<Lacking> {
    let (accepted_at, project, targets) = (time(row.get(1)), row.get(2), row.get::<_, i64>(5));
    let names = work.shared.names();
    let is_meant = names.project(project).is_some_and(|name| scope.projects.contains(name))
        && accepted_at >= scope.since
        && targets & (1 << scope.target.0) == 0;
    is_meant.then(|| {
        let due = Timestamp::from_millis(BACKGROUND.as_millis() + accepted_at.as_millis());
        let size = row.get::<_, i64>(3).cast_unsigned();
        let again = Again { id: row.get(0), project, size, due, items: None, quantities: quantities(row, 4) };
        Lacking { accepted_at, again }
    })
}

/// Counts the records that a backfill would take up, among a bounded number.
pub(super) async fn survey(shared: &Shared, scope: &Scope, after: Cursor) -> Result<Survey, Fault> {
    shared.know_names().await?;
    let projects: Vec<i32> = scope.projects.iter().filter_map(|name| shared.names().number(name)).collect();
    let row = shared
        .client()
        .await?
        .query_one(
            "SELECT count(*), max(id), count(*) FILTER (WHERE is_meant), coalesce(sum(size) FILTER (WHERE is_meant), 0)::bigint
             FROM (SELECT id, size, project = ANY($3) AND accepted_at >= $4 AND targets & (1::bigint << $5) = 0 AS is_meant
                 FROM record WHERE id > $1 AND quantities <> '' ORDER BY id LIMIT $2) AS looked",
            &[&after.number().cast_signed(), &SURVEY, &projects, &ms(scope.since), &i32::from(scope.target.0)],
        )
        .await?;
    let number = |at| row.get::<_, i64>(at).cast_unsigned();
    let last = row.get::<_, Option<i64>>(1).map(|last| Cursor::from_number(last.cast_unsigned()));
    let is_full = row.get::<_, i64>(0) == SURVEY;
    Ok(Survey { records: number(2), bytes: number(3), next: last.filter(|_| is_full) })
}

/// The last backfill of each target.
pub(super) async fn all(shared: &Shared) -> Result<Vec<Backfill>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM backfill ORDER BY target");
    let rows = shared.client().await?.query(&sql, &[]).await?;
    Ok(rows.iter().map(|row| read(row).backfill).collect())
}

fn read(row: &Row) -> Kept {
    let number = |at| row.get::<_, i64>(at).cast_unsigned();
    let target = TargetId(u8::try_from(row.get::<_, i16>(0)).unwrap_or(u8::MAX));
    let projects = serde_json::from_str(row.get(1)).unwrap_or_default();
    let backfill = Backfill {
        scope: Scope { target, projects, since: time(row.get(2)) },
        until: Cursor::from_number(number(3)),
        reached: Cursor::from_number(number(4)),
        found: number(5),
        taken: number(6),
        started_at: time(row.get(7)),
        ended_at: row.get::<_, Option<i64>>(8).map(time),
        cancelled: row.get(9),
    };
    Kept { backfill, bounds: row.get(10) }
}

async fn keep(work: &Work, Kept { backfill, bounds }: &Kept) -> Result<(), Fault> {
    let Backfill { scope, until, reached, found, taken, started_at, ended_at, cancelled } = backfill;
    let projects = serde_json::Value::from_iter(scope.projects.iter().map(|name| &**name)).to_string();
    work.execute(
        &format!(
            "INSERT INTO backfill ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
             ON CONFLICT (target) DO UPDATE SET projects = excluded.projects, since = excluded.since,
                 until = excluded.until, reached = excluded.reached, found = excluded.found, taken = excluded.taken,
                 started_at = excluded.started_at, ended_at = excluded.ended_at, cancelled = excluded.cancelled,
                 bounds = excluded.bounds"
        ),
        &[
            &i16::from(scope.target.0),
            &projects,
            &ms(scope.since),
            &until.number().cast_signed(),
            &reached.number().cast_signed(),
            &found.cast_signed(),
            &taken.cast_signed(),
            &ms(*started_at),
            &ended_at.map(ms),
            cancelled,
            bounds,
        ],
    )
    .await
}

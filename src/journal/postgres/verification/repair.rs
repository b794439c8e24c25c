//! Repair: missing events wait for their upstream again.

use std::sync::Arc;

use tokio_postgres::Row;

use crate::clock::Timestamp;
use crate::journal::postgres::again::{self, Again};
use crate::journal::postgres::fault::Fault;
use crate::journal::postgres::letters::quantities;
use crate::journal::postgres::places;
use crate::journal::postgres::record::{ms, time};
use crate::journal::postgres::shared::Shared;
use crate::journal::postgres::waiting;
use crate::journal::postgres::work::Work;
use crate::journal::verification::{LOOKING, MISSING, Repair};
use crate::journal::{TargetId, bounded};
use crate::policy::outcome::Outcome;

use super::notes;

/// Lets missing events wait for their upstream again; returns how many. Events that were repaired before are sent one after another.
pub(super) async fn repair(shared: &Arc<Shared>, target: TargetId, repair: Repair) -> Result<usize, Fault> {
    let all = Work::run(shared, async |work| attempt(work, target, &repair).await).await?;
    all.iter().for_each(|again| waiting::tell(shared, target, again.due));
    Ok(all.len())
}

async fn attempt(work: &mut Work, target: TargetId, repair: &Repair) -> Result<Vec<Again>, Fault> {
    work.lock(target).await?;
    let rows = work
        .query(
            "SELECT r.id, r.project, r.size, r.quantities, l.since, l.repairs FROM look l JOIN record r ON r.id = l.record
             WHERE l.target = $1 AND l.state = $2 AND l.repairs < $3 AND r.accepted_at >= $4
             ORDER BY r.accepted_at, r.id LIMIT $5 FOR UPDATE OF r",
            &[
                &i16::from(target.0),
                &MISSING,
                &i32::try_from(repair.below).unwrap_or(i32::MAX),
                &ms(repair.since),
                &bounded(repair.limit),
            ],
        )
        .await?;
    let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    let waits = places::waits(work, target, &ids).await?;
    let (now, mut alone) = (work.now(), last_alone(work, target, repair).await?);
    let mut all = Vec::new();
    for row in rows.iter().filter(|row| !waits.contains(&row.get::<_, i64>(0))) {
        let mut due = now.max(time(row.get(4)) + repair.spacing);
        if row.get::<_, i32>(5) > 0 {
            due = due.max(alone + repair.apart);
            alone = due;
        }
        all.push(of_row(row, due));
    }
    again::take_up(work, target, &all).await?;
    for again in &all {
        notes::post(work, target, again.project, Outcome::Lost);
    }
    let ids: Vec<i64> = all.iter().map(|again| again.id).collect();
    let dues: Vec<i64> = all.iter().map(|again| ms(again.due + repair.settle)).collect();
    work.execute(
        "UPDATE look l SET repairs = l.repairs + 1, due = u.d FROM unnest($2::bigint[], $3::bigint[]) AS u(r, d)
         WHERE l.target = $1 AND l.record = u.r",
        &[&i16::from(target.0), &ids, &dues],
    )
    .await?;
    Ok(all)
}

fn of_row(row: &Row, due: Timestamp) -> Again {
    Again {
        id: row.get(0),
        project: row.get(1),
        size: row.get::<_, i64>(2).cast_unsigned(),
        due,
        items: None,
        quantities: quantities(row, 3),
    }
}

/// When the last of the events is sent that go one after another.
async fn last_alone(work: &Work, target: TargetId, repair: &Repair) -> Result<Timestamp, Fault> {
    let sql = "SELECT max(due) FROM look WHERE target = $1 AND state = $2 AND looks = 0 AND repairs > 1";
    let row = work.query_opt(sql, &[&i16::from(target.0), &LOOKING]).await?;
    let last = row.and_then(|row| row.get::<_, Option<i64>>(0));
    Ok(last.map_or(Timestamp::default(), |due| time(due) - repair.settle))
}

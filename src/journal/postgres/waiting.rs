//! The backlog of a target: counts it, makes records due, and puts records off whose leases have ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::journal::backfill::BACKGROUND;
use crate::journal::{Backlog, Differences, Rest, TargetId, bounded};
use crate::policy::outcome::Outcome;
use crate::protocol::category::Category;
use crate::telemetry::ledger::Account;

use super::accounts::{BYTES, ENVELOPES};
use super::connect::Params;
use super::fault::Fault;
use super::hand::Ready;
use super::places;
use super::record::{NEVER, ms, time};
use super::shared::Shared;
use super::work::Work;

/// The most records behind each frontier that are read to find the oldest one for a target. A worker that keeps claiming leaves no more
/// that are not meant for the target.
const LOOK: i64 = 1024;

/// The next due time of rows that nobody has, or that only a relay that is gone has; `None` if there are none.
pub(super) async fn next_due(shared: &Shared, target: TargetId) -> Result<Option<Timestamp>, Fault> {
    let sql = "SELECT least(
             (SELECT min(due) FROM pending WHERE target = $1 AND owner IS NULL AND due < $2),
             (SELECT min(due) FROM pending p JOIN node n ON n.incarnation = p.owner
              WHERE p.target = $1 AND p.owner <> $3 AND p.due < $2
              AND (n.replaced OR n.gone)))";
    let params: Params<'_> = &[&i16::from(target.0), &ms(BACKGROUND), &shared.incarnation];
    let row = shared.client().await?.one(sql, params).await?;
    Ok(row.get::<_, Option<i64>>(0).map(time))
}

/// Makes up to `limit` rows due that were put off, the next ones first, but none set aside or backfilled; returns how many.
pub(super) async fn hasten(shared: &Arc<Shared>, target: TargetId, limit: usize) -> Result<usize, Fault> {
    let now = shared.clock.now();
    let count = Work::run(shared, async |work| make_due(work, target, now, limit).await).await?;
    tell(shared, target, now);
    Ok(count)
}

async fn make_due(work: &mut Work, target: TargetId, now: Timestamp, limit: usize) -> Result<usize, Fault> {
    let number = i16::from(target.0);
    work.lock(target).await?;
    work.execute(places::FREE, &[&number, &work.shared.incarnation]).await?;
    let limit = bounded(limit);
    let count = work
        .count(
            "UPDATE pending SET due = $2 WHERE target = $1 AND record IN (
                 SELECT record FROM pending WHERE target = $1 AND owner IS NULL AND due > $2 AND due < $3
                 ORDER BY due, record LIMIT $4)",
            &[&number, &ms(now), &ms(BACKGROUND), &limit],
        )
        .await?;
    Ok(count as usize)
}

/// Makes records due that were set aside: a relay that starts may be of a version that can read them.
pub(super) async fn look_again(shared: &Shared) -> Result<(), Fault> {
    let sql = "UPDATE pending SET due = $1 WHERE due = $2 AND owner IS NULL";
    shared.client().await?.execute(sql, &[&ms(shared.clock.now()), &ms(NEVER)]).await?;
    Ok(())
}

/// Puts records off until now whose leases have ended, with the progress that they had: the first relay to ask gets them.
pub(super) async fn pass_by(
    shared: &Arc<Shared>,
    target: TargetId,
    lapsed: Vec<Ready>,
    now: Timestamp,
) -> Result<(), Fault> {
    let hand = shared.hand(target);
    let _fetching = hand.fetching.lock().await;
    let_go(shared, target, &lapsed, now).await?;
    tell(shared, target, now);
    Ok(())
}

async fn let_go(shared: &Arc<Shared>, target: TargetId, lapsed: &[Ready], now: Timestamp) -> Result<(), Fault> {
    Work::run(shared, async |work| {
        work.lock(target).await?;
        let stand: Vec<_> = lapsed.iter().map(Ready::stands).collect();
        let taken = places::take_out(work, target, &stand).await?;
        let ours = lapsed.iter().filter(|ready| taken.has(ready.stands()));
        let rest =
            |ready: &Ready| Rest { due: now, progress: ready.progress.clone(), quantities: ready.quantities.clone() };
        let rests: Vec<_> = ours.map(|ready| (ready.number(), rest(ready))).collect();
        places::put_off(work, target, &rests).await
    })
    .await
}

/// Notifies the worker that rows come due at this time.
pub(super) fn tell(shared: &Shared, target: TargetId, due: Timestamp) {
    let hand = shared.hand(target);
    hand.state().note_due(due);
    hand.wake();
}

/// The backlog of a target.
pub(super) async fn backlog(shared: &Shared, target: TargetId) -> Result<Backlog, Fault> {
    let client = shared.client().await?;
    let number = i16::from(target.0);
    let sums = "SELECT project, category, sum(quantity)::bigint FROM waiting WHERE target = $1
         GROUP BY project, category HAVING sum(quantity) > 0 ORDER BY project, category";
    let sums = client.all(sums, &[&number]).await?;
    let params: Params<'_> = &[&number, &ms(BACKGROUND), &ms(NEVER), &LOOK, &i32::from(number)];
    let oldest: Option<i64> = client.one(OLDEST, params).await?.get(0);
    drop(client);
    if sums.iter().any(|row| shared.names().project(row.get(0)).is_none()) {
        shared.know_names().await?;
    }
    let names = shared.names();
    let mut backlog = Backlog::default();
    for row in &sums {
        let (what, quantity) = (row.get::<_, &str>(1), row.get::<_, i64>(2).cast_unsigned());
        match what {
            ENVELOPES => backlog.envelopes += quantity,
            BYTES => backlog.bytes += quantity,
            _ => {
                let known = names.project(row.get(0)).cloned().zip(Category::from_name(what));
                backlog.quantities.extend(known.map(|(project, category)| (project, category, quantity)));
            }
        }
    }
    backlog.oldest = oldest.filter(|_| backlog.envelopes > 0).map(time);
    Ok(backlog)
}

/// The difference between the accounts of a target and its backlog, read in one statement.
pub(super) async fn differences(shared: &Shared, target: TargetId) -> Result<Differences, Fault> {
    let sql = "SELECT project, category, outcome, sum(quantity)::bigint FROM (
            SELECT project, category, outcome, quantity FROM ledger WHERE target = $1
            UNION ALL SELECT project, category, '', quantity FROM waiting WHERE target = $1) AS a
        GROUP BY project, category, outcome";
    let rows = shared.client().await?.query(sql, &[&i16::from(target.0)]).await?;
    shared.know_names().await?;
    let names = shared.names();
    let mut all = BTreeMap::<(Arc<str>, Category), (Account, i64)>::new();
    for row in &rows {
        // Envelopes and bytes are no categories, and are left out.
        let known = names.project(row.get(0)).cloned().zip(Category::from_name(row.get(1)));
        let Some(key) = known else { continue };
        let ((account, waiting), quantity) = (all.entry(key).or_default(), row.get::<_, i64>(3));
        match Outcome::from_name(row.get(2)) {
            Some(outcome) => account.post(outcome, quantity.cast_unsigned()),
            None => *waiting += quantity,
        }
    }
    let differences = all.into_iter().map(|(key, (account, waiting))| (key, account.expected_pending() - waiting));
    Ok(differences.filter(|(_, difference)| *difference != 0).collect())
}

/// When the oldest record of a backlog was accepted: of each incarnation the first row that is not backfilled, the records in slices, and
/// the first record behind the frontier.
const OLDEST: &str = "
    SELECT min(accepted_at) FROM (
        SELECT q.accepted_at FROM frontier f CROSS JOIN LATERAL (
            SELECT r.accepted_at FROM pending p JOIN record r ON r.id = p.record
            WHERE p.target = $1 AND p.record > f.incarnation::bigint << 40 AND p.record < (f.incarnation::bigint + 1) << 40
            AND (p.due < $2 OR p.due >= $3) ORDER BY p.record LIMIT 1) q
        WHERE f.target = $1
        UNION ALL
        SELECT r.accepted_at FROM slice s CROSS JOIN unnest(s.records) AS u(id) JOIN record r ON r.id = u.id
        WHERE s.target = $1
        UNION ALL
        SELECT q.accepted_at FROM node n LEFT JOIN frontier f ON f.target = $1 AND f.incarnation = n.incarnation
        CROSS JOIN LATERAL (
            SELECT accepted_at, targets FROM record
            WHERE id > coalesce(f.reached, n.incarnation::bigint << 40) AND id < (n.incarnation::bigint + 1) << 40
            ORDER BY id LIMIT $4) q
        WHERE q.targets & (1::bigint << $5) <> 0) AS a";

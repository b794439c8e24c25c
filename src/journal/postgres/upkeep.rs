//! The upkeep that the [leader](super::term) does for all relays between beats: it tidies up after relays that are gone, and forgets what
//! is old.
//!
//! Rules: sums stay the same. The rows of relays that are gone for good are summed up under the incarnation 0, each in one transaction, so
//! a relay that adds up the others finds the same. Hours older than 90 days become the hour 0 of their incarnation. A step takes a bounded
//! number of rows, and the next look takes the next ones. Each transaction holds the leader's term, except the burial, which may happen
//! twice.

use deadpool_postgres::Transaction;

use crate::clock::Timestamp;
use crate::journal::evidence::{KEPT, MOST};
use crate::journal::term::Epoch;
use crate::telemetry::series::FINE;

use super::accounts::hour;
use super::evidence::HOUR;
use super::fault::Fault;
use super::record::ms;
use super::shared::Shared;
use super::term;
use super::verification;

/// The most rows that a step sums up.
const STEP: i64 = 20_000;
/// A step removes bodies until this many bytes are gone. Each body goes in one piece.
const BYTES: i64 = 64 << 20;

/// A table with counts by incarnation.
struct Counted {
    table: &'static str,
    /// Its key without the incarnation.
    key: &'static str,
    /// The column that is added up.
    what: &'static str,
    /// The query for rows of the incarnations `$1`, at most `$2`.
    rows: &'static str,
}

/// All such tables. The ledger's index begins with the hour, so each hour is queried.
const COUNTED: [Counted; 3] = [
    Counted {
        table: "ledger",
        key: "hour, target, project, category, outcome",
        what: "quantity",
        rows: "WITH RECURSIVE hours(hour) AS (
                 SELECT min(hour) FROM ledger
                 UNION ALL SELECT (SELECT min(l.hour) FROM ledger l WHERE l.hour > h.hour) FROM hours h WHERE h.hour IS NOT NULL)
             SELECT l.at FROM hours h CROSS JOIN LATERAL (
                 SELECT ctid AS at FROM ledger WHERE hour = h.hour AND incarnation = ANY($1) LIMIT $2) AS l LIMIT $2",
    },
    Counted {
        table: "waiting",
        key: "target, project, category",
        what: "quantity",
        rows: "SELECT ctid FROM waiting WHERE incarnation = ANY($1) LIMIT $2",
    },
    Counted {
        table: "room",
        key: "project",
        what: "bytes",
        rows: "SELECT ctid FROM room WHERE incarnation = ANY($1) LIMIT $2",
    },
];

/// Removes the first of the unfinished large bodies of relays that are gone.
pub(super) async fn bury(shared: &Shared) -> Result<(), Fault> {
    let sql = "DELETE FROM large WHERE id IN (
            SELECT id FROM (
                SELECT l.id, (sum(l.size) OVER (ORDER BY l.id) - l.size)::bigint AS before
                FROM large l JOIN node n ON n.incarnation = l.owner
                WHERE l.record IS NULL AND n.incarnation <> $1 AND (n.replaced OR n.gone)) AS left_behind
            WHERE before < $2) AND record IS NULL";
    shared.client().await?.run(sql, &[&shared.incarnation, &BYTES]).await.map(drop)
}

/// Sums up the next rows of relays that are gone for good.
pub(super) async fn merge(shared: &Shared, epoch: Epoch) -> Result<(), Fault> {
    let mut pooled = shared.client().await?;
    // A relay that was silent for an hour can do nothing any more, even if it comes back.
    let silent = "UPDATE node SET replaced = true WHERE gone AND NOT replaced AND alive_until < clock_timestamp() - interval '1 hour'";
    pooled.execute(silent, &[]).await?;
    let tx = pooled.transaction().await?;
    term::under(&*tx, epoch).await?;
    let gone = "SELECT incarnation FROM node WHERE replaced AND NOT merged AND incarnation <> $1";
    let rows = tx.query(gone, &[&shared.incarnation]).await?;
    let gone: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    if gone.is_empty() {
        return Ok(());
    }
    let mut left = STEP;
    for counted in &COUNTED {
        left -= sum_up(&tx, counted, &gone, left).await?;
    }
    if left > 0 {
        finish(&tx, &gone).await?;
    }
    Ok(tx.commit().await?)
}

/// Sums up at most `most` rows of these incarnations in a table; returns how many.
async fn sum_up(tx: &Transaction<'_>, counted: &Counted, gone: &[i32], most: i64) -> Result<i64, Fault> {
    let Counted { table, key, what, rows } = counted;
    let sql = format!(
        "WITH gone AS (DELETE FROM {table} WHERE incarnation = ANY($1) AND ctid = ANY(ARRAY({rows})) RETURNING {key}, {what}),
         summed AS (
             INSERT INTO {table} AS kept (incarnation, {key}, {what})
                 SELECT 0, {key}, sum({what})::bigint FROM gone GROUP BY {key} ORDER BY {key}
             ON CONFLICT (incarnation, {key}) DO UPDATE SET {what} = kept.{what} + excluded.{what})
         SELECT count(*) FROM gone"
    );
    Ok(tx.query_one(&sql, &[&gone, &most]).await?.get(0))
}

/// Ends the summing up of these incarnations, which have no other rows left.
async fn finish(tx: &Transaction<'_>, gone: &[i32]) -> Result<(), Fault> {
    tx.execute(
        "WITH gone AS (DELETE FROM latest WHERE incarnation = ANY($1) RETURNING target, delivered_at, canary_at)
         INSERT INTO latest AS kept (incarnation, target, delivered_at, canary_at)
             SELECT 0, target, max(delivered_at), max(canary_at) FROM gone GROUP BY target ORDER BY target
         ON CONFLICT (incarnation, target) DO UPDATE SET
             delivered_at = greatest(kept.delivered_at, excluded.delivered_at),
             canary_at = greatest(kept.canary_at, excluded.canary_at)",
        &[&gone],
    )
    .await?;
    tx.execute("UPDATE node SET merged = true WHERE incarnation = ANY($1)", &[&gone]).await?;
    Ok(())
}

/// Forgets incarnations that are gone for good and have nothing left. The last one of each name that may keep something on its machine
/// stays.
pub(super) async fn forget_drained(shared: &Shared, epoch: Epoch) -> Result<(), Fault> {
    let mut pooled = shared.client().await?;
    let tx = pooled.transaction().await?;
    term::under(&*tx, epoch).await?;
    tx.execute(
        "DELETE FROM node n WHERE merged AND (alive_until = '-infinity' OR alive_until < clock_timestamp() - interval '1 day'
                 AND EXISTS (SELECT 1 FROM node m WHERE m.name = n.name AND m.incarnation > n.incarnation))
             AND NOT EXISTS (SELECT 1 FROM record r
                 WHERE r.id >= n.incarnation::bigint << 40 AND r.id < (n.incarnation::bigint + 1) << 40)
             AND NOT EXISTS (SELECT 1 FROM slice s WHERE s.owner = n.incarnation)
             AND NOT EXISTS (SELECT 1 FROM pending p WHERE p.owner = n.incarnation)
             AND NOT EXISTS (SELECT 1 FROM large l WHERE l.owner = n.incarnation AND l.record IS NULL)",
        &[],
    )
    .await?;
    // It stays known that a target's events were ever looked up.
    tx.execute("INSERT INTO verification SELECT DISTINCT target, 0, 0 FROM verification ON CONFLICT DO NOTHING", &[])
        .await?;
    for table in ["committed", "frontier", "verification"] {
        let sql = format!(
            "DELETE FROM {table} t WHERE incarnation > 0 AND NOT EXISTS (SELECT 1 FROM node n WHERE n.incarnation = t.incarnation)"
        );
        tx.execute(&sql, &[]).await?;
    }
    Ok(tx.commit().await?)
}

/// Forgets the evidence that is older than 90 days, and the oldest beyond the most that is kept. Old hours of the ledger are summed up.
pub(super) async fn forget(shared: &Shared, epoch: Epoch) -> Result<(), Fault> {
    let now = shared.clock.now();
    let oldest = now - KEPT;
    let mut pooled = shared.client().await?;
    let tx = pooled.transaction().await?;
    term::under(&*tx, epoch).await?;
    tx.execute(
        "WITH old AS (DELETE FROM ledger WHERE hour > 0 AND hour < $1 AND ctid = ANY(ARRAY(
             SELECT ctid FROM ledger WHERE hour > 0 AND hour < $1 ORDER BY hour LIMIT $2)) RETURNING *)
         INSERT INTO ledger AS kept (hour, incarnation, target, project, category, outcome, quantity)
             SELECT 0, incarnation, target, project, category, outcome, sum(quantity)::bigint FROM old
             GROUP BY incarnation, target, project, category, outcome
         ON CONFLICT (hour, incarnation, target, project, category, outcome)
             DO UPDATE SET quantity = kept.quantity + excluded.quantity",
        &[&hour(oldest), &STEP],
    )
    .await?;
    for table in ["attempt", "lag", "intake"] {
        tx.execute(&format!("DELETE FROM {table} WHERE hour < $1"), &[&hour(oldest)]).await?;
    }
    let sql = "DELETE FROM outage WHERE ended < $1 OR id <= (SELECT max(id) FROM outage) - $2";
    tx.execute(sql, &[&ms(oldest), &MOST]).await?;
    tx.execute(
        "DELETE FROM stretch WHERE seen < $1
         OR started <= (SELECT started FROM stretch ORDER BY started DESC LIMIT 1 OFFSET $2)",
        &[&ms(oldest), &MOST],
    )
    .await?;
    forget_steps(&tx, now).await?;
    verification::forget_contents(&tx, now).await?;
    tx.commit().await?;
    Ok(())
}

/// Merges the steps of each hour once they are older than 48 hours, and forgets those older than 90 days.
async fn forget_steps(tx: &Transaction<'_>, now: Timestamp) -> Result<(), Fault> {
    let fine = i64::from(hour(now - FINE)) * HOUR;
    tx.execute(
        "WITH fine AS (DELETE FROM step WHERE at < $1 AND at % $2 > 0 RETURNING *)
         INSERT INTO step AS s (at, target, accepted, delivered, lost, waiting, lag)
             SELECT at - at % $2, target, sum(accepted)::bigint, sum(delivered)::bigint, sum(lost)::bigint, max(waiting), max(lag)
             FROM fine GROUP BY 1, 2
         ON CONFLICT (at, target) DO UPDATE SET accepted = s.accepted + excluded.accepted,
             delivered = s.delivered + excluded.delivered, lost = s.lost + excluded.lost,
             waiting = greatest(s.waiting, excluded.waiting), lag = greatest(s.lag, excluded.lag)",
        &[&fine, &HOUR],
    )
    .await?;
    tx.execute("DELETE FROM step WHERE at < $1", &[&ms(now - KEPT)]).await?;
    Ok(())
}

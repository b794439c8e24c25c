//! The comparison of stored events with what was sent: counts by the hour, the kinds compared, and the newest differences.
//!
//! Rule: the tables are bounded, whatever is noted. A kind may be forgotten, and is then compared once more.

use std::collections::{BTreeMap, HashMap};
use tokio_postgres::Transaction;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::journal::evidence::KEPT;
use crate::journal::postgres::accounts::hour;
use crate::journal::postgres::fault::Fault;
use crate::journal::postgres::record::{ms, plain, time};
use crate::journal::postgres::shared::Shared;
use crate::journal::postgres::work::Work;
use crate::journal::verification::{
    Compared, Contents, DIFFERENCES, DIFFERENCES_KEPT, DIFFERENCES_OF_ONE, Differing, MOST_KINDS, Sampled,
};
use crate::journal::{TargetId, bounded};
use crate::telemetry::verification::FieldDifference;

const HOUR: i64 = 3_600_000;

/// Writes the results of comparisons.
pub(super) async fn write(work: &Work, target: TargetId, compared: &[Compared], now: Timestamp) -> Result<(), Fault> {
    if compared.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = compared.iter().map(|compared| compared.record.number().cast_signed()).collect();
    let rows = work.query("SELECT id, project, event_id FROM record WHERE id = ANY($1)", &[&ids]).await?;
    let known: HashMap<i64, (i32, Uuid)> =
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get::<_, Option<Uuid>>(2).unwrap_or_default()))).collect();
    let (mut sums, mut kinds) = (BTreeMap::<i32, (i64, i64)>::new(), BTreeMap::new());
    let mut differing = Vec::new();
    for Compared { record, fingerprint, differences } in compared {
        let Some((project, event_id)) = known.get(&record.number().cast_signed()) else { continue };
        let sum = sums.entry(*project).or_default();
        *sum = (sum.0 + 1, sum.1 + i64::from(!differences.is_empty()));
        kinds.insert(fingerprint.cast_signed(), ms(now));
        let some = differences.iter().take(DIFFERENCES_OF_ONE);
        differing.extend(some.map(|difference| (*project, *event_id, difference)));
    }
    write_sums(work, target, now, sums).await?;
    let (kinds, at): (Vec<i64>, Vec<i64>) = kinds.into_iter().unzip();
    work.execute(
        "INSERT INTO compared_kind SELECT $1, k, t FROM unnest($2::bigint[], $3::bigint[]) AS u(k, t)
         ON CONFLICT (target, kind) DO UPDATE SET at = excluded.at",
        &[&i16::from(target.0), &kinds, &at],
    )
    .await?;
    write_differences(work, target, now, &differing).await
}

async fn write_sums(
    work: &Work,
    target: TargetId,
    now: Timestamp,
    sums: BTreeMap<i32, (i64, i64)>,
) -> Result<(), Fault> {
    let projects: Vec<i32> = sums.keys().copied().collect();
    let (events, differing): (Vec<i64>, Vec<i64>) = sums.into_values().unzip();
    work.execute(
        "INSERT INTO compared AS c SELECT $1, $2, p, e, d FROM unnest($3::int[], $4::bigint[], $5::bigint[]) AS u(p, e, d)
         ON CONFLICT (hour, target, project)
         DO UPDATE SET events = c.events + excluded.events, differing = c.differing + excluded.differing",
        &[&hour(now), &i16::from(target.0), &projects, &events, &differing],
    ).await
}

async fn write_differences(
    work: &Work,
    target: TargetId,
    now: Timestamp,
    all: &[(i32, Uuid, &FieldDifference)],
) -> Result<(), Fault> {
    if all.is_empty() {
        return Ok(());
    }
    let number = i16::from(target.0);
    let (projects, ids): (Vec<i32>, Vec<Uuid>) = all.iter().map(|(project, event_id, _)| (*project, *event_id)).unzip();
    let texts = |text: fn(&FieldDifference) -> &str| all.iter().map(|(.., of)| plain(text(of))).collect::<Vec<_>>();
    let (fields, sent, there) = (texts(|of| &of.field), texts(|of| &of.sent), texts(|of| &of.there));
    work.execute(
        "INSERT INTO difference (target, project, event_id, at, field, sent, there)
         SELECT $1, p, e, $2, f, s, t
         FROM unnest($3::int[], $4::uuid[], $5::text[], $6::text[], $7::text[]) WITH ORDINALITY AS u(p, e, f, s, t, n)
         ORDER BY n",
        &[&number, &ms(now), &projects, &ids, &fields, &sent, &there],
    )
    .await?;
    work.execute(
        "DELETE FROM difference WHERE target = $1
         AND id <= (SELECT id FROM difference WHERE target = $1 ORDER BY id DESC LIMIT 1 OFFSET $2)",
        &[&number, &bounded(DIFFERENCES)],
    )
    .await
}

/// Forgets rows that are too old, and the oldest of too many kinds.
pub(in crate::journal::postgres) async fn forget(tx: &Transaction<'_>, now: Timestamp) -> Result<(), Fault> {
    let oldest = now - KEPT;
    tx.execute("DELETE FROM compared WHERE hour < $1", &[&hour(oldest)]).await?;
    tx.execute("DELETE FROM difference WHERE at < $1", &[&ms(now - DIFFERENCES_KEPT)]).await?;
    tx.execute("DELETE FROM compared_kind WHERE at < $1", &[&ms(oldest)]).await?;
    tx.execute(
        "DELETE FROM compared_kind k USING (
             SELECT target, kind, row_number() OVER (PARTITION BY target ORDER BY at DESC, kind) AS n FROM compared_kind) AS many
         WHERE k.target = many.target AND k.kind = many.kind AND many.n > $1",
        &[&MOST_KINDS],
    )
    .await?;
    Ok(())
}

/// The number of comparisons in the last 24 hours and in this hour, and when these kinds were compared last.
pub(super) async fn sampled(
    shared: &Shared,
    target: TargetId,
    now: Timestamp,
    kinds: Vec<u64>,
) -> Result<Sampled, Fault> {
    let client = shared.client().await?;
    let (number, now) = (i16::from(target.0), hour(now));
    let sums = client
        .one(
            "SELECT coalesce(sum(events), 0)::bigint, coalesce(sum(events) FILTER (WHERE hour >= $2), 0)::bigint
             FROM compared WHERE hour > $2 - 24 AND target = $1",
            &[&number, &now],
        )
        .await?;
    let kinds: Vec<i64> = kinds.into_iter().map(u64::cast_signed).collect();
    let found = "SELECT kind, at FROM compared_kind WHERE target = $1 AND kind = ANY($2)";
    let found = client.all(found, &[&number, &kinds]).await?;
    let kinds = found.iter().map(|row| (row.get::<_, i64>(0).cast_unsigned(), time(row.get(1)))).collect();
    let count = |at| sums.get::<_, i64>(at).cast_unsigned();
    Ok(Sampled { day: count(0), hour: count(1), kinds })
}

/// The comparisons since the beginning of an hour.
pub(super) async fn contents(shared: &Shared, target: TargetId, since: Timestamp) -> Result<Contents, Fault> {
    shared.know_names().await?;
    let client = shared.client().await?;
    let (number, hour) = (i16::from(target.0), hour(since));
    let sums = client
        .query(
            "SELECT project, sum(events)::bigint, sum(differing)::bigint FROM compared WHERE hour >= $1 AND target = $2
             GROUP BY project ORDER BY project",
            &[&hour, &number],
        )
        .await?;
    let differences = client
        .query(
            "SELECT project, event_id, at, field, sent, there FROM difference WHERE target = $1 AND at >= $2 ORDER BY id DESC",
            &[&number, &(i64::from(hour) * HOUR)],
        )
        .await?;
    let names = shared.names();
    let sum = |row: &tokio_postgres::Row| {
        let count = |at| row.get::<_, i64>(at).cast_unsigned();
        Some((names.project(row.get(0))?.clone(), count(1), count(2)))
    };
    let differing = |row: &tokio_postgres::Row| {
        Some(Differing {
            event_id: row.get::<_, Uuid>(1).as_u128().into(),
            project: names.project(row.get(0))?.clone(),
            at: time(row.get(2)),
            difference: FieldDifference { field: row.get(3), sent: row.get(4), there: row.get(5) },
        })
    };
    Ok(Contents {
        projects: sums.iter().filter_map(sum).collect(),
        differences: differences.iter().filter_map(differing).collect(),
    })
}

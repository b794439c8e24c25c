//! Adds observations to the evidence: attempts, lags and outages of upstreams, events of the intake, and the times in which relays ran.
//!
//! Rules: relays write one after another, under a lock, so the order of their rows does not matter. The ledger of each relay has the
//! postings of all, so all relays see the same steps: only the [leader](super::term) counts them, and of the lags the greatest is kept.
//! What happens between the last observation of one leader and the first of the next may be missing in the charts.

use crate::journal::TargetId;
use crate::journal::evidence::Observation;
use crate::policy::verdict::Verdict;
use crate::telemetry::lags::Lags;
use crate::telemetry::observations::{Change, Performance};
use crate::telemetry::series::Step;

use tokio_postgres::Transaction;

use super::fault::Fault;
use super::record::{ms, plain};
use super::shared::Shared;
use super::term;

/// The advisory lock of a relay that adds to the evidence: "SwJ2".
const LOCK: i64 = 0x5377_4a32;

/// Writes an observation.
pub(super) async fn write(shared: &Shared, observation: &Observation) -> Result<(), Fault> {
    let Observation { started, now, stopping, upstreams, steps, canaries, .. } = observation;
    let leads = shared.leads().await;
    let mut pooled = shared.client().await?;
    let tx = pooled.transaction().await?;
    tx.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    tx.execute(
        "INSERT INTO stretch VALUES ($1, $2, $3)
         ON CONFLICT (started) DO UPDATE SET seen = greatest(stretch.seen, excluded.seen), stopped = excluded.stopped",
        &[&ms(*started), &ms(*now), stopping],
    )
    .await?;
    write_intake(&tx, observation).await?;
    let counts = match leads {
        Some(epoch) => term::holds(&*tx, epoch).await?,
        None => false,
    };
    for (target, step) in steps {
        let (accepted, delivered, lost) = if counts { (step.accepted, step.delivered, step.lost) } else { (0, 0, 0) };
        write_step(&tx, *target, &Step { accepted, delivered, lost, ..step.clone() }).await?;
    }
    for (target, at) in canaries {
        tx.execute(
            "INSERT INTO latest (incarnation, target, canary_at) VALUES ($1, $2, $3)
             ON CONFLICT (incarnation, target) DO UPDATE SET canary_at = greatest(latest.canary_at, excluded.canary_at)",
            &[&shared.incarnation, &i16::from(target.0), &ms(*at)],
        )
        .await?;
    }
    for (target, observed) in upstreams {
        for (hour, performance) in &observed.hours {
            write_performance(&tx, *target, *hour, performance).await?;
        }
        for change in &observed.changes {
            write_change(&tx, *target, change).await?;
        }
    }
    tx.commit().await?;
    Ok(())
}

async fn write_intake(tx: &Transaction<'_>, Observation { now, intake, .. }: &Observation) -> Result<(), Fault> {
    let what: Vec<&str> = intake.iter().map(|tally| &*tally.what).collect();
    let kinds: Vec<&str> = intake.iter().map(|tally| &*tally.kind).collect();
    let counts: Vec<i64> = intake.iter().map(|tally| tally.count.cast_signed()).collect();
    tx.execute(
        "INSERT INTO intake AS i SELECT $1, w, k, sum(q)::bigint FROM unnest($2::text[], $3::text[], $4::bigint[]) AS u(w, k, q)
         GROUP BY w, k ON CONFLICT (hour, what, kind) DO UPDATE SET quantity = i.quantity + excluded.quantity",
        &[&super::accounts::hour(*now), &what, &kinds, &counts],
    )
    .await?;
    Ok(())
}

async fn write_step(tx: &Transaction<'_>, target: TargetId, step: &Step) -> Result<(), Fault> {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    tx.execute(
        "INSERT INTO step AS s VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (at, target) DO UPDATE SET accepted = s.accepted + excluded.accepted,
         delivered = s.delivered + excluded.delivered, lost = s.lost + excluded.lost, waiting = excluded.waiting,
         lag = greatest(excluded.lag, s.lag)",
        &[
            &ms(step.at),
            &i16::from(target.0),
            &number(step.accepted),
            &number(step.delivered),
            &number(step.lost),
            &number(step.waiting),
            &step.lag_p99.map(number),
        ],
    )
    .await?;
    Ok(())
}

async fn write_performance(
    tx: &Transaction<'_>,
    target: TargetId,
    hour: u64,
    performance: &Performance,
) -> Result<(), Fault> {
    let (hour, target) = (i32::try_from(hour).unwrap_or(i32::MAX), i16::from(target.0));
    for verdict in Verdict::ALL.into_iter().filter(|verdict| performance.attempts(*verdict) > 0) {
        tx.execute(
            "INSERT INTO attempt AS a VALUES ($1, $2, $3, $4)
             ON CONFLICT (hour, target, result) DO UPDATE SET quantity = a.quantity + excluded.quantity",
            &[&hour, &target, &verdict.name(), &performance.attempts(verdict).cast_signed()],
        )
        .await?;
    }
    let mut lags = performance.lags.clone();
    let kept = tx.query_opt("SELECT histogram FROM lag WHERE hour = $1 AND target = $2", &[&hour, &target]).await?;
    if let Some(row) = kept {
        lags.merge(&histogram(row.get(0)));
    }
    tx.execute(
        "INSERT INTO lag VALUES ($1, $2, $3) ON CONFLICT (hour, target) DO UPDATE SET histogram = excluded.histogram",
        &[&hour, &target, &lags.encode()],
    )
    .await?;
    Ok(())
}

/// A histogram that cannot be read counts as empty: nothing else depends on it.
pub(super) fn histogram(bytes: &[u8]) -> Lags {
    Lags::decode(bytes).unwrap_or_default()
}

/// Writes the beginning or end of an outage. An outage that lasts does not begin again: a restart does not end it.
async fn write_change(tx: &Transaction<'_>, target: TargetId, change: &Change) -> Result<(), Fault> {
    let target = i16::from(target.0);
    match change {
        Change::Down { at, cause } => {
            tx.execute(
                "INSERT INTO outage (target, began, cause) SELECT $1, $2, $3
                 WHERE NOT EXISTS (SELECT 1 FROM outage WHERE target = $1 AND ended IS NULL)",
                &[&target, &ms(*at), &plain(cause)],
            )
            .await?
        }
        Change::Up { at } => {
            let sql = "UPDATE outage SET ended = greatest(began, $2) WHERE target = $1 AND ended IS NULL";
            tx.execute(sql, &[&target, &ms(*at)]).await?
        }
    };
    Ok(())
}

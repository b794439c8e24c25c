//! Reads the evidence: sums over all relays, since the beginning of an hour.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::journal::bounded;
use crate::journal::evidence::{CANARY_FAILED, Evidence, LastHours, MOST, Outage, Stretch, Tally};
use crate::telemetry::series::Step;

use super::accounts::{INTAKE, hour};
use super::connect::Pooled;
use super::fault::Fault;
use super::observed::histogram;
use super::record::ms;
use super::shared::Shared;

/// The milliseconds of an hour.
pub(super) const HOUR: i64 = 3_600_000;

type ByName<T> = BTreeMap<Arc<str>, T>;

/// A reader of the evidence.
struct Look<'a> {
    shared: &'a Shared,
    client: Pooled,
    /// The hour that it begins with.
    hour: i32,
}

/// The evidence since the beginning of an hour.
pub(super) async fn read(shared: &Shared, since: Timestamp) -> Result<Evidence, Fault> {
    shared.know_names().await?;
    let look = Look { shared, client: shared.client().await?, hour: hour(since) };
    let mut evidence = Evidence {
        intake: look.intake().await?,
        stretches: look.stretches(since).await?,
        latest: look.latest().await?,
        steps: look.steps().await?,
        ..Evidence::default()
    };
    look.add_accounts(&mut evidence).await?;
    look.add_performance(&mut evidence).await?;
    Ok(evidence)
}

impl Look<'_> {
    /// The name of a target. All targets in rows are known, because targets are never removed.
    fn name(&self, target: i16) -> Arc<str> {
        self.shared.names().target(target).cloned().unwrap_or_else(|| "unknown".into())
    }

    async fn add_accounts(&self, evidence: &mut Evidence) -> Result<(), Fault> {
        let sql = "SELECT target, project, category, outcome, sum(quantity)::bigint FROM ledger WHERE hour >= $1
             GROUP BY target, project, category, outcome";
        for row in self.client.query(sql, &[&self.hour]).await? {
            let Some(project) = self.shared.names().project(row.get(1)).cloned() else { continue };
            let upstream = match row.get(0) {
                INTAKE => None,
                target => Some(self.name(target)),
            };
            let quantity = row.get::<_, i64>(4).cast_unsigned();
            evidence.add_account((upstream, project), (row.get(2), row.get(3)), quantity);
        }
        Ok(())
    }

    /// What each did since that hour began, and the lags of the hours after it.
    async fn add_performance(&self, evidence: &mut Evidence) -> Result<(), Fault> {
        let sql = "SELECT target, result, sum(quantity)::bigint FROM attempt WHERE hour >= $1 GROUP BY target, result";
        for row in self.client.query(sql, &[&self.hour]).await? {
            evidence.add_attempts(self.name(row.get(0)), row.get(1), row.get::<_, i64>(2).cast_unsigned());
        }
        let sql = "SELECT target, histogram, hour FROM lag WHERE hour >= $1";
        for row in self.client.query(sql, &[&self.hour]).await? {
            evidence.add_lags(self.name(row.get(0)), &histogram(row.get(1)), row.get::<_, i32>(2) > self.hour);
        }
        Ok(())
    }

    /// The last hour of each outcome, of misconfigured attempts and of failed canaries, by upstream.
    async fn latest(&self) -> Result<LastHours, Fault> {
        let mut all = LastHours::new();
        for sql in [
            "SELECT target, outcome, max(hour) FROM ledger WHERE hour >= $1 AND target >= 0 GROUP BY target, outcome",
            "SELECT target, result, max(hour) FROM attempt WHERE hour >= $1 AND result = 'misconfigured'
             GROUP BY target, result",
        ] {
            for row in self.client.query(sql, &[&self.hour]).await? {
                all.insert((self.name(row.get(0)), row.get::<_, &str>(1).into()), beginning(row.get(2)));
            }
        }
        let sql = "SELECT kind, max(hour) FROM intake WHERE hour >= $1 AND what = $2 GROUP BY kind";
        for row in self.client.query(sql, &[&self.hour, &CANARY_FAILED]).await? {
            all.insert((row.get::<_, &str>(0).into(), CANARY_FAILED.into()), beginning(row.get(1)));
        }
        Ok(all)
    }

    async fn intake(&self) -> Result<Vec<Tally>, Fault> {
        let sql = "SELECT what, kind, sum(quantity)::bigint FROM intake WHERE hour >= $1 GROUP BY what, kind
             ORDER BY what, kind";
        let rows = self.client.query(sql, &[&self.hour]).await?;
        let tally = |row: &tokio_postgres::Row| Tally {
            what: row.get::<_, &str>(0).into(),
            kind: row.get::<_, &str>(1).into(),
            count: row.get::<_, i64>(2).cast_unsigned(),
        };
        Ok(rows.iter().map(tally).collect())
    }

    async fn stretches(&self, since: Timestamp) -> Result<Vec<Stretch>, Fault> {
        let sql = "SELECT started, seen, stopped FROM stretch
             WHERE seen >= $1 OR started = (SELECT max(started) FROM stretch WHERE seen < $1) ORDER BY started LIMIT $2";
        let rows = self.client.query(sql, &[&ms(since), &MOST]).await?;
        let stretch =
            |row: &tokio_postgres::Row| Stretch { from: at(row.get(0)), to: at(row.get(1)), stopped: row.get(2) };
        Ok(rows.iter().map(stretch).collect())
    }

    /// The steps by the name of their target.
    async fn steps(&self) -> Result<ByName<Vec<Step>>, Fault> {
        let sql = "SELECT target, at, accepted, delivered, lost, waiting, lag FROM step WHERE at >= $1 ORDER BY at";
        let mut all = ByName::<Vec<Step>>::new();
        for row in self.client.query(sql, &[&(i64::from(self.hour) * HOUR)]).await? {
            let number = |at: usize| row.get::<_, i64>(at).cast_unsigned();
            let step = Step {
                at: Timestamp::from_millis(number(1)),
                accepted: number(2),
                delivered: number(3),
                lost: number(4),
                waiting: number(5),
                lag_p99: row.get::<_, Option<i64>>(6).map(i64::cast_unsigned),
            };
            all.entry(self.name(row.get(0))).or_default().push(step);
        }
        Ok(all)
    }
}

/// The outages that had not ended by `since`, the newest first, at most `limit`.
pub(super) async fn outages(shared: &Shared, since: Timestamp, limit: usize) -> Result<Vec<Outage>, Fault> {
    let client = shared.client().await?;
    let limit = bounded(limit);
    let sql = "SELECT t.name, o.began, o.ended, o.cause FROM outage o JOIN target t ON t.id = o.target
         WHERE o.ended IS NULL OR o.ended > $1 ORDER BY o.id DESC LIMIT $2";
    let rows = client.query(sql, &[&ms(since), &limit]).await?;
    let outage = |row: &tokio_postgres::Row| Outage {
        upstream: row.get::<_, &str>(0).into(),
        from: at(row.get(1)),
        to: row.get::<_, Option<i64>>(2).map(at),
        cause: row.get::<_, &str>(3).into(),
    };
    Ok(rows.iter().map(outage).collect())
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms.cast_unsigned())
}

fn beginning(hour: i32) -> Timestamp {
    at(i64::from(hour) * HOUR)
}

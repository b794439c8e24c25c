//! The port of facts: switches, evidence, figures and losses.

use std::collections::HashMap;

use crate::clock::Timestamp;
use crate::journal::evidence::{Evidence, Figures, Latest, Observation, Outage};
use crate::journal::losses::Loss;
use crate::journal::term::Epoch;
use crate::journal::{Call, Facts, Submission, Switch, TargetId, bounded};

use super::fault::Fault;
use super::group::{Command, Report};
use super::record::{ms, plain};
use super::shared::Shared;
use super::{PostgresJournal, evidence, losses, observed};

impl Facts for PostgresJournal {
    fn record_switch(&self, switch: Switch) -> Call<'_, ()> {
        self.call(|shared| async move { record_switch(&shared, &switch).await })
    }

    fn switches(&self, limit: usize) -> Call<'_, Vec<Switch>> {
        self.call(move |shared| async move { switches(&shared, limit).await })
    }

    fn observe(&self, observation: Observation) -> Call<'_, ()> {
        self.call(|shared| async move { observed::write(&shared, &observation).await })
    }

    fn evidence(&self, since: Timestamp) -> Call<'_, Evidence> {
        self.call(move |shared| async move { evidence::read(&shared, since).await })
    }

    fn outages(&self, since: Timestamp, limit: usize) -> Call<'_, Vec<Outage>> {
        self.call(move |shared| async move { evidence::outages(&shared, since, limit).await })
    }

    fn figures(&self) -> Call<'_, HashMap<TargetId, Figures>> {
        self.call(|shared| async move { figures(&shared).await })
    }

    fn lose(&self, told: Vec<Loss>) -> Call<'_, ()> {
        self.call(|shared| async move { losses::add(&shared, &told).await })
    }

    fn losses(&self) -> Call<'_, Vec<Loss>> {
        self.call(|shared| async move { losses::read(&shared).await })
    }

    fn report(&self, told: Vec<Loss>, report: Option<Submission>) -> Call<'_, ()> {
        let (submission, epoch) = (report.map(Box::new), Epoch::current());
        Box::pin(self.ask(move |reply| Command::Report(Report { told, submission, epoch, reply })))
    }
}

async fn record_switch(shared: &Shared, switch: &Switch) -> Result<(), Fault> {
    let Switch { at, project, from, to, reason, author } = switch;
    let text = |text: &Option<Box<str>>| text.as_deref().map(plain);
    let client = shared.client().await?;
    client
        .execute(
            "INSERT INTO switch (at, project, before, after, reason, author) VALUES ($1, $2, $3, $4, $5, $6)",
            &[&ms(*at), &text(project), &text(from), &plain(to), &text(reason), &text(author)],
        )
        .await?;
    Ok(())
}

async fn switches(shared: &Shared, limit: usize) -> Result<Vec<Switch>, Fault> {
    let client = shared.client().await?;
    let limit = bounded(limit);
    let sql = "SELECT at, project, before, after, reason, author FROM switch ORDER BY id DESC LIMIT $1";
    let rows = client.query(sql, &[&limit]).await?;
    let word = |row: &tokio_postgres::Row, at| row.get::<_, Option<&str>>(at).map(Into::into);
    let switch = |row: &tokio_postgres::Row| Switch {
        at: Timestamp::from_millis(row.get::<_, i64>(0).cast_unsigned()),
        project: word(row, 1),
        from: word(row, 2),
        to: row.get::<_, &str>(3).into(),
        reason: word(row, 4),
        author: word(row, 5),
    };
    Ok(rows.iter().map(switch).collect())
}

async fn figures(shared: &Shared) -> Result<HashMap<TargetId, Figures>, Fault> {
    let sql =
        "SELECT t.id, (SELECT count(*) FROM dead_letter d WHERE d.target = t.id), max(l.delivered_at), max(l.canary_at)
         FROM target t LEFT JOIN latest l ON l.target = t.id GROUP BY t.id";
    let rows = shared.client().await?.all(sql, &[]).await?;
    let at = |row: &tokio_postgres::Row, at| {
        row.get::<_, Option<i64>>(at).map(|ms| Timestamp::from_millis(ms.cast_unsigned()))
    };
    let figures = |row: &tokio_postgres::Row| {
        let latest = Latest { delivered_at: at(row, 2), canary_at: at(row, 3) };
        let dead_letters = row.get::<_, i64>(1).cast_unsigned();
        Some((TargetId(u8::try_from(row.get::<_, i16>(0)).ok()?), Figures { dead_letters, latest }))
    };
    Ok(rows.iter().filter_map(figures).collect())
}

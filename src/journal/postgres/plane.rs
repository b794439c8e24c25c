//! What the relays on one journal share besides it: which upstream is the primary, and who leads which chore.
//!
//! Rules: the primary is one row with a revision that rises with each switch. Whoever switches tells the others at once, and they look
//! every second besides. A chore has one leader until its term ends by the clock of the database, or its relay is gone. Each relay
//! judges its own terms by its own clock, from before it asked: it gives one up before the database gives it away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::journal::JournalError;

use super::PostgresJournal;
use super::connect::Connection;
use super::fault::Fault;
use super::shared::Shared;

/// Where a switch is told.
const CHANNEL: &str = "switchyard_control";
/// How often it is looked whether there was one.
const LOOK: Duration = Duration::from_secs(1);
/// How long a look may take before it is made over another connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a relay leads a chore after it asked; with half of that left it asks again.
const TERM: Duration = Duration::from_secs(5);

/// The primary of all relays.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SharedPrimary {
    /// Rises with each switch.
    pub revision: i64,
    /// The upstream.
    pub name: String,
    /// Whether this relay made it the primary, in this run or in one before.
    pub is_ours: bool,
}

/// The terms of this relay as a leader: when each chore's ends.
pub(super) type Terms = Mutex<HashMap<&'static str, Instant>>;

impl PostgresJournal {
    /// The primary of all relays. The first relay to ask makes its own the one of all.
    pub async fn shared_primary(&self, own: &str) -> Result<SharedPrimary, JournalError> {
        let own = own.to_owned();
        self.call(|shared| async move {
            let (client, me) = (shared.client().await?, shared.settings.node_name());
            let sql = "UPDATE control SET main = $1, set_by = $2, revision = revision + 1 WHERE main IS NULL";
            client.execute(sql, &[&own, &me]).await?;
            let row = client.query_one("SELECT revision, main, set_by = $1 FROM control", &[&me]).await?;
            Ok(SharedPrimary { revision: row.get(0), name: row.get(1), is_ours: row.get(2) })
        })
        .await
    }

    /// Makes an upstream the primary of all relays, and returns the one before.
    pub async fn share_primary(&self, name: &str) -> Result<Option<String>, JournalError> {
        let name = name.to_owned();
        self.call(|shared| async move {
            let (mut pooled, me) = (shared.client().await?, shared.settings.node_name());
            let tx = pooled.transaction().await?;
            let before: Option<String> = tx.query_one("SELECT main FROM control FOR UPDATE", &[]).await?.get(0);
            if before.as_ref() != Some(&name) {
                let sql = "UPDATE control SET main = $1, set_by = $2, revision = revision + 1";
                tx.execute(sql, &[&name, &me]).await?;
                tx.batch_execute(&format!("NOTIFY {CHANNEL}")).await?;
            }
            tx.commit().await?;
            Ok(before)
        })
        .await
    }

    /// Tells of switches that come after this revision.
    pub fn watch_primary(&self, revision: i64) -> PrimaryWatch {
        PrimaryWatch { shared: Arc::clone(&self.shared), listening: None, seen: revision }
    }

    /// Whether this relay leads the chore now, and for as long as a step takes.
    pub async fn leads(&self, chore: &'static str) -> bool {
        let asked = Instant::now();
        let ends = self.terms.lock().unwrap_or_else(PoisonError::into_inner).get(chore).copied();
        if ends.is_some_and(|ends| ends > asked + TERM / 2) {
            return true;
        }
        let answer = timeout(TERM / 2, self.call(move |shared| async move { lead(&shared, chore).await })).await;
        let leads = matches!(answer, Ok(Ok(true)));
        let mut terms = self.terms.lock().unwrap_or_else(PoisonError::into_inner);
        if leads {
            terms.insert(chore, asked + TERM);
        } else {
            terms.remove(chore);
        }
        leads
    }
}

/// Asks for a term.
async fn lead(shared: &Shared, chore: &str) -> Result<bool, Fault> {
    let client = shared.client().await?;
    let statement = client
        .prepare_cached(
            "INSERT INTO chore AS c
             SELECT $1, incarnation, 1, clock_timestamp() + make_interval(secs => $3) FROM node WHERE incarnation = $2 AND NOT replaced
             ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, ends = excluded.ends,
                 epoch = c.epoch + CASE WHEN c.owner = excluded.owner THEN 0 ELSE 1 END
             WHERE c.owner = $2 OR c.ends < clock_timestamp() OR NOT EXISTS (
                 SELECT 1 FROM node n WHERE n.incarnation = c.owner AND NOT n.replaced AND NOT n.gone)",
        )
        .await?;
    Ok(client.execute(&statement, &[&chore, &shared.incarnation, &TERM.as_secs_f64()]).await? > 0)
}

/// Waits for switches, on a connection of its own.
pub struct PrimaryWatch {
    shared: Arc<Shared>,
    listening: Option<Connection>,
    seen: i64,
}

impl PrimaryWatch {
    /// Returns when there was a switch since the last return.
    pub async fn changed(&mut self) {
        loop {
            match timeout(PATIENCE, self.look()).await {
                Ok(Ok(revision)) if revision != self.seen => {
                    self.seen = revision;
                    return;
                }
                Ok(Ok(_)) => {}
                Ok(Err(fault)) => {
                    tracing::debug!(%fault, "it is looked again in a moment whether the primary was switched")
                }
                Err(_) => tracing::debug!("a look whether the primary was switched is not answered"),
            }
            let told = self.listening.as_ref().map(|connection| connection.told());
            match told {
                Some(told) => drop(timeout(LOOK, told.notified()).await),
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// The revision. It is listened before it is read, so one that comes after that is told.
    async fn look(&mut self) -> Result<i64, Fault> {
        let connection = match self.listening.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => {
                let connection = self.shared.connector.connect().await?;
                connection.batch_execute(&format!("LISTEN {CHANNEL}")).await?;
                connection
            }
        };
        let revision = connection.query_one("SELECT revision FROM control", &[]).await?.get(0);
        self.listening = Some(connection);
        Ok(revision)
    }
}

//! What the relays on one journal share besides it: which upstream is the primary, and the common part of their configuration.
//!
//! Rules: both are one row with a revision that rises with each change. Whoever changes it tells the others at once, and they look every
//! second besides. The common part is the text of the one that leads: another one changes nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::journal::JournalError;
use crate::journal::term::Epoch;

use super::PostgresJournal;
use super::connect::Connection;
use super::fault::Fault;
use super::shared::Shared;
use super::term;

/// Where a change is told, and what relays learn of upstreams.
pub(super) const CHANNEL: &str = "switchyard_control";
/// How often it is looked whether there was one.
const LOOK: Duration = Duration::from_secs(1);
/// How long a look may take before it is made over another connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// What all relays have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plane {
    /// Rises with each change.
    pub revision: i64,
    /// The upstream that is the primary.
    pub primary: String,
    /// Whether this relay made it the primary, in this run or in one before.
    pub is_ours: bool,
    /// The common part of the configuration.
    pub common: String,
}

impl PostgresJournal {
    /// What all relays have. The first relay to ask makes its own that of all, as far as there is none: a moved journal brings its
    /// primary alone.
    pub async fn plane(&self, primary: &str, common: &str) -> Result<Plane, JournalError> {
        let (primary, common) = (primary.to_owned(), common.to_owned());
        self.call(|shared| async move {
            let (client, me) = (shared.client().await?, shared.settings.node_name());
            let sql = "UPDATE control SET main = coalesce(main, $1::text),
                set_by = coalesce(set_by, CASE WHEN main IS NULL THEN $2::text END),
                common = coalesce(common, $3::text), revision = revision + 1
                WHERE main IS NULL OR common IS NULL";
            client.execute(sql, &[&primary, &me, &common]).await?;
            let sql = "SELECT revision, main, coalesce(set_by = $1, false), common FROM control";
            let row = client.query_one(sql, &[&me]).await?;
            client.make_certain().await?;
            Ok(Plane { revision: row.get(0), primary: row.get(1), is_ours: row.get(2), common: row.get(3) })
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
            pooled.make_certain().await?;
            Ok(before)
        })
        .await
    }

    /// Makes `before` the primary of all relays again, unless another relay has changed it since this one made `name` that.
    pub async fn take_back_primary(&self, name: &str, before: &str) -> Result<(), JournalError> {
        let (name, before) = (name.to_owned(), before.to_owned());
        self.call(|shared| async move {
            let (client, me) = (shared.client().await?, shared.settings.node_name());
            let sql = "WITH taken AS (UPDATE control SET main = $2, revision = revision + 1
                     WHERE main = $1 AND set_by = $3 RETURNING 1)
                 SELECT pg_notify($4, '') FROM taken";
            client.query(sql, &[&name, &before, &me, &CHANNEL]).await?;
            Ok(())
        })
        .await
    }

    /// Makes a text the common part of the configuration of all relays, under a term of this one.
    pub async fn publish(&self, epoch: Epoch, common: &str) -> Result<(), JournalError> {
        let common = common.to_owned();
        self.call(move |shared| async move {
            let mut pooled = shared.client().await?;
            let tx = pooled.transaction().await?;
            if !term::holds(&*tx, epoch).await? {
                return Err(term::over());
            }
            tx.execute("UPDATE control SET common = $1, revision = revision + 1", &[&common]).await?;
            tx.batch_execute(&format!("NOTIFY {CHANNEL}")).await?;
            Ok(tx.commit().await?)
        })
        .await
    }

    /// Notes by which names the file of this relay differs from the common part.
    pub async fn note_differing(&self, names: Vec<String>) -> Result<(), JournalError> {
        self.call(|shared| async move {
            let sql = "UPDATE node SET differs = $2 WHERE incarnation = $1 AND differs <> $2";
            shared.client().await?.execute(sql, &[&shared.incarnation, &names]).await?;
            Ok(())
        })
        .await
    }

    /// Tells of changes that come after this revision.
    pub fn watch_plane(&self, revision: i64) -> PlaneWatch {
        PlaneWatch { shared: Arc::clone(&self.shared), listening: None, seen: revision }
    }

    /// The term of this relay, if it leads now, and for as long as a step takes.
    pub async fn leads(&self) -> Option<Epoch> {
        self.shared.leads().await
    }
}

/// Waits for changes, on a connection of its own.
pub struct PlaneWatch {
    shared: Arc<Shared>,
    listening: Option<Connection>,
    seen: i64,
}

impl PlaneWatch {
    /// Returns when there was a change since the last return.
    pub async fn changed(&mut self) {
        loop {
            match self.look().await {
                Ok(revision) if revision != self.seen => {
                    self.seen = revision;
                    return;
                }
                Ok(_) => {}
                Err(fault) => {
                    tracing::debug!(%fault, "it is looked again in a moment whether relays share something else")
                }
            }
            let told = self.listening.as_ref().map(|connection| connection.told());
            match told {
                Some(told) if timeout(LOOK, told.notified()).await.is_ok() => self.shared.stirred.notify_one(),
                Some(_) => {}
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// The revision, read over a connection that is kept.
    async fn look(&mut self) -> Result<i64, Fault> {
        let (connection, is_new) = match self.listening.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => (connection, false),
            None => (self.shared.connector.connect().await?, true),
        };
        let revision = timeout(PATIENCE, self.read(&connection, is_new)).await;
        let revision = revision.unwrap_or_else(|_| Err(Fault::Away("the server does not answer".into())))?;
        self.listening = Some(connection);
        Ok(revision)
    }

    /// It is listened before the revision is read, so one that comes after that is told.
    async fn read(&self, connection: &Connection, is_new: bool) -> Result<i64, Fault> {
        if is_new {
            connection.batch_execute(&format!("LISTEN {CHANNEL}")).await?;
        }
        let revision = connection.query_one("SELECT revision FROM control", &[]).await?.get(0);
        if revision != self.seen {
            connection.make_certain().await?;
        }
        Ok(revision)
    }
}

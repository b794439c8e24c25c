//! What relays on one journal share besides it: the primary, and the common part of their configuration.
//!
//! Rules: both are in one row, with a revision that rises with each change. A change notifies the other relays, which also look every
//! second.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::journal::Call;
use crate::journal::plane::{ControlPlane, Plane};
use crate::journal::term::Epoch;

use super::PostgresJournal;
use super::connect::Connection;
use super::fault::Fault;
use super::shared::Shared;
use super::term;

/// The channel for notifications of changes, and of what relays learn of upstreams.
pub(super) const CHANNEL: &str = "switchyard_control";
/// How often a relay looks for a change without a notification.
const LOOK: Duration = Duration::from_secs(1);
/// The time limit of a look. The next one uses another connection.
const PATIENCE: Duration = Duration::from_secs(5);

impl ControlPlane for PostgresJournal {
    fn plane(&self, primary: &str, common: &str) -> Call<'_, Plane> {
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
    }

    fn share_primary(&self, name: &str) -> Call<'_, Option<String>> {
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
    }

    fn take_back_primary(&self, name: &str, before: &str) -> Call<'_, ()> {
        let (name, before) = (name.to_owned(), before.to_owned());
        self.call(|shared| async move {
            let (client, me) = (shared.client().await?, shared.settings.node_name());
            let sql = "WITH taken AS (UPDATE control SET main = $2, revision = revision + 1
                     WHERE main = $1 AND set_by = $3 RETURNING 1)
                 SELECT pg_notify($4, '') FROM taken";
            client.query(sql, &[&name, &before, &me, &CHANNEL]).await?;
            Ok(())
        })
    }

    fn publish(&self, epoch: Epoch, common: &str) -> Call<'_, ()> {
        let common = common.to_owned();
        self.call(move |shared| async move {
            let mut pooled = shared.client().await?;
            let tx = pooled.transaction().await?;
            term::under(&*tx, epoch).await?;
            tx.execute("UPDATE control SET common = $1, revision = revision + 1", &[&common]).await?;
            tx.batch_execute(&format!("NOTIFY {CHANNEL}")).await?;
            Ok(tx.commit().await?)
        })
    }

    fn note_differing(&self, names: Vec<String>) -> Call<'_, ()> {
        self.call(|shared| async move {
            let sql = "UPDATE node SET differs = $2 WHERE incarnation = $1 AND differs <> $2";
            shared.client().await?.execute(sql, &[&shared.incarnation, &names]).await?;
            Ok(())
        })
    }

    fn watch(&self, revision: i64) -> BoxStream<'static, ()> {
        let watch = Watch { shared: Arc::clone(&self.shared), listening: None, seen: revision };
        stream::unfold(watch, |mut watch| async move {
            watch.changed().await;
            Some(((), watch))
        })
        .boxed()
    }

    fn leads(&self) -> BoxFuture<'_, Option<Epoch>> {
        self.shared.leads().boxed()
    }

    fn replaced(&self) -> &CancellationToken {
        &self.shared.is_replaced
    }
}

/// Waits for changes, on a connection of its own.
struct Watch {
    shared: Arc<Shared>,
    listening: Option<Connection>,
    seen: i64,
}

impl Watch {
    /// Returns when there was a change since the last return.
    async fn changed(&mut self) {
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

    /// Reads the revision over a connection that is kept.
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

    /// Listens before it reads the revision, so that a later change is notified.
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

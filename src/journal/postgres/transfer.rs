//! Moves a journal in PostgreSQL out or in: one connection with its lock and the marks ([`crate::journal::transfer`]).
//!
//! Rules: a lock that the connection holds keeps relays from entering and other moves from beginning. Relays that entered before are seen
//! in the table `node`; a relay that stands still and comes back later is fenced when the journal is marked. Records that are moved in
//! belong to an incarnation of their own that no relay had; counts from before belong to the incarnation 0.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc};
use tokio_postgres::Client;

use crate::journal::transfer::{Contents, Entry, MoveId, State, Store, TransferError};
use crate::journal::{DatabaseUrl, OpenError, Settings};

use super::connect::{self, Connection, Connector};
use super::fault::Fault;
use super::schema;

mod contents;
mod export;
mod import;
mod rows;

/// A journal in a database that nobody else has.
#[derive(Debug)]
pub struct PostgresStore {
    place: String,
    connection: Mutex<Connection>,
}

impl PostgresStore {
    /// Opens the journal at `settings.url`, and makes its tables if there are none.
    pub async fn open(settings: &Settings) -> Result<Self, TransferError> {
        let place = settings.place();
        let connection = match connected(settings, &place).await {
            Ok(connection) => Mutex::new(connection),
            Err(Fault::Open(error)) => return Err(error.into()),
            Err(other) => return Err(OpenError::Unusable { place, why: other.to_string() }.into()),
        };
        Ok(Self { place, connection })
    }

    fn or<T>(&self, outcome: Result<T, Fault>) -> Result<T, TransferError> {
        outcome.map_err(|fault| match fault {
            Fault::CutOff => TransferError::CutOff,
            other => TransferError::Failed(format!("{}: {other}", self.place)),
        })
    }
}

async fn connected(settings: &Settings, place: &str) -> Result<Connection, Fault> {
    let url = settings.url.as_ref().map(DatabaseUrl::expose).unwrap_or_default();
    let config: tokio_postgres::Config = url.parse()?;
    let connector = Connector::new(&config, connect::tls(), settings.durability, Handle::current());
    let mut connection = connector.connect().await?;
    // Counting the contents takes long.
    connection.batch_execute("SET statement_timeout = '10min'").await?;
    schema::prepare_move(&mut connection, place).await?;
    Ok(connection)
}

impl Store for PostgresStore {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn state(&self) -> BoxFuture<'_, Result<State, TransferError>> {
        Box::pin(async {
            let connection = self.connection.lock().await;
            let client: &Client = &connection;
            self.or(schema::state(client).await)
        })
    }

    fn expect_idle(&self) -> BoxFuture<'_, Result<(), TransferError>> {
        Box::pin(async {
            let connection = self.connection.lock().await;
            let alive = "SELECT name, 0::bigint FROM node WHERE NOT replaced AND alive_until >= clock_timestamp() ORDER BY name";
            if let Some(relay) = self.or(connection.all(alive, &[]).await)?.first() {
                let (name, place) = (relay.get::<_, &str>(0), &self.place);
                return Err(TransferError::Refused(format!(
                    "relay {name} is on {place}: stop all relays; one that crashed is taken for gone after 15 seconds"
                )));
            }
            // The number that a relay reported before it lost the database says nothing of what it has kept since.
            let unsaid =
                "SELECT name, spilled FROM (SELECT DISTINCT ON (name) * FROM node ORDER BY name, incarnation DESC) AS n
                 WHERE alive_until > '-infinity' ORDER BY name";
            let unsaid = self.or(connection.all(unsaid, &[]).await)?;
            if unsaid.is_empty() {
                return Ok(());
            }
            let relays: Vec<String> = unsaid.iter().map(|relay| told_of(relay.get(0), relay.get(1))).collect();
            Err(TransferError::Refused(format!(
                "{}: start each of them until `switchyard status` says that nothing is kept there, and stop it. If its machine is lost, \
                 start a relay under its name (journal.node) and stop it",
                relays.join("; ")
            )))
        })
    }

    fn contents(&self) -> BoxFuture<'_, Result<Contents, TransferError>> {
        Box::pin(async { self.or(contents::read(&*self.connection.lock().await).await) })
    }

    fn export(&self, to: mpsc::Sender<Entry>) -> BoxFuture<'_, Result<(), TransferError>> {
        Box::pin(async move {
            let connection = self.connection.lock().await;
            self.or(export::run(&connection, &to).await)
        })
    }

    fn import(
        &self,
        by: MoveId,
        mut from: mpsc::Receiver<Entry>,
        kept: Arc<AtomicU64>,
    ) -> BoxFuture<'_, Result<(), TransferError>> {
        Box::pin(async move {
            let connection = self.connection.lock().await;
            self.or(import::run(&connection, by, &mut from, &kept).await)
        })
    }

    fn mark(&self, state: State) -> BoxFuture<'_, Result<(), TransferError>> {
        Box::pin(async move { self.or(mark(&*self.connection.lock().await, state).await) })
    }
}

/// Describes what a relay that did not report an empty machine may still keep.
fn told_of(name: &str, spilled: i64) -> String {
    match spilled.cast_unsigned() {
        0 => format!(
            "relay {name} ended without a word, and may keep envelopes on its machine that are not in the database"
        ),
        kept => {
            let kept = crate::telemetry::words::some(kept, "envelope");
            format!("relay {name} still keeps {kept} on its machine that are not in the database")
        }
    }
}

/// Marks the journal, and fences relays that were on it before.
async fn mark(connection: &Connection, state: State) -> Result<(), Fault> {
    connection.batch_execute("BEGIN").await?;
    connection.run("UPDATE node SET replaced = true WHERE NOT replaced", &[]).await?;
    connection.run("UPDATE meta SET state = $1", &[&schema::column(state)]).await?;
    Ok(connection.batch_execute("COMMIT").await?)
}

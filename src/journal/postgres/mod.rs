//! The journal in PostgreSQL, shared by several relays.
//!
//! ```text
//!  intake ──append──▶ one task commits in groups ──▶ record, key, ledger ◀── of every relay
//!  workers ─settle──▲          │ handout                   │ frontier, slice, pending
//!  workers ◀─claim── what this relay has in hand ◀─fetch───┘
//! ```
//!
//! Rules: each start of a relay is an incarnation, with its own record numbers, account rows and leases. A relay reports twice a second
//! that it lives. One that was silent for fifteen seconds, or whose name another one has taken, is gone, and the records that it had in
//! hand are handed out again. Transactions that change accounts run one after another (`work`); others use connections of a pool.

mod accounts;
mod again;
mod append;
mod archive;
mod backfill;
mod beat;
mod bodies;
mod claim;
mod compare;
mod connect;
mod days;
mod discard;
mod drafts;
mod evict;
mod evidence;
mod facts;
mod fault;
mod fresh;
mod group;
mod hand;
mod handout;
mod letters;
mod log;
mod losses;
mod moving;
mod nodes;
mod observed;
mod others;
mod over;
mod pace;
mod peek;
mod places;
mod plane;
mod queues;
mod record;
mod redelivery;
mod retry;
mod room;
mod schema;
mod settled;
mod shared;
mod spill;
mod storage;
mod term;
mod transfer;
mod upgrade;
mod upkeep;
mod verification;
mod waiting;
mod work;

use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use deadpool::Runtime;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::policy::dedup::SECRET;
use crate::telemetry::ledger::Ledger;

use super::term::{Epoch, under};
use super::verification::Verification;
use super::{Call, ControlPlane, DatabaseUrl, Journal, JournalError, OpenError, Pace, Settings};
use connect::{Connections, Connector, Pool};
use fault::Fault;
use group::{Command, INBOX};
use others::Others;
use shared::{Shared, Start};
pub use transfer::PostgresStore;

/// The number of pooled connections. The writer, the reports that this relay lives, and the listener have connections of their own.
const CONNECTIONS: usize = 6;
/// A relay's view of the journal in PostgreSQL.
#[derive(Debug)]
pub struct PostgresJournal {
    shared: Arc<Shared>,
    commands: Mutex<Option<mpsc::UnboundedSender<Command>>>,
    /// Permits for submissions that wait for their commit.
    places: Semaphore,
    secret: [u8; SECRET],
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl PostgresJournal {
    /// Joins the journal at `settings.url` and posts the kept totals to `ledger`. Makes the tables if there are none. The journal's tasks
    /// run on the calling runtime.
    pub async fn open(settings: &Settings, clock: Clock, ledger: Ledger) -> Result<Self, OpenError> {
        let place = || settings.place();
        Self::join(settings, clock, ledger).await.map_err(|fault| match fault {
            Fault::Open(error) => error,
            other => OpenError::Unusable { place: place(), why: other.to_string() },
        })
    }

    async fn join(settings: &Settings, clock: Clock, ledger: Ledger) -> Result<Self, Fault> {
        let runtime = Handle::current();
        let url = settings.url.as_ref().map(DatabaseUrl::expose).unwrap_or_default();
        let config: tokio_postgres::Config = url.parse()?;
        let connector = Connector::new(&config, connect::tls(), settings.durability, runtime.clone());
        let connector = Arc::new(connector);
        let mut first = connector.connect().await?;
        schema::bring_up_to_date(&mut first).await?;
        let (name, started_at) = (settings.node_name(), clock.now());
        let entered = nodes::enter(&mut first, (&name, &settings.place()), started_at).await?;
        let secret =
            entered.secret.try_into().map_err(|_| Fault::Failed("the secret of the journal cannot be read".into()))?;
        drop(first);
        let pool = Pool::builder(Connections(Arc::clone(&connector))).max_size(CONNECTIONS).runtime(Runtime::Tokio1);
        let pool = pool.wait_timeout(Some(beat::SILENT)).build();
        let pool = pool.map_err(|error| Fault::Failed(error.to_string()))?;
        let spill = spill::Spill::open(settings, clock.clone()).await?;
        let settings = settings.clone();
        let shared = Arc::new(Shared::new(Start {
            settings,
            clock,
            ledger,
            runtime,
            connector,
            pool,
            incarnation: entered.incarnation,
            joined: entered.joined,
            started_at,
            spill,
        }));
        shared.know_names().await?;
        let mut others = Others::default();
        others.read(&shared, true).await?;
        upkeep::bury(&shared).await?;
        waiting::look_again(&shared).await?;
        storage::measure_room(&shared).await?;
        days::read(&shared).await?;
        let (commands, inbox) = mpsc::unbounded_channel();
        let moving = moving::run(Arc::clone(&shared), commands.downgrade());
        let tasks = vec![
            spawn(&shared, moving),
            spawn(&shared, group::run(Arc::clone(&shared), inbox)),
            spawn(&shared, beat::say_alive(Arc::clone(&shared))),
            spawn(&shared, beat::look(Arc::clone(&shared), others)),
            spawn(&shared, bodies::remove_dropped(Arc::clone(&shared))),
        ];
        let (commands, tasks) = (Mutex::new(Some(commands)), Mutex::new(tasks));
        Ok(Self { shared, commands, places: Semaphore::new(INBOX), secret, tasks })
    }

    /// The secret for the keys of repeats: random, made once, and the same for all relays.
    pub fn secret(&self) -> [u8; SECRET] {
        self.secret
    }

    /// Sends a command to be committed.
    fn send(&self, command: Command) -> Result<(), JournalError> {
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = commands.as_ref().and_then(|commands| commands.send(command).ok());
        sent.ok_or(JournalError::Closed)
    }

    /// Sends a command and returns its answer.
    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, JournalError>>) -> Command,
    ) -> Result<T, JournalError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply))?;
        answer.await.unwrap_or(Err(JournalError::Closed))
    }

    /// Returns when everything that was sent before is committed.
    async fn flush(&self) -> Result<(), JournalError> {
        self.ask(Command::Flush).await
    }

    /// Makes a call to its end, whether the caller waits for it or not.
    fn call<T: Send + 'static, F>(&self, act: impl FnOnce(Arc<Shared>) -> F) -> Call<'static, T>
    where
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        call(&self.shared, act)
    }
}

impl Journal for PostgresJournal {
    fn verification(&self) -> &dyn Verification {
        self
    }

    fn pace(&self) -> Option<&dyn Pace> {
        Some(self)
    }

    fn control_plane(self: Arc<Self>) -> Option<Arc<dyn ControlPlane>> {
        Some(self)
    }
}

impl Drop for PostgresJournal {
    fn drop(&mut self) {
        // A drop without `close` is like a crash.
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Makes a call to its end, whether the caller waits for it or not, under the caller's term.
fn call<T: Send + 'static, F>(shared: &Arc<Shared>, act: impl FnOnce(Arc<Shared>) -> F) -> Call<'static, T>
where
    F: Future<Output = Result<T, Fault>> + Send + 'static,
{
    if shared.is_closed.load(Ordering::Acquire) {
        return Box::pin(std::future::ready(Err(JournalError::Closed)));
    }
    made(shared, Box::pin(act(Arc::clone(shared))))
}

/// The same with what is done in a box: compiled for each kind of answer, and not for each call.
fn made<T: Send + 'static>(shared: &Arc<Shared>, work: BoxFuture<'static, Result<T, Fault>>) -> Call<'static, T> {
    let (connector, work) = (Arc::clone(&shared.connector), under(Epoch::current(), work));
    let running = spawn(shared, async move { connector.unless_given_up(work).await });
    Box::pin(async move {
        match running.await {
            Ok(result) => result.map_err(Into::into),
            Err(_) => Err(JournalError::Closed),
        }
    })
}

fn spawn<T: Send + 'static>(shared: &Shared, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    spawn_on(&shared.runtime, task)
}

fn spawn_on<T: Send + 'static>(runtime: &Handle, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    let task: BoxFuture<'static, T> = Box::pin(task);
    runtime.spawn(task)
}

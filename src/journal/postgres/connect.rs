//! Connections to the server that takes writes, and only if its settings make commits safe.
//!
//! Rules: all hosts are tried at the same time. A host has ten seconds, and is given up after three seconds of silence, so one that hangs
//! delays nobody and a slow one still lets us in. The host that hung last may be a former primary that does not know it yet: it is used
//! only if no other host lets us in. Every new connection is checked before it is used, because after a failover the settings are those of
//! another server. When a server did not wait for a standby to commit, its warning ends the connection before the commit is answered, so
//! the caller never takes the commit for done. A read may show what only one server has: it counts after a later commit that was waited for
//! ([`Connection::make_certain`]).

use std::fmt;
use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::config::{Host, TargetSessionAttrs};
use tokio_postgres::error::Severity;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Config, Row, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::journal::{Durability, OpenError};
use crate::telemetry::ledger::Posting;

use super::fault::{self, Fault};

/// The number of silent turns in a row after which a host that has not let us in is given up.
const TURNS: u32 = 3;
const TURN: Duration = Duration::from_secs(1);
/// The silence after which such a host is given up.
pub(super) const SILENCE: Duration = TURN.saturating_mul(TURNS);
/// The connect timeout of one address of a host: shorter than [`SILENCE`], so that the next address is tried.
const ADDRESS: Duration = Duration::from_secs(2);
/// The time limit of a handshake: on a busy machine the proof of the password alone takes seconds.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long sent bytes may go unacknowledged by the other machine.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// The time limit of a statement. The wait of a commit for a standby does not count.
const STATEMENT: Duration = Duration::from_secs(10);
/// How long a transaction may be idle: the locks of a relay that stands still block others.
const IDLE: Duration = Duration::from_secs(3);

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// The client, with the statements that were prepared on it.
    client: ClientWrapper,
    /// The index of its host.
    host: usize,
    /// The generation that it was made in; see [`Connector::give_up`].
    generation: u64,
    /// Notified when a notification comes on a channel that the connection listens to.
    told: Arc<Notify>,
}

impl Deref for Connection {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.client
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        &mut self.client
    }
}

impl Connection {
    /// Runs a statement, which is prepared once, and returns the number of rows that it changed.
    pub(super) async fn run(&self, sql: &str, params: Params<'_>) -> Result<u64, Fault> {
        let statement = self.client.prepare_cached(sql).await?;
        Ok(self.client.execute(&statement, params).await?)
    }

    /// The rows of a statement, which is prepared once.
    pub(super) async fn all(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, Fault> {
        let statement = self.client.prepare_cached(sql).await?;
        Ok(self.client.query(&statement, params).await?)
    }

    /// The only row, if there is one.
    pub(super) async fn any(&self, sql: &str, params: Params<'_>) -> Result<Option<Row>, Fault> {
        let statement = self.client.prepare_cached(sql).await?;
        Ok(self.client.query_opt(&statement, params).await?)
    }

    /// The only row.
    pub(super) async fn one(&self, sql: &str, params: Params<'_>) -> Result<Row, Fault> {
        let statement = self.client.prepare_cached(sql).await?;
        Ok(self.client.query_one(&statement, params).await?)
    }

    /// Makes certain that what was read here is so on a second machine: a commit that comes after it is waited for. A server that was
    /// the primary shows for a while what it alone has, and lacks what others have; it brings no commit to its end any more.
    pub(super) async fn make_certain(&self) -> Result<(), Fault> {
        self.run("UPDATE meta SET oldest = oldest", &[]).await.map(drop)
    }

    /// Notified when a notification comes on a channel that the connection listens to.
    pub(super) fn told(&self) -> Arc<Notify> {
        Arc::clone(&self.told)
    }
}

/// The parameters of a statement.
pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// The connection that writes, and the commits with an unknown outcome.
#[derive(Default)]
pub(super) struct Pen {
    pub(super) connection: Option<Connection>,
    /// A connection attempt under way.
    connecting: Option<JoinHandle<Result<Connection, Fault>>>,
    /// The number of the last transaction that was begun.
    pub(super) last: i64,
    /// The commits with an unknown outcome, by number, each with the postings to make if it turns out to be the last that took place.
    pub(super) unresolved: Vec<(i64, Vec<Posting>)>,
}

impl Pen {
    /// Opens a connection. If the caller drops the future, the next caller gets the attempt: a handshake may take longer than a transaction
    /// may.
    pub(super) async fn connect(&mut self, connector: &Arc<Connector>) -> Result<Connection, Fault> {
        if let Some(old) = self.connecting.take_if(|connecting| connecting.is_finished())
            && let Ok(Ok(connection)) = old.await
            && connector.is_good(&connection)
        {
            return Ok(connection);
        }
        let connecting = self.connecting.get_or_insert_with(|| {
            let own = Arc::clone(connector);
            connector.runtime.spawn(async move { own.connect().await })
        });
        let connected = connecting.await;
        self.connecting = None;
        connected.unwrap_or_else(|_| Err(Fault::Away("no connection is made any more".into())))
    }
}

/// Opens connections.
pub(super) struct Connector {
    hosts: Vec<Config>,
    tls: MakeRustlsConnect,
    durability: Durability,
    runtime: Handle,
    generation: watch::Sender<u64>,
    /// The index of the host that hung last; `usize::MAX` for none.
    hung: AtomicUsize,
}

/// The pool of connections.
pub(super) type Pool = managed::Pool<Connections>;
/// A connection taken from the pool.
pub(super) type Pooled = managed::Object<Connections>;

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("hosts", &self.hosts.len()).finish_non_exhaustive()
    }
}

impl Connector {
    /// A connector to the servers of `config`, whose connections are served on `runtime`.
    pub(super) fn new(config: &Config, tls: MakeRustlsConnect, durability: Durability, runtime: Handle) -> Self {
        let (hosts, generation, hung) = (each_host(config), watch::Sender::new(0), AtomicUsize::new(usize::MAX));
        Self { hosts, tls, durability, runtime, generation, hung }
    }

    /// Gives up all connections: a server that hangs answers on none of them. `hung` is a connection to that server.
    pub(super) fn give_up(&self, hung: Option<&Connection>) {
        if let Some(connection) = hung {
            self.hung.store(connection.host, Ordering::Release);
        }
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Returns whether a connection can still be used.
    pub(super) fn is_good(&self, connection: &Connection) -> bool {
        !connection.is_closed() && connection.generation == *self.generation.borrow()
    }

    /// Checks whether the settings of a server make commits safe. They may change while it runs.
    pub(super) fn judge(&self, row: &Row) -> Result<(), Fault> {
        let (commit, standbys) = (row.get("synchronous_commit"), row.get("synchronous_standby_names"));
        judge(self.durability, (commit, standbys), || "the database".to_owned())
    }

    /// Awaits a call; fails if connections are given up meanwhile.
    pub(super) async fn unless_given_up<T>(&self, call: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let mut generation = self.generation.subscribe();
        tokio::select! {
            result = call => result,
            _ = generation.changed() => Err(Fault::Away("the server does not answer".into())),
        }
    }

    /// Connects to the first host that lets us in and takes writes. Uses the host that hung last only if no other does.
    pub(super) async fn connect(&self) -> Result<Connection, Fault> {
        let hung = self.hung.load(Ordering::Acquire);
        let mut tries: FuturesUnordered<_> = (0..self.hosts.len()).map(|host| self.connect_to(host)).collect();
        let (mut last, mut why) = (None, None);
        while let Some(tried) = tries.next().await {
            match tried {
                Ok(connection) if connection.host == hung => last = Some(connection),
                Ok(connection) => return Ok(connection),
                // The reason of a server that was checked says more than that of one that is away.
                Err(error @ Fault::Open(_)) => why = Some(error),
                Err(error) => why = why.or(Some(error)),
            }
        }
        last.ok_or_else(|| why.unwrap_or_else(|| Fault::Away("no host is given".into())))
    }

    async fn connect_to(&self, host: usize) -> Result<Connection, Fault> {
        let name = name_of(&self.hosts[host]);
        let connected = timeout(HANDSHAKE, while_it_moves(self.handshake(host))).await.ok().flatten();
        let connected = connected.unwrap_or_else(|| Err(Fault::Away("it does not answer".into())));
        connected.map_err(|error| match error {
            Fault::Open(error) => Fault::Open(error),
            other => Fault::Away(format!("{name}: {other}")),
        })
    }

    async fn handshake(&self, host: usize) -> Result<Connection, Fault> {
        let config = &self.hosts[host];
        let (client, connection) = config.connect(self.tls.clone()).await?;
        let (is_let_in, told) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
        let serving = self.runtime.spawn(serve(connection, Arc::clone(&is_let_in), Arc::clone(&told)));
        let client = ClientWrapper::new(client, serving);
        look_at(&client, self.durability, &name_of(config)).await?;
        is_let_in.store(true, Ordering::Release);
        // Read only now: what was given up before this server answered does not concern this connection.
        let generation = *self.generation.borrow();
        Ok(Connection { client, host, generation, told })
    }
}

/// Awaits a call; `None` when it made no progress for [`SILENCE`]. The time in which it runs, or waits to be scheduled, is no silence.
async fn while_it_moves<T>(call: impl Future<Output = T>) -> Option<T> {
    let mut call = pin!(call);
    let mut turn = pin!(sleep(TURN));
    let mut silent = 0;
    poll_fn(|cx| {
        let is_silent = turn.as_mut().poll(cx).is_ready();
        if let Poll::Ready(answer) = call.as_mut().poll(cx) {
            return Poll::Ready(Some(answer));
        }
        silent = if is_silent { silent + 1 } else { 0 };
        if silent == TURNS {
            return Poll::Ready(None);
        }
        turn.as_mut().reset(Instant::now() + TURN);
        // Polled so that the timer wakes this call.
        match turn.as_mut().poll(cx) {
            Poll::Ready(()) | Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Serves a connection until it ends. A server warns of a commit that it did not wait for before it answers the commit, so a warning ends
/// the connection and nobody gets that answer. Warnings during the handshake say nothing about commits.
async fn serve(
    mut connection: tokio_postgres::Connection<Socket, impl AsyncRead + AsyncWrite + Unpin>,
    is_let_in: Arc<AtomicBool>,
    told: Arc<Notify>,
) {
    while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
        match message {
            Ok(AsyncMessage::Notice(notice)) if notice.parsed_severity() == Some(Severity::Warning) => {
                tracing::warn!(warning = notice.message(), "PostgreSQL warns");
                if is_let_in.load(Ordering::Acquire) {
                    break;
                }
            }
            Ok(AsyncMessage::Notification(_)) => told.notify_one(),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(error = fault::told(&error), "a connection to PostgreSQL ended");
                break;
            }
        }
    }
}

/// Manages the connections of a pool.
#[derive(Debug)]
pub(super) struct Connections(pub(super) Arc<Connector>);

impl managed::Manager for Connections {
    type Type = Connection;
    type Error = Fault;

    async fn create(&self) -> Result<Connection, Fault> {
        self.0.connect().await
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<Fault> {
        if self.0.is_good(connection) { Ok(()) } else { Err(RecycleError::message("given up")) }
    }
}

/// Prepares a session and checks whether its commits are safe. JIT is off: compiling takes longer than any of our statements. Bitmap scans
/// are off: queues are read in index order, a part at a time, and a plan that gathers and sorts the backlog costs more the longer the
/// backlog is.
async fn look_at(client: &Client, durability: Durability, place: &str) -> Result<(), Fault> {
    let (statement, idle, unacknowledged) = (STATEMENT.as_millis(), IDLE.as_millis(), UNACKNOWLEDGED.as_millis());
    client
        .batch_execute(&format!(
            "SET statement_timeout = {statement}; SET idle_in_transaction_session_timeout = {idle};
             SET client_min_messages = warning; SET tcp_user_timeout = {unacknowledged};
             SET jit = off; SET enable_bitmapscan = off"
        ))
        .await?;
    let row = client.query_one(&format!("SELECT {SAFETY}"), &[]).await?;
    judge(durability, (row.get(0), row.get(1)), || place.to_owned())
}

/// The columns that [`Connector::judge`] reads.
pub(super) const SAFETY: &str = "current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('synchronous_standby_names') AS synchronous_standby_names";

fn judge(
    durability: Durability,
    (commit, standbys): (&str, &str),
    place: impl FnOnce() -> String,
) -> Result<(), Fault> {
    let is_waited_for = matches!(commit, "on" | "remote_apply");
    let is_safe = match durability {
        Durability::Quorum => is_waited_for && !standbys.trim().is_empty(),
        Durability::Single => is_waited_for || commit == "local",
    };
    if is_safe {
        return Ok(());
    }
    Err(Fault::Open(OpenError::Unsafe { place: place(), commit: commit.to_owned(), standbys: standbys.to_owned() }))
}

/// Splits a configuration into one for each host.
fn each_host(config: &Config) -> Vec<Config> {
    let (hosts, ports) = (config.get_hosts(), config.get_ports());
    let port = |at: usize| ports.get(at).or_else(|| ports.first()).copied().unwrap_or(5432);
    let only = |(at, host): (usize, &Host)| {
        let mut one = Config::new();
        match host {
            Host::Tcp(name) => one.host(name),
            Host::Unix(path) => one.host_path(path),
        };
        one.port(port(at)).ssl_mode(config.get_ssl_mode()).target_session_attrs(TargetSessionAttrs::ReadWrite);
        one.connect_timeout(ADDRESS).tcp_user_timeout(UNACKNOWLEDGED).application_name("switchyard");
        config.get_user().map(|user| one.user(user));
        config.get_password().map(|password| one.password(password));
        config.get_dbname().map(|name| one.dbname(name));
        config.get_options().map(|options| one.options(options));
        one
    };
    hosts.iter().enumerate().map(only).collect()
}

fn name_of(host: &Config) -> String {
    let port = host.get_ports().first().copied().unwrap_or(5432);
    match host.get_hosts().first() {
        Some(Host::Tcp(name)) => format!("{name}:{port}"),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => String::new(),
    }
}

/// The TLS configuration. The URL says whether TLS is used. Certificates are checked against the authorities of the system and the built-in
/// list.
pub(super) fn tls() -> MakeRustlsConnect {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("ring speaks TLS 1.2 and 1.3").with_root_certificates(roots).with_no_client_auth();
    MakeRustlsConnect::new(config)
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slow_host_lets_us_in_and_a_silent_one_is_given_up_after_three_seconds() {
        let (began, steps) = (Instant::now(), async {
            for _ in 0..4 {
                sleep(Duration::from_millis(2500)).await;
            }
        });
        assert_eq!(while_it_moves(steps).await, Some(()));
        assert_eq!(began.elapsed().as_secs(), 10);
        let began = Instant::now();
        assert_eq!(while_it_moves(std::future::pending::<()>()).await, None);
        assert_eq!(began.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_is_not_scheduled_for_long_takes_no_host_for_silent() {
        let (tell, told) = oneshot::channel();
        let late = async {
            // Nothing here runs for twice the silence, and the host answers meanwhile.
            advance(SILENCE * 2).await;
            tell.send(()).ok();
        };
        let (answer, ()) = tokio::join!(while_it_moves(told), late);
        assert_eq!(answer, Some(Ok(())));
    }
}

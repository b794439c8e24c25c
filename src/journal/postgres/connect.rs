//! Connections: to whichever of the servers takes writes, and only where what is committed is on a second machine.
//!
//! Rules: all hosts are tried at the same time, each for a bounded time, and until nothing came from it for three seconds: one that hangs
//! holds nobody up, and one that is slow lets us in. One that let us in and then committed nothing may be a primary that has lost its
//! place and does not know it: it is taken again when no other host lets us in. Every connection is looked at before it is used: after an election the settings
//! are those of another server. A commit that was not waited for ends its connection before it is answered, so whoever made it, and
//! whatever it was, takes it for none. What was only read may be what one server alone has: it counts once a
//! [commit that came after it](Connection::make_certain) was waited for.

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

/// A host that has not let us in may be silent for so many turns in a row.
const TURNS: u32 = 3;
const TURN: Duration = Duration::from_secs(1);
/// How long that is.
pub(super) const SILENCE: Duration = TURN.saturating_mul(TURNS);
/// How long one address of a host may be silent: less than that, so that the next one is tried.
const ADDRESS: Duration = Duration::from_secs(2);
/// How long it may take in all: to prove that we have the password takes seconds where nobody has time for it.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long what was sent may go unanswered by the server's machine.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// How long a statement may take, but for a commit that waits for a standby: nothing here takes long.
const STATEMENT: Duration = Duration::from_secs(10);
/// How long a transaction may do nothing: one of a relay that stands still keeps others from what it has locked.
const IDLE: Duration = Duration::from_secs(3);

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// Its client, with the statements that were prepared on it.
    client: ClientWrapper,
    /// The number of its host.
    host: usize,
    /// Which generation it is of.
    generation: u64,
    /// Notified when something is told on a channel that it listens to.
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
    /// How many rows a statement changed, which is prepared once.
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

    /// Notified when something is told on a channel that it listens to.
    pub(super) fn told(&self) -> Arc<Notify> {
        Arc::clone(&self.told)
    }
}

/// What a statement takes.
pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// The connection that writes, for as long as it is known how the transaction before ended.
#[derive(Default)]
pub(super) struct Pen {
    pub(super) connection: Option<Connection>,
    /// One that is being made.
    connecting: Option<JoinHandle<Result<Connection, Fault>>>,
    /// The number of the last transaction that was begun.
    pub(super) last: i64,
    /// The numbers of commits of which nobody knows whether they took place, and what is to be posted should that one be the last.
    pub(super) unresolved: Vec<(i64, Vec<Posting>)>,
}

impl Pen {
    /// A new connection. Who has no time for it any more leaves it to the next one: to be let in may take longer than a transaction may.
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

/// Makes connections.
pub(super) struct Connector {
    hosts: Vec<Config>,
    tls: MakeRustlsConnect,
    durability: Durability,
    runtime: Handle,
    generation: watch::Sender<u64>,
    /// The host that hung last.
    hung: AtomicUsize,
}

/// Connections that wait to be used.
pub(super) type Pool = managed::Pool<Connections>;
/// One that is in use.
pub(super) type Pooled = managed::Object<Connections>;

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("hosts", &self.hosts.len()).finish_non_exhaustive()
    }
}

impl Connector {
    /// To the servers of `config`. Connections are served on `runtime`.
    pub(super) fn new(config: &Config, tls: MakeRustlsConnect, durability: Durability, runtime: Handle) -> Self {
        let (hosts, generation, hung) = (each_host(config), watch::Sender::new(0), AtomicUsize::new(usize::MAX));
        Self { hosts, tls, durability, runtime, generation, hung }
    }

    /// Gives up all connections: a server that hangs answers on none of them. `hung` is one to a server that did.
    pub(super) fn give_up(&self, hung: Option<&Connection>) {
        if let Some(connection) = hung {
            self.hung.store(connection.host, Ordering::Release);
        }
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Whether a connection can still be used.
    pub(super) fn is_good(&self, connection: &Connection) -> bool {
        !connection.is_closed() && connection.generation == *self.generation.borrow()
    }

    /// Whether what is committed is safe by the settings of a server, which may change while it runs.
    pub(super) fn judge(&self, row: &Row) -> Result<(), Fault> {
        let (commit, standbys) = (row.get("synchronous_commit"), row.get("synchronous_standby_names"));
        judge(self.durability, (commit, standbys), || "the database".to_owned())
    }

    /// Makes a call, unless connections are given up meanwhile.
    pub(super) async fn unless_given_up<T>(&self, call: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let mut generation = self.generation.subscribe();
        tokio::select! {
            result = call => result,
            _ = generation.changed() => Err(Fault::Away("the server does not answer".into())),
        }
    }

    /// Connects to the first host that lets us in and takes writes; to the one that hung last when no other does.
    pub(super) async fn connect(&self) -> Result<Connection, Fault> {
        let hung = self.hung.load(Ordering::Acquire);
        let mut tries: FuturesUnordered<_> = (0..self.hosts.len()).map(|host| self.connect_to(host)).collect();
        let (mut last, mut why) = (None, None);
        while let Some(tried) = tries.next().await {
            match tried {
                Ok(connection) if connection.host == hung => last = Some(connection),
                Ok(connection) => return Ok(connection),
                // One that was looked at says more than one that is away.
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
        // Others were given up before this server answered.
        let generation = *self.generation.borrow();
        Ok(Connection { client, host, generation, told })
    }
}

/// What a call answers, or `None` when nothing moves it any more. Its own work, and the time until it is its turn, is no silence.
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
        // Asked so that it wakes this call.
        match turn.as_mut().poll(cx) {
            Poll::Ready(()) | Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Serves a connection until it ends. A commit that was not waited for is told by a warning, which comes before its answer: nobody gets
/// that any more. Of what it warns when it lets somebody in, a server says nothing about commits.
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

/// The connections of a pool.
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

/// Looks whether what is committed there is safe. No statement is compiled there: to compile one takes longer than any of ours. Queues are
/// read in the order of an index, a part at a time: a plan that gathers all that waits, to sort it, costs more the more there is.
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

/// What [`Connector::judge`] judges by.
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

/// The configuration of each host alone.
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

/// TLS as the URL asks for it: a server that offers it is checked by the authorities of the system.
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
    async fn a_host_that_is_slow_lets_us_in_and_one_that_says_nothing_is_given_up_after_three_seconds() {
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
    async fn a_relay_that_gets_no_turn_for_long_takes_no_host_for_silent() {
        let (tell, told) = oneshot::channel();
        let late = async {
            // Nothing runs here for so long, and the host has answered meanwhile.
            advance(SILENCE * 2).await;
            tell.send(()).ok();
        };
        let (answer, ()) = tokio::join!(while_it_moves(told), late);
        assert_eq!(answer, Some(Ok(())));
    }
}

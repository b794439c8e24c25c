//! Three PostgreSQL servers with quorum commit, a Patroni for each, and etcd, in which the Patronis elect the primary.
//!
//! Rules: the fixture starts every process and ends it when dropped. A server that a Patroni started is found by its pid file. All listen
//! on loopback, or each runs on a machine of its own.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::eventually::eventually;
use super::machines::{Machine, Network};
use super::net;
use super::postgres::{as_nobody, open_to_all, own, program};
use super::process::Process;

/// A generous timeout for an election on a busy machine.
const ELECTED: Duration = Duration::from_secs(120);

/// The servers; the first is the primary at the start.
pub(crate) struct Patroni {
    members: Vec<Member>,
    /// etcd with its data folder, which is in memory if possible.
    etcd: (Process, TempDir),
    /// The machine of etcd; `None` when it runs here.
    etcds: Option<Machine>,
    client: reqwest::Client,
    home: TempDir,
}

struct Member {
    port: u16,
    /// The port of its Patroni's REST API.
    rest: u16,
    folder: PathBuf,
    patroni: Option<Process>,
    /// The machine of the server; `None` when it runs here.
    machine: Option<Machine>,
}

impl Patroni {
    /// Starts the servers and etcd, here or each on a machine of its own, and waits until a standby confirms every commit.
    pub(crate) async fn start(network: Option<&Network>) -> Self {
        let home = TempDir::with_prefix("switchyard-patroni-").expect("a folder");
        open_to_all(home.path());
        let etcds = machine(network).await;
        let (client, at) = (net::client(), (address(etcds.as_ref()), net::free_port()));
        let etcd = within(etcds.as_ref(), || etcd(home.path(), at, net::free_port()));
        eventually("etcd is there", ELECTED, async || is_there(&client, at).await).await;
        let mut members = Vec::new();
        for number in 0..3 {
            members.push(Member::prepare(home.path(), number, at, machine(network).await));
        }
        let mut cluster = Self { members, etcd, etcds, client, home };
        for number in 0..3 {
            cluster.members[number].launch();
        }
        eventually("three servers commit together", ELECTED, async || cluster.is_safe().await).await;
        cluster
    }

    /// The URL of the database as a configuration names it.
    pub(crate) fn url(&self) -> String {
        let hosts: Vec<String> = self.members.iter().map(Member::host).collect();
        format!("postgres://postgres:super@{}/postgres", hosts.join(","))
    }

    /// The number of the primary, according to the Patronis.
    pub(crate) async fn primary(&self) -> Result<usize, String> {
        for (number, member) in self.members.iter().enumerate() {
            let asked = self.client.get(format!("http://{}:{}/primary", member.address(), member.rest));
            if asked.timeout(Duration::from_secs(2)).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(number);
            }
        }
        Err("there is no primary".to_owned())
    }

    /// Waits until a server other than `before` is the primary and a standby confirms commits again.
    pub(crate) async fn await_another(&self, before: usize) -> usize {
        eventually("another server is the primary", ELECTED, async || match self.primary().await? {
            same if same == before => Err("it is still the primary".to_owned()),
            other => self.is_safe().await.map(|()| other),
        })
        .await
    }

    /// Waits until a standby confirms commits again at any primary: a primary that was killed alone may return as such.
    pub(crate) async fn await_safe(&self) -> usize {
        eventually("a server is the primary", ELECTED, async || {
            let primary = self.primary().await?;
            self.is_safe().await.map(|()| primary)
        })
        .await
    }

    /// Waits until both standbys follow and one confirms every commit.
    pub(crate) async fn await_whole(&self) {
        eventually("both standbys follow", ELECTED, async || {
            let following = self.ask("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'").await?;
            if following.trim() == "2" { self.is_safe().await } else { Err(format!("{} follow", following.trim())) }
        })
        .await;
    }

    /// Whether a standby confirms every commit.
    async fn is_safe(&self) -> Result<(), String> {
        let standbys = "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')";
        match self.ask(standbys).await?.trim() {
            "0" => Err("no standby confirms what is committed".to_owned()),
            _ => Ok(()),
        }
    }

    /// Kills a server, with its Patroni or alone. A Patroni that lives starts the server again.
    pub(crate) fn kill(&mut self, number: usize, with_patroni: bool) {
        let member = &mut self.members[number];
        if with_patroni {
            member.patroni = None;
        }
        member.signal(Signal::KILL);
    }

    /// Kills only the Patroni of a server; the server keeps its role.
    pub(crate) fn orphan(&mut self, number: usize) {
        self.members[number].patroni = None;
    }

    /// Starts the Patroni of a server again, which starts the server.
    pub(crate) fn revive(&mut self, number: usize) {
        self.members[number].launch();
    }

    /// Restarts a server in order. A primary first hands over to another server and follows it afterwards.
    pub(crate) async fn restart(&self, number: usize) {
        if self.primary().await == Ok(number) {
            self.order(number, "switchover", format!(r#"{{"leader":"n{number}"}}"#)).await;
            self.await_another(number).await;
        } else {
            self.order(number, "restart", "{}".to_owned()).await;
        }
        self.await_whole().await;
    }

    /// Sends a Patroni an order and waits until it is done.
    async fn order(&self, number: usize, what: &str, how: String) {
        let member = &self.members[number];
        let url = format!("http://{}:{}/{what}", member.address(), member.rest);
        let answer = self.client.post(url).body(how).timeout(ELECTED).send().await.expect("an answer of Patroni's");
        let (status, text) = (answer.status(), answer.text().await);
        assert!(status.is_success(), "{what}: {status}: {text:?}");
    }

    /// The machine on which a server runs.
    pub(crate) fn machine(&self, number: usize) -> &Machine {
        self.members[number].machine.as_ref().expect("servers on machines of their own")
    }

    /// The machine on which etcd runs.
    pub(crate) fn machine_of_etcd(&self) -> &Machine {
        self.etcds.as_ref().expect("etcd on a machine of its own")
    }

    /// Freezes a server and its Patroni, or lets them resume.
    pub(crate) fn freeze(&self, number: usize, is_frozen: bool) {
        let member = &self.members[number];
        let signal = if is_frozen { Signal::STOP } else { Signal::CONT };
        if let Some(patroni) = &member.patroni {
            patroni.signal(signal);
        }
        member.signal_all(signal);
    }

    /// The timeline of the primary: one more than the number of promotions.
    pub(crate) async fn timeline(&self) -> Result<u64, String> {
        let file = self.ask("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").await?;
        u64::from_str_radix(file.get(..8).unwrap_or_default(), 16).map_err(|error| error.to_string())
    }

    /// The output of a statement at the primary.
    pub(crate) async fn ask(&self, sql: &str) -> Result<String, String> {
        let primary = self.primary().await?;
        self.members[primary].ask(sql)
    }
}

impl Member {
    fn prepare(home: &Path, number: usize, etcd: (Ipv4Addr, u16), machine: Option<Machine>) -> Self {
        let folder = home.join(format!("n{number}"));
        std::fs::create_dir(&folder).expect("a folder");
        own(&folder);
        let member = Self { port: net::free_port(), rest: net::free_port(), folder, patroni: None, machine };
        std::fs::write(home.join(format!("n{number}.yml")), member.configuration(number, etcd)).expect("a file");
        member
    }

    fn address(&self) -> Ipv4Addr {
        address(self.machine.as_ref())
    }

    fn host(&self) -> String {
        format!("{}:{}", self.address(), self.port)
    }

    fn configuration(&self, number: usize, (etcd, etcd_port): (Ipv4Addr, u16)) -> String {
        let Self { port, rest, folder, .. } = self;
        let address = self.address();
        let (folder, bin) = (folder.display(), program("postgres"));
        let bin = bin.parent().unwrap_or(Path::new("")).display();
        format!(
            r#"
scope: switchyard
name: n{number}
restapi: {{listen: "{address}:{rest}", connect_address: "{address}:{rest}"}}
# By the older protocol: by the newer one a Patroni before 3.0.3 that stood still takes the lock back which another one has since, and
# what was committed there is gone. As a proxy: not asked where else etcd is.
etcd: {{hosts: ["{etcd}:{etcd_port}"], use_proxies: true}}
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 1
    retry_timeout: 3
    primary_start_timeout: 0
    synchronous_mode: true
    synchronous_mode_strict: true
    postgresql:
      use_pg_rewind: true
      parameters: {{max_connections: 100, synchronous_commit: "on", wal_keep_size: 256MB, fsync: "off"}}
  initdb: [{{encoding: UTF8}}, {{locale: C}}, data-checksums]
postgresql:
  remove_data_directory_on_rewind_failure: true
  remove_data_directory_on_diverged_timelines: true
  listen: "{address}:{port}"
  connect_address: "{address}:{port}"
  data_dir: {folder}/data
  bin_dir: {bin}
  pgpass: {folder}/pgpass
  authentication:
    replication: {{username: replicator, password: rep}}
    superuser: {{username: postgres, password: super}}
    rewind: {{username: rewind, password: rew}}
  parameters: {{unix_socket_directories: "{folder}", shared_preload_libraries: pg_stat_statements}}
  pg_hba: ["host all all all trust", "local all all trust", "host replication all all trust"]
"#
        )
    }

    fn launch(&mut self) {
        let mut command = as_nobody("patroni");
        command.arg(self.folder.with_extension("yml"));
        let log = self.folder.with_extension("log");
        let start = || Process::start("patroni", &mut command, &log, None);
        self.patroni = Some(within(self.machine.as_ref(), start));
    }

    fn ask(&self, sql: &str) -> Result<String, String> {
        let url = format!("postgres://postgres@{}/postgres?connect_timeout=2", self.host());
        let told = Command::new("psql").args(["-qXAt", "-d", &url, "-c", sql]).output().map_err(|e| e.to_string())?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        if told.status.success() { Ok(text(&told.stdout)) } else { Err(text(&told.stderr)) }
    }

    fn pid(&self) -> Option<Pid> {
        let file = std::fs::read_to_string(self.folder.join("data/postmaster.pid")).ok()?;
        Pid::from_raw(file.lines().next()?.parse().ok()?)
    }

    fn signal(&self, signal: Signal) {
        self.pid().and_then(|pid| kill_process(pid, signal).ok());
    }

    /// Signals the server and all of its processes.
    fn signal_all(&self, signal: Signal) {
        let Some(pid) = self.pid() else { return };
        let children = format!("/proc/{0}/task/{0}/children", pid.as_raw_nonzero());
        let children = std::fs::read_to_string(children).unwrap_or_default();
        self.signal(signal);
        for child in children.split_whitespace().filter_map(|child| Pid::from_raw(child.parse().ok()?)) {
            // A child that has ended meanwhile needs no signal.
            kill_process(child, signal).ok();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.patroni = None;
        self.signal_all(Signal::CONT);
        self.signal(Signal::KILL);
    }
}

/// A new machine of the network; `None` without a network.
async fn machine(network: Option<&Network>) -> Option<Machine> {
    Some(network?.machine().await)
}

fn address(machine: Option<&Machine>) -> Ipv4Addr {
    machine.map_or(Ipv4Addr::LOCALHOST, |machine| machine.address)
}

fn within<T>(machine: Option<&Machine>, act: impl FnOnce() -> T) -> T {
    match machine {
        Some(machine) => machine.within(act),
        None => act(),
    }
}

fn etcd(home: &Path, (address, port): (Ipv4Addr, u16), peers: u16) -> (Process, TempDir) {
    let (clients, peers) = (format!("http://{address}:{port}"), format!("http://127.0.0.1:{peers}"));
    let mut command = Command::new("etcd");
    // On a busy disk etcd loses its leadership.
    let memory = Path::new("/dev/shm");
    let data =
        if memory.is_dir() { TempDir::with_prefix_in("switchyard-etcd-", memory) } else { TempDir::new_in(home) };
    let data = data.expect("a folder");
    command.arg("--enable-v2").arg("--data-dir").arg(data.path());
    command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
    command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    command.args(["--initial-cluster", &format!("default={peers}")]);
    (Process::start("etcd", &mut command, &home.join("etcd.log"), None), data)
}

/// Whether etcd has elected a leader and knows its version: a Patroni that asks earlier exits.
async fn is_there(client: &reqwest::Client, (address, port): (Ipv4Addr, u16)) -> Result<(), String> {
    for (path, what) in [("health", r#""health":"true""#), ("version", r#""etcdcluster":"3."#)] {
        let asked = client.get(format!("http://{address}:{port}/{path}")).timeout(Duration::from_secs(2));
        let answer = asked.send().await.map_err(|error| error.to_string())?;
        let text = answer.text().await.map_err(|error| error.to_string())?;
        if !text.contains(what) {
            return Err(text);
        }
    }
    Ok(())
}

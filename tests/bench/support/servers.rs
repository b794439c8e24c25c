//! Two local PostgreSQL servers: a primary whose every commit waits for the only standby, both with fsync.
//!
//! Both are children of this process and end with it. Their settings are PostgreSQL's defaults except for those of
//! `deploy/cluster/patroni.yaml`.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::postgres::{as_nobody, open_to_all, own};
use super::{ports, process};

const PATIENCE: Duration = Duration::from_secs(30);
const SETTINGS: [&str; 3] = ["synchronous_commit=on", "autovacuum_naptime=5s", "autovacuum_vacuum_cost_limit=2000"];

/// The primary and its standby.
pub(crate) struct Servers {
    // Dropped first. Its commits stop then, but nobody commits any more.
    standby: Server,
    primary: Server,
}

struct Server {
    child: Child,
    address: SocketAddr,
}

/// The counters of the primary.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    /// Bytes of WAL.
    pub wal: u64,
    /// Transactions committed.
    pub commits: u64,
}

impl Servers {
    /// Starts both with their files in `place`; returns when commits wait for the standby.
    pub(crate) fn start(place: &Path) -> Result<Self> {
        fs::create_dir_all(place)?;
        open_to_all(place.parent().context("a folder around it")?);
        open_to_all(place);
        own(place);
        let data = place.join("primary");
        let mut initdb = as_nobody("initdb");
        initdb
            .args(["--auth=trust", "--username=relay", "--no-sync", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(&data);
        done(initdb).context("initdb, of the package postgresql")?;
        let primary = Server::start(&data)?;
        let (data, port) = (place.join("standby"), primary.address.port().to_string());
        let mut copy = as_nobody("pg_basebackup");
        copy.args([
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            "relay",
            "-R",
            "-X",
            "stream",
            "-c",
            "fast",
            "--no-sync",
            "-D",
        ]);
        copy.arg(&data);
        done(copy).context("pg_basebackup")?;
        let standby = Server::start(&data)?;
        let servers = Self { standby, primary };
        // Each is a statement of its own, as neither may run in a transaction.
        servers.ask("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'")?;
        servers.ask("postgres", "SELECT pg_reload_conf()")?;
        let quorum = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'";
        until("the standby confirms commits", || Ok(servers.ask("postgres", quorum)?.trim() == "1"))?;
        Ok(servers)
    }

    /// Creates a database; returns its URL.
    pub(crate) fn database(&self, name: &str) -> Result<String> {
        self.ask("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(format!("postgres://relay@{}/{name}", self.primary.address))
    }

    /// Processor time of the primary and the standby since their start, in µs.
    pub(crate) fn cpu_us(&self) -> [u64; 2] {
        [&self.primary, &self.standby].map(|server| process::usage(server.child.id()).cpu_us)
    }

    /// The counters of the primary for a database.
    pub(crate) fn counted(&self, database: &str) -> Result<Counted> {
        let told = self.ask(
            database,
            "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint, xact_commit
             FROM pg_stat_database WHERE datname = current_database()",
        )?;
        let (wal, commits) = told.trim().split_once('|').with_context(|| format!("the primary said {told:?}"))?;
        Ok(Counted { wal: wal.parse()?, commits: commits.parse()? })
    }

    /// The version of the primary.
    pub(crate) fn version(&self) -> Result<String> {
        Ok(self.ask("postgres", "SHOW server_version")?.trim().to_owned())
    }

    fn ask(&self, database: &str, sql: &str) -> Result<String> {
        let mut psql = as_nobody("psql");
        let port = self.primary.address.port().to_string();
        psql.args(["-q", "-X", "-At", "-h", "127.0.0.1", "-U", "relay", "-p", &port, "-d", database, "-c", sql]);
        done(psql)
    }
}

impl Server {
    fn start(data: &Path) -> Result<Self> {
        let (address, log) = (ports::free()?, data.with_extension("log"));
        let mut server = as_nobody("postgres");
        server.arg("-D").arg(data).args(["-p", &address.port().to_string(), "-k", "", "-h", "127.0.0.1"]);
        server.args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        let child = server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?).spawn()?;
        let server = Self { child, address };
        until("a server is ready", || Ok(fs::read_to_string(&log)?.contains("ready to accept")))
            .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(server)
    }
}

impl Drop for Server {
    /// Sends SIGQUIT, which ends the server at once and leaves nothing behind.
    fn drop(&mut self) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::QUIT)
            .ok();
        drop(self.child.wait());
    }
}

fn done(mut command: Command) -> Result<String> {
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?)
}

fn until(what: &str, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !is()? {
        ensure!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

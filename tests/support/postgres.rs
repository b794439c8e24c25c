//! A local PostgreSQL server in a folder of its own; it runs as long as this process.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use super::net;

/// A server that listens on a local port.
pub(crate) struct Server {
    port: u16,
    databases: AtomicU32,
    home: PathBuf,
    /// Removes the folder when its input is closed, that is when this process ends in any way.
    _guard: Child,
}

/// Runs a server until the input ends, then removes the folder.
const GUARD: &str = r#"trap '' INT HUP TERM; home=$1; shift; "$@" & cat >/dev/null; kill -9 $!; wait; rm -rf "$home""#;

/// Counts the sessions that relays have with a database. A session reports its statistics at its end at the latest.
pub(crate) const SESSIONS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'switchyard'";

/// A database of a server, empty at first.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    /// The URL of the database as a configuration names it.
    pub(crate) url: String,
}

impl Database {
    /// Runs a statement in a session of its own.
    pub(crate) fn execute(&self, sql: &str) {
        self.ask(sql);
    }

    /// The number that a statement returns.
    pub(crate) fn number(&self, sql: &str) -> i64 {
        self.ask(sql).trim().parse().expect("a number")
    }

    /// Opens a session that lasts until it is dropped.
    pub(crate) fn open(&self) -> Session {
        let mut psql = Command::new("psql");
        psql.args(["-q", "-X", "-At", "-d", &self.url]).stdin(Stdio::piped()).stdout(Stdio::null());
        Session(psql.spawn().expect("psql"))
    }

    /// The output of a statement.
    pub(crate) fn ask(&self, sql: &str) -> String {
        let mut psql = Command::new("psql");
        psql.args(["-q", "-X", "-At", "-v", "ON_ERROR_STOP=1", "-d", &self.url, "-c", sql]);
        let done = psql.output().expect("psql");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("text")
    }
}

/// A session with a database.
pub(crate) struct Session(Child);

impl Session {
    /// Sends a statement and does not wait for it.
    pub(crate) fn say(&self, sql: &str) {
        let mut input = self.0.stdin.as_ref().expect("its input");
        input.write_all(format!("{sql}\n").as_bytes()).expect("it listens");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().ok();
    }
}

impl Server {
    /// The server that the tests of this process share. It does not sync to disk: no test here cuts the power.
    pub(crate) fn shared() -> &'static Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(|| Self::start(&["fsync=off", "full_page_writes=off", "max_connections=400"]))
    }

    /// Starts a server with these settings.
    pub(crate) fn start(settings: &[&str]) -> Self {
        let (home, data) = folders();
        let mut initdb = as_nobody("initdb");
        initdb
            .args(["--auth=trust", "--username=relay", "--no-sync", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(&data);
        let made = initdb.output().expect("initdb, of the package postgresql");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self::serve(home, &data, net::free_port(), settings)
    }

    fn serve(home: TempDir, data: &Path, port: u16, settings: &[&str]) -> Self {
        let mut server = as_nobody("postgres");
        server.arg("-D").arg(data).args(["-p", &port.to_string(), "-k", "", "-h", "127.0.0.1"]);
        server.args(settings.iter().flat_map(|setting| ["-c", setting]));
        let home = home.keep();
        let guard = run(&server, &home);
        Self { port, databases: AtomicU32::new(0), home, _guard: guard }
    }

    /// Starts a copy of this server that takes writes too, like a standby that was promoted.
    pub(crate) fn twin(&self, port: u16) -> Self {
        let (home, data) = folders();
        let mut copy = as_nobody("pg_basebackup");
        copy.args(["-h", "127.0.0.1", "-U", "relay", "-c", "fast", "--no-sync", "-p", &self.port.to_string(), "-D"]);
        let copied = copy.arg(&data).output().expect("pg_basebackup");
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        Self::serve(home, &data, port, &["fsync=off"])
    }

    /// The server's folder.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// The output of a statement about the server; it waits for no standby.
    pub(crate) fn ask(&self, sql: &str) -> String {
        let told =
            psql(self.port, "postgres").args(["-At", "-c", "SET synchronous_commit = local", "-c", sql]).output();
        let told = told.expect("psql");
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        String::from_utf8_lossy(&told.stdout).trim().to_owned()
    }

    /// The port on which the server listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Creates a database.
    pub(crate) fn database(&self) -> Database {
        let name = format!("t{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let made = psql(self.port, "postgres").args(["-c", &format!("CREATE DATABASE {name}")]).output().expect("psql");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Database { url: format!("postgres://relay@127.0.0.1:{}/{name}", self.port) }
    }
}

/// A new folder for a server, and the path of its data folder.
fn folders() -> (TempDir, PathBuf) {
    let home = TempDir::with_prefix("switchyard-postgres-").expect("a folder");
    open_to_all(home.path());
    let data = home.path().join("data");
    std::fs::create_dir(&data).expect("a folder for the data");
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).expect("permissions");
    own(&data);
    (home, data)
}

fn psql(port: u16, database: &str) -> Command {
    let mut psql = Command::new("psql");
    psql.args(["-q", "-X", "-h", "127.0.0.1", "-U", "relay", "-d", database, "-p", &port.to_string()]);
    psql
}

/// Runs a server until this process ends; returns when it takes connections.
fn run(server: &Command, home: &Path) -> Child {
    let mut guard = Command::new("sh");
    guard.args(["-c", GUARD, "sh"]).arg(home).arg(server.get_program()).args(server.get_args()).current_dir("/");
    let mut guard = guard.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("sh");
    let mut told = Vec::new();
    let mut log = BufReader::new(guard.stderr.take().expect("its log")).lines().map_while(Result::ok);
    while !told.last().is_some_and(|line: &String| line.contains("ready to accept connections")) {
        told.push(log.next().unwrap_or_else(|| panic!("{}", told.join("\n"))));
    }
    // A server blocks when nobody reads its log.
    std::thread::spawn(move || log.for_each(drop));
    guard
}

/// A PostgreSQL program that runs as another user than root and ends with the process that started it.
pub(crate) fn as_nobody(name: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if rustix::process::getuid().is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.arg(program(name)).current_dir("/");
    command
}

/// The path of a PostgreSQL program; Debian keeps it outside `PATH`.
pub(crate) fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|version| version.path().join("bin").join(name)).collect();
    found.retain(|path| path.exists());
    found.sort();
    found.pop().unwrap_or_else(|| name.into())
}

/// Makes a folder readable for everybody.
pub(crate) fn open_to_all(folder: &Path) {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("permissions");
}

/// Gives a folder to the user that PostgreSQL runs as.
pub(crate) fn own(folder: &Path) {
    if rustix::process::getuid().is_root() {
        let given = Command::new("chown").arg("postgres:postgres").arg(folder).status();
        assert!(given.is_ok_and(|status| status.success()), "{} cannot be given away", folder.display());
    }
}

//! The relay as its users run it: the real binary, a configuration file, two local listeners. Dropping it kills it.
//!
//! Only the public contract is used: command line, file, signals and listeners.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::envelopes::{self, KEY};
use super::eventually::eventually;
use super::machines::Machine;
use super::net;
use super::postgres::{Database, Server};
use super::process::Process;
use super::samples::Samples;

/// The timeout for accepted envelopes to arrive when nothing is broken.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// The plan of a relay. The first upstream is the primary; all serve the one project `shop` with the id 1 and the key [`KEY`].
pub(crate) struct Plan {
    key: String,
    upstreams: Vec<(String, String, String)>,
    /// The project's name in the APIs of upstreams, by upstream.
    places: Vec<(String, String)>,
    top: String,
    server: String,
    admin: String,
    journal: String,
    /// The lines that say where the journal is.
    place: String,
    database: Option<Database>,
    more: String,
    ipv6: bool,
    variables: Vec<(&'static str, PathBuf)>,
}

impl Plan {
    /// A relay with these upstreams, each with its name and DSN.
    pub(crate) fn new(upstreams: &[(&str, String)]) -> Self {
        let upstreams = upstreams.iter().map(|(name, dsn)| ((*name).to_owned(), dsn.clone(), String::new())).collect();
        let empty = String::new;
        let (key, database) = (KEY.to_owned(), database());
        Self {
            key,
            upstreams,
            places: vec![],
            top: empty(),
            server: empty(),
            admin: empty(),
            journal: empty(),
            place: place(database.as_ref()),
            database,
            more: empty(),
            ipv6: false,
            variables: vec![],
        }
    }

    /// Gives the project another key.
    pub(crate) fn key(mut self, key: &str) -> Self {
        self.key = key.to_owned();
        self
    }

    /// The DSN of the project at an upstream.
    pub(crate) fn dsn_of(&self, name: &str) -> String {
        self.upstreams.iter().find(|(have, ..)| have == name).expect("an upstream of the plan").1.clone()
    }

    /// Adds a line at the top level, before all sections.
    pub(crate) fn top(mut self, line: &str) -> Self {
        self.top = format!("{}{line}\n", self.top);
        self
    }

    /// Adds a line to `[server]`.
    pub(crate) fn server(mut self, line: &str) -> Self {
        self.server = format!("{}{line}\n", self.server);
        self
    }

    /// Makes the relay listen on the IPv6 loopback address too.
    pub(crate) fn on_both_families(mut self) -> Self {
        self.ipv6 = true;
        self
    }

    /// Sets an environment variable of the process.
    pub(crate) fn variable(mut self, name: &'static str, value: PathBuf) -> Self {
        self.variables.push((name, value));
        self
    }

    /// Adds a line to `[admin]`.
    pub(crate) fn admin(mut self, line: &str) -> Self {
        self.admin = format!("{}{line}\n", self.admin);
        self
    }

    /// Adds a line to `[journal]`.
    pub(crate) fn journal(mut self, line: &str) -> Self {
        self.journal = format!("{}{line}\n", self.journal);
        self
    }

    /// Shares the journal in a database with other relays under the name `node`.
    pub(crate) fn shared(mut self, url: &str, node: &str) -> Self {
        self.place = format!("url = \"{url}\"\nnode = \"{node}\"\nspill_path = \"spill.db\"");
        self
    }

    /// Turns the spill off: the relay keeps nothing on disk while no server takes writes.
    pub(crate) fn keeping_nothing(mut self) -> Self {
        self.place = self.place.replace("spill_path = \"spill.db\"", "spill = false");
        self
    }

    /// Adds a line to the section of an upstream.
    pub(crate) fn upstream(mut self, name: &str, line: &str) -> Self {
        let (_, _, lines) = self.upstreams.iter_mut().find(|(have, ..)| have == name).expect("an upstream of the plan");
        lines.push_str(&format!("{line}\n"));
        self
    }

    /// Configures an upstream's API, in which the project is called `place`.
    pub(crate) fn api(mut self, name: &str, kind: &str, place: Option<&str>, token: &str) -> Self {
        self.places.extend(place.map(|place| (name.to_owned(), place.to_owned())));
        self.upstream(name, &format!("kind = \"{kind}\"\napi.token = \"{token}\""))
    }

    /// Adds whole sections at the end.
    pub(crate) fn more(mut self, sections: &str) -> Self {
        self.more = format!("{}{sections}\n", self.more);
        self
    }

    /// The text of the configuration; its first line sets `primary`.
    fn config(&self, port: u16, admin_port: u16) -> String {
        let Self { key, top, server, admin, journal, place, more, .. } = self;
        let ipv6 = if self.ipv6 { format!(", \"[::1]:{port}\"") } else { String::new() };
        let sections: String =
            self.upstreams.iter().map(|(name, _, lines)| format!("[upstreams.{name}]\n{lines}\n")).collect();
        let dsn = |name: &str, dsn: &str| match self.places.iter().find(|(at, _)| at == name) {
            Some((_, place)) => format!("{name} = {{ dsn = \"{dsn}\", project = \"{place}\" }}\n"),
            None => format!("{name} = \"{dsn}\"\n"),
        };
        let dsns: String = self.upstreams.iter().map(|(name, own, _)| dsn(name, own)).collect();
        format!(
            "primary = \"{}\"\n{top}\n[server]\nlisten = [\"127.0.0.1:{port}\"{ipv6}]\n{server}\n\
             [admin]\nlisten = \"127.0.0.1:{admin_port}\"\n{admin}\n[journal]\n{place}\n{journal}\n{sections}\
             [[projects]]\nname = \"shop\"\nid = \"1\"\npublic_key = \"{key}\"\n[projects.upstreams]\n{dsns}\n{more}",
            self.upstreams[0].0
        )
    }

    /// Starts the relay and waits until it is ready.
    pub(crate) async fn start(self) -> Relay {
        let relay = self.prepare();
        relay.started().await
    }

    /// Starts the relay on another machine, with its public listener here, and waits until it is ready.
    pub(crate) async fn start_on(self, machine: Machine) -> Relay {
        let mut relay = self.prepare();
        let door = machine.open_door(relay.admin_port).await;
        relay.machine = Some((machine, door));
        let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, relay.port)).expect("the public listener");
        relay.launch_activated(&socket);
        relay.await_ready().await;
        relay
    }

    /// Writes the configuration and starts nothing.
    pub(crate) fn prepare(self) -> Relay {
        let home = TempDir::with_prefix("switchyard-").expect("a folder for the relay");
        let (port, admin_port) = (net::free_port(), net::free_port());
        fs::write(home.path().join("config.toml"), self.config(port, admin_port)).expect("a configuration");
        let upstreams = self.upstreams.into_iter().map(|(name, ..)| name).collect();
        let Self { variables, database, .. } = self;
        Relay {
            home,
            port,
            admin_port,
            client: net::client(),
            upstreams,
            variables,
            database,
            machine: None,
            process: None,
        }
    }
}

/// Whether the journal of one relay is in a database (`SWITCHYARD_TEST_JOURNAL=postgres`) rather than in a file.
fn is_in_a_database() -> bool {
    std::env::var("SWITCHYARD_TEST_JOURNAL").is_ok_and(|wanted| wanted == "postgres")
}

/// Whether a test is skipped because the journal is in a database; prints why.
pub(crate) fn needs_a_file(why: &str) -> bool {
    if is_in_a_database() {
        eprintln!("left out with the journal in a database: {why}");
    }
    is_in_a_database()
}

fn database() -> Option<Database> {
    is_in_a_database().then(|| Server::shared().database())
}

fn place(database: Option<&Database>) -> String {
    match database {
        Some(Database { url }) => format!("url = \"{url}\"\ndurability = \"single\"\nspill_path = \"spill.db\""),
        None => "path = \"journal.db\"".to_owned(),
    }
}

/// A relay with one folder, one pair of ports, and at most one process at a time.
pub(crate) struct Relay {
    home: TempDir,
    port: u16,
    admin_port: u16,
    client: Client,
    upstreams: Vec<String>,
    variables: Vec<(&'static str, PathBuf)>,
    database: Option<Database>,
    /// The machine of the process and the forwarding of its admin port; `None` when it runs here.
    machine: Option<(Machine, JoinSet<()>)>,
    process: Option<Process>,
}

impl Relay {
    /// Starts the relay (again) and waits until it is ready.
    pub(crate) async fn started(mut self) -> Self {
        self.launch();
        self.await_ready().await;
        self
    }

    /// Starts the relay (again).
    pub(crate) fn launch(&mut self) {
        assert!(self.machine.is_none(), "its listener is elsewhere");
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        command.args(["run", "--config", "config.toml"]).current_dir(self.home.path());
        for name in ["http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"] {
            command.env_remove(name);
        }
        command.envs(self.variables.iter().cloned());
        self.process = Some(Process::start("switchyard", &mut command, &self.home.path().join("log"), None));
    }

    /// Makes everything in the journal of a stopped relay older by `by`.
    pub(crate) fn age(&self, by: Duration) {
        let sql = format!("UPDATE record SET accepted_at = accepted_at - {}", by.as_millis());
        if let Some(database) = &self.database {
            return database.execute(&sql);
        }
        let journal = rusqlite::Connection::open(self.home.path().join("journal.db")).expect("the journal");
        assert!(journal.execute(&sql, []).expect("records") > 0);
    }

    /// Takes over a process that was started by hand in the relay's folder.
    pub(crate) fn adopt(&mut self, process: Process) {
        self.process = Some(process);
    }

    /// Starts the relay (again) with this socket as its public listener, on file descriptor 3 as systemd passes it.
    pub(crate) fn launch_activated(&mut self, socket: &std::net::TcpListener) {
        // The shell gets the socket as standard input, moves it to descriptor 3 and becomes the relay.
        let script = r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" run --config config.toml"#;
        let mut command = Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_switchyard")]).current_dir(self.home.path());
        let socket = OwnedFd::from(socket.try_clone().expect("a second handle of the socket"));
        let log = self.home.path().join("log");
        command.envs(self.variables.iter().cloned());
        let start = || Process::start_with_stdin("switchyard", &mut command, &log, None, socket.into());
        self.process = Some(match self.machine() {
            Some(machine) => machine.within(start),
            None => start(),
        });
    }

    /// Starts the relay (again) as if on a full disk: no file may grow beyond 32 KiB, which leaves a journal room for its locks. The WAL is
    /// longer than that already.
    pub(crate) fn launch_on_a_full_disk(&mut self) {
        self.lengthen_the_log().expect("a log that stays");
        let script = r#"trap "" XFSZ; ulimit -S -f 64; exec "$0" run --config config.toml"#;
        let mut command = Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_switchyard")]).current_dir(self.home.path());
        self.process = Some(Process::start("switchyard", &mut command, &self.home.path().join("log"), None));
    }

    /// Starts the relay (again) with the file `hosts` of its folder in place of `/etc/hosts`.
    pub(crate) fn launch_with_hosts(&mut self) {
        // A user other than root may mount only in a user namespace.
        let script = r#"unshare -m true 2>/dev/null && how=-m || how=-rm
                        exec unshare "$how" sh -c 'mount --bind hosts /etc/hosts && exec "$0" run --config config.toml' "$0""#;
        let mut command = Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_switchyard")]).current_dir(self.home.path());
        self.process = Some(Process::start("switchyard", &mut command, &self.home.path().join("log"), None));
    }

    /// Starts the relay (again) after a shell command that limits open files, such as `ulimit -n 256` or `ulimit -S -n 256`.
    pub(crate) fn launch_after(&mut self, ulimit: &str) {
        let script = format!(r#"{ulimit}; exec "$0" run --config config.toml"#);
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_switchyard")]).current_dir(self.home.path());
        self.process = Some(Process::start("switchyard", &mut command, &self.home.path().join("log"), None));
    }

    /// Fills the disk of a relay that was [launched on a full disk](Self::launch_on_a_full_disk): no page fits.
    pub(crate) fn fill_the_disk(&self) {
        self.limit_files(Some(4 << 10));
    }

    /// Leaves a WAL of more than 32 KiB beside the journal. Its content changes nothing, and a file that may not grow beyond 32 KiB cannot
    /// take it.
    fn lengthen_the_log(&self) -> rusqlite::Result<()> {
        let journal = rusqlite::Connection::open(self.home.path().join("journal.db"))?;
        journal.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        journal.execute_batch("PRAGMA wal_autocheckpoint = 0")?;
        // SQLite writes no unchanged value, so each step changes one.
        let mut steps = [1, -1].into_iter().cycle().take(10);
        steps.try_for_each(|step| journal.execute("UPDATE ledger SET quantity = quantity + ?1", [step]).map(drop))
    }

    /// Removes the limit of the full disk.
    pub(crate) fn empty_the_disk(&self) {
        self.limit_files(None);
    }

    fn limit_files(&self, current: Option<u64>) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        prlimit(pid, Resource::Fsize, Rlimit { current, maximum: None }).expect("another limit for a child");
    }

    /// Waits until the relay answers, ready or not.
    pub(crate) async fn await_alive(&mut self) {
        let (liveness, client) = (self.admin("/healthz"), self.client.clone());
        let process = self.process.as_mut().expect("a running relay");
        eventually("the relay answers", Duration::from_secs(20), async || {
            assert!(process.ended().is_none(), "the relay ended. {}", process.last_words());
            net::text(&client, &liveness).await
        })
        .await;
    }

    /// Waits until the relay is ready.
    pub(crate) async fn await_ready(&mut self) {
        let (readiness, client) = (self.admin("/readyz"), self.client.clone());
        let process = self.process.as_mut().expect("a running relay");
        eventually("the relay is ready", Duration::from_secs(20), async || {
            assert!(process.ended().is_none(), "the relay ended. {}", process.last_words());
            net::text(&client, &readiness).await
        })
        .await;
    }

    /// The public port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The machine on which the relay runs; `None` when it runs here.
    pub(crate) fn machine(&self) -> Option<&Machine> {
        self.machine.as_ref().map(|(machine, _)| machine)
    }

    /// The admin port.
    pub(crate) fn admin_port(&self) -> u16 {
        self.admin_port
    }

    /// The relay's folder.
    pub(crate) fn home(&self) -> PathBuf {
        self.home.path().to_owned()
    }

    /// The path of the configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.home.path().join("config.toml")
    }

    /// What the relay has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// The number of spilled records in the file, including moved ones that were not removed yet.
    pub(crate) fn spilled(&self) -> u32 {
        let kept = rusqlite::Connection::open(self.home.path().join("spill.db")).expect("its file");
        kept.query_row("SELECT count(*) FROM record", [], |row| row.get(0)).expect("a number")
    }

    /// `host:port` of the public listener.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `host:port` of the admin listener.
    pub(crate) fn admin_address(&self) -> String {
        format!("127.0.0.1:{}", self.admin_port)
    }

    /// The DSN for a service's `SENTRY_DSN`.
    pub(crate) fn dsn(&self) -> String {
        format!("http://{KEY}@{}/1", self.address())
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("a running relay").id()
    }

    /// The HTTP client for requests to the relay.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    fn admin(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin_address())
    }

    /// A POST to the public listener without credentials.
    pub(crate) fn post(&self, path_and_query: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.client.post(format!("http://{}{path_and_query}", self.address())).body(body)
    }

    /// Posts an envelope, authenticated in the query as Node's SDK does it.
    pub(crate) async fn send(&self, envelope: impl Into<reqwest::Body>) -> Response {
        let path = format!("/api/1/envelope/?sentry_version=7&sentry_key={KEY}");
        self.post(&path, envelope).send().await.expect("an answer")
    }

    /// Sends `count` errors one after the other and returns their event ids. Each must be taken.
    pub(crate) async fn send_errors(&self, count: usize) -> Vec<String> {
        let mut ids = Vec::new();
        for _ in 0..count {
            let id = envelopes::new_id();
            let response = self.send(envelopes::error(&id)).await;
            assert_eq!(response.status(), 200, "{:?}", response.text().await);
            ids.push(id);
        }
        ids
    }

    /// The status from `/api/status`.
    pub(crate) async fn status(&self) -> Value {
        net::json(&self.client, &self.admin("/api/status")).await.expect("a status")
    }

    /// One upstream of the status.
    pub(crate) async fn upstream(&self, name: &str) -> Value {
        let status = self.status().await;
        let upstreams = status["upstreams"].as_array().expect("upstreams").iter();
        upstreams.clone().find(|upstream| upstream["name"] == name).expect("the upstream").clone()
    }

    /// The text of `/metrics`.
    pub(crate) async fn metrics(&self) -> Result<String, String> {
        net::text(&self.client, &self.admin("/metrics")).await
    }

    /// The samples of `/metrics`.
    pub(crate) async fn samples(&self) -> Result<Samples, String> {
        Ok(Samples::read(&self.metrics().await?))
    }

    /// Makes `name` the primary as `sed -i` does: rewrites the first line and replaces the file. Does not wait.
    pub(crate) fn rewrite_primary(&self, name: &str) {
        let before = fs::read_to_string(self.config()).expect("the configuration");
        let (line, rest) = before.split_once('\n').expect("more than one line");
        assert!(line.starts_with("primary = "), "the first line names the primary: {line}");
        self.replace_config(&format!("primary = \"{name}\"\n{rest}"));
    }

    /// Replaces the configuration file.
    pub(crate) fn replace_config(&self, text: &str) {
        let draft = self.config().with_extension("toml.new");
        fs::write(&draft, text).expect("the new configuration");
        fs::rename(&draft, self.config()).expect("the configuration replaced");
    }

    /// Like [`rewrite_primary`](Self::rewrite_primary), and waits until the change is live.
    pub(crate) async fn flip_to(&self, name: &str) {
        self.rewrite_primary(name);
        eventually(&format!("{name} is primary"), Duration::from_secs(5), async || {
            let primary = self.status().await["primary"].clone();
            if primary == name { Ok(()) } else { Err(self.log()) }
        })
        .await;
    }

    /// Waits until the backlog is empty and, for each upstream and category, accepted + returned = delivered + dropped in the metrics. The
    /// difference in the status must be zero at every moment. Returns the samples of that moment.
    pub(crate) async fn balanced(&self, within: Duration) -> Samples {
        eventually("the relay's accounts balance", within, async || {
            let samples = self.samples().await?;
            let gaps: Vec<String> = self.upstreams.iter().flat_map(|upstream| gaps(&samples, upstream)).collect();
            let difference = self.status().await["difference"].clone();
            match gaps.is_empty() && difference == 0 {
                true => Ok(samples),
                false => Err(format!("difference {difference}\n{}\n{}", gaps.join("\n"), self.last_words())),
            }
        })
        .await
    }

    fn last_words(&self) -> String {
        self.process.as_ref().map(Process::last_words).unwrap_or_default()
    }

    /// Sends the process a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        self.process.as_ref().expect("a running relay").signal(signal);
    }

    /// Waits until the relay ends by itself.
    pub(crate) async fn ended(&mut self, within: Duration) -> ExitStatus {
        let mut process = self.process.take().expect("a running relay");
        eventually("the relay ends", within, async || process.ended().ok_or_else(|| process.last_words())).await
    }

    /// Kills the relay, as a crash does.
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("a running relay").kill();
    }

    /// Stops the relay in order: it must exit with success within 15 seconds. It can be started again.
    pub(crate) async fn stop(&mut self) {
        let process = self.process.take().expect("a running relay");
        let status = process.stop(Duration::from_secs(15)).await;
        assert!(status.success(), "the relay ended with {status}: {}", self.log());
    }

    /// Runs a verb against the relay; returns its exit code and output.
    pub(crate) async fn verb(&self, args: &[&str]) -> (i32, String) {
        let (config, args) = (self.config(), args.iter().map(ToString::to_string).collect::<Vec<_>>());
        let run = move || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
            command.args(args).arg("--config").arg(config).output().expect("it runs")
        };
        let output = tokio::task::spawn_blocking(run).await.expect("the verb ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().expect("a code"), text(&output.stdout) + &text(&output.stderr))
    }

    /// The end of every test: waits until the accounts balance, then stops the relay in order.
    pub(crate) async fn finish(mut self) {
        self.balanced(SOON).await;
        self.stop().await;
    }
}

/// The imbalances of one upstream, a line each.
fn gaps(samples: &Samples, upstream: &str) -> Vec<String> {
    let mut gaps = Vec::new();
    let waiting = samples.sum("switchyard_backlog_envelopes", &[("upstream", upstream)]);
    if waiting != 0.0 {
        gaps.push(format!("{upstream}: {waiting} envelopes wait"));
    }
    for category in samples.values_of("switchyard_accepted_items_total", "category") {
        let accepted = samples.sum("switchyard_accepted_items_total", &[("category", category)]);
        let labels = [("upstream", upstream), ("category", category)];
        let delivered = samples.sum("switchyard_delivered_items_total", &labels);
        let dropped = samples.sum("switchyard_dropped_items_total", &labels);
        let returned = samples.sum("switchyard_returned_items_total", &labels);
        if accepted + returned != delivered + dropped {
            gaps.push(format!(
                "{upstream}, {category}: {accepted} accepted, {returned} returned, {delivered} delivered, {dropped} dropped"
            ));
        }
    }
    gaps
}

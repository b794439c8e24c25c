//! The contenders: how each is configured, started, found ready and stopped.

use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::envelope::KEY;
use super::process::{self, Usage};
use super::sink::Sinks;
use super::{ROLE, ports};

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Kind {
    /// This project's binary.
    Switchyard,
    /// nginx with its mirror module: no parsing, no journal.
    Nginx,
    /// The bare HTTP stack.
    Floor,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Switchyard => "switchyard",
            Self::Nginx => "nginx mirror",
            Self::Floor => "floor",
        })
    }
}

impl Kind {
    /// The path of the executable.
    pub(crate) fn binary(self) -> Result<PathBuf> {
        match self {
            Self::Switchyard => Ok(env!("CARGO_BIN_EXE_switchyard").into()),
            Self::Floor => Ok(std::env::current_exe()?),
            Self::Nginx => nginx(),
        }
    }
}

/// A running contender; stopped when dropped.
pub(crate) struct Contender {
    child: Child,
    /// The address that takes envelopes.
    pub address: SocketAddr,
    /// The address of Switchyard's admin listener.
    pub admin: SocketAddr,
    /// The time from the start of the process to its first answer.
    pub ready_after: Duration,
    log: PathBuf,
}

impl Contender {
    /// Starts `kind` with default settings in front of the sinks, with its files in `place`, and waits until it answers.
    pub(crate) fn start(kind: Kind, place: &Path, sinks: &Sinks) -> Result<Self> {
        Self::start_with_room(kind, place, sinks, "1GiB")
    }

    /// Like [`start`](Self::start), with `room` as the size limit of Switchyard's journal.
    pub(crate) fn start_with_room(kind: Kind, place: &Path, sinks: &Sinks, room: &str) -> Result<Self> {
        Self::launch(kind, place, sinks, &format!("path = {:?}\nmax_size = \"{room}\"", place.join("data/journal.db")))
    }

    /// Starts Switchyard with its journal in a database.
    pub(crate) fn start_on(url: &str, place: &Path, sinks: &Sinks) -> Result<Self> {
        let spill = place.join("spill.db");
        Self::launch(
            Kind::Switchyard,
            place,
            sinks,
            &format!("url = {url:?}\nspill_path = {spill:?}\nmax_size = \"1GiB\""),
        )
    }

    fn launch(kind: Kind, place: &Path, sinks: &Sinks, journal: &str) -> Result<Self> {
        fs::create_dir_all(place)?;
        let (address, admin) = (ports::free()?, ports::free()?);
        let mut command = Command::new(kind.binary()?);
        match kind {
            Kind::Switchyard => {
                let config = place.join("config.toml");
                fs::write(&config, switchyard_config([address, admin], sinks.addresses, journal))?;
                command.arg("run").arg("--config").arg(config).env("RUST_LOG", "warn");
            }
            Kind::Nginx => {
                let config = place.join("nginx.conf");
                fs::write(&config, nginx_config(address, place, sinks.addresses))?;
                command.arg("-p").arg(place).arg("-c").arg(config).arg("-e").arg(place.join("error.log"));
            }
            Kind::Floor => {
                command.args([ROLE, "floor", &address.to_string()]).args(sinks.addresses.map(|a| a.to_string()));
            }
        }
        let log = place.join("stderr.log");
        let started = Instant::now();
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()
            .with_context(|| format!("{kind} does not start"))?;
        let mut contender = Self { child, address, admin, ready_after: Duration::ZERO, log };
        contender.wait_until_ready(kind, started)?;
        Ok(contender)
    }

    /// The resources that its processes use.
    pub(crate) fn usage(&self) -> Usage {
        process::usage(self.child.id())
    }

    /// Kills the process, which has no chance to clean up.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn wait_until_ready(&mut self, kind: Kind, started: Instant) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(30);
        while started.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                bail!("{kind} ended at its start with {status}: {}", self.said());
            }
            if get(self.address, "/api/relay/healthcheck/ready/").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
            {
                self.ready_after = started.elapsed();
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!("{kind} is not ready after {PATIENCE:?}: {}", self.said())
    }

    /// The last lines of its log.
    fn said(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Contender {
    /// Asks the process to end, so that nginx ends its workers too; kills it after a while.
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let (Some(pid), Ok(None)) = (pid, self.child.try_wait()) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
            let deadline = Instant::now() + Duration::from_secs(5);
            while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Sends a plain GET on a connection of its own and returns the answer.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<String> {
    let patience = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The configuration of Switchyard: defaults except for the journal.
fn switchyard_config(listen: [SocketAddr; 2], upstreams: [SocketAddr; 2], journal: &str) -> String {
    let ([address, admin], [a, b]) = (listen, upstreams);
    format!(
        r#"primary = "a"
[server]
listen = ["{address}"]
[admin]
listen = "{admin}"
[journal]
{journal}
[upstreams.a]
[upstreams.b]
[[projects]]
name = "bench"
id = "1"
public_key = "{KEY}"
[projects.upstreams]
a = "http://3d1f7c5a9b2e4860a7c4e1d2f5b80963@{a}/1"
b = "http://8c5e2a7f1d934b06b9e3f7a1c6d40582@{b}/1"
"#
    )
}

/// The fastest configuration of nginx: no log, bodies in memory, connections kept open.
fn nginx_config(address: SocketAddr, place: &Path, upstreams: [SocketAddr; 2]) -> String {
    let [a, b] = upstreams;
    let place = place.display();
    format!(
        "user root;
daemon off;
worker_processes 2;
pid {place}/nginx.pid;
error_log {place}/error.log crit;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_header_buffer_size 8k;
  keepalive_requests 1000000000;
  client_max_body_size 200m;
  client_body_buffer_size 64k;
  client_body_temp_path {place}/body;
  proxy_temp_path {place}/proxy;
  fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi;
  scgi_temp_path {place}/scgi;
  proxy_http_version 1.1;
  proxy_set_header Connection \"\";
  upstream a {{ server {a}; keepalive 64; keepalive_requests 1000000000; }}
  upstream b {{ server {b}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen {address};
    location / {{ mirror /mirror; proxy_pass http://a; }}
    location = /mirror {{ internal; proxy_pass http://b$request_uri; }}
  }}
}}
"
    )
}

/// The path of nginx from Debian's package, which is installed if it is missing and this process may.
fn nginx() -> Result<PathBuf> {
    let places = ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx", "/usr/local/bin/nginx"];
    let found = || places.iter().map(PathBuf::from).find(|path| path.exists());
    if let Some(path) = found() {
        return Ok(path);
    }
    ensure!(rustix::process::geteuid().is_root(), "nginx is missing: install it (Debian: apt-get install nginx-light)");
    eprintln!("nginx is missing: installing nginx-light");
    for arguments in [&["-qq", "update"][..], &["-qq", "install", "-y", "--no-install-recommends", "nginx-light"]] {
        // The run level keeps the package from starting a server on port 80.
        let status = Command::new("apt-get")
            .args(arguments)
            .envs([("DEBIAN_FRONTEND", "noninteractive"), ("RUNLEVEL", "1")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .context("apt-get does not run")?;
        ensure!(status.success(), "apt-get {} failed", arguments.join(" "));
    }
    found().context("nginx-light was installed, and there is no nginx")
}

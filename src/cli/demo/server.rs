//! A throw-away PostgreSQL server for the demo of several relays, started from the programs on this machine.
//!
//! Rules: it listens on the loopback interface and asks for a password, because other users may be on this machine. PostgreSQL refuses to
//! run as root; the demo then runs it as the user that its package created. Dropping the value ends the server and removes its folder.

use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::geteuid;
use tokio::time::{Instant, sleep};

use crate::cli::failure::{Exit, Failure};
use crate::protocol::event_id::EventId;

use super::guarded::{Guarded, User, last_words};
use super::stage::{Folder, Ports};
use super::watch::EACH;

/// How long the server may take to be ready.
const DEADLINE: Duration = Duration::from_secs(30);
/// Where packages install PostgreSQL, one folder a version: Debian's, PostgreSQL's own for Red Hat, and Homebrew's.
const PLACES: [(&str, &str); 5] = [
    ("/usr/lib/postgresql", ""),
    ("/usr", "pgsql-"),
    ("/opt/homebrew/opt", "postgresql@"),
    ("/usr/local/opt", "postgresql@"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql@"),
];
const MISSING: &str = "the demo of several relays needs the server of PostgreSQL on this machine, and finds none: install it \
                       (Debian: apt install postgresql; Homebrew: brew install postgresql)";
const NOT_AS_ROOT: &str =
    "PostgreSQL does not run as root, and there is no user postgres to run it as: run the demo as another user";

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    /// The address of its database.
    pub(super) url: String,
    _running: Guarded,
    // Last, so that it is removed when the server no longer writes there.
    _folder: Folder,
}

impl Server {
    /// Creates a server and starts it.
    pub(super) async fn start(ports: &mut Ports) -> Result<Self, Failure> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = programs(std::env::split_paths(&path).chain(installed()));
        let programs = found.ok_or_else(|| Failure::new(Exit::Unavailable, MISSING))?;
        let user = if geteuid().is_root() { Some(postgres()?) } else { None };
        let (folder, password) = (Folder::own("-postgres")?, EventId::random().to_string());
        let data = make(&programs, user, folder.path(), &password)?;
        let (address, log) = (ports.address()?, folder.path().join("log"));
        let port = address.port().to_string();
        let arguments = ["-D", &data, "-p", &port, "-h", "127.0.0.1", "-k", ""];
        // SIGQUIT ends it at once.
        let running = Guarded::start(&programs.join("postgres"), &arguments, "QUIT", user, &log)?;
        ready(&log).await?;
        Ok(Self { url: format!("postgres://relay:{password}@{address}/postgres"), _running: running, _folder: folder })
    }
}

/// Creates the server's files in a folder; returns the data folder.
fn make(programs: &Path, user: Option<User>, folder: &Path, password: &str) -> Result<String, Failure> {
    let secret = folder.join("password");
    let file = std::fs::File::options().create_new(true).write(true).mode(0o600).open(&secret);
    let written = file.and_then(|mut file| std::io::Write::write_all(&mut file, password.as_bytes()));
    written.map_err(|error| Failure::file(&secret, "written", &error))?;
    let data = folder.join("data").display().to_string();
    let mut initdb = Command::new(programs.join("initdb"));
    initdb.args([
        "--username=relay",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--no-sync",
        "-D",
        &data,
    ]);
    initdb.arg(format!("--pwfile={}", secret.display())).current_dir("/");
    if let Some(User { uid, gid }) = user {
        for path in [folder, &secret] {
            chown(path, Some(uid), Some(gid)).map_err(|error| Failure::file(path, "given away", &error))?;
        }
        initdb.uid(uid).gid(gid);
    }
    let made = initdb.output();
    let made = made.map_err(|error| Failure::new(Exit::Internal, format_args!("initdb cannot be started: {error}")))?;
    if !made.status.success() {
        let why = String::from_utf8_lossy(&made.stderr);
        return Err(Failure::new(Exit::Unavailable, format_args!("no PostgreSQL can be made here: {}", why.trim())));
    }
    Ok(data)
}

/// Waits until the server accepts connections.
async fn ready(log: &Path) -> Result<(), Failure> {
    let began = Instant::now();
    while !std::fs::read_to_string(log).unwrap_or_default().contains("ready to accept connections") {
        if began.elapsed() > DEADLINE {
            let why = last_words(log);
            return Err(Failure::new(Exit::Unavailable, format_args!("PostgreSQL does not start:\n{why}")));
        }
        sleep(EACH).await;
    }
    Ok(())
}

/// The first of these folders that has all the programs.
fn programs(mut places: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    places.find(|place| ["initdb", "postgres"].iter().all(|name| place.join(name).is_file()))
}

/// The program folders of installed packages, newest version first.
fn installed() -> impl Iterator<Item = PathBuf> {
    let mut all: Vec<_> = PLACES.iter().flat_map(|(place, prefix)| versions(Path::new(place), prefix)).collect();
    all.sort_by(|(a, _), (b, _)| b.cmp(a));
    all.into_iter().map(|(_, path)| path)
}

/// The versions installed at a place, with their program folders.
fn versions(place: &Path, prefix: &str) -> Vec<(u32, PathBuf)> {
    let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
    let version = |name: &str| name.strip_prefix(prefix)?.parse().ok();
    let found = entries.filter_map(|entry| Some((version(entry.file_name().to_str()?)?, entry.path().join("bin"))));
    found.collect()
}

/// The user that the package created.
fn postgres() -> Result<User, Failure> {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    users.lines().find_map(user).ok_or_else(|| Failure::new(Exit::Unavailable, NOT_AS_ROOT))
}

/// The user of a line of `/etc/passwd`, if it is `postgres`.
fn user(line: &str) -> Option<User> {
    let mut fields = line.strip_prefix("postgres:")?.split(':').skip(1);
    Some(User { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_complete_version_is_used() {
        let folder = tempfile::tempdir().unwrap();
        for (version, names) in [("9", &["initdb", "postgres"][..]), ("15", &["initdb", "postgres"]), ("17", &["psql"])]
        {
            let bin = folder.path().join(version).join("bin");
            std::fs::create_dir_all(&bin).unwrap();
            names.iter().for_each(|name| std::fs::write(bin.join(name), "").unwrap());
        }
        std::fs::create_dir(folder.path().join("common")).unwrap();
        let mut found = versions(folder.path(), "");
        found.sort_by(|(a, _), (b, _)| b.cmp(a));
        assert_eq!(found.iter().map(|(version, _)| *version).collect::<Vec<_>>(), [17, 15, 9]);
        let taken = programs(found.into_iter().map(|(_, path)| path)).unwrap();
        assert_eq!(taken, folder.path().join("15/bin"));
    }

    #[test]
    fn the_packages_user_is_read_from_the_list_of_users() {
        let User { uid, gid } =
            user("postgres:x:101:104:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash").unwrap();
        assert_eq!((uid, gid), (101, 104));
        assert!(user("postgresql:x:1:1::/:/bin/sh").is_none());
    }
}

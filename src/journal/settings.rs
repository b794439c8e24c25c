//! The section `[journal]` of the configuration.

use std::fmt;

use serde::{Deserialize, Serialize};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::units::{ByteSize, Period};

/// The address of a shared journal's database, with its password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// The address as an operator wrote it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The address with its password. It must not be printed.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Why the address is unusable; the text quotes nothing of it. `None` when it is usable.
    pub fn problem(&self) -> Option<&'static str> {
        if !self.0.starts_with("postgres://") && !self.0.starts_with("postgresql://") {
            return Some("is no address that begins with postgres:// or postgresql://");
        }
        match self.parsed() {
            None => {
                Some("cannot be read: in a password every character but letters and digits is written as %40 for @")
            }
            Some(config) if config.get_hosts().is_empty() => Some("names no server"),
            Some(config) if config.get_dbname().is_none() => Some("names no database"),
            Some(_) => None,
        }
    }

    /// The parsed address. `None` if a server's name holds an `@`, or the user's name a `/`, `?` or `=`: part of the password may have been
    /// taken for a name, which would be printed.
    fn parsed(&self) -> Option<Config> {
        let config: Config = self.0.parse().ok()?;
        let is_name = |host: &Host| !matches!(host, Host::Tcp(name) if name.contains('@'));
        let is_user = config.get_user().is_none_or(|user| !user.contains(['/', '?', '=']));
        (is_user && config.get_hosts().iter().all(is_name)).then_some(config)
    }
}

/// Prints the address without its password.
impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(config) = self.parsed() else { return f.write_str("***") };
        let host = |(at, host): (usize, &Host)| {
            let port = config.get_ports().get(at).map(|port| format!(":{port}")).unwrap_or_default();
            match host {
                Host::Tcp(name) => format!("{name}{port}"),
                Host::Unix(path) => path.display().to_string(),
            }
        };
        let hosts: Vec<String> = config.get_hosts().iter().enumerate().map(host).collect();
        let user = config.get_user().map(|user| format!("{user}@")).unwrap_or_default();
        write!(f, "postgres://{user}{}/{}", hosts.join(","), config.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The section `[journal]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The database file. Beside it stand `-wal`, `-shm` and `.lock` while it is open, and a folder `-bodies` for bodies over 1 MiB.
    pub path: std::path::PathBuf,
    /// What an acknowledged record survives.
    pub sync: Sync,
    /// The database of a journal that several relays share, used instead of the file: `postgres://user:password@a,b,c/switchyard`.
    pub url: Option<DatabaseUrl>,
    /// How many database servers must hold an acknowledged record.
    pub durability: Durability,
    /// The name of this relay among those that share the journal; the host name by default.
    pub node: Option<String>,
    /// Whether submissions are kept on this machine while no server of a shared journal takes writes.
    pub spill: bool,
    /// The file that they are kept in.
    pub spill_path: std::path::PathBuf,
    /// The most the journal may take of the disk.
    pub max_size: ByteSize,
    /// With less free disk than this the journal does not grow: new records need free room within its file.
    pub min_free_disk: ByteSize,
    /// How long a record is kept after all its targets settled it.
    pub retain: Period,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            path: "data/journal.db".into(),
            sync: Sync::Full,
            url: None,
            durability: Durability::Quorum,
            node: None,
            spill: true,
            spill_path: "data/spill.db".into(),
            max_size: ByteSize::mib(1024),
            min_free_disk: ByteSize::mib(256),
            retain: Period::secs(24 * 3600),
        }
    }
}

impl Settings {
    /// The path or address, without the password.
    pub fn place(&self) -> String {
        self.url.as_ref().map_or_else(|| self.path.display().to_string(), ToString::to_string)
    }

    /// The absolute path, or the address without the password. A relative path in the wrong folder is another journal; this shows it.
    pub fn whereabouts(&self) -> String {
        let whole = if self.url.is_none() { std::path::absolute(&self.path).ok() } else { None };
        whole.map_or_else(|| self.place(), |path| path.display().to_string())
    }

    /// The name of this relay among those that share the journal.
    pub fn node_name(&self) -> String {
        self.node.clone().unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
    }
}

/// How many database servers must hold an acknowledged record of a shared journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// The primary and a standby, on disk.
    Quorum,
    /// The primary alone, on disk: acknowledged records are lost with it.
    Single,
}

/// What an acknowledged record survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sync {
    /// A loss of power.
    Full,
    /// A crash of the process; a loss of power may take the last moments.
    Normal,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> DatabaseUrl {
        DatabaseUrl(text.to_owned())
    }

    #[test]
    fn a_password_is_never_shown() {
        let well = url("postgres://relay:hunter2@a,b:5433/switchyard?application_name=x");
        assert_eq!(well.to_string(), "postgres://relay@a:5432,b:5433/switchyard");
        assert_eq!(format!("{well:?}"), "\"postgres://relay@a:5432,b:5433/switchyard\"");
        for text in [
            "postgres://relay:h@unter2@a/b",
            "postgres://relay:h@u?unter2@a/b",
            "postgres://relay:h?unter2@a/b",
            "postgres://a/b?password=hunter2&user=x@y",
            "postgres://a/b?user=x&password=hunter2",
            "host=a password=hunter2 dbname=b",
            "hunter2",
        ] {
            assert!(!url(text).to_string().contains("unter2"), "{text}: {}", url(text));
        }
    }

    #[test]
    fn what_cannot_be_connected_to_says_why() {
        for (text, why) in [
            ("mysql://a/b", "begins with"),
            ("host=a dbname=b", "begins with"),
            ("postgres://a", "no database"),
            ("postgres:///b", "no server"),
            ("postgres://relay:p@ss@a/b", "cannot be read"),
            ("postgres://a:port/b", "cannot be read"),
        ] {
            assert!(url(text).problem().is_some_and(|told| told.contains(why)), "{text}: {:?}", url(text).problem());
        }
        assert_eq!(url("postgresql://relay:p%40ss@a,b,[::1]:5433/switchyard").problem(), None);
    }
}

//! Finds the configuration, and the address of the daemon that runs under it.
//!
//! A request to the daemon needs only its address and token, while the secrets of DSNs are often in the daemon's environment alone. These
//! two are therefore read even from a file that cannot be used as a whole here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use toml::de::DeTable;

use crate::config::{Loaded, followed, load};
use crate::http::settings;
use crate::units::Secret;

use super::failure::{Exit, Failure};
use super::terminal;

/// The places where the configuration is looked for, in this order.
const PLACES: [&str; 3] = ["config.toml", "config/config.toml", "/etc/switchyard/config.toml"];

/// Which configuration a verb is about.
#[derive(Args, Clone, Debug)]
pub(super) struct Located {
    /// The configuration file [default: what SWITCHYARD_CONFIG names, else the first that exists of config.toml, config/config.toml,
    /// /etc/switchyard/config.toml]
    #[arg(long, short, value_name = "FILE", env = "SWITCHYARD_CONFIG", global = true)]
    config: Option<PathBuf>,
}

/// How to reach a daemon.
#[derive(Clone, Debug)]
pub(super) struct Contact {
    /// The address of the admin listener.
    pub(super) address: SocketAddr,
    /// The token for the admin listener, if the file has one; or why it cannot be read here.
    pub(super) token: Result<Option<Secret>, String>,
    /// Why the address may be another: the file is not there, or is no TOML. This is the failure when no daemon answers.
    pub(super) unread: Option<Failure>,
}

impl Located {
    /// The path of the configuration file.
    pub(super) fn path(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| {
            let found = PLACES.into_iter().find(|place| Path::new(place).exists()).or_else(hidden);
            PathBuf::from(found.unwrap_or(PLACES[2]))
        })
    }

    /// The path of a configuration file that is to be created.
    pub(super) fn new_path(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| PathBuf::from(PLACES[0]))
    }

    /// The option that makes another command use the same file; empty if none was given.
    pub(super) fn as_option(&self) -> String {
        self.config.as_ref().map(|path| format!(" --config {}", terminal::as_word(path))).unwrap_or_default()
    }

    /// The failure when no file was named and none is in the usual places; `None` otherwise.
    pub(super) fn nowhere(&self) -> Option<Failure> {
        let is_there = |place| Path::new(place).exists();
        let is_anywhere = self.config.is_some() || PLACES.into_iter().any(is_there) || hidden().is_some();
        let message = format_args!(
            "there is no configuration: none of {} exists\n\
             --config FILE or SWITCHYARD_CONFIG names another; `switchyard init` makes one, `switchyard demo` needs none",
            PLACES.join(", ")
        );
        (!is_anywhere).then(|| Failure::new(Exit::NoInput, message))
    }

    /// Loads the configuration.
    pub(super) fn load(&self) -> Result<Loaded, Failure> {
        if let Some(nowhere) = self.nowhere() {
            return Err(nowhere);
        }
        load(&self.path()).map_err(|error| Failure::loading(&error, terminal::form_of_errors()))
    }

    /// How to reach the daemon: by the file as far as it can be read, else at the default address.
    pub(super) fn contact(&self) -> Contact {
        let unread = match self.load() {
            Ok(loaded) => return Contact::of(loaded.config.admin.listen, loaded.config.admin.token),
            Err(unread) => unread,
        };
        let (contact, is_whole) = lenient(&self.path());
        Contact { unread: (!is_whole).then_some(unread), ..contact }
    }
}

/// The first place that this user may not look into: the configuration may be there.
fn hidden() -> Option<&'static str> {
    let is_hidden = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    PLACES.into_iter().find(|place| Path::new(place).try_exists().is_err_and(is_hidden))
}

impl Contact {
    pub(super) fn of(listen: SocketAddr, token: Option<Secret>) -> Self {
        Self { address: reachable(listen), token: Ok(token), unread: None }
    }
}

/// The address to connect to for a listening address: an unspecified one is reached over loopback.
pub(super) fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    (ip, listen.port()).into()
}

/// The contact from the section `[admin]` of a file that has problems, and whether nothing there was skipped.
fn lenient(path: &Path) -> (Contact, bool) {
    let text = std::fs::read_to_string(path);
    let is_there = text.is_ok();
    let text = text.unwrap_or_default();
    let (file, errors) = DeTable::parse_recoverable(&text);
    let admin = file.get_ref().get("admin");
    let word = |name: &str| admin.and_then(|admin| admin.get_ref().get(name)).and_then(|word| word.get_ref().as_str());
    let written = word("listen").map(str::parse);
    let is_whole = is_there && errors.is_empty() && !matches!(written, Some(Err(_)));
    let listen = written.and_then(Result::ok).unwrap_or(settings::Admin::default().listen);
    let token =
        word("token").map(|token| followed(token, &|name| std::env::var(name).ok()).map(Secret::new)).transpose();
    (Contact { address: reachable(listen), token, unread: None }, is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_found_though_secrets_of_its_file_are_unknown_here() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let text =
            "[admin]\nlisten = \"0.0.0.0:9\"\ntoken = \"t\"\n[[projects]]\npublic_key = \"${NOT_SET_ANYWHERE}\"\n";
        std::fs::write(&path, text).unwrap();
        let contact = Located { config: Some(path) }.contact();
        assert_eq!(contact.address, "127.0.0.1:9".parse().unwrap());
        assert_eq!(contact.token.unwrap().unwrap().expose(), "t");
    }

    #[test]
    fn an_unreadable_token_is_reported_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, "[admin]\ntoken = \"${NOT_SET_ANYWHERE}\"\n").unwrap();
        let why = Located { config: Some(path) }.contact().token.unwrap_err();
        assert_eq!(why, "the environment variable NOT_SET_ANYWHERE is not set");
    }

    #[test]
    fn a_daemon_is_found_though_its_file_is_no_toml_or_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let at = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let contact = Located { config: Some(path.clone()) }.contact();
            (contact.address.to_string(), contact.unread.unwrap().code())
        };
        let admin = "[admin]\nlisten = \"127.0.0.1:9\"\n";
        assert_eq!(at(&format!("x = = 1\n{admin}")), ("127.0.0.1:9".to_owned(), 78));
        assert_eq!(at(&format!("{admin}[server]\nx = yes\n")), ("127.0.0.1:9".to_owned(), 78));
        assert_eq!(at("[admin]\nlisten = \n"), ("127.0.0.1:8485".to_owned(), 78));
        std::fs::remove_file(&path).unwrap();
        let gone = Located { config: Some(path.clone()) }.contact();
        assert_eq!((gone.address.to_string(), gone.unread.unwrap().code()), ("127.0.0.1:8485".to_owned(), 66));
    }
}

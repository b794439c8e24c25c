//! How a verb ends when it does not end well: an exit code of `sysexits.h`, and what the person at the terminal is told.
//!
//! The rule: the message says what, where, and how to mend it. It knows no verb.

use std::fmt;
use std::io;
use std::path::Path;

use crate::config::diagnostics::{Form, LoadError};
use crate::config::edit::EditError;
use crate::daemon::DaemonError;

use super::place;

/// The exit codes, 0 aside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// The reader of our output has left; there is nobody to tell.
    Done = 0,
    /// The answer is no.
    Negative = 1,
    /// The command line asks for something that does not exist, or `status --check` finds that data is lost: monitors know 2 as critical.
    Usage = 2,
    /// The configuration file does not exist.
    NoInput = 66,
    /// The daemon, or an address it needs, is not to be had.
    Unavailable = 69,
    /// A defect of ours.
    Internal = 70,
    /// A file cannot be created.
    CannotCreate = 73,
    /// A file cannot be read or written.
    Io = 74,
    /// The system, or the daemon, does not let us.
    Permission = 77,
    /// The configuration is wrong.
    Config = 78,
}

/// A verb that did not end well.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    /// Ends with this code and tells this.
    pub(super) fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }

    /// The answer is no, and the verb's own output has said so.
    pub(super) const fn negative() -> Self {
        Self::told(Exit::Negative)
    }

    /// The verb's own output has said everything.
    pub(super) const fn told(exit: Exit) -> Self {
        Self { exit, message: String::new() }
    }

    /// Something about a file.
    pub(super) fn file(path: &Path, what: &str, error: &io::Error) -> Self {
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::Permission,
            _ if what == "created" => Exit::CannotCreate,
            _ => Exit::Io,
        };
        Self::new(exit, format_args!("{} cannot be {what}: {error}", path.display()))
    }

    /// The configuration could not be loaded; `form` is how its problems are shown.
    pub(super) fn loading(error: &LoadError, form: Form) -> Self {
        let exit = match error {
            _ if error.is_missing() => Exit::NoInput,
            _ if error.is_denied() => Exit::Permission,
            _ if error.is_invalid() => Exit::Config,
            _ => Exit::Io,
        };
        let help = if error.is_missing() { MISSING } else { "" };
        Self::new(exit, format_args!("{}{help}", error.render(form)))
    }

    /// The same with one more line.
    pub(super) fn and(mut self, line: &str) -> Self {
        self.message.push('\n');
        self.message.push_str(line);
        self
    }

    /// The code for the shell.
    pub const fn code(&self) -> u8 {
        self.exit as u8
    }

    /// What is told; empty when everything has been said.
    pub fn message(&self) -> &str {
        &self.message
    }
}

const MISSING: &str = "\n--config or SWITCHYARD_CONFIG names another file; `switchyard demo` needs none";

impl From<EditError> for Failure {
    fn from(error: EditError) -> Self {
        let exit = match &error {
            _ if error.is_missing() => Exit::NoInput,
            _ if error.is_denied() => Exit::Permission,
            _ if error.is_unknown() => Exit::Usage,
            EditError::Broken { .. } => Exit::Config,
            _ => Exit::Io,
        };
        Self::new(exit, error)
    }
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Self {
        match &error {
            DaemonError::Journal(journal) => {
                let trouble = journal.shut().and_then(place::trouble);
                let trouble = trouble.map(|words| format!("\n{words}")).unwrap_or_default();
                Self::new(Exit::Io, format_args!("{error}{trouble}"))
            }
            DaemonError::Listen { why, .. } if why.kind() == io::ErrorKind::AddrInUse => Self::new(
                Exit::Unavailable,
                format_args!(
                    "{error}\nanother process uses that address; is it another switchyard? Look with `switchyard status`"
                ),
            ),
            DaemonError::Listen { why, .. } if why.kind() == io::ErrorKind::PermissionDenied => {
                Self::new(Exit::Permission, format_args!("{error}\nports below 1024 need CAP_NET_BIND_SERVICE"))
            }
            DaemonError::Listen { .. } => Self::new(Exit::Unavailable, error),
            DaemonError::Failed(_) => Self::new(Exit::Internal, error),
        }
    }
}

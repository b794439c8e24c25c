//! How a verb fails: an exit code of `sysexits.h`, and a message for the person at the terminal.
//!
//! Rule: the message says what failed, where, and how to mend it. This file knows no verb.

use std::fmt;
use std::io;
use std::path::Path;

use crate::config::diagnostics::{Form, LoadError};
use crate::config::edit::EditError;
use crate::daemon::DaemonError;

use super::place;

/// The exit codes, and 0 for a reader who has left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// The reader of the output has left; nobody sees a message.
    Done = 0,
    /// The answer is no.
    Negative = 1,
    /// The command line asks for something that does not exist, or `status --check` finds that data is lost: monitors know 2 as critical.
    Usage = 2,
    /// The configuration file does not exist.
    NoInput = 66,
    /// The daemon or an address is unavailable.
    Unavailable = 69,
    /// A defect of this program.
    Internal = 70,
    /// A file cannot be created.
    CannotCreate = 73,
    /// A file cannot be read or written.
    Io = 74,
    /// The system or the daemon denies access.
    Permission = 77,
    /// The configuration is invalid.
    Config = 78,
}

/// The failure of a verb.
#[derive(Clone, Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    /// A failure with this code and message.
    pub(super) fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }

    /// The answer is no, and the verb's own output says so.
    pub(super) const fn negative() -> Self {
        Self::told(Exit::Negative)
    }

    /// A failure whose details the verb's own output has given.
    pub(super) const fn told(exit: Exit) -> Self {
        Self { exit, message: String::new() }
    }

    /// A failure to handle a file.
    pub(super) fn file(path: &Path, what: &str, error: &io::Error) -> Self {
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::Permission,
            _ if what == "created" => Exit::CannotCreate,
            _ => Exit::Io,
        };
        Self::new(exit, format_args!("{} cannot be {what}: {error}", path.display()))
    }

    /// A failure to load the configuration. `form` is the form of its problems.
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

    /// Adds a line to the message.
    pub(super) fn and(mut self, line: &str) -> Self {
        self.message.push('\n');
        self.message.push_str(line);
        self
    }

    /// The exit code for the shell.
    pub const fn code(&self) -> u8 {
        self.exit as u8
    }

    /// The message; empty when the output has said everything.
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

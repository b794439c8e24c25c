//! What goes wrong with the database, told apart by what can be done about it.

use tokio_postgres::error::SqlState;

use crate::journal::{JournalError, OpenError};

/// Why a call did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The server said so, or the connection ended.
    #[error("{}", told(.0))]
    Db(#[from] tokio_postgres::Error),
    /// The server is not as it must be.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The caller is told this.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// No server takes writes.
    #[error("{0}")]
    Away(String),
    /// Nobody knows whether a commit took place.
    #[error("nobody knows whether a commit took place")]
    Unknown,
    /// What is kept on this machine cannot be read.
    #[error("{0}")]
    Unreadable(std::io::Error),
    /// The other side of a move ended first, and says why.
    #[error("the move was cut off")]
    CutOff,
    /// Something else.
    #[error("{0}")]
    Failed(String),
}

impl Fault {
    /// Whether the same transaction may work when it is tried again at once: another one was in its way, or there is no partition for
    /// [a day](super::days) any more.
    pub(super) fn is_conflict(&self) -> bool {
        let again = [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::CHECK_VIOLATION];
        self.code().is_some_and(|code| again.contains(code))
    }

    /// Whether somebody had a table for longer than it was waited for.
    pub(super) fn is_in_the_way(&self) -> bool {
        let locked = [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED];
        self.code().is_some_and(|code| locked.contains(code))
    }

    fn code(&self) -> Option<&SqlState> {
        if let Self::Db(error) = self { error.code() } else { None }
    }

    /// Whether no server takes writes now, or nobody knows whether one did: it may work later.
    pub(super) fn is_away(&self) -> bool {
        match self {
            Self::Db(error) => error.is_closed() || error.code().is_none_or(is_of_the_server),
            Self::Away(_) | Self::Unknown | Self::Open(_) => true,
            Self::Journal(_) | Self::Unreadable(_) | Self::CutOff | Self::Failed(_) => false,
        }
    }
}

/// Whether a server says this of itself and not of the statement: it stops, starts, cannot write, has no room for connections.
fn is_of_the_server(code: &SqlState) -> bool {
    ["08", "53", "57", "25006"].iter().any(|class| code.code().starts_with(class))
}

impl From<Fault> for JournalError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Journal(error) => error,
            other => Self::Failed(other.to_string()),
        }
    }
}

/// What the server says, in one line.
pub(super) fn told(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(told) => format!("{} ({})", told.message(), told.code().code()),
        None => std::iter::successors(std::error::Error::source(error), |error| error.source())
            .last()
            .map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}")),
    }
}

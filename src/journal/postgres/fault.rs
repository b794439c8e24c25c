//! The faults of the database, told apart by what can be done about them.

use tokio_postgres::error::SqlState;

use crate::journal::{JournalError, OpenError};

/// The reason why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The server reported an error, or the connection ended.
    #[error("{}", told(.0))]
    Db(#[from] tokio_postgres::Error),
    /// The server, or the journal on it, cannot be used as it is.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// An error for the caller.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// No server takes writes.
    #[error("{0}")]
    Away(String),
    /// It is unknown whether a commit took place.
    #[error("nobody knows whether a commit took place")]
    Unknown,
    /// Data on this machine cannot be read.
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
    /// Returns whether the same transaction may work when it is tried again at once: another one was in its way, or [a day](super::days)
    /// has no partition any more.
    pub(super) fn is_conflict(&self) -> bool {
        let again = [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::CHECK_VIOLATION];
        self.code().is_some_and(|code| again.contains(code))
    }

    /// Returns whether another session held a lock for too long.
    pub(super) fn is_in_the_way(&self) -> bool {
        let locked = [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED];
        self.code().is_some_and(|code| locked.contains(code))
    }

    fn code(&self) -> Option<&SqlState> {
        if let Self::Db(error) = self { error.code() } else { None }
    }

    /// Returns whether no server takes writes now, or it is unknown whether one did: the call may work later.
    pub(super) fn is_away(&self) -> bool {
        match self {
            Self::Db(error) => error.is_closed() || error.code().is_none_or(is_of_the_server),
            Self::Away(_) | Self::Unknown | Self::Open(_) => true,
            Self::Journal(_) | Self::Unreadable(_) | Self::CutOff | Self::Failed(_) => false,
        }
    }
}

/// Returns whether a server reports this about itself and not about the statement: it stops, starts, cannot write, or has no room for
/// connections.
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

/// The error in one line, with the server's message if there is one.
pub(super) fn told(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(told) => format!("{} ({})", told.message(), told.code().code()),
        None => std::iter::successors(std::error::Error::source(error), |error| error.source())
            .last()
            .map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}")),
    }
}

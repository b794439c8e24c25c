//! Errors of a journal, one for each thing that the caller can do about it.

use std::path::Path;

/// An error of a call to the journal.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// There is no room within the journal's limit or on the disk. The client gets a 503.
    #[error("the journal is full: {0}")]
    Full(String),
    /// The project has used up its share of the room. The client gets a 503.
    #[error("{0}")]
    Share(String),
    /// The storage failed.
    #[error("the journal failed: {0}")]
    Failed(String),
    /// Other relays have taken records with these keys. The caller may append the submission without the items of these keys.
    #[error("another relay has taken it")]
    Repeated(Vec<u128>),
    /// The lease does not hold: the record was settled before, or the lease was revoked after its end, or its owner is gone.
    #[error("the lease of the record is lost")]
    LeaseLost,
    /// The journal is closing.
    #[error("the journal is closed")]
    Closed,
}

/// An error of opening a journal. The journal was not changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{place} is in use by another process: one journal, one switchyard")]
    InUse {
        /// The journal's file.
        place: String,
    },
    /// It was written by a newer version.
    #[error("{place} has format {found}, this version knows up to {known}: {mend}")]
    Newer {
        /// The journal's file, or the database.
        place: String,
        /// The format that was found.
        found: i64,
        /// The newest format known here.
        known: i64,
        /// What can be done about it.
        mend: &'static str,
    },
    /// A move into it did not come to its end.
    #[error(
        "{place} is filled in part by a move that was cut off: run that `switchyard journal move` again, or remove what is there"
    )]
    Filling {
        /// The journal's file, or the database.
        place: String,
    },
    /// Its content is in another journal.
    #[error(
        "what was in {place} was moved to another journal: a relay that starts here would deliver it twice. If you want that, run \
         `switchyard journal reopen`"
    )]
    Moved {
        /// The journal's file, or the database.
        place: String,
    },
    /// A move out of it, or into it, is under way.
    #[error("{place} is being moved by `switchyard journal move`: wait until that is done")]
    Moving {
        /// The database.
        place: String,
    },
    /// It cannot be created, read or written, or is no journal.
    #[error("{place} cannot be opened: {why}")]
    Unusable {
        /// The journal's file, or the database.
        place: String,
        /// What the system says.
        why: String,
    },
    /// What PostgreSQL commits would be on one machine alone.
    #[error(
        "{place} commits with synchronous_commit = '{commit}' and synchronous_standby_names = '{standbys}': with the loss of that \
         machine, what was acknowledged would be lost. Set synchronous_commit = on and synchronous_standby_names = 'ANY 1 (*)' \
         there, or take the risk with journal.durability = \"single\""
    )]
    Unsafe {
        /// The server.
        place: String,
        /// Its `synchronous_commit`.
        commit: String,
        /// Its `synchronous_standby_names`.
        standbys: String,
    },
}

impl OpenError {
    /// The file that the system does not let us open.
    pub fn shut(&self) -> Option<&Path> {
        match self {
            Self::Unusable { place, why } => {
                (why.contains("(os error ") && !place.contains("://")).then(|| Path::new(place))
            }
            _ => None,
        }
    }
}

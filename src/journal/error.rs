//! What goes wrong with a journal, told apart by what the caller has to do about it.

/// Why the journal cannot do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// There is no room, in the journal's own limit or on the disk: the submission is answered with 503.
    #[error("the journal is full: {0}")]
    Full(String),
    /// The project has taken its share of the room, and what is left is for others: the submission is answered with 503.
    #[error("{0}")]
    Share(String),
    /// The storage failed.
    #[error("the journal failed: {0}")]
    Failed(String),
    /// A record was settled by a lease that does not hold: it was settled before, or has ended and been given up, or its owner is
    /// gone.
    #[error("the lease of the record is lost")]
    LeaseLost,
    /// The journal is closing.
    #[error("the journal is closed")]
    Closed,
}

/// Why a journal cannot be opened. Nothing on disk was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{path} is in use by another process: one journal, one switchyard")]
    InUse {
        /// The journal's file.
        path: String,
    },
    /// It was written by a newer version.
    #[error(
        "{path} has format {found}, this version knows up to {known}: use the newer switchyard, or move the file away"
    )]
    Newer {
        /// The journal's file.
        path: String,
        /// The format of the file.
        found: i64,
        /// The newest format known here.
        known: i64,
    },
    /// It cannot be created, read or written, or is no journal.
    #[error("{path} cannot be opened: {why}")]
    Unusable {
        /// The journal's file.
        path: String,
        /// What the system says.
        why: String,
    },
}

//! What everything needs that makes envelopes of crash reports: where files go, the pieces they come in, what can go wrong.

use std::error::Error;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::journal::bodies::BodyWriter;
use crate::journal::{Journal, JournalError};
use crate::protocol::envelope::EnvelopeError;

use super::turns::{Owner, Turns};

/// The field of a form that holds the minidump.
pub(super) const MINIDUMP: &str = "upload_file_minidump";

/// The bytes of a request, as they come.
pub type Pieces = BoxStream<'static, Result<Bytes, Box<dyn Error + Send + Sync>>>;

/// Why a request cannot be made into an envelope.
#[derive(Debug, thiserror::Error)]
pub enum CrashError {
    /// It cannot be kept: 503.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The envelope would hold more than it may: 413.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The body did not come to its end: whoever gave it knows why.
    #[error("the body broke off")]
    Body(Box<dyn Error + Send + Sync>),
    /// It is no form: 400.
    #[error("the body is no multipart form: {0}")]
    Multipart(String),
    /// There is nothing in it: 400.
    #[error("the body is empty: {0} expected")]
    Empty(&'static str),
    /// What is there as a minidump is none: 400.
    #[error("the file in {MINIDUMP} is no minidump: it begins with neither MDMP nor PMDM")]
    NoMinidump,
    /// A compressed minidump cannot be unpacked: 400.
    #[error("the compressed minidump cannot be unpacked: {0}")]
    Container(io::Error),
    /// Too many others are being unpacked: 503.
    #[error("too many compressed bodies are being unpacked")]
    Overloaded,
    /// Something of it is too large: 413.
    #[error("{what} has more than {limit} bytes, its limit")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The limit in bytes.
        limit: u64,
    },
}

/// Where files go, and how many are unpacked at once.
#[derive(Clone, Debug)]
pub struct Workshop {
    /// The journal beside which large files lie.
    pub journal: Arc<dyn Journal>,
    /// Whose they are; of the only project, nobody's in particular.
    pub owner: Option<Owner>,
    /// One for each that is unpacked.
    pub turns: Turns,
}

impl Workshop {
    /// A body that is being made.
    pub(super) fn body(&self) -> BodyWriter {
        BodyWriter::new(Arc::clone(&self.journal), self.owner.as_ref().and_then(Owner::project))
    }
}

//! The common parts of making envelopes from crash reports: the journal for files, the pieces of a body, the errors.

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
    /// The envelope cannot be kept: 503.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The envelope would hold more than it may: 413.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The body broke off. Its source knows why.
    #[error("the body broke off")]
    Body(Box<dyn Error + Send + Sync>),
    /// The body is no form: 400.
    #[error("the body is no multipart form: {0}")]
    Multipart(String),
    /// The body lacks what is expected: 400.
    #[error("the body is empty: {0} expected")]
    Empty(&'static str),
    /// The file in the minidump's field is no minidump: 400.
    #[error("the file in {MINIDUMP} is no minidump: it begins with neither MDMP nor PMDM")]
    NoMinidump,
    /// A compressed minidump cannot be unpacked: 400.
    #[error("the compressed minidump cannot be unpacked: {0}")]
    Container(io::Error),
    /// Too many other bodies are being unpacked: 503.
    #[error("too many compressed bodies are being unpacked")]
    Overloaded,
    /// Part of the body is too large: 413.
    #[error("{what} has more than {limit} bytes, its limit")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The limit in bytes.
        limit: u64,
    },
}

/// Where files are kept, and the turns at unpacking them.
#[derive(Clone, Debug)]
pub struct Workshop {
    /// The journal that keeps large bodies.
    pub journal: Arc<dyn Journal>,
    /// The project of the bodies.
    pub project: Option<Arc<str>>,
    /// The owner of the bodies; `None` with a single project.
    pub owner: Option<Owner>,
    /// The turns; each file that is unpacked takes one.
    pub turns: Turns,
}

impl Workshop {
    /// A new body.
    pub(super) fn body(&self) -> BodyWriter {
        BodyWriter::new(Arc::clone(&self.journal), self.project.clone())
    }
}

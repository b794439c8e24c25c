//! Decodes bodies of any size in pieces, on a thread of its own, from one body to another.
//!
//! The body is first decoded without keeping the text, to learn its size. A bomb costs time within the limit, and neither memory nor disk.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::journal::JournalError;
use crate::journal::bodies::BodyWriter;
use crate::journal::body::Body;

use super::decode::{self, DecodeError, Encoding};
use super::turns::Turn;

/// The number of decoded pieces that may wait to be written.
const PIECES: usize = 2;

/// Why a body was not decoded.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is invalid or too large.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It could not be read or kept.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// An encoded body that has its turn.
#[derive(Clone, Debug)]
pub struct Packed {
    /// The body as it came.
    pub body: Body,
    /// The encodings, in the order of decoding.
    pub encodings: Vec<Encoding>,
    /// The most bytes that each encoding may yield.
    pub limit: u64,
    /// Its turn.
    pub turn: Turn,
}

impl Packed {
    /// The size of the decoded body.
    pub async fn size(&self) -> Result<u64, UnpackError> {
        let Self { body, encodings, limit, turn } = self.clone();
        turn.run(move || Ok(decode::size(body.reader().map_err(unreadable)?, &encodings, limit)?)).await
    }

    /// Decodes a body of this decoded size into `writer`.
    pub async fn unpack(self, size: u64, mut writer: BodyWriter) -> Result<Body, UnpackError> {
        let (tell, mut told) = mpsc::channel::<Bytes>(PIECES);
        let Self { body, encodings, limit, turn } = self;
        let decoding = turn.run(move || {
            // A writer that has failed returns its own error.
            let hand_over = |piece| tell.blocking_send(piece).is_ok();
            let packed = body.reader().map_err(unreadable)?;
            decode::pieces(packed, &encodings, limit, size, hand_over).map_err(UnpackError::from)
        });
        let writing = async {
            while let Some(piece) = told.recv().await {
                writer.write(&piece).await.map_err(UnpackError::from)?;
            }
            writer.finish().await.map_err(UnpackError::from)
        };
        let ((), body) = tokio::try_join!(decoding, writing)?;
        Ok(body)
    }
}

fn unreadable(error: std::io::Error) -> UnpackError {
    JournalError::Failed(format!("the file of a body cannot be read: {error}")).into()
}

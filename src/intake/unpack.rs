//! Encoded bodies of any size, decoded from where they are to where they belong: piece by piece, on a thread of their own.
//!
//! The size is learnt first, by decoding into nothing: a bomb costs time, within the limit, and neither memory nor disk.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::journal::JournalError;
use crate::journal::bodies::BodyWriter;
use crate::journal::body::Body;

use super::decode::{self, DecodeError, Encoding};
use super::turns::Turn;

/// Pieces between who decodes and who writes.
const PIECES: usize = 2;

/// Why a body was not decoded.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is not what it should be, or too large.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It could not be read or kept.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// An encoded body whose turn it is.
#[derive(Clone, Debug)]
pub struct Packed {
    /// As it came.
    pub body: Body,
    /// What is to be undone, in this order.
    pub encodings: Vec<Encoding>,
    /// The most bytes that each of them may yield.
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

    /// Decodes a body of that size into `writer`.
    pub async fn unpack(self, size: u64, mut writer: BodyWriter) -> Result<Body, UnpackError> {
        let (tell, mut told) = mpsc::channel::<Bytes>(PIECES);
        let Self { body, encodings, limit, turn } = self;
        let decoding = turn.run(move || {
            // Whoever writes may have given up, and says why.
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

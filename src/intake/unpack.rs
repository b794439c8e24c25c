//! Encoded bodies of any size, decoded from where they are to where they belong: piece by piece, on a thread of their own.
//!
//! The size is learnt first, by decoding into nothing: a bomb costs time, within the limit, and neither memory nor disk.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::journal::JournalError;
use crate::journal::bodies::BodyWriter;
use crate::journal::body::Body;
use crate::tasks;

use super::decode::{self, DecodeError, Encoding};

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

/// The size of the decoded body.
pub async fn size(body: &Body, encodings: &[Encoding], limit: u64) -> Result<u64, UnpackError> {
    let (body, encodings) = (body.clone(), encodings.to_vec());
    tasks::blocking(move || Ok(decode::size(body.reader().map_err(unreadable)?, &encodings, limit)?)).await
}

/// Decodes a body of that size into `writer`.
pub async fn unpack(
    body: Body,
    encodings: Vec<Encoding>,
    size: u64,
    mut writer: BodyWriter,
) -> Result<Body, UnpackError> {
    let (tell, mut told) = mpsc::channel::<Bytes>(PIECES);
    let decoding = tasks::blocking(move || {
        // Whoever writes may have given up, and says why.
        let hand_over = |piece| tell.blocking_send(piece).is_ok();
        decode::pieces(body.reader().map_err(unreadable)?, &encodings, size, hand_over).map_err(UnpackError::from)
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

fn unreadable(error: std::io::Error) -> UnpackError {
    JournalError::Failed(format!("the file of a body cannot be read: {error}")).into()
}

//! The body of a submission, read and decoded: in memory as long as it is small, through a file of the journal beyond that.
//!
//! Rule: what one body takes of the memory is bounded whatever its size; only `max_body` bounds that, as sent and as decoded. It is
//! taken as the body comes, and when there is no more of it a body goes on through a file, too. Encoded bytes are decoded after
//! they are all there, so that a slow client keeps no decoder.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;

use crate::intake::decode::{self, DecodeError, Encoding};
use crate::intake::unpack;
use crate::journal::body::{self, IN_MEMORY};
use crate::journal::spool::BodyWriter;

use super::body::{BodyError, Held, Incoming, Joined, Room, SMALL};
use super::error::ApiError;
use super::ingest::DECODED_INLINE;
use super::state::Public;

/// What a body takes of the memory while it goes through a file.
const STREAMED: u64 = 512 * 1024;
/// The same when there is no room for that: what is written at once, and a piece as it comes.
const SQUEEZED: u64 = 2 * SMALL;

/// Reads a body and undoes its encodings.
pub(super) async fn receive(
    public: &Public,
    body: Body,
    encodings: Vec<Encoding>,
    held: &mut Held,
) -> Result<body::Body, ApiError> {
    let body = read(public, body, held).await?;
    if encodings.is_empty() { Ok(body) } else { decoded(public, body, encodings, held).await }
}

/// The most of one body that is held in memory. An encoded one may be there twice.
fn keep(room: &Room) -> u64 {
    (IN_MEMORY as u64).min(room.total() / 2)
}

async fn read(public: &Public, body: Body, held: &mut Held) -> Result<body::Body, ApiError> {
    let room = &public.room;
    let mut incoming = Incoming::new(body, room.max_body(), "max_body")?;
    let (start, more) = gather(room, &mut incoming, held).await?;
    let Some(more) = more else { return Ok(start.into()) };
    let (mut writer, takes) = through_a_file(public, held, 0).await?;
    writer.write(&start).await?;
    drop(start);
    writer.write(&more).await?;
    drop(more);
    held.shrink(takes);
    while let Some(piece) = incoming.next().await? {
        writer.write(&piece).await?;
    }
    Ok(writer.finish().await?)
}

/// The way through a file, in steps as large as there is room for beside `others`, and what it takes of the memory.
async fn through_a_file(public: &Public, held: &mut Held, others: u64) -> Result<(BodyWriter, u64), BodyError> {
    let writer = BodyWriter::new(Arc::clone(public.intake.journal())).beyond(0);
    let [wanted, least] = [STREAMED, SQUEEZED].map(|takes| takes.min(keep(&public.room)));
    if public.room.extend_now(held, others + wanted) {
        return Ok((writer, wanted));
    }
    public.room.extend(held, others + least).await?;
    Ok((writer.in_steps_of(SMALL), least))
}

/// What may be held in memory of a body, and the piece that was too much, for this body or for all of them together.
async fn gather(room: &Room, incoming: &mut Incoming, held: &mut Held) -> Result<(Bytes, Option<Bytes>), BodyError> {
    let (keep, mut all) = (keep(room), Joined::default());
    while let Some(piece) = incoming.next().await? {
        let total = incoming.total();
        if total > keep {
            return Ok((all.into_bytes(), Some(piece)));
        }
        if total <= SMALL {
            room.follow(held, incoming, keep).await?;
        } else if total > held.bytes() && !room.extend_now(held, incoming.soon().min(keep)) {
            return Ok((all.into_bytes(), Some(piece)));
        }
        all.push(piece, held);
    }
    Ok((all.into_bytes(), None))
}

/// Decodes where it is quick, and elsewhere where it is not.
async fn decoded(
    public: &Public,
    body: body::Body,
    encodings: Vec<Encoding>,
    held: &mut Held,
) -> Result<body::Body, ApiError> {
    let (room, keep) = (&public.room, keep(&public.room));
    if let body::Body::Memory(bytes) = &body
        && bytes.len() <= DECODED_INLINE
    {
        let limit = room.max_body().min(keep);
        match decode::decode(bytes.clone(), &encodings, limit) {
            Err(DecodeError::TooLarge { .. }) if room.max_body() > limit => {}
            done => {
                let text = done?;
                room.extend(held, (bytes.len() + text.len()) as u64).await?;
                return Ok(text.into());
            }
        }
    }
    // A decompressor may take a window of many MiB: few at a time.
    let _turn = room.turn().await;
    let size = unpack::size(&body, &encodings, room.max_body()).await?;
    let writer = if room.extend_now(held, body.in_memory() as u64 + size.min(keep)) {
        BodyWriter::new(Arc::clone(public.intake.journal())).beyond(keep)
    } else {
        through_a_file(public, held, body.in_memory() as u64).await?.0
    };
    Ok(unpack::unpack(body, encodings, size, writer).await?)
}

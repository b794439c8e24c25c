//! Reads and decodes the body of a request: in memory while it is small, through a file of the journal beyond that. The bodies of all
//! routes come in here, except those that are passed on as they come.
//!
//! Rule: a body takes room as it comes, up to a bound that does not depend on its size; its limit applies as sent and as decoded. A body
//! that finds no more room goes through a file, too. An encoded body is decoded once it is complete, so that a slow client holds no
//! decoder. Before anything of an envelope goes to a file, its first line must name a known project.

use std::sync::Arc;

use bytes::Bytes;

use crate::intake::decode::{self, DecodeError, Encoding};
use crate::intake::submit::Entrance;
use crate::intake::unpack::{Packed, UnpackError};
use crate::journal::JournalError;
use crate::journal::bodies::BodyWriter;
use crate::journal::body::Body;
use crate::protocol::envelope::MAX_LINE;
use crate::tasks;

use super::body::{Incoming, Joined};
use super::error::ApiError;
use super::limit::{BodyError, Limit};
use super::room::{Held, Room, SMALL};
use super::state::Public;

/// Bodies of up to this many bytes in one encoding are decoded where they are read, all others on a thread of their own. With several
/// encodings, a few bytes may become many in between.
pub(super) const DECODED_INLINE: usize = 128 * 1024;
/// The room, in bytes, that a body takes while it goes through a file.
const STREAMED: u64 = 512 * 1024;
/// The same when there is no room for [`STREAMED`]: for one write, and for one piece.
const SQUEEZED: u64 = 2 * SMALL;

/// Reads a body and undoes its encodings. Extends `held` to the room that the body takes. `envelope_of` says how the request of an
/// envelope is authenticated; `None` for other bodies.
pub(super) async fn receive(
    public: &Public,
    incoming: Incoming,
    encodings: Vec<Encoding>,
    envelope_of: Option<&Entrance>,
    held: &mut Held,
) -> Result<Body, ApiError> {
    let limit = incoming.limit();
    let body = read(public, incoming, (&encodings, envelope_of), held).await?;
    if encodings.is_empty() {
        return Ok(body);
    }
    decoded(public, body, (encodings, envelope_of), limit, held).await
}

/// Finds out whose an envelope is, by the beginning of its body. Refuses one that is no envelope, or of no known project.
async fn recognise(
    public: &Public,
    (encodings, envelope_of): (&[Encoding], Option<&Entrance>),
    beginning: Bytes,
    held: &mut Held,
) -> Result<(), ApiError> {
    let Some(entrance) = envelope_of else { return Ok(()) };
    let encodings = encodings.to_vec();
    let text = tasks::blocking(move || decode::beginning(&beginning, &encodings, MAX_LINE as u64 + 1)).await;
    if let Some(project) = public.intake.recognise(entrance, &text)? {
        held.note_project(project);
    }
    Ok(())
}

/// Returns a body as bytes in memory, read back if it went through a file. Only for bodies with a small limit.
pub(super) async fn whole(public: &Public, body: Body, held: &mut Held) -> Result<Bytes, ApiError> {
    if let Body::Memory(bytes) = body {
        return Ok(bytes);
    }
    public.room.extend(held, body.len()).await?;
    let read = tasks::blocking(move || body.piece(0..body.len())).await;
    Ok(read.map_err(|error| JournalError::Failed(format!("the file of a body cannot be read: {error}")))?)
}

async fn read(
    public: &Public,
    mut incoming: Incoming,
    what: (&[Encoding], Option<&Entrance>),
    held: &mut Held,
) -> Result<Body, ApiError> {
    let (start, more) = gather(&public.room, &mut incoming, held).await?;
    let Some(more) = more else { return Ok(start.into()) };
    let beginning = if start.is_empty() { &more } else { &start };
    if let Err(refusal) = recognise(public, what, beginning.clone(), held).await {
        drop((start, more));
        held.shrink(0);
        // As in `admit`: not every SDK reads an answer that comes before it has sent the body.
        incoming.discard().await;
        return Err(refusal);
    }
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

/// Returns a writer to a file, whose steps fit into the room beside `others` bytes, and the room in bytes that it takes.
async fn through_a_file(public: &Public, held: &mut Held, others: u64) -> Result<(BodyWriter, u64), BodyError> {
    let writer = BodyWriter::new(Arc::clone(public.intake.journal()), held.project()).beyond(0);
    let [wanted, least] = [STREAMED, SQUEEZED].map(|takes| takes.min(public.room.keep()));
    if public.room.pass_now(held, others + wanted) {
        return Ok((writer, wanted));
    }
    public.room.extend(held, others + least).await?;
    Ok((writer.in_steps_of(SMALL), least))
}

/// Reads a body into memory. Returns its bytes, and the piece that was too much for one body or for the room; `None` at the body's end.
async fn gather(room: &Room, incoming: &mut Incoming, held: &mut Held) -> Result<(Bytes, Option<Bytes>), BodyError> {
    let (keep, mut all) = (room.keep(), Joined::default());
    while let Some(piece) = incoming.next().await? {
        let total = incoming.total();
        if total > keep {
            return Ok((all.into_bytes(), Some(piece)));
        }
        if total <= SMALL {
            incoming.follow(room, held, keep).await?;
        } else if total > held.bytes() && !room.keep_now(held, incoming.soon().min(keep)) {
            return Ok((all.into_bytes(), Some(piece)));
        }
        all.push(piece, held);
    }
    Ok((all.into_bytes(), None))
}

/// Decodes a small body at once, and others on a thread of their own.
async fn decoded(
    public: &Public,
    body: Body,
    (encodings, envelope_of): (Vec<Encoding>, Option<&Entrance>),
    limit: Limit,
    held: &mut Held,
) -> Result<Body, ApiError> {
    let (room, keep) = (&public.room, public.room.keep());
    if let Body::Memory(bytes) = &body
        && bytes.len() <= DECODED_INLINE
        && encodings.len() == 1
        && let Some(text) = decoded_at_once(room, bytes, &encodings, limit, held).await?
    {
        return Ok(text.into());
    }
    let packed = Packed { encodings, limit: limit.bytes(), turn: room.turn(held).await?, body };
    let too_large = |error| match error {
        UnpackError::Decode(error) => refusal(error, limit),
        other => other.into(),
    };
    let size = packed.size().await.map_err(too_large)?;
    if let Body::Memory(bytes) = &packed.body {
        recognise(public, (&packed.encodings, envelope_of), bytes.clone(), held).await?;
    }
    let in_memory = packed.body.in_memory() as u64;
    let writer = if room.keep_now(held, in_memory + size.min(keep)) {
        BodyWriter::new(Arc::clone(public.intake.journal()), held.project()).beyond(keep)
    } else {
        through_a_file(public, held, in_memory).await?.0
    };
    Ok(packed.unpack(size, writer).await?)
}

/// Decodes into the room that is free now; `None` if it is too little for the result. Waits for room for a small result.
async fn decoded_at_once(
    room: &Room,
    bytes: &Bytes,
    encodings: &[Encoding],
    limit: Limit,
    held: &mut Held,
) -> Result<Option<Bytes>, ApiError> {
    let (before, keep) = (held.bytes(), room.keep());
    let most = if room.keep_now(held, keep) { keep } else { keep.min(SMALL) };
    room.extend(held, most).await?;
    match decode::decode(bytes.clone(), encodings, limit.bytes().min(most)) {
        Err(DecodeError::TooLarge { .. }) if limit.bytes() > most => {
            held.shrink(before);
            Ok(None)
        }
        Ok(text) => {
            held.shrink(text.len() as u64);
            Ok(Some(text))
        }
        Err(error) => Err(refusal(error, limit)),
    }
}

/// The refusal of a body that cannot be decoded; names the limit if the body is over it.
fn refusal(error: DecodeError, limit: Limit) -> ApiError {
    match error {
        DecodeError::TooLarge { .. } => BodyError::TooLarge { what: "decoded body", limit }.into(),
        other => other.into(),
    }
}

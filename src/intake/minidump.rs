//! Adds a minidump to an envelope. It may be compressed, or inside a form of its own, as old versions of Electron's SDK for Linux send
//! it (getsentry/relay, `relay-server/src/endpoints/minidump.rs`, `extract_embedded_minidump`).
//!
//! Rule: a minidump passes through in pieces. It is recognised by its first bytes, and nothing else of it is interpreted.

use std::io::Read as _;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};

use crate::journal::body::Body;

use super::assemble::EnvelopeWriter;
use super::decode::{Container, MAGIC};
use super::read_ahead::{broken, field_chunks, parts};
use super::turns::Turn;
use super::workshop::{CrashError, MINIDUMP, Workshop};

/// The first bytes of a minidump, in either byte order.
const MAGICS: [&[u8]; 2] = [b"MDMP", b"PMDM"];
/// The most bytes of an unpacked minidump (getsentry/relay, `max_attachment_size`).
const LIMIT: u64 = 200 * 1024 * 1024;
/// The bytes that are unpacked at a time.
const STEP: usize = 256 * 1024;
/// More than the first line of a form can have: 70 characters, two hyphens and line ends around it (RFC 2046, section 5.1.1).
const LONGEST_BOUNDARY: usize = 80;

/// The name of a compressed file without the ending of its container, because the file is unpacked.
pub(super) fn without_container(file: &str) -> &str {
    [".gz", ".xz", ".bz2", ".zst"].into_iter().find_map(|end| file.strip_suffix(end)).unwrap_or(file)
}

/// Adds a minidump to the current item. If the file begins like a form, the minidump is taken from that form.
pub(super) async fn add_minidump<S>(
    workshop: &Workshop,
    envelope: &mut EnvelopeWriter,
    mut chunks: S,
) -> Result<(), CrashError>
where
    S: Stream<Item = Result<Bytes, CrashError>> + Unpin + Send + 'static,
{
    let mut first = BytesMut::new();
    take(&mut first, &mut chunks, MAGIC).await?;
    if !first.trim_ascii_start().starts_with(b"--") {
        return add_plain(workshop, envelope, first, chunks).await;
    }
    take(&mut first, &mut chunks, LONGEST_BOUNDARY).await?;
    let boundary = boundary(&first).ok_or(CrashError::NoMinidump)?.to_owned();
    let rest = chunks.map_err(|error| Box::new(error).into());
    let (mut multipart, ahead) = parts(stream::iter([Ok(first.freeze())]).chain(rest).boxed(), &boundary);
    let mut found = false;
    while let Some(field) = multipart.next_field().await.map_err(broken)? {
        ahead.catch_up();
        let is_minidump = !found && field.name() == Some(MINIDUMP);
        let mut chunks = field_chunks(field, &ahead);
        if is_minidump {
            found = true;
            let mut first = BytesMut::new();
            take(&mut first, &mut chunks, MAGIC).await?;
            add_plain(workshop, envelope, first, chunks).await?;
        } else {
            // Other fields must be read for the next field to come.
            while chunks.try_next().await?.is_some() {}
        }
    }
    if found { Ok(()) } else { Err(CrashError::NoMinidump) }
}

/// The boundary of a form that begins like this: the first line that is not empty, without its two hyphens.
fn boundary(first: &[u8]) -> Option<&str> {
    let line = first.split(|byte| matches!(byte, b'\r' | b'\n')).find(|line| !line.is_empty())?;
    std::str::from_utf8(line.strip_prefix(b"--")?).ok().filter(|boundary| !boundary.is_empty())
}

/// Takes more chunks until there are at least `bytes` bytes or the stream ends.
async fn take<S>(first: &mut BytesMut, chunks: &mut S, bytes: usize) -> Result<(), CrashError>
where
    S: Stream<Item = Result<Bytes, CrashError>> + Unpin,
{
    while first.len() < bytes {
        match chunks.try_next().await? {
            Some(chunk) => first.extend_from_slice(&chunk),
            None => break,
        }
    }
    Ok(())
}

/// Adds a minidump that begins with `first`, and unpacks it if it is compressed.
async fn add_plain<S>(
    workshop: &Workshop,
    envelope: &mut EnvelopeWriter,
    first: BytesMut,
    mut chunks: S,
) -> Result<(), CrashError>
where
    S: Stream<Item = Result<Bytes, CrashError>> + Unpin,
{
    let Some(container) = Container::recognise(&first) else {
        check_magic(&first)?;
        envelope.write(&first).await?;
        while let Some(chunk) = chunks.try_next().await? {
            envelope.write(&chunk).await?;
        }
        return Ok(());
    };
    let mut packed = workshop.body();
    packed.write(&first).await?;
    while let Some(chunk) = chunks.try_next().await? {
        packed.write(&chunk).await?;
    }
    let packed = packed.finish().await?;
    let turn = workshop.turns.take(workshop.owner.clone()).await.ok_or(CrashError::Overloaded)?;
    unpack(container, packed, envelope, turn).await
}

fn check_magic(first: &[u8]) -> Result<(), CrashError> {
    if MAGICS.iter().any(|magic| first.starts_with(magic)) { Ok(()) } else { Err(CrashError::NoMinidump) }
}

async fn unpack(
    container: Container,
    packed: Body,
    envelope: &mut EnvelopeWriter,
    turn: Turn,
) -> Result<(), CrashError> {
    let mut reader = turn.clone().run(move || container.open(packed.reader()?)).await.map_err(CrashError::Container)?;
    let mut total = 0;
    loop {
        let (next, piece) = turn
            .clone()
            .run(move || {
                let mut piece = Vec::with_capacity(STEP);
                let read = reader.by_ref().take(STEP as u64).read_to_end(&mut piece);
                (reader, read.map(|_| piece))
            })
            .await;
        reader = next;
        let piece = piece.map_err(CrashError::Container)?;
        if total == 0 {
            check_magic(&piece)?;
        }
        if piece.is_empty() {
            return Ok(());
        }
        total += piece.len() as u64;
        if total > LIMIT {
            return Err(CrashError::TooLarge { what: "the unpacked minidump", limit: LIMIT });
        }
        envelope.write(&piece).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_of_a_container_is_removed() {
        let names = ["a.dmp.gz", "a.xz", "a.dmp", "a.zst", "b.bz2"].map(without_container);
        assert_eq!(names, ["a.dmp", "a", "a.dmp", "a", "b"]);
    }

    #[test]
    fn the_boundary_is_the_first_line_of_a_form() {
        for (first, found) in [
            (&b"--frontier\r\nContent-Disposition: x"[..], Some("frontier")),
            (b"\r\n----WebKit\nx", Some("--WebKit")),
            (b"--\r\n", None),
            (b"MDMP", None),
            (b"", None),
        ] {
            assert_eq!(boundary(first), found);
        }
    }
}

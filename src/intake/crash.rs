//! Makes envelopes of crash reports and files that come as forms or as plain bodies: minidumps, crashes of Unreal, attachments to an
//! event that was sent earlier.
//!
//! The envelopes are those that Relay makes of the same requests (getsentry/relay, `relay-server/src/endpoints/minidump.rs`,
//! `unreal.rs`, `attachments.rs`, `utils/multipart.rs`). Bodies pass through unchanged; of a file only the first bytes are
//! interpreted.

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, TryStreamExt as _};

use crate::journal::body::Body;
use crate::protocol::envelope::EnvelopeError;
use crate::protocol::event_id::EventId;
use crate::protocol::item::ItemType;

use super::assemble::{EnvelopeWriter, header};
use super::form::Form;
use super::minidump::{add_minidump, without_container};
use super::read_ahead::{broken, field_chunks, parts};
use super::workshop::MINIDUMP;
pub use super::workshop::{CrashError, Pieces, Workshop};

/// The field that holds sentry-native's event, in MessagePack.
const EVENT: &str = "__sentry-event";
/// The bytes of an event that are searched for its id, which comes first.
const EVENT_HEAD: usize = 16 * 1024;

/// The kind of a form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FormKind {
    /// A crash with its minidump.
    Minidump,
    /// Files for the event of this id.
    Attachments(EventId),
}

/// The envelope of a form, and its event id.
pub async fn of_form(
    workshop: &Workshop,
    pieces: Pieces,
    boundary: &str,
    kind: FormKind,
) -> Result<(EventId, Body), CrashError> {
    let (mut multipart, ahead) = parts(pieces, boundary);
    let mut envelope = EnvelopeWriter::begin(workshop, header([])).await?;
    let (mut form, mut files, mut minidumps) = (Form::default(), 0_u16, 0_u32);
    while let Some(field) = multipart.next_field().await.map_err(broken)? {
        ahead.catch_up();
        match (field.file_name().map(str::to_owned), field.name().unwrap_or_default().to_owned()) {
            (Some(file), name) => {
                let is_minidump = kind == FormKind::Minidump && name == MINIDUMP;
                (files, minidumps) = (files + 1, minidumps + u32::from(is_minidump));
                // Checked for each file and not at the end, because there may be millions of empty ones.
                if let Some((_, limit)) = ItemType::Attachment.count_limit().filter(|(_, limit)| files > *limit) {
                    let kind = ItemType::Attachment.name().to_owned();
                    return Err(EnvelopeError::TooManyOf { kind, limit }.into());
                }
                let chunks = field_chunks(field, &ahead);
                let part = Part { name: &name, file: &file, is_minidump };
                if let Some(id) = add_file(workshop, &mut envelope, part, chunks).await? {
                    form.found(id);
                }
            }
            (None, name) => {
                let chunks = field_chunks(field, &ahead);
                form.add(&name, chunks).await?;
            }
        }
    }
    let id = match kind {
        FormKind::Minidump if minidumps == 0 => return Err(CrashError::Empty("a file in upload_file_minidump is")),
        FormKind::Attachments(_) if files == 0 => return Err(CrashError::Empty("files are")),
        FormKind::Minidump => form.event_id().unwrap_or_else(EventId::random),
        FormKind::Attachments(id) => id,
    };
    if let Some(entries) = form.into_entries() {
        envelope.begin_item(header([("type", Some("form_data")), ("content_type", Some("text/plain"))])).await?;
        envelope.write(&entries).await?;
        envelope.end_item().await?;
    }
    Ok((id, envelope.finish(id).await?))
}

/// The envelope of a body that is a minidump, and its new event id.
pub async fn of_minidump(workshop: &Workshop, pieces: Pieces) -> Result<(EventId, Body), CrashError> {
    let mut envelope = EnvelopeWriter::begin(workshop, header([])).await?;
    let part = Part { name: MINIDUMP, file: "Minidump", is_minidump: true };
    add_file(workshop, &mut envelope, part, pieces.map_err(CrashError::Body)).await?;
    let id = EventId::random();
    Ok((id, envelope.finish(id).await?))
}

/// The envelope of a crash of the Unreal engine, and its new event id. Trackers unpack the crash.
pub async fn of_unreal(
    workshop: &Workshop,
    mut pieces: Pieces,
    user: Option<&str>,
) -> Result<(EventId, Body), CrashError> {
    let keys = header([("unreal_user_header", user)]);
    let mut envelope = EnvelopeWriter::begin(workshop, keys).await?;
    let kind = [("type", Some("unreal_report")), ("content_type", Some("application/octet-stream"))];
    envelope.begin_item(header(kind)).await?;
    while let Some(piece) = pieces.try_next().await.map_err(CrashError::Body)? {
        envelope.write(&piece).await?;
    }
    if envelope.end_item().await? == 0 {
        return Err(CrashError::Empty("a crash of Unreal is"));
    }
    let id = EventId::random();
    Ok((id, envelope.finish(id).await?))
}

/// A file of a form.
#[derive(Clone, Copy)]
struct Part<'a> {
    name: &'a str,
    file: &'a str,
    is_minidump: bool,
}

/// Adds a file as an attachment; returns the event id if the file is sentry-native's event.
async fn add_file<S>(
    workshop: &Workshop,
    envelope: &mut EnvelopeWriter,
    part: Part<'_>,
    mut chunks: S,
) -> Result<Option<EventId>, CrashError>
where
    S: Stream<Item = Result<Bytes, CrashError>> + Unpin + Send + 'static,
{
    let file = if part.is_minidump { without_container(part.file) } else { part.file };
    let content_type = if part.is_minidump { "application/x-dmp" } else { "application/octet-stream" };
    envelope
        .begin_item(header([
            ("type", Some("attachment")),
            ("attachment_type", Some(attachment_type(part.name))),
            ("content_type", Some(content_type)),
            ("filename", Some(file)),
        ]))
        .await?;
    let mut head = BytesMut::new();
    if part.is_minidump {
        add_minidump(workshop, envelope, chunks).await?;
    } else {
        while let Some(chunk) = chunks.try_next().await? {
            if part.name == EVENT && head.len() < EVENT_HEAD {
                head.extend_from_slice(&chunk[..chunk.len().min(EVENT_HEAD - head.len())]);
            }
            envelope.write(&chunk).await?;
        }
    }
    envelope.end_item().await?;
    Ok(id_in_message_pack(&head))
}

/// The attachment type of a form's field.
fn attachment_type(name: &str) -> &'static str {
    match name {
        MINIDUMP => "event.minidump",
        EVENT => "event.payload",
        "__sentry-breadcrumb1" | "__sentry-breadcrumb2" => "event.breadcrumbs",
        "view-hierarchy.json" => "event.view_hierarchy",
        _ => "event.attachment",
    }
}

/// The event id in sentry-native's event: a map with short strings as keys, the id first. `None` if it is not found; trackers use the
/// id of the envelope.
fn id_in_message_pack(head: &[u8]) -> Option<EventId> {
    const KEY: &[u8] = b"\xa8event_id";
    let value = &head[memchr::memmem::find(head, KEY)? + KEY.len()..];
    // A string of 32 to 255 bytes: its length is one byte.
    let (0xd9, length) = (*value.first()?, usize::from(*value.get(1)?)) else { return None };
    std::str::from_utf8(value.get(2..2 + length)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "9ec79c33-ec99-42ab-8353-589fcb2e04dc";

    #[test]
    fn the_id_of_an_event_is_found_in_message_pack() {
        let packed = [&b"\x83\xa8event_id\xd9\x24"[..], ID.as_bytes(), b"\xa5level\xa5fatal"].concat();
        assert_eq!(id_in_message_pack(&packed), ID.parse().ok());
        for broken in [&b""[..], b"\xa8event_id", b"\xa8event_id\xd9\x24abc", b"\xa8event_id\x01\x02"] {
            assert_eq!(id_in_message_pack(broken), None);
        }
    }
}

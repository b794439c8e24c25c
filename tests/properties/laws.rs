//! The laws: each takes any bytes and panics where the relay would break a promise.
//!
//! Rule: a law uses only the library's public interface and does not know where its bytes come from. `tests/properties.rs` generates them;
//! libFuzzer gives them to the targets in `tests/fuzz`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use futures_util::{StreamExt as _, stream};
use serde_json::value::RawValue;
use switchyard::clock::Clock;
use switchyard::content::{self, Kind, MAX_DIFFERENCES};
use switchyard::intake::crash::{self, FormKind, Pieces, Workshop};
use switchyard::intake::decode::{self, DecodeError, Encoding};
use switchyard::intake::legacy;
use switchyard::intake::turns::Turns;
use switchyard::journal;
use switchyard::journal::sqlite::SqliteJournal;
use switchyard::protocol::auth::{self, AuthError, Credentials};
use switchyard::protocol::category::Quantities;
use switchyard::protocol::dsn::{Dsn, constant_form, is_token};
use switchyard::protocol::envelope::{Envelope, EnvelopeError, HeaderSpans, MAX_ITEMS, Outline, Scanner};
use switchyard::protocol::event_id::EventId;
use switchyard::protocol::rate_limits::{self, LONGEST, RateLimit};
use switchyard::telemetry::ledger::Ledger;

/// The types and payloads of an envelope's items.
fn parts(envelope: &Envelope) -> Vec<(String, Bytes)> {
    envelope.items().iter().map(|item| (item.kind.name().to_owned(), envelope.payload(item))).collect()
}

/// An envelope is read without loss or not at all.
pub(crate) fn envelope(data: &[u8]) {
    let line = data.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if let Ok(spans) = HeaderSpans::locate(line) {
        for span in [spans.dsn, spans.sent_at, spans.trace_public_key].into_iter().flatten() {
            let value: Result<String, _> = serde_json::from_slice(&line[span.clone()]);
            assert!(value.is_ok(), "{span:?} is no string");
        }
    }
    let Ok(envelope) = Envelope::parse(Bytes::copy_from_slice(data)) else { return };
    assert_eq!(envelope.bytes(), data);
    let parts_read = parts(&envelope);
    assert!(parts_read.len() <= MAX_ITEMS);
    assert!(parts_read.iter().map(|(_, payload)| payload.len()).sum::<usize>() <= data.len());
    if let Some(Ok(dsn)) = envelope.dsn() {
        assert!(is_token(dsn.public_key()));
    }
    if let Some(id) = envelope.event_id() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    // A newline at the end means nothing.
    let longer = Envelope::parse([data, b"\n"].concat().into()).expect("a newline at the end is allowed");
    assert_eq!(parts(&longer), parts_read);
    selections(&envelope, &parts_read);
}

/// Every selection of items is an envelope of these items, with the quantities that they have without the others. The quantities of all
/// single items add up to those of the envelope.
fn selections(envelope: &Envelope, parts_read: &[(String, Bytes)]) {
    let whole = Envelope::parse(envelope.with_items(|_| true)).expect("a selection of all is an envelope");
    assert_eq!(parts(&whole), parts_read);
    assert_eq!(whole.event_id(), envelope.event_id());
    assert_eq!(whole.quantities(), envelope.quantities());
    assert_eq!(envelope.quantities_without_others(|_| true), envelope.quantities());
    let mut sum = Quantities::new();
    for (at, part) in parts_read.iter().enumerate().take(20) {
        let one = Envelope::parse(envelope.with_items(|i| i == at)).expect("a selection of one is an envelope");
        assert_eq!(parts(&one), std::slice::from_ref(part));
        assert_eq!(one.quantities(), envelope.quantities_without_others(|i| i == at));
        sum.extend(&envelope.quantities_of(|i| i == at));
    }
    if parts_read.len() <= 20 {
        assert_eq!(sum, envelope.quantities());
    }
}

/// The pieces into which an envelope is cut change nothing, nor does skipping payloads. The first byte is the size of a piece.
pub(crate) fn pieces(data: &[u8]) {
    let [size, envelope @ ..] = data else { return };
    let size = usize::from(*size) + 1;
    let whole = Envelope::parse(Bytes::copy_from_slice(envelope)).map(Envelope::into_outline);
    assert_eq!(scanned(envelope, size, false), whole);
    assert_eq!(scanned(envelope, size, true), whole);
}

fn scanned(envelope: &[u8], size: usize, skipping: bool) -> Result<Outline, EnvelopeError> {
    let mut scanner = Scanner::new();
    let mut rest = Bytes::copy_from_slice(envelope);
    while !rest.is_empty() {
        if skipping {
            let left = usize::try_from(scanner.payload_left()).expect("a length fits").min(rest.len());
            scanner.skip(left as u64);
            drop(rest.split_to(left));
        }
        scanner.push(&rest.split_to(size.min(rest.len())))?;
    }
    scanner.finish()
}

/// The lines of `data` are `X-Sentry-Auth`, `Authorization`, the query and the key in the path; an empty line stands for an absent one.
pub(crate) fn auth(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.splitn(4, '\n').map(|line| Some(line).filter(|line| !line.is_empty()));
    let [header, authorization, query, key] = std::array::from_fn(|_| lines.next().flatten());
    let found = auth::find(header.into_iter(), authorization.into_iter(), query, key, |_| true);
    let Ok(Some(credentials)) = found else { return };
    let Credentials { public_key, client } = &credentials;
    assert!(is_token(public_key), "{public_key:?}");
    let plain = |client: &String| client.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
    assert!(client.as_ref().is_none_or(plain), "{client:?}");
    // The same credentials result from the other forms, and two forms at once are an error.
    let client = client.as_ref().map(|client| format!(", sentry_client={client}")).unwrap_or_default();
    let header = format!("Sentry sentry_version=7, sentry_key={public_key}{client}");
    let again = |header: &[&str], authorization: &[&str]| {
        auth::find(header.iter().copied(), authorization.iter().copied(), None, None, |_| true)
    };
    assert_eq!(again(&[&header], &[]), Ok(Some(credentials.clone())));
    assert_eq!(again(&[], &[&header]), Ok(Some(credentials.clone())));
    assert_eq!(again(&[&header], &[&header]), Err(AuthError::Multiple));
}

/// A DSN prints as itself and hides its key.
pub(crate) fn dsn(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    assert_eq!(constant_form(&constant_form(text)), constant_form(text));
    let Ok(dsn) = text.parse::<Dsn>() else { return };
    assert_eq!(dsn.reveal().parse(), Ok(dsn.clone()), "{}", dsn.reveal());
    assert!(is_token(dsn.public_key()) && is_token(dsn.project()));
    assert!(!dsn.authority().as_str().contains('@'));
    let hidden = dsn.reveal().replacen(&format!("//{}@", dsn.public_key()), "//***@", 1);
    assert_eq!([format!("{dsn}"), format!("{dsn:?}")], [hidden.clone(), hidden]);
    let address = dsn.envelope_uri();
    assert_eq!(address.authority(), Some(dsn.authority()));
    assert!(address.path().ends_with(&format!("/api/{}/envelope/", dsn.project())) && address.query().is_none());
}

/// Rate limits are bounded, and are read as they are written.
pub(crate) fn rate_limits(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(seconds) = rate_limits::seconds(text) {
        assert!(seconds <= LONGEST);
    }
    let limits = rate_limits::parse(text);
    for limit in &limits {
        assert!(limit.retry_after <= LONGEST);
        assert!(limit.categories.as_ref().is_none_or(|categories| !categories.is_empty()));
    }
    let written = rate_limits::format(&limits, "organization", "quota_exceeded");
    let rounded = |limit: &RateLimit| {
        let whole = std::time::Duration::from_secs(limit.retry_after.as_secs());
        let up = if whole < limit.retry_after { std::time::Duration::from_secs(1) } else { std::time::Duration::ZERO };
        RateLimit { retry_after: whole + up, categories: limit.categories.clone() }
    };
    assert_eq!(rate_limits::parse(&written), limits.iter().map(rounded).collect::<Vec<_>>(), "{written}");
}

/// A limit that few bodies here exceed.
const LIMIT: u64 = 64 * 1024;

/// Decoding stays within its limit and undoes encoding. The first byte selects the encodings.
pub(crate) fn decoder(data: &[u8]) {
    let [which, body @ ..] = data else { return };
    let all = [Encoding::Gzip, Encoding::Deflate, Encoding::Brotli, Encoding::Zstd];
    let list: Vec<Encoding> = (0..=which >> 6 & 1).map(|turn| all[usize::from(which >> (2 * turn) & 3)]).collect();
    let body = Bytes::copy_from_slice(body);
    let size = decode::size(&body[..], &list, LIMIT);
    match decode::decode(body.clone(), &list, LIMIT) {
        Ok(text) => {
            assert!(text.len() as u64 <= LIMIT);
            assert_eq!(size.ok(), Some(text.len() as u64));
        }
        Err(DecodeError::TooLarge { limit }) => {
            assert_eq!(limit, LIMIT);
            assert!(matches!(size, Err(DecodeError::TooLarge { .. })), "{size:?}");
        }
        Err(_) => assert!(matches!(size, Err(DecodeError::Malformed { .. })), "{size:?}"),
    }
    if let Ok(header) = std::str::from_utf8(&body)
        && let Ok(list) = decode::encodings(header)
    {
        assert!(list.len() <= 3);
    }
    undone(&body, Compression::new(u32::from(which % 10)));
}

/// Decoding restores what was encoded.
fn undone(text: &Bytes, level: Compression) {
    fn ended(mut encoder: impl std::io::Write, text: &[u8]) {
        encoder.write_all(text).expect("memory");
    }
    let (mut gzip, mut zlib, mut raw) = (Vec::new(), Vec::new(), Vec::new());
    ended(GzEncoder::new(&mut gzip, level), text);
    ended(ZlibEncoder::new(&mut zlib, level), text);
    ended(DeflateEncoder::new(&mut raw, level), text);
    for (encoding, packed) in [(Encoding::Gzip, gzip), (Encoding::Deflate, zlib), (Encoding::Deflate, raw)] {
        let unpacked = decode::decode(packed.into(), &[encoding], LIMIT.max(text.len() as u64));
        assert_eq!(unpacked.expect("what was encoded is well formed"), *text, "{encoding:?}");
    }
}

/// A stored event becomes an envelope of one item, or nothing.
pub(crate) fn store(data: &[u8]) {
    let Ok(bytes) = legacy::envelope_of(Bytes::copy_from_slice(data), LIMIT) else { return };
    let envelope = match Envelope::parse(bytes) {
        Ok(envelope) => envelope,
        Err(error) => return assert!(error.is_too_large(), "{error}"),
    };
    assert!(envelope.event_id().is_some());
    let [(kind, payload)] = &parts(&envelope)[..] else { panic!("not one item") };
    assert!(matches!(kind.as_str(), "event" | "transaction"), "{kind}");
    // Numbers are not read: JSON does not limit them, and each tracker has its own limits.
    let event: BTreeMap<String, &RawValue> = serde_json::from_slice(payload).expect("an event is JSON");
    let id: Option<String> = event.get("event_id").and_then(|id| serde_json::from_str(id.get()).ok());
    if let Some(Ok(id)) = id.map(|id| id.parse()) {
        assert_eq!(envelope.event_id(), Some(id));
    }
    if data.trim_ascii_start().first() == Some(&b'{') {
        assert_eq!(payload, data);
    }
}

/// A form with the boundary `b` becomes an envelope under the answered id, or nothing. The first byte is the size of the pieces in which it
/// comes.
pub(crate) fn multipart(data: &[u8]) {
    let [size, form @ ..] = data else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let settings = journal::Settings { path: folder.path().join("journal.db"), ..journal::Settings::default() };
    let journal = SqliteJournal::open(&settings, Clock::system(), Ledger::default()).expect("a journal");
    let journal = Arc::new(journal);
    let workshop = Workshop { journal, project: None, owner: None, turns: Turns::default() };
    let pieces = || -> Pieces {
        let pieces: Vec<_> = form.chunks(usize::from(*size) + 1).map(Bytes::copy_from_slice).map(Ok).collect();
        stream::iter(pieces).boxed()
    };
    for kind in [FormKind::Minidump, FormKind::Attachments(EventId::from(7))] {
        let Ok((id, body)) = runtime.block_on(crash::of_form(&workshop, pieces(), "b", kind)) else { continue };
        match body.outline() {
            Ok(outline) => assert_eq!(outline.event_id(), Some(id)),
            Err(error) => assert!(error.to_string().contains("more than"), "{error}"),
        }
    }
}

/// Two events, one per line, are compared within bounds and without harm to a terminal. An event does not differ from itself.
pub(crate) fn content(data: &[u8]) {
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    let (sent, copy) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    for kind in [Kind::Glitchtip, Kind::Sentry, Kind::Bugsink] {
        let Ok(found) = content::compare(kind, sent, copy) else { continue };
        assert!(found.len() <= MAX_DIFFERENCES);
        for text in found.iter().flat_map(|found| [&found.field, &found.sent, &found.there]) {
            assert!(text.chars().count() <= 250, "{} characters", text.chars().count());
            assert!(!text.chars().any(char::is_control), "{text:?}");
        }
    }
    if serde_json::from_slice::<&RawValue>(sent).is_ok() {
        let itself = [b"{\"data\":", sent, b"}"].concat();
        assert_eq!(content::compare(Kind::Bugsink, sent, &itself).unwrap_or_default(), []);
    }
}

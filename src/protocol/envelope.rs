//! Envelopes: a lossless view over the bytes as they came.
//!
//! `Headers { "\n" Item } [ "\n" ]`, `Item = Headers "\n" Payload` (Sentry's "Envelopes"; getsentry/relay, `relay-server/src/envelope`).
//! Only the header lines are read; payloads are ranges. [`Envelope::bytes`] is what came in, whatever was understood of it.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::Deserialize;

use super::category::Quantities;
use super::dsn::{Dsn, InvalidDsn};
use super::event_id::EventId;
use super::item::{Counting, ItemType};

mod header;
mod limits;
pub use header::HeaderSpans;
use limits::Limits;

/// More items than any SDK sends in one envelope; bounds the memory that views may take.
pub const MAX_ITEMS: usize = 1000;

/// A parsed envelope.
#[derive(Clone, Debug)]
pub struct Envelope {
    bytes: Bytes,
    header_end: usize,
    spans: HeaderSpans,
    event_id: Option<EventId>,
    items: Vec<Item>,
}

/// One item: where it lies and what it is.
#[derive(Clone, Debug)]
pub struct Item {
    /// What it is.
    pub kind: ItemType,
    /// What its header says about counting.
    pub counting: Counting,
    /// Its header line, the newline not included.
    header: Range<usize>,
    payload: Range<usize>,
}

/// Why bytes are no envelope. `at` is the offset in the decoded body.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// There is nothing.
    #[error("the envelope is empty")]
    Empty,
    /// The first line is no JSON object, or a key in it is wrong.
    #[error("invalid envelope header: {0}")]
    Header(String),
    /// The line before a payload is no JSON object with a type.
    #[error("invalid item header at byte {at}: {why}")]
    ItemHeader {
        /// Where the line begins.
        at: usize,
        /// What is wrong with it.
        why: String,
    },
    /// The payload ends before its length.
    #[error("unexpected end of the envelope: the item at byte {at} says {length} bytes, {left} are there")]
    Eof {
        /// Where the payload begins.
        at: usize,
        /// What its header says.
        length: u64,
        /// What is there.
        left: usize,
    },
    /// No newline after a payload with a length.
    #[error("missing newline after the payload that ends at byte {at}")]
    MissingNewline {
        /// Where the newline should be.
        at: usize,
    },
    /// More items than [`MAX_ITEMS`]: 413.
    #[error("more than {MAX_ITEMS} items in one envelope")]
    TooManyItems,
    /// An item is larger than its type may be: 413.
    #[error("the {kind} item has {size} bytes, more than its limit of {limit}")]
    ItemTooLarge {
        /// The item's type.
        kind: String,
        /// Its payload in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// More items of a type than an envelope may have: 413.
    #[error("one {kind} item too many: {limit} in one envelope is the limit")]
    TooManyOf {
        /// The item's type.
        kind: String,
        /// How many there may be.
        limit: u16,
    },
    /// The attachments are too large together: 413.
    #[error("the attachment items have {size} bytes together, more than their limit of {limit}")]
    AttachmentsTooLarge {
        /// Their payloads in bytes, up to the one that was too much.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
}

impl EnvelopeError {
    /// Whether the envelope is well formed but too large.
    pub const fn is_too_large(&self) -> bool {
        matches!(
            self,
            Self::TooManyItems | Self::ItemTooLarge { .. } | Self::TooManyOf { .. } | Self::AttachmentsTooLarge { .. }
        )
    }
}

#[derive(Deserialize)]
struct ItemHeader<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    length: Option<u32>,
    item_count: Option<u64>,
    #[serde(borrow, default)]
    platform: Option<Cow<'a, str>>,
}

impl Envelope {
    /// Reads the header lines and finds the payloads.
    pub fn parse(bytes: Bytes) -> Result<Self, EnvelopeError> {
        if bytes.is_empty() {
            return Err(EnvelopeError::Empty);
        }
        let header_end = line_end(&bytes, 0);
        let (spans, fields) = header::read(&bytes[..header_end]).map_err(EnvelopeError::Header)?;
        let items = parse_items(&bytes, header_end)?;
        Ok(Self { bytes, header_end, spans, event_id: fields.event_id, items })
    }

    /// An envelope of one item around `payload`: what a legacy store request becomes.
    pub fn of_one(event_id: EventId, kind: &ItemType, payload: &[u8]) -> Bytes {
        let head =
            format!("{{\"event_id\":\"{event_id}\"}}\n{{\"type\":\"{}\",\"length\":{}}}\n", kind.name(), payload.len());
        [head.as_bytes(), payload, b"\n"].concat().into()
    }

    /// The bytes as they came.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The event id of the header.
    pub fn event_id(&self) -> Option<EventId> {
        self.event_id
    }

    /// The DSN of the header, when there is one.
    pub fn dsn(&self) -> Option<Result<Dsn, InvalidDsn>> {
        let range = self.spans.dsn.clone()?;
        let text: String = serde_json::from_slice(&self.bytes[range]).ok()?;
        Some(text.parse())
    }

    /// The items in their order.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The payload of an item.
    pub fn payload(&self, item: &Item) -> Bytes {
        self.bytes.slice(item.payload.clone())
    }

    /// What the items count as.
    pub fn quantities(&self) -> Quantities {
        self.quantities_of(|_| true)
    }

    /// What the items at the wanted positions count as.
    pub fn quantities_of(&self, wanted: impl Fn(usize) -> bool) -> Quantities {
        let mut all = Quantities::new();
        for (_, item) in self.items.iter().enumerate().filter(|(i, _)| wanted(*i)) {
            item.kind.count(item.payload.len() as u64, item.counting, &mut all);
        }
        all
    }

    /// The envelope with only the items at the wanted positions: the header line and these items, byte for byte.
    pub fn with_items(&self, wanted: impl Fn(usize) -> bool) -> Bytes {
        self.assemble(self.items.iter().enumerate().filter(|(i, _)| wanted(*i)).map(|(_, item)| item))
    }

    /// The envelope with the items at these positions, in this order: the header line and these items, byte for byte.
    pub fn in_order(&self, positions: &[u16]) -> Bytes {
        self.assemble(positions.iter().filter_map(|position| self.items.get(usize::from(*position))))
    }

    fn assemble<'a>(&self, items: impl Iterator<Item = &'a Item>) -> Bytes {
        let mut out = BytesMut::with_capacity(self.bytes.len() + 2);
        out.put_slice(&self.bytes[..self.header_end]);
        for item in items {
            out.put_u8(b'\n');
            out.put_slice(&self.bytes[item.header.clone()]);
            // It is missing where the envelope ends with a header line.
            out.put_u8(b'\n');
            out.put_slice(&self.bytes[item.payload.clone()]);
        }
        out.put_u8(b'\n');
        out.freeze()
    }
}

/// The offset of the newline that ends the line at `start`, or of the end.
fn line_end(bytes: &[u8], start: usize) -> usize {
    memchr::memchr(b'\n', &bytes[start..]).map_or(bytes.len(), |n| start + n)
}

fn parse_items(bytes: &Bytes, header_end: usize) -> Result<Vec<Item>, EnvelopeError> {
    let mut items = Vec::new();
    let mut limits = Limits::default();
    let mut at = header_end + 1;
    while at < bytes.len() {
        // One newline may follow the last payload; a blank line stands for nothing.
        if bytes[at] == b'\n' {
            at += 1;
            continue;
        }
        if items.len() == MAX_ITEMS {
            return Err(EnvelopeError::TooManyItems);
        }
        let item = parse_item(bytes, at)?;
        limits.admit(&item.kind, item.payload.len() as u64)?;
        at = item.payload.end + 1;
        items.push(item);
    }
    Ok(items)
}

fn parse_item(bytes: &Bytes, at: usize) -> Result<Item, EnvelopeError> {
    let end = line_end(bytes, at);
    let header: ItemHeader<'_> =
        serde_json::from_slice(&bytes[at..end]).map_err(|e| EnvelopeError::ItemHeader { at, why: e.to_string() })?;
    let start = (end + 1).min(bytes.len());
    let payload = match header.length {
        // Without a length the payload is the rest of the line; a carriage return belongs to it.
        None => start..line_end(bytes, start),
        Some(length) => {
            let left = bytes.len() - start;
            if left < length as usize {
                return Err(EnvelopeError::Eof { at: start, length: length.into(), left });
            }
            start..start + length as usize
        }
    };
    if bytes.get(payload.end).is_some_and(|b| *b != b'\n') {
        return Err(EnvelopeError::MissingNewline { at: payload.end });
    }
    let kind = ItemType::from_name(&header.kind);
    let user_interface = matches!(header.platform.as_deref(), Some("javascript" | "cocoa" | "android"));
    let counting = Counting { item_count: header.item_count, user_interface };
    Ok(Item { kind, counting, header: at..end, payload })
}

#[cfg(test)]
mod tests;

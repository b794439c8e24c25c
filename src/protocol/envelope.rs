//! Envelopes: a lossless view over the bytes as they came.
//!
//! `Headers { "\n" Item } [ "\n" ]`, `Item = Headers "\n" Payload` (Sentry's "Envelopes"; getsentry/relay, `relay-server/src/envelope`).
//! Only the header lines are read; payloads are ranges. [`Envelope::bytes`] returns the bytes as they came, whatever the parser
//! understood. The [`Scanner`] reads an envelope in pieces, so that one on disk has an [`Outline`], too.

use std::ops::{Deref, Range};

use bytes::{BufMut as _, Bytes, BytesMut};

use super::category::Quantities;
use super::dsn::{Dsn, InvalidDsn};
use super::event_id::EventId;
use super::item::{Counting, ItemType};

mod header;
mod limits;
mod plain;
mod scanner;
mod spans;
pub use header::HeaderSpans;
pub use scanner::Scanner;

/// The most items of one envelope: more than any SDK sends. Bounds the memory of a view.
pub const MAX_ITEMS: usize = 1000;

/// The longest header line, of the envelope or of an item, in bytes; real ones have a few hundred. Bounds what the parser holds in
/// memory, however large the envelope is.
pub const MAX_LINE: usize = 64 * 1024;

/// The structure of an envelope: its header line, and the ranges of its items. Holds no payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outline {
    /// The header line, without its newline.
    header: Bytes,
    spans: HeaderSpans,
    event_id: Option<EventId>,
    items: Vec<Item>,
    /// The size of the whole envelope in bytes.
    length: u64,
}

/// A parsed envelope in memory.
#[derive(Clone, Debug)]
pub struct Envelope {
    bytes: Bytes,
    outline: Outline,
}

/// One item: its type and its place in the envelope.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// Its type.
    pub kind: ItemType,
    /// The fields of its header that decide what it counts as.
    pub counting: Counting,
    /// Whether trackers make an event of it in an envelope without one.
    is_crash_report: bool,
    /// The range of its header line, without the newline.
    header: Range<u64>,
    payload: Range<u64>,
}

impl Item {
    /// Whether this is the event of its envelope, or the crash report that the event is made of. Other items depend on it.
    pub const fn is_event(&self) -> bool {
        self.kind.is_event() || self.counting.makes_event
    }

    /// The size of the payload in bytes.
    pub const fn size(&self) -> u64 {
        self.payload.end - self.payload.start
    }

    /// The quantities that it counts as.
    pub fn quantities(&self) -> Quantities {
        let mut all = Quantities::new();
        self.kind.count(self.size(), self.counting, &mut all);
        all
    }

    /// The range of its header line, without the newline.
    pub const fn header(&self) -> Range<u64> {
        self.header.start..self.header.end
    }

    /// The range of its payload.
    pub const fn payload(&self) -> Range<u64> {
        self.payload.start..self.payload.end
    }

    /// The range of its header line and payload.
    pub const fn whole(&self) -> Range<u64> {
        self.header.start..self.payload.end
    }

    /// The ranges to copy: the newline before its header line, that line, a newline, and the payload.
    fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let newline = self.header.start - 1..self.header.start;
        // An envelope that ends with a header line has no newline after it. The newline before the line is copied in its place.
        let missing = (self.payload.start == self.header.end).then(|| newline.clone());
        std::iter::once(newline.start..self.payload.end).chain(missing)
    }
}

/// Why bytes are no envelope. `at` is an offset in the decoded body.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// It is empty.
    #[error("the envelope is empty")]
    Empty,
    /// The first line is no JSON object, or one of its keys is invalid.
    #[error("invalid envelope header: {0}")]
    Header(String),
    /// The header line of an item is no JSON object with a type.
    #[error("invalid item header at byte {at}: {why}")]
    ItemHeader {
        /// Where the line begins.
        at: u64,
        /// What is wrong with the line.
        why: String,
    },
    /// A header line is longer than [`MAX_LINE`].
    #[error("invalid header at byte {at}: the line has more than {MAX_LINE} bytes")]
    LongLine {
        /// Where the line begins.
        at: u64,
    },
    /// The payload is shorter than its length says.
    #[error("unexpected end of the envelope: the item at byte {at} says {length} bytes, {left} are there")]
    Eof {
        /// Where the payload begins.
        at: u64,
        /// The length in its header.
        length: u64,
        /// The bytes that are there.
        left: u64,
    },
    /// There is no newline after a payload with a length.
    #[error("missing newline after the payload that ends at byte {at}")]
    MissingNewline {
        /// Where the newline should be.
        at: u64,
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
    /// There are more items of a type than an envelope may have: 413.
    #[error("one {kind} item too many: {limit} in one envelope is the limit")]
    TooManyOf {
        /// The type of the item that was too many.
        kind: String,
        /// The greatest number.
        limit: u16,
    },
    /// The attachments are too large together: 413.
    #[error("the attachment items have {size} bytes together, more than their limit of {limit}")]
    AttachmentsTooLarge {
        /// The size of their payloads in bytes, up to the one that exceeded the limit.
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

/// The position of the crash report that an envelope with only the wanted items has its event from: the first one; `None` if there is
/// an event or no crash report.
fn crash_report(items: &[Item], wanted: impl Fn(usize) -> bool) -> Option<usize> {
    let all = || items.iter().enumerate().filter(|(i, _)| wanted(*i));
    let first = all().find(|(_, item)| item.is_crash_report)?.0;
    (!all().any(|(_, item)| item.kind.is_event())).then_some(first)
}

impl Outline {
    /// The header line, without its newline.
    pub fn header(&self) -> &Bytes {
        &self.header
    }

    /// Where the values that address the envelope are in the header line.
    pub fn spans(&self) -> &HeaderSpans {
        &self.spans
    }

    /// The event id of the header.
    pub fn event_id(&self) -> Option<EventId> {
        self.event_id
    }

    /// The DSN of the header; `None` when there is none.
    pub fn dsn(&self) -> Option<Result<Dsn, InvalidDsn>> {
        let range = self.spans.dsn.clone()?;
        let text: String = serde_json::from_slice(&self.header[range]).ok()?;
        Some(text.parse())
    }

    /// The items, in order.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The range after the header line, beginning with its newline.
    pub fn rest(&self) -> Range<u64> {
        self.header.len() as u64..self.length
    }

    /// The quantities of all items.
    pub fn quantities(&self) -> Quantities {
        self.quantities_of(|_| true)
    }

    /// The quantities of an envelope with only the items at the wanted positions. A crash report among them counts as the event when the
    /// event itself is not wanted.
    pub fn quantities_without_others(&self, wanted: impl Fn(usize) -> bool) -> Quantities {
        let made = crash_report(&self.items, &wanted);
        let mut all = Quantities::new();
        for (position, item) in self.items.iter().enumerate().filter(|(i, _)| wanted(*i)) {
            let counting = Counting { makes_event: made == Some(position), ..item.counting };
            item.kind.count(item.size(), counting, &mut all);
        }
        all
    }

    /// The share of the items at the wanted positions in the quantities of the whole envelope.
    pub fn quantities_of(&self, wanted: impl Fn(usize) -> bool) -> Quantities {
        let mut all = Quantities::new();
        for (_, item) in self.items.iter().enumerate().filter(|(i, _)| wanted(*i)) {
            item.kind.count(item.size(), item.counting, &mut all);
        }
        all
    }

    /// The ranges of the items at the wanted positions, each with the newline before it. The header line, these ranges and a final newline
    /// make an envelope.
    pub fn ranges_of(&self, wanted: impl Fn(usize) -> bool) -> Vec<Range<u64>> {
        let wanted = self.items.iter().enumerate().filter(|(i, _)| wanted(*i));
        wanted.flat_map(|(_, item)| item.ranges()).collect()
    }

    /// The same for the items at these positions, in this order.
    pub fn ranges_in_order(&self, positions: &[u16]) -> Vec<Range<u64>> {
        let wanted = positions.iter().filter_map(|position| self.items.get(usize::from(*position)));
        wanted.flat_map(Item::ranges).collect()
    }

    /// Whether there is a blank line between two items or after the last one.
    pub fn has_blank_line(&self) -> bool {
        let mut end = self.header.len() as u64;
        let apart = self.items.iter().any(|item| item.header.start > std::mem::replace(&mut end, item.payload.end) + 1);
        apart || self.length > end + 1
    }
}

impl Envelope {
    /// Parses the header lines and finds the payloads.
    pub fn parse(bytes: Bytes) -> Result<Self, EnvelopeError> {
        let mut scanner = Scanner::new();
        scanner.push(&bytes)?;
        Ok(Self { outline: scanner.finish()?, bytes })
    }

    /// An envelope with one item around `payload`, such as for a legacy store request.
    pub fn of_one(event_id: EventId, kind: &ItemType, payload: &[u8]) -> Bytes {
        let head =
            format!("{{\"event_id\":\"{event_id}\"}}\n{{\"type\":\"{}\",\"length\":{}}}\n", kind.name(), payload.len());
        [head.as_bytes(), payload, b"\n"].concat().into()
    }

    /// The bytes as they came.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The outline, without the bytes.
    pub fn into_outline(self) -> Outline {
        self.outline
    }

    /// The payload of an item.
    pub fn payload(&self, item: &Item) -> Bytes {
        self.bytes.slice(in_memory(&item.payload))
    }

    /// The envelope with only the items at the wanted positions, header line and items byte for byte.
    pub fn with_items(&self, wanted: impl Fn(usize) -> bool) -> Bytes {
        self.assemble(self.outline.ranges_of(wanted))
    }

    /// The envelope with the items at these positions, in this order, header line and items byte for byte.
    pub fn in_order(&self, positions: &[u16]) -> Bytes {
        self.assemble(self.outline.ranges_in_order(positions))
    }

    fn assemble(&self, ranges: Vec<Range<u64>>) -> Bytes {
        let mut out = BytesMut::with_capacity(self.bytes.len() + 2);
        out.put_slice(&self.outline.header);
        for range in ranges {
            out.put_slice(&self.bytes[in_memory(&range)]);
        }
        out.put_u8(b'\n');
        out.freeze()
    }
}

impl Deref for Envelope {
    type Target = Outline;

    fn deref(&self) -> &Outline {
        &self.outline
    }
}

/// The header line of an envelope, without its newline.
pub fn header_line(envelope: &[u8]) -> &[u8] {
    &envelope[..memchr::memchr(b'\n', envelope).unwrap_or(envelope.len())]
}

/// Converts offsets within bytes in memory, none of which exceeds their number.
fn in_memory(range: &Range<u64>) -> Range<usize> {
    let at = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
    at(range.start)..at(range.end)
}

#[cfg(test)]
mod tests;

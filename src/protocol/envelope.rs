//! Envelopes: a lossless view over the bytes as they came.
//!
//! `Headers { "\n" Item } [ "\n" ]`, `Item = Headers "\n" Payload` (Sentry's "Envelopes"; getsentry/relay, `relay-server/src/envelope`).
//! Only the header lines are read; payloads are ranges. [`Envelope::bytes`] is what came in, whatever was understood of it. An
//! envelope that is not in memory has an [`Outline`] all the same: the [`Scanner`] makes it of pieces.

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

/// More items than any SDK sends in one envelope; bounds the memory that views may take.
pub const MAX_ITEMS: usize = 1000;

/// The longest header line, of the envelope or of an item: real ones have a few hundred bytes. What must be held to be
/// understood is bounded by it, however large the envelope is.
pub const MAX_LINE: usize = 64 * 1024;

/// What an envelope is made of: its header line, and where its items lie. Holds none of the payloads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outline {
    /// The header line, the newline not included.
    header: Bytes,
    spans: HeaderSpans,
    event_id: Option<EventId>,
    items: Vec<Item>,
    /// Of the whole envelope in bytes.
    length: u64,
}

/// A parsed envelope in memory.
#[derive(Clone, Debug)]
pub struct Envelope {
    bytes: Bytes,
    outline: Outline,
}

/// One item: where it lies and what it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// What it is.
    pub kind: ItemType,
    /// What its header says about counting.
    pub counting: Counting,
    /// Whether an event is made of it where there is none.
    is_crash_report: bool,
    /// Its header line, the newline not included.
    header: Range<u64>,
    payload: Range<u64>,
}

impl Item {
    /// Whether this is the event of its envelope, or what that is made of: other items depend on it.
    pub const fn is_event(&self) -> bool {
        self.kind.is_event() || self.counting.makes_event
    }

    /// The payload in bytes.
    pub const fn size(&self) -> u64 {
        self.payload.end - self.payload.start
    }

    /// What it counts as.
    pub fn quantities(&self) -> Quantities {
        let mut all = Quantities::new();
        self.kind.count(self.size(), self.counting, &mut all);
        all
    }

    /// Where its header line lies, the newline not included.
    pub const fn header(&self) -> Range<u64> {
        self.header.start..self.header.end
    }

    /// Where its payload lies.
    pub const fn payload(&self) -> Range<u64> {
        self.payload.start..self.payload.end
    }

    /// Where header line and payload lie.
    pub const fn whole(&self) -> Range<u64> {
        self.header.start..self.payload.end
    }

    /// Where it lies: the newline before its header line, that line, a newline, and the payload.
    fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let newline = self.header.start - 1..self.header.start;
        // It is missing where the envelope ends with a header line: the one before serves for it.
        let missing = (self.payload.start == self.header.end).then(|| newline.clone());
        std::iter::once(newline.start..self.payload.end).chain(missing)
    }
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
        at: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A header line is longer than [`MAX_LINE`]: it is none.
    #[error("invalid header at byte {at}: the line has more than {MAX_LINE} bytes")]
    LongLine {
        /// Where the line begins.
        at: u64,
    },
    /// The payload ends before its length.
    #[error("unexpected end of the envelope: the item at byte {at} says {length} bytes, {left} are there")]
    Eof {
        /// Where the payload begins.
        at: u64,
        /// What its header says.
        length: u64,
        /// What is there.
        left: u64,
    },
    /// No newline after a payload with a length.
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

/// Which of the items at the wanted positions their event is made of: the first crash report, unless there is an event.
fn crash_report(items: &[Item], wanted: impl Fn(usize) -> bool) -> Option<usize> {
    let all = || items.iter().enumerate().filter(|(i, _)| wanted(*i));
    let first = all().find(|(_, item)| item.is_crash_report)?.0;
    (!all().any(|(_, item)| item.kind.is_event())).then_some(first)
}

impl Outline {
    /// The header line, the newline not included.
    pub fn header(&self) -> &Bytes {
        &self.header
    }

    /// Where the values that address the envelope stand in the header line.
    pub fn spans(&self) -> &HeaderSpans {
        &self.spans
    }

    /// The event id of the header.
    pub fn event_id(&self) -> Option<EventId> {
        self.event_id
    }

    /// The DSN of the header, when there is one.
    pub fn dsn(&self) -> Option<Result<Dsn, InvalidDsn>> {
        let range = self.spans.dsn.clone()?;
        let text: String = serde_json::from_slice(&self.header[range]).ok()?;
        Some(text.parse())
    }

    /// The items in their order.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// What follows the header line, its newline first.
    pub fn rest(&self) -> Range<u64> {
        self.header.len() as u64..self.length
    }

    /// What the items count as.
    pub fn quantities(&self) -> Quantities {
        self.quantities_of(|_| true)
    }

    /// What an envelope of only the items at the wanted positions counts as: a crash report may make the event that is not among
    /// them.
    pub fn quantities_without_others(&self, wanted: impl Fn(usize) -> bool) -> Quantities {
        let made = crash_report(&self.items, &wanted);
        let mut all = Quantities::new();
        for (position, item) in self.items.iter().enumerate().filter(|(i, _)| wanted(*i)) {
            let counting = Counting { makes_event: made == Some(position), ..item.counting };
            item.kind.count(item.size(), counting, &mut all);
        }
        all
    }

    /// What the items at the wanted positions contribute to what all count as.
    pub fn quantities_of(&self, wanted: impl Fn(usize) -> bool) -> Quantities {
        let mut all = Quantities::new();
        for (_, item) in self.items.iter().enumerate().filter(|(i, _)| wanted(*i)) {
            item.kind.count(item.size(), item.counting, &mut all);
        }
        all
    }

    /// Where the items at the wanted positions lie, each with the newline before it. After the header line, and with a newline
    /// behind the last, they are an envelope.
    pub fn ranges_of(&self, wanted: impl Fn(usize) -> bool) -> Vec<Range<u64>> {
        let wanted = self.items.iter().enumerate().filter(|(i, _)| wanted(*i));
        wanted.flat_map(|(_, item)| item.ranges()).collect()
    }

    /// The same of the items at these positions, in this order.
    pub fn ranges_in_order(&self, positions: &[u16]) -> Vec<Range<u64>> {
        let wanted = positions.iter().filter_map(|position| self.items.get(usize::from(*position)));
        wanted.flat_map(Item::ranges).collect()
    }

    /// Whether a blank line stands between two items, or after the last one.
    pub fn has_blank_line(&self) -> bool {
        let mut end = self.header.len() as u64;
        let apart = self.items.iter().any(|item| item.header.start > std::mem::replace(&mut end, item.payload.end) + 1);
        apart || self.length > end + 1
    }
}

impl Envelope {
    /// Reads the header lines and finds the payloads.
    pub fn parse(bytes: Bytes) -> Result<Self, EnvelopeError> {
        let mut scanner = Scanner::new();
        scanner.push(&bytes)?;
        Ok(Self { outline: scanner.finish()?, bytes })
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

    /// What it is made of, without the bytes.
    pub fn into_outline(self) -> Outline {
        self.outline
    }

    /// The payload of an item.
    pub fn payload(&self, item: &Item) -> Bytes {
        self.bytes.slice(in_memory(&item.payload))
    }

    /// The envelope with only the items at the wanted positions: the header line and these items, byte for byte.
    pub fn with_items(&self, wanted: impl Fn(usize) -> bool) -> Bytes {
        self.assemble(self.outline.ranges_of(wanted))
    }

    /// The envelope with the items at these positions, in this order: the header line and these items, byte for byte.
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

/// The header line of an envelope, the newline not included.
pub fn header_line(envelope: &[u8]) -> &[u8] {
    &envelope[..memchr::memchr(b'\n', envelope).unwrap_or(envelope.len())]
}

/// Offsets within bytes that are in memory: none of them is greater than their number.
fn in_memory(range: &Range<u64>) -> Range<usize> {
    let at = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
    at(range.start)..at(range.end)
}

#[cfg(test)]
mod tests;

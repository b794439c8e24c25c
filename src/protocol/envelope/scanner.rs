//! The grammar of envelopes, for bytes in any number of pieces: one for an envelope in memory, many for one in a file.
//!
//! Rule: it holds at most one header line ([`MAX_LINE`]), and the result does not depend on how the bytes are split.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;

use super::header::{self, Fields};
use super::limits::Limits;
use super::{EnvelopeError, HeaderSpans, Item, MAX_ITEMS, MAX_LINE, Outline, crash_report};
use crate::protocol::item::{Counting, ItemType};

/// Finds the items of an envelope that arrives in pieces.
#[derive(Debug, Default)]
pub struct Scanner {
    /// The number of bytes taken so far.
    at: u64,
    /// The part of a header line that came with earlier pieces.
    line: BytesMut,
    expected: Expected,
    head: Option<(Bytes, HeaderSpans, Fields)>,
    items: Vec<Item>,
    limits: Limits,
}

/// The part of an envelope that comes next.
#[derive(Debug, Default)]
enum Expected {
    /// The envelope's header line.
    #[default]
    Header,
    /// An item, or the end. Blank lines are skipped; the last payload may end with one newline.
    Item,
    /// The header line of the item that begins at this offset.
    ItemHeader(u64),
    /// A payload, of which this many bytes are left.
    Sized(Begun, u64),
    /// The newline after a payload with a length, or the end.
    Newline(Begun),
    /// A payload without a length: the rest of the line, a carriage return included.
    Line(Begun),
}

/// An item whose header line was read, and whose payload was not.
#[derive(Debug)]
struct Begun {
    kind: ItemType,
    counting: Counting,
    is_crash_report: bool,
    /// The range of its header line.
    header: Range<u64>,
    payload_start: u64,
    length: Option<u32>,
}

#[derive(Deserialize)]
struct ItemHeader<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    length: Option<u32>,
    item_count: Option<u64>,
    #[serde(borrow, default)]
    platform: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    attachment_type: Option<Cow<'a, str>>,
}

impl Scanner {
    /// A scanner before the first byte.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &Bytes) -> Result<(), EnvelopeError> {
        let mut done = 0;
        while done < piece.len() {
            done += self.step(piece, done)?;
        }
        Ok(())
    }

    /// The number of payload bytes that come next and may be skipped.
    pub const fn payload_left(&self) -> u64 {
        if let Expected::Sized(_, left) = &self.expected { *left } else { 0 }
    }

    /// Skips bytes of a payload, at most [`Scanner::payload_left`].
    pub fn skip(&mut self, bytes: u64) {
        if let Expected::Sized(_, left) = &mut self.expected {
            let bytes = bytes.min(*left);
            *left -= bytes;
            self.at += bytes;
            self.end_sized();
        }
    }

    /// Ends the envelope: all bytes were taken.
    pub fn finish(mut self) -> Result<Outline, EnvelopeError> {
        if self.at == 0 {
            return Err(EnvelopeError::Empty);
        }
        if matches!(self.expected, Expected::Header | Expected::ItemHeader(_)) {
            let line = self.line.split().freeze();
            self.end_line(line, self.at)?;
        }
        match std::mem::take(&mut self.expected) {
            Expected::Sized(item, left) if left > 0 => {
                let length = item.length.unwrap_or(0).into();
                return Err(EnvelopeError::Eof { at: item.payload_start, length, left: length - left });
            }
            Expected::Sized(item, _) | Expected::Newline(item) | Expected::Line(item) => self.complete(item)?,
            Expected::Header | Expected::Item | Expected::ItemHeader(_) => {}
        }
        if let Some(item) = crash_report(&self.items, |_| true) {
            self.items[item].counting.makes_event = true;
        }
        let (header, spans, fields) = self.head.ok_or(EnvelopeError::Empty)?;
        Ok(Outline { header, spans, event_id: fields.event_id, items: self.items, length: self.at })
    }

    /// Takes some of the piece, beginning at `from`; returns the number of bytes taken.
    fn step(&mut self, piece: &Bytes, from: usize) -> Result<usize, EnvelopeError> {
        match &mut self.expected {
            Expected::Header | Expected::ItemHeader(_) => self.header_line(piece, from),
            Expected::Item if piece[from] == b'\n' => Ok(self.took(1)),
            Expected::Item if self.items.len() == MAX_ITEMS => Err(EnvelopeError::TooManyItems),
            Expected::Item => {
                self.expected = Expected::ItemHeader(self.at);
                Ok(0)
            }
            Expected::Sized(_, left) => {
                let bytes = usize::try_from(*left).unwrap_or(usize::MAX).min(piece.len() - from);
                self.skip(bytes as u64);
                Ok(bytes)
            }
            Expected::Newline(_) if piece[from] != b'\n' => Err(EnvelopeError::MissingNewline { at: self.at }),
            Expected::Line(_) if piece[from] != b'\n' => {
                let rest = &piece[from..];
                Ok(self.took(memchr::memchr(b'\n', rest).unwrap_or(rest.len())))
            }
            Expected::Newline(_) | Expected::Line(_) => {
                if let Expected::Newline(item) | Expected::Line(item) = std::mem::take(&mut self.expected) {
                    self.complete(item)?;
                }
                Ok(self.took(1))
            }
        }
    }

    fn took(&mut self, bytes: usize) -> usize {
        self.at += bytes as u64;
        bytes
    }

    /// Takes the rest of a header line, or as much of it as the piece has. A line within one piece is not copied.
    fn header_line(&mut self, piece: &Bytes, from: usize) -> Result<usize, EnvelopeError> {
        let end = memchr::memchr(b'\n', &piece[from..]).map(|n| from + n);
        let text = from..end.unwrap_or(piece.len());
        if self.line.len() + text.len() > MAX_LINE {
            return Err(EnvelopeError::LongLine { at: self.at - self.line.len() as u64 });
        }
        if end.is_none() || !self.line.is_empty() {
            self.line.extend_from_slice(&piece[text.clone()]);
        }
        if end.is_none() {
            return Ok(self.took(text.len()));
        }
        let line = if self.line.is_empty() { piece.slice(text.clone()) } else { self.line.split().freeze() };
        let taken = self.took(text.len() + 1);
        self.end_line(line, self.at)?;
        Ok(taken)
    }

    /// Reads a complete header line. The next part begins at `next`.
    fn end_line(&mut self, line: Bytes, next: u64) -> Result<(), EnvelopeError> {
        if let Expected::ItemHeader(start) = self.expected {
            let item = read_item_header(&line, start, next)?;
            self.expected = match item.length {
                None => Expected::Line(item),
                Some(length) => Expected::Sized(item, length.into()),
            };
            self.end_sized();
        } else {
            let (spans, fields) = header::read(&line).map_err(EnvelopeError::Header)?;
            self.head = Some((line, spans, fields));
            self.expected = Expected::Item;
        }
        Ok(())
    }

    /// Expects the newline after a payload once none of its bytes are left.
    fn end_sized(&mut self) {
        if matches!(self.expected, Expected::Sized(_, 0))
            && let Expected::Sized(item, _) = std::mem::take(&mut self.expected)
        {
            self.expected = Expected::Newline(item);
        }
    }

    /// Adds an item whose payload ends here.
    fn complete(&mut self, item: Begun) -> Result<(), EnvelopeError> {
        let Begun { kind, counting, is_crash_report, header, payload_start, .. } = item;
        let payload: Range<u64> = payload_start..self.at;
        let size = payload.end - payload.start;
        self.limits.admit(&kind, size)?;
        self.items.push(Item { kind, counting, is_crash_report, header, payload });
        self.expected = Expected::Item;
        Ok(())
    }
}

fn read_item_header(line: &[u8], start: u64, payload_start: u64) -> Result<Begun, EnvelopeError> {
    let header: ItemHeader<'_> =
        serde_json::from_slice(line).map_err(|e| EnvelopeError::ItemHeader { at: start, why: e.to_string() })?;
    let user_interface = matches!(header.platform.as_deref(), Some("javascript" | "cocoa" | "android"));
    let counting = Counting { item_count: header.item_count, user_interface, makes_event: false };
    let kind = ItemType::from_name(&header.kind);
    let is_crash_report = kind.is_crash_report(header.attachment_type.as_deref());
    let (length, header) = (header.length, start..start + line.len() as u64);
    Ok(Begun { kind, counting, is_crash_report, header, payload_start, length })
}

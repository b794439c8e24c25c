//! Makes envelopes in one pass. The event id and the lengths of the items are known only at the end; they are written into space that
//! was reserved for them.

use serde_json::{Map, Value};

use crate::journal::JournalError;
use crate::journal::bodies::BodyWriter;
use crate::journal::body::Body;
use crate::protocol::event_id::EventId;

use super::workshop::Workshop;

const ID: &str = "{\"event_id\":\"";
/// The digits of the longest length. JSON allows spaces before a number.
const LENGTH: usize = 10;

/// An unfinished envelope.
#[derive(Debug)]
pub(super) struct EnvelopeWriter {
    body: BodyWriter,
    /// The offsets of the current item's length and of its payload; `None` between items.
    item: Option<(u64, u64)>,
}

impl EnvelopeWriter {
    /// Begins an envelope without items. Its header has these keys and the event id.
    pub(super) async fn begin(workshop: &Workshop, keys: Map<String, Value>) -> Result<Self, JournalError> {
        let mut body = workshop.body();
        let keys: String = keys.iter().map(|(key, value)| format!(",{}:{value}", Value::from(key.as_str()))).collect();
        body.write(format!("{ID}{:032}\"{keys}}}\n", 0).as_bytes()).await?;
        Ok(Self { body, item: None })
    }

    /// Begins an item with this header.
    pub(super) async fn begin_item(&mut self, header: Map<String, Value>) -> Result<(), JournalError> {
        let header = Value::from(header).to_string();
        let line = format!("{},\"length\":{:LENGTH$}}}\n", header.trim_end_matches('}'), 0);
        self.body.write(line.as_bytes()).await?;
        let begins = self.body.len();
        self.item = Some((begins - (LENGTH as u64 + 2), begins));
        Ok(())
    }

    /// Appends to the payload of the current item.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        self.body.write(bytes).await
    }

    /// Ends the current item; returns the size of its payload in bytes.
    pub(super) async fn end_item(&mut self) -> Result<u64, JournalError> {
        let Some((at, begins)) = self.item.take() else { return Ok(0) };
        let length = self.body.len() - begins;
        self.body.overwrite(at, format!("{length:LENGTH$}").as_bytes()).await?;
        self.body.write(b"\n").await?;
        Ok(length)
    }

    /// Ends the envelope and sets its event id.
    pub(super) async fn finish(mut self, id: EventId) -> Result<Body, JournalError> {
        self.body.overwrite(ID.len() as u64, id.to_string().as_bytes()).await?;
        self.body.finish().await
    }
}

/// The header of an item.
pub(super) fn header<const N: usize>(fields: [(&str, Option<&str>); N]) -> Map<String, Value> {
    fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into()))).collect()
}

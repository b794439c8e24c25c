//! Items as an upstream got them, and promises: items that a client says it has sent.
//!
//! Rule: envelopes are parsed here by their grammar, not by the relay's own reader.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

/// Values by JSON pointer; the empty pointer stands for the whole document.
type Values = BTreeMap<String, Value>;

/// One item that must arrive.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Promise {
    /// The type of the item.
    pub(crate) item: String,
    /// Values in its payload.
    #[serde(default)]
    pub(crate) at: Values,
    /// Values in the item's header.
    #[serde(default)]
    header: Values,
    /// Values in the envelope's header.
    #[serde(default)]
    envelope: Values,
    /// The whole payload, in base64.
    #[serde(default)]
    base64: Option<String>,
}

impl Promise {
    /// A promise of an item with these values in its payload.
    pub(crate) fn of<const N: usize>(item: &str, at: [(&str, Value); N]) -> Self {
        let at = at.into_iter().map(|(pointer, value)| (pointer.to_owned(), value)).collect();
        Self { item: item.to_owned(), at, ..Self::default() }
    }

    /// The value at a pointer of the payload, whether the promise names it or the whole payload.
    pub(crate) fn value(&self, pointer: &str) -> Option<&Value> {
        self.at.get("").and_then(|whole| whole.pointer(pointer)).or_else(|| self.at.get(pointer))
    }
}

/// One item as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) envelope: Value,
    pub(crate) header: Value,
    pub(crate) payload: Bytes,
}

impl Item {
    /// The items of an envelope.
    ///
    /// # Panics
    /// When the bytes are no envelope.
    pub(crate) fn all(envelope: &Bytes) -> Vec<Self> {
        let mut rest = envelope.clone();
        let header = line(&mut rest);
        let header: Value = serde_json::from_slice(&header).expect("an envelope's header");
        let mut items = Vec::new();
        while !rest.is_empty() {
            let own = line(&mut rest);
            let own: Value = serde_json::from_slice(&own).expect("an item's header");
            let payload = match own["length"].as_u64() {
                None => line(&mut rest),
                Some(length) => {
                    let payload = rest.split_to(usize::try_from(length).expect("a length"));
                    assert!(line(&mut rest).is_empty(), "a newline follows a payload");
                    payload
                }
            };
            items.push(Self { envelope: header.clone(), header: own, payload });
        }
        items
    }

    /// Whether this is the promised item.
    pub(crate) fn keeps(&self, promise: &Promise) -> bool {
        let have = |whole: &Value, wanted: &Values| wanted.iter().all(|(at, value)| whole.pointer(at) == Some(value));
        let wanted = promise.base64.as_ref().map(|text| BASE64.decode(text).expect("base64"));
        let json = || serde_json::from_slice::<Value>(&self.payload).unwrap_or_default();
        self.header["type"] == *promise.item
            && have(&self.header, &promise.header)
            && have(&self.envelope, &promise.envelope)
            && wanted.is_none_or(|wanted| wanted == self.payload)
            && (promise.at.is_empty() || have(&json(), &promise.at))
    }

    /// The part that must be the same at every upstream.
    pub(crate) fn essence(&self) -> (String, Bytes) {
        (self.header.to_string(), self.payload.clone())
    }
}

/// Takes a line off the front; returns it without its newline.
fn line(rest: &mut Bytes) -> Bytes {
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let line = rest.split_to(end);
    drop(rest.split_to(rest.len().min(1)));
    line
}

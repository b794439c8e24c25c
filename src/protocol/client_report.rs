//! Client reports. Whoever loses data on its way to a tracker reports to it what was lost and why ("Client Reports" in Sentry's
//! developer documentation).
//!
//! Rule: only documented reasons, and no quantity above what Relay can read. Reports of SDKs pass as they came; this module makes the
//! relay's own.

use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::{Value, json};

use super::category::Category;
use super::item::ItemType;
use crate::clock::Timestamp;
use crate::vocabulary::vocabulary;

vocabulary! {
    /// Why data was discarded: the documented reasons that a relay can have.
    pub enum Reason {
        /// A store for unsent data was full.
        CacheOverflow = "cache_overflow",
        /// An event processor dropped it.
        EventProcessor = "event_processor",
        /// It could not be sent and is not retried.
        NetworkError = "network_error",
        /// A rate limit was in force.
        RatelimitBackoff = "ratelimit_backoff",
        /// The sample rate excluded it.
        SampleRate = "sample_rate",
    }
}

/// The largest quantity of one entry: Relay reads 32 bits (getsentry/relay, `relay-event-schema`, `DiscardedEvent`).
pub const MOST: u64 = u32::MAX as u64;

/// An envelope that holds only a report of discarded data.
pub fn envelope(at: Timestamp, discarded: impl IntoIterator<Item = (Reason, Category, u64)>) -> Bytes {
    let entry = |(reason, category, quantity): (Reason, Category, u64)| json!({"reason": reason.name(), "category": category.name(), "quantity": quantity.min(MOST)});
    let discarded: Value = discarded.into_iter().map(entry).collect();
    let payload = json!({"timestamp": at, "discarded_events": discarded}).to_string();
    let (header, kind) = (json!({"sent_at": at}), ItemType::ClientReport);
    let item = json!({"type": kind.name(), "length": payload.len()});
    format!("{header}\n{item}\n{payload}\n").into()
}

/// The number of spans lost with a transaction: its own and those inside it. An unreadable transaction counts as one.
pub fn spans(transaction: &[u8]) -> u64 {
    #[derive(serde::Deserialize)]
    struct Transaction {
        #[serde(default)]
        spans: Count,
    }
    serde_json::from_slice::<Transaction>(transaction).map_or(0, |transaction| transaction.spans.0) + 1
}

/// The length of a list whose elements are skipped.
#[derive(Default)]
struct Count(u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Count;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Count, A::Error> {
                let mut count = Count(0);
                while list.next_element::<IgnoredAny>()?.is_some() {
                    count.0 += 1;
                }
                Ok(count)
            }
        }
        deserializer.deserialize_any(List)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::envelope::Envelope;

    #[test]
    fn a_report_is_an_envelope_of_one_item_with_quantities_and_reasons() {
        let at = Timestamp::from_millis(1_767_571_200_000);
        let discarded =
            [(Reason::NetworkError, Category::Error, 3), (Reason::RatelimitBackoff, Category::Attachment, u64::MAX)];
        let envelope = Envelope::parse(envelope(at, discarded)).unwrap();
        assert_eq!(envelope.header(), r#"{"sent_at":"2026-01-05T00:00:00Z"}"#);
        let [item] = envelope.items() else { panic!("one item") };
        assert_eq!(item.kind, ItemType::ClientReport);
        let report: Value = serde_json::from_slice(&envelope.payload(item)).unwrap();
        let expected = json!({"timestamp": "2026-01-05T00:00:00Z", "discarded_events": [
            {"reason": "network_error", "category": "error", "quantity": 3},
            {"reason": "ratelimit_backoff", "category": "attachment", "quantity": 4_294_967_295_u64},
        ]});
        assert_eq!(report, expected);
    }

    #[test]
    fn a_lost_transaction_counts_its_own_span_and_those_inside() {
        for (payload, lost) in [
            (r#"{"type":"transaction","spans":[{"spans":[1,2]},{},null]}"#, 4),
            (r#"{"spans":[]}"#, 1),
            (r#"{"contexts":{"spans":[1,2,3]}}"#, 1),
            (r#"{"spans":null}"#, 1),
            (r#"{"spans":{"a":1}}"#, 1),
            (r#"{"spans":[1,2"#, 1),
            ("", 1),
        ] {
            assert_eq!(spans(payload.as_bytes()), lost, "{payload}");
        }
    }
}

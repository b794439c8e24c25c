//! What makes an item a repeat of another one: the id of its event, its segment of a replay, its id and status, or its content.
//!
//! Rule: a payload is read only when it holds the item's identity, and only as far as needed.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hasher as _};
use std::io;
use std::sync::Arc;

use serde::Deserialize;

use crate::journal::body::Body;
use crate::policy::dedup::Keys;
use crate::protocol::envelope::{Item, Outline};
use crate::protocol::event_id::EventId;
use crate::protocol::item::ItemType;
use crate::tasks;

use super::part;

/// The longest first line of a replay recording, in bytes. It holds one number.
const SEGMENT_LINE: u64 = 256;
/// The status that a long job repeats.
const HEARTBEAT: &str = "in_progress";
/// The bytes of a file that are read at a time.
const PIECE: u64 = 256 * 1024;

/// The key of each item, by position; `None` for an item without an identity. The nil id, which sentry-cli sends with raw events,
/// identifies nothing.
pub(super) async fn keys(own: &Keys, project: &str, envelope: &Outline, body: &Body) -> Vec<Option<u128>> {
    let event = envelope.event_id().filter(|id| id.as_u128() != 0);
    let mut keys = Vec::with_capacity(envelope.items().len());
    for item in envelope.items() {
        let key = match (&item.kind, event) {
            (ItemType::Event | ItemType::Transaction | ItemType::Feedback, Some(id)) => {
                Some(own.key(project, &item.kind, id, &[]))
            }
            (ItemType::CheckIn, _) => check_in(own, project, item, body).await,
            (ItemType::ReplayEvent | ItemType::ReplayRecording, Some(id)) => {
                segment(item, body).await.map(|n| own.key(project, &item.kind, id, &n.to_le_bytes()))
            }
            (ItemType::Attachment | ItemType::ReplayVideo, Some(id)) => {
                content(item, body).await.map(|hash| own.key(project, &item.kind, id, &hash.to_le_bytes()))
            }
            _ => None,
        };
        keys.push(key);
    }
    keys
}

/// The identity of a check-in, sent as an item or by URL: its id and its status. `in_progress` has no identity. A long job repeats it as
/// a heartbeat that moves the tracker's timeout, and a heartbeat has the same bytes as a retry. A heartbeat too many does no harm.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckInIdentity {
    id: EventId,
    status: String,
}

impl CheckInIdentity {
    /// The identity of an update; `None` for a heartbeat, and for the nil id, which stands for the latest check-in.
    pub fn new(id: EventId, status: &str) -> Option<Self> {
        (id.as_u128() != 0 && status != HEARTBEAT).then(|| Self { id, status: status.to_owned() })
    }

    /// The key by which a repeat is recognised.
    pub fn key(&self, own: &Keys, project: &str) -> u128 {
        own.key(project, &ItemType::CheckIn, self.id, self.status.as_bytes())
    }
}

async fn check_in(own: &Keys, project: &str, item: &Item, body: &Body) -> Option<u128> {
    #[derive(Deserialize)]
    struct CheckIn<'a> {
        #[serde(borrow)]
        check_in_id: Cow<'a, str>,
        #[serde(borrow)]
        status: Cow<'a, str>,
    }
    let payload = part::payload(body, item).await.ok()?;
    let CheckIn { check_in_id, status } = serde_json::from_slice(&payload).ok()?;
    CheckInIdentity::new(check_in_id.parse().ok()?, &status).map(|identity| identity.key(own, project))
}

/// The number of a replay's segment, from the payload of its event or the first line of its recording.
async fn segment(item: &Item, body: &Body) -> Option<u64> {
    #[derive(Deserialize)]
    struct Segment {
        segment_id: u64,
    }
    let payload = match item.kind {
        ItemType::ReplayRecording => part::beginning(body, item, SEGMENT_LINE).await.ok()?,
        _ => part::payload(body, item).await.ok()?,
    };
    let json = match item.kind {
        ItemType::ReplayRecording => &payload[..memchr::memchr(b'\n', &payload)?],
        _ => &payload[..],
    };
    serde_json::from_slice(json).ok().map(|Segment { segment_id }| segment_id)
}

/// A hash of the item's header line and payload. It may change between versions: then a repeat is not recognised after an upgrade.
async fn content(item: &Item, body: &Body) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    let range = item.whole();
    match body {
        Body::Memory(bytes) => {
            hasher.write(&bytes[range.start as usize..range.end as usize]);
            Some(hasher.finish())
        }
        Body::Large(large) => {
            let large = Arc::clone(large);
            let hash = move || -> io::Result<u64> {
                let pieces = large.open()?;
                for start in range.clone().step_by(PIECE as usize) {
                    hasher.write(&pieces.read(start..range.end.min(start + PIECE))?);
                }
                Ok(hasher.finish())
            };
            tasks::blocking(hash).await.ok()
        }
    }
}

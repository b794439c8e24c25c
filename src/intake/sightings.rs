//! Which of the services that the report expects were seen: by the `server_name` or the release of what they send.
//!
//! Rule: a peep, not a parser. The first bytes of a body in memory are searched for the two keys, wherever they stand, and only
//! when the configuration names services at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use memchr::memmem;

use crate::journal::body::Body;

/// So much of a body is searched.
const LOOK: usize = 64 << 10;
/// So many places of each key are looked at.
const PLACES: usize = 8;
/// What Sentry's SDKs name a service by (develop.sentry.dev, "Event Payloads").
const KEYS: [&[u8]; 2] = [b"\"server_name\"", b"\"release\""];

/// The services that are expected, and how often each was seen. Cheap to clone; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Sightings(Arc<ArcSwap<Vec<Expected>>>);

#[derive(Clone, Debug)]
struct Expected {
    name: Box<str>,
    count: Arc<AtomicU64>,
}

impl Sightings {
    /// Expects these from now on; those that were expected before keep their count.
    pub(super) fn expect(&self, names: &[Box<str>]) {
        let before = self.0.load();
        let known = |name: &str| before.iter().find(|known| *known.name == *name).cloned();
        let fresh = |name: &str| Expected { name: name.into(), count: Arc::default() };
        let names = names.iter().map(|name| known(name).unwrap_or_else(|| fresh(name)));
        self.0.store(Arc::new(names.collect()));
    }

    /// How often each was seen since the start.
    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        let count = |one: &Expected| (one.name.to_string(), one.count.load(Ordering::Relaxed));
        self.0.load().iter().map(count).collect()
    }

    /// Looks whether a body comes from one of them.
    pub(super) fn look(&self, body: &Body) {
        let expected = self.0.load();
        let Body::Memory(bytes) = body else { return };
        if expected.is_empty() {
            return;
        }
        let bytes = &bytes[..bytes.len().min(LOOK)];
        for key in KEYS {
            for at in memmem::find_iter(bytes, key).take(PLACES) {
                let Some(value) = text(&bytes[at + key.len()..]) else { continue };
                for one in expected.iter().filter(|one| is(one.name.as_bytes(), value)) {
                    one.count.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Whether a value names the service: as it is, or as the first part of a release like `shop@1.2.3`.
fn is(name: &[u8], value: &[u8]) -> bool {
    value.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest[0] == b'@')
}

/// The text that follows a key, as it stands there.
fn text(after: &[u8]) -> Option<&[u8]> {
    let value = after.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start().strip_prefix(b"\"")?;
    value.get(..value.iter().position(|byte| *byte == b'"')?)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn seen(body: &'static str) -> u64 {
        let sightings = Sightings::default();
        sightings.expect(&["api".into(), "mailer".into()]);
        sightings.look(&Body::Memory(Bytes::from_static(body.as_bytes())));
        sightings.counts()["api"]
    }

    #[test]
    fn a_service_is_known_by_its_server_name_or_its_release() {
        for body in [r#"{"server_name":"api"}"#, "{\"release\" :\n \"api\"}", r#"{"release":"api@1.2.3"}"#] {
            assert_eq!(seen(body), 1, "{body}");
        }
        for body in [r#"{"server_name":"api2"}"#, r#"{"user":"api"}"#, r#"{"release":"#, r#"{"release":"api"#, ""] {
            assert_eq!(seen(body), 0, "{body}");
        }
    }

    #[test]
    fn a_changed_configuration_keeps_the_counts_of_those_that_stay() {
        let sightings = Sightings::default();
        sightings.expect(&["api".into()]);
        sightings.look(&Body::Memory(Bytes::from_static(br#"{"server_name":"api"}"#)));
        sightings.expect(&["mailer".into(), "api".into()]);
        assert_eq!(sightings.counts(), BTreeMap::from([("api".into(), 1), ("mailer".into(), 0)]));
    }
}

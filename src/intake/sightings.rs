//! Which services send events: the values of `server_name` and `release` in the bodies of each project.
//!
//! Rule: bodies are searched, not parsed. A body in memory is searched at once for the two keys, wherever they are. Of a large body the
//! small items are searched on a thread of their own. All names are counted, not only those that the report expects, so that a name has
//! a history when it is expected later. Expected names always have room. A name that found no room and is expected later is searched for
//! in the records of the journal, with [`names_in`].

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use memchr::memmem::Finder;

use crate::clock::Timestamp;
use crate::journal::body::{Body, IN_MEMORY};
use crate::journal::evidence::Tally;
use crate::protocol::item::ItemType;
use crate::protocol::marked::{self, TEST};
use crate::tasks;

/// The most bytes of a large body that are searched.
const LOOK: u64 = 2 << 20;
/// The most occurrences of each key that are looked at.
const PLACES: usize = 64;
/// The most names of a project in an hour, apart from expected ones.
const NAMES: usize = 64;
/// The longest name, in bytes.
const LONGEST: usize = 200;
/// The keys by which Sentry's SDKs name a service (develop.sentry.dev, "Event Payloads").
static KEYS: LazyLock<[Finder<'static>; 2]> =
    LazyLock::new(|| [r#""server_name""#, r#""release""#].map(|key| Finder::new(key).into_owned()));

/// The services seen since the last [`Sightings::take`]. Cheap to clone; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Sightings(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    expected: Vec<Box<str>>,
    /// The hour in which the names were seen.
    hour: u64,
    /// The number of sightings since the last `take`, by project and name.
    counts: BTreeMap<Arc<str>, BTreeMap<Box<str>, u64>>,
}

impl Sightings {
    /// Expects these services from now on: names, or names behind their project, as in `shop/api`.
    pub(super) fn expect(&self, names: &[Box<str>]) {
        self.lock().expected = names.to_vec();
    }

    /// The sightings since the last call.
    pub fn take(&self) -> Vec<Tally> {
        let mut tallies = vec![];
        for (project, names) in &mut self.lock().counts {
            for (name, count) in names.iter_mut().filter(|(_, count)| **count > 0) {
                tallies.push(Tally::seen(project, name, std::mem::take(count)));
            }
        }
        tallies
    }

    /// Whether a test event was seen since the last [`Sightings::take`]. Until the journal knows, it passes for a service's.
    pub fn has_test(&self) -> bool {
        self.lock().counts.values().any(|names| names.get(TEST).is_some_and(|count| *count > 0))
    }

    /// Counts the services of the project that a body names. A test event counts as a service named [`TEST`].
    pub(super) fn look(&self, project: &Arc<str>, body: &Body, now: Timestamp) {
        match body {
            Body::Memory(bytes) => self.note(project, bytes, now),
            Body::Large(_) => {
                let (sightings, project, body) = (self.clone(), Arc::clone(project), body.clone());
                tasks::aside(move || small_items(&body, |bytes| sightings.note(&project, bytes, now)));
            }
        }
    }

    fn note(&self, project: &Arc<str>, bytes: &[u8], now: Timestamp) {
        let mut seen = None;
        let mut note = |name: &str| seen.get_or_insert_with(|| self.lock()).note(project, name, now);
        names(bytes, |name| {
            if name != TEST {
                note(name);
            }
        });
        if marked::is_test(bytes) {
            note(TEST);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // Nothing panics while holding the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn note(&mut self, project: &Arc<str>, name: &str, now: Timestamp) {
        if std::mem::replace(&mut self.hour, now.hour()) != now.hour() {
            self.counts.values_mut().for_each(|names| names.retain(|_, count| *count > 0));
        }
        let names = match self.counts.get_mut(project) {
            Some(names) => names,
            None => self.counts.entry(Arc::clone(project)).or_default(),
        };
        if let Some(count) = names.get_mut(name) {
            *count += 1;
        } else if names.len() < NAMES || self.expected.iter().any(|expected| is(expected, project, name)) {
            names.insert(name.into(), 1);
        }
    }
}

/// Calls `found` for each name of a service in a body. Reads the file of a large body.
pub fn names_in(body: &Body, mut found: impl FnMut(&str)) {
    match body {
        Body::Memory(bytes) => names(bytes, found),
        Body::Large(_) => small_items(body, |bytes| names(bytes, &mut found)),
    }
}

/// Calls `look` for the small items of a body, which are its events and not its attachments. Unreadable items are skipped.
fn small_items(body: &Body, mut look: impl FnMut(&[u8])) {
    let Ok(outline) = body.outline() else { return };
    let mut left = LOOK;
    for item in outline.items().iter().filter(|item| item.kind != ItemType::Attachment) {
        let size = item.size();
        if size <= left.min(IN_MEMORY as u64)
            && let Ok(payload) = body.payload(item)
        {
            left -= size;
            look(&payload);
        }
    }
}

/// Calls `found` for each name of a service, and for the part of a release before its version.
fn names(bytes: &[u8], mut found: impl FnMut(&str)) {
    for key in KEYS.iter() {
        for at in key.find_iter(bytes).take(PLACES) {
            let Some(value) = name(&bytes[at + key.needle().len()..]) else { continue };
            found(value);
            if let Some((service, _)) = value.split_once('@').filter(|(service, _)| !service.is_empty()) {
                found(service);
            }
        }
    }
}

/// Whether a name of a project is an expected one.
fn is(expected: &str, project: &str, name: &str) -> bool {
    let of_project = || expected.strip_prefix(project)?.strip_prefix('/');
    expected == name || of_project() == Some(name)
}

/// The JSON string after a key, if it can be a name.
fn name(after: &[u8]) -> Option<&str> {
    let value = after.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start().strip_prefix(b"\"")?;
    let end = value.iter().take(LONGEST + 1).position(|byte| *byte == b'"')?;
    let name = std::str::from_utf8(&value[..end]).ok()?;
    (!name.is_empty() && !name.contains(|c: char| c.is_control() || c == '\\')).then_some(name)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const T: Timestamp = Timestamp::from_millis(7_200_000);

    fn look(sightings: &Sightings, project: &str, body: &str) {
        sightings.look(&project.into(), &Body::Memory(Bytes::from(body.to_owned())), T);
    }

    fn seen(body: &str) -> Vec<Tally> {
        let sightings = Sightings::default();
        look(&sightings, "shop", body);
        sightings.take()
    }

    #[test]
    fn a_service_is_recognised_by_its_server_name_or_its_release() {
        let of = |name| Tally::seen("shop", name, 1);
        for (body, names) in [
            (r#"{"server_name":"api"}"#, vec!["api"]),
            ("{\"release\" :\n \"api\"}", vec!["api"]),
            (r#"{"release":"api@1.2.3"}"#, vec!["api", "api@1.2.3"]),
            (&format!(r#"{{"message":"{}","server_name":"api"}}"#, "x".repeat(1 << 19)), vec!["api"]),
            (r#"{"user":"api"}"#, vec![]),
            (r#"{"release":"#, vec![]),
            (r#"{"release":"api"#, vec![]),
            (r#"{"release":""}"#, vec![]),
            (r#"{"release":"a\u0000b"}"#, vec![]),
            ("", vec![]),
        ] {
            assert_eq!(seen(body), names.into_iter().map(of).collect::<Vec<_>>(), "{body}");
        }
    }

    #[test]
    fn the_number_of_names_is_bounded_and_expected_names_have_room() {
        let sightings = Sightings::default();
        sightings.expect(&["api".into(), "shop/mailer".into()]);
        for n in 0..3 * NAMES {
            look(&sightings, "web", &format!(r#"{{"server_name":"pod-{n}"}}"#));
        }
        for (project, name) in [("web", "api"), ("web", "mailer"), ("shop", "mailer")] {
            look(&sightings, project, &format!(r#"{{"server_name":"{name}"}}"#));
        }
        look(&sightings, "web", &format!(r#"{{"server_name":"{}"}}"#, "x".repeat(LONGEST + 1)));
        let tallies = sightings.take();
        assert_eq!(tallies.len(), NAMES + 2);
        for tally in [Tally::seen("web", "api", 1), Tally::seen("shop", "mailer", 1)] {
            assert!(tallies.contains(&tally), "{tallies:?}");
        }
        assert!(sightings.take().is_empty());
    }
}

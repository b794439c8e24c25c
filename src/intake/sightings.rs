//! Which services send: by the `server_name` or the release of what comes in, for each project.
//!
//! Rule: this searches, it does not parse. Bodies are searched for the two keys wherever they stand: those in memory at once, of
//! large ones the small items, on a thread of their own. All names are kept, so that one which the report expects later has its
//! history; expected names have room before any other. A name that found no room is [looked for](names_in) in what the journal
//! keeps.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use memchr::memmem::Finder;

use crate::clock::Timestamp;
use crate::journal::body::{Body, IN_MEMORY};
use crate::journal::evidence::Tally;
use crate::protocol::item::ItemType;
use crate::tasks;

/// So much of a large body is searched.
const LOOK: u64 = 2 << 20;
/// So many places of each key are looked at.
const PLACES: usize = 64;
/// So many names of a project are kept in an hour, besides those that are expected.
const NAMES: usize = 64;
/// The longest name, in bytes.
const LONGEST: usize = 200;
/// What Sentry's SDKs name a service by (develop.sentry.dev, "Event Payloads").
static KEYS: LazyLock<[Finder<'static>; 2]> =
    LazyLock::new(|| [r#""server_name""#, r#""release""#].map(|key| Finder::new(key).into_owned()));

/// The services that were seen since the last time. Cheap to clone; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Sightings(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    expected: Vec<Box<str>>,
    /// The hour in which these names were seen.
    hour: u64,
    /// How often since the last time, by project and name.
    counts: BTreeMap<Arc<str>, BTreeMap<Box<str>, u64>>,
}

impl Sightings {
    /// Expects these from now on: names, or names with their project as in `shop/api`.
    pub(super) fn expect(&self, names: &[Box<str>]) {
        self.lock().expected = names.to_vec();
    }

    /// What was seen since the last time.
    pub(super) fn take(&self) -> Vec<Tally> {
        let mut tallies = vec![];
        for (project, names) in &mut self.lock().counts {
            for (name, count) in names.iter_mut().filter(|(_, count)| **count > 0) {
                tallies.push(Tally::seen(project, name, std::mem::take(count)));
            }
        }
        tallies
    }

    /// Looks which service of the project a body comes from.
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
        names(bytes, |name| seen.get_or_insert_with(|| self.lock()).note(project, name, now));
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // Nothing panics while holding it.
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

/// The names of services in a body. Of a large one this reads it.
pub fn names_in(body: &Body, mut found: impl FnMut(&str)) {
    match body {
        Body::Memory(bytes) => names(bytes, found),
        Body::Large(_) => small_items(body, |bytes| names(bytes, &mut found)),
    }
}

/// What is small in a body: its events, and not their attachments. One that cannot be read says nothing.
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

/// The names of services, whole, and of a release what stands before its version.
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

/// Whether a name of a project is the one that is expected.
fn is(expected: &str, project: &str, name: &str) -> bool {
    let of_project = || expected.strip_prefix(project)?.strip_prefix('/');
    expected == name || of_project() == Some(name)
}

/// The text that follows a key, when it can be a name.
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
    fn a_service_is_known_by_its_server_name_or_its_release() {
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
    fn what_is_kept_is_bounded_and_what_is_expected_has_room() {
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

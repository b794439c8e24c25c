//! Storms of identical errors: in each window the first few pass, and the rest is dropped and counted.
//!
//! Errors are identical if they have the same custom fingerprint, or else the same type, value and top frame of the project's code.
//! Memory is bounded: beyond `MOST` different errors those not seen for longest are forgotten.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::clock::Timestamp;
use crate::printable;
use crate::units::Period;

/// The most different errors that are counted at once.
const MOST: u64 = 4096;
/// The number of storms in the status.
const SHOWN: usize = 20;
/// The length of an error's type in the status, in bytes.
const SHOWN_LENGTH: usize = 80;

/// The section `[limits.storm]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The number of identical errors that pass in each window.
    pub limit: NonZeroU32,
    /// The length of a window. It begins with the first error after the last window.
    pub window: Period,
}

impl Default for Settings {
    fn default() -> Self {
        Self { limit: NonZeroU32::new(100).expect("a hundred is not zero"), window: Period::secs(60) }
    }
}

/// The signature by which errors are identical, taken from an event's payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signature {
    hash: u64,
    /// The error's type or fingerprint, for the status.
    shown: Box<str>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default)]
    fingerprint: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow, default)]
    exception: Option<Thrown<'a>>,
}

/// The last of a list of exceptions, or of an object with one ("Exception Interface"): the one that was thrown. The others caused it.
struct Thrown<'a>(Option<Exception<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Thrown<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Thrown<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("exceptions")
            }
            fn visit_unit<E>(self) -> Result<Thrown<'de>, E> {
                Ok(Thrown(None))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Thrown<'de>, A::Error> {
                let mut last = None;
                while let Some(exception) = list.next_element()? {
                    last = exception;
                }
                Ok(Thrown(last))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Thrown<'de>, A::Error> {
                let mut thrown = Thrown(None);
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    match &*key {
                        "values" => thrown = map.next_value()?,
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(thrown)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[derive(Deserialize, Hash)]
struct Exception<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    value: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    stacktrace: Option<Stacktrace<'a>>,
}

#[derive(Deserialize, Hash)]
struct Stacktrace<'a> {
    #[serde(borrow, default)]
    frames: Option<Vec<Frame<'a>>>,
}

#[derive(Deserialize, Hash)]
struct Frame<'a> {
    #[serde(borrow, default)]
    module: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    filename: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    function: Option<Cow<'a, str>>,
    #[serde(default)]
    lineno: Option<u64>,
    #[serde(default)]
    in_app: Option<bool>,
}

/// The fingerprint that stands for the tracker's own grouping ("SDK Fingerprinting").
const DEFAULT: &str = "{{ default }}";

/// The counts of identical errors.
#[derive(Clone, Debug)]
pub struct Storms(Arc<Sky>);

#[derive(Debug)]
struct Sky {
    windows: Cache<u64, Arc<Mutex<Window>>>,
    hasher: RandomState,
    passed: Mutex<VecDeque<Storm>>,
}

/// The identical errors of one window.
#[derive(Clone, Debug)]
struct Window {
    began: Timestamp,
    passed: u32,
    storm: Storm,
}

/// Errors that were dropped because they were identical to others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Storm {
    /// The project.
    pub project: Arc<str>,
    /// Their type or fingerprint.
    pub what: Box<str>,
    /// How many were dropped.
    pub collapsed: u64,
    /// When the last of them came.
    pub last: Timestamp,
}

/// The decision about an error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It passes; with a storm if it is the first error after one.
    Passes(Option<Storm>),
    /// It is dropped.
    Collapses,
}

impl Default for Storms {
    fn default() -> Self {
        let windows = Cache::builder().max_capacity(MOST).eviction_policy(EvictionPolicy::lru()).build();
        Self(Arc::new(Sky { windows, hasher: RandomState::new(), passed: Mutex::default() }))
    }
}

impl Storms {
    /// The signature of an event; `None` if it is no error or cannot be read.
    pub fn signature(&self, project: &str, payload: &[u8]) -> Option<Signature> {
        let event: Event<'_> = serde_json::from_slice(payload).ok()?;
        let own = event.fingerprint.unwrap_or_default();
        let error = event.exception.and_then(|thrown| thrown.0);
        // The last frame is the innermost.
        let frames = error.as_ref().and_then(|error| error.stacktrace.as_ref()?.frames.as_deref()).unwrap_or_default();
        let frame = frames.iter().rfind(|frame| frame.in_app == Some(true)).or(frames.last());
        let by_default = own.is_empty() || own.iter().any(|part| part == DEFAULT);
        let error = error.as_ref().filter(|_| by_default);
        let shown = match error {
            Some(error) => error.kind.as_deref().unwrap_or("error"),
            None => own.first()?,
        };
        let identity = error.map(|error| (&error.kind, &error.value, frame));
        let hash = self.0.hasher.hash_one((project, &own, identity));
        Some(Signature { hash, shown: printable::in_a_line(shown).take(SHOWN_LENGTH).collect() })
    }

    /// Decides about an error with this signature.
    pub fn weather(&self, project: &Arc<str>, error: Signature, settings: &Settings, now: Timestamp) -> Answer {
        let fresh = || {
            let storm = Storm { project: Arc::clone(project), what: error.shown, collapsed: 0, last: now };
            Arc::new(Mutex::new(Window { began: now, passed: 0, storm }))
        };
        let window = self.0.windows.get_with(error.hash, fresh);
        let mut window = lock(&window);
        // After the clock was set back, a new window begins.
        if now.since(window.began) >= settings.window.get() || now < window.began {
            let before = Storm { collapsed: 0, ..window.storm.clone() };
            let storm = std::mem::replace(&mut window.storm, before);
            (window.began, window.passed) = (now, 1);
            return Answer::Passes((storm.collapsed > 0).then(|| self.keep(storm)));
        }
        if window.passed < settings.limit.get() {
            window.passed += 1;
            return Answer::Passes(None);
        }
        window.storm.collapsed += 1;
        window.storm.last = now;
        Answer::Collapses
    }

    /// Current and past storms, the most recent first.
    pub fn shown(&self) -> Vec<Storm> {
        let mut all: Vec<Storm> = lock(&self.0.passed).iter().cloned().collect();
        let windows = self.0.windows.iter().map(|(_, window)| lock(&window).storm.clone());
        all.extend(windows.filter(|storm| storm.collapsed > 0));
        all.sort_by_key(|storm| std::cmp::Reverse(storm.last));
        all.truncate(SHOWN);
        all
    }

    fn keep(&self, storm: Storm) -> Storm {
        let mut passed = lock(&self.0.passed);
        passed.truncate(SHOWN - 1);
        passed.push_front(storm.clone());
        storm
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const T: Timestamp = Timestamp::from_millis(1_000_000);

    fn error(kind: &str, value: &str, line: u32) -> String {
        let frames = format!(
            r#"[{{"filename":"a.js","function":"pay","lineno":{line},"in_app":true}},{{"filename":"lib.js","in_app":false}}]"#
        );
        let thrown = format!(r#"{{"type":"{kind}","value":"{value}","stacktrace":{{"frames":{frames}}}}}"#);
        format!(r#"{{"x":[1,{{"y":"é\n"}}],"exception":{{"values":[{{"type":"Cause"}},{thrown}]}}}}"#)
    }

    fn hash(storms: &Storms, payload: &str) -> Option<u64> {
        storms.signature("shop", payload.as_bytes()).map(|signature| signature.hash)
    }

    #[test]
    fn errors_are_identical_by_type_value_and_own_frame_or_by_their_fingerprint() {
        let storms = Storms::default();
        let one = hash(&storms, &error("TypeError", "x", 7));
        assert_eq!(one, hash(&storms, &error("TypeError", "x", 7).replace("lib.js", "other.js")));
        let bare = error("TypeError", "x", 7).replace("{\"values\":", "").replace("]}}]}", "]}}]");
        assert_eq!(one, hash(&storms, &bare), "{bare}");
        let fingerprint = |list: &str, kind: &str| {
            hash(&storms, &error(kind, "x", 7).replacen('{', &format!("{{\"fingerprint\":{list},"), 1))
        };
        let own = fingerprint(r#"["a","b"]"#, "TypeError");
        assert_eq!(own, fingerprint(r#"["a","b"]"#, "RangeError"));
        let with_default = fingerprint(r#"["{{ default }}","b"]"#, "TypeError");
        let others = [
            hash(&storms, &error("RangeError", "x", 7)),
            hash(&storms, &error("TypeError", "y", 7)),
            hash(&storms, &error("TypeError", "x", 8)),
            storms.signature("other", error("TypeError", "x", 7).as_bytes()).map(|signature| signature.hash),
            own,
            with_default,
            fingerprint(r#"["{{ default }}","b"]"#, "RangeError"),
        ];
        let distinct: std::collections::BTreeSet<_> = others.into_iter().chain([one]).collect();
        assert_eq!(distinct.len(), 8);
        for nothing in ["{\"message\":\"m\"}", "{\"exception\":{\"values\":[]}}", "nonsense", "{\"exception\":7}", ""] {
            assert_eq!(hash(&storms, nothing), None, "{nothing}");
        }
    }

    #[test]
    fn the_first_of_each_window_pass_and_tell_how_many_did_not() {
        let (storms, project): (_, Arc<str>) = (Storms::default(), "shop".into());
        let settings = Settings { limit: NonZeroU32::new(2).unwrap(), window: Period::secs(10) };
        let weather = |seconds| {
            let signature = storms.signature("shop", error("TypeError", "x", 7).as_bytes()).unwrap();
            storms.weather(&project, signature, &settings, T + Duration::from_secs(seconds))
        };
        assert_eq!([weather(0), weather(1)], [Answer::Passes(None), Answer::Passes(None)]);
        assert_eq!([weather(2), weather(9)], [Answer::Collapses, Answer::Collapses]);
        let last = T + Duration::from_secs(9);
        let storm = Storm { project: Arc::clone(&project), what: "TypeError".into(), collapsed: 2, last };
        assert_eq!(storms.shown(), std::slice::from_ref(&storm), "it is still on");
        assert_eq!(weather(10), Answer::Passes(Some(storm.clone())));
        assert_eq!(storms.shown(), [storm]);
        assert_eq!(
            [weather(11), weather(12), weather(20)],
            [
                Answer::Passes(None),
                Answer::Collapses,
                Answer::Passes(Some(Storm {
                    project,
                    what: "TypeError".into(),
                    collapsed: 1,
                    last: T + Duration::from_secs(12)
                }))
            ]
        );
    }

    #[test]
    fn no_more_errors_are_remembered_than_there_is_room_for() {
        let (storms, project): (_, Arc<str>) = (Storms::default(), "shop".into());
        let settings = Settings { limit: NonZeroU32::MIN, window: Period::secs(10) };
        for n in 0..2 * MOST {
            let signature = storms.signature("shop", format!("{{\"fingerprint\":[\"{n}\"]}}").as_bytes()).unwrap();
            storms.weather(&project, signature.clone(), &settings, T);
            storms.weather(&project, signature, &settings, T + Duration::from_secs(11));
        }
        storms.0.windows.run_pending_tasks();
        assert!(storms.0.windows.entry_count() <= MOST);
        assert!(storms.shown().len() <= SHOWN);
    }
}

//! Walks two events in one shape side by side. It knows no tracker: the given rows say what may differ.

use std::fmt::Write as _;

use serde_json::Value;

use super::drift::{Drift, Leaf, Step};
use super::show;
use super::{Difference, MAX_DIFFERENCES};

/// The most that two times may differ, in microseconds: JSON's floating-point seconds and a tracker's milliseconds round differently.
const ROUNDING: f64 = 1000.0;
/// The longest name of a field, in characters.
const MAX_FIELD: usize = 200;

static NOTHING: Value = Value::Null;

/// The differences that no row forgives.
pub(super) fn differences(sent: &Value, there: &Value, rows: &[Drift]) -> Vec<Difference> {
    let mut walk = Walk { rows, path: Vec::new(), found: Vec::new(), secrets: 0 };
    walk.value(sent, there);
    walk.found
}

struct Walk<'a> {
    rows: &'a [Drift],
    path: Vec<Step<'a>>,
    found: Vec<Difference>,
    /// The number of secrets around the current value.
    secrets: usize,
}

impl<'a> Walk<'a> {
    fn value(&mut self, sent: &'a Value, there: &'a Value) {
        if self.found.len() >= MAX_DIFFERENCES || is_nothing(sent) && is_nothing(there) {
            return;
        }
        let secret = show::holds_secret(sent) || show::holds_secret(there);
        self.secrets += usize::from(secret);
        match (sent, there) {
            (Value::Object(own), Value::Object(theirs)) => {
                let only_there = theirs.iter().filter(|(key, _)| !own.contains_key(*key));
                let both = own.iter().map(|(key, value)| (key, value, theirs.get(key).unwrap_or(&NOTHING)));
                for (key, sent, there) in both.chain(only_there.map(|(key, value)| (key, &NOTHING, value))) {
                    self.step(Step::Key(key), sent, there);
                }
            }
            (Value::Array(own), Value::Array(theirs)) if own.len() == theirs.len() => {
                for (index, (sent, there)) in own.iter().zip(theirs).enumerate() {
                    self.step(Step::Index(index), sent, there);
                }
            }
            _ => self.leaf(sent, there),
        }
        self.secrets -= usize::from(secret);
    }

    fn step(&mut self, step: Step<'a>, sent: &'a Value, there: &'a Value) {
        let secret = matches!(step, Step::Key(key) if show::is_secret(key));
        self.secrets += usize::from(secret);
        self.path.push(step);
        self.value(sent, there);
        self.path.pop();
        self.secrets -= usize::from(secret);
    }

    fn leaf(&mut self, sent: &'a Value, there: &'a Value) {
        let leaf = Leaf { path: &self.path, sent, there };
        if self.is_same(sent, there) || self.rows.iter().any(|row| row.allows(&leaf)) {
            return;
        }
        let (sent, there) = show::pair(sent, there, self.secrets > 0);
        self.found.push(Difference { field: field(&self.path), sent, there });
    }

    fn is_same(&self, sent: &Value, there: &Value) -> bool {
        let name = match self.path.last() {
            Some(Step::Key(name)) if self.path.len() == 1 || matches!(self.path[0], Step::Key("breadcrumbs")) => *name,
            _ => "",
        };
        match (sent, there) {
            (Value::Number(own), Value::Number(theirs)) => {
                let (Some(a), Some(b)) = (own.as_f64(), theirs.as_f64()) else { return own == theirs };
                let is_exact = own.is_f64() || theirs.is_f64() || own == theirs;
                a == b && is_exact || name == "timestamp" && (a - b).abs() <= ROUNDING
            }
            (Value::String(own), Value::String(theirs)) if name == "level" => level(own) == level(theirs),
            _ => sent == there,
        }
    }
}

/// The one name of a level: SDKs in use send more than the five of the protocol (getsentry/relay, `protocol/types.rs`).
fn level(name: &str) -> &str {
    match name {
        "warn" | "30" => "warning",
        "critical" | "50" => "fatal",
        "log" | "20" => "info",
        "40" => "error",
        "10" => "debug",
        other => other,
    }
}

/// Whether a value says nothing: null, empty, or an object of such values. No tracker tells these apart.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.values().all(is_nothing),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The name of a field, of bounded length and harmless to a terminal.
fn field(path: &[Step<'_>]) -> Box<str> {
    let mut name = String::new();
    for step in path {
        let written = match step {
            Step::Key(key) if name.is_empty() => write!(name, "{}", show::text(key)),
            Step::Key(key) => write!(name, ".{}", show::text(key)),
            Step::Index(index) => write!(name, "[{index}]"),
        };
        if written.is_err() || name.len() > MAX_FIELD {
            break;
        }
    }
    show::cut(&name, MAX_FIELD).into()
}

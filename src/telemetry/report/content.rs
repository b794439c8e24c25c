//! Whether stored events are as they were sent: the comparisons in the window of a report.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

use super::super::verification::{ContentStatus, Differing, differ};

/// The most differences that are listed.
const LISTED: usize = 50;
/// The most fields that one line names.
const SHOWN_FIELDS: usize = 8;
/// The replacement for values of events when the reader may not see events.
const HIDDEN: &str = "(shown with the admin token)";

/// Whether the events that were compared are stored as they were sent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ContentReport {
    /// When the comparisons begin. That is a day ago if the report's window is shorter and nothing was compared in it.
    pub since: Timestamp,
    /// The number of events compared.
    pub compared: u64,
    /// The number of those with a field that differs from what was sent.
    pub differing: u64,
    /// The number of differing events that differ only in fields of `accept_drift`; they do not count.
    #[serde(default)]
    pub accepted: u64,
    /// The fields of `accept_drift`.
    #[serde(default)]
    pub accept_drift: Vec<String>,
    /// The number of events in which each field differs, among the kept differences. Field names have no positions in lists.
    pub fields: BTreeMap<String, u64>,
    /// Some of the differences, the newest first.
    pub sample: Vec<Differing>,
    /// Why the last comparison failed; `None` if it did not.
    pub trouble: Option<String>,
}

impl ContentReport {
    /// A report of these differences, which must come newest first.
    pub fn new(since: Timestamp, counts: &ContentStatus, mut differences: Vec<Differing>) -> Self {
        let mut events: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        for one in &differences {
            events.entry(without_places(&one.difference.field)).or_default().insert(&one.event_id);
        }
        let fields = events.into_iter().map(|(field, ids)| (field, ids.len() as u64)).collect();
        differences.truncate(LISTED);
        let &ContentStatus { compared, differing, accepted, .. } = counts;
        Self { since, compared, differing, accepted, fields, sample: differences, ..Self::default() }
    }

    /// Hides the values of events. Field names and event ids stay.
    pub fn hide_values(&mut self) {
        for one in &mut self.sample {
            (one.difference.sent, one.difference.there) = (HIDDEN.to_owned(), HIDDEN.to_owned());
        }
    }

    /// Whether an event differs in a field that is not accepted.
    pub const fn is_bad(&self) -> bool {
        self.differing > self.accepted
    }

    /// The result in one line.
    pub fn told(&self) -> String {
        let compared = match self.compared {
            0 => "nothing was compared yet".to_owned(),
            n => format!("{n} compared from {} on, {}", self.since.in_words(), differ(self.differing, self.accepted)),
        };
        let accepted = match self.accepted {
            0 => String::new(),
            _ => format!(" (accept_drift: {})", self.accept_drift.join(", ")),
        };
        let mut fields: Vec<_> = self.fields.iter().collect();
        fields.sort_by_key(|(_, events)| std::cmp::Reverse(**events));
        let fields: Vec<String> =
            fields.into_iter().take(SHOWN_FIELDS).map(|(field, events)| format!("{field} {events}")).collect();
        let fields = if fields.is_empty() { String::new() } else { format!(": {}", fields.join(", ")) };
        let trouble = self.trouble.as_ref().map_or(String::new(), |why| format!("; the last could not be: {why}"));
        compared + &accepted + &fields + &trouble
    }
}

/// A field without the positions in lists: the field of the third frame counts as that of any frame.
fn without_places(field: &str) -> String {
    let mut out = String::new();
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('[') {
        let behind = after.trim_start_matches(|c: char| c.is_ascii_digit());
        out.push_str(before);
        out.push('[');
        rest = behind;
    }
    out + rest
}

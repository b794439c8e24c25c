//! Notes the findings of lookups: stored, not there yet, missing, given up, or unknown.
//!
//! Rule: the cursor moves only past events with a finding.

use std::collections::HashMap;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::delivery::batch_poison::Cause;
use crate::journal::RecordId;
use crate::journal::verification::{Advance, Batch, Finding, Notes, State, Wanted};
use crate::policy::verification::{NotFound, Settings};
use crate::tasks;
use crate::telemetry::log;

use super::look::Seen;
use super::{Tracker, Verifier};

impl Verifier {
    /// The findings of a batch. The cursor moves up to the first event that was not looked up.
    pub(super) async fn findings(
        &self,
        name: &Arc<str>,
        tracker: &Tracker,
        settings: &Settings,
        batch: &Batch,
        seen: &HashMap<RecordId, Seen>,
    ) -> Notes {
        let now = self.clock.now();
        let mut notes = Notes::default();
        let unseen = batch.fresh.iter().position(|event| !seen.contains_key(&event.record));
        let to = unseen.map_or(batch.reached, |first| batch.fresh[first].before);
        let mut found = vec![];
        for event in &batch.fresh[..unseen.unwrap_or(batch.fresh.len())] {
            found.extend(self.finding(name, tracker, settings, event, seen, now).await);
        }
        let waits = |record: &RecordId| (*record, Finding::Waiting(now + settings.settle.get()));
        found.extend(batch.waiting.iter().map(waits));
        if to != batch.from {
            notes.fresh = Some(Advance { from: batch.from, to, found });
        }
        for event in &batch.again {
            notes.again.extend(self.finding(name, tracker, settings, event, seen, now).await);
        }
        notes.again.extend(batch.delayed.iter().map(waits));
        notes
    }

    pub(super) async fn finding(
        &self,
        name: &Arc<str>,
        tracker: &Tracker,
        settings: &Settings,
        event: &Wanted,
        seen: &HashMap<RecordId, Seen>,
        now: Timestamp,
    ) -> Option<(RecordId, Finding)> {
        let finding = match seen.get(&event.record)? {
            Seen::Stored => Finding::Stored,
            Seen::Unknown(wait) => Finding::Unknown(now + *wait),
            Seen::Absent => match settings.not_found(event.looks, event.repairs, now) {
                NotFound::LookAgain(at) => Finding::Absent(at),
                NotFound::Missing(at) if event.state == State::Missing => Finding::Missing(at),
                NotFound::Missing(at) => match self.known_loss(tracker, event).await {
                    // Sending the event again would lose it again.
                    cause @ Some(_) => Finding::GivenUp(why_lost(name, event, cause)),
                    None => {
                        say_missing(name, event);
                        Finding::Missing(at)
                    }
                },
                NotFound::GiveUp => Finding::GivenUp(why_lost(name, event, self.known_loss(tracker, event).await)),
            },
        };
        Some((event.record, finding))
    }

    /// Why the tracker is known to lose the event; `None` if it is not.
    async fn known_loss(&self, tracker: &Tracker, event: &Wanted) -> Option<Cause> {
        let record = self.journal.record(event.record).await.ok().flatten()?;
        let api = tracker.api.clone();
        // In a large body, this reads the events.
        tasks::blocking(move || api.known_loss(&record.body)).await
    }
}

/// Why an event is given up, for its dead letter.
fn why_lost(name: &str, event: &Wanted, cause: Option<Cause>) -> String {
    let times = event.repairs + 1;
    let s = if times == 1 { "" } else { "s" };
    let cause = cause.map_or_else(String::new, |cause| format!(": {}; {}", cause.why(), cause.remedy()));
    format!("{name} answered with 2xx {times} time{s} and does not store the event{cause}")
}

fn say_missing(name: &str, event: &Wanted) {
    if let Some(count) = log::admit_sum("missing", name, 1) {
        let (id, project) = (event.event_id, &*event.project);
        let message = "it answered with 2xx and does not store the event";
        tracing::error!(upstream.name = name, project.name = project, event.id = %id, count, "{message}");
    }
}

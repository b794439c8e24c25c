//! Looks up several events at one tracker: in its lists where that is cheaper, and the rest by their ids.
//!
//! Rule: one request at a time, each at its turn. Nothing is noted of an event that no answer told anything about.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::journal::RecordId;
use crate::journal::verification::Wanted;
use crate::protocol::event_id::EventId;

use super::{There, Tracker, Trouble, UNKNOWN_FOR};

/// A project with fewer events than this is not looked up in a list: a page of a list costs a tracker as much as a few events.
pub(super) const FEW: usize = 4;
/// The pages that are read beyond those that the events would fill by themselves.
const SPARE_PAGES: usize = 4;
/// The least number of events on a page.
const PAGE: usize = 50;
/// The most that a tracker's clock may differ from ours.
pub(super) const SKEW: Duration = Duration::from_secs(600);
/// The time for lookups by id in one step, and for walks through lists.
pub(super) const LONGEST: Duration = Duration::from_secs(20);

/// The result of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The tracker has the event.
    Stored,
    /// The tracker says that it has no such event.
    Absent,
    /// Nobody can say; the event is left alone for this long.
    Unknown(Duration),
}

/// Looks up events at one tracker.
pub(super) struct Looker<'a> {
    pub(super) tracker: &'a Tracker,
    turn: Box<dyn FnMut() -> Instant + Send>,
    pub(super) seen: HashMap<RecordId, Seen>,
    /// The projects whose lists were read back to before the oldest of their events.
    pub(super) whole: BTreeSet<Arc<str>>,
    /// Why a project alone was refused.
    refused: Option<Trouble>,
}

impl<'a> Looker<'a> {
    /// A looker that asks at the times that `turn` returns.
    pub(super) fn new(tracker: &'a Tracker, turn: Box<dyn FnMut() -> Instant + Send>) -> Self {
        Self { tracker, turn, seen: HashMap::new(), whole: BTreeSet::new(), refused: None }
    }

    /// Leaves these events out: nothing is known of them for `wait`.
    pub(super) fn leave_out(&mut self, events: impl IntoIterator<Item = RecordId>, wait: Duration) {
        self.seen.extend(events.into_iter().map(|record| (record, Seen::Unknown(wait))));
    }

    /// Looks up the events. Returns the results, and the trouble that keeps the tracker from being asked.
    pub(super) async fn look(mut self, wanted: Vec<&Wanted>) -> (HashMap<RecordId, Seen>, Option<Trouble>) {
        let searched = self.search(wanted).await;
        self.done(searched)
    }

    /// Looks up the events in this order, as long as there is time. Events behind the cursor are in its order, so that the next step begins
    /// at the first one that there was no time for.
    pub(super) async fn search(&mut self, wanted: Vec<&Wanted>) -> Result<(), Trouble> {
        self.in_lists(&wanted).await?;
        self.by_ids(&wanted).await
    }

    /// The results, and the trouble that keeps the tracker from being asked.
    pub(super) fn done(self, searched: Result<(), Trouble>) -> (HashMap<RecordId, Seen>, Option<Trouble>) {
        (self.seen, searched.err().or(self.refused))
    }

    /// Reads the lists of the projects that have more than a few events.
    async fn in_lists(&mut self, wanted: &[&Wanted]) -> Result<(), Trouble> {
        let mut projects: BTreeMap<&Arc<str>, Vec<&Wanted>> = BTreeMap::new();
        for event in wanted {
            projects.entry(&event.project).or_default().push(event);
        }
        for (project, events) in projects {
            let Some(there) = self.tracker.places.get(project) else {
                self.leave_out(events.iter().map(|event| event.record), UNKNOWN_FOR);
                continue;
            };
            if events.len() < FEW {
                continue;
            }
            match self.in_list(there, &events).await {
                Ok(false) => {}
                Ok(true) => _ = self.whole.insert(Arc::clone(project)),
                Err(trouble) => self.refuse(trouble, project, wanted)?,
            }
        }
        Ok(())
    }

    /// Reads the list of one project. Returns whether it goes back to before the oldest of the events.
    async fn in_list(&mut self, there: &There, events: &[&Wanted]) -> Result<bool, Trouble> {
        let mut left: HashMap<EventId, Vec<RecordId>> = HashMap::new();
        for event in events {
            left.entry(event.event_id).or_default().push(event.record);
        }
        let oldest = events.iter().map(|event| event.accepted_at).min().unwrap_or_default();
        let (mut cursor, mut is_empty) = (None, true);
        for _ in 0..events.len() / PAGE + SPARE_PAGES {
            self.wait().await;
            let page = self.tracker.api.page(there, cursor).await?;
            is_empty &= page.ids.is_empty();
            for (id, _) in &page.ids {
                let found = left.remove(id).into_iter().flatten();
                self.seen.extend(found.map(|record| (record, Seen::Stored)));
            }
            // A list may be in another order than it should be, so all of a page must be older than the events that are looked up.
            let newest = page.ids.iter().map(|(_, at)| *at).max().flatten();
            let is_past = newest.is_some_and(|newest| newest + SKEW < oldest);
            cursor = page.next;
            if cursor.is_none() || is_past {
                // The list of a project that does not exist is empty as well.
                return Ok(!is_empty);
            }
            if left.len() < FEW {
                break;
            }
        }
        Ok(false)
    }

    /// Asks for the remaining events by their ids. At the first lookup, an event that a whole list does not name counts as absent. Before
    /// it counts as missing it is asked for by its id.
    pub(super) async fn by_ids(&mut self, wanted: &[&Wanted]) -> Result<(), Trouble> {
        let until = Instant::now() + LONGEST;
        for event in wanted {
            if self.seen.contains_key(&event.record) {
                continue;
            }
            let Some(there) = self.tracker.places.get(&event.project) else { continue };
            if event.looks == 0 && self.whole.contains(&event.project) {
                self.seen.insert(event.record, Seen::Absent);
                continue;
            }
            self.wait().await;
            match self.tracker.api.event(there, event.event_id).await {
                Ok(Some(_)) => _ = self.seen.insert(event.record, Seen::Stored),
                Ok(None) => _ = self.seen.insert(event.record, Seen::Absent),
                Err(trouble) => self.refuse(trouble, &event.project, wanted)?,
            }
            if Instant::now() > until {
                break;
            }
        }
        Ok(())
    }

    /// Takes in a refusal of one project, whose events are left out while the others are asked for. Any other trouble is the tracker's, and
    /// is returned.
    pub(super) fn refuse(&mut self, trouble: Trouble, project: &Arc<str>, wanted: &[&Wanted]) -> Result<(), Trouble> {
        if !trouble.is_refusal() {
            return Err(trouble);
        }
        for event in wanted.iter().filter(|event| event.project == *project) {
            self.seen.entry(event.record).or_insert(Seen::Unknown(UNKNOWN_FOR));
        }
        self.refused.get_or_insert(trouble);
        Ok(())
    }

    pub(super) async fn wait(&mut self) {
        sleep_until((self.turn)()).await;
    }
}

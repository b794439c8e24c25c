//! Catches up when more events wait than one step can look up.
//!
//! Those events are put off: each gets a row in the journal, and new events are looked up as usual. Beside them, each step continues
//! through the list of each project, from the newest event to the oldest, and finds a page's ids among the thousands that were put off. So
//! one walk through a list serves many steps, and a page of a hundred events costs one request.
//!
//! Rules: of a list only the cursor is remembered. An event that a whole walk did not show counts as looked up once; it is asked for by its
//! id before it counts as missing. In a list that is not sorted, a walk covers only events that were accepted before the newest one that
//! was put off when it began.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::delivery::asking::{Cursor, There, Trouble};
use crate::journal::verification::{Advance, Batch, Finding, Notes, PutOff, State, Verification, Wanted};
use crate::journal::{self, JournalError, RecordId};
use crate::policy::verification::Settings;
use crate::protocol::event_id::EventId;

use super::look::{FEW, LONGEST, Looker, SKEW, Seen};
use super::{PUT_OFF, PUT_OFF_FOR, STEP, Tracker, UNKNOWN_FOR, Verifier};

/// A step ends when it is this near to the last of its events, if there are more: the next step has the following ones.
const NEAR: usize = 200;
/// The most pages of one walk.
const MOST_PAGES: u32 = 20_000;

/// The walks through the lists of projects, by the projects' names.
pub(super) type Walks = BTreeMap<Arc<str>, Walk>;

/// A walk through the list of a project.
#[derive(Debug)]
pub(super) struct Walk {
    /// The cursor of the next page; `None` at the beginning.
    cursor: Option<Cursor>,
    /// The times of acceptance of the events that the walk shows.
    from: Timestamp,
    to: Timestamp,
    pages: u32,
    /// Whether no page so far had an event.
    is_empty: bool,
    /// Whether the last question failed.
    failed: bool,
}

/// The events that were put off and that one step looks up.
#[derive(Debug)]
pub(super) struct Behind<'a> {
    /// The newest event first.
    pub(super) events: &'a [Wanted],
    /// Whether there are more.
    pub(super) more: bool,
    pub(super) walks: &'a mut Walks,
}

impl Looker<'_> {
    /// Looks up events that were put off, as long as there is time.
    pub(super) async fn catch_up(&mut self, behind: Behind<'_>) -> Result<(), Trouble> {
        let walks = behind.walks;
        // A list that is whole for the other events need not reach back to these.
        self.whole.clear();
        let (until, all) = (Instant::now() + LONGEST, behind.events.iter().collect::<Vec<_>>());
        let mut projects: BTreeMap<&Arc<str>, Vec<&Wanted>> = BTreeMap::new();
        for event in behind.events.iter().filter(|event| !self.seen.contains_key(&event.record)) {
            projects.entry(&event.project).or_default().push(event);
        }
        walks.retain(|project, _| projects.contains_key(project));
        let mut few = vec![];
        for (project, events) in projects {
            let Some(there) = self.tracker.places.get(project) else {
                self.leave_out(events.iter().map(|event| event.record), UNKNOWN_FOR);
                continue;
            };
            if events.len() < FEW {
                few.extend(events);
                continue;
            }
            if Instant::now() > until {
                continue;
            }
            let walk = walks.entry(Arc::clone(project)).or_insert_with(|| Walk::new(&events));
            match self.walk(there, &events, walk, (behind.more, until)).await {
                Ok(false) => walk.failed = false,
                Ok(true) => {
                    let walk = walks.remove(project);
                    let shown = self.conclude(there, &events, walk.as_ref()).await;
                    shown.or_else(|trouble| self.refuse(trouble, project, &all))?;
                }
                Err(trouble) => {
                    // The tracker may no longer take the cursor, so a second failure ends the walk.
                    if std::mem::replace(&mut walk.failed, !matches!(trouble, Trouble::Limited(_))) {
                        walks.remove(project);
                    }
                    self.refuse(trouble, project, &all)?;
                }
            }
        }
        self.by_ids(&few).await
    }

    /// Continues through the list of one project. Returns whether the walk has ended.
    async fn walk(
        &mut self,
        there: &There,
        events: &[&Wanted],
        walk: &mut Walk,
        (more, until): (bool, Instant),
    ) -> Result<bool, Trouble> {
        let is_sorted = self.tracker.api.is_sorted();
        let oldest = events.iter().map(|event| event.accepted_at).min().unwrap_or_default();
        if is_sorted {
            // The walk has not reached older events yet.
            walk.from = walk.from.min(oldest);
        }
        let mut left: HashMap<EventId, Vec<usize>> = HashMap::new();
        for (position, event) in events.iter().enumerate() {
            left.entry(event.event_id).or_default().push(position);
        }
        loop {
            self.wait().await;
            let page = self.tracker.api.page(there, walk.cursor.clone()).await?;
            let found: Vec<usize> = page.ids.iter().filter_map(|(id, _)| left.remove(id)).flatten().collect();
            walk.pages += 1;
            walk.is_empty &= page.ids.is_empty();
            let is_past = is_sorted && is_past(&page.ids, oldest);
            let stands = page.next.is_none() || page.next == walk.cursor || walk.pages >= MOST_PAGES;
            walk.cursor = page.next;
            let newest = found.iter().min().copied();
            self.seen.extend(found.into_iter().map(|position| (events[position].record, Seen::Stored)));
            if stands || is_past {
                return Ok(true);
            }
            let is_near = more && is_sorted && newest.is_some_and(|newest| events.len() - 1 - newest < NEAR);
            if left.is_empty() || is_near || Instant::now() > until {
                return Ok(false);
            }
        }
    }

    /// Marks events that a walk should have shown and did not as absent. An empty list may be that of a project that does not exist.
    async fn conclude(&mut self, there: &There, events: &[&Wanted], walk: Option<&Walk>) -> Result<(), Trouble> {
        let Some(walk) = walk else { return Ok(()) };
        let is_left = |event: &&&Wanted| !self.seen.contains_key(&event.record);
        let left: Vec<&Wanted> = events.iter().filter(is_left).copied().collect();
        if let Some(first) = left.first().filter(|_| walk.is_empty) {
            self.wait().await;
            if self.tracker.api.event(there, first.event_id).await?.is_some() {
                // The tracker stores events that it does not list.
                return self.by_ids(&left).await;
            }
        }
        let shown = left.into_iter().filter(|event| (walk.from..=walk.to).contains(&event.accepted_at));
        self.seen.extend(shown.map(|event| (event.record, Seen::Absent)));
        Ok(())
    }
}

/// Whether all events of a page are older than those that are looked up. A list may be in another order than it should be.
fn is_past(ids: &[(EventId, Option<Timestamp>)], oldest: Timestamp) -> bool {
    let newest = ids.iter().map(|(_, at)| *at).max();
    newest.is_none_or(|newest| newest.is_some_and(|newest| newest + SKEW < oldest))
}

impl Walk {
    /// A walk that shows these events.
    fn new(events: &[&Wanted]) -> Self {
        let accepted = || events.iter().map(|event| event.accepted_at);
        let (from, to) = (accepted().min().unwrap_or_default(), accepted().max().unwrap_or_default());
        Self { cursor: None, from, to, pages: 0, is_empty: true, failed: false }
    }
}

impl Verifier {
    /// The events to look up now. If there are more than one step's, they are put off, unless the tracker is silent: then they wait behind
    /// the cursor and cost nothing.
    pub(super) async fn batch(
        &self,
        verification: &dyn Verification,
        name: &Arc<str>,
        tracker: &Tracker,
        settings: &Settings,
        bound: journal::Cursor,
    ) -> Result<Batch, JournalError> {
        let now = self.clock.now();
        loop {
            let batch = verification.wanted(tracker.target, bound, now, STEP).await?;
            let is_silent = self.with(name, |upstream| upstream.is_silent).unwrap_or(true);
            let put_off = |event: &Wanted| (event.record, Finding::PutOff(now + PUT_OFF_FOR));
            let mut notes = Notes::default();
            if batch.again.len() == STEP {
                // Events that nobody could say anything about, for example because the token was wrong.
                let never = |event: &&Wanted| event.state == State::Unknown && event.looks == 0;
                notes.again.extend(batch.again.iter().filter(never).map(put_off));
            }
            if batch.fresh.len() == STEP {
                let waits = |record: &RecordId| (*record, Finding::Waiting(now + settings.settle.get()));
                let found = batch.fresh.iter().map(put_off).chain(batch.waiting.iter().map(waits)).collect();
                notes.fresh = Some(Advance { from: batch.from, to: batch.reached, found });
            }
            if is_silent || notes.fresh.is_none() && notes.again.is_empty() {
                return Ok(batch);
            }
            verification.note(tracker.target, notes).await?;
            self.with(name, |upstream| upstream.is_behind = true);
        }
    }

    /// Some of the events that were put off. If there are none, that is remembered.
    pub(super) async fn put_off(
        &self,
        verification: &dyn Verification,
        name: &Arc<str>,
        tracker: &Tracker,
    ) -> Result<PutOff, JournalError> {
        if !self.with(name, |upstream| upstream.is_behind).unwrap_or_default() {
            return Ok(PutOff::default());
        }
        let put_off = verification.put_off(tracker.target, self.clock.now(), PUT_OFF).await?;
        self.with(name, |upstream| upstream.is_behind = !put_off.events.is_empty());
        Ok(put_off)
    }

    /// Notes the findings of events that were put off, some at a time, because others write as well.
    pub(super) async fn note_caught_up(
        &self,
        verification: &dyn Verification,
        name: &Arc<str>,
        tracker: &Tracker,
        settings: &Settings,
        (put_off, seen): (&PutOff, &HashMap<RecordId, Seen>),
    ) -> Result<(), JournalError> {
        let now = self.clock.now();
        for some in put_off.events.chunks(STEP) {
            let mut notes = Notes::default();
            for event in some {
                notes.again.extend(self.finding(name, tracker, settings, event, seen, now).await);
            }
            if !notes.again.is_empty() {
                verification.note(tracker.target, notes).await?;
            }
        }
        Ok(())
    }
}

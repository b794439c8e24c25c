//! Verification: whether an upstream stored the events that it took.
//!
//! An upstream's 2xx says that it took an event, but a tracker with a queue of its own may lose the event after that. So each error
//! event is looked up through the tracker's API, and the journal keeps the progress and the results.
//!
//! Invariants:
//!
//! 1. An event is looked up only after its upstream took it. [`Verification::wanted`] returns events behind a target's cursor in order
//!    of acceptance, and events to look up again by due time.
//! 2. Each event before the cursor has exactly one state, kept in a row. An event without a row is stored. An event that is put off
//!    has a row.
//! 3. Results are committed together with their postings: stored − vanished + lost + missing + unknown = delivered, where missing
//!    counts the rows in that state and unknown is the rest.
//! 4. [`Verification::note`] is idempotent: results for a cursor that has moved on change nothing.
//! 5. An event that is delivered again is looked up again.
//! 6. Rows are bounded by the kept records. A row whose record is gone is removed when it comes due.
//! 7. Compared events are counted by the hour, for 90 days. Of the differences the newest are kept, for a week.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::policy::outcome::Outcome;
use crate::protocol::category::{Category, Quantities};
use crate::protocol::event_id::EventId;
use crate::telemetry::verification::FieldDifference;

use super::backfill::BACKGROUND;
use super::letters::DeadLetter;
use super::{Call, Cursor, RecordId, TargetId};

/// The reason of a dead letter for an event that the upstream took and lost each time.
pub const LOST_BY_TRACKER: &str = "lost_by_tracker";
/// The most differences of one event that are kept.
pub const DIFFERENCES_OF_ONE: usize = 20;
/// The most differences of a target that are kept.
pub const DIFFERENCES: usize = 1000;

/// For backends: the most kinds of a target's events that are kept.
pub(in crate::journal) const MOST_KINDS: i64 = 4096;
/// For backends: how long differences are kept: they repeat parts of events.
pub(in crate::journal) const DIFFERENCES_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// An event that an upstream took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its record.
    pub record: RecordId,
    /// The cursor directly before it.
    pub before: Cursor,
    /// The project's name.
    pub project: Arc<str>,
    /// Its id.
    pub event_id: EventId,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Its state.
    pub state: State,
    /// How many lookups since it was last sent did not find it.
    pub looks: u32,
    /// How often it was sent again because it was missing.
    pub repairs: u32,
}

/// The state of an event that an upstream took.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum State {
    /// It was found.
    Stored,
    /// It was not found yet, or not looked up yet.
    Looking,
    /// Several lookups did not find it.
    Missing,
    /// It is not looked up, so nothing is known.
    Unknown,
}

/// For backends: how a state stands in a row.
pub(in crate::journal) const LOOKING: i16 = 0;
/// See [`LOOKING`].
pub(in crate::journal) const MISSING: i16 = 1;
const UNKNOWN: i16 = 2;
/// See [`LOOKING`].
pub(in crate::journal) const PUT_OFF: i16 = 3;

impl State {
    /// For backends: what a row says; without one an event is stored.
    pub(in crate::journal) fn of_row(state: Option<i16>) -> Self {
        match state {
            None => Self::Stored,
            Some(LOOKING) => Self::Looking,
            Some(MISSING) => Self::Missing,
            Some(_) => Self::Unknown,
        }
    }
}

/// What is to be looked for.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The cursor that the batch begins at.
    pub from: Cursor,
    /// Events behind the cursor.
    pub fresh: Vec<Wanted>,
    /// Events behind the cursor that wait for their upstream again.
    pub waiting: Vec<RecordId>,
    /// The cursor after all of `fresh` and `waiting`.
    pub reached: Cursor,
    /// Events to look up again.
    pub again: Vec<Wanted>,
    /// Events to look up again that wait for their upstream.
    pub delayed: Vec<RecordId>,
    /// The cursor before the first untried record: a later batch may go up to there.
    pub settled: Cursor,
}

/// Events whose first lookup was put off.
#[derive(Clone, Debug, Default)]
pub struct PutOff {
    /// Some of them, the newest first.
    pub events: Vec<Wanted>,
    /// Whether there are more.
    pub more: bool,
    /// When the oldest of all was accepted.
    pub oldest: Option<Timestamp>,
}

/// Events that an upstream took.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// In the order of acceptance.
    pub events: Vec<Wanted>,
    /// How many of them, from the first on, lie before the bound, or before the target's cursor.
    pub settled: usize,
    /// The cursor to continue at; `None` at the end.
    pub next: Option<Cursor>,
}

/// Events that are missing at an upstream.
#[derive(Clone, Debug, Default)]
pub struct Missing {
    /// How many.
    pub count: u64,
    /// Some of them, the newest first.
    pub sample: Vec<Wanted>,
}

/// The result of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The upstream has it.
    Stored,
    /// The upstream does not have it yet; look it up again at this time.
    Absent(Timestamp),
    /// It is missing; it is looked up once more at this time.
    Missing(Timestamp),
    /// It is not looked up; check at this time whether its record is still kept.
    Unknown(Timestamp),
    /// Its first lookup is put off ([`Verification::put_off`]); from this time on it is due.
    PutOff(Timestamp),
    /// It waits for its upstream again; look it up at this time.
    Waiting(Timestamp),
    /// It was repaired often enough; it becomes a dead letter with this text.
    GivenUp(String),
}

/// For backends: what is to be done about a finding.
pub(in crate::journal) enum Note<'a> {
    /// Its row goes.
    Stored,
    /// Its row is written: the state, when it comes due, and how many looks there were.
    Row(i16, Timestamp, i32),
    /// It becomes a dead letter that says this.
    GivenUp(&'a str),
}

impl Finding {
    /// For backends: what is posted of an event that the cursor passes only now, or whose row `is_there` below it, and what is to be
    /// done about it; `None`: nothing changes.
    pub(in crate::journal) fn note(&self, is_fresh: bool, is_there: bool) -> Option<(Option<Outcome>, Note<'_>)> {
        let was_stored = !is_fresh && !is_there;
        let note = match self {
            Self::Stored if was_stored => return None,
            Self::Stored => return Some((Some(Outcome::Stored), Note::Stored)),
            Self::GivenUp(why) => Note::GivenUp(why),
            Self::Absent(due) => Note::Row(LOOKING, *due, 1),
            Self::Missing(due) => Note::Row(MISSING, *due, 1),
            Self::Unknown(due) => Note::Row(UNKNOWN, *due, 0),
            Self::PutOff(due) => Note::Row(PUT_OFF, *due, 0),
            Self::Waiting(due) => Note::Row(LOOKING, *due, 0),
        };
        Some((was_stored.then_some(Outcome::Vanished), note))
    }
}

/// For backends: what is kept of an event that was lost each time, which keeps its record and can be retried.
pub(in crate::journal) fn lost(at: Timestamp, why: &str, repairs: u32) -> DeadLetter {
    let (reason, answer) = (LOST_BY_TRACKER.into(), why.to_owned());
    DeadLetter { at, reason, status: None, answer, attempts: repairs + 1, items: None }
}

/// For backends: what an event counts as.
pub(in crate::journal) fn one_event() -> Quantities {
    [(Category::Error, 1)].into_iter().collect()
}

/// For backends: whether a record is an error event that can be looked for by its id.
pub(in crate::journal) fn is_error_event(quantities: &Quantities) -> bool {
    quantities.iter().any(|(category, count)| category == Category::Error && count == 1)
}

/// For backends: from when on an event is looked for again that waits until then. What a backfill takes up goes after everything else:
/// no time is known.
pub(in crate::journal) fn first_try(due: Timestamp, now: Timestamp) -> Timestamp {
    if due < BACKGROUND { now.max(due) } else { now }
}

/// What was found of the events between two places of a cursor. An event that is not named was not wanted.
#[derive(Clone, Debug, Default)]
pub struct Advance {
    /// The cursor that the target must still have; nothing is noted otherwise.
    pub from: Cursor,
    /// The target's new cursor.
    pub to: Cursor,
    /// The findings between the two cursors. Later ones are ignored.
    pub found: Vec<(RecordId, Finding)>,
}

/// The findings of one target.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    /// Findings of events after the target's cursor.
    pub fresh: Option<Advance>,
    /// Findings of events before the target's cursor. Later ones are ignored.
    pub again: Vec<(RecordId, Finding)>,
    /// Events that were compared with what was sent. Those whose record is gone are ignored.
    pub compared: Vec<Compared>,
}

/// The comparison of a stored event with the one that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Its record.
    pub record: RecordId,
    /// The fingerprint of the event's kind.
    pub fingerprint: u64,
    /// The fields that differ.
    pub differences: Vec<FieldDifference>,
}

/// How many events of a target were compared lately.
#[derive(Clone, Debug, Default)]
pub struct Sampled {
    /// Events in the last 24 hours.
    pub day: u64,
    /// Events in this hour.
    pub hour: u64,
    /// When each of the requested kinds was last compared.
    pub kinds: HashMap<u64, Timestamp>,
}

/// The results of comparing a target's events with what was sent.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// For each project, the number of compared events and the number that differ.
    pub projects: Vec<(Arc<str>, u64, u64)>,
    /// The kept differences, newest first.
    pub differences: Vec<Differing>,
}

impl Contents {
    /// For each project, the number of events that differ in accepted fields only. An event whose differences are not all kept does not
    /// count, because it may differ in other fields as well.
    pub fn accepted(&self, is_accepted: impl Fn(&str) -> bool) -> BTreeMap<Arc<str>, u64> {
        let mut events: BTreeMap<(&Arc<str>, u128), Vec<bool>> = BTreeMap::new();
        for one in &self.differences {
            let event = events.entry((&one.project, one.event_id.as_u128())).or_default();
            event.push(is_accepted(&one.difference.field));
        }
        if self.differences.len() >= DIFFERENCES
            && let Some(oldest) = self.differences.last()
        {
            events.remove(&(&oldest.project, oldest.event_id.as_u128()));
        }
        let mut accepted = BTreeMap::new();
        for ((project, _), fields) in events {
            let is_whole = fields.len() < DIFFERENCES_OF_ONE;
            *accepted.entry(Arc::clone(project)).or_default() += u64::from(is_whole && fields.iter().all(|yes| *yes));
        }
        accepted
    }
}

/// A field of an event that differs from what was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differing {
    /// The event's id.
    pub event_id: EventId,
    /// The project's name.
    pub project: Arc<str>,
    /// When it was compared.
    pub at: Timestamp,
    /// The field, and both values.
    pub difference: FieldDifference,
}

/// The number of events in each state that has rows, for a target and project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The target.
    pub target: TargetId,
    /// The project's name.
    pub project: Arc<str>,
    /// How many are missing.
    pub missing: u64,
    /// How many are to be looked up again.
    pub looking: u64,
    /// How many are not looked up.
    pub unknown: u64,
}

/// Which missing events of a target are sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// Only events accepted then or later.
    pub since: Timestamp,
    /// Only events that were repaired fewer times than this.
    pub below: u32,
    /// The least time between the first lookup and the repair: a tracker may remember the event's id.
    pub spacing: Duration,
    /// How long an event that was repaired before has the target to itself: a tracker that stores batches may lose the other events
    /// together with one that it cannot store.
    pub apart: Duration,
    /// The time from sending an event to looking it up.
    pub settle: Duration,
    /// The most events of one step.
    pub limit: usize,
}

/// Keeps the state of verification.
pub trait Verification: Send + Sync {
    /// Up to `limit` events of each kind that are to be looked for. Of those behind the cursor, none behind `bound`.
    fn wanted(&self, target: TargetId, bound: Cursor, now: Timestamp, limit: usize) -> Call<'_, Batch>;

    /// Up to `limit` events whose first look was put off, the newest first.
    fn put_off(&self, target: TargetId, now: Timestamp, limit: usize) -> Call<'_, PutOff>;

    /// Keeps what was found, and posts it.
    fn note(&self, target: TargetId, notes: Notes) -> Call<'_, ()>;

    /// Every event that the target took, accepted since `since`, of a bounded number of records behind `after`, or behind the
    /// target's cursor. One behind the cursor of which nothing was noted is [`State::Looking`].
    fn taken(&self, target: TargetId, since: Timestamp, after: Option<Cursor>, bound: Cursor) -> Call<'_, Taken>;

    /// The events that are missing at a target, of those accepted since `since`; `sample` of them by name.
    fn missing(&self, target: TargetId, since: Timestamp, sample: usize) -> Call<'_, Missing>;

    /// How many events are in which state.
    fn standings(&self) -> Call<'_, Vec<Standing>>;

    /// Puts missing events back into the queue of their upstream, posted as returned. Returns how many; fewer than the limit means that
    /// there are no more.
    fn repair(&self, target: TargetId, repair: Repair) -> Call<'_, usize>;

    /// How much of a target was compared lately, and which of these kinds were ever.
    fn sampled(&self, target: TargetId, now: Timestamp, kinds: Vec<u64>) -> Call<'_, Sampled>;

    /// What was compared at a target since the beginning of that hour.
    fn contents(&self, target: TargetId, since: Timestamp) -> Call<'_, Contents>;
}

//! Which of the events that an upstream took it also holds: what is to be looked for there, and what was found.
//!
//! An upstream's 2xx says that it took an event. A tracker with a queue of its own may lose the event after that. So each error
//! event is looked for by the tracker's API, and the journal keeps how far that came.
//!
//! Invariants:
//!
//! 1. An event is wanted once its upstream took it, and no sooner. [`Verification::wanted`] hands out the records behind the
//!    cursor of a target in the order of acceptance, then what is to be looked for again by its due time.
//! 2. Each event below the cursor has exactly one state. A row holds it; an event without a row is stored. One that is put off has a
//!    row.
//! 3. What is noted is committed with the postings that tell of it: stored − vanished + lost + missing + unknown = delivered, where
//!    missing counts the rows in that state and unknown is the rest.
//! 4. Noting is idempotent: what was noted for a cursor that has moved on changes nothing.
//! 5. An event that is delivered again is looked for again.
//! 6. Rows are bounded by the records that are kept; one whose record is gone goes when it comes due.
//! 7. What was compared is counted by the hour, for 90 days. The differences themselves are bounded: the newest are kept, for a week.

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

/// The reason of a dead letter whose event the upstream took and lost each time.
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
    /// Where a walk begins that meets it first.
    pub before: Cursor,
    /// The project's name.
    pub project: Arc<str>,
    /// Its id.
    pub event_id: EventId,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// What is known of it.
    pub state: State,
    /// How often it was looked for and not found since it was last sent.
    pub looks: u32,
    /// How often it was sent again because it was missing.
    pub repairs: u32,
}

/// What is known of an event that an upstream took.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum State {
    /// It was found.
    Stored,
    /// It was not found yet, or not looked for yet.
    Looking,
    /// It was not found, by more than one look.
    Missing,
    /// It is not looked for: nobody can say.
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
    /// Where the cursor stands once all of `fresh` and `waiting` is noted.
    pub reached: Cursor,
    /// Events that are to be looked for again.
    pub again: Vec<Wanted>,
    /// Events that were to be looked for again, and wait for their upstream.
    pub delayed: Vec<RecordId>,
    /// Up to where nothing is untried: a later batch may go up to there.
    pub settled: Cursor,
}

/// Events whose first look was put off.
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
    /// Where to go on; `None` when there are no more.
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

/// What a look showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It is there.
    Stored,
    /// It was not there; it is to be looked for again at this time.
    Absent(Timestamp),
    /// It is missing; it may turn up until it is looked for again at this time.
    Missing(Timestamp),
    /// It is not looked for; whether its record is still kept is looked at again at this time.
    Unknown(Timestamp),
    /// It is looked for beside the newer ones, by [`Verification::put_off`]; from this time on as one that is due.
    PutOff(Timestamp),
    /// It waits for its upstream again, and is looked for at this time.
    Waiting(Timestamp),
    /// It was sent again often enough: it becomes a dead letter that says this.
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
    /// Where the cursor stands: nothing is noted if it stands elsewhere.
    pub from: Cursor,
    /// Where it goes.
    pub to: Cursor,
    /// What was found between the two. What lies behind is left to the look that passes it.
    pub found: Vec<(RecordId, Finding)>,
}

/// What is noted of one target.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    /// What was found of events behind the cursor.
    pub fresh: Option<Advance>,
    /// What was found of events below the cursor. One behind it is left to the look that passes it.
    pub again: Vec<(RecordId, Finding)>,
    /// Events that were compared with what was sent. One whose record is gone does not count.
    pub compared: Vec<Compared>,
}

/// A stored event that was compared with what was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Its record.
    pub record: RecordId,
    /// What kind of event it is.
    pub fingerprint: u64,
    /// What is not there as it was sent.
    pub differences: Vec<FieldDifference>,
}

/// How much of a target was compared lately.
#[derive(Clone, Debug, Default)]
pub struct Sampled {
    /// Events in the last 24 hours.
    pub day: u64,
    /// Events in this hour.
    pub hour: u64,
    /// When each of the kinds that were asked for was last compared.
    pub kinds: HashMap<u64, Timestamp>,
}

/// What comparing the events of a target with what was sent showed.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// For each project how many were compared, and how many of them differ.
    pub projects: Vec<(Arc<str>, u64, u64)>,
    /// What differs, as far as it is kept, the newest first.
    pub differences: Vec<Differing>,
}

impl Contents {
    /// For each project, how many of the events that differ do so in accepted fields alone. One whose differences are not all kept may
    /// differ in others as well.
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

/// A field of an event that is not there as it was sent.
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

/// How many events of one target and project are in a state that has rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The target.
    pub target: TargetId,
    /// The project's name.
    pub project: Arc<str>,
    /// How many are missing.
    pub missing: u64,
    /// How many are to be looked for again.
    pub looking: u64,
    /// How many are not looked for.
    pub unknown: u64,
}

/// What of a target is sent again because it is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// Only what was accepted then or later.
    pub since: Timestamp,
    /// Only what was sent again less often.
    pub below: u32,
    /// How long after it was first looked for it is sent at the earliest: a tracker may remember its id.
    pub spacing: Duration,
    /// How long each event that was sent again before has the target for itself: whoever stores events in batches may lose the others
    /// along with one that it cannot store.
    pub apart: Duration,
    /// When after it is sent it is looked for.
    pub settle: Duration,
    /// The most that are taken up at once.
    pub limit: usize,
}

/// What the journal keeps of the look for events at their upstreams.
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

    /// Lets missing events wait for their upstream again; posted as returned. Returns how many; fewer than the limit means that
    /// there are no more.
    fn repair(&self, target: TargetId, repair: Repair) -> Call<'_, usize>;

    /// How much of a target was compared lately, and which of these kinds were ever.
    fn sampled(&self, target: TargetId, now: Timestamp, kinds: Vec<u64>) -> Call<'_, Sampled>;

    /// What was compared at a target since the beginning of that hour.
    fn contents(&self, target: TargetId, since: Timestamp) -> Call<'_, Contents>;
}

//! The log: every acknowledged submission, for all targets.
//!
//! Invariants:
//!
//! - [`Log::append`] returns `Ok` only when the record is durable (with [`Sync::Full`](super::Sync::Full), through a loss of power).
//! - A record is kept until every target has settled it, and then for `retain`. A dead letter keeps its record.
//! - Among relays on one journal, the first to append a key within the window of duplicates takes it. The others are told.
//! - A record that cannot be read is set aside and counted. The next start tries it again. It never blocks the records behind it.

use std::sync::{Arc, OnceLock};

use crate::clock::Timestamp;
use crate::policy::outcome::DropReason;
use crate::protocol::category::Quantities;
use crate::protocol::envelope::{HeaderSpans, header_line};
use crate::protocol::event_id::EventId;
use crate::telemetry::log::{self, Line};

use super::body::Body;
use super::{Call, Client, Cursor, RecordId, TargetId};

/// One submission on its way into the journal.
#[derive(Clone, Debug)]
pub struct Submission {
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// The project's name.
    pub project: Arc<str>,
    /// The event id of the envelope header.
    pub event_id: Option<EventId>,
    /// The quantities of its items, by category; empty for our own records: client reports and canaries.
    pub quantities: Quantities,
    /// The keys under which a repeat of this submission is recognised ([`Log::recent_keys`]).
    pub keys: Vec<u128>,
    /// A record accepted then or later with one of the keys makes this submission a repeat.
    pub repeats_since: Timestamp,
    /// What upstreams are told of the client.
    pub client: Client,
    /// The envelope. A body belongs to one record.
    pub body: Body,
    /// The positions of the addressing values in the envelope's header line, if they are known already.
    pub spans: Option<HeaderSpans>,
    /// The upstreams that get it.
    pub targets: Vec<TargetId>,
    /// The configured upstreams that do not get it, and why. Posted as accepted and dropped at once.
    pub withheld: Vec<(TargetId, DropReason)>,
}

impl Submission {
    /// The record with this number.
    pub fn into_record(self, id: RecordId) -> Record {
        let Self { accepted_at, project, event_id, quantities, client, body, spans, .. } = self;
        let located = spans.map(|spans| OnceLock::from(Some(spans))).unwrap_or_default();
        Record { id, accepted_at, project, event_id, quantities, client, body, located }
    }
}

/// One submission in the journal.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its number.
    pub id: RecordId,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// The project's name.
    pub project: Arc<str>,
    /// The event id of the envelope header.
    pub event_id: Option<EventId>,
    /// The quantities of its items, by category.
    pub quantities: Quantities,
    /// What upstreams are told of the client.
    pub client: Client,
    /// The envelope, stored once for all targets.
    pub body: Body,
    /// The cached result of [`Record::spans`].
    pub located: OnceLock<Option<HeaderSpans>>,
}

impl Record {
    /// The positions of the addressing values in its header line, located once for all targets. `None` when the line cannot be read, and
    /// for a large body, whose outline has them.
    pub fn spans(&self) -> Option<&HeaderSpans> {
        let Body::Memory(bytes) = &self.body else { return None };
        self.located.get_or_init(|| HeaderSpans::locate(header_line(bytes)).ok()).as_ref()
    }

    /// Its event id if it is a canary: our own event, which has no quantities ([`losses`](super::losses)).
    pub fn canary(&self) -> Option<EventId> {
        self.event_id.filter(|_| self.quantities.is_empty())
    }
}

/// For backends: says that a record is set aside for an upstream, and why.
pub(in crate::journal) fn tell_set_aside(upstream: &str, record: u64, why: &str) {
    if let Some(Line { suppressed }) = log::admit("set aside", upstream) {
        let message = "a record cannot be read and is set aside";
        tracing::error!(record.id = record, upstream.name = upstream, why, suppressed, "{message}");
    }
}

/// The targets that a journal knows, each with its name, those no longer configured included. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Targets(Arc<[(TargetId, Arc<str>)]>);

impl Targets {
    /// The targets with their names.
    pub fn iter(&self) -> impl Iterator<Item = (TargetId, &Arc<str>)> {
        self.0.iter().map(|(target, name)| (*target, name))
    }

    /// The target for the upstream `name`.
    pub fn of(&self, name: &str) -> Option<TargetId> {
        self.iter().find(|(_, known)| ***known == *name).map(|(target, _)| target)
    }

    /// The name of a target.
    pub fn name(&self, target: TargetId) -> Option<&Arc<str>> {
        self.iter().find(|(known, _)| *known == target).map(|(_, name)| name)
    }
}

/// For backends.
impl FromIterator<(TargetId, Arc<str>)> for Targets {
    fn from_iter<I: IntoIterator<Item = (TargetId, Arc<str>)>>(known: I) -> Self {
        Self(known.into_iter().collect())
    }
}

/// Keys under which repeats are recognised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecentKeys {
    /// Each key with the time its record was accepted.
    pub keys: Vec<(u128, Timestamp)>,
    /// The cursor to continue at; `None` at the end.
    pub next: Option<Cursor>,
}

/// Takes submissions, and names the targets they are for.
pub trait Log: Send + Sync {
    /// The target for the upstream `name`. A new one begins with nothing waiting.
    fn target(&self, name: &str) -> Call<'_, TargetId>;

    /// Every target known. A target keeps its name and is never forgotten, so this is asked once for each configuration.
    fn targets(&self) -> Call<'_, Targets>;

    /// Makes the submission durable; returns after the commit. [`Repeated`](super::JournalError::Repeated) names the keys that another relay has
    /// taken: nothing is kept of it then, and what it repeats is durable. A relay knows by itself what it took.
    fn append(&self, submission: Submission) -> Call<'_, RecordId>;

    /// The keys of records accepted since, the newest first: what fills the window of duplicates after a restart. Looks at up to
    /// `limit` records, at those before `before`.
    fn recent_keys(&self, since: Timestamp, before: Option<Cursor>, limit: usize) -> Call<'_, RecentKeys>;

    /// Removes up to `limit` settled records accepted before `before`; returns how many went. Looks at a bounded number of
    /// records and goes on from there with the next call. The space is given back when there is time for it.
    fn prune(&self, before: Timestamp, limit: usize) -> Call<'_, usize>;
}

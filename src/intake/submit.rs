//! The use case of this relay: take one submission in. Each is decided under one [`View`], and so under exactly one primary.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::clock::{Clock, Timestamp};
use crate::journal::body::{Body, Unreadable};
use crate::journal::{Client, Journal, JournalError, Submission, TargetId};
use crate::policy::dedup::{self, Answer, Dedup, Reservation};
use crate::policy::outcome::DropReason;
use crate::policy::routing::{Project, Routing};
use crate::protocol::auth::{AuthError, Credentials};
use crate::protocol::category::Quantities;
use crate::protocol::envelope::{EnvelopeError, Outline};
use crate::protocol::event_id::EventId;
use crate::tasks;
use crate::telemetry::metrics::Metrics;

use super::keyring::{KeyError, Keyring, check_dsn};
use super::part;

/// What submissions are decided under; replaced as a whole by a reload.
#[derive(Debug, Default)]
pub struct View {
    routing: Arc<Routing>,
    keyring: Keyring,
    targets: HashMap<Arc<str>, TargetId>,
}

impl View {
    /// The view of a routing, with the journal's target of each upstream.
    pub fn new(routing: Arc<Routing>, targets: HashMap<Arc<str>, TargetId>) -> Self {
        Self { keyring: Keyring::new(&routing), routing, targets }
    }

    fn target(&self, upstream: &Arc<str>) -> Option<TargetId> {
        self.targets.get(upstream).copied()
    }
}

/// How a request got in.
#[derive(Clone, Debug)]
pub enum Entrance {
    /// By its own credentials.
    Request {
        /// The project they belong to.
        project: Arc<Project>,
        /// `sentry_client`, as sent.
        client: Option<String>,
    },
    /// Not yet: the envelope's `dsn` decides. The project id in the path must agree with it.
    Envelope {
        /// The project id in the path.
        id: Option<Box<str>>,
    },
}

impl Entrance {
    /// The name of the project, when it is known already.
    pub fn project(&self) -> Option<&Arc<str>> {
        match self {
            Self::Request { project, .. } => Some(&project.name),
            Self::Envelope { .. } => None,
        }
    }
}

/// What the client is told of a submission that was taken in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// The event id of the envelope header.
    pub event_id: Option<EventId>,
    /// The project it was taken in for.
    pub project: Arc<str>,
}

/// Why a submission was not taken in.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// It may not, or does not say who it is.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It is no envelope, or too large a one.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// It could not be kept.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// The way in. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub struct Intake {
    view: Arc<ArcSwap<View>>,
    journal: Arc<dyn Journal>,
    dedup: Dedup,
    clock: Clock,
    metrics: Metrics,
}

impl Intake {
    /// A way in that knows no project yet.
    pub fn new(journal: Arc<dyn Journal>, dedup: Dedup, clock: Clock, metrics: Metrics) -> Self {
        Self { view: Arc::default(), journal, dedup, clock, metrics }
    }

    /// From now on submissions are decided under `view`; those under way keep theirs.
    pub fn configure(&self, view: View) {
        self.view.store(Arc::new(view));
    }

    /// Who gets what now.
    pub fn routing(&self) -> Arc<Routing> {
        Arc::clone(&self.view.load().routing)
    }

    /// Lets a request in by its credentials, before its body is looked at.
    pub fn authenticate(
        &self,
        id: Option<&str>,
        credentials: Result<Option<Credentials>, AuthError>,
    ) -> Result<Entrance, KeyError> {
        match credentials? {
            None => Ok(Entrance::Envelope { id: id.map(Into::into) }),
            Some(credentials) => {
                let project = self.view.load().keyring.find(id, &credentials)?;
                Ok(Entrance::Request { project, client: credentials.client })
            }
        }
    }

    /// The journal that submissions go to.
    pub fn journal(&self) -> &Arc<dyn Journal> {
        &self.journal
    }

    /// Takes in one decoded envelope. Returns when it is durable.
    pub async fn submit(&self, entrance: Entrance, mut client: Client, body: Body) -> Result<Receipt, Refusal> {
        let envelope = outline(&body).await?;
        let view = self.view.load_full();
        let project = match entrance {
            Entrance::Request { project, client: name } => {
                check_dsn(&project, envelope.dsn())?;
                client.sentry_client = name.map(Into::into);
                project
            }
            Entrance::Envelope { id } => view.keyring.find_by_dsn(id.as_deref(), envelope.dsn())?,
        };
        let receipt = Receipt { event_id: envelope.event_id(), project: Arc::clone(&project.name) };
        let now = self.clock.now();
        let (fresh, repeated) = self.reserve(&project.name, &envelope, now).await;
        let Some(kept) = self.without_repeats(&project.name, &envelope, &repeated) else { return Ok(receipt) };
        let (body, quantities) = match kept.ranges {
            None => (body, kept.quantities),
            Some(ranges) => (part::of(&self.journal, &body, envelope.header(), &ranges).await?, kept.quantities),
        };
        let (targets, withheld) = self.targets(&view, &project);
        let keys = fresh.iter().map(Reservation::key).collect();
        let event_id = envelope.event_id();
        let project = Arc::clone(&project.name);
        let submission =
            Submission { accepted_at: now, project, event_id, quantities, keys, client, body, targets, withheld };
        let journal = Arc::clone(&self.journal);
        // A client that leaves now would otherwise release ids that the journal is about to hold.
        let kept = tasks::to_its_end(async move {
            // Dropping the reservations on failure releases them.
            journal.append(submission).await?;
            fresh.into_iter().for_each(|reservation| reservation.commit(now));
            Ok::<(), JournalError>(())
        });
        kept.await?;
        Ok(receipt)
    }

    /// Takes in a request that is no envelope: `client.request` says what it asked for. Returns when it is durable. Such requests
    /// have no identity, so none is a repeat.
    pub async fn submit_raw(
        &self,
        entrance: Entrance,
        mut client: Client,
        quantities: Quantities,
        body: Body,
    ) -> Result<Receipt, Refusal> {
        let Entrance::Request { project, client: name } = entrance else { return Err(KeyError::Missing.into()) };
        client.sentry_client = name.map(Into::into);
        let view = self.view.load_full();
        let (targets, withheld) = self.targets(&view, &project);
        let (accepted_at, project) = (self.clock.now(), Arc::clone(&project.name));
        let receipt = Receipt { event_id: None, project: Arc::clone(&project) };
        let (event_id, keys) = (None, vec![]);
        let submission =
            Submission { accepted_at, project, event_id, quantities, keys, client, body, targets, withheld };
        self.journal.append(submission).await?;
        Ok(receipt)
    }

    /// Reserves the keys of the envelope's events; returns those that are ours now, and the keys that are repeats.
    async fn reserve(&self, project: &str, envelope: &Outline, now: Timestamp) -> (Vec<Reservation>, BTreeSet<u128>) {
        let (mut fresh, mut repeated) = (Vec::new(), BTreeSet::new());
        // In one order everywhere, so that two envelopes with the same keys cannot wait for each other.
        for key in keys(project, envelope).into_values().collect::<BTreeSet<_>>() {
            loop {
                match self.dedup.reserve(key, now) {
                    Answer::Fresh(reservation) => fresh.push(reservation),
                    Answer::Repeat => drop(repeated.insert(key)),
                    Answer::Undecided(decided) => {
                        decided.cancelled().await;
                        continue;
                    }
                }
                break;
            }
        }
        (fresh, repeated)
    }

    /// What is left of an envelope without its repeated events and what depends on them; `None` when nothing is.
    fn without_repeats(&self, project: &str, envelope: &Outline, repeated: &BTreeSet<u128>) -> Option<Kept> {
        let items = envelope.items();
        if repeated.is_empty() {
            return (!items.is_empty()).then(|| Kept { ranges: None, quantities: envelope.quantities() });
        }
        let keys = keys(project, envelope);
        let all_events_repeated = keys.values().all(|key| repeated.contains(key));
        let is_repeat = |i: usize| match keys.get(&i) {
            Some(key) => repeated.contains(key),
            None => all_events_repeated && items[i].kind.depends_on_event(),
        };
        for (category, quantity) in envelope.quantities_of(is_repeat).iter() {
            self.metrics.duplicate_items_total.with_label_values(&[project, category.name()]).inc_by(quantity);
        }
        let kept = |i: usize| !is_repeat(i);
        let part = || Kept { ranges: Some(envelope.ranges_of(kept)), quantities: envelope.quantities_of(kept) };
        (0..items.len()).any(kept).then(part)
    }

    fn targets(&self, view: &View, project: &Project) -> (Vec<TargetId>, Vec<(TargetId, DropReason)>) {
        let route = view.routing.route(project);
        let targets = route.deliver.iter().filter_map(|upstream| view.target(upstream)).collect();
        let withheld = route.withheld.iter().filter_map(|(upstream, why)| Some((view.target(upstream)?, *why)));
        (targets, withheld.collect())
    }
}

/// What of an envelope is no repeat.
struct Kept {
    /// Where it lies; `None`: all of it.
    ranges: Option<Vec<Range<u64>>>,
    quantities: Quantities,
}

/// What the envelope is made of, read on a thread of its own when it is in a file.
async fn outline(body: &Body) -> Result<Outline, Refusal> {
    let read = match body {
        Body::Memory(_) => body.outline(),
        Body::File(_) => {
            let body = body.clone();
            tasks::blocking(move || body.outline()).await
        }
    };
    read.map_err(|error| match error {
        Unreadable::Envelope(error) => error.into(),
        Unreadable::File(error) => JournalError::Failed(error.to_string()).into(),
    })
}

/// The keys of the items that the event id identifies, by their position. The nil id, which sentry-cli sends with raw
/// events, identifies nothing.
fn keys(project: &str, envelope: &Outline) -> HashMap<usize, u128> {
    let Some(id) = envelope.event_id().filter(|id| id.as_u128() != 0) else { return HashMap::new() };
    let items = envelope.items().iter().enumerate();
    let identified = items.filter(|(_, item)| item.kind.is_identified_by_event_id());
    identified.map(|(i, item)| (i, dedup::key(project, &item.kind, id))).collect()
}

//! The use case of this relay: taking in one submission. Each is decided under one [`View`], and so under exactly one primary.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::clock::{Clock, Timestamp};
use crate::journal::body::Body;
use crate::journal::{Client, Journal, JournalError, Submission, TargetId};
use crate::policy::cooldown::Cooldowns;
use crate::policy::dedup::{Answer, Dedup, Keys, Reservation};
use crate::policy::limiter::Limiter;
use crate::policy::limits::Limits;
use crate::policy::routing::{Project, Routing};
use crate::policy::shadow;
use crate::policy::shadow::caps::{Caps, Spent};
use crate::policy::storm::{self, Storms};
use crate::protocol::auth::{AuthError, Credentials};
use crate::protocol::category::Quantities;
use crate::protocol::envelope::EnvelopeError;
use crate::protocol::event_id::EventId;
use crate::protocol::rate_limits::RateLimit;
use crate::tasks;
use crate::telemetry::metrics::Metrics;

use super::browsers::Browsers;
use super::identity::{self, CheckInIdentity};
use super::keyring::{KeyError, Keyring, check_dsn};
use super::part;
use super::police::{self, Sorting};
use super::shadows::{self, Recipients, Shadows, Sight};
use super::shed::Shed;
use super::sightings::Sightings;

mod decide;
mod dividing;
use decide::{is_check_in, outline, takers};

/// The configuration under which submissions are decided. A reload replaces it as a whole.
#[derive(Debug, Default)]
pub struct View {
    routing: Arc<Routing>,
    keyring: Keyring,
    targets: HashMap<Arc<str>, TargetId>,
    limits: Limits,
    /// Replaced when the first browser sends for a project.
    limiter: ArcSwap<Limiter>,
    /// The settings of storms, for the projects that limit them.
    storms: HashMap<Arc<str>, storm::Settings>,
    shadows: Shadows,
}

impl View {
    fn target(&self, upstream: &Arc<str>) -> Option<TargetId> {
        self.targets.get(upstream).copied()
    }
}

/// How a request is authenticated.
#[derive(Clone, Debug)]
pub enum Entrance {
    /// By its own credentials.
    Request {
        /// Their project, as it was configured then.
        project: Arc<Project>,
        /// `sentry_client`, as sent.
        client: Option<String>,
    },
    /// Not yet: the envelope's `dsn` decides. It must agree with the project id in the path.
    Envelope {
        /// The project id in the path.
        id: Option<Box<str>>,
    },
}

impl Entrance {
    /// The name of the project; `None` while it is unknown.
    pub fn project(&self) -> Option<&Arc<str>> {
        match self {
            Self::Request { project, .. } => Some(&project.name),
            Self::Envelope { .. } => None,
        }
    }
}

/// The answer to the client of a submission that was taken in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// The event id of the envelope header.
    pub event_id: Option<EventId>,
    /// The project that it was taken in for.
    pub project: Arc<str>,
    /// The limits that refused some of its items.
    pub limits: Vec<RateLimit>,
}

/// Why a submission was refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// Its project or key is wrong or missing.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It is no valid envelope, or too large.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// All of its items are over limits of the project or of every upstream in use.
    #[error("more was sent than may be: see the limits")]
    Limited(Vec<RateLimit>),
    /// The journal could not keep it.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Takes in submissions. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub struct Intake {
    view: Arc<ArcSwap<View>>,
    journal: Arc<dyn Journal>,
    dedup: Dedup,
    keys: Keys,
    storms: Storms,
    cooldowns: Cooldowns,
    caps: Caps,
    clock: Clock,
    metrics: Metrics,
    sightings: Sightings,
    browsers: Browsers,
    shed: Shed,
}

impl Intake {
    /// An intake without projects. `keys` makes the keys by which `dedup` recognises repeats.
    pub fn new(
        journal: Arc<dyn Journal>,
        (dedup, keys): (Dedup, Keys),
        cooldowns: Cooldowns,
        clock: Clock,
        metrics: Metrics,
    ) -> Self {
        let (storms, caps) = (Storms::default(), Caps::default());
        let (sightings, shed, browsers) = (Sightings::default(), Shed::default(), Browsers::default());
        let view = Arc::default();
        Self { view, journal, dedup, keys, storms, cooldowns, caps, clock, metrics, sightings, browsers, shed }
    }

    /// Decides submissions from now on under this routing, with the journal's target of each upstream, these limits, and the settings of
    /// `shadows`. Submissions under way keep the earlier ones. The use of limits and caps is kept.
    pub fn configure(
        &self,
        routing: Arc<Routing>,
        targets: HashMap<Arc<str>, TargetId>,
        limits: &Limits,
        shadows: HashMap<Arc<str>, shadow::Settings>,
    ) {
        let names = || routing.projects.iter().map(|project| &project.name);
        let seen = self.browsers.configure(&limits.browsers);
        let limiter = Limiter::new(limits, names(), &seen, &self.view.load().limiter.load(), self.clock.uptime());
        let (limits, limiter) = (limits.clone(), ArcSwap::from_pointee(limiter));
        let shadows = Shadows { settings: shadows, caps: self.caps.clone() };
        let storms = names().filter_map(|name| Some((Arc::clone(name), limits.of(name).storm?))).collect();
        let keyring = Keyring::new(&routing);
        self.view.store(Arc::new(View { routing, keyring, targets, limits, limiter, storms, shadows }));
    }

    /// The use of the daily caps of shadows.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    /// Which projects browsers use.
    pub fn browsers(&self) -> &Browsers {
        &self.browsers
    }

    /// The storms of identical errors.
    pub fn storms(&self) -> &Storms {
        &self.storms
    }

    /// Gives these services room before any other from now on.
    pub fn expect(&self, services: &[Box<str>]) {
        self.sightings.expect(services);
    }

    /// The services that were seen.
    pub fn sightings(&self) -> &Sightings {
        &self.sightings
    }

    /// Hands the losses since the last call to the journal, which reports them to upstreams.
    pub async fn keep_losses(&self) {
        let losses = self.shed.take();
        if losses.is_empty() {
            return;
        }
        if let Err(error) = self.journal.lose(losses.clone()).await {
            tracing::debug!(%error, "what was shed is kept later");
            losses.into_iter().for_each(|loss| self.shed.put(loss));
        }
    }

    /// The current routing.
    pub fn routing(&self) -> Arc<Routing> {
        Arc::clone(&self.view.load().routing)
    }

    /// Whether a project has this key.
    pub fn knows_key(&self, key: &str) -> bool {
        self.view.load().keyring.knows_key(key)
    }

    /// Authenticates a request by its credentials, before its body is read.
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

    /// The journal that keeps submissions.
    pub fn journal(&self) -> &Arc<dyn Journal> {
        &self.journal
    }

    /// Takes in one decoded envelope. Returns once it is durable.
    pub async fn submit(&self, entrance: Entrance, mut client: Client, body: Body) -> Result<Receipt, Refusal> {
        let envelope = outline(&body).await?;
        let view = self.view.load_full();
        let project = match entrance {
            Entrance::Request { project, client: name } => {
                check_dsn(&project, envelope.dsn())?;
                client.sentry_client = name.map(Into::into);
                view.keyring.known_now(project)
            }
            Entrance::Envelope { id } => view.keyring.find_by_dsn(id.as_deref(), envelope.dsn())?,
        };
        self.look_for_browser(&view, &project.name, &client);
        let now = self.clock.now();
        let keys = identity::keys(&self.keys, &project.name, &envelope, &body).await;
        let (mut fresh, repeated) = self.reserve(&keys, now).await;
        let mut sorting = Sorting::new(&envelope);
        sorting.without_repeats(&keys, &repeated);
        self.police(&view, &project, &body, &mut sorting, now).await;
        if sorting.is_all_limited() {
            return Err(Refusal::Limited(sorting.limits));
        }
        let limits = std::mem::take(&mut sorting.limits);
        let receipt = Receipt { event_id: envelope.event_id(), project: Arc::clone(&project.name), limits };
        // One round, and another for each time that other relays turn out to have taken some of the items.
        while !sorting.keeps_nothing() {
            let (to, spent) = self.recipients(&view, &project, Sight::new(&body, &sorting), now).await;
            let Recipients { targets, withheld, left_out } = to;
            let (part, quantities) = if sorting.is_whole() {
                (body.clone(), envelope.quantities())
            } else {
                let keeps = |key| (0..).zip(&keys).any(|(i, own)| *own == Some(key) && sorting.keeps(i));
                fresh.retain(|reservation| keeps(reservation.key()));
                let ranges = envelope.ranges_of(|i| sorting.keeps(i));
                (part::of(&self.journal, &project.name, &body, envelope.header(), &ranges).await?, sorting.quantities())
            };
            let kept = part.clone();
            let submission = Submission {
                accepted_at: now,
                project: Arc::clone(&project.name),
                event_id: envelope.event_id(),
                quantities,
                keys: fresh.iter().map(Reservation::key).collect(),
                repeats_since: now - self.dedup.length(),
                client: Client { left_out, ..client.clone() },
                body: part,
                targets,
                withheld,
                spans: Some(envelope.spans().clone()),
            };
            match self.keep(submission, fresh, spent).await {
                Ok(()) => {
                    self.sightings.look(&project.name, &kept, now);
                    break;
                }
                Err(JournalError::Repeated(taken)) => {
                    taken.iter().for_each(|key| self.dedup.remember(*key, now));
                    let (again, mut repeated) = self.reserve(&keys, now).await;
                    // A window of length zero remembers no key.
                    repeated.extend(taken);
                    fresh = again;
                    sorting.without_taken((&keys, &repeated), &project.name, &self.metrics);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(receipt)
    }

    /// Takes in a request that is no envelope. `client.request` is the request; `identity` is what makes another one its repeat.
    /// Returns once it is durable.
    pub async fn submit_raw(
        &self,
        entrance: Entrance,
        mut client: Client,
        quantities: Quantities,
        identity: Option<CheckInIdentity>,
        body: Body,
    ) -> Result<Receipt, Refusal> {
        let Entrance::Request { project, client: name } = entrance else { return Err(KeyError::Missing.into()) };
        client.sentry_client = name.map(Into::into);
        let view = self.view.load_full();
        let project = view.keyring.known_now(project);
        self.look_for_browser(&view, &project.name, &client);
        let accepted_at = self.clock.now();
        let receipt = Receipt { event_id: None, project: Arc::clone(&project.name), limits: vec![] };
        let key = identity.map(|identity| identity.key(&self.keys, &project.name));
        let (fresh, repeated) = self.reserve(&[key], accepted_at).await;
        if !repeated.is_empty() {
            police::count_repeated(&project.name, &quantities, &self.metrics);
            return Ok(receipt);
        }
        if let Some((why, limit)) = self.limits_on(&view, &project, &quantities) {
            police::count_refused(&project.name, &quantities, why, &self.metrics);
            let of = takers(&view, &project, &shadows::item_of(&quantities), &quantities);
            self.shed(&view, &project, &of, (why, &quantities));
            // The answer to a check-in by URL does not change ("Crons": clients are not told of its rate limits).
            return if is_check_in(&quantities) { Ok(receipt) } else { Err(Refusal::Limited(vec![limit])) };
        }
        let (to, spent) = self.recipients(&view, &project, Sight::of_request(&quantities), accepted_at).await;
        client.left_out = to.left_out;
        let Recipients { targets, withheld, .. } = to;
        let (project, event_id) = (Arc::clone(&project.name), None);
        let keys = fresh.iter().map(Reservation::key).collect();
        let repeats_since = accepted_at - self.dedup.length();
        let submission = Submission {
            accepted_at,
            project,
            event_id,
            quantities: quantities.clone(),
            keys,
            repeats_since,
            client,
            body,
            targets,
            withheld,
            spans: None,
        };
        match self.keep(submission, fresh, spent).await {
            Err(JournalError::Repeated(_)) => police::count_repeated(&receipt.project, &quantities, &self.metrics),
            kept => kept?,
        }
        Ok(receipt)
    }

    /// Appends a submission to the journal, and makes its reservations and its use of caps final.
    async fn keep(
        &self,
        submission: Submission,
        reserved: Vec<Reservation>,
        spent: Option<Spent>,
    ) -> Result<(), JournalError> {
        let (journal, now) = (Arc::clone(&self.journal), submission.accepted_at);
        // If the client left and dropped this future, ids would be released that the journal is about to hold.
        let kept = tasks::to_its_end(async move {
            // On failure, dropping the reservations releases them, and dropping `spent` gives it back.
            journal.append(submission).await?;
            if let Some(spent) = spent {
                spent.keep();
            }
            reserved.into_iter().for_each(|reservation| reservation.commit(now));
            Ok(())
        });
        kept.await
    }

    /// Reserves the keys of an envelope's items; returns the reservations, and the keys that are repeats.
    async fn reserve(&self, keys: &[Option<u128>], now: Timestamp) -> (Vec<Reservation>, BTreeSet<u128>) {
        let (mut fresh, mut repeated) = (Vec::new(), BTreeSet::new());
        // Keys are reserved in one order everywhere, so that two envelopes with the same keys cannot wait for each other.
        for key in keys.iter().flatten().copied().collect::<BTreeSet<_>>() {
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
}

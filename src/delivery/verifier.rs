//! Verification: looks up whether trackers store the events that they took, through their APIs, at a bounded rate, and notes the findings.
//!
//! Rules: no envelope waits for this. Events that are still to be looked up wait in the journal and cost no memory. A tracker that cannot
//! be asked leaves events unknown, never missing. Trouble is logged once when it begins and once when it ends. A long backlog never keeps
//! new events from being looked up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::clock::{Clock, Timestamp};
use crate::journal::term::Epoch;
use crate::journal::verification::{Batch, PutOff, Repair, Verification, Wanted};
use crate::journal::{Cursor, Journal, JournalError, TargetId};
use crate::policy::verification::{self, Frontier, Repairs, Settings};
use crate::telemetry::log;

use crate::policy::routing::Project;

use super::asking::{Api, There, Trouble};
use super::board::Board;
use super::settings::Settings as Upstreams;

mod catch_up;
mod findings;
mod look;
mod on_demand;
mod sample;
mod side_by_side;
#[cfg(test)]
mod tests;
use catch_up::{Behind, Walks};
use look::{Looker, Seen};
pub use on_demand::{Looked, LookedAgain, Outcome};
pub use side_by_side::SideBySide;

/// The most events that are looked up in one step.
pub const STEP: usize = 500;
/// The pause after a step when nothing is left to do.
const PAUSE: Duration = Duration::from_secs(2);
/// The pause after trouble with a tracker.
const AFTER_TROUBLE: Duration = Duration::from_secs(15);
/// The time until an event of which nothing is known is checked again.
const UNKNOWN_FOR: Duration = Duration::from_secs(600);
/// The time until an event that was put off comes due like any other. Its record is likely to be gone by then.
const PUT_OFF_FOR: Duration = Duration::from_secs(24 * 3600);
/// The most events that were put off and are looked up in one step.
const PUT_OFF: usize = 5000;
/// The most events that are sent again in one step.
const REPAIRS: usize = 256;

/// How the tracker of an upstream is asked.
#[derive(Clone, Debug)]
pub struct Tracker {
    /// The upstream in the journal.
    pub target: TargetId,
    /// The API.
    pub api: Api,
    /// The projects as the tracker knows them, by their names here.
    pub places: BTreeMap<Arc<str>, There>,
    /// How long the tracker remembers the id of an event and drops repeats.
    pub remembers: Duration,
}

impl Tracker {
    /// The tracker of an upstream; `None` when it has no `api` section, or no project has the name that its API needs.
    pub fn of((name, target): (&Arc<str>, TargetId), settings: &Upstreams, projects: &[Arc<Project>]) -> Option<Self> {
        let api = Api::of(settings)?;
        let place = |project: &Arc<Project>| {
            let dsn = project.dsns.get(name)?;
            let there = api.there(dsn, project.places.get(name).map(|name| &**name))?;
            Some((Arc::clone(&project.name), there))
        };
        let places: BTreeMap<_, _> = projects.iter().filter_map(place).collect();
        let remembers = api.remembers();
        (!places.is_empty()).then_some(Self { target, api, places, remembers })
    }
}

/// The progress of verification at an upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// When the tracker last answered a lookup.
    pub last_look: Option<Timestamp>,
    /// Since when the tracker cannot be asked, and why, with the remedy.
    pub trouble: Option<(Timestamp, String)>,
    /// The time of acceptance of the oldest event that still waits for its first lookup; `None` when the lookups keep up.
    pub behind: Option<Timestamp>,
    /// Why the last event that was to be compared could not be; `None` when it could.
    pub not_compared: Option<String>,
}

/// Looks events up at every upstream with an API. Cheap to clone; clones share their knowledge.
#[derive(Clone, Debug)]
pub struct Verifier {
    journal: Arc<dyn Journal>,
    clock: Clock,
    board: Board,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    settings: Settings,
    upstreams: BTreeMap<Arc<str>, Upstream>,
}

#[derive(Debug)]
struct Upstream {
    tracker: Tracker,
    standing: Standing,
    frontier: Frontier<Cursor>,
    /// The walks through the tracker's lists for events that were put off.
    walks: Walks,
    /// Whether there may be events that were put off.
    is_behind: bool,
    /// The term of the last step.
    term: Option<Epoch>,
    /// Whether the last step had trouble and learnt nothing about any event.
    is_silent: bool,
    /// Whether a step is under way.
    busy: bool,
    /// No step begins before this.
    rests_until: Instant,
    /// No request goes out before this.
    next_request: Instant,
}

impl Verifier {
    /// A verifier that looks nothing up until it is configured.
    pub fn new(journal: Arc<dyn Journal>, clock: Clock, board: Board) -> Self {
        Self { journal, clock, board, shared: Arc::default() }
    }

    /// Follows a changed configuration. An upstream that stays continues where it was.
    pub fn configure(&self, settings: &Settings, trackers: BTreeMap<Arc<str>, Tracker>) {
        let mut shared = self.lock();
        shared.settings = settings.clone();
        let mut before = std::mem::take(&mut shared.upstreams);
        for (name, tracker) in trackers {
            let upstream = match before.remove(&name) {
                Some(known) => Upstream { tracker, rests_until: Instant::now(), walks: Walks::default(), ..known },
                None => Upstream {
                    tracker,
                    standing: Standing::default(),
                    frontier: Frontier::default(),
                    walks: Walks::default(),
                    is_behind: true,
                    term: None,
                    is_silent: false,
                    busy: false,
                    rests_until: Instant::now(),
                    next_request: Instant::now(),
                },
            };
            shared.upstreams.insert(name, upstream);
        }
    }

    /// The progress at an upstream; `None` when it has no API.
    pub fn standing(&self, upstream: &str) -> Option<Standing> {
        self.lock().upstreams.get(upstream).map(|upstream| upstream.standing.clone())
    }

    /// The settings.
    pub fn settings(&self) -> Settings {
        self.lock().settings.clone()
    }

    /// The API of an upstream, and a project as the tracker knows it; `None` when either is unknown.
    pub fn place(&self, upstream: &str, project: &str) -> Option<(Api, There)> {
        let shared = self.lock();
        let tracker = &shared.upstreams.get(upstream)?.tracker;
        Some((tracker.api.clone(), tracker.places.get(project)?.clone()))
    }

    /// The upstreams for which a step is due. Each is busy until [`Verifier::step`] has ended.
    pub fn due(&self) -> Vec<Arc<str>> {
        let (mut shared, now) = (self.lock(), Instant::now());
        let due = shared.upstreams.iter_mut().filter(|(_, upstream)| !upstream.busy && upstream.rests_until <= now);
        due.map(|(name, upstream)| {
            upstream.busy = true;
            Arc::clone(name)
        })
        .collect()
    }

    /// Looks up some of the events that are due at an upstream, and notes the findings.
    pub async fn step(&self, name: &Arc<str>) {
        let _busy = Busy { verifier: self, name };
        self.follow_term(name);
        let Some((tracker, settings, bound)) = self.begin(name) else { return };
        let rest = match self.look(self.journal.verification(), name, &tracker, &settings, bound).await {
            Ok(rest) => rest,
            Err(error) => {
                tracing::debug!(upstream.name = &**name, %error, "what it stores is looked up later");
                AFTER_TROUBLE
            }
        };
        if let Some(upstream) = self.lock().upstreams.get_mut(name) {
            upstream.rests_until = Instant::now() + rest;
        }
    }

    /// Begins the catching up anew in a new term: in the terms of others, events may have been put off and found.
    fn follow_term(&self, name: &str) {
        self.with(name, |upstream| {
            let term = Epoch::current();
            if std::mem::replace(&mut upstream.term, term) != term {
                (upstream.is_behind, upstream.walks) = (true, Walks::default());
            }
        });
    }

    fn begin(&self, name: &Arc<str>) -> Option<(Tracker, Settings, Cursor)> {
        let (mut shared, now) = (self.lock(), self.clock.now());
        let settings = shared.settings.clone();
        let upstream = shared.upstreams.get_mut(name)?;
        let bound = upstream.frontier.settled(now, settings.settle.get()).unwrap_or_default();
        Some((upstream.tracker.clone(), settings, bound))
    }

    /// Makes a step. Returns how long to rest.
    async fn look(
        &self,
        verification: &dyn Verification,
        name: &Arc<str>,
        tracker: &Tracker,
        settings: &Settings,
        bound: Cursor,
    ) -> Result<Duration, JournalError> {
        self.ask_version(name, tracker, settings).await;
        let now = self.clock.now();
        let batch = self.batch(verification, name, tracker, settings, bound).await?;
        let put_off = self.put_off(verification, name, tracker).await?;
        self.note_frontier(name, (&batch, &put_off), settings, now);
        // A full batch is left only if the tracker is silent. Then one event is looked up until it answers.
        let fresh = if batch.fresh.len() == STEP { &batch.fresh[..1] } else { &batch.fresh };
        let wanted = batch.again.iter().chain(fresh).collect();
        let mut walks = self.with(name, |upstream| std::mem::take(&mut upstream.walks)).unwrap_or_default();
        let behind = Behind { events: &put_off.events, more: put_off.more, walks: &mut walks };
        let mut looker = self.looker(name, tracker, settings);
        let searched = match looker.search(wanted).await {
            Ok(()) => looker.catch_up(behind).await,
            trouble => trouble,
        };
        let (seen, trouble) = looker.done(searched);
        self.note_trouble(name, trouble.as_ref(), !seen.is_empty());
        let is_word = |seen: &Seen| matches!(seen, Seen::Stored | Seen::Absent);
        self.with(name, |upstream| {
            upstream.walks = walks;
            upstream.is_silent = trouble.is_some() && !seen.values().any(is_word);
        });
        let is_full = batch.fresh.len() == STEP || batch.again.len() == STEP || !put_off.events.is_empty();
        verification.note(tracker.target, self.findings(name, tracker, settings, &batch, &seen).await).await?;
        self.note_caught_up(verification, name, tracker, settings, (&put_off, &seen)).await?;
        if settings.repair == Repairs::Auto {
            self.repair(name, Timestamp::default(), REPAIRS).await?;
        }
        // An event behind the first one that was not looked up is looked up again.
        let passed = batch.fresh.iter().take_while(|event| seen.contains_key(&event.record));
        let is_stored = |event: &&Wanted| seen.get(&event.record) == Some(&Seen::Stored);
        let stored: Vec<&Wanted> = passed.chain(&batch.again).chain(&put_off.events).filter(is_stored).collect();
        let trouble = match trouble {
            None => self.sample(verification, name, tracker, settings, &stored).await?,
            trouble => trouble,
        };
        Ok(match trouble {
            Some(Trouble::Limited(wait)) => wait.max(AFTER_TROUBLE),
            Some(_) => AFTER_TROUBLE,
            None if is_full => Duration::ZERO,
            None => PAUSE.min(settings.settle.get()),
        })
    }

    /// Asks the tracker for its version now and then, and tells its worker the consequence.
    async fn ask_version(&self, name: &Arc<str>, tracker: &Tracker, settings: &Settings) {
        let Some(there) = tracker.places.values().next().filter(|_| tracker.api.wants_version()) else { return };
        sleep_until(self.turn(name, settings.pace())).await;
        tracker.api.ask_version(there).await;
        self.board.update(name, |report| report.loses_no_batch = tracker.api.loses_no_batch());
    }

    fn looker<'a>(&self, name: &Arc<str>, tracker: &'a Tracker, settings: &Settings) -> Looker<'a> {
        let (verifier, name) = (self.clone(), Arc::clone(name));
        let pace = settings.pace();
        Looker::new(tracker, Box::new(move || verifier.turn(&name, pace)))
    }

    /// When the next request to a tracker may be sent. Steps and lookups on demand share the turns.
    fn turn(&self, name: &Arc<str>, pace: Duration) -> Instant {
        let mut shared = self.lock();
        let Some(upstream) = shared.upstreams.get_mut(name) else { return Instant::now() };
        let turn = upstream.next_request.max(Instant::now());
        upstream.next_request = turn + pace;
        turn
    }

    fn note_frontier(&self, name: &Arc<str>, (batch, put_off): (&Batch, &PutOff), settings: &Settings, now: Timestamp) {
        let waiting = batch.fresh.first().filter(|_| batch.fresh.len() == STEP).map(|event| event.accepted_at);
        self.with(name, |upstream| {
            upstream.frontier.note(batch.settled, now, settings.settle.get());
            upstream.standing.behind = put_off.oldest.into_iter().chain(waiting).min();
        });
    }

    /// Calls `act` with an upstream; `None` when it is no longer configured.
    fn with<T>(&self, name: &str, act: impl FnOnce(&mut Upstream) -> T) -> Option<T> {
        self.lock().upstreams.get_mut(name).map(act)
    }

    /// Logs trouble once, and its end once.
    fn note_trouble(&self, name: &Arc<str>, trouble: Option<&Trouble>, answered: bool) {
        let (mut shared, now) = (self.lock(), self.clock.now());
        let Some(upstream) = shared.upstreams.get_mut(name) else { return };
        let standing = &mut upstream.standing;
        match (trouble, standing.trouble.as_ref()) {
            (Some(trouble), None) => {
                let why = trouble.to_string();
                tracing::warn!(upstream.name = &**name, why, "what it stores cannot be looked up: deliveries go on");
                standing.trouble = Some((now, why));
            }
            (Some(trouble), Some((since, _))) => standing.trouble = Some((*since, trouble.to_string())),
            (None, Some(_)) if answered => {
                tracing::info!(upstream.name = &**name, "what it stores can be looked up again");
                standing.trouble = None;
            }
            (None, _) => {}
        }
        if answered && trouble.is_none() {
            standing.last_look = Some(now);
        }
    }

    /// Sends missing events again that were accepted since `since`. Returns how many.
    pub async fn repair(&self, name: &str, since: Timestamp, limit: usize) -> Result<usize, JournalError> {
        let (tracker, settings) = {
            let shared = self.lock();
            let Some(upstream) = shared.upstreams.get(name) else { return Ok(0) };
            (upstream.tracker.clone(), shared.settings.clone())
        };
        let repair = Repair {
            since,
            below: settings.max_repairs,
            spacing: tracker.remembers,
            apart: verification::ALONE,
            settle: settings.settle.get(),
            limit,
        };
        let taken = self.journal.verification().repair(tracker.target, repair).await?;
        if taken > 0
            && let Some(count) = log::admit_sum("repaired", name, taken as u64)
        {
            tracing::warn!(upstream.name = name, count, "missing events are sent again");
        }
        Ok(taken)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks a step as ended when it is dropped.
struct Busy<'a> {
    verifier: &'a Verifier,
    name: &'a Arc<str>,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if let Some(upstream) = self.verifier.lock().upstreams.get_mut(self.name) {
            upstream.busy = false;
        }
    }
}

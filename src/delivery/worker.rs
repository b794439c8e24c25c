//! The worker of one upstream: claims records that may be sent, sends them, and settles them by the answers.
//!
//! One task owns circuit and cooldowns. It never waits with a record in hand: a record to retry goes back to the journal with its due time.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Timestamp};
use crate::journal::pace::Heard;
use crate::journal::{Journal, TargetId};
use crate::policy::apart::Apart;
use crate::policy::circuit::{Circuit, Seen, State};
use crate::policy::cooldown::{self, Cooldown, Cooldowns};
use crate::policy::hold::Holds;
use crate::policy::refusals::Refusals;
use crate::policy::routing::Routing;
use crate::policy::standing::Lesson;
use crate::policy::suspects::{GAP, Suspects};
use crate::policy::verdict::Verdict;
use crate::telemetry::status::LastError;

use super::board::Board;
use super::compress::{Compress, Packs};
use super::header_cache::HeaderCache;
use super::large::{self, weight};
use super::pace::{Pace, Paces};
use super::parcel;
use super::quirks::{self, Quirks};
use super::sent::Sent;
use super::settings::Settings;
use super::transport::Transport;
use super::watch::Watch;

mod apart;
mod canary;
mod leases;
mod outgoing;
mod publish;
mod question;
mod refused_alone;
mod settle;
mod start;
mod together;
mod waits;

/// The pause after the journal failed to give records.
const JOURNAL_PAUSE: Duration = Duration::from_secs(1);
/// The bytes of bodies under way at which no more is started.
const MAX_BYTES_IN_FLIGHT: usize = 16 << 20;
/// The number of claims in a row after which requests under way are looked at.
const LOOK_UP: usize = 256;
/// How long a record without a DSN waits; a changed configuration brings it forward.
const HOMELESS: Duration = Duration::from_secs(3600);

/// What a worker shares with the rest of the daemon.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    pub(super) journal: Arc<dyn Journal>,
    pub(super) routing: Arc<ArcSwap<Routing>>,
    pub(super) clock: Clock,
    pub(super) board: Board,
    pub(super) watch: Watch,
    /// The limits as the intake is told.
    pub(super) cooldowns: Cooldowns,
    /// The bodies that were compressed lately.
    pub(super) packs: Packs,
    /// The exchange with other relays.
    pub(super) paces: Paces,
}

/// One upstream's worker.
pub(super) struct Worker {
    upstream: Arc<str>,
    target: TargetId,
    settings: Arc<ArcSwap<Settings>>,
    around: Surroundings,
    transport: Arc<Transport>,
    /// The headers of requests under this routing.
    header_cache: HeaderCache,
    circuit: Circuit,
    /// The state of the circuit that the other relays were told.
    told: Seen,
    /// The exchange with other relays about the upstream.
    pace: Arc<Pace>,
    /// The last answer of the exchange that was followed.
    heard: Option<Arc<Heard>>,
    /// Until when this relay leaves probing to others.
    forgone_until: Timestamp,
    cooldown: Cooldown,
    holds: Holds,
    refusals: Refusals,
    /// The projects that fail while others succeed.
    suspects: Suspects,
    /// The turns of records that must be sent alone.
    apart: Apart,
    /// The record that has the turn and may not be sent yet.
    held: Option<apart::Held>,
    /// Whether more than one project has a DSN here, so that none gets all of the places.
    shared: bool,
    /// When to look again for records of other projects than the one that has its share of the places.
    looks_on: Timestamp,
    /// Whether to bring records forward because a suspect was forgiven or a delivery ended a hold.
    forgives: bool,
    /// When records were last brought forward for this reason.
    forgiven: Timestamp,
    /// The project whose request failed last.
    failed_last: Option<Arc<str>>,
    /// The routing, with the DSNs that the holds are about. Other DSNs deserve another try.
    routing: Arc<Routing>,
    /// Whether to bring forward records that were put off, because the cause may be mended.
    mended: bool,
    /// The clock's epoch when the worker last looked at it.
    epoch: Timestamp,
    /// When the upstream last took something, which tells poison from an outage.
    last_success: Timestamp,
    /// The encoding that the upstream refused since the last reload.
    declined: Option<Compress>,
    /// Whether the upstream answers; see [`Report::up`](super::board::Report::up).
    up: bool,
    /// The error since the board was last updated.
    error: Option<LastError>,
    /// The refusal of our DSN since the board was last updated.
    refusal: Option<LastError>,
    leases: leases::Leases,
    in_flight: FuturesUnordered<BoxFuture<'static, Ended>>,
    bytes_in_flight: usize,
    /// Whether a record waits that had no DSN when it was looked at.
    homeless: bool,
}

/// Something that was under way and has ended.
enum Ended {
    /// A request with a record.
    Sent(Box<Sent>),
    /// A question; the error says why it got no answer.
    Asked(Result<(), String>),
}

impl Worker {
    pub(super) fn new(
        upstream: Arc<str>,
        target: TargetId,
        settings: Arc<ArcSwap<Settings>>,
        around: Surroundings,
    ) -> Self {
        around.board.update(&upstream, |_| {});
        let (epoch, now) = (around.clock.epoch(), around.clock.now());
        Self {
            upstream,
            target,
            transport: Arc::new(Transport::new(&settings.load())),
            header_cache: HeaderCache::default(),
            settings,
            circuit: Circuit::default(),
            told: Seen::Closed,
            pace: around.paces.of(target),
            heard: None,
            forgone_until: Timestamp::default(),
            cooldown: Cooldown::default(),
            holds: Holds::default(),
            refusals: Refusals::default(),
            suspects: Suspects::default(),
            apart: Apart::new(now),
            held: None,
            shared: false,
            looks_on: Timestamp::default(),
            forgives: false,
            forgiven: Timestamp::default(),
            failed_last: None,
            routing: Arc::default(),
            // A start may have mended the cause for which records were put off.
            mended: true,
            epoch,
            last_success: Timestamp::default(),
            declined: None,
            up: true,
            error: None,
            refusal: None,
            leases: leases::Leases::default(),
            in_flight: FuturesUnordered::new(),
            bytes_in_flight: 0,
            homeless: false,
            around,
        }
    }

    /// Works until `stop` is cancelled. Then requests under way end within their timeouts.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let changed = self.around.journal.changed(self.target);
        // Made once, not in each round.
        let mut stopped = pin!(stop.cancelled());
        let mut news = pin!(changed.notified());
        let mut beat = leases::Leases::beat();
        while !stop.is_cancelled() {
            let wake = self.claim().await;
            let wake = wake.map(|at| self.around.clock.instant(at));
            tokio::select! {
                biased;
                () = &mut stopped => break,
                _ = beat.tick() => self.keep_leases().await,
                Some(ended) = self.in_flight.next() => self.all_ended(ended),
                Some(answer) = self.leases.answer() => self.answered(answer),
                () = &mut news => news.set(changed.notified()),
                () = async { sleep_until(wake.unwrap_or_else(tokio::time::Instant::now)).await }, if wake.is_some() => {}
            }
        }
        self.finish(beat).await;
    }

    fn ended(&mut self, ended: Ended) {
        match ended {
            Ended::Sent(sent) => self.settle(*sent),
            Ended::Asked(answer) => self.learn_from_answer(answer),
        }
    }

    /// Starts as many requests as may start now. Returns when to look again if nothing happens before.
    async fn claim(&mut self) -> Option<Timestamp> {
        let mut claimed = 0;
        loop {
            self.follow_settings();
            let now = self.around.clock.now();
            self.follow_others(now);
            self.end_waits(now).await;
            if let Err(later) = self.may_try(now) {
                self.publish();
                return Some(later);
            }
            if self.circuit.asks(now, self.in_flight.len()) {
                self.ask();
            }
            if let Err(until) = self.turn(now) {
                return until;
            }
            // The relay with the probe needs no place for it. Without one it would keep the probe and find nothing out.
            let most = self.most().max(usize::from(self.circuit.state() != State::Closed));
            let room = most.saturating_sub(self.in_flight.len());
            let permits = self.circuit.permits(now, room, self.in_flight.len());
            if self.bytes_in_flight >= MAX_BYTES_IN_FLIGHT {
                return None;
            }
            if permits == 0 && room == 0 {
                self.forgo_probe(now);
                return None;
            }
            if permits == 0 {
                self.publish();
                return self.circuit.wakes_at(now);
            }
            let crowded = self.suspects.crowded_since(self.share());
            if let Some(later) = crowded.map(|since| since.max(self.looks_on)).filter(|later| *later > now) {
                return Some(later);
            }
            if claimed >= LOOK_UP {
                // The records that one project has before those of others are not looked through without a pause.
                self.looks_on = crowded.map_or(now, |_| now + GAP);
                return Some(self.looks_on);
            }
            let permits = permits.min(room.saturating_sub(most.saturating_sub(self.share())).max(1));
            let claims = match self.around.journal.claim(self.target, now, permits).await {
                Ok(claims) => claims,
                Err(error) => {
                    self.around.watch.journal_fails(&error);
                    self.forgo_probe(now);
                    return Some(now + JOURNAL_PAUSE);
                }
            };
            if claims.is_empty() {
                self.forgo_probe(now);
                // A record that is due and was not given waits for a commit, which wakes the worker.
                let due = self.next_due().await.filter(|due| *due > now);
                let mended = self.holds.last_end(now).filter(|_| self.mended);
                return [due, mended, self.cooldown.next_end(now)].into_iter().flatten().min();
            }
            claimed += claims.len();
            self.leases.hold(claims.iter().map(|claim| claim.lease));
            for claim in claims {
                match large::open(&claim, self.quirks()).await {
                    Ok(pieces) => self.start(claim, pieces, now),
                    Err(error) => self.unreadable(&claim, &error, now),
                }
            }
        }
    }

    /// Settles a record by the answer, and learns from the answer.
    fn settle(&mut self, mut sent: Sent) {
        let now = self.around.clock.now();
        self.bytes_in_flight -= weight(&sent.claim.record.body);
        self.suspects.ended(&sent.claim.record.project, now);
        self.apart.ended(now);
        sent.hide_secrets(&self.upstream);
        let verdict = match &sent.result {
            Ok(reply) if sent.claim.record.client.request.is_some() => reply.verdict_of_other(),
            Ok(reply) => reply.verdict(),
            Err(_) => Verdict::Failed,
        };
        let in_doubt = verdict == Verdict::Misconfigured && !self.is_refused_alone(&sent, now);
        self.around.watch.attempted(verdict, in_doubt, &sent, now);
        self.learn(&sent, verdict, now);
        let settlement = match verdict {
            Verdict::Delivered => self.delivered(&sent, now),
            Verdict::RateLimited => self.rate_limited(&sent, now),
            Verdict::Failed => self.failed(&sent, now),
            // The DSN that it was sent to may have been mended since.
            Verdict::Misconfigured if !Arc::ptr_eq(&sent.routing, &self.around.routing.load()) => {
                self.retry(&sent, now, sent.claim.progress.strikes)
            }
            Verdict::Misconfigured if self.is_refused_alone(&sent, now) => self.refused_alone(&sent, now),
            Verdict::Misconfigured => self.hold_up(&sent, now),
            Verdict::Refused => self.refused(&sent, now, "refused"),
            Verdict::Unsupported => self.unsupported(&sent),
        };
        if sent.declined.is_some() && sent.declined != std::mem::replace(&mut self.declined, sent.declined) {
            self.around.watch.declined(sent.declined);
        }
        self.tell_canary(&sent, verdict, &settlement, now);
        self.journal_settle(&sent.claim.lease, settlement);
    }

    /// Learns what the answer says about the upstream, whatever becomes of the record.
    fn learn(&mut self, sent: &Sent, verdict: Verdict, now: Timestamp) {
        let record = &sent.claim.record;
        if let Ok(reply) = &sent.result {
            let lines = reply.rate_limits.iter().map(String::as_str);
            let is_429 = verdict == Verdict::RateLimited;
            let mut limits = cooldown::limits_of(is_429, lines, reply.retry_after.as_deref(), now);
            sent.quirks().heed(&mut limits);
            if !limits.is_empty() {
                self.around.watch.asked_for_a_long_wait(&limits);
                if self.cooldown.apply(&record.project, &limits, now) {
                    self.pace.tell(Lesson::Limited(Arc::clone(&record.project), limits));
                }
                self.around.cooldowns.tell(&self.upstream, &self.cooldown);
            }
        }
        let is_foreign = sent.is_foreign();
        if verdict == Verdict::Failed || (is_foreign && self.circuit.state() != State::Closed) {
            self.learn_from_failure(sent, now);
        } else if !is_foreign {
            self.up = true;
            if self.circuit.succeeded(now) {
                self.around.watch.recovered();
            }
        }
        if verdict == Verdict::Misconfigured && !self.is_refused_alone(sent, now) {
            self.around.watch.counted(self.refusals.refused(&record.project, now), now);
        }
        if !matches!(verdict, Verdict::Delivered | Verdict::Unsupported) {
            self.error = Some(LastError { at: now, what: sent.what_went_wrong() });
        }
        if verdict == Verdict::Misconfigured {
            self.refusal.clone_from(&self.error);
        }
    }

    fn quirks(&self) -> &'static Quirks {
        quirks::of(self.settings().kind)
    }
}

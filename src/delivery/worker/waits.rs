//! What waits, and what ends a wait: limits and holds that are over, a corrected DSN, a clock that was set.
//!
//! Rule: what was put off is brought forward in small steps, and tried only as fast as the circuit permits. So a start in front
//! of an upstream that is down costs a few requests, however often it starts.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::Guard;

use crate::clock::Timestamp;
use crate::delivery::header_cache::HeaderCache;
use crate::delivery::settings::Settings;
use crate::delivery::transport::Transport;
use crate::delivery::{large, load, quirks};
use crate::journal::body::Unreadable;
use crate::journal::{Claim, Rest, Settlement};

use super::Worker;

/// How many records are brought forward at once.
const STEP: usize = 256;
/// How often what waits with a suspect or with a hold that ended is brought forward at most: what is forgiven again and again must not
/// keep the journal busy.
const FORGIVING: Duration = Duration::from_secs(10);

impl Worker {
    /// Ends what has ended by now.
    pub(super) async fn end_waits(&mut self, now: Timestamp) {
        self.follow_clock();
        self.end_limits(now);
        self.end_holds(now).await;
    }

    /// All that was to be waited for was a span of time. When the clock is set back, the moments at which the waits end move with
    /// it; the due times in the journal are brought forward.
    fn follow_clock(&mut self) {
        let epoch = self.around.clock.epoch();
        let back = std::mem::replace(&mut self.epoch, epoch).since(epoch);
        if back.is_zero() {
            return;
        }
        self.circuit.set_back(back);
        self.holds.set_back(back);
        self.refusals.set_back(back);
        self.suspects.set_back(back);
        self.apart.set_back(back);
        self.cooldown.set_back(back);
        self.around.cooldowns.tell(&self.upstream, &self.cooldown);
        self.last_success = self.last_success - back;
        self.forgiven = self.forgiven - back;
        self.forgone_until = self.forgone_until - back;
        self.mended = true;
        self.publish();
    }

    /// Takes over settings that were loaded again, and leaves the connections behind that were made by the others.
    pub(super) fn follow_settings(&mut self) {
        let settings = self.settings.load();
        if self.transport.is_outdated(&settings) {
            self.transport = Arc::new(Transport::new(&settings));
        }
    }

    /// The settings as they were followed last.
    pub(super) fn settings(&self) -> &Arc<Settings> {
        self.transport.settings()
    }

    /// The most requests under way at once: this relay's part of it.
    pub(super) fn most(&self) -> usize {
        let settings = self.settings();
        let most = if quirks::of(settings.kind).one_at_a_time { 1 } else { settings.max_in_flight.get().into() };
        self.pace.places(most, self.in_flight.len())
    }

    /// How many of them may be of one project: all but one, where there are others and more than one place.
    pub(super) fn share(&self) -> usize {
        let most = self.most();
        if self.shared && most > 1 { most - 1 } else { most.max(1) }
    }

    /// Until when a record of the project that is claimed now waits: its DSN is refused, or it fails while others do not, or it has its
    /// share of the room.
    pub(super) fn waits(&mut self, project: &Arc<str>, now: Timestamp) -> Option<Timestamp> {
        if let until @ Some(_) = self.holds.until(project, now) {
            return until;
        }
        let place = self.suspects.waits(project, (self.most() / 2).max(1), now);
        place.or_else(|| self.suspects.crowds(project, self.share(), now))
    }

    /// The upstream took something of the project. What waited with a suspect that is none any more, or with a hold that ends so, comes
    /// forward.
    pub(super) fn taken(&mut self, project: &Arc<str>, took: Duration, now: Timestamp) {
        // After a reload it had not waited here: others wait still.
        if self.holds.taken(project, now) || self.is_refused(project) {
            self.tell_taken(project);
            self.forgives = true;
        }
        self.suspects.took(took);
        self.around.watch.counted(self.refusals.taken(project, now), now);
        self.forgives |= self.suspects.taken(project, now);
    }

    /// Not tried, tried later.
    pub(super) fn put_off(&mut self, claim: &Claim, due: Timestamp) {
        let rest = Rest { due, progress: claim.progress.clone(), quantities: load::pending(claim) };
        self.journal_settle(&claim.lease, Settlement { rest: Some(rest), ..Settlement::default() });
    }

    /// The body cannot be read now. What is pending of a part that nobody knows comes again when its lease has ended: the
    /// journal knows.
    pub(super) fn unreadable(&mut self, claim: &Claim, error: &Unreadable, now: Timestamp) {
        self.around.watch.unreadable(&claim.record, &error.to_string());
        if claim.progress.items.is_none() || claim.record.client.request.is_some() || claim.record.body.is_at_hand() {
            self.put_off(claim, now + large::UNREADABLE);
        } else {
            self.leases.let_go(&claim.lease);
        }
    }

    fn end_limits(&mut self, now: Timestamp) {
        if self.cooldown.forget_ended(now) {
            self.around.cooldowns.tell(&self.upstream, &self.cooldown);
            // What the limit held back comes out slowly.
            self.circuit.slow_start(now);
            self.publish();
        }
    }

    /// Sends by the newest configuration from now on.
    pub(super) fn follow_routing(&mut self, now: Timestamp) {
        let routing = self.around.routing.load();
        if Arc::ptr_eq(&routing, &self.routing) {
            return;
        }
        let routing = Guard::into_inner(routing);
        self.shared =
            routing.projects.iter().filter(|project| project.dsns.contains_key(&self.upstream)).nth(1).is_some();
        (self.routing, self.header_cache) = (routing, HeaderCache::default());
        self.declined = None;
        self.mended |= self.holds.any() | std::mem::take(&mut self.homeless) | self.suspects.forgive();
        self.holds.mended(now, self.quirks().cool_off);
    }

    /// A new configuration may have mended what a project is held for, or the upstream took something of it: its records are tried now,
    /// not when the hold would have ended, or when the upstream takes note of it. Others that were put off come along, which costs each of them one early
    /// try.
    async fn end_holds(&mut self, now: Timestamp) {
        self.follow_routing(now);
        if self.forgives && now.since(self.forgiven) >= FORGIVING {
            (self.forgives, self.forgiven, self.mended) = (false, now, true);
        }
        if self.mended && self.holds.last_end(now).is_none() {
            match self.around.journal.hasten(self.target, STEP).await {
                Ok(count) => self.mended = count == STEP,
                Err(error) => {
                    tracing::debug!(upstream.name = &*self.upstream, %error, "records are brought forward later")
                }
            }
        }
    }
}

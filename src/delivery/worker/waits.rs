//! Waits and their ends: limits and holds that are over, a corrected DSN, a clock that was set.
//!
//! Rule: records that were put off are brought forward in small steps, and tried only as fast as the circuit permits. So a start while the
//! upstream is down costs a few requests, however often it happens.

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

/// The most records that are brought forward at once.
const STEP: usize = 256;
/// The least time between two times that records are brought forward because a suspect was forgiven or a delivery ended a hold: one that is
/// forgiven again and again must not keep the journal busy.
const FORGIVING: Duration = Duration::from_secs(10);

impl Worker {
    /// Ends the waits that are over by now.
    pub(super) async fn end_waits(&mut self, now: Timestamp) {
        self.follow_clock();
        self.end_limits(now);
        self.end_holds(now).await;
    }

    /// Follows a clock that was set back. Waits are spans of time, so their ends move with the clock, and records in the journal are
    /// brought forward.
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

    /// Takes over settings that were loaded again, and drops the connections that were made under the old ones.
    pub(super) fn follow_settings(&mut self) {
        let settings = self.settings.load();
        if self.transport.is_outdated(&settings) {
            self.transport = Arc::new(Transport::new(&settings));
        }
    }

    /// The settings that were followed last.
    pub(super) fn settings(&self) -> &Arc<Settings> {
        self.transport.settings()
    }

    /// The most requests that this relay may have under way: its part of all.
    pub(super) fn most(&self) -> usize {
        let settings = self.settings();
        let most = if quirks::of(settings.kind).one_at_a_time { 1 } else { settings.max_in_flight.get().into() };
        self.pace.places(most, self.in_flight.len())
    }

    /// The most requests of one project under way: all places but one, if there are other projects and more than one place.
    pub(super) fn share(&self) -> usize {
        let most = self.most();
        if self.shared && most > 1 { most - 1 } else { most.max(1) }
    }

    /// Until when a record of the project that is claimed now waits; `None` if it need not. It waits if the DSN is refused, if the project
    /// fails while others succeed, or if it has its share of the places.
    pub(super) fn waits(&mut self, project: &Arc<str>, now: Timestamp) -> Option<Timestamp> {
        if let until @ Some(_) = self.holds.until(project, now) {
            return until;
        }
        let place = self.suspects.waits(project, (self.most() / 2).max(1), now);
        place.or_else(|| self.suspects.crowds(project, self.share(), now))
    }

    /// Reports that the upstream took something of the project. If the project stops being a suspect, or its hold ends, its waiting records
    /// come forward.
    pub(super) fn taken(&mut self, project: &Arc<str>, took: Duration, now: Timestamp) {
        // After a reload this relay's hold may be gone while other relays still wait.
        if self.holds.taken(project, now) || self.is_refused(project) {
            self.tell_taken(project);
            self.forgives = true;
        }
        self.suspects.took(took);
        self.around.watch.counted(self.refusals.taken(project, now), now);
        self.forgives |= self.suspects.taken(project, now);
    }

    /// Puts off a record without an attempt.
    pub(super) fn put_off(&mut self, claim: &Claim, due: Timestamp) {
        let rest = Rest { due, progress: claim.progress.clone(), quantities: load::pending(claim) };
        self.journal_settle(&claim.lease, Settlement { rest: Some(rest), ..Settlement::default() });
    }

    /// Puts off a record whose body cannot be read now. If its pending part cannot be told without the body, the lease is left to end: the
    /// journal knows the part.
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
            // The records that the limit held back are sent slowly at first.
            self.circuit.slow_start(now);
            self.publish();
        }
    }

    /// Follows the newest routing.
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

    /// Brings records forward when a new configuration may have mended the cause of a hold, or a delivery ended it, so that they are tried
    /// now and not at the end of the hold. Other records that were put off come along, which costs each of them one early try.
    async fn end_holds(&mut self, now: Timestamp) {
        self.follow_routing(now);
        // Records of projects that are still on hold are put off again.
        let forgives = self.forgives && now.since(self.forgiven) >= FORGIVING;
        if forgives {
            (self.forgives, self.forgiven) = (false, now);
        }
        if forgives || (self.mended && self.holds.last_end(now).is_none()) {
            match self.around.journal.hasten(self.target, STEP).await {
                Ok(count) => self.mended = count == STEP,
                Err(error) => {
                    tracing::debug!(upstream.name = &*self.upstream, %error, "records are brought forward later")
                }
            }
        }
    }
}

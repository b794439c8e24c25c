//! Workers of one upstream at several relays share its limits, refusals and outages as if they were one worker.
//!
//! Rules: a worker tells what it learns and follows what others learn. Neither waits for the database. It does not follow another relay's
//! trouble with an upstream that has taken something from this relay since.

use std::sync::Arc;
use std::time::Duration;

use ring::digest::{SHA256, digest};

use crate::clock::Timestamp;
use crate::journal::pace::Heard;
use crate::policy::circuit::{Outage, Seen, State};
use crate::policy::standing::{Lesson, Standing};
use crate::protocol::rate_limits::RateLimit;

use super::Worker;

/// How long until this relay asks again for the probe.
const AGAIN: Duration = Duration::from_millis(500);
/// How long a relay without anything to probe with leaves the probe to others.
const FORGONE: Duration = Duration::from_secs(1);

impl Worker {
    /// Takes in the last answer of the exchange.
    pub(super) fn follow_others(&mut self, now: Timestamp) {
        let Some(heard) = self.pace.heard() else { return };
        if self.heard.as_ref().is_some_and(|known| Arc::ptr_eq(known, &heard)) {
            return;
        }
        let before = self.heard.replace(Arc::clone(&heard));
        let nothing = Standing::default();
        let standing = |heard: &Heard| heard.standings.get(&self.target).cloned();
        let (after, before) = (standing(&heard), before.and_then(|before| standing(&before)));
        let (after, before) = (after.unwrap_or_default(), before.unwrap_or(nothing));
        self.circuit.divide(heard.share);
        self.follow_limits(&heard, &after, &before, now);
        self.follow_refusals(&heard, &after, &before, now);
        self.follow_circuit(&heard, &after, &before, now);
        self.publish();
    }

    fn follow_limits(&mut self, heard: &Heard, after: &Standing, before: &Standing, now: Timestamp) {
        let mut is_news = false;
        for (project, categories, until) in after.limits_since(before) {
            self.cooldown.follow(project, RateLimit { retry_after: heard.left(until), categories }, now);
            is_news = true;
        }
        if is_news {
            self.around.cooldowns.tell(&self.upstream, &self.cooldown);
        }
    }

    fn follow_refusals(&mut self, heard: &Heard, after: &Standing, before: &Standing, now: Timestamp) {
        for (project, refused) in after.refused() {
            if before.refused().get(project) == Some(refused) || self.mark_of_dsn(project) != Some(refused.dsn) {
                continue;
            }
            let span = (now - heard.ago(refused.since), now + heard.left(refused.until));
            if !self.holds.follow(project, span, refused.refusals) {
                self.pace.tell(Lesson::Taken(Arc::clone(project), refused.dsn));
            }
        }
        for (project, refused) in before.refused() {
            if !after.refused().contains_key(project) && self.mark_of_dsn(project) == Some(refused.dsn) {
                self.holds.lift(project);
            }
        }
    }

    fn follow_circuit(&mut self, heard: &Heard, after: &Standing, before: &Standing, now: Timestamp) {
        if after.opened() == before.opened() {
            return;
        }
        match after.opened() {
            // This relay probes.
            Some(opened) if opened.probe == Some(heard.relay) && self.circuit.state() != State::Closed => return,
            Some(opened) => {
                let since = now - heard.ago(opened.since);
                if opened.by != heard.relay && self.circuit.state() == State::Closed && self.last_success > since {
                    self.pace.tell(Lesson::Contradicts(opened.by));
                    return;
                }
                let (until, openings, asks_next) = (now + heard.left(opened.until), opened.openings, opened.asks_next);
                self.circuit.follow(Outage { since, until, openings, asks_next }, opened.reached);
                self.up = false;
            }
            None if after.is_cut_off(heard.relay) => return,
            None => {
                self.up = true;
                if self.circuit.succeeded(now) {
                    self.around.watch.recovered();
                }
            }
        }
        self.told = self.circuit.seen();
    }

    /// Whether a request may be tried now; the error says when to look again. While the circuit is not closed, only one relay tries.
    pub(super) fn may_try(&mut self, now: Timestamp) -> Result<(), Timestamp> {
        if !self.circuit.wants_probe(now, self.in_flight.len()) {
            return Ok(());
        }
        if now < self.forgone_until {
            return Err(self.forgone_until);
        }
        if self.pace.may_probe() { Ok(()) } else { Err(now + AGAIN) }
    }

    /// Gives up the probe while the circuit is not closed, because nothing is there to try: another relay may have something.
    pub(super) fn forgo_probe(&mut self, now: Timestamp) {
        if self.heard.is_some() && self.circuit.wants_probe(now, self.in_flight.len()) {
            self.forgone_until = now + FORGONE;
            self.pace.tell(Lesson::Forgoes);
        }
    }

    /// Tells the state of the circuit if it differs from the one that was told.
    pub(super) fn tell_circuit(&mut self, now: Timestamp) {
        let seen = self.circuit.seen();
        if std::mem::replace(&mut self.told, seen) == seen {
            return;
        }
        self.pace.tell(match seen {
            Seen::Closed => Lesson::Closed,
            Seen::Reached => Lesson::Reached,
            Seen::Open(Outage { since, until, openings, asks_next }) => {
                Lesson::Opened { ago: now.since(since), wait: until.since(now), openings, asks_next }
            }
        });
    }

    /// Tells that the project's DSN is refused, and until when the project waits.
    pub(super) fn tell_refused(&self, project: &Arc<str>, until: Timestamp, now: Timestamp) {
        let Some(dsn) = self.mark_of_dsn(project) else { return };
        let (project, refusals) = (Arc::clone(project), self.holds.refusals(project));
        self.pace.tell(Lesson::Refused { project, dsn, wait: until.since(now), refusals });
    }

    /// Tells that the project's DSN is taken again.
    pub(super) fn tell_taken(&self, project: &Arc<str>) {
        if let Some(dsn) = self.mark_of_dsn(project) {
            self.pace.tell(Lesson::Taken(Arc::clone(project), dsn));
        }
    }

    /// Whether the relays know the project's DSN as refused.
    pub(super) fn is_refused(&self, project: &str) -> bool {
        let known = self.heard.as_ref().and_then(|heard| heard.standings.get(&self.target)?.refused().get(project));
        known.is_some_and(|known| self.mark_of_dsn(project) == Some(known.dsn))
    }

    /// A hash of the project's DSN at this upstream; `None` when it has none.
    fn mark_of_dsn(&self, project: &str) -> Option<u64> {
        let routing = self.around.routing.load();
        let dsn = routing.project(project)?.dsns.get(&self.upstream)?;
        digest(&SHA256, dsn.reveal().as_bytes()).as_ref().first_chunk().copied().map(u64::from_be_bytes)
    }
}

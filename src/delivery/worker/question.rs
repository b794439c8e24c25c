//! The meaning of a failure: the upstream is down, or one project fails. If it may be either, the upstream is asked.
//!
//! Rule: a question is an envelope without items. Trackers check its key and store nothing, and no record pays for it.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::journal::Settlement;
use crate::policy::backoff::Backoff;
use crate::policy::circuit::State;
use crate::policy::verdict::{Verdict, is_poison};
use crate::protocol::dsn::Dsn;

use super::{Ended, Sent, Worker, parcel};

impl Worker {
    /// Retries the record, unless it is poison.
    pub(super) fn failed(&mut self, sent: &Sent, now: Timestamp) -> Settlement {
        let progress = &sent.claim.progress;
        // A strike counts only if the upstream took something else since the last try of this record, or answered a question while next to
        // nothing else fails. An error answer about this record alone is as certain as one while others are taken.
        let previous = sent.began - Backoff::RECORD.at_least(progress.attempts);
        let is_answer = sent.speaks_of_the_record();
        let passed = self.last_success > previous;
        let is_strike = passed || (is_answer && self.circuit.vouches());
        let strikes = progress.strikes + u32::from(is_strike);
        let is_its_own = is_answer && self.circuit.blames_one();
        if is_strike && is_poison(strikes, is_its_own || (is_answer && passed)) {
            if is_its_own {
                // Nothing else fails, and the upstream answers.
                self.circuit.succeeded(now);
                self.up = true;
            }
            return self.refused(sent, now, "poison");
        }
        self.retry(sent, now + Backoff::RECORD.after(progress.attempts + 1), strikes)
    }

    /// Learns from a failure whether it is the upstream's or one project's.
    pub(super) fn learn_from_failure(&mut self, sent: &Sent, now: Timestamp) {
        let (record, why) = (&sent.claim.record, sent.what_went_wrong());
        let alone = self.suspects.failed(&record.project, sent.took, self.circuit.is_reached(), now);
        let opened = self.circuit.failed(now, record.id.number(), alone);
        if sent.speaks_of_the_record() {
            self.circuit.doubts_one(now);
        }
        self.failed_last = Some(Arc::clone(&record.project));
        let is_fine = alone && self.circuit.state() == State::Closed;
        self.up &= is_fine;
        if is_fine {
            self.around.watch.fails_alone(&record.project, &why);
        } else {
            let down_since = opened.then(|| self.circuit.failing_since());
            self.around.watch.failed(down_since, &why);
        }
    }

    /// Asks the upstream whether it is there, under the DSN of the project that failed last.
    pub(super) fn ask(&mut self) {
        let Some(dsn) = self.dsn_to_ask() else { return self.learn_from_answer(Err("there is no DSN".to_owned())) };
        let (mut parcel, transport) = (parcel::question(&dsn), Arc::clone(&self.transport));
        let settings = self.settings();
        settings.headers.apply(parcel.headers_mut());
        let (patience, expected) = (settings.timeout.get(), settings.kind.answers());
        let (headers, key) = (settings.headers.clone(), dsn.public_key().to_owned());
        self.in_flight.push(Box::pin(async move {
            let mut copy = Some(parcel.clone());
            Ended::Asked(
                match transport.send(parcel, patience, &mut || copy.take()).await.map(|reply| reply.judged(expected)) {
                    // An answer from something in the tracker's place says nothing about the tracker.
                    Ok(reply) if reply.is_foreign => Err(headers.hide(reply.gist().replace(&key, "***"))),
                    Ok(reply) if reply.verdict() == Verdict::Failed => Err(reply.status.to_string()),
                    Ok(_) => Ok(()),
                    Err(error) => Err(error.to_string()),
                },
            )
        }));
    }

    fn dsn_to_ask(&self) -> Option<Dsn> {
        let routing = self.around.routing.load();
        let last = self.failed_last.as_ref().and_then(|name| routing.project(name));
        let mut projects = last.into_iter().chain(&routing.projects);
        projects.find_map(|project| project.dsns.get(&self.upstream)).cloned()
    }

    pub(super) fn learn_from_answer(&mut self, answer: Result<(), String>) {
        let now = self.around.clock.now();
        match answer {
            Ok(()) => self.circuit.answered(now),
            Err(why) => {
                if self.circuit.unanswered(now) {
                    self.up = false;
                    self.around.watch.failed(Some(self.circuit.failing_since()), &why);
                }
            }
        }
    }
}

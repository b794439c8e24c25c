//! A request that has ended: what was sent, its result, and the result in words.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::journal::{Claim, DeadLetter, Progress};
use crate::policy::routing::Routing;
use crate::printable;
use crate::protocol::dsn::Dsn;
use crate::protocol::rate_limits;

use super::compress::Compress;
use super::headers;
use super::load::Load;
use super::quirks::{self, Quirks};
use super::settings::Settings;
use super::transport::{KEPT_ANSWER, Reply, SendError};

/// The most characters of an error that are shown.
const ERROR_LENGTH: usize = 300;

/// A request that has ended.
pub(super) struct Sent {
    pub(super) claim: Claim,
    pub(super) load: Load,
    /// The routing that the request was addressed by.
    pub(super) routing: Arc<Routing>,
    /// The settings that the request was sent by.
    pub(super) settings: Arc<Settings>,
    /// The encoding that the upstream refused, while it took the same envelope uncompressed.
    pub(super) declined: Option<Compress>,
    pub(super) began: Timestamp,
    pub(super) took: Duration,
    pub(super) result: Result<Reply, SendError>,
}

impl Sent {
    /// The error in one line that can be shown.
    pub(super) fn what_went_wrong(&self) -> String {
        let text = match &self.result {
            Ok(reply) => reply.gist(),
            Err(error) => error.to_string(),
        };
        printable::in_a_line(&text).take(ERROR_LENGTH).collect()
    }

    /// Whether the answer names limits.
    pub(super) fn names_limits(&self) -> bool {
        let named = |line: &String| !rate_limits::parse(line).is_empty();
        self.result.as_ref().is_ok_and(|reply| reply.rate_limits.iter().any(named))
    }

    /// Whether something else than the tracker, before it or in its place, says that it took the record.
    pub(super) fn is_foreign(&self) -> bool {
        self.result.as_ref().is_ok_and(|reply| reply.is_foreign)
    }

    /// The quirks of the upstream's kind when the request was sent. The request was made by them, and its answer is read by them.
    pub(super) fn quirks(&self) -> &'static Quirks {
        quirks::of(self.settings.kind)
    }

    /// The dead letter of a record that is refused for good.
    pub(super) fn dead_letter(&self, now: Timestamp, reason: &'static str) -> DeadLetter {
        let reply = self.result.as_ref().ok();
        DeadLetter {
            at: now,
            reason: reason.into(),
            status: reply.map(|reply| reply.status.as_u16()),
            answer: reply.map(|reply| reply.text.clone()).unwrap_or_default(),
            attempts: self.claim.progress.attempts + 1,
            items: self.load.positions(),
        }
    }

    /// The progress of the record, including this request.
    pub(super) fn progress(&self, strikes: u32) -> Progress {
        let Progress { attempts, items, .. } = &self.claim.progress;
        Progress { attempts: attempts + 1, strikes, items: items.clone() }
    }

    /// Whether the failure may be the record's own fault.
    pub(super) fn speaks_of_the_record(&self) -> bool {
        self.result.as_ref().is_ok_and(|reply| self.quirks().speaks_of_the_record(reply.status, &reply.text))
    }

    /// Hides our key and headers in the answer. An upstream may repeat them, and they must not get into logs, pages and dead letters.
    pub(super) fn hide_secrets(&mut self, upstream: &str) {
        let Ok(reply) = &mut self.result else { return };
        if reply.status.is_success() && !reply.is_foreign {
            return;
        }
        let is_cut = reply.text.len() >= KEPT_ANSWER;
        let dsn = self.routing.project(&self.claim.record.project).and_then(|project| project.dsns.get(upstream));
        for secret in self.settings.headers.secrets().chain(dsn.map(Dsn::public_key)) {
            reply.text = headers::hide(std::mem::take(&mut reply.text), secret);
            if is_cut {
                headers::hide_cut(&mut reply.text, secret);
            }
        }
    }
}

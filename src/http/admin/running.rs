//! When the relay ran, and since when an upstream has been seen: the status and the report both need it.

use crate::clock::Timestamp;
use crate::journal::JournalError;
use crate::journal::evidence::{Evidence, Stretch};
use crate::telemetry::gaps::GapStatus;
use crate::telemetry::report::span::{self, Span};

use super::state::Admin;

/// When the relay was first started, as far as that is known.
pub(super) fn first_start(admin: &Admin, stretches: &[Stretch]) -> Timestamp {
    stretches.first().map_or(admin.started_at, |stretch| stretch.from).min(admin.started_at)
}

/// Since when the candidate was seen: from its first step on, but not before `known_since`; `now` if it has no step.
pub(super) async fn seen_since(
    admin: &Admin,
    evidence: &Evidence,
    candidate: &str,
    (known_since, now): Span,
) -> Result<Timestamp, JournalError> {
    let first = |evidence: &Evidence| Some(evidence.steps.get(candidate)?.first()?.at);
    if first(evidence).is_some_and(|at| at <= known_since) {
        return Ok(known_since);
    }
    // The candidate may have been quiet when this time began.
    let all = admin.journal.evidence(Timestamp::default()).await?;
    Ok(first(&all).map_or(now, |at| at.max(known_since)))
}

/// When the relay ran. The stretch of this process that began at `own` goes on.
pub(super) fn up(stretches: &[Stretch], own: Timestamp, window: Span) -> Vec<Span> {
    let ran = stretches.iter().map(|stretch| (stretch.from, stretch.to));
    span::within(ran.chain([(own, window.1)]), window)
}

/// When the relay did not run within the window.
pub(super) fn gaps(up: &[Span], window: Span) -> Vec<GapStatus> {
    span::gaps(up, window).into_iter().map(|(from, to)| GapStatus { from, to }).collect()
}

//! Whether trackers store the events that they took: shows it, looks events up on demand, and sends missing ones again.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;

use crate::clock::Timestamp;
use crate::delivery::verifier::{Outcome, STEP as LOOK, SideBySide};
use crate::journal::evidence::Evidence;
use crate::journal::verification::{self, Contents, LOST_BY_TRACKER, Standing, Wanted};
use crate::journal::{Cursor, JournalError, Pick, TargetId};
use crate::protocol::category::Category;
use crate::protocol::event_id::EventId;
use crate::telemetry::ledger::{Account, AccountKey};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::report::{ContentReport, UpstreamReport, VerificationReport};
use crate::telemetry::status::{AccountStatus, Status, UpstreamStatus};
use crate::telemetry::verification::{
    Again, AgainOrder, CompareOrder, Compared, ContentCount, ContentStatus, Differing, LookedAgain, NotFound,
    RepairOrder, Repaired, VerificationStatus, Verified, VerifyOrder,
};

use super::answer::{Refused, refuse};
use super::state::Admin;

/// The most missing events that are listed.
const LISTED: usize = 50;
/// The most events that are sent again in one step of an order.
const STEP: usize = 1000;

/// How far back the status counts comparisons.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The number of missing events at an upstream, by project.
pub(super) type Missing = BTreeMap<Arc<str>, u64>;

/// The number of events in each state, by target and project; empty while the journal does not answer.
pub(super) async fn standings(admin: &Admin) -> Vec<Standing> {
    admin.journal.verification().standings().await.unwrap_or_default()
}

/// The events missing at one target.
pub(super) fn missing(standings: &[Standing], target: TargetId) -> Missing {
    let own = standings.iter().filter(|standing| standing.target == target);
    own.map(|standing| (Arc::clone(&standing.project), standing.missing)).collect()
}

/// The verification of one upstream; `None` if there is no API to ask.
pub(super) async fn status(
    admin: &Admin,
    upstream: &UpstreamStatus,
    standings: &[Standing],
    target: TargetId,
) -> Option<VerificationStatus> {
    let standing = admin.verifier.standing(&upstream.name)?;
    let errors = || upstream.accounts.iter().filter(|account| account.category == Category::Error.name());
    let sum = |figure: fn(&AccountStatus) -> u64| errors().map(figure).sum::<u64>();
    let (trouble_since, trouble) = standing.trouble.unzip();
    let content = content_status(admin, &contents(admin, target, admin.clock.now() - DAY).await.unwrap_or_default());
    let looking = standings.iter().filter(|standing| standing.target == target).map(|standing| standing.looking).sum();
    Some(VerificationStatus {
        delivered: sum(|account| account.delivered),
        stored: sum(|account| account.stored),
        missing: sum(|account| account.missing),
        lost: sum(|account| account.lost),
        unknown: sum(unknown),
        looking,
        last_look_at: standing.last_look,
        behind_since: standing.behind,
        trouble,
        trouble_since,
        content: Some(content).filter(|_| compares(admin)),
    })
}

/// Whether stored events are compared with the sent ones.
fn compares(admin: &Admin) -> bool {
    admin.verifier.settings().compare > 0
}

async fn contents(admin: &Admin, target: TargetId, since: Timestamp) -> Result<Contents, JournalError> {
    admin.journal.verification().contents(target, since).await
}

fn content_status(admin: &Admin, contents: &Contents) -> ContentStatus {
    let mut status = ContentStatus::default();
    let view = admin.view();
    let accepted = contents.accepted(|field| view.report.accept_drift.iter().any(|own| own.covers(field)));
    for (project, compared, differing) in &contents.projects {
        status.compared += compared;
        status.differing += differing;
        let accepted = accepted.get(project).copied().unwrap_or_default().min(*differing);
        status.accepted += accepted;
        let count = ContentCount { compared: *compared, differing: *differing, accepted };
        status.projects.insert(project.to_string(), count);
    }
    status
}

/// The number of delivered events of an account that nobody knows to be stored, missing or lost.
fn unknown(account: &AccountStatus) -> u64 {
    account.delivered.saturating_sub(account.stored + account.missing + account.lost)
}

/// Copies the figures of an upstream into the metrics.
pub(super) fn refresh(metrics: &Metrics, upstream: &UpstreamStatus) {
    let int = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let is_asked = upstream.verification.as_ref().is_some_and(|own| own.trouble.is_none());
    metrics.verification_success.with_label_values(&[&upstream.name]).set(i64::from(is_asked));
    let content = upstream.verification.as_ref().and_then(|own| own.content.clone()).unwrap_or_default();
    for account in upstream.accounts.iter().filter(|account| account.category == Category::Error.name()) {
        let compared = content.projects.get(&account.project).copied().unwrap_or_default();
        let labels = [upstream.name.as_str(), account.project.as_str()];
        metrics.stored_events.with_label_values(&labels).set(int(account.stored));
        metrics.missing_events.with_label_values(&labels).set(int(account.missing));
        metrics.lost_events.with_label_values(&labels).set(int(account.lost));
        metrics.unknown_events.with_label_values(&labels).set(int(unknown(account)));
        metrics.compared_events.with_label_values(&labels).set(int(compared.compared));
        metrics.differing_events.with_label_values(&labels).set(int(compared.differing - compared.accepted));
    }
}

/// Looks up some of the events of an order.
pub(super) async fn look(State(admin): State<Admin>, Json(order): Json<VerifyOrder>) -> Response {
    let VerifyOrder { upstream, since, after } = order;
    let name = Arc::from(upstream.as_str());
    match admin.verifier.look_for(&name, since, Cursor::from_number(after)).await {
        Ok(Some(looked)) => Json(Verified {
            stored: looked.stored,
            absent: looked.absent.iter().map(told).collect(),
            missing: looked.missing.iter().map(told).collect(),
            unknown: looked.unknown,
            recent: looked.recent,
            trouble: looked.trouble,
            next: looked.next.map(Cursor::number),
            look_again_after: looked.look_again_after.as_secs_f64(),
        })
        .into_response(),
        Ok(None) => refused(&no_api(&admin, &upstream)),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}

/// Looks up events once more that a look did not find.
pub(super) async fn look_again(State(admin): State<Admin>, Json(order): Json<AgainOrder>) -> Response {
    let AgainOrder { upstream, after, events } = order;
    let ids: Result<HashSet<EventId>, _> = events.iter().map(|id| id.parse()).collect();
    let Some(ids) = ids.ok().filter(|ids| ids.len() <= LOOK) else {
        return refuse(StatusCode::BAD_REQUEST, &format!("name no more than {LOOK} events by their ids"));
    };
    match admin.verifier.look_again(&Arc::from(upstream.as_str()), Cursor::from_number(after), &ids).await {
        Ok(Some(looked)) => {
            let again = |outcome| match outcome {
                Outcome::Stored => Again::Stored,
                Outcome::NotFound => Again::NotFound,
                Outcome::TakenUp => Again::TakenUp,
                Outcome::Unknown => Again::Unknown,
            };
            let found = looked.found.into_iter().map(|(id, outcome)| (id.to_string(), again(outcome))).collect();
            Json(LookedAgain { found, trouble: looked.trouble }).into_response()
        }
        Ok(None) => refused(&no_api(&admin, &upstream)),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}

/// Compares one event, as it was sent, with the tracker's copy.
pub(super) async fn compare(State(admin): State<Admin>, Json(order): Json<CompareOrder>) -> Response {
    let CompareOrder { upstream, event_id } = order;
    let Ok(id) = event_id.parse() else {
        return refuse(StatusCode::BAD_REQUEST, "an event id has 32 hexadecimal digits");
    };
    let (project, found) = match admin.verifier.side_by_side(&upstream, id).await {
        Ok(found) => found,
        Err(error) => return refuse(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    };
    let (state, why, differences) = match found {
        SideBySide::NotRetained => {
            return refuse(StatusCode::NOT_FOUND, &format!("the journal retains no event {event_id}"));
        }
        SideBySide::NotAsked => return refused(&no_api(&admin, &upstream)),
        SideBySide::Unknown(why) => ("unknown", Some(why), vec![]),
        SideBySide::NotStored => ("not_stored", None, vec![]),
        SideBySide::Stored(differences) => ("stored", None, differences),
    };
    let differences = differences.into_iter().map(Into::into).collect();
    let project = project.map(|project| project.to_string());
    Json(Compared { upstream, event_id, project, state: state.to_owned(), why, differences }).into_response()
}

/// Sends missing events again.
pub(super) async fn repair(State(admin): State<Admin>, Json(order): Json<RepairOrder>) -> Response {
    let since = admin.clock.now() - order.since.get();
    match send_again(&admin, &order.upstream, since, order.dry_run).await {
        Ok(repaired) => Json(repaired).into_response(),
        Err(why) => refused(&why),
    }
}

/// Sends the missing events of an upstream again that were accepted since `since`; if `dry_run` is set, only counts and lists them.
pub(super) async fn send_again(
    admin: &Admin,
    upstream: &str,
    since: Timestamp,
    dry_run: bool,
) -> Result<Repaired, Refused> {
    let target = admin.view.load().targets.of(upstream);
    let (Some(target), Some(_)) = (target, admin.verifier.standing(upstream)) else {
        return Err(no_api(admin, upstream));
    };
    let failed = |error: JournalError| (StatusCode::SERVICE_UNAVAILABLE, error.to_string());
    let all = admin.journal.verification().missing(target, since, LISTED).await.map_err(failed)?;
    let (mut sent_again, mut more) = (0, !dry_run);
    while more {
        let some = admin.verifier.repair(upstream, since, STEP).await.map_err(failed)?;
        sent_again += some as u64;
        more = some == STEP;
    }
    let events = all.sample.iter().map(told).collect();
    Ok(Repaired { upstream: upstream.to_owned(), missing: all.count, sent_again, events })
}

fn refused((status, why): &Refused) -> Response {
    refuse(*status, why)
}

fn no_api(admin: &Admin, upstream: &str) -> Refused {
    let why = match admin.view.load().upstreams.contains_key(upstream) {
        true => format!(
            "{upstream} cannot be asked what it stores: add [upstreams.{upstream}.api] with its token to the configuration \
             (`switchyard check` says what else is missing)"
        ),
        false => format!("{upstream:?} is no upstream of the configuration"),
    };
    (StatusCode::NOT_FOUND, why)
}

fn told(event: &Wanted) -> NotFound {
    NotFound {
        event_id: event.event_id.to_string(),
        project: event.project.to_string(),
        accepted_at: event.accepted_at,
        repairs: event.repairs,
    }
}

/// The verification of an upstream for the report; `None` if there is no API to ask.
pub(super) async fn report(
    admin: &Admin,
    upstream: &UpstreamReport,
    evidence: &Evidence,
    status: &Status,
    since: Timestamp,
) -> Result<Option<VerificationReport>, JournalError> {
    let own = status.upstreams.iter().find(|own| own.name == upstream.name).and_then(|own| own.verification.as_ref());
    let (Some(own), Some(target)) = (own, admin.view.load().targets.of(&upstream.name)) else {
        return Ok(None);
    };
    let is_own =
        |key: &&AccountKey| key.upstream.as_deref() == Some(&*upstream.name) && key.category == Category::Error;
    let mut sums = Account::default();
    for (_, account) in evidence.accounts.iter().filter(|(key, _)| is_own(key)) {
        sums.delivered += account.delivered;
        sums.stored += account.stored;
        sums.vanished += account.vanished;
        sums.lost += account.lost;
    }
    let missing = admin.journal.verification().missing(target, since, LISTED).await?;
    let recent = recent(admin, target, since).await?;
    let (delivered, stored, lost) = (sums.delivered, sums.stored_now(), sums.lost);
    let known = stored + missing.count + lost;
    let recent = recent.min(delivered.saturating_sub(known));
    let pick = Pick { target: Some(target), reason: Some(LOST_BY_TRACKER.into()), since, ..Pick::default() };
    let letters = admin.journal.letters(pick, u64::MAX, usize::MAX).await?;
    let (given_up, given_up_at) = (letters.len() as u64, letters.iter().map(|letter| letter.accepted_at).max());
    // A lost event that was sent again is counted as delivered once more; one that was given up was not sent again.
    let expected = (delivered - recent).saturating_sub(lost) + given_up;
    #[expect(clippy::cast_precision_loss, reason = "a share is shown with three digits")]
    let stored_percent = if expected == 0 { 0.0 } else { stored.min(expected) as f64 / expected as f64 * 100.0 };
    Ok(Some(VerificationReport {
        delivered,
        stored,
        missing: missing.count,
        lost,
        given_up,
        given_up_at,
        recent,
        unknown: delivered.saturating_sub(known + recent),
        stored_percent,
        sample: missing.sample.iter().map(told).collect(),
        trouble: own.trouble.clone(),
        content: content(admin, &upstream.name, target, since).await?,
    }))
}

/// The comparisons since `since`. If there are none and the last day is longer, those of the last day; `None` if comparing is off.
async fn content(
    admin: &Admin,
    upstream: &str,
    target: TargetId,
    since: Timestamp,
) -> Result<Option<ContentReport>, JournalError> {
    if !compares(admin) {
        return Ok(None);
    }
    let (mut since, mut found) = (since, contents(admin, target, since).await?);
    let yesterday = admin.clock.now() - DAY;
    if found.projects.is_empty() && yesterday < since {
        (since, found) = (yesterday, contents(admin, target, yesterday).await?);
    }
    let counts = content_status(admin, &found);
    let differing_field = |one: verification::Differing| Differing {
        event_id: one.event_id.to_string(),
        project: one.project.to_string(),
        compared_at: one.at,
        difference: one.difference,
    };
    let differences = found.differences.into_iter().map(differing_field).collect();
    let since = Timestamp::from_millis(since.hour() * 3_600_000);
    let trouble = admin.verifier.standing(upstream).and_then(|standing| standing.not_compared);
    let accept_drift = admin.view().report.accept_drift.iter().map(|field| field.as_str().to_owned()).collect();
    Ok(Some(ContentReport { trouble, accept_drift, ..ContentReport::new(since, &counts, differences) }))
}

/// The number of events that were accepted so recently that it is too early for a look, or for a second one.
async fn recent(admin: &Admin, target: TargetId, since: Timestamp) -> Result<u64, JournalError> {
    let early = since.max(admin.clock.now() - admin.verifier.settings().settle.get() * 3);
    let (mut count, mut after) = (0, None);
    loop {
        let taken = admin.journal.verification().taken(target, early, after, Cursor::START).await?;
        count += taken.events.len() as u64;
        after = taken.next;
        if after.is_none() {
            return Ok(count);
        }
    }
}

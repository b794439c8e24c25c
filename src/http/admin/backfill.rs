//! Backfills on the admin listener: begins, counts, shows and cancels them. The daemon carries them out in small steps.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;

use crate::clock::Timestamp;
use crate::journal::backfill::{Backfill, BackfillStep, Scope, Survey};
use crate::journal::{Cursor, JournalError, TargetId};
use crate::telemetry::backfill::{BackfillEnd, BackfillOrder, BackfillStatus, Backfills};
use crate::units::Period;

use super::answer::{Refused, refuse};
use super::state::Admin;

pub(super) async fn show(State(admin): State<Admin>) -> Response {
    Json(Backfills { backfills: all(&admin).await }).into_response()
}

/// The last backfill of each upstream.
pub(super) async fn all(admin: &Admin) -> Vec<BackfillStatus> {
    let backfills = admin.journal.backfills().await.unwrap_or_default();
    backfills.iter().map(|backfill| status(admin, backfill)).collect()
}

pub(super) async fn begin(State(admin): State<Admin>, Json(order): Json<BackfillOrder>) -> Response {
    let (scope, note) = match scope(&admin, &order) {
        Ok(found) => found,
        Err(why) => return refuse(StatusCode::NOT_FOUND, &why),
    };
    match run(&admin, scope, order.dry_run).await {
        Ok(Some(begun)) => Json(BackfillStatus { note, ..begun }).into_response(),
        Ok(None) => refuse(
            StatusCode::CONFLICT,
            &format!("a backfill of {} is running already: cancel it first", order.upstream),
        ),
        Err(error) => failed(&error),
    }
}

pub(super) async fn cancel(State(admin): State<Admin>, Json(end): Json<BackfillEnd>) -> Response {
    let ended = stop(&admin, &end.upstream).await;
    ended.map_or_else(|(status, why)| refuse(status, &why), |ended| Json(ended).into_response())
}

/// Cancels the backfill of an upstream.
pub(super) async fn stop(admin: &Admin, upstream: &str) -> Result<BackfillStatus, Refused> {
    let none = || (StatusCode::NOT_FOUND, format!("no backfill of {upstream} is running"));
    let target = target(admin, upstream).ok_or_else(none)?;
    let all = admin.journal.backfills().await.map_err(|error| unavailable(&error))?;
    if !all.iter().any(|backfill| backfill.scope.target == target && backfill.is_running()) {
        return Err(none());
    }
    let ended = admin.journal.backfill(target, BackfillStep::Cancel).await.map_err(|error| unavailable(&error))?;
    ended.map(|backfill| status(admin, &backfill)).ok_or_else(none)
}

/// Counts the records of `scope`, and begins the backfill unless `dry_run` is set. `None` if it cannot begin because one is running.
async fn run(admin: &Admin, scope: Scope, dry_run: bool) -> Result<Option<BackfillStatus>, JournalError> {
    let running = admin.journal.backfills().await?;
    if !dry_run && running.iter().any(|other| other.scope.target == scope.target && other.is_running()) {
        return Ok(None);
    }
    let mut all = Survey { next: Some(Cursor::START), ..Survey::default() };
    while let Some(from) = all.next {
        let some = admin.journal.survey(scope.clone(), from).await?;
        all = Survey { records: all.records + some.records, bytes: all.bytes + some.bytes, next: some.next };
    }
    let target = scope.target;
    let planned = Backfill {
        scope,
        until: Cursor::START,
        reached: Cursor::START,
        found: all.records,
        taken: 0,
        started_at: admin.clock.now(),
        ended_at: None,
        cancelled: false,
    };
    let mut shown = status(admin, &planned);
    shown.bytes = Some(all.bytes);
    if dry_run {
        shown.state = "planned".to_owned();
        return Ok(Some(shown));
    }
    let projects = shown.projects.join(" ");
    admin.journal.backfill(target, BackfillStep::Begin(Box::new(planned))).await?;
    tracing::info!(upstream.name = shown.upstream, projects, envelopes = all.records, "a backfill begins");
    admin.backfill_begun.notify_one();
    Ok(Some(shown))
}

/// The scope of an order, cut to what can be had, and a note if it was cut; an error if nothing can be had.
fn scope(admin: &Admin, order: &BackfillOrder) -> Result<(Scope, Option<String>), String> {
    let view = admin.view();
    let name = order.upstream.as_str();
    let max_age = view.upstreams.get(name).copied();
    let (Some(target), Some(max_age)) = (target(admin, name), max_age) else {
        return Err(format!("{name:?} is no upstream of the configuration"));
    };
    let with_dsn = view.routing.projects.iter().filter(|project| project.dsns.contains_key(name));
    let asked = with_dsn.filter(|project| order.project.as_deref().is_none_or(|asked| *project.name == *asked));
    let projects: Vec<Arc<str>> = asked.map(|project| Arc::clone(&project.name)).collect();
    if projects.is_empty() {
        return Err(match &order.project {
            Some(project) => format!("{project:?} is no project with a DSN at {name}"),
            None => format!("no project has a DSN at {name}"),
        });
    }
    let now = admin.clock.now();
    let (most, option) = [(view.retain, "journal.retain"), (max_age, "max_age of the upstream")]
        .into_iter()
        .min()
        .unwrap_or((view.retain, "journal.retain"));
    let note = (order.since.get() > most).then(|| {
        let most = Period::secs(most.as_secs());
        format!("{} were asked for, and only {most} can be had: {option}", order.since)
    });
    Ok((Scope { target, projects, since: now - order.since.get().min(most) }, note))
}

fn target(admin: &Admin, name: &str) -> Option<TargetId> {
    admin.view.load().targets.of(name)
}

fn status(admin: &Admin, backfill: &Backfill) -> BackfillStatus {
    let Backfill { scope, found, taken, started_at, ended_at, cancelled, .. } = backfill;
    let upstream = admin.view.load().targets.name(scope.target).map(ToString::to_string);
    let state = match (ended_at, cancelled) {
        (None, _) => "running",
        (Some(_), false) => "done",
        (Some(_), true) => "cancelled",
    };
    BackfillStatus {
        upstream: upstream.unwrap_or_default(),
        projects: scope.projects.iter().map(ToString::to_string).collect(),
        since: scope.since,
        state: state.to_owned(),
        found: *found,
        taken: *taken,
        bytes: None,
        started_at: *started_at,
        ended_at: ended_at.filter(|at| *at != Timestamp::default()),
        note: None,
    }
}

fn unavailable(error: &JournalError) -> Refused {
    (StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

fn failed(error: &JournalError) -> Response {
    let (status, why) = unavailable(error);
    refuse(status, &why)
}

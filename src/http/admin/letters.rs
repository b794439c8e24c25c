//! Dead letters on the admin listener: lists, shows, exports, retries and discards them.
//!
//! Rule: the keys in an envelope's header are hidden where it is shown; an exported envelope has the bytes that were accepted. Files are
//! read on other threads, a piece at a time.

use axum::Json;
use axum::body::Body as Answer;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::journal::body::Body;
use crate::journal::{JournalError, Letter, Pick, Record, TargetId};
use crate::tasks;
use crate::telemetry::letters::{LetterDetail, LetterItem, LetterPage, LetterPick, LetterSummary, LettersChanged};

use super::answer::{Refused, refuse};
use super::state::Admin;

/// How many dead letters are listed by default, and at most.
const LISTED: usize = 50;
const MOST_LISTED: usize = 1000;
/// How many dead letters are changed in one step.
const STEP: usize = 256;
/// The most bytes of a payload that are shown.
const SHOWN: u64 = 2000;
/// The most items of an envelope that are shown.
const ITEMS: usize = 100;

/// The query of the list.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Listing {
    upstream: Option<String>,
    reason: Option<String>,
    before: Option<u64>,
    limit: Option<usize>,
}

pub(super) async fn list(State(admin): State<Admin>, Query(listing): Query<Listing>) -> Response {
    let Listing { upstream, reason, before, limit } = listing;
    let target = match upstream.map(|name| target(&admin, &name)).transpose() {
        Ok(target) => target,
        Err((status, why)) => return refuse(status, &why),
    };
    let limit = limit.unwrap_or(LISTED).clamp(1, MOST_LISTED);
    let pick = Pick { target, reason: reason.map(Into::into), ..Pick::default() };
    match admin.journal.letters(pick, before.unwrap_or(u64::MAX), limit).await {
        Ok(letters) => {
            let next = letters.last().map(|letter| letter.id).filter(|_| letters.len() == limit);
            Json(LetterPage { dead_letters: letters.iter().map(summary).collect(), next }).into_response()
        }
        Err(error) => failed(&error),
    }
}

pub(super) async fn show(State(admin): State<Admin>, Path(id): Path<u64>) -> Response {
    match admin.journal.letter(id).await {
        Ok(Some((letter, record))) => Json(tasks::blocking(move || detail(&letter, &record)).await).into_response(),
        Ok(None) => unknown(id),
        Err(error) => failed(&error),
    }
}

/// Answers with the body as it was accepted.
pub(super) async fn envelope(State(admin): State<Admin>, Path(id): Path<u64>) -> Response {
    let body = match admin.journal.letter(id).await {
        Ok(Some((_, record))) => match &record.body {
            Body::Memory(bytes) => Answer::from(bytes.clone()),
            file @ Body::Large(_) => Answer::from_stream(file.clone().pieces()),
        },
        Ok(None) => return unknown(id),
        Err(error) => return failed(&error),
    };
    ([(header::CONTENT_TYPE, "application/x-sentry-envelope")], body).into_response()
}

pub(super) async fn retry(State(admin): State<Admin>, Json(pick): Json<LetterPick>) -> Response {
    changed(change(&admin, &pick, true).await)
}

pub(super) async fn discard(State(admin): State<Admin>, Json(pick): Json<LetterPick>) -> Response {
    changed(change(&admin, &pick, false).await)
}

fn changed(done: Result<LettersChanged, Refused>) -> Response {
    done.map_or_else(|(status, why)| refuse(status, &why), |done| Json(done).into_response())
}

/// Retries or discards the dead letters that `pick` names.
pub(super) async fn change(admin: &Admin, pick: &LetterPick, retry: bool) -> Result<LettersChanged, Refused> {
    let mut done = LettersChanged::default();
    for one in picks(admin, pick)? {
        let some = change_some(admin, one, retry).await.map_err(|error| unavailable(&error))?;
        (done.changed, done.left) = (done.changed + some.changed, done.left + some.left);
    }
    match pick.ids.as_slice() {
        [id] if done == LettersChanged::default() => Err((StatusCode::NOT_FOUND, no_such(*id))),
        _ => Ok(done),
    }
}

/// Retries or discards the dead letters of one pick, in steps. Those older than their upstream's `max_age` are not retried.
async fn change_some(admin: &Admin, mut pick: Pick, retry: bool) -> Result<LettersChanged, JournalError> {
    let everything = pick.clone();
    if let Some(max_age) = pick.target.filter(|_| retry).and_then(|target| max_age(admin, target)) {
        pick.since = admin.clock.now() - max_age;
    }
    let mut changed = 0;
    loop {
        let some = match retry {
            true => admin.journal.retry_letters(pick.clone(), STEP).await?,
            false => admin.journal.discard_letters(pick.clone(), STEP).await?,
        };
        changed += some as u64;
        if some < STEP {
            break;
        }
    }
    let left = admin.journal.letters(everything, u64::MAX, usize::MAX).await?.len() as u64;
    Ok(LettersChanged { changed, left })
}

fn max_age(admin: &Admin, target: TargetId) -> Option<std::time::Duration> {
    let view = admin.view.load();
    view.upstreams.get(view.targets.name(target)?).copied()
}

/// The picks for the journal: one for each id and upstream, because each upstream has its own `max_age`.
fn picks(admin: &Admin, pick: &LetterPick) -> Result<Vec<Pick>, Refused> {
    let LetterPick { ids, all, upstream, reason } = pick;
    if ids.is_empty() && !all && upstream.is_none() && reason.is_none() {
        return Err((StatusCode::BAD_REQUEST, "say which: ids, all, upstream, or reason".to_owned()));
    }
    let targets = match upstream {
        Some(name) => vec![target(admin, name)?],
        None => admin.view.load().targets.iter().map(|(id, _)| id).collect(),
    };
    let ids = if ids.is_empty() { vec![None] } else { ids.iter().copied().map(Some).collect() };
    let reason: Option<Box<str>> = reason.as_deref().map(Into::into);
    let pick = |(id, target): (Option<u64>, TargetId)| Pick {
        id,
        target: Some(target),
        reason: reason.clone(),
        ..Pick::default()
    };
    Ok(ids.into_iter().flat_map(|id| targets.iter().map(move |target| (id, *target))).map(pick).collect())
}

/// The target of an upstream, which need not be configured any more.
fn target(admin: &Admin, name: &str) -> Result<TargetId, Refused> {
    admin.view.load().targets.of(name).ok_or_else(|| (StatusCode::NOT_FOUND, format!("{name:?} is no upstream")))
}

/// The newest dead letters of all upstreams, for the status page.
pub(super) async fn newest(admin: &Admin, limit: usize) -> Vec<LetterSummary> {
    let letters = admin.journal.letters(Pick::default(), u64::MAX, limit).await.unwrap_or_default();
    letters.iter().map(summary).collect()
}

/// The dead letter of this id.
pub(super) async fn one(admin: &Admin, id: u64) -> Result<LetterSummary, Refused> {
    let pick = Pick { id: Some(id), ..Pick::default() };
    let letters = admin.journal.letters(pick, u64::MAX, 1).await.map_err(|error| unavailable(&error))?;
    letters.first().map(summary).ok_or_else(|| (StatusCode::NOT_FOUND, no_such(id)))
}

fn summary(letter: &Letter) -> LetterSummary {
    let refusal = &letter.refusal;
    LetterSummary {
        id: letter.id,
        upstream: letter.upstream.to_string(),
        project: letter.project.to_string(),
        at: refusal.at,
        accepted_at: letter.accepted_at,
        reason: refusal.reason.to_string(),
        status: refusal.status,
        answer: refusal.answer.clone(),
        attempts: refusal.attempts,
        event_id: letter.event_id.map(|id| id.to_string()),
        bytes: letter.size,
        quantities: letter.quantities.iter().map(|(category, n)| (category.to_string(), n)).collect(),
    }
}

/// Reads what is shown of the body. Blocks while it reads a file.
fn detail(letter: &Letter, record: &Record) -> LetterDetail {
    let user_agent = record.client.user_agent.as_deref().map(str::to_owned);
    let is_refused =
        |i: usize| letter.refusal.items.as_ref().is_none_or(|items| items.iter().any(|item| usize::from(*item) == i));
    let (header, items) = match record.body.outline() {
        Ok(outline) => {
            let items = outline.items().iter().enumerate().take(ITEMS);
            let shown = items.map(|(i, item)| {
                let (line, _) = piece(&record.body, item.header());
                part(&record.body, is_refused(i), line, item.payload())
            });
            (Some(without_keys(outline.header())), shown.collect())
        }
        Err(why) => (None, vec![part(&record.body, true, format!("no envelope: {why}"), 0..record.body.len())]),
    };
    LetterDetail { summary: summary(letter), user_agent, header, items }
}

fn part(body: &Body, refused: bool, header: String, payload: std::ops::Range<u64>) -> LetterItem {
    let bytes = payload.end - payload.start;
    let (beginning, cut) = piece(body, payload);
    LetterItem { refused, header, bytes, beginning, cut }
}

/// The beginning of a range as text, and whether there is more.
fn piece(body: &Body, range: std::ops::Range<u64>) -> (String, bool) {
    let end = range.end.min(range.start + SHOWN);
    let text = match body.piece(range.start..end) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("(cannot be read: {error})"),
    };
    (text, end < range.end)
}

/// The header of an envelope with its keys hidden.
fn without_keys(line: &[u8]) -> Value {
    let mut header: Value = serde_json::from_slice(line).unwrap_or_default();
    for (at, key) in [("", "dsn"), ("/trace", "public_key")] {
        if let Some(value) = header.pointer_mut(at).and_then(|part| part.get_mut(key)) {
            *value = json!("***");
        }
    }
    header
}

fn no_such(id: u64) -> String {
    format!("there is no dead letter {id}")
}

fn unknown(id: u64) -> Response {
    refuse(StatusCode::NOT_FOUND, &no_such(id))
}

fn unavailable(error: &JournalError) -> Refused {
    (StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

fn failed(error: &JournalError) -> Response {
    let (status, why) = unavailable(error);
    refuse(status, &why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_shown_without_its_keys() {
        let line = br#"{"event_id":"a","dsn":"http://key@h/1","trace":{"public_key":"key","trace_id":"t"}}"#;
        let shown = without_keys(line);
        assert_eq!(shown, json!({"event_id": "a", "dsn": "***", "trace": {"public_key": "***", "trace_id": "t"}}));
        assert_eq!(without_keys(b"{}"), json!({}));
    }
}

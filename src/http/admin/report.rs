//! Gathers the report: status, evidence, outages and the comparison of the kept records. The criteria of `[report]` then judge it.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;

use crate::clock::Timestamp;
use crate::journal::archive::{Comparison, Fate, Unequal};
use crate::journal::evidence::{CANARY_FAILED, Evidence, Outage, Stretch};
use crate::journal::{Cursor, JournalError};
use crate::policy::outcome::DropReason;
use crate::policy::verdict::Verdict;
use crate::protocol::category::Category;
use crate::telemetry::lags::{self, Lags};
use crate::telemetry::observations::Performance;
use crate::telemetry::report::span::{self, Span};
use crate::telemetry::report::{
    CategoryReport, ComparisonReport, ContentReport, IntakeReport, LagReport, Missed, MissedReport, RelayReport,
    Report, SLOW, UpstreamReport, WithinReport, criteria,
};
use crate::telemetry::series::Step;
use crate::telemetry::status::{OutageStatus, Status, UpstreamStatus};
use crate::units::Period;

use super::answer::refuse;
use super::state::{Admin, View};
use super::verify;
use super::{running, scrape, services};

/// The most outages and switches of one report.
const MOST: usize = 1000;
/// The most records listed as missed by one upstream.
const SAMPLE: usize = 50;
/// The most steps of the comparison, of ten thousand records each.
const LOOKS: usize = 100;

/// If several relays share the journal, a stretch that ended less than this ago may be that of a live relay.
const MAY_GO_ON: Duration = Duration::from_secs(30);

/// The facts that count against an upstream besides dropped items.
const OF_A_FAULT: [&str; 2] = [CANARY_FAILED, Verdict::Misconfigured.name()];

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoReport {
    /// It is not clear which upstream is the candidate.
    #[error("{0}")]
    Candidate(String),
    /// The journal does not answer.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// The data that a report is made of.
struct Sources {
    since: Timestamp,
    window: Span,
    status: Status,
    evidence: Evidence,
    outages: Vec<Outage>,
    /// When the relay ran, within the window.
    up: Vec<Span>,
    /// The lag that deliveries must stay below.
    max_lag: Duration,
}

/// Makes the report of the time since `since`.
pub(super) async fn report(admin: &Admin, since: Timestamp, candidate: Option<&str>) -> Result<Report, NoReport> {
    let mut report = judged(admin, since, candidate).await?;
    report.comparison = compare(admin, &report.primary, &report.candidate, since).await?;
    Ok(report)
}

/// As [`report`], without the comparison, which reads every kept record and on which no criterion rests.
pub(super) async fn judged(admin: &Admin, since: Timestamp, candidate: Option<&str>) -> Result<Report, NoReport> {
    let admin = &admin.of_now();
    let (now, view) = (admin.clock.now(), admin.view());
    let candidate = the_candidate(&view, candidate)?;
    let evidence = admin.journal.evidence(since).await?;
    let known_since = since.max(running::first_start(admin, &evidence.stretches));
    let seen_since = running::seen_since(admin, &evidence, &candidate, (known_since, now)).await?;
    let observed_at = evidence.stretches.last().map_or(now, |last| last.to.min(now));
    let up = running::up(&evidence.stretches, admin.pulse.since(), (since, now));
    let outages = admin.journal.outages(since, MOST).await?;
    let status = scrape::status(admin).await;
    let sources = Sources {
        since,
        window: (known_since, now),
        status,
        evidence,
        outages,
        up,
        max_lag: view.report.max_lag_p99.get(),
    };
    let mut upstreams: Vec<UpstreamReport> =
        sources.status.upstreams.iter().map(|upstream| sources.upstream(upstream, &candidate)).collect();
    for upstream in &mut upstreams {
        // Present refusals count until it is known that they are temporary.
        let in_doubt = admin.board.report(&upstream.name).map_or(0, |report| report.in_doubt);
        *upstream.attempts.entry(Verdict::Misconfigured.name().to_owned()).or_default() += in_doubt;
        upstream.verification = verify::report(admin, upstream, &sources.evidence, &sources.status, since).await?;
    }
    upstreams.sort_by_key(|upstream| (upstream.role != "primary", upstream.role != "candidate", upstream.name.clone()));
    let primary = view.routing.primary.to_string();
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now,
        since,
        counted_since: Timestamp::from_millis(since.hour() * 3_600_000),
        known_since,
        seen_since,
        observed_at,
        canaries: view.canaries,
        ready: false,
        verdict: String::new(),
        criteria: vec![],
        relay: sources.relay(),
        intake: sources.intake(),
        services: services::services(admin, &view, &sources.evidence, since).await?,
        switches: scrape::switches(admin, MOST).await.into_iter().filter(|switch| switch.at >= since).collect(),
        primary,
        candidate,
        upstreams,
        comparison: ComparisonReport::default(),
    };
    criteria::judge(&view.report, &mut report);
    Ok(report)
}

impl Admin {
    /// The report's verdict on the only candidate: its name, whether it is ready, and the verdict in words. `None` without a single
    /// candidate, or if the journal cannot be read.
    pub async fn verdict(&self) -> Option<(String, bool, String)> {
        let since = self.clock.now() - self.view().report.window.get();
        let report = judged(self, since, None).await.ok()?;
        Some((report.candidate, report.ready, report.verdict))
    }
}

/// The upstreams that may be judged: all but the primary.
pub(super) fn candidates(view: &View) -> Vec<&str> {
    view.upstreams.keys().map(|name| &**name).filter(|name| *name != &*view.routing.primary).collect()
}

/// The named upstream, or the only one that is not the primary.
fn the_candidate(view: &View, named: Option<&str>) -> Result<String, NoReport> {
    let primary = &*view.routing.primary;
    let others = candidates(view);
    let which = match (named, others.as_slice()) {
        (Some(named), _) if named == primary => Err(format!("{named} is the primary already: name another upstream")),
        (Some(named), _) if others.contains(&named) => Ok(named.to_owned()),
        (Some(named), _) => {
            Err(format!("{named:?} is no upstream; besides the primary there are {}", others.join(", ")))
        }
        (None, [one]) => Ok((*one).to_owned()),
        (None, []) => Err(format!("{primary} is the only upstream: there is nothing to compare it with")),
        (None, _) => Err(format!("name one of {} as the candidate (--candidate, ?candidate=)", others.join(", "))),
    };
    which.map_err(NoReport::Candidate)
}

fn percent(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole * 100.0 } else { 0.0 }
}

impl Sources {
    fn relay(&self) -> RelayReport {
        let window_seconds = self.window.1.since(self.window.0).as_secs_f64();
        let up_seconds = span::length(&self.up).as_secs_f64();
        let stretches = &self.evidence.stretches;
        let is_alone = self.status.journal.relays.is_empty();
        let has_ended = |stretch: &Stretch| match is_alone {
            true => stretch.from < self.status.started_at,
            false => self.window.1.since(stretch.to) > MAY_GO_ON,
        };
        let ended = stretches.iter().filter(|stretch| stretch.to >= self.since && has_ended(stretch));
        RelayReport {
            window_seconds,
            up_seconds,
            uptime_percent: percent(up_seconds, window_seconds),
            starts: stretches.iter().filter(|stretch| stretch.from >= self.window.0).count() as u64,
            crashes: ended.filter(|stretch| !stretch.stopped).count() as u64,
            gaps: running::gaps(&self.up, self.window),
        }
    }

    fn intake(&self) -> IntakeReport {
        let mut intake = IntakeReport::default();
        for (key, account) in self.evidence.accounts.iter().filter(|(key, _)| key.upstream.is_none()) {
            *intake.accepted.entry(key.category.to_string()).or_default() += account.accepted;
        }
        for tally in &self.evidence.intake {
            match &*tally.what {
                "duplicate" => _ = intake.duplicates.insert(tally.kind.to_string(), tally.count),
                "refused" => _ = intake.refused.insert(tally.kind.to_string(), tally.count),
                "refused_item" => _ = intake.refused_items.insert(tally.kind.to_string(), tally.count),
                _ => {}
            }
        }
        intake
    }

    fn upstream(&self, status: &UpstreamStatus, candidate: &str) -> UpstreamReport {
        let role = match status.name.as_str() {
            name if name == candidate => "candidate",
            _ if status.role == "primary" => "primary",
            _ => "shadow",
        };
        let performance = self.evidence.performance.get(status.name.as_str()).cloned().unwrap_or_default();
        let own: Vec<&Outage> = self.outages.iter().filter(|outage| *outage.upstream == *status.name).collect();
        let spans = own.iter().map(|outage| (outage.from, outage.to.unwrap_or(self.window.1)));
        let down = span::within(spans, self.window);
        // Nobody knows what was down while the relay was down.
        let outage_seconds: f64 =
            self.up.iter().map(|up| span::length(&span::within(down.iter().copied(), *up)).as_secs_f64()).sum();
        let up_seconds = span::length(&self.up).as_secs_f64();
        let categories = self.categories(status);
        let mut dropped = BTreeMap::new();
        for (reason, quantity) in
            categories.iter().filter(|row| Category::counts_items(&row.category)).flat_map(|row| &row.dropped)
        {
            *dropped.entry(reason.clone()).or_default() += quantity;
        }
        UpstreamReport {
            name: status.name.clone(),
            role: role.to_owned(),
            categories,
            dropped,
            latest: self.latest(&status.name),
            attempts: attempts(&performance),
            lag: lag(&performance.lags),
            within: self.within(&status.name),
            outages: own.into_iter().map(told).collect(),
            outage_seconds,
            availability_percent: percent(up_seconds - outage_seconds, up_seconds),
            waiting: status.backlog.envelopes,
            dead_letters: status.dead_letters,
            limits: status.limits.clone(),
            verification: None,
            canaries_failed: self.canaries_failed(&status.name),
            canary: status.canary.clone(),
            difference: status.difference,
        }
    }

    /// The figures of an upstream that are finer than by the hour.
    fn within(&self, name: &str) -> Option<WithinReport> {
        let (steps, later) = (self.evidence.steps.get(name), self.evidence.later_lags.get(name));
        let (steps, later) = (steps.map_or(&[][..], Vec::as_slice), later.cloned().unwrap_or_default());
        WithinReport::new(self.since, self.window.1, steps, &later)
    }

    /// When each fact that counts against an upstream last happened: the beginning of that hour or step.
    fn latest(&self, name: &str) -> BTreeMap<String, Timestamp> {
        let own = self.evidence.latest.iter().filter(|((upstream, _), _)| **upstream == *name);
        let mut latest: BTreeMap<String, Timestamp> = own.map(|((_, what), at)| (what.to_string(), *at)).collect();
        latest.retain(|what, _| OF_A_FAULT.contains(&what.as_str()) || DropReason::from_name(what).is_some());
        let steps = self.evidence.steps.get(name).map_or(&[][..], Vec::as_slice);
        let is_slow = |step: &&Step| step.lag_p99.is_some_and(|ms| Duration::from_millis(ms) >= self.max_lag);
        if let Some(step) = steps.iter().rfind(is_slow) {
            latest.insert(SLOW.to_owned(), step.at);
        }
        latest
    }

    /// How often canaries began to fail.
    fn canaries_failed(&self, upstream: &str) -> u64 {
        let own = self.evidence.intake.iter().filter(|tally| &*tally.what == CANARY_FAILED && *tally.kind == *upstream);
        own.map(|tally| tally.count).sum()
    }

    fn categories(&self, status: &UpstreamStatus) -> Vec<CategoryReport> {
        let mut categories: BTreeMap<String, CategoryReport> = BTreeMap::new();
        for (key, account) in &self.evidence.accounts {
            if key.upstream.as_deref() != Some(status.name.as_str()) {
                continue;
            }
            let own = categories.entry(key.category.to_string()).or_default();
            own.accepted += account.accepted;
            own.delivered += account.delivered;
            own.returned += account.returned;
            own.backfilled += account.backfilled;
            own.retried += account.retried;
            for reason in DropReason::ALL.into_iter().filter(|reason| account.dropped(*reason) > 0) {
                *own.dropped.entry(reason.to_string()).or_default() += account.dropped(reason);
            }
        }
        for account in status.accounts.iter().filter(|account| account.pending > 0) {
            categories.entry(account.category.clone()).or_default().pending += account.pending;
        }
        categories.into_iter().map(|(category, own)| CategoryReport { category, ..own }).collect()
    }
}

fn attempts(performance: &Performance) -> BTreeMap<String, u64> {
    Verdict::ALL.into_iter().map(|verdict| (verdict.name().to_owned(), performance.attempts(verdict))).collect()
}

fn lag(lags: &Lags) -> Option<LagReport> {
    let seconds = |share| Some(lags.quantile(share)?.as_secs_f64());
    Some(LagReport {
        count: lags.count(),
        p50_seconds: seconds(0.5)?,
        p99_seconds: seconds(0.99)?,
        max_seconds: lags.max().as_secs_f64(),
        error_percent: lags::ERROR * 100.0,
    })
}

fn told(outage: &Outage) -> OutageStatus {
    OutageStatus { from: outage.from, to: outage.to, cause: outage.cause.to_string() }
}

/// Compares the records that the journal still keeps, in steps between which others are served.
async fn compare(
    admin: &Admin,
    primary: &str,
    candidate: &str,
    since: Timestamp,
) -> Result<ComparisonReport, NoReport> {
    let targets = admin.view().targets;
    let (Some(a), Some(b)) = (targets.of(primary), targets.of(candidate)) else {
        return Ok(ComparisonReport::default());
    };
    let mut report = ComparisonReport::default();
    let mut after = Some(Cursor::START);
    for _ in 0..LOOKS {
        let Some(from) = after else { break };
        let part = admin.journal.compare((a, b), since, from).await?;
        after = part.next;
        add(&mut report, part);
    }
    report.complete = after.is_none();
    Ok(report)
}

fn add(report: &mut ComparisonReport, part: Comparison) {
    report.compared += part.compared;
    report.oldest = report.oldest.or(part.oldest);
    report.candidate_waits += part.pending.1;
    report.primary_waits += part.pending.0;
    for unequal in part.unequal {
        match (unequal.a, unequal.b) {
            (Fate::Delivered, why) => miss(&mut report.candidate_missed, unequal, why),
            (why, Fate::Delivered) => miss(&mut report.primary_missed, unequal, why),
            // Neither upstream got the record, each for its own reason.
            _ => {}
        }
    }
}

fn miss(missed: &mut MissedReport, record: Unequal, why: Fate) {
    let reason = why.name().to_owned();
    missed.count += 1;
    *missed.reasons.entry(reason.clone()).or_default() += 1;
    if missed.sample.len() < SAMPLE {
        let project = record.project.to_string();
        let event_id = record.event_id.map(|id| id.to_string());
        missed.sample.push(Missed { event_id, project, accepted_at: record.accepted_at, reason });
    }
}

/// The query of `/report` and `/api/report`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReportQuery {
    since: Option<Period>,
    candidate: Option<String>,
}

impl ReportQuery {
    /// Whether the query names a candidate.
    pub(super) const fn names_one(&self) -> bool {
        self.candidate.is_some()
    }
}

/// Makes the report that a query asks for; without values from events unless `with_values` is set.
pub(super) async fn asked(admin: &Admin, query: &ReportQuery, with_values: bool) -> Result<Report, NoReport> {
    let window = query.since.unwrap_or(admin.view.load().report.window);
    let mut report = report(admin, admin.clock.now() - window.get(), query.candidate.as_deref()).await?;
    if !with_values {
        let verifications = report.upstreams.iter_mut().filter_map(|upstream| upstream.verification.as_mut());
        verifications.filter_map(|own| own.content.as_mut()).for_each(ContentReport::hide_values);
    }
    Ok(report)
}

pub(super) fn refusal(why: &NoReport) -> Response {
    let status = match why {
        NoReport::Candidate(_) => StatusCode::BAD_REQUEST,
        NoReport::Journal(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    refuse(status, &why.to_string())
}

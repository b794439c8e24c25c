//! What the admin listener tells: the status, gathered from ledger, journal and workers, and the metrics, brought up to date
//! with the same figures.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::proto::MetricFamily;
use prometheus::{Encoder as _, IntCounter, TextEncoder};

use crate::clock::Timestamp;
use crate::delivery::board::Report;
use crate::journal::evidence::Outage;
use crate::journal::{Backlog, Share, Stats, TargetId};
use crate::policy::canary::Canary;
use crate::policy::circuit::State;
use crate::policy::outcome::{DropReason, RefusalReason};
use crate::policy::storm::Storm;
use crate::protocol::category::Category;
use crate::telemetry::backfill::BackfillStatus;
use crate::telemetry::health::{self, Health};
use crate::telemetry::ledger::{Account, AccountKey};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::status::{
    AccountStatus, BacklogStatus, CanaryStatus, JournalStatus, LatelyStatus, LimitStatus, OutageStatus, ProjectStatus,
    RefusedStatus, ShareStatus, Status, StormStatus, StrandedStatus, SwitchStatus, UpstreamStatus,
};

use super::state::{Admin, View};
use super::{backfill, lately};

/// How many switches are shown.
const SWITCHES: usize = 20;
/// How far back outages are shown, how many are looked at, and how many of each upstream are shown.
const OUTAGES: Duration = Duration::from_secs(24 * 3600);
const MOST_OUTAGES: usize = 200;
const SHOWN_OUTAGES: usize = 5;

/// How often the figures are read again when they do not add up: accounts and backlog are read one after the other, and what
/// is accepted in between looks like a difference.
const READS: usize = 4;

/// The status now.
pub(super) async fn status(admin: &Admin) -> Status {
    let mut status = read(admin).await;
    for _ in 1..READS {
        if status.difference == 0 {
            break;
        }
        status = read(admin).await;
    }
    status
}

async fn read(admin: &Admin) -> Status {
    let now = admin.clock.now();
    let view = admin.view();
    let outages = admin.journal.outages(now - OUTAGES, MOST_OUTAGES).await.unwrap_or_default();
    let lately = lately::of_all(admin, now).await;
    let mut upstreams = Vec::new();
    for (target, name) in targets(admin, &view) {
        let backlog = admin.journal.backlog(target).await.unwrap_or_default();
        upstreams.push(upstream(admin, &view, target, &name, &backlog, now));
        if let Some(upstream) = upstreams.last_mut() {
            upstream.outages = outages_of(&name, &outages);
            upstream.lately = lately.get(&name).copied().unwrap_or_default();
        }
    }
    upstreams.sort_by_key(|upstream| (upstream.role != "primary", upstream.role == "removed", upstream.name.clone()));
    let not_ready = admin.readiness.not_ready();
    let space = admin.journal.space();
    let mut status = Status {
        health: Health::default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: admin.started_at,
        now,
        ready: not_ready.is_none(),
        not_ready,
        primary: view.routing.primary.to_string(),
        mirror: view.routing.mirror,
        journal: JournalStatus { size_bytes: space.files, disk_free_bytes: space.disk_free, projects: shares(admin) },
        difference: upstreams.iter().map(|upstream| upstream.difference).sum(),
        upstreams,
        projects: projects(&view),
        refused: refused(admin, &view),
        storms: storms(&view),
        switches: switches(admin, SWITCHES).await,
        backfills: backfill::all(admin).await,
        config: view.config,
    };
    status.health = health::judge(&status);
    status
}

fn shares(admin: &Admin) -> Vec<ShareStatus> {
    let share =
        |share: Share| ShareStatus { name: share.project.to_string(), bytes: share.bytes, part_bytes: share.part };
    admin.journal.shares().into_iter().map(share).collect()
}

/// The targets of configured upstreams, and those for which something still waits.
fn targets(admin: &Admin, view: &View) -> Vec<(TargetId, Arc<str>)> {
    let accounts = admin.ledger.accounts();
    let still_waits = |name: &Arc<str>| {
        let mut own = accounts.iter().filter(|(key, _)| key.upstream.as_ref() == Some(name));
        own.any(|(_, account)| account.expected_pending() != 0)
    };
    let mut targets = admin.journal.targets();
    targets.retain(|(_, name)| view.upstreams.contains_key(name) || still_waits(name));
    targets
}

fn upstream(
    admin: &Admin,
    view: &View,
    target: TargetId,
    name: &Arc<str>,
    backlog: &Backlog,
    now: Timestamp,
) -> UpstreamStatus {
    let configured = view.upstreams.contains_key(name);
    let report = admin.board.report(name).unwrap_or_default();
    let accounts = accounts(admin, name, backlog);
    let in_items = || accounts.iter().filter(|account| Category::counts_items(&account.category));
    let mut dropped = BTreeMap::new();
    for (reason, quantity) in in_items().flat_map(|account| &account.dropped) {
        *dropped.entry(reason.clone()).or_default() += quantity;
    }
    let role = match configured {
        true if **name == *view.routing.primary => "primary",
        true => "shadow",
        false => "removed",
    };
    UpstreamStatus {
        name: name.to_string(),
        role: role.to_owned(),
        spared: view.spared.get(name).filter(|_| role == "shadow").cloned(),
        state: if configured { report.word(now) } else { "removed" }.to_owned(),
        delivered: in_items().map(|account| account.delivered).sum(),
        dropped,
        returned: in_items().map(|account| account.returned).sum(),
        backlog: backlog_status(backlog, now),
        dead_letters: admin.journal.dead_letters(target),
        lately: LatelyStatus::default(),
        last_delivery_at: report.last_delivery,
        outages: vec![],
        alone: report.alone.iter().filter(|(_, until)| *until > now).map(|(name, _)| name.to_string()).collect(),
        canary: report.canary.as_ref().map(|canary| canary_status(canary, now)),
        limits: limits(&report, now),
        last_error: report.last_error,
        stranded: if configured { stranded(view, name, &accounts) } else { vec![] },
        difference: accounts.iter().map(|account| account.difference).sum(),
        accounts,
    }
}

/// What waits there of projects that have no DSN there.
fn stranded(view: &View, name: &Arc<str>, accounts: &[AccountStatus]) -> Vec<StrandedStatus> {
    let has_dsn = |project: &str| view.routing.project(project).is_some_and(|project| project.dsns.contains_key(name));
    let mut items = BTreeMap::<&str, u64>::new();
    for account in accounts.iter().filter(|account| account.pending > 0 && !has_dsn(&account.project)) {
        *items.entry(&account.project).or_default() += account.pending;
    }
    items.into_iter().map(|(project, items)| StrandedStatus { project: project.to_owned(), items }).collect()
}

fn outages_of(name: &Arc<str>, outages: &[Outage]) -> Vec<OutageStatus> {
    let own = outages.iter().filter(|outage| outage.upstream == *name).take(SHOWN_OUTAGES);
    own.map(|outage| OutageStatus { from: outage.from, to: outage.to, cause: outage.cause.to_string() }).collect()
}

fn backlog_status(backlog: &Backlog, now: Timestamp) -> BacklogStatus {
    BacklogStatus {
        envelopes: backlog.envelopes,
        bytes: backlog.bytes,
        oldest_seconds: backlog.oldest.map_or(0.0, |oldest| now.since(oldest).as_secs_f64()),
    }
}

fn canary_status(canary: &Canary, now: Timestamp) -> CanaryStatus {
    let state = match canary.success() {
        None => "under_way",
        Some(true) => "through",
        Some(false) => "failing",
    };
    CanaryStatus {
        state: state.to_owned(),
        sent_at: canary.sent_at(),
        through_at: canary.through_at(),
        age_seconds: canary.age(now).as_secs_f64(),
        why: canary.why().map(str::to_owned),
    }
}

fn limits(report: &Report, now: Timestamp) -> Vec<LimitStatus> {
    let running = report.limits.iter().filter(|(_, until)| *until > now);
    running.map(|(category, until)| LimitStatus { category: category.to_string(), until: *until }).collect()
}

/// The accounts of an upstream against what is counted as waiting for it.
fn accounts(admin: &Admin, name: &Arc<str>, backlog: &Backlog) -> Vec<AccountStatus> {
    let mut pending: BTreeMap<(Arc<str>, Category), u64> = BTreeMap::new();
    for (project, category, quantity) in &backlog.quantities {
        *pending.entry((Arc::clone(project), *category)).or_default() += quantity;
    }
    let mut accounts: BTreeMap<(Arc<str>, Category), Account> =
        pending.keys().map(|key| (key.clone(), Account::default())).collect();
    for (key, account) in admin.ledger.accounts() {
        if key.upstream.as_ref() == Some(name) {
            accounts.insert((key.project, key.category), account);
        }
    }
    let row = |((project, category), account): ((Arc<str>, Category), Account)| {
        let pending = pending.get(&(Arc::clone(&project), category)).copied().unwrap_or(0);
        let dropped = DropReason::ALL.into_iter().map(|reason| (reason.to_string(), account.dropped(reason)));
        AccountStatus {
            project: project.to_string(),
            category: category.to_string(),
            accepted: account.accepted,
            delivered: account.delivered,
            dropped: dropped.filter(|(_, quantity)| *quantity > 0).collect(),
            returned: account.returned,
            pending,
            difference: account.expected_pending() - i64::try_from(pending).unwrap_or(i64::MAX),
        }
    };
    accounts.into_iter().map(row).collect()
}

fn projects(view: &View) -> Vec<ProjectStatus> {
    let row = |project: &Arc<crate::policy::routing::Project>| ProjectStatus {
        name: project.name.to_string(),
        id: project.id.to_string(),
        primary: view.routing.primary_of(project).to_string(),
        mirror: view.routing.mirror_of(project),
        browsers: view.browsers.use_it(&project.name),
        upstreams: project.dsns.keys().map(ToString::to_string).collect(),
    };
    view.routing.projects.iter().map(row).collect()
}

/// What the metrics say of items that were not accepted.
fn refused(admin: &Admin, view: &View) -> Vec<RefusedStatus> {
    let mut all = vec![];
    for project in &view.routing.projects {
        for (category, reason) in Category::ALL.iter().flat_map(|c| RefusalReason::ALL.map(|reason| (c, reason))) {
            let labels = [&*project.name, category.name(), reason.name()];
            let items = admin.metrics.refused_items_total.with_label_values(&labels).get();
            if items > 0 {
                let [project, category, reason] = labels.map(str::to_owned);
                all.push(RefusedStatus { project, category, reason, items });
            }
        }
    }
    all
}

fn storms(view: &View) -> Vec<StormStatus> {
    let row = |storm: Storm| StormStatus {
        project: storm.project.to_string(),
        what: storm.what.into(),
        collapsed: storm.collapsed,
        last: storm.last,
    };
    view.storms.shown().into_iter().map(row).collect()
}

/// The last `limit` switches, newest first.
pub(super) async fn switches(admin: &Admin, limit: usize) -> Vec<SwitchStatus> {
    let text = |text: Option<Box<str>>| text.map(String::from);
    let row = |switch: crate::journal::Switch| SwitchStatus {
        at: switch.at,
        project: text(switch.project),
        from: text(switch.from),
        to: switch.to.into(),
        reason: text(switch.reason),
        author: text(switch.author),
    };
    // The first primary of a journal is no switch.
    let all = admin.journal.switches(limit).await.unwrap_or_default();
    all.into_iter().filter(|switch| switch.from.is_some()).map(row).collect()
}

/// The metrics in Prometheus' text format.
pub(super) async fn text(admin: &Admin) -> Vec<u8> {
    let _alone = admin.scraping.lock().await;
    let status = status(admin).await;
    refresh(admin, &status);
    let (ours, process) = admin.metrics.registries();
    let mut text = Vec::new();
    for families in [ours.gather(), process.gather(), vec![commit_durations(&admin.journal.stats())]] {
        if let Err(error) = TextEncoder::new().encode(&families, &mut text) {
            tracing::error!(%error, "metrics cannot be written");
        }
    }
    text
}

fn commit_durations(stats: &Stats) -> MetricFamily {
    let mut up_to = 0;
    let cumulative = stats.commits.iter().map(|count| {
        up_to += count;
        up_to
    });
    let buckets: Vec<(f64, u64)> = Stats::BOUNDS.into_iter().zip(cumulative).collect();
    Metrics::commit_durations(&buckets, stats.commits.iter().sum(), stats.commit_time.as_secs_f64())
}

/// Copies into the metrics what is counted elsewhere.
fn refresh(admin: &Admin, status: &Status) {
    let metrics = &admin.metrics;
    for (key, account) in admin.ledger.accounts() {
        copy_account(admin, &key, &account);
    }
    // Nothing remembers the canaries of an upstream that was removed.
    metrics.canary_success.reset();
    metrics.canary_age_seconds.reset();
    // Nor what a project took that has nothing more.
    metrics.journal_project_bytes.reset();
    metrics.journal_project_part_bytes.reset();
    for upstream in &status.upstreams {
        refresh_upstream(admin, upstream);
        let running = |backfill: &&BackfillStatus| backfill.upstream == upstream.name && backfill.state == "running";
        let remaining = status.backfills.iter().find(running).map_or(0, |now| now.found.saturating_sub(now.taken));
        let gauge = metrics.backfill_remaining_envelopes.with_label_values(&[&upstream.name]);
        gauge.set(i64::try_from(remaining).unwrap_or(i64::MAX));
        for project in status.projects.iter().filter(|project| project.upstreams.contains(&upstream.name)) {
            let gauge = metrics.upstream_project_alone.with_label_values(&[&upstream.name, &project.name]);
            gauge.set(i64::from(upstream.alone.contains(&project.name)));
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "sizes of disks are far below 2^53 bytes")]
    {
        metrics.journal_size_bytes.set(status.journal.size_bytes as f64);
        metrics.disk_free_bytes.set(status.journal.disk_free_bytes.unwrap_or(0) as f64);
        for ShareStatus { name, bytes, part_bytes } in &status.journal.projects {
            metrics.journal_project_bytes.with_label_values(&[name]).set(*bytes as f64);
            metrics.journal_project_part_bytes.with_label_values(&[name]).set(part_bytes.unwrap_or(0) as f64);
        }
    }
    let stats = admin.journal.stats();
    raise(&metrics.journal_errors_total, stats.errors);
    raise(&metrics.journal_set_aside_records_total, stats.set_aside);
    metrics.config_reload_success.set(if status.config.error.is_none() { 1.0 } else { 0.0 });
    metrics.config_last_reload_success_timestamp_seconds.set(status.config.loaded_at.as_secs_f64());
}

fn copy_account(admin: &Admin, key: &AccountKey, account: &Account) {
    let metrics = &admin.metrics;
    let (project, category) = (&*key.project, key.category.name());
    let Some(upstream) = key.upstream.as_deref() else {
        return raise(&metrics.accepted_items_total.with_label_values(&[project, category]), account.accepted);
    };
    raise(&metrics.delivered_items_total.with_label_values(&[upstream, project, category]), account.delivered);
    raise(&metrics.returned_items_total.with_label_values(&[upstream, project, category]), account.returned);
    for reason in DropReason::ALL {
        let labels = [upstream, project, category, reason.name()];
        raise(&metrics.dropped_items_total.with_label_values(&labels), account.dropped(reason));
    }
}

/// Brings a counter up to a total that is kept elsewhere.
fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn refresh_upstream(admin: &Admin, upstream: &UpstreamStatus) {
    let metrics = &admin.metrics;
    let name = upstream.name.as_str();
    let int = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    metrics.backlog_envelopes.with_label_values(&[name]).set(int(upstream.backlog.envelopes));
    metrics.backlog_bytes.with_label_values(&[name]).set(int(upstream.backlog.bytes));
    metrics.backlog_oldest_seconds.with_label_values(&[name]).set(upstream.backlog.oldest_seconds);
    metrics.dead_letters.with_label_values(&[name]).set(int(upstream.dead_letters));
    metrics.balance_difference_items.with_label_values(&[name]).set(upstream.difference);
    metrics.primary.with_label_values(&[name]).set(i64::from(upstream.role == "primary"));
    let canary = upstream.canary.as_ref();
    let is_through = canary.is_some_and(|canary| canary.state == "through");
    metrics.canary_success.with_label_values(&[name]).set(i64::from(is_through));
    metrics.canary_age_seconds.with_label_values(&[name]).set(canary.map_or(0.0, |canary| canary.age_seconds));
    for account in &upstream.accounts {
        let labels = [name, account.project.as_str(), account.category.as_str()];
        metrics.pending_items.with_label_values(&labels).set(int(account.pending));
    }
    let Some(report) = admin.board.report(name) else { return };
    metrics.upstream_up.with_label_values(&[name]).set(i64::from(report.up && report.circuit == State::Closed));
    for state in State::ALL {
        let gauge = metrics.upstream_circuit.with_label_values(&[name, state.name()]);
        gauge.set(i64::from(state == report.circuit));
    }
    for category in Category::ALL.into_iter().filter(|category| category.can_be_limited()) {
        let until =
            report.limits.iter().find(|(limited, _)| *limited == category).map(|(_, until)| until.as_secs_f64());
        metrics
            .upstream_limited_until_timestamp_seconds
            .with_label_values(&[name, category.name()])
            .set(until.unwrap_or(0.0));
    }
}

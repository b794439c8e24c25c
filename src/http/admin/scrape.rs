//! Gathers the status from ledger, journal and workers, for everything that the admin listener shows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::delivery::batch_poison::Cause;
use crate::delivery::board::Report;
use crate::journal::evidence::{Evidence, Figures, Outage};
use crate::journal::{Backlog, Measures, Node, Share, Standby, TargetId};
use crate::policy::canary::Canary;
use crate::policy::cooldown::Limited;
use crate::policy::outcome::{DropReason, RefusalReason};
use crate::policy::storm::Storm;
use crate::protocol::category::Category;
use crate::telemetry::health::{self, Health};
use crate::telemetry::ledger::Account;
use crate::telemetry::status::{
    AccountStatus, BacklogStatus, CanaryStatus, JournalStatus, LatelyStatus, LimitStatus, OutageStatus, PoisonStatus,
    ProjectStatus, RefusedStatus, RelayStatus, ShareStatus, StandbyStatus, Status, StormStatus, StrandedStatus,
    SwitchStatus, UpstreamStatus,
};

use super::backfill;
use super::lately;
use super::state::{Admin, View};
use super::verify::{self, Missing};

/// How many switches are shown.
const SWITCHES: usize = 20;
/// How far back outages are shown, how many are read, and how many of each upstream are shown.
const OUTAGES: Duration = Duration::from_secs(24 * 3600);
const MOST_OUTAGES: usize = 200;
const SHOWN_OUTAGES: usize = 5;
/// How long the status tells that a project sent events with which others are lost.
const POISON_TOLD: Duration = Duration::from_secs(24 * 3600);

/// How often the figures are read at most if they do not add up: accounts and backlog are read one after the other, and items that are
/// accepted in between look like a difference.
const READS: usize = 4;

impl Admin {
    /// All evidence that the journal keeps; empty if the journal cannot be read.
    pub async fn evidence(&self) -> Evidence {
        self.journal.evidence(Timestamp::default()).await.unwrap_or_default()
    }

    /// The status now.
    pub async fn status(&self) -> Status {
        status(self).await
    }
}

/// The status now.
pub(super) async fn status(admin: &Admin) -> Status {
    let mut status = read(admin).await;
    for _ in 1..READS {
        if status.difference == 0 {
            break;
        }
        let before = std::mem::replace(&mut status, read(admin).await);
        // A difference that two reads find alike is real: nothing was accepted or settled in between.
        if stands_still(&before, &status) || look_closely(admin, &mut status).await {
            break;
        }
    }
    status
}

/// Whether no account changed between two reads.
fn stands_still(before: &Status, after: &Status) -> bool {
    let [before, after] = [before, after].map(|status| status.upstreams.iter().flat_map(|upstream| &upstream.accounts));
    before.eq(after)
}

/// Takes over the differences that the journal reads at one moment. Returns whether the journal could read them.
async fn look_closely(admin: &Admin, status: &mut Status) -> bool {
    let view = admin.view();
    for (target, name) in targets(admin, &view) {
        let Some(upstream) = status.upstreams.iter_mut().find(|upstream| upstream.name == *name) else { continue };
        if upstream.difference == 0 {
            continue;
        }
        let Ok(Some(differences)) = admin.journal.differences(target).await else { return false };
        for account in &mut upstream.accounts {
            let mut own = differences.iter().filter(|((project, category), _)| {
                **project == *account.project && category.to_string() == account.category
            });
            account.difference = own.next().map_or(0, |(_, difference)| *difference);
        }
        upstream.difference = differences.values().sum();
    }
    status.difference = status.upstreams.iter().map(|upstream| upstream.difference).sum();
    status.health = health::judge(status);
    true
}

async fn read(admin: &Admin) -> Status {
    let now = admin.clock.now();
    let view = admin.view();
    let outages = admin.journal.outages(now - OUTAGES, MOST_OUTAGES).await.unwrap_or_default();
    let lately = lately::of_all(admin, &outages, now).await;
    let mut upstreams = Vec::new();
    let standings = verify::standings(admin).await;
    let figures = admin.journal.figures().await;
    let mut unread = figures.as_ref().err().map(ToString::to_string);
    let figures = figures.unwrap_or_default();
    for (target, name) in targets(admin, &view) {
        let backlog = admin.journal.backlog(target).await;
        unread = unread.or_else(|| backlog.as_ref().err().map(ToString::to_string));
        let (is_counted, backlog) = (backlog.is_ok(), backlog.unwrap_or_default());
        let missing = verify::missing(&standings, target);
        let figures = figures.get(&target).copied().unwrap_or_default();
        upstreams.push(upstream(admin, &view, &name, (&backlog, &missing, figures), now));
        if let Some(upstream) = upstreams.last_mut() {
            if !is_counted {
                // The backlog could not be counted, so the accounts cannot differ from it.
                upstream.difference = 0;
                upstream.accounts.iter_mut().for_each(|account| account.difference = 0);
            }
            upstream.outages = outages_of(&name, &outages);
            upstream.lately = lately.upstreams.get(&name).cloned().unwrap_or_default();
            upstream.verification = verify::status(admin, upstream, &standings, target).await;
        }
    }
    upstreams.sort_by_key(|upstream| (upstream.role != "primary", upstream.role == "removed", upstream.name.clone()));
    let not_ready = admin.readiness.not_ready().await;
    let measures = admin.journal.measure().await.unwrap_or_default();
    let mut status = Status {
        health: Health::default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: admin.started_at,
        now,
        ready: not_ready.is_none(),
        not_ready,
        unread,
        primary: view.routing.primary.to_string(),
        mirror: view.routing.mirror,
        journal: journal(measures),
        difference: upstreams.iter().map(|upstream| upstream.difference).sum(),
        upstreams,
        projects: projects(&view),
        refused: refused(admin, &view),
        refused_requests: lately.refused,
        refusing: admin.metrics.is_refusing(),
        refused_items: lately.refused_items,
        limiting: admin.metrics.is_limiting(),
        storms: storms(&view),
        gaps: lately.gaps,
        switches: switches(admin, SWITCHES).await,
        backfills: backfill::all(admin).await,
        config: view.config,
    };
    status.health = health::judge(&status);
    status
}

fn journal(measures: Measures) -> JournalStatus {
    JournalStatus {
        size_bytes: measures.space.files,
        disk_free_bytes: measures.space.disk_free,
        projects: measures.shares.into_iter().map(share).collect(),
        relays: measures.nodes.into_iter().map(relay).collect(),
        standbys: measures.standbys.into_iter().map(standby).collect(),
    }
}

fn relay(node: Node) -> RelayStatus {
    RelayStatus {
        name: node.name,
        version: node.version,
        started_at: node.started_at,
        alive: node.is_alive,
        own: node.is_own,
        leases: node.leases,
        spilled: node.spilled,
        spilled_bytes: node.spilled_bytes,
        leads: node.leads,
        differs: node.differs,
    }
}

fn standby(standby: Standby) -> StandbyStatus {
    StandbyStatus { name: standby.name, lag_seconds: standby.lag.map(|lag| lag.as_secs_f64()) }
}

fn share(share: Share) -> ShareStatus {
    ShareStatus { name: share.project.to_string(), bytes: share.bytes, part_bytes: share.part }
}

/// The targets of configured upstreams, and those of others that still have a backlog.
fn targets(admin: &Admin, view: &View) -> Vec<(TargetId, Arc<str>)> {
    let still_waits = |name: &str| admin.ledger.of(name).iter().any(|(_, account)| account.expected_pending() != 0);
    let shown = view.targets.iter().filter(|(_, name)| view.upstreams.contains_key(*name) || still_waits(name));
    shown.map(|(target, name)| (target, Arc::clone(name))).collect()
}

fn upstream(
    admin: &Admin,
    view: &View,
    name: &Arc<str>,
    (backlog, missing, figures): (&Backlog, &Missing, Figures),
    now: Timestamp,
) -> UpstreamStatus {
    let configured = view.upstreams.contains_key(name);
    let report = admin.board.report(name).unwrap_or_default();
    let accounts = accounts(admin, name, backlog, missing);
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
        dead_letters: figures.dead_letters,
        lately: LatelyStatus::default(),
        last_delivery_at: figures.latest.delivered_at,
        outages: vec![],
        alone: report.alone.iter().filter(|(_, until)| *until > now).map(|(name, _)| name.to_string()).collect(),
        poison: poison(&report, now),
        canary: report.canary.as_ref().map(|canary| canary_status(canary, now)),
        verification: None,
        refused_projects: unless_all(view, name, &report.refused),
        limits: limits(&report, (view, name), now),
        last_error: report.reason().cloned(),
        stranded: if configured { stranded(view, name, &accounts) } else { vec![] },
        difference: accounts.iter().map(|account| account.difference).sum(),
        accounts,
    }
}

fn poison(report: &Report, now: Timestamp) -> Vec<PoisonStatus> {
    let recent = report.poison.iter().filter(|(.., at)| now.since(*at) < POISON_TOLD);
    let told = |(project, cause, at): &(Arc<str>, Cause, Timestamp)| PoisonStatus {
        project: project.to_string(),
        cause: cause.why().to_owned(),
        remedy: cause.remedy().to_owned(),
        at: *at,
    };
    recent.map(told).collect()
}

/// The backlog of an upstream for projects that have no DSN there.
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

fn limits(report: &Report, (view, name): (&View, &Arc<str>), now: Timestamp) -> Vec<LimitStatus> {
    let running = report.limits.iter().filter(|limit| limit.until > now);
    let told = |limit: &Limited| LimitStatus {
        category: limit.category.to_string(),
        until: limit.until,
        projects: unless_all(view, name, &limit.projects),
    };
    running.map(told).collect()
}

/// The names of these projects; nothing if no other has a DSN at the upstream.
fn unless_all(view: &View, upstream: &Arc<str>, projects: &[Arc<str>]) -> Vec<String> {
    let is_named = |name: &str| projects.iter().any(|own| **own == *name);
    let mut all = view.routing.projects.iter().filter(|project| project.dsns.contains_key(upstream));
    let is_some = all.any(|project| !is_named(&project.name));
    projects.iter().filter(|_| is_some).map(ToString::to_string).collect()
}

/// The accounts of an upstream, compared with its backlog.
fn accounts(admin: &Admin, name: &Arc<str>, backlog: &Backlog, missing: &Missing) -> Vec<AccountStatus> {
    let mut pending: BTreeMap<(Arc<str>, Category), u64> = BTreeMap::new();
    for (project, category, quantity) in &backlog.quantities {
        *pending.entry((Arc::clone(project), *category)).or_default() += quantity;
    }
    let mut accounts: BTreeMap<(Arc<str>, Category), Account> =
        pending.keys().map(|key| (key.clone(), Account::default())).collect();
    accounts.extend(admin.ledger.of(name).into_iter().map(|(key, account)| ((key.project, key.category), account)));
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
            stored: account.stored_now(),
            missing: if category == Category::Error { missing.get(&project).copied().unwrap_or(0) } else { 0 },
            lost: account.lost,
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

/// The items that were not accepted, from the metrics.
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

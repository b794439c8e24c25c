//! The metrics for Prometheus, brought up to date from the status and the accounts.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::sync::Arc;

use prometheus::proto::{Metric, MetricFamily, MetricType};
use prometheus::{GaugeVec, IntCounter, TextEncoder};

use crate::journal::{Measures, Stats};
use crate::policy::circuit::State;
use crate::protocol::category::Category;
use crate::telemetry::backfill::BackfillStatus;
use crate::telemetry::ledger::AccountKey;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::items::{self, Items};
use crate::telemetry::status::{JournalStatus, ShareStatus, Status, UpstreamStatus};

use super::scrape::status;
use super::state::Admin;
use super::verify;

/// The metrics in Prometheus' text format.
pub(super) async fn text(admin: &Admin) -> String {
    let _alone = admin.scraping.lock().await;
    let status = status(admin).await;
    // What the storage did is not told while it does not say: counters that fall to nothing would look like a restart, and no room
    // like a full disk.
    let measures = admin.journal.measure().await.ok();
    refresh(admin, &status, measures.as_ref());
    let (ours, process) = admin.metrics.registries();
    let mut text = String::new();
    let commits = measures.iter().map(|measures| commit_durations(&measures.stats)).collect();
    for families in [without_gone(ours.gather(), &status), process.gather(), commits] {
        if let Err(error) = TextEncoder::new().encode_utf8(&families, &mut text) {
            tracing::error!(%error, "metrics cannot be written");
        }
    }
    items::write(&all_items(admin, &status), &mut text);
    text
}

/// All but what gauges said last of an upstream that is shown no longer: an alert on it would never end.
fn without_gone(families: Vec<MetricFamily>, status: &Status) -> Vec<MetricFamily> {
    let shown: BTreeSet<&str> = status.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    let is_shown = |metric: &Metric| {
        let mut upstreams = metric.get_label().iter().filter(|label| label.name() == "upstream");
        upstreams.all(|label| shown.contains(label.value()))
    };
    let only_shown = |mut family: MetricFamily| {
        if family.get_field_type() == MetricType::GAUGE {
            let metrics = family.take_metric();
            family.set_metric(metrics.into_iter().filter(is_shown).collect());
        }
        Some(family).filter(|family| !family.get_metric().is_empty())
    };
    families.into_iter().filter_map(only_shown).collect()
}

/// The accounts of each project at each upstream of the configuration, and of all that ever had one, whatever the category.
fn all_items(admin: &Admin, status: &Status) -> BTreeMap<AccountKey, Items> {
    let (accounts, view) = (admin.ledger.accounts(), admin.view.load());
    let ever = accounts.keys().map(|key| (key.upstream.clone(), Arc::clone(&key.project)));
    let configured = view.routing.projects.iter().flat_map(|project| {
        let upstreams = iter::once(None).chain(project.dsns.keys().cloned().map(Some));
        upstreams.map(|upstream| (upstream, Arc::clone(&project.name)))
    });
    let owners: BTreeSet<(Option<Arc<str>>, Arc<str>)> = ever.chain(configured).collect();
    let each = |(upstream, project): (Option<Arc<str>>, Arc<str>)| {
        let key = |category| AccountKey { upstream: upstream.clone(), project: Arc::clone(&project), category };
        Category::ALL.map(|category| (key(category), Items::default()))
    };
    let mut all: BTreeMap<AccountKey, Items> = owners.into_iter().flat_map(each).collect();
    for (key, account) in accounts {
        all.entry(key).or_default().account = account;
    }
    for upstream in &status.upstreams {
        for own in upstream.accounts.iter().filter(|account| account.pending > 0) {
            let Some(category) = Category::from_name(&own.category) else { continue };
            let (upstream, project) = (Some(upstream.name.as_str().into()), own.project.as_str().into());
            all.entry(AccountKey { upstream, project, category }).or_default().pending = own.pending;
        }
    }
    all
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
fn refresh(admin: &Admin, status: &Status, measures: Option<&Measures>) {
    let metrics = &admin.metrics;
    // Nothing remembers what a project took that has nothing more.
    metrics.journal_project_bytes.reset();
    metrics.journal_project_part_bytes.reset();
    for upstream in &status.upstreams {
        refresh_upstream(admin, upstream, status.unread.is_none());
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
        let tell = |gauge: &GaugeVec, bytes: Option<u64>| {
            gauge.reset();
            bytes.iter().for_each(|bytes| gauge.with_label_values::<&str>(&[]).set(*bytes as f64));
        };
        tell(&metrics.journal_size_bytes, measures.map(|measures| measures.space.files));
        tell(&metrics.disk_free_bytes, measures.and_then(|measures| measures.space.disk_free));
        for ShareStatus { name, bytes, part_bytes } in &status.journal.projects {
            metrics.journal_project_bytes.with_label_values(&[name]).set(*bytes as f64);
            metrics.journal_project_part_bytes.with_label_values(&[name]).set(part_bytes.unwrap_or(0) as f64);
        }
    }
    refresh_relays(metrics, &status.journal);
    if let Some(Measures { stats, .. }) = measures {
        raise(&metrics.journal_errors_total, stats.errors);
        raise(&metrics.journal_set_aside_records_total, stats.set_aside);
    }
    metrics.config_reload_success.set(if status.config.error.is_none() { 1.0 } else { 0.0 });
    metrics.config_last_reload_success_timestamp_seconds.set(status.config.loaded_at.as_secs_f64());
}

/// Sets the metrics of the relays that share the journal, and of its standbys; none for a single relay.
fn refresh_relays(metrics: &Metrics, journal: &JournalStatus) {
    metrics.relay_up.reset();
    metrics.relay_leases.reset();
    metrics.relay_leads.reset();
    metrics.relay_config_differs.reset();
    metrics.spilled_envelopes.reset();
    metrics.standby_lag_seconds.reset();
    let int = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    for relay in &journal.relays {
        metrics.relay_up.with_label_values(&[&relay.name]).set(i64::from(relay.alive));
        metrics.relay_leases.with_label_values(&[&relay.name]).set(int(relay.leases));
        metrics.relay_leads.with_label_values(&[&relay.name]).set(i64::from(relay.leads));
        let differs = i64::from(!relay.differs.is_empty());
        metrics.relay_config_differs.with_label_values(&[&relay.name]).set(differs);
        metrics.spilled_envelopes.with_label_values(&[&relay.name]).set(int(relay.spilled));
    }
    for (standby, lag) in journal.standbys.iter().filter_map(|standby| Some((standby, standby.lag_seconds?))) {
        metrics.standby_lag_seconds.with_label_values(&[&standby.name]).set(lag);
    }
}

/// Brings a counter up to a total that is kept elsewhere.
fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn refresh_upstream(admin: &Admin, upstream: &UpstreamStatus, is_read: bool) {
    let metrics = &admin.metrics;
    let name = upstream.name.as_str();
    let int = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    // What is not known stays as it was known last: to an alert on an increase, 0 and back is one.
    if is_read {
        metrics.backlog_envelopes.with_label_values(&[name]).set(int(upstream.backlog.envelopes));
        metrics.backlog_bytes.with_label_values(&[name]).set(int(upstream.backlog.bytes));
        metrics.backlog_oldest_seconds.with_label_values(&[name]).set(upstream.backlog.oldest_seconds);
        metrics.dead_letters.with_label_values(&[name]).set(int(upstream.dead_letters));
    }
    metrics.balance_difference_items.with_label_values(&[name]).set(upstream.difference);
    metrics.primary.with_label_values(&[name]).set(i64::from(upstream.role == "primary"));
    let canary = upstream.canary.as_ref();
    let is_through = canary.is_some_and(|canary| canary.state == "through");
    metrics.canary_success.with_label_values(&[name]).set(i64::from(is_through));
    metrics.canary_age_seconds.with_label_values(&[name]).set(canary.map_or(0.0, |canary| canary.age_seconds));
    verify::refresh(metrics, upstream);
    let Some(report) = admin.board.report(name) else { return };
    metrics.upstream_up.with_label_values(&[name]).set(i64::from(report.up && report.circuit == State::Closed));
    for state in State::ALL {
        let gauge = metrics.upstream_circuit.with_label_values(&[name, state.name()]);
        gauge.set(i64::from(state == report.circuit));
    }
    for category in Category::ALL.into_iter().filter(|category| category.can_be_limited()) {
        let until =
            report.limits.iter().find(|limit| limit.category == category).map(|limit| limit.until.as_secs_f64());
        metrics
            .upstream_limited_until_timestamp_seconds
            .with_label_values(&[name, category.name()])
            .set(until.unwrap_or(0.0));
    }
}

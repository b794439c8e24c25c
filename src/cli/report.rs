//! `switchyard report`: the evidence of a parallel run, and the verdict on the candidate.

use crate::telemetry::gaps::GapStatus;
use crate::telemetry::report::criteria::hours;
use crate::telemetry::report::{ContentReport, MissedReport, Report, UpstreamReport, VerificationReport};
use crate::telemetry::words;
use crate::units::Period;

use super::admin::AdminClient;
use super::failure::Failure;
use super::locate::Located;
use super::process;
use super::terminal::{self, Tone, harmless, right, table, tint, tinted};

/// The number of missed envelopes, outages and switches that are shown; the page and --json have them all.
const SHOWN: usize = 10;

/// Says whether the candidate is ready to be the primary, and why
///
/// Exit 0 when it is, 1 when it is not, 69 when no daemon answers. The section [report] of the configuration has the criteria. The
/// page /report on the admin listener shows the same, ready to print.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// How far back, as in 48h or 7d [default: report.window]
    #[arg(long, value_name = "PERIOD")]
    since: Option<Period>,
    /// The upstream that is judged [default: the only one that is not the primary]
    #[arg(long, value_name = "NAME")]
    candidate: Option<String>,
    /// As JSON, as the daemon tells it
    #[arg(long)]
    json: bool,
}

/// Shows the report.
pub(super) fn report(located: &Located, args: &Args) -> Result<(), Failure> {
    let admin = AdminClient::new(located.contact())?;
    let asked = admin.report_and_text(args.since, args.candidate.as_deref());
    let (report, text) = process::block_on(async { asked.await.map_err(|silence| admin.failure(silence)) })?;
    terminal::say(if args.json { text } else { render(&report) })?;
    if report.ready { Ok(()) } else { Err(Failure::negative()) }
}

/// The whole report as text, the verdict last.
fn render(report: &Report) -> String {
    let mut parts = vec![head(report), gaps(report), upstreams(report)];
    parts.retain(|part| !part.is_empty());
    parts.extend(report.upstreams.iter().map(details));
    parts.push(comparison(report));
    parts.extend(switches(report));
    parts.push(criteria(report));
    parts.extend(report.way_back().map(|words| format!("\n{words}")));
    let tone = if report.ready { Tone::Good } else { Tone::Bad };
    parts.push(format!("\n{}", tint(tone, &report.verdict)));
    parts.join("\n")
}

/// The time from which lag and losses are judged; empty if that is the beginning of the hour.
fn judged_since(report: &Report) -> String {
    let since = report.judged_since();
    since.map_or(String::new(), |since| format!("; lag and losses are judged from {} on", since.in_words()))
}

/// The times when the relay did not run.
fn gaps(report: &Report) -> String {
    let gaps = &report.relay.gaps;
    let line = |gap: &GapStatus| {
        let (from, to) = (gap.from.in_words(), gap.to.in_words());
        format!(
            "it did not run from {from} to {to}: what services sent then is lost unless they sent it again, and nobody can count it"
        )
    };
    let mut lines: Vec<String> = gaps.iter().rev().take(SHOWN).map(line).collect();
    more(&mut lines, gaps.len(), "times without the relay");
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn head(report: &Report) -> String {
    let list = |counts: &std::collections::BTreeMap<String, u64>| match counts.values().sum::<u64>() {
        0 => "none".to_owned(),
        _ => told(counts),
    };
    format!(
        "parallel run of {} (primary) and {} (candidate), {} to {}\n\
         items, requests, lags and failures of canaries are counted by whole hours: from {} on{}; requests and lags are as of {}\n\
         the relay ran {} of {}{}, {}, {}\n\
         accepted items: {} · repeats: {} · refused requests: {} · items not let in: {}\n",
        tint(Tone::Strong, &report.primary),
        tint(Tone::Strong, &report.candidate),
        report.since.in_words(),
        report.now.in_words(),
        report.counted_since.in_words(),
        judged_since(report),
        report.observed_at.in_words(),
        hours(report.relay.up_seconds),
        hours(report.relay.window_seconds),
        report.first_start().map_or(String::new(), |first| format!(" since its first start at {}", first.in_words())),
        words::some(report.relay.starts, "start"),
        words::some(report.relay.crashes, "crash"),
        list(&report.intake.accepted),
        list(&report.intake.duplicates),
        list(&report.intake.refused),
        list(&report.intake.refused_items),
    )
}

fn told(counts: &std::collections::BTreeMap<String, u64>) -> String {
    let counts: Vec<String> = counts.iter().filter(|(_, n)| **n > 0).map(|(kind, n)| format!("{kind} {n}")).collect();
    counts.join(", ")
}

fn upstreams(report: &Report) -> String {
    let mut rows = table(&[
        "UPSTREAM",
        "ROLE",
        "CATEGORY",
        "ACCEPTED",
        "RETURNED",
        "DELIVERED",
        "DROPPED",
        "PENDING",
        "LAG P50",
        "P99",
        "MAX",
        "AVAILABILITY",
    ]);
    for upstream in &report.upstreams {
        let lag = |pick: fn(&crate::telemetry::report::LagReport) -> f64| {
            upstream.lag.as_ref().map_or("-".to_owned(), |lag| words::lag(pick(lag)))
        };
        rows.add_row(vec![
            upstream.name.as_str().into(),
            upstream.role.as_str().into(),
            "all".into(),
            right(upstream.accepted()),
            right(upstream.returned()),
            right(upstream.delivered()),
            right(upstream.dropped.values().sum::<u64>()),
            right(upstream.pending()),
            right(lag(|lag| lag.p50_seconds)),
            right(lag(|lag| lag.p99_seconds)),
            right(lag(|lag| lag.max_seconds)),
            right(format!("{:.3}%", upstream.availability_percent)),
        ]);
        for category in &upstream.categories {
            rows.add_row(vec![
                "".into(),
                "".into(),
                category.category.as_str().into(),
                right(category.accepted),
                right(category.returned),
                right(category.delivered),
                right(category.dropped.values().sum::<u64>()),
                right(category.pending),
            ]);
        }
    }
    terminal::laid_out(rows)
}

/// The details of an upstream beyond its rows.
fn details(upstream: &UpstreamReport) -> String {
    let mut lines = vec![format!("  requests: {}", told(&upstream.attempts))];
    lines.extend(upstream.dropped.iter().map(|(reason, n)| format!("  dropped items: {}", words::dropped(reason, *n))));
    if upstream.backfilled() > 0 {
        lines.push(format!("  of these taken up by a backfill since: {}", upstream.backfilled()));
    }
    if upstream.retried() > 0 {
        lines.push(format!("  of these refused and retried since: {}", upstream.retried()));
    }
    if upstream.returned() > 0 {
        lines.push(format!("  returned (dropped first, then waiting again or sent later): {}", upstream.returned()));
    }
    for outage in upstream.outages.iter().take(SHOWN) {
        let end = outage.to.map_or("still lasting".to_owned(), |to| hours(to.since(outage.from).as_secs_f64()));
        lines.push(format!("  outage from {}, {end}: {}", outage.from.in_words(), harmless(&outage.cause, 300)));
    }
    more(&mut lines, upstream.outages.len(), "outages");
    lines.extend(words::limits(&upstream.limits).into_iter().map(|limit| format!("  limited: {limit}")));
    lines.extend(upstream.verification.iter().flat_map(verification));
    if upstream.dead_letters > 0 {
        lines.push(format!("  dead letters kept: {}", upstream.dead_letters));
    }
    if upstream.difference != 0 {
        lines.push(tint(Tone::Bad, format_args!("  difference: {}", upstream.difference)));
    }
    format!("\n{}\n{}", upstream.name, lines.join("\n"))
}

/// Whether the upstream stores what it took.
fn verification(own: &VerificationReport) -> Vec<String> {
    let mut lines = vec![format!(
        "  error events: {} taken, {} found there ({:.3}%), {} missing, {} lost there of which {} were given up, {} not known, \
         {} too recent",
        own.delivered, own.stored, own.stored_percent, own.missing, own.lost, own.given_up, own.unknown, own.recent
    )];
    for event in own.sample.iter().take(SHOWN) {
        lines.push(format!("    missing: {}  {}  {}", event.event_id, event.project, event.accepted_at.in_words()));
    }
    lines.extend(own.trouble.as_ref().map(|why| format!("  it cannot be asked now: {}", harmless(why, 300))));
    lines.extend(own.content.iter().flat_map(content));
    lines
}

/// Whether the stored events are as they were sent.
fn content(own: &ContentReport) -> Vec<String> {
    let line = format!("  content: {}", harmless(&own.told(), 600));
    let mut lines = vec![if own.is_bad() { tint(Tone::Bad, line) } else { line }];
    for one in own.sample.iter().take(SHOWN) {
        let [field, sent, there] =
            [&one.difference.field, &one.difference.sent, &one.difference.there].map(|text| harmless(text, 250));
        lines.push(format!("    {}  {}  {field}: sent {sent}; there {there}", one.event_id, one.project));
    }
    more(&mut lines, own.sample.len(), "differences");
    lines
}

fn more(lines: &mut Vec<String>, all: usize, what: &str) {
    if all > SHOWN {
        lines.push(format!("  … and {} more {what}", all - SHOWN));
    }
}

fn comparison(report: &Report) -> String {
    let comparison = &report.comparison;
    let since = comparison.oldest.map_or(String::new(), |oldest| format!(" from {} on", oldest.in_words()));
    let rest = if comparison.complete { "" } else { "; there are more" };
    let mut lines = vec![
        format!("\nwho got what: {} still kept{since} compared{rest}", words::some(comparison.compared, "envelope")),
        format!("  waiting for {} alone: {}", report.candidate, comparison.candidate_waits),
        format!("  waiting for {} alone: {}", report.primary, comparison.primary_waits),
    ];
    missed(&mut lines, (&*report.candidate, &*report.primary), &comparison.candidate_missed);
    missed(&mut lines, (&*report.primary, &*report.candidate), &comparison.primary_missed);
    lines.join("\n")
}

fn missed(lines: &mut Vec<String>, (loser, other): (&str, &str), missed: &MissedReport) {
    let reasons = if missed.count > 0 { format!(": {}", told(&missed.reasons)) } else { String::new() };
    lines.push(format!("  missed by {loser}, got by {other}: {}{reasons}", missed.count));
    for one in missed.sample.iter().take(SHOWN) {
        let id = one.event_id.as_deref().unwrap_or("no event id");
        lines.push(format!("    {id}  {}  {}  {}", one.accepted_at.in_words(), one.project, one.reason));
    }
    let shown = missed.sample.len().min(SHOWN) as u64;
    if missed.count > shown {
        lines.push(format!("    … and {} more", missed.count - shown));
    }
}

fn switches(report: &Report) -> Option<String> {
    let shown = report.switches.iter().take(SHOWN);
    let mut lines: Vec<String> = shown.map(|switch| format!("  {}", super::switch::describe(switch))).collect();
    more(&mut lines, report.switches.len(), "switches");
    (!lines.is_empty()).then(|| format!("\nswitches\n{}", lines.join("\n")))
}

fn criteria(report: &Report) -> String {
    let mut rows = table(&["CRITERION", "RESULT", "DEMANDED", "FOUND"]);
    for criterion in &report.criteria {
        let result = match (criterion.judged, criterion.passed) {
            (false, _) => criterion.result().into(),
            (true, true) => tinted(Tone::Good, criterion.result()),
            (true, false) => tinted(Tone::Bad, criterion.result()),
        };
        let found = harmless(&criterion.found, 300);
        rows.add_row(vec![criterion.name.as_str().into(), result, criterion.demanded.as_str().into(), found.into()]);
    }
    format!("\n{}", terminal::laid_out(rows))
}

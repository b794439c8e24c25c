//! The report as a page that can be printed, without scripts.

use maud::{Markup, html};

use crate::clock::Timestamp;
use crate::http::admin::lately::History;
use crate::telemetry::report::criteria::hours;
use crate::telemetry::report::{ContentReport, LagReport, MissedReport, Report, UpstreamReport};
use crate::telemetry::words;

use super::chart::{Scale, Window, chart};
use super::layout::{document, reasons, switches};

/// The style for printing: light, small, and without page breaks in rows and charts.
const PRINT: &str = "@media print{:root{color-scheme:light;--good:#1a7f37;--bad:#c11b27;--warn:#8a5a00;--muted:#57606a;--page:#fff;--text:#1f2328}
@page{margin:12mm}body{margin:0;padding:0;max-width:none;font-size:9.5px;line-height:1.3}h1{font-size:1.4em}h2{break-after:avoid;margin:.9em 0 .2em}
tr,figure{break-inside:avoid}th,td{padding:.1rem .4rem}nav{display:none}.pair{grid-template-columns:1fr 1fr}svg{margin:0}}";

/// The list of reports, if it is not clear which one is meant.
pub(super) fn choice(why: &str, candidates: &[&str]) -> String {
    let body = html! {
        body {
            header { h1 { "Switchyard" } nav aria-label="Pages" { a href="./" { "Status" } } }
            main {
                h2 { "Which report?" }
                p { (why) }
                ul { @for name in candidates { li { a href={ "report?candidate=" (name) } { (name) } } } }
            }
        }
    };
    document("Switchyard: reports", &html! {}, &body)
}

/// The page of a report.
pub(super) fn render(report: &Report, history: &History) -> String {
    let body = html! {
            body {
                header { h1 { "Switchyard" } nav aria-label="Pages" { a href="./" { "Status" } } }
                main {
                    (head(report))
                    (charts(report, history))
                    (criteria(report))
                    (side_by_side(report))
                    @for upstream in &report.upstreams { (upstream_part(upstream)) }
                    (intake(report))
                    (comparison(report))
                    (switches(&report.switches))
                }
            }
    };
    let style = html! { style { (maud::PreEscaped(PRINT)) } };
    document(&format!("Switchyard: report on {}", report.candidate), &style, &body)
}

fn head(report: &Report) -> Markup {
    html! {
        h2 { "Parallel run: " (report.primary) " (primary) and " (report.candidate) " (candidate)" }
        p.muted {
            "From " (time(report.since)) " to " (time(report.now)) " · items, requests, lags and failures of canaries are counted by whole hours, from "
            (time(report.counted_since)) " on"
            @if let Some(since) = report.judged_since() { "; lag and losses are judged from " (time(since)) " on" }
            "; requests and lags are as of " (time(report.observed_at)) " · version " (report.version)
        }
        div.banner.good[report.ready].bad[!report.ready] {
            b { (report.verdict) }
            @if let Some(words) = report.way_back() { br; (words) }
        }
    }
}

/// The charts of the primary and the candidate side by side, then those of others, all on one scale.
fn charts(report: &Report, history: &History) -> Markup {
    let window = Window::new(report.since, report.now);
    let scale = Scale::of(window, report.upstreams.iter().map(|upstream| history.of(&upstream.name).0));
    html! {
        div.pair {
            @for upstream in &report.upstreams {
                @let (steps, outages) = history.of(&upstream.name);
                figure {
                    figcaption { b { (upstream.name) } " " span.role { (upstream.role) } }
                    (chart((window, scale), steps, outages, &report.switches))
                }
            }
        }
        p.muted { "All charts share one scale." }
    }
}

fn criteria(report: &Report) -> Markup {
    html! {
        h2 { "Criteria" }
        div.wide tabindex="0" role="region" aria-label="Criteria" { table.criteria {
            thead { tr { th { "Criterion" } th { "Result" } th { "Demanded" } th { "Found" } } }
            @for criterion in &report.criteria {
                tr {
                    td { (criterion.name) }
                    td.muted[!criterion.judged].good[criterion.judged && criterion.passed].bad[!criterion.passed] { (criterion.result()) }
                    td { (criterion.demanded) } td { (criterion.found) }
                }
            }
        } }
    }
}

/// The name of a figure, and its value for an upstream in words.
type Figure<'a> = (&'a str, &'a dyn Fn(&UpstreamReport) -> String);

/// A row for each figure and a column for each upstream, so that a phone shows two of them whole.
fn side_by_side(report: &Report) -> Markup {
    let count = |of: fn(&UpstreamReport) -> u64| move |upstream: &UpstreamReport| words::count(of(upstream));
    let lag = |of: fn(&LagReport) -> f64| {
        move |upstream: &UpstreamReport| upstream.lag.as_ref().map_or("none".to_owned(), |lag| words::lag(of(lag)))
    };
    let rows: [Figure<'_>; 11] = [
        ("Accepted", &count(UpstreamReport::accepted)),
        ("Returned", &count(UpstreamReport::returned)),
        ("Delivered", &count(UpstreamReport::delivered)),
        ("Dropped", &count(|upstream| upstream.dropped.values().sum())),
        ("Pending", &count(UpstreamReport::pending)),
        ("Waiting envelopes", &count(|upstream| upstream.waiting)),
        ("Lag p50", &lag(|lag| lag.p50_seconds)),
        ("Lag p99", &lag(|lag| lag.p99_seconds)),
        ("Lag at most", &lag(|lag| lag.max_seconds)),
        ("Availability", &|upstream| format!("{:.3}%", upstream.availability_percent)),
        ("Dead letters", &count(|upstream| upstream.dead_letters)),
    ];
    html! {
        h2 { "Side by side" }
        div.wide tabindex="0" role="region" aria-label="Side by side" { table.sides {
            thead { tr {
                td {}
                @for upstream in &report.upstreams { th.n scope="col" { (upstream.name) " " span.role { (upstream.role) } } }
            } }
            @for (name, of) in rows {
                tr { th scope="row" { (name) } @for upstream in &report.upstreams { td.n { (of(upstream)) } } }
            }
        } }
    }
}

/// A moment in words, with the exact one for programs.
fn time(at: Timestamp) -> Markup {
    html! { time datetime=(at) { (at.in_words()) } }
}

fn upstream_part(upstream: &UpstreamReport) -> Markup {
    html! {
        h2 { (upstream.name) }
        p {
            "Requests: " (reasons(&upstream.attempts)) ". "
            @for limit in words::limits(&upstream.limits) { "Limited: " (limit) ". " }
            "Difference of the accounts: " (upstream.difference) "."
        }
        @if !upstream.dropped.is_empty() {
            p { "Dropped: " @for (reason, n) in &upstream.dropped { (words::dropped(reason, *n)) ". " }
                @if upstream.backfilled() > 0 { "Of these taken up by a backfill since: " (upstream.backfilled()) ". " }
                @if upstream.retried() > 0 { "Of these refused and retried since: " (upstream.retried()) "." }
            }
        }
        @if let Some(own) = &upstream.verification {
            p.bad[own.missing > 0] {
                "Error events: " (own.delivered) " taken, " (own.stored) " found there (" (format!("{:.3}%", own.stored_percent)) "), "
                (own.missing) " missing, " (own.lost) " lost there of which " (own.given_up) " were given up, " (own.unknown)
                " not known, " (own.recent) " too recent."
                @if let Some(why) = &own.trouble { " It cannot be asked now: " (why) }
            }
            @if !own.sample.is_empty() {
                div.wide tabindex="0" role="region" aria-label={ "Missing events of " (upstream.name) } { table {
                    tr { th { "Missing event" } th { "Project" } th { "Accepted" } }
                    @for event in &own.sample { tr { td { (event.event_id) } td { (event.project) } td { (time(event.accepted_at)) } } }
                } }
            }
            @if let Some(content) = &own.content { (content_part(&upstream.name, content)) }
        }
        @if !upstream.categories.is_empty() { div.wide tabindex="0" role="region" aria-label={ "Categories of " (upstream.name) } { table {
            tr {
                th { "Category" } th.n { "Accepted" } th.n { "Returned" } th.n { "Delivered" } th.n { "Dropped" } th.n { "Pending" }
            }
            @for category in &upstream.categories {
                tr {
                    td { (category.category) } td.n { (words::count(category.accepted)) } td.n { (words::count(category.returned)) }
                    td.n { (words::count(category.delivered)) } td.n { (reasons(&category.dropped)) } td.n { (words::count(category.pending)) }
                }
            }
        } } }
        @if !upstream.outages.is_empty() {
            div.wide tabindex="0" role="region" aria-label={ "Outages of " (upstream.name) } { table {
                tr { th { "Outage from" } th { "to" } th { "Cause" } }
                @for outage in &upstream.outages {
                    tr {
                        td { (time(outage.from)) }
                        td { @match outage.to { Some(to) => (time(to)), None => span.bad { "still lasting" } } }
                        td { (outage.cause) }
                    }
                }
            } }
        }
    }
}

/// The result of comparing stored events with the sent ones.
fn content_part(upstream: &str, content: &ContentReport) -> Markup {
    html! {
        p.bad[content.is_bad()] { "Content: " (content.told()) "." }
        @if !content.sample.is_empty() {
            div.wide tabindex="0" role="region" aria-label={ "Differing events of " (upstream) } { table {
                tr { th { "Differing event" } th { "Project" } th { "Field" } th { "Sent" } th { "There" } }
                @for one in &content.sample {
                    tr {
                        td { (one.event_id) } td { (one.project) } td { (one.difference.field) } td { (one.difference.sent) }
                        td { (one.difference.there) }
                    }
                }
            } }
        }
    }
}

fn intake(report: &Report) -> Markup {
    html! {
        h2 { "What came in" }
        p {
            "The relay ran " (hours(report.relay.up_seconds)) " of " (hours(report.relay.window_seconds))
            @if let Some(first) = report.first_start() { " since its first start at " (time(first)) }
            ": " (words::some(report.relay.starts, "start")) ", " (words::some(report.relay.crashes, "crash")) "."
        }
        @for gap in &report.relay.gaps {
            p.warn {
                "It did not run from " (time(gap.from)) " to " (time(gap.to))
                ": what services sent then is lost unless they sent it again, and nobody can count it."
            }
        }
        div.wide tabindex="0" role="region" aria-label="What came in" { table.counts {
            @for (what, counts) in [
                ("Items accepted", &report.intake.accepted), ("Items that were repeats", &report.intake.duplicates),
                ("Requests refused", &report.intake.refused),
                ("Items not let in (limits, storms)", &report.intake.refused_items),
            ] {
                tr { th scope="row" { (what) } td { (reasons(counts)) } }
            }
            tr {
                th scope="row" { "Services seen" }
                td { @for service in &report.services {
                    span.good[service.seen].bad[!service.seen] { (service.told()) (if service.seen { " " } else { " (silent) " }) }
                } }
            }
        } }
    }
}

fn comparison(report: &Report) -> Markup {
    let comparison = &report.comparison;
    html! {
        h2 { "Who got what" }
        p {
            (words::count(comparison.compared)) " envelopes that are still kept were compared"
            @if let Some(oldest) = comparison.oldest { ", from " (time(oldest)) " on" }
            @if !comparison.complete { ", and there are more" }
            ". " (comparison.candidate_waits) " wait for " (report.candidate) " alone, " (comparison.primary_waits) " for "
            (report.primary) " alone."
        }
        (missed(&report.candidate, &report.primary, &comparison.candidate_missed))
        (missed(&report.primary, &report.candidate, &comparison.primary_missed))
    }
}

fn missed(loser: &str, other: &str, missed: &MissedReport) -> Markup {
    html! {
        p { b { (loser) } " missed " (missed.count) " that " (other) " got" @if missed.count > 0 { ":" } @else { "." } }
        @if !missed.sample.is_empty() { div.wide tabindex="0" role="region" aria-label={ "Missed by " (loser) } { table {
            tr { th { "Event" } th { "Project" } th { "Accepted" } th { "Why" } }
            @for one in &missed.sample {
                tr {
                    td { (one.event_id.as_deref().unwrap_or("no event id")) } td { (one.project) } td { (time(one.accepted_at)) }
                    td { (one.reason) }
                }
            }
        } } }
        @if missed.count > missed.sample.len() as u64 { p.muted { "… and " (missed.count - missed.sample.len() as u64) " more" } }
    }
}

//! The status page: the status as a person reads it, without scripts.

use maud::{DOCTYPE, Markup, html};

use crate::telemetry::letters::LetterSummary;
use crate::telemetry::status::{CanaryStatus, Status, SwitchStatus, UpstreamStatus};

use super::forms::Viewer;

pub(super) const STYLE: &str = "
:root{color-scheme:light dark;--line:#8884;--good:#1a7f37;--bad:#cf222e;--warn:#9a6700}
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem}
h1{font-size:1.3rem;margin:0}h2{font-size:1.05rem;margin:2rem 0 .5rem}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid var(--line)}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}
.muted{opacity:.7}.banner{padding:.6rem .8rem;border:1px solid currentColor;border-radius:.4rem;margin:1rem 0;white-space:pre-wrap}
nav{display:flex;flex-wrap:wrap;gap:.5rem;align-items:center;margin:1rem 0}.end{margin-left:auto}td.act{white-space:nowrap}td form{display:inline-block;margin-right:.4rem}
button,input{font:inherit;color:inherit;background:#8881;border:1px solid var(--line);border-radius:.4rem;padding:.25rem .7rem}
button{cursor:pointer}button:hover{border-color:currentColor}button.main,button.drop{background:#1a7f37;color:#fff}button.drop{background:#b31d28}
.narrow{max-width:42rem}.narrow li{margin:.4rem 0}.tall{display:grid;gap:1rem;margin:1.5rem 0;justify-items:start}
.tall label{display:grid;gap:.25rem;width:100%}code{overflow-wrap:anywhere}
@media screen and (max-width:60rem){table{display:block;overflow-x:auto}}
@media(prefers-color-scheme:dark){:root{--good:#3fb950;--bad:#ff7b72;--warn:#d29922}}";

/// The page.
pub(super) fn render(status: &Status, letters: &[LetterSummary], viewer: &Viewer) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                meta http-equiv="refresh" content=(viewer.refresh());
                title { "Switchyard: primary " (status.primary) }
                style { (maud::PreEscaped(STYLE)) }
            }
            body {
                (head(status))
                (viewer.bar(status))
                (upstreams(status))
                @for upstream in &status.upstreams { (accounts(upstream)) }
                (outages(status))
                (fillers(status))
                (refused(status))
                (backfills(status, viewer))
                (dead_letters(letters, viewer))
                (switches(&status.switches))
            }
        }
    };
    page.into_string()
}

fn head(status: &Status) -> Markup {
    html! {
        h1 { "Switchyard" }
        p {
            a href="report" { "Report" } " · Primary: " b { (status.primary) } " · mirror " (if status.mirror { "on" } else { "off" })
            span.muted {
                " · version " (status.version) " · running since " (status.started_at)
                " · journal " (bytes(status.journal.size_bytes)) " · " (status.now)
            }
        }
        @for project in status.exceptions() {
            p { "Project " b { (project.name) } ": primary " b { (project.primary) } " · mirror " (if project.mirror { "on" } else { "off" }) }
        }
        @if status.browsers().next().is_some() {
            p.muted { "Used by browsers, with default limits where none is written: " (status.browsers().collect::<Vec<_>>().join(", ")) }
        }
        @if let Some(why) = &status.not_ready { div.banner.bad { "Not accepting: " (why) } }
        @if let Some(error) = &status.config.error {
            div.banner.bad { "The configuration file has problems; the one loaded at " (status.config.loaded_at) " stays in force.\n" (error) }
        }
        @if status.difference != 0 {
            div.banner.bad { "The accounts do not balance: " (status.difference) " items. This is a defect: please report it." }
        }
    }
}

fn upstreams(status: &Status) -> Markup {
    let has_canaries = status.upstreams.iter().any(|upstream| upstream.canary.is_some());
    html! {
        h2 { "Upstreams" }
        table {
            tr {
                th { "Upstream" } th { "Role" } th { "State" } th.n { "Delivered" } th.n { "Dropped" } th.n { "Waiting" }
                th.n { "Oldest" } th.n { "Dead letters" } th.n { "Difference" } @if has_canaries { th { "Canary" } } th { "Last error" }
            }
            @for upstream in &status.upstreams {
                tr {
                    td { b { (upstream.name) } } td { (status.role_of(upstream)) } td class=(tone(upstream)) { (upstream.state) }
                    td.n { (upstream.delivered) } td.n { (upstream.dropped.values().sum::<u64>()) }
                    td.n { (upstream.backlog.envelopes) } td.n { (seconds(upstream.backlog.oldest_seconds)) }
                    td.n { (upstream.dead_letters) } td.n { (upstream.difference) }
                    @if has_canaries { td { @if let Some(canary) = &upstream.canary { (of_canary(canary)) } } }
                    td {
                        @for stranded in &upstream.stranded { (stranded) ". " }
                        @for alone in upstream.alone() { (alone) ". " }
                        @if let Some(error) = &upstream.last_error { (error.at) " " (error.what) }
                    }
                }
            }
        }
    }
}

fn of_canary(canary: &CanaryStatus) -> Markup {
    let class = match canary.state.as_str() {
        "through" => "good",
        "failing" => "bad",
        _ => "warn",
    };
    html! {
        span class=(class) { (canary.state.replace('_', " ")) }
        @match canary.through_at {
            Some(at) => span.muted { ", the last at " (at) },
            None => span.muted { ", none since the start" },
        }
        @if let Some(why) = &canary.why { br; (why) }
    }
}

fn accounts(upstream: &UpstreamStatus) -> Markup {
    html! {
        h2 { "Items for " (upstream.name) }
        @if let Some(spared) = &upstream.spared { p { "As a shadow it gets: " (spared) "." } }
        table {
            tr { th { "Project" } th { "Category" } th.n { "Accepted" } th.n { "Delivered" } th.n { "Dropped" } th.n { "Returned" } th.n { "Pending" } th.n { "Difference" } }
            @for account in &upstream.accounts {
                tr {
                    td { (account.project) } td { (account.category) } td.n { (account.accepted) } td.n { (account.delivered) }
                    td.n { @for (reason, n) in &account.dropped { (reason) " " (n) " " } }
                    td.n { (account.returned) } td.n { (account.pending) } td.n { (account.difference) }
                }
            }
        }
    }
}

fn outages(status: &Status) -> Markup {
    let mut all = status.upstreams.iter().flat_map(|upstream| upstream.outages.iter().map(move |one| (upstream, one)));
    let first = all.next();
    html! {
        h2 { "Outages of the last day" }
        @if first.is_none() { p.muted { "None." } }
        table {
            @for (upstream, outage) in first.into_iter().chain(all) {
                tr {
                    td { b { (upstream.name) } } td { (outage.from) }
                    td { @match outage.to {
                        Some(to) => (seconds(to.since(outage.from).as_secs_f64())),
                        None => span.bad { "still lasting" },
                    } }
                    td { (outage.cause) }
                }
            }
        }
    }
}

fn fillers(status: &Status) -> Markup {
    html! {
        @if status.journal.fillers().next().is_some() {
            h2 { "Journal by project" }
            table {
                tr { th { "Project" } th.n { "Takes" } th.n { "Part" } th { } }
                @for share in status.journal.fillers() {
                    tr {
                        td { (share.name) } td.n { (bytes(share.bytes)) } td.n { (bytes(share.part_bytes.unwrap_or(0))) }
                        td { @if share.is_beyond() { span.muted { "takes of the common half" } } }
                    }
                }
            }
        }
    }
}

fn refused(status: &Status) -> Markup {
    html! {
        @if !status.refused.is_empty() {
            h2 { "Not accepted" }
            table {
                tr { th { "Project" } th { "Category" } th { "Reason" } th.n { "Items" } }
                @for row in &status.refused {
                    tr { td { (row.project) } td { (row.category) } td { (row.reason) } td.n { (row.items) } }
                }
            }
        }
        @if !status.storms.is_empty() {
            h2 { "Storms of identical errors" }
            table {
                tr { th { "Project" } th { "Error" } th.n { "Dropped" } th { "Last" } }
                @for storm in &status.storms {
                    tr { td { (storm.project) } td { (storm.what) } td.n { (storm.collapsed) } td { (storm.last) } }
                }
            }
        }
    }
}

fn backfills(status: &Status, viewer: &Viewer) -> Markup {
    html! {
        @if !status.backfills.is_empty() {
            h2 { "Backfills" }
            table {
                tr { th { "Upstream" } th { "Projects" } th { "Since" } th { "State" } th.n { "Handed over" } th.n { "Found" } (viewer.heading()) }
                @for backfill in &status.backfills {
                    tr {
                        td { (backfill.upstream) } td { (backfill.projects.join(", ")) } td { (backfill.since) }
                        td { (backfill.state) } td.n { (backfill.taken) } td.n { (backfill.found) }
                        (viewer.backfill(&backfill.upstream, &backfill.state))
                    }
                }
            }
        }
    }
}

fn dead_letters(letters: &[LetterSummary], viewer: &Viewer) -> Markup {
    html! {
        @if !letters.is_empty() {
            h2 { "Newest dead letters" }
            table {
                tr { th.n { "Number" } th { "Refused at" } th { "Upstream" } th { "Project" } th { "Why" } th { "Answer" } (viewer.heading()) }
                @for letter in letters {
                    tr {
                        td.n { (letter.id) } td { (letter.at) } td { (letter.upstream) } td { (letter.project) } td { (letter.reason) }
                        td { @if let Some(status) = letter.status { (status) " " } (letter.answer.chars().take(200).collect::<String>()) }
                        (viewer.letter(letter))
                    }
                }
            }
            p.muted { "switchyard dead-letters show NUMBER tells more; retry and discard decide what becomes of it." }
        }
    }
}

pub(super) fn switches(switches: &[SwitchStatus]) -> Markup {
    html! {
        h2 { "Switches" }
        @if switches.is_empty() { p.muted { "None." } }
        table {
            @for switch in switches {
                tr {
                    td { (switch.at) } td { (switch.project.as_deref().unwrap_or("all projects")) }
                    td { (switch.from.as_deref().unwrap_or("")) " → " b { (switch.to) } }
                    td { (switch.reason.as_deref().unwrap_or("")) } td.muted { (switch.author.as_deref().unwrap_or("")) }
                }
            }
        }
    }
}

fn tone(upstream: &UpstreamStatus) -> &'static str {
    match upstream.state.as_str() {
        "up" => "good",
        "down" | "misconfigured" => "bad",
        _ => "warn",
    }
}

/// A number of bytes as a person reads it.
fn bytes(n: u64) -> String {
    let (unit, name) = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
        .into_iter()
        .find(|(unit, _)| n >= *unit)
        .unwrap_or((1, "bytes"));
    format!("{} {name}", n / unit)
}

fn seconds(n: f64) -> String {
    match n {
        0.0 => String::new(),
        n if n < 120.0 => format!("{n:.0} s"),
        n if n < 7200.0 => format!("{:.0} min", n / 60.0),
        n => format!("{:.1} h", n / 3600.0),
    }
}

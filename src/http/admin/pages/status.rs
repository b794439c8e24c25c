//! The status page. The first screen says how it goes; details that are seldom needed are folded.
//!
//! Rule: the page works without scripts. [`SCRIPT`] only reloads it without flicker and without folding open parts.

use std::collections::BTreeMap;

use maud::{Markup, PreEscaped, html};

use crate::http::admin::lately::History;
use crate::telemetry::health::Level;
use crate::telemetry::letters::LetterSummary;
use crate::telemetry::metrics::Refused;
use crate::telemetry::status::{AccountStatus, Status};
use crate::telemetry::words;

use super::cards;
use super::chart::{Scale, Window};
use super::forms::Viewer;
use super::layout::{SCRIPT, document, reasons, table_of_switches, when};

/// The most accounts that are shown one by one.
const MOST_ACCOUNTS: usize = 120;

/// The status page.
pub(super) fn render(
    status: &Status,
    history: &History,
    letters: &[LetterSummary],
    (viewer, tile): (&Viewer, &Markup),
) -> String {
    let window = Window::until(status.now);
    let scale = Scale::of(window, status.upstreams.iter().map(|upstream| history.of(&upstream.name).0));
    let title = format!("{} {} · Switchyard", status.health.level.sign(), status.health.level.words());
    let body = html! {
            body {
                header { h1 { "Switchyard" } nav aria-label="Pages" { a href="report" { "Report" } } }
                main {
                    (first_screen(status, tile))
                    (viewer.bar(status))
                    (alarms(status))
                    div.cards { @for upstream in &status.upstreams { (cards::card(status, upstream, (scale, history.of(&upstream.name)), viewer)) } }
                    (accounts(status))
                    (dead_letters(status, letters, viewer))
                    (refused(status))
                    (outages(status))
                    (backfills(status, viewer))
                    (switches_part(status))
                    (projects(status))
                    (relays(status))
                    p.muted {
                        "version " (status.version) " · running for " (words::span(status.now.since(status.started_at)))
                        " · journal " (words::bytes(status.journal.size_bytes)) " · " time datetime=(status.now) { (status.now.in_words()) }
                    }
                }
                @if viewer.is_live() { script { (PreEscaped(SCRIPT)) } }
            }
    };
    document(&title, &viewer.refresh(), &body)
}

/// The first screen: health, and the most important figures, readable across the room. `tile` says where a switch may lead.
fn first_screen(status: &Status, tile: &Markup) -> Markup {
    let class = match status.health.level {
        Level::Well => "verdict good",
        Level::Degraded => "verdict warn",
        Level::LosingData => "verdict bad",
    };
    let waiting: u64 = status.upstreams.iter().map(|upstream| upstream.backlog.envelopes).sum();
    let lost: u64 = status.upstreams.iter().map(|upstream| upstream.lately.lost).sum();
    let coming = match (&status.not_ready, words::without_relay(&status.gaps)) {
        (Some(_), _) => "items, and what comes now is refused".to_owned(),
        (None, Some(length)) => format!("items, and what came in {length} without the relay, which nobody can count"),
        (None, None) => "items".to_owned(),
    };
    let no_room = status.turned_away(Refused::is_for_want_of_room);
    let refused =
        (no_room > 0).then(|| format!(", and {} for which there was no room", words::some(no_room, "request")));
    let limited = words::refused_under_limits(status);
    let sentence = &status.health.sentence;
    let why = sentence.split_once(": ").map_or(sentence.as_str(), |(_, why)| why);
    html! {
        section class=(class) aria-label="How it goes" {
            h2 { span aria-hidden="true" { (status.health.level.sign()) " " } (status.health.level.words()) }
            p { (why) }
        }
        dl.facts {
            div { dt { "Primary" } dd { b { (status.primary) } } dd.muted { "mirror " (if status.mirror { "on" } else { "off" }) } }
            div { dt { "Waiting" } @match status.unread {
                Some(_) => { dd.warn { b { "▲ Not known" } } dd.muted { "the journal cannot be read" } }
                None => { dd { b { (words::count(waiting)) } } dd.muted { (words::verb(waiting, "copy", "copies")) ", one for each tracker that an envelope waits for" } }
            } }
            div {
                dt { "Lost in the last two hours" }
                dd.bad[lost > 0 || no_room > 0 || limited.is_some() || status.not_ready.is_some()] { b { (words::count(lost)) } }
                dd.muted { (coming) @if let Some(refused) = &refused { (refused) } @if let Some(limited) = &limited { "; " (limited) } }
            }
            (tile)
        }
        @for project in status.exceptions() {
            p { "Project " b { (project.name) } ": primary " b { (project.primary) } " · mirror " (if project.mirror { "on" } else { "off" }) }
        }
    }
}

fn alarms(status: &Status) -> Markup {
    html! {
        @if let Some(error) = &status.config.error {
            div.banner.bad { "The configuration file has problems; the one loaded at " (status.config.loaded_at.in_words()) " stays in force.\n" (error) }
        }
        @if status.difference != 0 {
            div.banner.bad { "The accounts differ by " (words::some(status.difference.unsigned_abs(), "item")) ". This is a defect: please report it." }
        }
    }
}

/// A folded part with a table.
fn folded(id: &str, title: &str, count: usize, content: &Markup) -> Markup {
    html! {
        details id=(id) {
            summary id={ (id) "-title" } { (title) " " span.muted { "(" (count) ")" } }
            @if count == 0 { p.muted { "None." } }
            @else { div.wide tabindex="0" role="region" aria-labelledby={ (id) "-title" } { (content) } }
        }
    }
}

/// The accounts of each project; if there are more than [`MOST_ACCOUNTS`], their sums over all projects.
fn accounts(status: &Status) -> Markup {
    let all: Vec<(&str, &AccountStatus)> =
        status.upstreams.iter().flat_map(|one| one.accounts.iter().map(move |own| (one.name.as_str(), own))).collect();
    let together = (all.len() > MOST_ACCOUNTS).then(|| together(&all));
    let shown = together.as_ref().map_or(all, |sums| sums.iter().map(|((name, _), sum)| (*name, sum)).collect());
    let content = html! {
        @if together.is_some() {
            p.muted { "All projects together, because there are many. " code { "switchyard status --json" } " has the accounts of each." }
        }
        table {
            thead { tr {
                th { "Upstream" } th { "Project" } th { "Category" } th.n { "Accepted" } th.n { "Delivered" } th.n { "Dropped" }
                th.n { "Returned" } th.n { "Pending" } th.n { "Difference" }
            } }
            @for (upstream, account) in &shown {
                tr {
                    td { (upstream) } td { (account.project) } td { (account.category) }
                    td.n { (words::count(account.accepted)) } td.n { (words::count(account.delivered)) }
                    td.n { (reasons(&account.dropped)) }
                    td.n { (words::count(account.returned)) } td.n { (words::count(account.pending)) } td.n { (account.difference) }
                }
            }
        }
    };
    folded("accounts", "Accounts", shown.len(), &content)
}

/// The sums of accounts by upstream and category.
fn together<'a>(all: &[(&'a str, &'a AccountStatus)]) -> BTreeMap<(&'a str, &'a str), AccountStatus> {
    let mut sums = BTreeMap::new();
    for (upstream, account) in all {
        let sum = sums.entry((*upstream, account.category.as_str())).or_insert_with(|| AccountStatus {
            project: "all".to_owned(),
            category: account.category.clone(),
            ..AccountStatus::default()
        });
        sum.accepted += account.accepted;
        sum.returned += account.returned;
        sum.delivered += account.delivered;
        sum.pending += account.pending;
        sum.difference += account.difference;
        for (reason, n) in &account.dropped {
            *sum.dropped.entry(reason.clone()).or_default() += n;
        }
    }
    sums
}

fn outages(status: &Status) -> Markup {
    let all: Vec<_> =
        status.upstreams.iter().flat_map(|upstream| upstream.outages.iter().map(move |one| (upstream, one))).collect();
    let content = html! {
        table {
            thead { tr { th { "Upstream" } th { "From" } th { "Lasted" } th { "Cause" } } }
            @for (upstream, outage) in &all {
                tr {
                    td { b { (upstream.name) } } td { (when(status.now, outage.from)) }
                    td { @match outage.to {
                        Some(to) => (words::span(to.since(outage.from))),
                        None => span.bad { "still lasting" },
                    } }
                    td { (outage.cause) }
                }
            }
        }
    };
    folded("outages", "Outages of the last day", all.len(), &content)
}

fn refused(status: &Status) -> Markup {
    let content = html! {
        table {
            thead { tr { th { "Project" } th { "Category" } th { "Reason" } th.n { "Items" } } }
            @for row in &status.refused {
                tr { td { (row.project) } td { (row.category) } td { (row.reason) } td.n { (words::count(row.items)) } }
            }
        }
    };
    let storms = html! {
        table {
            thead { tr { th { "Project" } th { "Error" } th.n { "Dropped" } th { "Last" } } }
            @for storm in &status.storms {
                tr { td { (storm.project) } td { (storm.what) } td.n { (words::count(storm.collapsed)) } td { (when(status.now, storm.last)) } }
            }
        }
    };
    let requests = html! {
        table {
            thead { tr { th { "Reason" } th.n { "Requests" } } }
            @for (reason, requests) in &status.refused_requests {
                tr { td { (reason.replace('_', " ")) } td.n { (words::count(*requests)) } }
            }
        }
        p.muted { "The log names the project, the client and the address of one of each kind a minute." }
    };
    html! {
        @if !status.refused_requests.is_empty() {
            (folded("requests", "Requests refused in the last two hours", status.refused_requests.len(), &requests))
        }
        @if !status.refused.is_empty() { (folded("refused", "Not accepted", status.refused.len(), &content)) }
        @if !status.storms.is_empty() { (folded("storms", "Storms of identical errors", status.storms.len(), &storms)) }
    }
}

fn backfills(status: &Status, viewer: &Viewer) -> Markup {
    let content = html! {
        table {
            thead { tr { th { "Upstream" } th { "Projects" } th { "Since" } th { "State" } th.n { "Handed over" } th.n { "Found" } (viewer.heading()) } }
            @for backfill in &status.backfills {
                tr {
                    td { (backfill.upstream) } td { (backfill.projects.join(", ")) } td { (backfill.since.in_words()) }
                    td { (backfill.state) } td.n { (backfill.taken) } td.n { (backfill.found) }
                    (viewer.backfill(&backfill.upstream, &backfill.state))
                }
            }
        }
    };
    html! { @if !status.backfills.is_empty() { (folded("backfills", "Backfills", status.backfills.len(), &content)) } }
}

fn dead_letters(status: &Status, letters: &[LetterSummary], viewer: &Viewer) -> Markup {
    let content = html! {
        table {
            thead { tr { th.n { "Number" } th { "Refused" } th { "Upstream" } th { "Project" } th { "What" } th { "Why" } th { "Answer" } (viewer.heading()) } }
            @for letter in letters {
                tr {
                    td.n { (letter.id) } td { (when(status.now, letter.at)) } td { (letter.upstream) } td { (letter.project) }
                    td { (letter.what()) } td { (letter.reason) }
                    td { @if let Some(status) = letter.status { (status) " " } (letter.answer.chars().take(200).collect::<String>()) }
                    (viewer.letter(letter))
                }
            }
        }
        p.muted { code { "switchyard dead-letters show NUMBER" } " tells more; " code { "retry" } " sends it again, " code { "discard" } " forgets it." }
    };
    html! { @if !letters.is_empty() { (folded("letters", "Newest dead letters", letters.len(), &content)) } }
}

fn switches_part(status: &Status) -> Markup {
    folded("switches", "Switches", status.switches.len(), &table_of_switches(&status.switches))
}

fn projects(status: &Status) -> Markup {
    let taken = |name: &str| status.journal.fillers().find(|share| share.name == name).map(|share| share.bytes);
    let content = html! {
        table {
            thead { tr { th { "Project" } th { "Primary" } th { "Mirror" } th { "Upstreams" } th { "Used by" } th.n { "In the journal" } } }
            @for project in &status.projects {
                tr {
                    td { (project.name) } td { (project.primary) } td { (if project.mirror { "on" } else { "off" }) }
                    td { (project.upstreams.join(", ")) }
                    td { @if project.browsers { "browsers, with default limits where none is written" } @else { "servers" } }
                    td.n { @if let Some(taken) = taken(&project.name) { (words::bytes(taken)) } }
                }
            }
        }
    };
    folded("projects", "Projects", status.projects.len(), &content)
}

/// The relays that share the journal, and its standbys.
fn relays(status: &Status) -> Markup {
    let (relays, standbys) = (&status.journal.relays, &status.journal.standbys);
    let content = html! {
        table {
            thead { tr { th { "Relay" } th { "Version" } th { "State" } th.n { "In hand" } th { "Kept on its machine" } } }
            @for relay in relays {
                tr {
                    td { (relay.name) @if relay.own { " (this one)" } } td { (relay.version) }
                    td.bad[!relay.alive] {
                        (words::life(status.now, relay)) @if relay.leads { ", leads" }
                        @if let Some(differs) = words::differing(relay) { ", " span.bad { (differs) } }
                    }
                    td.n { (words::count(relay.leases)) } td { (words::kept(relay)) }
                }
            }
        }
        @if !standbys.is_empty() {
            table {
                thead { tr { th { "Standby" } th { "Lag" } } }
                @for standby in standbys { tr { td { (standby.name) } td { (words::behind(standby)) } } }
            }
        }
    };
    html! { @if !relays.is_empty() { (folded("relays", "Relays", relays.len(), &content)) } }
}

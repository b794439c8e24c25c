//! The common parts of all pages: the document around them, the style, the script, times and switches.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use ring::digest;

use crate::clock::Timestamp;
use crate::telemetry::status::{SwitchStatus, UpstreamStatus};
use crate::telemetry::words;

const STYLE: &str = include_str!("page.css");

/// Looks every 5 seconds, in the background every minute; keeps open what is open and the focus where it is, shows exact times in the
/// reader's zone, and says so when there is no news.
pub(super) const SCRIPT: &str = include_str!("page.js");

/// The only script that a browser may run here, as the policy names it.
pub(in crate::http::admin) static SCRIPT_SOURCE: LazyLock<String> = LazyLock::new(|| {
    let digest = digest::digest(&digest::SHA256, SCRIPT.as_bytes());
    format!("'sha256-{}'", BASE64_STANDARD.encode(digest))
});

/// A document. `head` follows title and style, so that a style in it overrides the common one.
pub(super) fn document(title: &str, head: &Markup, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
                (head)
            }
            (body)
        }
    };
    page.into_string()
}

/// Switches with their heading, for the report.
pub(super) fn switches(switches: &[SwitchStatus]) -> Markup {
    html! {
        h2 { "Switches" }
        @if switches.is_empty() { p.muted { "None." } }
        @else { div.wide tabindex="0" role="region" aria-label="Switches" { (table_of_switches(switches)) } }
    }
}

pub(super) fn table_of_switches(switches: &[SwitchStatus]) -> Markup {
    html! {
        table {
            @for switch in switches {
                tr {
                    td { (switch.at.in_words()) } td { (switch.project.as_deref().unwrap_or("all projects")) }
                    td { (switch.from.as_deref().unwrap_or("")) " → " b { (switch.to) } }
                    td { (switch.reason.as_deref().unwrap_or("")) } td.muted { (switch.author.as_deref().unwrap_or("")) }
                }
            }
        }
    }
}

/// Counts by reason or kind, in words.
pub(super) fn reasons(counts: &BTreeMap<String, u64>) -> String {
    let told = counts.iter().filter(|(_, n)| **n > 0).map(|(kind, n)| format!("{kind} {}", words::count(*n)));
    let told: Vec<String> = told.collect();
    if told.is_empty() { "0".to_owned() } else { told.join(", ") }
}

/// A time as an age in words, with the exact time as its title.
pub(super) fn when(now: Timestamp, at: Timestamp) -> Markup {
    html! { time datetime=(at) title=(at.in_words()) { (words::ago(now, at)) } }
}

pub(super) fn tone(upstream: &UpstreamStatus) -> &'static str {
    match upstream.state.as_str() {
        "up" => "good",
        "down" | "misconfigured" => "bad",
        _ => "warn",
    }
}

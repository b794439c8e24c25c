//! A card for each upstream on the status page: its state, its backlog, what went wrong and what to do about it.

use maud::{Markup, html};

use crate::protocol::category::Category;
use crate::telemetry::health;
use crate::telemetry::series::Step;
use crate::telemetry::status::{CanaryStatus, OutageStatus, Status, UpstreamStatus};
use crate::telemetry::words;

use super::chart::{Scale, Window, chart};
use super::forms::Viewer;
use super::layout::{tone, when};

/// The card of an upstream.
pub(super) fn card(
    status: &Status,
    upstream: &UpstreamStatus,
    (scale, (steps, outages)): (Scale, (&[Step], &[OutageStatus])),
    viewer: &Viewer,
) -> Markup {
    let id = format!("upstream-{}", upstream.name);
    let remedy = health::remedy(upstream);
    html! {
        article.card aria-labelledby=(id) {
            h2 id=(id) { b { (upstream.name) } " " span.role { (status.role_of(upstream)) } }
            p class={ "state " (tone(upstream)) } { span aria-hidden="true" { (sign(upstream)) " " } (state(upstream)) }
            (figures(status, upstream))
            (chart((Window::until(status.now), scale), steps, outages, &status.switches))
            @if let Some(own) = &upstream.verification {
                p.bad[own.missing > 0] { "Stores: " (own.told()) "." }
                (viewer.repair(upstream))
                @if let Some(content) = &own.content { p.warn[content.is_bad()] { "Content: " (content.told()) "." } }
                @if let Some(trouble) = &own.trouble { p.warn { "What it stores cannot be looked up: " (trouble) } }
            }
            @if let Some(canary) = &upstream.canary { p { "Canaries: " (of_canary(status, canary)) } }
            @if let Some(spared) = &upstream.spared { p.muted { "As a shadow it gets: " (spared) "." } }
            @for limit in words::limits(&upstream.limits) { p.warn { "Limited: " (limit) } }
            @if let Some(own) = words::projects(&upstream.refused_projects) { p.warn { "Refuses the DSN of " (own) "." } }
            @for alone in upstream.alone() { p.warn { (alone) "." } }
            @for poison in &upstream.poison { p.warn { (poison) "." } }
            @for stranded in &upstream.stranded { p.bad { (stranded) "." } }
            @if let Some(error) = &upstream.last_error {
                p { "Last error, " (when(status.now, error.at)) ": " (error.what) }
            }
            @if !remedy.is_empty() { p.todo { (remedy) } }
        }
    }
}

fn figures(status: &Status, upstream: &UpstreamStatus) -> Markup {
    let backlog = &upstream.backlog;
    html! {
        dl.figures {
            div { dt { "Per minute lately" } dd { (pace(upstream.lately.per_minute)) } }
            div { dt { "Delivered in all" } dd { (words::count(upstream.delivered)) } }
            div { dt { "Waiting" } dd { (words::count(backlog.envelopes))
                @if backlog.envelopes > 0 { span.muted { ", the oldest " (words::seconds(backlog.oldest_seconds)) (remaining(upstream)) } } } }
            div { dt { "Dropped" } dd { (words::count(upstream.dropped.values().sum())) } }
            div { dt { "Dead letters" } dd { (words::count(upstream.dead_letters)) } }
            div { dt { "Last delivery" } dd { @match upstream.last_delivery_at {
                Some(at) => (when(status.now, at)),
                None if upstream.delivered > 0 => "not known",
                None => "none yet",
            } } }
        }
        @if upstream.difference != 0 { p.bad { "The accounts differ by " (words::some(upstream.difference.unsigned_abs(), "item")) "." } }
    }
}

/// The items delivered per minute, in words.
fn pace(per_minute: f64) -> String {
    match per_minute {
        none if none < 0.05 => "0".to_owned(),
        few if few < 100.0 => format!("{few:.1}"),
        many => format!("{many:.0}"),
    }
}

/// How long the backlog takes at the present pace, in words; empty if that is not known.
fn remaining(upstream: &UpstreamStatus) -> String {
    let pace = upstream.lately.pace.filter(|pace| upstream.state == "up" && *pace > 0.0);
    let items = upstream.accounts.iter().filter(|account| Category::counts_items(&account.category));
    let items: u64 = items.map(|account| account.pending).sum();
    let Some(pace) = pace.filter(|_| items > 0) else { return String::new() };
    #[expect(clippy::cast_precision_loss, reason = "no backlog has 2^53 items")]
    let left = items as f64 / pace * 60.0;
    format!(", some {} at this pace", words::seconds(left.ceil()))
}

/// The sign of its state.
pub(super) fn sign(upstream: &UpstreamStatus) -> &'static str {
    match tone(upstream) {
        "good" => "✔",
        "bad" => "✖",
        _ => "▲",
    }
}

/// Its state in words.
pub(super) fn state(upstream: &UpstreamStatus) -> &str {
    match upstream.state.as_str() {
        "misconfigured" => "misconfigured: it does not let us in",
        "limited" => "limited: it asks us to wait",
        "probing" => "probing: it was down, and is asked again",
        "removed" => "removed from the configuration",
        state => state,
    }
}

fn of_canary(status: &Status, canary: &CanaryStatus) -> Markup {
    let class = match canary.state.as_str() {
        "through" => "good",
        "failing" => "bad",
        _ => "warn",
    };
    html! {
        span class=(class) { (canary.state.replace('_', " ")) }
        @match canary.through_at {
            Some(at) => span.muted { ", the last " (when(status.now, at)) },
            None => span.muted { ", none before" },
        }
        @if let Some(why) = &canary.why { ": " (why) }
    }
}

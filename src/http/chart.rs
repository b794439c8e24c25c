//! A chart of 48 hours of an upstream as SVG: accepted and delivered, what waited, lags, with its outages and the switches.
//!
//! Rule: drawn here, without scripts; small whatever is in it, because many steps become one point; said in words as well.

use std::fmt::Write as _;
use std::time::Duration;

use maud::{Markup, html};

use crate::clock::Timestamp;
use crate::telemetry::series::Step;
use crate::telemetry::status::{OutageStatus, SwitchStatus};
use crate::telemetry::words;

/// How far back it goes.
pub(super) const SPAN: Duration = Duration::from_secs(48 * 3600);
/// One point stands for fifteen minutes.
const POINTS: usize = 192;
const WIDTH: u64 = 576;
/// Top and height of the three parts: items, envelopes that wait, lags.
const PARTS: [(u64, u64); 3] = [(14, 70), (104, 34), (158, 34)];
const HEIGHT: u64 = 212;

/// The points of one figure.
type Line = [u64; POINTS];

struct Lines {
    accepted: Line,
    delivered: Line,
    waiting: Line,
    lag: Line,
}

/// The chart of the time until now.
pub(super) fn chart(now: Timestamp, steps: &[Step], outages: &[OutageStatus], switches: &[SwitchStatus]) -> Markup {
    let from = now - SPAN;
    let x = |at: Timestamp| share(at.since(from), WIDTH);
    let lines = lines(from, steps);
    html! {
        svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(in_words(steps, &lines, outages)) {
            @for outage in outages {
                @let (start, end) = (x(outage.from), x(outage.to.unwrap_or(now)));
                @if outage.to.unwrap_or(now) > from {
                    rect.outage x=(start) y="0" width=((end - start).max(2)) height=(HEIGHT - 18) {}
                }
            }
            (part(0, "items in 15 minutes: accepted (line), delivered (area)", &[("delivered", &lines.delivered), ("accepted", &lines.accepted)]))
            (part(1, "envelopes waiting", &[("waiting", &lines.waiting)]))
            (part(2, "lag p99 in ms", &[("lag", &lines.lag)]))
            @for switch in switches.iter().filter(|switch| switch.at > from) {
                @let at = x(switch.at);
                line.switch x1=(at) y1="0" x2=(at) y2=(HEIGHT - 18) {}
                text x=(at) y=(HEIGHT - 20) text-anchor={ @if at > WIDTH / 2 { "end" } @else { "start" } } { "to " (switch.to) }
            }
            text x="0" y=(HEIGHT - 4) { "48 h ago" }
            text x=(WIDTH / 2) y=(HEIGHT - 4) text-anchor="middle" { "24 h ago" }
            text x=(WIDTH) y=(HEIGHT - 4) text-anchor="end" { "now" }
        }
    }
}

/// One figure above the other shares no scale with it: each part says its own.
fn part(at: usize, title: &str, lines: &[(&str, &Line)]) -> Markup {
    let (top, height) = PARTS[at];
    let most = lines.iter().flat_map(|(_, line)| line.iter()).copied().max().unwrap_or(0);
    html! {
        line.axis x1="0" y1=(top + height) x2=(WIDTH) y2=(top + height) {}
        @if most > 0 {
            @for (class, line) in lines {
                @if *class == "delivered" {
                    polygon class=(class) points={ "0," (top + height) " " (points(line, most, top, height)) " " (WIDTH) "," (top + height) } {}
                } @else {
                    polyline class=(class) points=(points(line, most, top, height)) {}
                }
            }
        }
        text x="0" y=(top - 3) { (title) ", at most " (most) }
    }
}

fn points(line: &Line, most: u64, top: u64, height: u64) -> String {
    let mut text = String::with_capacity(POINTS * 8);
    for (at, value) in line.iter().enumerate() {
        let y = top + height - value.saturating_mul(height) / most;
        let x = at as u64 * WIDTH / (POINTS as u64 - 1);
        if write!(text, "{x},{y} ").is_err() {
            break;
        }
    }
    text
}

/// The steps on their points. Of counts the sum, of what is measured the most.
fn lines(from: Timestamp, steps: &[Step]) -> Lines {
    let mut lines = Lines { accepted: [0; POINTS], delivered: [0; POINTS], waiting: [0; POINTS], lag: [0; POINTS] };
    for step in steps.iter().filter(|step| step.at >= from) {
        let at = usize::try_from(share(step.at.since(from), POINTS as u64)).unwrap_or(0).min(POINTS - 1);
        lines.accepted[at] = lines.accepted[at].saturating_add(step.accepted);
        lines.delivered[at] = lines.delivered[at].saturating_add(step.delivered);
        lines.waiting[at] = lines.waiting[at].max(step.waiting);
        lines.lag[at] = lines.lag[at].max(step.lag_p99.unwrap_or(0));
    }
    lines
}

/// How far a time is into the chart, of so many parts.
fn share(since: Duration, parts: u64) -> u64 {
    (since.as_secs() * parts / SPAN.as_secs()).min(parts)
}

fn in_words(steps: &[Step], lines: &Lines, outages: &[OutageStatus]) -> String {
    let sum = |of: fn(&Step) -> u64| steps.iter().map(of).fold(0, u64::saturating_add);
    let (accepted, delivered) = (sum(|step| step.accepted), sum(|step| step.delivered));
    let most = |line: &Line| line.iter().copied().max().unwrap_or(0);
    let lag = words::span(Duration::from_millis(most(&lines.lag)));
    format!(
        "The last 48 hours: {accepted} items accepted, {delivered} delivered, at most {} envelopes waiting, lag p99 at most {lag}, {} outages",
        most(&lines.waiting),
        outages.len(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_stays_small_whatever_is_in_it_and_says_its_figures_in_words() {
        let now = Timestamp::from_millis(1_800_000_000_000);
        let step = |n: u64| Step {
            at: now - Duration::from_secs(n * 300),
            accepted: u64::MAX / 4,
            delivered: 7 * n,
            lost: 0,
            waiting: u64::MAX,
            lag_p99: Some(n),
        };
        let steps: Vec<Step> = (0..600).map(step).collect();
        let outage = OutageStatus { from: now - Duration::from_secs(9000), to: None, cause: "<refused>".to_owned() };
        let text = chart(now, &steps, &[outage], &[]).into_string();
        assert!(text.len() < 12_000, "{}", text.len());
        assert!(
            text.contains("class=\"outage\"") && text.contains("envelopes waiting, at most 18446744073709551615"),
            "{text}"
        );
        assert!(chart(now, &[], &[], &[]).into_string().contains("The last 48 hours: 0 items accepted, 0 delivered"));
    }
}

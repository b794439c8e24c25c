//! A chart of an upstream over time as SVG: items accepted and delivered, the backlog, lags, outages and switches.
//!
//! Rule: a chart is drawn here, without scripts. It stays small, because many steps become one point. Its figures are also given in
//! words.

use std::fmt::Write as _;
use std::time::Duration;

use maud::{Markup, html};

use crate::clock::Timestamp;
use crate::telemetry::series::{FINE, STEP, Step};
use crate::telemetry::status::{OutageStatus, SwitchStatus};
use crate::telemetry::words;

/// How far back the charts of the status page go.
pub(super) const SPAN: Duration = Duration::from_secs(48 * 3600);
/// The most points of a line.
const MOST_POINTS: u64 = 192;
const HOUR: Duration = Duration::from_secs(3600);
const WIDTH: u64 = 576;
/// Top and height of the three parts: items, waiting envelopes, lags. page.css places the captions between them.
const PARTS: [(u64, u64); 3] = [(20, 70), (110, 34), (164, 34)];
const HEIGHT: u64 = 199;

/// The points of one figure.
type Line = Vec<u64>;

/// The time that a chart shows. Each point stands for the same number of whole steps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    from: Timestamp,
    to: Timestamp,
    points: u64,
    /// The length of time that one point stands for.
    point: Duration,
}

impl Window {
    /// The time between two moments.
    pub(super) fn new(from: Timestamp, to: Timestamp) -> Self {
        let length = to.since(from);
        let step = if length > FINE { HOUR } else { STEP }.as_secs();
        let steps = length.as_secs().div_ceil(step).max(2);
        let for_each = steps.div_ceil(MOST_POINTS);
        Self { from, to, points: steps.div_ceil(for_each), point: Duration::from_secs(step * for_each) }
    }

    /// The 48 hours until now.
    pub(super) fn until(now: Timestamp) -> Self {
        Self::new(now - SPAN, now)
    }

    fn hours(&self) -> u64 {
        self.to.since(self.from).as_secs().div_ceil(3600)
    }

    fn x(&self, at: Timestamp) -> u64 {
        let length = self.to.since(self.from).as_secs().max(1);
        (at.since(self.from).as_secs() * WIDTH / length).min(WIDTH)
    }
}

/// The values at the full heights of the three parts. Charts side by side share them.
///
/// Delivered items are cut off at twice the most accepted items: otherwise the peak after an outage would make the days before and after
/// it a level line.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scale {
    items: u64,
    waiting: u64,
    lag: u64,
}

impl Scale {
    /// The scale on which all these steps fit.
    pub(super) fn of<'a>(window: Window, all: impl IntoIterator<Item = &'a [Step]>) -> Self {
        let (mut accepted, mut scale) = (0, Self::default());
        for lines in all.into_iter().map(|steps| Lines::of(window, steps)) {
            accepted = accepted.max(most(&lines.accepted));
            scale.items = scale.items.max(most(&lines.delivered));
            scale.waiting = scale.waiting.max(most(&lines.waiting));
            scale.lag = scale.lag.max(most(&lines.lag));
        }
        let room = if accepted == 0 { u64::MAX } else { accepted.saturating_mul(2) };
        Self { items: scale.items.min(room).max(accepted), ..scale }
    }
}

struct Lines {
    accepted: Line,
    delivered: Line,
    waiting: Line,
    lag: Line,
}

impl Lines {
    fn all(&self) -> [&Line; 4] {
        [&self.accepted, &self.delivered, &self.waiting, &self.lag]
    }

    /// Joins the steps to points: counts are summed up, of measured values the highest is taken.
    fn of(window: Window, steps: &[Step]) -> Self {
        let empty = vec![0; usize::try_from(window.points).unwrap_or(2)];
        let mut lines = Self { accepted: empty.clone(), delivered: empty.clone(), waiting: empty.clone(), lag: empty };
        for step in steps.iter().filter(|step| step.at >= window.from && step.at <= window.to) {
            let at = step.at.since(window.from).as_secs() / window.point.as_secs();
            let at = usize::try_from(at.min(window.points - 1)).unwrap_or(0);
            lines.accepted[at] = lines.accepted[at].saturating_add(step.accepted);
            lines.delivered[at] = lines.delivered[at].saturating_add(step.delivered);
            lines.waiting[at] = lines.waiting[at].max(step.waiting);
            // Less than a millisecond is no nothing.
            lines.lag[at] = lines.lag[at].max(step.lag_p99.map_or(0, |lag| lag.max(1)));
        }
        lines
    }
}

/// The chart of one upstream. The lines stretch to the available width, the texts beside them do not.
pub(super) fn chart(
    (window, scale): (Window, Scale),
    steps: &[Step],
    outages: &[OutageStatus],
    switches: &[SwitchStatus],
) -> Markup {
    let lines = Lines::of(window, steps);
    if outages.is_empty() && lines.all().iter().all(|line| most(line) == 0) {
        return html! { p.muted { "Nothing came in the last " (window.hours()) " hours. The chart begins with the first envelope." } };
    }
    let parts = [
        Part {
            title: format!("items in {}", words::span(window.point)),
            lines: &[("delivered", &lines.delivered), ("accepted", &lines.accepted)],
            scale: scale.items,
            told: words::count,
        },
        Part {
            title: "envelopes waiting".to_owned(),
            lines: &[("waiting", &lines.waiting)],
            scale: scale.waiting,
            told: words::count,
        },
        Part { title: "lag p99".to_owned(), lines: &[("lag", &lines.lag)], scale: scale.lag, told: lag },
    ];
    let switches: Vec<&SwitchStatus> = switches.iter().filter(|switch| switch.at > window.from).collect();
    html! {
        div.chart {
            div role="img" aria-label=(in_words(window, &lines, outages)) {
                svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" aria-hidden="true" {
                    @if let Some(bands) = bands(window, outages) { path.outage d=(bands) {} }
                    @for (part, at) in parts.iter().zip(PARTS) { (part.drawn(at)) }
                    @for switch in &switches {
                        line.switch x1=(window.x(switch.at)) y1="0" x2=(window.x(switch.at)) y2=(HEIGHT) {}
                    }
                }
                @for (part, place) in parts.iter().zip(["top", "middle", "bottom"]) { (part.captions(place)) }
            }
            (axis(window))
            p { (legend(window, outages, &switches)) }
        }
    }
}

/// The legend, which explains the drawing without colours.
fn legend(window: Window, outages: &[OutageStatus], switches: &[&SwitchStatus]) -> String {
    let mut told = vec!["line: accepted".to_owned(), "area: delivered".to_owned()];
    if !outages.is_empty() {
        told.push(format!("band: {}", words::some(outages.len() as u64, "outage")));
    }
    // The newest switches come first.
    let shown = switches.iter().take(3).rev();
    let shown: Vec<String> =
        shown.map(|switch| format!("to {}, {}", switch.to, words::ago(window.to, switch.at))).collect();
    match switches.len() - shown.len() {
        0 if shown.is_empty() => {}
        0 => told.push(format!("dashed: switch {}", shown.join("; "))),
        more => {
            told.push(format!("dashed: {}, then {}", words::some(more as u64, "earlier switch"), shown.join("; ")));
        }
    }
    told.join(" · ")
}

/// The time of all outages as one path; `None` if there is none in the window.
fn bands(window: Window, outages: &[OutageStatus]) -> Option<String> {
    let mut within = vec![false; usize::try_from(WIDTH).unwrap_or(0) + 2];
    for outage in outages {
        let end = outage.to.unwrap_or(window.to);
        if end > window.from {
            let (start, end) = (window.x(outage.from), window.x(end));
            let columns = usize::try_from(start).unwrap_or(0)..usize::try_from(end.max(start + 2)).unwrap_or(0);
            within[columns].fill(true);
        }
    }
    let (mut path, mut at) = (String::new(), 0);
    for band in within.chunk_by(|one, next| one == next) {
        if band[0] && write!(path, "M{at} 0h{}v{HEIGHT}h-{}z", band.len(), band.len()).is_err() {
            break;
        }
        at += band.len();
    }
    (!path.is_empty()).then_some(path)
}

/// The labels of the beginning, the middle and the end of the window.
fn axis(window: Window) -> Markup {
    let length = window.to.since(window.from);
    let ago = |length: Duration| match length.as_secs() {
        days @ 259_200.. if days % 86_400 == 0 => format!("{} days ago", days / 86_400),
        hours @ 7200.. => format!("{} h ago", hours / 3600),
        _ => format!("{} ago", words::span(length)),
    };
    html! { p.axis { span { (ago(length)) } span { (ago(length / 2)) } span { "now" } } }
}

/// A part of a chart. The parts share no scale, so each states its own.
struct Part<'a> {
    title: String,
    lines: &'a [(&'a str, &'a Line)],
    scale: u64,
    /// Puts a value into words.
    told: fn(u64) -> String,
}

impl Part<'_> {
    fn most(&self) -> u64 {
        self.lines.iter().map(|(_, line)| most(line)).max().unwrap_or(0)
    }

    /// The value at the full height.
    fn scale(&self) -> u64 {
        if self.scale == 0 { self.most().max(1) } else { self.scale }
    }

    fn drawn(&self, (top, height): (u64, u64)) -> Markup {
        html! {
            line.ground x1="0" y1=(top + height) x2=(WIDTH) y2=(top + height) {}
            @for (class, line) in self.lines.iter().filter(|(_, line)| most(line) > 0) {
                @if *class == "delivered" {
                    polygon class=(class) points={ "0," (top + height) " " (points(line, self.scale(), top, height)) " " (WIDTH) "," (top + height) } {}
                } @else {
                    polyline class=(class) points=(points(line, self.scale(), top, height)) {}
                }
            }
        }
    }

    fn captions(&self, place: &str) -> Markup {
        let (most, scale) = (self.most(), self.scale());
        html! {
            span class=(place) { (self.title) @if most > 0 { ", at most " ((self.told)(most)) } @else { ", none seen" } }
            @if most > 0 { span class={ (place) " scale" } { @if most > scale { "cut off at " } @else { "scale to " } ((self.told)(scale)) } }
        }
    }
}

/// Puts a lag in milliseconds into words.
fn lag(millis: u64) -> String {
    words::span(Duration::from_millis(millis))
}

/// The corners of a line, without those in the middle of a level stretch.
fn points(line: &Line, scale: u64, top: u64, height: u64) -> String {
    let y = |value: &u64| top + height - (*value).min(scale).saturating_mul(height) / scale;
    let ys: Vec<u64> = line.iter().map(y).collect();
    let mut text = String::with_capacity(line.len() * 8);
    for (at, y) in ys.iter().enumerate() {
        let is_level = at > 0 && ys[at - 1] == *y && ys.get(at + 1) == Some(y);
        let x = at as u64 * WIDTH / (line.len() as u64 - 1).max(1);
        if !is_level && write!(text, "{x},{y} ").is_err() {
            break;
        }
    }
    text
}

fn most(line: &Line) -> u64 {
    line.iter().copied().max().unwrap_or(0)
}

fn in_words(window: Window, lines: &Lines, outages: &[OutageStatus]) -> String {
    let sum = |line: &Line| line.iter().copied().fold(0, u64::saturating_add);
    let (accepted, delivered) = (sum(&lines.accepted), sum(&lines.delivered));
    let lags = match most(&lines.lag) {
        0 => "no lag seen".to_owned(),
        most => format!("lag p99 at most {}", lag(most)),
    };
    let hours = window.hours();
    let outages = words::some(outages.len() as u64, "outage");
    let (accepted, delivered) = (words::some(accepted, "item"), words::count(delivered));
    let waiting = match most(&lines.waiting) {
        0 => "none seen waiting".to_owned(),
        most => format!("at most {} waiting", words::some(most, "envelope")),
    };
    format!("The last {hours} hours: {accepted} accepted, {delivered} delivered, {waiting}, {lags}, {outages}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn step(n: u64) -> Step {
        Step {
            at: NOW - Duration::from_secs(n * 300),
            accepted: u64::MAX / 4,
            delivered: 7 * n,
            lost: 0,
            waiting: u64::MAX,
            lag_p99: Some(n),
        }
    }

    #[test]
    fn a_chart_stays_small_and_gives_its_figures_in_words() {
        let steps: Vec<Step> = (0..600).map(step).collect();
        const MINUTE: Duration = Duration::from_secs(60);
        let outage = OutageStatus { from: NOW - Duration::from_secs(9000), to: None, cause: "<refused>".to_owned() };
        let window = Window::until(NOW);
        let text = chart((window, Scale::default()), &steps, std::slice::from_ref(&outage), &[]).into_string();
        assert!(text.len() < 12_000, "{}", text.len());
        assert!(
            text.contains("class=\"outage\"") && text.contains("envelopes waiting, at most 18,446,744,073,709,551,615"),
            "{text}"
        );
        let flapping: Vec<OutageStatus> = (0..500)
            .map(|n| OutageStatus {
                from: NOW - 5 * MINUTE * n,
                to: Some(NOW - 5 * MINUTE * n + MINUTE),
                ..outage.clone()
            })
            .collect();
        let text = chart((window, Scale::default()), &steps, &flapping, &[]).into_string();
        assert!(text.len() < 16_000 && text.contains("band: 500 outages"), "{}", text.len());
        let text = chart((window, Scale::default()), &[], &[outage], &[]).into_string();
        assert!(
            text.contains("envelopes waiting, none seen") && text.contains("none seen waiting, no lag seen"),
            "{text}"
        );
        assert!(!text.contains("at most"), "of what nobody saw no figure is told: {text}");
        let empty = chart((window, Scale::default()), &[], &[], &[]).into_string();
        assert!(empty.contains("Nothing came in the last 48 hours.") && !empty.contains("<svg"), "{empty}");
    }

    #[test]
    fn each_point_of_a_chart_stands_for_the_same_number_of_steps() {
        for (hours, points, minutes) in
            [(1, 12, 5), (12, 144, 5), (36, 144, 15), (48, 192, 15), (72, 72, 60), (2160, 180, 720)]
        {
            let window = Window::new(NOW - hours * HOUR, NOW);
            let told = (window.points, window.point.as_secs() / 60);
            assert_eq!(told, (points, minutes), "{hours} hours");
        }
        let even: Vec<Step> = (1..=576).map(|n| Step { delivered: 1, accepted: 1, ..step(n) }).collect();
        assert_eq!(Lines::of(Window::until(NOW), &even).delivered, [3; 192]);
    }

    #[test]
    fn charts_side_by_side_share_their_scale() {
        let window = Window::until(NOW);
        let [few, many] = [10, 40].map(|delivered| [Step { accepted: delivered, delivered, waiting: 0, ..step(8) }]);
        let scale = Scale::of(window, [few.as_slice(), many.as_slice()]);
        let highest = |steps: &[Step], scale| {
            let text = chart((window, scale), steps, &[], &[]).into_string();
            let (_, points) = text.split_once("class=\"accepted\" points=\"").expect("a line");
            let points = points.split('"').next().expect("its points");
            points.split(' ').filter_map(|point| point.split_once(',')?.1.parse::<u64>().ok()).min().expect("a point")
        };
        assert_eq!((highest(&few, Scale::default()), highest(&many, Scale::default())), (20, 20));
        assert_eq!((highest(&few, scale), highest(&many, scale)), (73, 20));
    }

    #[test]
    fn a_peak_after_an_outage_does_not_flatten_the_rest() {
        let window = Window::until(NOW);
        let steps = [Step { accepted: 20, delivered: 500, waiting: 0, ..step(8) }];
        let scale = Scale::of(window, [steps.as_slice()]);
        assert_eq!(scale.items, 40);
        let text = chart((window, scale), &steps, &[], &[]).into_string();
        assert!(text.contains("at most 500") && text.contains("cut off at 40"), "{text}");
    }
}

//! A chart of an upstream over time as SVG: accepted and delivered, what waited, lags, with its outages and the switches.
//!
//! Rule: drawn here, without scripts; small whatever is in it, because many steps become one point; said in words as well.

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
/// Top and height of the three parts: items, envelopes that wait, lags.
const PARTS: [(u64, u64); 3] = [(14, 70), (104, 34), (158, 34)];
const HEIGHT: u64 = 212;

/// The points of one figure.
type Line = Vec<u64>;

/// The time that a chart shows. Each point stands for the same number of whole steps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    from: Timestamp,
    to: Timestamp,
    points: u64,
    /// What one point stands for.
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

    fn x(&self, at: Timestamp) -> u64 {
        let length = self.to.since(self.from).as_secs().max(1);
        (at.since(self.from).as_secs() * WIDTH / length).min(WIDTH)
    }
}

/// The heights of the three parts. Charts that stand side by side share them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scale {
    items: u64,
    waiting: u64,
    lag: u64,
}

impl Scale {
    /// Room for every one of these.
    pub(super) fn of<'a>(window: Window, all: impl IntoIterator<Item = &'a [Step]>) -> Self {
        all.into_iter().map(|steps| Lines::of(window, steps)).fold(Self::default(), |scale, lines| Self {
            items: scale.items.max(most(&lines.accepted)).max(most(&lines.delivered)),
            waiting: scale.waiting.max(most(&lines.waiting)),
            lag: scale.lag.max(most(&lines.lag)),
        })
    }
}

struct Lines {
    accepted: Line,
    delivered: Line,
    waiting: Line,
    lag: Line,
}

impl Lines {
    /// The steps on their points. Of counts the sum, of what is measured the most.
    fn of(window: Window, steps: &[Step]) -> Self {
        let empty = vec![0; usize::try_from(window.points).unwrap_or(2)];
        let mut lines = Self { accepted: empty.clone(), delivered: empty.clone(), waiting: empty.clone(), lag: empty };
        for step in steps.iter().filter(|step| step.at >= window.from && step.at <= window.to) {
            let at = step.at.since(window.from).as_secs() / window.point.as_secs();
            let at = usize::try_from(at.min(window.points - 1)).unwrap_or(0);
            lines.accepted[at] = lines.accepted[at].saturating_add(step.accepted);
            lines.delivered[at] = lines.delivered[at].saturating_add(step.delivered);
            lines.waiting[at] = lines.waiting[at].max(step.waiting);
            lines.lag[at] = lines.lag[at].max(step.lag_p99.unwrap_or(0));
        }
        lines
    }
}

/// The chart of one upstream.
pub(super) fn chart(
    (window, scale): (Window, Scale),
    steps: &[Step],
    outages: &[OutageStatus],
    switches: &[SwitchStatus],
) -> Markup {
    let lines = Lines::of(window, steps);
    let items = [("delivered", &lines.delivered), ("accepted", &lines.accepted)];
    let each = words::span(window.point);
    let lag = words::span(Duration::from_millis(most(&lines.lag)));
    let titles = [
        format!(
            "items in {each}: accepted (line), delivered (area), at most {}",
            most(&lines.accepted).max(most(&lines.delivered))
        ),
        format!("envelopes waiting, at most {}", most(&lines.waiting)),
        format!("lag p99, at most {lag}"),
    ];
    html! {
        svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(in_words(window, &lines, outages)) {
            @for outage in outages {
                @let (start, end) = (window.x(outage.from), window.x(outage.to.unwrap_or(window.to)));
                @if outage.to.unwrap_or(window.to) > window.from {
                    rect.outage x=(start) y="0" width=((end - start).max(2)) height=(HEIGHT - 18) {}
                }
            }
            (part(0, scale.items, &titles[0], &items))
            (part(1, scale.waiting, &titles[1], &[("waiting", &lines.waiting)]))
            (part(2, scale.lag, &titles[2], &[("lag", &lines.lag)]))
            @for switch in switches.iter().filter(|switch| switch.at > window.from) {
                @let at = window.x(switch.at);
                line.switch x1=(at) y1="0" x2=(at) y2=(HEIGHT - 18) {}
                text x=(at) y=(HEIGHT - 20) text-anchor={ @if at > WIDTH / 2 { "end" } @else { "start" } } { "to " (switch.to) }
            }
            (axis(window))
        }
    }
}

/// When it begins, its middle and its end.
fn axis(window: Window) -> Markup {
    let length = window.to.since(window.from);
    let ago = |length: Duration| match length.as_secs() {
        days @ 259_200.. if days % 86_400 == 0 => format!("{} days ago", days / 86_400),
        hours @ 7200.. => format!("{} h ago", hours / 3600),
        _ => format!("{} ago", words::span(length)),
    };
    html! {
        text x="0" y=(HEIGHT - 4) { (ago(length)) }
        text x=(WIDTH / 2) y=(HEIGHT - 4) text-anchor="middle" { (ago(length / 2)) }
        text x=(WIDTH) y=(HEIGHT - 4) text-anchor="end" { "now" }
    }
}

/// One figure above the other shares no scale with it: each part says its own.
fn part(at: usize, scale: u64, title: &str, lines: &[(&str, &Line)]) -> Markup {
    let (top, height) = PARTS[at];
    html! {
        line.axis x1="0" y1=(top + height) x2=(WIDTH) y2=(top + height) {}
        @for (class, line) in lines.iter().filter(|(_, line)| most(line) > 0) {
            @if *class == "delivered" {
                polygon class=(class) points={ "0," (top + height) " " (points(line, scale, top, height)) " " (WIDTH) "," (top + height) } {}
            } @else {
                polyline class=(class) points=(points(line, scale, top, height)) {}
            }
        }
        text x="0" y=(top - 3) { (title) }
    }
}

/// The corners of a line, without those in the middle of a level stretch.
fn points(line: &Line, scale: u64, top: u64, height: u64) -> String {
    let scale = scale.max(most(line)).max(1);
    let ys: Vec<u64> = line.iter().map(|value| top + height - value.saturating_mul(height) / scale).collect();
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
    let lag = words::span(Duration::from_millis(most(&lines.lag)));
    let hours = window.to.since(window.from).as_secs().div_ceil(3600);
    let outages = match outages.len() {
        1 => "1 outage".to_owned(),
        n => format!("{n} outages"),
    };
    format!(
        "The last {hours} hours: {accepted} items accepted, {delivered} delivered, at most {} envelopes waiting, lag p99 at most {lag}, {outages}",
        most(&lines.waiting),
    )
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
    fn a_chart_stays_small_whatever_is_in_it_and_says_its_figures_in_words() {
        let steps: Vec<Step> = (0..600).map(step).collect();
        let outage = OutageStatus { from: NOW - Duration::from_secs(9000), to: None, cause: "<refused>".to_owned() };
        let window = Window::until(NOW);
        let text = chart((window, Scale::default()), &steps, &[outage], &[]).into_string();
        assert!(text.len() < 12_000, "{}", text.len());
        assert!(
            text.contains("class=\"outage\"") && text.contains("envelopes waiting, at most 18446744073709551615"),
            "{text}"
        );
        let empty = chart((window, Scale::default()), &[], &[], &[]).into_string();
        assert!(
            empty.contains("The last 48 hours: 0 items accepted, 0 delivered") && !empty.contains("<poly"),
            "{empty}"
        );
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
        assert_eq!((highest(&few, Scale::default()), highest(&many, Scale::default())), (14, 14));
        assert_eq!((highest(&few, scale), highest(&many, scale)), (67, 14));
    }
}

//! The rows of the table and their verdicts: the limits of "speed and size" beside the measurements.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::backlog::Backlog;
use super::contender::Kind;
use super::rounds::{PACE, Round, exact};

const MIB: f64 = 1024.0 * 1024.0;

/// The relation of a measurement to its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// The aim is reached.
    Aim,
    /// The requirement is met, the aim is not.
    Must,
    /// The requirement is missed.
    Missed,
}

/// The limits of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Limits {
    /// Whether larger values are better.
    pub more: bool,
    /// The requirement.
    pub must: f64,
    /// The aim.
    pub aim: f64,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// The name of the measurement.
    pub measure: String,
    /// The unit.
    pub unit: &'static str,
    /// The value of each contender.
    pub values: BTreeMap<String, f64>,
    /// The ratio to judge; `None` to judge Switchyard's value.
    pub ratio: Option<f64>,
    /// The limits; `None` for a row that is not judged.
    pub limits: Option<Limits>,
    /// The verdict; `None` for a row that is not judged.
    pub verdict: Option<Verdict>,
}

impl Row {
    fn new(measure: impl Into<String>, unit: &'static str, values: impl IntoIterator<Item = (Kind, f64)>) -> Self {
        let values = values.into_iter().map(|(kind, value)| (kind.to_string(), value)).collect();
        Self { measure: measure.into(), unit, values, ratio: None, limits: None, verdict: None }
    }

    fn ratio(mut self, ratio: Option<f64>) -> Self {
        self.ratio = ratio;
        self
    }

    /// Judges the ratio, or Switchyard's value without one; a row with neither has no verdict.
    fn judged(mut self, more: bool, must: f64, aim: f64) -> Self {
        let seen = self.ratio.or_else(|| self.values.get(&Kind::Switchyard.to_string()).copied());
        let reaches = |seen: f64, limit: f64| if more { seen >= limit } else { seen <= limit };
        self.limits = Some(Limits { more, must, aim });
        self.verdict = seen.map(|seen| match (reaches(seen, aim), reaches(seen, must)) {
            (true, _) => Verdict::Aim,
            (false, true) => Verdict::Must,
            (false, false) => Verdict::Missed,
        });
        self
    }
}

/// The rows from the rounds.
pub(crate) fn of_rounds(rounds: &BTreeMap<Kind, Vec<Round>>, contenders: &[Kind]) -> Vec<Row> {
    let each = |of: &dyn Fn(&Round) -> f64| -> Vec<(Kind, f64)> {
        let reached = contenders.iter().filter_map(|kind| Some((*kind, median(rounds.get(kind)?.iter().map(of)))));
        reached.collect()
    };
    let against_nginx = |of: &dyn Fn(&Round) -> f64| {
        let reached = |kind| rounds.get(&kind).map(|rounds| median(rounds.iter().map(of)));
        Some(reached(Kind::Switchyard)? / reached(Kind::Nginx)?)
    };
    let stalls = |round: &Round| round.hung_ms[1] / round.healthy_ms[1];
    let row = |measure: String, unit, of: &dyn Fn(&Round) -> f64| Row::new(measure, unit, each(of));
    let compared = |row: Row, of: &dyn Fn(&Round) -> f64| row.ratio(against_nginx(of));
    let (cpu, rate) = (|round: &Round| round.cpu_us, |round: &Round| round.rate);
    let mut rows = vec![
        compared(row("CPU per envelope".into(), "µs", &cpu), &cpu).judged(false, 1.5, 0.9),
        compared(row("accepted and delivered to both".into(), "/s", &rate), &rate).judged(true, 0.8, 1.3),
        // The machine's noise allows one decimal of the aim.
        row("p99 with one upstream hung, against healthy".into(), "×", &stalls).judged(false, 1.2, 1.05),
        row(format!("answer at {PACE}/s, healthy: p50"), "ms", &|round| round.healthy_ms[0]),
        row(format!("answer at {PACE}/s, healthy: p99"), "ms", &|round| round.healthy_ms[1]),
        row(format!("answer at {PACE}/s, one hung: p50"), "ms", &|round| round.hung_ms[0]),
        row(format!("answer at {PACE}/s, one hung: p99"), "ms", &|round| round.hung_ms[1]),
        row("resident, idle".into(), "MiB", &|round| exact(round.idle) / MIB).judged(false, 14.0, 8.0),
        row(format!("resident, at {PACE}/s"), "MiB", &|round| exact(round.paced) / MIB).judged(false, 32.0, 20.0),
        row("resident, full load, peak".into(), "MiB", &|round| exact(round.full) / MIB),
        row("start to ready".into(), "ms", &|round| millis(round.ready)),
    ];
    let sizes =
        contenders.iter().filter_map(|kind| Some((*kind, exact(kind.binary().ok()?.metadata().ok()?.len()) / 1e6)));
    // The floor is this bench itself, so its size means nothing.
    rows.push(Row::new("binary", "MB", sizes.filter(|(kind, _)| *kind != Kind::Floor)).judged(false, 16.0, 8.0));
    rows
}

/// The rows from the backlogs.
pub(crate) fn of_backlog(small: &Backlog, large: &Backlog) -> Vec<Row> {
    let of = |what: &str| format!("{what}, {} waiting", large.waiting);
    let one = |measure, unit, value| Row::new(measure, unit, [(Kind::Switchyard, value)]);
    vec![
        one(of("resident"), "MiB", exact(large.resident) / MIB).judged(false, 64.0, 32.0),
        one(of("start to ready"), "ms", millis(large.ready)).judged(false, 2000.0, 300.0),
        one(format!("CPU per envelope, {} waiting", small.waiting), "µs", small.cost_us()),
        one(of("CPU per envelope"), "µs", large.cost_us())
            .ratio(Some(large.cost_us() / small.cost_us()))
            .judged(false, 1.3, 1.05),
    ]
}

/// The row of the large attachments.
pub(crate) fn of_large(resident: u64) -> Row {
    let value = exact(resident) / MIB;
    Row::new("resident, eight 100 MiB attachments in flight", "MiB", [(Kind::Switchyard, value)])
        .judged(false, 96.0, 48.0)
}

/// The row of the switch.
pub(crate) fn of_switch(took: Duration) -> Row {
    Row::new("switch of primary, saved to live", "ms", [(Kind::Switchyard, millis(took))]).judged(false, 2000.0, 200.0)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

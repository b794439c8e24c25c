//! Prints the rows: a table for people, JSON for scripts.

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};

use super::contender::Kind;
use super::options::Options;
use super::verdict::{Limits, Row, Verdict};

/// The table and a line on how it was measured.
pub(crate) fn text(rows: &[Row], contenders: &[Kind], options: &Options) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    let names = contenders.iter().map(Kind::to_string);
    let header = ["measure".to_owned()].into_iter().chain(names);
    table.set_header(header.chain(["ratio", "must", "aim", "verdict"].map(str::to_owned)));
    for row in rows {
        let values =
            contenders.iter().map(|kind| row.values.get(&kind.to_string()).copied().map_or("–".into(), number));
        let limit =
            |of: fn(&Limits) -> f64| row.limits.as_ref().map_or(String::new(), |limits| bound(limits, of(limits)));
        let tail = [
            row.ratio.map_or(String::new(), |ratio| format!("{} ×", number(ratio))),
            limit(|limits| limits.must),
            limit(|limits| limits.aim),
            row.verdict.map_or("", word).to_owned(),
        ];
        table.add_row([format!("{} ({})", row.measure, row.unit)].into_iter().chain(values).chain(tail));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!(
        "{table}\n\nmedian of {} round(s), {} connections, 4 KiB events, {}, {}; {} processors; ratio: to nginx's mirror, for a backlog to none",
        options.rounds(),
        options.connections,
        if options.connection_per_request { "a connection per request" } else { "keep-alive" },
        if options.bare_answers { "upstreams answer with nothing" } else { "upstreams answer with an id" },
        std::thread::available_parallelism().map_or(0, usize::from),
    )
}

/// The rows as JSON.
pub(crate) fn json(rows: &[Row], options: &Options) -> Result<String> {
    let document = serde_json::json!({
        "rounds": options.rounds(),
        "connections": options.connections,
        "connection_per_request": options.connection_per_request,
        "bare_answers": options.bare_answers,
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "rows": rows,
    });
    Ok(serde_json::to_string_pretty(&document)?)
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Aim => "aim",
        Verdict::Must => "must",
        Verdict::Missed => "MISSED",
    }
}

fn bound(limits: &Limits, limit: f64) -> String {
    format!("{} {limit}", if limits.more { "≥" } else { "≤" })
}

/// Formats a number with three significant digits.
fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

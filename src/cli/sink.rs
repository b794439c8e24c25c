//! `switchyard sink`: a stand-in upstream in a terminal, which shows a line for each item.

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use tokio::net::TcpListener;

use crate::clock::Clock;
use crate::http::sink::{Arrival, Behaviour, Sink};
use crate::tasks::Tasks;
use crate::units::Period;

use super::failure::{Exit, Failure};
use super::process::{self, Signals};
use super::terminal::{self, Tone, tint};

/// How long requests may take to finish when stopping.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs a stand-in upstream that shows what arrives, one line for each item
///
/// It takes any key and any project: use a DSN such as http://key@127.0.0.1:9001/1.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The address listened on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9001")]
    listen: SocketAddr,
    /// What it is called in its lines
    #[arg(long, default_value = "sink")]
    name: String,
    /// Each item as a line of JSON
    #[arg(long)]
    json: bool,
    /// The status it answers with: try 429 and 503
    #[arg(long, value_name = "CODE", default_value = "200", value_parser = status)]
    status: StatusCode,
    /// How long it waits before it answers, as in 250ms or 5s
    #[arg(long, value_name = "TIME", default_value = "0s")]
    delay: Period,
}

fn status(text: &str) -> Result<StatusCode, String> {
    let status = text.parse::<StatusCode>().ok().filter(|status| (200..600).contains(&status.as_u16()));
    status.ok_or_else(|| "an HTTP status between 200 and 599".to_owned())
}

/// Runs the stand-in until a signal ends it.
pub(super) fn sink(args: &Args) -> Result<(), Failure> {
    process::block_on_many(async {
        let mut signals = Signals::listen()?;
        let listener = TcpListener::bind(args.listen).await.map_err(|error| {
            Failure::new(
                Exit::Unavailable,
                format_args!("cannot listen on {}: {error}; --listen takes another", args.listen),
            )
        })?;
        let address = listener.local_addr().unwrap_or(args.listen);
        let behaviour = Behaviour { status: args.status, delay: args.delay.get() };
        let (sink, tasks) = (Sink::new(&args.name, behaviour, Clock::system()), Tasks::new());
        tasks.spawn("the sink", sink.clone().serve(listener, tasks.clone()));
        if !args.json {
            terminal::say(format_args!("{} listens; its DSN is http://key@{address}/1", args.name))?;
        }
        let outcome = tokio::select! {
            outcome = show(&sink, args.json) => outcome,
            () = signals.next() => Ok(()),
        };
        if !tasks.stop(PATIENCE).await {
            tracing::warn!("requests under way were cut off");
        }
        outcome
    })
}

async fn show(sink: &Sink, json: bool) -> Result<(), Failure> {
    let mut seen = 0;
    loop {
        let (arrivals, total) = sink.since(seen);
        let missed = total - seen - arrivals.len() as u64;
        if missed > 0 && !json {
            terminal::say(format_args!("… {missed} more, faster than they can be shown"))?;
        }
        for arrival in &arrivals {
            let line = if json { serde_json::to_string(arrival).unwrap_or_default() } else { line(arrival) };
            terminal::say(line)?;
        }
        seen = total;
        sink.changed().await;
    }
}

/// An arrival in one line: time, stand-in, project, type, event id, size, summary.
pub(super) fn line(arrival: &Arrival) -> String {
    let at = arrival.at.to_string();
    // A terminal needs only the time of day, with all three digits of the milliseconds, so that the columns stay aligned.
    let time = at.split_once('T').map_or(at.as_str(), |(_, time)| time).trim_end_matches('Z');
    let (second, millis) = time.split_once('.').unwrap_or((time, ""));
    let time = format!("{second}.{millis:0<3}Z");
    let id = arrival.event_id.as_deref().unwrap_or("-");
    let answer = if arrival.answer == 200 { String::new() } else { format!(" -> {}", arrival.answer) };
    format!(
        "{} {} project {} {} {} {} bytes{answer}  {}",
        tint(Tone::Quiet, &time),
        arrival.sink,
        arrival.project,
        tint(Tone::Strong, &arrival.kind),
        tint(Tone::Quiet, id),
        arrival.bytes,
        arrival.summary.as_deref().unwrap_or("-"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn every_time_has_three_digits_of_milliseconds() {
        for (millis, begins) in [(0, "00:00:00.000Z late"), (800, "00:00:00.800Z late"), (1_076, "00:00:01.076Z late")]
        {
            let arrival = Arrival {
                at: Timestamp::from_millis(millis),
                sink: "late".into(),
                project: "1".to_owned(),
                kind: "event".to_owned(),
                event_id: None,
                bytes: 7,
                summary: None,
                answer: 200,
            };
            assert!(line(&arrival).starts_with(begins), "{}", line(&arrival));
        }
    }
}

//! What the demos check: what reached a tracker, what a relay reports, and how long it took.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::cli::admin::AdminClient;
use crate::cli::failure::{Exit, Failure};
use crate::cli::sink::line;
use crate::cli::terminal::{Tone, say, tint};
use crate::http::sink::Sink;
use crate::telemetry::status::{Status, UpstreamStatus};

use super::stage::Tracker;
use super::traffic::Sent;

/// How long anything that must happen may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(12);
/// The pause between two checks.
pub(super) const EACH: Duration = Duration::from_millis(10);

/// Begins a step of a story.
pub(super) fn step(number: usize, what: &str) -> Result<(), Failure> {
    say(format_args!("\n{}", tint(Tone::Strong, format_args!("{number}. {what}"))))
}

/// The failure of a demo that does not show what it should.
pub(super) fn failed(what: &str) -> Failure {
    Failure::new(Exit::Negative, format_args!("the demo did not go as it should: {}", what.trim()))
}

/// Waits until a tracker has every event that was sent.
pub(super) async fn wait_for_all(tracker: &Tracker, sent: &[Sent], deadline: Duration) -> Result<(), Failure> {
    let began = Instant::now();
    loop {
        let received = received(&tracker.sink);
        let missing = sent.iter().filter(|sent| !received.contains_key(&sent.id)).count();
        if missing == 0 {
            return Ok(());
        }
        if began.elapsed() > deadline {
            let name = tracker.name;
            return Err(failed(&format!("{missing} events have not reached {name} within {}", millis(deadline))));
        }
        sleep(EACH).await;
    }
}

/// Says how many of the events a tracker has. Returns how many it got more than once; a missing one is a failure.
pub(super) fn say_all_received(tracker: &Tracker, sent: &[Sent]) -> Result<usize, Failure> {
    let received = received(&tracker.sink);
    let missing = sent.iter().filter(|sent| !received.contains_key(&sent.id)).count();
    let twice = received.values().filter(|times| **times > 1).count();
    let (name, all) = (tracker.name, sent.len());
    let line = format!("  {name:<10} {} of {all} events, {missing} missing, {twice} twice", all - missing);
    if missing > 0 {
        return Err(failed(&line));
    }
    say(line)?;
    Ok(twice)
}

/// Polls a relay's status until it is as it must become.
pub(super) async fn eventually(
    admin: &AdminClient,
    what: &str,
    mut is: impl FnMut(&Status) -> bool,
) -> Result<Status, Failure> {
    let began = Instant::now();
    loop {
        let status = admin.status().await.map_err(|silence| admin.failure(silence))?;
        if is(&status) {
            return Ok(status);
        }
        if began.elapsed() > DEADLINE {
            return Err(failed(&format!("not within {}: {what}", millis(DEADLINE))));
        }
        sleep(EACH).await;
    }
}

/// Whether nothing waits, and everything that was accepted was delivered.
pub(super) fn at_rest(status: &Status) -> bool {
    let is_at_rest = |upstream: &UpstreamStatus| {
        upstream.backlog.envelopes == 0 && upstream.accounts.iter().all(|account| account.delivered == account.accepted)
    };
    status.upstreams.iter().all(is_at_rest)
}

/// Checks that a relay's accounts balance.
pub(super) fn balanced(status: &Status) -> Result<(), Failure> {
    match status.difference {
        0 => Ok(()),
        more => Err(failed(&format!("accepted - delivered - dropped - waiting = {more}"))),
    }
}

/// Shows what the trackers receive from now on.
pub(super) async fn show_arrivals([first, second]: [&Sink; 2]) -> Result<(), Failure> {
    let mut seen = [first.since(0).1, second.since(0).1];
    loop {
        for (sink, seen) in [first, second].into_iter().zip(&mut seen) {
            let (arrivals, total) = sink.since(*seen);
            *seen = total;
            for arrival in &arrivals {
                say(format_args!("  {}", line(arrival)))?;
            }
        }
        tokio::select! {
            () = first.changed() => {}
            () = second.changed() => {}
        }
    }
}

/// How often each event was received.
fn received(sink: &Sink) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for id in sink.since(0).0.into_iter().filter_map(|arrival| arrival.event_id) {
        *times.entry(id).or_default() += 1;
    }
    times
}

/// A length of time in words.
pub(super) fn millis(length: Duration) -> String {
    match length.as_millis() {
        ms @ 0..=9999 => format!("{ms} ms"),
        ms => format!("{} s", ms / 1000),
    }
}

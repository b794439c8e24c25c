//! What the status shows that an operator should be told.

use crate::policy::incidents::{Event, Sign};
use crate::telemetry::status::{Status, SwitchStatus, UpstreamStatus};

/// The part of `max_size` from which on the journal counts as nearly full, in hundredths: as in the alert.
const FILLING: u64 = 70;

/// The signs of a status. `max_size` is the journal's, in bytes.
pub fn of(status: &Status, max_size: u64) -> Vec<Sign> {
    let mut signs: Vec<Sign> = status.upstreams.iter().flat_map(of_upstream).collect();
    signs.extend(of_journal(status, max_size));
    if let Some(problem) = &status.config.error {
        let text = format!("the configuration file has a problem and is not in force: {}", first_line(problem));
        signs.push(lasting(Event::ConfigRefused, "", text, "the configuration file is in force again".into()));
    }
    signs.push(of_switches(status.switches.first()));
    signs
}

/// That the candidate is ready, or not yet.
pub fn of_verdict(candidate: &str, is_ready: bool, verdict: &str) -> Sign {
    let text = format!("{verdict}: `switchyard switch {candidate}` makes it the primary");
    Sign { event: Event::Ready, subject: candidate.to_owned(), text, over: String::new(), count: Some(is_ready.into()) }
}

fn of_upstream(upstream: &UpstreamStatus) -> Vec<Sign> {
    let name = &upstream.name;
    let mut signs = vec![];
    let error = upstream.last_error.as_ref().map_or(String::new(), |error| format!(": {}", error.what));
    let trouble = match upstream.state.as_str() {
        "down" | "probing" => Some("does not take anything"),
        "misconfigured" => Some("refuses a DSN of the configuration"),
        _ => None,
    };
    if let Some(trouble) = trouble {
        let waits = upstream.backlog.envelopes;
        let text = format!("{} {name} {trouble}{error}; {waits} envelopes wait", upstream.role);
        let over = format!("{} {name} takes envelopes again", upstream.role);
        signs.push(lasting(Event::UpstreamDown, name, text, over));
    }
    if let Some(canary) = upstream.canary.as_ref().filter(|canary| canary.state == "failing") {
        let why = canary.why.as_ref().map_or(String::new(), |why| format!(": {why}"));
        let text = format!("no canary gets through to {name}{why}");
        signs.push(lasting(Event::CanaryFailed, name, text, format!("canaries get through to {name} again")));
    }
    let missing = upstream.verification.as_ref().map_or(0, |own| own.missing);
    if missing > 0 {
        let text = format!(
            "{name} answered with 2xx and does not store {missing} events: `switchyard backfill {name} --missing` sends them again"
        );
        signs.push(lasting(Event::EventsMissing, name, text, format!("no event is missing at {name} any more")));
    }
    let letters = upstream.dead_letters;
    let text =
        format!("{name} refused envelopes for good, {letters} are kept: `switchyard dead-letters list` shows them");
    signs.push(Sign { count: Some(letters), ..lasting(Event::DeadLetters, name, text, String::new()) });
    signs
}

fn of_journal(status: &Status, max_size: u64) -> Option<Sign> {
    let waiting = status.upstreams.iter().map(|upstream| upstream.backlog.bytes).max().unwrap_or(0);
    let over = "the journal has room again".to_owned();
    if let Some(why) = &status.not_ready {
        return Some(lasting(Event::JournalFilling, "", format!("submissions are refused: {why}"), over));
    }
    let is_filling = u128::from(waiting) * 100 > u128::from(max_size) * u128::from(FILLING);
    let text = || format!("{waiting} bytes wait in a journal of {max_size}: it fills up");
    is_filling.then(|| lasting(Event::JournalFilling, "", text(), over))
}

fn of_switches(last: Option<&SwitchStatus>) -> Sign {
    let text = last.map_or(String::new(), |switch| {
        let of = switch.project.as_ref().map_or(String::new(), |project| format!(" of {project}"));
        let from = switch.from.as_ref().map_or(String::new(), |from| format!(", before it was {from}"));
        let by = switch.author.as_ref().map_or(String::new(), |author| format!(" ({author})"));
        let why = switch.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
        format!("the primary{of} is {} now{from}{by}{why}", switch.to)
    });
    let at = last.map_or(0, |switch| switch.at.as_millis());
    Sign { count: Some(at), ..lasting(Event::Switch, "", text, String::new()) }
}

fn lasting(event: Event, subject: &str, text: String, over: String) -> Sign {
    Sign { event, subject: subject.to_owned(), text, over, count: None }
}

fn first_line(text: &str) -> &str {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default()
}

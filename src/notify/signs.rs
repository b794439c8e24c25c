//! Signs: the conditions in the status that an operator should know of.

use crate::clock::Timestamp;
use crate::policy::incidents::{Event, Kind, Sign};
use crate::telemetry::status::{Status, SwitchStatus, UpstreamStatus};
use crate::telemetry::words;

/// The percentage of `max_size` above which the journal counts as nearly full, as in the alert.
const FILLING: u64 = 70;

/// The signs of a status. `max_size` is the greatest size of the journal, in bytes.
pub fn of(status: &Status, max_size: u64) -> Vec<Sign> {
    let mut signs: Vec<Sign> = status.upstreams.iter().flat_map(|own| of_upstream(own, status.started_at)).collect();
    signs.extend(of_journal(status, max_size));
    signs.extend(of_refusals(status));
    if let Some(problem) = &status.config.error {
        let text = format!("the configuration file has a problem and is not in force: {}", first_line(problem));
        signs.push(lasting(Event::ConfigRefused, "", text));
    }
    // Oldest first; each switch is reported.
    signs.extend(status.switches.iter().rev().map(of_switch));
    signs
}

/// The sign that the candidate is ready, or not yet.
pub fn of_verdict(candidate: &str, is_ready: bool, verdict: &str) -> Sign {
    let text = format!("{verdict}: `switchyard switch {candidate}` makes it the primary");
    Sign {
        event: Event::Ready,
        subject: candidate.to_owned(),
        text,
        over: String::new(),
        kind: Kind::Happens(is_ready.into()),
        at: None,
    }
}

/// The text for the end of an event.
pub fn over(event: Event, subject: &str) -> String {
    match event {
        Event::UpstreamDown => format!("{subject} takes envelopes again"),
        Event::CanaryFailed => format!("canaries get through to {subject} again"),
        Event::EventsMissing => format!("no event is missing at {subject} any more"),
        Event::DeadLetters => format!("no dead letter of {subject} is left"),
        Event::JournalFilling => "the journal has room again".to_owned(),
        Event::Refusing => {
            "no submission is refused any more for lack of room or for the limits of all upstreams".to_owned()
        }
        Event::ConfigRefused => "the configuration file is in force again".to_owned(),
        Event::Switch | Event::Ready | Event::Test => String::new(),
    }
}

fn of_upstream(upstream: &UpstreamStatus, started_at: Timestamp) -> Vec<Sign> {
    let name = &upstream.name;
    let mut signs = vec![];
    let error = upstream.last_error.as_ref().map_or(String::new(), |error| format!(": {}", error.what));
    let trouble = match upstream.state.as_str() {
        "down" | "probing" => Some("does not take anything".to_owned()),
        "misconfigured" => Some(match words::projects(&upstream.refused_projects) {
            Some(projects) => format!("refuses the DSN of {projects}"),
            None => "refuses a DSN of the configuration".to_owned(),
        }),
        _ => None,
    };
    if let Some(trouble) = trouble {
        let waits = upstream.backlog.envelopes;
        let waiting = words::those(waits, "envelope", "waits", "wait");
        let text = format!("{} {name} {trouble}{error}; {waiting}", upstream.role);
        signs.push(lasting(Event::UpstreamDown, name, text));
    } else if upstream.outages.iter().any(|outage| outage.to.is_none() && outage.from < started_at) {
        // The upstream was down when this process started, and nothing has been sent to it since.
        signs.push(Sign { kind: Kind::GoesOn, ..lasting(Event::UpstreamDown, name, String::new()) });
    }
    if upstream.canary.as_ref().is_some_and(|canary| canary.state == "under_way") {
        signs.push(Sign { kind: Kind::GoesOn, ..lasting(Event::CanaryFailed, name, String::new()) });
    }
    if let Some(canary) = upstream.canary.as_ref().filter(|canary| canary.state == "failing") {
        let why = canary.why.as_ref().map_or(String::new(), |why| format!(": {why}"));
        let text = format!("no canary gets through to {name}{why}");
        signs.push(lasting(Event::CanaryFailed, name, text));
    }
    let missing = upstream.verification.as_ref().map_or(0, |own| own.missing);
    if missing > 0 {
        let text = format!(
            "{name} answered with 2xx and does not store {}: `switchyard backfill {name} --missing` sends again what is missing",
            words::some(missing, "event")
        );
        signs.push(lasting(Event::EventsMissing, name, text));
    }
    let letters = upstream.dead_letters;
    let text =
        format!("{name} refused envelopes for good, {letters} are kept: `switchyard dead-letters list` shows them");
    signs.push(Sign { kind: Kind::Grows(letters), ..lasting(Event::DeadLetters, name, text) });
    signs
}

fn of_journal(status: &Status, max_size: u64) -> Option<Sign> {
    let waiting = status.upstreams.iter().map(|upstream| upstream.backlog.bytes).max().unwrap_or(0);
    if let Some(why) = &status.not_ready {
        return Some(lasting(Event::JournalFilling, "", format!("submissions are refused: {why}")));
    }
    let is_filling = u128::from(waiting) * 100 > u128::from(max_size) * u128::from(FILLING);
    let text = || format!("{waiting} bytes wait in a journal of {max_size}: it fills up");
    is_filling.then(|| lasting(Event::JournalFilling, "", text()))
}

/// The sign that submissions are refused for lack of room or because every upstream in use limits them. It is reported at once, because
/// their data is lost.
fn of_refusals(status: &Status) -> Option<Sign> {
    let for_room = words::refused_with_503(status).filter(|_| status.refusing);
    let for_room = for_room.map(|refused| format!("{refused}: what they brought is lost"));
    let for_limits = words::refused_under_limits(status).filter(|_| status.limiting);
    let for_limits = for_limits.map(|refused| format!("{refused}: they are lost"));
    let told: Vec<String> = for_room.into_iter().chain(for_limits).collect();
    let sign = lasting(Event::Refusing, "", Some(told.join("; ")).filter(|told| !told.is_empty())?);
    Some(Sign { kind: Kind::Grows(1), ..sign })
}

fn of_switch(switch: &SwitchStatus) -> Sign {
    let of = switch.project.as_ref().map_or(String::new(), |project| format!(" of {project}"));
    let from = switch.from.as_ref().map_or(String::new(), |from| format!(", before it was {from}"));
    let by = switch.author.as_ref().map_or(String::new(), |author| format!(" ({author})"));
    let why = switch.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    let text = format!("the primary{of} is {} now{from}{by}{why}", switch.to);
    let kind = Kind::Happens(switch.at.as_millis());
    Sign { kind, at: Some(switch.at), ..lasting(Event::Switch, "", text) }
}

fn lasting(event: Event, subject: &str, text: String) -> Sign {
    let over = over(event, subject);
    Sign { event, subject: subject.to_owned(), text, over, kind: Kind::Lasts, at: None }
}

fn first_line(text: &str) -> &str {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refusals_for_lack_of_room_are_reported_at_once_and_so_is_their_end() {
        let status = |refusing: bool| -> Status {
            let status = json!({
                "version": "1", "started_at": "2026-01-01T00:00:00Z", "now": "2026-01-01T03:00:00Z", "ready": true, "primary": "a",
                "mirror": true, "difference": 0, "config": {"path": "c.toml", "loaded_at": "2026-01-01T00:00:00Z", "error": null},
                "journal": {"size_bytes": 3, "disk_free_bytes": null}, "projects": [], "switches": [], "upstreams": [],
                "refused_requests": {"project_share": 2}, "refusing": refusing,
            });
            serde_json::from_value(status).unwrap()
        };
        let signs = of(&status(true), 9);
        let text =
            "2 submissions were refused with 503 in the last two hours (project_share): what they brought is lost";
        assert_eq!((signs.len(), signs[0].event, &*signs[0].text), (1, Event::Refusing, text));
        assert_eq!(signs[0].kind, Kind::Grows(1), "not after a while only");
        assert!(of(&status(false), 9).is_empty(), "it is over");
        let mut limited = status(false);
        limited.refused_items.insert("upstream_limited".to_owned(), 2);
        assert!(of(&limited, 9).is_empty(), "they are named, and do not go on");
        limited.limiting = true;
        let text =
            "2 items were refused in the last two hours, because every upstream in use limited them: they are lost";
        assert_eq!(
            of(&limited, 9).iter().map(|sign| (sign.event, &*sign.text)).collect::<Vec<_>>(),
            [(Event::Refusing, text)]
        );
    }
}

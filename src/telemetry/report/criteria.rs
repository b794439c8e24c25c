//! The criteria that a candidate must meet to be ready: the section `[report]`, and the decision.
//!
//! Rule: only the content of the report decides.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::policy::outcome::{Cause, DropReason, RefusalReason};
use crate::units::{Percent, Period};

use super::super::gaps::GapStatus;
use super::super::words;
use super::accepted::AcceptedField;
use super::{Criterion, Report, ServiceReport, UpstreamReport};

/// The section `[report]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The window of a report that asks for none.
    pub window: Period,
    /// The least share of the window in which the candidate was seen.
    pub min_seen: Percent,
    /// The least share of the time in which the relay ran.
    pub min_uptime: Percent,
    /// The least share of the relay's time without an outage of the candidate.
    pub min_availability: Percent,
    /// 99 of 100 deliveries to the candidate must take less than this.
    pub max_lag_p99: Period,
    /// The most refusals of items and requests by the candidate.
    pub max_refused: u64,
    /// The most items lost for the candidate.
    pub max_lost: u64,
    /// The most items withheld from the candidate.
    pub max_withheld: u64,
    /// The least share of the error events taken by the candidate that were found there.
    pub min_verified: Percent,
    /// Whether it must be shown that the candidate stores what it takes. If not, the verdict says that this was not shown.
    pub require_stored: bool,
    /// The services that must have sent something: names of projects, or the `server_name` or release of events, which may follow its
    /// project as in `shop/api`. Empty means every project.
    pub expect: Vec<Box<str>>,
    /// The fields in which events may differ from what was sent, because somebody finds that right.
    pub accept_drift: Vec<AcceptedField>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            window: Period::secs(48 * 3600),
            min_seen: Percent::thousandths(95_000),
            min_uptime: Percent::thousandths(99_900),
            min_availability: Percent::thousandths(99_900),
            max_lag_p99: Period::secs(10),
            max_refused: 0,
            max_lost: 0,
            max_withheld: 0,
            min_verified: Percent::thousandths(99_000),
            require_stored: true,
            expect: vec![],
            accept_drift: vec![],
        }
    }
}

/// Judges a report: fills in its criteria and the verdict.
pub fn judge(settings: &Settings, report: &mut Report) {
    let unknown = UpstreamReport::default();
    let candidate = report.upstreams.iter().find(|upstream| upstream.role == "candidate").unwrap_or(&unknown);
    let of_items = [
        balance(candidate),
        withheld(settings, candidate),
        lost(settings, candidate, report),
        refused(settings, candidate),
        availability(settings, candidate),
    ];
    let mut criteria = vec![seen(settings, report), uptime(settings, report)];
    let is_idle = is_idle(candidate);
    let of_items = of_items.map(|one| if is_idle && one.passed { one.idle(&report.relay.gaps) } else { one });
    criteria.extend(of_items);
    criteria.extend([lag(settings, candidate), services(report), canary(report.canaries, candidate, report.since)]);
    criteria.extend(stored(settings, candidate, &report.candidate));
    criteria.extend(content(settings, candidate));
    let criteria = criteria.into_iter().map(|criterion| criterion.until(report, candidate)).collect();
    report.criteria = criteria;
    report.ready = report.criteria.iter().all(|criterion| criterion.passed);
    report.verdict = verdict(settings, report);
}

/// The verdict in one line, with how long the candidate was seen and the criteria that could not be judged.
fn verdict(settings: &Settings, report: &Report) -> String {
    let name = &report.candidate;
    let named = |pick: fn(&&Criterion) -> bool| -> Vec<&str> {
        report.criteria.iter().filter(pick).map(|criterion| &*criterion.name).collect()
    };
    let (failed, unjudged) = (named(|one| !one.passed), named(|one| !one.judged));
    let met = report.criteria.len() - failed.len() - unjudged.len();
    let is_asked = report.upstreams.iter().any(|own| own.role == "candidate" && own.verification.is_some());
    let compares = report.criteria.iter().any(|criterion| criterion.name == "content");
    let rest = if unjudged.is_empty() { String::new() } else { format!("; not judged: {}", unjudged.join(", ")) };
    let seen = format!("seen for {}", seen_for(report));
    match failed.as_slice() {
        [] => {
            let but = match (settings.require_stored, compares) {
                (true, true) => accepted(report),
                (true, false) => ", but none compares what it stores with what was sent (compare = 0)".to_owned(),
                (false, _) => {
                    ", but none shows that it stores what it answers with 200 (require_stored = false)".to_owned()
                }
            };
            format!("ready: {name} meets all {met} criteria{but}; {seen}{rest}")
        }
        ["seen"] => format!("not ready: {name} was {seen} only, and meets the other {met} criteria{rest}"),
        ["stored"] if !is_asked => {
            format!("not ready: nothing shows that {name} stores what it answers with 200; {seen}{rest}")
        }
        failed => format!("not ready: {name} fails {}; {seen}{rest}", failed.join(", ")),
    }
}

/// How long the candidate was seen, and of how long a window if that is longer.
fn seen_for(report: &Report) -> String {
    let (seen, asked) = (roughly(report.seen()), roughly(report.asked()));
    if seen == asked { seen } else { format!("{seen} of {asked}") }
}

/// A span of time; from ten minutes on without seconds.
fn roughly(length: Duration) -> String {
    let seconds = length.as_secs();
    let whole = if seconds >= 600 { seconds / 60 * 60 } else { seconds };
    hours(Duration::from_secs(whole).as_secs_f64())
}

/// Whether nothing came for the candidate, so that it cannot be judged.
fn is_idle(candidate: &UpstreamReport) -> bool {
    let counts = [
        candidate.accepted(),
        candidate.pending(),
        candidate.dropped.values().sum(),
        candidate.attempts.values().sum(),
    ];
    counts.iter().all(|count| *count == 0) && candidate.outages.is_empty() && candidate.difference == 0
}

const NOTHING_CAME: &str = "nothing came for it";

fn criterion(name: &str, passed: bool, demanded: String, found: String) -> Criterion {
    Criterion { name: name.to_owned(), passed, judged: true, demanded, found, until: None }
}

impl Criterion {
    /// The result in a word.
    pub const fn result(&self) -> &'static str {
        match (self.judged, self.passed) {
            (false, _) => "not judged",
            (true, true) => "pass",
            (true, false) => "FAIL",
        }
    }

    /// The criterion when nothing came for the candidate. What came while the relay did not run is unknown.
    fn idle(self, gaps: &[GapStatus]) -> Self {
        let uncounted = if self.name == "lost" { uncounted(gaps) } else { String::new() };
        self.without(&format!("{NOTHING_CAME}{uncounted}"))
    }

    /// The criterion when there is nothing to judge, and why.
    fn without(self, why: &str) -> Self {
        Self { passed: true, judged: false, found: why.to_owned(), ..self }
    }
}

fn seen(settings: &Settings, report: &Report) -> Criterion {
    let (seen, asked) = (report.seen(), report.asked());
    let enough = settings.min_seen.of(asked);
    let from = report.seen_since + enough;
    let passed = seen >= enough;
    let later = if passed { String::new() } else { format!("; enough at {}", from.in_words()) };
    let demanded = format!("it was seen for {} of the time asked for", settings.min_seen);
    criterion(
        "seen",
        passed,
        demanded,
        format!("{} of {}{later}", hours(seen.as_secs_f64()), hours(asked.as_secs_f64())),
    )
}

fn uptime(settings: &Settings, report: &Report) -> Criterion {
    let relay = &report.relay;
    let from = |first: Timestamp| format!(", from its first start at {} on", first.in_words());
    let since = report.first_start().map_or(String::new(), from);
    let (up, window) = (hours(relay.up_seconds), hours(relay.window_seconds));
    let found = format!("{up} of {window}, {:.3}%{since}", relay.uptime_percent);
    let passed = settings.min_uptime.is_reached_by(relay.uptime_percent);
    criterion("uptime", passed, format!("the relay ran {} of the time", settings.min_uptime), found)
}

fn balance(candidate: &UpstreamReport) -> Criterion {
    let demanded = "no unexplained loss: accepted = delivered + dropped + pending".to_owned();
    criterion("balance", candidate.difference == 0, demanded, format!("a difference of {}", candidate.difference))
}

/// The names of the drop reasons with this cause.
fn names_of(cause: Cause) -> impl Iterator<Item = &'static str> {
    DropReason::ALL.into_iter().filter(move |reason| reason.cause() == cause).map(DropReason::name)
}

fn withheld(settings: &Settings, candidate: &UpstreamReport) -> Criterion {
    let (dropped, backfilled) = (candidate.dropped_by(Cause::Withheld), candidate.backfilled());
    let found = dropped.saturating_sub(backfilled);
    let demanded = format!("no more than {} kept from it", words::some(settings.max_withheld, "item"));
    let told =
        names_of(Cause::Withheld).filter_map(|reason| Some(words::dropped(reason, *candidate.dropped.get(reason)?)));
    let told: Vec<String> = told.collect();
    let told = if told.is_empty() { String::new() } else { format!(": {}", told.join("; ")) };
    let later =
        if backfilled > 0 { format!(", and {backfilled} that a backfill took up since") } else { String::new() };
    criterion(
        "withheld",
        found <= settings.max_withheld,
        demanded,
        format!("{}{later}{told}", words::some(found, "item")),
    )
}

/// Items that every upstream in use limits are refused at the door, so they are the candidate's losses, too.
fn lost(settings: &Settings, candidate: &UpstreamReport, report: &Report) -> Criterion {
    let before = candidate.within.as_ref().map_or(0, |within| within.lost_before);
    let refused = report.intake.refused_items.get(RefusalReason::UpstreamLimited.name()).copied().unwrap_or(0);
    let dropped = candidate.dropped_by(Cause::Lost).saturating_sub(before) + candidate.dropped_by(Cause::Limited);
    let found = dropped + refused;
    let (most, reasons) =
        (words::some(settings.max_lost, "item"), names_of(Cause::Lost).collect::<Vec<_>>().join(", "));
    let demanded = format!("no more than {most} {reasons}, or dropped or refused under a limit");
    let at_the_door = match refused {
        0 => String::new(),
        n => format!(", {n} of them refused because every upstream in use limited them"),
    };
    criterion(
        "lost",
        found <= settings.max_lost,
        demanded,
        format!("{}{at_the_door}{}", words::some(found, "item"), uncounted(&report.relay.gaps)),
    )
}

/// The time whose data cannot be counted, in words.
fn uncounted(gaps: &[GapStatus]) -> String {
    words::without_relay(gaps).map_or(String::new(), |length| {
        format!(", and what services sent in the {length} without the relay, which nobody can count")
    })
}

fn refused(settings: &Settings, candidate: &UpstreamReport) -> Criterion {
    let (retried, answers) = (candidate.retried(), candidate.attempts_of("misconfigured"));
    let items = candidate.dropped_by(Cause::Refused).saturating_sub(retried);
    let demanded = format!("no more than {}", words::some(settings.max_refused, "refusal"));
    let later = if retried > 0 { format!(" and {retried} that were retried since") } else { String::new() };
    let found = format!(
        "{} refused for good{later}, {} that our DSN is wrong",
        words::some(items, "item"),
        words::some(answers, "answer")
    );
    criterion("refused", items + answers <= settings.max_refused, demanded, found)
}

fn availability(settings: &Settings, candidate: &UpstreamReport) -> Criterion {
    let found = format!(
        "{:.3}%, {}, {} together",
        candidate.availability_percent,
        words::some(candidate.outages.len() as u64, "outage"),
        hours(candidate.outage_seconds)
    );
    let passed = settings.min_availability.is_reached_by(candidate.availability_percent);
    criterion("availability", passed, format!("it answered {} of the time", settings.min_availability), found)
}

fn lag(settings: &Settings, candidate: &UpstreamReport) -> Criterion {
    let demanded = format!("99 of 100 deliveries took less than {}", settings.max_lag_p99);
    match candidate.lag_p99() {
        None => criterion("lag", false, demanded, "nothing was delivered".to_owned()),
        Some(p99) => {
            let passed = p99 < settings.max_lag_p99.get().as_secs_f64();
            criterion("lag", passed, demanded, words::lag(p99))
        }
    }
}

fn services(report: &Report) -> Criterion {
    let silent: Vec<&str> =
        report.services.iter().filter(|service| !service.seen).map(|service| &*service.name).collect();
    let found = match silent.as_slice() {
        [] => {
            let seen: Vec<String> = report.services.iter().map(ServiceReport::told).collect();
            format!("heard from {}", seen.join(", "))
        }
        silent => format!("nothing from {}", silent.join(", ")),
    };
    let criterion = criterion("services", silent.is_empty(), "every expected service sent something".to_owned(), found);
    if report.services.is_empty() { criterion.without("none is expected") } else { criterion }
}

fn canary(is_configured: bool, candidate: &UpstreamReport, since: Timestamp) -> Criterion {
    let own = candidate.canary.as_ref();
    let fails = own.filter(|own| own.state == "failing");
    let found = match (candidate.canaries_failed, fails) {
        (0, None) => "none failed".to_owned(),
        (0, Some(own)) => format!("none gets through: {}", own.why.as_deref().unwrap_or("it is not known why")),
        (times, _) => format!("they stopped getting through {}", words::some(times, "time")),
    };
    let passed = candidate.canaries_failed == 0 && fails.is_none();
    let criterion = criterion("canary", passed, "no canary failed to get through".to_owned(), found);
    let is_through = own.and_then(|own| own.through_at).is_some_and(|at| at >= since);
    match own {
        _ if !passed || is_through => criterion,
        None if !is_configured => criterion.without("none is configured: write interval = \"5m\" under [canary]"),
        None => criterion.without("none is sent to it"),
        Some(_) => criterion.without("none has got through yet, and none has failed"),
    }
}

/// Whether the candidate stores what it takes; `None` if that is neither demanded nor known.
fn stored(settings: &Settings, candidate: &UpstreamReport, name: &str) -> Option<Criterion> {
    let demanded = format!("it stores {} of the error events that it took, and none is missing", settings.min_verified);
    let Some(own) = &candidate.verification else {
        let found = format!(
            "nothing shows that {name} stores what it answers with 200: add [upstreams.{name}.api] with token = \"${{…}}\" \
             if it is a GlitchTip, a Sentry or a Bugsink (`switchyard check` says what else is missing), or require_stored = false \
             under [report]"
        );
        return settings.require_stored.then(|| criterion("stored", false, demanded, found));
    };
    let is_enough = settings.min_verified.is_reached_by(own.stored_percent);
    let trouble = own.trouble.as_ref().map_or(String::new(), |why| format!("; {why}"));
    let found = format!(
        "{} of {} found there, {:.3}%; {} missing, {} lost there of which {} were given up, {} not known, {} too recent{trouble}",
        own.stored, own.delivered, own.stored_percent, own.missing, own.lost, own.given_up, own.unknown, own.recent
    );
    let holds = is_enough && own.missing + own.given_up == 0;
    let not_demanded = format!("{found}; not demanded (require_stored = false)");
    let criterion = criterion("stored", holds, demanded, found);
    Some(if holds || settings.require_stored { criterion } else { criterion.without(&not_demanded) })
}

/// Whether the stored events are as they were sent; `None` if they are not compared.
fn content(settings: &Settings, candidate: &UpstreamReport) -> Option<Criterion> {
    let own = candidate.verification.as_ref()?.content.as_ref()?;
    let demanded = "events that were compared are there as they were sent".to_owned();
    let criterion = criterion("content", own.compared > 0 && !own.is_bad(), demanded, own.told());
    let is_open = own.compared == 0 && !own.is_bad() && !settings.require_stored;
    Some(if is_open { criterion.without(&own.told()) } else { criterion })
}

/// The accepted differences of the candidate, for the verdict.
fn accepted(report: &Report) -> String {
    let candidate = report.upstreams.iter().find(|own| own.role == "candidate");
    let content = candidate.and_then(|own| own.verification.as_ref()?.content.as_ref());
    match content.filter(|content| content.accepted > 0) {
        Some(own) => {
            let (events, differ) = (words::some(own.accepted, "event"), words::verb(own.accepted, "differs", "differ"));
            format!(", not counting {events} that {differ} in {}", own.accept_drift.join(", "))
        }
        None => String::new(),
    }
}

/// The longest time that is written in hours: three days, as operators write it.
const LONGEST_IN_HOURS: u64 = 72 * 3600;

/// A span of time in days, hours, minutes and seconds without zeros; in milliseconds below a second.
pub fn hours(seconds: f64) -> String {
    let length = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let whole = length.as_secs();
    let days = if whole > LONGEST_IN_HOURS { whole / 86_400 } else { 0 };
    let parts = [(days, "d"), (whole / 3600 - days * 24, "h"), (whole / 60 % 60, "min"), (whole % 60, "s")];
    let told: Vec<String> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n} {unit}")).collect();
    match (told.is_empty(), length.as_millis()) {
        (true, 0) => "0 s".to_owned(),
        (true, ms) => format!("{ms} ms"),
        (false, _) => told.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::report::{ContentReport, LagReport, VerificationReport};
    use crate::telemetry::status::CanaryStatus;
    use crate::telemetry::verification::{ContentStatus, Differing, FieldDifference};

    fn report() -> Report {
        let report = serde_json::json!({
            "version": "1", "now": "2026-01-03T00:00:00Z", "since": "2026-01-01T00:00:00Z",
            "counted_since": "2026-01-01T00:00:00Z", "known_since": "2026-01-01T00:00:00Z", "seen_since": "2026-01-01T00:00:00Z",
            "primary": "a", "candidate": "b", "ready": false, "verdict": "",
            "criteria": [], "upstreams": [], "switches": [], "services": [{"name": "shop", "seen": true}],
            "relay": {"window_seconds": 172800.0, "up_seconds": 172790.0, "uptime_percent": 99.994, "starts": 1, "crashes": 0},
            "intake": {"accepted": {}, "duplicates": {}, "refused": {}},
            "comparison": {"compared": 0, "oldest": null, "complete": true, "candidate_waits": 0, "primary_waits": 0,
                "candidate_missed": {"count": 0, "reasons": {}, "sample": []},
                "primary_missed": {"count": 0, "reasons": {}, "sample": []}},
        });
        let mut report: Report = serde_json::from_value(report).unwrap();
        let (p50_seconds, p99_seconds, max_seconds) = (0.1, 9.9, 300.0);
        let lag = Some(LagReport { count: 9, p50_seconds, p99_seconds, max_seconds, error_percent: 1.5 });
        let role = "candidate".to_owned();
        let verification = Some(VerificationReport {
            delivered: 9,
            stored: 9,
            stored_percent: 100.0,
            content: Some(ContentReport { compared: 9, ..ContentReport::default() }),
            ..VerificationReport::default()
        });
        let candidate =
            UpstreamReport { role, lag, availability_percent: 99.9, verification, ..UpstreamReport::default() };
        report.upstreams.push(candidate);
        report
    }

    /// The names of the criteria that fail after `change`.
    fn failed(change: impl FnOnce(&mut Report)) -> Vec<String> {
        let mut report = report();
        change(&mut report);
        judge(&Settings::default(), &mut report);
        assert_eq!(report.ready, report.criteria.iter().all(|criterion| criterion.passed));
        report.criteria.into_iter().filter(|criterion| !criterion.passed).map(|criterion| criterion.name).collect()
    }

    fn dropped(report: &mut Report, reason: &str) {
        report.upstreams[0].dropped.insert(reason.to_owned(), 1);
    }

    #[test]
    fn each_criterion_fails_by_itself() {
        assert!(failed(|_| {}).is_empty());
        assert_eq!(failed(|report| report.relay.uptime_percent = 99.8), ["uptime"]);
        assert_eq!(failed(|report| report.upstreams[0].difference = -1), ["balance"]);
        for reason in DropReason::ALL {
            let expected: Vec<_> = reason.cause().criterion().into_iter().collect();
            assert_eq!(failed(|report| dropped(report, reason.name())), expected, "{reason}");
        }
        let limited = |report: &mut Report, reason: &str| report.intake.refused_items.insert(reason.to_owned(), 1);
        assert_eq!(failed(|report| _ = limited(report, "upstream_limited")), ["lost"]);
        assert!(failed(|report| _ = limited(report, "rate_limited")).is_empty(), "a limit of ours");
        let wrong = |report: &mut Report| report.upstreams[0].attempts.extend([("misconfigured".to_owned(), 1)]);
        assert_eq!(failed(wrong), ["refused"]);
        assert_eq!(failed(|report| report.upstreams[0].availability_percent = 99.89), ["availability"]);
        assert_eq!(failed(|report| report.upstreams[0].lag = None), ["lag"], "no evidence is no good evidence");
        assert_eq!(failed(|report| report.upstreams[0].lag.as_mut().unwrap().p99_seconds = 10.0), ["lag"]);
        let silent = ServiceReport { name: "mailer".into(), seen: false, projects: vec![] };
        assert_eq!(failed(|report| report.services.push(silent)), ["services"]);
    }

    #[test]
    fn a_criterion_names_what_explains_its_finding() {
        let found = |report: &Report, name: &str| {
            report.criteria.iter().find(|criterion| criterion.name == name).unwrap().found.clone()
        };
        let mut report = report();
        report.known_since = report.since + Duration::from_secs(3600);
        report.since = report.since + Duration::from_secs(60);
        report.services[0].projects = vec!["shop".into()];
        report.services.push(ServiceReport {
            name: "api".into(),
            seen: true,
            projects: vec!["shop".into(), "web".into()],
        });
        dropped(&mut report, "mirror_off");
        judge(&Settings::default(), &mut report);
        assert!(found(&report, "uptime").ends_with(", from its first start at 1 Jan 2026, 01:00:00 UTC on"));
        assert!(found(&report, "services").starts_with("heard from shop, api (by shop, web)"));
        assert!(found(&report, "withheld").starts_with("1 item: mirror_off 1 (the mirror was off"));
    }

    #[test]
    fn a_candidate_that_is_not_shown_to_store_events_is_not_ready() {
        let own = |change: fn(&mut VerificationReport)| {
            failed(|report| change(report.upstreams[0].verification.as_mut().unwrap()))
        };
        assert_eq!(own(|own| own.missing = 1), ["stored"]);
        assert_eq!(own(|own| own.given_up = 1), ["stored"]);
        assert_eq!(own(|own| own.stored_percent = 98.9), ["stored"]);
        assert_eq!(failed(|report| report.upstreams[0].canaries_failed = 1), ["canary"]);
        let mut report = report();
        report.upstreams[0].verification = None;
        judge(&Settings::default(), &mut report);
        let told = "not ready: nothing shows that b stores what it answers with 200; seen for 48 h";
        assert!(report.verdict.starts_with(told), "{}", report.verdict);
        assert!(report.criteria.last().unwrap().found.contains("add [upstreams.b.api]"));
        judge(&Settings { require_stored: false, ..Settings::default() }, &mut report);
        assert!(report.ready && report.verdict.contains("none shows that it stores"), "{}", report.verdict);
    }

    #[test]
    fn differing_events_or_no_compared_events_make_a_candidate_not_ready() {
        let own = |change: fn(&mut ContentReport)| {
            failed(|report| change(report.upstreams[0].verification.as_mut().unwrap().content.as_mut().unwrap()))
        };
        assert_eq!(own(|own| own.differing = 1), ["content"]);
        assert_eq!(own(|own| own.compared = 0), ["content"], "no evidence is no good evidence");
        assert_eq!(own(|own| (own.differing, own.accepted) = (3, 2)), ["content"]);
        let mut report = report();
        report.upstreams[0].verification.as_mut().unwrap().content = None;
        judge(&Settings::default(), &mut report);
        assert!(report.ready && report.verdict.contains("none compares what it stores"), "{}", report.verdict);
        assert!(report.criteria.iter().all(|criterion| criterion.name != "content"));
    }

    #[test]
    fn differences_in_accepted_fields_alone_are_ready_and_named_in_the_verdict() {
        let mut report = report();
        let own = report.upstreams[0].verification.as_mut().unwrap().content.as_mut().unwrap();
        (own.differing, own.accepted, own.accept_drift) = (2, 2, vec!["extra".into(), "contexts.os".into()]);
        judge(&Settings::default(), &mut report);
        assert!(
            report.verdict.contains(", not counting 2 events that differ in extra, contexts.os; seen for 48 h"),
            "{}",
            report.verdict
        );
        let found = &report.criteria.iter().find(|one| one.name == "content").unwrap().found;
        assert!(found.ends_with("2 differ, in accepted fields alone (accept_drift: extra, contexts.os)"), "{found}");
    }

    #[test]
    fn fields_are_counted_by_events_without_positions_in_lists() {
        let differing = |event_id: &str, field: &str| Differing {
            event_id: event_id.into(),
            project: "shop".into(),
            compared_at: Timestamp::default(),
            difference: FieldDifference { field: field.into(), sent: "a".into(), there: "b".into() },
        };
        let all = [
            ("1", "exception[0].frames[3].lineno"),
            ("1", "exception[0].frames[12].lineno"),
            ("2", "release"),
            ("3", "release"),
        ];
        let all = all.map(|(id, field)| differing(id, field)).to_vec();
        let counts = ContentStatus { compared: 7, differing: 3, ..ContentStatus::default() };
        let own = ContentReport::new(Timestamp::default(), &counts, all);
        assert_eq!(own.fields["exception[].frames[].lineno"], 1);
        assert_eq!(
            own.told(),
            "7 compared from 1 Jan 1970, 00:00:00 UTC on, 3 differ: release 2, exception[].frames[].lineno 1"
        );
        assert_eq!(ContentReport::default().told(), "nothing was compared yet");
    }

    #[test]
    fn a_candidate_seen_too_briefly_is_not_ready_until_a_named_time() {
        let mut report = report();
        report.seen_since = report.now - Duration::from_secs(12 * 60 + 5);
        judge(&Settings::default(), &mut report);
        let told = "not ready: b was seen for 12 min of 48 h only, and meets the other 5 criteria; not judged: ";
        assert!(!report.ready && report.verdict.starts_with(told), "{}", report.verdict);
        assert_eq!(report.criteria[0].found, "12 min 5 s of 48 h; enough at 4 Jan 2026, 21:23:55 UTC");
        report.seen_since = report.now - Duration::from_secs(46 * 3600);
        judge(&Settings::default(), &mut report);
        assert!(report.ready && report.verdict.contains("; seen for 46 h of 48 h"), "{}", report.verdict);
        // A shorter window that was asked for is judged by itself.
        (report.since, report.seen_since) =
            (report.now - Duration::from_secs(720), report.now - Duration::from_secs(720));
        judge(&Settings::default(), &mut report);
        assert!(report.ready && report.verdict.contains("; seen for 12 min;"), "{}", report.verdict);
    }

    #[test]
    fn a_criterion_without_anything_to_judge_neither_passes_nor_counts() {
        let unjudged = |settings: &Settings, change: fn(&mut Report)| {
            let mut report = report();
            report.upstreams[0].attempts.insert("delivered".into(), 9);
            change(&mut report);
            judge(settings, &mut report);
            let open = report.criteria.iter().filter(|one| !one.judged);
            let open: Vec<String> = open.map(|one| format!("{}: {}", one.name, one.found)).collect();
            let met = report.criteria.iter().filter(|one| one.passed && one.judged).count();
            let counted = format!("{met} criteria");
            assert!(!report.ready || report.verdict.contains(&counted), "{}", report.verdict);
            assert!(report.criteria.iter().all(|one| one.judged || one.result() == "not judged"));
            open
        };
        let usual = Settings::default();
        assert_eq!(unjudged(&usual, |_| {}), ["canary: none is configured: write interval = \"5m\" under [canary]"]);
        assert_eq!(unjudged(&usual, |report| report.canaries = true), ["canary: none is sent to it"]);
        let own = |state: &str, through: Option<Timestamp>| CanaryStatus {
            state: state.to_owned(),
            sent_at: Timestamp::default(),
            through_at: through,
            age_seconds: 0.0,
            why: None,
        };
        for (state, through, result) in [
            ("under_way", None, "not judged"),
            ("through", Some(report().now), "pass"),
            ("through", Some(Timestamp::default()), "not judged"),
            ("failing", Some(Timestamp::default()), "FAIL"),
        ] {
            let mut report = report();
            (report.canaries, report.upstreams[0].canary) = (true, Some(own(state, through)));
            judge(&usual, &mut report);
            let canary = report.criteria.iter().find(|one| one.name == "canary").unwrap();
            assert_eq!(canary.result(), result, "{state}");
        }
        let idle = unjudged(&usual, |report| report.upstreams[0].attempts.clear());
        assert_eq!(idle.len(), 6, "{idle:?}");
        assert!(idle[..5].iter().all(|one| one.ends_with(": nothing came for it")), "{idle:?}");
        assert_eq!(unjudged(&usual, |report| report.services.clear())[0], "services: none is expected");
        let lenient = Settings { require_stored: false, ..Settings::default() };
        let own = |report: &mut Report| report.upstreams[0].verification.as_mut().unwrap().missing = 1;
        assert!(unjudged(&lenient, own)[1].ends_with("not demanded (require_stored = false)"));
    }

    #[test]
    fn the_verdict_names_the_failing_criteria() {
        let mut report = report();
        (report.upstreams[0].difference, report.upstreams[0].lag) = (3, None);
        judge(&Settings::default(), &mut report);
        assert_eq!(report.verdict, "not ready: b fails balance, lag; seen for 48 h; not judged: canary");
        let told = [172_790.0, 259_200.0, 2_592_000.0, 266_460.0, 0.623, 0.0].map(hours);
        assert_eq!(told, ["47 h 59 min 50 s", "72 h", "30 d", "3 d 2 h 1 min", "623 ms", "0 s"]);
    }
}

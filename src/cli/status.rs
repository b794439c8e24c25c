//! `switchyard status`: the state of each upstream, as the running daemon sees it.

use std::time::Duration;

use tokio::time::sleep;

use crate::telemetry::health::{Health, Level};
use crate::telemetry::status::{CanaryStatus, OutageStatus, ProjectStatus, ShareStatus, Status, UpstreamStatus};
use crate::telemetry::verification::VerificationStatus;
use crate::telemetry::words::{self, ago, bytes, span};

use super::admin::{AdminClient, Silence};
use super::backfill::describe;
use super::failure::{Exit, Failure};
use super::locate::Located;
use super::process;
use super::relays;
use super::terminal::{self, Tone, harmless, right, table, tint, tinted};

/// The pause of `--watch` between two looks.
const EACH: Duration = Duration::from_secs(2);
/// Moves the cursor to the top left and clears everything below it, which redraws without flicker.
const REDRAW: &str = "\x1b[H\x1b[2J";
/// The number of switches that are shown.
const SWITCHES: usize = 5;

/// Shows each upstream: state, delivered, backlog, last error, limits
///
/// Exit 0 when the daemon accepts submissions, 1 when it does not, 69 when none answers. With --check it prints one line for a monitor
/// (Nagios, Uptime Kuma, cron): exit 0 when all is well, 1 when something is degraded, 2 when data is lost or no daemon answers.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Looks again every 2 seconds, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Prints one line, and exits with 0 (well), 1 (degraded) or 2 (losing data)
    #[arg(long, conflicts_with = "watch")]
    check: bool,
    /// As JSON, as the daemon tells it: one document, with --watch one a line, with --check level and sentence
    #[arg(long)]
    json: bool,
}

/// Shows the status once or repeatedly.
pub(super) fn status(located: &Located, args: &Args) -> Result<(), Failure> {
    let admin = AdminClient::new(located.contact())?;
    process::block_on(async {
        if args.check {
            return check(&admin, args.json).await;
        }
        if !args.watch {
            let ready = show(&admin, args.json).await?;
            return if ready { Ok(()) } else { Err(Failure::negative()) };
        }
        let mut signals = process::Signals::listen()?;
        loop {
            watch(&admin, args.json).await?;
            tokio::select! {
                () = sleep(EACH) => {}
                () = signals.next() => return Ok(()),
            }
        }
    })
}

/// Prints one line for a monitor. A daemon that does not answer accepts nothing, which counts as a loss.
async fn check(admin: &AdminClient, json: bool) -> Result<(), Failure> {
    let health = match admin.status_and_text().await {
        Ok((status, _)) => status.health,
        Err(silence) => {
            let level = match silence {
                Silence::Unauthorized | Silence::Refused(_) | Silence::Misasked(_) => Level::Degraded,
                Silence::Unreachable(_) | Silence::Late | Silence::Stranger(_) => Level::LosingData,
            };
            let failure = admin.failure(silence);
            let why = failure.message().lines().next().unwrap_or_default();
            Health { level, sentence: format!("{}: {why}", level.words()) }
        }
    };
    match json {
        true => terminal::say_json(&health)?,
        false => terminal::say(harmless(&health.sentence, 1000))?,
    }
    match health.level {
        Level::Well => Ok(()),
        Level::Degraded => Err(Failure::negative()),
        Level::LosingData => Err(Failure::told(Exit::Usage)),
    }
}

async fn show(admin: &AdminClient, json: bool) -> Result<bool, Failure> {
    let (status, text) = admin.status_and_text().await.map_err(|silence| admin.failure(silence))?;
    terminal::say(if json { text } else { render(&status) })?;
    Ok(status.ready)
}

/// Shows the status, or why there is none: a daemon that is restarted does not end the watch.
async fn watch(admin: &AdminClient, json: bool) -> Result<(), Failure> {
    let told = match admin.status_and_text().await {
        Ok((_, text)) if json => return terminal::say(text),
        Ok((status, _)) => render(&status),
        Err(silence) => {
            let failure = admin.failure(silence);
            if json {
                return terminal::say(serde_json::json!({ "error": failure.message() }));
            }
            failure.message().to_owned()
        }
    };
    let redraw = if terminal::is_watched() { REDRAW } else { "" };
    terminal::say(format_args!("{redraw}{told}"))
}

/// The whole status as text.
pub(super) fn render(status: &Status) -> String {
    let mut parts = vec![verdict(status), head(status)];
    parts.extend(exceptions(status));
    parts.extend(alarms(status));
    parts.push(upstreams(status));
    parts.extend(status.upstreams.iter().filter_map(more));
    parts.extend(fillers(status));
    parts.extend(relays::render(status));
    parts.extend(refused(status));
    parts.extend(status.backfills.iter().map(|backfill| format!("\n{}", describe(backfill))));
    parts.extend(switches(status));
    parts.join("\n")
}

/// The verdict, which comes first.
fn verdict(status: &Status) -> String {
    let Health { level, sentence } = &status.health;
    let tone = match level {
        Level::Well => Tone::Good,
        Level::Degraded => Tone::Strong,
        Level::LosingData => Tone::Bad,
    };
    tint(tone, format!("{} {}\n", level.sign(), harmless(sentence, 1000)))
}

fn head(status: &Status) -> String {
    let delivered: u64 = status.upstreams.iter().map(|upstream| upstream.delivered).sum();
    let dropped: u64 = status.upstreams.iter().map(|upstream| upstream.dropped.values().sum::<u64>()).sum();
    let waiting: u64 = status.upstreams.iter().map(|upstream| upstream.backlog.envelopes).sum();
    format!(
        "primary {} · mirror {} · {} · up {} · version {}\n\
         in all {} delivered, {} dropped, {} {} waiting · journal {}\n",
        tint(Tone::Strong, &status.primary),
        on(status.mirror),
        if status.ready { tint(Tone::Good, "ready") } else { tint(Tone::Bad, "not ready") },
        span(status.now.since(status.started_at)),
        status.version,
        words::some(delivered, "item"),
        words::count(dropped),
        words::count(waiting),
        words::verb(waiting, "copy", "copies"),
        bytes(status.journal.size_bytes),
    )
}

/// A line for each project with routing of its own, and one for the projects used by browsers.
fn exceptions(status: &Status) -> Option<String> {
    let line = |project: &ProjectStatus| {
        let primary = tint(Tone::Strong, &project.primary);
        format!("project {}: primary {primary} · mirror {}\n", project.name, on(project.mirror))
    };
    let browsers: Vec<&str> = status.browsers().collect();
    let mut lines: String = status.exceptions().map(line).collect();
    if !browsers.is_empty() {
        lines += &format!("used by browsers, with default limits where none is written: {}\n", browsers.join(", "));
    }
    (!lines.is_empty()).then_some(lines)
}

const fn on(mirror: bool) -> &'static str {
    if mirror { "on" } else { "off" }
}

fn alarms(status: &Status) -> Vec<String> {
    let mut alarms = vec![];
    if let Some(why) = &status.not_ready {
        alarms.push(format!("not accepting: {why}\n"));
    }
    if let Some(error) = &status.config.error {
        let since = status.config.loaded_at.in_words();
        alarms
            .push(format!("the file {} is not in use; what was loaded at {since} is:\n{error}\n", status.config.path));
    }
    if status.difference != 0 {
        alarms.push(format!(
            "the accounts differ by {}. This is a defect: please report it.\n",
            words::some(status.difference.unsigned_abs(), "item")
        ));
    }
    alarms.into_iter().map(|alarm| tint(Tone::Bad, alarm)).collect()
}

fn upstreams(status: &Status) -> String {
    let mut rows = table(&[
        "UPSTREAM",
        "ROLE",
        "STATE",
        "DELIVERED",
        "DROPPED",
        "WAITING",
        "OLDEST",
        "DEAD LETTERS",
        "LAST DELIVERY",
    ]);
    for upstream in &status.upstreams {
        let tone = match upstream.state.as_str() {
            "up" => Tone::Good,
            "down" | "misconfigured" => Tone::Bad,
            _ => Tone::Strong,
        };
        rows.add_row(vec![
            upstream.name.as_str().into(),
            status.role_of(upstream).into(),
            tinted(tone, &upstream.state),
            right(upstream.delivered),
            right(upstream.dropped.values().sum::<u64>()),
            right(upstream.backlog.envelopes),
            right(oldest(upstream)),
            right(upstream.dead_letters),
            right(last_delivery(status, upstream)),
        ]);
    }
    terminal::laid_out(rows)
}

/// The time since the last delivery. An older journal has no such time; its accounts then tell whether there was any delivery.
fn last_delivery(status: &Status, upstream: &UpstreamStatus) -> String {
    match upstream.last_delivery_at {
        Some(at) => ago(status.now, at),
        None if upstream.delivered > 0 => "not known".to_owned(),
        None => "-".to_owned(),
    }
}

fn oldest(upstream: &UpstreamStatus) -> String {
    match upstream.backlog.envelopes {
        0 => "-".to_owned(),
        _ => span(Duration::try_from_secs_f64(upstream.backlog.oldest_seconds).unwrap_or_default()),
    }
}

/// The details of an upstream beyond its row.
fn more(upstream: &UpstreamStatus) -> Option<String> {
    let mut lines = vec![];
    lines.extend(sparkline(upstream));
    if let Some(spared) = &upstream.spared {
        lines.push(format!("  as a shadow it gets: {spared}"));
    }
    for (reason, quantity) in &upstream.dropped {
        let meaning = words::meaning(reason);
        let meaning = if meaning.is_empty() { String::new() } else { format!(" ({meaning})") };
        lines.push(format!("  dropped as {reason}: {quantity}{meaning}"));
    }
    if upstream.returned > 0 {
        lines.push(format!("  taken up again: {}", upstream.returned));
    }
    if upstream.dead_letters > 0 {
        lines.push(format!("  refused for good: {}; `switchyard dead-letters list` shows them", upstream.dead_letters));
    }
    if let Some(error) = &upstream.last_error {
        lines.push(format!("  last error at {}: {}", error.at, harmless(&error.what, 300)));
    }
    lines.extend(upstream.stranded.iter().map(|stranded| tint(Tone::Bad, format!("  {stranded}"))));
    lines.extend(
        upstream.poison.iter().map(|line| tint(Tone::Strong, format!("  {}", harmless(&line.to_string(), 300)))),
    );
    lines.extend(words::projects(&upstream.refused_projects).map(|own| format!("  refuses the DSN of {own}")));
    lines.extend(upstream.alone().map(|line| tint(Tone::Strong, format!("  {line}"))));
    for OutageStatus { from, to, cause } in &upstream.outages {
        let end = to.map_or("still lasting".to_owned(), |to| format!("{} long", span(to.since(*from))));
        lines.push(format!("  outage from {from}, {end}: {}", harmless(cause, 300)));
    }
    lines.extend(upstream.canary.as_ref().map(of_canary));
    lines.extend(upstream.verification.iter().flat_map(|own| of_verification(&upstream.name, own)));
    lines.extend(words::limits(&upstream.limits).into_iter().map(|limit| format!("  limited: {limit}")));
    if upstream.difference != 0 {
        lines.push(format!("  difference: {}", upstream.difference));
    }
    (!lines.is_empty()).then(|| format!("\n{}\n{}", upstream.name, lines.join("\n")))
}

/// Whether the upstream stores what it took.
fn of_verification(name: &str, own: &VerificationStatus) -> Vec<String> {
    let tone = if own.missing > 0 { Tone::Bad } else { Tone::Good };
    let mut lines = vec![format!("  stores: {}", tint(tone, own.told()))];
    if own.missing > 0 {
        lines.push(format!("  `switchyard backfill {name} --missing` sends again what is missing"));
    }
    if let Some(content) = &own.content {
        let tone = if content.is_bad() { Tone::Bad } else { Tone::Good };
        lines.push(format!("  content: {}", tint(tone, content.told())));
    }
    if let Some(trouble) = &own.trouble {
        lines.push(tint(Tone::Bad, format!("  what it stores cannot be looked up: {}", harmless(trouble, 300))));
    }
    lines
}

/// The deliveries in each five minutes of the last hour or two as bars, on a terminal only.
fn sparkline(upstream: &UpstreamStatus) -> Option<String> {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let delivered = &upstream.lately.delivered;
    let most = delivered.iter().copied().max().filter(|most| *most > 0 && terminal::is_watched())?;
    let bar = |n: &u64| BARS[usize::try_from(n.saturating_mul(7) / most).unwrap_or(7).min(7)];
    let bars: String = delivered.iter().map(bar).collect();
    Some(format!("  delivered {bars} {:.1} a minute lately", upstream.lately.per_minute))
}

/// The state of canaries.
fn of_canary(canary: &CanaryStatus) -> String {
    let age = Duration::try_from_secs_f64(canary.age_seconds).unwrap_or_default();
    let last = match canary.through_at {
        Some(_) => format!("the last got through {} ago", span(age)),
        None => format!("none got through for {}, as far as is known", span(age)),
    };
    match &canary.why {
        Some(why) => tint(Tone::Bad, format!("  canary: failing; {last}: {}", harmless(why, 300))),
        None => format!("  canary: {last}"),
    }
}

/// The projects that fill the journal.
fn fillers(status: &Status) -> Option<String> {
    let line = |share: &ShareStatus| {
        let line =
            format!("  {}: {} of a part of {}", share.name, bytes(share.bytes), bytes(share.part_bytes.unwrap_or(0)));
        if share.is_beyond() { tint(Tone::Strong, format!("{line}, and takes of the common half")) } else { line }
    };
    let lines: Vec<String> = status.journal.fillers().map(line).collect();
    (!lines.is_empty()).then(|| format!("\njournal by project\n{}", lines.join("\n")))
}

/// The items that were not accepted.
fn refused(status: &Status) -> Option<String> {
    let refused =
        status.refused.iter().map(|row| format!("  {}: {} {} {}", row.project, row.items, row.category, row.reason));
    let storms = status.storms.iter().map(|storm| {
        let what = harmless(&storm.what, 80);
        format!(
            "  {}: storm of {what}, {} dropped, the last {}",
            storm.project,
            storm.collapsed,
            ago(status.now, storm.last)
        )
    });
    let lines: Vec<String> = refused.chain(storms).collect();
    (!lines.is_empty()).then(|| format!("\nnot accepted\n{}", lines.join("\n")))
}

fn switches(status: &Status) -> Option<String> {
    let line = |switch: &crate::telemetry::status::SwitchStatus| format!("  {}", super::switch::describe(switch));
    let lines: Vec<String> = status.switches.iter().take(SWITCHES).map(line).collect();
    (!lines.is_empty()).then(|| format!("\nswitches\n{}", lines.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_come_first_in_the_text_of_a_status() {
        let status = serde_json::json!({
            "version": "1", "started_at": "2026-01-01T00:00:00Z", "now": "2026-01-01T03:00:00Z", "ready": false,
            "not_ready": "the journal is full", "primary": "a", "mirror": true, "difference": 2,
            "config": {"path": "c.toml", "loaded_at": "2026-01-01T00:00:00Z", "error": "line 3 is wrong"},
            "journal": {"size_bytes": 3_000_000, "disk_free_bytes": null, "projects": [
                {"name": "web", "bytes": 2_200_000, "part_bytes": 1_048_576}, {"name": "app", "bytes": 0, "part_bytes": 1_048_576}]}, "projects": [], "switches": [],
            "upstreams": [{
                "name": "a", "role": "primary", "state": "down", "delivered": 5, "dropped": {"expired": 3},
                "backlog": {"envelopes": 7, "bytes": 70, "oldest_seconds": 61.0}, "dead_letters": 1,
                "last_delivery_at": null, "last_error": {"at": "2026-01-01T02:59:00Z", "what": "refused\u{1b}[2J"},
                "outages": [{"from": "2026-01-01T02:00:00Z", "to": "2026-01-01T02:10:00Z", "cause": "timeout"}],
                "canary": {"state": "failing", "sent_at": "2026-01-01T02:58:00Z", "through_at": "2026-01-01T01:00:00Z",
                    "age_seconds": 7200.0, "why": "not taken within 60s"},
                "alone": ["web"], "limits": [], "accounts": [], "difference": 2,
            }],
        });
        let text = render(&serde_json::from_value(status).unwrap());
        let position = |word: &str| text.find(word).unwrap_or_else(|| panic!("{word:?} is not in {text}"));
        assert!(position("the journal is full") < position("UPSTREAM"));
        assert!(position("line 3 is wrong") < position("UPSTREAM"));
        for word in [
            "up 3 h",
            "7 copies waiting",
            "2 MiB",
            "61 s",
            "dropped as expired: 3",
            "10 min long: timeout",
            "not known",
            "canary: failing; the last got through 2 h ago: not taken within 60s",
            "the accounts differ by 2 items",
            "refused [2J",
            "web: 2 MiB of a part of 1 MiB, and takes of the common half",
            "project web fails here while others are taken",
        ] {
            position(word);
        }
    }
}

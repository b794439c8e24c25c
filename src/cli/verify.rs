//! `switchyard verify`: tells whether a tracker stores what it took. The daemon asks the tracker; this verb asks the daemon.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::ProgressBar;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::clock::Timestamp;
use crate::telemetry::status::Status;
use crate::telemetry::verification::{
    Again, AgainOrder, CompareOrder, Compared, FieldDifference, LookedAgain, NotFound, Verified, VerifyOrder,
};
use crate::telemetry::words;
use crate::units::Period;

use super::admin::AdminClient;
use super::failure::{Exit, Failure};
use super::locate::Located;
use super::process;
use super::terminal::{self, Tone, tint};

/// The time between two lines of progress without a terminal.
const LINE_EACH: Duration = Duration::from_secs(10);
/// The number of events that are listed; --json has them all.
const SHOWN: usize = 20;
/// Longer than a step of the daemon, so that the daemon has noted what it found missing.
const MARGIN: Duration = Duration::from_secs(1);

/// Asks a tracker's API whether it stores the events that it took
///
/// It looks for every error event that the journal still keeps and that the upstream answered with 2xx. An event is called missing when
/// a second look does not find it either. Exit 0 when all are stored, 1 when some are missing or nobody can say. `switchyard backfill
/// UPSTREAM --missing` sends the missing ones again.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The upstream [default: every one that has an `api` section]
    upstream: Option<String>,
    /// How far back, as in 1h
    #[arg(long, value_name = "PERIOD", default_value = "1h")]
    since: Period,
    /// Shows one event as it was sent beside the tracker's copy, field by field
    #[arg(long, value_name = "ID", requires = "upstream", conflicts_with = "since")]
    event: Option<String>,
    /// As JSON: what was found, by upstream
    #[arg(long)]
    json: bool,
}

/// The result for one upstream.
#[derive(Debug, Default, Serialize)]
struct Found {
    upstream: String,
    stored: u64,
    missing: Vec<NotFound>,
    /// Of the missing events, those that were sent again or given up meanwhile.
    taken_up: u64,
    unknown: u64,
    /// Events that are too recent to look for.
    recent: u64,
    trouble: Option<String>,
}

impl Found {
    const fn is_good(&self) -> bool {
        self.missing.is_empty() && self.unknown == 0
    }
}

/// Looks for the events, and prints the result.
pub(super) fn verify(located: &Located, args: &Args) -> Result<(), Failure> {
    let admin = AdminClient::new(located.contact())?;
    process::block_on(async {
        let status = match &args.upstream {
            Some(upstream) => admin.status_with(upstream).await?,
            None => admin.status().await.map_err(|silence| admin.failure(silence))?,
        };
        if let (Some(upstream), Some(event)) = (&args.upstream, &args.event) {
            return compare(&admin, args, upstream, event).await;
        }
        let mut all = vec![];
        for upstream in names(&status, args)? {
            all.push(look(&admin, args, &upstream, status.now - args.since.get()).await?);
        }
        if args.json {
            terminal::say_json(&all)?;
        } else {
            all.iter().try_for_each(tell)?;
        }
        if all.iter().all(Found::is_good) { Ok(()) } else { Err(Failure::negative()) }
    })
}

/// Compares one event field by field. Fails unless it is stored as it was sent.
async fn compare(admin: &AdminClient, args: &Args, upstream: &str, event: &str) -> Result<(), Failure> {
    let order = CompareOrder { upstream: upstream.to_owned(), event_id: event.to_owned() };
    let compared: Compared = admin.order("/api/verify/event", &order).await.map_err(|why| admin.failure(why))?;
    let is_good = compared.state == "stored" && compared.differences.is_empty();
    if args.json {
        terminal::say_json(&compared)?;
    } else {
        let line = match (compared.state.as_str(), compared.differences.len()) {
            ("stored", 0) => "is stored as it was sent".to_owned(),
            ("stored", 1) => "is stored, and 1 field differs".to_owned(),
            ("stored", n) => format!("is stored, and {n} fields differ"),
            ("not_stored", _) => "is not stored".to_owned(),
            _ => format!("cannot be compared: {}", terminal::harmless(compared.why.as_deref().unwrap_or("?"), 300)),
        };
        let line = format!("{event} {line} at {upstream}");
        terminal::say(tint(if is_good { Tone::Good } else { Tone::Bad }, line))?;
        for FieldDifference { field, sent, there } in &compared.differences {
            let [field, sent, there] = [field, sent, there].map(|text| terminal::harmless(text, 300));
            terminal::say(format_args!("  {field}\n    sent:  {sent}\n    there: {there}"))?;
        }
    }
    if is_good { Ok(()) } else { Err(Failure::negative()) }
}

/// The upstreams to ask.
fn names(status: &Status, args: &Args) -> Result<Vec<String>, Failure> {
    if let Some(upstream) = &args.upstream {
        return Ok(vec![upstream.clone()]);
    }
    let with_api = status.upstreams.iter().filter(|upstream| upstream.verification.is_some());
    let names: Vec<String> = with_api.map(|upstream| upstream.name.clone()).collect();
    if names.is_empty() {
        let why = "no upstream can be asked what it stores: add [upstreams.NAME.api] with a token to the configuration";
        return Err(Failure::new(Exit::Negative, why));
    }
    Ok(names)
}

/// Looks once for all events, and a second time for those that were not found.
async fn look(admin: &AdminClient, args: &Args, upstream: &str, since: Timestamp) -> Result<Found, Failure> {
    let mut progress = Progress::new(args, upstream);
    let mut found = Found { upstream: upstream.to_owned(), ..Found::default() };
    let (absent, wait) = first_look(admin, since, &mut found, &mut progress).await?;
    let count: usize = absent.iter().map(|(_, events)| events.len()).sum();
    if count > 0 {
        progress.say(&format!("{count} were not found; looking again"));
        sleep(wait + MARGIN).await;
        for (after, events) in absent {
            second_look(admin, after, events, &mut found, &mut progress).await?;
        }
    }
    Ok(found)
}

/// Looks for all events, some at a time. Returns those that were not found, with the record after which the lookup began, and the time
/// after which to look again.
async fn first_look(
    admin: &AdminClient,
    since: Timestamp,
    found: &mut Found,
    progress: &mut Progress,
) -> Result<(Vec<(u64, Vec<NotFound>)>, Duration), Failure> {
    let (mut absent, mut wait) = (vec![], Duration::ZERO);
    let mut after = Some(0);
    while let Some(from) = after {
        let order = VerifyOrder { upstream: found.upstream.clone(), since, after: from };
        let some: Verified = admin.order("/api/verify", &order).await.map_err(|why| admin.failure(why))?;
        found.stored += some.stored;
        found.unknown += some.unknown;
        found.recent += some.recent;
        found.missing.extend(some.missing);
        wait = Duration::try_from_secs_f64(some.look_again_after).unwrap_or_default();
        after = some.next.filter(|_| some.trouble.is_none());
        found.trouble = found.trouble.take().or(some.trouble);
        if !some.absent.is_empty() {
            absent.push((from, some.absent));
        }
        progress.show(found, absent.iter().map(|(_, events)| events.len()).sum());
    }
    Ok((absent, wait))
}

/// Looks once more only for events that a lookup after the record `after` did not find.
async fn second_look(
    admin: &AdminClient,
    after: u64,
    mut events: Vec<NotFound>,
    found: &mut Found,
    progress: &mut Progress,
) -> Result<(), Failure> {
    while !events.is_empty() {
        let ids = events.iter().map(|event| event.event_id.clone()).collect();
        let order = AgainOrder { upstream: found.upstream.clone(), after, events: ids };
        let some: LookedAgain = admin.order("/api/verify/again", &order).await.map_err(|why| admin.failure(why))?;
        let is_stuck = some.found.is_empty() || some.trouble.is_some();
        found.trouble = found.trouble.take().or(some.trouble);
        let mut left = vec![];
        for event in events {
            match some.found.get(&event.event_id) {
                Some(Again::Stored) => found.stored += 1,
                Some(Again::NotFound) => found.missing.push(event),
                Some(Again::TakenUp) => {
                    found.taken_up += 1;
                    found.missing.push(event);
                }
                Some(Again::Unknown) => found.unknown += 1,
                None if is_stuck => found.unknown += 1,
                None => left.push(event),
            }
        }
        events = left;
        progress.show(found, events.len());
    }
    Ok(())
}

/// Prints the result.
fn tell(found: &Found) -> Result<(), Failure> {
    let Found { upstream, stored, missing, taken_up, unknown, recent, trouble } = found;
    let all = stored + missing.len() as u64 + unknown;
    let line = format!(
        "{upstream}: {} of {} stored, {} missing, {} not known",
        words::count(*stored),
        words::some(all, "event"),
        words::count(missing.len() as u64),
        words::count(*unknown)
    );
    terminal::say(if found.is_good() { tint(Tone::Good, line) } else { tint(Tone::Bad, line) })?;
    for event in missing.iter().take(SHOWN) {
        let NotFound { event_id, project, accepted_at, .. } = event;
        terminal::say(format_args!("  missing: {event_id}  {project}  accepted {accepted_at}"))?;
    }
    if missing.len() > SHOWN {
        terminal::say(format_args!("  … and {} more; --json has them all", missing.len() - SHOWN))?;
    }
    if *recent > 0 {
        terminal::say(format_args!("  {recent} more were taken too recently to be looked for"))?;
    }
    if let Some(trouble) = trouble {
        terminal::say(format_args!("  not all could be looked up: {}", terminal::harmless(trouble, 300)))?;
    }
    if *taken_up > 0 {
        terminal::say(format_args!("  {taken_up} of the missing were sent again or given up meanwhile"))?;
    }
    if missing.len() as u64 > *taken_up {
        terminal::say(format_args!("  `switchyard backfill {upstream} --missing` sends them again"))?;
    }
    Ok(())
}

/// The progress on standard error: a spinner on a terminal, a line now and then elsewhere, nothing with JSON. Dropping it removes the
/// spinner.
struct Progress {
    spinner: Option<ProgressBar>,
    line_at: Option<Instant>,
    upstream: String,
}

impl Progress {
    fn new(args: &Args, upstream: &str) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let spinner = (is_terminal && !args.json).then(|| {
            let spinner = ProgressBar::new_spinner();
            spinner.enable_steady_tick(Duration::from_millis(120));
            spinner
        });
        let line_at = (!is_terminal && !args.json).then(|| Instant::now() + LINE_EACH);
        Self { spinner, line_at, upstream: upstream.to_owned() }
    }

    fn show(&mut self, found: &Found, open: usize) {
        let absent = open + found.missing.len();
        self.say(&format!("{} found, {absent} not found, {} not known so far", found.stored, found.unknown));
    }

    fn say(&mut self, what: &str) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(format!("{}: {what}", self.upstream));
        }
        if self.line_at.is_some_and(|at| at <= Instant::now()) {
            self.line_at = Some(Instant::now() + LINE_EACH);
            terminal::remark(format_args!("verify {}: {what}", self.upstream));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

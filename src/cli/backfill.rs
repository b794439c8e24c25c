//! `switchyard backfill`: sends an upstream the envelopes that it was not meant to get when they came. The daemon does the work; this verb
//! orders it and shows its progress.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep};

use crate::telemetry::backfill::{BackfillEnd, BackfillOrder, BackfillStatus, Backfills};
use crate::telemetry::status::Status;
use crate::telemetry::verification::{NotFound, RepairOrder, Repaired};
use crate::telemetry::words;
use crate::units::Period;

use super::admin::{AdminClient, Silence};
use super::failure::{Exit, Failure};
use super::locate::Located;
use super::process;
use super::terminal;

/// The longest time that anything is kept.
const EVER: Period = Period::secs(90 * 24 * 3600);
/// The pause between two looks at the progress.
const EACH: Duration = Duration::from_millis(200);
/// The time between two lines of progress without a terminal.
const LINE_EACH: Duration = Duration::from_secs(10);
/// The progress bar on a terminal.
const BAR: &str = "{msg} {wide_bar} {pos} of {len}, {eta} left";

/// Sends an upstream the envelopes that it was not meant to get when they came
///
/// These are envelopes that the journal still keeps and that the upstream did not get because the mirror was off, because it was added
/// later, or because a filter left them out. What the upstream had, or is about to get, is not sent again. Live deliveries come first.
/// The daemon does the work and goes on after a restart. Closing the terminal does not stop it, Ctrl-C cancels it. Exit 1 when it was
/// cancelled.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The upstream that gets them
    upstream: String,
    /// How far back, as in 6h; journal.retain and the upstream's max_age bound it [with --missing, default: all that is retained]
    #[arg(long, value_name = "PERIOD", required_unless_present_any = ["cancel", "missing"])]
    since: Option<Period>,
    /// Sends again what the upstream took and does not store, as its API says; a GlitchTip gets it 300 s after the first time
    #[arg(long, conflicts_with_all = ["cancel", "project", "detach"])]
    missing: bool,
    /// Only what this project sent
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    /// Says what would be sent, and sends nothing
    #[arg(long)]
    dry_run: bool,
    /// Does not wait until it is done: `switchyard status` shows how far it is
    #[arg(long, conflicts_with = "dry_run")]
    detach: bool,
    /// Cancels the one that is running
    #[arg(long, conflicts_with_all = ["since", "project", "dry_run", "detach"])]
    cancel: bool,
    /// As JSON: how it ended
    #[arg(long)]
    json: bool,
}

/// How a new primary can get the envelopes that came while another upstream was the primary and the mirror was off.
pub(super) fn missed(status: &Status, name: &str, located: &Located) -> String {
    let mut switches = status.switches.iter().filter(|switch| switch.project.is_none());
    let (since, when) = match switches.find(|switch| switch.from.as_deref() == Some(name)) {
        Some(end) => {
            // Whole days, rounded up so that at least half a day is left to do it in.
            let days = (status.now.since(end.at).as_secs() / 3600 + 12) / 24 + 1;
            (Period::secs(days * 24 * 3600), "since it was the primary before")
        }
        None => (EVER, "before it was the primary"),
    };
    let option = located.as_option();
    format!(
        "{name} did not get what came with the mirror off {when}: `switchyard backfill {name} --since {since}{option}` gives it that, \
         as far back as `retain` reaches"
    )
}

/// Carries out the verb.
pub(super) fn backfill(located: &Located, args: &Args) -> Result<(), Failure> {
    let admin = AdminClient::new(located.contact())?;
    process::block_on(async {
        // A backfill of an upstream that is configured no more can still be cancelled.
        if args.missing || args.since.is_some() {
            admin.status_with(&args.upstream).await?;
        }
        if args.missing {
            return send_again(&admin, args).await;
        }
        match args.since {
            Some(since) => begin(&admin, args, since).await,
            None => tell(args, &cancel(&admin, &args.upstream).await?),
        }
    })
}

async fn begin(admin: &AdminClient, args: &Args, since: Period) -> Result<(), Failure> {
    let Args { upstream, project, dry_run, detach, json, .. } = args;
    let order = BackfillOrder { upstream: upstream.clone(), since, project: project.clone(), dry_run: *dry_run };
    let begun: BackfillStatus = admin.order("/api/backfill", &order).await.map_err(|why| admin.failure(why))?;
    if !json {
        let (found, bytes) = (begun.found, begun.bytes.unwrap_or(0));
        let verb = if *dry_run { "would be given" } else { "to be given" };
        begun.note.iter().try_for_each(terminal::say)?;
        terminal::say(format_args!(
            "{} of {} {verb} to {upstream}",
            words::some(found, "envelope"),
            words::some(bytes, "byte")
        ))?;
    }
    if *dry_run || *detach {
        return if *json { terminal::say_json(&begun) } else { Ok(()) };
    }
    let ended = tokio::select! {
        ended = watch(admin, args, begun.found) => ended?,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(|error| Failure::new(Exit::Internal, format_args!("no signals: {error}")))?;
            cancel(admin, upstream).await.map_err(|failure| {
                failure.and(&format!("it could not be cancelled: `switchyard backfill {upstream} --cancel` does that later"))
            })?
        }
    };
    tell(args, &BackfillStatus { note: begun.note, bytes: begun.bytes, ..ended.clone() })?;
    if ended.state == "done" { Ok(()) } else { Err(Failure::negative()) }
}

/// Sends missing events again.
async fn send_again(admin: &AdminClient, args: &Args) -> Result<(), Failure> {
    let since = args.since.unwrap_or(EVER);
    let order = RepairOrder { upstream: args.upstream.clone(), since, dry_run: args.dry_run };
    let repaired: Repaired = admin.order("/api/repair", &order).await.map_err(|why| admin.failure(why))?;
    if args.json {
        return terminal::say_json(&repaired);
    }
    let Repaired { upstream, missing, sent_again, events } = &repaired;
    for NotFound { event_id, project, accepted_at, repairs } in events {
        terminal::say(format_args!(
            "{event_id}  {project}  accepted {accepted_at}  sent again {} so far",
            words::some(u64::from(*repairs), "time")
        ))?;
    }
    match args.dry_run {
        true => {
            let missing = words::those(*missing, "event", "is missing", "are missing");
            terminal::say(format_args!("{missing} at {upstream} and would be sent again"))
        }
        false => terminal::say(format_args!(
            "{sent_again} of {missing} missing events are sent to {upstream} again, and looked for after that"
        )),
    }
}

/// Waits until the backfill ends, and shows its progress.
async fn watch(admin: &AdminClient, args: &Args, found: u64) -> Result<BackfillStatus, Failure> {
    let mut progress = Progress::new(args, found);
    loop {
        let all: Result<Backfills, Silence> = admin.read("/api/backfill", &[]).await;
        let own = all.map(|all| all.backfills.into_iter().find(|backfill| backfill.upstream == args.upstream));
        match own {
            Ok(Some(now)) if now.state == "running" => progress.show(now.taken, None),
            Ok(Some(ended)) => return Ok(ended),
            Ok(None) => return Err(Failure::new(Exit::Negative, "the daemon no longer knows this backfill")),
            // A daemon that was restarted continues the backfill.
            Err(Silence::Unreachable(_) | Silence::Late) => progress.show(0, Some("waiting for the daemon")),
            Err(silence) => return Err(admin.failure(silence)),
        }
        sleep(EACH).await;
    }
}

/// The progress on standard error: a bar on a terminal, a line now and then elsewhere, nothing with JSON. Dropping it removes the bar.
struct Progress {
    bar: Option<ProgressBar>,
    line_at: Option<Instant>,
    name: String,
    found: u64,
}

impl Progress {
    fn new(args: &Args, found: u64) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = (is_terminal && !args.json).then(|| ProgressBar::new(found).with_style(style));
        let line_at = (!is_terminal && !args.json).then(|| Instant::now() + LINE_EACH);
        Self { bar, line_at, name: args.upstream.clone(), found }
    }

    fn show(&mut self, taken: u64, trouble: Option<&str>) {
        if let Some(bar) = &self.bar {
            bar.set_message(trouble.unwrap_or(&self.name).to_owned());
            if trouble.is_none() {
                bar.set_position(taken);
            }
        }
        if self.line_at.is_some_and(|at| at <= Instant::now()) {
            self.line_at = Some(Instant::now() + LINE_EACH);
            match trouble {
                None => {
                    terminal::remark(format_args!("backfill of {}: {taken} of {} handed over", self.name, self.found))
                }
                Some(trouble) => terminal::remark(format_args!("backfill of {}: {trouble}", self.name)),
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

async fn cancel(admin: &AdminClient, upstream: &str) -> Result<BackfillStatus, Failure> {
    let end = BackfillEnd { upstream: upstream.to_owned() };
    admin.order("/api/backfill/cancel", &end).await.map_err(|why| admin.failure(why))
}

/// Prints how the backfill ended.
fn tell(args: &Args, ended: &BackfillStatus) -> Result<(), Failure> {
    if args.json {
        return terminal::say_json(ended);
    }
    terminal::say(describe(ended))?;
    let missing = ended.found.saturating_sub(ended.taken);
    match ended.state.as_str() {
        "cancelled" => terminal::say("what was handed over is still delivered; a new backfill goes on from there"),
        "done" if missing > 0 => terminal::say(format_args!("{missing} had left the journal before their turn came")),
        _ => Ok(()),
    }
}

/// The state of a backfill in a line.
pub(super) fn describe(backfill: &BackfillStatus) -> String {
    let BackfillStatus { upstream, state, found, taken, since, projects, .. } = backfill;
    format!(
        "backfill of {upstream}, {}, since {}: {state}, {taken} of {found} handed over",
        projects.join(", "),
        since.in_words()
    )
}

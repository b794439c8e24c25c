//! `switchyard switch`: shows the primary, or switches it: edits one line of the file, then polls the daemon until the switch is live.
//!
//! The file decides. Without a daemon the edit is all there is to do. When relays share their journal, the database decides: the file
//! follows, and is left as it is if it already names the new primary or cannot be written here.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::config::{edit, parse};
use crate::telemetry::status::{Status, SwitchStatus};
use crate::telemetry::words;

use super::admin::{AdminClient, Announcement, Silence};
use super::author::author;
use super::backfill;
use super::failure::{Exit, Failure};
use super::locate::Located;
use super::process;
use super::terminal::{self, Tone, harmless, tint};

/// How long the daemon may take to follow the file.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long to wait until a live switch is recorded with its reason. If the journal is in trouble, the switch counts anyway.
const KEPT: Duration = Duration::from_secs(1);
/// The pause between two looks at the status.
const EACH: Duration = Duration::from_millis(20);
/// The number of switches that are shown.
const SHOWN: usize = 10;

/// Shows the primary and the last switches, or makes another upstream the primary
///
/// Changes the line `primary` of the configuration and no other byte, then waits until the running daemon has taken it over. No
/// service restarts, and no envelope is lost or sent under two primaries. Run it again with the other name to undo.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The upstream that is to be the primary
    name: Option<String>,
    /// Why, for the history of switches
    #[arg(long, value_name = "TEXT", requires = "name")]
    reason: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// The outcome of a switch.
#[derive(Debug, Serialize)]
struct Done<'a> {
    primary: &'a str,
    previous: Option<String>,
    changed: bool,
    /// Whether a running daemon uses the new primary; null when none runs.
    live: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    took_ms: Option<u64>,
    /// Why the daemon did not take the switch over.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The projects that have a primary of their own and do not follow.
    unmoved: Vec<String>,
    /// What the person who switches should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    undo: Option<String>,
}

/// The present primary.
#[derive(Debug, Serialize)]
struct Shown {
    primary: Option<String>,
    live: bool,
    switches: Vec<SwitchStatus>,
}

/// Shows the primary or switches it.
pub(super) fn switch(located: &Located, args: &Args) -> Result<(), Failure> {
    let contact = located.contact();
    if let Some(unread) = contact.unread {
        return Err(unread);
    }
    let admin = AdminClient::new(contact)?;
    process::block_on(async {
        match &args.name {
            None => show(&admin, located, args.json).await,
            Some(name) => flip(&admin, located, name, args).await,
        }
    })
}

async fn show(admin: &AdminClient, located: &Located, json: bool) -> Result<(), Failure> {
    let shown = match admin.status().await {
        Ok(status) => Shown { primary: Some(status.primary), live: true, switches: status.switches },
        Err(Silence::Unreachable(_)) => Shown { primary: written(&located.path()), live: false, switches: vec![] },
        Err(silence) => return Err(admin.failure(silence)),
    };
    if json {
        return terminal::say_json(&shown);
    }
    let primary = shown.primary.as_deref().unwrap_or("not named");
    let source = if shown.live { "" } else { ", says the file; no daemon is running" };
    terminal::say(format_args!("primary: {}{source}", tint(Tone::Strong, primary)))?;
    for switch in shown.switches.iter().take(SHOWN) {
        terminal::say(format_args!("  {}", describe(switch)))?;
    }
    let last = shown.switches.iter().find(|switch| switch.project.is_none());
    match last.and_then(|last| last.from.as_ref()) {
        Some(before) => terminal::say(format_args!("undo the last: switchyard switch {before}{}", located.as_option())),
        None => Ok(()),
    }
}

/// A switch in one line.
pub(super) fn describe(switch: &SwitchStatus) -> String {
    let project = switch.project.as_ref().map(|project| format!(" for {project}")).unwrap_or_default();
    let author = switch.author.as_ref().map(|author| format!(" by {}", harmless(author, 60))).unwrap_or_default();
    let reason = switch.reason.as_ref().map(|reason| format!(": {}", harmless(reason, 200))).unwrap_or_default();
    let from = switch.from.as_deref().unwrap_or("none");
    format!("{}  {from} -> {}{project}{author}{reason}", switch.at.in_words(), switch.to)
}

async fn flip(admin: &AdminClient, located: &Located, name: &str, args: &Args) -> Result<(), Failure> {
    let path = located.path();
    let (before, is_late) = match admin.status().await {
        Ok(status) => (Some(status), false),
        Err(Silence::Unreachable(_)) => (None, false),
        // The daemon follows its file as soon as it can: a rollback must not depend on an answer.
        Err(Silence::Late) if !is_shared(&path) => (None, true),
        Err(silence) => return Err(nothing_changed(admin.failure(silence))),
    };
    let mut is_written = written(&path).as_deref() == Some(name);
    let is_live = before.as_ref().is_none_or(|status| status.primary == name);
    if is_written && is_live {
        return report(already(name, before.as_ref()), args.json);
    }
    let text = consider(&path, name)?;
    let is_shared = is_shared(&path);
    if before.is_none() && is_shared {
        let told =
            "no relay runs here, and the database says which upstream is the primary: run this where a relay runs";
        return Err(nothing_changed(Failure::new(Exit::Unavailable, told)));
    }
    let saved = Instant::now();
    if before.is_some() && (is_shared || !is_written) {
        announce(admin, name, args, !is_written).await?;
    }
    let in_file = match edit::set_primary(&path, name) {
        Err(error) if before.is_some() && is_shared && error.is_unwritable() => {
            if is_live {
                return report(already(name, before.as_ref()), args.json);
            }
            announce(admin, name, args, false).await?;
            is_written = true;
            None
        }
        edited => edited?,
    };
    // Without a daemon, the file's primary is the previous one. An undo needs a name that the file knows.
    let previous = before.as_ref().map(|status| status.primary.clone()).or(in_file);
    let undo = previous.as_ref().filter(|own| *own != name && edit::proposal(&path, own).is_ok());
    let undo = undo.map(|previous| format!("switchyard switch {previous}{}", located.as_option()));
    let mut done = Done {
        primary: name,
        previous,
        changed: !is_written,
        live: None,
        took_ms: None,
        error: None,
        unmoved: vec![],
        warnings: vec![],
        undo,
    };
    if let Some(before) = before {
        match follow(admin, &before, name, saved).await {
            Ok(after) => {
                done.live = Some(true);
                done.took_ms = u64::try_from(saved.elapsed().as_millis()).ok();
                done.unmoved = unmoved(&after);
                done.warnings = warnings(&after, name, done.previous.as_deref(), located);
            }
            Err(why) => {
                done.error = Some(elsewhere(&before, &path).unwrap_or(why));
                done.live = Some(false);
                done.put_back(&path, &text);
            }
        }
    }
    if is_late { told_late(done, args.json) } else { report(done, args.json) }
}

/// Consequences of the new primary that may come as a surprise.
fn warnings(status: &Status, name: &str, previous: Option<&str>, located: &Located) -> Vec<String> {
    let mut warnings = vec![];
    let primary = status.upstreams.iter().find(|upstream| upstream.name == name);
    if let Some(primary) = primary.filter(|primary| matches!(primary.state.as_str(), "down" | "misconfigured")) {
        let waiting = words::some(primary.backlog.envelopes, "envelope");
        warnings
            .push(format!("{name} is {} now; {waiting} wait until it takes them, and nothing is lost", primary.state));
    }
    if let Some(previous) = previous.filter(|previous| !status.mirror && *previous != name) {
        warnings.push(format!("the mirror is off: {previous} gets nothing new"));
        warnings.push(backfill::missed(status, name, located));
    }
    warnings
}

/// Refuses an edit that would leave a file with which no daemon starts. Problems that the file has already are left to the daemon, which
/// may know other variables. Returns the file's text.
fn consider(path: &Path, name: &str) -> Result<String, Failure> {
    let (text, changed) = edit::proposal(path, name)?;
    let file = path.display().to_string();
    let problems = |text: &str| parse(&file, text, &|name| std::env::var(name).ok()).err();
    let Some(new) = problems(&changed) else { return Ok(text) };
    match problems(&text) {
        Some(old) if old.errors() >= new.errors() => Ok(text),
        _ => Err(nothing_changed(Failure::new(Exit::Config, new.render(terminal::form_of_errors())))),
    }
}

fn nothing_changed(failure: Failure) -> Failure {
    failure.and("nothing was changed")
}

fn already<'a>(name: &'a str, status: Option<&Status>) -> Done<'a> {
    Done {
        primary: name,
        previous: Some(name.to_owned()),
        changed: false,
        live: status.map(|_| true),
        took_ms: None,
        error: None,
        unmoved: status.map(unmoved).unwrap_or_default(),
        warnings: vec![],
        undo: None,
    }
}

/// Tells the daemon who is about to edit the file, and why; or orders the switch if there is nothing to edit. If the daemon refuses,
/// nothing is changed.
async fn announce(admin: &AdminClient, to: &str, args: &Args, announced: bool) -> Result<(), Failure> {
    let author = author();
    let announcement = Announcement { to, reason: args.reason.as_deref(), author: Some(&author), announced };
    match admin.announce(&announcement).await {
        // The daemon has ended meanwhile: then only the file counts.
        Ok(()) | Err(Silence::Unreachable(_)) => Ok(()),
        Err(Silence::Refused(why) | Silence::Misasked(why)) => {
            Err(Failure::new(Exit::Usage, format_args!("{why}\nnothing was changed")))
        }
        // The daemon was ordered to switch, and may still do it.
        Err(Silence::Late) if !announced => Err(admin.failure(Silence::Late)),
        Err(silence) => Err(nothing_changed(admin.failure(silence))),
    }
}

/// Waits until the daemon uses the new primary; the error says why it does not.
async fn follow(admin: &AdminClient, before: &Status, name: &str, since: Instant) -> Result<Status, String> {
    let mut last = None;
    while since.elapsed() < DEADLINE {
        match admin.status().await {
            Ok(status) if status.primary == name && (is_kept(&status) || since.elapsed() > KEPT) => return Ok(status),
            Ok(status) if status.primary == name => {}
            // A new problem is about this edit. An older one may be about to go away.
            Ok(status) if status.config.error.is_some() && status.config.error != before.config.error => {
                return Err(refused(status.config.error));
            }
            Ok(status) => last = Some(refused(status.config.error)),
            Err(Silence::Unreachable(why)) => last = Some(format!("the daemon has stopped answering: {why}")),
            Err(Silence::Late) => last = Some("the daemon has stopped answering".to_owned()),
            Err(Silence::Unauthorized) => last = Some("the daemon has another token now".to_owned()),
            Err(Silence::Refused(why) | Silence::Misasked(why)) => last = Some(why),
            Err(Silence::Stranger(what)) => {
                last = Some(format!("another server answers in the daemon's place: {what}"))
            }
        }
        sleep(EACH).await;
    }
    Err(last.unwrap_or_else(|| refused(None)))
}

/// Says that the file names the primary, and that the daemon does not answer.
fn told_late(mut done: Done<'_>, json: bool) -> Result<(), Failure> {
    let undo = done.undo.as_ref().map(|undo| format!("\nundo: {undo}")).unwrap_or_default();
    let told = format!(
        "{} is the primary in the file; the daemon does not answer in time, and follows when it can{undo}",
        done.primary
    );
    if json {
        done.error = Some(told);
        terminal::say_json(&done)?;
        return Err(Failure::told(Exit::Unavailable));
    }
    Err(Failure::new(Exit::Unavailable, told))
}

/// Whether the history of switches has the primary in force.
fn is_kept(status: &Status) -> bool {
    let last = status.switches.iter().find(|switch| switch.project.is_none());
    last.is_some_and(|last| last.to == status.primary)
}

fn refused(error: Option<String>) -> String {
    match error {
        Some(error) => format!(
            "the daemon does not take over the file:\n{error}\n\
             it takes over the whole file or nothing: put that back or right, or restart the daemon where that is what is needed, \
             then switch again"
        ),
        None => format!("the daemon has not taken over the file within {} seconds", DEADLINE.as_secs()),
    }
}

/// The message if the daemon uses another file than this one; `None` if it does not or that is unknown.
fn elsewhere(status: &Status, path: &Path) -> Option<String> {
    let (theirs, ours) = (Path::new(&status.config.path), std::fs::canonicalize(path).ok()?);
    // A relative path is relative to an unknown folder, and a path in a container need not exist here.
    let theirs = theirs.is_absolute().then(|| std::fs::canonicalize(theirs).ok()).flatten()?;
    (theirs != ours).then(|| format!("the daemon works under another file, {}", theirs.display()))
}

impl Done<'_> {
    /// Restores a file that the daemon did not take over.
    fn put_back(&mut self, path: &Path, text: &str) {
        if !self.changed {
            self.undo = None;
            return;
        }
        match edit::put_back(path, text, self.primary) {
            Ok(()) => (self.changed, self.undo) = (false, None),
            Err(error) => {
                let why = self.error.take().unwrap_or_default();
                self.error = Some(format!("{why}\nthe line could not be put back: {error}"));
            }
        }
    }
}

fn unmoved(status: &Status) -> Vec<String> {
    let others = status.projects.iter().filter(|project| project.primary != status.primary);
    others.map(|project| format!("{} ({})", project.name, project.primary)).collect()
}

fn report(done: Done<'_>, json: bool) -> Result<(), Failure> {
    if json {
        terminal::say_json(&done)?;
    } else {
        tell(&done)?;
    }
    if done.live != Some(false) {
        return Ok(());
    }
    if json {
        return Err(Failure::negative());
    }
    let undo = done.undo.map(|undo| format!("; to undo: {undo}")).unwrap_or_default();
    let outcome = match done.changed {
        true => format!("the file was changed, the running daemon was not{undo}"),
        false => "the file is as it was".to_owned(),
    };
    Err(Failure::new(Exit::Negative, format_args!("{}\n{outcome}", done.error.unwrap_or_default())))
}

fn tell(done: &Done<'_>) -> Result<(), Failure> {
    let name = tint(Tone::Strong, done.primary);
    match (done.changed, done.live, done.took_ms) {
        (_, Some(false), _) => return Ok(()),
        (_, _, Some(ms)) => terminal::say(format_args!(
            "{name} is the primary, live {ms} ms after {}{}",
            if done.changed { "the file was saved" } else { "the order" },
            done.previous.as_ref().map(|previous| format!(" (before: {previous})")).unwrap_or_default()
        ))?,
        (false, ..) => terminal::say(format_args!("{name} is the primary already; nothing was changed"))?,
        (true, ..) => terminal::say(format_args!(
            "{name} is the primary in the file; no daemon is running, it takes effect when one starts"
        ))?,
    }
    if !done.unmoved.is_empty() {
        let unmoved = done.unmoved.join(", ");
        terminal::say(format_args!("with a primary of their own, and not moved: {unmoved}"))?;
    }
    for warning in &done.warnings {
        terminal::say(format_args!("{}: {warning}", tint(Tone::Bad, "note")))?;
    }
    done.undo.as_ref().map_or(Ok(()), |undo| terminal::say(format_args!("undo: {undo}")))
}

/// The primary that the file names, even if the file has problems elsewhere.
fn written(path: &Path) -> Option<String> {
    let file: toml::Table = std::fs::read_to_string(path).ok()?.parse().ok()?;
    Some(file.get("primary")?.as_str()?.to_owned())
}

/// Whether the file names a journal that several relays share.
fn is_shared(path: &Path) -> bool {
    let file: Option<toml::Table> = std::fs::read_to_string(path).ok().and_then(|text| text.parse().ok());
    file.is_some_and(|file| file.get("journal").and_then(|journal| journal.get("url")).is_some())
}

//! `switchyard dead-letters`: lists, retries, discards and exports envelopes that upstreams refused for good.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde_json::json;

use crate::protocol::answer::gist;
use crate::telemetry::letters::{LetterDetail, LetterPage, LetterPick, LetterSummary, LettersChanged};
use crate::telemetry::words;

use super::admin::AdminClient;
use super::failure::{Exit, Failure};
use super::locate::Located;
use super::terminal::{self, Tone, harmless, right, table, tint};
use super::{private_file, process};

/// The number of dead letters in one request.
const PAGE: usize = 500;
/// The reasons of dead letters.
const REASONS: [&str; 3] = ["refused", "poison", "lost_by_tracker"];

/// Shows, retries, discards or exports what upstreams refused for good
///
/// A refused envelope stays in the journal with the answer it got, through restarts; at most 10,000 are kept, in at most an eighth
/// of journal.max_size, and the oldest go first.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Lists them, newest first
    List(ListArgs),
    /// Shows one: the answer it got, its headers, its items and the beginning of each
    Show(ShowArgs),
    /// Sends them again at once
    ///
    /// Exit 1 when there was nothing to retry. What waited longer than the upstream's max_age is left alone: export it.
    Retry(ChangeArgs),
    /// Forgets them
    ///
    /// Exit 1 when there was nothing to forget.
    Discard(ChangeArgs),
    /// Writes envelopes as they were accepted, byte for byte, to files that nobody else may read
    Export(ExportArgs),
}

#[derive(clap::Args, Debug)]
struct ListArgs {
    /// Only those that this upstream refused
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// Only those with this reason
    #[arg(long, value_parser = REASONS)]
    reason: Option<String>,
    /// At most so many
    #[arg(long, default_value = "50")]
    limit: NonZeroUsize,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
struct ShowArgs {
    /// Its number, as the list has it
    id: u64,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Which ones.
#[derive(clap::Args, Debug)]
#[group(required = true, multiple = true)]
struct Which {
    /// These, by their numbers
    #[arg(value_name = "NUMBER")]
    ids: Vec<u64>,
    /// Every one
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Those that this upstream refused
    #[arg(long, value_name = "NAME", conflicts_with = "ids")]
    upstream: Option<String>,
    /// Those with this reason
    #[arg(long, value_parser = REASONS, conflicts_with = "ids")]
    reason: Option<String>,
}

#[derive(clap::Args, Debug)]
struct ChangeArgs {
    #[command(flatten)]
    which: Which,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
struct ExportArgs {
    #[command(flatten)]
    which: Which,
    /// A folder: each goes into NUMBER.envelope there. Without it one goes to standard output
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
    /// Replaces files that are there
    #[arg(long, requires = "to")]
    force: bool,
    /// What was written, as JSON
    #[arg(long, requires = "to")]
    json: bool,
}

/// Carries out the verb.
pub(super) fn dead_letters(located: &Located, args: &Args) -> Result<(), Failure> {
    let admin = AdminClient::new(located.contact())?;
    process::block_on(async {
        match &args.verb {
            Verb::List(args) => list(&admin, args).await,
            Verb::Show(args) => show(&admin, args).await,
            Verb::Retry(args) => change(&admin, "retry", "retried", args).await,
            Verb::Discard(args) => change(&admin, "discard", "forgotten", args).await,
            Verb::Export(args) => export(&admin, args).await,
        }
    })
}

async fn list(admin: &AdminClient, args: &ListArgs) -> Result<(), Failure> {
    let letters = letters(admin, args.upstream.as_deref(), args.reason.as_deref(), args.limit.get()).await?;
    if args.json {
        return terminal::say_json(&json!({ "dead_letters": letters }));
    }
    if letters.is_empty() {
        return terminal::say("no dead letters");
    }
    let mut rows = table(&["NUMBER", "REFUSED AT", "UPSTREAM", "PROJECT", "REASON", "STATUS", "WHAT", "ANSWER"]);
    for letter in &letters {
        rows.add_row(vec![
            right(letter.id),
            letter.at.in_words().into(),
            letter.upstream.as_str().into(),
            letter.project.as_str().into(),
            letter.reason.as_str().into(),
            right(status(letter)),
            letter.what().into(),
            harmless(&gist(&letter.answer), 60).into(),
        ]);
    }
    terminal::say(terminal::laid_out(rows))
}

/// Up to `limit` dead letters, newest first.
async fn letters(
    admin: &AdminClient,
    upstream: Option<&str>,
    reason: Option<&str>,
    limit: usize,
) -> Result<Vec<LetterSummary>, Failure> {
    let mut all: Vec<LetterSummary> = vec![];
    let mut before = None;
    while all.len() < limit {
        let mut query = vec![("limit", PAGE.min(limit - all.len()).to_string())];
        query.extend(upstream.map(|name| ("upstream", name.to_owned())));
        query.extend(reason.map(|reason| ("reason", reason.to_owned())));
        query.extend(before.map(|id: u64| ("before", id.to_string())));
        let page: LetterPage = admin.read("/api/dead-letters", &query).await.map_err(|why| admin.failure(why))?;
        all.extend(page.dead_letters);
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    Ok(all)
}

fn status(letter: &LetterSummary) -> String {
    letter.status.map_or("-".to_owned(), |status| status.to_string())
}

async fn show(admin: &AdminClient, args: &ShowArgs) -> Result<(), Failure> {
    let path = format!("/api/dead-letters/{}", args.id);
    let letter: LetterDetail = admin.read(&path, &[]).await.map_err(|why| admin.failure(why))?;
    if args.json {
        return terminal::say_json(&letter);
    }
    terminal::say(described(&letter))
}

/// A dead letter as text.
fn described(letter: &LetterDetail) -> String {
    let summary = &letter.summary;
    let mut lines = vec![];
    let mut line = |name: &str, value: String| lines.push(format!("{name:<13}{value}"));
    line("number", summary.id.to_string());
    line("upstream", format!("{}, project {}", summary.upstream, summary.project));
    line(
        "refused at",
        format!(
            "{} ({}), after {}",
            summary.at.in_words(),
            summary.reason,
            words::some(u64::from(summary.attempts), "request")
        ),
    );
    line("answer", format!("{} {}", status(summary), harmless(&gist(&summary.answer), 1000)));
    line("accepted at", summary.accepted_at.in_words());
    line("what", format!("{} in {}", summary.what(), words::some(summary.bytes, "byte")));
    line("event id", summary.event_id.clone().unwrap_or_else(|| "-".to_owned()));
    line("client", harmless(letter.user_agent.as_deref().unwrap_or("-"), 200));
    if let Some(header) = &letter.header {
        line("header", harmless(&header.to_string(), 2000));
    }
    for (i, item) in letter.items.iter().enumerate() {
        let refused = if item.refused { "" } else { ", not among what was refused" };
        let head = tint(Tone::Strong, format_args!("item {}", i + 1));
        let header = harmless(&item.header, 2000);
        let more = if item.cut { " …" } else { "" };
        let beginning = harmless(&item.beginning, 3000);
        lines.push(format!("\n{head}, {}{refused}\n  {header}\n  {beginning}{more}", words::some(item.bytes, "byte")));
    }
    lines.join("\n")
}

async fn change(admin: &AdminClient, verb: &str, done: &str, args: &ChangeArgs) -> Result<(), Failure> {
    let path = format!("/api/dead-letters/{verb}");
    let changed: LettersChanged = admin.order(&path, &args.which.pick()).await.map_err(|why| admin.failure(why))?;
    if args.json {
        terminal::say_json(&changed)?;
    } else {
        terminal::say(format_args!("{} {done}", changed.changed))?;
        if changed.left > 0 {
            terminal::say(format_args!(
                "{} left alone: older than max_age of the upstream, or part of an envelope that is still being sent there",
                changed.left
            ))?;
        }
    }
    if changed.changed == 0 { Err(Failure::negative()) } else { Ok(()) }
}

impl Which {
    fn pick(&self) -> LetterPick {
        let Self { ids, all, upstream, reason } = self;
        LetterPick { ids: ids.clone(), all: *all, upstream: upstream.clone(), reason: reason.clone() }
    }
}

async fn export(admin: &AdminClient, args: &ExportArgs) -> Result<(), Failure> {
    let which = &args.which;
    let ids = if which.ids.is_empty() {
        let letters = letters(admin, which.upstream.as_deref(), which.reason.as_deref(), usize::MAX).await?;
        letters.into_iter().map(|letter| letter.id).collect()
    } else {
        which.ids.clone()
    };
    let Some(folder) = &args.to else {
        let [id] = ids.as_slice() else {
            let what = format_args!("{} envelopes do not go into one stream: name a folder with --to", ids.len());
            return Err(Failure::new(Exit::Usage, what));
        };
        return terminal::write_bytes(&envelope(admin, *id).await?);
    };
    private_file::folder(folder)?;
    let mut written = vec![];
    for id in ids {
        let path = folder.join(format!("{id}.envelope"));
        private_file::write(&path, &envelope(admin, id).await?, args.force)?;
        written.push(path.display().to_string());
    }
    if args.json {
        return terminal::say_json(&json!({ "written": written }));
    }
    terminal::say(format_args!("{} written to {}", written.len(), folder.display()))
}

async fn envelope(admin: &AdminClient, id: u64) -> Result<Vec<u8>, Failure> {
    admin.bytes(&format!("/api/dead-letters/{id}/envelope")).await.map_err(|why| admin.failure(why))
}

//! `switchyard journal`: moves everything from one journal to another, while no relay runs.
//!
//! Rule: this verb works on the journals themselves and does not interpret their contents.

use std::collections::BTreeMap;

use clap::Subcommand;
use serde::Serialize;

use crate::daemon::moving::{self, Moved, Place, TransferError};
use crate::telemetry::words;

use super::failure::{Exit, Failure};
use super::locate::Located;
use super::{process, terminal};

/// The prefix of the names of account sums. There are too many to show.
const ACCOUNT: &str = "account of ";

/// Moves everything to another journal: from a relay's file into PostgreSQL, back, or into another of the same kind
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Move(MoveArgs),
    Reopen(ReopenArgs),
}

/// Moves everything from one journal into another that is empty
///
/// Stop all relays first. A journal is the path of a file, or the address of a database: postgres://user:password@a,b,c/name. Leave
/// one of the two out to take that of the configuration, which keeps a password off the command line.
///
/// Backlog, dead letters, retained envelopes, the keys of repeats, accounts, evidence and history are moved, and read back from both
/// sides. The source stays as it is, but no relay starts on it any more. If a move is cut off, run the same command again. Exit 1 when
/// one of the two cannot be used for a move, 74 when one cannot be read or written.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples: switchyard journal move --to postgres://relay@db1,db2,db3/switchyard   ·   switchyard journal move --from \
                  data/journal.db"
)]
struct MoveArgs {
    /// The journal to move from [default: that of the configuration]
    #[arg(long, value_name = "FILE or URL", required_unless_present = "to")]
    from: Option<String>,
    /// The journal to move to [default: that of the configuration]
    #[arg(long, value_name = "FILE or URL")]
    to: Option<String>,
    /// The database may commit on one machine alone, as with journal.durability = "single"
    #[arg(long)]
    single: bool,
    /// As JSON: what was moved
    #[arg(long)]
    json: bool,
}

/// Lets relays start again on a journal that was moved: what waits there is delivered once more
#[derive(clap::Args, Debug)]
struct ReopenArgs {
    /// The journal [default: that of the configuration]
    #[arg(value_name = "FILE or URL")]
    journal: Option<String>,
    /// The database may commit on one machine alone, as with journal.durability = "single"
    #[arg(long)]
    single: bool,
}

/// Carries out the verb.
pub(super) fn journal(located: &Located, args: &Args) -> Result<(), Failure> {
    match &args.verb {
        Verb::Move(args) => move_journal(located, args),
        Verb::Reopen(args) => {
            let place = place(located, args.journal.as_deref(), args.single)?;
            let reopened = process::block_on_many(async { moving::reopen(&place).await.map_err(failure) })?;
            terminal::say(format_args!("relays may start on {reopened}: what waits there is delivered from there, too"))
        }
    }
}

/// The result of a move, for scripts.
#[derive(Serialize)]
struct Told<'a> {
    from: &'a str,
    to: &'a str,
    primary: Option<&'a str>,
    moved: &'a BTreeMap<String, i64>,
}

fn move_journal(located: &Located, args: &MoveArgs) -> Result<(), Failure> {
    let from = place(located, args.from.as_deref(), args.single)?;
    let to = place(located, args.to.as_deref(), args.single)?;
    let mut progress = Progress { last: 0, is_silent: args.json };
    let moving = moving::move_journal(&from, &to, |records| progress.show(records));
    let moved = process::block_on_many(async { moving.await.map_err(failure) })?;
    let Moved { from, to, counts, primary } = &moved;
    if args.json {
        return terminal::say_json(&Told { from, to, primary: primary.as_deref(), moved: counts });
    }
    show(&moved)
}

fn show(Moved { from, to, counts, primary }: &Moved) -> Result<(), Failure> {
    let mut table = terminal::table(&["MOVED", "COUNT"]);
    for (what, much) in counts.iter().filter(|(what, _)| !what.starts_with(ACCOUNT)) {
        table.add_row(vec![comfy_table::Cell::new(what), terminal::right(much)]);
    }
    terminal::say(table)?;
    let sums = counts.keys().filter(|what| what.starts_with(ACCOUNT)).count();
    terminal::say(format_args!(
        "Read back from both sides: all of this and {} of accounts are equal.",
        words::some(sums as u64, "sum")
    ))?;
    if let Some(primary) = primary {
        terminal::say(format_args!("The primary of all relays is {primary}: the configuration has to name it."))?;
    }
    terminal::say(format_args!(
        "Everything is in {to}: name it in [journal] and start. No relay starts on {from} any more."
    ))
}

/// The journal with this name, or that of the configuration.
fn place(located: &Located, name: Option<&str>, is_single: bool) -> Result<Place, Failure> {
    match name {
        Some(name) => Place::named(name, is_single).map_err(|why| Failure::new(Exit::Usage, why)),
        None => Ok(Place::of(&located.load()?.config.journal, is_single)),
    }
}

fn failure(error: TransferError) -> Failure {
    let exit = match &error {
        TransferError::Refused(_) => Exit::Negative,
        TransferError::Open(_) | TransferError::Failed(_) | TransferError::CutOff => Exit::Io,
    };
    Failure::new(exit, error)
}

/// Reports progress on standard error; silent with JSON.
struct Progress {
    last: u64,
    is_silent: bool,
}

impl Progress {
    fn show(&mut self, records: u64) {
        if !self.is_silent && records > self.last {
            terminal::remark(format_args!("{} moved", words::some(records, "record")));
        }
        self.last = records;
    }
}

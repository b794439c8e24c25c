//! The command line: one file per verb, each with its arguments and one function.
//!
//! | file | verb |
//! | --- | --- |
//! | `run`, `demo`, `sink` | run something in this process |
//! | `init`, `check` (with `probe`, `asker`, `recognise`), `switch` | work on the configuration file |
//! | `status` (with `relays`), `report`, `send_test`, `dead_letters`, `backfill`, `verify`, `healthcheck` | ask a running daemon |
//! | `journal` | moves a journal while no relay runs |
//! | `notify` | tests the receivers of notifications |
//! | `help`, `completions`, `man` | describe the command line itself |
//! | `locate`, `admin`, `author`, `stored`, `place`, `private_file`, `process`, `terminal`, `failure` | shared by the verbs |
//!
//! A verb asks a daemon only over its admin listener, and touches neither its journal nor its memory. Output for scripts is JSON, and the
//! outcome of a verb is an exit code of [`Exit`].

use std::sync::LazyLock;

use clap::{Arg, ArgMatches, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

mod admin;
mod asker;
mod author;
mod backfill;
mod check;
mod completions;
mod dead_letters;
mod demo;
mod failure;
mod healthcheck;
mod help;
mod init;
mod journal;
mod locate;
mod man;
mod notify;
mod place;
mod private_file;
mod probe;
mod process;
mod recognise;
mod relays;
mod report;
mod run;
mod send_test;
mod sink;
mod status;
mod stored;
mod switch;
mod terminal;
mod verify;

pub use failure::{Exit, Failure};

/// The version with its commit, for `--version`.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    format!("{} ({})", env!("CARGO_PKG_VERSION"), option_env!("SWITCHYARD_COMMIT").unwrap_or("unknown commit"))
});

const AFTER: &str = "Exit codes: 0 done, 1 the answer is no, 2 usage, 66 no configuration, 69 unavailable, 70 defect, \
                     73/74 files, 77 permission, 78 configuration.";

/// A durable relay at the Sentry DSN: one address for every SDK, several trackers behind it, one line to switch.
#[derive(Parser, Debug)]
#[command(name = "switchyard", version = VERSION.as_str(), after_help = AFTER, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    located: locate::Located,
    #[command(subcommand)]
    verb: Verb,
    /// Whether the verb was given its `--json`.
    #[arg(skip)]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Run(run::Args),
    Demo(demo::Args),
    Init(init::Args),
    Check(check::Args),
    Switch(switch::Args),
    SendTest(send_test::Args),
    Status(status::Args),
    DeadLetters(dead_letters::Args),
    Report(report::Args),
    Backfill(backfill::Args),
    Verify(verify::Args),
    Journal(journal::Args),
    Notify(notify::Args),
    Sink(sink::Args),
    Healthcheck(healthcheck::Args),
    Help(help::Args),
    Completions(completions::Args),
    Man(man::Args),
}

impl Cli {
    /// Reads the command line.
    ///
    /// # Errors
    ///
    /// When it asks for help or the version, or is invalid.
    pub fn read() -> Result<Self, clap::Error> {
        let matches = without_empty(Self::command()).try_get_matches()?;
        Ok(Self { json: wants_json(&matches), ..Self::from_arg_matches(&matches)? })
    }

    /// Carries out the verb. A failure with a message is printed as JSON as well, if the verb was given its `--json`.
    ///
    /// # Errors
    ///
    /// When the verb fails, or the answer is no.
    pub fn execute(self) -> Result<(), Failure> {
        let Self { located, verb, json } = self;
        terminal::with_json(verb.execute(&located), json)
    }
}

impl Verb {
    fn execute(self, located: &locate::Located) -> Result<(), Failure> {
        match self {
            Verb::Run(args) => run::run(located, &args),
            Verb::Demo(args) => demo::demo(&args),
            Verb::Init(args) => init::init(located, &args),
            Verb::Check(args) => check::check(located, &args),
            Verb::Switch(args) => switch::switch(located, &args),
            Verb::SendTest(args) => send_test::send_test(located, &args),
            Verb::Status(args) => status::status(located, &args),
            Verb::Backfill(args) => backfill::backfill(located, &args),
            Verb::Verify(args) => verify::verify(located, &args),
            Verb::DeadLetters(args) => dead_letters::dead_letters(located, &args),
            Verb::Report(args) => report::report(located, &args),
            Verb::Journal(args) => journal::journal(located, &args),
            Verb::Notify(args) => notify::notify(located, &args),
            Verb::Sink(args) => sink::sink(&args),
            Verb::Healthcheck(args) => healthcheck::healthcheck(located, &args),
            Verb::Help(args) => help::help(&args),
            Verb::Completions(args) => completions::completions(&args),
            Verb::Man(args) => man::man(&args),
        }
    }
}

/// Prints a verb's failure on standard error.
pub fn tell(failure: &Failure) {
    if !failure.message().is_empty() {
        terminal::remark(format_args!("switchyard: {}", failure.message()));
    }
}

/// Whether the innermost command was given `--json`.
fn wants_json(matches: &ArgMatches) -> bool {
    match matches.subcommand() {
        Some((_, inner)) => wants_json(inner),
        None => matches.try_get_one("json").ok().flatten().copied().unwrap_or_default(),
    }
}

/// Treats an empty environment variable as one that is not set.
fn without_empty(command: Command) -> Command {
    let is_empty = |arg: &Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    let own = command.mut_args(|arg| if is_empty(&arg) { arg.env(None::<&'static str>) } else { arg });
    own.mut_subcommands(without_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

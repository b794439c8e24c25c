//! `switchyard notify test`: sends a message to each receiver of the configuration, from this process and not by the daemon.

use clap::Subcommand;

use crate::clock::Clock;
use crate::notify::Settings;
use crate::notify::receiver::{SendError, Sender, test_notice};

use super::failure::{Exit, Failure};
use super::locate::Located;
use super::process;
use super::terminal::{self, Tone};

/// Tests who is told when something breaks
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Sends a message to each receiver of [[notify]]; exit 1 when one did not get through
    Test {
        /// Print the outcome as JSON
        #[arg(long)]
        json: bool,
    },
}

/// Sends the messages.
pub(super) fn notify(located: &Located, args: &Args) -> Result<(), Failure> {
    let Verb::Test { json } = args.verb;
    let receivers = located.load()?.config.notify;
    if receivers.is_empty() {
        let path = located.path();
        let why = format!("{} has no [[notify]]: `switchyard help notify` shows how to write one", path.display());
        return Err(Failure::new(Exit::Negative, why));
    }
    let outcomes = process::block_on(test(&receivers))?;
    if json {
        let shown = |(receiver, error): &(String, Option<SendError>)| serde_json::json!({ "receiver": receiver, "error": error.as_ref().map(ToString::to_string) });
        terminal::say_json(&outcomes.iter().map(shown).collect::<Vec<_>>())?;
    } else {
        for (receiver, error) in &outcomes {
            match error {
                None => terminal::say(format_args!("{} {receiver}", terminal::tint(Tone::Good, "sent to")))?,
                Some(error) => {
                    let failed = terminal::tint(Tone::Bad, "failed:");
                    terminal::say(format_args!("{failed} {receiver}: {error}"))?;
                }
            }
        }
    }
    match outcomes.iter().all(|(_, error)| error.is_none()) {
        true => Ok(()),
        false => Err(Failure::told(Exit::Negative)),
    }
}

async fn test(receivers: &[Settings]) -> Result<Vec<(String, Option<SendError>)>, Failure> {
    let sender = Sender::new().map_err(|error| Failure::new(Exit::Internal, error))?;
    let notices = [test_notice(Clock::system().now())];
    let mut outcomes = vec![];
    for settings in receivers {
        outcomes.push((settings.shown(), sender.send(settings, &notices).await.err()));
    }
    Ok(outcomes)
}

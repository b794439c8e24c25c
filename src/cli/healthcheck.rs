//! `switchyard healthcheck`: tells whether the daemon is ready, for Docker's HEALTHCHECK, which knows only the exit codes 0 and 1.

use serde_json::json;

use super::admin::AdminClient;
use super::failure::{Exit, Failure};
use super::locate::Located;
use super::{process, terminal};

/// Asks the running daemon whether it accepts submissions; exit 0 yes, 1 no
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// As JSON: whether it is ready, and why not
    #[arg(long)]
    json: bool,
}

/// Asks the daemon once.
pub(super) fn healthcheck(located: &Located, args: &Args) -> Result<(), Failure> {
    let asked = AdminClient::new(located.contact())
        .and_then(|admin| process::block_on(async { admin.ready().await.map_err(|silence| admin.failure(silence)) }));
    let why = asked.err().map(|failure| failure.message().to_owned());
    match (why, args.json) {
        (None, false) => terminal::say("ready"),
        (Some(why), false) => Err(Failure::new(Exit::Negative, why)),
        (why, true) => {
            terminal::say_json(&json!({ "ready": why.is_none(), "why": why }))?;
            if why.is_none() { Ok(()) } else { Err(Failure::negative()) }
        }
    }
}

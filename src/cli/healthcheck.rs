//! `switchyard healthcheck`: is the daemon ready? For Docker's HEALTHCHECK, which knows 0 and 1 and nothing else.

use super::admin::AdminClient;
use super::failure::{Exit, Failure};
use super::locate::Located;
use super::{process, terminal};

/// Asks the running daemon whether it accepts submissions; exit 0 yes, 1 no
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

/// Asks once.
pub(super) fn healthcheck(located: &Located, _: &Args) -> Result<(), Failure> {
    let asked = located
        .contact()
        .and_then(AdminClient::new)
        .and_then(|admin| process::block_on(async { admin.ready().await.map_err(|silence| admin.failure(silence)) }));
    asked.map_err(|failure| Failure::new(Exit::Negative, failure.message()))?;
    terminal::say("ready")
}

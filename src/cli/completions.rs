//! `switchyard completions`: the completions for a shell.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::failure::Failure;
use super::{Cli, terminal};

/// Prints completions for a shell
#[derive(clap::Args, Debug)]
#[command(after_help = "Example: switchyard completions bash > /etc/bash_completion.d/switchyard")]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the completions.
pub(super) fn completions(args: &Args) -> Result<(), Failure> {
    let mut text = vec![];
    clap_complete::generate(args.shell, &mut Cli::command(), "switchyard", &mut text);
    terminal::say(String::from_utf8_lossy(&text).trim_end())
}

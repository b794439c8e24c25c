//! `switchyard man`: the manual pages, made from the texts of `--help`.

use clap::CommandFactory as _;
use clap_mangen::Man;

use super::failure::{Exit, Failure};
use super::{Cli, terminal};

/// Prints a manual page in roff, the whole command's or a verb's
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples: switchyard man | man -l -   ·   switchyard man switch > switchyard-switch.1")]
pub(super) struct Args {
    /// The verb the page is about
    #[arg(value_name = "VERB")]
    about: Option<String>,
}

/// Prints the page.
pub(super) fn man(args: &Args) -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    let command = match &args.about {
        None => command,
        Some(verb) => {
            let found = command.find_subcommand(verb).cloned();
            let found = found.ok_or_else(|| Failure::new(Exit::Usage, format_args!("there is no verb {verb:?}")))?;
            let name = format!("switchyard-{}", found.get_name());
            found.display_name(name)
        }
    };
    let mut text = vec![];
    let rendered = Man::new(command).render(&mut text);
    rendered.map_err(|error| Failure::new(Exit::Internal, error))?;
    terminal::say(String::from_utf8_lossy(&text).trim_end())
}

//! `switchyard man`: the manual pages, made from the texts of `--help`.

use std::path::PathBuf;

use clap::CommandFactory as _;
use clap_mangen::Man;

use super::failure::{Exit, Failure};
use super::{Cli, terminal};

/// Prints a manual page in roff, the whole command's or a verb's
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples: switchyard man | man -l -   ·   switchyard man dead-letters list > page.1   ·   switchyard man --to man1"
)]
pub(super) struct Args {
    /// The verb the page is about, such as `switch` or `dead-letters list`
    #[arg(value_name = "VERB")]
    about: Vec<String>,
    /// A folder: every page goes into a file there
    #[arg(long, value_name = "FOLDER", conflicts_with = "about")]
    to: Option<PathBuf>,
}

/// Prints the page, or writes all pages.
pub(super) fn man(args: &Args) -> Result<(), Failure> {
    let mut command = Cli::command();
    if let Some(folder) = &args.to {
        let made = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command, folder));
        return made.map_err(|error| Failure::file(folder, "written", &error));
    }
    command.build();
    for verb in &args.about {
        let found = command.find_subcommand(verb).cloned();
        command = found.ok_or_else(|| Failure::new(Exit::Usage, format_args!("there is no verb {verb:?}")))?;
    }
    let mut text = vec![];
    let rendered = Man::new(command).render(&mut text);
    rendered.map_err(|error| Failure::new(Exit::Internal, error))?;
    terminal::say(String::from_utf8_lossy(&text).trim_end())
}

//! `switchyard check`: checks the configuration, compares it with another one, and asks the upstreams on request.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::diagnostics::Problems;
use crate::config::{Config, Loaded, diff, load};

use super::failure::{Exit, Failure};
use super::locate::Located;
use super::probe::{self, Probe};
use super::stored;
use super::{process, terminal};

/// Checks the configuration: every problem at once, with its line; exit 78 when it cannot be used
///
/// With --online it also asks each upstream: does the address answer, what kind of tracker is there, does it take the key? Exit 1
/// when one does not. Keys at a GlitchTip are tried only with --yes, after all others.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Asks each upstream of each project: DNS, connection, TLS, key. Nothing is stored there
    #[arg(long)]
    online: bool,
    /// With --online: tries the keys at a GlitchTip, too. After a wrong one it refuses that project to everybody for 30 s
    #[arg(long, requires = "online")]
    yes: bool,
    /// Another file to compare with: shows what is different, and what of it needs a restart
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// The result of a check.
#[derive(Debug, Serialize)]
struct Findings<'a> {
    ok: bool,
    #[serde(flatten)]
    problems: &'a Problems,
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Changes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    online: Option<Vec<Probe>>,
    /// The answers of trackers' APIs to our tokens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    apis: Vec<stored::Asked>,
}

/// The differences from another configuration.
#[derive(Debug, Serialize)]
struct Changes {
    changes: Vec<String>,
    needs_restart: Vec<&'static str>,
    /// The renamed projects that a running daemon would refuse.
    refused: Vec<String>,
}

/// Checks the file, with the options that were given.
pub(super) fn check(located: &Located, args: &Args) -> Result<(), Failure> {
    if let Some(nowhere) = located.nowhere() {
        return Err(nowhere);
    }
    let loaded = match load(&located.path()) {
        Ok(loaded) => loaded,
        Err(error) => match error.problems() {
            Some(problems) => return invalid(problems, args),
            None => return Err(Failure::loading(&error, terminal::form_of_errors())),
        },
    };
    let changes = args.against.as_deref().map(|old| compare(old, &loaded.config)).transpose()?;
    if !args.json {
        summarise(located, &loaded)?;
        changes.as_ref().map_or(Ok(()), print_changes)?;
    }
    let online =
        args.online.then(|| process::block_on(async { Ok(probe::all(&loaded.config, args.yes).await) })).transpose()?;
    let asked =
        process::block_on(async { Ok(if args.online { stored::check_all(&loaded.config).await } else { vec![] }) })?;
    let is_refused = changes.as_ref().is_some_and(|changes| !changes.refused.is_empty());
    let ok = online.iter().flatten().all(Probe::is_good) && asked.iter().all(|asked| asked.ok) && !is_refused;
    if args.json {
        terminal::say_json(&Findings { ok, problems: &loaded.warnings, changes, online, apis: asked })?;
    } else if let Some(online) = online {
        probe::print(&online)?;
        asked.iter().try_for_each(|asked| terminal::say(asked.told()))?;
    }
    if ok { Ok(()) } else { Err(Failure::negative()) }
}

fn invalid(problems: &Problems, args: &Args) -> Result<(), Failure> {
    if args.json {
        terminal::say_json(&Findings { ok: false, problems, changes: None, online: None, apis: vec![] })?;
    } else {
        terminal::say(problems.render(terminal::form()))?;
    }
    Err(Failure::told(Exit::Config))
}

fn compare(old: &Path, new: &Config) -> Result<Changes, Failure> {
    let old = load(old).map_err(|error| Failure::loading(&error, terminal::form_of_errors()))?.config;
    let (changes, needs_restart) = (diff::changes(&old, new), diff::needs_restart(&old, new));
    Ok(Changes { changes, needs_restart, refused: diff::moved_names(&old, new) })
}

fn summarise(located: &Located, Loaded { config, warnings, .. }: &Loaded) -> Result<(), Failure> {
    if !warnings.is_empty() {
        terminal::say(warnings.render(terminal::form()))?;
    }
    let upstreams: Vec<&str> = config.upstreams.keys().map(|name| &**name).collect();
    let projects: Vec<&str> = config.projects.iter().map(|project| &*project.name).collect();
    terminal::say(format_args!(
        "{} can be used: primary {}, mirror {}; upstreams {}; projects {}",
        located.path().display(),
        config.primary,
        if config.mirror { "on" } else { "off" },
        upstreams.join(", "),
        projects.join(", "),
    ))?;
    for (name, settings) in config.upstreams.iter().filter(|(_, settings)| !settings.shadow.is_open()) {
        terminal::say(format_args!("While {name} is not the primary it gets: {}", settings.shadow))?;
    }
    Ok(())
}

fn print_changes(Changes { changes, needs_restart, refused }: &Changes) -> Result<(), Failure> {
    if changes.is_empty() {
        return terminal::say("Nothing is different.");
    }
    terminal::say(format_args!("Different:\n  {}", changes.join("\n  ")))?;
    if !refused.is_empty() {
        return terminal::say(format_args!("Refused: {}", refused.join("\n  ")));
    }
    match needs_restart.as_slice() {
        [] => terminal::say("All of it takes effect without a restart."),
        fields => terminal::say(format_args!("A restart is needed for: {}", fields.join(", "))),
    }
}

//! The questions of `init` at a terminal, for what no flag says.
//!
//! Rules: Enter answers each question, and leaves the file as it would be without the question. A token is not shown while it is typed. An
//! answer means the same as its flag.

use std::fmt::Display;
use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::str::FromStr;

use dialoguer::{Input, Password};

use crate::cli::failure::{Exit, Failure};
use crate::delivery::asking::{has_api, wants_a_name};
use crate::http::settings::{Admin, Server};
use crate::units::Period;

use super::{Args, Given};

/// The default answer to the question for services.
const EVERY: &str = "every project";
/// The default answer to the question for canaries.
const NEVER: &str = "never";

/// Whether a person at a terminal can answer.
pub(super) fn is_attended() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks for the options that no flag gives.
pub(super) fn complete(args: &Args, given: &[Given]) -> Result<Args, Failure> {
    let mut args = args.clone();
    if args.listen.is_empty() {
        let usual = join(&Server::default().listen);
        args.listen = list("Where SDKs send to", &usual)?;
    }
    if args.admin.is_none() {
        let usual = Admin::default().listen;
        args.admin = list("Where the status page and the metrics are", &usual.to_string())?.pop();
    }
    for (n, one) in given.iter().enumerate() {
        let is_first = given[..n].iter().all(|other| other.upstream != one.upstream);
        if is_first && one.kind().is_some_and(has_api) && !is_answered(&args.token, &one.upstream) {
            ask_for_api(&mut args, one, given)?;
        }
    }
    if args.expect.is_empty() {
        let question = "Who must have sent something before a report says ready: projects, server names, releases";
        let said = text(question, EVERY, |_| Ok(()))?;
        args.expect = if said == EVERY { vec![] } else { parts(&said).map(str::to_owned).collect() };
    }
    if args.canary.is_none() {
        let check = |said: &str| if said == NEVER { Ok(()) } else { said.parse::<Period>().map(drop) };
        let said = text("How often a test event goes to each tracker, as in 5m", NEVER, check)?;
        args.canary = said.parse().ok();
    }
    Ok(args)
}

/// Asks for an upstream's token and its names of projects. If a needed name is left out, neither is set.
fn ask_for_api(args: &mut Args, one: &Given, given: &[Given]) -> Result<(), Failure> {
    let (upstream, wants_a_name) = (&one.upstream, one.kind().is_some_and(wants_a_name));
    let scopes = if wants_a_name { " with the scopes event:read and project:read" } else { "" };
    let question =
        format!("Token of the API of {upstream}{scopes}, to find out what it stores (not shown; Enter: none)");
    let token = Password::new().with_prompt(question).allow_empty_password(true).interact().map_err(failed)?;
    let token = token.trim();
    if token.is_empty() {
        return Ok(());
    }
    let mut names = vec![];
    for Given { project, .. } in given.iter().filter(|other| wants_a_name && other.upstream == *upstream) {
        let place = format!("{project}:{upstream}");
        if is_answered(&args.name, &place) || is_answered(&args.name, upstream) {
            continue;
        }
        let check = |said: &str| match said.is_empty() || is_place(said) {
            true => Ok(()),
            false => Err("write organization/project, as in the address of its page".to_owned()),
        };
        let question = format!("What {upstream} calls {project}, as in organization/project (Enter: do not ask it)");
        let said = text(&question, "", check)?;
        if said.is_empty() {
            return Ok(());
        }
        names.push(format!("{place}={said}"));
    }
    args.name.extend(names);
    args.token.push(format!("{upstream}={token}"));
    Ok(())
}

fn is_answered(flags: &[String], of: &str) -> bool {
    flags.iter().any(|flag| flag.split_once('=').is_some_and(|(name, _)| name == of))
}

fn is_place(text: &str) -> bool {
    text.split_once('/').is_some_and(|(organization, project)| {
        !organization.is_empty() && !project.is_empty() && !project.contains('/')
    })
}

/// Asks for a list of addresses, separated by commas; empty for the default.
fn list(question: &str, usual: &str) -> Result<Vec<SocketAddr>, Failure> {
    let read = |said: &str| parts(said).map(SocketAddr::from_str).collect::<Result<Vec<_>, _>>();
    let check = |said: &str| match read(said) {
        Ok(all) if !all.is_empty() => Ok(()),
        _ => Err("write an address and a port, as in 127.0.0.1:8484".to_owned()),
    };
    let said = text(question, usual, check)?;
    // The default needs no line in the file.
    Ok(if said == usual { vec![] } else { read(&said).unwrap_or_default() })
}

fn text(question: &str, usual: &str, check: impl Fn(&str) -> Result<(), String>) -> Result<String, Failure> {
    let input = Input::<String>::new().with_prompt(question).allow_empty(true).show_default(!usual.is_empty());
    let input = input.default(usual.to_owned()).validate_with(|said: &String| check(said.trim()));
    Ok(input.interact().map_err(failed)?.trim().to_owned())
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn join(all: &[impl Display]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn failed(error: dialoguer::Error) -> Failure {
    Failure::new(Exit::Io, format_args!("nothing was written: {error}; --yes asks nothing"))
}

//! `switchyard init`: a first configuration, from the DSNs there are.
//!
//! It asks nobody: what kind of tracker an upstream is it tells by its name or host, and `check --online` finds out the rest. What
//! it writes has passed the check that every configuration passes.

use std::path::Path;
use std::str::FromStr;

use serde::Serialize;

use crate::config::{self, Kind};
use crate::protocol::dsn::Dsn;
use crate::protocol::event_id::EventId;

use super::failure::{Exit, Failure};
use super::locate::{Located, reachable};
use super::{private_file, terminal};

/// The project of DSNs that name none.
const PROJECT: &str = "default";
/// What a DSN that only the daemon's environment knows is taken for when the file is checked.
const UNKNOWN: &str = "http://key@localhost/1";

/// Writes a configuration from the DSNs you have, and says what goes into each service's .env
///
/// One argument for each DSN: UPSTREAM=DSN, or PROJECT:UPSTREAM=DSN when there are several projects. ${NAME} and ${file:/path} in
/// the place of a DSN are written as they are and looked up when the daemon starts. The file goes where --config says, or to
/// config.toml here; nobody else may read it.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "As in: switchyard init sentry=https://<key>@o1.ingest.sentry.io/42 'glitchtip=${GLITCHTIP_DSN}'"
)]
pub(super) struct Args {
    /// A DSN of a project at an upstream
    #[arg(required = true, value_name = "[PROJECT:]UPSTREAM=DSN")]
    dsns: Vec<String>,
    /// The upstream that is the primary to begin with [default: the first]
    #[arg(long, value_name = "NAME")]
    primary: Option<String>,
    /// Replaces a file that is there
    #[arg(long)]
    force: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// A DSN as it was given.
#[derive(Clone, Debug)]
struct Given {
    project: String,
    upstream: String,
    /// A DSN, or where it is to be found.
    dsn: String,
}

impl FromStr for Given {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Whatever is wrong, the DSN is not repeated: there is a key in it.
        let (name, dsn) = text.split_once('=').ok_or("write UPSTREAM=DSN, as in sentry=https://<key>@<host>/<id>")?;
        let (project, upstream) = name.split_once(':').unwrap_or((PROJECT, name));
        if !dsn.starts_with("${") {
            dsn.parse::<Dsn>().map_err(|error| format!("the DSN for {name}: {error}"))?;
        }
        Ok(Self { project: project.to_owned(), upstream: upstream.to_owned(), dsn: dsn.to_owned() })
    }
}

impl Given {
    fn is_reference(&self) -> bool {
        self.dsn.starts_with("${")
    }

    /// By the name, or by the host that only Sentry SaaS has.
    fn kind(&self) -> Option<Kind> {
        let known = [Kind::Sentry, Kind::Glitchtip, Kind::Bugsink, Kind::Relay];
        let by_name = known.into_iter().find(|kind| self.upstream.to_ascii_lowercase().contains(kind.name()));
        let host = self.dsn.parse::<Dsn>().ok().map(|dsn| dsn.authority().host().to_owned());
        let is_saas = host.is_some_and(|host| host == "sentry.io" || host.ends_with(".sentry.io"));
        if is_saas { Some(Kind::Sentry) } else { by_name }
    }
}

/// A project, with the key that its services get.
#[derive(Debug)]
struct Project<'a> {
    name: &'a str,
    key: String,
    dsns: Vec<&'a Given>,
}

/// What was written.
#[derive(Debug, Serialize)]
struct Written<'a> {
    path: &'a Path,
    primary: &'a str,
    projects: Vec<Service<'a>>,
}

/// What the services of a project need.
#[derive(Debug, Serialize)]
struct Service<'a> {
    name: &'a str,
    dsn: String,
}

/// Writes the file.
pub(super) fn init(located: &Located, args: &Args) -> Result<(), Failure> {
    let given: Result<Vec<Given>, String> = args.dsns.iter().map(|text| text.parse()).collect();
    let given = given.map_err(|why| Failure::new(Exit::Usage, why))?;
    let (projects, path) = (by_project(&given)?, located.new_path());
    let primary = args.primary.as_deref().unwrap_or(&given[0].upstream);
    let check = text(primary, &given, &projects, |given| if given.is_reference() { UNKNOWN } else { &given.dsn });
    let loaded = config::parse(&path.display().to_string(), &check, &|_| None)
        .map_err(|problems| Failure::new(Exit::Usage, problems.render(terminal::form_of_errors())))?;
    private_file::write(&path, text(primary, &given, &projects, |given| &given.dsn).as_bytes(), args.force)?;
    let listen = loaded.config.server.listen.first().map(|listen| reachable(*listen));
    let listen = listen.ok_or_else(|| Failure::new(Exit::Internal, "by default nothing is listened on"))?;
    let mut written = Written { path: &path, primary, projects: vec![] };
    for (id, Project { name, key, .. }) in (1..).zip(&projects) {
        written.projects.push(Service { name, dsn: format!("http://{key}@{listen}/{id}") });
    }
    if args.json { terminal::say_json(&written) } else { tell(located, &written) }
}

fn by_project(dsns: &[Given]) -> Result<Vec<Project<'_>>, Failure> {
    let mut projects: Vec<Project<'_>> = vec![];
    for given in dsns {
        let at = projects.iter().position(|project| project.name == given.project).unwrap_or_else(|| {
            let key = EventId::random().to_string();
            projects.push(Project { name: &given.project, key, dsns: vec![] });
            projects.len() - 1
        });
        if projects[at].dsns.iter().any(|other| other.upstream == given.upstream) {
            let Given { project, upstream, .. } = given;
            let why = format!("project {project} has two DSNs for {upstream}; write PROJECT:UPSTREAM=DSN for others");
            return Err(Failure::new(Exit::Usage, why));
        }
        projects[at].dsns.push(given);
    }
    Ok(projects)
}

/// The file's text; `dsn` says what is written for each.
fn text<'a>(primary: &str, dsns: &'a [Given], projects: &[Project<'a>], dsn: impl Fn(&'a Given) -> &'a str) -> String {
    let quoted = |text: &str| toml_edit::Value::from(text).to_string().trim().to_owned();
    let key = |name: &str| toml_edit::Key::new(name).to_string();
    let mut out = format!(
        "# Flip this line: live within a second, no restart.\nprimary = {}\n# false: new envelopes go to the primary alone.\n\
         mirror = true\n",
        quoted(primary)
    );
    let mut seen: Vec<&str> = vec![];
    for given in dsns {
        if seen.contains(&&*given.upstream) {
            continue;
        }
        seen.push(&given.upstream);
        out += &format!("\n[upstreams.{}]\n", key(&given.upstream));
        out += &match given.kind() {
            Some(kind) => format!("kind = \"{}\"\n", kind.name()),
            None => "# kind = \"\"    # `switchyard check --online` finds out\n".to_owned(),
        };
    }
    for (id, project) in (1..).zip(projects) {
        let (name, public_key) = (quoted(project.name), &project.key);
        out += &format!(
            "\n[[projects]]\nname = {name}\nid = \"{id}\"\npublic_key = \"{public_key}\"\n[projects.upstreams]\n"
        );
        for given in &project.dsns {
            out += &format!("{} = {}\n", key(&given.upstream), quoted(dsn(given)));
        }
    }
    out
}

fn tell(located: &Located, written: &Written<'_>) -> Result<(), Failure> {
    let Written { path, primary, projects } = written;
    terminal::say(format_args!("wrote {}; the primary is {primary}\n", path.display()))?;
    let width = projects.iter().map(|project| project.name.len()).max().unwrap_or_default();
    terminal::say("into the .env of each service, once:")?;
    for Service { name, dsn } in projects {
        terminal::say(format_args!("  {name:width$}  SENTRY_DSN={dsn}"))?;
    }
    let option = located.as_option();
    terminal::say(format_args!("\nnext: switchyard{option} check --online, then switchyard{option} run"))
}

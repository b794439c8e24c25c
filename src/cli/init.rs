//! `switchyard init`: writes a first configuration from DSNs.
//!
//! At a terminal it asks for what no flag says; otherwise it asks nothing. It guesses the kind of a tracker from its name or host, which
//! `check --online` verifies. The text has passed the check of every configuration before it is written.

use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;

use serde::Serialize;

use crate::config::{self, Kind};
use crate::delivery::asking::{has_api, wants_a_name};
use crate::protocol::dsn::Dsn;
use crate::protocol::event_id::EventId;
use crate::units::Period;

use super::failure::{Exit, Failure};
use super::locate::{Located, reachable};
use super::{private_file, terminal};

mod ask;

/// The project of DSNs without a project name.
const PROJECT: &str = "default";
/// The default timeout of a canary, which must be shorter than its interval.
const TIMEOUT: Period = Period::secs(60);
/// The stand-in for a DSN that only the daemon's environment knows, when the file is checked.
const UNKNOWN: &str = "http://key@localhost/1";

/// Writes a configuration from the DSNs you have, and prints the line for each service's .env
///
/// One argument for each DSN: UPSTREAM=DSN, or PROJECT:UPSTREAM=DSN when there are several projects. ${NAME} and ${file:/path} in
/// the place of a DSN are written as they are and looked up when the daemon starts. The file goes where --config says, or to
/// config.toml here; nobody else may read it. At a terminal it asks for what no option says; Enter takes the default.
#[derive(clap::Args, Clone, Debug)]
#[command(
    after_help = "Example: switchyard init sentry=https://KEY@o1.ingest.sentry.io/42 'glitchtip=${GLITCHTIP_DSN}'"
)]
pub(super) struct Args {
    /// A DSN of a project at an upstream
    #[arg(required = true, value_name = "[PROJECT:]UPSTREAM=DSN")]
    dsns: Vec<String>,
    /// The upstream that is the primary to begin with [default: the first]
    #[arg(long, value_name = "NAME")]
    primary: Option<String>,
    /// The token of an upstream's API, to find out what it stores. At a GlitchTip or Sentry: with the scopes event:read and project:read
    #[arg(long, value_name = "UPSTREAM=TOKEN")]
    token: Vec<String>,
    /// What that API calls a project; required with a token of a GlitchTip or Sentry
    #[arg(long, value_name = "[PROJECT:]UPSTREAM=ORGANIZATION/PROJECT")]
    name: Vec<String>,
    /// Where SDKs send to; several times for several addresses [default: 127.0.0.1:8484 and [::1]:8484]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Vec<SocketAddr>,
    /// Where the status page and the metrics are, on this machine [default: 127.0.0.1:8485]
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin: Option<SocketAddr>,
    /// Who must have sent something before a report says ready: a project, a server_name or a release [default: every project]
    #[arg(long, value_name = "NAME")]
    expect: Vec<String>,
    /// How often a test event goes to each upstream, as in 5m [default: never]
    #[arg(long, value_name = "PERIOD")]
    canary: Option<Period>,
    /// Asks nothing: what no option says stays at its default
    #[arg(long, visible_alias = "no-input")]
    yes: bool,
    /// Replaces a file that is there
    #[arg(long)]
    force: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// An argument with a DSN.
#[derive(Clone, Debug)]
struct Given {
    project: String,
    upstream: String,
    /// A DSN, or a reference to one.
    dsn: String,
}

impl FromStr for Given {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // No error repeats the DSN: it has a key in it.
        let (name, dsn) = text.split_once('=').ok_or("write UPSTREAM=DSN, as in sentry=https://<key>@<host>/<id>")?;
        let (project, upstream) = name.split_once(':').unwrap_or((PROJECT, name));
        match dsn.strip_prefix("${") {
            None => dsn.parse::<Dsn>().map(drop).map_err(|error| format!("the DSN for {name}: {error}"))?,
            Some(reference) if is_reference(reference) => {}
            Some(_) => return Err(format!("the DSN for {name}: write ${{NAME}} or ${{file:/path}} alone")),
        }
        Ok(Self { project: project.to_owned(), upstream: upstream.to_owned(), dsn: dsn.to_owned() })
    }
}

/// Whether the text after `${` is one reference and nothing else.
fn is_reference(text: &str) -> bool {
    let Some(name) = text.strip_suffix('}').filter(|name| !name.contains('}')) else { return false };
    name.starts_with("file:") || config::followed(&format!("${{{name}}}"), &|_| Some(UNKNOWN.to_owned())).is_ok()
}

impl Given {
    /// The kind of the tracker, as far as its name or host tells.
    fn kind(&self) -> Option<Kind> {
        self.taken_for().map(|(kind, _)| kind)
    }

    /// The kind of the tracker, and whether its host or its name tells.
    fn taken_for(&self) -> Option<(Kind, &'static str)> {
        let known = [Kind::Sentry, Kind::Glitchtip, Kind::Bugsink, Kind::Relay];
        let by_name = known.into_iter().find(|kind| self.upstream.to_ascii_lowercase().contains(kind.name()));
        let host = self.dsn.parse::<Dsn>().ok().map(|dsn| dsn.authority().host().to_owned());
        let is_saas = host.is_some_and(|host| host == "sentry.io" || host.ends_with(".sentry.io"));
        if is_saas { Some((Kind::Sentry, "host")) } else { by_name.map(|kind| (kind, "name")) }
    }
}

/// The parts of the configuration to write.
#[derive(Debug)]
struct Plan<'a> {
    args: &'a Args,
    primary: &'a str,
    given: &'a [Given],
    projects: Vec<Project<'a>>,
    /// The tokens, by upstream.
    tokens: Vec<(&'a str, &'a str)>,
    /// The names of projects at upstreams: upstream, project, name.
    names: Vec<(&'a str, &'a str, &'a str)>,
}

impl<'a> Plan<'a> {
    fn of(given: &'a [Given], args: &'a Args) -> Result<Self, Failure> {
        let usage = |why: String| Failure::new(Exit::Usage, why);
        let is_known = |upstream: &str| given.iter().any(|given| given.upstream == upstream);
        let mut plan = Self {
            args,
            primary: args.primary.as_deref().unwrap_or(&given[0].upstream),
            given,
            projects: by_project(given)?,
            tokens: vec![],
            names: vec![],
        };
        for text in &args.token {
            // No error repeats the token.
            match text.split_once('=').filter(|(upstream, _)| is_known(upstream)) {
                Some(token) => plan.tokens.push(token),
                None => return Err(usage("write --token UPSTREAM=TOKEN, with an upstream that has a DSN".to_owned())),
            }
        }
        for text in &args.name {
            let of = text.split_once('=').map(|(of, name)| (of.split_once(':').unwrap_or((PROJECT, of)), name));
            match of.filter(|((_, upstream), _)| is_known(upstream)) {
                Some(((project, upstream), name)) => plan.names.push((upstream, project, name)),
                None => {
                    let why =
                        format!("{text:?} is not [PROJECT:]UPSTREAM=ORGANIZATION/PROJECT of an upstream with a DSN");
                    return Err(usage(why));
                }
            }
        }
        let has_token = |given: &&Given| plan.token(&given.upstream).is_some();
        let wants = |given: &&Given| given.kind().is_some_and(wants_a_name) && plan.name(given).is_none();
        match given.iter().filter(has_token).find(wants) {
            Some(Given { project, upstream, .. }) => {
                let why = format!("say what {upstream} calls it: --name {project}:{upstream}=ORGANIZATION/PROJECT");
                Err(usage(why))
            }
            None => Ok(plan),
        }
    }

    fn token(&self, upstream: &str) -> Option<&'a str> {
        self.tokens.iter().find(|(of, _)| *of == upstream).map(|(_, token)| *token)
    }

    fn name(&self, given: &Given) -> Option<&'a str> {
        let is_it =
            |(upstream, project, _): &&(&str, &str, &str)| *upstream == given.upstream && *project == given.project;
        self.names.iter().find(is_it).map(|(.., name)| *name)
    }

    /// The guessed kind of each upstream.
    fn kinds(&self) -> Vec<TakenFor<'a>> {
        let mut kinds: Vec<TakenFor<'a>> = vec![];
        for given in self.given {
            if kinds.iter().all(|known| known.upstream != given.upstream) {
                let (kind, by) = given.taken_for().map(|(kind, by)| (kind.name(), by)).unzip();
                kinds.push(TakenFor { upstream: &given.upstream, kind, by });
            }
        }
        kinds
    }

    /// The upstreams whose API could be asked what they store, and that have no token.
    fn unasked(&self) -> Vec<&'a str> {
        let mut unasked: Vec<&str> = vec![];
        for given in self.given.iter().filter(|given| given.kind().is_some_and(has_api)) {
            if self.token(&given.upstream).is_none() && !unasked.contains(&&*given.upstream) {
                unasked.push(&given.upstream);
            }
        }
        unasked
    }
}

/// A project, with the key for its services.
#[derive(Debug)]
struct Project<'a> {
    name: &'a str,
    key: String,
    dsns: Vec<&'a Given>,
}

/// The result, for the person and for scripts.
#[derive(Debug, Serialize)]
struct Written<'a> {
    path: &'a Path,
    primary: &'a str,
    /// The upstreams that cannot be asked what they store.
    unasked: Vec<&'a str>,
    /// The guessed kinds of the upstreams.
    kinds: Vec<TakenFor<'a>>,
    projects: Vec<Service<'a>>,
}

/// The guessed kind of an upstream.
#[derive(Debug, Serialize)]
struct TakenFor<'a> {
    upstream: &'a str,
    /// `None` if neither name nor host tells.
    kind: Option<&'static str>,
    /// Whether its `name` or its `host` tells.
    by: Option<&'static str>,
}

/// A project and the DSN for its services.
#[derive(Debug, Serialize)]
struct Service<'a> {
    name: &'a str,
    dsn: String,
}

/// Writes the configuration.
pub(super) fn init(located: &Located, args: &Args) -> Result<(), Failure> {
    let given: Result<Vec<Given>, String> = args.dsns.iter().map(|text| text.parse()).collect();
    let given = given.map_err(|why| Failure::new(Exit::Usage, why))?;
    let path = located.new_path();
    let answered = if args.yes || !ask::is_attended() {
        args.clone()
    } else {
        private_file::check(&path, args.force)?;
        ask::complete(args, &given)?
    };
    let plan = Plan::of(&given, &answered)?;
    let check = text(&plan, |text, unknown| if text.starts_with("${") { unknown } else { text });
    // Nothing is written if the text is invalid.
    let loaded = config::parse("what these answers make, which was not written", &check, &|_| None)
        .map_err(|problems| Failure::new(Exit::Usage, problems.render(terminal::form_of_errors())))?;
    private_file::write(&path, text(&plan, |text, _| text).as_bytes(), args.force)?;
    let listen = loaded.config.server.listen.first().map(|listen| reachable(*listen));
    let listen = listen.ok_or_else(|| Failure::new(Exit::Internal, "by default nothing is listened on"))?;
    let (unasked, kinds) = (plan.unasked(), plan.kinds());
    let mut written = Written { path: &path, primary: plan.primary, unasked, kinds, projects: vec![] };
    for (id, Project { name, key, .. }) in (1..).zip(&plan.projects) {
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

/// The file's text. `written` chooses what to write for a secret: the secret itself, or a stand-in for a reference.
fn text<'a>(plan: &Plan<'a>, written: impl Fn(&'a str, &'a str) -> &'a str) -> String {
    let quoted = |text: &str| toml_edit::Value::from(text).to_string().trim().to_owned();
    let key = |name: &str| toml_edit::Key::new(name).to_string();
    let mut out = format!(
        "# Flip this line: live within a second, no restart.\nprimary = {}\n# false: new envelopes go to the primary alone.\n\
         mirror = true\n",
        quoted(plan.primary)
    );
    out += &answers(plan.args);
    if plan.given.iter().any(|given| given.upstream != plan.given[0].upstream) {
        out += "\n[journal]\n# 48 hours of a parallel run and one more day: as far back a backfill can reach.\nretain = \"72h\"\n";
    }
    let mut seen: Vec<&str> = vec![];
    for given in plan.given {
        if seen.contains(&&*given.upstream) {
            continue;
        }
        seen.push(&given.upstream);
        let name = key(&given.upstream);
        out += &format!("\n[upstreams.{name}]\n");
        out += &match given.kind() {
            Some(kind) => format!("kind = \"{}\"\n", kind.name()),
            None => {
                "# kind = \"generic\"    # or sentry, glitchtip, bugsink, relay: `switchyard check --online` tells\n"
                    .to_owned()
            }
        };
        if let Some(token) = plan.token(&given.upstream) {
            out += &format!("[upstreams.{name}.api]\ntoken = {}\n", quoted(written(token, "token")));
        } else if given.kind().is_some_and(has_api) {
            out += &format!(
                "# [upstreams.{name}.api]    # shows what it stores: `switchyard help verify`\n# token = \"\"\n"
            );
        }
    }
    for (id, project) in (1..).zip(&plan.projects) {
        let (name, public_key) = (quoted(project.name), &project.key);
        out += &format!(
            "\n[[projects]]\nname = {name}\nid = \"{id}\"\npublic_key = \"{public_key}\"\n[projects.upstreams]\n"
        );
        for given in &project.dsns {
            let (upstream, dsn) = (key(&given.upstream), quoted(written(&given.dsn, UNKNOWN)));
            out += &match plan.name(given) {
                Some(there) => format!("{upstream} = {{ dsn = {dsn}, project = {} }}\n", quoted(there)),
                None => format!("{upstream} = {dsn}\n"),
            };
        }
    }
    out
}

/// The sections with the options on listeners, report and canaries; defaults are left out.
fn answers(args: &Args) -> String {
    let quoted = |text: &str| toml_edit::Value::from(text).to_string().trim().to_owned();
    let list = |all: Vec<String>| all.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ");
    let mut out = String::new();
    if !args.listen.is_empty() {
        out += &format!("\n[server]\nlisten = [{}]\n", list(args.listen.iter().map(ToString::to_string).collect()));
    }
    if let Some(admin) = args.admin {
        out += &format!("\n[admin]\nlisten = \"{admin}\"\n");
    }
    if !args.expect.is_empty() {
        out += &format!("\n[report]\nexpect = [{}]\n", list(args.expect.clone()));
    }
    if let Some(canary) = args.canary {
        out += &format!("\n[canary]\ninterval = \"{canary}\"\n");
        if canary <= TIMEOUT {
            out += &format!("timeout = \"{}ms\"\n", canary.get().as_millis() / 2);
        }
    }
    out
}

fn tell(located: &Located, written: &Written<'_>) -> Result<(), Failure> {
    let Written { path, primary, unasked, kinds, projects } = written;
    terminal::say(format_args!("wrote {}; the primary is {primary}\n", path.display()))?;
    let width = projects.iter().map(|project| project.name.len()).max().unwrap_or_default();
    terminal::say("put into the .env of each service, once:")?;
    for Service { name, dsn } in projects {
        terminal::say(format_args!("  {name:width$}  SENTRY_DSN={dsn}"))?;
    }
    terminal::say("")?;
    for TakenFor { upstream, kind, by } in kinds {
        match kind.zip(*by) {
            Some((kind, by)) => terminal::say(format_args!("{upstream} is taken for kind {kind}, by its {by}"))?,
            None => terminal::say(format_args!(
                "{upstream} is taken for kind generic: neither its name nor its host tells"
            ))?,
        }
    }
    terminal::say("`check --online` finds out what they are; correct a wrong `kind` under [upstreams.NAME]")?;
    if !unasked.is_empty() {
        let names = unasked.join(" and ");
        let candidates: Vec<&str> = unasked.iter().copied().filter(|name| name != primary).collect();
        let unready = match candidates.as_slice() {
            [] => String::new(),
            names => format!(", and no report says that {} is ready", names.join(" or ")),
        };
        terminal::say(format_args!(
            "\nwithout a token nobody can ask {names} what is stored{unready}: give --token, or see switchyard help verify"
        ))?;
    }
    let option = located.as_option();
    terminal::say(format_args!("\nnext: switchyard{option} check --online, then switchyard{option} run"))
}

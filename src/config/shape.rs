//! The structure of the file: its sections, keys and kinds of values. Nothing is required here: `resolve` and `projects` report what is
//! missing, together with all problems that need the whole file.
//!
//! Rule: a value of the wrong kind is reported and removed, and reading goes on without it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use toml::de::DeValue;

use crate::http::settings::{Admin, Server};
use crate::policy::{canary, dedup, limits, verification};
use crate::telemetry::report::criteria;
use crate::{delivery, journal, notify};

use super::checks::MOST_IN_FLIGHT;
use super::report::Report;
use super::suggest::nearest;
use super::tree::{Path, Segment, Tree};

/// The maximum number of problems of this kind that are reported at once.
const MOST: usize = 100;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    pub(super) primary: Option<String>,
    pub(super) mirror: bool,
    pub(super) server: Server,
    pub(super) admin: Admin,
    pub(super) journal: journal::Settings,
    pub(super) dedup: dedup::Settings,
    pub(super) limits: limits::Settings,
    pub(super) report: criteria::Settings,
    pub(super) canary: canary::Settings,
    pub(super) verify: verification::Settings,
    pub(super) notify: Vec<notify::Settings>,
    pub(super) upstreams: BTreeMap<String, delivery::settings::Settings>,
    pub(super) projects: Vec<Project>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            primary: None,
            mirror: true,
            server: Server::default(),
            admin: Admin::default(),
            journal: journal::Settings::default(),
            dedup: dedup::Settings::default(),
            limits: limits::Settings::default(),
            report: criteria::Settings::default(),
            canary: canary::Settings::default(),
            verify: verification::Settings::default(),
            notify: vec![],
            upstreams: BTreeMap::new(),
            projects: vec![],
        }
    }
}

/// A section of `[[projects]]`.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Project {
    pub(super) name: Option<String>,
    pub(super) id: Option<String>,
    pub(super) public_key: Option<String>,
    pub(super) primary: Option<String>,
    pub(super) mirror: Option<bool>,
    pub(super) browsers: Option<bool>,
    pub(super) limits: limits::Settings,
    pub(super) upstreams: BTreeMap<String, Place>,
    /// The names of the project in the upstreams' APIs, unless they stand beside its DSNs.
    pub(super) api: BTreeMap<String, String>,
}

impl std::fmt::Debug for Project {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Project").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A project at one upstream: its DSN alone, or together with its name in the upstream's API.
#[derive(Default)]
pub(super) struct Place {
    pub(super) dsn: String,
    pub(super) project: Option<String>,
    /// Whether it is written as a table.
    pub(super) is_table: bool,
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            dsn: String,
            project: Option<String>,
        }
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Place;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: de::Error>(self, dsn: &str) -> Result<Place, E> {
                Ok(Place { dsn: dsn.to_owned(), ..Place::default() })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Place, A::Error> {
                let Table { dsn, project } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Place { dsn, project, is_table: true })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Reads the tree. Values that do not fit are reported and removed. `None` when the file cannot be read in this way.
pub(super) fn read(tree: &mut Tree<'_>, report: &mut Report<'_>) -> Option<File> {
    for _ in 0..MOST {
        let (path, message) = match attempt(tree) {
            Ok(file) => return Some(file),
            Err(refusal) => refusal,
        };
        let path = match doubled(tree, report, &path) {
            Some(section) => {
                let help = format!(
                    "a section stands in single brackets, [{section}]; only [[projects]] and [[notify]] are lists"
                );
                report.error(&section, "is written as a list of sections", Some(help));
                section
            }
            None => {
                reject(tree, report, &path, &message);
                path
            }
        };
        report.removed(&path);
        if !tree.remove(&path) {
            return None;
        }
    }
    None
}

fn attempt(tree: &Tree<'_>) -> Result<File, (Path, String)> {
    serde_path_to_error::deserialize(tree.deserializer())
        .map_err(|error| (Path::from(error.path()), error.inner().message().to_owned()))
}

/// The section in double brackets that an error is about. Serde takes it for a list, so that its message would mislead.
fn doubled(tree: &Tree<'_>, report: &Report<'_>, path: &Path) -> Option<Path> {
    let section = match path.split_last() {
        Some((Segment::Index(_), list)) => list,
        _ => path.clone(),
    };
    let is_list = matches!(section.to_string().as_str(), "projects" | "notify");
    let is_doubled = tree.value(&section).is_some_and(DeValue::is_array) && report.is_in_double_brackets(&section);
    (is_doubled && !is_list).then_some(section)
}

fn reject(tree: &Tree<'_>, report: &mut Report<'_>, path: &Path, message: &str) {
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let help = unknown_key_help(path, &quoted(rest.split_once(", expected").map_or("", |(_, known)| known)));
        return report.error_at_key(path, "unknown key", Some(help));
    }
    if let Some(field) = message.strip_prefix("missing field ") {
        let field = path.key(field.trim_matches('`'));
        // A field that was removed has been reported.
        if !report.has(&field) {
            report.error(&field, "is missing", None);
        }
        return;
    }
    let message = safe_message(tree, report, path, message);
    let help = help_for(path, &message);
    report.error(path, message, help);
}

/// The message without secrets and without values of `${…}`.
fn safe_message(tree: &Tree<'_>, report: &Report<'_>, path: &Path, message: &str) -> String {
    let kind = tree.value(path).map_or("nothing", DeValue::type_str);
    let expected = message.split_once(", expected ").map(|(_, expected)| plain_words(expected));
    let blunt = || match &expected {
        Some(expected) => format!("expected {expected}, found {}", indefinite(kind)),
        None => "this value does not fit here".to_owned(),
    };
    if super::mask::is_secret(path) {
        return blunt();
    }
    if tree.string(path).is_some_and(|text| text != report.quote(path)) {
        // With the reference in place of its value, serde gives the same message without the secret.
        let mut harmless = tree.clone();
        harmless.set_string(path, report.quote(path).to_owned());
        return match attempt(&harmless) {
            Err((same, message)) if same == *path => reworded(&message),
            _ => blunt(),
        };
    }
    reworded(message)
}

/// A message of serde in the terms of the file's author.
fn reworded(message: &str) -> String {
    let found = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    if let Some((found, expected)) = found.and_then(|found| found.split_once(", expected ")) {
        return format!("expected {}, found {}", plain_words(expected), plain_words(found));
    }
    if let Some((value, expected)) =
        message.strip_prefix("unknown variant ").and_then(|rest| rest.split_once(", expected "))
    {
        let word = value.trim_matches('`');
        let meant = nearest(word, quoted(expected)).map(|meant| format!("; did you mean `{meant}`?"));
        return format!("expected {expected}, found {value}{}", meant.unwrap_or_default());
    }
    match message {
        "wanted string or table" => "expected a string".to_owned(),
        _ if message.contains("expected struct") => "expected a section".to_owned(),
        _ => message.to_owned(),
    }
}

/// The name of a kind of value with its article.
fn indefinite(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {kind}")
}

fn plain_words(words: &str) -> String {
    match words {
        "a nonzero u16" => format!("a whole number from 1 to {MOST_IN_FLIGHT}"),
        "a nonzero u32" => format!("a whole number from 1 to {}", u32::MAX),
        "u32" | "u64" => "a whole number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "socket address" => "an address".to_owned(),
        "path string" => "a string".to_owned(),
        "a sequence" => "a list".to_owned(),
        "map" | "a map" => "a section".to_owned(),
        "sequence" => "a list".to_owned(),
        "struct Project" => "a section [[projects]]".to_owned(),
        _ if words.starts_with("struct ") => "a section".to_owned(),
        _ => words.to_owned(),
    }
}

fn unknown_key_help(path: &Path, known: &[&str]) -> String {
    const TOP: [&str; 13] = [
        "primary",
        "mirror",
        "server",
        "admin",
        "journal",
        "dedup",
        "limits",
        "report",
        "canary",
        "verify",
        "notify",
        "upstreams",
        "projects",
    ];
    let Some((Segment::Key(word), parent)) = path.split_last() else { return String::new() };
    if word == "canary" && parent.segments().len() == 2 {
        return "use an `api` section with `token` instead, and the project's name there beside its DSN: \
                { dsn = \"…\", project = \"organization/project\" }"
            .to_owned();
    }
    if let Some(meant) = nearest(word, known.iter().copied()) {
        return format!("did you mean `{meant}`?");
    }
    if !parent.segments().is_empty() && TOP.contains(&word.as_str()) {
        return format!("`{word}` belongs at the top of the file, before the first [section]");
    }
    format!("known here: {}", known.join(", "))
}

fn help_for(path: &Path, message: &str) -> Option<String> {
    let text = path.to_string();
    let help = if message.starts_with("invalid socket address")
        || message.starts_with("expected an address")
        || (text.ends_with("listen") && message.contains("list"))
    {
        "an address is an IP and a port, as in \"127.0.0.1:8484\" or \"[::1]:8484\"; [server] takes a list of them"
    } else if message.starts_with("invalid IP address") {
        "an address is an IP without port, as in \"10.0.0.1\""
    } else if text == "projects" {
        "each project begins with [[projects]], in double brackets"
    } else if text == "notify" {
        "each receiver begins with [[notify]], in double brackets"
    } else if message.starts_with("expected a string") {
        "write it in quotes; a period or a size with its unit, as in \"30s\" or \"64MiB\""
    } else {
        return None;
    };
    Some(help.to_owned())
}

/// The words between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

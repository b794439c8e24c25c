//! The checks of `[[projects]]`: how services identify themselves, and where their data goes.
//!
//! Rule: keys and DSNs are compared, never shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::delivery::settings::Kind;
use crate::policy::routing::{Project, PublicKey};
use crate::protocol::dsn::{Dsn, is_token};

use super::api;
use super::checks::{check_name, check_names_an_upstream, is_own_address};
use super::report::Report;
use super::shape::{File, Project as Written};
use super::tree::Path;

/// The projects. They are usable only if the report has no errors.
pub(super) fn resolve(file: &File, known: &[String], report: &mut Report<'_>) -> Vec<Arc<Project>> {
    let section = Path::default().key("projects");
    if file.projects.is_empty() && !report.knows_about(&section) {
        let help = "add [[projects]] with name, id and public_key, and [projects.upstreams] with its DSNs";
        report.error(&section, "there is no project", Some(help.into()));
    }
    let projects: Vec<_> = file
        .projects
        .iter()
        .enumerate()
        .map(|(index, project)| Arc::new(resolve_one(&section.index(index), project, file, known, report)))
        .collect();
    check_repeats(&projects, report);
    check_one_dsn_twice(&projects, report);
    check_shared_glitchtip(&projects, file, report);
    check_unused(file, report);
    projects
}

fn resolve_one(path: &Path, written: &Written, file: &File, known: &[String], report: &mut Report<'_>) -> Project {
    check_identity(path, written, report);
    if let Some(primary) = &written.primary {
        check_names_an_upstream(&path.key("primary"), primary, known, report);
    }
    check_primary_has_dsn(path, written, file, known, report);
    let (names, mut dsns, mut places) = (&written.api, BTreeMap::new(), BTreeMap::new());
    check_names_of_apis(path, written, known, report);
    for (upstream, written) in &written.upstreams {
        let place = path.key("upstreams").key(upstream);
        check_names_key(&place, upstream, known, report);
        let (name, stands_at) = match (&written.project, names.get(upstream)) {
            (None, Some(name)) => (Some(name), path.key("api").key(upstream)),
            (name, _) => (name.as_ref(), place.key("project")),
        };
        api::check_place((&place, &stands_at), upstream, name, file, report);
        if let Some(name) = name {
            places.insert(upstream.as_str().into(), name.as_str().into());
        }
        let place = if written.is_table { place.key("dsn") } else { place };
        match written.dsn.parse::<Dsn>() {
            Ok(dsn) => {
                check_loop(&place, &dsn, file, report);
                dsns.insert(upstream.as_str().into(), dsn);
            }
            Err(invalid) => report.error(&place, invalid.to_string(), None),
        }
    }
    Project {
        name: written.name.as_deref().unwrap_or_default().into(),
        id: written.id.as_deref().unwrap_or_default().into(),
        public_key: PublicKey::new(written.public_key.as_deref().unwrap_or_default()),
        dsns,
        places,
        primary: written.primary.as_deref().map(Into::into),
        mirror: written.mirror,
    }
}

fn check_identity(path: &Path, written: &Written, report: &mut Report<'_>) {
    match &written.name {
        Some(name) => check_name(&path.key("name"), name, "a project", false, report),
        None => missing(path, "name", "metrics, logs and status show it", report),
    }
    match written.id.as_deref() {
        Some(id) if is_token(id) && id.bytes().all(|b| b.is_ascii_digit()) => {}
        Some(_) => report.error(&path.key("id"), "a project id consists of digits", Some("as in id = \"1\"".into())),
        None => missing(path, "id", "the number at the end of the DSN that services use, as in id = \"1\"", report),
    }
    match written.public_key.as_deref() {
        Some(key) if is_token(key) => {}
        Some(_) => report.error(&path.key("public_key"), "a key is 1 to 128 letters, digits, - and _", None),
        None => missing(path, "public_key", "what stands before the @ in the DSN that services use", report),
    }
}

fn missing(path: &Path, key: &str, help: &str, report: &mut Report<'_>) {
    report.error(&path.key(key), "is missing", Some(help.to_owned()));
}

fn check_names_key(path: &Path, upstream: &str, known: &[String], report: &mut Report<'_>) {
    if !known.is_empty() && !known.iter().any(|known| known == upstream) {
        let help = match super::suggest::nearest(upstream, known.iter().map(String::as_str)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("add [upstreams.{upstream}], or use one of: {}", known.join(", ")),
        };
        report.error_at_key(path, "there is no such upstream", Some(help));
    }
}

/// Checks that each name in `[projects.api]` is that of an upstream where the project has a DSN, and stands nowhere else.
fn check_names_of_apis(path: &Path, written: &Written, known: &[String], report: &mut Report<'_>) {
    for upstream in written.api.keys() {
        let (key, place) = (path.key("api").key(upstream), path.key("upstreams").key(upstream));
        check_names_key(&key, upstream, known, report);
        match written.upstreams.get(upstream) {
            None if !report.has(&place) => report.error_at_key(&key, "this project has no DSN there", None),
            Some(place) if place.project.is_some() => {
                report.error_at_key(&key, "this name stands beside the DSN, too", Some("leave one out".into()));
            }
            _ => {}
        }
    }
}

/// Checks that a project has a DSN at its primary, which gets everything and answers requests that only a tracker can answer.
fn check_primary_has_dsn(path: &Path, written: &Written, file: &File, known: &[String], report: &mut Report<'_>) {
    let own = path.key("primary");
    let (primary, stated_at) = match &written.primary {
        Some(primary) => (primary, own),
        None if report.has(&own) => return,
        None => match &file.primary {
            Some(primary) => (primary, Path::default().key("primary")),
            None => return,
        },
    };
    let place = path.key("upstreams").key(primary);
    if report.has(&place) || !known.contains(primary) {
        return;
    }
    let shown = report.quote(&stated_at).to_owned();
    let message = format!("this project has no DSN at its primary, `{shown}`");
    let help = format!("add {shown} = \"…\" under [projects.upstreams], or give the project a primary of its own");
    report.error(&place, message, Some(help));
}

fn check_loop(path: &Path, dsn: &Dsn, file: &File, report: &mut Report<'_>) {
    let default_port = if dsn.scheme() == &http::uri::Scheme::HTTPS { 443 } else { 80 };
    let port = dsn.authority().port_u16().unwrap_or(default_port);
    let host = dsn.authority().host();
    if is_own_address(host, port, &file.server.listen) {
        let help = "put the DSN here that the tracker gave you; ours goes into the services' SENTRY_DSN";
        report.error(path, "this is our own address: envelopes would go round in a circle", Some(help.into()));
    } else if is_own_address(host, port, &[file.admin.listen]) {
        report.error(path, "this is the address of our own [admin] listener", None);
    }
}

fn check_repeats(projects: &[Arc<Project>], report: &mut Report<'_>) {
    let section = Path::default().key("projects");
    let (mut names, mut identities) = (BTreeSet::new(), BTreeSet::new());
    for (index, project) in projects.iter().enumerate() {
        let path = section.index(index);
        if !project.name.is_empty() && !names.insert(&project.name) {
            report.error(&path.key("name"), "another project has this name", None);
        }
        let told = !project.id.is_empty() && !project.public_key.expose().is_empty();
        if told && !identities.insert((&project.id, &project.public_key)) {
            let help = "services tell us who they are by id and key: give each project its own";
            report.error(&path.key("public_key"), "another project has this id and key", Some(help.into()));
        }
    }
}

/// Reports two upstreams with one DSN: they are one tracker, which gets everything twice, and nothing is compared.
fn check_one_dsn_twice(projects: &[Arc<Project>], report: &mut Report<'_>) {
    let section = Path::default().key("projects");
    for (index, project) in projects.iter().enumerate() {
        let mut seen: Vec<(&Arc<str>, &Dsn)> = vec![];
        for (upstream, dsn) in &project.dsns {
            if let Some((other, _)) = seen.iter().find(|(_, other)| other.reveal() == dsn.reveal()) {
                let message = format!(
                    "{other} has this DSN too: both are one project of one tracker, which gets everything twice"
                );
                let help = "write the DSN here that this upstream's own tracker shows";
                report.warning(&section.index(index).key("upstreams").key(upstream), message, Some(help.into()));
            }
            seen.push((upstream, dsn));
        }
    }
}

/// Warns about two projects at one GlitchTip, which keeps an event id once for 300 seconds, whatever the project.
fn check_shared_glitchtip(projects: &[Arc<Project>], file: &File, report: &mut Report<'_>) {
    let section = Path::default().key("projects");
    let mut hosts: BTreeMap<String, BTreeMap<usize, &Dsn>> = BTreeMap::new();
    for (index, project) in projects.iter().enumerate() {
        for (upstream, dsn) in &project.dsns {
            let glitchtip = file.upstreams.get(&**upstream).is_some_and(|settings| settings.kind == Kind::Glitchtip);
            let users = hosts.entry(dsn.authority().to_string()).or_default();
            if !glitchtip || users.insert(index, dsn).is_some() || users.len() != 2 {
                continue;
            }
            let Some((first, other)) = users.iter().next() else { continue };
            let (first, path) = (&projects[*first].name, section.index(index).key("upstreams").key(upstream));
            let (message, help) = if (other.prefix(), other.project()) == (dsn.prefix(), dsn.project()) {
                let message = format!("project {first} has this DSN too: at this GlitchTip the two are one project");
                (message, "give each a project of its own there, or let the services of both use one DSN of ours")
            } else {
                let message = format!(
                    "project {first} sends to this GlitchTip too, which takes an event id once in 300 s over all its projects"
                );
                (message, "an event that is sent to both projects is stored in one of them only")
            };
            report.warning(&path, message, Some(help.into()));
        }
    }
}

fn check_unused(file: &File, report: &mut Report<'_>) {
    if file.projects.is_empty() {
        return;
    }
    let section = Path::default().key("upstreams");
    let used: BTreeSet<_> = file.projects.iter().flat_map(|project| project.upstreams.keys()).collect();
    for name in file.upstreams.keys().filter(|name| !used.contains(name)) {
        // A DSN that could not be read counts as a use as well.
        let projects = Path::default().key("projects");
        let mentioned = (0..file.projects.len()).any(|i| report.has(&projects.index(i).key("upstreams").key(name)));
        if !mentioned {
            report.warning(&section.key(name), "no project has a DSN here: it will get nothing", None);
        }
    }
}

//! The services that a report expects: which were seen, and by the keys of which projects.
//!
//! Rule: a project is seen by its accepted items, without those of `send-test`. The intake notes names as they come, and has room for
//! expected ones. A name that is expected only later may have found no room, so the kept records are searched for it, once.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::journal::JournalError;
use crate::journal::evidence::{Evidence, Tally};
use crate::protocol::marked::TEST;
use crate::telemetry::report::ServiceReport;

use super::names::is_behind;
use super::state::{Admin, View};

/// The expected services, each with what is known of it since `since`.
pub(super) async fn services(
    admin: &Admin,
    view: &View,
    evidence: &Evidence,
    since: Timestamp,
) -> Result<Vec<ServiceReport>, JournalError> {
    let projects: Arc<[Arc<str>]> = view.routing.projects.iter().map(|project| Arc::clone(&project.name)).collect();
    let expected: Vec<Box<str>> = match view.report.expect.as_slice() {
        [] => projects.iter().map(|project| (**project).into()).collect(),
        expected => expected.to_vec(),
    };
    let mut services: Vec<ServiceReport> = expected.iter().map(|name| service(evidence, name, &projects)).collect();
    let is_silent =
        |service: &&mut ServiceReport| !service.seen && !projects.iter().any(|name| **name == *service.name);
    let mut silent: Vec<&mut ServiceReport> = services.iter_mut().filter(is_silent).collect();
    if silent.is_empty() {
        return Ok(services);
    }
    let names = silent.iter().map(|service| service.name.as_str().into()).collect();
    let kept = admin.kept_names.find(&admin.journal, names, (&expected, &projects)).await?;
    for service in &mut silent {
        let seen = kept.get(service.name.as_str()).into_iter().flatten().filter(|(_, at)| **at >= since);
        service.projects = seen.map(|(project, _)| project.to_string()).collect();
        service.seen = !service.projects.is_empty();
    }
    Ok(services)
}

/// Whether a service was seen, and by the keys of which projects. The name of a project means that project. A name as `shop/api` means
/// a service of the project `shop`, and any other name a service of any project.
fn service(evidence: &Evidence, name: &str, projects: &[Arc<str>]) -> ServiceReport {
    let has = |what: &str, kind: &str| {
        evidence.intake.iter().any(|tally| &*tally.what == what && &*tally.kind == kind && tally.count > 0)
    };
    let accepts = |project: &str| {
        let own = evidence.accounts.iter().filter(|(key, _)| key.upstream.is_none() && &*key.project == project);
        let test = Tally::seen(project, TEST, 0).kind;
        let tests = evidence.intake.iter().filter(|tally| &*tally.what == "seen" && tally.kind == test);
        own.map(|(_, account)| account.accepted).sum::<u64>() > tests.map(|tally| tally.count).sum::<u64>()
    };
    let is_project = projects.iter().any(|project| **project == *name);
    let is_behind_any = projects.iter().any(|project| is_behind(name, project));
    let by = |project: &&Arc<str>| match () {
        () if is_project => ***project == *name && accepts(name),
        () if is_behind_any => is_behind(name, project) && has("seen", name),
        () => has("seen", &format!("{project}/{name}")),
    };
    let by: Vec<String> = projects.iter().filter(by).map(|project| project.to_string()).collect();
    // Evidence of an older version does not name the project.
    ServiceReport { name: name.to_owned(), seen: !by.is_empty() || has("service", name), projects: by }
}

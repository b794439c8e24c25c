//! Routing: projects, the primary, the mirror. A [`Routing`] is one consistent view; a switch replaces it as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use ring::digest::{SHA256, digest};

use crate::protocol::dsn::{Dsn, constant_form};

use super::outcome::DropReason;

/// An inbound identity: what services put in their DSN, and the DSN of the same project at each upstream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Project {
    /// The name in metrics, logs and status.
    pub name: Arc<str>,
    /// The project id in the path of requests.
    pub id: Box<str>,
    /// The public key that clients send, in the form in which keys are compared.
    pub public_key: PublicKey,
    /// The DSN at each upstream that gets this project's data, by the upstream's name.
    pub dsns: BTreeMap<Arc<str>, Dsn>,
    /// The project's name in an upstream's API, as in `organization/project`, if it is configured.
    pub places: BTreeMap<Arc<str>, Box<str>>,
    /// A primary of its own.
    pub primary: Option<Arc<str>>,
    /// A mirror setting of its own.
    pub mirror: Option<bool>,
}

/// How the mark of a relay begins.
pub const MARK: &str = "switchyard-";

impl Project {
    /// The mark on requests to this project's upstreams, by which the relay knows them when they come back. It is made of the identity
    /// and the DSNs, so relays with one configuration have one mark, and a chain of relays, each with other DSNs, has several.
    pub fn mark(&self) -> String {
        let mut text = format!("{} {}", self.id, self.public_key.expose());
        for (upstream, dsn) in &self.dsns {
            text.push_str(&format!("\n{upstream} {}", dsn.reveal()));
        }
        let half = digest(&SHA256, text.as_bytes()).as_ref().first_chunk().copied().map_or(0, u128::from_be_bytes);
        format!("{MARK}{half:032x}")
    }
}

/// A project's key in the form in which keys are compared. Not shown.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(Box<str>);

impl PublicKey {
    /// The comparable form of a key as configured or as sent.
    pub fn new(key: &str) -> Self {
        Self(constant_form(key).into())
    }

    /// Whether a key as sent is this one.
    pub fn is(&self, sent: &str) -> bool {
        *self.0 == *sent || *self.0 == *constant_form(sent)
    }

    /// The key itself, for a DSN that is shown to its owner.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// The routing at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Routing {
    /// The upstream the team trusts now.
    pub primary: Arc<str>,
    /// Whether shadows receive new envelopes.
    pub mirror: bool,
    /// The projects.
    pub projects: Vec<Arc<Project>>,
}

/// The route of one submission, decided under exactly one primary.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Route {
    /// The upstreams that get it, the primary first.
    pub deliver: Vec<Arc<str>>,
    /// The upstreams that are configured for the project and do not get it.
    pub withheld: Vec<(Arc<str>, DropReason)>,
}

impl Routing {
    /// The primary of a project.
    pub fn primary_of<'a>(&'a self, project: &'a Project) -> &'a Arc<str> {
        project.primary.as_ref().unwrap_or(&self.primary)
    }

    /// Whether the shadows of a project receive new envelopes.
    pub fn mirror_of(&self, project: &Project) -> bool {
        project.mirror.unwrap_or(self.mirror)
    }

    /// The route of a submission of `project`.
    pub fn route(&self, project: &Project) -> Route {
        let primary = self.primary_of(project);
        let mirror = self.mirror_of(project);
        let mut route = Route::default();
        for upstream in project.dsns.keys() {
            if upstream == primary {
                route.deliver.insert(0, Arc::clone(upstream));
            } else if mirror {
                route.deliver.push(Arc::clone(upstream));
            } else {
                route.withheld.push((Arc::clone(upstream), DropReason::MirrorOff));
            }
        }
        route
    }

    /// The project of that name.
    pub fn project(&self, name: &str) -> Option<&Arc<Project>> {
        self.projects.iter().find(|project| &*project.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project() -> Project {
        let dsn = |host: &str| format!("http://k@{host}/1").parse().unwrap();
        Project {
            name: "shop".into(),
            id: "1".into(),
            public_key: PublicKey::new("k"),
            dsns: [("glitchtip".into(), dsn("a")), ("sentry".into(), dsn("b"))].into(),
            places: [].into(),
            primary: None,
            mirror: None,
        }
    }

    #[test]
    fn the_primary_comes_first_and_the_mirror_decides_about_the_rest() {
        let mut routing = Routing { primary: "sentry".into(), mirror: true, projects: vec![] };
        assert_eq!(routing.route(&project()).deliver, ["sentry".into(), "glitchtip".into()]);
        routing.mirror = false;
        let route = routing.route(&project());
        assert_eq!(route.deliver, ["sentry".into()]);
        assert_eq!(route.withheld, [("glitchtip".into(), DropReason::MirrorOff)]);
    }

    #[test]
    fn a_project_may_have_its_own_primary_and_mirror() {
        let routing = Routing { primary: "sentry".into(), mirror: true, projects: vec![] };
        let own = Project { primary: Some("glitchtip".into()), mirror: Some(false), ..project() };
        assert_eq!(routing.route(&own).deliver, ["glitchtip".into()]);
    }
}

//! The configuration: one file, checked as a whole, watched, compared and edited.
//!
//! | file | does |
//! | --- | --- |
//! | `load` | turns a file's text into a [`Config`], or into all its problems at once |
//! | `tree`, `interpolate`, `shape`, `resolve`, `projects`, `api`, `canary`, `requests`, `notifications`, `shared`, `certificate` | the steps of loading: places in the text, `${…}`, kinds of values, checks of single sections and across them, the files that options name |
//! | `report`, `diagnostics`, `mask`, `suggest` | problems: collects them, shows them, hides secrets, suggests the intended word |
//! | `common` | the part of the configuration that relays on one database share |
//! | `diff` | the changes between two configurations, and which of them need a restart |
//! | `watch` | tells when the file's content changed |
//! | `edit` | changes the line `primary`, and no other byte |
//!
//! The other rooms define their own settings; this folder gathers them. It decides whether a file is valid. The daemon decides when to load
//! it again and what follows from that.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::http::listener::tls::Certificate;
use crate::http::settings::{Admin, Server};
use crate::policy::limits::Limits;
use crate::policy::routing::{Project, Routing};
use crate::policy::{canary as canaries, dedup, verification};
use crate::telemetry::report::criteria;
use crate::{delivery, journal, notify};

mod api;
mod canary;
mod certificate;
mod checks;
pub mod common;
pub mod diagnostics;
pub mod diff;
pub mod edit;
mod interpolate;
mod load;
mod mask;
mod notifications;
mod projects;
mod report;
mod requests;
mod resolve;
mod shape;
mod shared;
mod suggest;
#[cfg(test)]
mod tests;
mod tree;
pub mod watch;

pub use crate::delivery::asking::{Api, There};
pub use crate::delivery::headers::Headers;
pub use crate::delivery::settings::{Kind, Settings as Upstream};
pub use interpolate::{Variables, followed};
pub use load::{Fingerprint, Loaded, load, parse};

/// A valid configuration. Its debug form shows no secrets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The upstream the team trusts now.
    pub primary: Arc<str>,
    /// Whether upstreams other than the primary receive new envelopes.
    pub mirror: bool,
    /// The listener that SDKs talk to.
    pub server: Server,
    /// The certificate and key of the TLS listener: the contents of `server.tls_cert` and `server.tls_key` when the file was loaded.
    pub certificate: Option<Certificate>,
    /// The listener for metrics, health, status and the JSON API.
    pub admin: Admin,
    /// The journal.
    pub journal: journal::Settings,
    /// Recognition of duplicates.
    pub dedup: dedup::Settings,
    /// The limits on incoming items, for all projects and for single ones.
    pub limits: Limits,
    /// The criteria for a candidate.
    pub report: criteria::Settings,
    /// Canaries.
    pub canary: canaries::Settings,
    /// Verification that trackers store the events that they take.
    pub verify: verification::Settings,
    /// The receivers of notifications.
    pub notify: Vec<notify::Settings>,
    /// The upstreams by name: at least one, at most [`MAX_TARGETS`](journal::MAX_TARGETS).
    pub upstreams: BTreeMap<Arc<str>, delivery::settings::Settings>,
    /// The projects: at least one.
    pub projects: Vec<Arc<Project>>,
}

impl Config {
    /// Which upstreams receive the envelopes of which project.
    pub fn routing(&self) -> Routing {
        Routing { primary: Arc::clone(&self.primary), mirror: self.mirror, projects: self.projects.clone() }
    }
}

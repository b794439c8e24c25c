//! The configuration: one file, checked as a whole, watched, compared and edited.
//!
//! | file | does |
//! | --- | --- |
//! | `load` | a file's text to a [`Config`], or to everything that is wrong with it at once |
//! | `tree`, `interpolate`, `shape`, `resolve`, `projects`, `api`, `canary`, `requests`, `notifications`, `shared`, `certificate` | its steps: places, `${…}`, kinds of values, checks across values, what they name |
//! | `report`, `diagnostics`, `mask`, `suggest` | problems: gathered, shown, without secrets, with the word that was meant |
//! | `common` | what relays on one database have in common of it |
//! | `diff` | what a change changes, and what of it needs a restart |
//! | `watch` | tells when the file's content changed |
//! | `edit` | changes the line `primary`, and no other byte |
//!
//! The parts define their own settings; this folder gathers them. It decides whether a file is fit for use. When to load it again,
//! and what follows from that, is for the daemon.

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

/// A configuration that is fit for use. Its debug form shows no secrets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The upstream the team trusts now.
    pub primary: Arc<str>,
    /// Whether upstreams other than the primary receive new envelopes.
    pub mirror: bool,
    /// The listener that SDKs talk to.
    pub server: Server,
    /// What it serves when it speaks TLS: what `server.tls_cert` and `server.tls_key` held when the file was loaded.
    pub certificate: Option<Certificate>,
    /// The listener for metrics, health, status and the JSON API.
    pub admin: Admin,
    /// The journal.
    pub journal: journal::Settings,
    /// Duplicates.
    pub dedup: dedup::Settings,
    /// What may come in, of each project.
    pub limits: Limits,
    /// What a candidate must achieve.
    pub report: criteria::Settings,
    /// Canaries.
    pub canary: canaries::Settings,
    /// How it is looked whether trackers store what they take.
    pub verify: verification::Settings,
    /// Who is told when something breaks.
    pub notify: Vec<notify::Settings>,
    /// The upstreams by name: at least one, at most [`MAX_TARGETS`](journal::MAX_TARGETS).
    pub upstreams: BTreeMap<Arc<str>, delivery::settings::Settings>,
    /// The projects: at least one.
    pub projects: Vec<Arc<Project>>,
}

impl Config {
    /// Who gets what under this configuration.
    pub fn routing(&self) -> Routing {
        Routing { primary: Arc::clone(&self.primary), mirror: self.mirror, projects: self.projects.clone() }
    }
}

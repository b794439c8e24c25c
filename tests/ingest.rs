//! The client's view: every way to authenticate, to encode and to misbehave, and the answer.
//!
//! Rule: every request goes through the public listener of the real daemon, and every test ends with balanced accounts and an orderly stop.

mod support;

mod ingest {
    pub(crate) mod auth;
    pub(crate) mod bodies;
    pub(crate) mod connections;
    pub(crate) mod crashes;
    pub(crate) mod duplicates;
    pub(crate) mod endpoints;
    pub(crate) mod hangups;
    pub(crate) mod limits;
    pub(crate) mod patience;
    pub(crate) mod peer;
    pub(crate) mod policing;
    pub(crate) mod proxied;
    pub(crate) mod routes;
    pub(crate) mod shadows;
    pub(crate) mod store;
    pub(crate) mod tls;
    pub(crate) mod tunnel;
    pub(crate) mod upstream_limits;
}

use support::envelopes::KEY;
use support::relay::{Plan, Relay};
use support::upstream::Upstream;

/// A relay with one upstream.
async fn front() -> (Relay, Upstream) {
    front_of(|plan| plan).await
}

/// Like [`front`], with `shape` applied to the plan.
async fn front_of(shape: impl FnOnce(Plan) -> Plan) -> (Relay, Upstream) {
    let upstream = Upstream::start().await;
    let relay = shape(Plan::new(&[("tracker", upstream.dsn("cafe", 7))])).start().await;
    (relay, upstream)
}

/// A path of the project with the key in its query.
fn keyed(path: &str) -> String {
    format!("{path}?sentry_version=7&sentry_key={KEY}")
}

/// The number of requests that were refused for this reason.
async fn refused(relay: &Relay, reason: &str) -> f64 {
    relay.samples().await.expect("metrics").sum("switchyard_refused_requests_total", &[("reason", reason)])
}

//! The relay between real peers: the first upstream is the primary, and each has a `kind`.

use crate::support::relay::{Plan, Relay};

/// An upstream of the configuration.
pub(crate) struct Upstream<'a> {
    /// Its name in the configuration, in labels and in `primary`.
    pub(crate) name: &'a str,
    /// A `kind` of the contract.
    pub(crate) kind: &'a str,
    /// The DSN of the one project there.
    pub(crate) dsn: &'a str,
}

/// Starts a relay that mirrors to all `upstreams` and waits until it is ready.
pub(crate) async fn start(upstreams: &[Upstream<'_>]) -> Relay {
    let dsns: Vec<(&str, String)> = upstreams.iter().map(|upstream| (upstream.name, upstream.dsn.to_owned())).collect();
    let plan = upstreams.iter().fold(Plan::new(&dsns), |plan, upstream| {
        plan.upstream(upstream.name, &format!("kind = \"{}\"", upstream.kind))
    });
    plan.start().await
}

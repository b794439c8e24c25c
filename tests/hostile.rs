//! Hostile input through the front door: bombs, clients that never read or never finish, crowds, tricks in paths and headers.
//!
//! Rule: each test states the attack's maximum cost in memory and time and sends good envelopes meanwhile, which must be answered and
//! arrive. Figures go to standard error.

mod support;

mod hostile {
    pub(crate) mod beside;
    mod bombs;
    mod crowds;
    mod heads;
    mod names;
    mod paths;
    mod resets;
    mod slow;
    mod words;
}

use support::envelopes::KEY;
use support::relay::{Plan, Relay};
use support::upstream::Upstream;

/// A relay with one upstream.
async fn front() -> (Relay, Upstream) {
    let upstream = Upstream::start().await;
    let relay = Plan::new(&[("tracker", upstream.dsn("cafe", 7))]).start().await;
    (relay, upstream)
}

/// A path of the project with the key in its query.
fn keyed(path: &str) -> String {
    format!("{path}?sentry_version=7&sentry_key={KEY}")
}

//! Real clients send one of everything they can through the relay to two upstreams.
//!
//! Rule: each item that a client says it sent must be at both upstreams, and both must have the same items. Clients are installed into
//! `target/peers/` on first use; one that cannot be installed fails the test. These tests know the contract, not the sources.

#[allow(dead_code, reason = "each test crate uses its part")]
#[path = "peers/install.rs"]
mod install;
mod support;

mod clients {
    pub(crate) mod between;
    mod browser;
    pub(crate) mod items;
    mod legacy;
    mod node;
    mod operator;
    pub(crate) mod program;
    mod python;
    mod rust;
    mod sentry_cli;
}

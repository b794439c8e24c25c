//! Real clients through the relay to two upstreams: one of everything that each of them can send.
//!
//! Rule: what a client says it sent is looked for at both upstreams, item by item, and what one upstream has the other has, too. Clients
//! are installed on first use into `target/peers/`; one that cannot be had fails the test. These tests know the contract, not the sources.

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

//! Shared by the relay's tests: the relay as a real process, scripted upstreams, and waiting with a deadline.
#![allow(dead_code, reason = "each test crate uses its part")]
pub(crate) mod connection;
pub(crate) mod envelopes;
pub(crate) mod eventually;
pub(crate) mod fault_proxy;
pub(crate) mod glitchtip;
pub(crate) mod http2;
pub(crate) mod line;
pub(crate) mod load;
pub(crate) mod machines;
pub(crate) mod memory;
pub(crate) mod meter;
pub(crate) mod net;
pub(crate) mod patroni;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod relay;
pub(crate) mod samples;
pub(crate) mod tls;
pub(crate) mod upstream;
pub(crate) mod wire;

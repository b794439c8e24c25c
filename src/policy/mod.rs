//! Decisions. Values in, values out: `now` is passed in, nothing here opens a socket or a file.

pub mod apart;
pub mod backoff;
pub mod canary;
pub mod circuit;
pub mod cooldown;
pub mod dedup;
pub mod hold;
pub mod incidents;
pub mod limiter;
pub mod limits;
pub mod outcome;
pub mod refusals;
pub mod routing;
pub mod sampling;
pub mod shadow;
pub mod standing;
pub mod storm;
pub mod suspects;
pub mod verdict;
pub mod verification;

//! The size limits of bodies, and why a body was not read to its end.

use std::fmt;

use crate::http::listener::received::Stopping;
use crate::intake::legacy;
use crate::protocol::item::ItemType;

/// The least bytes per second that a body must bring in the long run.
pub(super) const SLOWEST: u64 = 4096;

/// The most bytes of a body, and where this limit comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) struct Limit {
    bytes: u64,
    of: Of,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Option(&'static str),
    One(&'static str),
    Event,
    Endpoint,
}

impl Limit {
    /// The limit that an option of the configuration sets.
    pub(in crate::http) const fn option(bytes: u64, name: &'static str) -> Self {
        Self { bytes, of: Of::Option(name) }
    }

    /// The limit of one request of this kind.
    pub(in crate::http) const fn one(bytes: u64, what: &'static str) -> Self {
        Self { bytes, of: Of::One(what) }
    }

    /// The limit of one stored event's body, packed or not. It is larger than an event may be, so that a refusal can name the size.
    pub(in crate::http) const fn event() -> Self {
        Self { bytes: legacy::LONGEST, of: Of::Event }
    }

    /// The limit of an endpoint of the primary.
    pub(in crate::http) const fn endpoint(bytes: u64) -> Self {
        Self { bytes, of: Of::Endpoint }
    }

    pub(in crate::http) const fn bytes(self) -> u64 {
        self.bytes
    }

    /// The smaller one of the two.
    pub(in crate::http) fn or(self, other: Self) -> Self {
        if other.bytes < self.bytes { other } else { self }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, ", self.bytes)?;
        match self.of {
            Of::Option(name) => write!(f, "the limit of {name}"),
            Of::One(what) => write!(f, "the limit of one {what}"),
            Of::Event => write!(f, "too many for an event item, whose limit is {}", event_limit()),
            Of::Endpoint => f.write_str("the limit of this endpoint"),
        }
    }
}

fn event_limit() -> u64 {
    ItemType::Event.size_limit().unwrap_or(u64::MAX)
}

/// Why a body was not read to its end.
#[derive(Debug, thiserror::Error)]
pub(in crate::http) enum BodyError {
    /// The body is over its limit: 413.
    #[error("the {what} has more than {limit}")]
    TooLarge {
        /// The body as sent, or what was decoded from it.
        what: &'static str,
        /// The limit that applies.
        limit: Limit,
    },
    /// Nothing came for too long, or the body came too slowly: 408.
    #[error("the body arrives too slowly: {SLOWEST} bytes a second are expected")]
    Timeout,
    /// The bodies in memory together have reached their limit: 503.
    #[error("too many bytes are in flight, try again later")]
    Overloaded,
    /// It was not there when the daemon stopped: 503.
    #[error("the body did not come before the relay stopped, try again later")]
    Stopping,
    /// The client left, or its chunks cannot be read: 400, if anybody still listens.
    #[error("the body broke off")]
    Disconnected,
}

impl BodyError {
    /// What a body broke off by.
    pub(super) fn of(error: axum::Error) -> Self {
        if error.into_inner().is::<Stopping>() { Self::Stopping } else { Self::Disconnected }
    }

    /// The body itself is too large.
    pub(in crate::http) const fn too_large(limit: Limit) -> Self {
        Self::TooLarge { what: "body", limit }
    }
}

//! What goes with a body into its record.
//!
//! Rule: kept as JSON, so a field that is new, or empty, is absent in a record.

use serde::{Deserialize, Serialize};

use crate::policy::outcome::DropReason;
use crate::protocol::endpoint::RawRequest;

use super::TargetId;

/// What is known of a submission besides its bytes: who sent it, and where to when not to the envelope endpoint, as far as
/// upstreams are told it; and what some of them are not to get of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// `User-Agent` as sent.
    #[serde(rename = "ua", default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<Box<str>>,
    /// `Origin` as sent.
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Box<str>>,
    /// The `X-Forwarded-For` chain to send on: the trusted part of what came, then the peer.
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    pub forwarded_for: Option<Box<str>>,
    /// `sentry_client` of the authentication.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub sentry_client: Option<Box<str>>,
    /// What was asked for when it is no envelope: then the body is that request's and goes out as it is.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Box<RawRequest>>,
    /// What was decided about single items when it was taken in.
    #[serde(rename = "x", default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// What is to become of it when it is moved to the journal that several relays share.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub spilled: Option<Box<Spilled>>,
}

impl Client {
    /// Ourselves: what goes with a record that nobody sent us.
    pub fn ours() -> Self {
        let name = concat!("switchyard/", env!("CARGO_PKG_VERSION"));
        Self { user_agent: Some(name.into()), sentry_client: Some(name.into()), ..Self::default() }
    }
}

/// What goes with a submission that is kept on this machine until it can be moved to the shared journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spilled {
    /// The number that its record has there, if the commit took place of which nobody knew the outcome.
    #[serde(rename = "n", default)]
    pub number: Option<u64>,
    /// The keys by which it is recognised there, each in two halves.
    #[serde(rename = "k")]
    pub keys: Vec<(u64, u64)>,
    /// From when on a record with such a key makes it a repeat, in milliseconds.
    #[serde(rename = "w")]
    pub repeats_since: u64,
    /// The upstreams that get it.
    #[serde(rename = "t")]
    pub targets: Vec<TargetId>,
    /// The upstreams that do not, and why.
    #[serde(rename = "h")]
    pub withheld: Vec<(TargetId, DropReason)>,
}

/// Items of a record that a target is not to get, though it gets others. They wait with the record, and are dropped for this reason
/// when it is claimed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The target.
    #[serde(rename = "t")]
    pub target: TargetId,
    /// Why.
    #[serde(rename = "w")]
    pub why: DropReason,
    /// Their positions.
    #[serde(rename = "i")]
    pub items: Vec<u16>,
}

//! The data that a record keeps about its client, beside the body.
//!
//! Rule: it is stored as JSON without empty fields, so an older record simply lacks a new field.

use serde::{Deserialize, Serialize};

use crate::policy::outcome::DropReason;
use crate::protocol::endpoint::RawRequest;

use super::TargetId;

/// The client of a submission, as upstreams are told of it; the endpoint if it is not the envelope endpoint; and the items that some
/// upstreams do not get.
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
    /// The marks of the relays that it came through, as a list.
    #[serde(rename = "v", default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Box<str>>,
    /// The request of a body that is not an envelope. Its body is sent on unchanged.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Box<RawRequest>>,
    /// Items that the intake withholds from single targets.
    #[serde(rename = "x", default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// How the record is moved to the shared journal; `None` unless it is spilled on this machine.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub spilled: Option<Box<Spilled>>,
}

impl Client {
    /// The relay itself, for records that no client sent.
    pub fn ours() -> Self {
        let name = concat!("switchyard/", env!("CARGO_PKG_VERSION"));
        Self { user_agent: Some(name.into()), sentry_client: Some(name.into()), ..Self::default() }
    }
}

/// How to move a spilled submission, which is kept on this machine, to the shared journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spilled {
    /// The record's number in the shared journal, if an earlier commit of unknown outcome took place.
    #[serde(rename = "n", default)]
    pub number: Option<u64>,
    /// The keys by which repeats of it are recognised, each in two halves.
    #[serde(rename = "k")]
    pub keys: Vec<(u64, u64)>,
    /// A record accepted then or later with one of these keys makes it a repeat. Milliseconds since the epoch.
    #[serde(rename = "w")]
    pub repeats_since: u64,
    /// The upstreams that get it.
    #[serde(rename = "t")]
    pub targets: Vec<TargetId>,
    /// The upstreams that do not get it, and why.
    #[serde(rename = "h")]
    pub withheld: Vec<(TargetId, DropReason)>,
}

/// Items that are withheld from one target, which gets the rest of the record. They wait with the record and are dropped when it is
/// claimed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The target.
    #[serde(rename = "t")]
    pub target: TargetId,
    /// The reason they are dropped for.
    #[serde(rename = "w")]
    pub why: DropReason,
    /// The positions of the items.
    #[serde(rename = "i")]
    pub items: Vec<u16>,
}

//! Relays on one journal share limits and circuits, so that together they neither send nor accept more than one relay would.
//!
//! Invariants:
//!
//! - When one relay learns something of an upstream, all relays hear it with their next exchange, including those that join later.
//! - One relay at a time probes an open circuit, until it reports the result, gives the probe up, or is gone.
//! - Together the live relays never have more places at an upstream than the largest number that one of them names.
//! - A relay that is gone has neither places nor a probe.
//!
//! A relay that does not share its journal has no such port.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::clock::Timestamp;
use crate::policy::standing::{Lesson, Relay, Share, Standing};
use crate::protocol::category::Category;

use super::{Call, TargetId};

/// A limit of the intake, by project and category.
pub type Limited = (Arc<str>, Category);

/// What a relay tells the others.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// What it has learnt of upstreams, in order. A lesson may be told again.
    pub lessons: Vec<(TargetId, Lesson)>,
    /// The intake limits that were in use lately.
    pub busy: BTreeSet<Limited>,
}

/// What a relay hears.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The relay itself.
    pub relay: Relay,
    /// Its share among the live relays.
    pub share: Share,
    /// What the relays know of the upstreams.
    pub standings: BTreeMap<TargetId, Standing>,
    /// The journal's time at this exchange; the times in `standings` are by the same clock.
    pub now: Timestamp,
    /// For each intake limit, the number of other relays that used it lately.
    pub others: BTreeMap<Limited, u32>,
}

impl Heard {
    /// The time from now until `then`; zero when that is past.
    pub fn left(&self, then: Timestamp) -> Duration {
        then.since(self.now)
    }

    /// The time from `then` until now; zero when that is to come.
    pub fn ago(&self, then: Timestamp) -> Duration {
        self.now.since(then)
    }
}

/// Exchanges limits and circuits with the other relays.
pub trait Pace: Send + Sync {
    /// The number of live relays when this one joined the journal, itself included.
    fn joined(&self) -> u32;

    /// Tells, and hears what all know with that. When it fails, nobody knows how much of it was told.
    fn exchange(&self, told: Told) -> Call<'_, Heard>;

    /// Returns when another relay may have told something. It may miss some: the caller also exchanges every second.
    fn stirred(&self) -> BoxFuture<'_, ()>;
}

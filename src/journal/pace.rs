//! What relays on one journal tell each other so that together they send no more than one would, and let in no more.
//!
//! Invariants:
//!
//! - What one relay learns of an upstream all hear with their next exchange, those that join later included.
//! - Of an open circuit one relay at a time finds out more, until it says what it found, forgoes it, or is gone.
//! - The relays that live never have more places at an upstream together than the most that they name.
//! - Whoever is gone has neither places nor a probe.
//!
//! A relay that shares its journal with nobody has no such port.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::clock::Timestamp;
use crate::policy::standing::{Lesson, Relay, Share, Standing};
use crate::protocol::category::Category;

use super::{Call, TargetId};

/// A limit on what comes in: its project and category.
pub type Limited = (Arc<str>, Category);

/// What one relay tells the others.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// What it has learnt of upstreams, in this order. What was told before may be told again.
    pub lessons: Vec<(TargetId, Lesson)>,
    /// The limits under which something came lately.
    pub busy: BTreeSet<Limited>,
}

/// What a relay hears.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The relay itself.
    pub relay: Relay,
    /// Which of the relays that live it is.
    pub share: Share,
    /// What all know of the upstreams.
    pub standings: BTreeMap<TargetId, Standing>,
    /// The time by which they say it, as it was read for this answer.
    pub now: Timestamp,
    /// Under how many other relays' limits something came lately.
    pub others: BTreeMap<Limited, u32>,
}

impl Heard {
    /// How long it is until then.
    pub fn left(&self, then: Timestamp) -> Duration {
        then.since(self.now)
    }

    /// How long ago that was.
    pub fn ago(&self, then: Timestamp) -> Duration {
        self.now.since(then)
    }
}

/// Tells the other relays, and hears them.
pub trait Pace: Send + Sync {
    /// How many relays lived when this one joined the journal, itself included.
    fn joined(&self) -> u32;

    /// Tells, and hears what all know with that. When it fails, nobody knows how much of it was told.
    fn exchange(&self, told: Told) -> Call<'_, Heard>;

    /// Returns when another relay may have told something. It need not: whoever waits for it exchanges every second besides.
    fn stirred(&self) -> BoxFuture<'_, ()>;
}

//! The pace that nodes share: limits, refusals and outages of upstreams.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;

use crate::journal::pace::{Heard, Limited, Told};
use crate::journal::{JournalError, Pace, TargetId};
use crate::policy::standing::{Share, Standing};

use super::{Node, State};

/// The standing of each target.
#[derive(Debug, Default)]
pub(super) struct Kept(BTreeMap<TargetId, Standing>);

impl Pace for Node {
    fn joined(&self) -> u32 {
        1
    }

    fn exchange(&self, told: Told) -> BoxFuture<'_, Result<Heard, JournalError>> {
        self.call(|state| Ok(exchange(state, self.owner, told)))
    }

    fn stirred(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

fn exchange(state: &mut State, owner: u64, told: Told) -> Heard {
    let now = state.clock.now();
    let alive: Vec<u64> = state.nodes.keys().copied().collect();
    let standings = &mut state.pace.0;
    standings.values_mut().for_each(|standing| standing.forget(|node| alive.contains(&node), now));
    for (target, lesson) in &told.lessons {
        standings.entry(*target).or_default().learn(owner, lesson, now);
    }
    let standings = standings.clone();
    let mut others: BTreeMap<Limited, u32> = BTreeMap::new();
    for (_, member) in state.nodes.iter().filter(|(other, _)| **other != owner) {
        member.busy.iter().for_each(|limited| *others.entry(limited.clone()).or_default() += 1);
    }
    state.nodes.get_mut(&owner).expect("a node that lives").busy = told.busy;
    let position = alive.iter().position(|node| *node == owner).expect("it lives");
    let count = |nodes: usize| u32::try_from(nodes).expect("few");
    Heard { relay: owner, share: Share { position: count(position), of: count(alive.len()) }, standings, now, others }
}

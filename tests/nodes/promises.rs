//! What is promised of a journal, kept by the backend in memory.

use std::sync::Arc;

use crate::contract::{self, Backend};
use crate::journal::Journal;
use crate::telemetry::ledger::Ledger;
use crate::toy::Cluster;
use crate::units::ByteSize;

/// One node after another, of one state that outlives them.
struct Alone(Cluster);

impl Backend for Alone {
    fn open(&mut self, ledger: Ledger) -> Arc<dyn Journal> {
        Arc::new(self.0.join("alone", ledger))
    }

    fn crash(&mut self, running: Arc<dyn Journal>) {
        drop(running);
    }
}

fn in_memory(max: ByteSize) -> Box<dyn Backend> {
    Box::new(Alone(Cluster::new(max.get())))
}

contract::suite!(in_memory);

/// Several nodes of one state.
struct Together(Cluster, Vec<(Arc<dyn Journal>, u64)>);

impl contract::nodes::Cluster for Together {
    fn join(&mut self, ledger: Ledger) -> Arc<dyn Journal> {
        let node = self.0.join(&format!("relay-{}", self.1.len()), ledger);
        let owner = node.owner();
        let node: Arc<dyn Journal> = Arc::new(node);
        self.1.push((Arc::clone(&node), owner));
        node
    }

    fn lose(&mut self, relay: &Arc<dyn Journal>) {
        let owner = self.1.iter().find(|(node, _)| Arc::ptr_eq(node, relay)).map(|(_, owner)| *owner);
        self.0.bury(owner.expect("one of ours"));
    }
}

fn together() -> Box<dyn contract::nodes::Cluster> {
    Box::new(Together(Cluster::new(contract::ENOUGH.get()), vec![]))
}

contract::cluster_suite!(together);

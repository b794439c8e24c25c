//! The promises of a journal, checked for the backend in memory.

use std::ptr;
use std::sync::Arc;

use crate::contract::{self, Backend};
use crate::journal::Journal;
use crate::telemetry::ledger::Ledger;
use crate::toy::{Cluster, Node};
use crate::units::ByteSize;

/// One node after another on a state that outlives them.
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

/// Several nodes on one state.
struct Together(Cluster, Vec<Arc<Node>>);

impl Together {
    fn start(&mut self, name: &str, ledger: Ledger) -> Arc<dyn Journal> {
        let node = Arc::new(self.0.join(name, ledger));
        self.1.push(Arc::clone(&node));
        node
    }

    fn node(&self, relay: &Arc<dyn Journal>) -> &Node {
        self.1.iter().find(|node| ptr::addr_eq(Arc::as_ptr(node), Arc::as_ptr(relay))).expect("one of ours")
    }
}

impl contract::nodes::Cluster for Together {
    fn join(&mut self, ledger: Ledger) -> Arc<dyn Journal> {
        self.start(&format!("relay-{}", self.1.len()), ledger)
    }

    fn lose(&mut self, relay: &Arc<dyn Journal>) {
        self.0.bury(self.node(relay).owner());
    }

    fn replace(&mut self, relay: &Arc<dyn Journal>) -> Arc<dyn Journal> {
        let name = self.node(relay).name().to_owned();
        self.start(&name, Ledger::default())
    }
}

fn together() -> Box<dyn contract::nodes::Cluster> {
    Box::new(Together(Cluster::new(contract::ENOUGH.get()), vec![]))
}

contract::cluster_suite!(together);

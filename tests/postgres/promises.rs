//! The promises of a journal, checked for PostgreSQL.

use std::sync::{Arc, OnceLock};

use tokio::runtime::Runtime;

use crate::clock::Clock;
use crate::contract::{self, Backend};
use crate::journal::postgres::PostgresJournal;
use crate::journal::{Durability, Journal, Settings};
use crate::support::postgres::{Database, Server};
use crate::telemetry::ledger::Ledger;
use crate::units::ByteSize;

/// One relay after another on one database.
pub(crate) struct Alone {
    pub(crate) database: Database,
    pub(crate) max_size: ByteSize,
}

/// The runtime of the journals' own tasks. A test's runtime, whose clock the suite moves, ends with the test.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().expect("a runtime"))
}

impl Backend for Alone {
    fn open(&mut self, ledger: Ledger) -> Arc<dyn Journal> {
        open(&self.database, "alone", self.max_size, ledger)
    }

    fn crash(&mut self, running: Arc<dyn Journal>) {
        drop(running);
    }
}

/// Opens the journal as the relay `name`.
pub(crate) fn open(database: &Database, name: &str, max_size: ByteSize, ledger: Ledger) -> Arc<PostgresJournal> {
    open_with(database, (name, Durability::Single), max_size, ledger)
}

/// Like [`open`], with this durability of commits.
pub(crate) fn open_with(
    database: &Database,
    (name, durability): (&str, Durability),
    max_size: ByteSize,
    ledger: Ledger,
) -> Arc<PostgresJournal> {
    let url = serde_json::from_value(database.url.clone().into()).expect("an address");
    let node = Some(name.to_owned());
    let settings = Settings { url: Some(url), durability, node, spill: false, max_size, ..Settings::default() };
    let opened =
        std::thread::spawn(move || runtime().block_on(PostgresJournal::open(&settings, Clock::system(), ledger)));
    Arc::new(opened.join().expect("it is opened").unwrap_or_else(|error| panic!("{error}")))
}

/// Creates the tables and a partition for the day on which the suite takes place. No relay would create one for a day long past.
pub(crate) fn of_that_day(database: &Database) {
    drop(open(database, "before", contract::ENOUGH, Ledger::default()));
    database.execute("CREATE TABLE body_0 PARTITION OF body FOR VALUES IN (0)");
    database.execute("UPDATE node SET replaced = true, alive_until = '-infinity'");
}

pub(crate) fn in_a_database(max_size: ByteSize) -> Box<dyn Backend> {
    let database = Server::shared().database();
    of_that_day(&database);
    Box::new(Alone { database, max_size })
}

contract::suite!(in_a_database);

/// Several relays on one database.
struct Together {
    database: Database,
    relays: Vec<(Arc<dyn Journal>, String)>,
}

impl Together {
    fn start(&mut self, name: String, ledger: Ledger) -> Arc<dyn Journal> {
        let relay: Arc<dyn Journal> = open(&self.database, &name, contract::ENOUGH, ledger);
        self.relays.push((Arc::clone(&relay), name));
        relay
    }

    fn name(&self, relay: &Arc<dyn Journal>) -> &str {
        let known = self.relays.iter().find(|(known, _)| Arc::ptr_eq(known, relay));
        known.map(|(_, name)| name).expect("one of ours")
    }
}

impl contract::nodes::Cluster for Together {
    fn join(&mut self, ledger: Ledger) -> Arc<dyn Journal> {
        self.start(format!("relay-{}", self.relays.len()), ledger)
    }

    fn lose(&mut self, relay: &Arc<dyn Journal>) {
        let name = self.name(relay);
        self.database.execute(&format!("UPDATE node SET replaced = true WHERE name = '{name}'"));
    }

    fn replace(&mut self, relay: &Arc<dyn Journal>) -> Arc<dyn Journal> {
        self.start(self.name(relay).to_owned(), Ledger::default())
    }
}

fn together() -> Box<dyn contract::nodes::Cluster> {
    Box::new(Together { database: Server::shared().database(), relays: vec![] })
}

contract::cluster_suite!(together);

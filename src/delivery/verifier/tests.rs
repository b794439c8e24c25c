//! Steps at an upstream without a known project, so that nobody is asked: which events are to be looked up, and when.

use std::time::Duration;

use crate::clock::{Clock, Timestamp};
use crate::delivery::settings::Kind;
use crate::journal::sqlite::SqliteJournal;
use crate::journal::verification::{Advance, Finding, Notes};
use crate::journal::{self, Client, Settlement, Submission};
use crate::protocol::category::{Category, Quantities};
use crate::telemetry::ledger::Ledger;
use crate::units::Secret;

use super::super::api;
use super::*;

/// Lets the target take an event, and puts off its first lookup.
async fn put_off(journal: &dyn Journal, target: TargetId, clock: &Clock) {
    let quantities = Quantities::from_iter([(Category::Error, 1)]);
    let submission = Submission {
        accepted_at: clock.now(),
        project: "shop".into(),
        event_id: Some(7.into()),
        quantities: quantities.clone(),
        keys: vec![],
        repeats_since: Timestamp::default(),
        client: Client::default(),
        body: bytes::Bytes::from_static(b"{}\n").into(),
        targets: vec![target],
        withheld: vec![],
        spans: None,
    };
    journal.append(submission).await.unwrap();
    let claims = journal.claim(target, clock.now(), 1).await.unwrap();
    let settlement = Settlement { delivered: quantities, ..Settlement::default() };
    journal.settle(&claims[0].lease, settlement).await.unwrap();
    let verification = journal.verification();
    let mut batch = Batch::default();
    while batch.fresh.is_empty() {
        batch = verification.wanted(target, Cursor::from_number(u64::MAX >> 1), clock.now(), 9).await.unwrap();
    }
    let found = vec![(batch.fresh[0].record, Finding::PutOff(clock.now() + Duration::from_secs(3600)))];
    let fresh = Some(Advance { from: batch.from, to: batch.reached, found });
    verification.note(target, Notes { fresh, ..Notes::default() }).await.unwrap();
}

#[tokio::test]
async fn a_new_term_looks_up_events_that_another_leader_put_off() {
    let folder = tempfile::tempdir().unwrap();
    let settings = journal::Settings { path: folder.path().join("journal.db"), ..Default::default() };
    let clock = Clock::system();
    let journal: Arc<dyn Journal> = Arc::new(SqliteJournal::open(&settings, clock.clone(), Ledger::default()).unwrap());
    let (name, target): (Arc<str>, _) = ("glitchtip".into(), journal.target("glitchtip").await.unwrap());
    let api = api::Settings { token: Secret::new("token".into()), url: None, remembers: None };
    let upstream = Upstreams { kind: Kind::Glitchtip, api: Some(api), ..Upstreams::default() };
    let verifier = Verifier::new(Arc::clone(&journal), clock.clone(), Board::default());
    let api = Api::of(&upstream).unwrap();
    let tracker = Tracker { target, remembers: api.remembers(), api, places: BTreeMap::new() };
    verifier.configure(&Settings::default(), BTreeMap::from([(Arc::clone(&name), tracker)]));
    let step = async |term| Epoch(term).under(|| verifier.step(&name)).await;
    let waiting = async || journal.verification().put_off(target, clock.now(), 9).await.unwrap().events.len();
    step(1).await;
    put_off(&*journal, target, &clock).await;
    step(1).await;
    assert_eq!(waiting().await, 1, "in its own term it knows what it has put off");
    step(3).await;
    assert_eq!(waiting().await, 0);
}

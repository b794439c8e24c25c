//! Promises about what relays share besides records: the primary, the common part of their configuration, and the chores.

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::time::timeout;

use super::nodes::{Cluster, Two};
use super::*;
use crate::journal::plane::Plane;
use crate::journal::term::Epoch;

/// How long a change may take until it is told.
const TOLD: Duration = Duration::from_secs(20);

fn of(relay: &Arc<dyn Journal>) -> Arc<dyn ControlPlane> {
    Arc::clone(relay).control_plane().expect("it shares its journal")
}

/// Reads what the relays share.
async fn read(relay: &Arc<dyn Journal>) -> Plane {
    of(relay).plane("a", "").await.unwrap()
}

async fn switch(relay: &Arc<dyn Journal>, name: &str) {
    of(relay).share_primary(name).await.unwrap();
}

/// Waits until one of two relays leads. Returns it, the other one, and its term.
async fn leader(two: &Two) -> (Arc<dyn Journal>, Arc<dyn Journal>, Epoch) {
    let mut leads = None;
    eventually("one of them leads", async || {
        for (one, other) in [(&two.one, &two.two), (&two.two, &two.one)] {
            if let Some(epoch) = of(one).leads().await {
                leads = Some((Arc::clone(one), Arc::clone(other), epoch));
            }
        }
        leads.is_some()
    })
    .await;
    leads.unwrap()
}

/// Waits until this relay leads; returns its term.
async fn term(relay: &Arc<dyn Journal>) -> Epoch {
    let mut term = None;
    eventually("it leads", async || {
        term = of(relay).leads().await;
        term.is_some()
    })
    .await;
    term.unwrap()
}

pub(crate) async fn the_first_relay_sets_the_primary_and_a_switch_belongs_to_its_maker(cluster: Box<dyn Cluster>) {
    let mut two = Two::begin(cluster).await;
    let (one, other) = (of(&two.one), of(&two.two));
    let first = one.plane("a", "of one").await.unwrap();
    assert_eq!((first.primary.as_str(), first.is_ours, first.common.as_str()), ("a", true, "of one"));
    let seen = other.plane("b", "of two").await.unwrap();
    assert_eq!(seen, Plane { is_ours: false, ..first.clone() });
    assert_eq!(other.share_primary("b").await.unwrap().as_deref(), Some("a"));
    let after = one.plane("a", "of one").await.unwrap();
    assert!(after.revision > first.revision, "{after:?}");
    assert_eq!((after.primary.as_str(), after.is_ours, after.common.as_str()), ("b", false, "of one"));
    assert_eq!(one.share_primary("b").await.unwrap().as_deref(), Some("b"), "it is no switch");
    let other = Arc::clone(&two.two);
    let again = of(&two.cluster.replace(&other)).plane("a", "of two").await.unwrap();
    assert_eq!(again, Plane { is_ours: true, ..after });
}

pub(crate) async fn a_switch_is_taken_back_unless_another_relay_has_switched_since(cluster: Box<dyn Cluster>) {
    let Two { one, two, .. } = Two::begin(cluster).await;
    let mut before = read(&one).await.revision;
    // The other relay switches to a third upstream, back to the same one, or not at all.
    for (then, left) in [(&["c"][..], "c"), (&["c", "b"], "b"), (&[], "a")] {
        switch(&one, "a").await;
        switch(&one, "b").await;
        for name in then {
            switch(&two, name).await;
        }
        let switched = read(&one).await;
        of(&one).take_back_primary("b", "a").await.unwrap();
        let plane = read(&one).await;
        assert_eq!((plane.primary.as_str(), plane.is_ours), (left, then.is_empty()));
        assert!(switched.revision > before, "{switched:?}");
        assert_eq!(plane.revision > switched.revision, then.is_empty(), "it rises with a change alone: {plane:?}");
        before = plane.revision;
    }
}

pub(crate) async fn one_relay_leads_and_a_term_that_is_over_is_refused(cluster: Box<dyn Cluster>) {
    let mut two = Two::begin(cluster).await;
    let target = two.target;
    read(&two.one).await;
    let (leading, other, old) = leader(&two).await;
    assert_eq!(of(&other).leads().await, None);
    let before = read(&other).await.revision;
    of(&leading).publish(old, "second").await.unwrap();
    let published = read(&other).await;
    assert!(published.common == "second" && published.revision > before, "{published:?}");
    two.cluster.lose(&leading);
    let new = term(&other).await;
    assert!(new > old, "each term has a higher epoch");
    of(&other).publish(new, "third").await.unwrap();
    let published = read(&other).await;
    fill(&other, 1, &[target]).await;
    let expire = |relay: &Arc<dyn Journal>| {
        let relay = Arc::clone(relay);
        async move { relay.discard(target, at(60), DropReason::Expired, 9).await }
    };
    for late in [&leading, &other] {
        of(late).publish(old, "fourth").await.expect_err("another one leads");
        old.under(|| expire(late)).await.expect_err("nor is a chore done under it");
    }
    assert_eq!(read(&other).await, published);
    assert_eq!(published.common, "third");
    assert_eq!(new.under(|| expire(&other)).await.unwrap(), 1);
}

pub(crate) async fn every_relay_is_told_of_each_change(cluster: Box<dyn Cluster>) {
    let two = Two::begin(cluster).await;
    let (leading, other, epoch) = leader(&two).await;
    let known = read(&leading).await.revision;
    switch(&other, "b").await;
    let mut watches = [&leading, &other].map(|relay| of(relay).watch(known));
    let told = async |watches: &mut [BoxStream<'static, ()>; 2], what: &str| {
        for watch in watches {
            timeout(TOLD, watch.next()).await.unwrap_or_else(|_| panic!("never told: {what}")).unwrap();
        }
    };
    told(&mut watches, "one that came before it was watched").await;
    switch(&other, "a").await;
    told(&mut watches, "a switch").await;
    of(&other).take_back_primary("a", "b").await.unwrap();
    told(&mut watches, "a switch that is taken back").await;
    of(&leading).publish(epoch, "second").await.unwrap();
    told(&mut watches, "what is published").await;
}

pub(crate) async fn every_relay_tells_in_what_its_file_differs(cluster: Box<dyn Cluster>) {
    let Two { one, two, .. } = Two::begin(cluster).await;
    for names in [vec!["limits".to_owned(), "mirror".to_owned()], vec![]] {
        of(&one).note_differing(names.clone()).await.unwrap();
        for (relay, is_own) in [(&one, true), (&two, false)] {
            for node in relay.measure().await.unwrap().nodes {
                let expected = if node.is_own == is_own { &names[..] } else { &[] };
                assert_eq!(node.differs, expected, "{node:?}");
            }
        }
    }
    assert_eq!(one.measure().await.unwrap().nodes.len(), 2);
}

pub(crate) async fn a_replaced_relay_is_told_and_does_nothing_more(cluster: Box<dyn Cluster>) {
    let mut two = Two::begin(cluster).await;
    let (one, other, target) = (Arc::clone(&two.one), Arc::clone(&two.two), two.target);
    assert!(!of(&one).replaced().is_cancelled());
    let again = two.cluster.replace(&one);
    timeout(TOLD, of(&one).replaced().cancelled()).await.expect("it is told");
    one.append(submission(at(1), &[target])).await.expect_err("its name is another's");
    for relay in [&again, &other] {
        relay.append(submission(at(1), &[target])).await.unwrap();
        assert!(!of(relay).replaced().is_cancelled());
    }
}

//! Promises about several relays on one journal: what each may rely on while others work on the same records.

use super::*;
use crate::telemetry::ledger::{Account, Ledger};

/// A journal that several relays share.
pub(crate) trait Cluster {
    /// Adds a relay, which posts to `ledger`.
    fn join(&mut self, ledger: Ledger) -> Arc<dyn Journal>;

    /// Makes the others see a relay as gone, while it runs on and knows nothing of it.
    fn lose(&mut self, relay: &Arc<dyn Journal>);

    /// Starts a relay again, under the name of one that runs on and knows nothing of it.
    fn replace(&mut self, relay: &Arc<dyn Journal>) -> Arc<dyn Journal>;
}

/// Two relays, the ledger of each, and the target that both know.
pub(super) struct Two {
    pub(super) cluster: Box<dyn Cluster>,
    pub(super) one: Arc<dyn Journal>,
    pub(super) two: Arc<dyn Journal>,
    ledgers: [Ledger; 2],
    pub(super) target: TargetId,
}

impl Two {
    pub(super) async fn begin(mut cluster: Box<dyn Cluster>) -> Self {
        let ledgers = [Ledger::default(), Ledger::default()];
        let (one, two) = (cluster.join(ledgers[0].clone()), cluster.join(ledgers[1].clone()));
        let target = one.target("a").await.unwrap();
        assert_eq!(two.target("a").await.unwrap(), target, "a name has one number");
        Self { cluster, one, two, ledgers, target }
    }

    /// Claims at a relay until it has `count` records.
    async fn claim(&self, relay: &Arc<dyn Journal>, count: usize) -> Vec<Claim> {
        let mut claims = Vec::new();
        eventually("enough can be claimed", async || {
            claims.extend(relay.claim(self.target, at(100), count - claims.len()).await.unwrap());
            claims.len() == count
        })
        .await;
        claims
    }

    async fn waiting(&self, relay: &Arc<dyn Journal>) -> u64 {
        relay.backlog(self.target).await.unwrap().envelopes
    }
}

pub(crate) async fn a_key_is_taken_by_one_relay_and_the_other_is_told(cluster: Box<dyn Cluster>) {
    let Two { one, two, target, .. } = Two::begin(cluster).await;
    let with = |keys: &[u128], second| {
        let (keys, repeats_since) = (keys.to_vec(), at(5));
        Submission { keys, repeats_since, ..submission(at(second), &[target]) }
    };
    one.append(with(&[1], 4)).await.unwrap();
    one.append(with(&[2, 3], 6)).await.unwrap();
    let told = two.append(with(&[3, 4], 7)).await.unwrap_err();
    assert!(matches!(&told, JournalError::Repeated(keys) if keys == &[3]), "{told:?}");
    assert_eq!(two.backlog(target).await.unwrap().envelopes, 2, "nothing is kept of a repeat");
    two.append(with(&[4], 8)).await.unwrap();
    two.append(with(&[1], 9)).await.unwrap();
    let told = one.append(with(&[1], 9)).await.unwrap_err();
    assert!(matches!(&told, JournalError::Repeated(keys) if keys == &[1]), "the window began anew: {told:?}");
    let (first, second) = tokio::join!(one.append(with(&[5], 9)), one.append(with(&[5, 6], 9)));
    let told = [first, second].into_iter().filter_map(Result::err).collect::<Vec<_>>();
    assert!(
        matches!(&told[..], [JournalError::Repeated(keys)] if keys == &[5]),
        "also of what comes at once: {told:?}"
    );
}

pub(crate) async fn a_record_of_either_relay_is_claimed_once(cluster: Box<dyn Cluster>) {
    let two = Two::begin(cluster).await;
    let mut taken = fill(&two.one, 40, &[two.target]).await;
    taken.extend(fill(&two.two, 40, &[two.target]).await);
    let mut claimed = Vec::new();
    eventually("all are claimed", async || {
        for relay in [&two.one, &two.two] {
            let claims = relay.claim(two.target, at(100), 7).await.unwrap();
            claimed.extend(ids(&claims));
            for claim in claims {
                relay.settle(&claim.lease, delivered(1)).await.unwrap();
            }
        }
        claimed.len() >= 80
    })
    .await;
    claimed.sort_unstable();
    taken.sort_unstable();
    assert_eq!(claimed, taken);
    eventually("nothing waits, as either sees it", async || {
        two.waiting(&two.one).await == 0 && two.waiting(&two.two).await == 0
    })
    .await;
}

pub(crate) async fn each_ledger_tells_the_accounts_of_both_relays(cluster: Box<dyn Cluster>) {
    let two = Two::begin(cluster).await;
    fill(&two.one, 3, &[two.target]).await;
    fill(&two.two, 2, &[two.target]).await;
    for claim in two.claim(&two.one, 4).await {
        two.one.settle(&claim.lease, delivered(1)).await.unwrap();
    }
    for ledger in &two.ledgers {
        eventually("it tells of both", async || {
            let accounts = ledger.accounts();
            let own = accounts.iter().find(|(key, _)| key.upstream.is_some()).map(|(_, account)| *account);
            own.is_some_and(|own| (own.accepted, own.delivered, own.expected_pending()) == (5, 4, 1))
        })
        .await;
    }
    let mut later = two.cluster;
    let ledger = Ledger::default();
    let three = later.join(ledger.clone());
    let accounts = ledger.accounts();
    let own = accounts.values().find(|account| account.delivered > 0).copied().unwrap();
    assert_eq!((own.accepted, own.delivered), (5, 4), "one that joins begins with the totals");
    assert_eq!(three.backlog(two.target).await.unwrap().envelopes, 1);
}

pub(crate) async fn a_gone_relays_records_go_to_another_and_its_late_settlements_change_nothing(
    cluster: Box<dyn Cluster>,
) {
    let mut two = Two::begin(cluster).await;
    let taken = fill(&two.one, 10, &[two.target]).await;
    let first = two.claim(&two.one, 10).await;
    two.one.settle(&first[0].lease, delivered(1)).await.unwrap();
    two.one.settle(&first[1].lease, retry(at(50), 1, 1)).await.unwrap();
    let put_off = two.claim(&two.one, 1).await;
    assert_eq!((ids(&put_off), put_off[0].progress.attempts), (vec![taken[1]], 1));
    assert!(two.two.claim(two.target, at(100), 10).await.unwrap().is_empty(), "all of it is leased");
    let one = Arc::clone(&two.one);
    two.cluster.lose(&one);
    let second = two.claim(&two.two, 9).await;
    let mut claimed = ids(&second);
    claimed.sort_unstable();
    assert_eq!(claimed, taken[1..]);
    let again = second.iter().find(|claim| claim.record.id.number() == taken[1]).unwrap();
    assert_eq!(again.progress.attempts, 1, "with the progress that it had");
    for claim in first[2..].iter().chain(&put_off) {
        assert!(two.one.settle(&claim.lease, delivered(1)).await.is_err(), "its lease is lost");
    }
    for claim in &second {
        two.two.settle(&claim.lease, delivered(1)).await.unwrap();
    }
    eventually("all are delivered once", async || {
        let accounts = two.ledgers[1].accounts();
        two.waiting(&two.two).await == 0 && accounts.values().any(|account| account.delivered == 10)
    })
    .await;
}

pub(crate) async fn an_old_record_is_dropped_once_when_both_relays_discard_it(cluster: Box<dyn Cluster>) {
    let two = Two::begin(cluster).await;
    fill(&two.one, 40, &[two.target]).await;
    fill(&two.two, 40, &[two.target]).await;
    let leased = [two.claim(&two.one, 2).await, two.claim(&two.two, 2).await].concat();
    let mut gone = 0;
    eventually("all goes that is not leased", async || {
        let discard = |relay: &Arc<dyn Journal>| {
            let relay = Arc::clone(relay);
            async move { relay.discard(two.target, at(100), DropReason::Expired, 30).await.unwrap() }
        };
        let (by_one, by_two) = tokio::join!(discard(&two.one), discard(&two.two));
        gone += by_one + by_two;
        gone >= 76
    })
    .await;
    assert_eq!((gone, two.waiting(&two.one).await, two.waiting(&two.two).await), (76, 4, 4));
    for (relay, leased) in [(&two.one, &leased[..2]), (&two.two, &leased[2..])] {
        for claim in leased {
            relay.settle(&claim.lease, delivered(1)).await.unwrap();
        }
    }
    eventually("each is delivered or dropped", async || {
        let accounts = two.ledgers[0].accounts();
        let is_all = |account: &Account| (account.delivered, account.dropped(DropReason::Expired)) == (4, 76);
        accounts.values().any(is_all) && two.waiting(&two.one).await == 0
    })
    .await;
}

pub(crate) async fn a_dead_letter_that_both_retry_waits_once(cluster: Box<dyn Cluster>) {
    let two = Two::begin(cluster).await;
    let taken = fill(&two.one, 6, &[two.target]).await;
    for claim in two.claim(&two.one, 6).await {
        two.one.settle(&claim.lease, rejected()).await.unwrap();
    }
    eventually("all are dead letters", async || two.waiting(&two.two).await == 0).await;
    let retry = |relay: &Arc<dyn Journal>| {
        let relay = Arc::clone(relay);
        async move { relay.retry_letters(Pick::default(), 9).await.unwrap() }
    };
    let (by_one, by_two) = tokio::join!(retry(&two.one), retry(&two.two));
    assert_eq!((by_one + by_two, two.waiting(&two.one).await), (6, 6));
    let (mut claimed, now) = (vec![], Clock::system().now() + Duration::from_secs(1));
    eventually("each is claimed once", async || {
        for relay in [&two.one, &two.two] {
            claimed.extend(ids(&relay.claim(two.target, now, 2).await.unwrap()));
        }
        claimed.len() >= 6
    })
    .await;
    claimed.sort_unstable();
    assert_eq!(claimed, taken);
}

/// Makes a test of each promise about several relays, for the clusters that `$make` makes, a function to `Box<dyn Cluster>`.
#[allow(unused_macros, reason = "the only relay of a machine shares with nobody")]
macro_rules! cluster_suite {
    ($make:path) => {
        contract::cluster_suite! {
            $make, nodes:
                a_key_is_taken_by_one_relay_and_the_other_is_told,
                a_record_of_either_relay_is_claimed_once,
                each_ledger_tells_the_accounts_of_both_relays,
                a_gone_relays_records_go_to_another_and_its_late_settlements_change_nothing,
                an_old_record_is_dropped_once_when_both_relays_discard_it,
                a_dead_letter_that_both_retry_waits_once
        }
        contract::cluster_suite! {
            $make, pace:
                a_rate_limit_of_one_relay_holds_for_the_other_as_long,
                one_relay_at_a_time_probes_an_open_circuit,
                a_relay_that_fails_alone_is_cut_off_alone,
                relays_never_have_more_places_together_than_there_are,
                each_relay_hears_which_limits_the_other_uses
        }
        contract::cluster_suite! {
            $make, plane:
                the_first_relay_sets_the_primary_and_a_switch_belongs_to_its_maker,
                a_switch_is_taken_back_unless_another_relay_has_switched_since,
                one_relay_leads_and_a_term_that_is_over_is_refused,
                every_relay_is_told_of_each_change,
                every_relay_tells_in_what_its_file_differs,
                a_replaced_relay_is_told_and_does_nothing_more
        }
    };
    ($make:path, $part:ident: $($name:ident),* $(,)?) => {
        $(#[tokio::test] async fn $name() { contract::$part::$name($make()).await; })*
    };
}
pub(crate) use cluster_suite;

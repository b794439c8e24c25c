//! Promises about limits and circuits: all relays know what one learns of an upstream, one at a time probes, and places are divided.

use std::collections::BTreeSet;

use super::nodes::{Cluster, Two};
use super::*;
use crate::journal::pace::{Heard, Told};
use crate::policy::standing::{Lesson, Share, Standing};
use crate::protocol::rate_limits;

const WAIT: Duration = Duration::from_secs(60);

async fn exchange(relay: &Arc<dyn Journal>, lessons: Vec<(TargetId, Lesson)>) -> Heard {
    let pace = relay.pace().expect("it shares its journal");
    pace.exchange(Told { lessons, busy: BTreeSet::new() }).await.unwrap()
}

/// Tells lessons about a target; returns its standing after that.
async fn tell(relay: &Arc<dyn Journal>, target: TargetId, lessons: Vec<Lesson>) -> Standing {
    let lessons = lessons.into_iter().map(|lesson| (target, lesson)).collect();
    exchange(relay, lessons).await.standings.get(&target).cloned().unwrap_or_default()
}

fn opened(openings: u32, wait: Duration) -> Lesson {
    Lesson::Opened { ago: Duration::from_secs(1), wait, openings, asks_next: true }
}

pub(crate) async fn a_rate_limit_of_one_relay_holds_for_the_other_as_long(cluster: Box<dyn Cluster>) {
    let Two { one, two, target, .. } = Two::begin(cluster).await;
    let limits = rate_limits::parse("60:error:key, 30::organization");
    let told = tell(&one, target, vec![Lesson::Limited("shop".into(), limits)]).await;
    let heard = exchange(&two, vec![]).await;
    assert_eq!(heard.standings[&target], told);
    let nothing = Standing::default();
    let limits: Vec<_> =
        told.limits_since(&nothing).map(|(project, what, end)| (project, what, heard.left(end))).collect();
    let names = limits.iter().map(|(project, what, _)| (&***project, what.as_deref())).collect::<Vec<_>>();
    assert_eq!(names, [("shop", None), ("shop", Some(&[Category::Error][..]))]);
    for ((_, _, left), seconds) in limits.iter().zip([30, 60]) {
        assert!(*left > Duration::from_secs(seconds - 5) && *left < Duration::from_secs(seconds + 1), "{left:?}");
    }
    let refused = Lesson::Refused { project: "shop".into(), dsn: 7, wait: WAIT, refusals: 1 };
    tell(&two, target, vec![refused]).await;
    let told = tell(&one, target, vec![Lesson::Taken("shop".into(), 8)]).await;
    assert_eq!(told.refused()["shop"].dsn, 7, "another DSN was taken");
    let told = tell(&one, target, vec![Lesson::Taken("shop".into(), 7)]).await;
    assert!(told.refused().is_empty());
    assert!(exchange(&two, vec![]).await.standings[&target].refused().is_empty());
}

pub(crate) async fn one_relay_at_a_time_probes_an_open_circuit(cluster: Box<dyn Cluster>) {
    let mut two = Two::begin(cluster).await;
    let (one, other, target) = (Arc::clone(&two.one), Arc::clone(&two.two), two.target);
    let early = tell(&one, target, vec![opened(1, WAIT), Lesson::WantsProbe]).await;
    assert_eq!(early.opened().unwrap().probe, None, "its wait is not over");
    let over = tell(&other, target, vec![Lesson::Closed, opened(1, Duration::ZERO), Lesson::WantsProbe]).await;
    let probe = over.opened().unwrap().probe;
    assert!(probe.is_some());
    let held = tell(&one, target, vec![Lesson::WantsProbe, Lesson::Forgoes]).await;
    assert_eq!(held.opened().unwrap().probe, probe, "it is the other's");
    let again = tell(&other, target, vec![opened(2, Duration::ZERO)]).await;
    assert_eq!(again.opened().unwrap().probe, None, "it has found that the upstream is still down");
    let own = tell(&one, target, vec![Lesson::WantsProbe]).await.opened().unwrap().probe;
    assert!(own.is_some() && own != probe);
    two.cluster.lose(&one);
    let freed = tell(&other, target, vec![Lesson::WantsProbe]).await;
    assert_eq!(freed.opened().unwrap().probe, probe, "who found out is gone");
    assert!(tell(&other, target, vec![Lesson::Closed]).await.opened().is_none());
}

pub(crate) async fn a_relay_that_fails_alone_is_cut_off_alone(cluster: Box<dyn Cluster>) {
    let Two { one, two, target, .. } = Two::begin(cluster).await;
    let failing = exchange(&one, vec![(target, opened(1, WAIT))]).await.relay;
    let told = tell(&two, target, vec![Lesson::Contradicts(failing)]).await;
    assert!(told.opened().is_none() && told.is_cut_off(failing));
    let told = tell(&one, target, vec![opened(2, WAIT)]).await;
    assert!(told.opened().is_none(), "its failures are its own");
    let told = tell(&two, target, vec![opened(1, WAIT)]).await;
    assert!(told.opened().is_some() && !told.is_cut_off(failing), "now it is the upstream");
    let told = tell(&one, target, vec![Lesson::Closed]).await;
    assert!(told.opened().is_none() && !told.is_cut_off(failing));
}

pub(crate) async fn relays_never_have_more_places_together_than_there_are(cluster: Box<dyn Cluster>) {
    let mut two = Two::begin(cluster).await;
    let (one, other, target) = (Arc::clone(&two.one), Arc::clone(&two.two), two.target);
    let (first, second) = (exchange(&one, vec![]).await, exchange(&other, vec![]).await);
    assert_eq!([first.share, second.share], [0, 1].map(|position| Share { position, of: 2 }));
    let places = async |relay: &Arc<dyn Journal>, wanted, used| {
        tell(relay, target, vec![Lesson::Places { wanted, used, most: 8 }]).await
    };
    assert_eq!(places(&one, 8, 0).await.places(first.relay), 8);
    assert_eq!(places(&other, 4, 0).await.places(second.relay), 0, "the first has all");
    assert_eq!(places(&one, 4, 6).await.places(first.relay), 6, "two more are under way than it may have");
    assert_eq!(places(&other, 4, 0).await.places(second.relay), 2);
    assert_eq!(places(&one, 4, 1).await.places(first.relay), 4);
    assert_eq!(places(&other, 4, 2).await.places(second.relay), 4);
    two.cluster.lose(&one);
    let alone = exchange(&other, vec![]).await.share;
    assert_eq!(alone, Share::WHOLE);
    assert_eq!(places(&other, 8, 4).await.places(second.relay), 8);
}

pub(crate) async fn each_relay_hears_which_limits_the_other_uses(cluster: Box<dyn Cluster>) {
    let Two { one, two, .. } = Two::begin(cluster).await;
    let busy = |names: &[&str]| names.iter().map(|name| (Arc::from(*name), Category::Error)).collect::<BTreeSet<_>>();
    let others = async |relay: &Arc<dyn Journal>, own: &[&str]| {
        let told = Told { lessons: vec![], busy: busy(own) };
        relay.pace().unwrap().exchange(told).await.unwrap().others.into_keys().collect::<BTreeSet<_>>()
    };
    assert_eq!(others(&one, &["shop", "app"]).await, busy(&[]));
    assert_eq!(others(&two, &["shop"]).await, busy(&["shop", "app"]));
    assert_eq!(others(&one, &[]).await, busy(&["shop"]));
    assert_eq!(others(&two, &[]).await, busy(&[]));
}

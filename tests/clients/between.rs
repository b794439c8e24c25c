//! A relay between a client and two upstreams that record what they get.

use std::time::Duration;

use super::items::{Item, Promise};
use crate::support::eventually::eventually;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::Upstream;

/// A running relay with its upstreams.
pub(crate) struct Between {
    pub(crate) relay: Relay,
    upstreams: [Upstream; 2],
}

impl Between {
    pub(crate) async fn start() -> Self {
        Self::start_with(|plan| plan).await
    }

    /// Like [`start`](Self::start), with `shape` applied to the plan.
    pub(crate) async fn start_with(shape: impl FnOnce(Plan) -> Plan) -> Self {
        let upstreams = [Upstream::start().await, Upstream::start().await];
        let dsns = [("first", upstreams[0].dsn("cafe", 7)), ("second", upstreams[1].dsn("f00d", 8))];
        Self { relay: shape(Plan::new(&dsns)).start().await, upstreams }
    }

    /// Waits until both upstreams have every promised item. Then both must have each item once, the same items, and each envelope with
    /// their own key. Stops the relay with balanced accounts and returns the items of the first upstream.
    pub(crate) async fn has_brought(self, promises: &[Promise]) -> Vec<Item> {
        assert!(!promises.is_empty());
        for upstream in &self.upstreams {
            eventually("every promised item has arrived", Duration::from_secs(20), async || {
                let items = items(upstream);
                let missing = promises.iter().find(|promise| !items.iter().any(|item| item.keeps(promise)));
                missing.map_or(Ok(()), |missing| Err(format!("{missing:?} is not among {}", listed(&items))))
            })
            .await;
        }
        self.relay.balanced(SOON).await;
        self.relay.finish().await;
        let [first, second] = self.upstreams.each_ref().map(|upstream| {
            let items = items(upstream);
            for promise in promises {
                let times = items.iter().filter(|item| item.keeps(promise)).count();
                assert_eq!(times, 1, "{promise:?} among {}", listed(&items));
            }
            items
        });
        let essence = |items: &[Item]| {
            let mut all: Vec<_> = items.iter().map(Item::essence).collect();
            all.sort();
            all
        };
        assert_eq!(essence(&first), essence(&second));
        addressed(&first, "cafe");
        addressed(&second, "f00d");
        first
    }
}

/// All items that an upstream has taken.
fn items(upstream: &Upstream) -> Vec<Item> {
    upstream.taken().iter().flat_map(|seen| Item::all(&seen.body)).collect()
}

/// Fails unless every key in an envelope's header is the upstream's.
fn addressed(items: &[Item], key: &str) {
    for Item { envelope, .. } in items {
        let named = envelope.pointer("/trace/public_key");
        assert!(named.is_none_or(|named| named == key), "{envelope}");
        let dsn = envelope["dsn"].as_str();
        assert!(dsn.is_none_or(|dsn| dsn.contains(&format!("//{key}@"))), "{envelope}");
    }
}

fn listed(items: &[Item]) -> String {
    let one = |item: &Item| {
        let payload = String::from_utf8_lossy(&item.payload[..item.payload.len().min(400)]).into_owned();
        format!("{} {} {payload}", item.envelope, item.header)
    };
    items.iter().map(one).collect::<Vec<_>>().join("\n")
}

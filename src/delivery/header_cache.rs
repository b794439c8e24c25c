//! A cache of request headers by sender: a service sends many envelopes, and an upstream gets the same headers with each.
//!
//! Rule: the cache has a bounded size. Its owner drops it when the routing changes, which may change keys.

use std::sync::Arc;

use http::HeaderMap;

use crate::journal::{Client, Record};

/// The most senders in the cache.
const MOST: usize = 8;

/// The headers for the last senders.
#[derive(Default)]
pub(super) struct HeaderCache {
    all: Vec<Head>,
    /// The position of the entry that is replaced next.
    oldest: usize,
}

struct Head {
    project: Arc<str>,
    sender: Client,
    headers: HeaderMap,
}

impl HeaderCache {
    /// The headers for the sender of a record; `make` makes them when they are not cached.
    pub(super) fn of(&mut self, record: &Record, make: impl FnOnce() -> HeaderMap) -> HeaderMap {
        let (project, client) = (&record.project, &record.client);
        let known = self.all.iter().find(|head| head.project == *project && is_same(&head.sender, client));
        if let Some(head) = known {
            return head.headers.clone();
        }
        let headers = make();
        let sender = Client { request: None, left_out: vec![], ..client.clone() };
        let head = Head { project: Arc::clone(project), sender, headers: headers.clone() };
        if self.all.len() < MOST {
            self.all.push(head);
        } else {
            self.all[self.oldest] = head;
            self.oldest = (self.oldest + 1) % MOST;
        }
        headers
    }
}

/// Whether requests of both have the same headers.
fn is_same(one: &Client, other: &Client) -> bool {
    one.forwarded_for == other.forwarded_for
        && one.user_agent == other.user_agent
        && one.sentry_client == other.sentry_client
        && one.origin == other.origin
        && one.via == other.via
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use bytes::Bytes;
    use http::HeaderValue;

    use super::*;
    use crate::clock::Timestamp;
    use crate::journal::RecordId;
    use crate::protocol::category::Quantities;

    fn record(project: &str, address: &str) -> Record {
        Record {
            id: RecordId::from_number(1),
            accepted_at: Timestamp::default(),
            project: project.into(),
            event_id: None,
            quantities: Quantities::new(),
            client: Client { forwarded_for: Some(address.into()), ..Client::default() },
            body: Bytes::new().into(),
            located: OnceLock::new(),
        }
    }

    #[test]
    fn headers_are_made_once_for_each_sender_of_a_project_and_few_are_kept() {
        let (mut cache, mut made) = (HeaderCache::default(), vec![]);
        let mut ask = |project: &str, address: &str| {
            let value = format!("{project} {address}");
            let headers = cache.of(&record(project, address), || {
                made.push(value.clone());
                HeaderMap::from_iter([(http::header::FROM, HeaderValue::try_from(&value).unwrap())])
            });
            assert_eq!(headers[http::header::FROM], value);
        };
        for _ in 0..2 {
            ask("shop", "10.0.0.1");
            ask("shop", "10.0.0.2");
            ask("web", "10.0.0.1");
        }
        (0..100).for_each(|n| ask("flood", &n.to_string()));
        ask("shop", "10.0.0.1");
        assert_eq!((made.len(), cache.all.len()), (104, MOST));
    }
}

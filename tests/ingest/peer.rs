//! The sender's address as trackers see it: they resolve `{{auto}}` in `user.ip_address` from it, so it must be the SDK's machine.

use crate::support::envelopes::{self, new_id};
use crate::support::relay::SOON;
use crate::support::wire::{exchange, head, post};
use crate::{front_of, keyed};

#[tokio::test]
async fn trackers_learn_the_sdks_address_and_no_claim_of_strangers() {
    let flood = "203.0.113.9, ".repeat(1000);
    for (trusted, chains) in [("[]", false), ("[\"10.0.0.9\"]", false), ("[\"127.0.0.1\"]", true)] {
        let (relay, upstream) = front_of(|plan| plan.server(&format!("trusted_proxies = {trusted}"))).await;
        let cases: [(&[(&str, &str)], &str); 8] = [
            (&[], ""),
            (&[("x-forwarded-for", "203.0.113.7")], "203.0.113.7, "),
            (&[("x-forwarded-for", "[2001:db8::7]:4711"), ("x-forwarded-for", "10.0.0.1")], "2001:db8::7, 10.0.0.1, "),
            (&[("x-forwarded-for", "203.0.113.7"), ("cf-connecting-ip", "203.0.113.8")], "203.0.113.8, "),
            (&[("x-forwarded-for", "10.0.0.1"), ("x-sentry-forwarded-for", "203.0.113.7")], "203.0.113.7, "),
            (&[("x-forwarded-for", "unknown, <script>"), ("forwarded", "for=203.0.113.7")], ""),
            (&[("x-forwarded-for", "unknown, 203.0.113.7:80")], "203.0.113.7, "),
            (&[("x-real-ip", "203.0.113.7"), ("true-client-ip", "203.0.113.7")], ""),
        ];
        let agent = "Mozilla/5.0 ".repeat(100);
        let same = [("user-agent", &*agent), ("origin", "https://shop.example")];
        for (number, (headers, chain)) in cases.iter().enumerate() {
            let headers = [headers, &same[..]].concat();
            let event = r#"{"user":{"ip_address":"{{auto}}"}}"#;
            let envelope = envelopes::envelope(&new_id(), "event", event);
            let request = post(&keyed("/api/1/envelope/"), &headers, envelope.as_bytes());
            assert_eq!(exchange(&relay.address(), &request).await.status, 200);
            relay.balanced(SOON).await;
            let seen = upstream.taken().pop().expect("the envelope");
            assert_eq!(upstream.taken_count(), number + 1);
            let expected = format!("{}127.0.0.1", if chains { chain } else { "" });
            assert_eq!(seen.headers["x-forwarded-for"], expected, "{headers:?}");
            assert_eq!(seen.headers["x-sentry-forwarded-for"], expected);
            assert_eq!(seen.headers["user-agent"], agent.trim());
            assert_eq!(seen.headers["origin"], "https://shop.example");
            assert!(String::from_utf8_lossy(seen.items()).contains("{{auto}}"), "it is the tracker's to resolve");
            for name in headers.iter().map(|(name, _)| *name).filter(|name| !name.contains("forwarded-for")) {
                assert_eq!(seen.headers.contains_key(name), ["user-agent", "origin"].contains(&name), "{name}");
            }
        }
        // A request that is passed on to the primary names the same address.
        let request = head("GET", "/api/0/x/", &[("x-forwarded-for", "203.0.113.7")]);
        exchange(&relay.address(), &request).await;
        let seen = upstream.seen().pop().expect("the request");
        assert_eq!(seen.headers["x-sentry-forwarded-for"], if chains { "203.0.113.7, 127.0.0.1" } else { "127.0.0.1" });
        let request =
            post(&keyed("/api/1/envelope/"), &[("x-forwarded-for", &*flood)], envelopes::error(&new_id()).as_bytes());
        assert_eq!(exchange(&relay.address(), &request).await.status, 200);
        relay.balanced(SOON).await;
        let seen = upstream.taken().pop().expect("the envelope");
        assert!(seen.headers["x-forwarded-for"].len() < 512);
        relay.finish().await;
    }
}

//! Tricks in the path: odd strings in the place of a project's number, and paths that climb.

use crate::front;
use crate::support::envelopes::{self, KEY, new_id};
use crate::support::wire::{exchange, post};

#[tokio::test]
async fn only_a_number_is_a_project_and_no_path_leads_elsewhere() {
    let (relay, upstream) = front().await;
    let long = "1".repeat(20_000);
    let paths = [
        "/api/01/envelope/",
        "/api/+1/envelope/",
        "/api/-1/envelope/",
        "/api/1e0/envelope/",
        "/api/0x1/envelope/",
        "/api/1.0/envelope/",
        "/api/1;v=2/envelope/",
        "/api/1%20/envelope/",
        "/api/%31%00/envelope/",
        "/api/%2e/envelope/",
        "/api/%2e%2e/envelope/",
        "/api/1%2fenvelope%2f..%2f2/envelope/",
        "/api/1%0d%0ax-evil:%201/envelope/",
        "/api/%ff%fe/envelope/",
        "/api/%EF%BC%91/envelope/",
        "/api/%D9%A1/envelope/",
        "/api/18446744073709551617/envelope/",
        "/api/'%20or%20'1'='1/envelope/",
        "/api/${jndi:ldap:x}/envelope/",
        "/api/{project}/envelope/",
        "/api//envelope/",
        "/./api/1/envelope/",
        "/api/1/../1/envelope/",
        "/api/2/../1/envelope/",
        "/api/1/envelope/../store/",
        "/API/1/envelope/",
        "/api/1/envelope%2f",
        "/api/1/envelope/%2e%2e/",
        "/api\\1\\envelope\\",
        &format!("/api/{long}/envelope/"),
    ];
    let mut passed_on = 0;
    for path in paths {
        let body = envelopes::error(&new_id());
        let answer = exchange(&relay.address(), &post(&format!("{path}?sentry_key={KEY}"), &[], body.as_bytes())).await;
        // The primary answers every path that is none of the relay's endpoints.
        if answer.status == 200 {
            passed_on += 1;
            continue;
        }
        assert!(matches!(answer.status, 400 | 403 | 404 | 414 | 431), "{path}: {answer:?}");
        assert!(answer.body.is_empty() || !answer.detail().is_empty(), "{path}");
        assert!(!answer.headers.contains_key("x-evil"), "{path}: {answer:?}");
    }
    // A target that names another host is still served here and goes to no other host.
    for target in ["http://elsewhere.test/api/1/envelope/", "http://relay.test@elsewhere.test/api/1/envelope/"] {
        let body = envelopes::error(&new_id());
        let answer =
            exchange(&relay.address(), &post(&format!("{target}?sentry_key={KEY}"), &[], body.as_bytes())).await;
        assert!(matches!(answer.status, 200 | 400), "{target}: {answer:?}");
    }
    // An escape of a plain character stands for that character.
    let body = envelopes::error(&new_id());
    for path in ["/api/%31/envelope/", "/%61pi/1/envelope/"] {
        let escaped = post(&format!("{path}?sentry_key={KEY}"), &[], body.as_bytes());
        assert_eq!(exchange(&relay.address(), &escaped).await.status, 200, "{path}");
    }
    relay.finish().await;
    let (envelopes, others): (Vec<_>, Vec<_>) =
        upstream.seen().into_iter().partition(|seen| seen.path == "/api/7/envelope/" && seen.query.is_none());
    eprintln!(
        "{} envelopes, passed on: {:?}",
        envelopes.len(),
        others.iter().map(|seen| &seen.path).collect::<Vec<_>>()
    );
    assert_eq!(others.len(), passed_on);
    for seen in others {
        let climbs = seen.path.contains("..") || seen.path.to_ascii_lowercase().contains("%2e");
        assert!(seen.path.starts_with("/api/") && !climbs, "{}", seen.path);
    }
}

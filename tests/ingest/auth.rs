//! Authentication: the accepted forms, and the answers to everything else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::support::envelopes::{self, KEY, new_id};
use crate::support::eventually::eventually;
use crate::support::relay::{Relay, SOON};
use crate::support::upstream::Upstream;
use crate::support::wire::{Answer, exchange, head, post};
use crate::{front, front_of, refused};

/// A key in the form in which GlitchTip prints it.
const UUID: &str = "9EC79C33-EC99-42AB-8353-589FCB2E04DC";
const TOKEN: &str = "any-Token_3";

/// A request: its path and query, its headers, and the DSN in its envelope's header.
struct Request {
    path: String,
    headers: Vec<(&'static str, String)>,
    dsn: Option<String>,
}

impl Request {
    fn to(path: impl Into<String>) -> Self {
        Self { path: path.into(), headers: vec![], dsn: None }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn dsn(mut self, dsn: impl Into<String>) -> Self {
        self.dsn = Some(dsn.into());
        self
    }

    /// Sends the request with a new event; returns the event's id and the answer.
    async fn send(&self, relay: &Relay) -> (String, Answer) {
        let id = new_id();
        let mut body = envelopes::error(&id);
        if let Some(dsn) = &self.dsn {
            body = body.replacen('}', &format!(",\"dsn\":\"{dsn}\"}}"), 1);
        }
        let headers: Vec<(&str, &str)> = self.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = exchange(&relay.address(), &post(&self.path, &headers, body.as_bytes())).await;
        (id, answer)
    }
}

/// A relay with three projects: 1 has a key of 32 hex digits, 2 a UUID, 3 an arbitrary token.
async fn three_projects() -> (Relay, Upstream) {
    front_of(|plan| {
        let project = |id: u8, key: &str| {
            let dsn = plan.dsn_of("tracker");
            format!(
                "[[projects]]\nname = \"project-{id}\"\nid = \"{id}\"\npublic_key = \"{key}\"\n\
                 [projects.upstreams]\ntracker = \"{dsn}\"\n"
            )
        };
        let (two, three) = (project(2, UUID), project(3, TOKEN));
        plan.more(&two).more(&three)
    })
    .await
}

fn basic(user: &str) -> String {
    format!("Basic {}", BASE64.encode(user))
}

#[tokio::test]
async fn every_form_of_authentication_is_accepted() {
    let (relay, upstream) = three_projects().await;
    let envelope = "/api/1/envelope/";
    let uuid = UUID.to_lowercase();
    let accepted = [
        Request::to(envelope).with("X-Sentry-Auth", format!("Sentry sentry_version=7, sentry_key={KEY}")),
        Request::to(envelope).with("x-sentry-auth", format!("sentry sentry_key={KEY},sentry_client=raven-go/1.0")),
        Request::to(envelope).with("X-SENTRY-AUTH", format!("SENTRY sentry_key={KEY}, sentry_secret=ignored")),
        Request::to(envelope).with("Authorization", format!("Sentry sentry_key={KEY}, sentry_version=2.0")),
        Request::to(envelope).with("Authorization", basic(KEY)),
        Request::to(envelope).with("Authorization", basic(&format!("{KEY}:secret"))),
        Request::to(format!("{envelope}?sentry_key={KEY}")),
        Request::to(format!("{envelope}?sentry_version=7&sentry_key={KEY}&sentry_client=a%2F1&sentry_secret=ignored")),
        // The `Authorization` of a proxy in front of the relay is ignored.
        Request::to(format!("{envelope}?sentry_key={KEY}")).with("Authorization", "Bearer of-a-proxy"),
        // So is a site's password, which browsers send by themselves, and a header without content.
        Request::to(format!("{envelope}?sentry_key={KEY}")).with("Authorization", basic("staging:secret")),
        Request::to(format!("{envelope}?sentry_key={KEY}")).with("Authorization", "Digest username=\"staging\""),
        Request::to(format!("{envelope}?sentry_key={KEY}")).with("Authorization", "Negotiate YWJj"),
        Request::to(envelope).with("Authorization", basic("staging:secret")).dsn(relay.dsn()),
        Request::to(envelope)
            .with("X-Sentry-Auth", format!("Sentry sentry_key={KEY}"))
            .with("Authorization", basic("a:b")),
        Request::to(envelope).with("X-Sentry-Auth", "").dsn(relay.dsn()),
        Request::to(format!("{envelope}?sentry_key={KEY}")).with("X-Sentry-Auth", " "),
        // An empty key counts as none.
        Request::to(format!("{envelope}?sentry_version=7&sentry_key=")).dsn(relay.dsn()),
        Request::to(format!("{envelope}?sentry_key=")).with("X-Sentry-Auth", format!("Sentry sentry_key={KEY}")),
        Request::to(format!("{envelope}?sentry_key={KEY}")).with("X-Sentry-Auth", "Sentry sentry_key="),
        Request::to(format!("{envelope}?sentry_key=")).with("X-Sentry-Auth", "Sentry sentry_key=").dsn(relay.dsn()),
        // A browser's tunnel: only the envelope names the project.
        Request::to(envelope).dsn(relay.dsn()),
        Request::to(envelope).dsn(format!("https://{KEY}@elsewhere.example/1")),
        Request::to(format!("{envelope}?sentry_key={KEY}")).dsn(relay.dsn()),
        // UUIDs compare without hyphens and case, other tokens as they are.
        Request::to(format!("/api/2/envelope/?sentry_key={UUID}")),
        Request::to(format!("/api/2/envelope/?sentry_key={}", uuid.replace('-', ""))),
        Request::to("/api/2/envelope/").dsn(format!("http://{uuid}@h/2")),
        Request::to(format!("/api/3/envelope/?sentry_key={TOKEN}")),
    ];
    let mut sent = Vec::new();
    for request in &accepted {
        let (id, answer) = request.send(&relay).await;
        assert_eq!(answer.status, 200, "{} {:?} {answer:?}", request.path, request.headers);
        assert_eq!(answer.json(), serde_json::json!({ "id": id }));
        sent.push(id);
    }
    sent.sort();
    eventually("all have arrived", SOON, async || {
        let mut taken = upstream.taken_ids();
        taken.sort();
        if taken == sent { Ok(()) } else { Err(format!("{} of {}", taken.len(), sent.len())) }
    })
    .await;
    assert!(upstream.taken().iter().all(|seen| !seen.headers.contains_key("authorization")));
    relay.finish().await;
}

#[tokio::test]
async fn a_refused_client_gets_a_reason_and_is_counted() {
    let (relay, upstream) = three_projects().await;
    let envelope = "/api/1/envelope/";
    let query = format!("{envelope}?sentry_key={KEY}");
    let auth = format!("Sentry sentry_key={KEY}");
    let unauthenticated = [
        (Request::to(query.clone()).with("X-Sentry-Auth", auth.clone()), "multiple"),
        (Request::to(envelope).with("X-Sentry-Auth", auth.clone()).with("Authorization", auth.clone()), "multiple"),
        (Request::to(query.clone()).with("Authorization", basic(TOKEN)), "multiple"),
        (Request::to(envelope), "missing authentication"),
        (Request::to(envelope).with("Authorization", basic("staging:secret")), "missing authentication"),
        (Request::to(envelope).with("X-Sentry-Auth", "Sentry sentry_version=7"), "sentry_key"),
        (Request::to(envelope).with("X-Sentry-Auth", "nonsense"), "bad sentry authentication"),
        (Request::to(format!("{envelope}?sentry_key=")), "missing authentication"),
    ];
    let unknown = [
        (Request::to(format!("{envelope}?sentry_key={}", new_id())), "known project"),
        (Request::to(format!("{envelope}?sentry_key={TOKEN}")), "known project"),
        (Request::to(format!("/api/99/envelope/?sentry_key={KEY}")), "known project"),
        (Request::to(format!("/api/3/envelope/?sentry_key={}", TOKEN.to_lowercase())), "known project"),
        (Request::to(format!("{envelope}?sentry_key=a%0d%0ab")), "characters"),
        (Request::to(envelope).dsn("http://unknown@h/1"), "known project"),
    ];
    let mismatch = [
        (Request::to(query.clone()).dsn(format!("http://{KEY}@h/2")), "project id"),
        (Request::to(query.clone()).dsn(format!("http://{TOKEN}@h/1")), "public key"),
        (Request::to(envelope).dsn(format!("http://{TOKEN}@h/3")), "project id"),
    ];
    let malformed = [
        (Request::to(query.clone()).dsn("not a dsn"), "dsn"),
        (Request::to(format!("{query}&sentry_version=8")), "version"),
        (Request::to(envelope).with("X-Sentry-Auth", format!("{auth}, sentry_version=8")), "version"),
        (Request::to(format!("{envelope}?sentry_version=8")).dsn(format!("http://{KEY}@h/1")), "version"),
        (Request::to(format!("/api/abc/envelope/?sentry_key={KEY}")), "not a number"),
        (Request::to(format!("/api/1a/envelope/?sentry_key={KEY}")), "not a number"),
        (Request::to(format!("/api/-1/envelope/?sentry_key={KEY}")), "not a number"),
        (Request::to(format!("/api/%ff/envelope/?sentry_key={KEY}")), "not a number"),
    ];
    type Group<'a> = (&'a str, u16, &'a [(Request, &'a str)]);
    let groups: [Group<'_>; 4] = [
        ("unauthenticated", 401, &unauthenticated),
        ("unknown_project", 403, &unknown),
        ("mismatch", 400, &mismatch),
        ("malformed", 400, &malformed),
    ];
    for (reason, status, requests) in groups {
        for (request, words) in requests {
            let (_, answer) = request.send(&relay).await;
            let what = format!("{reason}: {} {:?} {:?}: {answer:?}", request.path, request.headers, request.dsn);
            assert_eq!(answer.status, status, "{what}");
            assert!(answer.detail().contains(words), "{what}");
            assert_eq!(answer.header("x-sentry-error"), answer.detail(), "{what}");
        }
        assert_eq!(refused(&relay, reason).await, requests.len() as f64, "{reason}");
        let lines = relay.log().matches(&format!("reason=\"{reason}\"")).count();
        // Some refusals belong to a known project and some to none.
        assert!((1..=2).contains(&lines), "one line for many refusals of one kind and project: {}", relay.log());
    }
    assert_eq!(upstream.seen().len(), 0);
    relay.finish().await;
}

#[tokio::test]
async fn missing_credentials_are_refused_before_the_body_except_for_envelopes() {
    let (relay, upstream) = front().await;
    let huge = (100 << 20).to_string();
    // Each request has another fault that the relay would report if it looked further.
    let routes = [
        ("store/", "application/json"),
        ("security/", "text/plain"),
        ("csp-report/", ""),
        ("nel/", "application/json"),
        ("minidump/", "application/x-dmp"),
        ("events/no-id/attachments/", "text/plain"),
        ("cron/nightly/", "application/json"),
        ("otlp/v1/traces", "text/plain"),
        ("integration/otlp/v1/logs", "text/plain"),
        ("integration/vercel/logs", "application/json"),
        ("integration/heroku/logs", "text/plain"),
    ];
    let mut count = 0;
    for (path, kind) in routes {
        let path = format!("/api/1/{path}");
        let encoded = [("content-type", kind), ("content-encoding", "gzip")];
        let announced = [("content-type", kind), ("content-length", &*huge), ("expect", "100-continue")];
        for request in [
            post(&path, &[("content-type", kind)], b"nonsense"),
            post(&path, &[("content-type", kind)], b""),
            post(&path, &encoded, b"nonsense"),
            head("POST", &path, &announced[..2]),
            head("POST", &path, &announced),
        ] {
            let answer = exchange(&relay.address(), &request).await;
            assert_eq!(answer.status, 401, "{path}: {answer:?}");
            assert!(answer.detail().contains("missing authentication"), "{answer:?}");
            count += 1;
        }
    }
    for request in [post("/api/store/", &[], b"nonsense"), head("GET", "/api/1/store/?sentry_data=nonsense", &[])] {
        assert_eq!(exchange(&relay.address(), &request).await.status, 401);
        count += 1;
    }
    assert_eq!(refused(&relay, "unauthenticated").await, f64::from(count));
    // A body with the content type of an envelope may name the project inside.
    let envelope = [("content-type", "application/x-sentry-envelope")];
    let id = new_id();
    let body = envelopes::error(&id).replacen('}', &format!(",\"dsn\":\"{}\"}}", relay.dsn()), 1);
    assert_eq!(exchange(&relay.address(), &post("/api/1/store/", &envelope, body.as_bytes())).await.status, 200);
    relay.finish().await;
    assert_eq!(upstream.taken_ids(), [id]);
}

#[tokio::test]
async fn a_trace_that_began_in_another_project_keeps_that_projects_key() {
    let (relay, upstream) = front_of(|plan| {
        let dsn = plan.dsn_of("tracker").replace("cafe", "beef");
        let web = format!(
            "[[projects]]\nname = \"web\"\nid = \"2\"\npublic_key = \"{UUID}\"\n[projects.upstreams]\ntracker = \"{dsn}\"\n"
        );
        plan.more(&web)
    })
    .await;
    for (sent, expected) in
        [(KEY, "cafe"), (&*UUID.to_lowercase(), "beef"), (&*UUID.replace('-', ""), "beef"), ("foreign", "cafe")]
    {
        let id = new_id();
        let body = envelopes::error(&id).replacen('}', &format!(",\"trace\":{{\"public_key\":\"{sent}\"}}}}"), 1);
        assert_eq!(relay.send(body).await.status(), 200);
        relay.balanced(SOON).await;
        let seen = upstream.taken().into_iter().find(|seen| seen.event_id() == id).expect("the event");
        let line = seen.body.split(|b| *b == b'\n').next().expect("a header");
        let header: serde_json::Value = serde_json::from_slice(line).expect("JSON");
        assert_eq!(header["trace"]["public_key"], expected, "{sent}");
    }
    relay.finish().await;
}

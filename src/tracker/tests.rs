//! Every recorded answer of a real tracker is understood as its file name says.

use std::path::Path;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;

use super::bugsink::Bugsink;
use super::sentry::Sentry;
use super::*;

struct Recorded {
    request: String,
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Recorded {
    fn answer(&self) -> Answer<'_> {
        Answer { status: self.status, headers: &self.headers, body: &self.body }
    }
}

fn recorded(name: &str) -> Recorded {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tracker-api").join(name);
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let headers = file["headers"].as_object().unwrap().iter().map(|(name, value)| {
        let value = HeaderValue::try_from(value.as_str().unwrap()).unwrap();
        (HeaderName::try_from(name.to_lowercase()).unwrap(), value)
    });
    Recorded {
        request: file["request"].as_str().unwrap().trim_start_matches("GET ").to_owned(),
        status: StatusCode::from_u16(u16::try_from(file["status"].as_u64().unwrap()).unwrap()).unwrap(),
        headers: headers.collect(),
        body: serde_json::to_vec(&file["body"]).unwrap(),
    }
}

fn shop() -> There {
    There { address: "http://t".into(), name: "acme/shop".into(), number: "1".into() }
}

/// The meaning of an answer for the event in the recorded request.
fn event(dialect: &dyn Dialect, there: &There, name: &str) -> Result<bool, Trouble> {
    let recorded = recorded(name);
    let id = recorded.request.split(['/', '=']).filter_map(|part| part.parse::<EventId>().ok()).next().unwrap();
    dialect.read_event(there, id, &recorded.answer())
}

#[test]
fn questions_are_asked_as_they_were_recorded() {
    let id = "b1f28a87e82a427ca3a1a9eebd6ed8bd".parse().unwrap();
    assert_eq!(Sentry.event(&shop(), id), recorded("glitchtip-event.json").request);
    assert_eq!(Bugsink.event(&shop(), id), recorded("bugsink-event.json").request);
    let first = recorded("glitchtip-list.json").request.replace("limit=2", "limit=100");
    assert_eq!(Sentry.page(&shop(), None), first);
}

#[test]
fn an_event_is_stored_or_it_is_not() {
    assert_eq!(event(&Sentry, &shop(), "glitchtip-event.json"), Ok(true));
    assert_eq!(event(&Sentry, &shop(), "glitchtip-event-hyphenated.json"), Ok(true));
    assert_eq!(event(&Sentry, &shop(), "glitchtip-not-stored.json"), Ok(false));
    assert_eq!(event(&Bugsink, &shop(), "bugsink-event.json"), Ok(true));
    assert_eq!(event(&Bugsink, &shop(), "bugsink-not-stored.json"), Ok(false));
}

#[test]
fn an_event_of_another_project_or_id_is_not_the_one_asked_for() {
    let other = There { number: "2".into(), ..shop() };
    let refusal = event(&Sentry, &other, "glitchtip-event.json").unwrap_err();
    assert!(refusal.is_refusal() && refusal.to_string().contains("is project 1 there"), "{refusal}");
    assert!(matches!(event(&Bugsink, &other, "bugsink-event.json"), Err(Trouble::Strange(_))));
    let recorded = recorded("glitchtip-event.json");
    let strange = Sentry.read_event(&shop(), EventId::from(1), &recorded.answer());
    assert!(matches!(strange, Err(Trouble::Strange(_))));
}

#[test]
fn a_refused_token_is_reported_with_the_remedy() {
    for (dialect, name) in [
        (&Sentry as &dyn Dialect, "glitchtip-no-token.json"),
        (&Sentry, "glitchtip-wrong-token.json"),
        (&Bugsink, "bugsink-no-token.json"),
        (&Bugsink, "bugsink-wrong-token.json"),
    ] {
        let trouble = event(dialect, &shop(), name).unwrap_err();
        assert!(trouble.is_refusal() && trouble.to_string().contains("`token`"), "{name}: {trouble}");
    }
}

#[test]
fn a_wrong_project_is_never_taken_for_not_stored() {
    let wrong = There { number: "999".into(), ..shop() };
    assert!(event(&Bugsink, &wrong, "bugsink-wrong-project.json").unwrap_err().is_refusal());
    let gone = recorded("bugsink-wrong-project.json");
    let trouble = Bugsink.read_page(&wrong, None, &gone.answer()).unwrap_err();
    assert!(trouble.is_refusal() && trouble.to_string().contains("no project 999"), "others are asked for: {trouble}");
    assert_eq!(Bugsink.confirmations(&wrong), [Bugsink.page(&wrong, None)]);
    assert_eq!(Bugsink.read_confirmation(&wrong, &gone.answer()), Err(trouble));
    assert_eq!(Bugsink.read_confirmation(&shop(), &recorded("bugsink-issues.json").answer()), Ok(Confirmed::Yes));
    // GlitchTip's 404 is the same for an event, a project and an organization, so only the confirmation tells.
    for name in ["glitchtip-wrong-slug.json", "glitchtip-wrong-organization.json"] {
        assert_eq!(event(&Sentry, &shop(), name), Ok(false), "{name}");
    }
    let confirmed = |name| Sentry.read_confirmation(&shop(), &recorded(name).answer());
    assert_eq!(confirmed("glitchtip-list-wrong-slug.json"), Ok(Confirmed::CannotTell));
    assert_eq!(confirmed("glitchtip-project-without-scope.json"), Ok(Confirmed::CannotTell));
    assert_eq!(confirmed("glitchtip-list.json"), Ok(Confirmed::Yes));
    assert!(confirmed("glitchtip-not-stored.json").unwrap_err().is_refusal());
    assert!(matches!(confirmed("glitchtip-api-root.json"), Err(Trouble::Strange(_))));
}

#[test]
fn lists_are_walked_page_by_page() {
    let list = recorded("glitchtip-list.json");
    let page = Sentry.read_page(&shop(), None, &list.answer()).unwrap();
    assert_eq!((page.ids.len(), page.confirms()), (2, true));
    assert!(page.ids.iter().all(|(_, at)| at.is_some()));
    let next = Sentry.page(&shop(), page.next.as_ref());
    assert!(next.starts_with("/api/0/projects/acme/shop/events/?limit=100&cursor=cD0y"), "{next}");
    let empty = Sentry.read_page(&shop(), None, &recorded("glitchtip-list-wrong-slug.json").answer()).unwrap();
    assert_eq!((empty.ids.len(), empty.next, empty.confirms), (0, None, false));

    let issues = Bugsink.read_page(&shop(), None, &recorded("bugsink-issues.json").answer()).unwrap();
    assert!(issues.ids.is_empty());
    let first = Bugsink.page(&shop(), issues.next.as_ref());
    assert_eq!(first, "/api/canonical/0/events/?issue=7e235ddd-6d21-4d21-92ae-a9c74d359e7f");
    let events = Bugsink.read_page(&shop(), issues.next.as_ref(), &recorded("bugsink-events-of-issue.json").answer());
    let events = events.unwrap();
    assert!(events.ids.len() >= 2 && events.next.is_some(), "{events:?}");
}

#[test]
fn a_link_in_sentrys_form_is_followed_and_others_are_not() {
    let mut list = recorded("glitchtip-list.json");
    let link = r#"<https://sentry.io/api/0/projects/a/b/events/?&cursor=0:0:1>; rel="previous"; results="false"; cursor="0:0:1", <https://sentry.io/x/?&cursor=0:100:0>; rel="next"; results="true"; cursor="0:100:0""#;
    list.headers.insert(header::LINK, HeaderValue::from_static(link));
    let next = Sentry.read_page(&shop(), None, &list.answer()).unwrap().next;
    assert_eq!(Sentry.page(&shop(), next.as_ref()), "/api/0/projects/acme/shop/events/?limit=100&cursor=0%3A100%3A0");
    for hostile in [r#"<x>; rel="next"; results="true"; cursor="a b""#, r#"rel="next""#, ""] {
        list.headers.insert(header::LINK, HeaderValue::from_static(hostile));
        assert_eq!(Sentry.read_page(&shop(), None, &list.answer()).unwrap().next, None, "{hostile}");
    }
}

#[test]
fn an_answer_that_is_not_the_apis_says_nothing_about_the_event() {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("text/html"));
    let page = b"<html><title>Sign in</title></html>";
    for dialect in [&Sentry as &dyn Dialect, &Bugsink] {
        for status in [200, 301, 400, 404, 500, 503] {
            let status = StatusCode::from_u16(status).unwrap();
            let answer = Answer { status, headers: &headers, body: page };
            let trouble = dialect.read_event(&shop(), EventId::from(1), &answer).unwrap_err();
            assert!(!trouble.is_refusal(), "{status}: {trouble}");
            assert!(dialect.read_page(&shop(), None, &answer).is_err(), "{status}");
        }
        for body in ["null", "[]", "{}", "{\"detail\":7}", "{\"event_id\":[],\"project\":{}}", "\"x\"", ""] {
            let answer = Answer { status: StatusCode::OK, headers: &headers, body: body.as_bytes() };
            assert!(dialect.read_event(&shop(), EventId::from(1), &answer).is_err(), "{body}");
        }
    }
}

#[test]
fn a_limit_is_obeyed_for_an_hour_at_most() {
    let mut headers = HeaderMap::new();
    let wait = |headers: &HeaderMap| {
        let answer = Answer { status: StatusCode::TOO_MANY_REQUESTS, headers, body: b"" };
        Sentry.read_event(&shop(), EventId::from(1), &answer).unwrap_err()
    };
    assert_eq!(wait(&headers), Trouble::Limited(USUAL_WAIT));
    headers.insert("retry-after", HeaderValue::from_static("7"));
    assert_eq!(wait(&headers), Trouble::Limited(Duration::from_secs(7)));
    headers.insert("retry-after", HeaderValue::from_static("99999999"));
    assert_eq!(wait(&headers), Trouble::Limited(LONGEST_WAIT));
    headers.insert("retry-after", HeaderValue::from_static("-1e400"));
    assert_eq!(wait(&headers), Trouble::Limited(USUAL_WAIT));
}

#[test]
fn a_glitchtips_settings_tell_its_version() {
    let headers = HeaderMap::new();
    let told = |status: u16, body: &str| {
        sentry::version(&Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: &headers,
            body: body.as_bytes(),
        })
    };
    for (said, version) in [
        ("6.1.3", Some((6, 1))),
        ("v5.2", Some((5, 2))),
        ("6.0.0rc1", Some((6, 0))),
        ("10.2.0-beta", Some((10, 2))),
        ("0.0.0-unknown", None),
        ("local", None),
        ("6", None),
        ("99999999.1", None),
        ("", None),
    ] {
        assert_eq!(told(200, &format!("{{\"version\":\"{said}\"}}")), version, "{said}");
    }
    for (status, body) in
        [(200, "<html>6.1.3</html>"), (200, "{\"version\":6.1}"), (404, "{\"version\":\"6.1.3\"}"), (200, "[]")]
    {
        assert_eq!(told(status, body), None, "{body}");
    }
}

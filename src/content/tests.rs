//! Copies as trackers gave them, each row of the tables, the same said in other words, and what a hostile event may hold.

use serde_json::{Value, json};

use super::walk::differences;
use super::{Difference, Kind, MAX_DIFFERENCES, Unreadable, compare, drift};

const SENT: &str = include_str!("../../fixtures/tracker-api/sent-event.json");
const GLITCHTIP: &str = include_str!("../../fixtures/tracker-api/glitchtip-event.json");
const BUGSINK: &str = include_str!("../../fixtures/tracker-api/bugsink-event.json");

/// The body of a recorded answer.
fn recorded(text: &str) -> Value {
    let mut recording: Value = serde_json::from_str(text).unwrap();
    recording["body"].take()
}

fn between(kind: Kind, sent: &Value, copy: &Value) -> Vec<Difference> {
    compare(kind, sent.to_string().as_bytes(), copy).unwrap()
}

/// What differs when Bugsink holds `there` for what was sent.
fn kept(sent: &Value, there: &Value) -> Vec<Difference> {
    between(Kind::Bugsink, sent, &json!({ "data": there }))
}

fn one(sent: &Value, there: &Value) -> Difference {
    let mut found = kept(sent, there);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn recorded_copies_hold_what_was_sent() {
    let sent = recorded(SENT);
    assert_eq!(between(Kind::Glitchtip, &sent, &recorded(GLITCHTIP)), []);
    assert_eq!(between(Kind::Bugsink, &sent, &recorded(BUGSINK)), []);
}

#[test]
fn every_field_that_changed_in_a_copy_is_named() {
    let sent = recorded(SENT);
    let cases = [
        ("/entries/0/data/values/1/type", "exception[1].type"),
        ("/entries/0/data/values/1/value", "exception[1].value"),
        ("/entries/0/data/values/1/stacktrace/frames/7/function", "exception[1].frames[7].function"),
        ("/entries/0/data/values/1/stacktrace/frames/7/filename", "exception[1].frames[7].filename"),
        ("/entries/0/data/values/1/stacktrace/frames/7/lineNo", "exception[1].frames[7].lineno"),
        ("/entries/0/data/values/1/stacktrace/frames/7/inApp", "exception[1].frames[7].in_app"),
        ("/entries/1/data/values/0/message", "breadcrumbs[0].message"),
        ("/entries/1/data/values/0/data/nested/a/1", "breadcrumbs[0].data.nested.a[1]"),
        ("/entries/1/data/values/0/timestamp", "breadcrumbs[0].timestamp"),
        ("/user/email", "user.email"),
        ("/dateCreated", "timestamp"),
        ("/context/cart/total", "extra.cart.total"),
        ("/contexts/order/nested/x/y", "contexts.order.nested.x.y"),
        ("/contexts/os/version", "contexts.os.version"),
    ];
    for (place, field) in cases {
        let mut copy = recorded(GLITCHTIP);
        *copy.pointer_mut(place).unwrap() = json!("2001-01-01T00:00:00Z");
        let found = between(Kind::Glitchtip, &sent, &copy);
        assert_eq!(found.iter().map(|found| &*found.field).collect::<Vec<_>>(), [field], "{place}");
        assert!(found[0].there.contains("2001") || found[0].there.parse::<i64>().is_ok(), "{found:?}");
    }
    for (tag, field) in [("release", "release"), ("environment", "environment"), ("order", "tags.order")] {
        let mut copy = recorded(GLITCHTIP);
        let tags = copy["tags"].as_array_mut().unwrap();
        tags.iter_mut().find(|own| own["key"] == tag).unwrap()["value"] = json!("other");
        let found = between(Kind::Glitchtip, &sent, &copy);
        assert_eq!(found.iter().map(|found| &*found.field).collect::<Vec<_>>(), [field]);
    }
    let mut copy = recorded(BUGSINK);
    copy["data"]["level"] = json!("info");
    let level = Difference { field: "level".into(), sent: "error".into(), there: "info".into() };
    assert_eq!(between(Kind::Bugsink, &sent, &copy), [level]);
    copy["data"]["breadcrumbs"].as_array_mut().unwrap().pop();
    copy["data"]["exception"]["values"][0]["stacktrace"] = Value::Null;
    let fields: Vec<_> = between(Kind::Bugsink, &sent, &copy).into_iter().map(|found| found.field).collect();
    assert_eq!(fields, ["breadcrumbs".into(), "exception[0].frames".into(), Box::from("level")]);
}

/// For each row: its kind and words, what was sent and what is there, in the shape of the comparison.
fn examples() -> Vec<(Kind, &'static str, Value, Value)> {
    use Kind::{Glitchtip, Sentry};
    let frame = |name: &str, value: Value| json!({ "exception": [{ "frames": [{ name: value }] }] });
    let crumb = |name: &str, value: Value| json!({ "breadcrumbs": [{ name: value }] });
    let frames = |count: usize| json!({ "exception": [{ "frames": vec![json!({ "lineno": "1" }); count] }] });
    let cut = "x".repeat(60);
    let deep = |bottom: Value| json!({ "extra": { "a": { "b": { "c": { "d": { "e": { "f": bottom } } } } } } });
    let text = json!({ "contexts": { "os": { "version": "5" } } });
    let number = json!({ "contexts": { "os": { "version": 5 } } });
    vec![
        (Glitchtip, "its API does not tell an event's level", json!({ "level": "error" }), json!({})),
        (Glitchtip, "an event without a time gets one", json!({}), json!({ "timestamp": 7 })),
        (
            Glitchtip,
            "a message is cut at 8,192 characters",
            json!({ "message": { "formatted": "ü".repeat(9000) } }),
            json!({ "message": { "formatted": "ü".repeat(8192) } }),
        ),
        (
            Glitchtip,
            "a template with parameters is filled in",
            json!({ "message": { "message": "%s" } }),
            json!({ "message": { "message": "%s", "formatted": "a" } }),
        ),
        (
            Glitchtip,
            "of a file's URL the path is kept",
            frame("filename", json!("https://shop.example/a/b.js?v=1")),
            frame("filename", json!("/a/b.js")),
        ),
        (
            Glitchtip,
            "a frame that does not say whether it is in the app gets an answer",
            json!({ "exception": [{ "frames": [{ "lineno": "1" }] }] }),
            json!({ "exception": [{ "frames": [{ "lineno": "1", "in_app": false }] }] }),
        ),
        (
            Glitchtip,
            "breadcrumbs get the default level and type",
            crumb("message", json!("a")),
            json!({ "breadcrumbs": [{ "message": "a", "level": "info", "type": "default" }] }),
        ),
        (
            Glitchtip,
            "a level that it does not know becomes info",
            crumb("level", json!("warn")),
            crumb("level", json!("info")),
        ),
        (
            Glitchtip,
            "tags are added from user, contexts, release, environment and server name",
            json!({}),
            json!({ "tags": { "os.name": "Debian" } }),
        ),
        (
            Glitchtip,
            "tags of these names are written over",
            json!({ "tags": { "user.id": "a" } }),
            json!({ "tags": { "user.id": "b" } }),
        ),
        (
            Glitchtip,
            "true and false become True and False",
            json!({ "tags": { "paid": "true" } }),
            json!({ "tags": { "paid": "True" } }),
        ),
        (
            Glitchtip,
            "of a user only known fields are kept",
            json!({ "user": { "id": "1", "plan": "gold" } }),
            json!({ "user": { "id": "1" } }),
        ),
        (
            Glitchtip,
            "{{auto}} becomes the sender's address",
            json!({ "user": { "ip_address": "{{auto}}" } }),
            json!({ "user": { "ip_address": "203.0.113.7" } }),
        ),
        (
            Glitchtip,
            "contexts are added from the request's user agent",
            json!({ "contexts": {} }),
            json!({ "contexts": { "browser": { "name": "Firefox" } } }),
        ),
        (
            Glitchtip,
            "a context gets its type",
            json!({ "contexts": { "os": { "name": "a" } } }),
            json!({ "contexts": { "os": { "name": "a", "type": "os" } } }),
        ),
        (
            Glitchtip,
            "of a context with a schema only the schema's fields are kept",
            json!({ "contexts": { "app": { "free_memory": 1, "app_name": "a" } } }),
            json!({ "contexts": { "app": { "app_name": "a" } } }),
        ),
        (Glitchtip, "a context's numbers become text and the other way around", number.clone(), text.clone()),
        (
            Glitchtip,
            "NUL characters are taken out",
            json!({ "extra": { "a": "b\0c" } }),
            json!({ "extra": { "a": "bc" } }),
        ),
        (
            Glitchtip,
            "what a project's scrubber takes for a secret is filtered",
            json!({ "extra": { "password": "a" } }),
            json!({ "extra": { "password": "[Filtered]" } }),
        ),
        (Sentry, "an event without a level is an error", json!({}), json!({ "level": "error" })),
        (Sentry, "an event without a time gets one", json!({}), json!({ "timestamp": 7 })),
        (
            Sentry,
            "a clock that is off by 55 seconds or more is set right",
            json!({ "timestamp": 1 }),
            json!({ "timestamp": 90_000_000 }),
        ),
        (
            Sentry,
            "a template with parameters is filled in",
            json!({ "message": { "message": "%s" } }),
            json!({ "message": { "message": "%s", "formatted": "a" } }),
        ),
        (
            Sentry,
            "a type that stands in the value is taken out of it",
            json!({ "exception": [{ "frames": [{ "lineno": "1" }] }] }),
            json!({ "exception": [{ "type": "ValueError", "frames": [{ "lineno": "1" }] }] }),
        ),
        (
            Sentry,
            "a value that begins with the type loses it",
            json!({ "exception": [{ "value": "ValueError: no" }] }),
            json!({ "exception": [{ "value": "no" }] }),
        ),
        (Sentry, "of more than 250 frames 250 are kept", frames(300), frames(250)),
        (
            Sentry,
            "a function named ? is none, and long ones lose their arguments",
            frame("function", json!("run(int)")),
            frame("function", json!("run")),
        ),
        (
            Sentry,
            "of a file's URL the path is kept",
            frame("filename", json!("http://shop.example/a.js")),
            frame("filename", json!("/a.js")),
        ),
        (
            Sentry,
            "rules for stack traces decide whether a frame is in the app",
            frame("in_app", json!(true)),
            frame("in_app", json!(false)),
        ),
        (
            Sentry,
            "breadcrumbs get the default level and type",
            crumb("message", json!("a")),
            json!({ "breadcrumbs": [{ "message": "a", "level": "info", "type": "default" }] }),
        ),
        (
            Sentry,
            "tags are added from contexts, user and request",
            json!({}),
            json!({ "tags": { "os.name": "Debian" } }),
        ),
        (
            Sentry,
            "tags of these names are written over",
            json!({ "tags": { "browser": "a" } }),
            json!({ "tags": { "browser": "b" } }),
        ),
        (
            Sentry,
            "true and false become True and False",
            json!({ "tags": { "paid": "true" } }),
            json!({ "tags": { "paid": "True" } }),
        ),
        (
            Sentry,
            "a tag with a key that is not allowed is left out",
            json!({ "tags": { "a key": "a" } }),
            json!({ "tags": {} }),
        ),
        (Sentry, "a user's place is added", json!({}), json!({ "user": { "geo": { "city": "Vienna" } } })),
        (
            Sentry,
            "addresses are not kept where the project says so, and {{auto}} becomes the sender's",
            json!({ "user": { "ip_address": "203.0.113.7" } }),
            json!({ "user": {} }),
        ),
        (
            Sentry,
            "contexts and their fields are added",
            json!({ "contexts": { "os": { "name": "a" } } }),
            json!({ "contexts": { "os": { "name": "a", "type": "os" } } }),
        ),
        (Sentry, "a context's numbers become text and the other way around", number, text),
        (
            Sentry,
            "what is nested deeper than seven steps is kept as text",
            deep(json!({ "g": 1 })),
            deep(json!("{\"g\":1}")),
        ),
        (Sentry, "spaces around it are taken away", json!({ "release": " 1 " }), json!({ "release": "1" })),
        (
            Sentry,
            "a long text is cut and ends with three dots",
            json!({ "extra": { "a": format!("{cut}yyyyy") } }),
            json!({ "extra": { "a": format!("{cut}...") } }),
        ),
        (
            Sentry,
            "what the project's scrubbing takes for a secret is filtered",
            json!({ "extra": { "password": "a" } }),
            json!({ "extra": { "password": "[Filtered]" } }),
        ),
    ]
}

#[test]
fn each_row_forgives_its_example_and_without_it_the_example_differs() {
    let objects = |mut sent: Value, mut there: Value| {
        for key in ["user", "tags", "contexts", "message"] {
            for side in [&mut sent, &mut there] {
                let side = side.as_object_mut().unwrap();
                side.entry(key).or_insert_with(|| json!({}));
            }
        }
        (sent, there)
    };
    let examples = examples();
    for kind in [Kind::Glitchtip, Kind::Sentry, Kind::Bugsink] {
        let rows = drift(kind);
        for row in rows {
            let told = examples.iter().filter(|(of, what, ..)| *of == kind && *what == row.what);
            assert_eq!(told.count(), 1, "{kind:?}: no example, or more than one, of {:?}", row.what);
            assert!(!row.source.is_empty());
        }
        for (_, what, sent, there) in examples.iter().filter(|(of, ..)| *of == kind) {
            let (sent, there) = objects(sent.clone(), there.clone());
            let at = rows.iter().position(|row| row.what == *what).unwrap_or_else(|| panic!("no row for {what}"));
            assert_eq!(differences(&sent, &there, rows), [], "{kind:?}: {what}");
            assert_ne!(
                differences(&sent, &there, &rows[at..=at]).len(),
                differences(&sent, &there, &[]).len(),
                "{what}"
            );
        }
    }
}

#[test]
fn the_same_in_other_words_is_the_same() {
    let same = [
        (json!({ "tags": { "a": 1, "b": true } }), json!({ "tags": [["a", "1"], ["b", "true"], null] })),
        (json!({ "tags": [["a", "b"]] }), json!({ "tags": [{ "key": "a", "value": "b" }] })),
        (
            json!({ "exception": [{ "type": "E" }] }),
            json!({ "exception": { "values": [null, { "type": "E", "value": "" }] } }),
        ),
        (json!({ "exception": { "type": "E" } }), json!({ "exception": { "values": [{ "type": "E" }] } })),
        (json!({ "level": "warn" }), json!({ "level": "warning" })),
        (json!({ "level": 40 }), json!({ "level": "error" })),
        (json!({ "timestamp": 1_795_899_155.041 }), json!({ "timestamp": "2026-11-28T20:52:35.041Z" })),
        (json!({ "timestamp": "2026-11-28 20:52:35.041000" }), json!({ "timestamp": "1795899155.041" })),
        (json!({ "message": "a" }), json!({ "logentry": { "message": "a" } })),
        (
            json!({ "message": { "formatted": "a", "message": "a", "params": [] } }),
            json!({ "logentry": { "formatted": "a" } }),
        ),
        (
            json!({ "logentry": { "message": "%s", "params": [1] } }),
            json!({ "logentry": { "message": "%s", "params": ["1"] } }),
        ),
        (json!({ "user": { "id": 7, "data": { "plan": "gold" } } }), json!({ "user": { "id": "7", "plan": "gold" } })),
        (json!({ "extra": { "a": null, "b": 1.0 } }), json!({ "extra": { "b": 1 } })),
        (json!({ "contexts": { "empty": {} } }), json!({ "contexts": null })),
    ];
    for (sent, there) in same {
        assert_eq!(kept(&sent, &there), [], "{sent} and {there}");
    }
    for (sent, there) in [
        (
            json!({ "extra": { "a": 9_007_199_254_740_993_u64 } }),
            json!({ "extra": { "a": 9_007_199_254_740_992_u64 } }),
        ),
        (json!({ "timestamp": 1.0 }), json!({ "timestamp": 1.002 })),
        (json!({ "extra": { "a": "1" } }), json!({ "extra": { "a": 1 } })),
        (json!({ "tags": "a=b" }), json!({ "tags": {} })),
    ] {
        assert_eq!(kept(&sent, &there).len(), 1, "{sent} and {there}");
    }
}

#[test]
fn secrets_are_hidden_and_terminals_are_not_harmed() {
    let hidden = [
        (json!({ "extra": { "db_password": "hunter2" } }), json!({ "extra": { "db_password": "hunter3" } })),
        (
            json!({ "extra": { "headers": [["Authorization", "hunter2"]] } }),
            json!({ "extra": { "headers": [["Authorization", ""]] } }),
        ),
        (
            json!({ "extra": { "h": { "name": "Cookie", "value": "hunter2" } } }),
            json!({ "extra": { "h": { "name": "Cookie" } } }),
        ),
        (json!({ "extra": { "a": "{\"password\": \"hunter2\"}" } }), json!({})),
        (json!({ "extra": { "a": { "b": { "token": "hunter2" } } } }), json!({})),
        (json!({ "message": "GET /x with Bearer hunter2" }), json!({ "message": "other" })),
        (json!({ "message": "postgres://u:hunter2@db/shop is down" }), json!({ "message": "other" })),
        (json!({ "tags": { "dsn": "https://hunter2@h/1" } }), json!({})),
    ];
    for (sent, there) in hidden {
        let found = one(&sent, &there);
        assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
    }
    let found = one(&json!({ "message": "postgres://u:p@db/shop is down" }), &json!({ "message": "x" }));
    assert_eq!((&*found.sent, &*found.there), ("postgres://…@db/shop is down", "x"));
    let found = one(&json!({ "message": "Unexpected token < in JSON" }), &json!({ "message": "x" }));
    assert_eq!(&*found.sent, "Unexpected token < in JSON");
    let found = one(&json!({ "extra": { "\u{1b}[2J": "a\u{202e}b\n" } }), &json!({}));
    assert_eq!((&*found.field, &*found.sent), ("extra.\\u{1b}[2J", "a\\u{202e}b\\n"));
    let (long, cut) = ("x".repeat(9000), "x".repeat(8192));
    let found = one(&json!({ "message": long }), &json!({ "message": cut }));
    assert!(found.sent.ends_with("… (9000 characters)") && found.there.ends_with("x (8192 characters)"), "{found:?}");
}

#[test]
fn what_is_found_is_bounded() {
    let many: Value = (0..1000).map(|number| (number.to_string(), json!("x".repeat(500)))).collect();
    let found = kept(&json!({ "extra": many }), &json!({ "extra": { "0": "y" } }));
    assert_eq!(found.len(), MAX_DIFFERENCES);
    assert!(found.iter().all(|found| found.sent.chars().count() <= 201));
    let found = one(&json!({ "extra": { "k".repeat(5000): many } }), &json!({}));
    assert!(found.field.chars().count() <= 201 && found.sent.chars().count() <= 201, "{found:?}");
}

#[test]
fn what_is_no_event_is_said() {
    let copy = json!({ "data": {} });
    let of = |sent: &[u8], copy: &Value| compare(Kind::Bugsink, sent, copy).unwrap_err();
    assert_eq!(of(b"no", &copy), Unreadable::Sent);
    assert_eq!(of(b"[]", &copy), Unreadable::Sent);
    assert_eq!(of("[".repeat(100_000).as_bytes(), &copy), Unreadable::Sent);
    assert_eq!(of(&vec![b' '; super::MAX_PAYLOAD + 1], &copy), Unreadable::Long);
    assert_eq!(of(br#"{"type":"transaction"}"#, &copy), Unreadable::NoError);
    assert_eq!(of(b"{}", &json!({ "detail": "Not found" })), Unreadable::Copy);
    for kind in [Kind::Glitchtip, Kind::Sentry] {
        for copy in [json!({}), json!([]), json!({ "entries": [] }), json!({ "eventID": "a", "entries": {} })] {
            assert_eq!(compare(kind, b"{}", &copy), Err(Unreadable::Copy));
        }
    }
}

//! Tests with recorded copies of trackers, an example for each row of the tables, equal values in other forms, and hostile events.

use serde_json::{Value, json};

use super::walk::differences;
use super::{Difference, Kind, MAX_DIFFERENCES, Unreadable, compare, drift};

const SENT: &str = include_str!("../../fixtures/contents/sent-event.json");
const GLITCHTIP: &str = include_str!("../../fixtures/tracker-api/glitchtip-event.json");
const BUGSINK: &str = include_str!("../../fixtures/tracker-api/bugsink-event.json");

/// The body of a recorded answer.
fn recorded(text: &str) -> Value {
    let mut recording: Value = serde_json::from_str(text).unwrap();
    recording["body"].take()
}

fn between(kind: Kind, sent: &Value, copy: &Value) -> Vec<Difference> {
    compare(kind, sent.to_string().as_bytes(), copy.to_string().as_bytes()).unwrap()
}

/// The differences when Bugsink holds `there` for what was sent.
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
fn every_changed_field_of_a_copy_is_named() {
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

/// For each row its kind and words, what was sent and what the tracker holds, in the shape of the comparison.
fn examples() -> Vec<(Kind, String, Value, Value)> {
    let all: Vec<(String, String, Value, Value)> =
        serde_json::from_str(include_str!("../../fixtures/contents/drift.json")).unwrap();
    let kind = |name: &str| if name == "Glitchtip" { Kind::Glitchtip } else { Kind::Sentry };
    let shaped = |mut value: Value| {
        repeated(&mut value);
        for part in ["user", "tags", "contexts", "message"] {
            value.as_object_mut().unwrap().entry(part).or_insert_with(|| json!({}));
        }
        value
    };
    all.into_iter().map(|(name, what, sent, there)| (kind(&name), what, shaped(sent), shaped(there))).collect()
}

/// Expands `{"repeat": [what, times]}`.
fn repeated(value: &mut Value) {
    if let Some(repeat) = value.get("repeat") {
        let times = usize::try_from(repeat[1].as_u64().unwrap()).unwrap();
        *value = match &repeat[0] {
            Value::String(text) => json!(text.repeat(times)),
            other => vec![other.clone(); times].into(),
        };
    }
    match value {
        Value::Array(all) => all.iter_mut().for_each(repeated),
        Value::Object(all) => all.values_mut().for_each(repeated),
        _ => {}
    }
}

#[test]
fn each_row_alone_forgives_its_example() {
    let examples = examples();
    for kind in [Kind::Glitchtip, Kind::Sentry, Kind::Bugsink] {
        let rows = drift(kind);
        for row in rows {
            let told = examples.iter().filter(|(of, what, ..)| *of == kind && *what == row.what);
            assert_eq!(told.count(), 1, "{kind:?}: no example, or more than one, of {:?}", row.what);
            assert!(!row.source.is_empty());
        }
        for (_, what, sent, there) in examples.iter().filter(|(of, ..)| *of == kind) {
            let at = rows.iter().position(|row| row.what == what).unwrap_or_else(|| panic!("no row for {what}"));
            assert_eq!(differences(sent, there, rows), [], "{kind:?}: {what}");
            assert_eq!(differences(sent, there, &rows[at..=at]), [], "{kind:?}: another row, too, forgives {what}");
            assert_ne!(differences(sent, there, &[]), [], "{kind:?}: {what}");
        }
    }
}

#[test]
fn a_time_that_is_off_by_less_than_a_corrected_clock_differs() {
    let at = |micros: i64| json!({ "timestamp": micros, "user": {}, "tags": {}, "contexts": {}, "message": {} });
    for (micros, forgiven) in [(3_299_999_999_i64, false), (3_300_000_000, true)] {
        assert_eq!(differences(&at(0), &at(micros), drift(Kind::Sentry)).is_empty(), forgiven, "{micros}");
    }
}

#[test]
fn the_same_value_in_another_form_does_not_differ() {
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
fn secrets_are_hidden_and_control_characters_escaped() {
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
    let found = one(&json!({ "message": "a://b:1@c://d@e <http://u:2@f> @://g" }), &json!({ "message": "x" }));
    assert_eq!(&*found.sent, "a://…@e <http://…@f> @://g");
    let found = one(&json!({ "message": "Unexpected token < in JSON" }), &json!({ "message": "x" }));
    assert_eq!(&*found.sent, "Unexpected token < in JSON");
    let found = one(&json!({ "extra": { "\u{1b}[2J": "a\u{202e}b\n" } }), &json!({}));
    assert_eq!((&*found.field, &*found.sent), ("extra.\\u{1b}[2J", "a\\u{202e}b\\n"));
    let (long, cut) = ("x".repeat(9000), "x".repeat(8192));
    let found = one(&json!({ "message": long }), &json!({ "message": cut }));
    assert!(found.sent.ends_with("… (9000 characters)") && found.there.ends_with("x (8192 characters)"), "{found:?}");
}

#[test]
fn differences_are_bounded_in_number_and_length() {
    let many: Value = (0..1000).map(|number| (number.to_string(), json!("x".repeat(500)))).collect();
    let found = kept(&json!({ "extra": many }), &json!({ "extra": { "0": "y" } }));
    assert_eq!(found.len(), MAX_DIFFERENCES);
    assert!(found.iter().all(|found| found.sent.chars().count() <= 201));
    let found = one(&json!({ "extra": { "k".repeat(5000): many } }), &json!({}));
    assert!(found.field.chars().count() <= 201 && found.sent.chars().count() <= 201, "{found:?}");
}

#[test]
fn a_text_made_of_urls_is_shown_as_quickly_as_any_other() {
    let began = std::time::Instant::now();
    let text = "://".repeat(100_000);
    let found = one(&json!({ "message": text }), &json!({ "message": "x" }));
    assert!(found.sent.starts_with("://://"), "{found:?}");
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn a_payload_or_copy_that_is_no_event_is_an_error() {
    let copy = json!({ "data": {} });
    let of = |sent: &[u8], copy: &Value| compare(Kind::Bugsink, sent, copy.to_string().as_bytes()).unwrap_err();
    assert_eq!(of(b"no", &copy), Unreadable::Sent);
    assert_eq!(of(b"[]", &copy), Unreadable::Sent);
    assert_eq!(of("[".repeat(10_000).as_bytes(), &copy), Unreadable::Sent);
    assert_eq!(of(&vec![b' '; super::MAX_PAYLOAD + 1], &copy), Unreadable::Long);
    assert_eq!(of(br#"{"type":"transaction"}"#, &copy), Unreadable::NoError);
    assert_eq!(of(b"{}", &json!({ "detail": "Not found" })), Unreadable::Copy);
    for kind in [Kind::Glitchtip, Kind::Sentry] {
        for copy in [json!({}), json!([]), json!({ "entries": [] }), json!({ "eventID": "a", "entries": {} })] {
            assert_eq!(compare(kind, b"{}", copy.to_string().as_bytes()), Err(Unreadable::Copy));
        }
    }
}

#[test]
fn an_event_with_too_many_values_is_not_parsed() {
    let of = |one: &str, count: usize| format!("{{\"extra\":{{\"all\":[{}0]}}}}", format!("{one},").repeat(count));
    let copy = |sent: &str| format!("{{\"data\":{sent}}}");
    for one in ["{\"\":0}", "[[]]", "0", "[{}]"] {
        let (many, few) = (of(one, 100_000), of(one, 2000));
        let compared = |sent: &str, there: &str| compare(Kind::Bugsink, sent.as_bytes(), copy(there).as_bytes());
        assert_eq!(compared(&many, &few), Err(Unreadable::Heavy), "{one}");
        assert_eq!(compared(&few, &many), Err(Unreadable::Heavy), "{one}");
        assert_eq!(compared(&few, &few), Ok(vec![]), "{one}");
    }
    let text = format!("{{\"message\":\"{}\"}}", "{[,\\\"".repeat(200_000));
    assert_eq!(compare(Kind::Bugsink, text.as_bytes(), copy(&text).as_bytes()), Ok(vec![]), "a text is one value");
}

#[test]
fn the_compared_parts_are_those_of_the_shape() {
    let shape = super::shape::of_event(&serde_json::Map::new());
    let mut parts: Vec<&str> = super::PARTS.to_vec();
    parts.sort_unstable();
    let mut found: Vec<&String> = shape.as_object().unwrap().keys().collect();
    found.sort_unstable();
    assert_eq!(found, parts);
}

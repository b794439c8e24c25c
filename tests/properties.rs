//! Laws that hold for any bytes, checked with generated ones and with every seed of the fuzzers.
//!
//! The laws are in `properties/`, and `fuzz/` calls the same functions. A fuzzer's finding becomes a seed in `fixtures/fuzz/<law>/`, which
//! is checked here from then on.

#[path = "properties/laws.rs"]
mod laws;

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

/// Runs a law on every file of these folders of `fixtures`; each must have files.
fn holds_for_seeds(law: fn(&[u8]), folders: &[&str]) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    for folder in folders {
        let mut files = 0;
        for entry in fs::read_dir(fixtures.join(folder)).expect("a folder of seeds") {
            let path = entry.expect("a seed").path();
            let seed = fs::read(&path).expect("a seed");
            if std::panic::catch_unwind(|| law(&seed)).is_err() {
                panic!("the law does not hold for {}", path.display());
            }
            files += 1;
        }
        assert!(files > 0, "no seeds in {folder}");
    }
}

#[test]
fn every_law_holds_for_every_seed() {
    holds_for_seeds(laws::envelope, &["fuzz/envelope", "envelopes", "hostile"]);
    holds_for_seeds(laws::pieces, &["fuzz/pieces", "envelopes"]);
    holds_for_seeds(laws::auth, &["fuzz/auth"]);
    holds_for_seeds(laws::dsn, &["fuzz/dsn"]);
    holds_for_seeds(laws::rate_limits, &["fuzz/rate_limits"]);
    holds_for_seeds(laws::decoder, &["fuzz/decoder", "hostile"]);
    holds_for_seeds(laws::store, &["fuzz/store"]);
    holds_for_seeds(laws::multipart, &["fuzz/multipart"]);
    holds_for_seeds(laws::content, &["fuzz/content"]);
}

/// Text made of a format's building blocks in any order.
fn pieces(pieces: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    vec(proptest::sample::select(pieces), 0..24).prop_map(|words| words.concat().into_bytes())
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..400)
}

const ENVELOPE: &[&str] = &[
    "{}",
    "\n",
    "\n\n",
    "\r\n",
    r#"{"event_id":"9ec79c33ec9942ab8353589fcb2e04dc"}"#,
    r#"{"dsn":"http://k@h/1","sent_at":"2025-01-02T03:04:05Z","trace":{"public_key":"k"}}"#,
    r#"{"type":"event"}"#,
    r#"{"type":"event","length":2}"#,
    r#"{"type":"attachment","length":0}"#,
    r#"{"type":"attachment","length":5}"#,
    r#"{"type":"profile_chunk_ui","platform":"javascript"}"#,
    r#"{"type":"log","item_count":3}"#,
    r#"{"type":"x_new"}"#,
    "{\"type\":\"\\u0000\"}",
    "ab",
    "abcde",
    "\u{2603}",
    "\0",
    " ",
];

const AUTH: &[&str] = &[
    "Sentry ",
    "sentry ",
    "Basic ",
    "Bearer x",
    "sentry_key=",
    "sentry_version=",
    "sentry_client=",
    "sentry_secret=x",
    "a1b2c3d4e5f60718293a4b5c6d7e8f90",
    "YTFiMjo=",
    "7",
    "7.1",
    "8",
    "raven-python/6.10",
    "%0d%0a",
    ",",
    ", ",
    " ",
    "&",
    "\n",
    "\u{2603}",
];

const DSN: &[&str] = &[
    "http",
    "https",
    "://",
    ":",
    "@",
    "/",
    "//",
    "k",
    "K-9_",
    "h",
    "localhost",
    "[::1]",
    "127.1",
    "8000",
    "443",
    "1",
    "42",
    "%2f",
    "?q",
    "#f",
    "..",
    "\\",
    " ",
    "\u{e9}",
    "xn--",
];

const LIMITS: &[&str] = &[
    "60",
    "1.5",
    "1e300",
    "-1",
    "inf",
    "NaN",
    ":",
    ";",
    ",",
    ", ",
    "error",
    "transaction",
    "span",
    "sourcemaps",
    "organization",
    "quota_exceeded",
    " ",
    "\u{2603}",
];

const STORE: &[&str] = &[
    "{",
    "}",
    "\"event_id\":",
    "\"9ec79c33ec9942ab8353589fcb2e04dc\"",
    "\"type\":",
    "\"transaction\"",
    "\"error\"",
    "null",
    "1.0",
    ",",
    ":",
    "[",
    "]",
    " ",
    "\n",
    "eJyrVkotS80rUbJSUPJIzcnJVwjPL8pJUaoFAGxZCLs=",
    "\\u0000",
];

const FORM: &[&str] = &[
    "--b",
    "--b--",
    "\r\n",
    "\n",
    "Content-Disposition: form-data; ",
    "name=\"upload_file_minidump\"; ",
    "name=\"sentry\"",
    "name=\"sentry__1\"",
    "name=\"__sentry-event\"; ",
    "filename=\"a.dmp\"",
    "filename=\"a\\\"\u{2603}.gz\"",
    "MDMP",
    "\u{1f}\u{8b}",
    "{\"event_id\":\"9ec79c33ec9942ab8353589fcb2e04dc\"}",
    "Content-Type: text/plain",
    "\0",
];

/// An event with known names and values of any type, in both of its forms.
fn any_event() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        proptest::sample::select(TEXTS).prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 60, 6, |inner| {
        let members = vec((proptest::sample::select(PARTS), inner.clone()), 0..6);
        let object =
            |members: Vec<(&str, Value)>| members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        prop_oneof![vec(inner, 0..4).prop_map(Value::from), members.prop_map(object)]
    })
}

const PARTS: &[&str] = &[
    "exception",
    "values",
    "type",
    "value",
    "stacktrace",
    "rawStacktrace",
    "frames",
    "filename",
    "abs_path",
    "function",
    "lineno",
    "in_app",
    "breadcrumbs",
    "category",
    "level",
    "timestamp",
    "data",
    "tags",
    "key",
    "user",
    "id",
    "ip_address",
    "release",
    "environment",
    "logentry",
    "message",
    "formatted",
    "params",
    "extra",
    "contexts",
    "password",
    "entries",
    "eventID",
    "dateCreated",
    "context",
    "version",
];

const TEXTS: &[&str] = &[
    "warn",
    "\u{1b}[2J",
    "a\u{202e}b",
    "http://u:p@h/a?b#c",
    "file:",
    "1e400",
    "2026-11-28T20:52:35Z",
    "exception",
    "breadcrumbs",
    "message",
    "release",
    "password=x",
    "{{auto}}",
    "[Filtered]",
    "\u{0}",
];

proptest! {
    #[test]
    fn any_two_events_are_compared_within_bounds(sent in any_event(), copy in any_event()) {
        laws::content(format!("{sent}\n{copy}").as_bytes());
        laws::content(format!("{sent}\n{}", serde_json::json!({ "data": copy })).as_bytes());
        laws::content(format!("{sent}\n{}", serde_json::json!({ "eventID": "", "entries": [
            { "type": "exception", "data": copy }, { "type": "message", "data": sent }, { "type": "breadcrumbs", "data": copy },
        ], "user": copy, "contexts": copy, "tags": copy, "context": sent }))
        .as_bytes());
    }

    #[test]
    fn any_bytes_are_compared_within_bounds(bytes in any_bytes()) {
        laws::content(&bytes);
    }

    #[test]
    fn envelopes_are_read_without_loss_or_not_at_all(bytes in prop_oneof![any_bytes(), pieces(ENVELOPE)]) {
        laws::envelope(&bytes);
    }

    #[test]
    fn the_pieces_an_envelope_is_cut_into_change_nothing(size: u8, bytes in prop_oneof![any_bytes(), pieces(ENVELOPE)]) {
        laws::pieces(&[&[size], &bytes[..]].concat());
    }

    #[test]
    fn credentials_are_the_same_in_every_form(bytes in prop_oneof![any_bytes(), pieces(AUTH)]) {
        laws::auth(&bytes);
    }

    #[test]
    fn a_dsn_prints_as_itself_and_hides_its_key(bytes in prop_oneof![any_bytes(), pieces(DSN)]) {
        laws::dsn(&bytes);
    }

    #[test]
    fn rate_limits_are_bounded_and_read_as_they_are_written(bytes in prop_oneof![any_bytes(), pieces(LIMITS)]) {
        laws::rate_limits(&bytes);
    }

    #[test]
    fn decoding_stays_within_its_limit_and_undoes_encoding(bytes in any_bytes()) {
        laws::decoder(&bytes);
    }

    #[test]
    fn a_stored_event_becomes_an_envelope_of_one_item_or_nothing(bytes in prop_oneof![any_bytes(), pieces(STORE)]) {
        laws::store(&bytes);
    }

    #[test]
    fn a_form_becomes_an_envelope_or_nothing(size: u8, bytes in prop_oneof![any_bytes(), pieces(FORM)]) {
        laws::multipart(&[&[size], &bytes[..]].concat());
    }
}

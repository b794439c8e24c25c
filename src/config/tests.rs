//! The loader as a whole: which files are accepted, which problems are reported, and that no message has a secret.

use proptest::prelude::*;

use super::diagnostics::{Form, Problems};
use super::{Config, Loaded, load, parse};

mod listeners;
mod sections;
mod shown;

fn variables(name: &str) -> Option<String> {
    let known = [("SENTRY_DSN", "https://hunter2@o1.ingest.sentry.io/42"), ("KEY", "hunter2")];
    known.into_iter().find(|(own, _)| *own == name).map(|(_, value)| value.to_owned())
}

pub(super) fn read(text: &str) -> Result<Loaded, Problems> {
    parse("config.toml", text, &variables)
}

fn problems(text: &str) -> Problems {
    read(text).map_or_else(|problems| problems, |loaded| loaded.warnings)
}

pub(super) fn lines(text: &str) -> String {
    problems(text).render(Form::Lines)
}

pub(super) const GOOD: &str = r#"
primary = "sentry"
[upstreams.sentry]
[upstreams.glitchtip]
kind = "glitchtip"
[[projects]]
name = "shop"
id = "1"
public_key = "${KEY}"
[projects.upstreams]
sentry = "${SENTRY_DSN}"
glitchtip = "http://hunter2@127.0.0.1:8080/1"
"#;

fn good() -> Config {
    read(GOOD).unwrap().config
}

const MANY: &str = r#"
primary = "sentri"
mirrow = true

[server]
listen = "127.0.0.1:8484"
max_body = "200 parsecs"
mirror = true
tls_cert = "cert.pem"

[admin]
listen = "0.0.0.0:8485"

[limits]
eror = "100/s"

[upstreams.sentry]
tiemout = "30s"
max_in_flight = 0
on_rate_limit = "hodl"

[upstreams.glitchtip]
kind = "glitchtip"
timeout = "${KEY}"

[upstreams.unused]
max_in_flight = 300
max_age = "0s"

[[projects]]
name = "shop"
id = "one"
public_key = "hunter2 hunter2"
[projects.upstreams]
sentry = "ftp://hunter2@host/1"
glitchtip = "${GLITCHTIP_DSN}"

[[projects]]
public_key = 12345678
primary = "glitchtip"
[projects.upstreams]
sentry = "http://hunter2@localhost:8484/1"
senty = "http://hunter2@h/1"
"#;

#[test]
fn a_good_file_is_loaded_and_has_defaults() {
    let config = good();
    assert_eq!(&*config.primary, "sentry");
    assert!(config.mirror);
    assert_eq!(config.server, crate::http::settings::Server::default());
    assert_eq!(config.routing().project("shop").unwrap().dsns.len(), 2);
    assert_eq!(config.routing().route(&config.projects[0]).deliver, ["sentry".into(), "glitchtip".into()]);
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn all_problems_are_reported_at_once_each_at_its_place() {
    insta::assert_snapshot!(lines(MANY), @r##"
    config.toml:2:11: primary: `sentri` names no upstream (did you mean `sentry`?)
    config.toml:3:1: mirrow: unknown key (did you mean `mirror`?)
    config.toml:5:1: server.tls_key: is missing: the key of this certificate (tls_cert and tls_key go together)
    config.toml:6:10: server.listen: expected a list, found string "127.0.0.1:8484" (an address is an IP and a port, as in "127.0.0.1:8484" or "[::1]:8484"; [server] takes a list of them)
    config.toml:7:12: server.max_body: "200 parsecs" is not a size: write a whole number and a unit, as in "64MiB"
    config.toml:8:1: server.mirror: unknown key (`mirror` belongs at the top of the file, before the first [section])
    config.toml:12:10: admin.listen: everybody who reaches this address could switch the primary: a token is required (add token = "${SWITCHYARD_ADMIN_TOKEN}" to [admin], or listen on 127.0.0.1)
    config.toml:15:1: limits.eror: unknown key (did you mean `error`?)
    config.toml:18:1: upstreams.sentry.tiemout: unknown key (did you mean `timeout`?)
    config.toml:19:17: upstreams.sentry.max_in_flight: expected a whole number from 1 to 256, found integer `0`
    config.toml:20:17: upstreams.sentry.on_rate_limit: expected `hold` or `drop`, found `hodl`; did you mean `hold`?
    config.toml:24:11: upstreams.glitchtip.timeout: "${KEY}" is not a period: write a whole number and a unit, as in "30s" or "72h"
    config.toml:26:1: warning: upstreams.unused: no project has a DSN here: it will get nothing
    config.toml:27:17: upstreams.unused.max_in_flight: 256 is the most
    config.toml:28:11: upstreams.unused.max_age: is zero: nothing could ever be delivered
    config.toml:32:6: projects[0].id: a project id consists of digits (as in id = "1")
    config.toml:33:14: projects[0].public_key: a key is 1 to 128 letters, digits, - and _
    config.toml:35:10: projects[0].upstreams.sentry: the scheme of a DSN is http or https
    config.toml:36:13: projects[0].upstreams.glitchtip: the environment variable GLITCHTIP_DSN is not set (set it in the daemon's environment, or write ${file:/path} to take the value from a file)
    config.toml:38:1: projects[1].name: is missing (metrics, logs and status show it)
    config.toml:38:1: projects[1].id: is missing (the number at the end of the DSN that services use, as in id = "1")
    config.toml:39:14: projects[1].public_key: expected a string, found an integer (write it in quotes; a period or a size with its unit, as in "30s" or "64MiB")
    config.toml:41:1: projects[1].upstreams.glitchtip: this project has no DSN at its primary, `glitchtip` (add glitchtip = "…" under [projects.upstreams], or give the project a primary of its own)
    config.toml:42:10: projects[1].upstreams.sentry: this is our own address: envelopes would go round in a circle (put the DSN here that the tracker gave you; ours goes into the services' SENTRY_DSN)
    config.toml:43:1: projects[1].upstreams.senty: there is no such upstream (did you mean `sentry`?)
    24 problems, 1 warning in config.toml
    "##);
}

#[test]
fn a_terminal_shows_the_line_and_a_caret() {
    let text = "primary = \"sentry\"\n[upstreams.sentry]\ntimeout = 30\n[[projects]]\nname = \"a\"\nid = \"1\"\npublic_key = \"hunter2!\"\nupstreams.sentry = \"https://hunter2@h/1\"\n";
    insta::assert_snapshot!(problems(text).render(Form::Plain), @r##"
      x upstreams.sentry.timeout: expected a string, found integer `30`
       ,-[config.toml:3:11]
     3 | timeout = 30
       :           ^^
       `----
      help: write it in quotes; a period or a size with its unit, as in "30s" or "64MiB"

      x projects[0].public_key: a key is 1 to 128 letters, digits, - and _
       ,-[config.toml:7:14]
     7 | public_key = "********"
       :              ^^^^^^^^^^
       `----

    2 problems in config.toml
    "##);
    insta::assert_snapshot!(problems(text).render(Form::Graphical { color: false, width: 80 }), @r##"
      × upstreams.sentry.timeout: expected a string, found integer `30`
       ╭─[config.toml:3:11]
     3 │ timeout = 30
       ·           ──
       ╰────
      help: write it in quotes; a period or a size with its unit, as in "30s" or
            "64MiB"

      × projects[0].public_key: a key is 1 to 128 letters, digits, - and _
       ╭─[config.toml:7:14]
     7 │ public_key = "********"
       ·              ──────────
       ╰────

    2 problems in config.toml
    "##);
    assert!(problems(text).render(Form::Graphical { color: true, width: 80 }).contains("\u{1b}["));
}

#[test]
fn scripts_get_json() {
    let json = serde_json::to_value(problems("primary = 1\n[upstreams.a]\n")).unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(&json).unwrap(), @r##"
    {
      "errors": 2,
      "file": "config.toml",
      "problems": [
        {
          "column": 1,
          "help": "add [[projects]] with name, id and public_key, and [projects.upstreams] with its DSNs",
          "line": 1,
          "message": "there is no project",
          "path": "projects",
          "severity": "error"
        },
        {
          "column": 11,
          "help": "write it in quotes; a period or a size with its unit, as in \"30s\" or \"64MiB\"",
          "line": 1,
          "message": "expected a string, found integer `1`",
          "path": "primary",
          "severity": "error"
        }
      ],
      "warnings": 0
    }
    "##);
}

#[test]
fn invalid_toml_is_reported_by_line() {
    insta::assert_snapshot!(lines("primary = sentry\n[upstreams.a\nx = 1\npublic_key = hunter2\nprimary = \"b\"\n"), @r##"
    config.toml:1:11: string values must be quoted, expected literal string
    config.toml:2:13: unclosed table, expected `]`
    config.toml:5:1: duplicate key
    3 problems in config.toml
    "##);
}

#[test]
fn the_report_on_an_empty_file_names_what_is_missing() {
    insta::assert_snapshot!(lines(""), @r##"
    config.toml:1:1: upstreams: there is no upstream (add a section [upstreams.NAME] for each tracker)
    config.toml:1:1: primary: is missing: which upstream does the team trust now? (write primary = "NAME" at the top)
    config.toml:1:1: projects: there is no project (add [[projects]] with name, id and public_key, and [projects.upstreams] with its DSNs)
    3 problems in config.toml
    "##);
}

#[test]
fn no_rendering_shows_a_secret() {
    let broken = MANY.replace("[server]", "[server");
    for text in [MANY, GOOD, &broken, &GOOD.replace("\"sentry\"", "5"), &GOOD.replace("id", "public_key"), &shared()] {
        let problems = problems(text);
        let forms = [Form::Plain, Form::Lines, Form::Graphical { color: true, width: 120 }];
        let json = serde_json::to_string(&problems).unwrap();
        for shown in
            forms.map(|form| problems.render(form)).into_iter().chain([json, format!("{problems} {problems:?}")])
        {
            assert!(!shown.contains("hunter2") && !shown.contains("12345678"), "{shown}");
        }
    }
}

#[test]
fn messages_do_not_repeat_the_value_of_a_reference() {
    for line in [
        "primary = \"${KEY}\"\nupstreams.other.kind = \"sentry\"",
        "mirror = \"${KEY}\"",
        "upstreams = \"${KEY}\"",
        "projects = \"${KEY}\"",
        "projects = [\"${KEY}\", {name = \"${KEY}!\", id = \"${KEY}\", primary = \"${KEY}\", mirror = \"${KEY}\"}]",
        "server = \"${KEY}\"",
        "server.listen = \"${KEY}\"",
        "server.listen = [\"${KEY}\", \"x\", \"${KEY}\"]",
        "server.max_body = \"${KEY}\"",
        "journal.sync = \"a ${KEY}\"",
        "upstreams.sentry.kind = \"${KEY}\"",
        "upstreams.sentry.max_in_flight = \"${KEY}\"",
        "upstreams.sentry = \"${KEY}\"",
    ] {
        let said = lines(line);
        assert!(said.contains(line.split([' ', '.']).next().unwrap()), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

/// Two projects with one name and key at one GlitchTip.
fn shared() -> String {
    let project = &GOOD[GOOD.find("[[projects]]").unwrap()..];
    format!("{GOOD}{project}")
}

#[test]
fn repeated_projects_are_errors_and_a_shared_glitchtip_is_a_warning() {
    insta::assert_snapshot!(lines(&shared()), @r##"
    config.toml:14:8: projects[1].name: another project has this name
    config.toml:16:14: projects[1].public_key: another project has this id and key (services tell us who they are by id and key: give each project its own)
    config.toml:19:13: warning: projects[1].upstreams.glitchtip: project shop has this DSN too: at this GlitchTip the two are one project (give each a project of its own there, or let the services of both use one DSN of ours)
    2 problems, 1 warning in config.toml
    "##);
    let apart = shared().replacen("name = \"shop\"\nid = \"1\"", "name = \"blog\"\nid = \"2\"", 1);
    let warnings = parse("config.toml", &apart, &variables).unwrap().warnings;
    assert_eq!((warnings.errors(), warnings.warnings()), (0, 1));
    assert_eq!(warnings.summary(), "1 warning in config.toml");
}

#[test]
fn the_shadow_section_is_read_and_checked() {
    let good = "items = [\"event\", \"transaction\"]\nsample = { transaction = 0.25 }\ndaily_cap = { error = 5000, attachment = \"1GiB\" }\n";
    let loaded = parse("config.toml", &format!("{GOOD}[upstreams.sentry.shadow]\n{good}"), &variables).unwrap();
    let shown = loaded.config.upstreams["sentry"].shadow.to_string();
    assert_eq!(
        shown,
        "only event, transaction; 25% of transaction; at most 5000 error a day; at most 1GiB attachment a day"
    );
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let wrong = "items = [\"event\", \"transactoin\"]\nsample = { transaction = 25, errors = 0.1 }\ndaily_cap = { error = -1, session = \"5\" }\nsampel = 1\n";
    insta::assert_snapshot!(lines(&format!("{GOOD}[upstreams.sentry.shadow]\n{wrong}")), @r##"
    config.toml:14:19: upstreams.sentry.shadow.items[1]: expected one of `event`, `transaction`, `security`, `raw_security`, `attachment`, `form_data`, `user_report`, `feedback`, `profile`, `profile_chunk`, `replay_event`, `replay_recording`, `replay_video`, `check_in`, `log`, `trace_metric`, `span`, `session`, `sessions`, `statsd`, `metric_buckets`, `client_report`, `nel`, `unreal_report`, found `transactoin`; did you mean `transaction`?
    config.toml:15:26: upstreams.sentry.shadow.sample.transaction: expected a number from 0 to 1, found integer `25`
    config.toml:15:30: upstreams.sentry.shadow.sample.errors: unknown key (did you mean `error`?)
    config.toml:16:23: upstreams.sentry.shadow.daily_cap.error: expected a whole number, or a size as in "1GiB", found integer `-1`
    config.toml:16:37: upstreams.sentry.shadow.daily_cap.session: "5" is not a size: write a whole number and a unit, as in "64MiB"
    config.toml:17:1: upstreams.sentry.shadow.sampel: unknown key (did you mean `sample`?)
    6 problems in config.toml
    "##);
    let value = GOOD.replace("[upstreams.sentry]\n", "[upstreams.sentry]\nshadow = 0.1\n");
    assert!(lines(&value).contains("upstreams.sentry.shadow: expected a section, found"), "{}", lines(&value));
}

#[test]
fn limits_are_read_for_all_projects_and_for_a_single_one() {
    let own =
        "[projects.limits]\nerror = \"7/s\"\n[limits]\nerror = \"5/s\"\nsession = \"6/s\"\n[limits.storm]\nlimit = 3\n";
    let limits = parse("config.toml", &format!("{GOOD}{own}"), &variables).unwrap().config.limits;
    let shown = |project| serde_json::to_string(&limits.of(project)).unwrap();
    assert_eq!(shown("shop"), r#"{"error":"7/s","session":"6/s","storm":{"limit":3,"window":"1m"}}"#);
    assert_eq!(shown("other"), r#"{"error":"5/s","session":"6/s","storm":{"limit":3,"window":"1m"}}"#);
    let wrong = "[limits]\nerror = \"5 a second\"\nsession = { rate = \"1/d\", burst = 500 }\nlogs = \"1/s\"\nspan = 5\n[limits.storm]\nlimit = 0\n";
    insta::assert_snapshot!(lines(&format!("{GOOD}{wrong}")), @r##"
    config.toml:14:9: limits.error: "5 a second" is no rate: write an amount and one of s, m, h, d, as in "100/s"
    config.toml:15:11: limits.session: a burst of 500 takes more than a year at 1/d
    config.toml:16:1: limits.logs: unknown key (known here: error, security, transaction, span, attachment, attachment_item, feedback, profile, profile_chunk, profile_chunk_ui, replay, monitor, log_item, log_byte, trace_metric, session, metric_bucket, storm)
    config.toml:17:8: limits.span: expected a rate as in "100/s", or { rate = "100/s", burst = 500 }, found integer `5`
    config.toml:19:9: limits.storm.limit: expected a whole number from 1 to 4294967295, found integer `0`
    5 problems in config.toml
    "##);
}

#[test]
fn more_upstreams_than_the_journal_has_targets_are_refused() {
    let many: String = (0..33).map(|n| format!("[upstreams.u{n}]\n")).collect();
    assert!(lines(&format!("{GOOD}{many}")).contains("35 upstreams; 32 are the most"));
}

#[test]
fn loops_are_found_in_every_spelling() {
    for (listen, dsn, ours) in [
        ("127.0.0.1:8484", "http://k@127.0.0.1:8484/1", true),
        ("127.0.0.1:8484", "http://k@localhost:8484/1", true),
        ("[::1]:8484", "http://k@[::1]:8484/1", true),
        ("0.0.0.0:8484", "http://k@127.0.0.1:8484/1", true),
        ("0.0.0.0:80", "http://k@localhost/1", true),
        ("127.0.0.1:8484", "http://k@[::ffff:127.0.0.1]:8484/1", true),
        ("127.0.0.1:8484", "http://k@127.0.0.1:8485/1", true),
        ("127.0.0.1:8484", "http://k@127.0.0.1:8080/1", false),
        ("0.0.0.0:8484", "http://k@tracker.example:8484/1", false),
        ("127.0.0.1:0", "http://k@127.0.0.1:9/1", false),
    ] {
        let text = GOOD.replace("http://hunter2@127.0.0.1:8080/1", dsn);
        let said = lines(&format!("{text}\n[server]\nlisten = [{listen:?}]\n"));
        assert_eq!(said.contains("our own"), ours, "{listen} {dsn}: {said}");
    }
}

#[test]
fn problems_of_list_elements_are_reported_at_the_element() {
    let text = format!("{GOOD}\n[server]\nlisten = [\"a\", \"127.0.0.1:1\", \"b\"]\n");
    let said = lines(&text);
    assert!(said.contains("server.listen[0]") && said.contains("server.listen[2]"), "{said}");
}

#[test]
fn a_missing_file_and_a_file_without_text_give_different_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    assert!(load(&path).unwrap_err().is_missing());
    std::fs::write(&path, b"primary = \"\xff\"").unwrap();
    let unfit = load(&path).unwrap_err();
    assert!(unfit.is_invalid() && unfit.to_string().contains("byte 11"), "{unfit}");
    assert!(!load(folder.path()).unwrap_err().is_missing());
    std::fs::write(&path, "primary = 1").unwrap();
    assert!(load(&path).unwrap_err().problems().is_some());
}

/// Pieces of configuration files, valid and invalid.
fn piece() -> impl Strategy<Value = String> {
    let words = GOOD.lines().chain(MANY.lines()).map(str::to_owned).collect::<Vec<_>>();
    prop_oneof![
        proptest::sample::select(words),
        "[ -~é\n]{0,20}",
        Just("projects = [5, {upstreams = 3}, [[]]]".to_owned()),
        Just("upstreams = { a = 1, b = {timeout = [{}]} }".to_owned()),
        Just("[[upstreams]]".to_owned()),
        Just("a = '''\n\n".to_owned()),
        Just("\u{feff}\r\nlisten = [\"\u{1F600}\", 1979-05-27]".to_owned()),
    ]
}

proptest! {
    #[test]
    fn no_text_makes_the_loader_panic_or_show_a_secret(pieces in proptest::collection::vec(piece(), 0..30)) {
        let text = pieces.join("\n");
        let problems = problems(&text);
        for form in [Form::Plain, Form::Lines, Form::Graphical { color: true, width: 20 }] {
            let shown = problems.render(form);
            prop_assert!(!shown.contains("hunter2"), "{}", shown);
        }
    }

    #[test]
    fn no_bytes_make_the_loader_panic(text in any::<String>()) {
        problems(&text).render(Form::Plain);
    }
}

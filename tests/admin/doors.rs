//! Access to the admin listener by a page whose name was rebound to this machine, and by a local user without the token.

use std::path::Path;
use std::process::Output;

use assert_cmd::Command;
use reqwest::StatusCode;
use serde_json::json;

use super::support::eventually::eventually;
use super::support::relay::{Plan, Relay, SOON};
use super::support::upstream::{Reply, Upstream};
use super::{TOKEN, order, two_upstreams};

/// A GET with these headers.
async fn ask(relay: &Relay, path: &str, headers: &[(&str, &str)]) -> (StatusCode, String) {
    let request = relay.client().get(format!("http://{}{path}", relay.admin_address()));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let response = request.send().await.expect("an answer");
    (response.status(), response.text().await.expect("a body"))
}

/// A relay with one dead letter.
async fn with_dead_letter(plan: Plan, upstream: &Upstream) -> Relay {
    let relay = plan.start().await;
    upstream.always(Reply::status(400));
    relay.send_errors(1).await;
    eventually("there is a dead letter", SOON, async || match relay.upstream("old").await["dead_letters"].clone() {
        count if count == 1 => Ok(()),
        count => Err(count.to_string()),
    })
    .await;
    relay
}

/// Runs a verb with a configuration; `token` is the value of `RELAY_TOKEN`.
async fn verb(config: &Path, args: &[&str], token: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    command.args(args).arg("--config").arg(config).env_remove("RELAY_TOKEN").env("NO_COLOR", "1");
    command.envs(token.map(|token| ("RELAY_TOKEN", token)));
    tokio::task::spawn_blocking(move || command.output().expect("the binary")).await.expect("it ends")
}

#[tokio::test]
async fn a_page_with_a_rebound_name_reads_nothing_and_uses_up_no_guess() {
    for with_token in [false, true] {
        let (old, _new, plan) = two_upstreams().await;
        let plan = plan.admin("hosts = [\"relay.example.org\"]");
        let plan = if with_token { plan.admin(&format!("token = \"{TOKEN}\"")) } else { plan };
        let relay = with_dead_letter(plan, &old).await;
        let listed = relay.client().get(format!("http://{}/api/dead-letters", relay.admin_address()));
        let listed: serde_json::Value = listed.send().await.expect("an answer").json().await.expect("JSON");
        let envelope = format!("/api/dead-letters/{}/envelope", listed["dead_letters"][0]["id"]);
        for host in ["evil.test", "evil.test:8485", "localhost.evil.test", "127.0.0.1.evil.test"] {
            for path in
                ["/", "/login", "/report", "/api/status", "/api/report", "/metrics", "/api/dead-letters", &envelope]
            {
                let (status, text) = ask(&relay, path, &[("host", host)]).await;
                assert_eq!(status, StatusCode::MISDIRECTED_REQUEST, "{host} {path}: {text}");
                assert!(text.contains("hosts = ") && !text.contains("old"), "{host} {path}: {text}");
            }
            assert_eq!(ask(&relay, "/healthz", &[("host", host)]).await.0, 200);
            assert_eq!(order(&relay, &[("host", host)], &json!({"to": "new"})).await.status(), 421);
        }
        for _ in 0..15 {
            let guess = relay.client().post(format!("http://{}/login", relay.admin_address())).body("token=guess");
            let guess = guess.header("content-type", "application/x-www-form-urlencoded").header("host", "evil.test");
            assert_eq!(guess.send().await.expect("an answer").status(), 421);
        }
        assert!(!relay.log().contains("a wrong token was given"), "{}", relay.log());
        for host in ["localhost:1", "127.0.0.9", "[::1]:8485", "Relay.Example.Org:443"] {
            assert_eq!(ask(&relay, "/api/status", &[("host", host)]).await.0, 200, "{host}");
        }
        let bearer = format!("Bearer {TOKEN}");
        let (status, _) = ask(&relay, &envelope, &[("host", "evil.test"), ("authorization", &bearer)]).await;
        assert_eq!(status, if with_token { 200 } else { 421 });
        assert_eq!(relay.status().await["primary"], "old");
        relay.finish().await;
    }
}

#[tokio::test]
async fn changes_and_event_contents_need_the_token_on_loopback_too() {
    let (old, _new, plan) = two_upstreams().await;
    let relay = with_dead_letter(plan.admin(&format!("token = \"{TOKEN}\"")), &old).await;
    let url = |path: &str| format!("http://{}{path}", relay.admin_address());
    let bearer = format!("Bearer {TOKEN}");
    let (status, listed) = ask(&relay, "/api/dead-letters", &[]).await;
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(status, 200);
    let letter = format!("/api/dead-letters/{}", listed["dead_letters"][0]["id"]);
    for path in [letter.clone(), format!("{letter}/envelope")] {
        let (status, text) = ask(&relay, &path, &[]).await;
        assert!(status == 401 && text.contains("Authorization: Bearer"), "{path}: {status} {text}");
        assert_eq!(ask(&relay, &path, &[("authorization", "Bearer wrong")]).await.0, 401);
        assert_eq!(ask(&relay, &path, &[("authorization", &bearer)]).await.0, 200);
    }
    for (path, body) in [
        ("/api/primary", json!({"to": "new"})),
        ("/api/dead-letters/retry", json!({"all": true})),
        ("/api/dead-letters/discard", json!({"all": true})),
        ("/api/backfill", json!({"upstream": "new", "since": "1h"})),
        ("/api/backfill/cancel", json!({"upstream": "new"})),
    ] {
        let refused = relay.client().post(url(path)).json(&body).send().await.expect("an answer");
        assert_eq!(refused.status(), 403, "{path}");
    }
    assert_eq!(
        (&relay.status().await["primary"], &relay.upstream("old").await["dead_letters"]),
        (&json!("old"), &json!(1))
    );
    // Status, report and metrics stay open on loopback.
    for path in ["/", "/report", "/api/status", "/api/report", "/metrics"] {
        assert_eq!(ask(&relay, path, &[]).await.0, 200, "{path}");
    }
    let taken = order(&relay, &[("authorization", &bearer)], &json!({"to": "new"})).await;
    assert_eq!(taken.status(), 200);
    relay.finish().await;
}

#[tokio::test]
async fn reading_needs_the_token_on_loopback_with_open_on_loopback_off() {
    let (_old, _new, plan) = two_upstreams().await;
    let mut relay = plan.admin(&format!("token = \"{TOKEN}\"\nopen_on_loopback = false")).prepare();
    relay.launch();
    relay.await_ready().await;
    let bearer = format!("Bearer {TOKEN}");
    for path in ["/", "/report", "/api/status", "/api/report", "/metrics", "/api/dead-letters"] {
        assert_eq!(ask(&relay, path, &[]).await.0, 401, "{path}");
        assert_eq!(ask(&relay, path, &[("authorization", &bearer)]).await.0, 200, "{path}");
    }
    assert_eq!(ask(&relay, "/healthz", &[]).await.0, 200);
    relay.stop().await;
}

#[tokio::test]
async fn the_command_line_reads_the_daemons_token_or_says_why_it_cannot() {
    let (old, _new, plan) = two_upstreams().await;
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), format!("{TOKEN}\n")).expect("a token");
    let plan = plan.admin(&format!("token = \"${{file:{}}}\"", secret.path().display()));
    let relay = with_dead_letter(plan, &old).await;
    let shown = verb(&relay.config(), &["dead-letters", "export", "1"], None).await;
    assert!(shown.status.success(), "{shown:?}");
    let switched = verb(&relay.config(), &["switch", "new"], None).await;
    assert!(switched.status.success(), "{switched:?}");

    // Without the token in the environment a user may read the status and nothing more.
    let file = std::fs::read_to_string(relay.config()).expect("the file");
    let other = relay.home().join("other.toml");
    let reference = format!("${{file:{}}}", secret.path().display());
    std::fs::write(&other, file.replace(&reference, "${RELAY_TOKEN}")).expect("a file");
    assert!(verb(&other, &["status"], None).await.status.success());
    for (token, words) in [
        (None, "admin.token cannot be read here: the environment variable RELAY_TOKEN is not set"),
        (Some("wrong"), "has another admin token than this configuration"),
    ] {
        let refused = verb(&other, &["dead-letters", "discard", "--all"], token).await;
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(77) && told.contains(words), "{refused:?}");
    }
    assert!(verb(&other, &["dead-letters", "discard", "--all"], Some(TOKEN)).await.status.success());
    relay.finish().await;
}

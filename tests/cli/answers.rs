//! What verbs say when a relay gives no answer, or has nothing to give: the exit code, and JSON where it is asked for.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;
use serde_json::Value;

use super::support::eventually::eventually;
use super::support::net;
use super::support::relay::{Plan, SOON};
use super::support::upstream::Upstream;
use super::{CONFIG, beside, code, err, folder_with, json, out, relay_with_two};

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_stands_still_is_told_to_be_there_and_follows_a_switch_later() {
    let (relay, _sentry, _glitchtip) = relay_with_two().await;
    relay.signal(Signal::STOP);
    let verbs: [&'static [&'static str]; 5] = [
        &["switch"],
        &["report"],
        &["backfill", "glitchtip", "--since", "1h"],
        &["dead-letters", "list"],
        &["dead-letters", "retry", "--all"],
    ];
    for verb in verbs {
        let output = beside(&relay.config(), verb).await;
        assert!(code(&output) == 69 && err(&output).contains("does not answer in time"), "{verb:?}: {output:?}");
        assert!(!out(&output).contains("no daemon is running"), "{verb:?}: {output:?}");
    }
    let output = beside(&relay.config(), &["switch", "glitchtip"]).await;
    let told = "glitchtip is the primary in the file; the daemon does not answer in time, and follows when it can";
    assert!(code(&output) == 69 && err(&output).contains(told), "{output:?}");
    relay.signal(Signal::CONT);
    eventually("it follows", SOON, async || match relay.status().await["primary"].as_str() {
        Some("glitchtip") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    relay.finish().await;
}

/// A daemon that answers the first long question when it has been asked so often whether it lives.
fn slow_daemon(often: usize) -> std::net::SocketAddr {
    static ALIVE: AtomicUsize = AtomicUsize::new(0);
    let listener = TcpListener::bind(("127.0.0.1", net::free_port())).expect("a port");
    let address = listener.local_addr().expect("an address");
    let answer = |client: &mut TcpStream, body: &str| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close", body.len());
        drop(write!(client, "{head}\r\n\r\n{body}"));
    };
    std::thread::spawn(move || {
        let mut asked = vec![];
        for mut client in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 4096];
            let read = client.read(&mut head).unwrap_or_default();
            if !head[..read].starts_with(b"GET /healthz") {
                asked.push(client);
                continue;
            }
            answer(&mut client, "ok");
            if ALIVE.fetch_add(1, Ordering::SeqCst) == often {
                asked.iter_mut().for_each(|client| answer(client, r#"{"dead_letters": [], "next": null}"#));
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_of_a_relay_that_lives_is_waited_for() {
    // Asked twice a second, that is longer than a relay that stands still is waited for.
    let address = slow_daemon(10);
    let (_folder, config) = folder_with(&CONFIG.replace("127.0.0.1:1\"", &format!("{address}\"")));
    let output = beside(&config, &["dead-letters", "list"]).await;
    assert!(code(&output) == 0 && out(&output).contains("no dead letters"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_names_its_author_where_the_environment_names_nobody() {
    let (relay, _sentry, _glitchtip) = relay_with_two().await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    let names = ["SUDO_USER", "USER", "LOGNAME"];
    names.iter().for_each(|name| _ = command.env_remove(name));
    command.args(["switch", "glitchtip", "--config"]).arg(relay.config());
    let output = tokio::task::block_in_place(|| command.output()).expect("the binary");
    assert_eq!(code(&output), 0, "{output:?}");
    let name = Command::new("id").arg("-un").output().expect("id");
    let name = String::from_utf8(name.stdout).expect("UTF-8").trim().to_owned();
    eventually("the switch is kept with its author", SOON, async || {
        let status = relay.status().await;
        let author = status["switches"][0]["author"].as_str().unwrap_or_default().to_owned();
        if author.split('@').next() == Some(&*name) { Ok(()) } else { Err(format!("{status:#}")) }
    })
    .await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_given_is_json_where_json_is_asked_for() {
    let upstreams = [Upstream::start().await, Upstream::start().await, Upstream::start().await];
    let [a, b, c] = &upstreams;
    let relay = Plan::new(&[("a", a.dsn("a", 1)), ("b", b.dsn("b", 2)), ("c", c.dsn("c", 3))]).start().await;
    let cases: [(&'static [&'static str], i32, &str); 7] = [
        (&["report", "--json"], 2, "name one of b, c as the candidate (--candidate, ?candidate=)"),
        (&["report", "--candidate", "nobody", "--json"], 2, "no upstream"),
        (&["verify", "--json"], 1, "no upstream can be asked what it stores"),
        (&["verify", "nobody", "--json"], 2, "no upstream"),
        (&["verify", "nobody", "--event", "0123456789abcdef0123456789abcdef", "--json"], 2, "no upstream"),
        (&["backfill", "nobody", "--since", "1h", "--json"], 2, "no upstream"),
        (&["backfill", "nobody", "--missing", "--json"], 2, "no upstream"),
    ];
    for (verb, exit, words) in cases {
        let output = beside(&relay.config(), verb).await;
        let said = json(&output)["error"].as_str().unwrap_or_default().to_owned();
        assert!(code(&output) == exit && said.contains(words), "{verb:?}: {output:?}");
        assert!(err(&output).contains(words), "{verb:?}: {output:?}");
    }
    let output = beside(&relay.config(), &["status", "--check", "--json"]).await;
    assert!(code(&output) == 0 && json(&output)["level"] == "well", "{output:?}");
    let output = beside(&relay.config(), &["healthcheck", "--json"]).await;
    assert!(code(&output) == 0 && json(&output)["ready"] == true, "{output:?}");
    relay.finish().await;
    let (_folder, nowhere) = folder_with(CONFIG);
    let output = beside(&nowhere, &["healthcheck", "--json"]).await;
    let said = json(&output);
    assert!(code(&output) == 1 && said["ready"] == Value::Bool(false) && said["why"].is_string(), "{output:?}");
    let verbs: [&'static [&'static str]; 7] = [
        &["status", "--json"],
        &["dead-letters", "list", "--json"],
        &["dead-letters", "show", "1", "--json"],
        &["dead-letters", "retry", "--all", "--json"],
        &["send-test", "--json"],
        &["switch", "nobody", "--json"],
        &["notify", "test", "--json"],
    ];
    for verb in verbs {
        let output = beside(&nowhere, verb).await;
        let said = json(&output)["error"].as_str().unwrap_or_default().to_owned();
        assert!(code(&output) != 0 && !said.is_empty() && err(&output).contains(&said), "{verb:?}: {output:?}");
    }
}

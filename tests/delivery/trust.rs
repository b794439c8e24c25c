//! Upstreams behind private TLS: a private authority, a self-signed certificate, a required client certificate.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::eventually::eventually;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::tls::{Authority, Front, Pair};
use crate::support::upstream::Upstream;

/// A relay before `front`, with these lines in the upstream's section.
async fn relay(front: &Front, lines: &[String]) -> Relay {
    let plan = Plan::new(&[("tracker", format!("https://cafe@localhost:{}/7", front.port))]);
    lines.iter().fold(plan, |plan, line| plan.upstream("tracker", line)).start().await
}

fn option(name: &str, file: &Path) -> String {
    format!("{name} = \"{}\"", file.display())
}

fn folder() -> TempDir {
    TempDir::with_prefix("switchyard-").expect("a folder")
}

/// Fails unless deliveries, requests that are passed on, and the probe reach the upstream.
async fn gets_through(relay: Relay, upstream: &Upstream) {
    relay.send_errors(2).await;
    relay.balanced(SOON).await;
    assert_eq!((upstream.taken_count(), upstream.seen().len()), (2, 2));
    let path = format!("http://{}/api/0/organizations/shop/releases/", relay.address());
    assert_eq!(relay.client().get(path).send().await.expect("an answer").status(), 200);
    assert_eq!(probe(&relay).await["result"], "good");
    relay.finish().await;
}

async fn probe(relay: &Relay) -> Value {
    let config = relay.config();
    let mut check = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    check.args(["check", "--online", "--json", "--config"]).arg(config);
    let output = tokio::task::spawn_blocking(move || check.output().expect("the binary")).await.expect("an output");
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    found["online"][0].clone()
}

/// Fails unless no request reaches the upstream and the error says why.
async fn is_refused(relay: &Relay, upstream: &Upstream, why: &str) {
    relay.send_errors(1).await;
    eventually("the error says why", SOON, async || {
        let error = relay.upstream("tracker").await["last_error"]["what"].to_string();
        if error.contains(why) { Ok(()) } else { Err(error) }
    })
    .await;
    assert_eq!(upstream.seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_authority_is_trusted_beside_the_systems() {
    let (upstream, folder, authority) = (Upstream::start().await, folder(), Authority::new());
    let front = Front::start(&authority.signs("localhost"), None, upstream.address()).await;
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, authority.pem()).expect("a file");
    gets_through(relay(&front, &[option("tls_ca", &file)]).await, &upstream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_certificate_is_trusted_where_it_is_named() {
    let folder = folder();
    for is_ca in [true, false] {
        let upstream = Upstream::start().await;
        let pair = Pair::self_signed("localhost", is_ca);
        let front = Front::start(&pair, None, upstream.address()).await;
        let [file, _] = pair.write(folder.path(), "leaf");
        gets_through(relay(&front, &[option("tls_ca", &file)]).await, &upstream).await;
    }
    // A certificate of another name, and one that is not in the file.
    let (upstream, wrong, right) =
        (Upstream::start().await, Pair::self_signed("other.test", true), Pair::self_signed("localhost", true));
    let [file, _] = wrong.write(folder.path(), "wrong");
    let expired = Pair::expired("localhost");
    for (pair, why, advice) in [
        (&wrong, "not valid for name", "the DSN must have a host that it names"),
        (&right, "a self-signed certificate", "name the certificate itself in tls_ca"),
        (&expired, "certificate expired", "renew it there"),
    ] {
        std::fs::write(&file, [&*wrong.pem, &*expired.pem].concat()).expect("a file");
        let front = Front::start(pair, None, upstream.address()).await;
        let mut relay = relay(&front, &[option("tls_ca", &file)]).await;
        is_refused(&relay, &upstream, why).await;
        let explained = probe(&relay).await["explanation"].to_string();
        assert!(explained.contains(advice), "{explained}");
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_client_certificate_is_used_without_a_restart() {
    let (upstream, folder, authority) = (Upstream::start().await, folder(), Authority::new());
    let server = authority.signs("localhost");
    let front = Front::start(&server, Some(&authority), upstream.address()).await;
    let [certificate, key] = Authority::new().signs("relay.test").write(folder.path(), "own");
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, Authority::new().pem()).expect("a file");
    let lines = [option("tls_ca", &ca), option("tls_client_cert", &certificate), option("tls_client_key", &key)];
    let relay = relay(&front, &lines).await;
    is_refused(&relay, &upstream, "invalid peer certificate").await;
    std::fs::write(&ca, authority.pem()).expect("a file");
    eventually("our certificate is not taken", SOON, async || {
        let error = relay.upstream("tracker").await["last_error"]["what"].to_string();
        if error.contains("invalid peer certificate") { Err(error) } else { Ok(()) }
    })
    .await;
    assert_eq!(upstream.seen().len(), 0);
    authority.signs("relay.test").write(folder.path(), "own");
    eventually("the renewed one is taken", SOON, async || match upstream.taken_count() {
        0 => Err(relay.log()),
        _ => Ok(()),
    })
    .await;
    relay.balanced(SOON).await;
    assert_eq!(probe(&relay).await["result"], "good");
    // A key of another certificate changes nothing, and the log names the option.
    let [_, other] = authority.signs("relay.test").write(folder.path(), "other");
    std::fs::copy(other, &key).expect("another key");
    eventually("the log says what is wrong", SOON, async || {
        let log = relay.log();
        if log.contains("upstreams.tracker.tls_client_key") && log.contains("is not the key of the certificate") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
    relay.send_errors(1).await;
    relay.finish().await;
}

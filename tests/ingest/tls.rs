//! TLS on the public listener with real clients: a client that trusts the certificate is served, every other connection ends in order.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Certificate, Client, StatusCode};
use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;

use crate::support::envelopes::{self, new_id};
use crate::support::eventually::eventually;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::upstream::Upstream;
use crate::support::wire::{Wire, exchange, post};
use crate::{keyed, refused};

/// A folder with `cert.pem` and `key.pem`.
pub(crate) struct Files(TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        let files = Self(TempDir::with_prefix("certificate-").expect("a folder"));
        files.renew();
        files
    }

    /// Writes a new certificate for this machine with its key, and returns the certificate.
    fn renew(&self) -> String {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        self.write("key.pem", &made.signing_key.serialize_pem());
        self.write("cert.pem", &made.cert.pem());
        made.cert.pem()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.at(name), text).expect("a file");
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.at(name)).expect("a file")
    }

    /// A connector that trusts only this certificate.
    pub(crate) fn connector(&self) -> TlsConnector {
        let certificate = CertificateDer::from_pem_slice(self.read("cert.pem").as_bytes()).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(certificate).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_root_certificates(roots).with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }

    /// The options for `[server]`.
    pub(crate) fn options(&self) -> String {
        format!("tls_cert = {:?}\ntls_key = {:?}", self.at("cert.pem"), self.at("key.pem"))
    }
}

async fn secured() -> (Relay, Upstream, Files) {
    let (upstream, files) = (Upstream::start().await, Files::new());
    let plan = Plan::new(&[("tracker", upstream.dsn("cafe", 7))]).server(&files.options());
    (plan.start().await, upstream, files)
}

/// A client that trusts this certificate and no other.
fn trusting(certificate: &str) -> Client {
    let certificate = Certificate::from_pem(certificate.as_bytes()).expect("a certificate");
    let client = Client::builder().no_proxy().tls_certs_only([certificate]).timeout(Duration::from_secs(10));
    client.pool_max_idle_per_host(0).build().expect("a client")
}

async fn send(client: &Client, relay: &Relay) -> reqwest::Result<StatusCode> {
    let url = format!("https://{}{}", relay.address(), keyed("/api/1/envelope/"));
    Ok(client.post(url).body(envelopes::error(&new_id())).send().await?.status())
}

/// Runs a program while servers of this test keep running.
async fn ran(mut command: Command) -> (Output, String) {
    let ran = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    let output = ran.unwrap_or_else(|error| panic!("a program that this test needs is missing: {error}"));
    let said = String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned();
    (output, said)
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_clients_are_served_in_either_version_of_http() {
    let (relay, upstream, files) = secured().await;
    assert_eq!(send(&trusting(&files.read("cert.pem")), &relay).await.expect("an answer"), 200);
    for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--noproxy", "*", option, "--cacert"]).arg(files.at("cert.pem"));
        curl.args(["--write-out", " %{http_code} %{http_version}", "--data-binary", &envelopes::error(&new_id())]);
        curl.arg(format!("https://localhost:{}{}", relay.port(), keyed("/api/1/envelope/")));
        let (_, said) = ran(curl).await;
        assert!(said.starts_with("{\"id\":") && said.ends_with(&format!(" 200 {version}")), "{said}");
    }
    // The admin listener stays without TLS, and the program's own verbs use TLS.
    let mut verb = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    verb.args(["send-test", "--config", "config.toml"]).current_dir(relay.home());
    let (output, said) = ran(verb).await;
    assert!(output.status.success(), "{said}");
    relay.finish().await;
    assert_eq!(upstream.taken_count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_served_without_a_restart_and_a_bad_one_never() {
    let (relay, _upstream, files) = secured().await;
    let (old, old_key) = (files.read("cert.pem"), files.read("key.pem"));
    assert_eq!(send(&trusting(&old), &relay).await.expect("an answer"), 200);
    files.write("key.pem", "nonsense");
    relay.signal(Signal::HUP);
    eventually("the bad key is noticed", SOON, async || {
        let log = relay.log();
        if log.contains("server.tls_key") && log.contains("no private key") { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(relay.status().await["config"]["error"].as_str().is_some_and(|error| error.contains("tls_key")));
    assert_eq!(send(&trusting(&old), &relay).await.expect("the old one stays in force"), 200);
    files.write("key.pem", &old_key);
    let new = files.renew();
    eventually("the new certificate is served", SOON, async || {
        send(&trusting(&new), &relay).await.map_err(|error| format!("{error:?}"))
    })
    .await;
    send(&trusting(&old), &relay).await.expect_err("the old certificate is gone");
    let log = relay.log();
    assert!(log.contains("server.certificate changed"), "{log}");
    assert!(!log.contains("PRIVATE"), "{log}");
    // Without the two options the listener speaks plain HTTP at once.
    let plain = std::fs::read_to_string(relay.config()).expect("the configuration").replace(&files.options(), "");
    relay.replace_config(&plain);
    eventually("plain HTTP is spoken", SOON, async || {
        let answer = relay.post(&keyed("/api/1/envelope/"), envelopes::error(&new_id())).send().await;
        let status = answer.map_err(|error| error.to_string())?.status();
        if status == 200 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_tls_gets_an_answer_and_a_stalled_handshake_ends() {
    let (relay, _upstream, files) = secured().await;
    let request = post(&keyed("/api/1/envelope/"), &[], &vec![b'x'; 1 << 20]);
    let answer = exchange(&relay.address(), &request).await;
    assert_eq!(answer.status, 400);
    assert!(answer.detail().contains("https"), "{answer:?}");
    assert_eq!(refused(&relay, "malformed").await, 1.0);
    let ended = async |bytes: &[u8]| {
        let mut wire = Wire::connect(&relay.address()).await;
        wire.send(bytes).await;
        wire.ends().await;
    };
    let client_hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let nonsense = [&client_hello[..], &[0xff; 600]].concat();
    tokio::join!(ended(&client_hello), ended(&nonsense), ended(b"\x80\x00\x01nonsense"), async {
        let client = trusting(&files.read("cert.pem"));
        for _ in 0..20 {
            assert_eq!(send(&client, &relay).await.expect("an answer"), 200);
        }
    });
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reads_the_certificate_too() {
    let (relay, _upstream, files) = secured().await;
    let check = async || {
        let mut verb = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        verb.args(["check", "--config", "config.toml"]).current_dir(relay.home());
        let (output, said) = ran(verb).await;
        (output.status.code(), said)
    };
    assert_eq!(check().await.0, Some(0));
    let key = files.read("key.pem");
    files.renew();
    files.write("key.pem", &key);
    let (code, said) = check().await;
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("server.tls_key") && said.contains("is not the key of the certificate"), "{said}");
    std::fs::remove_file(files.at("cert.pem")).expect("a file");
    assert!(check().await.1.contains("server.tls_cert"));
    relay.finish().await;
}

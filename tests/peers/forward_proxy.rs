//! A real forward proxy in front of the upstreams: tinyproxy, with and without a password.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::install;
use crate::support::eventually::eventually;
use crate::support::net::free_port;
use crate::support::process::Process;
use crate::support::relay::{Plan, Relay, SOON};
use crate::support::tls::{self, Front, Pair};
use crate::support::upstream::Upstream;

/// The password as written in a URL, and its plain form.
const PASSWORD: [&str; 2] = ["hunter%32", "hunter2"];

struct Tinyproxy {
    port: u16,
    home: TempDir,
    _process: Process,
}

impl Tinyproxy {
    /// Starts a proxy with these lines besides the usual ones.
    async fn start(lines: &str) -> Self {
        let (port, home) = (free_port(), TempDir::with_prefix("tinyproxy-").expect("a folder"));
        let config = format!("Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 50\nLogLevel Info\n{lines}\n");
        fs::write(home.path().join("tinyproxy.conf"), config).expect("a configuration");
        let mut command = Command::new(install::debian("tinyproxy", "tinyproxy"));
        command.args(["-d", "-c"]).arg(home.path().join("tinyproxy.conf"));
        let process = Process::start("tinyproxy", &mut command, &home.path().join("log"), None);
        eventually("tinyproxy listens", SOON, async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        Self { port, home, _process: process }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }
}

/// A plan of a relay with one upstream over HTTP and one over HTTPS.
struct Scene {
    plain: Upstream,
    secure: Upstream,
    front: Front,
    _authority: TempDir,
    plan: Plan,
}

async fn scene() -> Scene {
    let (plain, secure) = (Upstream::start().await, Upstream::start().await);
    let pair = Pair::self_signed("localhost", false);
    let front = Front::start(&pair, None, secure.address()).await;
    let (authority, file) = tls::file(&pair.pem);
    let secure_dsn = format!("https://beef@localhost:{}/8", front.port);
    let plan = Plan::new(&[("plain", plain.dsn("cafe", 7)), ("secure", secure_dsn)]).variable("SSL_CERT_FILE", file);
    Scene { plain, secure, front, _authority: authority, plan }
}

fn via(upstream: &Upstream) -> usize {
    upstream.seen().iter().filter(|seen| seen.headers.contains_key("via")).count()
}

/// Runs `check --online` with these environment variables.
async fn check(relay: &Relay, variables: &[(&'static str, PathBuf)], json: bool) -> String {
    let (config, variables) = (relay.config(), variables.to_vec());
    let run = tokio::task::spawn_blocking(move || {
        let mut check = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        check.args(["check", "--online", "--config"]).arg(config).args(json.then_some("--json")).envs(variables);
        check.output().expect("the binary")
    });
    let output = run.await.expect("an output");
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn all_upstream_traffic_uses_the_environments_proxy_with_its_password() {
    let proxy = Tinyproxy::start(&format!("BasicAuth somebody {}", PASSWORD[1])).await;
    let address = format!("http://somebody:{}@127.0.0.1:{}", PASSWORD[0], proxy.port);
    let mut scene = scene().await;
    scene.plan = scene.plan.variable("http_proxy", address.clone().into());
    scene.plan = scene.plan.variable("HTTPS_PROXY", address.clone().into());
    let relay = scene.plan.start().await;
    relay.send_errors(5).await;
    let forwarded = format!("http://{}/api/0/organizations/shop/releases/", relay.address());
    let answer = relay.client().get(&forwarded).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    relay.balanced(SOON).await;
    let seen = scene.plain.seen();
    assert_eq!(via(&scene.plain), seen.len(), "all of it came by way of the proxy");
    assert!(seen.iter().all(|seen| !seen.headers.contains_key("proxy-authorization")));
    assert!(seen.iter().all(|seen| seen.headers["host"] == scene.plain.address().as_str()));
    let connect = format!("CONNECT localhost:{}", scene.front.port);
    assert!(scene.secure.taken_count() >= 5 && proxy.log().contains(&connect), "{}", proxy.log());

    let variables = [("http_proxy", PathBuf::from(&address)), ("HTTPS_PROXY", address.into())];
    let found: Value = serde_json::from_str(&check(&relay, &variables, true).await).expect("JSON");
    let shown = format!("http://***@127.0.0.1:{}", proxy.port);
    assert_eq!(found["online"][0]["proxy"], shown);
    assert_eq!((&found["online"][0]["status"], &found["online"][0]["result"]), (&200.into(), &"good".into()));
    let text = check(&relay, &variables, false).await;
    assert!(text.contains(&format!("by {shown}: takes the key")), "{text}");
    let all = format!("{text}{found}{}{}", relay.log(), relay.status().await);
    assert!(!all.contains("hunter"), "{all}");
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_may_have_its_own_proxy_or_none_and_exceptions_go_directly() {
    let (own, general) = (Tinyproxy::start("").await, Tinyproxy::start("").await);
    let mut scene = scene().await;
    scene.plan = scene.plan.variable("all_proxy", format!("127.0.0.1:{}", general.port).into());
    scene.plan = scene.plan.upstream("plain", &format!("proxy = \"http://127.0.0.1:{}\"", own.port));
    let direct = Upstream::start().await;
    scene.plan = scene.plan.variable("NO_PROXY", "10.0.0.0/8,example.org".into());
    let relay = scene.plan.upstream("secure", "proxy = \"none\"").start().await;
    relay.send_errors(3).await;
    relay.balanced(SOON).await;
    assert_eq!((via(&scene.plain), scene.secure.taken_count()), (3, 3));
    assert!(!general.log().contains("Request (") && own.log().contains("Request ("));
    // A change of an upstream's proxy is live after a reload; without the option the environment counts.
    let file = fs::read_to_string(relay.config()).expect("the file");
    let file = file.replace(&format!("proxy = \"http://127.0.0.1:{}\"", own.port), "proxy = \"none\"");
    relay.replace_config(&file.replacen("proxy = \"none\"\n\n[[", "\n[[", 1));
    let connect = format!("CONNECT localhost:{}", scene.front.port);
    eventually("the environment's proxy is used", SOON, async || {
        relay.send_errors(1).await;
        if general.log().contains(&connect) { Ok(()) } else { Err(relay.log()) }
    })
    .await;
    relay.balanced(SOON).await;
    assert!(via(&scene.plain) < scene.plain.seen().len(), "the other one goes directly now");
    relay.finish().await;

    let around = Plan::new(&[("direct", direct.dsn("cafe", 7))]);
    let around = around.variable("all_proxy", format!("127.0.0.1:{}", general.port).into());
    let relay = around.variable("no_proxy", "127.0.0.0/8".into()).start().await;
    relay.send_errors(2).await;
    relay.balanced(SOON).await;
    assert_eq!((via(&direct), direct.taken_count()), (0, 2));
    relay.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_refuses_is_named_without_its_password() {
    let proxy = Tinyproxy::start(&format!("BasicAuth somebody {}\nConnectPort 1", PASSWORD[1])).await;
    let mut scene = scene().await;
    let line = |user: &str| format!("proxy = \"http://{user}127.0.0.1:{}\"", proxy.port);
    scene.plan = scene.plan.upstream("plain", &line(""));
    let relay = scene.plan.upstream("secure", &line(&format!("somebody:{}@", PASSWORD[0]))).start().await;
    relay.send_errors(3).await;
    let refused = format!(
        "by way of the proxy http://***@127.0.0.1:{}: it does not connect to localhost:{}",
        proxy.port, scene.front.port
    );
    let shut = format!(
        "by way of the proxy http://127.0.0.1:{}: it wants a user and a password, or other ones (407)",
        proxy.port
    );
    for (upstream, why) in [("plain", shut), ("secure", refused)] {
        eventually("the error says who refuses what", SOON, async || {
            let error = relay.upstream(upstream).await["last_error"]["what"].to_string();
            if error.contains(&why) { Ok(()) } else { Err(error) }
        })
        .await;
    }
    assert!(!format!("{}{}", relay.log(), relay.status().await).contains("hunter"));
    let found: Value = serde_json::from_str(&check(&relay, &[], true).await).expect("JSON");
    assert_eq!((&found["online"][0]["result"], &found["online"][1]["result"]), (&"bad".into(), &"bad".into()));
    let file = fs::read_to_string(relay.config()).expect("the file");
    let mended = file.lines().filter(|line| !line.starts_with("proxy = ")).collect::<Vec<_>>().join("\n");
    relay.replace_config(&mended);
    relay.finish().await;
    assert_eq!((scene.plain.taken_count(), scene.secure.taken_count()), (3, 3));
}

//! Real balancers in front of the relay: haproxy and nginx, which forward connections with a PROXY protocol header.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

use super::install;
use crate::support::envelopes::{KEY, error, new_id};
use crate::support::eventually::eventually;
use crate::support::net::free_port;
use crate::support::process::Process;
use crate::support::relay::{Plan, SOON};
use crate::support::upstream::Upstream;
use crate::support::wire::post;

/// The address of the client.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 5);
/// The address of the balancers, as the relay sees it.
const BALANCER: &str = "127.0.0.4";

fn haproxy(home: &Path, relay: u16, ports: [u16; 2]) -> Command {
    let sections: String = ["send-proxy", "send-proxy-v2"]
        .iter()
        .zip(ports)
        .map(|(header, port)| {
            format!(
                "listen on{port}\n  bind 127.0.0.1:{port}\n  source {BALANCER}\n  \
                 server relay 127.0.0.1:{relay} {header} check inter 200 check-send-proxy\n"
            )
        })
        .collect();
    let timeouts = "  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n";
    let config = format!("global\n  maxconn 100\ndefaults\n  mode tcp\n{timeouts}{sections}");
    fs::write(home.join("haproxy.cfg"), config).expect("a configuration");
    let mut command = Command::new(install::debian("haproxy", "haproxy"));
    command.args(["-db", "-f", "haproxy.cfg"]).current_dir(home);
    command
}

fn nginx(home: &Path, relay: u16, port: u16) -> Command {
    let config = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\npid nginx.pid;\ndaemon off;\nmaster_process off;\n\
         error_log stderr;\nevents {{ worker_connections 64; }}\n\
         stream {{ server {{ listen 127.0.0.1:{port}; proxy_bind {BALANCER}; proxy_protocol on; \
         proxy_pass 127.0.0.1:{relay}; }} }}\n"
    );
    fs::write(home.join("nginx.conf"), config).expect("a configuration");
    let mut command = Command::new(install::debian("nginx", "nginx-light libnginx-mod-stream"));
    command.arg("-p").arg(home).arg("-c").arg(home.join("nginx.conf")).arg("-e").arg("stderr");
    command
}

/// Sends an event from [`CLIENT`]; returns the answer.
async fn send(port: u16) -> Result<String, String> {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((CLIENT, 0).into()).expect("an address of this machine");
    let path = format!("/api/1/envelope/?sentry_key={KEY}");
    let request = post(&path, &[("connection", "close")], error(&new_id()).as_bytes());
    let exchange = async {
        let mut stream = socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
        stream.write_all(&request).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    exchange.await.map_err(|error: std::io::Error| error.to_string())
}

#[tokio::test]
async fn trackers_learn_the_client_behind_haproxy_and_nginx() {
    let upstream = Upstream::start().await;
    let plan = Plan::new(&[("tracker", upstream.dsn("cafe", 7))]).server("proxy_protocol = true");
    let relay = plan.server(&format!("trusted_proxies = [\"{BALANCER}/30\"]")).start().await;
    let home = TempDir::with_prefix("balancers-").expect("a folder");
    let ports = [free_port(), free_port(), free_port()];
    let log = home.path().join("log");
    let start = |name, mut command: Command| Process::start(name, &mut command, &log, None);
    let haproxy = start("haproxy", haproxy(home.path(), relay.port(), [ports[0], ports[1]]));
    let nginx = start("nginx", nginx(home.path(), relay.port(), ports[2]));
    for (number, port) in ports.into_iter().enumerate() {
        let answer = eventually("the balancer serves", SOON, async || {
            let answer = send(port).await?;
            // A balancer that has not checked its server yet sends no answer.
            if answer.is_empty() { Err(haproxy.last_words()) } else { Ok(answer) }
        });
        let answer = answer.await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        relay.balanced(SOON).await;
        let taken = upstream.taken();
        assert_eq!(taken.len(), number + 1);
        assert_eq!(taken[number].headers["x-forwarded-for"], "127.0.0.5");
    }
    let refused = relay.samples().await.expect("metrics").sum("switchyard_refused_requests_total", &[]);
    assert_eq!(refused, 0.0, "{}", relay.log());
    haproxy.stop(SOON).await;
    nginx.stop(SOON).await;
    relay.finish().await;
}

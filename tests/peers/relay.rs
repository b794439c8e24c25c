//! The relay as its users run it: the real binary, a configuration file, two listeners on this machine.
//!
//! Rule: only what the contract names is used: the command line, the file, `/readyz`, `/metrics`. It knows nothing of the sources.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use reqwest::Client;
use tempfile::TempDir;

use super::eventually::eventually;
use super::net;
use super::process::Process;
use super::samples::Samples;

const PUBLIC_KEY: &str = "5ca1ab1e0ddba11c0ffee0decade0b0e";

/// An upstream as the configuration names it.
pub(crate) struct Upstream<'a> {
    /// Its name in the configuration, in labels and in `primary`.
    pub(crate) name: &'a str,
    /// A `kind` of the contract.
    pub(crate) kind: &'a str,
    /// The DSN of the one project there.
    pub(crate) dsn: &'a str,
}

/// A running relay with one project, killed when dropped.
pub(crate) struct Relay {
    home: TempDir,
    port: u16,
    admin_port: u16,
    client: Client,
    upstreams: Vec<String>,
    process: Process,
}

impl Relay {
    /// Starts one that mirrors to all `upstreams`, the first of which is primary, and waits until it is ready.
    pub(crate) async fn start(upstreams: &[Upstream<'_>]) -> Self {
        let home = TempDir::with_prefix("switchyard-").expect("a folder for the relay");
        let (port, admin_port) = (net::free_port(), net::free_port());
        let file = home.path().join("config.toml");
        let journal = home.path().join("journal.db");
        fs::write(&file, config(port, admin_port, &journal.display().to_string(), upstreams)).expect("a configuration");
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        command.args(["run", "--config"]).arg(&file).current_dir(home.path());
        let process = Process::start("switchyard", &mut command, &home.path().join("log"), None);
        let upstreams = upstreams.iter().map(|upstream| upstream.name.to_owned()).collect();
        let mut relay = Self { home, port, admin_port, client: net::client(), upstreams, process };
        let readiness = relay.admin("/readyz");
        eventually("the relay is ready", Duration::from_secs(10), async || {
            assert!(relay.process.ended().is_none(), "the relay ended. {}", relay.process.last_words());
            net::text(&relay.client, &readiness).await
        })
        .await;
        relay
    }

    /// What a service puts into SENTRY_DSN.
    pub(crate) fn dsn(&self) -> String {
        format!("http://{PUBLIC_KEY}@127.0.0.1:{}/1", self.port)
    }

    /// `host:port` of the admin listener, as Prometheus takes it.
    pub(crate) fn admin_address(&self) -> String {
        format!("127.0.0.1:{}", self.admin_port)
    }

    /// Makes `name` the primary as an administrator with an editor does: the line is rewritten, the file replaced; returns once it is live.
    pub(crate) async fn flip_to(&self, name: &str) {
        let file = self.home.path().join("config.toml");
        let before = fs::read_to_string(&file).expect("the configuration");
        let (line, rest) = before.split_once('\n').expect("more than one line");
        assert!(line.starts_with("primary = "), "the first line names the primary: {line}");
        let draft: PathBuf = file.with_extension("toml.new");
        fs::write(&draft, format!("primary = \"{name}\"\n{rest}")).expect("the rewritten configuration");
        fs::rename(&draft, &file).expect("the configuration replaced");
        eventually(&format!("{name} is primary"), Duration::from_secs(5), async || {
            let samples = self.samples().await?;
            let primary = samples.sum("switchyard_primary", &[("upstream", name)]);
            if primary == 1.0 { Ok(()) } else { Err(self.process.last_words()) }
        })
        .await;
    }

    /// The text of `/metrics`.
    pub(crate) async fn metrics(&self) -> Result<String, String> {
        net::text(&self.client, &self.admin("/metrics")).await
    }

    /// The samples of `/metrics`.
    pub(crate) async fn samples(&self) -> Result<Samples, String> {
        Ok(Samples::read(&self.metrics().await?))
    }

    /// Waits for a quiet moment, when for each upstream and category accepted = delivered + dropped with nothing waiting; returns its samples.
    ///
    /// # Panics
    /// When there is none within `within`, with the sums that do not add up.
    pub(crate) async fn balanced(&self, within: Duration) -> Samples {
        eventually("the relay's books balance", within, async || {
            let samples = self.samples().await?;
            let gaps: Vec<String> = self.upstreams.iter().flat_map(|upstream| gaps(&samples, upstream)).collect();
            if gaps.is_empty() {
                Ok(samples)
            } else {
                Err(format!("{}\n{}", gaps.join("\n"), self.process.last_words()))
            }
        })
        .await
    }

    /// Ends it in order.
    ///
    /// # Panics
    /// When it takes longer than 15 seconds or ends with a failure.
    pub(crate) async fn stop(self) {
        let status = self.process.stop(Duration::from_secs(15)).await;
        assert!(status.success(), "the relay ended with {status}");
    }

    fn admin(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin_address())
    }
}

/// What does not add up for one upstream, a line each.
fn gaps(samples: &Samples, upstream: &str) -> Vec<String> {
    let mut gaps = Vec::new();
    let waiting = samples.sum("switchyard_backlog_envelopes", &[("upstream", upstream)]);
    if waiting != 0.0 {
        gaps.push(format!("{upstream}: {waiting} envelopes wait"));
    }
    for category in samples.values_of("switchyard_accepted_items_total", "category") {
        let accepted = samples.sum("switchyard_accepted_items_total", &[("category", category)]);
        let labels = [("upstream", upstream), ("category", category)];
        let delivered = samples.sum("switchyard_delivered_items_total", &labels);
        let dropped = samples.sum("switchyard_dropped_items_total", &labels);
        if accepted != delivered + dropped {
            gaps.push(format!("{upstream}, {category}: {accepted} accepted, {delivered} delivered, {dropped} dropped"));
        }
    }
    gaps
}

/// `primary` is the first line: that is the one that [`Relay::flip_to`] rewrites.
fn config(port: u16, admin_port: u16, journal: &str, upstreams: &[Upstream<'_>]) -> String {
    let sections: String = upstreams
        .iter()
        .map(|upstream| format!("[upstreams.{}]\nkind = \"{}\"\n\n", upstream.name, upstream.kind))
        .collect();
    let dsns: String = upstreams.iter().map(|upstream| format!("{} = \"{}\"\n", upstream.name, upstream.dsn)).collect();
    format!(
        r#"primary = "{primary}"
mirror = true

[server]
listen = ["127.0.0.1:{port}"]

[admin]
listen = "127.0.0.1:{admin_port}"

[journal]
path = "{journal}"

{sections}[[projects]]
name = "services"
id = "1"
public_key = "{PUBLIC_KEY}"
[projects.upstreams]
{dsns}"#,
        primary = upstreams[0].name,
    )
}

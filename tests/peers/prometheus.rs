//! A real Prometheus that scrapes one address each second, and its linter.
//!
//! Rule: its answers come from its own scrapes, never from the test. It does not know the metrics.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use reqwest::Client;
use serde_json::Value;
use tempfile::TempDir;
use url::Url;

use super::install;
use crate::support::eventually::eventually;
use crate::support::net;
use crate::support::process::Process;

/// A running Prometheus, killed when dropped.
pub(crate) struct Prometheus {
    port: u16,
    client: Client,
    _process: Process,
    _home: TempDir,
}

impl Prometheus {
    /// Starts a Prometheus that scrapes `http://<target>/metrics` as job `switchyard`; returns after a successful scrape.
    pub(crate) async fn scraping(target: &str) -> Self {
        let home = TempDir::with_prefix("prometheus-").expect("a folder for Prometheus");
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\nscrape_configs:\n  - job_name: switchyard\n    \
             static_configs: [ {{ targets: ['{target}'] }} ]\n"
        );
        fs::write(home.path().join("prometheus.yml"), config).expect("Prometheus's settings");
        let port = net::free_port();
        let mut command = Command::new(install::prometheus("prometheus"));
        command.args([
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            &format!("--web.listen-address=127.0.0.1:{port}"),
        ]);
        command.current_dir(home.path());
        let mut process = Process::start("Prometheus", &mut command, &home.path().join("log"), None);
        let client = net::client();
        eventually("Prometheus scrapes its target", Duration::from_secs(20), async || {
            assert!(process.ended().is_none(), "Prometheus ended. {}", process.last_words());
            match query(&client, port, "up{job='switchyard'}").await? {
                1.0 => Ok(()),
                up => Err(format!("up is {up}")),
            }
        })
        .await;
        Self { port, client, _process: process, _home: home }
    }

    /// The value of an expression that yields one number.
    ///
    /// # Errors
    /// When it yields none or several numbers, or Prometheus refuses the expression.
    pub(crate) async fn query(&self, expression: &str) -> Result<f64, String> {
        query(&self.client, self.port, expression).await
    }
}

/// Checks the text of a scrape with `promtool check metrics`.
///
/// # Errors
/// Its complaints.
pub(crate) fn check_metrics(text: &str) -> Result<(), String> {
    let mut promtool = Command::new(install::prometheus("promtool"));
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().expect("promtool");
    // Taken out of the child so that dropping it closes the pipe.
    let mut input = promtool.stdin.take().expect("promtool's input");
    input.write_all(text.as_bytes()).expect("promtool reads everything");
    drop(input);
    let output = promtool.wait_with_output().expect("promtool's answer");
    let words = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() && words.is_empty() { Ok(()) } else { Err(format!("{}: {words}", output.status)) }
}

async fn query(client: &Client, port: u16, expression: &str) -> Result<f64, String> {
    let base = format!("http://127.0.0.1:{port}/api/v1/query");
    let url = Url::parse_with_params(&base, [("query", expression)]).expect("a query's address");
    let answer = net::json(client, url.as_str()).await?;
    let samples = answer["data"]["result"].as_array().ok_or_else(|| format!("{expression}: {answer}"))?;
    let [sample] = samples.as_slice() else {
        return Err(format!("{expression}: {} samples", samples.len()));
    };
    number(&sample["value"][1]).ok_or_else(|| format!("{expression}: {sample}"))
}

/// Prometheus writes a sample as a string, so that infinity and NaN have a spelling.
fn number(value: &Value) -> Option<f64> {
    value.as_str()?.parse().ok()
}

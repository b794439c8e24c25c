//! The questions of `check --online`: is the address of a DSN there, does it take the key, and is it what the file says it is?
//!
//! The probe is an envelope without items: trackers check its key and store nothing. It goes the way deliveries go: no proxy,
//! no redirects, the same headers, the upstream's own included.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use serde::Serialize;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

use crate::config::{Config, Headers, Kind};
use crate::protocol::answer;
use crate::protocol::dsn::Dsn;

use super::admin::told;
use super::failure::{Exit, Failure};
use super::recognise;
use super::terminal::{self, Tone, harmless, right, table, tint};

/// Probes under way at once.
const AT_ONCE: usize = 8;
/// How long a name or a connection may take.
const NEAR: Duration = Duration::from_secs(5);
/// How long the answer may take.
const ANSWER: Duration = Duration::from_secs(15);
/// How much of an answer is read.
const LARGEST: usize = 64 * 1024;
/// How much of an answer is shown.
const SHOWN: usize = 160;

/// What one DSN's tracker answered.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Probe {
    upstream: Arc<str>,
    project: Arc<str>,
    /// The DSN without its key.
    dsn: String,
    result: Verdict,
    /// What it means and what to do about it.
    explanation: String,
    status: Option<u16>,
    dns_ms: Option<f64>,
    connect_ms: Option<f64>,
    /// TLS included.
    answer_ms: Option<f64>,
    /// What kind of tracker it is, when it can be told.
    kind: Option<Kind>,
    /// What to write into the file for that.
    suggestion: Option<String>,
}

/// What a probe says about a DSN.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// It takes what we send.
    Good,
    /// It is there; whether it takes the key remains open.
    Unclear,
    /// It does not take what we send.
    Bad,
}

impl Probe {
    /// Whether nothing speaks against this DSN.
    pub(super) fn is_good(&self) -> bool {
        self.result != Verdict::Bad
    }
}

/// Asks every upstream of every project.
pub(super) async fn all(config: &Config) -> Result<Vec<Probe>, Failure> {
    let mut probes = vec![];
    for (upstream, settings) in &config.upstreams {
        let (http, hidden) = (client(&settings.headers)?, &settings.headers);
        for project in &config.projects {
            let Some(dsn) = project.dsns.get(upstream) else { continue };
            let names = (Arc::clone(upstream), Arc::clone(&project.name));
            probes.push(one(http.clone(), names, dsn.clone(), settings.kind, hidden));
        }
    }
    Ok(futures_util::stream::iter(probes).buffered(AT_ONCE).collect().await)
}

/// A client for one upstream, whose own headers go with every request.
fn client(own: &Headers) -> Result<Client, Failure> {
    Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .connect_timeout(NEAR)
        // A fresh connection for each: GlitchTip's default server closes one after its answer without saying so.
        .pool_max_idle_per_host(0)
        .timeout(ANSWER)
        .default_headers(own.lines().clone())
        .build()
        .map_err(|error| Failure::new(Exit::Unavailable, format_args!("TLS cannot be used: {}", told(&error))))
}

async fn one(
    http: Client,
    (upstream, project): (Arc<str>, Arc<str>),
    dsn: Dsn,
    written: Kind,
    hidden: &Headers,
) -> Probe {
    let mut probe = Probe {
        upstream,
        project,
        dsn: dsn.to_string(),
        result: Verdict::Bad,
        explanation: String::new(),
        status: None,
        dns_ms: None,
        connect_ms: None,
        answer_ms: None,
        kind: None,
        suggestion: None,
    };
    match probe.ask(&http, &dsn, hidden).await {
        Ok((result, explanation)) => (probe.result, probe.explanation) = (result, explanation),
        Err(why) => probe.explanation = why,
    }
    probe.suggestion = probe.kind.and_then(|found| recognise::suggestion(&probe.upstream, written, found));
    probe
}

impl Probe {
    async fn ask(&mut self, http: &Client, dsn: &Dsn, hidden: &Headers) -> Result<(Verdict, String), String> {
        let began = Instant::now();
        let addresses = resolve(dsn).await?;
        self.dns_ms = Some(millis(began));
        let began = Instant::now();
        connect(&addresses).await?;
        self.connect_ms = Some(millis(began));
        let began = Instant::now();
        let key = dsn.public_key();
        let agent = concat!("switchyard/", env!("CARGO_PKG_VERSION"));
        let request = http
            .post(dsn.envelope_uri().to_string())
            .header("content-type", "application/x-sentry-envelope")
            .header("user-agent", agent)
            .header("x-sentry-auth", format!("Sentry sentry_version=7, sentry_client={agent}, sentry_key={key}"))
            .body("{}\n");
        let answer = request.send().await.map_err(|error| explain_failure(&told(&error)))?;
        let status = answer.status();
        let location = answer.headers().get("location").and_then(|to| to.to_str().ok()).map(str::to_owned);
        let limits =
            answer.headers().get("x-sentry-rate-limits").and_then(|limits| limits.to_str().ok()).map(str::to_owned);
        let text = beginning(answer).await;
        self.answer_ms = Some(millis(began));
        self.status = Some(status.as_u16());
        self.kind = recognise::kind(http, dsn, limits.as_deref()).await;
        // An upstream may repeat our key and headers.
        let harmless = |text: String| hidden.hide(text).replace(key, "***");
        Ok(explain(status, location.map(harmless).as_deref(), &harmless(text)))
    }
}

/// The beginning of an answer's body, as far as anybody needs it: what is larger is no answer to a probe.
pub(super) async fn beginning(mut answer: Response) -> String {
    let mut text = Vec::new();
    while let Ok(Some(piece)) = answer.chunk().await {
        text.extend_from_slice(&piece[..piece.len().min(LARGEST - text.len())]);
        if text.len() == LARGEST {
            break;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

async fn resolve(dsn: &Dsn) -> Result<Vec<SocketAddr>, String> {
    let authority = dsn.authority();
    let port = authority.port_u16().unwrap_or(if dsn.scheme() == "https" { 443 } else { 80 });
    // An IPv6 address stands in brackets in a URL, and nowhere else.
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let found = timeout(NEAR, lookup_host((host, port))).await;
    let found = found.map_err(|_| format!("no answer from DNS for {host} within {} s", NEAR.as_secs()))?;
    let found: Vec<_> = found.map_err(|error| format!("{host} has no address: {error}"))?.collect();
    if found.is_empty() { Err(format!("{host} has no address")) } else { Ok(found) }
}

async fn connect(addresses: &[SocketAddr]) -> Result<(), String> {
    match timeout(NEAR, TcpStream::connect(addresses)).await {
        Ok(Ok(stream)) => {
            drop(stream);
            Ok(())
        }
        Ok(Err(error)) => Err(format!("nobody takes a connection at {}: {error}", addresses[0])),
        Err(_) => Err(format!("no connection to {} within {} s: a firewall?", addresses[0], NEAR.as_secs())),
    }
}

fn explain_failure(why: &str) -> String {
    let lower = why.to_lowercase();
    if lower.contains("certificate") || lower.contains("unknownissuer") {
        return format!("its certificate is not trusted: {why}; add its authority to the system's certificates");
    }
    if lower.contains("corrupt message") || lower.contains("invalidcontenttype") {
        return format!("it does not speak TLS there: {why}; is the DSN's scheme http?");
    }
    format!("no answer: {why}")
}

/// What an answer means.
fn explain(status: StatusCode, location: Option<&str>, text: &str) -> (Verdict, String) {
    let words = harmless(text.trim(), SHOWN);
    match status.as_u16() {
        200..=299 if answer::is_page(text) => {
            let title = harmless(&answer::gist(text), SHOWN);
            (
                Verdict::Bad,
                format!("answers with a web page ({title}): that is no tracker; is the DSN's address right?"),
            )
        }
        200..=299 => (Verdict::Good, "takes the key".to_owned()),
        429 => (Verdict::Good, "is there, and limits us now".to_owned()),
        401 | 403 => (Verdict::Bad, format!("does not take the key, or knows no such project: {words}")),
        404 => (Verdict::Bad, format!("nothing at that path: wrong project id, path or host? {words}")),
        300..=399 => {
            let to = harmless(location.unwrap_or("elsewhere"), SHOWN);
            (Verdict::Bad, format!("sends us on to {to}: put that address into the DSN"))
        }
        400 | 413 | 415 | 422 => (Verdict::Unclear, format!("is there, and does not understand the probe: {words}")),
        500..=599 => (Verdict::Bad, format!("is there, and has trouble: {words}")),
        _ => (Verdict::Bad, format!("unexpected answer: {words}")),
    }
}

fn millis(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 10_000.0).round() / 10.0
}

/// The probes as a table.
pub(super) fn print(probes: &[Probe]) -> Result<(), Failure> {
    let mut rows = table(&["UPSTREAM", "PROJECT", "ANSWER", "DNS", "CONNECT", "IN ALL", ""]);
    let time = |ms: Option<f64>| right(ms.map_or("-".to_owned(), |ms| format!("{ms:.1} ms")));
    for probe in probes {
        let status = probe.status.map_or("none".to_owned(), |status| status.to_string());
        rows.add_row(vec![
            (*probe.upstream).into(),
            (*probe.project).into(),
            right(status),
            time(probe.dns_ms),
            time(probe.connect_ms),
            time(probe.answer_ms),
            probe.explanation.as_str().into(),
        ]);
    }
    terminal::say(rows.trim_fmt())?;
    // Once for each upstream, however many projects it has.
    for suggestion in probes.iter().filter_map(|probe| probe.suggestion.as_ref()).collect::<BTreeSet<_>>() {
        terminal::say(tint(Tone::Strong, suggestion))?;
    }
    let bad = probes.iter().filter(|probe| !probe.is_good()).count();
    match bad {
        0 => terminal::say(tint(Tone::Good, "Every upstream can be reached.")),
        n => terminal::say(tint(Tone::Bad, format_args!("{n} of {} do not take what we send.", probes.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_explained() {
        let explained = |code: u16| explain(StatusCode::from_u16(code).unwrap(), Some("https://b/"), "words");
        assert_eq!(explained(200).0, Verdict::Good);
        assert_eq!(explained(429).0, Verdict::Good);
        assert_eq!(explained(400).0, Verdict::Unclear);
        for code in [301, 401, 403, 404, 418, 502] {
            assert_eq!(explained(code).0, Verdict::Bad, "{code}");
        }
        assert!(explained(301).1.contains("https://b/"));
    }
}

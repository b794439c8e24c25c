//! The questions of `check --online`: is the address of a DSN there, does it take the key, and is it what the file says it is?
//!
//! What kind of tracker it is is asked first, without a key: at a GlitchTip a wrong key would lock out whoever uses the project now.
//! The probe of the key is an envelope without items: trackers check its key and store nothing. It goes the way deliveries go: no proxy,
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

use crate::config::{Config, Headers, Kind, Upstream as Settings};
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
/// What is said of a key that was not tried.
const UNTRIED: &str =
    "is there; its key was not tried, because a GlitchTip refuses the project to everybody for 30 s after a wrong one";

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
    fn of(upstream: &Arc<str>, project: &Arc<str>, dsn: &Dsn) -> Self {
        Self {
            upstream: Arc::clone(upstream),
            project: Arc::clone(project),
            dsn: dsn.to_string(),
            result: Verdict::Bad,
            explanation: String::new(),
            status: None,
            dns_ms: None,
            connect_ms: None,
            answer_ms: None,
            kind: None,
            suggestion: None,
        }
    }

    /// Whether nothing speaks against this DSN.
    pub(super) fn is_good(&self) -> bool {
        self.result != Verdict::Bad
    }
}

/// Asks every upstream of every project. The keys at a GlitchTip are tried last, one by one, and only with `tries_all`.
pub(super) async fn all(config: &Config, tries_all: bool) -> Result<Vec<Probe>, Failure> {
    let mut questions = vec![];
    for (upstream, settings) in &config.upstreams {
        let http = client(&settings.headers)?;
        for project in &config.projects {
            let Some(dsn) = project.dsns.get(upstream) else { continue };
            let probe = Probe::of(upstream, &project.name, dsn);
            questions.push(Question { http: http.clone(), dsn, settings, probe, waits: false });
        }
    }
    let questions = questions.into_iter().map(Question::begin);
    let mut questions: Vec<Question<'_>> = futures_util::stream::iter(questions).buffered(AT_ONCE).collect().await;
    for question in questions.iter_mut().filter(|question| question.waits && tries_all) {
        question.try_key().await;
    }
    Ok(questions.into_iter().map(Question::end).collect())
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

/// A DSN that is asked about.
struct Question<'a> {
    http: Client,
    dsn: &'a Dsn,
    settings: &'a Settings,
    probe: Probe,
    /// Its key is not tried yet: the tracker is a GlitchTip, or may be one.
    waits: bool,
}

impl Question<'_> {
    /// Asks without the key what is there, then tries the key where a wrong one would lock nobody out.
    async fn begin(mut self) -> Self {
        if let Err(why) = self.reach().await {
            self.probe.explanation = why;
            return self;
        }
        let found = recognise::kind(&self.http, self.dsn).await;
        self.probe.kind = found.unwrap_or_default();
        let may_be_glitchtip = found.map_or(true, |found| found == Some(Kind::Glitchtip));
        self.waits = may_be_glitchtip || self.settings.kind == Kind::Glitchtip;
        if self.waits {
            (self.probe.result, self.probe.explanation) = (Verdict::Unclear, UNTRIED.to_owned());
        } else {
            self.try_key().await;
        }
        self
    }

    async fn reach(&mut self) -> Result<(), String> {
        let began = Instant::now();
        let addresses = resolve(self.dsn).await?;
        self.probe.dns_ms = Some(millis(began));
        let began = Instant::now();
        connect(&addresses).await?;
        self.probe.connect_ms = Some(millis(began));
        Ok(())
    }

    async fn try_key(&mut self) {
        self.waits = false;
        (self.probe.result, self.probe.explanation) = self.answer().await.unwrap_or_else(|why| (Verdict::Bad, why));
    }

    async fn answer(&mut self) -> Result<(Verdict, String), String> {
        let began = Instant::now();
        let key = self.dsn.public_key();
        let agent = concat!("switchyard/", env!("CARGO_PKG_VERSION"));
        let request = self
            .http
            .post(self.dsn.envelope_uri().to_string())
            .header("content-type", "application/x-sentry-envelope")
            .header("user-agent", agent)
            .header("x-sentry-auth", format!("Sentry sentry_version=7, sentry_client={agent}, sentry_key={key}"))
            .body("{}\n");
        let answer = request.send().await.map_err(|error| explain_failure(&told(&error)))?;
        let status = answer.status();
        let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (location, limits) = (header("location"), header("x-sentry-rate-limits"));
        let text = beginning(answer).await;
        self.probe.answer_ms = Some(millis(began));
        self.probe.status = Some(status.as_u16());
        let by_limits = limits.as_deref().and_then(recognise::kind_by_limits);
        self.probe.kind = self.probe.kind.or(by_limits);
        // An upstream may repeat our key and headers.
        let harmless = |text: String| self.settings.headers.hide(text).replace(key, "***");
        let (verdict, mut words) = explain(status, location.map(harmless).as_deref(), &harmless(text));
        if status == StatusCode::FORBIDDEN && self.probe.kind == Some(Kind::Glitchtip) {
            words += "; or somebody tried a wrong key: for 30 s after that it refuses everybody";
        }
        Ok((verdict, words))
    }

    fn end(mut self) -> Probe {
        let found = self.probe.kind;
        self.probe.suggestion =
            found.and_then(|found| recognise::suggestion(&self.probe.upstream, self.settings.kind, found));
        self.probe
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
        let none = if probe.explanation == UNTRIED { "-" } else { "none" };
        let status = probe.status.map_or(none.to_owned(), |status| status.to_string());
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
    if probes.iter().any(|probe| probe.explanation == UNTRIED) {
        terminal::say("With --yes the keys at a GlitchTip are tried, too.")?;
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

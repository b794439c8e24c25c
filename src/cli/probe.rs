//! The probes of `check --online`: is there a tracker at a DSN, does it take the key, and is it of the kind that the file says?
//!
//! The kind of the tracker is found out first, without a key: at a GlitchTip a wrong key would lock out everybody who uses the project. The
//! probe of the key is an envelope without items: trackers check its key and store nothing. It is sent as deliveries are: over the same
//! proxy, without redirects, and with the headers of deliveries, the upstream's own included.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::Serialize;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

use crate::config::{Config, Kind, Upstream as Settings};
use crate::delivery::proxies::Proxy;
use crate::protocol::answer::{self, Expected};
use crate::protocol::dsn::Dsn;

use super::asker::{Answer, Asker};
use super::failure::Failure;
use super::recognise::{self, NoAnswer};
use super::terminal::{self, Tone, harmless, right, table, tint};

/// The number of concurrent probes.
const AT_ONCE: usize = 8;
/// The timeout of a DNS query and of a connection.
const NEAR: Duration = Duration::from_secs(5);
/// The maximum number of characters of an answer that are shown.
const SHOWN: usize = 160;
/// The explanation for a key that was not tried.
const UNTRIED: &str =
    "is there; its key was not tried, because a GlitchTip refuses the project to everybody for 30 s after a wrong one";

/// The result of probing one DSN.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Probe {
    upstream: Arc<str>,
    project: Arc<str>,
    /// The DSN without its key.
    dsn: String,
    result: Verdict,
    /// What the answer means, and what to do about it.
    explanation: String,
    /// The forward proxy on the way there.
    proxy: Option<String>,
    status: Option<u16>,
    /// The time of the DNS query, for the proxy if there is one.
    dns_ms: Option<f64>,
    connect_ms: Option<f64>,
    /// The time of the request, TLS included.
    answer_ms: Option<f64>,
    /// The kind of the tracker, if it can be told.
    kind: Option<Kind>,
    /// The line to write into the file if the kind there is wrong.
    suggestion: Option<String>,
}

/// The result for a DSN.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// The tracker takes what the relay sends.
    Good,
    /// There is a tracker; whether it takes the key is unknown.
    Unclear,
    /// The tracker does not take what the relay sends.
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
            proxy: None,
            status: None,
            dns_ms: None,
            connect_ms: None,
            answer_ms: None,
            kind: None,
            suggestion: None,
        }
    }

    /// Whether the probe did not fail; an unclear result is no failure.
    pub(super) fn is_good(&self) -> bool {
        self.result != Verdict::Bad
    }
}

/// Probes every upstream of every project. Keys at a GlitchTip are tried last, one by one, and only with `tries_all`.
pub(super) async fn all(config: &Config, tries_all: bool) -> Vec<Probe> {
    let mut questions = vec![];
    for (upstream, settings) in &config.upstreams {
        let http = Asker::new(settings);
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
    questions.into_iter().map(Question::end).collect()
}

/// The probe of a DSN under way.
struct Question<'a> {
    http: Asker,
    dsn: &'a Dsn,
    settings: &'a Settings,
    probe: Probe,
    /// Whether the key is not tried yet because the tracker is a GlitchTip or may be one.
    waits: bool,
}

impl Question<'_> {
    /// Asks for the tracker's kind without the key, then tries the key where a wrong one would lock nobody out.
    async fn begin(mut self) -> Self {
        if let Err(why) = self.reach().await {
            self.probe.explanation = why;
            return self;
        }
        let found = recognise::kind(&self.http, self.dsn).await;
        if let Err(NoAnswer::Silent(silence)) = &found
            && silence.is_unreached
        {
            self.probe.explanation = explain_failure(&silence.why);
            return self;
        }
        let may_be_glitchtip = found.as_ref().map_or(true, |found| *found == Some(Kind::Glitchtip));
        self.probe.kind = found.unwrap_or_default();
        self.waits = may_be_glitchtip || self.settings.kind == Kind::Glitchtip;
        if !self.waits {
            self.try_key().await;
        } else if self.probe.kind == Some(Kind::Glitchtip) {
            (self.probe.result, self.probe.explanation) = (Verdict::Unclear, UNTRIED.to_owned());
        } else {
            self.knock().await;
        }
        self
    }

    async fn reach(&mut self) -> Result<(), String> {
        let began = Instant::now();
        let proxy = self.settings.proxy.proxy(self.dsn.envelope_uri()).map_err(|error| error.to_string())?;
        self.probe.proxy = proxy.map(ToString::to_string);
        let addresses = resolve(proxy.map_or(self.dsn.authority(), Proxy::authority), self.dsn.scheme()).await?;
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
        let uri = self.dsn.envelope_uri().clone();
        let answer = self.http.ask(Method::POST, uri, headers(self.dsn.public_key()), "{}\n").await;
        let mut answer = answer.map_err(|silence| explain_failure(&silence.why))?;
        self.hide_secrets(&mut answer);
        self.probe.answer_ms = Some(millis(began));
        self.probe.status = Some(answer.status.as_u16());
        let by_limits = answer.header("x-sentry-rate-limits").as_deref().and_then(recognise::kind_by_limits);
        self.probe.kind = self.probe.kind.or(by_limits);
        let (verdict, mut words) = explain(&answer, self.settings.kind);
        if answer.status == StatusCode::FORBIDDEN && self.probe.kind == Some(Kind::Glitchtip) {
            words += "; or somebody tried a wrong key: for 30 s after that it refuses everybody";
        }
        Ok((verdict, words))
    }

    /// Asks without the key whether anything there takes envelopes, with a method that a GlitchTip answers with 405 before it checks a key
    /// (glitchtip-backend, `apps/event_ingest/views.py`).
    async fn knock(&mut self) {
        let began = Instant::now();
        let answer = self.http.ask(Method::GET, self.dsn.envelope_uri().clone(), HeaderMap::new(), "").await;
        let found = answer.map_err(|silence| explain_failure(&silence.why)).and_then(|mut answer| {
            self.hide_secrets(&mut answer);
            match explain_knock(&answer, self.settings.kind) {
                None => Ok(()),
                Some(why) => {
                    (self.probe.answer_ms, self.probe.status) = (Some(millis(began)), Some(answer.status.as_u16()));
                    Err(why)
                }
            }
        });
        self.waits = found.is_ok();
        (self.probe.result, self.probe.explanation) = match found {
            Ok(()) => (Verdict::Unclear, UNTRIED.to_owned()),
            Err(why) => (Verdict::Bad, why),
        };
    }

    /// Hides our key and headers in an answer, which may repeat them.
    fn hide_secrets(&self, answer: &mut Answer) {
        let hidden = |text: String| self.settings.headers.hide(text).replace(self.dsn.public_key(), "***");
        let [text, location] = [Some(answer.text.clone()), answer.header("location")].map(|text| text.map(hidden));
        answer.text = text.unwrap_or_default();
        if let Some(location) = location.and_then(|to| HeaderValue::try_from(to).ok()) {
            answer.headers.insert(header::LOCATION, location);
        }
    }

    fn end(mut self) -> Probe {
        let found = self.probe.kind;
        self.probe.suggestion =
            found.and_then(|found| recognise::suggestion(&self.probe.upstream, self.settings.kind, found));
        self.probe
    }
}

/// The headers of the key's probe.
fn headers(key: &str) -> HeaderMap {
    const AGENT: &str = concat!("switchyard/", env!("CARGO_PKG_VERSION"));
    let auth = format!("Sentry sentry_version=7, sentry_client={AGENT}, sentry_key={key}");
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/x-sentry-envelope"));
    headers.insert("user-agent", HeaderValue::from_static(AGENT));
    if let Ok(auth) = HeaderValue::try_from(auth) {
        headers.insert("x-sentry-auth", auth);
    }
    headers
}

async fn resolve(authority: &Authority, scheme: &Scheme) -> Result<Vec<SocketAddr>, String> {
    let port = authority.port_u16().unwrap_or(if *scheme == Scheme::HTTPS { 443 } else { 80 });
    // A URL puts an IPv6 address into brackets; a DNS lookup takes none.
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
        Ok(Err(error)) => Err(format!("there is no connection to {}: {error}", addresses[0])),
        Err(_) => Err(format!("no connection to {} within {} s: a firewall?", addresses[0], NEAR.as_secs())),
    }
}

fn explain_failure(why: &str) -> String {
    let lower = why.to_lowercase();
    if lower.contains("certificate expired") {
        return format!("its certificate has expired: {why}; renew it there, tls_ca does not help");
    }
    if lower.contains("not valid for name") {
        return format!("its certificate is for another name: {why}; the DSN must have a host that it names");
    }
    if lower.contains("self-signed") {
        return format!("its certificate is not trusted: {why}; name the certificate itself in tls_ca of its section");
    }
    if lower.contains("certificate") || lower.contains("unknownissuer") {
        return format!(
            "its certificate is not trusted: {why}; name its authority, or the certificate itself, in tls_ca of its section"
        );
    }
    if lower.contains("corrupt message") || lower.contains("invalidcontenttype") {
        return format!("it does not speak TLS there: {why}; is the DSN's scheme http?");
    }
    format!("no answer: {why}")
}

/// The meaning of an answer to the key's probe.
fn explain(answer: &Answer, kind: Kind) -> (Verdict, String) {
    let (text, words) = (&*answer.text, words(&answer.text));
    match answer.status.as_u16() {
        200..=299 if answer::is_page(text) => (
            Verdict::Bad,
            format!("answers with a web page ({words}): that is no tracker; is the DSN's address right?"),
        ),
        200..=299 if kind.answers().excludes(text, answer.is_html()) => {
            let name = kind.name();
            (Verdict::Bad, format!("does not answer as a {name} does: {words}; is the DSN's address right?"))
        }
        200..=299 if Expected::Id.excludes(text, answer.is_html()) => {
            (Verdict::Unclear, format!("takes the key, and answers as no known tracker does: {words}"))
        }
        200..=299 => (Verdict::Good, "takes the key".to_owned()),
        429 => (Verdict::Good, "is there, and limits us now".to_owned()),
        401 | 403 => (Verdict::Bad, format!("does not take the key, or knows no such project: {words}")),
        404 => (Verdict::Bad, format!("nothing at that path: wrong project id, path or host? {words}")),
        300..=399 => {
            let to = harmless(answer.header("location").as_deref().unwrap_or("elsewhere"), SHOWN);
            (Verdict::Bad, format!("redirects to {to}: put that address into the DSN"))
        }
        400 | 413 | 415 | 422 => (Verdict::Unclear, format!("is there, and does not understand the probe: {words}")),
        500..=599 => (Verdict::Bad, format!("is there, and has trouble: {words}")),
        _ => (Verdict::Bad, format!("unexpected answer: {words}")),
    }
}

/// What is wrong with an address that was asked without a key; `None` if nothing is. A GlitchTip's answers are known more exactly.
fn explain_knock(answer: &Answer, kind: Kind) -> Option<String> {
    let words = words(&answer.text);
    match answer.status.as_u16() {
        200..=299 => Some(format!("no tracker answers like this: {words}; is the DSN's address right?")),
        401 | 403 if kind == Kind::Glitchtip => Some(format!("something in front of it lets nobody in: {words}")),
        404 if kind != Kind::Glitchtip => None,
        300..=399 | 404 | 500..=599 => Some(explain(answer, kind).1),
        _ => None,
    }
}

/// An answer in a few words.
fn words(text: &str) -> String {
    match harmless(&answer::gist(text), SHOWN) {
        words if words.is_empty() => "an empty answer".to_owned(),
        words => words,
    }
}

fn millis(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 10_000.0).round() / 10.0
}

/// Prints the probes as a table.
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
            match &probe.proxy {
                Some(proxy) if !probe.explanation.contains(proxy) => format!("by {proxy}: {}", probe.explanation),
                _ => probe.explanation.clone(),
            }
            .into(),
        ]);
    }
    terminal::say(terminal::laid_out(rows))?;
    // Each upstream's suggestion is shown once, however many projects it has.
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

    fn answer(code: u16, text: &str) -> Answer {
        let headers = HeaderMap::from_iter([(header::LOCATION, HeaderValue::from_static("https://b/"))]);
        Answer { status: StatusCode::from_u16(code).unwrap(), headers, text: text.to_owned() }
    }

    #[test]
    fn the_verdict_follows_from_the_answer() {
        let explained = |code: u16| explain(&answer(code, "{}"), Kind::Generic);
        assert_eq!(explained(200).0, Verdict::Good);
        assert_eq!(explained(429).0, Verdict::Good);
        assert_eq!(explained(400).0, Verdict::Unclear);
        for code in [301, 401, 403, 404, 418, 502] {
            assert_eq!(explained(code).0, Verdict::Bad, "{code}");
        }
        assert!(explained(301).1.contains("https://b/"));
        let foreign = |kind| explain(&answer(200, "{\"success\":true}"), kind);
        assert_eq!(foreign(Kind::Generic).0, Verdict::Unclear);
        assert_eq!(foreign(Kind::Sentry).0, Verdict::Bad);
        assert!(foreign(Kind::Sentry).1.contains("does not answer as a sentry does: {\"success\":true}"));
    }

    #[test]
    fn answers_without_a_key_tell_wrong_addresses_from_trackers() {
        for (code, glitchtip, other) in [
            (405, false, false),
            (400, false, false),
            (200, true, true),
            (302, true, true),
            (503, true, true),
            (403, true, false),
            (404, true, false),
        ] {
            assert_eq!(explain_knock(&answer(code, "x"), Kind::Glitchtip).is_some(), glitchtip, "{code}");
            assert_eq!(explain_knock(&answer(code, "x"), Kind::Generic).is_some(), other, "{code}");
        }
    }
}

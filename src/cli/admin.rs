//! The client of a running daemon's admin listener.

use std::error::Error as _;
use std::future::Future;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::sleep;

use crate::telemetry::report::Report;
use crate::telemetry::status::Status;
use crate::units::Period;

use super::failure::{Exit, Failure};
use super::locate::Contact;

/// The timeout of a short request: the daemon is near.
const PATIENCE: Duration = Duration::from_secs(3);
/// The timeout of a request that takes work or returns many bytes, while the daemon still answers short ones.
const LONG: Duration = Duration::from_secs(120);
/// The pause before each check that the daemon still answers.
const AWHILE: Duration = Duration::from_millis(500);

/// What a daemon answers to an unknown path, as one of another version may.
const NO_PAGE: &str = "no such page\n";

/// The client of one daemon.
#[derive(Clone, Debug)]
pub(super) struct AdminClient {
    http: Client,
    contact: Contact,
}

/// A switch that is announced before an edit of the file, or ordered.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Announcement<'a> {
    /// The upstream that becomes the primary.
    pub(super) to: &'a str,
    /// The reason for the switch.
    pub(super) reason: Option<&'a str>,
    /// The person who switches.
    pub(super) author: Option<&'a str>,
    /// Whether the sender edits the file itself. If not, the daemon makes the switch.
    pub(super) announced: bool,
}

/// Why a daemon gave no usable answer.
#[derive(Debug)]
pub(super) enum Silence {
    /// Nobody listens at the address.
    Unreachable(String),
    /// The daemon does not answer in time.
    Late,
    /// The daemon knows no such thing; its words.
    Misasked(String),
    /// The daemon demands a token, or another one.
    Unauthorized,
    /// The daemon refuses or fails; its words.
    Refused(String),
    /// Another server answers; its answer.
    Stranger(String),
}

impl AdminClient {
    pub(super) fn new(contact: Contact) -> Result<Self, Failure> {
        // Plain HTTP to one known address: no proxy, no redirects, and no search for certificate authorities.
        let http = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .tls_certs_only([])
            .connect_timeout(PATIENCE)
            .timeout(PATIENCE)
            .build()
            .map_err(|error| Failure::new(Exit::Internal, format_args!("no HTTP client: {}", told(&error))))?;
        Ok(Self { http, contact })
    }

    /// The URL of a path.
    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.contact.address)
    }

    /// The status, and the text that it was read from.
    pub(super) async fn status_and_text(&self) -> Result<(Status, String), Silence> {
        let answer = self.ask(self.http.get(self.url("/api/status"))).await?;
        let text = answer.text().await.map_err(silence)?;
        let status = serde_json::from_str(&text).map_err(|error| match is_page(&text) {
            true => Silence::Stranger("a page where the status should be".to_owned()),
            false => Silence::Refused(format!("its status is of another version: {error}")),
        })?;
        Ok((status, text))
    }

    /// The report on a candidate, and the text that it was read from.
    pub(super) async fn report_and_text(
        &self,
        since: Option<Period>,
        candidate: Option<&str>,
    ) -> Result<(Report, String), Silence> {
        let since = since.map(|since| ("since", since.to_string()));
        let query: Vec<_> = since.into_iter().chain(candidate.map(|name| ("candidate", name.to_owned()))).collect();
        // The report may take a while: it compares up to a million envelopes.
        let url = Url::parse_with_params(&self.url("/api/report"), &query)
            .map_err(|error| Silence::Unreachable(error.to_string()))?;
        let request = self.http.get(url).timeout(LONG);
        let text = self.patiently(async { self.ask(request).await?.text().await.map_err(silence) }).await?;
        let report = serde_json::from_str(&text)
            .map_err(|error| Silence::Refused(format!("its report is of another version: {error}")))?;
        Ok((report, text))
    }

    /// The status.
    pub(super) async fn status(&self) -> Result<Status, Silence> {
        self.status_and_text().await.map(|(status, _)| status)
    }

    /// The status; fails if it has no upstream of this name.
    pub(super) async fn status_with(&self, upstream: &str) -> Result<Status, Failure> {
        let status = self.status().await.map_err(|silence| self.failure(silence))?;
        let mut names = status.upstreams.iter().map(|upstream| upstream.name.as_str());
        if names.clone().any(|name| name == upstream) {
            return Ok(status);
        }
        let names = names.by_ref().collect::<Vec<_>>().join(", ");
        Err(Failure::new(Exit::Usage, format_args!("{upstream:?} is no upstream; there are {names}")))
    }

    /// Announces that the file is about to be edited, or orders a switch.
    pub(super) async fn announce(&self, announcement: &Announcement<'_>) -> Result<(), Silence> {
        self.ask(self.http.post(self.url("/api/primary")).json(announcement)).await.map(drop)
    }

    /// The answer to a GET of `path`.
    pub(super) async fn read<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T, Silence> {
        let query: String = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        let request = self.http.get(self.url(&format!("{path}?{query}"))).timeout(LONG);
        self.patiently(async { understood(self.ask(request).await?).await }).await
    }

    /// Posts an order to `path` and returns the answer.
    pub(super) async fn order<T: DeserializeOwned>(&self, path: &str, order: &impl Serialize) -> Result<T, Silence> {
        let request = self.http.post(self.url(path)).json(order).timeout(LONG);
        self.patiently(async { understood(self.ask(request).await?).await }).await
    }

    /// The bytes at `path`.
    pub(super) async fn bytes(&self, path: &str) -> Result<Vec<u8>, Silence> {
        let request = self.http.get(self.url(path)).timeout(LONG);
        let answer = self.patiently(async { self.ask(request).await?.bytes().await.map_err(silence) });
        answer.await.map(Vec::from)
    }

    /// Whether the daemon accepts submissions; the error says why not.
    pub(super) async fn ready(&self) -> Result<(), Silence> {
        self.ask(self.http.get(self.url("/readyz"))).await.map(drop)
    }

    /// Waits for a slow answer as long as the daemon answers short requests in time.
    async fn patiently<T>(&self, answer: impl Future<Output = Result<T, Silence>>) -> Result<T, Silence> {
        tokio::select! {
            answer = answer => answer,
            () = self.silenced() => Err(Silence::Late),
        }
    }

    /// Returns when the daemon does not answer a short request in time. A daemon that is gone does not count.
    async fn silenced(&self) {
        loop {
            sleep(AWHILE).await;
            let alive = self.http.get(self.url("/healthz")).timeout(PATIENCE - AWHILE).send().await;
            if alive.is_err_and(|error| error.is_timeout()) {
                return;
            }
        }
    }

    async fn ask(&self, request: RequestBuilder) -> Result<Response, Silence> {
        let request = match &self.contact.token {
            Ok(Some(token)) => request.bearer_auth(token.expose()),
            Ok(None) | Err(_) => request,
        };
        let answer = request.send().await.map_err(silence)?;
        match answer.status() {
            status if status.is_success() => Ok(answer),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Silence::Unauthorized),
            status => {
                let text = answer.text().await.unwrap_or_default();
                Err(match detail(&text) {
                    Some(detail) if status == StatusCode::BAD_REQUEST => Silence::Misasked(detail),
                    Some(detail) => Silence::Refused(detail),
                    None if is_page(&text) || (status == StatusCode::NOT_FOUND && text != NO_PAGE) => {
                        Silence::Stranger(status.to_string())
                    }
                    None => Silence::Refused(format!("{status} {}", text.trim())),
                })
            }
        }
    }

    /// The failure to show to the person at the terminal.
    pub(super) fn failure(&self, silence: Silence) -> Failure {
        let address = self.contact.address;
        match (silence, &self.contact.unread) {
            (Silence::Unreachable(_) | Silence::Stranger(_), Some(unread)) => unread.clone(),
            (Silence::Unreachable(why), None) => Failure::new(
                Exit::Unavailable,
                format_args!(
                    "no daemon answers at {address}, the admin address of the configuration: {why}\nis `switchyard run` running?"
                ),
            ),
            (Silence::Late, _) => Failure::new(
                Exit::Unavailable,
                format_args!(
                    "the daemon at {address} does not answer in time: it is stopped, or has too much to do\n\
                     what it was asked for it may still do when it goes on"
                ),
            ),
            (Silence::Misasked(why), _) => Failure::new(Exit::Usage, why),
            (Silence::Unauthorized, _) => Failure::new(Exit::Permission, self.without_token()),
            (Silence::Refused(why), _) => {
                Failure::new(Exit::Negative, format_args!("the daemon at {address} refuses: {why}"))
            }
            (Silence::Stranger(what), None) => Failure::new(
                Exit::Unavailable,
                format_args!(
                    "what answers at {address}, the admin address of the configuration, is no switchyard: {what}\n\
                     another server has that port: name the daemon's at [admin] listen, or its file with --config"
                ),
            ),
        }
    }
}

impl AdminClient {
    /// What to do when the daemon demands its token.
    fn without_token(&self) -> String {
        let address = self.contact.address;
        match &self.contact.token {
            Err(why) => format!(
                "the daemon at {address} wants its admin token, and admin.token cannot be read here: {why}\n\
                 run this as the user and with the environment of the daemon, or set admin.token in a file of your own and name \
                 it with --config"
            ),
            Ok(Some(_)) => format!("the daemon at {address} has another admin token than this configuration"),
            Ok(None) => format!(
                "the daemon at {address} wants its admin token: set admin.token as the daemon has it, or name its file with --config"
            ),
        }
    }
}

/// Why a request got no answer.
fn silence(error: reqwest::Error) -> Silence {
    if error.is_timeout() { Silence::Late } else { Silence::Unreachable(told(&error)) }
}

async fn understood<T: DeserializeOwned>(answer: Response) -> Result<T, Silence> {
    let text = answer.text().await.map_err(silence)?;
    serde_json::from_str(&text).map_err(|error| Silence::Refused(format!("its answer is of another version: {error}")))
}

/// Whether an answer is HTML, which the paths used here never return.
fn is_page(text: &str) -> bool {
    text.trim_start().starts_with('<')
}

/// The words in `{"detail": "…"}`.
fn detail(text: &str) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_str(text).ok()?;
    Some(answer.get("detail")?.as_str()?.to_owned())
}

/// The deepest cause of an error, without the address, which the message has already.
pub(super) fn told(error: &reqwest::Error) -> String {
    let mut deepest = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        deepest = cause.to_string();
        source = cause.source();
    }
    match error.is_timeout() {
        true => "no answer in time".to_owned(),
        false => deepest,
    }
}

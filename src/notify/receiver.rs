//! Sends messages to one receiver: at most one in a while, again when it failed, and never more kept than a bound.

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, header};

use crate::clock::Timestamp;
use crate::delivery::transport::{chain, tls};
use crate::policy::incidents::{Event, Notice, Phase};

use super::Settings;

/// How long a receiver may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a message did not get through. Says nothing of the address but its host.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// The address is none.
    #[error("its url is no address: write one as in https://hooks.example.org/…")]
    Address,
    /// It cannot be reached, or does not answer.
    #[error("{0}")]
    Network(String),
    /// It answered something else than 2xx.
    #[error("it answered {0}")]
    Status(StatusCode),
}

impl SendError {
    /// Whether it may go well later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Address => false,
            Self::Network(_) => true,
            Self::Status(status) => status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429),
        }
    }
}

/// Sends to all receivers. It follows no redirect: what is posted holds words that are meant for nobody else.
#[derive(Clone, Debug)]
pub struct Sender(Client);

impl Sender {
    /// One that trusts whom the deliveries trust, and heeds the environment's proxies.
    ///
    /// # Errors
    ///
    /// When the TLS library does not start.
    pub fn new() -> Result<Self, SendError> {
        let builder = Client::builder().redirect(Policy::none()).referer(false).timeout(PATIENCE);
        let client = builder.pool_max_idle_per_host(0).tls_backend_preconfigured(tls::config()).build();
        client.map(Self).map_err(|error| SendError::Network(error.without_url().to_string()))
    }

    /// Sends one message about `notices`.
    ///
    /// # Errors
    ///
    /// When it did not get through; [`SendError::may_pass`] tells whether to try again.
    pub async fn send(&self, settings: &Settings, notices: &[Notice]) -> Result<(), SendError> {
        let url = settings.address().ok_or(SendError::Address)?;
        let payload = settings.format().payload(notices, settings.chat.as_deref());
        let mut request = self.0.post(url).header(header::CONTENT_TYPE, payload.content_type);
        for (name, value) in payload.headers {
            request = request.header(name, value);
        }
        let answer = request.body(payload.body).send().await;
        let status = answer.map_err(|error| SendError::Network(chain(&error.without_url())))?.status();
        if status.is_success() { Ok(()) } else { Err(SendError::Status(status)) }
    }
}

/// The notice of a test.
pub fn test_notice(now: Timestamp) -> Notice {
    let text = "this is a test of `switchyard notify test`: messages get through".to_owned();
    Notice { event: Event::Test, subject: String::new(), phase: Phase::Happened, text, at: now }
}

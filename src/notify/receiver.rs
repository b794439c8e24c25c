//! Sends one message to a receiver.

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, header};

use crate::clock::Timestamp;
use crate::delivery::transport::{chain, tls};
use crate::policy::incidents::{Event, Notice, Phase};

use super::Settings;

/// How long a receiver may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a message did not get through. Of the address only the host may be in it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// The address is invalid.
    #[error("its url is no address: write one as in https://hooks.example.org/…")]
    Address,
    /// The receiver cannot be reached, or does not answer.
    #[error("{0}")]
    Network(String),
    /// The receiver answered with a status other than 2xx.
    #[error("it answered {0}")]
    Status(StatusCode),
}

impl SendError {
    /// Whether a later attempt may succeed.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Address => false,
            Self::Network(_) => true,
            Self::Status(status) => status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429),
        }
    }
}

/// Sends to all receivers. It follows no redirects: the text is meant for the receiver alone.
#[derive(Clone, Debug)]
pub struct Sender(Client);

impl Sender {
    /// A sender with the trust of deliveries and the proxies of the environment.
    ///
    /// # Errors
    ///
    /// When TLS cannot be set up.
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

/// The notice that a test sends.
pub fn test_notice(now: Timestamp) -> Notice {
    let text = "this is a test of `switchyard notify test`: messages get through".to_owned();
    Notice { event: Event::Test, subject: String::new(), phase: Phase::Happened, text, at: now }
}

//! Orders to make another upstream the primary: the listener sends them, the daemon carries them out.

use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::answer::Refused;

/// The most characters of reasons and names; longer ones are cut.
pub(super) const LONGEST_WORDS: usize = 500;

/// An order to make another upstream the primary.
#[derive(Debug)]
pub struct SwitchOrder {
    /// The upstream that is to be the primary.
    pub to: String,
    /// Why, in the author's words.
    pub reason: Option<String>,
    /// Who orders it.
    pub author: Option<String>,
    /// Whether the author edits the configuration file; if not, the daemon does.
    pub announced: bool,
    /// The channel for the outcome.
    pub reply: oneshot::Sender<Result<(), SwitchRefusal>>,
}

/// Why an order was not carried out.
#[derive(Clone, Debug, thiserror::Error, Serialize)]
#[error("{detail}")]
pub struct SwitchRefusal {
    /// What is wrong and how to fix it.
    pub detail: String,
}

/// The channel to the task that carries out orders.
pub(super) type Control = mpsc::Sender<SwitchOrder>;

/// The body of `POST /api/primary`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SwitchBody {
    pub(super) to: String,
    pub(super) reason: Option<String>,
    pub(super) author: Option<String>,
    #[serde(default)]
    pub(super) announced: bool,
}

/// Orders a switch and waits for the outcome. A successful switch is live then, unless it was only announced.
pub(super) async fn send(control: &Control, body: SwitchBody) -> Result<(), Refused> {
    let cut = |text: Option<String>| text.map(|text| text.chars().take(LONGEST_WORDS).collect::<String>());
    let (reply, outcome) = oneshot::channel();
    let SwitchBody { to, reason, author, announced } = body;
    let order = SwitchOrder { to, reason: cut(reason), author: cut(author), announced, reply };
    let done = match control.send(order).await {
        Ok(()) => outcome.await.ok(),
        Err(_) => None,
    };
    let done = done.ok_or_else(|| (StatusCode::SERVICE_UNAVAILABLE, "shutting down".to_owned()))?;
    done.map_err(|refusal| (StatusCode::CONFLICT, refusal.detail))
}

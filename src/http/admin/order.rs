//! Orders to make another upstream the primary: the listener sends them, the daemon carries them out.

use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::answer::Refused;

/// Longer reasons and names are cut.
pub(super) const LONGEST_WORDS: usize = 500;

/// An order to make another upstream the primary.
#[derive(Debug)]
pub struct SwitchOrder {
    /// The upstream that is to be the primary.
    pub to: String,
    /// Why, in the words of who orders it.
    pub reason: Option<String>,
    /// Who orders it.
    pub author: Option<String>,
    /// Whether whoever orders it edits the file; if not, the daemon does.
    pub announced: bool,
    /// Where the outcome goes.
    pub reply: oneshot::Sender<Result<(), SwitchRefusal>>,
}

/// Why an order was not carried out.
#[derive(Clone, Debug, thiserror::Error, Serialize)]
#[error("{detail}")]
pub struct SwitchRefusal {
    /// What is wrong and how to mend it.
    pub detail: String,
}

/// The way to whoever carries out orders.
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

/// Has a switch carried out: it is live when this returns, unless it is only announced.
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

//! The section `[[notify]]`.

use serde::Deserialize;
use url::Url;

use crate::policy::incidents::Event;
use crate::units::{Period, Secret};

use super::format::Format;

/// One receiver of messages.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where messages are posted to.
    pub url: Secret,
    /// How it wants them; absent, what its host is known for, else JSON of our own.
    #[serde(default)]
    pub format: Option<Format>,
    /// What it is told; absent, everything.
    #[serde(default = "everything")]
    pub events: Vec<Event>,
    /// The chat of a Telegram bot.
    #[serde(default)]
    pub chat: Option<String>,
    /// How long something must last before it is told, and be over before that is.
    #[serde(default = "after")]
    pub after: Period,
    /// The shortest time between two messages; what happens in between is told in one.
    #[serde(default = "every")]
    pub every: Period,
}

fn everything() -> Vec<Event> {
    Event::ALL.to_vec()
}

const fn after() -> Period {
    Period::secs(30)
}

const fn every() -> Period {
    Period::secs(60)
}

impl Settings {
    /// The format that is written, or the one its host is known for.
    pub fn format(&self) -> Format {
        self.format.unwrap_or_else(|| Format::of_host(self.host().as_deref().unwrap_or_default()))
    }

    /// The host of its address: all of it that may be shown.
    pub fn host(&self) -> Option<String> {
        self.address()?.host_str().map(str::to_owned)
    }

    /// Its address, when it is one.
    pub fn address(&self) -> Option<Url> {
        let url = Url::parse(self.url.expose()).ok()?;
        (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
    }

    /// What it is called in logs and on the terminal, as in `slack at hooks.slack.com`.
    pub fn shown(&self) -> String {
        format!("{} at {}", self.format().name(), self.host().unwrap_or_default())
    }
}

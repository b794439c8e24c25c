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
    /// The address that messages are posted to.
    pub url: Secret,
    /// The format of messages; `None` for the one its host is known for, or else the relay's own JSON.
    #[serde(default)]
    pub format: Option<Format>,
    /// The events to report; all of them by default.
    #[serde(default = "everything")]
    pub events: Vec<Event>,
    /// The chat of a Telegram bot.
    #[serde(default)]
    pub chat: Option<String>,
    /// How long an event must last before it is reported, and how long it must be over before its end is.
    #[serde(default = "after")]
    pub after: Period,
    /// The shortest time between two messages. The events in between are reported in one message.
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
    /// The configured format, or the one that the host is known for.
    pub fn format(&self) -> Format {
        self.format.unwrap_or_else(|| Format::of_host(self.host().as_deref().unwrap_or_default()))
    }

    /// The host of the address, the only part of it that may be shown.
    pub fn host(&self) -> Option<String> {
        self.address()?.host_str().map(str::to_owned)
    }

    /// The address; `None` if it is no http or https URL with a host.
    pub fn address(&self) -> Option<Url> {
        let url = Url::parse(self.url.expose()).ok()?;
        (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
    }

    /// The receiver's name in logs and on the terminal, such as `slack at hooks.slack.com`.
    pub fn shown(&self) -> String {
        format!("{} at {}", self.format().name(), self.host().unwrap_or_default())
    }
}

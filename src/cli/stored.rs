//! Asks a tracker's API whether it stores what it took, for the verbs that wait for an event or try the token.
//!
//! Rule: the token is sent to the tracker's API alone, as the daemon sends it.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::config::{Api, Config, There};
use crate::protocol::event_id::EventId;

use super::terminal::{Tone, harmless, tint};

/// How long a tracker may take to store the first event of a project.
const FIRST: Duration = Duration::from_secs(5);
/// The pause between two requests.
const EACH: Duration = Duration::from_millis(500);

/// A project at an upstream whose API can be asked.
#[derive(Clone, Debug)]
pub(super) struct Place {
    api: Api,
    there: There,
}

/// The answer of a tracker's API about an event that the tracker took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stored {
    /// The tracker stores the event.
    Yes,
    /// The tracker took the event and does not store it.
    No,
    /// The API does not tell.
    Unknown,
}

impl Place {
    /// The place of a project; `None` without `api` section, DSN, or a name that the API needs.
    pub(super) fn of(config: &Config, upstream: &str, project: &str) -> Option<Self> {
        let api = Api::of(config.upstreams.get(upstream)?)?;
        let project = config.projects.iter().find(|own| *own.name == *project)?;
        let name = project.places.get(upstream).map(|name| &**name);
        let there = api.there(project.dsns.get(upstream)?, name)?;
        Some(Self { api, there })
    }

    /// Checks token, scope and project; the error says what is wrong and how to mend it.
    pub(super) async fn check(&self) -> Result<(), String> {
        self.api.check(&self.there).await.map_err(|trouble| trouble.to_string())
    }

    /// Waits until the event is stored, or until `until`. The text says why it is not stored, or why that is unknown.
    pub(super) async fn wait(&self, upstream: &Arc<str>, id: EventId, until: Instant) -> (Stored, String) {
        let mut seen = self.api.seek(&self.there, id, until).await;
        // A stored event proves that the API shows the project. Until the first one, the API cannot say that an event is not stored.
        let proven_by = until.min(Instant::now() + FIRST);
        while seen.is_none() && Instant::now() < proven_by {
            sleep(EACH).await;
            seen = self.api.seek(&self.there, id, until).await;
        }
        match seen {
            Some(true) => (Stored::Yes, String::new()),
            Some(false) => {
                let words =
                    format!("{upstream} took it and does not store it: look at its worker, its queue and its log");
                (Stored::No, words)
            }
            None => {
                let why = self.check().await.err().unwrap_or_else(|| "it did not answer for a moment".to_owned());
                (Stored::Unknown, format!("it is not known whether it is stored: {why}"))
            }
        }
    }
}

/// What a tracker's API says about our token and our name of a project.
#[derive(Debug, Serialize)]
pub(super) struct Asked {
    upstream: Arc<str>,
    project: Arc<str>,
    pub(super) ok: bool,
    /// What is wrong, and how to mend it.
    explanation: String,
}

impl Asked {
    /// The result in a line.
    pub(super) fn told(&self) -> String {
        let Self { upstream, project, ok, explanation } = self;
        let (tone, colon) = if *ok { (Tone::Good, "") } else { (Tone::Bad, ":") };
        tint(tone, format_args!("{upstream}, project {project}: its API{colon} {}", harmless(explanation, 400)))
    }
}

/// Tries the API of every upstream with one, for each project.
pub(super) async fn check_all(config: &Config) -> Vec<Asked> {
    let mut all = vec![];
    for (upstream, project) in
        config.upstreams.keys().flat_map(|name| config.projects.iter().map(move |own| (name, own)))
    {
        let Some(place) = Place::of(config, upstream, &project.name) else { continue };
        let found = place.check().await;
        let ok = found.is_ok();
        let explanation = found.err().unwrap_or_else(|| "takes the token and knows the project".to_owned());
        all.push(Asked { upstream: Arc::clone(upstream), project: Arc::clone(&project.name), ok, explanation });
    }
    all
}

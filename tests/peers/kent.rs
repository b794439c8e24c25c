//! Kent, a stand-in tracker that shows each item and its envelope's header exactly as they arrived.
//!
//! Rule: no arrival is lost to the test. Kent keeps only its last 100 entries, so each look stores what it saw, and a look that may come
//! too late fails the test. It does not know the relay.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use reqwest::Client;
use serde_json::Value;
use tempfile::TempDir;

use super::install;
use crate::support::eventually::eventually;
use crate::support::net;
use crate::support::process::Process;

/// The number of entries that Kent keeps.
const KEPT: usize = 100;

/// One item as it arrived.
#[derive(Clone)]
pub(crate) struct Arrival {
    /// The project of the request's path.
    pub(crate) project: u64,
    /// The header of the item's envelope.
    pub(crate) envelope_header: Value,
    /// The item's own header.
    pub(crate) item_header: Value,
    /// The payload; JSON for every item type except attachments, which Kent's API cannot show.
    pub(crate) body: Value,
}

impl Arrival {
    /// The item type, `event` for example.
    pub(crate) fn kind(&self) -> &str {
        self.item_header["type"].as_str().unwrap_or_default()
    }

    /// The event id of the envelope as it was spelled; empty when it has none.
    pub(crate) fn event_id(&self) -> &str {
        self.envelope_header["event_id"].as_str().unwrap_or_default()
    }
}

/// A running Kent, killed when dropped.
pub(crate) struct Kent {
    port: u16,
    client: Client,
    /// Everything seen since the start or the last flush, in Kent's order, under Kent's own ids.
    seen: Vec<(String, Arrival)>,
    process: Process,
    _home: TempDir,
}

impl Kent {
    /// Starts it on a free port and waits until it answers.
    pub(crate) async fn start() -> Self {
        let home = TempDir::with_prefix("kent-").expect("a folder for Kent");
        let port = net::free_port();
        let mut command = Command::new(install::kent().join("kent-server"));
        command.args(["run", "--host", "127.0.0.1", "--port", &port.to_string()]).current_dir(home.path());
        let process = Process::start("Kent", &mut command, &home.path().join("log"), None);
        let mut kent = Self { port, client: net::client(), seen: Vec::new(), process, _home: home };
        eventually("Kent is ready", Duration::from_secs(20), async || kent.look().await).await;
        kent
    }

    /// The DSN of a project; Kent takes any number and any key.
    pub(crate) fn dsn(&self, project: u64) -> String {
        format!("http://anykey@127.0.0.1:{}/{project}", self.port)
    }

    /// Stores what has arrived since the last look. Call it at least once per 100 items.
    ///
    /// # Errors
    /// When Kent does not answer.
    ///
    /// # Panics
    /// When Kent has ended, or entries may have been dropped between two looks.
    pub(crate) async fn look(&mut self) -> Result<(), String> {
        assert!(self.process.ended().is_none(), "Kent ended. {}", self.process.last_words());
        let listed = net::json(&self.client, &self.url("eventlist/")).await?;
        let listed = listed["events"].as_array().ok_or("a list without events")?;
        let ids: Vec<&str> = listed.iter().filter_map(|entry| entry["event_id"].as_str()).collect();
        let new = self.seen.last().map_or(0, |(last, _)| ids.iter().position(|id| id == last).map_or(0, |at| at + 1));
        assert!(new > 0 || ids.len() < KEPT, "Kent may have dropped entries between two looks");
        for id in &ids[new..] {
            let entry = net::json(&self.client, &self.url(&format!("event/{id}"))).await?;
            self.seen.push(((*id).to_owned(), arrival(entry)));
        }
        Ok(())
    }

    /// Everything seen so far for `project`, oldest first.
    pub(crate) fn arrivals(&self, project: u64) -> impl Iterator<Item = &Arrival> {
        self.seen.iter().map(|(_, arrival)| arrival).filter(move |arrival| arrival.project == project)
    }

    /// The number of times each event id was seen in an item of `kind` for `project`.
    pub(crate) fn times(&self, project: u64, kind: &str) -> BTreeMap<String, usize> {
        let mut times = BTreeMap::new();
        for arrival in self.arrivals(project).filter(|arrival| arrival.kind() == kind) {
            *times.entry(arrival.event_id().to_owned()).or_default() += 1;
        }
        times
    }

    /// Forgets everything here and in Kent.
    pub(crate) async fn flush(&mut self) {
        let answer = self.client.post(self.url("flush/")).send().await.expect("an answer of Kent");
        assert!(answer.status().is_success(), "Kent refused to flush: {}", answer.status());
        self.seen.clear();
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/api/{path}", self.port)
    }
}

fn arrival(mut entry: Value) -> Arrival {
    Arrival {
        project: entry["project_id"].as_u64().expect("a project's number"),
        envelope_header: entry["payload"]["envelope_header"].take(),
        item_header: entry["payload"]["header"].take(),
        body: entry["payload"]["body"].take(),
    }
}

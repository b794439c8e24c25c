//! A GlitchTip 5 as it was seen to behave. It answers 200 and queues. A worker stores events in batches; one event that it cannot store
//! costs the whole batch. It takes a repeated id once within a time, and its API demands a token, a scope and the right project name.
//!
//! A real batch closes after 100 messages or 2 s, and a real server remembers an id for 300 s (`memory`). A test may shorten both times.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::envelopes;
use super::upstream::{Reply, Seen, Upstream};

/// The token of the API.
pub(crate) const TOKEN: &str = "5ec4e7-token-of-the-api";
/// The organization and project as the API names them.
pub(crate) const PLACE: &str = "acme/shop";
/// The number of the project in its DSN.
pub(crate) const NUMBER: u64 = 7;
/// The number of events on a page of the list.
const PAGE: usize = 100;
/// The maximum number of messages in a batch.
const BATCH: usize = 100;

/// A running tracker.
pub(crate) struct Glitchtip {
    pub(crate) upstream: Upstream,
    state: Arc<Mutex<State>>,
}

/// A function that changes an answer of the API.
type Twist = Box<dyn Fn(&Seen, Reply) -> Reply + Send>;

struct State {
    batch: Duration,
    memory: Duration,
    worker: bool,
    queue: Vec<Queued>,
    remembered: HashMap<String, Instant>,
    /// The stored events, in the order of storage.
    stored: Vec<Value>,
    /// The answer of the API to every question; `None` for the usual answers.
    trouble: Option<Reply>,
    questions: usize,
    twist: Option<Twist>,
    /// The answer to every envelope, which is then not taken; `None` to take envelopes.
    door: Option<Reply>,
    /// The version that the settings name; `None` as in a build that names none.
    version: Option<String>,
    /// The ids of the events that are taken and never stored.
    vanishing: Vec<String>,
}

struct Queued {
    at: Instant,
    id: String,
    event: Value,
}

impl Glitchtip {
    /// Starts a tracker that closes a batch after `batch` and remembers ids for `memory`.
    pub(crate) async fn start(batch: Duration, memory: Duration) -> Self {
        let upstream = Upstream::start().await;
        let state = State {
            batch,
            memory,
            worker: true,
            queue: vec![],
            remembered: HashMap::new(),
            stored: vec![],
            trouble: None,
            questions: 0,
            twist: None,
            door: None,
            version: None,
            vanishing: vec![],
        };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        upstream.when(move |seen| {
            let mut state = shared.lock().expect("no panic");
            match seen.method == Method::GET {
                true => {
                    let reply = state.api(seen);
                    Some(state.twist.as_ref().map_or_else(|| reply.clone(), |twist| twist(seen, reply.clone())))
                }
                false if state.door.is_some() => state.door.clone(),
                false => {
                    state.take(seen);
                    None
                }
            }
        });
        Self { upstream, state }
    }

    /// The DSN of the tracker's project.
    pub(crate) fn dsn(&self) -> String {
        self.upstream.dsn("cafe", NUMBER)
    }

    /// Starts or stops the worker.
    pub(crate) fn set_worker(&self, runs: bool) {
        let mut state = self.state.lock().expect("no panic");
        state.work(Instant::now());
        state.worker = runs;
    }

    /// Discards the queue, as Redis without persistence does, and returns its length.
    pub(crate) fn lose_queue(&self) -> usize {
        std::mem::take(&mut self.state.lock().expect("no panic").queue).len()
    }

    /// Removes a stored event.
    pub(crate) fn delete(&self, id: &str) {
        self.state.lock().expect("no panic").stored.retain(|event| event["eventID"] != id);
    }

    /// Changes the message of a stored event.
    pub(crate) fn change_message(&self, id: &str, value: &str) {
        self.change(id, "/entries/0/data/formatted", value);
    }

    /// Changes the part of a stored event at a JSON pointer.
    pub(crate) fn change(&self, id: &str, part: &str, value: &str) {
        for event in &mut self.state.lock().expect("no panic").stored {
            if event["eventID"] == id {
                *event.pointer_mut(part).expect("a part of it") = value.into();
            }
        }
    }

    /// Makes the API answer every question with `reply`; `None` restores the usual answers.
    pub(crate) fn set_trouble(&self, reply: Option<Reply>) {
        self.state.lock().expect("no panic").trouble = reply;
    }

    /// Passes every answer of the API through `twist`.
    pub(crate) fn twist(&self, twist: impl Fn(&Seen, Reply) -> Reply + Send + 'static) {
        self.state.lock().expect("no panic").twist = Some(Box::new(twist));
    }

    /// Answers every envelope with `reply` and takes none; `None` takes envelopes again.
    pub(crate) fn set_door(&self, reply: Option<Reply>) {
        self.state.lock().expect("no panic").door = reply;
    }

    /// Sets the version. From version 6 on the tracker stores events that version 5 loses.
    pub(crate) fn set_version(&self, version: &str) {
        self.state.lock().expect("no panic").version = Some(version.to_owned());
    }

    /// Takes this event but never stores it.
    pub(crate) fn lose_each_time(&self, id: &str) {
        self.state.lock().expect("no panic").vanishing.push(id.to_owned());
    }

    /// The ids of the stored events, in the order of storage.
    pub(crate) fn stored(&self) -> Vec<String> {
        let mut state = self.state.lock().expect("no panic");
        state.work(Instant::now());
        state.stored.iter().filter_map(|event| event["eventID"].as_str().map(str::to_owned)).collect()
    }

    /// The number of requests to the API.
    pub(crate) fn questions(&self) -> usize {
        self.state.lock().expect("no panic").questions
    }
}

impl State {
    /// Queues the events of an envelope, unless their id was taken within `memory`.
    fn take(&mut self, seen: &Seen) {
        let now = Instant::now();
        self.work(now);
        for item in envelopes::items(&seen.body).into_iter().filter(|item| item.kind == "event") {
            let Some(payload) = item.bytes.splitn(2, |b| *b == b'\n').nth(1) else { continue };
            let Ok(event) = serde_json::from_slice::<Value>(payload) else { continue };
            let id = seen.event_id().replace('-', "");
            let is_known = self.remembered.get(&id).is_some_and(|at| now.duration_since(*at) < self.memory);
            if !is_known {
                self.remembered.insert(id.clone(), now);
                self.queue.push(Queued { at: now, id, event });
            }
        }
    }

    /// Stores the batches that have closed.
    fn work(&mut self, now: Instant) {
        while let Some(first) = self.queue.first().filter(|_| self.worker) {
            let closes = first.at + self.batch;
            if now < closes {
                return;
            }
            let many = self.queue.iter().take_while(|queued| queued.at < closes).count().min(BATCH);
            let batch: Vec<Queued> = self.queue.drain(..many).collect();
            let is_old = self.version.as_deref().is_none_or(|version| version.starts_with('5'));
            if is_old && batch.iter().any(|queued| is_poison(&queued.event)) {
                continue;
            }
            let kept = batch.into_iter().filter(|queued| !self.vanishing.contains(&queued.id));
            let kept: Vec<Value> = kept.map(|queued| shown(&queued.id, &queued.event)).collect();
            self.stored.extend(kept);
        }
    }

    fn api(&mut self, seen: &Seen) -> Reply {
        if !seen.path.starts_with("/api/0/") && seen.path != "/api/settings/" {
            // Only a POST may go to an ingest path, and the API's token never.
            return answer(405, &json!({"detail": "Method not allowed"}));
        }
        self.questions += 1;
        self.work(Instant::now());
        if let Some(trouble) = &self.trouble {
            return trouble.clone();
        }
        if seen.path == "/api/settings/" {
            let version = self.version.as_deref().unwrap_or("0.0.0-unknown");
            return answer(200, &json!({"billingEnabled": false, "version": version, "serverTimeZone": "UTC"}));
        }
        if seen.headers.get("authorization").and_then(|value| value.to_str().ok()) != Some(&format!("Bearer {TOKEN}")) {
            return answer(401, &json!({"detail": "Unauthorized"}));
        }
        let Some(rest) = seen.path.strip_prefix("/api/0/projects/") else {
            return answer(404, &json!({"detail": "Not Found"}));
        };
        let is_ours = rest.starts_with(&format!("{PLACE}/"));
        let parts: Vec<&str> = rest.trim_end_matches('/').split('/').collect();
        match parts.as_slice() {
            // The token lacks the scope `project:read`.
            [_, _] => answer(403, &json!({"detail": "Permission denied"})),
            [_, _, "events"] => self.list(seen, is_ours),
            [_, _, "events", id] if is_ours => {
                let found = self.stored.iter().find(|event| event["eventID"] == id.replace('-', ""));
                found.map_or_else(|| answer(404, &json!({"detail": "Not Found"})), |event| answer(200, event))
            }
            _ => answer(404, &json!({"detail": "Not Found"})),
        }
    }

    /// A page of the list, newest first.
    fn list(&self, seen: &Seen, is_ours: bool) -> Reply {
        let query = seen.query.clone().unwrap_or_default();
        let from: usize = query.split("cursor=").nth(1).and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
        let all: Vec<&Value> = if is_ours { self.stored.iter().rev().collect() } else { vec![] };
        let page: Vec<&Value> = all.iter().skip(from).take(PAGE).copied().collect();
        let more = from + page.len() < all.len();
        let address = format!("http://t{}", seen.path);
        let next = from + page.len();
        // Python's notation of a set.
        let link = format!(
            "{{'<{address}?limit=100>; rel=\"previous\"; results=\"false\", <{address}?cursor={next}&limit=100>; rel=\"next\"; \
             results=\"{more}\"; cursor=\"{next}\"'}}"
        );
        let headers = vec![("link", link), ("content-type", "application/json; charset=utf-8".to_owned())];
        Reply::Status(200, headers, json!(page).to_string())
    }
}

fn answer(status: u16, body: &Value) -> Reply {
    let headers = vec![("content-type", "application/json; charset=utf-8".to_owned())];
    Reply::Status(status, headers, body.to_string())
}

/// Whether the event's release is too long for its column.
fn is_poison(event: &Value) -> bool {
    event["release"].as_str().is_some_and(|release| release.chars().count() > 255)
}

/// An event as the API returns it, with the fields that the relay reads.
fn shown(id: &str, event: &Value) -> Value {
    let now = time::OffsetDateTime::now_utc().format(&time::format_description::well_known::Rfc3339).expect("a time");
    json!({
        "id": id, "eventID": id, "projectID": NUMBER, "dateCreated": now, "dateReceived": now, "type": "error",
        "message": event["message"], "tags": [],
        "entries": [{"type": "message", "data": {"formatted": event["message"]}}], "contexts": event["contexts"],
    })
}

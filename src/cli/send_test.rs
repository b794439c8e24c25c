//! `switchyard send-test`: sends one marked event to the public listener, and shows when each upstream took it.
//!
//! The daemon counts items and does not track single events. While this event is the only one of its project and category under way, the
//! counts prove that it was taken. Under traffic they make it likely, and the output says so.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Client;
use reqwest::redirect::Policy;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::clock::Clock;
use crate::config::Config;
use crate::protocol::event_id::EventId;
use crate::protocol::marked::{self, Mark};
use crate::telemetry::ledger::{Cause, dropped_by};
use crate::telemetry::status::{AccountStatus, Status, UpstreamStatus};
use crate::telemetry::words;
use crate::units::Secret;

use super::admin::{AdminClient, told};
use super::failure::{Exit, Failure};
use super::locate::{Contact, Located, reachable};
use super::process;
use super::stored::{Place, Stored};
use super::terminal::{self, Tone, harmless, right, table, tinted};

/// How long the upstreams may take to take the event, and then to store it.
const DEADLINE: Duration = Duration::from_secs(30);
/// The pause between two looks at the status.
const EACH: Duration = Duration::from_millis(20);
/// The category of the event.
const CATEGORY: &str = "error";

/// Sends one marked event through the relay and says when each upstream took it
///
/// Exit 0 when each did, 1 when one did not within 30 seconds. An upstream with an `api` section is also asked for the event: exit 1
/// when it took the event and does not store it within 30 more seconds.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The project to send it for [default: the first]
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// The outcome of a test event.
#[derive(Debug, Serialize)]
struct Outcome {
    event_id: EventId,
    project: Arc<str>,
    /// The time from sending to the relay's answer, in milliseconds.
    accepted_ms: u64,
    upstreams: Vec<Arrival>,
}

/// The outcome at one upstream.
#[derive(Debug, Serialize)]
struct Arrival {
    upstream: Arc<str>,
    result: Taken,
    /// The time from sending until it was seen to be taken, in milliseconds.
    within_ms: Option<u64>,
    /// Whether the upstream stores the event; `None` if its API was not asked.
    stored: Option<Stored>,
    /// The time from sending until it was seen to be stored or the wait ended, in milliseconds.
    stored_ms: Option<u64>,
    explanation: String,
}

impl Arrival {
    /// Whether the event was not taken, or was taken and is not stored.
    fn is_bad(&self) -> bool {
        self.result == Taken::No || self.stored == Some(Stored::No)
    }

    /// Waits until an event that was taken is stored, if the upstream's API can be asked.
    async fn wait(&mut self, config: &Config, project: &str, id: EventId, until: Instant, began: Instant) {
        if !matches!(self.result, Taken::Yes | Taken::MostLikely) {
            return;
        }
        let Some(place) = Place::of(config, &self.upstream, project) else { return };
        let (stored, words) = place.wait(&self.upstream, id, until).await;
        (self.stored, self.stored_ms) = (Some(stored), Some(millis(began)));
        if !words.is_empty() {
            self.explanation = words;
        }
    }
}

/// Whether an upstream took the event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Taken {
    /// The upstream took it.
    Yes,
    /// As many were taken as were under way. This event is among them, unless a later one overtook it.
    MostLikely,
    /// The upstream did not take it in time.
    No,
    /// The upstream gets no such event: the mirror is off, or its `shadow` section leaves it out.
    NotMeant,
}

/// Sends the event and watches it.
pub(super) fn send_test(located: &Located, args: &Args) -> Result<(), Failure> {
    let config = located.load()?.config;
    let door = FrontDoor::choose(&config, args.project.as_deref())?;
    let admin = AdminClient::new(Contact::of(config.admin.listen, config.admin.token.clone()))?;
    let outcome = process::block_on(async {
        let before = admin.status().await.map_err(|silence| admin.failure(silence))?;
        let event_id = EventId::random();
        let began = Instant::now();
        door.send(event_id).await?;
        let accepted_ms = millis(began);
        let mut upstreams = observe(&admin, &config, &door.project, &before, began).await?;
        let until = Instant::now() + DEADLINE;
        let arrivals = upstreams.iter_mut().map(|arrival| arrival.wait(&config, &door.project, event_id, until, began));
        join_all(arrivals).await;
        Ok(Outcome { event_id, project: Arc::clone(&door.project), accepted_ms, upstreams })
    })?;
    if args.json {
        terminal::say_json(&outcome)?;
    } else {
        tell(&outcome)?;
    }
    match outcome.upstreams.iter().any(Arrival::is_bad) {
        true => Err(Failure::negative()),
        false => Ok(()),
    }
}

/// The public address of a project.
struct FrontDoor {
    project: Arc<str>,
    address: SocketAddr,
    scheme: &'static str,
    path: String,
    key: Secret,
}

impl FrontDoor {
    fn choose(config: &Config, name: Option<&str>) -> Result<Self, Failure> {
        let found = match name {
            Some(name) => config.projects.iter().find(|project| &*project.name == name),
            None => config.projects.first(),
        };
        let project = found.ok_or_else(|| {
            let known: Vec<&str> = config.projects.iter().map(|project| &*project.name).collect();
            let name = name.unwrap_or_default();
            Failure::new(Exit::Usage, format_args!("there is no project {name:?}; there are {}", known.join(", ")))
        })?;
        let listen = config.server.listen.first();
        let listen = listen.ok_or_else(|| Failure::new(Exit::Config, "server.listen names no address"))?;
        Ok(Self {
            project: Arc::clone(&project.name),
            address: reachable(*listen),
            scheme: if config.certificate.is_some() { "https" } else { "http" },
            path: format!("/api/{}/envelope/", project.id),
            key: Secret::new(project.public_key.expose().to_owned()),
        })
    }

    async fn send(&self, id: EventId) -> Result<(), Failure> {
        let Self { address, scheme, path, key, .. } = self;
        let failure = |exit, why: String| Failure::new(exit, format_args!("the test event was not accepted: {why}"));
        let http = Client::builder().no_proxy().redirect(Policy::none()).tls_certs_only([]).timeout(DEADLINE);
        // The certificate is this relay's own and names a host, while the request goes to an address of this machine.
        let http = http
            .tls_danger_accept_invalid_certs(true)
            .build()
            .map_err(|error| failure(Exit::Internal, told(&error)))?;
        let agent = concat!("switchyard/", env!("CARGO_PKG_VERSION"));
        let key = key.expose();
        let request = http
            .post(format!("{scheme}://{address}{path}"))
            .header("content-type", "application/x-sentry-envelope")
            .header("user-agent", agent)
            .header("x-sentry-auth", format!("Sentry sentry_version=7, sentry_client={agent}, sentry_key={key}"));
        let answer = request.body(marked::event(Mark::Test, id, Clock::system().now())).send().await;
        let answer = answer.map_err(|error| failure(Exit::Unavailable, format!("{address}: {}", told(&error))))?;
        if answer.status().is_success() {
            return Ok(());
        }
        let status = answer.status();
        let text = answer.text().await.unwrap_or_default();
        Err(failure(Exit::Negative, format!("{status} {}", harmless(text.trim(), 300))))
    }
}

/// Polls the daemon until every upstream took the event, or the time is over.
async fn observe(
    admin: &AdminClient,
    config: &Config,
    project: &str,
    before: &Status,
    began: Instant,
) -> Result<Vec<Arrival>, Failure> {
    let first = admin.status().await.map_err(|silence| admin.failure(silence))?;
    // The file may differ from what the daemon uses: the primary in force decides who gets the event.
    let mut routing = config.routing();
    (routing.primary, routing.mirror) = (first.primary.as_str().into(), first.mirror);
    let route = routing.project(project).map(|project| routing.route(project)).unwrap_or_default();
    let watch = |name: &Arc<str>| Watched::new(name, project, before, &first);
    let mut watched: Vec<Watched> = route.deliver.iter().map(watch).collect();
    let mut status = first;
    loop {
        for watched in &mut watched {
            watched.look(project, &status, began);
        }
        let is_over = watched.iter().all(|watched| watched.result != Taken::No || watched.is_dropped);
        if is_over || began.elapsed() >= DEADLINE {
            break;
        }
        sleep(EACH).await;
        status = admin.status().await.map_err(|silence| admin.failure(silence))?;
    }
    let withheld = route.withheld.into_iter().map(|(upstream, _)| Arrival {
        upstream,
        result: Taken::NotMeant,
        within_ms: None,
        stored: None,
        stored_ms: None,
        explanation: "is a shadow, and the mirror is off".to_owned(),
    });
    Ok(watched.into_iter().map(|watched| watched.end(&status)).chain(withheld).collect())
}

/// The state of the event at one upstream.
struct Watched {
    upstream: Arc<str>,
    result: Taken,
    is_dropped: bool,
    within_ms: Option<u64>,
    /// Items dropped before the event was sent.
    dropped_before: u64,
    /// Of these, the items withheld from the upstream as a shadow.
    spared_before: u64,
    /// Items accepted up to and including the event, and those returned to the backlog before it.
    accepted: u64,
}

impl Watched {
    fn new(upstream: &Arc<str>, project: &str, before: &Status, first: &Status) -> Self {
        let before = account(before, upstream, project);
        let accepted = account(first, upstream, project).map_or(0, |account| account.accepted + account.returned);
        Self {
            upstream: Arc::clone(upstream),
            result: Taken::No,
            is_dropped: false,
            within_ms: None,
            dropped_before: before.map_or(0, dropped),
            spared_before: before.map_or(0, spared),
            accepted,
        }
    }

    fn look(&mut self, project: &str, status: &Status, began: Instant) {
        let Some(account) = account(status, &self.upstream, project) else { return };
        let settled = account.delivered + dropped(account);
        if self.result != Taken::No || self.is_dropped || settled < self.accepted {
            return;
        }
        let none_dropped = dropped(account) == self.dropped_before;
        self.is_dropped = account.pending == 0 && !none_dropped;
        let all_spared = dropped(account) - self.dropped_before == spared(account) - self.spared_before;
        self.result = match (account.pending, none_dropped) {
            (0, true) => Taken::Yes,
            (0, false) if all_spared => Taken::NotMeant,
            (0, false) => Taken::No,
            _ => Taken::MostLikely,
        };
        self.within_ms = matches!(self.result, Taken::Yes | Taken::MostLikely).then(|| millis(began));
    }

    fn end(self, status: &Status) -> Arrival {
        let upstream = status.upstreams.iter().find(|upstream| *upstream.name == *self.upstream);
        let explanation = match self.result {
            Taken::MostLikely => {
                "other events of this project are on their way, so the count cannot prove it".to_owned()
            }
            Taken::No => {
                upstream.map_or("the daemon does not know it".to_owned(), |upstream| why_not(upstream, self.is_dropped))
            }
            Taken::NotMeant => "is a shadow, and spared this one".to_owned(),
            Taken::Yes => String::new(),
        };
        let Self { upstream, result, within_ms, .. } = self;
        Arrival { upstream, result, within_ms, stored: None, stored_ms: None, explanation }
    }
}

fn why_not(upstream: &UpstreamStatus, is_dropped: bool) -> String {
    let error = upstream.last_error.as_ref().map(|error| format!("; last error: {}", harmless(&error.what, 200)));
    let error = error.unwrap_or_default();
    let waits = upstream.backlog.envelopes;
    match is_dropped {
        true => format!("events of this project were dropped meanwhile, most likely this one{error}"),
        false => {
            let waiting = words::those(waits, "envelope", "waits for it", "wait for it");
            format!("is {}; {waiting}{error}", upstream.state)
        }
    }
}

fn account<'a>(status: &'a Status, upstream: &str, project: &str) -> Option<&'a AccountStatus> {
    let upstream = status.upstreams.iter().find(|own| own.name == upstream)?;
    upstream.accounts.iter().find(|account| account.project == project && account.category == CATEGORY)
}

fn dropped(account: &AccountStatus) -> u64 {
    account.dropped.values().sum()
}

fn spared(account: &AccountStatus) -> u64 {
    dropped_by(&account.dropped, Cause::Withheld)
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn tell(outcome: &Outcome) -> Result<(), Failure> {
    terminal::say(format_args!(
        "event {} of project {}: accepted in {} ms, and durable since",
        outcome.event_id, outcome.project, outcome.accepted_ms
    ))?;
    let mut rows = table(&["UPSTREAM", "TOOK IT", "WITHIN", "STORED", "WITHIN", ""]);
    for arrival in &outcome.upstreams {
        let word = match arrival.result {
            Taken::Yes => tinted(Tone::Good, "yes"),
            Taken::MostLikely => tinted(Tone::Good, "most likely"),
            Taken::No => tinted(Tone::Bad, "no"),
            Taken::NotMeant => "not meant to".into(),
        };
        let within = arrival.within_ms.map_or("-".to_owned(), |ms| format!("{ms} ms"));
        let stored = match arrival.stored {
            Some(Stored::Yes) => tinted(Tone::Good, "yes"),
            Some(Stored::No) => tinted(Tone::Bad, "no"),
            Some(Stored::Unknown) => "not known".into(),
            None => "not asked".into(),
        };
        let stored_within = arrival.stored_ms.map_or("-".to_owned(), |ms| format!("{ms} ms"));
        let explanation = harmless(&arrival.explanation, 400);
        rows.add_row(vec![
            (*arrival.upstream).into(),
            word,
            right(within),
            stored,
            right(stored_within),
            explanation.as_str().into(),
        ]);
    }
    terminal::say(terminal::laid_out(rows))
}

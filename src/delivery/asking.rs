//! One tracker's API over the network: the section `[upstreams.NAME.api]` of the configuration. The questions and the meaning of the
//! answers are in [`tracker`](crate::tracker).
//!
//! Rules: the token goes to the API's address and nowhere else. At most 16 MiB of an answer are read. A 404 counts as "not stored" only
//! once the tracker has shown that the project is the right one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, header};
use tokio::time::{Instant, sleep};

use crate::content;
use crate::journal::body::Body;
use crate::protocol::dsn::Dsn;
use crate::protocol::event_id::EventId;
use crate::protocol::item::ItemType;
use crate::tracker::bugsink::Bugsink;
use crate::tracker::sentry::{self, Sentry, Version};
use crate::tracker::{Answer, Confirmed, Dialect};
use crate::units::{Period, Secret};

pub use crate::tracker::{Cursor, Page, There, Trouble};

pub use super::api::{Address, InvalidAddress, Settings};
use super::batch_poison::{self, Cause};
use super::headers::Headers;
use super::mend::Mend;
use super::settings::{Kind, Settings as Upstream};
use super::transport::{Contents, Transport, parcel};

/// The most bytes of an answer that are read; a page of a hundred large events is smaller.
const LARGEST: usize = 16 << 20;
/// The timeout of an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a project counts as confirmed.
const CONFIRMED_FOR: Duration = Duration::from_secs(3600);
/// The pause between two lookups of a canary.
const EACH: Duration = Duration::from_secs(1);
/// How long until a tracker is asked for its version again.
const VERSION_FOR: Duration = Duration::from_secs(600);
/// The first version of GlitchTip that loses no event along with another.
const LOSES_NO_BATCH: Version = (6, 0);

/// The header with the token; `None` when it is empty or has characters that no header may have.
pub fn authorization(token: &Secret) -> Option<HeaderValue> {
    if token.expose().trim().is_empty() {
        return None;
    }
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The API dialect of a kind of upstream; `None` for kinds without an API.
fn dialect(kind: Kind) -> Option<&'static dyn Dialect> {
    match kind {
        Kind::Sentry | Kind::Glitchtip => Some(&Sentry),
        Kind::Bugsink => Some(&Bugsink),
        Kind::Relay | Kind::Generic => None,
    }
}

/// Whether upstreams of a kind can be asked what they store.
pub fn has_api(kind: Kind) -> bool {
    dialect(kind).is_some()
}

/// Whether the API of a kind names a project `organization/project`.
pub fn wants_a_name(kind: Kind) -> bool {
    dialect(kind).is_some_and(Dialect::wants_a_name)
}

/// The address of a tracker's API, derived from its DSN. Sentry SaaS takes envelopes at another host than its API.
fn address_of(dsn: &Dsn) -> String {
    let host = dsn.authority().host();
    if host.ends_with(".ingest.sentry.io") {
        return "https://sentry.io".to_owned();
    }
    if let Some(region) = host.strip_suffix(".sentry.io").and_then(|host| host.rsplit_once(".ingest.")) {
        return format!("https://{}.sentry.io", region.1);
    }
    format!("{}://{}{}", dsn.scheme(), dsn.authority(), dsn.prefix())
}

/// One upstream's API. Cheap to clone; clones share the connections and the confirmations.
#[derive(Clone, Debug)]
pub struct Api(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    dialect: &'static dyn Dialect,
    headers: HeaderMap,
    own: Headers,
    address: Option<Address>,
    remembers: Option<Period>,
    mend: Vec<Mend>,
    transport: Transport,
    confirmed: Mutex<BTreeMap<There, Instant>>,
    version: Mutex<Known>,
}

/// The known version of a tracker, and when it was last asked.
#[derive(Debug, Default)]
struct Known {
    version: Option<Version>,
    asked: Option<Instant>,
}

impl Api {
    /// The API of an upstream; `None` without a section, without a usable token, and for a kind without an API.
    pub fn of(upstream: &Upstream) -> Option<Self> {
        let settings = upstream.api.as_ref()?;
        let dialect = dialect(upstream.kind)?;
        let mut headers = HeaderMap::new();
        upstream.headers.apply(&mut headers);
        headers.insert(header::AUTHORIZATION, authorization(&settings.token)?);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let name = concat!("switchyard/", env!("CARGO_PKG_VERSION"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(name));
        Some(Self(Arc::new(Inner {
            kind: upstream.kind,
            dialect,
            headers,
            own: upstream.headers.clone(),
            address: settings.url.clone(),
            remembers: settings.remembers,
            mend: upstream.mend.clone(),
            transport: Transport::new(&Arc::new(upstream.clone())),
            confirmed: Mutex::default(),
            version: Mutex::default(),
        })))
    }

    /// A project as this tracker knows it; `None` when its API needs a name and none is configured.
    pub fn there(&self, dsn: &Dsn, name: Option<&str>) -> Option<There> {
        if name.is_none() && self.0.dialect.wants_a_name() {
            return None;
        }
        let address = self.0.address.as_ref().map_or_else(|| address_of(dsn), ToString::to_string);
        Some(There { address: address.into(), name: name.unwrap_or_default().into(), number: dsn.project().into() })
    }

    /// The tracker's copy of an event, as JSON; `None` when it has none.
    ///
    /// # Errors
    ///
    /// When the answer says nothing about the event.
    pub async fn event(&self, there: &There, id: EventId) -> Result<Option<Vec<u8>>, Trouble> {
        let dialect = self.0.dialect;
        let reply = self.ask(there, &dialect.event(there, id)).await?;
        if dialect.read_event(there, id, &reply.answer())? {
            self.note_confirmed(there);
            return Ok(Some(reply.body));
        }
        self.confirm(there).await?;
        Ok(None)
    }

    /// Whether the tracker's lists have the newest events first.
    pub fn is_sorted(&self) -> bool {
        self.0.dialect.is_sorted()
    }

    /// A page of the ids of a project's events, the newest first if the tracker sorts them.
    ///
    /// # Errors
    ///
    /// When the answer is no list.
    pub async fn page(&self, there: &There, from: Option<Cursor>) -> Result<Page, Trouble> {
        let dialect = self.0.dialect;
        let reply = self.ask(there, &dialect.page(there, from.as_ref())).await?;
        let page = dialect.read_page(there, from.as_ref(), &reply.answer())?;
        if page.confirms() {
            self.note_confirmed(there);
        }
        Ok(page)
    }

    /// Checks the token, its scope and the project.
    ///
    /// # Errors
    ///
    /// When one of them is wrong, with the remedy, or the tracker cannot be asked.
    pub async fn check(&self, there: &There) -> Result<(), Trouble> {
        self.event(there, EventId::random()).await.map(drop)
    }

    /// Waits until the tracker stores an event, no longer than `until`. `Some(false)` when it does not store it by then; `None` when the
    /// last question was refused or failed.
    pub async fn seek(&self, there: &There, id: EventId, until: Instant) -> Option<bool> {
        loop {
            let seen = match self.event(there, id).await {
                Ok(Some(_)) => return Some(true),
                Ok(None) => Some(false),
                // Asking again does not help.
                Err(Trouble::Refused(_)) => return None,
                Err(_) => None,
            };
            if Instant::now() + EACH >= until {
                return seen;
            }
            sleep(EACH).await;
        }
    }

    /// Whether to ask the tracker for its version.
    pub fn wants_version(&self) -> bool {
        self.0.kind == Kind::Glitchtip && self.version().asked.is_none_or(|at| at.elapsed() >= VERSION_FOR)
    }

    /// Asks the tracker for its version. The known version stays if the answer names none.
    pub async fn ask_version(&self, there: &There) {
        let reply = self.ask(there, sentry::SETTINGS).await.ok();
        let said = reply.and_then(|reply| sentry::version(&reply.answer()));
        let mut known = self.version();
        (known.version, known.asked) = (said.or(known.version), Some(Instant::now()));
    }

    /// Whether the tracker's known version loses no event along with another.
    pub fn loses_no_batch(&self) -> bool {
        self.version().version.is_some_and(|version| version >= LOSES_NO_BATCH)
    }

    fn version(&self) -> MutexGuard<'_, Known> {
        self.0.version.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the tracker is known to lose an event in this body; `None` if it is not. Reads a large body, and blocks.
    pub fn known_loss(&self, body: &Body) -> Option<Cause> {
        if self.0.kind != Kind::Glitchtip || self.loses_no_batch() {
            return None;
        }
        let envelope = body.outline().ok()?;
        let mut events = envelope.items().iter().filter(|item| item.kind == ItemType::Event);
        let cause = events.find_map(|item| batch_poison::why(&item.kind, &body.payload(item).ok()?))?;
        (cause != Cause::Release || !self.0.mend.contains(&Mend::Release)).then_some(cause)
    }

    /// The form in which the API shows an event; `None` for kinds without an API.
    pub fn content_kind(&self) -> Option<content::Kind> {
        match self.0.kind {
            Kind::Sentry => Some(content::Kind::Sentry),
            Kind::Glitchtip => Some(content::Kind::Glitchtip),
            Kind::Bugsink => Some(content::Kind::Bugsink),
            Kind::Relay | Kind::Generic => None,
        }
    }

    /// How long the tracker drops repeats of an event id.
    pub fn remembers(&self) -> Duration {
        match (self.0.remembers, self.0.kind) {
            (Some(written), _) => written.get(),
            // GlitchTip keeps ids in its cache for so long (glitchtip-backend, `apps/event_ingest/views.py`; seen by running it).
            (None, Kind::Glitchtip) => Duration::from_secs(300),
            (None, _) => Duration::ZERO,
        }
    }

    /// Confirms that a project is the right one, unless that is known.
    async fn confirm(&self, there: &There) -> Result<(), Trouble> {
        if self.is_confirmed(there) {
            return Ok(());
        }
        for question in self.0.dialect.confirmations(there) {
            let reply = self.ask(there, &question).await?;
            if self.0.dialect.read_confirmation(there, &reply.answer())? == Confirmed::Yes {
                self.note_confirmed(there);
                return Ok(());
            }
        }
        Err(Trouble::Refused(format!(
            "it lists no event of {there}, so that a wrong name cannot be told from an event that is not stored: give the token the \
             scope project:read as well, or wait for the first event"
        )))
    }

    fn is_confirmed(&self, there: &There) -> bool {
        let confirmed = self.0.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        confirmed.get(there).is_some_and(|at| at.elapsed() < CONFIRMED_FOR)
    }

    fn note_confirmed(&self, there: &There) {
        let mut confirmed = self.0.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        confirmed.insert(there.clone(), Instant::now());
    }

    async fn ask(&self, there: &There, path: &str) -> Result<Reply, Trouble> {
        let uri = format!("{}{path}", there.address).parse().map_err(|_| Trouble::Strange("no address".into()))?;
        let body = Contents::Pieces(Default::default());
        let parcel = parcel(Method::GET, uri, self.0.headers.clone(), body);
        let unreachable = |error: String| Trouble::Unreachable(self.0.own.hide(error));
        let fetched = self.0.transport.fetch(parcel, PATIENCE, LARGEST).await;
        let (status, headers, body) = fetched.map_err(|error| unreachable(error.to_string()))?;
        match body {
            Some(body) => Ok(Reply { status, headers, body }),
            None => Err(Trouble::Strange(format!("an answer without an end within {LARGEST} bytes and {PATIENCE:?}"))),
        }
    }
}

/// An answer with its whole body.
struct Reply {
    status: http::StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Reply {
    fn answer(&self) -> Answer<'_> {
        Answer { status: self.status, headers: &self.headers, body: &self.body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_that_of_the_tracker_and_not_of_an_endpoint() {
        for text in ["http://h:8080", "http://h:8080/"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), "http://h:8080");
        }
        assert_eq!("https://h/glitchtip/".parse::<Address>().unwrap().to_string(), "https://h/glitchtip");
        for text in
            ["", "h", "ftp://h", "http://u@h/", "http://u:p@h/", "http://h/?a=b", "http://h/#a", "http://h/api/0/"]
        {
            assert_eq!(text.parse::<Address>(), Err(InvalidAddress), "{text}");
        }
    }

    #[test]
    fn a_dsn_tells_where_the_api_is() {
        let address = |dsn: &str| address_of(&dsn.parse().unwrap());
        assert_eq!(address("http://k@127.0.0.1:8080/1"), "http://127.0.0.1:8080");
        assert_eq!(address("https://k@h/errors/1"), "https://h/errors");
        assert_eq!(address("https://k@o1.ingest.sentry.io/1"), "https://sentry.io");
        assert_eq!(address("https://k@o1.ingest.de.sentry.io/1"), "https://de.sentry.io");
        assert_eq!(address("https://k@sentry.example.io/1"), "https://sentry.example.io");
    }

    #[test]
    fn a_token_is_in_no_debug_form() {
        let header = authorization(&Secret::new("hunter2".into())).unwrap();
        assert!(!format!("{header:?}").contains("hunter2"));
        assert_eq!(authorization(&Secret::new("hunter2\n".into())), None);
    }
}

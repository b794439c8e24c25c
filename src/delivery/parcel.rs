//! Makes a request of a claimed record: the envelope, addressed to the upstream, and its headers. A request that was no envelope is made at
//! the upstream as it was made here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use crate::clock::Timestamp;
use crate::journal::body::{Body, Pieces, Unreadable};
use crate::journal::{Claim, Client, Record};
use crate::protocol::dsn::Dsn;
use crate::protocol::endpoint::RawRequest;
use crate::protocol::envelope::Envelope;

use super::header_cache::HeaderCache;
use super::load::Load;
use super::rewrite::{Address, rewrite, rewrite_line};
use super::transport::{Contents, ENVELOPE, Parcel, Stream, parcel};

const X_SENTRY_AUTH: HeaderName = HeaderName::from_static("x-sentry-auth");
const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_SENTRY_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-sentry-forwarded-for");

/// An envelope without items.
const QUESTION: &[u8] = b"{}\n";

/// The request to a project's address at an upstream. `pieces` is the opened body of a large one.
pub(super) fn pack(
    claim: &Claim,
    load: &Load,
    pieces: Option<Arc<dyn Pieces>>,
    to: &Address<'_>,
    header_cache: &mut HeaderCache,
    now: Timestamp,
) -> Result<Parcel, Unreadable> {
    let (record, dsn) = (&claim.record, to.dsn);
    if let Some(request) = &record.client.request {
        return repeat(record, request, pieces, to);
    }
    let dwell = now.since(record.accepted_at);
    let body = match (&record.body, pieces) {
        (Body::Memory(bytes), _) if load.is_whole() => joined(rewrite(bytes, record.spans(), to, dwell, None)),
        (Body::Memory(bytes), _) => {
            let part = selection(bytes, &load.send.items);
            joined(rewrite(&part, record.spans(), to, dwell, load.event_id))
        }
        (Body::Large(_), None) => return Err(Unreadable::Io(std::io::ErrorKind::NotFound.into())),
        (body @ Body::Large(_), Some(pieces)) => Contents::Stream(stream(body, load, pieces, to, dwell)?),
    };
    let headers = header_cache.of(record, || of_envelope(dsn, &record.client, Some(to)));
    Ok(parcel(Method::POST, dsn.envelope_uri().clone(), headers, body))
}

/// The question whether the upstream is there: an envelope without items, which stores nothing.
pub(super) fn question(dsn: &Dsn) -> Parcel {
    let headers = of_envelope(dsn, &Client::ours(), None);
    let body = joined((Bytes::from_static(QUESTION), Bytes::new()));
    parcel(Method::POST, dsn.envelope_uri().clone(), headers, body)
}

fn joined((line, rest): (Bytes, Bytes)) -> Contents {
    Contents::Pieces([line, rest, Bytes::new()])
}

/// The request as it came, with the upstream's project and key. If a key came in the path, the upstream's key goes there, and the header is
/// left out: trackers refuse two forms of authentication.
fn repeat(
    record: &Record,
    request: &RawRequest,
    pieces: Option<Arc<dyn Pieces>>,
    to: &Address<'_>,
) -> Result<Parcel, Unreadable> {
    let dsn = to.dsn;
    let mut headers = headers(dsn, &record.client, Some(to));
    if request.keyed {
        headers.remove(X_SENTRY_AUTH);
    }
    for (name, value) in &request.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(&**name), HeaderValue::try_from(&**value)) {
            headers.insert(name, value);
        }
    }
    let method = if request.get { Method::GET } else { Method::POST };
    // The parts formed an address when they came.
    let uri = request.uri(dsn).unwrap_or_else(|| dsn.envelope_uri().clone());
    let body = match (&record.body, pieces) {
        (Body::Memory(bytes), _) => joined((bytes.clone(), Bytes::new())),
        (Body::Large(_), None) => return Err(Unreadable::Io(std::io::ErrorKind::NotFound.into())),
        (Body::Large(_), Some(pieces)) => {
            let whole = std::iter::once(0..record.body.len()).collect();
            Contents::Stream(Stream::new(Bytes::new(), pieces, whole, Bytes::new()))
        }
    };
    Ok(parcel(method, uri, headers, body))
}

/// The envelope of a large body, which is read as it is sent.
fn stream(
    body: &Body,
    load: &Load,
    pieces: Arc<dyn Pieces>,
    to: &Address<'_>,
    dwell: Duration,
) -> Result<Stream, Unreadable> {
    let outline = body.outline()?;
    let line = |event_id| rewrite_line(outline.header(), Some(outline.spans()), to, dwell, event_id);
    Ok(if load.is_whole() {
        Stream::new(line(None), pieces, Vec::from([outline.rest()]), Bytes::new())
    } else {
        let ranges = outline.ranges_in_order(&load.send.items);
        Stream::new(line(load.event_id), pieces, ranges, Bytes::from_static(b"\n"))
    })
}

fn selection(body: &Bytes, items: &[u16]) -> Bytes {
    Envelope::parse(body.clone()).map_or_else(|_| body.clone(), |envelope| envelope.in_order(items))
}

fn of_envelope(dsn: &Dsn, client: &Client, to: Option<&Address<'_>>) -> HeaderMap {
    let mut headers = headers(dsn, client, to);
    headers.insert(header::CONTENT_TYPE, ENVELOPE);
    headers
}

/// The headers of a request: one form of authentication, the client's own name and origin, and its address twice, because Sentry's edge
/// overwrites the first; and the marks of the relays on the way, ours last, unless it is a question, which no relay passes on. Nothing
/// else of the client's is sent: no cookies.
fn headers(dsn: &Dsn, client: &Client, to: Option<&Address<'_>>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(12);
    let name = client.sentry_client.as_deref().unwrap_or(concat!("switchyard/", env!("CARGO_PKG_VERSION")));
    let auth = ["Sentry sentry_version=7, sentry_client=", name, ", sentry_key=", dsn.public_key()].concat();
    headers.insert(header::HOST, dsn.host().clone());
    let value = |text: Option<&str>| text.and_then(|text| HeaderValue::try_from(text).ok());
    let mut set = |name: HeaderName, value: Option<HeaderValue>| {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    };
    // `HeaderValue` takes the text over without a copy.
    set(X_SENTRY_AUTH, HeaderValue::try_from(auth).ok());
    set(header::USER_AGENT, value(client.user_agent.as_deref()));
    set(header::ORIGIN, value(client.origin.as_deref()));
    let marks = to.map(|to| {
        let before = client.via.iter().map(|via| format!("{via}, "));
        before.chain([to.project.mark()]).collect::<String>()
    });
    set(CDN_LOOP, value(marks.as_deref()));
    let origin = value(client.forwarded_for.as_deref());
    set(X_FORWARDED_FOR, origin.clone());
    set(X_SENTRY_FORWARDED_FOR, origin);
    headers
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::clock::Clock;
    use crate::delivery::load::select;
    use crate::delivery::quirks;
    use crate::delivery::settings::Kind;
    use crate::journal::bodies::BodyWriter;
    use crate::journal::sqlite::SqliteJournal;
    use crate::journal::{Lease, Progress, Record, RecordId, Settings};
    use crate::policy::cooldown::Cooldown;
    use crate::policy::routing::{Project, PublicKey, Routing};
    use crate::telemetry::ledger::Ledger;

    fn claim(body: &Body, items: Option<Vec<u16>>) -> Claim {
        let quantities = body.outline().unwrap().quantities();
        let (id, project) = (RecordId::from_number(1), "shop".into());
        let accepted_at = Timestamp::default();
        let client = Client::default();
        let (body, located) = (body.clone(), std::sync::OnceLock::new());
        let (target, ends) = (serde_json::from_str("0").unwrap(), tokio::time::Instant::now());
        let lease = Lease { target, record: id, owner: 1, number: 1, ends };
        let record = Record { id, accepted_at, project, event_id: None, quantities, client, body, located };
        Claim {
            lease,
            record: Arc::new(record),
            progress: Progress { items, ..Progress::default() },
            backfilled: false,
        }
    }

    async fn sent(claim: &Claim, kind: Kind) -> Bytes {
        let large = if let Body::Large(large) = &claim.record.body { Some(large) } else { None };
        let pieces = large.map(|large| Arc::from(large.open().unwrap()));
        let now = Timestamp::from_millis(5000);
        let load = select(claim, &Cooldown::default(), quirks::of(kind), now);
        let project = Project {
            name: "shop".into(),
            id: "1".into(),
            public_key: PublicKey::new("ours"),
            dsns: [("tracker".into(), "http://new@tracker.example/9".parse().unwrap())].into(),
            places: [].into(),
            primary: None,
            mirror: None,
        };
        let routing = Routing { projects: vec![Arc::new(project)], ..Routing::default() };
        let to = Address::of(&routing, "shop", "tracker").unwrap();
        let contents = pack(claim, &load, pieces, &to, &mut HeaderCache::default(), now).unwrap().into_body();
        let announced = http_body::Body::size_hint(&contents).exact();
        let bytes = contents.collect().await.unwrap().to_bytes();
        assert_eq!(announced, Some(bytes.len() as u64));
        bytes
    }

    #[tokio::test]
    async fn a_body_in_a_file_is_sent_like_one_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { path: folder.path().join("journal.db"), ..Settings::default() };
        let journal = Arc::new(SqliteJournal::open(&settings, Clock::system(), Ledger::default()).unwrap());
        let payload = "p".repeat(700_000);
        let text = format!(
            "{{\"dsn\":\"http://old@h/1\",\"sent_at\":\"2026-11-23T10:00:00Z\"}}\n{{\"type\":\"attachment\",\"length\":700000}}\n{payload}\n\
             {{\"type\":\"x_new\"}}\n{payload}\n\n{{\"type\":\"event\",\"length\":3}}\n{{ }}\n{{\"type\":\"feedback\"}}"
        );
        let mut writer = BodyWriter::new(journal, None);
        writer.write(text.as_bytes()).await.unwrap();
        let large = writer.finish().await.unwrap();
        assert!(matches!(large, Body::Large(_)));
        let memory = Body::from(Bytes::from(text));
        for kind in [Kind::Generic, Kind::Glitchtip, Kind::Bugsink] {
            for items in [None, Some(vec![0]), Some(vec![1, 2]), Some(vec![0, 1, 2, 3])] {
                let expected = sent(&claim(&memory, items.clone()), kind).await;
                assert!(sent(&claim(&large, items.clone()), kind).await == expected, "{kind:?} {items:?}");
            }
        }
    }
}

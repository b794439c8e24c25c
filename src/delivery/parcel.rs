//! From a claimed record to a request: which items go now, which wait for a limit to end, and in what wrapping.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::clock::Timestamp;
use crate::journal::{Claim, Client, Progress, Rest, Settlement};
use crate::policy::cooldown::Cooldown;
use crate::policy::outcome::DropReason;
use crate::protocol::category::{Category, Quantities};
use crate::protocol::dsn::Dsn;
use crate::protocol::envelope::Envelope;

use super::rewrite::rewrite;
use super::settings::OnRateLimit;
use super::transport::{ENVELOPE, Parcel};

const X_SENTRY_AUTH: HeaderName = HeaderName::from_static("x-sentry-auth");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_SENTRY_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-sentry-forwarded-for");

/// What of a record goes now, and what waits.
#[derive(Clone, Debug, Default)]
pub(super) struct Load {
    /// Everything goes, and nothing had to be looked at to know it.
    whole: bool,
    /// The positions of the items that go now; empty when whole.
    pub(super) send: Vec<u16>,
    /// What they count as.
    pub(super) send_quantities: Quantities,
    /// The positions of the items that are limited.
    pub(super) limited: Vec<u16>,
    /// What they count as.
    pub(super) limited_quantities: Quantities,
    /// When the last of their limits ends.
    pub(super) limited_until: Option<Timestamp>,
}

impl Load {
    /// Whether the whole record goes.
    pub(super) const fn is_whole(&self) -> bool {
        self.whole
    }
}

/// What of a claimed record is still pending.
pub(super) fn pending(claim: &Claim) -> Quantities {
    let record = &claim.record;
    let Some(items) = &claim.progress.items else { return record.quantities.clone() };
    match Envelope::parse(record.body.clone()) {
        Ok(envelope) => envelope.quantities_of(|i| contains(items, i)),
        Err(_) => record.quantities.clone(),
    }
}

/// Sorts the pending items of a claim by the limits in force. What depends on an event waits with it.
pub(super) fn select(claim: &Claim, cooldown: &Cooldown, now: Timestamp) -> Load {
    let record = &claim.record;
    let all = || Load { whole: true, send_quantities: record.quantities.clone(), ..Load::default() };
    if claim.progress.items.is_none() && !cooldown.touches(&record.project) {
        return all();
    }
    let Ok(envelope) = Envelope::parse(record.body.clone()) else { return all() };
    let limit_of = |category: Category| cooldown.until(&record.project, category, now);
    let events = envelope.items().iter().filter(|item| item.kind.is_identified_by_event_id());
    let event_limit = events.filter_map(|item| limit_of(item.kind.limiting_category(item.counting))).max();
    let mut load = Load::default();
    for (i, item) in envelope.items().iter().enumerate() {
        let position = u16::try_from(i).unwrap_or(u16::MAX);
        if claim.progress.items.as_ref().is_some_and(|items| !items.contains(&position)) {
            continue;
        }
        let own = limit_of(item.kind.limiting_category(item.counting));
        match own.max(event_limit.filter(|_| item.kind.depends_on_event())) {
            None => load.send.push(position),
            until => {
                load.limited.push(position);
                load.limited_until = load.limited_until.max(until);
            }
        }
    }
    if load.limited.is_empty() && claim.progress.items.is_none() {
        return all();
    }
    load.send_quantities = envelope.quantities_of(|i| contains(&load.send, i));
    load.limited_quantities = envelope.quantities_of(|i| contains(&load.limited, i));
    load
}

/// What becomes of the limited items of a record: they wait until the limit ends, or are dropped.
pub(super) fn limited_part(claim: &Claim, load: Load, mode: OnRateLimit, attempts: u32) -> Settlement {
    let Some(until) = load.limited_until.filter(|_| !load.limited.is_empty()) else { return Settlement::default() };
    match mode {
        OnRateLimit::Drop => {
            Settlement { dropped: Some((DropReason::RateLimited, load.limited_quantities)), ..Settlement::default() }
        }
        OnRateLimit::Hold => {
            let progress = Progress { attempts, strikes: claim.progress.strikes, items: Some(load.limited) };
            let rest = Rest { due: until, progress, quantities: load.limited_quantities };
            Settlement { rest: Some(rest), ..Settlement::default() }
        }
    }
}

fn contains(items: &[u16], i: usize) -> bool {
    items.iter().any(|item| usize::from(*item) == i)
}

/// The request for an upstream's DSN.
pub(super) fn pack(claim: &Claim, load: &Load, dsn: &Dsn, now: Timestamp) -> Parcel {
    let record = &claim.record;
    let dwell = now.since(record.accepted_at);
    let (line, rest) = if load.is_whole() {
        rewrite(&record.body, dsn, dwell)
    } else {
        rewrite(&selection(&record.body, &load.send), dsn, dwell)
    };
    Parcel { uri: dsn.envelope_uri().clone(), headers: headers(dsn, &record.client), body: [line, rest] }
}

fn selection(body: &Bytes, items: &[u16]) -> Bytes {
    Envelope::parse(body.clone()).map_or_else(|_| body.clone(), |envelope| envelope.with_items(|i| contains(items, i)))
}

/// One form of authentication, the client's own name and origin, and its address twice: Sentry's edge overwrites the first.
/// Nothing else of the client's: no cookies.
fn headers(dsn: &Dsn, client: &Client) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::CONTENT_TYPE, ENVELOPE);
    let name = client.sentry_client.as_deref().unwrap_or(concat!("switchyard/", env!("CARGO_PKG_VERSION")));
    let auth = format!("Sentry sentry_version=7, sentry_client={name}, sentry_key={}", dsn.public_key());
    let mut set = |name: HeaderName, value: Option<&str>| {
        if let Some(Ok(value)) = value.map(HeaderValue::try_from) {
            headers.insert(name, value);
        }
    };
    set(X_SENTRY_AUTH, Some(&auth));
    set(header::USER_AGENT, client.user_agent.as_deref());
    set(header::ORIGIN, client.origin.as_deref());
    set(X_FORWARDED_FOR, client.forwarded_for.as_deref());
    set(X_SENTRY_FORWARDED_FOR, client.forwarded_for.as_deref());
    headers
}

//! What the shadows of a project do not get of a submission, as their sections `[upstreams.NAME.shadow]` say.
//!
//! Rule: this is decided once, when the submission is taken in, and kept with it. It costs nothing when no upstream has such a section. A
//! payload is read only to sample a transaction whose trace is not in the envelope's header.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use crate::clock::Timestamp;
use crate::journal::body::Body;
use crate::journal::{LeftOut, TargetId};
use crate::policy::outcome::DropReason;
use crate::policy::shadow::caps::{Caps, Spent};
use crate::policy::shadow::{Candidate, Identity, Settings};
use crate::protocol::category::{Category, Quantities};
use crate::protocol::envelope::Item;
use crate::protocol::event_id::EventId;
use crate::protocol::item::ItemType;

use super::part;
use super::police::Sorting;

/// The sections that leave something out, by upstream, and the use of their daily caps.
#[derive(Debug, Default)]
pub(super) struct Shadows {
    pub(super) settings: HashMap<Arc<str>, Settings>,
    pub(super) caps: Caps,
}

/// The recipients of a submission.
#[derive(Debug, Default)]
pub(super) struct Recipients {
    pub(super) targets: Vec<TargetId>,
    /// The upstreams that get nothing of it, and why.
    pub(super) withheld: Vec<(TargetId, DropReason)>,
    /// The items that some of `targets` do not get.
    pub(super) left_out: Vec<LeftOut>,
}

impl Shadows {
    /// Whether no upstream has such a section.
    pub(super) fn is_open(&self) -> bool {
        self.settings.is_empty()
    }

    /// Whether an upstream that is not the primary never gets items of this type and these categories.
    pub(super) fn never_takes(&self, upstream: &Arc<str>, kind: &ItemType, categories: &Quantities) -> bool {
        self.settings.get(upstream).is_some_and(|settings| settings.never_takes(kind, categories))
    }

    /// Removes from `to` the shadows that get nothing, notes what others do not get, and returns the use of daily caps. `of` are the
    /// upstreams of the project, `primary` among them.
    pub(super) async fn spare(
        &self,
        to: &mut Recipients,
        of: impl Iterator<Item = (&Arc<str>, TargetId)>,
        primary: &Arc<str>,
        mut sight: Sight<'_>,
        now: Timestamp,
    ) -> Spent {
        let mut spent = Spent::nothing(self.caps.clone(), now);
        for (upstream, target) in of {
            let Some(settings) = self.settings.get(upstream) else { continue };
            let Some(place) = to.targets.iter().position(|own| *own == target) else { continue };
            if upstream == primary {
                sight.candidates().iter().for_each(|item| spent.count(upstream, settings, &item.quantities));
                continue;
            }
            let identity = sight.identity(settings).await;
            let items = sight.candidates();
            let out = settings.left_out(&items, identity, |item| spent.take(upstream, settings, item));
            match out.first() {
                Some((_, why)) if out.len() == items.len() && out.iter().all(|(_, other)| other == why) => {
                    to.targets.remove(place);
                    to.withheld.push((target, *why));
                }
                _ => note(target, &out, &mut to.left_out),
            }
        }
        spent
    }
}

/// Adds the items that are left out for a target, grouped by reason.
fn note(target: TargetId, out: &[(u16, DropReason)], all: &mut Vec<LeftOut>) {
    for why in DropReason::ALL {
        let items: Vec<u16> = out.iter().filter(|(_, own)| *own == why).map(|(position, _)| *position).collect();
        if !items.is_empty() {
            all.push(LeftOut { target, why, items });
        }
    }
}

/// The kind of a submission.
enum What<'a> {
    Envelope(&'a Body, &'a Sorting<'a>),
    /// The item type that a request is treated as, and its quantities.
    Request(ItemType, &'a Quantities),
}

/// A submission as shadows see it: its kept items.
pub(super) struct Sight<'a> {
    what: What<'a>,
    identity: Option<Identity>,
}

impl<'a> Sight<'a> {
    /// An envelope, of which nothing is read yet. `body` is the envelope as it came.
    pub(super) const fn new(body: &'a Body, sorting: &'a Sorting<'a>) -> Self {
        Self { what: What::Envelope(body, sorting), identity: None }
    }

    /// A request that is no envelope.
    pub(super) fn of_request(quantities: &'a Quantities) -> Self {
        Self { what: What::Request(item_of(quantities), quantities), identity: None }
    }

    fn candidates(&self) -> Vec<Candidate<'_>> {
        match &self.what {
            What::Envelope(_, sorting) => {
                let candidate = |item: &'a Item| Candidate {
                    kind: &item.kind,
                    is_event: item.is_event(),
                    quantities: item.quantities(),
                };
                sorting.kept_items().map(candidate).collect()
            }
            What::Request(kind, quantities) => {
                vec![Candidate { kind, is_event: false, quantities: Quantities::clone(quantities) }]
            }
        }
    }

    /// The ids of its trace and its event, if these settings sample it; one replaces the other, and a random id replaces both.
    async fn identity(&mut self, settings: &Settings) -> Identity {
        if let Some(identity) = self.identity {
            return identity;
        }
        if !self.candidates().iter().any(|item| settings.samples(&item.quantities)) {
            return Identity { trace: 0, event: 0 };
        }
        let (event, trace) = match &self.what {
            What::Envelope(body, sorting) => {
                let trace = match trace_of_header(sorting.envelope.header()) {
                    None => trace_of_transaction(body, sorting).await,
                    trace => trace,
                };
                (sorting.envelope.event_id().filter(|id| id.as_u128() != 0), trace)
            }
            What::Request(..) => (None, None),
        };
        let trace = trace.or(event).unwrap_or_else(EventId::random).as_u128();
        *self.identity.insert(Identity { trace, event: event.map_or(trace, EventId::as_u128) })
    }
}

/// The item type that a request that is no envelope is treated as.
pub(super) fn item_of(quantities: &Quantities) -> ItemType {
    match quantities.iter().next().map(|(category, _)| category) {
        Some(Category::Security) => ItemType::RawSecurity,
        Some(Category::Monitor) => ItemType::CheckIn,
        Some(Category::Span) => ItemType::Span,
        Some(Category::LogItem | Category::LogByte) => ItemType::Log,
        Some(Category::TraceMetric) => ItemType::TraceMetric,
        _ => ItemType::Nel,
    }
}

async fn trace_of_transaction(body: &Body, sorting: &Sorting<'_>) -> Option<EventId> {
    let transaction = sorting.kept_items().find(|item| item.kind == ItemType::Transaction)?;
    trace_of_payload(&part::payload(body, transaction).await.ok()?)
}

#[derive(Deserialize)]
struct Trace<'a> {
    #[serde(borrow)]
    trace_id: Cow<'a, str>,
}

/// The trace id in the envelope's header ("Dynamic Sampling Context").
fn trace_of_header(line: &[u8]) -> Option<EventId> {
    #[derive(Deserialize)]
    struct Header<'a> {
        #[serde(borrow)]
        trace: Trace<'a>,
    }
    serde_json::from_slice::<Header<'_>>(line).ok()?.trace.trace_id.parse().ok()
}

/// The trace id in a transaction ("Trace Context").
fn trace_of_payload(payload: &[u8]) -> Option<EventId> {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow)]
        contexts: Contexts<'a>,
    }
    #[derive(Deserialize)]
    struct Contexts<'a> {
        #[serde(borrow)]
        trace: Trace<'a>,
    }
    serde_json::from_slice::<Event<'_>>(payload).ok()?.contexts.trace.trace_id.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_is_found_in_the_header_or_in_the_transaction() {
        let id = "9ec79c33ec9942ab8353589fcb2e04dc";
        let found = id.parse().ok();
        let header = format!("{{\"a\":1,\"trace\":{{\"x\":[],\"trace_id\":\"{id}\"}}}}");
        assert_eq!(trace_of_header(header.as_bytes()), found);
        let context = format!("{{\"os\":{{}},\"trace\":{{\"op\":\"x\",\"trace_id\":\"{id}\"}}}}");
        assert_eq!(trace_of_payload(format!("{{\"spans\":[{{}}],\"contexts\":{context}}}").as_bytes()), found);
        for nothing in [
            "",
            "{}",
            "{\"trace\":null}",
            "{\"trace\":{\"trace_id\":7}}",
            "{\"contexts\":{\"trace\":{\"trace_id\":\"7\"}}}",
        ] {
            assert_eq!((trace_of_header(nothing.as_bytes()), trace_of_payload(nothing.as_bytes())), (None, None));
        }
    }
}

//! Divides a claimed record: items that are sent now, items that are sent after them, items that wait for a limit to end, and items that
//! the upstream never stores.
//!
//! Rule: a record is parsed only if something of its project is limited, some of it was sent before, or the upstream's [`Quirks`] concern
//! it. Otherwise it is sent whole, unparsed.

use memchr::memmem;
use serde::Deserialize;
use std::borrow::Cow;

use crate::clock::Timestamp;
use crate::journal::body::Body;
use crate::journal::{Claim, Progress, Record, Rest, Settlement, TargetId};
use crate::policy::cooldown::Cooldown;
use crate::policy::outcome::DropReason;
use crate::protocol::category::Quantities;
use crate::protocol::envelope::Outline;
use crate::protocol::event_id::EventId;
use crate::protocol::item::ItemType;

use super::batch_poison;
use super::quirks::Quirks;
use super::settings::OnRateLimit;

pub(super) mod limited;

/// Some items of a record, by their positions, and their quantities.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    pub(super) items: Vec<u16>,
    pub(super) quantities: Quantities,
}

/// The items of a record that are sent now, and the rest.
#[derive(Clone, Debug, Default)]
pub(super) struct Load {
    /// Whether the whole record is sent, as it came.
    whole: bool,
    /// The items that are sent now, in this order; without positions when `whole`.
    pub(super) send: Part,
    /// The items that are sent in requests of their own after this one.
    later: Part,
    /// The items that are limited.
    limited: Part,
    /// The end of the last of their limits.
    pub(super) limited_until: Option<Timestamp>,
    /// The items that the upstream never stores.
    unsupported: Part,
    /// The id of the event that is sent, when the events of the envelope are sent apart.
    pub(super) event_id: Option<EventId>,
    /// Why the upstream loses the batch that these items are stored with; `None` when it does not.
    pub(super) batch_poison: Option<batch_poison::Cause>,
}

impl Load {
    fn all(record: &Record) -> Self {
        let send = Part { items: vec![], quantities: record.quantities.clone() };
        Self { whole: true, send, ..Self::default() }
    }

    /// Whether the whole record is sent, as it came.
    pub(super) const fn is_whole(&self) -> bool {
        self.whole
    }

    /// The positions of the items that are sent now; `None` for all.
    pub(super) fn positions(&self) -> Option<Vec<u16>> {
        (!self.whole).then(|| positions(&[&self.send]))
    }

    /// Whether nothing can be sent now.
    pub(super) fn is_empty(&self) -> bool {
        !self.whole && self.send.items.is_empty()
    }

    /// Whether anything is limited.
    pub(super) fn has_limited(&self) -> bool {
        !self.limited.items.is_empty()
    }

    /// Drops the items that the upstream never stores, before anything is sent; `None` when there are none. The rest is due at once.
    pub(super) fn without_unsupported(&self, claim: &Claim, now: Timestamp) -> Option<Settlement> {
        if self.unsupported.items.is_empty() {
            return None;
        }
        let others = [&self.send, &self.later, &self.limited];
        let progress = Progress { items: Some(positions(&others)), ..claim.progress.clone() };
        let rest = Rest { due: now, progress, quantities: sum(&others) };
        let rest = (!rest.quantities.is_empty()).then_some(rest);
        let dropped = Some((DropReason::Unsupported, self.unsupported.quantities.clone()));
        Some(Settlement { dropped, rest, ..Settlement::default() })
    }

    /// The settlement of the items that are not sent now. Limited ones are dropped if `mode` says so. The rest is due at once if it has
    /// later items, and else when the limit ends; `progress` is that of the rest.
    pub(super) fn remainder(&self, mode: OnRateLimit, progress: Progress, now: Timestamp) -> Settlement {
        if self.whole {
            return Settlement::default();
        }
        let mut waiting = vec![&self.later];
        let mut dropped = None;
        match mode {
            OnRateLimit::Drop if self.has_limited() => {
                dropped = Some((DropReason::RateLimited, self.limited.quantities.clone()));
            }
            _ => waiting.push(&self.limited),
        }
        let due = if self.later.items.is_empty() { self.limited_until.unwrap_or(now) } else { now };
        let items = positions(&waiting);
        let rest = (!items.is_empty()).then(|| {
            let progress = Progress { items: Some(items), ..progress };
            Rest { due, progress, quantities: sum(&waiting) }
        });
        Settlement { dropped, rest, ..Settlement::default() }
    }
}

fn positions(parts: &[&Part]) -> Vec<u16> {
    let mut all: Vec<u16> = parts.iter().flat_map(|part| part.items.iter().copied()).collect();
    all.sort_unstable();
    all
}

fn sum(parts: &[&Part]) -> Quantities {
    parts.iter().flat_map(|part| part.quantities.iter()).collect()
}

fn contains(items: &[u16], i: usize) -> bool {
    items.iter().any(|item| usize::from(*item) == i)
}

/// The pending quantities of a claimed record.
pub(super) fn pending(claim: &Claim) -> Quantities {
    let record = &claim.record;
    let Some(items) = &claim.progress.items else { return record.quantities.clone() };
    if record.client.request.is_some() || record.quantities.is_empty() {
        return record.quantities.clone();
    }
    match record.body.outline() {
        Ok(envelope) => envelope.quantities_of(|i| contains(items, i)),
        Err(_) => record.quantities.clone(),
    }
}

/// Drops the pending items that this target was not to get when the record was accepted, before anything is sent, one reason at a time;
/// `None` when there are none. The rest is due at once.
pub(super) fn left_out(claim: &Claim, target: TargetId, now: Timestamp) -> Option<Settlement> {
    let (record, items) = (&claim.record, &claim.progress.items);
    let waits = |item: &u16| items.as_ref().is_none_or(|items| items.contains(item));
    let mut own = record.client.left_out.iter().filter(|out| out.target == target);
    let out = own.find(|out| out.items.iter().any(waits))?;
    let envelope = record.body.outline().ok()?;
    let (gone, rest): (Vec<u16>, Vec<u16>) = (0..)
        .zip(envelope.items())
        .map(|(position, _)| position)
        .filter(waits)
        .partition(|position| out.items.contains(position));
    let dropped = Some((out.why, envelope.quantities_of(|i| contains(&gone, i))));
    let quantities = envelope.quantities_of(|i| contains(&rest, i));
    let progress = Progress { items: Some(rest), ..claim.progress.clone() };
    let rest = (!quantities.is_empty()).then_some(Rest { due: now, progress, quantities });
    Some(Settlement { dropped, rest, ..Settlement::default() })
}

/// Sorts the pending items of a claim by the upstream's quirks and the limits in force. An item that depends on an event waits with it, and
/// is dropped with it.
pub(super) fn select(claim: &Claim, cooldown: &Cooldown, quirks: &Quirks, now: Timestamp) -> Load {
    let record = &claim.record;
    // A client report of the relay itself is never limited.
    let is_ours = record.quantities.is_empty();
    if is_ours && record.canary().is_none() {
        return Load::all(record);
    }
    if record.client.request.is_some() {
        return select_whole(record, cooldown, quirks, now);
    }
    if claim.progress.items.is_none() && !cooldown.touches(&record.project) && !concerns(quirks, record) {
        return Load::all(record);
    }
    // An accepted envelope can be parsed. One that cannot is sent as it is.
    let Ok(envelope) = record.body.outline() else { return Load::all(record) };
    let limit_of = |categories: &Quantities| {
        let limit = |(category, _)| cooldown.until(&record.project, category, now);
        categories.iter().filter_map(limit).max()
    };
    let never_stored = |categories: &Quantities| categories.iter().any(|(category, _)| quirks.never_stores(category));
    let categories: Vec<Quantities> = envelope.items().iter().map(|item| item.kind.categories(item.counting)).collect();
    let events = || {
        let events = envelope.items().iter().zip(&categories).filter(|(item, _)| item.is_event());
        events.map(|(_, categories)| categories)
    };
    let event_limit = events().filter_map(limit_of).max();
    let no_event_stored = events().next().is_some() && events().all(never_stored);
    let mut load = Load::default();
    let mut going: Vec<(u16, &ItemType)> = vec![];
    for ((position, item), categories) in (0..).zip(envelope.items()).zip(&categories) {
        if claim.progress.items.as_ref().is_some_and(|items| !items.contains(&position)) {
            continue;
        }
        let depends = item.kind.depends_on_event();
        let until = limit_of(categories).max(event_limit.filter(|_| depends));
        if never_stored(categories) || (depends && no_event_stored) {
            load.unsupported.items.push(position);
        } else if until.is_some() {
            load.limited.items.push(position);
            load.limited_until = load.limited_until.max(until);
        } else {
            going.push((position, &item.kind));
        }
    }
    (load.send.items, load.later.items) = quirks.arrange(&going);
    for part in [&mut load.send, &mut load.later, &mut load.limited, &mut load.unsupported] {
        // The relay's own records are not counted.
        part.quantities = envelope.quantities_of(|i| !is_ours && contains(&part.items, i));
    }
    look_into(&mut load, &record.body, &envelope, quirks);
    load.whole = load.send.items.len() == envelope.items().len()
        && load.send.items.is_sorted()
        && !(quirks.ends_at_blank_lines && has_blank_line(&record.body));
    load
}

/// A record that is no envelope counts as one item, which waits while any of its categories is limited.
fn select_whole(record: &Record, cooldown: &Cooldown, quirks: &Quirks, now: Timestamp) -> Load {
    let part = Part { items: vec![0], quantities: record.quantities.clone() };
    let categories = || record.quantities.iter().map(|(category, _)| category);
    if categories().any(|category| quirks.never_stores(category)) {
        return Load { unsupported: part, ..Load::default() };
    }
    match categories().filter_map(|category| cooldown.until(&record.project, category, now)).max() {
        None => Load::all(record),
        until => Load { limited: part, limited_until: until, ..Load::default() },
    }
}

/// Whether the upstream's quirks concern the record, as far as that is known without parsing it.
fn concerns(quirks: &Quirks, record: &Record) -> bool {
    quirks.concerns(&record.quantities)
        || (quirks.ends_at_blank_lines && has_blank_line(&record.body))
        || (quirks.has_batch_poison && is_suspect(&record.body))
}

/// Whether the body has two newlines in a row: a blank line, part of a payload, or an empty payload. A large body is not searched, because
/// its outline is at hand and knows.
fn has_blank_line(body: &Body) -> bool {
    match body {
        Body::Memory(bytes) => memmem::find(bytes, b"\n\n").is_some(),
        Body::Large(_) => body.outline().is_ok_and(|outline| outline.has_blank_line()),
    }
}

/// Whether the events of the body are worth parsing.
fn is_suspect(body: &Body) -> bool {
    match body {
        Body::Memory(bytes) => batch_poison::is_suspect(bytes),
        Body::Large(_) => true,
    }
}

/// Looks into the events that are sent, which have 1 MiB each at most.
fn look_into(load: &mut Load, body: &Body, envelope: &Outline, quirks: &Quirks) {
    let going = load.send.items.iter().filter_map(|position| envelope.items().get(usize::from(*position)));
    if quirks.has_batch_poison {
        let mut events = going.clone().filter(|item| item.kind.is_event());
        load.batch_poison = events.find_map(|item| match body.event(item) {
            Some(payload) => batch_poison::why(&item.kind, &payload),
            // A large body has more events than are read into memory.
            None => Some(batch_poison::Cause::Unreadable),
        });
    }
    let events = envelope.items().iter().filter(|item| item.kind == ItemType::Event).count();
    if quirks.one_event_a_request && events > 1 {
        let event = going.clone().find(|item| item.kind == ItemType::Event);
        load.event_id = event.and_then(|item| own_id(&body.event(item)?));
    }
}

/// The id in an event's payload.
fn own_id(payload: &[u8]) -> Option<EventId> {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow)]
        event_id: Cow<'a, str>,
    }
    serde_json::from_slice::<Event<'_>>(payload).ok()?.event_id.parse().ok()
}

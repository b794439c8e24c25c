//! Compares some of the events that were found stored with what was sent, those of new kinds first.
//!
//! Rules: each request is sent at its turn. Events are read and compared on threads of their own, with one body in memory at a time. To
//! find their kinds, one step reads bodies until it has read 4 MiB. An event that cannot be read, there or here, does not count as
//! compared.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::sleep_until;

use crate::content::{self, Difference};
use crate::journal::verification::{Compared, Notes, Verification, Wanted};
use crate::journal::{Archive, JournalError, Record};
use crate::policy::sampling::{Reading, Room};
use crate::policy::verification::Settings;
use crate::protocol::item::ItemType;
use crate::tasks;
use crate::telemetry::verification::FieldDifference;

use super::{Tracker, Trouble, Verifier};

/// The most events of one step whose kinds are found.
const CANDIDATES: usize = 32;

/// An event that may be compared, and its kind.
struct Candidate<'a> {
    event: &'a Wanted,
    fingerprint: u64,
}

impl Verifier {
    /// Compares some of the events that were found stored. Returns the trouble if the tracker limits requests.
    pub(super) async fn sample(
        &self,
        verification: &dyn Verification,
        name: &Arc<str>,
        tracker: &Tracker,
        settings: &Settings,
        stored: &[&Wanted],
    ) -> Result<Option<Trouble>, JournalError> {
        let most = u64::from(settings.compare);
        if most == 0 || stored.is_empty() {
            return Ok(None);
        }
        let lately = verification.sampled(tracker.target, self.clock.now(), vec![]).await?;
        let mut room = Room { most, day: lately.day, hour: lately.hour };
        if !room.takes(true) {
            return Ok(None);
        }
        let chosen = self.chosen(verification, tracker, stored, &mut room).await?;
        let mut notes = Notes::default();
        let mut limited = None;
        for Candidate { event, fingerprint } in chosen {
            sleep_until(self.turn(name, settings.pace())).await;
            let compared = compare(&*self.journal, tracker, event).await?;
            let why = compared.as_ref().err().map(ToString::to_string);
            if let Some(upstream) = self.lock().upstreams.get_mut(name) {
                upstream.standing.not_compared = why;
            }
            match compared {
                Ok(differences) => notes.compared.push(Compared { record: event.record, fingerprint, differences }),
                Err(NotCompared::Trouble(trouble)) => {
                    limited = Some(trouble).filter(|trouble| matches!(trouble, Trouble::Limited(_)));
                    break;
                }
                Err(NotCompared::Unreadable(_) | NotCompared::Gone) => {}
            }
        }
        if !notes.compared.is_empty() {
            verification.note(tracker.target, notes).await?;
        }
        Ok(limited)
    }

    /// The events to compare, as far as there is room: one of each kind that was never compared, then those whose kinds were compared the
    /// longest time ago, then the rest.
    async fn chosen<'a>(
        &self,
        verification: &dyn Verification,
        tracker: &Tracker,
        stored: &[&'a Wanted],
        room: &mut Room,
    ) -> Result<Vec<Candidate<'a>>, JournalError> {
        let (mut candidates, mut reading) = (vec![], Reading::default());
        for event in stored.iter().step_by(stored.len().div_ceil(CANDIDATES)) {
            if !reading.goes_on() {
                break;
            }
            let Some(record) = self.journal.record(event.record).await? else { continue };
            let (fingerprint, read) = tasks::blocking(move || kind(&record)).await;
            reading.count(read);
            candidates.extend(fingerprint.map(|fingerprint| Candidate { event, fingerprint }));
        }
        let kinds = candidates.iter().map(|candidate| candidate.fingerprint).collect();
        let known = verification.sampled(tracker.target, self.clock.now(), kinds).await?.kinds;
        // The first event of a new kind stands for the others that came along with it, which are of a known kind then.
        let mut kinds = HashSet::new();
        let mut candidates: Vec<(bool, Candidate<'_>)> =
            candidates.into_iter().map(|candidate| (!kinds.insert(candidate.fingerprint), candidate)).collect();
        candidates.sort_by_key(|(again, candidate)| (*again, known.get(&candidate.fingerprint).copied()));
        candidates.retain(|(again, candidate)| {
            let takes = room.takes(!again && !known.contains_key(&candidate.fingerprint));
            if takes {
                room.take();
            }
            takes
        });
        Ok(candidates.into_iter().map(|(_, candidate)| candidate).collect())
    }
}

impl From<Difference> for FieldDifference {
    fn from(one: Difference) -> Self {
        Self { field: one.field.into(), sent: one.sent.into(), there: one.there.into() }
    }
}

/// Why an event was not compared.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotCompared {
    /// The tracker could not be asked.
    #[error(transparent)]
    Trouble(Trouble),
    /// One of the two is no event.
    #[error(transparent)]
    Unreadable(#[from] content::Unreadable),
    /// The event is gone, there or here.
    #[error("the event was gone when it was to be compared")]
    Gone,
}

/// The fields of an event that differ at the tracker from what was sent.
async fn compare(
    archive: &dyn Archive,
    tracker: &Tracker,
    event: &Wanted,
) -> Result<Result<Vec<FieldDifference>, NotCompared>, JournalError> {
    let (Some(there), Some(kind)) = (tracker.places.get(&event.project), tracker.api.content_kind()) else {
        return Ok(Err(NotCompared::Gone));
    };
    let copy = match tracker.api.event(there, event.event_id).await {
        Ok(Some(copy)) => copy,
        Ok(None) => return Ok(Err(NotCompared::Gone)),
        Err(trouble) => return Ok(Err(NotCompared::Trouble(trouble))),
    };
    let Some(record) = archive.record(event.record).await? else { return Ok(Err(NotCompared::Gone)) };
    let differences = differences(kind, record, copy).await;
    Ok(differences.map(|differences| differences.into_iter().map(Into::into).collect()))
}

/// The fields in which the tracker's copy differs from the event of a record.
pub(super) async fn differences(
    kind: content::Kind,
    record: Arc<Record>,
    copy: Vec<u8>,
) -> Result<Vec<Difference>, NotCompared> {
    tasks::blocking(move || Ok(content::compare(kind, &payload(&record)?, &copy)?)).await
}

/// The kind of a record's event, if it has one, and the number of bytes that were read for it.
fn kind(record: &Record) -> (Option<u64>, usize) {
    let payload = payload(record).ok();
    let fingerprint = payload.as_ref().and_then(|payload| content::fingerprint(&record.project, payload));
    (fingerprint, record.body.in_memory().max(payload.map_or(0, |payload| payload.len())))
}

/// The payload of the record's event. Of a large body nothing else is read.
pub(super) fn payload(record: &Record) -> Result<Bytes, NotCompared> {
    let envelope = record.body.outline().map_err(|_| NotCompared::Gone)?;
    let event = envelope.items().iter().find(|item| item.kind == ItemType::Event);
    let payload = event.ok_or(content::Unreadable::NoError)?.payload();
    if payload.end - payload.start > content::MAX_PAYLOAD as u64 {
        return Err(content::Unreadable::Long.into());
    }
    record.body.piece(payload).map_err(|_| NotCompared::Gone)
}

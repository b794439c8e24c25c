//! Lookups on demand: through all kept events, some at a time.
//!
//! Rule: an event that is not found is noted, so that the steps look it up again and find it missing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::journal::verification::{Notes, State, Wanted};
use crate::journal::{Cursor, JournalError};
use crate::policy::verification::NotFound;
use crate::protocol::event_id::EventId;

use super::look::Seen;
use super::{STEP, Verifier};

/// The findings of a lookup on demand.
#[derive(Clone, Debug, Default)]
pub struct Looked {
    /// The number of stored events.
    pub stored: u64,
    /// The events that were not found at their first lookup.
    pub absent: Vec<Wanted>,
    /// Events that are missing.
    pub missing: Vec<Wanted>,
    /// The number of events that nobody can say anything about.
    pub unknown: u64,
    /// The number of events that were taken too recently to be looked up.
    pub recent: u64,
    /// Why nobody can say anything.
    pub trouble: Option<String>,
    /// The cursor to continue at; `None` when there are no more.
    pub next: Option<Cursor>,
    /// The time after which events that were not found are looked up again.
    pub look_again_after: Duration,
}

/// The findings of a second lookup of events that a first one did not find.
#[derive(Clone, Debug, Default)]
pub struct LookedAgain {
    /// The outcomes by event id. An event that there was no time for is left out.
    pub found: HashMap<EventId, Outcome>,
    /// Why nobody can say anything.
    pub trouble: Option<String>,
}

/// What became of an event that was not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is stored now.
    Stored,
    /// The second lookup did not find it either.
    NotFound,
    /// It has been found missing since, and waits for its upstream again or was given up.
    TakenUp,
    /// Nobody can say.
    Unknown,
}

impl Verifier {
    /// Looks up some of the events behind `after` that were accepted since `since`. Events that are not found are noted, and the steps look
    /// them up again. `None` when the upstream has no API.
    pub async fn look_for(
        &self,
        name: &Arc<str>,
        since: Timestamp,
        after: Cursor,
    ) -> Result<Option<Looked>, JournalError> {
        let Some((tracker, settings, bound)) = self.begin(name) else { return Ok(None) };
        let verification = self.journal.verification();
        let mut taken = verification.taken(tracker.target, since, Some(after), bound).await?;
        let mut recent = (taken.events.len() - taken.settled) as u64;
        let mut end = taken.settled.min(STEP);
        let (seen, trouble) = self.looker(name, &tracker, &settings).look(taken.events[..end].iter().collect()).await;
        if trouble.is_none() {
            let unseen = taken.events[..end].iter().position(|event| !seen.contains_key(&event.record));
            end = unseen.unwrap_or(end);
        }
        if end < taken.settled {
            // There was no room or no time for the rest, so the next lookup continues there.
            (taken.next, recent) = (Some(taken.events[end].before), 0);
        }
        taken.events.truncate(end);
        self.note_trouble(name, trouble.as_ref(), !seen.is_empty());
        let trouble = trouble.map(|trouble| trouble.to_string());
        let mut looked = Looked { trouble, recent, next: taken.next, ..Looked::default() };
        let (mut notes, now) = (Notes::default(), self.clock.now());
        looked.look_again_after = match settings.not_found(0, 0, now) {
            NotFound::LookAgain(at) => at.since(now),
            NotFound::Missing(_) | NotFound::GiveUp => Duration::ZERO,
        };
        for event in taken.events {
            notes.again.extend(self.finding(name, &tracker, &settings, &event, &seen, now).await);
            match seen.get(&event.record) {
                Some(Seen::Stored) => looked.stored += 1,
                Some(Seen::Absent) if event.looks == 0 => looked.absent.push(event),
                Some(Seen::Absent) => looked.missing.push(event),
                Some(Seen::Unknown(_)) | None => looked.unknown += 1,
            }
        }
        verification.note(tracker.target, notes).await?;
        Ok(Some(looked))
    }

    /// Looks up again events that a lookup which began behind `after` did not find; at most as many as one lookup covers.
    pub async fn look_again(
        &self,
        name: &Arc<str>,
        after: Cursor,
        ids: &HashSet<EventId>,
    ) -> Result<Option<LookedAgain>, JournalError> {
        let Some((tracker, settings, _)) = self.begin(name) else { return Ok(None) };
        let verification = self.journal.verification();
        let mut taken = verification.taken(tracker.target, Timestamp::default(), Some(after), Cursor::START).await?;
        taken.events.retain(|event| ids.contains(&event.event_id));
        taken.events.truncate(STEP);
        // An event that is no longer among those that the upstream took has been found missing.
        let mut looked = LookedAgain { found: ids.iter().map(|id| (*id, Outcome::TakenUp)).collect(), trouble: None };
        let is_known = |event: &&Wanted| event.state == State::Stored;
        let (known, open): (Vec<&Wanted>, Vec<&Wanted>) = taken.events.iter().partition(is_known);
        looked.found.extend(known.iter().map(|event| (event.event_id, Outcome::Stored)));
        let (seen, trouble) = self.looker(name, &tracker, &settings).look(open.clone()).await;
        self.note_trouble(name, trouble.as_ref(), !seen.is_empty());
        let (mut notes, now) = (Notes::default(), self.clock.now());
        for event in open {
            notes.again.extend(self.finding(name, &tracker, &settings, event, &seen, now).await);
            let outcome = match seen.get(&event.record) {
                Some(Seen::Stored) => Some(Outcome::Stored),
                Some(Seen::Absent) => Some(Outcome::NotFound),
                Some(Seen::Unknown(_)) => Some(Outcome::Unknown),
                None => trouble.as_ref().map(|_| Outcome::Unknown),
            };
            match outcome {
                Some(outcome) => _ = looked.found.insert(event.event_id, outcome),
                None => _ = looked.found.remove(&event.event_id),
            }
        }
        looked.trouble = trouble.map(|trouble| trouble.to_string());
        verification.note(tracker.target, notes).await?;
        Ok(Some(looked))
    }
}

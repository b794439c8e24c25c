//! Looks that somebody asks for: through all that is kept, some events at a time.
//!
//! Rule: what is not found is noted, so that the steps look for it again and call it missing.

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

/// What a look on demand found.
#[derive(Clone, Debug, Default)]
pub struct Looked {
    /// How many events are stored.
    pub stored: u64,
    /// Events that are not there, at the first look.
    pub absent: Vec<Wanted>,
    /// Events that are missing.
    pub missing: Vec<Wanted>,
    /// How many nobody can say anything of.
    pub unknown: u64,
    /// How many were taken so recently that it is too early to look.
    pub recent: u64,
    /// Why nobody can say anything.
    pub trouble: Option<String>,
    /// Where to go on; `None` when there are no more.
    pub next: Option<Cursor>,
    /// How long after this look what was not found is looked for again.
    pub look_again_after: Duration,
}

/// What a second look found of events that a first one did not find.
#[derive(Clone, Debug, Default)]
pub struct LookedAgain {
    /// By id. There was no time for one that is left out.
    pub found: HashMap<EventId, Outcome>,
    /// Why nobody can say anything.
    pub trouble: Option<String>,
}

/// What became of an event that was not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is stored by now.
    Stored,
    /// It was not found again.
    NotFound,
    /// It was found missing since: it waits for its upstream again, or was given up.
    TakenUp,
    /// Nobody can say.
    Unknown,
}

impl Verifier {
    /// Looks on demand for events accepted since `since`, some of those behind `after`. What is not found is noted, and
    /// looked for again by the steps.
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
            // There was no room or no time for the rest: the next look goes on there.
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

    /// Looks once more for events that a look which began behind `after` did not find; no more than one look can miss.
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
        // What is not among those that the upstream took any more was called missing.
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

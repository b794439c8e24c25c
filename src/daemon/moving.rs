//! Moves a journal: from a file into a database that relays share, back, or into another journal of the same kind. No daemon runs
//! meanwhile.
//!
//! Rules: only into an empty journal. Both sides are read back and must be equal. Then the source is marked, and only after that
//! the target may be used: at no time would a relay start on both. A move that was cut off begins again, or, if only the second
//! mark is missing, is ended.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::interval;

pub use crate::journal::transfer::TransferError;
use crate::journal::transfer::{Contents, MoveId, State, Store, WAITING};
use crate::journal::{DatabaseUrl, Durability, Settings};

use super::backend::store;

/// How often it is told how many records were moved.
const EACH: Duration = Duration::from_secs(1);
/// How much of what is there, or differs, is told.
const TOLD: usize = 5;

/// Where a journal is that is moved.
#[derive(Clone, Debug)]
pub struct Place(Settings);

impl Place {
    /// The one that a person names: the address of a database or the path of a file. `is_single` allows a database that commits on one
    /// machine alone.
    pub fn named(name: &str, is_single: bool) -> Result<Self, String> {
        if !name.starts_with("postgres://") && !name.starts_with("postgresql://") {
            return Ok(Self(Settings { path: PathBuf::from(name), ..Settings::default() }));
        }
        let (url, durability) =
            (DatabaseUrl::new(name), if is_single { Durability::Single } else { Durability::Quorum });
        match url.problem() {
            Some(problem) => Err(format!("{url} {problem}")),
            None => Ok(Self(Settings { url: Some(url), durability, ..Settings::default() })),
        }
    }

    /// The one of a configuration.
    pub fn of(settings: &Settings, is_single: bool) -> Self {
        let durability = if is_single { Durability::Single } else { settings.durability };
        Self(Settings { durability, ..settings.clone() })
    }
}

/// What was moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// From where and to where.
    pub from: String,
    /// See [`Self::from`].
    pub to: String,
    /// How much of each.
    pub counts: BTreeMap<String, i64>,
    /// The primary of the relays that shared the source.
    pub primary: Option<String>,
}

/// Moves everything; `told` hears how many records were moved so far.
pub async fn move_journal(from: &Place, to: &Place, mut told: impl FnMut(u64)) -> Result<Moved, TransferError> {
    if from.0.place() == to.0.place() {
        return Err(TransferError::Refused(format!("{} is named as both of them", from.0.place())));
    }
    let (from, to) = (store(&from.0, true).await?, store(&to.0, false).await?);
    let (source, target) = (&*from, &*to);
    let by = expect_ready(source, target).await?;
    // One that was cut off between the two marks has moved everything.
    if source.state().await? != State::Moved(by) {
        fill(source, target, by, &mut told).await?;
    }
    let contents = expect_equal(source, target).await?;
    source.expect_idle().await?;
    source.mark(State::Moved(by)).await?;
    target.mark(State::Ready).await?;
    let Contents { counts, primary } = contents;
    Ok(Moved { from: source.place(), to: target.place(), counts, primary })
}

/// Moves what is in the source over.
async fn fill(
    source: &dyn Store,
    target: &dyn Store,
    by: MoveId,
    told: &mut impl FnMut(u64),
) -> Result<(), TransferError> {
    let kept = Arc::new(AtomicU64::new(0));
    let (entries, coming) = mpsc::channel(WAITING);
    let moving = async { tokio::join!(source.export(entries), target.import(by, coming, Arc::clone(&kept))) };
    let mut moving = std::pin::pin!(moving);
    let mut tick = interval(EACH);
    let ended = loop {
        tokio::select! {
            ended = &mut moving => break ended,
            _ = tick.tick() => told(kept.load(Ordering::Relaxed)),
        }
    };
    match ended {
        (Ok(()), Ok(())) => Ok(()),
        (Err(TransferError::CutOff), Err(why)) | (Err(why), _) | (Ok(()), Err(why)) => Err(why),
    }
}

/// Lets relays start again on a journal whose content was moved; returns where it is.
pub async fn reopen(place: &Place) -> Result<String, TransferError> {
    let store = store(&place.0, true).await?;
    let place = store.place();
    match store.state().await? {
        State::Moved(_) => {}
        State::New | State::Ready => {
            return Err(TransferError::Refused(format!("{place} was not moved: relays may start on it")));
        }
        State::Filling(_) => return Err(TransferError::Refused(unfinished(&place))),
    }
    store.mark(State::Ready).await?;
    Ok(place)
}

fn unfinished(place: &str) -> String {
    format!("{place} is filled in part by a move that was cut off: run that move again")
}

/// Refuses a source that is not at rest or not whole, and a target that is not empty. Returns which move this is.
async fn expect_ready(source: &dyn Store, target: &dyn Store) -> Result<MoveId, TransferError> {
    let (from, to) = (source.place(), target.place());
    let begun = match target.state().await? {
        State::New | State::Ready => None,
        State::Filling(by) => Some(by),
        State::Moved(_) => {
            return Err(TransferError::Refused(format!("{to} was moved to another journal: name a new one")));
        }
    };
    let by = match source.state().await? {
        State::Ready => MoveId::random(),
        State::New => return Err(TransferError::Refused(format!("there is nothing in {from}"))),
        State::Filling(_) => return Err(TransferError::Refused(unfinished(&from))),
        // That move was cut off after its source was marked, and before its target could be used.
        State::Moved(by) if begun == Some(by) => by,
        State::Moved(_) => {
            let elsewhere = if begun.is_some() { format!(", and not into {to}") } else { String::new() };
            return Err(TransferError::Refused(format!(
                "what was in {from} was moved already{elsewhere}: `switchyard journal reopen` lets it be used again"
            )));
        }
    };
    source.expect_idle().await?;
    if begun.is_some() {
        return Ok(by);
    }
    target.expect_idle().await?;
    let there = target.contents().await?;
    if there.counts.is_empty() {
        return Ok(by);
    }
    let told: Vec<String> = there.counts.iter().take(TOLD).map(|(what, much)| format!("{what} {much}")).collect();
    Err(TransferError::Refused(format!(
        "{to} is not empty, and a journal is moved into an empty one only: name a new file, or make a new database (createdb). There \
         are: {}",
        told.join("; ")
    )))
}

/// What is in both, when it is the same.
async fn expect_equal(source: &dyn Store, target: &dyn Store) -> Result<Contents, TransferError> {
    let (there, here) = (source.contents().await?, target.contents().await?);
    let much = |contents: &Contents, what: &str| contents.counts.get(what).copied().unwrap_or(0);
    let names: BTreeSet<&String> = there.counts.keys().chain(here.counts.keys()).collect();
    let differing = names.into_iter().filter(|what| much(&there, what) != much(&here, what));
    let told: Vec<String> =
        differing.take(TOLD).map(|what| format!("{what}: {} and {}", much(&there, what), much(&here, what))).collect();
    if told.is_empty() {
        return Ok(there);
    }
    let (from, to) = (source.place(), target.place());
    Err(TransferError::Failed(format!(
        "what was read back differs between {from} and {to}, and {from} stays in use. This is a defect. {}",
        told.join("; ")
    )))
}

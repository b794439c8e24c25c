//! Moves a journal from a file into a database that relays share, back, or into another journal of the same kind. No relay runs meanwhile.
//!
//! Rules: the target must be empty. Both sides are read back and must be equal. The source is marked first; only then may the target be
//! used, so that a relay never starts on both. An interrupted move begins again; if only the second mark is missing, that is set.

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

/// The time between two reports of the number of moved records.
const EACH: Duration = Duration::from_secs(1);
/// The maximum number of counts or differences in a message.
const TOLD: usize = 5;

/// The place of a journal.
#[derive(Clone, Debug)]
pub struct Place(Settings);

impl Place {
    /// The place that a person names: the address of a database or the path of a file. `is_single` allows a database that commits on one
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

    /// The place of a configuration's journal.
    pub fn of(settings: &Settings, is_single: bool) -> Self {
        let durability = if is_single { Durability::Single } else { settings.durability };
        Self(Settings { durability, ..settings.clone() })
    }
}

/// The result of a move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The place of the source.
    pub from: String,
    /// The place of the target.
    pub to: String,
    /// The counts of what was moved and the sums of accounts, by name.
    pub counts: BTreeMap<String, i64>,
    /// The primary of the relays that shared the source; `None` for a file.
    pub primary: Option<String>,
}

/// Moves everything. `told` is called with the number of records moved so far.
pub async fn move_journal(from: &Place, to: &Place, mut told: impl FnMut(u64)) -> Result<Moved, TransferError> {
    if from.0.place() == to.0.place() {
        return Err(TransferError::Refused(format!("{} is named as both of them", from.0.place())));
    }
    let (from, to) = (store(&from.0, true).await?, store(&to.0, false).await?);
    let (source, target) = (&*from, &*to);
    let by = expect_ready(source, target).await?;
    // A move that was interrupted between the two marks has copied everything.
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

/// Copies the source's content to the target.
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

/// Lets relays start again on a journal whose content was moved. Returns its place.
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

/// Refuses a source that is in use or incomplete, and a target that is not empty. Returns the id of the move.
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
        // The earlier move was interrupted after it marked the source, and before it marked the target.
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

/// Returns the content of both; fails if they differ.
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

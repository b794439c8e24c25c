//! The room and its shares: makes room when there is none, and closes the journal.
//!
//! Rules: settled records are removed first, then records that wait only for shadows, of projects beyond their part before others. A
//! refusal costs a bounded look for records that could go; an admission that finds room costs none.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::journal::shares;
use crate::journal::{Call, JournalError, Measures, Primaries, Space, Storage, Submission};

use super::PostgresJournal;
use super::evict;
use super::fault::Fault;
use super::nodes;
use super::settled;
use super::shared::Shared;
use super::work::Work;

/// The time limit for finding out whether records are taken: a load balancer asks every second.
const PROMPT: Duration = Duration::from_millis(500);
/// The room that a record takes besides its body, in bytes.
pub(super) const OVERHEAD: u64 = 512;
/// How many records one step removes.
const STEP: usize = 64;
/// The most steps of a look for records that can go.
const LOOKS: usize = 8;
/// The most steps of one transaction that may find nothing.
const IN_VAIN: usize = 4 * LOOKS;

/// The room that a submission takes as a record, in bytes.
pub(super) fn room_of(submission: &Submission) -> u64 {
    submission.body.len() + OVERHEAD
}

/// Checks whether a record would be taken now, on this machine or in the database.
async fn takes_records(shared: Arc<Shared>) -> Result<(), Fault> {
    if shared.is_replaced.is_cancelled() {
        return Err(Fault::Failed("another relay has taken the name of this one".into()));
    }
    // While no server takes writes, submissions are kept on this machine.
    if let Some(spill) = shared.spill.journal().filter(|_| shared.is_away()) {
        return Ok(spill.writable().await?);
    }
    if let Some(trouble) = shared.room.trouble() {
        return Err(trouble.into());
    }
    let answer = timeout(PROMPT, shared.client()).await;
    let answer = answer.unwrap_or_else(|_| Err(Fault::Away("the database does not answer".into())));
    match (answer, shared.spill.journal()) {
        // The caller waits for a second at most. What it sends then is held for a server, and kept on this machine if need be.
        (Err(fault), Some(spill)) if fault.is_away() => Ok(spill.writable().await?),
        (answer, _) => answer.map(drop),
    }
}

/// Reads the room that others take: for their records, and for bodies that they are writing.
pub(super) async fn measure_room(shared: &Shared) -> Result<(), Fault> {
    let sums = "SELECT project, sum(bytes)::bigint FROM (
             SELECT project, bytes FROM room WHERE incarnation <> $1
             UNION ALL SELECT coalesce(project, 0), size FROM large WHERE record IS NULL AND owner <> $1) AS taken
         GROUP BY project";
    let rows = shared.client().await?.all(sums, &[&shared.incarnation]).await?;
    let read: HashMap<i32, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    shared.room.read_others(&read);
    shared.room.note_barren(false);
    Ok(())
}

/// Makes room for `need` more bytes of a project. The inner error is the refusal for the client.
pub(super) async fn admit(work: &mut Work, project: Option<i32>, need: u64) -> Result<Result<(), JournalError>, Fault> {
    let (shared, whose) = (Arc::clone(&work.shared), (project, need));
    let Some(refusal) = shared.room.refusal(work.book.room(), whose) else { return Ok(Ok(())) };
    // For a body of no known project nothing gives way, and its refusal says nothing of others.
    let Some(number) = project else { return Ok(Err(refusal)) };
    let gone = make_room(work, whose).await?;
    let refusal = shared.room.refusal(work.book.room(), whose);
    match &refusal {
        None => shared.room.note_refused(None),
        Some(JournalError::Full(_)) => shared.room.note_refused(Some(whose)),
        Some(JournalError::Share(why)) => {
            let names = shared.names();
            shares::tell_refused(names.project(number).map_or("", |name| name), why);
        }
        Some(_) => {}
    }
    shared.room.note_barren(gone == 0);
    Ok(refusal.map_or(Ok(()), Err))
}

/// Removes settled records, then evicts records that wait only for shadows, until the bytes fit; returns how many records went. The steps
/// of one transaction that find nothing are bounded, however many submissions it has.
async fn make_room(work: &mut Work, whose: (Option<i32>, u64)) -> Result<usize, Fault> {
    let shared = Arc::clone(&work.shared);
    let most = if shared.room.is_barren() { 1 } else { LOOKS };
    let giving = shared.room.giving(work.book.room(), whose);
    let mut gone = 0;
    for is_settled in [true, false] {
        for giving in &giving {
            for _ in 0..most {
                if work.looks_in_vain >= IN_VAIN {
                    return Ok(gone);
                }
                let went = match is_settled {
                    true => settled::forget(work, i64::MAX, STEP, Some(giving)).await?,
                    false => evict::step(work, giving).await?,
                };
                work.looks_in_vain += usize::from(went == 0);
                gone += went;
                if shared.room.refusal(work.book.room(), whose).is_none() {
                    return Ok(gone);
                }
            }
        }
    }
    Ok(gone)
}

/// Makes room for more of a body that is being written. Calls `taken` if there is room.
pub(super) async fn take(
    shared: &Arc<Shared>,
    (project, need): (Option<i32>, u64),
    taken: impl FnOnce() + Send,
) -> Result<(), Fault> {
    if shared.room.refusal(&Default::default(), (project, need)).is_some() {
        Work::run(shared, async |work| admit(work, project, need).await).await??;
    }
    taken();
    Ok(())
}

impl Storage for PostgresJournal {
    fn protect(&self, primaries: Primaries) {
        self.shared.room.protect(primaries);
    }

    fn split(&self, projects: Vec<Arc<str>>) {
        self.shared.room.split(projects);
    }

    fn measure(&self) -> Call<'_, Measures> {
        Box::pin(async move {
            let shared = &self.shared;
            let read = self.call(|shared| async move { nodes::read(&shared).await }).await;
            let (mut nodes, standbys) = read.unwrap_or_else(|_| (vec![nodes::alone(shared)], vec![]));
            if let Some(own) = nodes.iter_mut().find(|node| node.is_own) {
                (own.spilled, own.spilled_bytes) = shared.spill.waiting().await;
            }
            let used = shared.room.used();
            // Only the servers know what they take of which disks.
            let space = Space { used, files: used, disk_free: None };
            Ok(Measures { space, shares: shared.room.told(), stats: *shared.stats(), nodes, standbys })
        })
    }

    fn writable(&self) -> Call<'_, ()> {
        Box::pin(async move {
            if self.shared.is_closed.load(Ordering::Acquire) {
                return Err(JournalError::Closed);
            }
            // Not a `call`, which fails when connections are given up: a submission that comes then is taken all the same.
            let running = super::spawn(&self.shared, takes_records(Arc::clone(&self.shared)));
            running.await.map_or(Err(JournalError::Closed), |taken| taken.map_err(Into::into))
        })
    }

    fn close(&self, patience: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if self.shared.is_closed.swap(true, Ordering::AcqRel) {
                return;
            }
            drop(self.commands.lock().unwrap_or_else(PoisonError::into_inner).take());
            let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
            let [moving, group, beat @ ..] = tasks.as_mut_slice() else { return };
            moving.abort();
            if timeout(patience, group).await.is_err() {
                tracing::warn!("the journal is still writing; what is not committed will be delivered again");
            }
            beat.iter().for_each(JoinHandle::abort);
            let spilled = self.shared.spill.waiting().await;
            self.shared.spill.close(patience).await;
            let leaving = super::spawn(&self.shared, nodes::leave(Arc::clone(&self.shared), spilled));
            if !matches!(timeout(patience, leaving).await, Ok(Ok(Ok(())))) {
                tracing::warn!(
                    "the other relays take over in a moment: PostgreSQL could not be told that this one is gone"
                );
            }
        })
    }
}

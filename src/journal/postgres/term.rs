//! Who leads: one relay at a time, for a term.
//!
//! Rules: a term ends by the clock of the database, or with its relay. Each relay judges its own by its own clock, from before it asked: it
//! gives it up before the database gives it away. Each new term has a new epoch. A transaction of a chore holds the epoch that it began
//! under, as a reference to a row holds the row's key: the next term begins when it has ended, and then none can hold that epoch any more.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_postgres::GenericClient;

use crate::journal::term::Epoch;

use super::connect::{Connection, Params};
use super::fault::Fault;

/// How long a relay leads after it asked; with half of that left it asks again.
const TERM: Duration = Duration::from_secs(5);
/// Holds a term until the transaction ends: finds nothing when there is another one. A renewal is not in the way of it.
pub(super) const HOLD: &str = "SELECT 1 FROM term WHERE epoch = $1 FOR KEY SHARE";

/// The term of this relay: its epoch, and when it ends.
#[derive(Debug, Default)]
pub(super) struct Term(Mutex<Option<(Epoch, Instant)>>);

impl Term {
    /// Its epoch, if the relay leads now, and for as long as a step takes: `asks` asks for it with half of the term left.
    pub(super) async fn lead(&self, asks: impl Future<Output = Result<Option<Epoch>, Fault>>) -> Option<Epoch> {
        let asked = Instant::now();
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((epoch, _)) = known.filter(|(_, ends)| *ends > asked + TERM / 2) {
            return Some(epoch);
        }
        let epoch = timeout(TERM / 2, asks).await.ok().and_then(Result::ok).flatten();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = epoch.map(|epoch| (epoch, asked + TERM));
        epoch
    }
}

/// Makes its term longer, or begins one when there is none.
pub(super) async fn ask(client: &Connection, incarnation: i32) -> Result<Option<Epoch>, Fault> {
    const RENEW: &str = "UPDATE term SET ends = clock_timestamp() + make_interval(secs => $2) WHERE owner = $1
         AND EXISTS (SELECT 1 FROM node WHERE incarnation = $1 AND NOT replaced) RETURNING epoch";
    // It waits for nobody: while a step of the term before is under way there is no new one.
    const BEGIN: &str =
        "UPDATE term SET owner = $1, epoch = epoch + 1, ends = clock_timestamp() + make_interval(secs => $2)
         WHERE epoch = (
             SELECT t.epoch FROM term t
             WHERE (t.owner IS NULL OR t.ends < clock_timestamp() OR NOT EXISTS (
                 SELECT 1 FROM node WHERE incarnation = t.owner AND NOT replaced AND NOT gone))
             AND EXISTS (SELECT 1 FROM node WHERE incarnation = $1 AND NOT replaced) FOR UPDATE OF t SKIP LOCKED)
         RETURNING epoch";
    let length = TERM.as_secs_f64();
    let params: Params<'_> = &[&incarnation, &length];
    for sql in [RENEW, BEGIN] {
        if let Some(row) = client.any(sql, params).await? {
            return Ok(Some(Epoch(row.get(0))));
        }
    }
    Ok(None)
}

/// Holds a term until the transaction ends; `false` when there is another one.
pub(super) async fn holds(tx: &impl GenericClient, Epoch(epoch): Epoch) -> Result<bool, Fault> {
    Ok(tx.query_opt(HOLD, &[&epoch]).await?.is_some())
}

/// The same, where nothing is done without it.
pub(super) async fn under(tx: &impl GenericClient, epoch: Epoch) -> Result<(), Fault> {
    if holds(tx, epoch).await? { Ok(()) } else { Err(over()) }
}

/// What whoever comes too late is told.
pub(super) fn over() -> Fault {
    Fault::Failed("another relay leads: this step is its".into())
}

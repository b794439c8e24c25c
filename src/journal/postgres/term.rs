//! The leader: one relay at a time, for a term.
//!
//! Rules: a term ends by the database's clock, or with its relay. A relay judges its own term by its own clock, from before it asked, so it
//! gives the term up before the database gives it away. Each new term has a new epoch. A transaction of a chore holds its epoch like a
//! foreign key holds the row that it refers to: the next term begins after it has ended, and then no transaction can hold the old epoch.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_postgres::GenericClient;

use crate::journal::term::Epoch;

use super::connect::{Connection, Params};
use super::fault::Fault;

/// How long a relay leads after it asked. It asks again once half of that is left.
const TERM: Duration = Duration::from_secs(5);
/// Holds a term until the transaction ends; returns no row if there is another term. A renewal does not wait for it.
pub(super) const HOLD: &str = "SELECT 1 FROM term WHERE epoch = $1 FOR KEY SHARE";

/// The term of this relay: its epoch and its end; `None` if it does not lead.
#[derive(Debug, Default)]
pub(super) struct Term(Mutex<Option<(Epoch, Instant)>>);

impl Term {
    /// The epoch, if the relay leads now and for the time of a step; `None` otherwise. `asks` renews the term once half of it is left.
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

/// Renews the term of a relay, or begins one if there is none; `None` if neither is possible now.
pub(super) async fn ask(client: &Connection, incarnation: i32) -> Result<Option<Epoch>, Fault> {
    const RENEW: &str = "UPDATE term SET ends = clock_timestamp() + make_interval(secs => $2) WHERE owner = $1
         AND EXISTS (SELECT 1 FROM node WHERE incarnation = $1 AND NOT replaced) RETURNING epoch";
    // It skips a locked row: while a step of the term before is under way no new term begins.
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

/// Holds a term until the transaction ends; `false` if there is another one.
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

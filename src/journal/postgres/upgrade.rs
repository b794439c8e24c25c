//! The end of an upgrade: what only the newest format knows is used once no relay of the one before is left.
//!
//! Rules: a step of [the tables](super::schema) keeps the relays of the version before at work, and for a day after the last of them was
//! seen they can come back: until then the new ones keep everything as those read it. From then on those are refused when they start.
//! What one of them counted is [summed up](super::upkeep::merge) once it is gone, by one that was there after it: while nothing of theirs is
//! left to be summed up, none was at work since a new one was. So a new one may be restarted as often as it likes.

use tokio_postgres::Transaction;

use crate::journal::term::Epoch;

use super::fault::Fault;
use super::schema::{FORMAT, LOCK, MOVING};
use super::shared::Shared;
use super::term;

/// Notes that a relay of the format before may be at work.
pub(super) async fn note_earlier(shared: &Shared) -> Result<(), Fault> {
    let seen = "UPDATE meta SET earlier = clock_timestamp()
         WHERE oldest < $1 AND EXISTS (SELECT 1 FROM node WHERE NOT replaced AND format < $1)";
    shared.client().await?.execute(seen, &[&FORMAT]).await?;
    Ok(())
}

/// Notes the same where a relay starts and one of the format before was at work since one of the newest was.
pub(super) async fn note_unseen(tx: &Transaction<'_>) -> Result<(), Fault> {
    let unseen = "UPDATE meta SET earlier = clock_timestamp()
         WHERE oldest < $1 AND EXISTS (SELECT 1 FROM node WHERE NOT merged AND format < $1)";
    tx.execute(unseen, &[&FORMAT]).await?;
    Ok(())
}

/// Lets nobody in who knows only the format before, a day after the last one was seen. One that is just starting is seen within the
/// minute for which nothing of the newest format [is used](super::days::read) yet.
pub(super) async fn finish(shared: &Shared, epoch: Epoch) -> Result<(), Fault> {
    let mut pooled = shared.client().await?;
    let is_over = "SELECT 1 FROM meta WHERE oldest < $1 AND earlier < clock_timestamp() - interval '1 day'";
    if pooled.query_opt(is_over, &[&FORMAT]).await?.is_none() {
        return Ok(());
    }
    let tx = pooled.transaction().await?;
    term::under(&*tx, epoch).await?;
    let free = "SELECT pg_try_advisory_xact_lock($1) AND pg_try_advisory_xact_lock($2)";
    if tx.query_one(free, &[&LOCK, &MOVING]).await?.get(0) {
        let finish = "UPDATE meta SET oldest = $1, earlier = clock_timestamp() WHERE NOT EXISTS (SELECT 1 FROM node WHERE NOT replaced AND format < $1)";
        if tx.execute(finish, &[&FORMAT]).await? > 0 {
            tracing::info!(
                format = FORMAT,
                "the upgrade is over: relays of the version before are refused from now on"
            );
        }
    }
    Ok(tx.commit().await?)
}

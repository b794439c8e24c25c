//! The end of an upgrade: features of the newest format are used once no relay of the format before is left.
//!
//! Rules: a step of [the tables](super::schema) leaves the relays of the version before at work. For a day after the last of them was seen
//! they may come back, so until then the new relays keep everything readable for them. After that they are refused when they start. The
//! counts of such a relay are [summed up](super::upkeep::merge) once it is gone, by a relay that was there after it. So while none is left
//! to be summed up, none has been at work since a new one was, and a new one may be restarted as often as it likes.

use tokio_postgres::Transaction;

use crate::journal::term::Epoch;

use super::fault::Fault;
use super::schema::{FORMAT, LOCK, MOVING};
use super::shared::Shared;
use super::term;

/// Records that a relay of the format before may be at work.
pub(super) async fn note_earlier(shared: &Shared) -> Result<(), Fault> {
    let seen = "UPDATE meta SET earlier = clock_timestamp()
         WHERE oldest < $1 AND EXISTS (SELECT 1 FROM node WHERE NOT replaced AND format < $1)";
    shared.client().await?.execute(seen, &[&FORMAT]).await?;
    Ok(())
}

/// Records the same when a relay starts: one of the format before may have been at work since one of the newest was.
pub(super) async fn note_unseen(tx: &Transaction<'_>) -> Result<(), Fault> {
    let unseen = "UPDATE meta SET earlier = clock_timestamp()
         WHERE oldest < $1 AND EXISTS (SELECT 1 FROM node WHERE NOT merged AND format < $1)";
    tx.execute(unseen, &[&FORMAT]).await?;
    Ok(())
}

/// Refuses relays of the format before from now on, a day after the last one was seen. One that is just starting is seen within the minute
/// in which the newest format [is not used](super::days::read) yet.
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

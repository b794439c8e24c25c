//! The port of the log: appends submissions, and removes records that are settled by all targets and not needed otherwise.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::journal::body::Body;
use crate::journal::{
    Call, Cursor, JournalError, Log, MAX_TARGETS, RecentKeys, RecordId, Submission, TargetId, Targets, bounded,
};

use super::PostgresJournal;
use super::bodies;
use super::days;
use super::fault::Fault;
use super::group::Command;
use super::record::ms;
use super::settled;
use super::shared::Shared;
use super::work::Work;

impl Log for PostgresJournal {
    fn target(&self, name: &str) -> Call<'_, TargetId> {
        let name: Arc<str> = name.into();
        self.call(|shared| async move { target(&shared, &name).await })
    }

    fn targets(&self) -> Call<'_, Targets> {
        self.call(|shared| async move {
            shared.know_names().await?;
            Ok(shared.names().targets().map(|(target, name)| (target, Arc::clone(name))).collect())
        })
    }

    fn append(&self, submission: Submission) -> Call<'_, RecordId> {
        Box::pin(async move {
            let submission = Box::new(submission);
            if self.shared.is_replaced.is_cancelled() {
                return Err(JournalError::Failed("another relay has taken the name of this one".into()));
            }
            // A body that is only on this machine is moved over later, with its record.
            if matches!(submission.body, Body::Large(_)) && bodies::number(&submission.body).is_none() {
                return self.shared.spill.take(submission, None).await;
            }
            let _place = self.places.acquire().await.map_err(|_| JournalError::Closed)?;
            self.ask(|reply| Command::Append(submission, reply)).await
        })
    }

    fn recent_keys(&self, since: Timestamp, before: Option<Cursor>, limit: usize) -> Call<'_, RecentKeys> {
        self.call(move |shared| async move { recent_keys(&shared, since, before, limit).await })
    }

    fn prune(&self, before: Timestamp, limit: usize) -> Call<'_, usize> {
        Box::pin(async move {
            self.flush().await?;
            self.call(move |shared| async move { prune(&shared, before, limit).await }).await
        })
    }
}

async fn target(shared: &Shared, name: &str) -> Result<TargetId, Fault> {
    let known = || shared.names().targets().find(|(_, known)| ***known == *name).map(|(target, _)| target);
    if let Some(target) = known() {
        return Ok(target);
    }
    let mut pooled = shared.client().await?;
    let tx = pooled.transaction().await?;
    // A relay that adds a target waits for others that do: numbers have no gaps.
    tx.execute("LOCK TABLE target IN SHARE ROW EXCLUSIVE MODE", &[]).await?;
    let count: i64 = tx.query_one("SELECT count(*) FROM target", &[]).await?.get(0);
    let number = i16::try_from(count).unwrap_or(i16::MAX);
    let is_known = tx.query_opt("SELECT 1 FROM target WHERE name = $1", &[&name]).await?.is_some();
    if !is_known && count as usize >= MAX_TARGETS {
        return Err(Fault::Failed(format!("the journal knows {MAX_TARGETS} upstreams already")));
    }
    if !is_known {
        tx.execute("INSERT INTO target VALUES ($1, $2)", &[&number, &name]).await?;
        // Earlier records were not meant for the target, so the frontiers begin behind them.
        tx.execute(
            "INSERT INTO frontier SELECT $1, incarnation, coalesce(
                 (SELECT max(id) FROM record WHERE id >= incarnation::bigint << 40 AND id < (incarnation::bigint + 1) << 40),
                 incarnation::bigint << 40) FROM node",
            &[&number],
        )
        .await?;
    }
    tx.commit().await?;
    shared.know_names().await?;
    known().ok_or_else(|| Fault::Failed(format!("the upstream {name:?} is not kept")))
}

/// By their event time and not by their number: incarnations overlap. A cursor is the time of the last, and all of that time were told.
async fn recent_keys(
    shared: &Shared,
    since: Timestamp,
    before: Option<Cursor>,
    limit: usize,
) -> Result<RecentKeys, Fault> {
    let client = shared.client().await?;
    let before = before.map_or(i64::MAX, |before| before.number().cast_signed());
    let limit = bounded(limit);
    let rows = client
        .query(
        "SELECT accepted_at, keys FROM record WHERE accepted_at >= $1 AND accepted_at < $2 ORDER BY accepted_at DESC
         FETCH FIRST $3 ROWS WITH TIES",
        &[&ms(since), &before, &limit],
    )
    .await?;
    let (mut recent, mut last) = (RecentKeys::default(), None);
    for row in &rows {
        let at: i64 = row.get(0);
        let keys: &[u8] = row.get(1);
        let at_time = Timestamp::from_millis(at.cast_unsigned());
        recent.keys.extend(keys.as_chunks::<16>().0.iter().map(|key| (u128::from_be_bytes(*key), at_time)));
        last = Some(Cursor::from_number(at.cast_unsigned()));
    }
    recent.next = last.filter(|_| rows.len() as i64 >= limit);
    Ok(recent)
}

/// Removes records that nobody needs any more.
async fn prune(shared: &Arc<Shared>, before: Timestamp, limit: usize) -> Result<usize, Fault> {
    let mut gone = 0;
    if settled::has_older(shared, ms(before)).await? {
        gone = Work::run(shared, async |work| settled::forget(work, ms(before), limit, None).await).await?;
    }
    if gone < limit {
        days::drop_old(shared, ms(before)).await?;
    }
    Ok(gone)
}

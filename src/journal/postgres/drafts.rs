//! Large bodies that are being written, piece by piece.

use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, ready};

use crate::journal::bodies::Draft;
use crate::journal::body::Body;
use crate::journal::{Bodies, JournalError, Record};

use super::bodies::{self, FIRST, Own};
use super::fault::Fault;
use super::shared::Shared;
use super::storage;
use super::{PostgresJournal, call};

impl Bodies for PostgresJournal {
    /// While no server takes writes it goes to the journal on this machine, where its record goes, too.
    fn begin(self: Arc<Self>, project: Option<Arc<str>>) -> BoxFuture<'static, Result<Box<dyn Draft>, JournalError>> {
        if self.shared.is_away()
            && let Some(journal) = self.shared.spill.journal()
        {
            return journal.begin(project);
        }
        self.call(|shared| async move { Ok(Box::new(begin(shared, project).await?) as Box<dyn Draft>) })
    }
}

async fn begin(shared: Arc<Shared>, project: Option<Arc<str>>) -> Result<Writing, Fault> {
    let project = match project {
        Some(name) => Some(shared.project(&name).await?),
        None => None,
    };
    let sql = "INSERT INTO large (owner, project, size) VALUES ($1, $2, 0) RETURNING id";
    let number = shared.client().await?.query_one(sql, &[&shared.incarnation, &project]).await?.get(0);
    Ok(Writing { own: Own::new(shared, number, project), len: 0 })
}

/// A body that is being written.
#[derive(Debug)]
struct Writing {
    own: Arc<Own>,
    len: u64,
}

impl Draft for Writing {
    fn append(&mut self, mut bytes: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, JournalError>> {
        let (own, need) = (Arc::clone(&self.own), bytes.len() as u64);
        if need == 0 {
            return Box::pin(ready(Ok(bytes)));
        }
        let written = call(&self.own.shared, |shared| async move {
            let whose = (own.project, need);
            storage::take(&shared, whose, || own.take_room(need.cast_signed())).await?;
            let sql = "WITH grown AS (
                     UPDATE large SET size = size + length($2::bytea) WHERE id = $1 AND record IS NULL
                     RETURNING size - length($2::bytea) AS at)
                 INSERT INTO piece SELECT $1, at, $2::bytea FROM grown";
            own.write(sql, &[&own.number, &bytes]).await?;
            bytes.clear();
            Ok(bytes)
        });
        Box::pin(async move {
            let buffer = written.await?;
            self.len += need;
            Ok(buffer)
        })
    }

    fn overwrite(&mut self, at: u64, bytes: Vec<u8>) -> BoxFuture<'_, Result<(), JournalError>> {
        let own = Arc::clone(&self.own);
        call(&self.own.shared, move |_| async move {
            let (from, to) = (at.cast_signed(), at.cast_signed() + bytes.len() as i64);
            let sql = format!(
                "UPDATE piece SET bytes = overlay(bytes PLACING
                     substring($4::bytea FROM (greatest(at - $2, 0) + 1)::int
                         FOR (least(at + length(bytes), $3) - greatest(at, $2))::int)
                     FROM (greatest($2 - at, 0) + 1)::int)
                 WHERE large = $1 AND at < $3 AND at >= {FIRST}"
            );
            own.write(&sql, &[&own.number, &from, &to, &bytes]).await
        })
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<Body, JournalError>> {
        let Self { own, len } = *self;
        Box::pin(ready(Ok(bodies::written(own, len))))
    }
}

/// The body of a record of the journal on this machine, copied to this one when it is large.
pub(super) async fn copied(shared: &Arc<Shared>, record: &Record) -> Result<Body, Fault> {
    if let Body::Memory(_) = &record.body {
        return Ok(record.body.clone());
    }
    let mut draft = Box::new(begin(Arc::clone(shared), Some(Arc::clone(&record.project))).await?);
    let mut pieces = pin!(record.body.clone().pieces());
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| Fault::Failed(format!("a large body cannot be read: {error}")))?;
        draft.append(piece.to_vec()).await?;
    }
    Ok(draft.finish().await?)
}

//! Large bodies that are being written, piece by piece.
//!
//! Rule: each is written to the database and also to the journal on this machine ([`spill`](super::spill)), if there is one. If the
//! database is lost on the way, the body is finished on this machine, where its record is then kept.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::timeout;

use crate::journal::bodies::Draft;
use crate::journal::body::Body;
use crate::journal::{Bodies, Call, JournalError, Record};
use crate::telemetry::log::{self, Line};

use super::bodies::{self, FIRST, Own};
use super::fault::Fault;
use super::shared::Shared;
use super::storage;
use super::{PostgresJournal, call};

/// How long this machine's disk is waited for if the database has the body, too.
const PATIENCE: Duration = Duration::from_secs(5);

impl Bodies for PostgresJournal {
    /// While no server takes writes it goes to the journal on this machine alone.
    fn begin(self: Arc<Self>, project: Option<Arc<str>>) -> Call<'static, Box<dyn Draft>> {
        Box::pin(async move {
            let (spill, mut copies) = (self.shared.spill.journal(), Copies::default());
            if spill.is_none() || !self.shared.is_away() {
                let whose = project.clone();
                match self.call(|shared| begin(shared, whose)).await {
                    Ok(writing) => copies.database = Some(writing),
                    Err(error @ JournalError::Failed(_)) if spill.is_some() => tell_alone("this machine", &error),
                    Err(error) => return Err(error),
                }
            }
            if let Some(spill) = spill {
                match copies.within_patience(spill.begin(project)).await {
                    Ok(draft) => copies.local = Some(draft),
                    Err(error) if copies.database.is_some() => tell_alone("the database", &error),
                    Err(error) => return Err(error),
                }
            }
            Ok(Box::new(copies) as Box<dyn Draft>)
        })
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

/// A body that is written to both places, or to the one that is left.
#[derive(Debug, Default)]
struct Copies {
    database: Option<Writing>,
    local: Option<Box<dyn Draft>>,
}

impl Copies {
    /// Waits for this machine's disk: only for [`PATIENCE`] if the database has the body, too.
    fn within_patience<T>(
        &self,
        step: impl Future<Output = Result<T, JournalError>>,
    ) -> impl Future<Output = Result<T, JournalError>> {
        let has_other = self.database.is_some();
        async move {
            if !has_other {
                return step.await;
            }
            let ended = timeout(PATIENCE, step).await;
            ended.unwrap_or_else(|_| Err(JournalError::Failed("the disk of this machine does not answer".into())))
        }
    }

    /// Leaves out a place that failed while the other one works. The caller is told when the database has no room.
    fn judge(&mut self, Step { database, local }: Step) -> Result<(), JournalError> {
        match (database, local) {
            (Ok(()), Err(error)) if self.database.is_some() => {
                tell_alone("the database", &error);
                self.local = None;
                Ok(())
            }
            (Err(error @ JournalError::Failed(_)), Ok(())) if self.local.is_some() => {
                tell_alone("this machine", &error);
                self.database = None;
                Ok(())
            }
            (database, local) => database.and(local),
        }
    }
}

/// The results of a step in both places; `Ok` for a place that is not written to.
struct Step {
    database: Result<(), JournalError>,
    local: Result<(), JournalError>,
}

impl Draft for Copies {
    fn append(&mut self, bytes: Vec<u8>) -> Call<'_, Vec<u8>> {
        Box::pin(async move {
            let (bytes, mut step) = (Bytes::from(bytes), Step { database: Ok(()), local: Ok(()) });
            if let Some(writing) = &mut self.database {
                step.database = writing.append(bytes.clone()).await;
            }
            let mut buffer = Vec::from(bytes);
            if let Some(mut draft) = self.local.take() {
                match self.within_patience(draft.append(std::mem::take(&mut buffer))).await {
                    Ok(emptied) => buffer = emptied,
                    Err(error) => step.local = Err(error),
                }
                self.local = Some(draft);
            }
            self.judge(step)?;
            buffer.clear();
            Ok(buffer)
        })
    }

    fn overwrite(&mut self, at: u64, bytes: Vec<u8>) -> Call<'_, ()> {
        Box::pin(async move {
            let mut step = Step { database: Ok(()), local: Ok(()) };
            if let Some(writing) = &self.database {
                step.database = writing.overwrite(at, bytes.clone()).await;
            }
            if let Some(mut draft) = self.local.take() {
                step.local = self.within_patience(draft.overwrite(at, bytes)).await;
                self.local = Some(draft);
            }
            self.judge(step)
        })
    }

    fn finish(self: Box<Self>) -> Call<'static, Body> {
        Box::pin(async move {
            let Self { database, local } = *self;
            let local = match local {
                Some(draft) => draft.finish().await,
                None => Err(JournalError::Failed("the database has lost a large body".into())),
            };
            match database {
                Some(writing) => Ok(writing.finish(local.ok())),
                None => local,
            }
        })
    }
}

/// Logs that a large body is kept in only one place from now on.
fn tell_alone(place: &'static str, error: &JournalError) {
    if let Some(Line { suppressed }) = log::admit("a large body is kept in one place", place) {
        tracing::warn!(%error, suppressed, "a large body goes on in one place: {place}");
    }
}

/// A body that is being written to the database.
#[derive(Debug)]
struct Writing {
    own: Arc<Own>,
    len: u64,
}

impl Writing {
    async fn append(&mut self, bytes: Bytes) -> Result<(), JournalError> {
        let (own, need) = (Arc::clone(&self.own), bytes.len() as u64);
        if need == 0 {
            return Ok(());
        }
        let written = call(&self.own.shared, |shared| async move {
            let whose = (own.project, need);
            storage::take(&shared, whose, || own.take_room(need.cast_signed())).await?;
            let sql = "WITH grown AS (
                     UPDATE large SET size = size + length($2::bytea) WHERE id = $1 AND record IS NULL
                     RETURNING size - length($2::bytea) AS at)
                 INSERT INTO piece SELECT $1, at, $2::bytea FROM grown";
            own.write(sql, &[&own.number, &&bytes[..]]).await
        });
        written.await?;
        self.len += need;
        Ok(())
    }

    /// Overwrites bytes from the position `at` on that were written before.
    async fn overwrite(&self, at: u64, bytes: Vec<u8>) -> Result<(), JournalError> {
        let own = Arc::clone(&self.own);
        let written = call(&self.own.shared, move |_| async move {
            let (from, to) = (at.cast_signed(), at.cast_signed() + bytes.len() as i64);
            let sql = format!(
                "UPDATE piece SET bytes = overlay(bytes PLACING
                     substring($4::bytea FROM (greatest(at - $2, 0) + 1)::int
                         FOR (least(at + length(bytes), $3) - greatest(at, $2))::int)
                     FROM (greatest($2 - at, 0) + 1)::int)
                 WHERE large = $1 AND at < $3 AND at >= {FIRST}"
            );
            own.write(&sql, &[&own.number, &from, &to, &bytes]).await
        });
        written.await
    }

    /// The body, with its copy on this machine.
    fn finish(self, local: Option<Body>) -> Body {
        bodies::written(self.own, self.len, local)
    }
}

/// The body of a record of the journal on this machine, copied to the database if it is large.
pub(super) async fn copied(shared: &Arc<Shared>, record: &Record) -> Result<Body, Fault> {
    if let Body::Memory(_) = &record.body {
        return Ok(record.body.clone());
    }
    // A body that does not fit is not copied in part.
    let (project, size) = (shared.project(&record.project).await?, record.body.len());
    storage::take(shared, (Some(project), size), || {}).await?;
    let mut writing = begin(Arc::clone(shared), Some(Arc::clone(&record.project))).await?;
    let mut pieces = pin!(record.body.clone().pieces());
    while let Some(piece) = pieces.next().await {
        writing.append(piece.map_err(Fault::Unreadable)?).await?;
    }
    Ok(writing.finish(None))
}

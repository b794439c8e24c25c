//! Large bodies: a row in `large`, and their bytes in pieces as they came ([`drafts`](super::drafts)).
//!
//! Rules: a body belongs to its relay until its record is committed, and then goes with the record. A body that is dropped before is
//! removed soon, once a server takes writes. Unfinished bodies of a relay that is gone are removed by the [upkeep](super::upkeep). Bodies
//! are read by tasks of the journal's runtime, so any thread may block on a read except those of that runtime.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::journal::Submission;
use crate::journal::body::{Body, LargeBody, Pieces, Source};

use super::connect::{Connector, Params, Pool};
use super::fault::Fault;
use super::room::NOBODY;
use super::shared::Shared;
use super::spawn_on;
use super::work::Work;

/// The time limit for reading a body: the reader blocks a thread meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often dropped bodies are looked for.
const EACH: Duration = Duration::from_millis(500);
/// The position of the first piece of a range: `$1` is the body, `$2` where the range begins.
pub(super) const FIRST: &str = "(SELECT max(at) FROM piece WHERE large = $1 AND at <= $2)";

/// A body that has no record yet. Dropped without [`Own::keep`] it is removed, and gives its room back.
pub(super) struct Own {
    pub(super) shared: Arc<Shared>,
    pub(super) number: i64,
    pub(super) project: Option<i32>,
    /// The room that it takes, in bytes.
    bytes: AtomicI64,
    is_kept: AtomicBool,
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Own {
    /// An empty body.
    pub(super) fn new(shared: Arc<Shared>, number: i64, project: Option<i32>) -> Arc<Self> {
        let (bytes, is_kept) = (AtomicI64::new(0), AtomicBool::new(false));
        Arc::new(Self { shared, number, project, bytes, is_kept })
    }

    pub(super) fn take_room(&self, bytes: i64) {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        self.shared.room.draft(self.project.unwrap_or(NOBODY), bytes);
    }

    fn give_room_back(&self) {
        let bytes = self.bytes.swap(0, Ordering::AcqRel);
        self.shared.room.draft(self.project.unwrap_or(NOBODY), -bytes);
    }

    /// Reports that its record has the body from now on.
    fn keep(&self) {
        self.is_kept.store(true, Ordering::Release);
        self.give_room_back();
    }

    /// Runs a statement that changes the body; fails if the body is gone.
    pub(super) async fn write(&self, sql: &str, params: Params<'_>) -> Result<(), Fault> {
        let client = self.shared.client().await?;
        match client.run(sql, params).await? {
            0 => Err(Fault::Failed("a large body is gone before its end".into())),
            _ => Ok(()),
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if *self.is_kept.get_mut() {
            return;
        }
        self.give_room_back();
        self.shared.dropped_bodies().push(self.number);
    }
}

/// Removes dropped bodies, one after another, because each has many pieces.
pub(super) async fn remove_dropped(shared: Arc<Shared>) {
    loop {
        sleep(EACH).await;
        let dropped = if shared.is_away() { vec![] } else { shared.dropped_bodies().clone() };
        for number in dropped {
            match shared.connector.unless_given_up(remove(&shared, number)).await {
                Ok(()) => shared.dropped_bodies().retain(|dropped| *dropped != number),
                Err(fault) => tracing::debug!(%fault, number, "a body that was dropped is removed later"),
            }
        }
    }
}

async fn remove(shared: &Shared, number: i64) -> Result<(), Fault> {
    let client = shared.client().await?;
    if client.run("DELETE FROM large WHERE id = $1 AND record IS NULL", &[&number]).await? == 0 {
        // A former primary may lack a body that the current one has.
        client.make_certain().await?;
    }
    Ok(())
}

/// Reads large bodies.
#[derive(Clone)]
struct Shelf {
    pool: Pool,
    connector: Arc<Connector>,
    runtime: Handle,
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf").finish_non_exhaustive()
    }
}

impl Shelf {
    fn of(shared: &Shared) -> Self {
        let (pool, connector) = (shared.pool.clone(), Arc::clone(&shared.connector));
        Self { pool, connector, runtime: shared.runtime.clone() }
    }

    async fn read(self, number: i64, range: Range<u64>) -> Result<Bytes, Fault> {
        let connector = Arc::clone(&self.connector);
        connector.unless_given_up(self.look(number, range)).await
    }

    async fn look(self, number: i64, range: Range<u64>) -> Result<Bytes, Fault> {
        let client = super::shared::pooled(&self.pool).await?;
        let (from, to) = (range.start.cast_signed(), range.end.cast_signed());
        let sql = format!(
            "SELECT substring(bytes FROM (greatest($2 - at, 0) + 1)::int FOR ($3 - greatest(at, $2))::int) FROM piece
             WHERE large = $1 AND at < $3 AND at >= {FIRST} ORDER BY at"
        );
        let rows = client.all(&sql, &[&number, &from, &to]).await?;
        let mut bytes = BytesMut::with_capacity(rows.iter().map(|row| row.get::<_, &[u8]>(0).len()).sum());
        rows.iter().for_each(|row| bytes.extend_from_slice(row.get(0)));
        let is_whole = bytes.len() as u64 == range.end - range.start;
        is_whole.then(|| bytes.freeze()).ok_or_else(|| Fault::Failed("a large body is gone".into()))
    }
}

/// A body in the database.
#[derive(Clone, Debug)]
struct Stored {
    number: i64,
    shelf: Shelf,
    /// `None` for a body that had a record already when it was read.
    own: Option<Arc<Own>>,
    /// Its copy on this machine, until it has a record.
    local: Option<Arc<LargeBody>>,
}

impl Source for Stored {
    fn open(&self) -> io::Result<Box<dyn Pieces>> {
        match self.local.as_ref().map(|local| local.open()) {
            Some(Ok(pieces)) => Ok(pieces),
            _ => Ok(Box::new(self.clone())),
        }
    }
}

impl Pieces for Stored {
    fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let (told, answer) = std::sync::mpsc::channel();
        let (shelf, number) = (self.shelf.clone(), self.number);
        drop(spawn_on(&self.shelf.runtime, async move { drop(told.send(shelf.read(number, range).await)) }));
        let read = answer.recv_timeout(PATIENCE).map_err(|_| io::Error::other("the database gave no answer"))?;
        read.map_err(|fault| io::Error::other(fault.to_string()))
    }
}

/// The body that was written so far, with its copy on this machine.
pub(super) fn written(own: Arc<Own>, len: u64, local: Option<Body>) -> Body {
    let local = if let Some(Body::Large(local)) = local { Some(local) } else { None };
    let stored = Stored { number: own.number, shelf: Shelf::of(&own.shared), own: Some(own), local };
    Body::Large(Arc::new(LargeBody::new(len, stored)))
}

/// The body of this number that a record has.
pub(super) fn kept(shared: &Shared, large: i64, size: u64) -> Body {
    let stored = Stored { number: large, shelf: Shelf::of(shared), own: None, local: None };
    Body::Large(Arc::new(LargeBody::new(size, stored)))
}

fn stored(body: &Body) -> Option<&Stored> {
    match body {
        Body::Large(large) => large.source(),
        Body::Memory(_) => None,
    }
}

/// The number of a large body of this journal.
pub(super) fn number(body: &Body) -> Option<i64> {
    stored(body).map(|stored| stored.number)
}

/// The body as it can be kept on this machine while no server takes writes: one in memory, or the local copy; `None` if there is none.
pub(super) fn local(body: &Body) -> Option<Body> {
    match stored(body) {
        None => Some(body.clone()),
        Some(stored) => stored.local.clone().map(Body::Large),
    }
}

/// The room that a body takes already, in bytes.
pub(super) fn taken(body: &Body) -> u64 {
    let own = stored(body).and_then(|stored| stored.own.as_ref());
    own.map_or(0, |own| own.bytes.load(Ordering::Acquire).cast_unsigned())
}

/// After the commit: the body belongs to its record.
pub(super) fn keep(body: &Body) {
    if let Some(own) = stored(body).and_then(|stored| stored.own.as_ref()) {
        own.keep();
    }
}

/// Of the large bodies of these submissions, those that are gone or have a record already.
pub(super) async fn lost(work: &Work, submissions: &[&Submission]) -> Result<HashSet<i64>, Fault> {
    let large = |submission: &&Submission| Some((number(&submission.body)?, submission.body.len().cast_signed()));
    let (larges, sizes): (Vec<i64>, Vec<i64>) = submissions.iter().filter_map(large).unzip();
    if larges.is_empty() {
        return Ok(HashSet::new());
    }
    let sql = "SELECT u.l FROM unnest($1::bigint[], $2::bigint[]) AS u(l, size) WHERE NOT EXISTS (
                   SELECT 1 FROM large WHERE large.id = u.l AND large.size = u.size AND large.record IS NULL)";
    Ok(work.query(sql, &[&larges, &sizes]).await?.iter().map(|row| row.get(0)).collect())
}

/// In the transaction: gives large bodies of these sizes to their records.
pub(super) async fn own(work: &Work, (records, larges, sizes): (&[i64], &[Option<i64>], &[i64])) -> Result<(), Fault> {
    let count = larges.iter().flatten().count() as u64;
    if count == 0 {
        return Ok(());
    }
    let sql = "UPDATE large SET record = u.r FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS u(r, l, size)
         WHERE large.id = u.l AND large.size = u.size AND large.record IS NULL";
    let owned = work.count(sql, &[&records, &larges, &sizes]).await?;
    if owned == count { Ok(()) } else { Err(Fault::Failed("a large body is gone, or has a record already".into())) }
}

//! One transaction of this relay that changes accounts. They come one after another, as the SQLite backend's do.
//!
//! Rules: what a transaction changes in the accounts it writes itself, in rows of its incarnation that nobody else writes. The postings
//! go out after the commit. A commit of which nobody knows whether it took place is looked up by its number, over a connection on
//! which another commit came through: what came before that is on a second machine, too. No two transactions have the same number: a
//! server that was the primary and the one that is may have seen as many. What a transaction saw of those before counts with its own commit.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::maybe_done;
use futures_util::poll;
use tokio::sync::OwnedMutexGuard;
use tokio_postgres::Row;

use crate::clock::Timestamp;
use crate::journal::TargetId;
use crate::journal::term::Epoch;
use crate::telemetry::ledger::Posting;

use super::accounts::{Book, Prepared};
use super::connect::{Connection, Params, Pen, SAFETY};
use super::fault::Fault;
use super::shared::Shared;
use super::term::{self, HOLD};

/// The class of the locks that transactions take on targets: "SwJt". They are in memory alone, and end with who takes them.
pub(super) const LOCKS: i32 = 0x5377_4a74;
/// Takes a target for this transaction alone.
pub(super) const LOCK: &str = "SELECT pg_advisory_xact_lock($1, $2)";
/// Takes targets together with others who do.
const SHARE: &str = "SELECT t FROM unnest($2::smallint[]) AS u(t) WHERE pg_try_advisory_xact_lock_shared($1, t)";

/// A transaction under way. Dropped without [`Work::commit`] it changes nothing.
pub(super) struct Work {
    pub(super) shared: Arc<Shared>,
    /// What it changes in the accounts.
    pub(super) book: Book,
    /// The targets whose workers are woken after the commit.
    pub(super) woken: BTreeSet<TargetId>,
    /// How many looks for room found nothing that could go.
    pub(super) looks_in_vain: usize,
    /// Whether it wrote dead letters: then there may be too many.
    pub(super) has_letters: bool,
    pen: OwnedMutexGuard<Pen>,
    /// Taken out of the pen for as long as nobody knows how this ends.
    connection: Option<Connection>,
    /// Which transaction of this incarnation it is.
    number: i64,
    /// What is to be posted of commits before, of which nobody knew whether they took place: as this server has it.
    owed: Vec<Posting>,
    began: Instant,
}

impl Work {
    /// Begins one, after those that were begun before. While no server takes writes it is refused at once: each that tried would keep
    /// others waiting. So is a step of a chore once another relay leads; the next one cannot until this ends.
    pub(super) async fn begin(shared: &Arc<Shared>) -> Result<Self, Fault> {
        if shared.is_away() {
            return Err(Fault::Away("no server took writes when it was last tried".into()));
        }
        let work = Self::try_begin(shared).await?;
        let is_ours = match Epoch::current() {
            Some(epoch) => work.holds(epoch).await,
            None => Ok(true),
        };
        match is_ours {
            Ok(true) => Ok(work),
            Ok(false) => work.end(Err(term::over())).await,
            Err(fault) => work.end(Err(fault)).await,
        }
    }

    /// Does something in a transaction of its own.
    pub(super) async fn run<T>(
        shared: &Arc<Shared>,
        act: impl AsyncFnOnce(&mut Self) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let mut work = Self::begin(shared).await?;
        let outcome = act(&mut work).await;
        work.end(outcome).await
    }

    /// Holds a term until this ends; `false` when another relay leads.
    pub(super) async fn holds(&self, epoch: Epoch) -> Result<bool, Fault> {
        Ok(self.query_opt(HOLD, &[&epoch.0]).await?.is_some())
    }

    async fn try_begin(shared: &Arc<Shared>) -> Result<Self, Fault> {
        let mut pen = Arc::clone(&shared.pen).lock_owned().await;
        let began = Instant::now();
        let known = pen.connection.take().filter(|connection| shared.connector.is_good(connection));
        let is_known = known.is_some();
        let connection = match known {
            Some(connection) => connection,
            None => pen.connect(&shared.connector).await?,
        };
        let (client, incarnation) = (&connection, shared.incarnation);
        let count = client
            .prepare_cached(&format!(
                "UPDATE committed SET before = number, number = $2 WHERE incarnation = $1
                 AND NOT (SELECT replaced FROM node WHERE incarnation = $1) RETURNING before, {SAFETY}"
            ))
            .await?;
        pen.last += 1;
        let number = pen.last;
        let params: Params<'_> = &[&incarnation, &number];
        let ((), row) = tokio::try_join!(client.batch_execute("BEGIN"), client.query_opt(&count, params))?;
        let Some(row) = row else {
            client.batch_execute("ROLLBACK").await?;
            return Err(shared.replaced(client).await);
        };
        shared.connector.judge(&row)?;
        // The row of this relay was free, so whatever was under way has ended.
        let before: i64 = row.get(0);
        let owed = pen.unresolved.iter().find(|(number, _)| *number == before);
        let owed = owed.map(|(_, postings)| postings.clone()).unwrap_or_default();
        if !is_known {
            read_room(&connection, shared).await?;
        }
        let (book, woken, shared) = (Book::default(), BTreeSet::new(), Arc::clone(shared));
        Ok(Self {
            shared,
            book,
            woken,
            pen,
            connection: Some(connection),
            number,
            owed,
            looks_in_vain: 0,
            has_letters: false,
            began,
        })
    }

    fn connection(&self) -> Result<&Connection, Fault> {
        self.connection.as_ref().ok_or(Fault::Unknown)
    }

    /// Now, by the clock of this relay.
    pub(super) fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// The rows of a statement, which is prepared once for each connection.
    pub(super) async fn query(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, Fault> {
        self.connection()?.all(sql, params).await
    }

    /// The only row, if there is one.
    pub(super) async fn query_opt(&self, sql: &str, params: Params<'_>) -> Result<Option<Row>, Fault> {
        self.connection()?.any(sql, params).await
    }

    /// Changes rows.
    pub(super) async fn execute(&self, sql: &str, params: Params<'_>) -> Result<(), Fault> {
        self.count(sql, params).await.map(drop)
    }

    /// The same; how many it were.
    pub(super) async fn count(&self, sql: &str, params: Params<'_>) -> Result<u64, Fault> {
        self.connection()?.run(sql, params).await
    }

    /// Changes what is not rows: locks, settings, tables.
    pub(super) async fn change(&self, sql: &str) -> Result<(), Fault> {
        Ok(self.connection()?.batch_execute(sql).await?)
    }

    /// Takes what waits for a target for this transaction alone: who hands out, discards or takes up again what waits there does that
    /// first.
    pub(super) async fn lock(&self, target: TargetId) -> Result<(), Fault> {
        self.execute(LOCK, &[&LOCKS, &i32::from(target.0)]).await
    }

    /// Keeps others from having these targets to themselves, as far as nobody has: returns those. Nobody is waited for, and what is read
    /// after it is what those left who had them before.
    pub(super) async fn share(&self, targets: &[i16]) -> Result<Vec<i16>, Fault> {
        Ok(self.query(SHARE, &[&LOCKS, &targets]).await?.iter().map(|row| row.get(0)).collect())
    }

    /// Commits what worked, and takes back what did not.
    pub(super) async fn end<T>(self, outcome: Result<T, Fault>) -> Result<T, Fault> {
        match outcome {
            Ok(answer) => self.commit().await.map(|()| answer),
            Err(fault) => {
                self.roll_back().await;
                Err(fault)
            }
        }
    }

    /// Commits, and posts what changed.
    pub(super) async fn commit(mut self) -> Result<(), Fault> {
        self.book.read_spans().await;
        self.book.know_names(&self.shared).await?;
        let prepared = Prepared::on(self.connection()?).await?;
        let mut postings = self.book.postings(&self.shared);
        postings.extend_from_slice(&self.owed);
        // Also for whoever drops this while it waits.
        self.pen.unresolved.push((self.number, postings));
        let committed = match self.connection.take() {
            Some(connection) => {
                match write_and_commit(&self.book, &connection, &prepared, self.shared.incarnation).await {
                    Some(ended) => {
                        self.pen.connection = Some(connection);
                        ended
                    }
                    None => self.look_up().await,
                }
            }
            None => Err(Fault::Unknown),
        };
        self.shared.count_commit(self.began.elapsed(), committed.is_ok());
        match committed {
            Ok(()) => self.pen.unresolved.clear(),
            Err(Fault::Unknown) => return Err(Fault::Unknown),
            Err(fault) => {
                self.pen.unresolved.pop();
                return Err(fault);
            }
        }
        self.shared.ledger.post(&self.owed);
        self.book.post(&self.shared);
        self.shared.wake(self.woken.iter().copied());
        Ok(())
    }

    /// Takes it back, and keeps the connection.
    pub(super) async fn roll_back(mut self) {
        if let Some(connection) = self.connection.take()
            && connection.batch_execute("ROLLBACK").await.is_ok()
        {
            self.pen.connection = Some(connection);
        }
    }

    /// Whether the commit took place: then it was the last. The answer itself is given only after a commit that was waited for.
    async fn look_up(&mut self) -> Result<(), Fault> {
        let connection = self.pen.connect(&self.shared.connector).await.map_err(|_| Fault::Unknown)?;
        let asked = async {
            let sql = "UPDATE committed SET number = number WHERE incarnation = $1 RETURNING number";
            Ok::<_, Fault>(connection.query_one(sql, &[&self.shared.incarnation]).await?.get::<_, i64>(0))
        };
        let found = asked.await.map_err(|_| Fault::Unknown)?;
        self.pen.connection = Some(connection);
        if found == self.number { Ok(()) } else { Err(Fault::Away("a commit did not take place".into())) }
    }
}

/// Sends what writes the rows, and the commit right behind it; `None` when nobody knows how that ended. A row that cannot be written ends
/// the transaction, and the commit takes it back; one that cannot be sent is followed by none.
async fn write_and_commit(
    book: &Book,
    connection: &Connection,
    prepared: &Prepared,
    me: i32,
) -> Option<Result<(), Fault>> {
    let mut written = pin!(maybe_done(book.write(connection, prepared, me)));
    // All rows are sent with the first poll. Nothing is committed after one that could not be sent.
    if poll!(written.as_mut()).is_ready()
        && let Some(Err(_)) = written.as_mut().output_mut()
    {
        connection.batch_execute("ROLLBACK").await.ok()?;
        return written.take_output();
    }
    let ((), committed) = tokio::join!(written.as_mut(), connection.batch_execute("COMMIT"));
    committed.ok()?;
    written.take_output()
}

/// Reads what this relay takes of the room: nobody knew how the transaction before ended, which has ended now.
async fn read_room(connection: &Connection, shared: &Shared) -> Result<(), Fault> {
    let rows =
        connection.query("SELECT project, bytes FROM room WHERE incarnation = $1", &[&shared.incarnation]).await?;
    shared.room.read_ours(&rows.iter().map(|row| (row.get(0), row.get(1))).collect());
    Ok(())
}

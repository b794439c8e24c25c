//! One transaction of this relay that changes accounts. Such transactions run one after another, as the SQLite backend's do.
//!
//! Rules: a transaction writes its own changes of the accounts, in rows of its incarnation that nobody else writes. The postings go out
//! after the commit. A commit with an unknown outcome is looked up by its number, by a later commit that is waited for: what came before
//! that is on a second machine, too. No two transactions have the same number, because a former primary and the current one may have seen
//! equally many. What a transaction read of earlier ones counts with its own commit.

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

/// The class of the advisory locks that transactions take on targets: "SwJt". They are in memory alone, and end with the transaction.
pub(super) const LOCKS: i32 = 0x5377_4a74;
/// Takes a target for this transaction alone.
pub(super) const LOCK: &str = "SELECT pg_advisory_xact_lock($1, $2)";
/// Takes targets that this transaction shares with others. Skips those that another one has to itself.
const SHARE: &str = "SELECT t FROM unnest($2::smallint[]) AS u(t) WHERE pg_try_advisory_xact_lock_shared($1, t)";

/// A transaction under way. Dropped without [`Work::commit`] it changes nothing.
pub(super) struct Work {
    pub(super) shared: Arc<Shared>,
    /// The changes of the accounts.
    pub(super) book: Book,
    /// The targets whose workers are notified after the commit.
    pub(super) woken: BTreeSet<TargetId>,
    /// The number of looks for room that found nothing to remove.
    pub(super) looks_in_vain: usize,
    /// Whether it wrote dead letters, so that there may be too many.
    pub(super) has_letters: bool,
    pen: OwnedMutexGuard<Pen>,
    /// The connection, taken out of the pen until the outcome is known.
    connection: Option<Connection>,
    /// The number of the transaction within this incarnation.
    number: i64,
    /// The postings of an earlier commit with an unknown outcome that this server has. They are made with this commit.
    owed: Vec<Posting>,
    began: Instant,
}

impl Work {
    /// Begins a transaction, after the earlier ones. Fails at once while no server takes writes: each attempt would delay others. A step of
    /// a chore fails once another relay leads; no other relay can begin to lead until this transaction ends.
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
        // The row of this relay was free, so every earlier transaction has ended.
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

    /// The only row of a statement; `None` if there is none.
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

    /// Runs statements that change something other than rows: locks, settings, tables.
    pub(super) async fn change(&self, sql: &str) -> Result<(), Fault> {
        Ok(self.connection()?.batch_execute(sql).await?)
    }

    /// Takes the backlog of a target for this transaction alone, to hand out, discard or take up records.
    pub(super) async fn lock(&self, target: TargetId) -> Result<(), Fault> {
        self.execute(LOCK, &[&LOCKS, &i32::from(target.0)]).await
    }

    /// Shares targets with other transactions, so that nobody has them alone; returns those for which that worked. It waits for nobody.
    /// Later reads see what earlier holders of these targets left.
    pub(super) async fn share(&self, targets: &[i16]) -> Result<Vec<i16>, Fault> {
        Ok(self.query(SHARE, &[&LOCKS, &targets]).await?.iter().map(|row| row.get(0)).collect())
    }

    /// Commits if `outcome` is good, else rolls back.
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
        // Before the commit, in case the future is dropped while it waits.
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

    /// Rolls back, and keeps the connection.
    pub(super) async fn roll_back(mut self) {
        if let Some(connection) = self.connection.take()
            && connection.batch_execute("ROLLBACK").await.is_ok()
        {
            self.pen.connection = Some(connection);
        }
    }

    /// Looks up whether the commit took place; if so, it was the last. The lookup is itself a commit that is waited for.
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

/// Sends the statements that write the rows, and the commit right behind them; `None` if the outcome is unknown. A row that cannot be
/// written ends the transaction, and the commit rolls it back. After a statement that cannot be sent no commit is sent.
async fn write_and_commit(
    book: &Book,
    connection: &Connection,
    prepared: &Prepared,
    me: i32,
) -> Option<Result<(), Fault>> {
    let mut written = pin!(maybe_done(book.write(connection, prepared, me)));
    // The first poll sends all rows. Nothing is committed after one that could not be sent.
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

/// Reads the room that this relay takes: the outcome of the transaction before, which has ended now, may be unknown.
async fn read_room(connection: &Connection, shared: &Shared) -> Result<(), Fault> {
    let rows =
        connection.query("SELECT project, bytes FROM room WHERE incarnation = $1", &[&shared.incarnation]).await?;
    shared.room.read_ours(&rows.iter().map(|row| (row.get(0), row.get(1))).collect());
    Ok(())
}

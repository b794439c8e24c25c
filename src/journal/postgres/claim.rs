//! Hands records of a target out to this relay.
//!
//! Rules: a look without a lock first finds out whether there is anything, and delays nobody. The rest is one transaction that has the
//! target to itself ([`Work::lock`](super::work::Work::lock)). Due records come first, then those that a relay that is gone had in hand,
//! then a slice of untried ones in order of acceptance, then those of a backfill. Each incarnation's records are taken in the order of
//! their numbers. A frontier never passes a record that is not committed, because an incarnation commits its records in order.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;

use deadpool_postgres::Transaction;
use tokio_postgres::Row;

use crate::clock::Timestamp;
use crate::journal::backfill::BACKGROUND;
use crate::journal::{Progress, TargetId};

use super::connect::Params;
use super::fault::Fault;
use super::fresh::Kept;
use super::hand::{BYTES, Place, Ready, SLICE};
use super::handout::untried;
use super::peek::{Seen, peek};
use super::places;
use super::record::{self, NEVER, ms};
use super::shared::Shared;
use super::work::{LOCK, LOCKS};

/// The most records behind a frontier that one look reads to find those for a target.
const LOOK: i64 = 512;
/// The most such looks in one transaction: the target is released before the next transaction.
pub(super) const LOOKS: usize = 16;

/// A record behind a frontier.
struct Head {
    id: i64,
    accepted_at: i64,
    size: i64,
    is_meant: bool,
}

/// A look for records, in the transaction that has the target to itself.
struct Look<'a> {
    shared: &'a Shared,
    tx: Transaction<'a>,
    target: TargetId,
    seen: Seen,
    /// The most rows to take, and the time until which they are due.
    max: usize,
    due: i64,
    /// The number of records that are ready here, and the bytes of their bodies.
    ready: usize,
    bytes: usize,
}

/// Brings more records of a target into the hand that may be tried now. Notes there whether more are left.
pub(super) async fn fetch(shared: &Shared, target: TargetId, now: Timestamp, max: usize) -> Result<(), Fault> {
    let hand = shared.hand(target);
    // Before the look, so that a notification during it is not lost.
    hand.more.store(false, Ordering::Release);
    hand.is_time.store(false, Ordering::Release);
    let doubt = hand.doubt();
    let is_doubtful = hand.is_doubtful(doubt);
    let looked = look(shared, target, (now, max), is_doubtful).await;
    let is_done = matches!(&looked, Ok(found) if found.is_empty());
    if !is_done {
        hand.more.store(true, Ordering::Release);
    }
    let found = looked?;
    if is_doubtful {
        hand.resolve_all(doubt)
    } else {
        hand.resolve(doubt)
    }
    hand.state().bring(found);
    Ok(())
}

/// The records that are handed out to this relay now. In doubt these include records that are ours in the database and not here.
async fn look(
    shared: &Shared,
    target: TargetId,
    (now, max): (Timestamp, usize),
    is_doubtful: bool,
) -> Result<Vec<Ready>, Fault> {
    let (hand, due) = (shared.hand(target), ms(now).min(ms(BACKGROUND) - 1));
    let mut pooled = shared.client().await?;
    let seen = peek(&pooled, target, shared.incarnation).await?;
    let (ready, bytes) = {
        let mut state = hand.state();
        (state.next_due, state.has_others) = (seen.next_due.map(record::time), seen.has_others);
        state.fresh.note_reached(seen.reached.unwrap_or(0));
        (state.ready.len(), state.bytes())
    };
    if seen.has_own || seen.has_others {
        // They are there even if none of them is taken now.
        hand.more.store(true, Ordering::Release);
    }
    // Enough bytes count as a full hand.
    let ready = if bytes < BYTES { ready } else { ready.max(SLICE) };
    if !is_doubtful && !seen.has_any(due, ready) {
        return Ok(vec![]);
    }
    let tx = pooled.transaction().await?;
    let look = Look { shared, tx, target, seen, max, due, ready, bytes };
    let (found, next, reached) = look.act(is_doubtful).await?;
    let mut state = hand.state();
    state.next_due = next.map(record::time);
    state.fresh.note_reached(reached.unwrap_or(0));
    Ok(found)
}

/// The rows of a statement, which is prepared once for each connection.
async fn query(tx: &Transaction<'_>, sql: &str, params: Params<'_>) -> Result<Vec<Row>, Fault> {
    let statement = tx.prepare_cached(sql).await?;
    Ok(tx.query(&statement, params).await?)
}

async fn execute(tx: &Transaction<'_>, sql: &str, params: Params<'_>) -> Result<(), Fault> {
    query(tx, sql, params).await.map(drop)
}

impl Look<'_> {
    fn number(&self) -> i16 {
        self.target.0.into()
    }

    /// Takes records that may be tried, and commits. Also returns when the next row comes due, and the frontier of this relay's own
    /// records.
    async fn act(mut self, is_doubtful: bool) -> Result<(Vec<Ready>, Option<i64>, Option<i64>), Fault> {
        execute(&self.tx, LOCK, &[&LOCKS, &i32::from(self.target.0)]).await?;
        let again = if is_doubtful { self.take_again().await? } else { vec![] };
        let mut found = self.take().await?;
        let has_rows = self.seen.next_due.is_some() || self.seen.is_left;
        let next = if has_rows { self.next_due().await? } else { None };
        self.tx.commit().await?;
        found.extend(again);
        Ok((found, next, self.seen.reached))
    }

    /// Takes records of the first kind of which there are any.
    async fn take(&mut self) -> Result<Vec<Ready>, Fault> {
        let (seen, mut found) = (self.seen, vec![]);
        if seen.is_left {
            execute(&self.tx, places::FREE, &[&self.number(), &self.shared.incarnation]).await?;
        }
        if seen.is_left || seen.is_due(self.due) {
            found = self.take_rows(i64::MIN, self.due).await?;
        }
        if found.is_empty() && seen.is_left {
            found = self.take_over().await?;
        }
        if found.is_empty() && seen.has_untried(self.ready) {
            found = self.take_slice().await?;
        }
        if found.is_empty() && seen.has_background && self.ready == 0 {
            found = self.take_rows(ms(BACKGROUND), ms(NEVER) - 1).await?;
        }
        Ok(found)
    }

    /// When the next row without an owner comes due; `None` if there is none.
    async fn next_due(&self) -> Result<Option<i64>, Fault> {
        let sql = "SELECT min(due) FROM pending WHERE target = $1 AND owner IS NULL AND due < $2";
        let rows = query(&self.tx, sql, &[&self.number(), &ms(BACKGROUND)]).await?;
        Ok(rows.first().and_then(|row| row.get(0)))
    }

    /// Takes the records that are ours in the database and not here: an operation with them did not come to its end.
    async fn take_again(&self) -> Result<Vec<Ready>, Fault> {
        let (me, target) = (self.shared.incarnation, self.number());
        // Nobody hands out more to this relay meanwhile, because the target is locked.
        let known = self.shared.hand(self.target).state().known();
        let free = "UPDATE pending SET owner = NULL WHERE target = $1 AND owner = $2 AND record <> ALL($3)";
        execute(&self.tx, free, &[&target, &me, &known]).await?;
        let sql = "SELECT id, ARRAY(
                 SELECT u.r FROM unnest(records) WITH ORDINALITY AS u(r, o) WHERE u.r <> ALL($3) ORDER BY u.o)
             FROM slice WHERE target = $1 AND owner = $2 ORDER BY id";
        let mut again = Vec::new();
        for row in query(&self.tx, sql, &[&target, &me, &known]).await? {
            again.extend(self.of_slice(row.get(0), row.get(1)).await?);
        }
        Ok(again)
    }

    /// Takes rows that come due between `from` and `to`.
    async fn take_rows(&self, from: i64, to: i64) -> Result<Vec<Ready>, Fault> {
        let (target, limit) = (self.number(), i64::try_from(self.max.min(SLICE)).unwrap_or(i64::MAX));
        let mut rows = query(
            &self.tx,
            "UPDATE pending SET owner = $4, turn = nextval('turn') WHERE target = $1 AND record IN (
                 SELECT record FROM (
                     SELECT p.record, row_number() OVER so_far AS place, (sum(r.size) OVER so_far)::bigint AS bytes
                     FROM (SELECT record, due FROM pending WHERE target = $1 AND owner IS NULL AND due >= $2 AND due <= $3
                         ORDER BY due, record LIMIT $5) p
                     LEFT JOIN record r ON r.id = p.record AND r.large IS NULL
                     WINDOW so_far AS (ORDER BY p.due, p.record)) AS due
                 WHERE place = 1 OR coalesce(bytes, 0) <= $6)
             RETURNING record, due, attempts, strikes, items, quantities, turn, EXISTS (
                 SELECT 1 FROM look l WHERE l.target = pending.target AND l.record = pending.record AND l.repairs > 0)",
            &[&target, &from, &to, &self.shared.incarnation, &limit, &(BYTES as i64)],
        )
        .await?;
        rows.sort_by_key(|row| (row.get::<_, i64>(1), row.get::<_, i64>(0)));
        let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        let mut loaded = record::load(self.shared, &self.tx, &ids).await?;
        let mut ready = Vec::new();
        for row in rows {
            let (id, due): (i64, i64) = (row.get(0), row.get(1));
            let expected = record::expect(self.shared, &self.tx, self.target, id, loaded.remove(&id)).await?;
            let Some(Kept { record, project }) = expected else { continue };
            let items = row.get::<_, Option<&[u8]>>(4).map(record::items);
            let (attempts, strikes): (i32, i32) = (row.get(2), row.get(3));
            let progress = Progress { attempts: attempts.cast_unsigned(), strikes: strikes.cast_unsigned(), items };
            let own = row.get::<_, Option<&str>>(5).and_then(|text| text.parse().ok());
            let quantities = own.unwrap_or_else(|| record.quantities.clone());
            let (place, backfilled, repaired) = (Place::Row(row.get(6)), due >= ms(BACKGROUND), row.get(7));
            ready.push(Ready { record, project, place, progress, quantities, backfilled, repaired });
        }
        Ok(ready)
    }

    /// Takes over slices of relays that are gone, until there are at least [`SLICE`] records.
    async fn take_over(&self) -> Result<Vec<Ready>, Fault> {
        let mut found = vec![];
        while found.len() < SLICE {
            let rows = query(
                &self.tx,
                "UPDATE slice SET owner = $2 WHERE id = (
                     SELECT s.id FROM slice s JOIN node n ON n.incarnation = s.owner
                     WHERE s.target = $1 AND s.owner <> $2 AND (n.replaced OR n.gone)
                     ORDER BY s.id LIMIT 1)
                 RETURNING id, records",
                &[&self.number(), &self.shared.incarnation],
            )
            .await?;
            let Some(row) = rows.first() else { break };
            found.extend(self.of_slice(row.get(0), row.get(1)).await?);
        }
        Ok(found)
    }

    /// Takes a slice of untried records.
    async fn take_slice(&mut self) -> Result<Vec<Ready>, Fault> {
        let target = self.number();
        execute(&self.tx, places::BEGIN, &[&target]).await?;
        let most = SLICE.saturating_sub(self.ready).max(1);
        for _ in 0..LOOKS {
            let mut heads = self.heads(most).await?;
            if heads.is_empty() {
                return Ok(vec![]);
            }
            let Chosen { records, reached } = choose(&mut heads, most, self.bytes);
            self.seen.reached = reached.get(&self.shared.incarnation).copied().or(self.seen.reached);
            let (incarnations, reached): (Vec<i32>, Vec<i64>) = reached.into_iter().unzip();
            let rows = query(
                &self.tx,
                "WITH risen AS (
                     UPDATE frontier f SET reached = u.reached FROM unnest($2::int[], $3::bigint[]) AS u(incarnation, reached)
                     WHERE f.target = $1 AND f.incarnation = u.incarnation)
                 INSERT INTO slice (target, owner, records) SELECT $1, $4, $5 WHERE cardinality($5::bigint[]) > 0 RETURNING id",
                &[&target, &incarnations, &reached, &self.shared.incarnation, &records],
            )
            .await?;
            if let Some(row) = rows.first() {
                return self.of_slice(row.get(0), records).await;
            }
        }
        // There is more. Another transaction goes on with it.
        self.shared.hand(self.target).wake();
        Ok(vec![])
    }

    /// The records behind each frontier, by incarnation: at most [`LOOK`] of each, and up to `most` that are meant for the target. No more
    /// is read.
    async fn heads(&self, most: usize) -> Result<HashMap<i32, VecDeque<Head>>, Fault> {
        let rows = query(
            &self.tx,
            "SELECT f.incarnation, r.id, r.accepted_at, r.size, r.is_meant
             FROM frontier f CROSS JOIN LATERAL (
                 SELECT *, count(*) FILTER (WHERE is_meant) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING) AS meant FROM (
                     SELECT id, accepted_at, CASE WHEN large IS NULL THEN size ELSE 0 END AS size,
                         targets & (1::bigint << $1) <> 0 AS is_meant
                     FROM record WHERE id > f.reached AND id < (f.incarnation::bigint + 1) << 40 ORDER BY id LIMIT $3) l) r
             WHERE f.target = $2 AND r.meant <= $4 ORDER BY r.id",
            &[&i32::from(self.target.0), &self.number(), &LOOK, &(most as i64)],
        )
        .await?;
        let mut heads: HashMap<i32, VecDeque<Head>> = HashMap::new();
        for row in rows {
            let head = Head { id: row.get(1), accepted_at: row.get(2), size: row.get(3), is_meant: row.get(4) };
            heads.entry(row.get(0)).or_default().push_back(head);
        }
        Ok(heads)
    }

    /// The records of a slice. Those that this relay has committed itself may still be in memory.
    async fn of_slice(&self, slice: i64, records: Vec<i64>) -> Result<Vec<Ready>, Fault> {
        let mut held: HashMap<i64, Kept> = {
            let hand = self.shared.hand(self.target);
            let state = hand.state();
            records.iter().filter_map(|id| Some((*id, state.fresh.get(*id)?))).collect()
        };
        let others: Vec<i64> = records.iter().filter(|id| !held.contains_key(id)).copied().collect();
        let mut loaded = record::load(self.shared, &self.tx, &others).await?;
        let mut ready = Vec::new();
        for id in records {
            let kept = match held.remove(&id) {
                Some(kept) => Some(kept),
                None => record::expect(self.shared, &self.tx, self.target, id, loaded.remove(&id)).await?,
            };
            match kept {
                Some(kept) => ready.push(untried(&kept, slice)),
                None => {
                    let sql = "UPDATE slice SET records = array_remove(records, $2) WHERE id = $1";
                    execute(&self.tx, sql, &[&slice, &id]).await?;
                }
            }
        }
        Ok(ready)
    }
}

/// The records of a new slice, and the new position of each frontier.
#[derive(Default)]
struct Chosen {
    records: Vec<i64>,
    reached: HashMap<i32, i64>,
}

/// Chooses the oldest records, those of each incarnation in the order of their numbers: up to `most`, and up to [`BYTES`] with the `ready`
/// bytes.
fn choose(heads: &mut HashMap<i32, VecDeque<Head>>, most: usize, ready: usize) -> Chosen {
    let (mut chosen, mut bytes) = (Chosen::default(), ready as i64);
    loop {
        for (incarnation, own) in heads.iter_mut() {
            while let Some(head) = own.front().filter(|head| !head.is_meant) {
                chosen.reached.insert(*incarnation, head.id);
                own.pop_front();
            }
        }
        let first = heads.iter().filter_map(|(incarnation, own)| Some((own.front()?, *incarnation)));
        let Some((head, incarnation)) = first.min_by_key(|(head, _)| (head.accepted_at, head.id)) else {
            return chosen;
        };
        bytes += head.size;
        if chosen.records.len() == most || (bytes > BYTES as i64 && !chosen.records.is_empty()) {
            return chosen;
        }
        chosen.records.push(head.id);
        chosen.reached.insert(incarnation, head.id);
        heads.entry(incarnation).or_default().pop_front();
    }
}

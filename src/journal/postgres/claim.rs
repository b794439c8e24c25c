//! Hands records of a target out to this relay.
//!
//! Rules: in one transaction that has the target to itself. What is due comes first, then what a relay that is gone had, then a slice of
//! what nobody has tried, in the order of acceptance, then what a backfill took up. Each incarnation's records are taken in the order of
//! their numbers, and a frontier never passes one that is not committed: within an incarnation they are committed in order.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;

use tokio_postgres::Transaction;

use crate::clock::Timestamp;
use crate::journal::backfill::BACKGROUND;
use crate::journal::{Progress, TargetId};

use super::fault::Fault;
use super::hand::{Place, Ready};
use super::places;
use super::record::{self, Loaded, NEVER, ms};
use super::shared::Shared;

/// The most records of a slice.
pub(super) const SLICE: usize = 64;
/// The most bytes of bodies that one look brings into memory, but for the first.
const BYTES: i64 = 4 << 20;
/// How many records are looked at for those that are meant for a target.
const LOOK: i64 = 512;

/// A record that nobody has tried.
struct Head {
    id: i64,
    accepted_at: i64,
    size: i64,
    is_meant: bool,
}

/// Brings more of a target into hand, of what may be tried now. What is known to be left is noted there.
pub(super) async fn fetch(shared: &Shared, target: TargetId, now: Timestamp, max: usize) -> Result<(), Fault> {
    let hand = shared.hand(target);
    // Before the look: who tells of more while it lasts is heard.
    hand.more.store(false, Ordering::Release);
    let known = if hand.is_doubtful.swap(true, Ordering::AcqRel) { Some(hand.state().known()) } else { None };
    let is_certain = known != Some(None);
    let looked = look(shared, target, (now, max), known.flatten()).await;
    if looked.is_ok() && is_certain {
        hand.is_doubtful.store(false, Ordering::Release);
    }
    let mut state = hand.state();
    if looked.as_ref().map_or(true, |(found, _)| !found.is_empty() || !state.ready.is_empty()) {
        hand.more.store(true, Ordering::Release);
    }
    let (found, next) = looked?;
    state.next_due = next;
    // What is due goes before what was never tried.
    let is_due = found.first().is_some_and(|ready| matches!(ready.place, Place::Row(_)) && !ready.backfilled);
    if is_due {
        state.put_back(found.into_iter());
    } else {
        state.ready.extend(found);
    }
    Ok(())
}

/// What is handed out to this relay now, and when the next row comes due after that. What is ours there and not among what is `known`
/// is handed out again.
async fn look(
    shared: &Shared,
    target: TargetId,
    (now, max): (Timestamp, usize),
    known: Option<Vec<i64>>,
) -> Result<(Vec<Ready>, Option<Timestamp>), Fault> {
    let (hand, number) = (shared.hand(target), i16::from(target.0));
    let mut pooled = shared.client().await?;
    let tx = pooled.transaction().await?;
    tx.execute("SELECT 1 FROM target WHERE id = $1 FOR UPDATE", &[&number]).await?;
    tx.execute(places::FREE, &[&number, &shared.incarnation]).await?;
    let due = i64::try_from(now.as_millis()).unwrap_or(i64::MAX).min(ms(BACKGROUND) - 1);
    let again = match known {
        Some(known) => take_again(shared, &tx, number, known).await?,
        None => vec![],
    };
    let mut found = take_rows(shared, &tx, (number, i64::MIN, due), max).await?;
    if found.is_empty() {
        found = take_over(shared, &tx, number).await?;
    }
    if found.is_empty() && hand.state().ready.is_empty() {
        found = take_slice(shared, &tx, number).await?;
    }
    if found.is_empty() && hand.state().ready.is_empty() {
        found = take_rows(shared, &tx, (number, ms(BACKGROUND), ms(NEVER) - 1), max).await?;
    }
    let next: Option<i64> = tx
        .query_one(
            "SELECT min(due) FROM pending WHERE target = $1 AND owner IS NULL AND due < $2",
            &[&number, &ms(BACKGROUND)],
        )
        .await?
        .get(0);
    tx.commit().await?;
    found.extend(again);
    Ok((found, next.map(record::time)))
}

/// Takes what is ours there and not here: what an earlier look had taken that did not come to its end.
async fn take_again(shared: &Shared, tx: &Transaction<'_>, target: i16, known: Vec<i64>) -> Result<Vec<Ready>, Fault> {
    let me = shared.incarnation;
    let free = "UPDATE pending SET owner = NULL WHERE target = $1 AND owner = $2 AND record <> ALL($3)";
    tx.execute(free, &[&target, &me, &known]).await?;
    let sql =
        "SELECT id, ARRAY(SELECT u.r FROM unnest(records) WITH ORDINALITY AS u(r, o) WHERE u.r <> ALL($3) ORDER BY u.o)
         FROM slice WHERE target = $1 AND owner = $2 ORDER BY id";
    let mut again = Vec::new();
    for row in tx.query(sql, &[&target, &me, &known]).await? {
        again.extend(of_slice(shared, tx, target, (row.get(0), row.get(1))).await?);
    }
    Ok(again)
}

/// Takes rows that come due in that time.
async fn take_rows(
    shared: &Shared,
    tx: &Transaction<'_>,
    (target, from, to): (i16, i64, i64),
    max: usize,
) -> Result<Vec<Ready>, Fault> {
    let limit = i64::try_from(max.min(SLICE)).unwrap_or(i64::MAX);
    let mut rows = tx
        .query(
            "UPDATE pending SET owner = $4, turn = nextval('turn') WHERE target = $1 AND record IN (
                 SELECT record FROM (
                     SELECT p.record, row_number() OVER so_far AS place, (sum(r.size) OVER so_far)::bigint AS bytes
                     FROM (SELECT record, due FROM pending WHERE target = $1 AND owner IS NULL AND due >= $2 AND due <= $3
                         ORDER BY due, record LIMIT $5) p
                     LEFT JOIN record r ON r.id = p.record AND r.body IS NOT NULL
                     WINDOW so_far AS (ORDER BY p.due, p.record)) AS due
                 WHERE place = 1 OR coalesce(bytes, 0) <= $6)
             RETURNING record, due, attempts, strikes, items, quantities, turn",
            &[&target, &from, &to, &shared.incarnation, &limit, &BYTES],
        )
        .await?;
    rows.sort_by_key(|row| (row.get::<_, i64>(1), row.get::<_, i64>(0)));
    let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    let mut loaded = record::load(shared, tx, &ids).await?;
    let mut ready = Vec::new();
    for row in rows {
        let (id, due): (i64, i64) = (row.get(0), row.get(1));
        let Some(Loaded { record, project }) = record::expect(shared, tx, target, id, loaded.remove(&id)).await? else {
            continue;
        };
        let items = row.get::<_, Option<&[u8]>>(4).map(record::items);
        let (attempts, strikes): (i32, i32) = (row.get(2), row.get(3));
        let progress = Progress { attempts: attempts.cast_unsigned(), strikes: strikes.cast_unsigned(), items };
        let own = row.get::<_, Option<&str>>(5).and_then(|text| text.parse().ok());
        let quantities = own.unwrap_or_else(|| record.quantities.clone());
        let backfilled = due >= ms(BACKGROUND);
        ready.push(Ready { record, project, place: Place::Row(row.get(6)), progress, quantities, backfilled });
    }
    Ok(ready)
}

/// Takes over a slice of a relay that is gone.
async fn take_over(shared: &Shared, tx: &Transaction<'_>, target: i16) -> Result<Vec<Ready>, Fault> {
    let row = tx
        .query_opt(
            "UPDATE slice SET owner = $2 WHERE id = (
                 SELECT s.id FROM slice s JOIN node n ON n.incarnation = s.owner
                 WHERE s.target = $1 AND s.owner <> $2 AND (n.replaced OR n.gone)
                 ORDER BY s.id LIMIT 1)
             RETURNING id, records",
            &[&target, &shared.incarnation],
        )
        .await?;
    match row {
        None => Ok(vec![]),
        Some(row) => of_slice(shared, tx, target, (row.get(0), row.get(1))).await,
    }
}

/// Takes a slice of what nobody has tried.
async fn take_slice(shared: &Shared, tx: &Transaction<'_>, target: i16) -> Result<Vec<Ready>, Fault> {
    tx.execute(places::BEGIN, &[&target]).await?;
    loop {
        let mut heads = heads(tx, target).await?;
        if heads.is_empty() {
            return Ok(vec![]);
        }
        let chosen = choose(&mut heads);
        for (incarnation, reached) in &chosen.reached {
            let sql = "UPDATE frontier SET reached = $3 WHERE target = $1 AND incarnation = $2";
            tx.execute(sql, &[&target, incarnation, reached]).await?;
        }
        if !chosen.records.is_empty() {
            let row = tx
                .query_one(
                    "INSERT INTO slice (target, owner, records) VALUES ($1, $2, $3) RETURNING id",
                    &[&target, &shared.incarnation, &chosen.records],
                )
                .await?;
            return of_slice(shared, tx, target, (row.get(0), chosen.records)).await;
        }
    }
}

/// What lies behind each frontier, by incarnation, as much as is looked at.
async fn heads(tx: &Transaction<'_>, target: i16) -> Result<HashMap<i32, VecDeque<Head>>, Fault> {
    let rows = tx
        .query(
            "SELECT f.incarnation, r.id, r.accepted_at, r.size, r.targets & (1::bigint << $1) <> 0
             FROM frontier f CROSS JOIN LATERAL (
                 SELECT id, accepted_at, CASE WHEN body IS NULL THEN 0 ELSE size END AS size, targets FROM record
                 WHERE id > f.reached AND id < (f.incarnation::bigint + 1) << 40 ORDER BY id LIMIT $3) r
             WHERE f.target = $2 ORDER BY r.id",
            &[&i32::from(target), &target, &LOOK],
        )
        .await?;
    let mut heads: HashMap<i32, VecDeque<Head>> = HashMap::new();
    for row in rows {
        let head = Head { id: row.get(1), accepted_at: row.get(2), size: row.get(3), is_meant: row.get(4) };
        heads.entry(row.get(0)).or_default().push_back(head);
    }
    Ok(heads)
}

/// What a slice is made of, and how far each frontier goes with it.
#[derive(Default)]
struct Chosen {
    records: Vec<i64>,
    reached: HashMap<i32, i64>,
}

/// The oldest, of each incarnation in the order of their numbers.
fn choose(heads: &mut HashMap<i32, VecDeque<Head>>) -> Chosen {
    let (mut chosen, mut bytes) = (Chosen::default(), 0);
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
        if chosen.records.len() == SLICE || (bytes > BYTES && !chosen.records.is_empty()) {
            return chosen;
        }
        chosen.records.push(head.id);
        chosen.reached.insert(incarnation, head.id);
        heads.entry(incarnation).or_default().pop_front();
    }
}

async fn of_slice(
    shared: &Shared,
    tx: &Transaction<'_>,
    target: i16,
    (slice, records): (i64, Vec<i64>),
) -> Result<Vec<Ready>, Fault> {
    let mut loaded = record::load(shared, tx, &records).await?;
    let mut ready = Vec::new();
    for id in records {
        let Some(Loaded { record, project }) = record::expect(shared, tx, target, id, loaded.remove(&id)).await? else {
            tx.execute("UPDATE slice SET records = array_remove(records, $2) WHERE id = $1", &[&slice, &id]).await?;
            continue;
        };
        let quantities = record.quantities.clone();
        let progress = Progress::default();
        ready.push(Ready { record, project, place: Place::Slice(slice), progress, quantities, backfilled: false });
    }
    Ok(ready)
}

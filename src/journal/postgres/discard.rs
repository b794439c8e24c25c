//! Discards records of a backlog for their age.
//!
//! Rules: a look without a lock first finds out whether any record is so old, and delays nobody. Leased records stay, and so do those that
//! another relay has in hand. Our own ready records are withdrawn meanwhile. Each incarnation's records go in the order of their numbers,
//! and the oldest goes first.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tokio_postgres::Row;

use crate::clock::Timestamp;
use crate::journal::body::Body;
use crate::journal::{TargetId, bounded};
use crate::policy::outcome::DropReason;
use crate::protocol::category::{Category, Quantities};

use super::claim::LOOKS;
use super::fault::Fault;
use super::hand::{Ready, incarnation};
use super::places;
use super::record::{self, COLUMNS, TABLES, ms};
use super::settled;
use super::shared::Shared;
use super::work::Work;

/// The most records behind the frontier of an incarnation that one look reads.
const LOOK: i64 = 1024;
/// How many bodies are read at once to count their spans.
pub(super) const BODIES: usize = 32;

/// A record that may be discarded.
struct Candidate {
    id: i64,
    accepted_at: i64,
    project: i32,
    size: i64,
    quantities: Quantities,
    is_meant: bool,
}

/// The backlog of one incarnation, in the order of numbers.
#[derive(Default)]
struct Line {
    /// Records that were handed out or put off, and that nobody tries.
    placed: VecDeque<Candidate>,
    /// Records behind the frontier.
    untried: VecDeque<Candidate>,
    /// Whether there are more behind the frontier than were read.
    has_more: bool,
}

/// The choice of records to discard.
#[derive(Default)]
struct Choice {
    victims: Vec<Candidate>,
    /// The new positions of frontiers, by incarnation.
    reached: BTreeMap<i32, i64>,
}

/// Discards up to `limit` records that were accepted before a time, the oldest first; returns how many.
pub(super) async fn old(
    shared: &Arc<Shared>,
    target: TargetId,
    plan: (Timestamp, DropReason, usize),
) -> Result<usize, Fault> {
    if !settled::has_older(shared, ms(plan.0)).await? {
        return Ok(0);
    }
    let hand = shared.hand(target);
    let _fetching = hand.fetching.lock().await;
    // If this fails, the withdrawn records are looked up in the database.
    let doubt = hand.doubt();
    let withdrawn = hand.state().withdraw(|_| true);
    let gone = attempt(shared, target, &withdrawn, plan).await?;
    let numbers: HashSet<i64> = gone.iter().map(|victim| victim.id).collect();
    let stays = |ready: &Ready| !numbers.contains(&ready.number());
    hand.state().bring(withdrawn.into_iter().filter(stays));
    hand.resolve(doubt);
    hand.wake();
    Ok(gone.len())
}

async fn attempt(
    shared: &Arc<Shared>,
    target: TargetId,
    withdrawn: &[Ready],
    (before, reason, limit): (Timestamp, DropReason, usize),
) -> Result<Vec<Candidate>, Fault> {
    let withdrawn: Vec<i64> = withdrawn.iter().map(Ready::number).collect();
    Work::run(shared, async |work| {
        let choice = find(work, target, &withdrawn, (ms(before), limit)).await?;
        drop_all(work, target, reason, choice).await
    })
    .await
}

/// Finds the records to discard.
async fn find(work: &Work, target: TargetId, ready: &[i64], (before, limit): (i64, usize)) -> Result<Choice, Fault> {
    let (number, me) = (i16::from(target.0), work.shared.incarnation);
    work.lock(target).await?;
    work.execute(places::FREE, &[&number, &me]).await?;
    work.execute(places::BEGIN, &[&number]).await?;
    let mut lines: BTreeMap<i32, Line> = BTreeMap::new();
    for candidate in placed(work, number, ready, limit).await? {
        lines.entry(incarnation(candidate.id)).or_default().placed.push_back(candidate);
    }
    let mut choice = Choice::default();
    // What is left is for the next call: the target is released in between.
    for _ in 0..LOOKS {
        lines.values_mut().for_each(|line| (line.untried, line.has_more) = (VecDeque::new(), false));
        for candidate in untried(work, number).await? {
            lines.entry(incarnation(candidate.id)).or_default().untried.push_back(candidate);
        }
        lines.values_mut().for_each(|line| line.has_more = line.untried.len() as i64 == LOOK);
        let is_all = choice.go_on(&mut lines, before, limit);
        rise(work, number, std::mem::take(&mut choice.reached)).await?;
        if is_all {
            break;
        }
    }
    Ok(choice)
}

/// Raises the frontiers over discarded records and those that are not meant for the target.
async fn rise(work: &Work, target: i16, reached: BTreeMap<i32, i64>) -> Result<(), Fault> {
    if reached.is_empty() {
        return Ok(());
    }
    let (incarnations, reached): (Vec<i32>, Vec<i64>) = reached.into_iter().unzip();
    work.execute(
        "UPDATE frontier f SET reached = u.reached FROM unnest($2::int[], $3::bigint[]) AS u(incarnation, reached)
         WHERE f.target = $1 AND f.incarnation = u.incarnation",
        &[&target, &incarnations, &reached],
    )
    .await
}

impl Choice {
    /// Chooses more records. Returns `false` if more records behind the frontiers must be read first.
    fn go_on(&mut self, lines: &mut BTreeMap<i32, Line>, before: i64, limit: usize) -> bool {
        while self.victims.len() < limit {
            for (incarnation, line) in lines.iter_mut() {
                while line.placed.is_empty()
                    && let Some(passed) = line.untried.pop_front_if(|next| !next.is_meant)
                {
                    self.reached.insert(*incarnation, passed.id);
                }
                if line.placed.is_empty() && line.untried.is_empty() && line.has_more {
                    return false;
                }
            }
            let heads = lines.iter().filter_map(|(of, line)| Some((line.head()?, *of)));
            let first = heads.min_by_key(|(head, _)| (head.accepted_at, head.id));
            let Some((_, of)) = first.filter(|(head, _)| head.accepted_at < before) else { return true };
            let Some(line) = lines.get_mut(&of) else { return true };
            let victim = line.placed.pop_front().or_else(|| {
                let next = line.untried.pop_front();
                self.reached.extend(next.iter().map(|next| (of, next.id)));
                next
            });
            self.victims.extend(victim);
        }
        true
    }
}

impl Line {
    fn head(&self) -> Option<&Candidate> {
        self.placed.front().or_else(|| self.untried.front())
    }
}

impl Candidate {
    /// Reads a row of `id, accepted_at, project, size, quantities, is_meant`.
    fn read(row: &Row) -> Self {
        Self {
            id: row.get(0),
            accepted_at: row.get(1),
            project: row.get(2),
            size: row.get(3),
            quantities: row.get::<_, &str>(4).parse().unwrap_or_default(),
            is_meant: row.get(5),
        }
    }
}

/// The records that were handed out or put off and that nobody tries: rows without an owner, our own ready records, and slices of relays
/// that are gone.
async fn placed(work: &Work, target: i16, ready: &[i64], limit: usize) -> Result<Vec<Candidate>, Fault> {
    let (me, limit) = (work.shared.incarnation, bounded(limit));
    let mut rows = work
        .query(
            "SELECT q.* FROM frontier f CROSS JOIN LATERAL (
                 SELECT r.id, r.accepted_at, r.project, r.size, coalesce(p.quantities, r.quantities), true
                 FROM pending p JOIN record r ON r.id = p.record
                 WHERE p.target = $1 AND p.record > f.incarnation::bigint << 40
                 AND p.record < (f.incarnation::bigint + 1) << 40
                 AND (p.owner IS NULL OR (p.owner = $2 AND p.record = ANY($3))) ORDER BY p.record LIMIT $4) q
             WHERE f.target = $1",
            &[&target, &me, &ready, &limit],
        )
        .await?;
    let in_slices = work
        .query(
            "SELECT r.id, r.accepted_at, r.project, r.size, r.quantities, true
             FROM slice s CROSS JOIN unnest(s.records) AS u(id) JOIN record r ON r.id = u.id
             WHERE s.target = $1 AND ((s.owner = $2 AND u.id = ANY($3)) OR EXISTS (
                 SELECT 1 FROM node n WHERE n.incarnation = s.owner AND n.incarnation <> $2
                 AND (n.replaced OR n.gone)))
             ORDER BY s.id FOR UPDATE OF s",
            &[&target, &me, &ready],
        )
        .await?;
    rows.extend(in_slices);
    let mut all: Vec<Candidate> = rows.iter().map(Candidate::read).collect();
    all.sort_by_key(|candidate| candidate.id);
    Ok(all)
}

/// The records behind the frontiers, as many as one look reads.
async fn untried(work: &Work, target: i16) -> Result<Vec<Candidate>, Fault> {
    let rows = work
        .query(
            "SELECT r.id, r.accepted_at, r.project, r.size, r.quantities, r.targets & (1::bigint << $2) <> 0
             FROM frontier f CROSS JOIN LATERAL (
                 SELECT id, accepted_at, project, size, quantities, targets FROM record
                 WHERE id > f.reached AND id < (f.incarnation::bigint + 1) << 40 ORDER BY id LIMIT $3) r
             WHERE f.target = $1 ORDER BY r.id",
            &[&target, &i32::from(target), &LOOK],
        )
        .await?;
    Ok(rows.iter().map(Candidate::read).collect())
}

/// Takes the discarded records out of their places, and books them as dropped.
async fn drop_all(
    work: &mut Work,
    target: TargetId,
    reason: DropReason,
    Choice { victims, .. }: Choice,
) -> Result<Vec<Candidate>, Fault> {
    if victims.is_empty() {
        return Ok(victims);
    }
    let (number, ids): (i16, Vec<i64>) = (target.0.into(), victims.iter().map(|victim| victim.id).collect());
    work.execute("DELETE FROM pending WHERE target = $1 AND record = ANY($2)", &[&number, &ids]).await?;
    work.execute(
        "UPDATE slice SET records = ARRAY(
             SELECT u.r FROM unnest(records) WITH ORDINALITY AS u(r, o) WHERE u.r <> ALL($2) ORDER BY u.o)
         WHERE target = $1 AND records && $2",
        &[&number, &ids],
    )
    .await?;
    work.execute("DELETE FROM slice WHERE target = $1 AND cardinality(records) = 0", &[&number]).await?;
    let now = work.now();
    for some in victims.chunks(BODIES) {
        let counted = some.iter().filter(|victim| counts_body(&victim.quantities));
        let counted: Vec<i64> = counted.map(|victim| victim.id).collect();
        let mut bodies = bodies(work, reason, &counted).await?;
        for Candidate { id, project, size, quantities, .. } in some {
            let body = bodies.remove(id).unwrap_or_else(|| Bytes::new().into());
            work.book.note_dropped(now, (target, *project), reason, (&body, quantities));
            work.book.leave(target, *project, size.cast_unsigned(), quantities);
        }
    }
    places::note_missed(work, target, ids.into_iter().map(|id| (id, reason)).collect()).await?;
    Ok(victims)
}

/// Returns whether the body of a record must be read to count these losses: spans are lost with a transaction.
pub(super) fn counts_body(lost: &Quantities) -> bool {
    lost.iter().any(|(category, _)| category == Category::Transaction)
}

/// The bodies of records whose spans are to be counted; none for a reason that is not reported.
pub(super) async fn bodies(work: &Work, reason: DropReason, ids: &[i64]) -> Result<BTreeMap<i64, Body>, Fault> {
    if ids.is_empty() || reason.reported_as().is_none() {
        return Ok(BTreeMap::new());
    }
    let rows = work.query(&format!("SELECT {COLUMNS} FROM {TABLES} WHERE r.id = ANY($1)"), &[&ids]).await?;
    // A body that cannot be read has no spans that can be counted.
    let loaded = rows.iter().filter_map(|row| record::of_row(&work.shared, row).ok());
    Ok(loaded.map(|loaded| (loaded.record.id.number().cast_signed(), loaded.record.body.clone())).collect())
}

//! Hands records that this relay commits out to itself, in the same transaction, when a worker asks for them. Such a record needs no look
//! into the database, and its body is not read back.
//!
//! Rules: the transaction shares the target with others that do the same, and with nobody else ([`Work::share`]). If one has the target to
//! itself, nothing is handed out, and nobody waits. The database says which records are behind the frontier; if some of them are not here,
//! nothing is handed out. What a failed transaction handed out is looked up.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::journal::{Progress, TargetId};

use super::fault::Fault;
use super::fresh::Kept;
use super::hand::{Place, Ready};
use super::shared::Shared;
use super::work::Work;

/// How far behind the frontier may be. Records farther behind are left to claims, which read a part at a time.
const FAR: i64 = 1024;

/// The records that a transaction writes, by target, and which of them it hands out.
#[derive(Default)]
pub(super) struct Handout {
    kept: BTreeMap<TargetId, Vec<Kept>>,
    /// Whether a worker asks, as of the first record that was noted for the target.
    asked: BTreeMap<TargetId, bool>,
    /// By target, the last record that no worker asks for: such records are not kept in memory.
    unasked: BTreeMap<TargetId, i64>,
    /// The targets that this transaction shares.
    targets: Vec<i16>,
    promised: BTreeMap<TargetId, Vec<Kept>>,
    slices: Vec<(TargetId, i64, Vec<i64>)>,
}

impl Handout {
    /// Notes a record for these targets. `make` makes the copy in memory if a worker asks for one of them.
    pub(super) fn note(&mut self, shared: &Shared, (id, targets): (i64, &[TargetId]), make: impl FnOnce() -> Kept) {
        let asks = |target: &TargetId| shared.hand(*target).state().is_asked();
        if !targets.iter().any(|target| *self.asked.entry(*target).or_insert_with(|| asks(target))) {
            self.unasked.extend(targets.iter().map(|target| (*target, id)));
            return;
        }
        let kept = make();
        for target in targets {
            self.kept.entry(*target).or_default().push(kept.clone());
        }
    }

    /// Shares the targets that records may be handed out for. It waits for nobody, so it may be sent together with the rows.
    /// [`Handout::make`], sent after it, reads what earlier holders of the targets left.
    pub(super) async fn share(&mut self, work: &Work) -> Result<(), Fault> {
        if work.shared.may_be_gone() {
            return Ok(());
        }
        let asking = self.kept.keys().filter(|target| work.shared.hand(**target).state().asks());
        let wanted: Vec<i16> = asking.map(|target| target.0.into()).collect();
        if !wanted.is_empty() {
            self.targets = work.share(&wanted).await?;
        }
        Ok(())
    }

    /// Hands out what workers ask for: for each target the records behind this relay's frontier, if all of them are here.
    pub(super) async fn make(&mut self, work: &Work) -> Result<(), Fault> {
        let (mut targets, mut lasts, mut owners, mut ids) = (vec![], vec![], vec![], vec![]);
        for number in std::mem::take(&mut self.targets) {
            let target = TargetId(u8::try_from(number).unwrap_or(u8::MAX));
            let Some(kept) = self.kept.get(&target) else { continue };
            let promised = work.shared.hand(target).state().promise(kept);
            if let Some(last) = promised.last() {
                targets.push(number);
                lasts.push(last.number());
                owners.extend(promised.iter().map(|_| number));
                ids.extend(promised.iter().map(Kept::number));
                self.promised.insert(target, promised);
            }
        }
        if targets.is_empty() {
            return Ok(());
        }
        let me = work.shared.incarnation;
        let sql = "WITH behind AS (
                 SELECT u.target, u.last, ARRAY(
                     SELECT r.id FROM record r WHERE r.id > f.reached AND r.id <= u.last
                     AND r.targets & (1::bigint << u.target::int) <> 0 ORDER BY r.id) AS ids
                 FROM unnest($2::smallint[], $3::bigint[]) AS u(target, last)
                 JOIN frontier f ON f.target = u.target AND f.incarnation = $1 AND u.last - f.reached <= $6),
             taken AS (SELECT target, last, ids FROM behind b WHERE cardinality(ids) > 0
                 AND ids <@ ARRAY(SELECT p.id FROM unnest($4::smallint[], $5::bigint[]) AS p(target, id) WHERE p.target = b.target)),
             risen AS (UPDATE frontier f SET reached = t.ids[cardinality(t.ids)] FROM taken t
                 WHERE f.target = t.target AND f.incarnation = $1)
             INSERT INTO slice (target, owner, records) SELECT target, $1, ids FROM taken RETURNING id, target, records";
        let rows = work.query(sql, &[&me, &targets, &lasts, &owners, &ids, &FAR]).await?;
        let target = |number: i16| TargetId(u8::try_from(number).unwrap_or(u8::MAX));
        self.slices = rows.iter().map(|row| (target(row.get(1)), row.get(0), row.get(2))).collect();
        Ok(())
    }

    /// After the commit: makes the records ready that were handed out, keeps the others as fresh, and notifies workers.
    pub(super) fn keep(self, shared: &Shared) {
        let Self { kept, unasked, promised, slices, .. } = self;
        interrupt(shared, unasked);
        for (target, kept) in kept {
            let hand = shared.hand(target);
            let mut state = hand.state();
            if let Some(promised) = promised.get(&target) {
                let own = slices.iter().find(|(of, ..)| *of == target);
                let ready = own.map(|(_, slice, records)| ready(promised, *slice, records)).unwrap_or_default();
                let last = promised.last().map_or(0, Kept::number);
                if ready.is_empty() {
                    state.fresh.interrupt(last)
                } else {
                    state.fresh.note_reached(last)
                }
                state.keep_promise(ready.into_iter());
            }
            kept.into_iter().for_each(|kept| state.fresh.push(kept));
            let is_left = !state.fresh.is_empty() || !state.fresh.is_whole();
            drop(state);
            if is_left { hand.wake() } else { hand.changed.notify_one() }
        }
    }

    /// After a transaction that failed, as far as is known: its records are looked up.
    pub(super) fn forget(self, shared: &Shared) {
        interrupt(shared, self.unasked);
        for (target, kept) in self.kept {
            let (hand, last) = (shared.hand(target), kept.last().map_or(0, Kept::number));
            let mut state = hand.state();
            state.fresh.interrupt(last);
            state.keep_promise(std::iter::empty());
            hand.doubt();
            drop(state);
            hand.wake();
        }
    }
}

/// Reports records that are not kept in memory: they are read back.
fn interrupt(shared: &Shared, unasked: BTreeMap<TargetId, i64>) {
    for (target, last) in unasked {
        let hand = shared.hand(target);
        hand.state().fresh.interrupt(last);
        hand.wake();
    }
}

/// The promised records that are in a slice, as ready ones.
fn ready(promised: &[Kept], slice: i64, records: &[i64]) -> Vec<Ready> {
    let is_taken = |kept: &&Kept| records.contains(&kept.number());
    promised.iter().filter(is_taken).map(|kept| untried(kept, slice)).collect()
}

/// A record of a slice that counts as untried.
pub(super) fn untried(kept: &Kept, slice: i64) -> Ready {
    let (record, project, place) = (Arc::clone(&kept.record), kept.project, Place::Slice(slice));
    let (progress, quantities) = (Progress::default(), record.quantities.clone());
    Ready { record, project, place, progress, quantities, backfilled: false, repaired: false }
}

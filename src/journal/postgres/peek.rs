//! A look at what a target has to hand out, without a lock: one that finds nothing delays nobody.

use crate::journal::TargetId;
use crate::journal::backfill::BACKGROUND;

use super::connect::Connection;
use super::fault::Fault;
use super::hand::SLICE;
use super::record::{NEVER, ms};

/// The most records behind a frontier that are read to find one for the target.
const LOOK: i64 = 512;

/// What a look found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// When the next row without an owner comes due, backfills aside; `None` if there is none.
    pub(super) next_due: Option<i64>,
    /// Whether relays that are gone had records in hand.
    pub(super) is_left: bool,
    /// Whether there are records of a backfill.
    pub(super) has_background: bool,
    /// The frontier of this relay's own records; `None` if there is none yet.
    pub(super) reached: Option<i64>,
    /// Whether there are records of this relay that were not handed out.
    pub(super) has_own: bool,
    /// Whether there are records of other relays that were not handed out.
    pub(super) has_others: bool,
    /// Whether a frontier is far behind, with records that are not meant for the target in between.
    pub(super) is_far: bool,
}

impl Seen {
    /// Returns whether rows are due.
    pub(super) fn is_due(&self, now: i64) -> bool {
        self.next_due.is_some_and(|due| due <= now)
    }

    /// Returns whether untried records may be handed out now, with `ready` records here. Our own are handed out to an empty hand; those of
    /// other relays also while our own flow.
    pub(super) fn has_untried(&self, ready: usize) -> bool {
        let has_others = (self.has_others || self.is_far) && ready < SLICE;
        self.reached.is_none() || has_others || (self.has_own && ready == 0)
    }

    /// Returns whether anything may be handed out now.
    pub(super) fn has_any(&self, now: i64, ready: usize) -> bool {
        self.is_due(now) || self.is_left || self.has_untried(ready) || (self.has_background && ready == 0)
    }
}

/// Looks: behind each frontier no farther than to the first record that is meant for the target.
pub(super) async fn peek(client: &Connection, target: TargetId, me: i32) -> Result<Seen, Fault> {
    let number = i16::from(target.0);
    let row = client
        .one(
            "WITH behind AS (
                 SELECT n.incarnation, q.meant, q.ends FROM node n
                 LEFT JOIN frontier f ON f.target = $1 AND f.incarnation = n.incarnation
                 CROSS JOIN LATERAL (
                     SELECT r.targets & (1::bigint << $5) <> 0 AS meant, r.place = $6 AS ends FROM (
                         SELECT targets, row_number() OVER (ORDER BY id) AS place FROM record
                         WHERE id > coalesce(f.reached, n.incarnation::bigint << 40) AND id < (n.incarnation::bigint + 1) << 40
                         ORDER BY id LIMIT $6) r
                     WHERE r.targets & (1::bigint << $5) <> 0 OR r.place = $6 LIMIT 1) q)
             SELECT
                 (SELECT min(due) FROM pending WHERE target = $1 AND owner IS NULL AND due < $3),
                 EXISTS (SELECT 1 FROM node n WHERE n.incarnation <> $2 AND (n.replaced OR n.gone) AND (
                     EXISTS (SELECT 1 FROM pending p WHERE p.target = $1 AND p.owner = n.incarnation)
                     OR EXISTS (SELECT 1 FROM slice s WHERE s.target = $1 AND s.owner = n.incarnation))),
                 EXISTS (SELECT 1 FROM pending WHERE target = $1 AND owner IS NULL AND due >= $3 AND due < $4),
                 (SELECT reached FROM frontier WHERE target = $1 AND incarnation = $2),
                 EXISTS (SELECT 1 FROM behind WHERE incarnation = $2 AND meant),
                 EXISTS (SELECT 1 FROM behind WHERE incarnation <> $2 AND meant),
                 EXISTS (SELECT 1 FROM behind WHERE ends AND NOT meant)",
            &[&number, &me, &ms(BACKGROUND), &ms(NEVER), &i32::from(number), &LOOK],
        )
        .await?;
    Ok(Seen {
        next_due: row.get(0),
        is_left: row.get(1),
        has_background: row.get(2),
        reached: row.get(3),
        has_own: row.get(4),
        has_others: row.get(5),
        is_far: row.get(6),
    })
}

//! What there is of a target to be handed out, seen without a lock: who finds nothing keeps nobody waiting.

use crate::journal::TargetId;
use crate::journal::backfill::BACKGROUND;

use super::connect::Connection;
use super::fault::Fault;
use super::hand::SLICE;
use super::record::{NEVER, ms};

/// How many records behind a frontier are looked at for one that is meant for the target.
const LOOK: i64 = 512;

/// What was seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// When the next row comes due that nobody has.
    pub(super) next_due: Option<i64>,
    /// Relays that are gone had something in hand.
    pub(super) is_left: bool,
    /// A backfill took something up.
    pub(super) has_background: bool,
    /// Up to where what this relay took was handed out; `None` when it was never looked there.
    pub(super) reached: Option<i64>,
    /// Nobody was handed something that this relay took.
    pub(super) has_own: bool,
    /// Nobody was handed something that others took.
    pub(super) has_others: bool,
    /// Frontiers are far behind what is not meant for the target.
    pub(super) is_far: bool,
}

impl Seen {
    /// Whether rows are due.
    pub(super) fn is_due(&self, now: i64) -> bool {
        self.next_due.is_some_and(|due| due <= now)
    }

    /// Whether something is untried that may be handed out now, with so many records ready here: of what others have left more is taken
    /// while there is a flow of our own.
    pub(super) fn has_untried(&self, ready: usize) -> bool {
        let has_others = (self.has_others || self.is_far) && ready < SLICE;
        self.reached.is_none() || has_others || (self.has_own && ready == 0)
    }

    /// Whether anything may be handed out now.
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

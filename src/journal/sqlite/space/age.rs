//! The age of records, whatever the clock showed when they came.
//!
//! Rules: numbers rise in the order of acceptance, so a record that is stamped in the future is no younger than the first record after it
//! that is not. Each look is at a bounded number of records. A record stamped in the future is not old until it was looked at.

use rusqlite::Connection;

use crate::clock::Timestamp;

/// Records read in one look.
const LOOK: i64 = 4096;

/// What is known of records that came while the clock was ahead.
#[derive(Debug, Default)]
pub(in crate::journal::sqlite) struct Order {
    /// All records up to this one were accepted by this time.
    known: (u64, Timestamp),
    /// The records behind it that were looked at, up to this one, are stamped later than now.
    looked: u64,
}

/// Tells which records are old now.
#[derive(Debug)]
pub(in crate::journal::sqlite) struct Age<'a> {
    order: &'a mut Order,
    before: Timestamp,
    now: Timestamp,
}

impl Order {
    /// The test of age: records that were accepted before `before` are old.
    pub(in crate::journal::sqlite) fn age(&mut self, before: Timestamp, now: Timestamp) -> Age<'_> {
        Age { order: self, before, now }
    }

    /// Looks for the first record after `id` that is not stamped later than now.
    fn look(&mut self, conn: &Connection, id: u64, now: Timestamp) -> rusqlite::Result<()> {
        let mut select =
            conn.prepare_cached("SELECT id, accepted_at FROM record WHERE id > ?1 ORDER BY id LIMIT ?2")?;
        let mut rows = select.query([id.max(self.looked).cast_signed(), LOOK])?;
        while let Some(row) = rows.next()? {
            let id = row.get::<_, i64>(0)?.cast_unsigned();
            let at = Timestamp::from_millis(row.get::<_, i64>(1)?.cast_unsigned());
            if at <= now {
                self.known = (id, at);
                break;
            }
            self.looked = id;
        }
        Ok(())
    }
}

impl Age<'_> {
    /// Whether a record with this stamp is old.
    pub(in crate::journal::sqlite) fn has(&mut self, conn: &Connection, id: u64, stamp: i64) -> rusqlite::Result<bool> {
        let (stamp, order) = (Timestamp::from_millis(stamp.cast_unsigned()), &mut *self.order);
        if stamp < self.before || stamp <= self.now {
            return Ok(stamp < self.before);
        }
        // An order that was learnt while the clock was further ahead does not count.
        if id > order.known.0 || order.known.1 > self.now {
            order.look(conn, id, self.now)?;
        }
        Ok(id <= order.known.0 && order.known.1 < self.before)
    }
}

//! Room for what comes in: what goes for it, and when there is none to be had.

use crate::journal::JournalError;
use crate::journal::body::Reservation;
use crate::journal::sqlite::group::{Answer, Group, Reply};
use crate::journal::sqlite::space;

use super::{SMALL, Writer};

/// What goes for one that comes in, beside its own size, before it is refused nevertheless.
const SPENT: u64 = 8 << 20;

impl Writer {
    /// Whether the disk and the journal's limit leave room for `need` bytes. Delivered records go for it first, then the oldest of
    /// what waits for shadows alone. With too little left on the disk, what is free within the database serves.
    pub(super) fn make_room(
        &mut self,
        need: u64,
        in_database: bool,
        group: &mut Group,
    ) -> rusqlite::Result<Result<(), JournalError>> {
        let mut spent = 0;
        loop {
            let on_disk = self.shared.disk.check(need.saturating_sub(self.room.doomed()));
            let is_short = on_disk.is_err() || self.room.exceeds(need);
            let room = match on_disk {
                Ok(()) => self.room.make(&self.conn, &self.shared, need)?,
                Err(_) if in_database && self.room.reuse(&self.conn, &self.shared, need)? => Ok(()),
                Err(error) => Err(error),
            };
            let Err(refused) = room else { return Ok(Ok(())) };
            if !is_short || spent > need + SPENT || !self.could_hold(need) {
                return Ok(Err(refused));
            }
            let at = (group.last, self.shared.clock.now(), &mut group.book);
            let gone = self.eviction.step(&self.conn, &self.shared, need, at, &mut group.passes)?;
            let Some(gone) = gone else { return Ok(Err(refused)) };
            spent += gone.bytes;
            self.room.look_again(gone.first);
            space::keep_next_record(&self.conn, self.next)?;
        }
    }

    /// Whether there could be room for `need` bytes if nothing waited but for the primary. Where several are primaries, that is not
    /// known.
    fn could_hold(&self, need: u64) -> bool {
        let mut bits = self.shared.primary_bits().unwrap_or_default();
        bits.sort_unstable();
        bits.dedup();
        let targets = self.shared.targets();
        let only = targets.iter().find(|target| bits == [target.bit()]);
        let kept = only.map_or(0, |target| target.queue().tally.bytes);
        self.room.holds(kept + need)
    }

    /// Takes room for bytes of a file.
    pub(super) fn reserve(&mut self, bytes: u64, reply: Reply<Reservation>, group: &mut Group) -> rusqlite::Result<()> {
        group.answers.push(Answer::Room(reply, Err(JournalError::Closed)));
        let room = self.make_room(bytes, false, group)?.map(|()| self.shared.spool.take(bytes));
        if let Err(error) = &room
            && !self.room.fits(SMALL)
        {
            // Otherwise this one is too large, and small ones are still taken.
            group.refused = Some(error.clone());
        }
        if let Some(Answer::Room(_, answer)) = group.answers.last_mut() {
            *answer = room;
        }
        Ok(())
    }
}

//! Makes room for incoming data: what gives way for it, and when it is refused.

use std::sync::Arc;

use crate::journal::JournalError;
use crate::journal::shares;
use crate::journal::sqlite::file::Reservation;
use crate::journal::sqlite::settlement::Gone;
use crate::journal::sqlite::space::Want;

use super::group::Group;
use super::{SMALL, Writer};

/// The bytes of waiting records that may go for one submission, beyond its own size, before it is refused.
const SPENT: u64 = 8 << 20;

impl Writer<'_> {
    /// Makes room for `need` bytes of a project within the journal's limit and on the disk. Delivered records go first, then the oldest
    /// records that wait only for shadows. With too little left on the disk, free pages within the database serve if `in_database`. A
    /// database whose file is gone takes nothing.
    pub(super) fn make_room(
        &mut self,
        project: Option<u32>,
        need: u64,
        in_database: bool,
        group: &mut Group,
    ) -> rusqlite::Result<Result<(), JournalError>> {
        let is_hopeless = group.fruitless.contains(&project);
        let mut spent = 0;
        loop {
            let left = self.room.left_for_others(&self.shared, project, need);
            if is_hopeless && !self.room.fits(need + left) {
                return Ok(self.room.refused(need, left).map_or(Ok(()), Err));
            }
            let disk = self.shared.disk.check(need.saturating_sub(self.room.doomed())).err();
            if let Some(error @ JournalError::Failed(_)) = disk {
                return Ok(Err(error));
            }
            let want = Want { project, need, is_last: false };
            if self.look_for_room(want, in_database, disk.as_ref())?.is_ok() {
                return Ok(Ok(()));
            }
            // By now the room in use is measured. Before, it was an estimate that may have been too low.
            let is_short = disk.is_some() || self.room.exceeds(need + left);
            let may_give = is_short && spent <= need + SPENT && self.could_hold(need + left);
            let gone = if may_give { self.give_up(project, need, group)? } else { None };
            let Some(gone) = gone else {
                let found = self.look_for_room(Want { is_last: true, ..want }, in_database, disk.as_ref())?;
                if matches!(found, Err(JournalError::Share(_))) {
                    group.fruitless.push(project);
                }
                return Ok(found);
            };
            spent += gone.bytes;
            self.room.let_go(self.conn, &self.shared, gone.records)?;
        }
    }

    /// Finds room that is free or that delivered records give. `disk` is why the disk has none.
    fn look_for_room(
        &mut self,
        want: Want,
        in_database: bool,
        disk: Option<&JournalError>,
    ) -> rusqlite::Result<Result<(), JournalError>> {
        match disk {
            None => self.room.make(self.conn, &self.shared, want),
            Some(_) if in_database && self.room.reuse(self.conn, &self.shared, want)? => Ok(Ok(())),
            Some(error) => Ok(Err(error.clone())),
        }
    }

    /// Drops the oldest records that wait only for shadows.
    fn give_up(&mut self, project: Option<u32>, need: u64, group: &mut Group) -> rusqlite::Result<Option<Gone>> {
        let giving = self.shared.shares().giving(project, need);
        if giving.is_empty() {
            return Ok(None);
        }
        let at = (group.last, self.shared.clock.now(), &mut group.book);
        self.eviction.step(self.conn, &self.shared, (&giving, need), at, &mut group.passes)
    }

    /// Whether `need` bytes could fit if only the primary's backlog were kept. With several primaries their backlogs count as nothing.
    fn could_hold(&self, need: u64) -> bool {
        let mut bits = self.shared.primary_bits().unwrap_or_default();
        bits.sort_unstable();
        bits.dedup();
        let targets = self.shared.targets();
        let only = targets.iter().find(|target| bits == [target.bit()]);
        let kept = only.map_or(0, |target| target.queue().tally.bytes);
        self.room.holds(kept + need)
    }

    /// Reserves room for bytes of a file. For a body of no known project nothing gives way, and its refusal says nothing of others.
    pub(in crate::journal::sqlite) fn reserve(
        &mut self,
        project: Option<Arc<str>>,
        bytes: u64,
        group: &mut Group,
    ) -> rusqlite::Result<Result<Reservation, JournalError>> {
        let name = project.as_ref();
        let number = name.map(|name| self.projects.number(self.conn, &self.shared, name)).transpose()?;
        let room = self.make_room(number, bytes, false, group)?.map(|()| {
            let shares = self.shared.shares();
            self.shared.spool.take(number.and_then(|number| shares.count(number)), bytes)
        });
        match (&room, &project) {
            (Err(error @ JournalError::Share(_)), Some(project)) => Self::refuse(project, error, group),
            // If a small one still fits, this one is too large, and the journal is not full.
            (Err(error), Some(project)) if !self.room.fits(SMALL) => Self::refuse(project, error, group),
            _ => {}
        }
        Ok(room)
    }

    /// Logs a refusal for one project, at most once a minute. A refusal for all becomes the journal's trouble.
    pub(super) fn refuse(project: &str, error: &JournalError, group: &mut Group) {
        match error {
            JournalError::Share(why) => shares::tell_refused(project, why),
            _ => group.refused = Some(error.clone()),
        }
    }
}

//! What was found of events at their upstreams, as part of a commit.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::journal::sqlite::group::{Answer, Group};
use crate::journal::sqlite::queue::Target;
use crate::journal::sqlite::shared::Reply;
use crate::journal::sqlite::verification;
use crate::journal::verification::{Notes, Repair};

use super::Writer;

impl Writer<'_> {
    /// Keeps what was found; counts the dead letters that come of it.
    pub(super) fn note(
        &mut self,
        target: &Target,
        notes: &Notes,
        reply: Reply<()>,
        now: Timestamp,
        group: &mut Group,
    ) -> rusqlite::Result<()> {
        group.answers.push(Answer::Done(reply));
        for (project, bytes) in verification::note(self.conn, target, notes, (now, &mut group.book))? {
            self.letters.add(project, bytes);
            group.letters_come.push(target.id);
        }
        Ok(())
    }

    /// Lets missing events wait again.
    pub(super) fn repair(
        &self,
        target: &Arc<Target>,
        repair: &Repair,
        reply: Reply<usize>,
        now: Timestamp,
        group: &mut Group,
    ) -> rusqlite::Result<()> {
        group.answers.push(Answer::Count(reply, 0));
        let count = verification::repair(self.conn, target, repair, (now, &mut group.book), &mut group.passes)?;
        group.counted(count);
        Ok(())
    }
}

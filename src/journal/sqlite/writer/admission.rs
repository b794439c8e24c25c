//! Appends submissions and our own reports within the current transaction, if there is room.

use crate::journal::losses::Loss;
use crate::journal::sqlite::append::{self, Statements, Written};
use crate::journal::sqlite::file::BodyFile;
use crate::journal::sqlite::losses;
use crate::journal::sqlite::shared::Reply;
use crate::journal::{JournalError, RecordId, Submission};

use super::Writer;
use super::group::{Answer, Group};

impl Writer<'_> {
    /// Appends a submission.
    pub(super) fn append(
        &mut self,
        submission: Submission,
        reply: Reply<RecordId>,
        group: &mut Group,
    ) -> rusqlite::Result<()> {
        group.answers.push(Answer::Record(reply, Err(JournalError::Closed)));
        let admitted = self.admit(submission, group)?;
        if let Some(Answer::Record(_, answer)) = group.answers.last_mut() {
            *answer = admitted;
        }
        Ok(())
    }

    /// Appends a report, if there is one, and takes off the losses that it tells. If the report is refused, they stay.
    pub(in crate::journal::sqlite) fn report(
        &mut self,
        told: &[Loss],
        report: Option<Submission>,
        group: &mut Group,
    ) -> rusqlite::Result<Result<(), JournalError>> {
        let admitted = match report {
            Some(report) => self.admit(report, group)?.map(drop),
            None => Ok(()),
        };
        if admitted.is_ok() {
            losses::take_off(self.conn, &self.shared, told)?;
        }
        Ok(admitted)
    }

    /// Writes a submission if there is room for it.
    fn admit(&mut self, submission: Submission, group: &mut Group) -> rusqlite::Result<Result<RecordId, JournalError>> {
        let id = self.next;
        let project = self.projects.number(self.conn, &self.shared, &submission.project)?;
        let written = Written::of(&submission, self.room.page())?;
        if let Err(error) = self.make_room(Some(project), written.room(), true, group)? {
            Self::refuse(&submission.project, &error, group);
            return Ok(Err(error));
        }
        self.room.grow(written.room());
        self.room.enter(&self.shared, project, written.with_file(&submission));
        if let Some(file) = BodyFile::of(&submission.body) {
            file.leave_owner();
        }
        let (statements, book) = (Statements::of(&mut self.statements, self.conn)?, &mut group.book);
        let appended = append::append(statements, &self.shared, (project, &written), book, id, submission)?;
        self.next += 1;
        group.appended.push(appended);
        Ok(Ok(RecordId(id)))
    }
}

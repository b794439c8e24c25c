//! Makes upstreams into targets.
//!
//! Rule: a new target is known at once, even while nothing can be written. The next successful commit writes its row.

use std::sync::{Arc, PoisonError};

use crate::journal::sqlite::queue::{Queue, Target};
use crate::journal::{JournalError, MAX_TARGETS, TargetId};

use super::Writer;
use super::group::{Answer, Group};

impl Writer<'_> {
    /// Makes the targets known that the group asks for, and adds the answers.
    pub(super) fn name_targets(&mut self, group: &mut Group) {
        for (name, reply) in std::mem::take(&mut group.names) {
            group.answers.push(Answer::Target(reply, self.target(name)));
        }
    }

    /// The target with this name; a new one has no backlog.
    fn target(&mut self, name: Arc<str>) -> Result<TargetId, JournalError> {
        let targets = self.shared.targets();
        if let Some(target) = targets.iter().find(|target| target.name == name) {
            return Ok(target.id);
        }
        let id = u8::try_from(targets.len()).ok().filter(|id| usize::from(*id) < MAX_TARGETS).map(TargetId);
        let id = id.ok_or_else(|| {
            JournalError::Failed(format!("{MAX_TARGETS} upstreams are known, more than that it cannot tell apart"))
        })?;
        let target = Arc::new(Target::new(id, name, Queue::new(self.next - 1, true)));
        self.unwritten.push(Arc::clone(&target));
        let all = targets.iter().cloned().chain([target]).collect();
        *self.shared.targets.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(all);
        Ok(id)
    }
}

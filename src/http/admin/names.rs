//! Looks for names of services in the records that are kept.
//!
//! Rule: the records are searched once for a name. What comes later the intake notes, because it has room for every expected
//! name.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::clock::Timestamp;
use crate::intake::sightings::names_in;
use crate::journal::{Cursor, Journal, JournalError, Record};
use crate::tasks;

/// By the keys of which projects a service was seen, and when last.
pub(super) type Seen = BTreeMap<Arc<str>, Timestamp>;

/// Names that were looked for in what is kept, and who sent them.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<BTreeMap<Box<str>, Seen>>);

/// Whether a name is that of a service of this project, as `shop/api` is.
pub(super) fn is_behind(name: &str, project: &str) -> bool {
    name.strip_prefix(project).is_some_and(|rest| rest.starts_with('/'))
}

impl Names {
    /// Who sent these names, as far as that is kept or was when they were first looked for. Others than `expected` are forgotten.
    pub(super) async fn find(
        &self,
        journal: &Arc<dyn Journal>,
        names: Vec<Box<str>>,
        (expected, projects): (&[Box<str>], &Arc<[Arc<str>]>),
    ) -> Result<BTreeMap<Box<str>, Seen>, JournalError> {
        let mut known = self.0.lock().await;
        known.retain(|name, _| expected.contains(name));
        let new: Vec<Box<str>> = names.iter().filter(|name| !known.contains_key(*name)).cloned().collect();
        if !new.is_empty() {
            known.extend(search(journal, new, projects).await?);
        }
        Ok(names.into_iter().filter_map(|name| known.get(&name).cloned().map(|seen| (name, seen))).collect())
    }
}

/// Searches all that is kept, in steps between which others are served.
async fn search(
    journal: &Arc<dyn Journal>,
    names: Vec<Box<str>>,
    projects: &Arc<[Arc<str>]>,
) -> Result<BTreeMap<Box<str>, Seen>, JournalError> {
    let mut found: BTreeMap<Box<str>, Seen> = names.into_iter().map(|name| (name, Seen::new())).collect();
    let mut next = Some(Cursor::START);
    while let Some(after) = next {
        let part = journal.kept(after).await?;
        next = part.next;
        let projects = Arc::clone(projects);
        found = tasks::blocking(move || {
            part.records.iter().for_each(|record| look(record, &projects, &mut found));
            found
        })
        .await;
    }
    Ok(found)
}

fn look(record: &Record, projects: &[Arc<str>], found: &mut BTreeMap<Box<str>, Seen>) {
    if record.client.request.is_some() {
        return;
    }
    names_in(&record.body, |sent| {
        for (name, seen) in found.iter_mut() {
            let is_meant = match projects.iter().any(|project| is_behind(name, project)) {
                true => name.strip_prefix(&*record.project).and_then(|rest| rest.strip_prefix('/')) == Some(sent),
                false => **name == *sent,
            };
            if is_meant {
                let last = seen.entry(Arc::clone(&record.project)).or_default();
                *last = record.accepted_at.max(*last);
            }
        }
    });
}

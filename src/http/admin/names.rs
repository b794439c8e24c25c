//! Searches the kept records for names of services.
//!
//! Rule: the records are searched for a name once. The intake notes what comes later, because it has room for every expected name.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::clock::Timestamp;
use crate::intake::sightings::names_in;
use crate::journal::{Cursor, Journal, JournalError, Record};
use crate::tasks;

/// The projects by whose keys a service was seen, with the last time.
pub(super) type Seen = BTreeMap<Arc<str>, Timestamp>;

/// The names that were searched for, and the projects that sent them.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<BTreeMap<Box<str>, Seen>>);

/// Whether a name is that of a service of this project, as `shop/api` is of `shop`.
pub(super) fn is_behind(name: &str, project: &str) -> bool {
    name.strip_prefix(project).is_some_and(|rest| rest.starts_with('/'))
}

impl Names {
    /// Returns which projects sent these names in the records that were kept when they were first searched for. Forgets names that are
    /// not `expected`.
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

/// Searches all kept records, in steps between which others are served.
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

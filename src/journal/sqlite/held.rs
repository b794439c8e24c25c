//! Records that were read lately and that somebody still holds, by number. When several targets have fallen behind, each of them
//! reads what another one has just read: they share it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::journal::Record;

/// As many are remembered at most: more than two targets hold ready.
const MOST: usize = 640;

/// The records by number.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<BTreeMap<u64, Weak<Record>>>);

impl Held {
    /// The record of that number, if somebody holds it.
    pub(super) fn get(&self, id: u64) -> Option<Arc<Record>> {
        self.lock().get(&id)?.upgrade()
    }

    /// Remembers a record for as long as somebody holds it.
    pub(super) fn put(&self, record: &Arc<Record>) {
        let mut held = self.lock();
        if held.len() >= MOST {
            held.retain(|_, record| record.strong_count() > 0);
        }
        if held.len() >= MOST {
            held.clear();
        }
        held.insert(record.id.0, Arc::downgrade(record));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Weak<Record>>> {
        // Nothing panics while holding it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Records that were read lately and are still held, by number. Targets that have fallen behind share them: each reads what another has
//! just read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::journal::Record;

/// The most records that are remembered: more than two targets hold ready.
const MOST: usize = 640;

/// The records by number.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<BTreeMap<u64, Weak<Record>>>);

impl Held {
    /// The record of that number, if somebody holds it.
    pub(super) fn get(&self, id: u64) -> Option<Arc<Record>> {
        self.lock().get(&id)?.upgrade()
    }

    /// Remembers a record while somebody holds it.
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
        // No code panics while it holds the mutex.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Refills the window of duplicates at a start from the journal, before anything is accepted.

use crate::clock::Timestamp;
use crate::journal::{Journal, JournalError};
use crate::policy::dedup::{self, Dedup};

/// The number of records whose keys are read at once.
const REMEMBERED_AT_ONCE: usize = 16_384;

/// Refills the window of duplicates from the journal, up to its capacity.
pub(super) async fn remember(dedup: &Dedup, journal: &dyn Journal, now: Timestamp) -> Result<(), JournalError> {
    let (since, mut before, mut remembered) = (now - dedup.length(), None, 0);
    while remembered < dedup::CAPACITY {
        let page = journal.recent_keys(since, before, REMEMBERED_AT_ONCE).await?;
        remembered += page.keys.len();
        page.keys.into_iter().for_each(|(key, at)| dedup.remember(key, at));
        match page.next {
            Some(next) => before = Some(next),
            None => break,
        }
    }
    Ok(())
}

//! Turns at decoding what is large: a decompressor may take a window of many MiB, so few are at work at once.
//!
//! Rules: a turn lasts until the thread that decodes has ended, also when nobody waits for it any more. A turn is waited for longer than
//! room: it comes in order, and whoever is refused loses what was sent.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How many there are.
const DECODERS: usize = 2;
/// How long a body waits for others to be decoded.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The turns. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub struct Turns(Arc<Semaphore>);

/// A turn, over when the last clone is dropped: whoever decodes keeps one where it does.
#[derive(Clone, Debug)]
pub struct Turn {
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(DECODERS)))
    }
}

impl Turns {
    /// Waits for a turn; `None` when there is none in time.
    pub async fn take(&self) -> Option<Turn> {
        let permit = timeout(PATIENCE, Arc::clone(&self.0).acquire_owned()).await.ok()?.ok()?;
        Some(Turn { _permit: Arc::new(permit) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_turn_for_ever_and_one_lasts_as_long_as_its_last_clone() {
        let turns = Turns::default();
        let (first, second) = (turns.take().await.unwrap(), turns.take().await.unwrap());
        let at_work = first.clone();
        drop(first);
        assert!(turns.take().await.is_none());
        drop(at_work);
        assert!(turns.take().await.is_some());
        drop(second);
    }
}

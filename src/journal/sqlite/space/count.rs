//! What records take of the room, and how it is counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// What became of a project's count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    More,
    Less,
}

impl Change {
    pub(super) const fn opposite(self) -> Self {
        match self {
            Self::More => Self::Less,
            Self::Less => Self::More,
        }
    }

    pub(super) fn make(self, count: &AtomicU64, bytes: u64) {
        match self {
            Self::More => count.fetch_add(bytes, Ordering::Relaxed),
            Self::Less => count.fetch_sub(bytes, Ordering::Relaxed),
        };
    }
}

/// What so many bytes in one row take of the file's pages: as many rows as fit into a page share it, and what does not fit goes on
/// in pages of its own (sqlite.org/fileformat2.html, section 1.6).
pub(in crate::journal::sqlite) fn of_a_row(bytes: usize) -> u64 {
    const PAGE: u64 = super::super::schema::PAGE as u64;
    const LONGEST: u64 = PAGE - 35;
    const LEAST: u64 = (PAGE - 12) * 32 / 255 - 23;
    let bytes = bytes as u64 + 8;
    let kept = LEAST + bytes.saturating_sub(LEAST) % (PAGE - 4);
    let (here, elsewhere) = match bytes {
        0..=LONGEST => (bytes, 0),
        _ if kept <= LONGEST => (kept, bytes - kept),
        _ => (LEAST, bytes - LEAST),
    };
    let rows = (PAGE - 8) / (here + 16);
    PAGE / rows.max(1) + elsewhere.div_ceil(PAGE - 4) * PAGE
}

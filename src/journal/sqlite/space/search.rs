//! The state of the search for records that may go, and how long it goes on.
//!
//! Rule: when something else can give way, each try is bounded once a lap has shown that there is little to find.

use std::time::{Duration, Instant};

use super::walk::Walk;

/// The steps without a find after which something else gives way.
const FRUITLESS: usize = 8;
/// How long the result of a lap counts: an upstream that is back delivers the oldest records, at the front.
const ANEW: Duration = Duration::from_secs(30);

/// The search for records of one rank.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Search {
    /// The search has looked at the records up to this one.
    pub(super) from: u64,
    yields: Yield,
    /// When the search began at the front.
    began: Option<Instant>,
}

/// What the last whole lap and the single steps since have found.
#[derive(Clone, Copy, Debug, Default)]
enum Yield {
    /// There was no lap yet: a try goes on until it finds enough, or to the end.
    #[default]
    Unknown,
    /// Less than was needed: a try ends after a few steps without a find, but makes a lap before something is refused.
    Little,
    /// Nothing: a try ends with the first step that finds nothing.
    Nothing,
}

/// The state of one try.
#[derive(Debug)]
pub(super) struct Try {
    began: u64,
    has_wrapped: bool,
    found: usize,
    fruitless: usize,
}

impl Search {
    pub(super) fn begin(&mut self) -> Try {
        if self.began.is_none_or(|began| began.elapsed() >= ANEW) {
            *self = Self { began: Some(Instant::now()), ..Self::default() };
        }
        Try { began: self.from, has_wrapped: self.from == 0, found: 0, fruitless: 0 }
    }

    /// Takes a step; returns whether the try is over. `is_last` means that something is refused if the try finds too little.
    pub(super) fn step(&mut self, current: &mut Try, walk: &Walk, is_last: bool) -> bool {
        self.from = if walk.end { 0 } else { walk.next };
        current.found += walk.removed;
        current.fruitless += usize::from(walk.removed == 0);
        let lap = current.has_wrapped && (walk.end || self.from >= current.began && current.began > 0);
        current.has_wrapped |= walk.end;
        self.yields = match self.yields {
            _ if lap && current.found == 0 => Yield::Nothing,
            _ if lap => Yield::Little,
            Yield::Nothing if walk.removed > 0 => Yield::Little,
            before => before,
        };
        lap || match self.yields {
            Yield::Nothing => current.fruitless > 0,
            Yield::Little => !is_last && current.fruitless >= FRUITLESS,
            Yield::Unknown => false,
        }
    }
}

//! Where the search for what may go stands, and how far it goes on.
//!
//! Rule: where something else can give way, each try is bounded once a lap has shown that there is little to be found.

use std::time::{Duration, Instant};

use super::walk::Walk;

/// Steps that find nothing before something else gives way.
const FRUITLESS: usize = 8;
/// How long a lap says something: an upstream that is back delivers the oldest, at the front.
const ANEW: Duration = Duration::from_secs(30);

/// The search for records of one rank.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Search {
    /// Records up to this one were looked at.
    pub(super) from: u64,
    yields: Yield,
    /// When it began at the front.
    began: Option<Instant>,
}

/// What the last whole lap of a search has found, and single steps since.
#[derive(Clone, Copy, Debug, Default)]
enum Yield {
    /// There was no lap yet: it goes on until it finds enough, or to its end.
    #[default]
    Unknown,
    /// Less than was needed: each try makes a few steps, and a lap before something is refused.
    Little,
    /// Nothing: each try makes one step.
    Nothing,
}

/// One try.
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

    /// Goes on by a step; says whether the try is over. `is_last`: when it has found too little, something is refused.
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

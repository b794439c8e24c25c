//! A journal as a stream, in no backend's terms: what one writes another one reads, so that a journal moves from any to any.
//!
//! ```text
//!  source ──export──▶ secret, targets, projects, rows, records with what hangs on them, end ──import──▶ target
//! ```
//!
//! Rules: nobody else has either of the two meanwhile. Nothing is held that grows with the journal: large bodies come in pieces, a
//! record is followed by nothing that belongs to another. Numbers of records are not kept, for only a backend knows what they are
//! made of: records come in the order of their acceptance and are numbered anew. A stream without its end was cut off.
//!
//! A target is marked as [filling](State::Filling) from before the first entry until all was read back, and a source as
//! [moved](State::Moved) before that mark goes: at no time do both take a relay that would deliver the same. Both marks name the move:
//! a source that was moved goes on only into the target of that move.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::OpenError;

/// The most bytes of a body that come at once: what is larger comes in pieces.
pub(in crate::journal) const PIECE: usize = 1 << 20;
/// The most rows that come at once.
pub(in crate::journal) const ROWS: usize = 512;
/// How many entries wait between the two.
pub const WAITING: usize = 8;

/// What marks a journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// There is none yet.
    New,
    /// A relay may start on it.
    Ready,
    /// This move into it was begun and has not come to its end.
    Filling(MoveId),
    /// What was in it is in another one, by this move.
    Moved(MoveId),
}

/// A move, as both of its journals name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MoveId(u128);

impl MoveId {
    /// That of a move that begins.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().as_u128())
    }

    /// As it was written; one that cannot be read is that of no move.
    pub(in crate::journal) fn read(text: &str) -> Self {
        Self(u128::from_str_radix(text, 16).unwrap_or_default())
    }
}

impl fmt::Display for MoveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Why a move did not come to its end. The source is as it was.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A journal cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// One of the two is not as it must be: with how to mend it.
    #[error("{0}")]
    Refused(String),
    /// A storage failed.
    #[error("{0}")]
    Failed(String),
    /// The other side ended first, and says why.
    #[error("the move was cut off")]
    CutOff,
}

/// A journal that is moved out of, or into, and that nobody else has meanwhile.
pub trait Store: Send + Sync {
    /// Where it is, without secrets.
    fn place(&self) -> String;

    /// What marks it.
    fn state(&self) -> BoxFuture<'_, Result<State, TransferError>>;

    /// Refuses when a relay is on it, or keeps elsewhere what belongs to it.
    fn expect_idle(&self) -> BoxFuture<'_, Result<(), TransferError>>;

    /// What is in it, read anew.
    fn contents(&self) -> BoxFuture<'_, Result<Contents, TransferError>>;

    /// Tells everything that is in it.
    fn export(&self, to: mpsc::Sender<Entry>) -> BoxFuture<'_, Result<(), TransferError>>;

    /// Marks it as filling, removes what a move before has left, and keeps what comes. `kept` counts the records.
    fn import(
        &self,
        by: MoveId,
        from: mpsc::Receiver<Entry>,
        kept: Arc<AtomicU64>,
    ) -> BoxFuture<'_, Result<(), TransferError>>;

    /// Marks it. It is durable when this returns.
    fn mark(&self, state: State) -> BoxFuture<'_, Result<(), TransferError>>;
}

/// What is in a journal, counted by what a person calls it. Two are alike when all of it is equal.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Contents {
    /// How much there is of each; what there is none of is left out.
    pub counts: BTreeMap<String, i64>,
    /// The primary of all relays on it, where relays share one.
    pub primary: Option<String>,
}

impl Contents {
    /// Adds so much.
    pub(in crate::journal) fn add(&mut self, what: String, much: i64) {
        if much != 0 {
            *self.counts.entry(what).or_default() += much;
        }
    }

    /// Adds an account.
    pub(in crate::journal) fn add_account(
        &mut self,
        (upstream, project): (Option<String>, Option<String>),
        (category, outcome): (String, String),
        quantity: i64,
    ) {
        let upstream = upstream.unwrap_or_else(|| "the intake".into());
        let project = project.unwrap_or_else(|| "no project".into());
        self.add(format!("account of {upstream}, {project}, {category}: {outcome}"), quantity);
    }
}

/// A value of a row.
#[derive(Clone, PartialEq, Debug)]
pub(in crate::journal) enum Value {
    Null,
    Int(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// The values of a row, in the order of its table's columns.
pub(in crate::journal) type Row = Vec<Value>;

/// What a column holds, for backends that tell more apart than a [`Value`] does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::journal) enum Kind {
    Big,
    Int,
    Small,
    Bool,
    Text,
    Bytes,
    Uuid,
    /// The number of a project, which each backend gives.
    Project,
}

/// A table that is alike in all backends, but for what they add.
#[derive(Clone, Copy, Debug)]
pub(in crate::journal) struct Table {
    pub(in crate::journal) name: &'static str,
    pub(in crate::journal) columns: &'static [(&'static str, Kind)],
}

use Kind::{Big, Bool, Int, Project, Small, Text, Uuid};

/// The tables that belong to no record.
///
/// How far a backfill came is said in numbers of records: one that runs begins anew, and finds what it took up meant for its target.
pub(in crate::journal) const TABLES: [Table; 13] = [
    table("ledger", &[HOUR, TARGET, PROJECT, ("category", Text), ("outcome", Text), QUANTITY]),
    table("loss", &[TARGET, PROJECT, ("reason", Text), ("category", Text), QUANTITY]),
    table(
        "switch",
        &[ID, AT, ("project", Text), ("before", Text), ("after", Text), ("reason", Text), ("author", Text)],
    ),
    table(
        "backfill",
        &[
            TARGET,
            ("projects", Text),
            ("since", Big),
            ("found", Big),
            ("taken", Big),
            ("started_at", Big),
            ("ended_at", Big),
            ("cancelled", Bool),
        ],
    ),
    table("attempt", &[HOUR, TARGET, ("result", Text), QUANTITY]),
    table("lag", &[HOUR, TARGET, ("histogram", Kind::Bytes)]),
    table("intake", &[HOUR, ("what", Text), ("kind", Text), QUANTITY]),
    table("outage", &[ID, TARGET, ("began", Big), ("ended", Big), ("cause", Text)]),
    table("stretch", &[("started", Big), ("seen", Big), ("stopped", Bool)]),
    table("step", &[AT, TARGET, ("accepted", Big), ("delivered", Big), ("lost", Big), ("waiting", Big), ("lag", Big)]),
    table("compared", &[HOUR, TARGET, PROJECT, ("events", Big), ("differing", Big)]),
    table("compared_kind", &[TARGET, ("kind", Big), AT]),
    table(
        "difference",
        &[ID, TARGET, PROJECT, ("event_id", Uuid), AT, ("field", Text), ("sent", Text), ("there", Text)],
    ),
];

/// The tables whose rows belong to a record each.
pub(in crate::journal) const OF_RECORDS: [Table; 4] = [
    table(
        "pending",
        &[TARGET, ("due", Big), ("attempts", Int), ("strikes", Int), ("items", Kind::Bytes), ("quantities", Text)],
    ),
    table("missed", &[TARGET, ("reason", Text)]),
    table(
        "dead_letter",
        &[
            ID,
            TARGET,
            PROJECT,
            AT,
            ("reason", Text),
            ("status", Small),
            ("answer", Text),
            ("attempts", Int),
            ("items", Kind::Bytes),
            ("quantities", Text),
        ],
    ),
    table("look", &[TARGET, PROJECT, ("state", Small), ("due", Big), ("looks", Int), ("since", Big), ("repairs", Int)]),
];
/// The place of what waits for a time among [`OF_RECORDS`].
pub(in crate::journal) const PENDING: usize = 0;

type Column = (&'static str, Kind);
const ID: Column = ("id", Big);
const AT: Column = ("at", Big);
const HOUR: Column = ("hour", Int);
const TARGET: Column = ("target", Small);
const PROJECT: Column = ("project", Project);
const QUANTITY: Column = ("quantity", Big);

const fn table(name: &'static str, columns: &'static [Column]) -> Table {
    Table { name, columns }
}

/// A part of a journal, in the order in which they come.
#[derive(Debug)]
pub struct Entry(pub(in crate::journal) Part);

/// What it is.
#[derive(Debug)]
pub(in crate::journal) enum Part {
    /// Under which the keys of repeats are made.
    Secret(Vec<u8>),
    /// The primary of all relays.
    Primary(String),
    /// The next target: their numbers are 0, 1, 2.
    Target(Target),
    /// A project, and the number that rows name it by.
    Project(i64, String),
    /// Rows of one of [`TABLES`].
    Rows(usize, Vec<Row>),
    /// A record; its [pieces](Part::Piece) follow, if it has some.
    Record(Box<Record>),
    /// The next bytes of the record's body.
    Piece(Bytes),
    /// There is nothing more.
    End,
}

/// A target.
#[derive(Debug)]
pub(in crate::journal) struct Target {
    pub(in crate::journal) name: String,
    pub(in crate::journal) delivered_at: Option<i64>,
    pub(in crate::journal) canary_at: Option<i64>,
    /// Whether its events were ever looked for.
    pub(in crate::journal) is_verified: bool,
}

/// A record, with what hangs on it.
#[derive(Debug)]
pub(in crate::journal) struct Record {
    pub(in crate::journal) accepted_at: i64,
    pub(in crate::journal) project: i64,
    /// The targets that it is meant for, those of them that nobody has tried it for, and those that have looked for its event or have
    /// passed it by: a bit each.
    pub(in crate::journal) targets: i64,
    pub(in crate::journal) untried: i64,
    pub(in crate::journal) looked: i64,
    pub(in crate::journal) size: i64,
    pub(in crate::journal) quantities: String,
    pub(in crate::journal) event_id: Option<u128>,
    pub(in crate::journal) keys: Vec<u128>,
    pub(in crate::journal) client: String,
    pub(in crate::journal) body: Body,
    /// Its rows in [`OF_RECORDS`].
    pub(in crate::journal) rows: Vec<(usize, Row)>,
}

/// Where the body of a record is.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::journal) enum Body {
    Here(Vec<u8>),
    /// It comes in pieces.
    Large,
    /// It cannot be read. The record comes all the same, and is set aside by whoever claims it.
    Gone,
}

/// How far a target came in the records that were kept so far. A backend knows one such number: what nobody has tried below it needs
/// a row. So it is with events that nobody has looked for.
#[derive(Clone, Copy, Debug)]
pub(in crate::journal) struct Passing {
    reached: i64,
    has_untried: bool,
    looked: i64,
    has_unlooked: bool,
}

/// Between which numbers a target needs rows that the source did not need.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in crate::journal) struct Needed {
    /// For what nobody has tried.
    pub(in crate::journal) untried: Option<Range<i64>>,
    /// For the events that nobody has looked for.
    pub(in crate::journal) unlooked: Option<Range<i64>>,
}

impl Passing {
    /// `base` is the number that is below all records.
    pub(in crate::journal) const fn new(base: i64) -> Self {
        Self { reached: base, has_untried: false, looked: base, has_unlooked: false }
    }

    /// The next record is kept under `number`. Returns between which numbers rows are needed.
    pub(in crate::journal) fn pass(&mut self, target: usize, number: i64, record: &Record) -> Needed {
        let has = |mask: i64| mask & 1 << target != 0;
        let unlooked = self.pass_look(number, has(record.targets), has(record.looked));
        Needed { untried: self.pass_try(number, has(record.targets), has(record.untried)), unlooked }
    }

    /// A look that has passed a record of the target has passed it when it was tried.
    fn pass_look(&mut self, number: i64, is_meant: bool, is_looked: bool) -> Option<Range<i64>> {
        self.has_unlooked |= is_meant && !is_looked;
        if !is_looked || self.has_unlooked && !is_meant {
            return None;
        }
        let between = self.looked + 1..number;
        self.looked = number;
        std::mem::take(&mut self.has_unlooked).then_some(between)
    }

    fn pass_try(&mut self, number: i64, is_meant: bool, is_untried: bool) -> Option<Range<i64>> {
        if is_untried {
            self.has_untried = true;
            return None;
        }
        if !self.has_untried {
            self.reached = number;
            return None;
        }
        if !is_meant {
            return None;
        }
        let between = self.reached + 1..number;
        (self.reached, self.has_untried) = (number, false);
        Some(between)
    }

    /// At or below this number nothing is untried without a row.
    pub(in crate::journal) const fn reached(&self) -> i64 {
        self.reached
    }

    /// At or below this number every event was looked for, or has a row.
    pub(in crate::journal) const fn looked(&self) -> i64 {
        self.looked
    }
}

/// Hands an entry over.
pub(in crate::journal) async fn tell(to: &mpsc::Sender<Entry>, part: Part) -> Result<(), TransferError> {
    to.send(Entry(part)).await.map_err(|_| TransferError::CutOff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(targets: i64, untried: i64, looked: i64) -> Record {
        Record {
            accepted_at: 0,
            project: 0,
            targets,
            untried,
            looked,
            size: 0,
            quantities: String::new(),
            event_id: None,
            keys: vec![],
            client: String::new(),
            body: Body::Gone,
            rows: vec![],
        }
    }

    /// Each is passed by a record: between which numbers it needs rows, and how far the target came then.
    fn check(steps: &[(Record, Needed, i64, i64)]) {
        let mut passing = Passing::new(100);
        for ((record, needed, reached, looked), number) in steps.iter().zip(101..) {
            assert_eq!(passing.pass(0, number, record), *needed, "{number}");
            assert_eq!((passing.reached(), passing.looked()), (*reached, *looked), "{number}");
        }
    }

    #[test]
    fn what_is_untried_needs_a_row_only_where_something_later_was_tried() {
        let between = |range| Needed { untried: Some(range), unlooked: None };
        check(&[
            (record(1, 0, 1), Needed::default(), 101, 101),
            (record(0, 0, 1), Needed::default(), 102, 102),
            (record(1, 1, 0), Needed::default(), 102, 102),
            (record(0, 0, 1), Needed::default(), 102, 102),
            (record(1, 1, 0), Needed::default(), 102, 102),
            (record(1, 0, 0), between(103..106), 106, 102),
            (record(1, 1, 0), Needed::default(), 106, 102),
        ]);
    }

    #[test]
    fn what_nobody_has_looked_for_needs_a_row_only_where_something_later_was_looked_for() {
        let between = |range| Needed { untried: None, unlooked: Some(range) };
        check(&[
            (record(1, 0, 1), Needed::default(), 101, 101),
            (record(0, 0, 0), Needed::default(), 102, 101),
            (record(1, 0, 1), Needed::default(), 103, 103),
            (record(1, 0, 0), Needed::default(), 104, 103),
            (record(0, 0, 1), Needed::default(), 105, 103),
            (record(1, 0, 1), between(104..106), 106, 106),
            (record(1, 0, 0), Needed::default(), 107, 106),
        ]);
    }
}

//! Moves a journal between backends: one exports a stream of entries in no backend's terms, the other imports it.
//!
//! ```text
//!  source ──export──▶ secret, targets, projects, rows, records with what hangs on them, end ──import──▶ target
//! ```
//!
//! Rules: no relay runs on either journal meanwhile. Memory does not grow with the journal: large bodies come in pieces, and what
//! belongs to a record follows it directly. Record numbers are opaque and are not moved: records come in order of acceptance and are
//! numbered anew. A stream without an end entry was cut off.
//!
//! The target is marked as [filling](State::Filling) before the first entry. Once its content was read back, the source is marked as
//! [moved](State::Moved), and then the target's mark is removed. So there is no time at which relays on both would deliver the same
//! records. Both marks name the move: a source that was moved can be moved again only into the target of that move.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::OpenError;

/// The most bytes of a body in one entry.
pub(in crate::journal) const PIECE: usize = 1 << 20;
/// The most rows in one entry.
pub(in crate::journal) const ROWS: usize = 512;
/// The most entries that wait between export and import.
pub const WAITING: usize = 8;

/// The mark of a journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// There is no journal yet.
    New,
    /// A relay may start on it.
    Ready,
    /// This move into it has begun and has not ended.
    Filling(MoveId),
    /// This move has put its content into another journal.
    Moved(MoveId),
}

/// The name of a move in both of its journals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MoveId(u128);

impl MoveId {
    /// A new name.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().as_u128())
    }

    /// Parses a name. A text that is none becomes the name of no move.
    pub(in crate::journal) fn read(text: &str) -> Self {
        Self(u128::from_str_radix(text, 16).unwrap_or_default())
    }
}

impl fmt::Display for MoveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// An error of a move. The source is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A journal cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// One of the journals is not ready for the move; the text says how to mend it.
    #[error("{0}")]
    Refused(String),
    /// A storage failed, with its error.
    #[error("{0}")]
    Failed(String),
    /// The other side ended first; its error says why.
    #[error("the move was cut off")]
    CutOff,
}

/// A journal as the source or target of a move, locked against relays.
pub trait Store: Send + Sync {
    /// Its path or address, without the password.
    fn place(&self) -> String;

    /// Its mark.
    fn state(&self) -> BoxFuture<'_, Result<State, TransferError>>;

    /// Fails when a relay runs on it, or when a relay still has spilled records for it.
    fn expect_idle(&self) -> BoxFuture<'_, Result<(), TransferError>>;

    /// Its content, counted by reading it.
    fn contents(&self) -> BoxFuture<'_, Result<Contents, TransferError>>;

    /// Sends its whole content.
    fn export(&self, to: mpsc::Sender<Entry>) -> BoxFuture<'_, Result<(), TransferError>>;

    /// Marks it as filling, removes what an earlier move has left, and stores the entries. `kept` counts the records.
    fn import(
        &self,
        by: MoveId,
        from: mpsc::Receiver<Entry>,
        kept: Arc<AtomicU64>,
    ) -> BoxFuture<'_, Result<(), TransferError>>;

    /// Sets its mark, durably.
    fn mark(&self, state: State) -> BoxFuture<'_, Result<(), TransferError>>;
}

/// The content of a journal, counted under names that operators know. Equal values mean equal content.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Contents {
    /// The counts by name, without zeros.
    pub counts: BTreeMap<String, i64>,
    /// The shared primary, if relays share the journal.
    pub primary: Option<String>,
}

impl Contents {
    /// Adds to a count.
    pub(in crate::journal) fn add(&mut self, what: String, much: i64) {
        if much != 0 {
            *self.counts.entry(what).or_default() += much;
        }
    }

    /// Adds the quantity of an account.
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

/// The type of a column, for backends that have more types than [`Value`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::journal) enum Kind {
    Big,
    Int,
    Small,
    Bool,
    Text,
    Bytes,
    Uuid,
    /// The backend's own number of a project.
    Project,
}

/// A table that all backends have, with the columns that all of them have.
#[derive(Clone, Copy, Debug)]
pub(in crate::journal) struct Table {
    pub(in crate::journal) name: &'static str,
    pub(in crate::journal) columns: &'static [(&'static str, Kind)],
}

use Kind::{Big, Bool, Int, Project, Small, Text, Uuid};

/// The tables whose rows belong to no record.
///
/// The progress of a backfill is a record number and does not move: a running backfill starts again, and skips the records that it has
/// already given to its target.
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
    /// The last number of a dead letter: it is never used again, even if none is left.
    LastLetter(i64),
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

//! Exports the database, table by table, then record by record in order of acceptance.

use std::collections::{HashMap, HashSet};
use std::pin::pin;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use tokio::sync::mpsc::Sender;
use tokio_postgres::Row as Found;
use uuid::Uuid;

use crate::journal::postgres::connect::{Connection, Params};
use crate::journal::postgres::fault::Fault;
use crate::journal::postgres::record::BODY;
use crate::journal::transfer::{
    Body, Entry, OF_RECORDS, PENDING, Part, ROWS, Record, Row, TABLES, Target, Value, tell,
};

use super::rows;

/// The most bytes of bodies that are read at once, except for the first body.
const BYTES: i64 = 4 << 20;
/// The number of pieces of a body that are read at once.
const PIECES: i64 = 4;

/// Tells everything.
pub(super) async fn run(connection: &Connection, to: &Sender<Entry>) -> Result<(), Fault> {
    let telling = Telling { connection, to };
    let sql = "SELECT secret, (SELECT main FROM control),
             (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM dead_letter_id_seq) FROM meta";
    let meta = connection.query_one(sql, &[]).await?;
    telling.say(Part::Secret(meta.get(0))).await?;
    telling.say(Part::LastLetter(meta.get(2))).await?;
    if let Some(primary) = meta.get(1) {
        telling.say(Part::Primary(primary)).await?;
    }
    telling.names().await?;
    for (at, table) in TABLES.iter().enumerate() {
        telling.rows(at, table.name, &rows::selected(table)).await?;
    }
    telling.records(&Marks::read(connection).await?).await?;
    telling.say(Part::End).await
}

/// The positions of the targets, by target and incarnation.
struct Marks {
    targets: Vec<i16>,
    frontiers: HashMap<(i16, i64), i64>,
    looked: HashMap<(i16, i64), i64>,
    /// The records in the hands of relays that are gone.
    in_hand: HashSet<(i16, i64)>,
}

impl Marks {
    async fn read(connection: &Connection) -> Result<Self, Fault> {
        let targets = connection.all("SELECT id FROM target ORDER BY id", &[]).await?;
        let of = async |table| {
            let sql = format!("SELECT target, incarnation::bigint, reached FROM {table}");
            let rows = connection.all(&sql, &[]).await?;
            Ok::<_, Fault>(rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect())
        };
        let in_hand = connection.all("SELECT target, unnest(records) FROM slice", &[]).await?;
        Ok(Self {
            targets: targets.iter().map(|row| row.get(0)).collect(),
            frontiers: of("frontier").await?,
            looked: of("verification").await?,
            in_hand: in_hand.iter().map(|row| (row.get(0), row.get(1))).collect(),
        })
    }

    /// The mask of the targets whose position has reached this record.
    fn come(&self, id: i64, how_far: &HashMap<(i16, i64), i64>) -> i64 {
        let has = |target: &&i16| how_far.get(&(**target, id >> 40)).is_some_and(|reached| *reached >= id);
        self.targets.iter().filter(has).fold(0, |mask, target| mask | 1 << target)
    }
}

struct Telling<'a> {
    connection: &'a Connection,
    to: &'a Sender<Entry>,
}

impl Telling<'_> {
    async fn say(&self, part: Part) -> Result<(), Fault> {
        tell(self.to, part).await.map_err(|_| Fault::CutOff)
    }

    async fn all(&self, sql: &str, params: Params<'_>) -> Result<Vec<Found>, Fault> {
        self.connection.all(sql, params).await
    }

    async fn names(&self) -> Result<(), Fault> {
        let sql = "SELECT name, (SELECT max(delivered_at) FROM latest WHERE target = id),
                 (SELECT max(canary_at) FROM latest WHERE target = id), EXISTS (SELECT 1 FROM verification WHERE target = id)
             FROM target ORDER BY id";
        for row in self.all(sql, &[]).await? {
            let (name, delivered_at, canary_at) = (row.get(0), row.get(1), row.get(2));
            self.say(Part::Target(Target { name, delivered_at, canary_at, is_verified: row.get(3) })).await?;
        }
        for row in self.all("SELECT id::bigint, name FROM project ORDER BY id", &[]).await? {
            self.say(Part::Project(row.get(0), row.get(1))).await?;
        }
        Ok(())
    }

    async fn rows(&self, at: usize, name: &str, selected: &str) -> Result<(), Fault> {
        // Each relay counted by itself.
        let from = match name {
            "ledger" => {
                "(SELECT hour, target, project, category, outcome, sum(quantity)::bigint AS quantity FROM ledger
                 GROUP BY hour, target, project, category, outcome) AS ledger"
            }
            name => name,
        };
        let none = std::iter::empty::<i64>();
        let found = self.connection.query_raw(&format!("SELECT {selected} FROM {from}"), none).await?;
        let (mut found, mut told) = (pin!(found), vec![]);
        while let Some(row) = found.try_next().await? {
            told.push(rows::values(&row, &TABLES[at], 0));
            if told.len() == ROWS {
                self.say(Part::Rows(at, std::mem::take(&mut told))).await?;
            }
        }
        self.say(Part::Rows(at, told)).await
    }

    async fn records(&self, marks: &Marks) -> Result<(), Fault> {
        let mut after = (i64::MIN, 0_i64);
        loop {
            let heads = self
                .all(
                    "SELECT id, accepted_at, CASE WHEN large IS NULL THEN size ELSE 0 END FROM record
                     WHERE (accepted_at, id) > ($1, $2) ORDER BY accepted_at, id LIMIT $3",
                    &[&after.0, &after.1, &(ROWS as i64)],
                )
                .await?;
            let (mut ids, mut bytes) = (vec![], 0);
            for head in &heads {
                bytes += head.get::<_, i64>(2);
                if bytes > BYTES && !ids.is_empty() {
                    break;
                }
                after = (head.get(1), head.get(0));
                ids.push(after.1);
            }
            if ids.is_empty() {
                return Ok(());
            }
            self.some(marks, &ids).await?;
        }
    }

    /// Tells these records.
    async fn some(&self, marks: &Marks, ids: &[i64]) -> Result<(), Fault> {
        let mut hanging: HashMap<i64, Vec<(usize, Row)>> = HashMap::new();
        for (at, table) in OF_RECORDS.iter().enumerate() {
            let sql = format!("SELECT record, {} FROM {} WHERE record = ANY($1)", rows::selected(table), table.name);
            for row in self.all(&sql, &[&ids]).await? {
                hanging.entry(row.get(0)).or_default().push((at, rows::values(&row, table, 1)));
            }
        }
        let sql = format!(
            "SELECT id, accepted_at, project::bigint, targets, size, quantities, event_id, keys, client, {BODY}, large
             FROM record r WHERE id = ANY($1) ORDER BY accepted_at, id"
        );
        let found = self.all(&sql, &[&ids]).await?;
        for row in &found {
            let (mut record, large) = (record(row, marks), row.get::<_, Option<i64>>(10));
            record.rows.extend(hanging.remove(&row.get(0)).unwrap_or_default());
            take_back(&mut record, row.get(0), marks);
            match large {
                Some(large) if self.is_whole(large, record.size).await? => {
                    record.body = Body::Large;
                    self.say(Part::Record(record)).await?;
                    self.pieces(large).await?;
                }
                _ => self.say(Part::Record(record)).await?,
            }
        }
        Ok(())
    }

    async fn is_whole(&self, large: i64, size: i64) -> Result<bool, Fault> {
        let sql = "SELECT coalesce(sum(length(bytes)), 0)::bigint FROM piece WHERE large = $1";
        Ok(self.all(sql, &[&large]).await?.first().is_some_and(|row| row.get::<_, i64>(0) == size))
    }

    async fn pieces(&self, large: i64) -> Result<(), Fault> {
        let mut after = -1_i64;
        loop {
            let sql = "SELECT at, bytes FROM piece WHERE large = $1 AND at > $2 ORDER BY at LIMIT $3";
            let pieces = self.all(sql, &[&large, &after, &PIECES]).await?;
            if pieces.is_empty() {
                return Ok(());
            }
            for piece in pieces {
                after = piece.get(0);
                self.say(Part::Piece(Bytes::from(piece.get::<_, Vec<u8>>(1)))).await?;
            }
        }
    }
}

/// The record of a row, without its rows in other tables.
fn record(row: &Found, marks: &Marks) -> Box<Record> {
    let (id, targets, size) = (row.get::<_, i64>(0), row.get::<_, i64>(3), row.get::<_, i64>(4));
    let body = row.get::<_, Option<Vec<u8>>>(9).filter(|body| body.len() as i64 == size);
    Box::new(Record {
        accepted_at: row.get(1),
        project: row.get(2),
        targets,
        untried: targets & !marks.come(id, &marks.frontiers),
        looked: marks.come(id, &marks.looked),
        size,
        quantities: row.get(5),
        event_id: row.get::<_, Option<Uuid>>(6).map(|id| id.as_u128()),
        keys: row.get::<_, &[u8]>(7).as_chunks::<16>().0.iter().map(|key| u128::from_be_bytes(*key)).collect(),
        client: row.get(8),
        body: body.map_or(Body::Gone, Body::Here),
        rows: vec![],
    })
}

/// Exports a record in the hand of a relay that is gone as if it had been put off until its acceptance.
fn take_back(record: &mut Record, id: i64, marks: &Marks) {
    for target in marks.targets.iter().filter(|target| marks.in_hand.contains(&(**target, id))) {
        let number = Value::Int(i64::from(*target));
        let is_put_off = record.rows.iter().any(|(table, row)| *table == PENDING && row.first() == Some(&number));
        if !is_put_off {
            let row =
                vec![number, Value::Int(record.accepted_at), Value::Int(0), Value::Int(0), Value::Null, Value::Null];
            record.rows.push((PENDING, row));
        }
    }
}

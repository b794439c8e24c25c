//! Imports into empty tables, in transactions of bounded size.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc::Receiver;
use uuid::Uuid;

use crate::journal::TargetId;
use crate::journal::postgres::accounts::{Book, Prepared};
use crate::journal::postgres::connect::Connection;
use crate::journal::postgres::fault::Fault;
use crate::journal::postgres::schema;
use crate::journal::postgres::storage::OVERHEAD;
use crate::journal::transfer::{
    Body, Entry, Kind, MoveId, Needed, OF_RECORDS, PENDING, Part, Passing, Record, Row, State, TABLES, Table, Target,
    Value,
};
use crate::protocol::category::Quantities;

use super::rows;

/// The most records, and about the most bytes, of one transaction.
const RECORDS: usize = 512;
const BYTES: usize = 4 << 20;

/// Writes rows for records between two numbers that were not tried for a target.
const UNTRIED: &str = "INSERT INTO pending (target, record, due, attempts, strikes)
    SELECT $1::int, id, accepted_at, 0, 0 FROM record
    WHERE id >= $2 AND id < $3 AND targets & (1::bigint << $1::int) <> 0 ON CONFLICT DO NOTHING";
/// Writes rows for events between two numbers that were not looked up for a target.
const UNLOOKED: &str = "INSERT INTO look (target, record, project, state, due, looks, since, repairs)
    SELECT $1::int, id, project, 0, accepted_at, 0, accepted_at, 0 FROM record r
    WHERE id >= $2 AND id < $3 AND targets & (1::bigint << $1::int) <> 0 AND event_id IS NOT NULL
    AND ' ' || quantities || ' ' LIKE '% error=1 %'
    AND NOT EXISTS (SELECT 1 FROM missed m WHERE m.target = $1::int AND m.record = r.id) ON CONFLICT DO NOTHING";

/// Fills the tables. `kept` counts the records.
pub(super) async fn run(
    connection: &Connection,
    by: MoveId,
    from: &mut Receiver<Entry>,
    kept: &AtomicU64,
) -> Result<(), Fault> {
    let mut filling = Filling::begin(connection, by).await?;
    while let Some(Entry(part)) = from.recv().await {
        if let Part::End = part {
            return filling.end().await;
        }
        filling.keep(part).await?;
        kept.store(filling.last.cast_unsigned() & ((1 << 40) - 1), Ordering::Relaxed);
    }
    Err(Fault::CutOff)
}

struct Filling<'a> {
    connection: &'a Connection,
    /// The incarnation of the imported records.
    incarnation: i32,
    /// The numbers of projects here, by their numbers in the source.
    projects: HashMap<i64, i64>,
    targets: Vec<Passing>,
    verified: Vec<i16>,
    /// The number of the last record.
    last: i64,
    /// The backlogs, and the room taken.
    book: Book,
    batch: Vec<(i64, Box<Record>, Option<i64>)>,
    bytes: usize,
    /// The number of the last large body, and how many bytes of it have come.
    large: (i64, i64),
}

impl<'a> Filling<'a> {
    /// Begins to fill the tables: marks the journal, and empties the tables.
    async fn begin(connection: &'a Connection, by: MoveId) -> Result<Self, Fault> {
        let tables: Vec<&str> = schema::tables().collect();
        connection.run("UPDATE meta SET state = $1", &[&schema::column(State::Filling(by))]).await?;
        connection.batch_execute(&format!("TRUNCATE {} RESTART IDENTITY", tables.join(", "))).await?;
        connection.batch_execute(schema::FIRST_ROWS).await?;
        let node = connection
            .query_one(
                "INSERT INTO node (name, version, started_at, alive_until, replaced, merged)
                 VALUES ('moved', $1, 0, '-infinity', true, true) RETURNING incarnation",
                &[&env!("CARGO_PKG_VERSION")],
            )
            .await?;
        let incarnation: i32 = node.get(0);
        Ok(Self {
            connection,
            incarnation,
            projects: HashMap::new(),
            targets: vec![],
            verified: vec![],
            last: i64::from(incarnation) << 40,
            book: Book::default(),
            batch: vec![],
            bytes: 0,
            large: (0, 0),
        })
    }

    async fn keep(&mut self, part: Part) -> Result<(), Fault> {
        match part {
            Part::Secret(secret) => {
                self.connection.run("UPDATE meta SET secret = $1", &[&secret]).await?;
            }
            Part::LastLetter(last) => {
                let sql = "SELECT setval(pg_get_serial_sequence('dead_letter', 'id'), $1::bigint) WHERE $1::bigint > 0";
                self.connection.run(sql, &[&last]).await?;
            }
            Part::Primary(name) => {
                self.connection.run("UPDATE control SET main = $1, revision = 1", &[&name]).await?;
            }
            Part::Target(target) => self.target(&target).await?,
            Part::Project(number, name) => {
                let sql = "INSERT INTO project (name) VALUES ($1) RETURNING id";
                let own: i32 = self.connection.query_one(sql, &[&name]).await?.get(0);
                self.projects.insert(number, own.into());
            }
            Part::Rows(table, rows) => {
                let rows = rows.into_iter().map(|row| self.own(&TABLES[table], row)).collect();
                rows::insert(self.connection, &TABLES[table], rows, None).await?;
            }
            Part::Record(record) => self.record(record).await?,
            Part::Piece(piece) => {
                let (large, at) = self.large;
                let sql = "INSERT INTO piece VALUES ($1, $2, $3)";
                self.connection.run(sql, &[&large, &at, &piece.as_ref()]).await?;
                self.large.1 += piece.len() as i64;
            }
            Part::End => {}
        }
        Ok(())
    }

    async fn target(&mut self, target: &Target) -> Result<(), Fault> {
        let Target { name, delivered_at, canary_at, is_verified } = target;
        let number = i16::try_from(self.targets.len()).unwrap_or(i16::MAX);
        self.targets.push(Passing::new(self.last));
        self.connection.run("INSERT INTO target VALUES ($1, $2)", &[&number, name]).await?;
        if delivered_at.or(*canary_at).is_some() {
            let sql = "INSERT INTO latest VALUES (0, $1, $2, $3)";
            self.connection.run(sql, &[&number, delivered_at, canary_at]).await?;
        }
        if *is_verified {
            self.verified.push(number);
        }
        Ok(())
    }

    /// The number of a project here.
    fn project(&self, number: i64) -> i32 {
        self.projects.get(&number).and_then(|own| i32::try_from(*own).ok()).unwrap_or(0)
    }

    /// Replaces the numbers of projects in a row with those here.
    fn own(&self, table: &Table, mut row: Row) -> Row {
        for ((_, kind), value) in table.columns.iter().zip(&mut row) {
            if let (Kind::Project, Value::Int(number)) = (kind, &mut *value) {
                *value = Value::Int(self.project(*number).into());
            }
        }
        row
    }

    async fn record(&mut self, record: Box<Record>) -> Result<(), Fault> {
        self.last += 1;
        let (project, size) = (self.project(record.project), record.size);
        self.count(project, &record);
        self.book.take_room(project, size.saturating_add(OVERHEAD.cast_signed()));
        let mut large = None;
        match &record.body {
            Body::Here(bytes) => self.bytes += bytes.len(),
            Body::Large => {
                let sql = "INSERT INTO large (owner, project, size, record) VALUES ($1, $2, $3, $4) RETURNING id";
                let row = self.connection.query_one(sql, &[&self.incarnation, &project, &size, &self.last]).await?;
                large = Some(row.get(0));
                self.large = (row.get(0), 0);
            }
            Body::Gone => {}
        }
        self.batch.push((self.last, record, large));
        if self.batch.len() >= RECORDS || self.bytes >= BYTES {
            self.write().await?;
        }
        Ok(())
    }

    /// Counts what of a record waits.
    fn count(&mut self, project: i32, record: &Record) {
        let size = record.size.cast_unsigned();
        let all: Quantities = record.quantities.parse().unwrap_or_default();
        let targets = (0..self.targets.len()).filter(|target| record.untried & 1 << target != 0);
        for target in targets.filter_map(|target| u8::try_from(target).ok()) {
            self.book.enter(TargetId(target), project, size, &all);
        }
        for (_, row) in record.rows.iter().filter(|(table, _)| *table == PENDING) {
            let own = if let Some(Value::Text(text)) = row.last() { text.parse().ok() } else { None };
            if let Some(Value::Int(target)) = row.first()
                && let Ok(target) = u8::try_from(*target)
            {
                self.book.enter(TargetId(target), project, size, own.as_ref().unwrap_or(&all));
            }
        }
    }

    /// Commits the records that have come.
    async fn write(&mut self) -> Result<(), Fault> {
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        self.connection.batch_execute("BEGIN").await?;
        self.write_records(&batch).await?;
        self.write_keys(&batch).await?;
        for (number, table) in OF_RECORDS.iter().enumerate() {
            let hanging = batch.iter().flat_map(|(id, record, _)| record.rows.iter().map(move |row| (*id, row)));
            let hanging = hanging.filter(|(_, (table, _))| *table == number);
            let (ids, rows): (Vec<i64>, Vec<Row>) =
                hanging.map(|(id, (_, row))| (id, self.own(table, row.clone()))).unzip();
            rows::insert(self.connection, table, rows, Some(&ids)).await?;
        }
        for (id, record, _) in &batch {
            for (target, passing) in self.targets.iter_mut().enumerate() {
                let Needed { untried, unlooked } = passing.pass(target, *id, record);
                let target = i32::try_from(target).unwrap_or(i32::MAX);
                for (rows, between) in [(UNTRIED, untried), (UNLOOKED, unlooked)] {
                    let Some(between) = between else { continue };
                    self.connection.run(rows, &[&target, &between.start, &between.end]).await?;
                }
            }
        }
        self.connection.batch_execute("COMMIT").await?;
        Ok(())
    }

    async fn write_records(&self, batch: &[(i64, Box<Record>, Option<i64>)]) -> Result<(), Fault> {
        let numbers =
            |number: fn(&Record) -> i64| batch.iter().map(|(_, record, _)| number(record)).collect::<Vec<_>>();
        let texts = |text: fn(&Record) -> &str| batch.iter().map(|(_, record, _)| text(record)).collect::<Vec<_>>();
        let records = || batch.iter().map(|(_, record, _)| record);
        let ids: Vec<i64> = batch.iter().map(|(id, ..)| *id).collect();
        let larges: Vec<Option<i64>> = batch.iter().map(|(.., large)| *large).collect();
        let projects: Vec<i32> = records().map(|record| self.project(record.project)).collect();
        let rooms: Vec<i64> = records().map(|record| record.size.saturating_add(OVERHEAD.cast_signed())).collect();
        let event_ids: Vec<Option<Uuid>> = records().map(|record| record.event_id.map(Uuid::from_u128)).collect();
        let keys = records().map(|record| record.keys.iter().flat_map(|key| key.to_be_bytes()).collect::<Vec<u8>>());
        let bodies = records().map(|record| if let Body::Here(bytes) = &record.body { Some(&bytes[..]) } else { None });
        let sql =
            "INSERT INTO record SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::int[], $4::bigint[], $5::bigint[],
                 $6::bigint[], $7::text[], $8::uuid[], $9::bytea[], $10::text[], $11::bytea[], $12::bigint[])";
        self.connection
            .run(
                sql,
                &[
                    &ids,
                    &numbers(|record| record.accepted_at),
                    &projects,
                    &numbers(|record| record.targets),
                    &numbers(|record| record.size),
                    &rooms,
                    &texts(|record| &record.quantities),
                    &event_ids,
                    &keys.collect::<Vec<_>>(),
                    &texts(|record| &record.client),
                    &bodies.collect::<Vec<_>>(),
                    &larges,
                ],
            )
            .await
            .map(drop)
    }

    /// Writes the keys. A key of several records goes to the last one.
    async fn write_keys(&self, batch: &[(i64, Box<Record>, Option<i64>)]) -> Result<(), Fault> {
        let mut all: HashMap<u128, (i64, i64)> = HashMap::new();
        for (id, record, _) in batch {
            all.extend(record.keys.iter().map(|key| (*key, (*id, record.accepted_at))));
        }
        let keys: Vec<Uuid> = all.keys().map(|key| Uuid::from_u128(*key)).collect();
        let (ids, times): (Vec<i64>, Vec<i64>) = all.values().copied().unzip();
        let sql = "INSERT INTO key SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[])
             ON CONFLICT (key) DO UPDATE SET record = excluded.record, at = excluded.at";
        self.connection.run(sql, &[&keys, &ids, &times]).await.map(drop)
    }

    /// Ends the import: writes the positions of the targets and the counts.
    async fn end(mut self) -> Result<(), Fault> {
        self.write().await?;
        let (connection, me) = (self.connection, self.incarnation);
        self.book.write(connection, &Prepared::on(connection).await?, 0).await?;
        for (target, passing) in (0_i16..).zip(&self.targets) {
            let sql = "INSERT INTO frontier VALUES ($1, $2, $3)";
            connection.run(sql, &[&target, &me, &passing.reached()]).await?;
            if self.verified.contains(&target) {
                let sql = "INSERT INTO verification VALUES ($1, $2, $3)";
                connection.run(sql, &[&target, &me, &passing.looked()]).await?;
            }
        }
        let sql = "UPDATE backfill SET bounds = ARRAY[$1::bigint], until = $1,
             reached = CASE WHEN ended_at IS NULL THEN 0 ELSE $1 END";
        connection.run(sql, &[&self.last]).await?;
        let sql =
            "UPDATE dead_letter d SET bytes = r.size + octet_length(d.answer) FROM record r WHERE r.id = d.record";
        connection.run(sql, &[]).await?;
        for table in ["switch", "outage", "difference"] {
            let sql = format!(
                "SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table} HAVING max(id) IS NOT NULL"
            );
            connection.batch_execute(&sql).await?;
        }
        connection.batch_execute("ANALYZE record, key, pending, ledger").await?;
        Ok(())
    }
}

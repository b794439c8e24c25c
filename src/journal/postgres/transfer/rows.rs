//! Rows of tables that all backends have alike, read and written column by column.

use tokio_postgres::Row as Found;
use tokio_postgres::types::ToSql;

use crate::journal::postgres::connect::Connection;
use crate::journal::postgres::fault::Fault;
use crate::journal::postgres::record::plain;
use crate::journal::transfer::{Kind, Row, Table, Value};

/// What is selected of a table for [`values`].
pub(super) fn selected(table: &Table) -> String {
    let column = |(name, kind): &(&str, Kind)| match kind {
        Kind::Int | Kind::Small | Kind::Project => format!("{name}::bigint"),
        Kind::Bool => format!("{name}::int::bigint"),
        Kind::Uuid => format!("uuid_send({name})"),
        Kind::Big | Kind::Text | Kind::Bytes => (*name).to_owned(),
    };
    table.columns.iter().map(column).collect::<Vec<_>>().join(", ")
}

/// The values of a row from the column `first` on.
pub(super) fn values(row: &Found, table: &Table, first: usize) -> Row {
    let value = |(at, (_, kind)): (usize, &(&str, Kind))| {
        let value = match kind {
            Kind::Text => row.get::<_, Option<String>>(at).map(Value::Text),
            Kind::Bytes | Kind::Uuid => row.get::<_, Option<Vec<u8>>>(at).map(Value::Bytes),
            _ => row.get::<_, Option<i64>>(at).map(Value::Int),
        };
        value.unwrap_or(Value::Null)
    };
    (first..).zip(table.columns).map(value).collect()
}

/// The columns that a table has only in this backend, and their values.
fn more(table: &Table) -> (&'static str, &'static str) {
    match table.name {
        "ledger" => (", incarnation", ", 0"),
        "backfill" => (", reached, until, bounds", ", 0, 0, '{}'"),
        "dead_letter" => (", bytes", ", 0"),
        _ => ("", ""),
    }
}

/// Writes rows. Those of a table that belongs to records get the number of each record from `records`.
pub(super) async fn insert(
    connection: &Connection,
    table: &Table,
    rows: Vec<Row>,
    records: Option<&[i64]>,
) -> Result<(), Fault> {
    if rows.is_empty() {
        return Ok(());
    }
    let (mut names, mut selected, mut taken, mut params) = (vec![], vec![], vec![], Vec::<Column>::new());
    let mut columns: Vec<Row> = table.columns.iter().map(|_| Vec::with_capacity(rows.len())).collect();
    for row in rows {
        columns.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
    }
    for ((at, (name, kind)), values) in (1..).zip(table.columns).zip(columns) {
        names.push(*name);
        selected.push(match kind {
            Kind::Int | Kind::Project => format!("u.{name}::int"),
            Kind::Small => format!("u.{name}::smallint"),
            Kind::Bool => format!("u.{name} <> 0"),
            Kind::Uuid => format!("encode(u.{name}, 'hex')::uuid"),
            Kind::Big | Kind::Text | Kind::Bytes => format!("u.{name}"),
        });
        taken.push(format!("${at}::{}", array(*kind)));
        params.push(column(*kind, values));
    }
    if let Some(records) = records {
        names.push("record");
        selected.push("u.record".to_owned());
        taken.push(format!("${}::bigint[]", names.len()));
        params.push(Box::new(records.to_vec()));
    }
    let (names, (more, constants)) = (names.join(", "), more(table));
    let sql = format!(
        "INSERT INTO {} ({names}{more}) OVERRIDING SYSTEM VALUE SELECT {}{constants} FROM unnest({}) AS u({names})",
        table.name,
        selected.join(", "),
        taken.join(", "),
    );
    let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|column| &**column as &(dyn ToSql + Sync)).collect();
    connection.run(&sql, &params).await.map(drop)
}

type Column = Box<dyn ToSql + Sync + Send>;

const fn array(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "text[]",
        Kind::Bytes | Kind::Uuid => "bytea[]",
        _ => "bigint[]",
    }
}

fn column(kind: Kind, values: Row) -> Column {
    let values = values.into_iter();
    match kind {
        Kind::Text => Box::new(values.map(text).collect::<Vec<_>>()),
        Kind::Bytes | Kind::Uuid => Box::new(values.map(bytes).collect::<Vec<_>>()),
        _ => Box::new(values.map(number).collect::<Vec<_>>()),
    }
}

fn number(value: Value) -> Option<i64> {
    if let Value::Int(number) = value { Some(number) } else { None }
}

fn text(value: Value) -> Option<String> {
    if let Value::Text(text) = value { Some(plain(&text)) } else { None }
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    if let Value::Bytes(bytes) = value { Some(bytes) } else { None }
}

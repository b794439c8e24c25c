//! The contents of the file, counted from its rows.

use rusqlite::Connection;

use crate::journal::transfer::{Contents, TABLES};

/// Counts the contents.
pub(super) fn read(conn: &Connection) -> rusqlite::Result<Contents> {
    let mut contents = Contents::default();
    let number = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, Option<i64>>(0)).map(Option::unwrap_or_default);
    for (what, sql) in [
        ("records", "SELECT count(*) FROM record"),
        ("bytes of records", "SELECT sum(size) FROM record"),
        ("keys of repeats", "SELECT sum(length(keys)) / 16 FROM record"),
        ("projects", "SELECT count(*) FROM project"),
        ("records of which something was dropped", "SELECT count(*) FROM missed m JOIN record r ON r.id = m.record"),
        (
            "events that were looked for",
            "SELECT count(*) FROM look l JOIN record r ON r.id = l.record WHERE looks > 0 OR state > 0",
        ),
    ] {
        contents.add(what.to_owned(), number(sql)?);
    }
    let mut targets = conn.prepare("SELECT id, name FROM target ORDER BY id")?;
    let mut rows = targets.query([])?;
    while let Some(row) = rows.next()? {
        let (id, name) = (row.get::<_, i64>(0)?, row.get::<_, String>(1)?);
        contents.add("upstreams".to_owned(), 1);
        for (what, from) in [
            (
                "envelopes that wait for",
                format!(
                    "record r WHERE targets & (1 << {id}) AND r.id > (SELECT watermark FROM target WHERE id = {id})"
                ),
            ),
            ("envelopes that wait for", format!("pending p JOIN record r ON r.id = p.record WHERE p.target = {id}")),
            ("dead letters of", format!("dead_letter d JOIN record r ON r.id = d.record WHERE d.target = {id}")),
        ] {
            contents.add(format!("{what} {name}"), number(&format!("SELECT count(*) FROM {from}"))?);
        }
    }
    for table in TABLES {
        contents.add(format!("rows of {}", table.name), number(&format!("SELECT count(*) FROM {}", table.name))?);
    }
    accounts(conn, &mut contents)?;
    Ok(contents)
}

fn accounts(conn: &Connection, contents: &mut Contents) -> rusqlite::Result<()> {
    let mut sums = conn.prepare(
        "SELECT t.name, p.name, l.category, l.outcome, sum(l.quantity) FROM ledger l LEFT JOIN target t ON t.id = l.target
         LEFT JOIN project p ON p.id = l.project GROUP BY l.target, l.project, l.category, l.outcome",
    )?;
    let mut rows = sums.query([])?;
    while let Some(row) = rows.next()? {
        contents.add_account((row.get(0)?, row.get(1)?), (row.get(2)?, row.get(3)?), row.get(4)?);
    }
    Ok(())
}

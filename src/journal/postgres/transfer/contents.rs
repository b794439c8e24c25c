//! The contents of the database, counted from its rows.

use crate::journal::postgres::connect::Connection;
use crate::journal::postgres::fault::Fault;
use crate::journal::transfer::{Contents, TABLES};

/// Counts it.
pub(super) async fn read(connection: &Connection) -> Result<Contents, Fault> {
    let mut contents = Contents::default();
    for (what, sql) in [
        ("records", "SELECT '', count(*) FROM record"),
        ("bytes of records", "SELECT '', coalesce(sum(size), 0)::bigint FROM record"),
        ("keys of repeats", "SELECT '', coalesce(sum(length(keys)), 0)::bigint / 16 FROM record"),
        ("projects", "SELECT '', count(*) FROM project"),
        (
            "records of which something was dropped",
            "SELECT '', count(*) FROM missed m JOIN record r ON r.id = m.record",
        ),
        (
            "events that were looked for",
            "SELECT '', count(*) FROM look l JOIN record r ON r.id = l.record WHERE looks > 0 OR state > 0",
        ),
        ("upstreams", "SELECT '', count(*) FROM target"),
        ("envelopes that wait for", UNTRIED),
        ("envelopes that wait for", PUT_OFF),
        ("dead letters of", LETTERS),
    ] {
        for row in connection.all(sql, &[]).await? {
            contents.add(format!("{what} {}", row.get::<_, &str>(0)).trim_end().to_owned(), row.get(1));
        }
    }
    for table in TABLES {
        let key = if table.name == "ledger" { "DISTINCT (hour, target, project, category, outcome)" } else { "*" };
        let sql = format!("SELECT count({key}) FROM {}", table.name);
        let counted = connection.query_one(&sql, &[]).await?;
        contents.add(format!("rows of {}", table.name), counted.get(0));
    }
    for row in connection.all(ACCOUNTS, &[]).await? {
        contents.add_account((row.get(0), row.get(1)), (row.get(2), row.get(3)), row.get(4));
    }
    contents.primary = connection.query_one("SELECT max(main) FROM control", &[]).await?.get(0);
    Ok(contents)
}

/// Records behind a frontier, or handed out to a relay and not settled.
const UNTRIED: &str = "SELECT t.name, count(*) FROM target t JOIN record r ON r.targets & (1::bigint << t.id) <> 0
    LEFT JOIN frontier f ON f.target = t.id AND f.incarnation = (r.id >> 40)::int
    LEFT JOIN (SELECT s.target, u.record FROM slice s CROSS JOIN unnest(s.records) AS u(record)) h
        ON h.target = t.id AND h.record = r.id
    WHERE coalesce(f.reached, 0) < r.id
    OR h.record IS NOT NULL AND NOT EXISTS (SELECT 1 FROM pending p WHERE p.target = t.id AND p.record = r.id)
    GROUP BY t.name";

const PUT_OFF: &str = "SELECT t.name, count(*) FROM pending p JOIN record r ON r.id = p.record
    JOIN target t ON t.id = p.target GROUP BY t.name";

const LETTERS: &str = "SELECT t.name, count(*) FROM dead_letter d JOIN record r ON r.id = d.record
    JOIN target t ON t.id = d.target GROUP BY t.name";

const ACCOUNTS: &str = "SELECT t.name, p.name, l.category, l.outcome, sum(l.quantity)::bigint
    FROM ledger l LEFT JOIN target t ON t.id = l.target LEFT JOIN project p ON p.id = l.project
    GROUP BY t.name, p.name, l.category, l.outcome";

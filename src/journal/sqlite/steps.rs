//! The rows of steps: how each target fared in five minutes or, after 48 hours, in one hour.
//!
//! Rule: steps are written in a transaction with other changes. A step that begins an hour may hold the whole hour.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, params};

use crate::clock::Timestamp;
use crate::journal::TargetId;
use crate::journal::evidence::KEPT;
use crate::telemetry::series::{FINE, Step};

use super::shared::Shared;

const HOUR: i64 = 3_600_000;

pub(super) fn write(conn: &Connection, target: TargetId, step: &Step) -> rusqlite::Result<()> {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    conn.prepare_cached(
        "INSERT INTO step VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT DO UPDATE SET accepted = accepted + excluded.accepted, delivered = delivered + excluded.delivered,
         lost = lost + excluded.lost, waiting = excluded.waiting, lag = coalesce(excluded.lag, lag)",
    )?
    .execute(params![
        number(step.at.as_millis()),
        target.0,
        number(step.accepted),
        number(step.delivered),
        number(step.lost),
        number(step.waiting),
        step.lag_p99.map(number)
    ])
    .map(drop)
}

/// Merges the steps of each hour that are over 48 hours old, and removes those that are older than 90 days.
pub(super) fn forget(conn: &Connection, now: Timestamp) -> rusqlite::Result<()> {
    let fine = (now - FINE).hour().cast_signed() * HOUR;
    conn.prepare_cached(
        "INSERT INTO step SELECT at - at % ?2, target, sum(accepted), sum(delivered), sum(lost), max(waiting), max(lag) FROM step
         WHERE at < ?1 AND at % ?2 > 0 GROUP BY 1, 2
         ON CONFLICT DO UPDATE SET accepted = accepted + excluded.accepted, delivered = delivered + excluded.delivered,
         lost = lost + excluded.lost, waiting = max(waiting, excluded.waiting),
         lag = max(coalesce(lag, excluded.lag), coalesce(excluded.lag, lag))",
    )?
    .execute([fine, HOUR])?;
    conn.prepare_cached("DELETE FROM step WHERE at < ?1 AND at % ?2 > 0")?.execute([fine, HOUR])?;
    conn.prepare_cached("DELETE FROM step WHERE at < ?1")?.execute([(now - KEPT).as_millis().cast_signed()]).map(drop)
}

/// The steps since the beginning of an hour, by the target's name.
pub(super) fn read(conn: &Connection, shared: &Shared, hour: i64) -> rusqlite::Result<BTreeMap<Arc<str>, Vec<Step>>> {
    let mut select = conn.prepare_cached(
        "SELECT target, at, accepted, delivered, lost, waiting, lag FROM step WHERE at >= ?1 ORDER BY at",
    )?;
    let mut rows = select.query([hour.saturating_mul(HOUR)])?;
    let mut all = BTreeMap::<Arc<str>, Vec<Step>>::new();
    while let Some(row) = rows.next()? {
        let number = |at: usize| row.get::<_, i64>(at).map(i64::cast_unsigned);
        let step = Step {
            at: Timestamp::from_millis(number(1)?),
            accepted: number(2)?,
            delivered: number(3)?,
            lost: number(4)?,
            waiting: number(5)?,
            lag_p99: row.get::<_, Option<i64>>(6)?.map(i64::cast_unsigned),
        };
        all.entry(shared.name(row.get(0)?)).or_default().push(step);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::schema::FORMATS;
    use super::*;

    const DAY: i64 = 24 * HOUR;
    const FIVE_MINUTES: i64 = HOUR / 12;
    /// The beginning of a day.
    const BEGAN: i64 = 20_000 * DAY;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms.cast_unsigned())
    }

    fn number(conn: &Connection, select: &str) -> i64 {
        conn.query_row(select, [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn steps_become_hours_after_48_hours_and_go_after_90_days_in_bounded_space() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(&FORMATS.concat()).unwrap();
        conn.execute_batch("BEGIN").unwrap();
        let mut most = 0;
        for n in 0..100 * 288 {
            let step = Step {
                at: at(BEGAN + n * FIVE_MINUTES),
                accepted: 3,
                delivered: 2,
                lost: 1,
                waiting: (n % 12).cast_unsigned(),
                lag_p99: (n % 12 == 7).then_some(70),
            };
            write(&conn, TargetId(1), &step).unwrap();
            if n % 72 == 71 {
                forget(&conn, step.at).unwrap();
                most = most.max(number(&conn, "SELECT count(*) FROM step"));
            }
        }
        // 48 hours and the hour that has just begun in steps of five minutes, the rest of 90 days in hours.
        assert!(most <= 49 * 12 + 90 * 24, "{most}");
        let now = BEGAN + 100 * DAY - FIVE_MINUTES;
        let fine = (now - 2 * DAY) / HOUR * HOUR;
        let where_hours = format!("FROM step WHERE at < {fine}");
        assert_eq!(number(&conn, "SELECT min(at) FROM step"), BEGAN + 10 * DAY);
        assert_eq!(number(&conn, &format!("SELECT count(*) FROM step WHERE at >= {fine}")), 49 * 12);
        let hours = (fine - BEGAN - 10 * DAY) / HOUR;
        assert_eq!(number(&conn, &format!("SELECT count(*) {where_hours}")), hours);
        for (what, each) in [("accepted", 36), ("delivered", 24), ("lost", 12), ("waiting", 11), ("lag", 70)] {
            for of in ["min", "max"] {
                assert_eq!(number(&conn, &format!("SELECT {of}({what}) {where_hours}")), each, "{of} {what}");
            }
        }
        let sum = number(&conn, "SELECT sum(accepted) FROM step");
        forget(&conn, at(now)).unwrap();
        assert_eq!(number(&conn, "SELECT sum(accepted) FROM step"), sum, "once more counts nothing twice");
    }
}

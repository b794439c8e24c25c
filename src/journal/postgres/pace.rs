//! What relays tell each other of upstreams and of their intake.
//!
//! Rules: one row for each upstream holds all that is known of it, with times by the database's clock. It is changed under its lock, and
//! only by a lesson that changes something. Each change notifies the other relays.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio_postgres::Transaction;

use crate::clock::Timestamp;
use crate::journal::pace::{Heard, Limited, Told};
use crate::journal::{Call, Pace, TargetId};
use crate::policy::standing::{Lesson, Relay, Share, Standing};

use super::PostgresJournal;
use super::fault::Fault;
use super::plane::CHANNEL;
use super::record;
use super::shared::Shared;

/// The time of the database, in milliseconds as a row has it.
const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// A live relay, and the intake limits that it used lately.
type Alive = (Relay, Vec<Limited>);

impl Pace for PostgresJournal {
    fn joined(&self) -> u32 {
        self.shared.joined
    }

    fn exchange(&self, told: Told) -> Call<'_, Heard> {
        self.call(|shared| async move { exchange(&shared, told).await })
    }

    fn stirred(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.shared.stirred.notified())
    }
}

async fn exchange(shared: &Arc<Shared>, told: Told) -> Result<Heard, Fault> {
    say_busy(shared, &told).await?;
    let alive = alive(shared).await?;
    let relay = number(shared.incarnation);
    let position = alive.iter().position(|(one, _)| *one == relay);
    let position = position.ok_or_else(|| Fault::Failed("this relay is taken for one that is gone".into()))?;
    let share = Share { position: u32::try_from(position).unwrap_or(u32::MAX), of: count(alive.len()) };
    let mut others = BTreeMap::new();
    for limited in alive.iter().filter(|(one, _)| *one != relay).flat_map(|(_, busy)| busy) {
        *others.entry(limited.clone()).or_default() += 1;
    }
    let mut lessons: BTreeMap<TargetId, Vec<Lesson>> = BTreeMap::new();
    for (target, lesson) in told.lessons {
        lessons.entry(target).or_default().push(lesson);
    }
    let (mut standings, mut now) = standings(shared).await?;
    let learner = Learner { relay, alive: alive.iter().map(|(one, _)| *one).collect() };
    for (target, lessons) in lessons {
        let known = standings.entry(target).or_default();
        if learner.learns(known, &lessons, now).is_some() {
            (*known, now) = keep(shared, target, &lessons, &learner).await?;
        }
    }
    Ok(Heard { relay, share, standings, now, others })
}

/// The relay that learns, and the live relays.
struct Learner {
    relay: Relay,
    alive: Vec<Relay>,
}

impl Learner {
    /// What is known with these lessons; `None` if they change nothing.
    fn learns(&self, known: &Standing, lessons: &[Lesson], now: Timestamp) -> Option<Standing> {
        let mut next = known.clone();
        next.forget(|relay| self.alive.contains(&relay), now);
        lessons.iter().for_each(|lesson| next.learn(self.relay, lesson, now));
        (next != *known).then_some(next)
    }
}

/// Writes the intake limits that were used lately, if they have changed.
async fn say_busy(shared: &Shared, told: &Told) -> Result<(), Fault> {
    let busy = serde_json::to_string(&told.busy).unwrap_or_default();
    let sql = "UPDATE node SET busy = $2 WHERE incarnation = $1 AND busy <> $2";
    shared.client().await?.run(sql, &[&shared.incarnation, &busy]).await?;
    Ok(())
}

/// The live relays, the first to start first.
async fn alive(shared: &Shared) -> Result<Vec<Alive>, Fault> {
    let alive = "SELECT incarnation, busy FROM node WHERE NOT replaced AND NOT gone ORDER BY incarnation";
    let rows = shared.client().await?.all(alive, &[]).await?;
    // What a newer relay says in another way is not understood.
    Ok(rows.iter().map(|row| (number(row.get(0)), serde_json::from_str(row.get(1)).unwrap_or_default())).collect())
}

/// What is known of all upstreams, and the database's time.
async fn standings(shared: &Shared) -> Result<(BTreeMap<TargetId, Standing>, Timestamp), Fault> {
    let read = format!("SELECT target, known FROM standing UNION ALL SELECT -1, {NOW}::text");
    let (mut standings, mut now) = (BTreeMap::new(), Timestamp::default());
    for row in shared.client().await?.all(&read, &[]).await? {
        let (target, known): (i32, &str) = (row.get(0), row.get(1));
        match u8::try_from(target) {
            Ok(target) => drop(standings.insert(TargetId(target), serde_json::from_str(known).unwrap_or_default())),
            Err(_) => now = record::time(known.parse().unwrap_or_default()),
        }
    }
    Ok((standings, now))
}

/// Takes in lessons under the lock of the upstream's row; returns what is known then, and the database's time.
async fn keep(
    shared: &Shared,
    target: TargetId,
    lessons: &[Lesson],
    learner: &Learner,
) -> Result<(Standing, Timestamp), Fault> {
    let mut pooled = shared.client().await?;
    let tx = pooled.transaction().await?;
    let (known, now) = locked(&tx, i16::from(target.0)).await?;
    let Some(next) = learner.learns(&known, lessons, now) else { return Ok((known, now)) };
    let text = serde_json::to_string(&next).map_err(|error| Fault::Failed(error.to_string()))?;
    tx.execute("UPDATE standing SET known = $2 WHERE target = $1", &[&i16::from(target.0), &text]).await?;
    tx.batch_execute(&format!("NOTIFY {CHANNEL}")).await?;
    tx.commit().await?;
    Ok((next, now))
}

async fn locked(tx: &Transaction<'_>, target: i16) -> Result<(Standing, Timestamp), Fault> {
    tx.execute("INSERT INTO standing VALUES ($1, '{}') ON CONFLICT DO NOTHING", &[&target]).await?;
    let known = tx.query_one("SELECT known FROM standing WHERE target = $1 FOR UPDATE", &[&target]).await?;
    // Read under the lock, so that the time does not go back from one holder to the next.
    let now: i64 = tx.query_one(&format!("SELECT {NOW}"), &[]).await?.get(0);
    Ok((serde_json::from_str(known.get(0)).unwrap_or_default(), record::time(now)))
}

fn number(incarnation: i32) -> Relay {
    Relay::from(incarnation.unsigned_abs())
}

fn count(relays: usize) -> u32 {
    u32::try_from(relays).unwrap_or(u32::MAX)
}

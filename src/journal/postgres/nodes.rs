//! The relays that share the journal: how one enters, reports that it lives, and leaves, and which relays there are.
//!
//! Rules: the last start of each name counts. A relay that leaves in order with nothing kept on its machine is missed by nobody: its last
//! time alive is set to the beginning of time. While the database cannot be read a relay knows only of itself.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Client;

use crate::clock::Timestamp;
use crate::journal::{Node, Standby};

use super::connect::{Connection, SAFETY};
use super::fault::Fault;
use super::record::ms;
use super::schema;
use super::shared::Shared;
use super::upgrade;

/// The silence after which a relay is gone.
pub(super) const GONE: Duration = Duration::from_secs(15);

/// What a relay gets when it enters.
pub(super) struct Entered {
    /// The number of this start.
    pub(super) incarnation: i32,
    /// The number of live relays, this one included.
    pub(super) joined: u32,
    /// The secret for the keys of repeats.
    pub(super) secret: Vec<u8>,
}

/// Enters this start of a relay, in place of earlier ones of its name. The same transaction checks whether it may, so a move begins before
/// it or after it.
pub(super) async fn enter(first: &mut Client, (name, place): (&str, &str), now: Timestamp) -> Result<Entered, Fault> {
    let (version, now, gone) = (env!("CARGO_PKG_VERSION"), ms(now), GONE.as_secs_f64());
    let tx = first.transaction().await?;
    let secret = schema::let_in(&tx, place).await?;
    upgrade::note_unseen(&tx).await?;
    let row = tx
        .query_one(
            "WITH earlier AS (UPDATE node SET replaced = true WHERE name = $1 AND NOT replaced),
             entered AS (
                 INSERT INTO node (name, version, started_at, alive_until, format)
                 VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4), $5) RETURNING incarnation)
             INSERT INTO committed (incarnation, number) SELECT incarnation, 0 FROM entered RETURNING incarnation",
            &[&name, &version, &now, &gone, &schema::FORMAT],
        )
        .await?;
    let incarnation = row.get(0);
    let alive = tx.query_one("SELECT count(*) FROM node WHERE NOT replaced AND NOT gone", &[]).await?;
    tx.commit().await?;
    let joined = u32::try_from(alive.get::<_, i64>(0)).unwrap_or(u32::MAX);
    Ok(Entered { incarnation, joined, secret })
}

/// Reports that this relay lives, and how many submissions and bytes are kept on its machine. Checks that the server's commits are safe.
pub(super) async fn say_alive(shared: &Shared, client: &Connection, spilled: (u64, u64)) -> Result<(), Fault> {
    let alive = format!(
        "UPDATE node SET alive_until = clock_timestamp() + make_interval(secs => $2), gone = false, spilled = $3, spilled_bytes = $4
         WHERE incarnation = $1 AND NOT replaced RETURNING {SAFETY}"
    );
    let (submissions, bytes) = (spilled.0.cast_signed(), spilled.1.cast_signed());
    match client.any(&alive, &[&shared.incarnation, &GONE.as_secs_f64(), &submissions, &bytes]).await? {
        Some(row) => shared.connector.judge(&row),
        None => Err(shared.replaced(client).await),
    }
}

/// Marks relays as gone that were silent for a while. Only called by a relay that itself was heard without a gap for that long: after an
/// outage of the database none was.
pub(super) async fn bury_the_silent(shared: &Shared) -> Result<(), Fault> {
    let silent = "UPDATE node SET gone = true WHERE NOT gone AND NOT replaced AND alive_until < clock_timestamp()";
    shared.client().await?.execute(silent, &[]).await?;
    Ok(())
}

/// Reports that this relay is gone, so that the records it had in hand are handed out again at once.
pub(super) async fn leave(shared: Arc<Shared>, spilled: (u64, u64)) -> Result<(), Fault> {
    let client = shared.client().await?;
    let (submissions, bytes) = (spilled.0.cast_signed(), spilled.1.cast_signed());
    let leave = "UPDATE node SET replaced = true, spilled = $2, spilled_bytes = $3,
             alive_until = CASE WHEN $2::bigint = 0 THEN '-infinity' ELSE alive_until END
         WHERE incarnation = $1";
    client.execute(leave, &[&shared.incarnation, &submissions, &bytes]).await?;
    Ok(())
}

/// The relays, and the standbys of the server.
pub(super) async fn read(shared: &Shared) -> Result<(Vec<Node>, Vec<Standby>), Fault> {
    let nodes = nodes(shared).await?;
    // Not every role may see the standbys.
    Ok((nodes, standbys(shared).await.unwrap_or_default()))
}

async fn nodes(shared: &Shared) -> Result<Vec<Node>, Fault> {
    let client = shared.client().await?;
    let rows = client
        .all(
            "SELECT n.name, n.version, n.started_at, NOT n.replaced AND n.alive_until >= clock_timestamp(), n.incarnation = $1,
                 coalesce((SELECT sum(cardinality(s.records)) FROM slice s WHERE s.owner = n.incarnation), 0)
                     + (SELECT count(*) FROM pending p WHERE p.owner = n.incarnation),
                 n.spilled, n.spilled_bytes, t.ends >= clock_timestamp() AND NOT n.replaced, n.differs
             FROM (SELECT DISTINCT ON (name) * FROM node ORDER BY name, incarnation DESC) AS n
             LEFT JOIN term t ON t.owner = n.incarnation
             WHERE n.alive_until > clock_timestamp() - interval '1 day' ORDER BY n.name",
            &[&shared.incarnation],
        )
        .await?;
    let node = |row: &tokio_postgres::Row| Node {
        name: row.get(0),
        version: row.get(1),
        started_at: Timestamp::from_millis(row.get::<_, i64>(2).cast_unsigned()),
        is_alive: row.get(3),
        is_own: row.get(4),
        leases: row.get::<_, i64>(5).cast_unsigned(),
        spilled: row.get::<_, i64>(6).cast_unsigned(),
        spilled_bytes: row.get::<_, i64>(7).cast_unsigned(),
        leads: row.get::<_, Option<bool>>(8).unwrap_or(false),
        differs: row.get(9),
    };
    Ok(rows.iter().map(node).collect())
}

async fn standbys(shared: &Shared) -> Result<Vec<Standby>, Fault> {
    let client = shared.client().await?;
    // The state is null to a role that may not see it. The lag is null when nothing was written for a while.
    let rows = client
        .all(
            "SELECT coalesce(application_name, ''), coalesce(
                 extract(epoch FROM replay_lag), CASE WHEN state = 'streaming' AND replay_lsn >= sent_lsn THEN 0 END
             )::double precision FROM pg_stat_replication WHERE state IN ('catchup', 'streaming') ORDER BY 1",
            &[],
        )
        .await?;
    let lag = |seconds: f64| Duration::try_from_secs_f64(seconds).ok();
    Ok(rows.iter().map(|row| Standby { name: row.get(0), lag: row.get::<_, Option<f64>>(1).and_then(lag) }).collect())
}

/// What this relay knows of itself without the database.
pub(super) fn alone(shared: &Shared) -> Node {
    Node {
        name: shared.settings.node_name(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: shared.started_at,
        is_alive: true,
        is_own: true,
        ..Node::default()
    }
}

//! The tables, and how they are brought up to date.
//!
//! Rules: a relay that changes the tables holds a lock, so relays that start together do not collide. The tables say which formats may work
//! on them: a relay that is too old says so and changes nothing. After a step the relays of the version before stay at work, so relays are
//! upgraded one after another.

use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::time::sleep;
use tokio_postgres::{Client, GenericClient, Transaction};

use crate::journal::OpenError;
use crate::journal::transfer::{MoveId, State};
use crate::policy::dedup::SECRET;

use super::fault::Fault;

/// The newest format this version reads and writes.
pub(super) const FORMAT: i32 = FORMATS.len() as i32;
/// The oldest format whose relays stay at work when a database is brought up to the newest one: the last one before it.
const OLDEST: i32 = 1;
/// The format from which on bodies may be kept [by the day](super::days): relays of an older one would not find them.
pub(super) const BODIES_BY_DAY: i32 = 2;
/// The advisory lock of a change of the tables: "SwJ1".
pub(super) const LOCK: i64 = 0x5377_4a31;
/// The advisory lock of a move of the journal, which starting relays share: "SwJ>".
pub(super) const MOVING: i64 = 0x5377_4a3e;
/// How long a step waits for a table, and how often it is tried. Sessions behind it wait as long.
const PATIENCE: &str = "SET LOCAL lock_timeout = '500ms'";
const TRIES: u32 = 20;
const AGAIN: Duration = Duration::from_millis(500);

/// What each format added, the first one first.
///
/// A record's number is made of an incarnation, a number that each start of a relay gets, and a sequence within it. An incarnation commits
/// its records in the order of their numbers, so a reader that has seen one has seen all before it.
///
/// An untried record costs no row: `frontier` holds, for each target and incarnation, the number up to which records were handed out. A
/// `slice` holds records that were handed out together and are not settled. A row in `pending` holds a record that was put off, or is tried
/// out of order. The owner of a slice or row is the incarnation that has it in hand. A record is settled for a target when it is at or
/// below the frontier and no slice and no row name it.
///
/// The body of a record is in `record.body`, in the partition of `body` for the day of its acceptance, or in the pieces of a `large` one.
/// `meta.earlier` is when a relay of the format before was last seen.
const FORMATS: [&str; 2] = ["
CREATE TABLE meta (id integer PRIMARY KEY CHECK (id = 1), format integer NOT NULL, oldest integer NOT NULL, secret bytea NOT NULL, state text);
CREATE TABLE node (
    incarnation integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY, name text NOT NULL, version text NOT NULL,
    started_at bigint NOT NULL, alive_until timestamptz NOT NULL, replaced boolean NOT NULL DEFAULT false,
    gone boolean NOT NULL DEFAULT false, merged boolean NOT NULL DEFAULT false,
    spilled bigint NOT NULL DEFAULT 0, spilled_bytes bigint NOT NULL DEFAULT 0, differs text[] NOT NULL DEFAULT '{}',
    busy text NOT NULL DEFAULT '[]'
);
CREATE TABLE committed (incarnation integer PRIMARY KEY, number bigint NOT NULL, before bigint) WITH (fillfactor = 10);
CREATE TABLE control (id integer PRIMARY KEY CHECK (id = 1), revision bigint NOT NULL, main text, set_by text, common text);
CREATE TABLE term (epoch bigint PRIMARY KEY, owner integer, ends timestamptz) WITH (fillfactor = 10);
CREATE TABLE standing (target smallint PRIMARY KEY, known text NOT NULL) WITH (fillfactor = 50);
CREATE TABLE target (id smallint PRIMARY KEY, name text NOT NULL UNIQUE);
CREATE TABLE latest (
    incarnation integer NOT NULL, target smallint NOT NULL, delivered_at bigint, canary_at bigint, PRIMARY KEY (incarnation, target)
) WITH (fillfactor = 50);
CREATE TABLE project (id integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY, name text NOT NULL UNIQUE);
CREATE TABLE record (
    id bigint PRIMARY KEY, accepted_at bigint NOT NULL, project integer NOT NULL, targets bigint NOT NULL,
    size bigint NOT NULL, room bigint NOT NULL, quantities text NOT NULL, event_id uuid, keys bytea NOT NULL, client text NOT NULL,
    body bytea, large bigint
);
ALTER TABLE record ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX record_event_id ON record (event_id) WHERE event_id IS NOT NULL;
CREATE INDEX record_accepted_at ON record (accepted_at);
CREATE TABLE key (key uuid PRIMARY KEY, record bigint NOT NULL, at bigint NOT NULL);
CREATE INDEX key_record ON key (record);
CREATE TABLE large (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, owner integer NOT NULL, project integer, size bigint NOT NULL,
    record bigint
);
CREATE INDEX large_under_way ON large (owner) WHERE record IS NULL;
CREATE TABLE piece (
    large bigint NOT NULL REFERENCES large ON DELETE CASCADE, at bigint NOT NULL, bytes bytea NOT NULL, PRIMARY KEY (large, at)
);
ALTER TABLE piece ALTER COLUMN bytes SET STORAGE EXTERNAL;
CREATE TABLE frontier (target smallint, incarnation integer, reached bigint NOT NULL, PRIMARY KEY (target, incarnation))
    WITH (fillfactor = 50);
CREATE TABLE slice (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, target smallint NOT NULL, owner integer NOT NULL, records bigint[] NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX slice_owner ON slice (target, owner);
CREATE SEQUENCE turn;
CREATE TABLE pending (
    target smallint NOT NULL, record bigint NOT NULL, due bigint NOT NULL, owner integer, turn bigint, attempts integer NOT NULL,
    strikes integer NOT NULL, items bytea, quantities text, PRIMARY KEY (target, record)
) WITH (fillfactor = 70);
CREATE INDEX pending_due ON pending (target, due) WHERE owner IS NULL;
CREATE INDEX pending_owner ON pending (target, owner) WHERE owner IS NOT NULL;
CREATE INDEX pending_record ON pending (record);
CREATE TABLE ledger (
    hour integer NOT NULL, incarnation integer NOT NULL, target smallint NOT NULL, project integer NOT NULL,
    category text NOT NULL, outcome text NOT NULL, quantity bigint NOT NULL,
    PRIMARY KEY (hour, incarnation, target, project, category, outcome)
) WITH (fillfactor = 50);
CREATE TABLE waiting (
    incarnation integer NOT NULL, target smallint NOT NULL, project integer NOT NULL, category text NOT NULL,
    quantity bigint NOT NULL, PRIMARY KEY (incarnation, target, project, category)
) WITH (fillfactor = 50);
CREATE TABLE room (
    incarnation integer NOT NULL, project integer NOT NULL, bytes bigint NOT NULL, PRIMARY KEY (incarnation, project)
) WITH (fillfactor = 50);
CREATE TABLE missed (record bigint NOT NULL, target smallint NOT NULL, reason text NOT NULL, PRIMARY KEY (record, target));
CREATE TABLE dead_letter (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, target smallint NOT NULL, record bigint NOT NULL,
    project integer NOT NULL, at bigint NOT NULL, reason text NOT NULL, status smallint, answer text NOT NULL,
    attempts integer NOT NULL, items bytea, quantities text, bytes bigint NOT NULL
);
CREATE INDEX dead_letter_record ON dead_letter (record);
CREATE INDEX dead_letter_project ON dead_letter (project, id);
CREATE TABLE loss (
    target smallint NOT NULL, project integer NOT NULL, reason text NOT NULL, category text NOT NULL,
    quantity bigint NOT NULL, PRIMARY KEY (target, project, reason, category)
);
CREATE TABLE switch (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, at bigint NOT NULL, project text, before text, after text NOT NULL,
    reason text, author text
);
CREATE TABLE backfill (
    target smallint PRIMARY KEY, projects text NOT NULL, since bigint NOT NULL, until bigint NOT NULL,
    reached bigint NOT NULL, found bigint NOT NULL, taken bigint NOT NULL, started_at bigint NOT NULL, ended_at bigint,
    cancelled boolean NOT NULL, bounds bigint[] NOT NULL
);
CREATE TABLE attempt (
    hour integer NOT NULL, target smallint NOT NULL, result text NOT NULL, quantity bigint NOT NULL,
    PRIMARY KEY (hour, target, result)
);
CREATE TABLE lag (hour integer NOT NULL, target smallint NOT NULL, histogram bytea NOT NULL, PRIMARY KEY (hour, target));
CREATE TABLE intake (
    hour integer NOT NULL, what text NOT NULL, kind text NOT NULL, quantity bigint NOT NULL, PRIMARY KEY (hour, what, kind)
);
CREATE TABLE outage (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, target smallint NOT NULL, began bigint NOT NULL, ended bigint,
    cause text NOT NULL
);
CREATE TABLE stretch (started bigint PRIMARY KEY, seen bigint NOT NULL, stopped boolean NOT NULL);
CREATE TABLE step (
    at bigint NOT NULL, target smallint NOT NULL, accepted bigint NOT NULL, delivered bigint NOT NULL, lost bigint NOT NULL,
    waiting bigint NOT NULL, lag bigint, PRIMARY KEY (at, target)
);
CREATE TABLE verification (
    target smallint NOT NULL, incarnation integer NOT NULL, reached bigint NOT NULL, PRIMARY KEY (target, incarnation)
);
CREATE TABLE look (
    target smallint NOT NULL, record bigint NOT NULL, project integer NOT NULL, state smallint NOT NULL, due bigint NOT NULL,
    looks integer NOT NULL, since bigint NOT NULL, repairs integer NOT NULL, PRIMARY KEY (target, record)
);
CREATE INDEX look_due ON look (target, due);
CREATE TABLE compared (
    hour integer NOT NULL, target smallint NOT NULL, project integer NOT NULL, events bigint NOT NULL,
    differing bigint NOT NULL, PRIMARY KEY (hour, target, project)
);
CREATE TABLE compared_kind (
    target smallint NOT NULL, kind bigint NOT NULL, at bigint NOT NULL, PRIMARY KEY (target, kind)
);
CREATE TABLE difference (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, target smallint NOT NULL, project integer NOT NULL,
    event_id uuid NOT NULL, at bigint NOT NULL, field text NOT NULL, sent text NOT NULL, there text NOT NULL
);
CREATE INDEX difference_target ON difference (target, id);
", "
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'committed'::regclass AND attname = 'before') THEN
        ALTER TABLE committed ADD COLUMN before bigint;
    END IF;
END $$;
CREATE TABLE body (day bigint NOT NULL, record bigint NOT NULL, bytes bytea NOT NULL, PRIMARY KEY (record, day))
    PARTITION BY LIST (day);
ALTER TABLE body ALTER COLUMN bytes SET STORAGE EXTERNAL;
ALTER TABLE meta ADD COLUMN earlier timestamptz;
ALTER TABLE node ADD COLUMN format integer NOT NULL DEFAULT 1;
"];

/// Lets a starting relay in, and no move begin before the transaction ends; returns the secret for the keys of repeats.
pub(super) async fn let_in(tx: &Transaction<'_>, place: &str) -> Result<Vec<u8>, Fault> {
    let place = || place.to_owned();
    let is_free: bool = tx.query_one("SELECT pg_try_advisory_xact_lock_shared($1)", &[&MOVING]).await?.get(0);
    if !is_free {
        return Err(Fault::Open(OpenError::Moving { place: place() }));
    }
    match state(tx).await? {
        State::New | State::Ready => {}
        State::Filling(_) => return Err(Fault::Open(OpenError::Filling { place: place() })),
        State::Moved(_) => return Err(Fault::Open(OpenError::Moved { place: place() })),
    }
    Ok(tx.query_one("SELECT secret FROM meta", &[]).await?.get(0))
}

/// Makes the tables or brings them up to date, and locks the journal for a move by this connection.
pub(super) async fn prepare_move(client: &mut Client, place: &str) -> Result<(), Fault> {
    bring_up_to_date(client).await?;
    match client.query_one("SELECT pg_try_advisory_lock($1)", &[&MOVING]).await?.get(0) {
        true => Ok(()),
        false => {
            let why = "another move is under way, or a relay is just starting on it".to_owned();
            Err(Fault::Open(OpenError::Unusable { place: place.to_owned(), why }))
        }
    }
}

/// The state that the journal is marked with.
pub(super) async fn state(client: &impl GenericClient) -> Result<State, Fault> {
    let row = client.query_one("SELECT state FROM meta", &[]).await?;
    let Some(mark) = row.get::<_, Option<&str>>(0) else { return Ok(State::Ready) };
    let (what, by) = mark.split_once(' ').unwrap_or((mark, ""));
    let by = MoveId::read(by);
    Ok(if what == MOVED { State::Moved(by) } else { State::Filling(by) })
}

/// A state as the column holds it; `None` for no mark.
pub(super) fn column(state: State) -> Option<String> {
    match state {
        State::New | State::Ready => None,
        State::Filling(by) => Some(format!("filling {by}")),
        State::Moved(by) => Some(format!("{MOVED} {by}")),
    }
}

const MOVED: &str = "moved";

/// The names of all tables but `meta`.
pub(super) fn tables() -> impl Iterator<Item = &'static str> {
    let made = FORMATS.iter().flat_map(|format| format.split("CREATE TABLE ").skip(1));
    made.filter_map(|text| text.split([' ', '(']).next()).filter(|name| *name != "meta")
}

/// Makes the tables or brings them up to date. The transactions of relays are in the way for moments; a session that reads a table for long
/// blocks the change.
pub(super) async fn bring_up_to_date(client: &mut Client) -> Result<(), Fault> {
    let mut tries = 1;
    loop {
        match try_to_bring_up(client).await {
            Err(fault) if fault.is_in_the_way() && tries < TRIES => {
                tracing::warn!(%fault, "the tables are in use; they are brought up to date in a moment");
                tries += 1;
                sleep(AGAIN).await;
            }
            Err(fault) if fault.is_in_the_way() => {
                return Err(Fault::Failed(format!(
                    "its tables cannot be brought up to date while somebody uses them for so long ({fault}): pg_stat_activity names who does"
                )));
            }
            done => return done,
        }
    }
}

async fn try_to_bring_up(client: &mut Client) -> Result<(), Fault> {
    let tx = client.transaction().await?;
    tx.batch_execute(PATIENCE).await?;
    tx.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    let found = found(&tx).await?;
    let missing = FORMATS.get(found.map_or(0, |(format, _)| format as usize)..).unwrap_or_default();
    if let Some((format, oldest)) = found
        && oldest > FORMAT
    {
        return Err(Fault::Open(OpenError::Newer {
            place: "the database".into(),
            found: format.into(),
            known: FORMAT.into(),
            mend: "use the newer switchyard",
        }));
    }
    tx.batch_execute(&missing.concat()).await?;
    if found.is_none() {
        let secret = ring_secret()?;
        let meta = "INSERT INTO meta (id, format, oldest, secret) VALUES (1, $1, $1, $2)";
        tx.execute(meta, &[&FORMAT, &secret]).await?;
        tx.batch_execute(FIRST_ROWS).await?;
    } else if !missing.is_empty() {
        let meta = "UPDATE meta SET format = $1, oldest = $2, earlier = clock_timestamp()";
        tx.execute(meta, &[&FORMAT, &OLDEST]).await?;
        tracing::info!(format = FORMAT, "the tables are brought up to date; relays of the version before go on");
    }
    tx.commit().await?;
    Ok(())
}

/// The first rows: no upstream is the primary yet, and nobody leads.
pub(super) const FIRST_ROWS: &str = "INSERT INTO control VALUES (1, 0); INSERT INTO term VALUES (0)";

/// The format of the tables, and the oldest format that can work on them; `None` if there are none.
async fn found(tx: &Transaction<'_>) -> Result<Option<(i32, i32)>, Fault> {
    let is_there: bool = tx.query_one("SELECT to_regclass('meta') IS NOT NULL", &[]).await?.get(0);
    if !is_there {
        return Ok(None);
    }
    let row = tx.query_one("SELECT format, oldest FROM meta", &[]).await?;
    Ok(Some((row.get(0), row.get(1))))
}

fn ring_secret() -> Result<Vec<u8>, Fault> {
    let mut secret = vec![0; SECRET];
    let filled = SystemRandom::new().fill(&mut secret);
    filled.map(|()| secret).map_err(|_| Fault::Failed("there are no random numbers".into()))
}

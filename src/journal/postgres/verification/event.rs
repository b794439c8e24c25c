//! Events that an upstream took, from rows.

use tokio_postgres::Row;
use uuid::Uuid;

use crate::journal::postgres::fault::Fault;
use crate::journal::postgres::record::time;
use crate::journal::postgres::shared::Shared;
use crate::journal::verification::{State, Wanted};
use crate::journal::{Cursor, RecordId};

/// Reads the names again when one of the projects is new.
pub(super) async fn know(shared: &Shared, rows: &[Row]) -> Result<(), Fault> {
    if rows.iter().any(|row| shared.names().project(row.get(1)).is_none()) {
        shared.know_names().await?;
    }
    Ok(())
}

/// The event of a row; `None` if it has no id. `state` is the state of an event without a row in `look`.
pub(super) fn event(shared: &Shared, row: &Row, state: State) -> Option<Wanted> {
    let own = row.get::<_, Option<i16>>(5);
    let state = if own.is_some() { State::of_row(own) } else { state };
    let number = row.get::<_, i64>(0).cast_unsigned();
    let count = |at| row.get::<_, Option<i32>>(at).unwrap_or(0).cast_unsigned();
    Some(Wanted {
        record: RecordId(number),
        before: Cursor::from_number(number.saturating_sub(1)),
        project: shared.names().project(row.get(1))?.clone(),
        event_id: row.get::<_, Option<Uuid>>(2)?.as_u128().into(),
        accepted_at: time(row.get(3)),
        state,
        looks: count(6),
        repairs: count(7),
    })
}

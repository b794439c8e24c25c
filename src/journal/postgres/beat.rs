//! The beat of a relay: it reports that it lives, and looks for what others did.
//!
//! Rule: the beat finds out whether a server takes writes. A server that commits nothing for a few seconds is given up, along with
//! everything else that waits for it; the next row that is committed says that all can go on. The report that this relay lives has a
//! connection of its own: a relay whose other connections are all busy is not one whose server is away.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::journal::term::Epoch;
use crate::telemetry::log::{self, Line};

use super::connect::{Connection, SILENCE};
use super::days;
use super::fault::Fault;
use super::nodes::{self, GONE};
use super::others::Others;
use super::shared::Shared;
use super::storage;
use super::upgrade;
use super::upkeep;

/// How often a relay reports that it lives, and looks for what others did.
const BEAT: Duration = Duration::from_millis(500);
/// A server that has not committed one row for this long does not answer.
pub(super) const SILENT: Duration = Duration::from_secs(4);
/// The number of looks after which the accounts of all hours are read anew.
const ALL_HOURS: u32 = 120;

/// Reports again and again that this relay lives.
pub(super) async fn say_alive(shared: Arc<Shared>) {
    let mut own = None;
    loop {
        sleep(BEAT).await;
        let spilled = shared.spill.waiting().await;
        let asked = Instant::now();
        if let Err(fault) = say(&shared, &mut own, spilled).await {
            tracing::debug!(%fault, "that this relay lives is said again in a moment");
            // A server that has no place for one more connection may serve those that are there.
            if matches!(fault, Fault::Open(_)) || asked.elapsed() >= SILENCE {
                shared.connector.give_up(own.as_ref());
            }
            if fault.is_away() {
                own = None;
            }
        }
    }
}

/// Reports once that this relay lives, over the connection that is kept for it, or a new one. The connector bounds the time to open that.
async fn say(shared: &Shared, own: &mut Option<Connection>, spilled: (u64, u64)) -> Result<(), Fault> {
    let good = own.take().filter(|connection| shared.connector.is_good(connection));
    let pooled;
    let connection = match good {
        Some(connection) => Ok(connection),
        None => shared.connector.connect().await,
    };
    let connection = match connection {
        Ok(connection) => &*own.insert(connection),
        // A server that has no place for one more connection may answer on one that is there.
        Err(fault) => {
            pooled = shared.client().await.map_err(|_| fault)?;
            &*pooled
        }
    };
    let asked = Instant::now();
    let said = timeout(SILENT, nodes::say_alive(shared, connection, spilled)).await;
    said.unwrap_or_else(|_| Err(Fault::Away("the server does not answer".into())))?;
    shared.heard().note(asked.into_std());
    shared.set_away(false);
    Ok(())
}

/// Looks again and again for what others did.
pub(super) async fn look(shared: Arc<Shared>, mut others: Others) {
    // The first look reads all hours, and tidies up.
    let mut looks = ALL_HOURS - 1;
    loop {
        sleep(BEAT).await;
        looks = looks.wrapping_add(1);
        let look = look_once(&shared, &mut others, looks.is_multiple_of(ALL_HOURS));
        if let Err(fault) = shared.connector.unless_given_up(look).await {
            tell(&fault);
        }
    }
}

/// Logs a look that failed: as a warning when the server refuses a statement, which may go on for good.
fn tell(fault: &Fault) {
    let is_refused = matches!(fault, Fault::Db(error) if error.code().is_some()) && !fault.is_in_the_way();
    match is_refused.then(|| log::admit("look", "")).flatten() {
        Some(Line { suppressed }) => {
            tracing::warn!(%fault, suppressed, "a part of the journal's upkeep failed; it is tried again in a moment");
        }
        None => tracing::debug!(%fault, "the journal is looked at again in a moment"),
    }
}

/// Looks once. A part that fails keeps no other from being done; the first fault is returned.
async fn look_once(shared: &Shared, others: &mut Others, has_all_hours: bool) -> Result<(), Fault> {
    let mut looked = Ok(());
    if shared.heard().since.elapsed() > GONE {
        looked = looked.and(nodes::bury_the_silent(shared).await);
    }
    if !has_all_hours {
        looked = looked.and(others.read(shared, false).await);
    }
    looked = looked.and(storage::measure_room(shared).await);
    looked = looked.and(days::read(shared).await);
    for (_, hand) in shared.hands() {
        hand.is_time.store(true, Ordering::Release);
        hand.wake();
    }
    if has_all_hours {
        looked = looked.and(upgrade::note_earlier(shared).await);
    }
    if let Some(epoch) = shared.leads().await {
        looked = looked.and(tidy_up(shared, epoch, has_all_hours).await);
    }
    // Last, because it may take long: what others wait for comes first.
    if has_all_hours { looked.and(others.read(shared, true).await) } else { looked }
}

/// Does the leader's upkeep for all relays. A part that fails keeps no other from being done.
async fn tidy_up(shared: &Shared, epoch: Epoch, has_all_hours: bool) -> Result<(), Fault> {
    let mut done = upkeep::bury(shared).await;
    done = done.and(upkeep::merge(shared, epoch).await);
    if has_all_hours {
        done = done.and(upgrade::finish(shared, epoch).await);
        done = done.and(upkeep::forget(shared, epoch).await);
        done = done.and(upkeep::forget_drained(shared, epoch).await);
    }
    done.and(days::make(shared, epoch).await)
}

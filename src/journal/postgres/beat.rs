//! What a relay does all the time: it says that it lives, and looks for what others did.
//!
//! Rule: whether a server takes writes is found out here. One that commits nothing for a few seconds is given up, with whatever else
//! waits for it; the first row that is committed again says that all can go on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::accounts;
use super::connect::{Connection, SILENCE};
use super::days;
use super::fault::Fault;
use super::nodes::{self, GONE};
use super::others::Others;
use super::shared::Shared;
use super::storage;
use super::upgrade;
use super::upkeep;

/// How often a relay says that it lives, and looks for what others did.
const BEAT: Duration = Duration::from_millis(500);
/// A server that has not committed one row for so long does not answer.
pub(super) const SILENT: Duration = Duration::from_secs(4);
/// How many looks it takes until the accounts of all hours are read anew.
const ALL_HOURS: u32 = 120;

/// Says again and again that this relay lives.
pub(super) async fn say_alive(shared: Arc<Shared>) {
    loop {
        sleep(BEAT).await;
        let spilled = shared.spill.waiting().await;
        let asked = Instant::now();
        let mut client = None;
        let said = async { say(&shared, client.insert(shared.client().await?), spilled).await }.await;
        if let Err(fault) = said {
            tracing::debug!(%fault, "that this relay lives is said again in a moment");
            // A server that has no place for one more connection says nothing of those that are there.
            if matches!(fault, Fault::Open(_)) || asked.elapsed() >= SILENCE {
                shared.connector.give_up(client.as_deref());
            }
        }
    }
}

/// Says it once, over a connection: how long it may take to get one is bounded there.
async fn say(shared: &Shared, client: &Connection, spilled: (u64, u64)) -> Result<(), Fault> {
    let asked = Instant::now();
    let said = timeout(SILENT, nodes::say_alive(shared, client, spilled)).await;
    said.unwrap_or_else(|_| Err(Fault::Away("the server does not answer".into())))?;
    shared.heard().note(asked.into_std());
    shared.set_away(false);
    Ok(())
}

/// Looks again and again for what others did.
pub(super) async fn look(shared: Arc<Shared>, mut others: Others) {
    // The first one reads all hours, and tidies up.
    let mut looks = ALL_HOURS - 1;
    loop {
        sleep(BEAT).await;
        looks = looks.wrapping_add(1);
        let look = look_once(&shared, &mut others, looks.is_multiple_of(ALL_HOURS));
        if let Err(fault) = shared.connector.unless_given_up(look).await {
            tracing::debug!(%fault, "the journal is looked at again in a moment");
        }
    }
}

async fn look_once(shared: &Shared, others: &mut Others, has_all_hours: bool) -> Result<(), Fault> {
    if shared.heard().since.elapsed() > GONE {
        nodes::bury_the_silent(shared).await?;
    }
    let now = accounts::hour(shared.clock.now());
    others.read(shared, if has_all_hours { 0 } else { now - 1 }).await?;
    storage::measure_room(shared).await?;
    days::read(shared).await?;
    for (_, hand) in shared.hands() {
        hand.is_time.store(true, Ordering::Release);
        hand.wake();
    }
    if has_all_hours {
        upgrade::note_earlier(shared).await?;
    }
    let Some(epoch) = shared.leads().await else { return Ok(()) };
    upkeep::bury(shared).await?;
    upkeep::merge(shared, epoch).await?;
    if has_all_hours {
        upgrade::finish(shared, epoch).await?;
        upkeep::forget(shared, epoch).await?;
        upkeep::forget_drained(shared, epoch).await?;
    }
    days::make(shared, epoch).await
}

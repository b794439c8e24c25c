//! Exchanges with the other relays on the journal what the workers and the intake learn.
//!
//! Rules: an exchange happens at once when there is news on either side, and every half second anyway. While the others are not heard,
//! their last answer holds, except that this relay takes an equal part of the inbound limits, by the number of relays last known.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::delivery::pace::Paces;
use crate::intake::submit::Intake;
use crate::journal::pace::Told;
use crate::journal::{Journal, Pace};
use crate::tasks::Tasks;

/// The time between two exchanges without news.
const EACH: Duration = Duration::from_millis(500);
/// The least time between two exchanges.
const LEAST: Duration = Duration::from_millis(50);
/// The timeout of an exchange.
const PATIENCE: Duration = Duration::from_secs(5);

/// Exchanges once, then starts the task that goes on with it, if the journal is shared.
pub(super) async fn start(tasks: &Tasks, journal: &Arc<dyn Journal>, paces: Paces, intake: Intake) {
    let Some(pace) = journal.pace() else { return };
    intake.divide_among(pace.joined());
    exchange(pace, &**journal, &paces, &intake).await;
    let (journal, stop) = (Arc::clone(journal), tasks.stopping().clone());
    tasks.spawn("the exchange with other relays", async move {
        stop.run_until_cancelled(go_on(&*journal, &paces, &intake)).await.unwrap_or_default();
    });
}

async fn go_on(journal: &dyn Journal, paces: &Paces, intake: &Intake) {
    let Some(pace) = journal.pace() else { return };
    loop {
        let next = Instant::now() + EACH;
        sleep(LEAST).await;
        tokio::select! {
            () = paces.news() => {}
            () = pace.stirred() => {}
            () = sleep_until(next) => {}
        }
        exchange(pace, journal, paces, intake).await;
    }
}

async fn exchange(pace: &dyn Pace, journal: &dyn Journal, paces: &Paces, intake: &Intake) {
    let told = Told { lessons: paces.told(), busy: intake.busy() };
    match timeout(PATIENCE, pace.exchange(told)).await {
        Ok(Ok(heard)) => {
            intake.divide(heard.share.of, &heard.others);
            for target in paces.hear(&Arc::new(heard)) {
                journal.changed(target).notify_one();
            }
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "the other relays are told in a moment");
            intake.divide_unheard();
        }
        Err(_) => {
            tracing::debug!("the other relays do not answer");
            intake.divide_unheard();
        }
    }
}

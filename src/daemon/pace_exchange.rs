//! Exchanges with the other relays on the journal what the workers and the intake of each learn.
//!
//! Rules: at once when there is something to tell or to hear, and every half second besides. While nothing is heard, what was
//! heard last holds. Of the inbound limits each relay then takes its part, as one of the relays that lived when it joined the
//! journal.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::delivery::pace::Paces;
use crate::intake::submit::Intake;
use crate::journal::pace::Told;
use crate::journal::{Journal, Pace};
use crate::tasks::Tasks;

/// How often it is exchanged when nobody has anything to tell.
const EACH: Duration = Duration::from_millis(500);
/// The least time from one exchange to the next.
const LEAST: Duration = Duration::from_millis(50);
/// How long the others may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Exchanges once, and goes on with it as one of these tasks, when there are others.
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

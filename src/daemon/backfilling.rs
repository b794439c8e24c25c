//! Continues backfills, a few records at a time, while next to nothing else waits for the upstream.
//!
//! Rule: live deliveries come first. Backfilled records stand behind everything else in the queue, and few of them wait at any moment. A
//! backfill thus costs live deliveries at most one busy connection for the time of one request.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::http::Admin;
use crate::journal::backfill::{Backfill, BackfillStep};
use crate::journal::{Journal, JournalError};
use crate::tasks::Tasks;

use super::control::Control;

/// A backfill adds records while fewer than this many wait for the upstream, of any kind, without those under way.
const BATCH: usize = 4;
/// The time between two steps: at most 100 records a second.
const EACH: Duration = Duration::from_millis(40);
/// The pause after a failure of the journal, and while another relay leads.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts the task that continues every running backfill, those from before the start included.
pub(super) fn start(tasks: &Tasks, journal: Arc<dyn Journal>, admin: Admin, control: Arc<dyn Control>) {
    let stop = tasks.stopping().clone();
    tasks.spawn("the backfills", async move {
        stop.run_until_cancelled(go_on(&*journal, &admin, &*control)).await.unwrap_or_default();
    });
}

async fn go_on(journal: &dyn Journal, admin: &Admin, control: &dyn Control) {
    loop {
        match round(journal, admin, control).await {
            Some(true) => sleep(EACH).await,
            Some(false) => admin.backfill_begun().await,
            None => sleep(PAUSE).await,
        }
    }
}

/// Does a step if this relay leads. Returns whether a backfill is running; `None` if nothing was done.
pub(super) async fn round(journal: &dyn Journal, admin: &Admin, control: &dyn Control) -> Option<bool> {
    let epoch = control.leads().await?;
    let done = epoch.under(|| step(journal, admin)).await;
    done.inspect_err(|error| tracing::debug!(%error, "backfills are put off")).ok()
}

/// Continues every running backfill. Returns whether there was one.
async fn step(journal: &dyn Journal, admin: &Admin) -> Result<bool, JournalError> {
    let running: Vec<Backfill> = journal.backfills().await?.into_iter().filter(Backfill::is_running).collect();
    for backfill in &running {
        let target = backfill.scope.target;
        let view = admin.view();
        // An upstream that is not configured gets nothing. Its backfill goes on when it is configured again.
        let Some(name) = view.targets.name(target).filter(|name| view.upstreams.contains_key(*name)) else { continue };
        let after = journal.backfill(target, BackfillStep::GoOn(BATCH)).await?;
        if let Some(done) = after.filter(|after| !after.is_running()) {
            let Backfill { found, taken, .. } = done;
            tracing::info!(upstream.name = &**name, found, taken, "a backfill has handed over everything");
        }
    }
    Ok(!running.is_empty())
}

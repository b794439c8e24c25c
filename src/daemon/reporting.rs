//! Our client reports: an upstream is told what was dropped for it, in an envelope of its own, not too often.
//!
//! Rule: no report is made for an upstream that does not answer, as long as something waits there that will find out when it is
//! back. The loss stays a count, because a count does not age and a waiting report would.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::journal::losses::Loss;
use crate::journal::{Client, Submission, TargetId};
use crate::protocol::category::Quantities;
use crate::protocol::client_report;

use super::Daemon;

/// Whom a report is for, and about which project.
type Addressee = (TargetId, Arc<str>);

/// Since when the next report is gathered, in time since the start.
pub(super) type Gathering = BTreeMap<Addressee, Duration>;

impl Daemon {
    /// Tells upstreams what was dropped for them, as far as it is time.
    pub(super) async fn tell_losses(&mut self) {
        self.intake.keep_losses().await;
        match self.control.leads().await {
            Some(epoch) => epoch.under(|| self.report_losses()).await,
            None => self.gathering.clear(),
        }
    }

    async fn report_losses(&mut self) {
        let Ok(losses) = self.journal.losses().await else { return };
        let mut gathered: BTreeMap<Addressee, Vec<Loss>> = BTreeMap::new();
        for loss in losses {
            gathered.entry((loss.target, Arc::clone(&loss.project))).or_default().push(loss);
        }
        self.gathering.retain(|addressee, _| gathered.contains_key(addressee));
        for (addressee, losses) in gathered {
            if let Some(upstream) = self.targets.name(addressee.0).cloned() {
                self.tell(&upstream, addressee, losses).await;
            }
        }
    }

    async fn tell(&mut self, upstream: &Arc<str>, addressee: Addressee, mut losses: Vec<Loss>) {
        let Some(every) = self.tells(upstream, &addressee.1) else { return };
        let every = (!every.is_zero()).then_some(every);
        let uptime = self.clock.uptime();
        let since = *self.gathering.entry(addressee.clone()).or_insert(uptime);
        if uptime < since + every.unwrap_or_default()
            || (every.is_some() && !self.may_tell(upstream, addressee.0).await)
        {
            return;
        }
        // What is more than one report can say goes with the next.
        losses.iter_mut().for_each(|loss| loss.quantity = loss.quantity.min(client_report::MOST));
        let report = every.map(|_| report(&addressee, &losses, self.clock.now()));
        let is_told = report.is_some();
        let (upstream, project) = (&**upstream, &*addressee.1);
        match self.journal.report(losses, report).await {
            Ok(()) => {
                self.gathering.remove(&addressee);
                if is_told {
                    self.metrics.client_reports_total.with_label_values(&[upstream, project]).inc();
                    tracing::debug!(upstream.name = upstream, project.name = project, "told what was dropped for it");
                }
            }
            Err(error) => tracing::debug!(upstream.name = upstream, %error, "a client report is made later"),
        }
    }

    /// How often an upstream is told of a project's losses; 0: not at all, nor what it has lost so far. `None` while it is not
    /// configured, or not for that project: it is told when it is again.
    fn tells(&self, upstream: &Arc<str>, project: &str) -> Option<Duration> {
        let every = self.config.upstreams.get(upstream)?.client_reports.get();
        let project = self.config.projects.iter().find(|known| &*known.name == project)?;
        project.dsns.contains_key(upstream).then_some(every)
    }

    /// Whether it answers, or nothing waits that would tell when it does.
    async fn may_tell(&self, upstream: &str, target: TargetId) -> bool {
        let report = self.supervisor.board().report(upstream).unwrap_or_default();
        let is_heard_of = report.last_delivery.is_some() || report.last_error.is_some();
        if report.up && !report.misconfigured && is_heard_of {
            return true;
        }
        self.journal.backlog(target).await.is_ok_and(|backlog| backlog.envelopes == 0)
    }
}

fn report((target, project): &Addressee, losses: &[Loss], now: Timestamp) -> Submission {
    let discarded = losses.iter().map(|loss| (loss.reason, loss.category, loss.quantity));
    Submission {
        accepted_at: now,
        project: Arc::clone(project),
        event_id: None,
        // The mark of a report of ours.
        quantities: Quantities::new(),
        keys: vec![],
        repeats_since: Timestamp::default(),
        client: Client::ours(),
        body: client_report::envelope(now, discarded).into(),
        targets: vec![*target],
        withheld: vec![],
        spans: None,
    }
}

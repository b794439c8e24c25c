//! The relay's client reports: tells an upstream now and then what was dropped for it, in an envelope of its own.
//!
//! Rule: an upstream that does not answer gets no report while other records wait there: those find out when it is back. Its losses stay
//! counts, because a count does not expire and a waiting report would.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::journal::losses::Loss;
use crate::journal::{Client, Submission, TargetId};
use crate::protocol::category::Quantities;
use crate::protocol::client_report;

use super::Daemon;

/// The upstream that a report is for, and the project that it is about.
type Addressee = (TargetId, Arc<str>);

/// When the gathering of the next report began, as time since the start.
pub(super) type Gathering = BTreeMap<Addressee, Duration>;

impl Daemon {
    /// Reports to upstreams what was dropped for them, as far as reports are due.
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
        // A quantity beyond the limit of one report goes with the next.
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

    /// The interval of reports to an upstream about a project; 0 to send none and forget its losses. `None` while the upstream or its DSN
    /// for the project is not configured: the losses wait until it is.
    fn tells(&self, upstream: &Arc<str>, project: &str) -> Option<Duration> {
        let every = self.config.upstreams.get(upstream)?.client_reports.get();
        let project = self.config.projects.iter().find(|known| &*known.name == project)?;
        project.dsns.contains_key(upstream).then_some(every)
    }

    /// Whether the upstream answers, or has no backlog that would find out when it does.
    async fn may_tell(&self, upstream: &str, target: TargetId) -> bool {
        let report = self.supervisor.board().report(upstream).unwrap_or_default();
        let is_heard_of = report.last_delivery.is_some() || report.last_error.is_some();
        if report.up && report.refused.is_empty() && is_heard_of {
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
        // A report of ours has no quantities: that is its mark.
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

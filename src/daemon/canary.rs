//! Canaries: every so often an event of the relay's own goes to every upstream that gets new envelopes, to show that events get through
//! when no service sends any.
//!
//! Rule: a canary is appended with its targets. Limits, storms and shadow sections do not apply, because it probes the way out. Like a
//! client report of ours it has no quantities, so that it is no evidence of what services sent. The board knows a canary before an upstream
//! can take it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::delivery::board::Board;
use crate::journal::evidence::Figures;
use crate::journal::{Client, JournalError, Submission, TargetId};
use crate::policy::canary::{Canary, Due};
use crate::policy::routing::Project;
use crate::protocol::category::Quantities;
use crate::protocol::event_id::EventId;
use crate::protocol::marked::{self, Mark};
use crate::units::Period;

use super::Daemon;

/// An upstream that is to get a canary.
type Recipient = (TargetId, Arc<str>);

impl Daemon {
    /// Judges canaries whose time is over, logs news, and sends the next canaries that are due.
    pub(super) async fn keep_canaries(&mut self) {
        let (board, settings) = (self.supervisor.board(), &self.config.canary);
        let wanted = settings.interval.zip(settings.project(&self.config.projects));
        let (Some(epoch), Some((interval, project))) = (self.control.leads().await, wanted) else {
            return board.keep_canaries(&[]);
        };
        let upstreams = self.config.routing().route(project).deliver;
        board.keep_canaries(&upstreams);
        let mut due = vec![];
        let targets = self.targets.clone();
        for (target, name) in targets.iter().filter(|(_, name)| upstreams.contains(*name)) {
            let recipient = (target, Arc::clone(name));
            if self.follow(&board, &recipient.1) {
                self.observed.canary_failed(&recipient.1);
            }
            if self.is_due(&board, &recipient, interval).await {
                due.push(recipient);
            }
        }
        if !due.is_empty() {
            epoch.under(|| self.send_canary(&board, project, due)).await;
        }
    }

    /// Looks after the last canary of an upstream. Returns whether canaries stopped getting through just now.
    fn follow(&self, board: &Board, upstream: &Arc<str>) -> bool {
        let now = self.clock.now();
        let look = |canary: &mut Option<Canary>| {
            let canary = canary.as_mut()?;
            canary.look(now);
            Some((canary.news(), canary.to_be_read_back()))
        };
        let Some((news, taken)) = board.canary(upstream, look).flatten() else { return false };
        match &news {
            Some(Ok(())) => tracing::info!(upstream.name = &**upstream, "canaries get through again"),
            Some(Err(why)) => tracing::warn!(upstream.name = &**upstream, why = &**why, "a canary did not get through"),
            None => {}
        }
        if let Some((id, until)) = taken {
            self.read_back(board, upstream, id, until);
        }
        matches!(news, Some(Err(_)))
    }

    /// Asks the upstream in a task of its own for a canary that it took. If it cannot tell, the canary counts as stored.
    fn read_back(&self, board: &Board, upstream: &Arc<str>, id: EventId, until: Timestamp) {
        let project = self.config.canary.project(&self.config.projects);
        // If a reload has removed the `api` section, the canary's time runs out.
        let Some((api, there)) = project.and_then(|project| self.verifier.place(upstream, &project.name)) else {
            return;
        };
        let (board, upstream, clock) = (board.clone(), Arc::clone(upstream), self.clock.clone());
        let stop = self.tasks.stopping().clone();
        self.tasks.spawn_detached(async move {
            let seeking = api.seek(&there, id, clock.instant(until));
            let Some(found) = stop.run_until_cancelled(seeking).await else { return };
            let found = match found {
                Some(false) => Err("it answered with 2xx and does not store it".to_owned()),
                Some(true) | None => Ok(()),
            };
            board.canary(&upstream, |canary| canary.as_mut().map(|canary| canary.read_back(id, found, clock.now())));
        });
    }

    /// When the last canary got through to each upstream, if the journal does not know it yet.
    pub(super) async fn canaries_through(&self) -> Result<Vec<(TargetId, Timestamp)>, JournalError> {
        let (board, figures) = (self.supervisor.board(), self.journal.figures().await?);
        let of = |(target, name): (TargetId, &Arc<str>)| {
            let through = board.canary(name, |canary| canary.as_ref()?.through_at()).flatten()?;
            (last_canary(&figures, target) < Some(through)).then_some((target, through))
        };
        Ok(self.targets.iter().filter_map(of).collect())
    }

    async fn is_due(&self, board: &Board, (target, upstream): &Recipient, interval: Period) -> bool {
        let now = self.clock.now();
        let due = |canary: &mut Option<Canary>| canary.as_ref().map_or(Due::Now, |last| last.due(now, interval.get()));
        match board.canary(upstream, due) {
            Some(Due::Now) => true,
            Some(Due::UnlessWaiting(since)) => {
                let backlog = self.journal.backlog(*target).await;
                backlog.is_ok_and(|backlog| backlog.oldest.is_none_or(|oldest| oldest > since))
            }
            Some(Due::Later) | None => false,
        }
    }

    async fn send_canary(&self, board: &Board, project: &Project, recipients: Vec<Recipient>) {
        let (id, now, timeout) = (EventId::random(), self.clock.now(), self.config.canary.timeout.get());
        // If the journal does not answer, it will not take the canary either.
        let figures = self.journal.figures().await.unwrap_or_default();
        for (target, upstream) in &recipients {
            let before = last_canary(&figures, *target);
            let reads_back = self.verifier.place(upstream, &project.name).is_some();
            board.canary(upstream, |canary| {
                *canary = Some(Canary::sent(canary.take(), id, now, timeout, reads_back).after(before));
            });
        }
        let targets = recipients.iter().map(|(target, _)| *target).collect();
        if let Err(error) = self.journal.report(vec![], Some(submission(project, targets, id, now))).await {
            let why = format!("the journal did not keep it: {error}");
            for (_, upstream) in &recipients {
                board.canary(upstream, |canary| canary.as_mut().map(|canary| canary.refused(id, &why)));
            }
        }
    }
}

fn last_canary(figures: &HashMap<TargetId, Figures>, target: TargetId) -> Option<Timestamp> {
    figures.get(&target)?.latest.canary_at
}

fn submission(project: &Project, targets: Vec<TargetId>, id: EventId, now: Timestamp) -> Submission {
    Submission {
        accepted_at: now,
        project: Arc::clone(&project.name),
        event_id: Some(id),
        // No quantities and an event id: the mark of a canary.
        quantities: Quantities::new(),
        keys: vec![],
        repeats_since: Timestamp::default(),
        client: Client::ours(),
        body: marked::event(Mark::Canary, id, now).into(),
        targets,
        withheld: vec![],
        spans: None,
    }
}

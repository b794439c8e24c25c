//! Switches of the primary: made on order or found in a reload, and recorded with time, reason and author.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::http::{SwitchOrder, SwitchRefusal};
use crate::journal::{JournalError, Primaries, Switch, TargetId};
use crate::policy::routing::{Project, Routing};

use super::Daemon;

/// How long an announced switch waits for its edit of the file.
const ANNOUNCED: Duration = Duration::from_secs(10);
/// The maximum number of switches that wait for the journal; beyond it the oldest are dropped.
const UNKEPT: usize = 100;

/// A switch that is about to be made in the configuration, with its reason and author.
pub(super) struct Announced {
    to: String,
    reason: Option<String>,
    author: Option<String>,
}

impl Daemon {
    /// Records every switch between the routing before and the one in force. The relay that made the primary of all relays records that
    /// one.
    pub(super) async fn note_switches(&mut self, before: &Routing) {
        let (now, after) = (self.clock.now(), self.config.routing());
        if before.primary != after.primary {
            let announced = self.announced.take().filter(|(_, at)| at.elapsed() < ANNOUNCED);
            let announced = announced.map(|(announced, _)| announced).filter(|it| it.to == *after.primary);
            let (reason, author) = announced.map_or((None, None), |announced| (announced.reason, announced.author));
            let is_kept = self.control.made_primary(&after.primary);
            self.note_switch((now, is_kept), None, &before.primary, &after.primary, reason, author);
        }
        for project in &after.projects {
            let Some(old) = before.project(&project.name) else { continue };
            let (from, to) = (before.primary_of(old), after.primary_of(project));
            let is_global = old.primary.is_none() && project.primary.is_none();
            if from != to && !is_global {
                self.note_switch((now, true), Some(&project.name), from, to, None, None);
            }
        }
        self.keep_switches().await;
    }

    fn note_switch(
        &mut self,
        (at, is_kept): (Timestamp, bool),
        project: Option<&Arc<str>>,
        from: &str,
        to: &str,
        reason: Option<String>,
        author: Option<String>,
    ) {
        let all = project.map_or("all", |project| &**project);
        tracing::info!(from, to, project.name = all, reason, author, "the primary was switched");
        self.metrics.switches_total.inc();
        self.metrics.last_switch_timestamp_seconds.set(at.as_secs_f64());
        if !is_kept {
            return;
        }
        let text = |text: Option<String>| text.map(Into::into);
        let switch = Switch {
            at,
            project: project.map(|project| (**project).into()),
            from: Some(from.into()),
            to: to.into(),
            reason: text(reason),
            author: text(author),
        };
        self.unkept.push_back(switch);
    }

    /// Records the waiting switches in the journal. If it fails, the rest is tried again next time.
    pub(super) async fn keep_switches(&mut self) {
        while let Some(switch) = self.unkept.front() {
            if let Err(error) = self.journal.record_switch(switch.clone()).await {
                tracing::debug!(%error, "a switch of the primary is kept later");
                break;
            }
            self.unkept.pop_front();
        }
        self.unkept.drain(..self.unkept.len().saturating_sub(UNKEPT));
    }

    /// Records the first primary of a journal as its beginning, and as a switch if it was changed while the relay was stopped.
    pub(super) async fn note_first_primary(&mut self) -> Result<(), JournalError> {
        let kept = self.journal.switches(100).await?;
        let primary = Arc::clone(&self.config.primary);
        if let Some(last) = kept.iter().find(|switch| switch.from.is_some()) {
            self.metrics.last_switch_timestamp_seconds.set(last.at.as_secs_f64());
        }
        match kept.into_iter().find(|switch| switch.project.is_none()) {
            _ if !self.control.made_primary(&primary) => {}
            None => {
                let to = (*primary).into();
                let first = Switch { at: self.clock.now(), project: None, from: None, to, reason: None, author: None };
                self.unkept.push_back(first);
            }
            Some(last) if *last.to != *primary => {
                let reason = Some("changed while stopped".to_owned());
                self.note_switch((self.clock.now(), true), None, &last.to, &primary, reason, None);
            }
            Some(_) => {}
        }
        self.keep_switches().await;
        Ok(())
    }

    /// Makes a switch on an order from the admin listener.
    pub(super) async fn carry_out(&mut self, order: SwitchOrder) {
        let SwitchOrder { to, reason, author, announced, reply } = order;
        let outcome = if self.config.upstreams.contains_key(to.as_str()) {
            self.announced = Some((Announced { to: to.clone(), reason, author }, Instant::now()));
            let edited = if announced { Ok(()) } else { self.edit(&to).await };
            // A failed switch needs no reason, and a switch that somebody makes by hand meanwhile has another one.
            edited.inspect_err(|_| self.announced = None)
        } else {
            let known: Vec<&str> = self.config.upstreams.keys().map(|name| &**name).collect();
            Err(format!("{to:?} is no upstream; there are {}", known.join(", ")))
        };
        // The caller may have left; the order is carried out anyway.
        drop(reply.send(outcome.map_err(|detail| SwitchRefusal { detail })));
    }

    /// Changes the primary and loads the configuration. If that fails, the old primary is restored, unless somebody has changed it since.
    async fn edit(&mut self, to: &str) -> Result<(), String> {
        let before = self.control.set_primary(to).await?;
        self.reload(false).await;
        if *self.config.primary == *to {
            return Ok(());
        }
        let mut why = self.status.error.clone().unwrap_or_default();
        if let Some(before) = before.filter(|before| before != to) {
            match self.control.take_back(to, &before).await {
                Ok(()) => self.reload(false).await,
                Err(error) => why = format!("{why}\nand the line could not be put back: {error}"),
            }
        }
        if why.is_empty() {
            why = format!("somebody has made {} the primary at the same moment", self.config.primary);
        }
        Err(why)
    }
}

/// The upstreams whose backlogs are never evicted.
pub(super) fn primaries(routing: &Routing, targets: &HashMap<Arc<str>, TargetId>) -> Primaries {
    let own = |project: &Arc<Project>| Some((Arc::clone(&project.name), *targets.get(project.primary.as_ref()?)?));
    let own = routing.projects.iter().filter_map(own).collect();
    Primaries { everywhere: targets.get(&routing.primary).copied(), own }
}

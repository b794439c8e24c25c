//! Which items of a submission are let in under a [`View`], and which upstreams get them.
//!
//! Rule: no upstream is asked. Their limits are the ones they have told, and the view says which upstreams are shadows.

use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::journal::body::{Body, Unreadable};
use crate::journal::{Client, JournalError};
use crate::policy::limiter::Limiter;
use crate::policy::outcome::RefusalReason;
use crate::policy::routing::Project;
use crate::policy::shadow::caps::Spent;
use crate::protocol::category::{Category, Quantities};
use crate::protocol::envelope::{Envelope, Item, MAX_LINE, Outline, header_line};
use crate::protocol::item::ItemType;
use crate::protocol::rate_limits::RateLimit;
use crate::tasks;

use super::{Entrance, Intake, Refusal, View};
use crate::intake::keyring::check_dsn;
use crate::intake::police::{self, Sorting};
use crate::intake::shadows::{self, Recipients, Sight};

impl Intake {
    /// The project that the beginning of an envelope names, before the rest is there; `None` while its first line is not at its end.
    pub fn recognise(&self, entrance: &Entrance, beginning: &[u8]) -> Result<Option<Arc<str>>, Refusal> {
        let line = header_line(beginning);
        if line.len() == beginning.len() && line.len() <= MAX_LINE {
            return Ok(None);
        }
        let envelope = Envelope::parse(Bytes::copy_from_slice(line))?;
        let project = match entrance {
            Entrance::Request { project, .. } => {
                check_dsn(project, envelope.dsn())?;
                Arc::clone(project)
            }
            Entrance::Envelope { id } => self.view.load().keyring.find_by_dsn(id.as_deref(), envelope.dsn())?,
        };
        Ok(Some(Arc::clone(&project.name)))
    }

    /// Puts the limits for browsers in force when the first browser sends for a project. A page names its origin; a server does not.
    pub(super) fn look_for_browser(&self, view: &View, project: &Arc<str>, client: &Client) {
        if client.origin.is_none() || !view.limiter.load().awaits_browsers(project) {
            return;
        }
        self.browsers.remember(project, |seen| {
            let names = view.routing.projects.iter().map(|project| &project.name);
            let limiter = Limiter::new(&view.limits, names, seen, &view.limiter.load(), self.clock.uptime());
            view.limiter.store(Arc::new(limiter));
        });
    }

    /// Why a request that is no envelope is refused now, and for how long; `None` if it is let in.
    pub(super) fn limits_on(
        &self,
        view: &View,
        project: &Project,
        quantities: &Quantities,
    ) -> Option<(RefusalReason, RateLimit)> {
        let (name, now) = (&project.name, self.clock.now());
        // Clients of check-ins by URL are told of no limit and go on sending. Their check-ins wait for the upstreams.
        if !self.cooldowns.is_clear(name) && !is_check_in(quantities) {
            let kind = shadows::item_of(quantities);
            if let Some((category, until)) = self.wanted_from(view, project, &kind, quantities, now) {
                return Some((RefusalReason::UpstreamLimited, police::told(category, until, now)));
            }
        }
        let limiter = view.limiter.load();
        let taken = limiter.of(name)?.take(quantities, self.clock.uptime());
        taken.err().map(|reached| (RefusalReason::RateLimited, reached.told()))
    }

    /// The limit that keeps such an item from every upstream that would get it: the category, and when the first upstream takes it again.
    /// `None` when an upstream takes it now.
    fn wanted_from(
        &self,
        view: &View,
        project: &Project,
        kind: &ItemType,
        categories: &Quantities,
        now: Timestamp,
    ) -> Option<(Category, Timestamp)> {
        self.cooldowns.until(&takers(view, project, kind, categories), &project.name, categories, now)
    }

    /// Excludes the items that limits and storms refuse, and counts all items that are not taken in.
    pub(super) async fn police(
        &self,
        view: &View,
        project: &Project,
        body: &Body,
        sorting: &mut Sorting<'_>,
        now: Timestamp,
    ) {
        let name = &project.name;
        if !self.cooldowns.is_clear(name) {
            let until =
                |item: &Item| self.wanted_from(view, project, &item.kind, &item.kind.categories(item.counting), now);
            sorting.without_unwanted(until, now);
        }
        if let Some(storm) = view.storms.get(name) {
            sorting.without_storms(name, body, (&self.storms, storm), now).await;
        }
        if let Some(buckets) = view.limiter.load().of(name) {
            sorting.without_excess(buckets, self.clock.uptime());
        }
        if !sorting.is_whole() {
            sorting.count(name, &self.metrics);
            for (item, why, lost) in sorting.refused(body).await {
                let of = takers(view, project, &item.kind, &item.kind.categories(item.counting));
                self.shed(view, project, &of, (why, &lost));
            }
        }
    }

    /// Counts refused quantities as lost for these upstreams.
    pub(super) fn shed(
        &self,
        view: &View,
        project: &Project,
        upstreams: &[Arc<str>],
        (why, lost): (RefusalReason, &Quantities),
    ) {
        let targets: Vec<_> = upstreams.iter().filter_map(|upstream| view.target(upstream)).collect();
        self.shed.add(&targets, &project.name, why.reported_as(), lost);
    }

    /// The recipients, and what the submission uses of daily caps.
    pub(super) async fn recipients(
        &self,
        view: &View,
        project: &Project,
        sight: Sight<'_>,
        now: Timestamp,
    ) -> (Recipients, Option<Spent>) {
        let route = view.routing.route(project);
        let targets = route.deliver.iter().filter_map(|upstream| view.target(upstream)).collect();
        let withheld = route.withheld.iter().filter_map(|(upstream, why)| Some((view.target(upstream)?, *why)));
        let mut to = Recipients { targets, withheld: withheld.collect(), left_out: vec![] };
        if view.shadows.is_open() {
            return (to, None);
        }
        let of = route.deliver.iter().filter_map(|upstream| Some((upstream, view.target(upstream)?)));
        let spent = view.shadows.spare(&mut to, of, view.routing.primary_of(project), sight, now).await;
        (to, Some(spent))
    }
}

/// Whether a request that is no envelope is a check-in.
pub(super) fn is_check_in(quantities: &Quantities) -> bool {
    quantities.iter().any(|(category, _)| category == Category::Monitor)
}

/// The upstreams that would get such an item, as far as its type and its categories decide that.
pub(super) fn takers(view: &View, project: &Project, kind: &ItemType, categories: &Quantities) -> Vec<Arc<str>> {
    let (primary, mut upstreams) = (view.routing.primary_of(project), view.routing.route(project).deliver);
    upstreams.retain(|upstream| upstream == primary || !view.shadows.never_takes(upstream, kind, categories));
    upstreams
}

/// The outline of the envelope. A large one is read on a thread of its own.
pub(super) async fn outline(body: &Body) -> Result<Outline, Refusal> {
    let read = match body {
        Body::Memory(_) => body.outline(),
        Body::Large(_) => {
            let body = body.clone();
            tasks::blocking(move || body.outline()).await
        }
    };
    read.map_err(|error| match error {
        Unreadable::Envelope(error) => error.into(),
        Unreadable::Io(error) => JournalError::Failed(error.to_string()).into(),
    })
}

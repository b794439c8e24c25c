//! What one transaction changes in the accounts, in what waits and in the room taken; and what other relays changed.
//!
//! Rules: rows belong to the incarnation that wrote them, and are added up by whoever reads them. Those of incarnations that are gone
//! are summed up under the incarnation 0. Each ledger is posted every change once: of ours after the commit, of others when it is read.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::journal::evidence::KEPT;
use crate::journal::losses::{Loss, spans_in};
use crate::journal::{TargetId, body::Body};
use crate::policy::outcome::{DropReason, Outcome};
use crate::protocol::category::{Category, Quantities};
use crate::protocol::client_report::Reason;
use crate::tasks;
use crate::telemetry::ledger::{Account, AccountKey, Posting};

use super::connect::Connection;
use super::fault::Fault;
use super::room::Changes;
use super::shared::Shared;

/// The intake's number in the column `target`.
pub(super) const INTAKE: i16 = -1;

/// What is counted beside the categories in the table `waiting`.
pub(super) const ENVELOPES: &str = "#envelopes";
/// See [`ENVELOPES`].
pub(super) const BYTES: &str = "#bytes";

/// Hour, target, project and category of an account.
pub(super) type Whose = (i32, i16, i32, Category);

/// The changes of one transaction.
#[derive(Debug, Default)]
pub(super) struct Book {
    rows: BTreeMap<(Whose, Outcome), i64>,
    waiting: BTreeMap<(i16, i32, &'static str), i64>,
    room: Changes,
    losses: BTreeMap<(i16, i32, Reason, Category), i64>,
    /// When something was last delivered to a target.
    latest: BTreeMap<i16, i64>,
    /// Large bodies with transactions that are lost, whose spans are not counted yet, and how many of those.
    unread: Vec<(Loss, i32, Body)>,
}

/// The number of an hour as a column has it.
pub(super) fn hour(at: Timestamp) -> i32 {
    i32::try_from(at.hour()).unwrap_or(i32::MAX)
}

impl Book {
    /// Notes a change of an account; `None` is the intake's.
    pub(super) fn note(
        &mut self,
        at: Timestamp,
        target: Option<TargetId>,
        project: i32,
        outcome: Outcome,
        quantities: &Quantities,
    ) {
        let target = target.map_or(INTAKE, |target| i16::from(target.0));
        for (category, quantity) in quantities.iter() {
            self.add((hour(at), target, project, category), outcome, quantity);
        }
    }

    /// Notes a change of one account.
    pub(super) fn add(&mut self, whose: Whose, outcome: Outcome, quantity: u64) {
        if quantity > 0 {
            *self.rows.entry((whose, outcome)).or_default() += quantity.cast_signed();
        }
    }

    /// Notes that a target does not get this of a record, and what it is to be told of that. `body` is the record's, for the spans of a
    /// transaction.
    pub(super) fn note_dropped(
        &mut self,
        at: Timestamp,
        (target, project): (TargetId, i32),
        reason: DropReason,
        (body, quantities): (&Body, &Quantities),
    ) {
        self.note(at, Some(target), project, Outcome::Dropped(reason), quantities);
        let Some(reason) = reason.reported_as() else { return };
        let transactions = quantities.iter().find(|(category, _)| *category == Category::Transaction);
        let loss = |(category, quantity)| Loss { target, project: "".into(), reason, category, quantity };
        quantities.iter().for_each(|lost| self.lose(project, &loss(lost)));
        if let Some((_, transactions)) = transactions {
            let spans = loss((Category::Span, transactions));
            match body {
                Body::Memory(_) => self.lose_spans(project, spans, spans_in(body)),
                Body::Large(_) => self.unread.push((spans, project, body.clone())),
            }
        }
    }

    /// A transaction that cannot be read loses one span.
    fn lose_spans(&mut self, project: i32, loss: Loss, spans: u64) {
        self.lose(project, &Loss { quantity: spans.max(loss.quantity), ..loss });
    }

    /// Counts the spans in large bodies that are lost: before [`Book::write`], and on another thread, which reading them blocks.
    pub(super) async fn read_spans(&mut self) {
        for (loss, project, body) in std::mem::take(&mut self.unread) {
            let spans = tasks::blocking(move || spans_in(&body)).await;
            self.lose_spans(project, loss, spans);
        }
    }

    /// Notes that something was delivered to a target at that time.
    pub(super) fn note_latest(&mut self, target: TargetId, at: i64) {
        let latest = self.latest.entry(target.0.into()).or_insert(at);
        *latest = at.max(*latest);
    }

    /// Notes a loss that is to be told.
    pub(super) fn lose(&mut self, project: i32, loss: &Loss) {
        if loss.category.can_be_reported() && loss.quantity > 0 {
            let whose = (i16::from(loss.target.0), project, loss.reason, loss.category);
            *self.losses.entry(whose).or_default() += loss.quantity.cast_signed();
        }
    }

    /// Notes that an envelope of `size` bytes waits for a target.
    pub(super) fn enter(&mut self, target: TargetId, project: i32, size: u64, quantities: &Quantities) {
        self.count(target, project, (1, size.cast_signed()), quantities, 1);
    }

    /// Notes that it waits no more.
    pub(super) fn leave(&mut self, target: TargetId, project: i32, size: u64, quantities: &Quantities) {
        self.count(target, project, (-1, -size.cast_signed()), quantities, -1);
    }

    fn count(
        &mut self,
        target: TargetId,
        project: i32,
        (envelopes, bytes): (i64, i64),
        quantities: &Quantities,
        sign: i64,
    ) {
        let mut add = |what, much: i64| {
            *self.waiting.entry((i16::from(target.0), project, what)).or_default() += much;
        };
        add(ENVELOPES, envelopes);
        add(BYTES, bytes);
        for (category, quantity) in quantities.iter() {
            add(category.name(), sign * quantity.cast_signed());
        }
    }

    /// Notes that a project takes so much more room, or so much less.
    pub(super) fn take_room(&mut self, project: i32, bytes: i64) {
        *self.room.entry(project).or_default() += bytes;
    }

    /// What it changes in the room taken.
    pub(super) fn room(&self) -> &Changes {
        &self.room
    }

    /// Whether something waits no more.
    fn settles(&self) -> bool {
        self.waiting.values().any(|quantity| *quantity < 0)
    }

    /// Writes the rows, all that are asked of the server at once.
    pub(super) async fn write(&self, client: &Connection, me: i32) -> Result<(), Fault> {
        tokio::try_join!(
            self.write_accounts(client, me),
            self.write_waiting(client, me),
            self.write_room(client, me),
            self.write_latest(client, me),
            self.write_losses(client),
        )?;
        Ok(())
    }

    async fn write_accounts(&self, client: &Connection, me: i32) -> Result<(), Fault> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let (mut hours, mut targets, mut projects) = (vec![], vec![], vec![]);
        let (mut categories, mut outcomes, mut quantities) = (vec![], vec![], vec![]);
        for (((hour, target, project, category), outcome), quantity) in &self.rows {
            hours.push(*hour);
            targets.push(*target);
            projects.push(*project);
            categories.push(category.name());
            outcomes.push(outcome.name());
            quantities.push(*quantity);
        }
        client
            .run(
                "INSERT INTO ledger AS l
                 SELECT h, $1, t, p, c, o, q FROM unnest($2::int[], $3::smallint[], $4::int[], $5::text[], $6::text[], $7::bigint[])
                     AS u(h, t, p, c, o, q)
                 ON CONFLICT (hour, incarnation, target, project, category, outcome)
                 DO UPDATE SET quantity = l.quantity + excluded.quantity",
                &[&me, &hours, &targets, &projects, &categories, &outcomes, &quantities],
            )
            .await
            .map(drop)
    }

    async fn write_waiting(&self, client: &Connection, me: i32) -> Result<(), Fault> {
        let waiting: Vec<_> = self.waiting.iter().filter(|(_, quantity)| **quantity != 0).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let targets: Vec<i16> = waiting.iter().map(|((target, ..), _)| *target).collect();
        let projects: Vec<i32> = waiting.iter().map(|((_, project, _), _)| *project).collect();
        let what: Vec<&str> = waiting.iter().map(|((.., what), _)| *what).collect();
        let quantities: Vec<i64> = waiting.iter().map(|(_, quantity)| **quantity).collect();
        client
            .run(
                "INSERT INTO waiting AS w SELECT $1, t, p, c, q FROM unnest($2::smallint[], $3::int[], $4::text[], $5::bigint[]) AS u(t, p, c, q)
                 ON CONFLICT (incarnation, target, project, category) DO UPDATE SET quantity = w.quantity + excluded.quantity",
                &[&me, &targets, &projects, &what, &quantities],
            )
            .await
            .map(drop)
    }

    async fn write_room(&self, client: &Connection, me: i32) -> Result<(), Fault> {
        let room: Vec<_> = self.room.iter().filter(|(_, bytes)| **bytes != 0).collect();
        if room.is_empty() {
            return Ok(());
        }
        let projects: Vec<i32> = room.iter().map(|(project, _)| **project).collect();
        let bytes: Vec<i64> = room.iter().map(|(_, bytes)| **bytes).collect();
        client
            .run(
                "INSERT INTO room AS r SELECT $1, p, b FROM unnest($2::int[], $3::bigint[]) AS u(p, b)
                 ON CONFLICT (incarnation, project) DO UPDATE SET bytes = r.bytes + excluded.bytes",
                &[&me, &projects, &bytes],
            )
            .await
            .map(drop)
    }

    async fn write_latest(&self, client: &Connection, me: i32) -> Result<(), Fault> {
        if self.latest.is_empty() {
            return Ok(());
        }
        let (targets, times): (Vec<i16>, Vec<i64>) = self.latest.iter().unzip();
        client
            .run(
                "INSERT INTO latest (incarnation, target, delivered_at) SELECT $1, t, at FROM unnest($2::smallint[], $3::bigint[]) AS u(t, at)
                 ON CONFLICT (incarnation, target) DO UPDATE SET
                     delivered_at = greatest(latest.delivered_at, excluded.delivered_at)",
                &[&me, &targets, &times],
            )
            .await
            .map(drop)
    }

    async fn write_losses(&self, client: &Connection) -> Result<(), Fault> {
        if self.losses.is_empty() {
            return Ok(());
        }
        let (mut targets, mut projects, mut reasons) = (vec![], vec![], vec![]);
        let (mut categories, mut quantities) = (vec![], vec![]);
        for ((target, project, reason, category), quantity) in &self.losses {
            targets.push(*target);
            projects.push(*project);
            reasons.push(reason.name());
            categories.push(category.name());
            quantities.push(*quantity);
        }
        client.run(
            "INSERT INTO loss AS l SELECT * FROM unnest($1::smallint[], $2::int[], $3::text[], $4::text[], $5::bigint[])
             ON CONFLICT (target, project, reason, category) DO UPDATE SET quantity = l.quantity + excluded.quantity",
            &[&targets, &projects, &reasons, &categories, &quantities],
        )
        .await
        .map(drop)
    }

    /// Posts what a commit changed.
    pub(super) fn post(&self, shared: &Shared) {
        shared.room.commit(&self.room);
        if self.settles() {
            shared.room.note_barren(false);
        }
        shared.ledger.post(&self.postings(shared));
    }

    /// Learns the names of those whose accounts change: another relay may have met a project first. Nothing is posted without a name.
    pub(super) async fn know_names(&self, shared: &Shared) -> Result<(), Fault> {
        let names = shared.names();
        let is_known = |(_, target, project, _): &Whose| {
            names.project(*project).is_some() && (*target == INTAKE || names.target(*target).is_some())
        };
        if self.rows.keys().all(|(whose, _)| is_known(whose)) { Ok(()) } else { shared.know_names().await }
    }

    /// The changes of accounts as postings.
    pub(super) fn postings(&self, shared: &Shared) -> Vec<Posting> {
        let posting = |(((_, target, project, category), outcome), quantity): (&(Whose, Outcome), &i64)| {
            let key = key(shared, *target, *project, *category)?;
            Some(Posting { key, outcome: *outcome, quantity: quantity.cast_unsigned() })
        };
        self.rows.iter().filter_map(posting).collect()
    }

    /// What this transaction has changed in an account so far, for who may book no more than is there.
    pub(super) fn changed(&self, whose: Whose) -> Account {
        let mut account = Account::default();
        for ((_, outcome), quantity) in self.rows.iter().filter(|((at, _), _)| *at == whose) {
            account.post(*outcome, quantity.cast_unsigned());
        }
        account
    }
}

/// Whose account it is.
fn key(shared: &Shared, target: i16, project: i32, category: Category) -> Option<AccountKey> {
    let names = shared.names();
    let upstream = match target {
        INTAKE => None,
        target => Some(Arc::clone(names.target(target)?)),
    };
    Some(AccountKey { upstream, project: Arc::clone(names.project(project)?), category })
}

/// The changes that others made, as far as they were read: what all other incarnations together say.
#[derive(Debug, Default)]
pub(super) struct Others(BTreeMap<(Whose, Outcome), i64>);

impl Others {
    /// Reads the accounts of all others since that hour, and what is older than is told apart, and posts what changed. From the hour 0 on
    /// these are all.
    pub(super) async fn read(&mut self, shared: &Shared, since: i32) -> Result<(), Fault> {
        let oldest = hour(shared.clock.now() - KEPT);
        self.fold(oldest);
        let client = shared.client().await?;
        let statement = client
            .prepare_cached(
                "SELECT CASE WHEN hour < $3 THEN 0 ELSE hour END AS at, target, project, category, outcome, sum(quantity)::bigint
                 FROM ledger WHERE incarnation <> $1 AND (hour = 0 OR hour >= $2) GROUP BY at, target, project, category, outcome",
            )
            .await?;
        let rows = client.query(&statement, &[&shared.incarnation, &since, &oldest]).await?;
        shared.know_names().await?;
        let mut postings = Vec::new();
        for row in rows {
            let (category, outcome): (&str, &str) = (row.get(3), row.get(4));
            // What a newer version counts is left to it.
            let (Some(category), Some(outcome)) = (Category::from_name(category), Outcome::from_name(outcome)) else {
                continue;
            };
            let (target, project): (i16, i32) = (row.get(1), row.get(2));
            let (now, whose) = (row.get::<_, i64>(5), (row.get(0), target, project, category));
            let before = self.0.entry((whose, outcome)).or_default();
            let quantity = now.saturating_sub(*before);
            if quantity > 0
                && let Some(key) = key(shared, target, project, category)
            {
                *before = now;
                postings.push(Posting { key, outcome, quantity: quantity.cast_unsigned() });
            }
        }
        shared.ledger.post(&postings);
        Ok(())
    }

    /// Adds hours before that one to the hour 0: whoever leads does so in the table, now or then.
    fn fold(&mut self, oldest: i32) {
        let is_old = |hour: i32| hour > 0 && hour < oldest;
        let old: Vec<_> = self.0.iter().filter(|(((hour, ..), _), _)| is_old(*hour)).map(|(k, n)| (*k, *n)).collect();
        for (key, quantity) in old {
            self.0.remove(&key);
            let ((_, target, project, category), outcome) = key;
            *self.0.entry(((0, target, project, category), outcome)).or_default() += quantity;
        }
    }
}

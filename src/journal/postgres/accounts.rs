//! The changes of one transaction in the accounts, the backlogs and the room taken.
//!
//! Rules: rows belong to the incarnation that wrote them; readers add them up. Rows of incarnations that are gone are summed up under the
//! incarnation 0. The ledger is posted every change once, after the commit. The statements that write the rows are prepared before and sent
//! without a wait, so the commit goes out right behind them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_postgres::Statement;

use crate::clock::Timestamp;
use crate::journal::losses::{Loss, spans_in};
use crate::journal::{TargetId, body::Body};
use crate::policy::outcome::{DropReason, Outcome};
use crate::protocol::category::{Category, Quantities};
use crate::protocol::client_report::Reason;
use crate::tasks;
use crate::telemetry::ledger::{Account, AccountKey, Posting};

use super::connect::{Connection, Params};
use super::fault::Fault;
use super::room::Changes;
use super::shared::Shared;

/// The intake's number in the column `target`.
pub(super) const INTAKE: i16 = -1;

/// In the table `waiting`, beside the categories: the number of envelopes.
pub(super) const ENVELOPES: &str = "#envelopes";
/// In the table `waiting`, beside the categories: the bytes of their bodies.
pub(super) const BYTES: &str = "#bytes";

/// The hour, target, project and category of an account.
pub(super) type Whose = (i32, i16, i32, Category);

/// The changes of one transaction.
#[derive(Debug, Default)]
pub(super) struct Book {
    rows: BTreeMap<(Whose, Outcome), i64>,
    waiting: BTreeMap<(i16, i32, &'static str), i64>,
    room: Changes,
    losses: BTreeMap<(i16, i32, Reason, Category), i64>,
    /// When something was last delivered, by target.
    latest: BTreeMap<i16, i64>,
    /// Losses of spans that are not counted yet: the loss with the number of transactions, the project, and the large body to read.
    unread: Vec<(Loss, i32, Body)>,
}

/// The statements that write the rows: of accounts, of backlogs, of room, of the latest deliveries, of losses.
const WRITES: [&str; 5] = [
    "INSERT INTO ledger AS l
     SELECT h, $1, t, p, c, o, q FROM unnest($2::int[], $3::smallint[], $4::int[], $5::text[], $6::text[], $7::bigint[])
         AS u(h, t, p, c, o, q)
     ON CONFLICT (hour, incarnation, target, project, category, outcome) DO UPDATE SET quantity = l.quantity + excluded.quantity",
    "INSERT INTO waiting AS w SELECT $1, t, p, c, q FROM unnest($2::smallint[], $3::int[], $4::text[], $5::bigint[]) AS u(t, p, c, q)
     ON CONFLICT (incarnation, target, project, category) DO UPDATE SET quantity = w.quantity + excluded.quantity",
    "INSERT INTO room AS r SELECT $1, p, b FROM unnest($2::int[], $3::bigint[]) AS u(p, b)
     ON CONFLICT (incarnation, project) DO UPDATE SET bytes = r.bytes + excluded.bytes",
    "INSERT INTO latest (incarnation, target, delivered_at) SELECT $1, t, at FROM unnest($2::smallint[], $3::bigint[]) AS u(t, at)
     ON CONFLICT (incarnation, target) DO UPDATE SET delivered_at = greatest(latest.delivered_at, excluded.delivered_at)",
    "INSERT INTO loss AS l SELECT * FROM unnest($1::smallint[], $2::int[], $3::text[], $4::text[], $5::bigint[])
     ON CONFLICT (target, project, reason, category) DO UPDATE SET quantity = l.quantity + excluded.quantity",
];

/// [`WRITES`], prepared on a connection.
pub(super) struct Prepared([Statement; WRITES.len()]);

impl Prepared {
    /// Prepares them, unless the connection has them.
    pub(super) async fn on(client: &Connection) -> Result<Self, Fault> {
        let [accounts, waiting, room, latest, losses] = WRITES.map(|sql| client.prepare_cached(sql));
        let all = tokio::try_join!(accounts, waiting, room, latest, losses)?;
        Ok(Self(all.into()))
    }
}

/// The number of an hour as a column has it.
pub(super) fn hour(at: Timestamp) -> i32 {
    i32::try_from(at.hour()).unwrap_or(i32::MAX)
}

impl Book {
    /// Notes a change of the accounts of a target; `None` means the intake.
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

    /// Notes that a target does not get these quantities of a record, and the losses that it is to be told of. `body` is the record's, to
    /// count the spans of a transaction.
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

    /// Notes lost spans: at least one for each transaction, also if the body cannot be read.
    fn lose_spans(&mut self, project: i32, loss: Loss, spans: u64) {
        self.lose(project, &Loss { quantity: spans.max(loss.quantity), ..loss });
    }

    /// Counts the lost spans in large bodies. It comes before [`Book::write`], and reads on a blocking thread.
    pub(super) async fn read_spans(&mut self) {
        for (loss, project, body) in std::mem::take(&mut self.unread) {
            let spans = tasks::blocking(move || spans_in(&body)).await;
            self.lose_spans(project, loss, spans);
        }
    }

    /// Notes that something was delivered to a target at this time.
    pub(super) fn note_latest(&mut self, target: TargetId, at: i64) {
        let latest = self.latest.entry(target.0.into()).or_insert(at);
        *latest = at.max(*latest);
    }

    /// Notes a loss that a report is to tell.
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

    /// Notes that an envelope of `size` bytes no longer waits for a target.
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

    /// Notes that a project takes this much more room, or less if it is negative.
    pub(super) fn take_room(&mut self, project: i32, bytes: i64) {
        *self.room.entry(project).or_default() += bytes;
    }

    /// The changes in the room taken.
    pub(super) fn room(&self) -> &Changes {
        &self.room
    }

    /// Returns whether something no longer waits.
    fn settles(&self) -> bool {
        self.waiting.values().any(|quantity| *quantity < 0)
    }

    /// Writes the rows with prepared statements. The first poll sends them all.
    pub(super) async fn write(&self, client: &Connection, prepared: &Prepared, me: i32) -> Result<(), Fault> {
        let Prepared([accounts, waiting, room, latest, losses]) = prepared;
        tokio::try_join!(
            self.write_accounts(client, accounts, me),
            self.write_waiting(client, waiting, me),
            self.write_room(client, room, me),
            self.write_latest(client, latest, me),
            self.write_losses(client, losses),
        )?;
        Ok(())
    }

    async fn write_accounts(&self, client: &Connection, statement: &Statement, me: i32) -> Result<(), Fault> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let keys = || self.rows.keys();
        let hours: Vec<i32> = keys().map(|((hour, ..), _)| *hour).collect();
        let targets: Vec<i16> = keys().map(|((_, target, ..), _)| *target).collect();
        let projects: Vec<i32> = keys().map(|((_, _, project, _), _)| *project).collect();
        let categories: Vec<&str> = keys().map(|((.., category), _)| category.name()).collect();
        let outcomes: Vec<&str> = keys().map(|(_, outcome)| outcome.name()).collect();
        let quantities: Vec<i64> = self.rows.values().copied().collect();
        let params: Params<'_> = &[&me, &hours, &targets, &projects, &categories, &outcomes, &quantities];
        Ok(client.execute(statement, params).await.map(drop)?)
    }

    async fn write_waiting(&self, client: &Connection, statement: &Statement, me: i32) -> Result<(), Fault> {
        let waiting: Vec<_> = self.waiting.iter().filter(|(_, quantity)| **quantity != 0).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let targets: Vec<i16> = waiting.iter().map(|((target, ..), _)| *target).collect();
        let projects: Vec<i32> = waiting.iter().map(|((_, project, _), _)| *project).collect();
        let what: Vec<&str> = waiting.iter().map(|((.., what), _)| *what).collect();
        let quantities: Vec<i64> = waiting.iter().map(|(_, quantity)| **quantity).collect();
        let params: Params<'_> = &[&me, &targets, &projects, &what, &quantities];
        Ok(client.execute(statement, params).await.map(drop)?)
    }

    async fn write_room(&self, client: &Connection, statement: &Statement, me: i32) -> Result<(), Fault> {
        let room: Vec<_> = self.room.iter().filter(|(_, bytes)| **bytes != 0).collect();
        if room.is_empty() {
            return Ok(());
        }
        let projects: Vec<i32> = room.iter().map(|(project, _)| **project).collect();
        let bytes: Vec<i64> = room.iter().map(|(_, bytes)| **bytes).collect();
        Ok(client.execute(statement, &[&me, &projects, &bytes]).await.map(drop)?)
    }

    async fn write_latest(&self, client: &Connection, statement: &Statement, me: i32) -> Result<(), Fault> {
        if self.latest.is_empty() {
            return Ok(());
        }
        let (targets, times): (Vec<i16>, Vec<i64>) = self.latest.iter().unzip();
        Ok(client.execute(statement, &[&me, &targets, &times]).await.map(drop)?)
    }

    async fn write_losses(&self, client: &Connection, statement: &Statement) -> Result<(), Fault> {
        if self.losses.is_empty() {
            return Ok(());
        }
        let keys = || self.losses.keys();
        let targets: Vec<i16> = keys().map(|(target, ..)| *target).collect();
        let projects: Vec<i32> = keys().map(|(_, project, ..)| *project).collect();
        let reasons: Vec<&str> = keys().map(|(_, _, reason, _)| reason.name()).collect();
        let categories: Vec<&str> = keys().map(|(.., category)| category.name()).collect();
        let quantities: Vec<i64> = self.losses.values().copied().collect();
        let params: Params<'_> = &[&targets, &projects, &reasons, &categories, &quantities];
        Ok(client.execute(statement, params).await.map(drop)?)
    }

    /// Posts what a commit changed.
    pub(super) fn post(&self, shared: &Shared) {
        shared.room.commit(&self.room);
        if self.settles() {
            shared.room.note_barren(false);
        }
        shared.ledger.post(&self.postings(shared));
    }

    /// Reads the names if an account has one that is not known: another relay may have met a project first. Nothing is posted without a
    /// name.
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

    /// The changes of this transaction in an account so far, for callers that may book no more than is there.
    pub(super) fn changed(&self, whose: Whose) -> Account {
        let mut account = Account::default();
        for ((_, outcome), quantity) in self.rows.iter().filter(|((at, _), _)| *at == whose) {
            account.post(*outcome, quantity.cast_unsigned());
        }
        account
    }
}

/// The key of an account; `None` if a name is not known.
pub(super) fn key(shared: &Shared, target: i16, project: i32, category: Category) -> Option<AccountKey> {
    let names = shared.names();
    let upstream = match target {
        INTAKE => None,
        target => Some(Arc::clone(names.target(target)?)),
    };
    Some(AccountKey { upstream, project: Arc::clone(names.project(project)?), category })
}

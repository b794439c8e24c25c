//! Lets records wait for a target again that were settled, or were not meant for it.
//!
//! Rule: a transaction that takes records up has the target to itself, so no record waits twice.

use crate::clock::Timestamp;
use crate::journal::{Progress, Rest, TargetId};
use crate::policy::outcome::Outcome;
use crate::protocol::category::{Category, Quantities};
use crate::telemetry::ledger::Account;

use super::accounts::{Whose, hour};
use super::fault::Fault;
use super::places;
use super::verification::anew;
use super::work::Work;

/// A record that is to wait again.
#[derive(Debug)]
pub(super) struct Again {
    pub(super) id: i64,
    pub(super) project: i32,
    pub(super) size: u64,
    pub(super) due: Timestamp,
    /// The positions of the items; `None` means all.
    pub(super) items: Option<Vec<u16>>,
    pub(super) quantities: Quantities,
}

/// Lets records wait again of which nothing waits for the target, and posts them as returned.
pub(super) async fn take_up(work: &mut Work, target: TargetId, all: &[Again]) -> Result<(), Fault> {
    if all.is_empty() {
        return Ok(());
    }
    let (now, mut ids, mut rests) = (work.now(), vec![], vec![]);
    for Again { id, project, size, due, items, quantities } in all {
        let progress = Progress { items: items.clone(), ..Progress::default() };
        ids.push(*id);
        rests.push((*id, Rest { due: *due, progress, quantities: quantities.clone() }));
        work.book.note(now, Some(target), *project, Outcome::Returned, quantities);
        work.book.enter(target, *project, *size, quantities);
    }
    places::put_off(work, target, &rests).await?;
    let number = i16::from(target.0);
    work.execute("DELETE FROM missed WHERE target = $1 AND record = ANY($2)", &[&number, &ids]).await?;
    let has_errors = |again: &&Again| again.quantities.iter().any(|(category, _)| category == Category::Error);
    let errors = all.iter().filter(has_errors).map(|again| (again.id, again.project, again.due));
    anew::look_again(work, target, errors.collect()).await?;
    work.woken.insert(target);
    Ok(())
}

/// Notes that a backfill takes up a record, in the hour of its acceptance: at most what was withheld then. A record from before the target
/// was known was never withheld; only its return is posted.
pub(super) async fn note_backfilled(
    work: &mut Work,
    accepted_at: Timestamp,
    (target, project): (TargetId, i32),
    quantities: &Quantities,
) -> Result<(), Fault> {
    for (category, quantity) in quantities.iter() {
        let whose = (hour(accepted_at), i16::from(target.0), project, category);
        let quantity = quantity.min(account(work, whose).await?.withheld());
        work.book.add(whose, Outcome::Backfilled, quantity);
    }
    Ok(())
}

/// Notes that a dead letter is retried, in the hour of the refusal: at most what was refused then. The refusal was booked when it was
/// committed, perhaps in the next hour.
pub(super) async fn note_retried(
    work: &mut Work,
    refused_at: Timestamp,
    (target, project): (TargetId, i32),
    quantities: &Quantities,
) -> Result<(), Fault> {
    for (category, mut left) in quantities.iter() {
        for hour in [hour(refused_at), hour(refused_at).saturating_add(1)] {
            let whose: (i32, i16, i32, Category) = (hour, target.0.into(), project, category);
            let quantity = left.min(account(work, whose).await?.refused());
            work.book.add(whose, Outcome::Retried, quantity);
            left -= quantity;
        }
    }
    Ok(())
}

/// The account of an hour over all relays, with the changes of this transaction.
async fn account(work: &Work, whose: Whose) -> Result<Account, Fault> {
    let (hour, target, project, category) = whose;
    let rows = work
        .query(
            "SELECT outcome, sum(quantity)::bigint FROM ledger
             WHERE hour = $1 AND target = $2 AND project = $3 AND category = $4 GROUP BY outcome",
            &[&hour, &target, &project, &category.name()],
        )
        .await?;
    let mut account = work.book.changed(whose);
    for row in &rows {
        if let Some(outcome) = Outcome::from_name(row.get(0)) {
            account.post(outcome, row.get::<_, i64>(1).cast_unsigned());
        }
    }
    Ok(account)
}

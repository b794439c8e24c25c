//! Moves the submissions over that were kept on this machine while no server took writes ([`spill`](super::spill)).
//!
//! Rule: they are moved in order, once: each has a key of its own, so a move that was cut off is recognized as a repeat. A submission that
//! cannot be read, or whose project has taken its share of the room, is moved later and delays no other.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::journal::body::Body;
use crate::journal::sqlite::SqliteJournal;
use crate::journal::{
    Claim, Client, JournalError, Log as _, Progress, Queues as _, Record, RecordId, Rest, Settlement, Spilled,
    Submission,
};
use crate::tasks;

use super::drafts;
use super::fault::Fault;
use super::group::Command;
use super::record::ms;
use super::shared::Shared;
use super::spill::Kept;

/// How often the mover looks for submissions.
const EACH: Duration = Duration::from_millis(500);
/// The most submissions that are moved at once.
const MOST: usize = 64;
/// How long a submission waits that is refused because its project has taken its share of the room.
const NO_SHARE: Duration = Duration::from_secs(5);
/// How long a submission waits that cannot be read.
const UNREADABLE: Duration = Duration::from_secs(60);

/// Moves the submissions kept here whenever a server takes them.
pub(super) async fn run(shared: Arc<Shared>, commands: mpsc::WeakUnboundedSender<Command>) {
    let Some(Kept { journal, target }) = &shared.spill.0 else { return };
    loop {
        tokio::time::sleep(EACH).await;
        while !shared.is_away() {
            let now = shared.clock.now();
            let Ok(claims) = journal.claim(*target, now, MOST).await else { break };
            let Some(commands) = commands.upgrade().filter(|_| !claims.is_empty()) else { break };
            let moving = move_over(&shared, journal, &commands, &claims);
            if let Err(fault) = shared.connector.unless_given_up(moving).await {
                tracing::debug!(%fault, "what is kept on this machine is moved later");
                put_back(&shared, journal, &claims).await;
                break;
            }
        }
        let before = shared.clock.now();
        if let Err(error) = journal.prune(before, MOST * 4).await {
            tracing::debug!(%error, "the journal on this machine is tidied later");
        }
    }
}

/// Moves these submissions, in their order.
async fn move_over(
    shared: &Arc<Shared>,
    journal: &SqliteJournal,
    commands: &mpsc::UnboundedSender<Command>,
    claims: &[Claim],
) -> Result<(), Fault> {
    let (mut outcome, mut handed, mut answers, mut settled) = (Ok(()), Vec::new(), Vec::new(), Vec::new());
    for claim in claims {
        match hand_over(shared, commands, claim, &[]).await {
            Ok(answer) => {
                handed.push(claim);
                answers.push(answer);
            }
            Err(Fault::Unreadable(error)) => {
                tracing::warn!(%error, "a large body that is kept on this machine cannot be read: it is tried again in a minute");
                settled.push(journal.settle(&claim.lease, put_off(claim, shared.clock.now() + UNREADABLE)));
            }
            Err(fault) => {
                outcome = Err(fault);
                break;
            }
        }
    }
    for (claim, answer) in handed.into_iter().zip(join_all(answers).await) {
        let answer = without_repeats(shared, commands, claim, answer.unwrap_or(Err(JournalError::Closed))).await;
        match answer {
            Ok(_) => {
                let delivered = claim.record.quantities.clone();
                settled.push(journal.settle(&claim.lease, Settlement { delivered, ..Settlement::default() }));
            }
            // Other projects are not to wait until this one has room again.
            Err(JournalError::Share(_)) => {
                settled.push(journal.settle(&claim.lease, put_off(claim, shared.clock.now() + NO_SHARE)));
            }
            Err(error) => outcome = outcome.and(Err(error.into())),
        }
    }
    // Settled together, so that the disk is waited for once.
    for settled in join_all(settled).await {
        settled?;
    }
    outcome
}

/// Puts back the submissions that were not moved, so that nobody waits for their leases to end.
async fn put_back(shared: &Shared, journal: &SqliteJournal, claims: &[Claim]) {
    let now = shared.clock.now();
    // A submission that was moved has no lease any more, so its settlement changes nothing.
    join_all(claims.iter().map(|claim| journal.settle(&claim.lease, put_off(claim, now)))).await;
}

fn put_off(claim: &Claim, due: Timestamp) -> Settlement {
    let (progress, quantities) = (Progress::default(), claim.record.quantities.clone());
    Settlement { rest: Some(Rest { due, progress, quantities }), ..Settlement::default() }
}

/// Moves a submission without the keys that another relay has taken: the rest was acknowledged, too. It was moved before if its own key is
/// taken, and need not be moved if the keys of all its items are.
async fn without_repeats(
    shared: &Arc<Shared>,
    commands: &mpsc::UnboundedSender<Command>,
    claim: &Claim,
    mut answer: Result<RecordId, JournalError>,
) -> Result<RecordId, JournalError> {
    let mut taken = Vec::new();
    while let Err(JournalError::Repeated(keys)) = &answer {
        let own = claim.record.client.spilled.as_deref().and_then(|spilled| spilled.keys.last()).copied().map(whole);
        if keys.is_empty() || own.is_some_and(|own| keys.contains(&own)) {
            return Ok(claim.record.id);
        }
        taken.extend(keys.iter().copied());
        if items(claim).await <= taken.len() {
            return Ok(claim.record.id);
        }
        answer = match hand_over(shared, commands, claim, &taken).await {
            Ok(answer) => answer.await.unwrap_or(Err(JournalError::Closed)),
            Err(fault) => Err(fault.into()),
        };
    }
    answer
}

/// The number of items; each key is of at most one item.
async fn items(claim: &Claim) -> usize {
    let (body, is_request) = (claim.record.body.clone(), claim.record.client.request.is_some());
    if is_request {
        return 1;
    }
    tasks::blocking(move || body.outline().map_or(usize::MAX, |outline| outline.items().len())).await
}

/// A key from its two halves.
fn whole((high, low): (u64, u64)) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

type Answer = oneshot::Receiver<Result<RecordId, JournalError>>;

/// Sends a submission to be committed, without the keys that others have taken.
async fn hand_over(
    shared: &Arc<Shared>,
    commands: &mpsc::UnboundedSender<Command>,
    claim: &Claim,
    taken: &[u128],
) -> Result<Answer, Fault> {
    let (reply, answer) = oneshot::channel();
    let record = &*claim.record;
    let spilled = record.client.spilled.as_deref().cloned().unwrap_or_default();
    if is_there(shared, record, &spilled).await? || is_moved(shared, record, &spilled).await? {
        drop(reply.send(Ok(record.id)));
        return Ok(answer);
    }
    let body = match drafts::copied(shared, record).await {
        Ok(body) => body,
        Err(Fault::Journal(refused)) => {
            drop(reply.send(Err(refused)));
            return Ok(answer);
        }
        Err(fault) => return Err(fault),
    };
    let submission = Submission {
        accepted_at: record.accepted_at,
        project: Arc::clone(&record.project),
        event_id: record.event_id,
        quantities: record.quantities.clone(),
        keys: spilled.keys.iter().copied().map(whole).filter(|key| !taken.contains(key)).collect(),
        repeats_since: Timestamp::from_millis(spilled.repeats_since),
        client: Client { spilled: None, ..record.client.clone() },
        body,
        spans: record.spans().cloned(),
        targets: spilled.targets,
        withheld: spilled.withheld,
    };
    commands.send(Command::Append(Box::new(submission), reply)).map_err(|_| Fault::Journal(JournalError::Closed))?;
    Ok(answer)
}

/// Returns whether a large body was moved before, with its record, so that it is not copied again. For a small body the commit tells it.
async fn is_moved(shared: &Shared, record: &Record, spilled: &Spilled) -> Result<bool, Fault> {
    let (Body::Large(_), Some(own)) = (&record.body, spilled.keys.last()) else { return Ok(false) };
    let client = shared.client().await?;
    let sql = "SELECT EXISTS (SELECT 1 FROM key WHERE key = $1)";
    let is_moved: bool = client.query_one(sql, &[&Uuid::from_u128(whole(*own))]).await?.get(0);
    if is_moved {
        client.make_certain().await?;
    }
    Ok(is_moved)
}

/// Returns whether a commit with an unknown outcome took place: whether the record of that number is this one. A server that has become the
/// primary since may have given the number to another record.
async fn is_there(shared: &Shared, record: &Record, spilled: &Spilled) -> Result<bool, Fault> {
    let Some(number) = spilled.number.map(u64::cast_signed) else { return Ok(false) };
    let client = shared.client().await?;
    // The last key is that of the move itself.
    let keys = spilled.keys.split_last().map_or(&[][..], |(_, keys)| keys).iter().copied().map(whole);
    let keys: Vec<u8> = keys.flat_map(u128::to_be_bytes).collect();
    let event_id = record.event_id.map(|id| Uuid::from_u128(id.as_u128()));
    let sql = "SELECT EXISTS (
             SELECT 1 FROM record r JOIN project p ON p.id = r.project WHERE r.id = $1 AND p.name = $2 AND r.accepted_at = $3
             AND r.size = $4 AND r.event_id IS NOT DISTINCT FROM $5 AND r.keys = $6)";
    let (at, size, project) = (ms(record.accepted_at), record.body.len().cast_signed(), &*record.project);
    let is_there: bool = client.query_one(sql, &[&number, &project, &at, &size, &event_id, &keys]).await?.get(0);
    client.make_certain().await?;
    Ok(is_there)
}

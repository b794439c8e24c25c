//! Submissions become records, within a transaction.
//!
//! Rule: a submission is a repeat if one of its keys was taken within the window of duplicates. It is told so after a commit of this relay,
//! so the record that it repeats is on a second machine.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use tokio_postgres::Row;
use uuid::Uuid;

use crate::journal::body::Body;
use crate::journal::{JournalError, Record, RecordId, Submission};
use crate::policy::outcome::Outcome;

use super::bodies;
use super::days;
use super::fault::Fault;
use super::fresh::Kept;
use super::handout::Handout;
use super::record::ms;
use super::shared::Shared;
use super::storage;
use super::work::Work;

/// Windows of duplicates that begin within this many milliseconds of each other count as one.
const SAME_WINDOW: i64 = 60_000;

/// The outcome of each submission, to be told after the commit.
pub(super) type Answers = Vec<Result<RecordId, JournalError>>;

/// The outcomes of submissions, and the numbers whose records were there already.
#[derive(Default)]
pub(super) struct Appended {
    pub(super) answers: Answers,
    pub(super) there: HashSet<i64>,
}

/// Writes submissions, under the numbers from `numbered` on if an earlier attempt had numbers. The records of that attempt may be there:
/// its outcome may be unknown.
pub(super) async fn append(
    work: &mut Work,
    submissions: &[&Submission],
    numbered: &mut Option<i64>,
    handout: &mut Handout,
) -> Result<Appended, Fault> {
    if submissions.is_empty() {
        return Ok(Appended::default());
    }
    let count = submissions.len() as i64;
    let is_again = numbered.is_some();
    let first = *numbered.get_or_insert_with(|| work.shared.number(count));
    let there = if is_again { kept(work, first, count).await? } else { HashSet::new() };
    let (mut rows, mut answers) = (Rows { days: work.shared.days.load_full(), ..Rows::default() }, Vec::new());
    let mut taken = take_keys(work, submissions, (first, &there)).await?;
    let lost = bodies::lost(work, submissions).await?;
    for (at, submission) in submissions.iter().enumerate() {
        let id = first + at as i64;
        let repeats = if there.contains(&id) { vec![] } else { taken.repeats_of(submission) };
        if !repeats.is_empty() {
            answers.push(Err(JournalError::Repeated(repeats)));
            continue;
        }
        if !there.contains(&id) {
            if bodies::number(&submission.body).is_some_and(|body| lost.contains(&body)) {
                answers.push(Err(JournalError::Failed("its body is gone".into())));
                continue;
            }
            let project = work.shared.project(&submission.project).await?;
            let need = storage::room_of(submission);
            let more = need.saturating_sub(bodies::taken(&submission.body));
            if let Err(error) = storage::admit(work, Some(project), more).await? {
                answers.push(Err(error));
                continue;
            }
            work.book.take_room(project, need.cast_signed());
            rows.push(id, project, submission, need)?;
            note(work, project, submission);
            let kept = || kept_here(&work.shared, id, project, submission);
            handout.note(&work.shared, (id, &submission.targets), kept);
        }
        taken.kept.extend(submission.keys.iter().map(|key| (*key, id)));
        answers.push(Ok(RecordId(id.cast_unsigned())));
    }
    // The first error is returned: what follows it in a transaction only says that the transaction has failed.
    let (written, shared) = tokio::join!(rows.write(work), handout.share(work));
    written.and(shared)?;
    taken.give_back(work, submissions, &answers).await?;
    Ok(Appended { answers, there })
}

/// The record that a submission becomes.
fn kept_here(shared: &Shared, id: i64, project: i32, submission: &Submission) -> Kept {
    let body = match bodies::number(&submission.body) {
        Some(large) => bodies::kept(shared, large, submission.body.len()),
        None => submission.body.clone(),
    };
    let record = Record {
        id: RecordId(id.cast_unsigned()),
        accepted_at: submission.accepted_at,
        project: Arc::clone(&submission.project),
        event_id: submission.event_id,
        quantities: submission.quantities.clone(),
        client: submission.client.clone(),
        body,
        located: submission.spans.clone().map(|spans| OnceLock::from(Some(spans))).unwrap_or_default(),
    };
    Kept { record: Arc::new(record), project }
}

/// Of these numbers, those that have a record.
async fn kept(work: &Work, first: i64, count: i64) -> Result<HashSet<i64>, Fault> {
    let sql = "SELECT id FROM record WHERE id >= $1 AND id < $2";
    Ok(work.query(sql, &[&first, &(first + count)]).await?.iter().map(|row| row.get(0)).collect())
}

/// Takes those keys of the submissions that nobody has.
async fn take_keys(
    work: &Work,
    submissions: &[&Submission],
    (first, there): (i64, &HashSet<i64>),
) -> Result<Keys, Fault> {
    let mut wanted: Vec<Wanted> = Vec::new();
    let new = submissions.iter().enumerate().filter(|(at, _)| !there.contains(&(first + *at as i64)));
    for (at, submission) in new {
        let (accepted, since) = (ms(submission.accepted_at), ms(submission.repeats_since));
        let record = first + at as i64;
        wanted.extend(submission.keys.iter().map(|key| Wanted { key: *key, record, accepted, since }));
    }
    if wanted.is_empty() {
        return Ok(Keys::default());
    }
    // In the same order everywhere, so that no two relays wait for each other.
    wanted.sort_unstable();
    wanted.dedup_by_key(|wanted| wanted.key);
    // A submission that was kept on this machine for a while has another window.
    let newest = wanted.iter().map(|wanted| wanted.since).max().unwrap_or(0);
    let (now, late): (Vec<_>, Vec<_>) = wanted.iter().copied().partition(|wanted| newest - wanted.since < SAME_WINDOW);
    let mut rows = take(work, &now).await?;
    rows.extend(take(work, &late).await?);
    let ours: HashSet<u128> = rows.iter().map(|row| row.get::<_, Uuid>(0).as_u128()).collect();
    let others = wanted.iter().map(|wanted| wanted.key).filter(|key| !ours.contains(key)).collect();
    Ok(Keys { others, ours, kept: HashMap::new() })
}

/// A key that a submission wants, and the number of the record that it would become.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    key: u128,
    record: i64,
    accepted: i64,
    since: i64,
}

/// Takes those of these keys that nobody has; returns the rows of the keys that are ours now.
async fn take(work: &Work, wanted: &[Wanted]) -> Result<Vec<Row>, Fault> {
    let Some(since) = wanted.iter().map(|wanted| wanted.since).min() else { return Ok(vec![]) };
    let keys: Vec<Uuid> = wanted.iter().map(|wanted| Uuid::from_u128(wanted.key)).collect();
    let records: Vec<i64> = wanted.iter().map(|wanted| wanted.record).collect();
    let accepted: Vec<i64> = wanted.iter().map(|wanted| wanted.accepted).collect();
    // A row that is not changed is locked all the same, and the transaction that has it is waited for.
    work.query(
        "INSERT INTO key AS k SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[])
         ON CONFLICT (key) DO UPDATE SET record = excluded.record, at = excluded.at WHERE k.at < $4 RETURNING k.key",
        &[&keys, &records, &accepted, &since],
    )
    .await
}

/// The owners of keys.
#[derive(Default)]
struct Keys {
    /// The keys of other relays, or of an earlier group.
    others: HashSet<u128>,
    ours: HashSet<u128>,
    /// The keys of the submissions that were accepted so far, and their records.
    kept: HashMap<u128, i64>,
}

impl Keys {
    /// The keys of a submission that others have, or an earlier submission.
    fn repeats_of(&self, submission: &Submission) -> Vec<u128> {
        let is_taken = |key: &&u128| self.others.contains(key) || self.kept.contains_key(key);
        submission.keys.iter().filter(is_taken).copied().collect()
    }

    /// Gives back the keys of submissions that became no records. A key that an accepted submission has too goes to its record.
    async fn give_back(&self, work: &Work, submissions: &[&Submission], answers: &Answers) -> Result<(), Fault> {
        let (mut back, mut given, mut records) = (vec![], vec![], vec![]);
        let refused = submissions.iter().zip(answers).filter(|(_, answer)| answer.is_err());
        for key in refused.flat_map(|(submission, _)| &submission.keys).filter(|key| self.ours.contains(key)) {
            match self.kept.get(key) {
                Some(record) => {
                    given.push(Uuid::from_u128(*key));
                    records.push(*record);
                }
                None => back.push(Uuid::from_u128(*key)),
            }
        }
        if !back.is_empty() {
            work.execute("DELETE FROM key WHERE key = ANY($1)", &[&back]).await?;
        }
        if !given.is_empty() {
            let sql =
                "UPDATE key SET record = u.r FROM unnest($1::uuid[], $2::bigint[]) AS u(k, r) WHERE key.key = u.k";
            work.execute(sql, &[&given, &records]).await?;
        }
        Ok(())
    }
}

/// Books an accepted submission.
fn note(work: &mut Work, project: i32, submission: &Submission) {
    let Submission { accepted_at: at, quantities, body, targets, withheld, .. } = submission;
    work.book.note(*at, None, project, Outcome::Accepted, quantities);
    for target in targets {
        work.book.note(*at, Some(*target), project, Outcome::Accepted, quantities);
        work.book.enter(*target, project, body.len(), quantities);
    }
    for (target, reason) in withheld {
        work.book.note(*at, Some(*target), project, Outcome::Accepted, quantities);
        work.book.note_dropped(*at, (*target, project), *reason, (body, quantities));
    }
}

/// The columns of new records, and of the bodies that are kept by day.
#[derive(Default)]
struct Rows<'a> {
    ids: Vec<i64>,
    accepted: Vec<i64>,
    projects: Vec<i32>,
    targets: Vec<i64>,
    sizes: Vec<i64>,
    rooms: Vec<i64>,
    quantities: Vec<String>,
    event_ids: Vec<Option<Uuid>>,
    keys: Vec<Vec<u8>>,
    clients: Vec<String>,
    bodies: Vec<Option<&'a [u8]>>,
    larges: Vec<Option<i64>>,
    days: Arc<Vec<i64>>,
    by_day: (Vec<i64>, Vec<i64>, Vec<&'a [u8]>),
}

impl<'a> Rows<'a> {
    fn push(&mut self, id: i64, project: i32, submission: &'a Submission, room: u64) -> Result<(), Fault> {
        let client = serde_json::to_string(&submission.client).map_err(|error| Fault::Failed(error.to_string()))?;
        self.ids.push(id);
        self.accepted.push(ms(submission.accepted_at));
        self.projects.push(project);
        self.targets.push(submission.targets.iter().fold(0, |mask, target| mask | 1 << target.0));
        self.sizes.push(submission.body.len().cast_signed());
        self.rooms.push(room.cast_signed());
        self.quantities.push(submission.quantities.to_string());
        self.event_ids.push(submission.event_id.map(|id| Uuid::from_u128(id.as_u128())));
        self.keys.push(submission.keys.iter().flat_map(|key| key.to_be_bytes()).collect());
        self.clients.push(client);
        match &submission.body {
            Body::Memory(bytes) => {
                let day = days::of(ms(submission.accepted_at));
                let is_by_day = self.days.contains(&day);
                if is_by_day {
                    self.by_day.0.push(day);
                    self.by_day.1.push(id);
                    self.by_day.2.push(bytes);
                }
                self.bodies.push((!is_by_day).then_some(&bytes[..]));
                self.larges.push(None);
            }
            large @ Body::Large(_) => {
                self.bodies.push(None);
                self.larges.push(Some(
                    bodies::number(large).ok_or_else(|| Fault::Failed("a body of another journal".into()))?,
                ));
            }
        }
        Ok(())
    }

    async fn write(&self, work: &Work) -> Result<(), Fault> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let (days, ids, bodies) = &self.by_day;
        let written = work.execute(
            "WITH apart AS (INSERT INTO body SELECT * FROM unnest($13::bigint[], $14::bigint[], $15::bytea[]))
             INSERT INTO record SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::int[], $4::bigint[], $5::bigint[], $6::bigint[],
                 $7::text[], $8::uuid[], $9::bytea[], $10::text[], $11::bytea[], $12::bigint[])",
            &[
                &self.ids,
                &self.accepted,
                &self.projects,
                &self.targets,
                &self.sizes,
                &self.rooms,
                &self.quantities,
                &self.event_ids,
                &self.keys,
                &self.clients,
                &self.bodies,
                &self.larges,
                days,
                ids,
                bodies,
            ],
        )
        .await;
        if written.is_err() {
            // A day may be gone: none is used until the next beat reads which there are.
            work.shared.days.store(Arc::default());
        }
        written?;
        bodies::own(work, (&self.ids, &self.larges, &self.sizes)).await
    }
}

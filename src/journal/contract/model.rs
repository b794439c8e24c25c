//! Random calls against a simple model. After every call the claims, the counts and the accounts are what the model says.
//!
//! The model is a map of waiting records. It knows nothing of watermarks, queues or files.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;

/// One call. Targets and claims are picked by position among those there are.
#[derive(Clone, Debug)]
enum Call {
    /// Appends `count` records of `errors` errors each, for the targets of the mask.
    Append {
        count: u8,
        mask: u8,
        errors: u64,
        size: u16,
    },
    Claim {
        target: u8,
        now: u64,
        max: usize,
    },
    Deliver {
        pick: usize,
    },
    /// Delivers one error and puts the rest off.
    PutOff {
        pick: usize,
        due: u64,
    },
    Reject {
        pick: usize,
    },
    Discard {
        target: u8,
        before: u64,
        limit: usize,
    },
    Prune {
        before: u64,
        limit: usize,
    },
    Retry {
        target: u8,
        limit: usize,
    },
    Forget {
        target: u8,
        limit: usize,
    },
    /// Ends every lease.
    Lapse {
        now: u64,
    },
    Crash,
}

fn call() -> impl Strategy<Value = Call> {
    let (target, time, pick) = (0..2_u8, 0..60_u64, any::<usize>());
    prop_oneof![
        6 => (1..4_u8, 0..4_u8, 1..4_u64, prop_oneof![0..100_u16, 30_000..60_000_u16])
            .prop_map(|(count, mask, errors, size)| Call::Append { count, mask, errors, size }),
        8 => (target.clone(), time.clone(), 0..5_usize).prop_map(|(target, now, max)| Call::Claim { target, now, max }),
        6 => pick.prop_map(|pick| Call::Deliver { pick }),
        5 => (pick, time.clone()).prop_map(|(pick, due)| Call::PutOff { pick, due }),
        2 => pick.prop_map(|pick| Call::Reject { pick }),
        1 => (target.clone(), 0..4_usize).prop_map(|(target, limit)| Call::Retry { target, limit }),
        1 => (target.clone(), 0..4_usize).prop_map(|(target, limit)| Call::Forget { target, limit }),
        2 => (target, time.clone(), 0..5_usize).prop_map(|(target, before, limit)| Call::Discard { target, before, limit }),
        2 => (time.clone(), 0..9_usize).prop_map(|(before, limit)| Call::Prune { before, limit }),
        1 => time.prop_map(|now| Call::Lapse { now }),
        2 => Just(Call::Crash),
    ]
}

#[derive(Clone, Debug, Default)]
struct Waiting {
    due: Option<u64>,
    errors: u64,
    progress: Progress,
    /// Whether the model does not know its due time: after a crash, or after a retry of its dead letter.
    lost: bool,
}

#[derive(Debug, Default)]
struct Model {
    clock: u64,
    /// The times of acceptance, by number.
    records: BTreeMap<u64, u64>,
    /// Project and size, by number.
    bodies: BTreeMap<u64, (Arc<str>, u64)>,
    waiting: [BTreeMap<u64, Waiting>; 2],
    leased: Vec<(usize, Claim, Waiting)>,
    /// Number of the record and its errors, oldest first.
    letters: [Vec<(u64, u64)>; 2],
}

impl Model {
    /// The records that a claim must return. Lost ones are left out: their due times lie far beyond the test's small times.
    fn claim(&mut self, target: usize, now: u64, max: usize) -> Vec<u64> {
        let mut turns: Vec<(bool, u64, u64)> = Vec::new();
        for (id, waiting) in self.waiting[target].iter().filter(|(_, waiting)| !waiting.lost) {
            match waiting.due {
                Some(due) if due <= now => turns.push((false, due, *id)),
                None => turns.push((true, 0, *id)),
                Some(_) => {}
            }
        }
        turns.sort_unstable();
        turns.into_iter().take(max).map(|(_, _, id)| id).collect()
    }

    fn next_due(&self, target: usize) -> Option<Timestamp> {
        let known = self.waiting[target].values().filter(|waiting| !waiting.lost);
        known.filter_map(|waiting| waiting.due).min().map(at)
    }

    fn held(&self, id: u64) -> bool {
        let leased = self.leased.iter().any(|(_, claim, _)| claim.record.id.number() == id);
        let dead = self.letters.iter().flatten().any(|(record, _)| *record == id);
        leased || dead || self.waiting.iter().any(|waiting| waiting.contains_key(&id))
    }

    fn envelopes(&self, target: usize) -> u64 {
        let leased = self.leased.iter().filter(|(leased_by, ..)| *leased_by == target).count();
        (self.waiting[target].len() + leased) as u64
    }

    fn errors(&self, target: usize) -> u64 {
        let leased = self.leased.iter().filter(|(leased_by, ..)| *leased_by == target).map(|(_, _, w)| w.errors);
        self.waiting[target].values().map(|waiting| waiting.errors).chain(leased).sum()
    }

    fn oldest(&self, target: usize) -> Option<Timestamp> {
        let leased = self.leased.iter().filter(|(by, ..)| *by == target).map(|(_, claim, _)| claim.record.id.number());
        let first = self.waiting[target].keys().copied().chain(leased).min();
        first.map(|id| at(self.records[&id]))
    }
}

struct Run {
    subject: Subject,
    targets: [TargetId; 2],
    model: Model,
}

impl Run {
    async fn apply(&mut self, call: Call) {
        let journal = self.subject.journal();
        match call {
            Call::Append { count, mask, errors, size } => self.append(count, mask, errors, size).await,
            Call::Claim { target, now, max } => self.claim(target, now, max).await,
            Call::Deliver { pick } => {
                if let Some((_, claim, waiting)) = self.pick(pick) {
                    journal.settle(&claim.lease, delivered(waiting.errors)).await.unwrap();
                }
            }
            Call::PutOff { pick, due } => {
                if let Some((target, claim, waiting)) = self.pick(pick) {
                    self.put_off(target, &claim, &waiting, due).await;
                }
            }
            Call::Reject { pick } => {
                if let Some((target, claim, waiting)) = self.pick(pick) {
                    let dropped = Some((DropReason::Rejected, errors(waiting.errors)));
                    journal.settle(&claim.lease, Settlement { dropped, ..rejected() }).await.unwrap();
                    self.model.letters[target].push((claim.record.id.number(), waiting.errors));
                }
            }
            Call::Discard { target, before, limit } => {
                self.subject.flush().await;
                let (id, model) = (self.targets[usize::from(target)], &mut self.model);
                let old = model.waiting[usize::from(target)].keys().filter(|id| model.records[id] < before);
                let gone: Vec<u64> = old.take(limit).copied().collect();
                gone.iter().for_each(|id| drop(model.waiting[usize::from(target)].remove(id)));
                let count = journal.discard(id, at(before), DropReason::Expired, limit).await.unwrap();
                assert_eq!(count, gone.len());
            }
            Call::Prune { before, limit } => {
                let old = self.model.records.iter().filter(|(_, accepted)| **accepted < before);
                let may_go: Vec<u64> = old.map(|(id, _)| *id).filter(|id| !self.model.held(*id)).collect();
                let count = journal.prune(at(before), limit).await.unwrap();
                assert_eq!(count, may_go.len().min(limit));
                // The backend chooses which of them go first. After the second call all of them are gone.
                let rest = journal.prune(at(before), usize::MAX).await.unwrap();
                assert_eq!(count + rest, may_go.len());
                self.model.records.retain(|id, _| !may_go.contains(id));
                self.model.bodies.retain(|id, _| !may_go.contains(id));
            }
            Call::Retry { target, limit } => self.retry(target, limit).await,
            Call::Forget { target, limit } => {
                self.subject.flush().await;
                let pick = Pick { target: Some(self.targets[usize::from(target)]), ..Pick::default() };
                let count = journal.discard_letters(pick, limit).await.unwrap();
                assert_eq!(self.model.letters[usize::from(target)].drain(..count).count(), count);
            }
            Call::Lapse { now } => {
                pass(LEASE).await;
                for (target, claim, waiting) in std::mem::take(&mut self.model.leased) {
                    // The first claim finds the ended leases.
                    assert!(journal.claim(self.targets[target], at(now), 0).await.unwrap().is_empty());
                    assert_lost(journal.settle(&claim.lease, rejected()).await);
                    self.model.waiting[target].insert(claim.record.id.number(), Waiting { due: Some(now), ..waiting });
                }
            }
            Call::Crash => {
                self.subject.flush().await;
                drop(journal);
                self.crash().await;
            }
        }
    }

    async fn append(&mut self, count: u8, mask: u8, n: u64, size: u16) {
        let numbers: Vec<usize> = (0..2).filter(|number| mask & 1 << number != 0).collect();
        let targets: Vec<TargetId> = numbers.iter().map(|number| self.targets[*number]).collect();
        for _ in 0..count {
            self.model.clock += 1;
            let body = Bytes::from(vec![1; usize::from(size)]).into();
            let project: Arc<str> = ["shop", "web", "app"][n as usize - 1].into();
            let submission = submission(at(self.model.clock), &targets);
            let submission = Submission { project: Arc::clone(&project), quantities: errors(n), body, ..submission };
            let id = self.subject.journal().append(submission).await.unwrap().number();
            self.model.records.insert(id, self.model.clock);
            self.model.bodies.insert(id, (project, u64::from(size)));
            for number in &numbers {
                let waiting = Waiting { errors: n, ..Waiting::default() };
                self.model.waiting[*number].insert(id, waiting);
            }
        }
    }

    async fn claim(&mut self, target: u8, now: u64, max: usize) {
        self.subject.flush().await;
        let number = usize::from(target);
        // A claim may return fewer records than there are, but no others. The next claim returns the rest.
        for wanted in self.model.claim(number, now, max) {
            let claims = self.subject.journal().claim(self.targets[number], at(now), 1).await.unwrap();
            assert_eq!(ids(&claims), [wanted]);
            let waiting = self.model.waiting[number].remove(&wanted).unwrap();
            assert_eq!(claims[0].progress, waiting.progress);
            self.model.leased.push((number, claims[0].clone(), waiting));
        }
    }

    fn pick(&mut self, pick: usize) -> Option<(usize, Claim, Waiting)> {
        let many = self.model.leased.len();
        (many > 0).then(|| self.model.leased.remove(pick % many))
    }

    async fn put_off(&mut self, target: usize, claim: &Claim, waiting: &Waiting, due: u64) {
        let progress =
            Progress { attempts: waiting.progress.attempts + 1, items: Some(vec![1]), ..Progress::default() };
        // One error is delivered, but not the last one: a rest without quantities is no rest.
        let done = waiting.errors.min(1) * u64::from(waiting.errors > 1);
        let left = waiting.errors - done;
        let rest = Some(Rest { due: at(due), progress: progress.clone(), quantities: errors(left) });
        let settlement = Settlement { rest, ..delivered(done) };
        self.subject.journal().settle(&claim.lease, settlement).await.unwrap();
        let waiting = Waiting { due: Some(due), errors: left, progress, lost: false };
        self.model.waiting[target].insert(claim.record.id.number(), waiting);
    }

    /// Retries dead letters. Their records are due at a moment that is not known exactly.
    async fn retry(&mut self, target: u8, limit: usize) {
        self.subject.flush().await;
        let pick = Pick { target: Some(self.targets[usize::from(target)]), ..Pick::default() };
        let count = self.subject.journal().retry_letters(pick, limit).await.unwrap();
        let target = usize::from(target);
        assert_eq!(count, limit.min(self.model.letters[target].len()));
        for (id, errors) in self.model.letters[target].drain(..count) {
            // On disk the record is due at the real time, which the model does not know, after a crash as well.
            let waiting = Waiting { errors, lost: true, ..Waiting::default() };
            self.model.waiting[target].insert(id, waiting);
        }
        self.find_lost().await;
    }

    async fn crash(&mut self) {
        let before = taken(&self.subject).await;
        self.subject.crash();
        assert_eq!(taken(&self.subject).await, before);
        for (target, claim, waiting) in self.model.leased.drain(..) {
            // After a crash an untried record that was leased is due as of some commit or still untried, as the backend likes: the test
            // takes either.
            let lost = waiting.due.is_none();
            self.model.waiting[target].insert(claim.record.id.number(), Waiting { lost, ..waiting });
        }
        self.find_lost().await;
    }

    /// Claims all that waits for a target with lost records, so that the model knows every record again.
    async fn find_lost(&mut self) {
        for target in 0..2 {
            let lost: Vec<u64> = self.model.waiting[target].iter().filter(|(_, w)| w.lost).map(|(id, _)| *id).collect();
            if lost.is_empty() {
                continue;
            }
            let journal = self.subject.journal();
            let mut claims = Vec::new();
            while claims.len() < self.model.waiting[target].len() {
                let far = Timestamp::from_millis(i64::MAX as u64 - 1);
                let more = journal.claim(self.targets[target], far, 100).await.unwrap();
                assert!(!more.is_empty(), "{} of {}", claims.len(), self.model.waiting[target].len());
                claims.extend(more);
            }
            for claim in claims {
                let mut waiting = self.model.waiting[target].remove(&claim.record.id.number()).unwrap();
                assert_eq!(claim.progress, waiting.progress);
                waiting.lost = false;
                self.model.leased.push((target, claim, waiting));
            }
        }
    }

    /// Checks that each project takes the room of its records, with a bounded overhead on disk.
    async fn check_room(&self) {
        let (mut bodies, most) = (BTreeMap::<Arc<str>, (u64, u64)>::new(), |size: u64| 2 * size + 1024);
        for (project, size) in self.model.bodies.values() {
            let sums = bodies.entry(Arc::clone(project)).or_default();
            *sums = (sums.0 + size, sums.1 + most(*size));
        }
        let taken = taken(&self.subject).await;
        for (project, (least, most)) in &bodies {
            let bytes = taken.get(project).copied().unwrap_or(0);
            assert!((*least..=*most).contains(&bytes), "{project} takes {bytes}, not {least} to {most}");
        }
        assert!(taken.keys().all(|project| bodies.contains_key(project)), "{taken:?} of {bodies:?}");
    }

    async fn check(&self) {
        self.subject.assert_balanced().await;
        self.check_room().await;
        let journal = self.subject.journal();
        for (target, id) in self.targets.into_iter().enumerate() {
            let backlog = journal.backlog(id).await.unwrap();
            assert_eq!(backlog.envelopes, self.model.envelopes(target));
            assert_eq!(backlog.quantities.iter().map(|(_, _, n)| n).sum::<u64>(), self.model.errors(target));
            assert_eq!(backlog.oldest, self.model.oldest(target));
            assert_eq!(journal.next_due(id).await.unwrap(), self.model.next_due(target));
            assert_eq!(dead_letters(&*journal, id).await, self.model.letters[target].len() as u64);
        }
    }
}

/// The bytes that each project takes.
async fn taken(subject: &Subject) -> BTreeMap<Arc<str>, u64> {
    subject.journal().measure().await.unwrap().shares.into_iter().map(|share| (share.project, share.bytes)).collect()
}

async fn run(subject: Subject, calls: Vec<Call>) {
    let journal = subject.journal();
    let targets = [journal.target("a").await.unwrap(), journal.target("b").await.unwrap()];
    drop(journal);
    let mut run = Run { subject, targets, model: Model::default() };
    for call in calls {
        run.apply(call).await;
        run.check().await;
    }
}

/// Checks that the journals which `make` makes agree with the model, whatever is called.
pub(crate) fn any_calls_leave_the_journal_as_the_model_says(make: impl Fn() -> Box<dyn Backend>) {
    let config =
        ProptestConfig { cases: 64, max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() };
    let tested = TestRunner::new(config).run(&prop::collection::vec(call(), 1..60), |calls| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(Subject::new(make()), calls));
        Ok(())
    });
    tested.unwrap_or_else(|failure| panic!("{failure}"));
}

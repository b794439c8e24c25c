//! Suspects by themselves, and with a circuit and a queue in a model of a worker: what poison and outages do to whom.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::policy::circuit::{Circuit, State};
use crate::policy::verdict::is_poison;

const T: Timestamp = Timestamp::from_millis(1_000_000);
const MOMENT: Duration = Duration::from_millis(5);

fn names() -> [Arc<str>; 3] {
    ["web".into(), "app".into(), "job".into()]
}

#[test]
fn a_project_that_fails_while_another_is_taken_waits_alone_until_it_succeeds() {
    let ([web, app, _], mut suspects) = (names(), Suspects::default());
    suspects.taken(&app, T);
    assert!(!suspects.failed(&web, MOMENT, false, T) && !suspects.failed(&web, MOMENT, false, T));
    assert_eq!(suspects.waits("web", 4, T), None);
    assert!(suspects.failed(&web, MOMENT, false, T));
    assert_eq!((suspects.waits("web", 4, T), suspects.waits("app", 4, T)), (Some(T + GAP), None));
    assert_eq!(suspects.waits("web", 4, T), Some(T + GAP * 2), "the next place in the line");
    assert_eq!(suspects.waits("web", 4, T + GAP), None, "it may be tried");
    suspects.started(&web, T + GAP);
    assert!(suspects.waits("web", 4, T + GAP).is_some(), "one at a time");
    suspects.ended("web", T + GAP);
    assert!(suspects.taken(&web, T + GAP), "it is forgiven");
    assert_eq!(suspects.waits("web", 4, T + GAP), None);
}

#[test]
fn what_hangs_gets_a_tenth_of_the_time() {
    let ([web, app, _], mut suspects) = (names(), Suspects::default());
    suspects.taken(&app, T);
    let took = Duration::from_secs(30);
    for _ in 0..PATIENCE {
        suspects.failed(&web, took, false, T);
    }
    assert_eq!(suspects.waits("web", 4, T), Some(T + took * 9));
    suspects.set_back(Duration::from_secs(60));
    assert_eq!(suspects.waits("web", 4, T - Duration::from_secs(60) + took * 9), None);
    assert!(suspects.forgive() && suspects.waits("web", 4, T).is_none());
}

#[test]
fn nobody_is_suspected_while_nobody_is_taken() {
    let ([web, app, job], mut suspects) = (names(), Suspects::default());
    suspects.taken(&web, T);
    for _ in 0..10 {
        assert!(!suspects.failed(&web, MOMENT, false, T), "its own successes are none of others");
    }
    suspects.taken(&app, T);
    assert!(!suspects.failed(&web, MOMENT, false, T + LATELY + MOMENT), "too long ago");
    // The upstream answers questions: two projects may be at fault, three are an outage.
    assert!(suspects.failed(&web, MOMENT, true, T) && suspects.failed(&app, MOMENT, true, T));
    suspects.taken = Default::default();
    assert!(!suspects.failed(&job, MOMENT, true, T));
}

#[test]
fn requests_that_do_not_move_leave_room_for_other_projects() {
    let ([web, ..], mut suspects) = (names(), Suspects::default());
    (0..7).for_each(|_| suspects.started(&web, T));
    assert_eq!((suspects.crowded_since(7), suspects.crowded_since(8)), (Some(T + SLOW), None));
    assert_eq!((suspects.crowds(&web, 7, T), suspects.crowds(&web, 7, T)), (Some(T + GAP), Some(T + GAP * 2)));
    suspects.ended("web", T);
    assert_eq!((suspects.crowded_since(7), suspects.crowds(&web, 7, T)), (None, None));
}

#[test]
fn what_takes_unusually_long_leaves_room_sooner_and_what_was_put_off_for_it_comes_forward() {
    let ([web, ..], mut suspects) = (names(), Suspects::default());
    suspects.took(Duration::from_millis(50));
    (0..7).for_each(|_| suspects.started(&web, T));
    assert_eq!(suspects.crowded_since(7), Some(T + Duration::from_secs(1)));
    (0..30).for_each(|_| suspects.took(MOMENT));
    assert_eq!(suspects.crowded_since(7), Some(T + GAP));
    suspects.took(Duration::from_secs(60));
    assert_eq!(suspects.crowded_since(7), Some(T + SLOW));
    suspects.crowds(&web, 7, T);
    assert!(suspects.taken(&web, T) && !suspects.taken(&web, T));
}

#[test]
fn suspects_together_leave_places_to_others_and_are_told() {
    let ([web, app, job], mut suspects) = (names(), Suspects::default());
    suspects.taken(&job, T);
    for project in [&web, &app] {
        for _ in 0..PATIENCE {
            suspects.failed(project, MOMENT, false, T);
        }
    }
    let later = T + GAP;
    suspects.started(&web, later);
    assert!(suspects.waits("app", 1, later).is_some());
    assert_eq!((suspects.waits("app", 2, later), suspects.waits("job", 1, later)), (None, None));
    let told: BTreeSet<Arc<str>> = suspects.told().into_iter().map(|(name, _)| name).collect();
    assert_eq!(told, BTreeSet::from([web, app]));
}

/// What the upstream of a model does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Weather {
    /// It takes what is no poison.
    Fair,
    /// It answers nothing.
    Outage,
    /// It answers questions and takes nothing.
    StorageDown,
}

/// A worker as far as policy goes: one request at a time, each of which takes [`MOMENT`]; what is due first, then what is new.
#[derive(Default)]
struct Model {
    circuit: Circuit,
    suspects: Suspects,
    fresh: std::collections::VecDeque<u64>,
    due: BTreeSet<(Timestamp, u64)>,
    tries: BTreeMap<u64, (Arc<str>, bool, u32, u32)>,
    last_success: Timestamp,
    letters: BTreeSet<u64>,
    delivered: BTreeSet<u64>,
    requests: BTreeMap<Arc<str>, u32>,
    questions: u32,
}

impl Model {
    fn arrive(&mut self, project: &Arc<str>, poison: bool) -> u64 {
        let record = self.tries.len() as u64;
        self.tries.insert(record, (Arc::clone(project), poison, 0, 0));
        self.fresh.push_back(record);
        record
    }

    fn flood(&mut self, project: &Arc<str>, count: usize) {
        for _ in 0..count {
            self.arrive(project, true);
        }
    }

    fn claim(&mut self, now: Timestamp) -> Option<u64> {
        match self.due.first().copied().filter(|(due, _)| *due <= now) {
            Some(first) => self.due.take(&first).map(|(_, record)| record),
            None => self.fresh.pop_front(),
        }
    }

    /// Runs for so many steps of [`MOMENT`].
    fn run(&mut self, from: Timestamp, steps: u32, weather: Weather) -> Timestamp {
        let mut now = from;
        for _ in 0..steps {
            now = now + MOMENT;
            if self.circuit.asks(now, 0) {
                self.questions += 1;
                match weather {
                    Weather::Outage => drop(self.circuit.unanswered(now)),
                    Weather::Fair | Weather::StorageDown => self.circuit.answered(now),
                }
            }
            let mut looked = 0;
            while self.circuit.permits(now, 8, 0) > 0 && looked < 256 {
                let Some(record) = self.claim(now) else { break };
                looked += 1;
                let project = Arc::clone(&self.tries[&record].0);
                if let Some(until) = self.suspects.waits(&project, 4, now) {
                    self.due.insert((until, record));
                    continue;
                }
                self.circuit.started(1);
                self.send(record, &project, now, weather);
                break;
            }
        }
        now
    }

    fn send(&mut self, record: u64, project: &Arc<str>, began: Timestamp, weather: Weather) {
        let (now, entry) = (began + MOMENT, self.tries.get_mut(&record).unwrap());
        *self.requests.entry(Arc::clone(project)).or_default() += 1;
        if weather == Weather::Fair && !entry.1 {
            self.circuit.succeeded(now);
            self.suspects.taken(project, now);
            self.last_success = now;
            self.delivered.insert(record);
            return;
        }
        let previous = began - Backoff::RECORD.at_least(entry.2);
        let alone = self.suspects.failed(project, MOMENT, self.circuit.is_reached(), now);
        self.circuit.failed(now, record, alone);
        if weather != Weather::Outage {
            self.circuit.doubts_one(now);
        }
        let passed = self.last_success > previous;
        entry.3 += u32::from(passed || self.circuit.vouches());
        entry.2 += 1;
        match is_poison(entry.3, passed || self.circuit.blames_one()) {
            true => drop(self.letters.insert(record)),
            false => drop(self.due.insert((now + Backoff::RECORD.after(entry.2), record))),
        }
    }
}

const SECOND: u32 = 200;
/// Longer than any record waits for its next try: five minutes, doubled by jitter.
const LAST_WAIT: u32 = SECOND * 700;

#[test]
fn poison_becomes_dead_letters_and_the_good_records_of_another_project_flow() {
    let ([web, app, _], mut model) = (names(), Model::default());
    model.flood(&web, 20);
    let mut now = T;
    for turn in 0..240 {
        let record = model.arrive(&app, false);
        now = model.run(now, SECOND / 2, Weather::Fair);
        assert!(turn < 8 || model.delivered.contains(&record), "{turn}: it waits");
    }
    assert_eq!((model.letters.len(), model.delivered.len()), (20, 240));
}

#[test]
fn a_flood_of_poison_before_the_first_good_record_holds_it_up_for_a_few_probes() {
    let ([web, app, _], mut model) = (names(), Model::default());
    model.flood(&web, 20_000);
    let mut now = model.run(T, SECOND * 60, Weather::Fair);
    for _ in 0..20 {
        model.arrive(&app, false);
        now = model.run(now, SECOND / 2, Weather::Fair);
    }
    assert_eq!(model.delivered.len(), 20);
    // From here on the poison costs a bounded share.
    let before = model.requests[&web];
    model.run(now, SECOND * 10, Weather::Fair);
    assert!(model.requests[&web] - before <= 60, "{}", model.requests[&web] - before);
}

#[test]
fn a_single_record_that_fails_on_an_idle_project_becomes_a_dead_letter_without_an_outage() {
    let [web, ..] = names();
    for _ in 0..20 {
        let (mut model, mut now) = (Model::default(), T);
        model.arrive(&web, true);
        for minute in 0..6 {
            assert_eq!(model.circuit.state(), State::Closed, "{minute}");
            assert!(minute >= 2 || model.letters.is_empty(), "{minute}");
            now = model.run(now, SECOND * 60, Weather::Fair);
        }
        assert_eq!(model.letters.len(), 1);
        assert!(model.questions <= 6, "at most one a minute: {}", model.questions);
    }
}

#[test]
fn an_upstream_that_answers_questions_and_stores_nothing_is_down_and_costs_no_letters() {
    let ([web, app, job], mut model) = (names(), Model::default());
    let mut now = T;
    for turn in 0..600 {
        model.arrive([&web, &app, &job][turn % 3], false);
        now = model.run(now, SECOND, Weather::StorageDown);
    }
    assert!(model.letters.is_empty());
    let requests: u32 = model.requests.values().sum();
    assert!(requests < 120, "{requests} requests in ten minutes");
    model.run(now, LAST_WAIT, Weather::Fair);
    assert_eq!(model.delivered.len(), 600);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn no_outage_makes_a_dead_letter_and_nothing_is_left_behind(
        outages in proptest::collection::vec((1u32..120, 10u32..600), 1..4),
        pace in 1u64..20,
    ) {
        let (projects, mut model, mut now, mut sent) = (names(), Model::default(), T, 0);
        for (fair, outage) in outages {
            for (length, weather) in [(fair, Weather::Fair), (outage, Weather::Outage)] {
                for second in 0..length {
                    if u64::from(second) % pace == 0 {
                        model.arrive(&projects[sent % 3], false);
                        sent += 1;
                    }
                    now = model.run(now, SECOND, weather);
                }
            }
        }
        model.run(now, LAST_WAIT, Weather::Fair);
        prop_assert!(model.letters.is_empty());
        prop_assert_eq!(model.delivered.len(), sent);
    }

    #[test]
    fn whatever_poison_comes_the_good_records_of_another_project_flow(
        poison in proptest::collection::vec(0usize..12, 40),
        mixed in any::<bool>(),
    ) {
        let ([web, app, _], mut model, mut now) = (names(), Model::default(), T);
        for count in &poison {
            for n in 0..*count {
                model.arrive(&web, !mixed || n % 3 > 0);
            }
            model.arrive(&app, false);
            now = model.run(now, SECOND / 2, Weather::Fair);
        }
        model.run(now, SECOND * 5, Weather::Fair);
        let of_app = |record: &&u64| model.tries[*record].0 == app;
        prop_assert_eq!(model.delivered.iter().filter(of_app).count(), poison.len());
        prop_assert!(model.letters.iter().all(|record| model.tries[record].1));
    }
}

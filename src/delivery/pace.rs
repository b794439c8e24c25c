//! The exchange between the workers of this relay and those of the others that share its journal.
//!
//! Rule: workers touch memory alone. A worker leaves its lessons here and reads the last answer; the exchange with the other relays carries
//! them on. On a relay that shares its journal with nobody nothing is kept here, and the workers have all places.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use crate::journal::TargetId;
use crate::journal::pace::Heard;
use crate::policy::standing::Lesson;

/// The most lessons of an upstream that wait to be told. The oldest are dropped, because an upstream repeats its limits.
const MOST: usize = 1024;

/// The lessons to tell and the answers heard, for all upstreams. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub struct Paces(Arc<All>);

#[derive(Debug)]
struct All {
    is_shared: bool,
    news: Arc<Notify>,
    paces: Mutex<BTreeMap<TargetId, Arc<Pace>>>,
}

impl Paces {
    /// Makes an empty exchange; `is_shared` if other relays share the journal.
    pub(super) fn new(is_shared: bool) -> Self {
        Self(Arc::new(All { is_shared, news: Arc::default(), paces: Mutex::default() }))
    }

    /// The pace of an upstream.
    pub(super) fn of(&self, target: TargetId) -> Arc<Pace> {
        let new = || Arc::new(Pace::new(target, self.0.is_shared.then(|| Arc::clone(&self.0.news))));
        Arc::clone(self.paces().entry(target).or_insert_with(new))
    }

    /// Waits until there is something to tell.
    pub async fn news(&self) {
        self.0.news.notified().await;
    }

    /// The lessons to tell. They are told again the next time unless [`Paces::hear`] follows.
    pub fn told(&self) -> Vec<(TargetId, Lesson)> {
        let paces = self.paces();
        let all = paces.iter().flat_map(|(target, pace)| pace.telling().into_iter().map(|lesson| (*target, lesson)));
        all.collect()
    }

    /// Takes in the answer to the lessons that were [told](Paces::told). Returns the upstreams for which it differs from the last one.
    pub fn hear(&self, heard: &Arc<Heard>) -> Vec<TargetId> {
        let paces = self.paces();
        paces.iter().filter(|(_, pace)| pace.hear(heard)).map(|(target, _)| *target).collect()
    }

    fn paces(&self) -> MutexGuard<'_, BTreeMap<TargetId, Arc<Pace>>> {
        self.0.paces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lessons to tell and the answers heard, for one upstream.
#[derive(Debug)]
pub(super) struct Pace {
    target: TargetId,
    /// Is notified when there is something to tell; `None` when there is nobody to tell.
    news: Option<Arc<Notify>>,
    untold: Mutex<Untold>,
    heard: ArcSwapOption<Heard>,
    /// The number of requests that all relays may have under way, by this relay's configuration.
    most: AtomicU32,
    /// The number of requests under way at this relay.
    used: AtomicU32,
    /// The number of requests that this relay may have under way.
    places: AtomicU32,
}

#[derive(Debug, Default)]
struct Untold {
    lessons: Vec<Lesson>,
    /// The number of lessons that are being told.
    telling: usize,
}

impl Pace {
    fn new(target: TargetId, news: Option<Arc<Notify>>) -> Self {
        let zero = AtomicU32::default;
        let (untold, heard) = (Mutex::default(), ArcSwapOption::empty());
        Self { target, news, untold, heard, most: zero(), used: zero(), places: zero() }
    }

    /// Leaves a lesson for the other relays.
    pub(super) fn tell(&self, lesson: Lesson) {
        let Some(news) = &self.news else { return };
        let mut untold = self.untold();
        // A wish for the probe is not added behind one that is being told: a worker that still has it asks again.
        let is_waiting = untold.telling < untold.lessons.len() || lesson == Lesson::WantsProbe;
        if untold.lessons.last() == Some(&lesson) && is_waiting {
            return;
        }
        if untold.lessons.len() >= MOST {
            untold.lessons.remove(0);
            untold.telling = untold.telling.saturating_sub(1);
        }
        untold.lessons.push(lesson);
        news.notify_one();
    }

    /// The last answer.
    pub(super) fn heard(&self) -> Option<Arc<Heard>> {
        self.heard.load_full()
    }

    /// Whether this relay may probe. If the circuit is open for all relays and the probe is not this relay's, asks for it.
    pub(super) fn may_probe(&self) -> bool {
        if self.news.is_none() {
            return true;
        }
        let Some(heard) = self.heard() else { return false };
        let is_all_told = self.untold().lessons.is_empty();
        match heard.standings.get(&self.target).and_then(|standing| standing.opened()) {
            // The upstream works for the others: the trouble is this relay's own.
            None => is_all_told,
            Some(opened) if opened.probe == Some(heard.relay) => is_all_told,
            Some(_) => {
                self.tell(Lesson::WantsProbe);
                false
            }
        }
    }

    /// Notes the number of requests under way here. Returns the number that may be, of `most` at all relays.
    pub(super) fn places(&self, most: usize, used: usize) -> usize {
        let Some(news) = &self.news else { return most };
        if self.most.swap(count(most), Ordering::Relaxed) != count(most) {
            news.notify_one();
        }
        self.used.store(count(used), Ordering::Relaxed);
        usize::try_from(self.places.load(Ordering::Relaxed)).unwrap_or(most).min(most)
    }

    /// Reports that the worker has ended.
    pub(super) fn leave(&self) {
        self.places(0, 0);
        self.tell(Lesson::Forgoes);
    }

    fn telling(&self) -> Vec<Lesson> {
        let mut untold = self.untold();
        untold.telling = untold.lessons.len();
        let (used, most) = (self.used.load(Ordering::Relaxed), self.most.load(Ordering::Relaxed));
        let wanted = self.heard.load().as_ref().map_or(0, |heard| self.part(heard, most));
        untold.lessons.iter().cloned().chain([Lesson::Places { wanted, used, most }]).collect()
    }

    /// Takes in an answer. Returns whether it differs from the last one.
    fn hear(&self, heard: &Arc<Heard>) -> bool {
        let mut untold = self.untold();
        let telling = std::mem::take(&mut untold.telling);
        untold.lessons.drain(..telling);
        drop(untold);
        let before = self.heard();
        let most = self.most.load(Ordering::Relaxed);
        let granted = heard.standings.get(&self.target).map_or(0, |standing| standing.places(heard.relay));
        let wanted = self.part(heard, most);
        self.places.store(wanted.min(granted), Ordering::Relaxed);
        let is_share_same = before.as_ref().is_some_and(|before| before.share == heard.share);
        if let Some(news) = self.news.as_ref().filter(|_| granted < wanted && !is_share_same) {
            // These places were not asked for yet.
            news.notify_one();
        }
        let standing = |heard: &Heard| heard.standings.get(&self.target).cloned();
        let is_same = is_share_same && before.is_some_and(|before| standing(&before) == standing(heard));
        if !is_same {
            self.heard.store(Some(Arc::clone(heard)));
        }
        !is_same
    }

    /// This relay's part of the requests that all may have under way: the least number that any relay is configured with, `most` at this
    /// one.
    fn part(&self, heard: &Heard, most: u32) -> u32 {
        let known = heard.standings.get(&self.target);
        let least = known.map_or(most, |standing| standing.least(heard.relay, most));
        u32::try_from(heard.share.part(least.into())).unwrap_or(least)
    }

    fn untold(&self) -> MutexGuard<'_, Untold> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(requests: usize) -> u32 {
    u32::try_from(requests).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use crate::clock::Timestamp;
    use crate::policy::standing::{Share, Standing};

    use super::*;

    fn heard(standing: Standing) -> Arc<Heard> {
        let (share, standings) = (Share { position: 0, of: 2 }, BTreeMap::from([(TargetId::new(1), standing)]));
        Arc::new(Heard { relay: 1, share, standings, now: Timestamp::default(), others: BTreeMap::new() })
    }

    #[test]
    fn a_wish_for_the_probe_waits_once_however_often_telling_fails() {
        let pace = Pace::new(TargetId::new(1), Some(Arc::default()));
        pace.tell(Lesson::Closed);
        for _ in 0..3 {
            pace.tell(Lesson::WantsProbe);
            assert_eq!(pace.telling()[..2], [Lesson::Closed, Lesson::WantsProbe]);
            assert_eq!(pace.untold().lessons.len(), 2);
        }
        pace.hear(&heard(Standing::default()));
        assert!(pace.untold().lessons.is_empty());
        pace.tell(Lesson::WantsProbe);
        assert_eq!(pace.untold().lessons, [Lesson::WantsProbe], "it has told it, and wants it still");
    }

    #[test]
    fn a_relay_wants_its_part_of_the_least_configured_places() {
        let pace = Pace::new(TargetId::new(1), Some(Arc::default()));
        let mut standing = Standing::default();
        standing.learn(2, &Lesson::Places { wanted: 1, used: 0, most: 2 }, Timestamp::default());
        assert_eq!(pace.places(8, 0), 0, "nothing is heard yet");
        pace.hear(&heard(standing.clone()));
        let told = pace.telling();
        assert_eq!(told, [Lesson::Places { wanted: 1, used: 0, most: 8 }]);
        told.iter().for_each(|lesson| standing.learn(1, lesson, Timestamp::default()));
        pace.hear(&heard(standing));
        assert_eq!(pace.places(8, 0), 1);
    }
}

//! What the workers of this relay tell those of others, and hear of them.
//!
//! Rule: a worker's side is memory alone: it leaves what it has learnt here, and looks at what was heard last. Whoever exchanges it with
//! the other relays takes it from here. A relay that shares its journal with nobody keeps nothing here, and has all places.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use crate::journal::TargetId;
use crate::journal::pace::Heard;
use crate::policy::standing::{Lesson, Share};

/// The most lessons of one upstream that wait to be told. The oldest give way: what an upstream limits it says again.
const MOST: usize = 1024;

/// What is told and heard of all upstreams. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct Paces(Arc<All>);

#[derive(Debug)]
struct All {
    is_shared: bool,
    news: Arc<Notify>,
    paces: Mutex<BTreeMap<TargetId, Arc<Pace>>>,
}

impl Paces {
    /// Nothing yet; `is_shared`: other relays share the journal.
    pub(super) fn new(is_shared: bool) -> Self {
        Self(Arc::new(All { is_shared, news: Arc::default(), paces: Mutex::default() }))
    }

    /// That of an upstream.
    pub(super) fn of(&self, target: TargetId) -> Arc<Pace> {
        let new = || Arc::new(Pace::new(target, self.0.is_shared.then(|| Arc::clone(&self.0.news))));
        Arc::clone(self.paces().entry(target).or_insert_with(new))
    }

    /// Returns when there is something to tell.
    pub async fn news(&self) {
        self.0.news.notified().await;
    }

    /// What is to be told. It is told again the next time unless [`Paces::hear`] follows.
    pub fn told(&self) -> Vec<(TargetId, Lesson)> {
        let paces = self.paces();
        let all = paces.iter().flat_map(|(target, pace)| pace.telling().into_iter().map(|lesson| (*target, lesson)));
        all.collect()
    }

    /// Hears the answer to what was [told](Paces::told); returns the upstreams of which it says something else than the one before.
    pub fn hear(&self, heard: &Arc<Heard>) -> Vec<TargetId> {
        let paces = self.paces();
        paces.iter().filter(|(_, pace)| pace.hear(heard)).map(|(target, _)| *target).collect()
    }

    fn paces(&self) -> MutexGuard<'_, BTreeMap<TargetId, Arc<Pace>>> {
        self.0.paces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is told and heard of one upstream.
#[derive(Debug)]
pub(super) struct Pace {
    target: TargetId,
    /// Notified when there is something to tell; `None`: there is nobody to tell it.
    news: Option<Arc<Notify>>,
    untold: Mutex<Untold>,
    heard: ArcSwapOption<Heard>,
    /// The most requests under way at all relays, by the configuration.
    most: AtomicU32,
    /// How many there are at this one.
    used: AtomicU32,
    /// How many there may be.
    places: AtomicU32,
}

#[derive(Debug, Default)]
struct Untold {
    lessons: Vec<Lesson>,
    /// How many of them are being told.
    telling: usize,
}

impl Pace {
    fn new(target: TargetId, news: Option<Arc<Notify>>) -> Self {
        let zero = AtomicU32::default;
        let (untold, heard) = (Mutex::default(), ArcSwapOption::empty());
        Self { target, news, untold, heard, most: zero(), used: zero(), places: zero() }
    }

    /// Tells the other relays.
    pub(super) fn tell(&self, lesson: Lesson) {
        let Some(news) = &self.news else { return };
        let mut untold = self.untold();
        if untold.lessons.last() == Some(&lesson) && untold.telling < untold.lessons.len() {
            return;
        }
        if untold.lessons.len() >= MOST {
            untold.lessons.remove(0);
            untold.telling = untold.telling.saturating_sub(1);
        }
        untold.lessons.push(lesson);
        news.notify_one();
    }

    /// What was heard last.
    pub(super) fn heard(&self) -> Option<Arc<Heard>> {
        self.heard.load_full()
    }

    /// Whether this relay may find out whether the upstream is back. It asks for that otherwise.
    pub(super) fn may_probe(&self) -> bool {
        if self.news.is_none() {
            return true;
        }
        let Some(heard) = self.heard() else { return false };
        let is_all_told = self.untold().lessons.is_empty();
        match heard.standings.get(&self.target).and_then(|standing| standing.opened()) {
            // The others work with it: it is this relay's own trouble.
            None => is_all_told,
            Some(opened) if opened.probe == Some(heard.relay) => is_all_told,
            Some(_) => {
                self.tell(Lesson::WantsProbe);
                false
            }
        }
    }

    /// How many requests may be under way, of so many at all relays, and notes how many are.
    pub(super) fn places(&self, most: usize, used: usize) -> usize {
        let Some(news) = &self.news else { return most };
        if self.most.swap(count(most), Ordering::Relaxed) != count(most) {
            news.notify_one();
        }
        self.used.store(count(used), Ordering::Relaxed);
        usize::try_from(self.places.load(Ordering::Relaxed)).unwrap_or(most).min(most)
    }

    /// The worker has ended.
    pub(super) fn leave(&self) {
        self.places(0, 0);
        self.tell(Lesson::Forgoes);
    }

    fn telling(&self) -> Vec<Lesson> {
        let mut untold = self.untold();
        untold.telling = untold.lessons.len();
        let (used, most) = (self.used.load(Ordering::Relaxed), self.most.load(Ordering::Relaxed));
        let wanted = self.heard.load().as_ref().map_or(0, |heard| part(heard.share, most));
        untold.lessons.iter().cloned().chain([Lesson::Places { wanted, used, most }]).collect()
    }

    /// Returns whether it says something else than the one before.
    fn hear(&self, heard: &Arc<Heard>) -> bool {
        let mut untold = self.untold();
        let telling = std::mem::take(&mut untold.telling);
        untold.lessons.drain(..telling);
        drop(untold);
        let before = self.heard();
        let most = self.most.load(Ordering::Relaxed);
        let granted = heard.standings.get(&self.target).map_or(0, |standing| standing.places(heard.relay));
        let wanted = part(heard.share, most);
        self.places.store(wanted.min(granted), Ordering::Relaxed);
        let is_share_same = before.as_ref().is_some_and(|before| before.share == heard.share);
        if let Some(news) = self.news.as_ref().filter(|_| granted < wanted && !is_share_same) {
            // It was not asked for yet.
            news.notify_one();
        }
        let standing = |heard: &Heard| heard.standings.get(&self.target).cloned();
        let is_same = is_share_same && before.is_some_and(|before| standing(&before) == standing(heard));
        if !is_same {
            self.heard.store(Some(Arc::clone(heard)));
        }
        !is_same
    }

    fn untold(&self) -> MutexGuard<'_, Untold> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(requests: usize) -> u32 {
    u32::try_from(requests).unwrap_or(u32::MAX)
}

fn part(share: Share, most: u32) -> u32 {
    u32::try_from(share.part(most.into())).unwrap_or(most)
}

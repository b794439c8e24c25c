//! Holds: a project whose DSN an upstream refuses waits as a whole, so that a wrong key does not cost a refusal for each envelope.
//! GlitchTip answers a wrong key by refusing that project to everybody for 30 seconds.
//!
//! Rule: the first refusals after something of the project was taken may be about the envelopes alone, and hold nobody up: so many
//! different envelopes in a row. The next one, or one of them that is refused again with nothing taken in between, is about the project.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;

use super::backoff::Backoff;

/// The projects on hold, and the ends of the holds.
#[derive(Clone, Debug, Default)]
pub struct Holds {
    held: BTreeMap<Arc<str>, Hold>,
    /// The projects whose DSN was good when it was last used, but for a few refusals perhaps.
    good: BTreeMap<Arc<str>, Good>,
}

#[derive(Clone, Copy, Debug)]
struct Good {
    /// When the upstream last took something of the project.
    taken: Timestamp,
    /// How many envelopes were refused since.
    refused: u32,
}

/// So many different envelopes may be refused one after the other before it is the DSN.
pub const PATIENCE: u32 = 4;
/// How soon what was refused so is tried again.
pub const AGAIN: Duration = Duration::from_secs(5);

/// How recently other envelopes of the project must have been taken for a refusal to be about one envelope. It is shorter than the
/// shortest hold: an envelope is tried again after that hold, and anything taken meanwhile speaks for the DSN.
const LATELY: Duration = Duration::from_secs(25);

#[derive(Clone, Copy, Debug)]
struct Hold {
    /// When it was last refused.
    since: Timestamp,
    until: Timestamp,
    refusals: u32,
    /// Whether this relay was refused, not only another one.
    own: bool,
}

impl Holds {
    /// An envelope of the project was refused, tried for the first time or not. Whether that may be its own fault: then it alone waits,
    /// for [`AGAIN`], and shows whether it is the DSN.
    pub fn doubt(&mut self, project: &str, is_first_try: bool) -> bool {
        let Some(good) = self.good.get_mut(project) else { return false };
        good.refused += 1;
        good.refused == 1 || is_first_try && good.refused <= PATIENCE
    }

    /// Reports that the project's DSN was refused. The project waits, longer each time; answers to requests that were under way together
    /// count once. Returns the end of the hold.
    pub fn refused(&mut self, project: &Arc<str>, now: Timestamp) -> Timestamp {
        self.good.remove(project);
        let new = Hold { since: now, until: now, refusals: 0, own: true };
        let hold = self.held.entry(Arc::clone(project)).or_insert(new);
        hold.own = true;
        if hold.until <= now {
            hold.refusals = hold.refusals.saturating_add(1);
            hold.since = now;
            hold.until = now + Backoff::MISCONFIGURED.after(hold.refusals);
        }
        hold.until
    }

    /// Takes over a hold from another relay, unless something of the project was taken here since. Returns whether it did.
    pub fn follow(&mut self, project: &Arc<str>, (since, until): (Timestamp, Timestamp), refusals: u32) -> bool {
        if self.good.get(project).is_some_and(|good| good.taken > since) {
            return false;
        }
        self.good.remove(project);
        let new = Hold { since, until, refusals, own: false };
        let hold = self.held.entry(Arc::clone(project)).or_insert(new);
        if until > hold.until {
            *hold = Hold { since, until, refusals: refusals.max(hold.refusals), own: hold.own };
        }
        true
    }

    /// Reports that another relay delivered something of the project. The hold ends; if this relay was refused itself, it lasts no longer
    /// than after a first refusal. The count of refusals stays until something is taken here, because they may be this relay's own.
    pub fn lift(&mut self, project: &str) {
        if self.held.get(project).is_some_and(|hold| !hold.own) {
            self.held.remove(project);
        }
        if let Some(hold) = self.held.get_mut(project) {
            hold.until = hold.until.min(hold.since + Backoff::MISCONFIGURED.at_least(1));
        }
    }

    /// How often the project was refused in a row.
    pub fn refusals(&self, project: &str) -> u32 {
        self.held.get(project).map_or(0, |hold| hold.refusals)
    }

    /// Reports that the upstream took something of the project. Returns whether the project was on hold.
    pub fn taken(&mut self, project: &Arc<str>, now: Timestamp) -> bool {
        let had_waited = !self.held.is_empty() && self.held.remove(project).is_some();
        let good = Good { taken: now, refused: 0 };
        match self.good.get_mut(project) {
            Some(known) => *known = good,
            None => drop(self.good.insert(Arc::clone(project), good)),
        }
        had_waited
    }

    /// Whether the project's DSN was good when it was last used. A refusal at another endpoint is then about that endpoint.
    pub fn is_good(&self, project: &str) -> bool {
        self.good.contains_key(project)
    }

    /// Whether other envelopes of the project were taken so recently that one which is refused again is refused for itself, for example by
    /// a firewall that looks into bodies. While another envelope is in doubt, only deliveries after its refusal count.
    pub fn takes_others(&self, project: &str, now: Timestamp) -> bool {
        let is_lately = |good: &Good| now.since(good.taken) < if good.refused > 0 { AGAIN } else { LATELY };
        self.good.get(project).is_some_and(is_lately)
    }

    /// The end of the project's hold; `None` when it is not on hold, or may be tried again.
    pub fn until(&self, project: &str, now: Timestamp) -> Option<Timestamp> {
        self.held.get(project).map(|hold| hold.until).filter(|until| *until > now)
    }

    /// The projects whose last answer was a refusal.
    pub fn projects(&self) -> Vec<Arc<str>> {
        self.held.keys().cloned().collect()
    }

    /// Whether any project's last answer was a refusal.
    pub fn any(&self) -> bool {
        !self.held.is_empty()
    }

    /// Ends all holds once `cool_off` has passed since the refusal: an operator may have mended the DSN.
    pub fn mended(&mut self, now: Timestamp, cool_off: Duration) {
        self.good.clear();
        self.held.retain(|_, hold| {
            (hold.until, hold.refusals) = (hold.since + cool_off, 0);
            hold.until > now
        });
    }

    /// Moves all times back, because the clock was set back by `by`.
    pub fn set_back(&mut self, by: Duration) {
        for hold in self.held.values_mut() {
            (hold.since, hold.until) = (hold.since - by, hold.until - by);
        }
        self.good.values_mut().for_each(|good| good.taken = good.taken - by);
    }

    /// The end of the last hold; `None` when none is in force.
    pub fn last_end(&self, now: Timestamp) -> Option<Timestamp> {
        self.held.values().map(|hold| hold.until).filter(|until| *until > now).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_project_waits_ever_longer_and_the_others_do_not() {
        let mut holds = Holds::default();
        let (shop, mut now): (Arc<str>, _) = ("shop".into(), Timestamp::from_millis(1));
        let first = holds.refused(&shop, now);
        assert_eq!(holds.refused(&shop, now), first, "answers under way together count once");
        assert_eq!((holds.until("shop", now), holds.until("other", now)), (Some(first), None));
        now = first;
        assert_eq!(holds.until("shop", now), None, "it may be tried");
        assert!(holds.refused(&shop, now).since(now) >= Duration::from_secs(60));
        assert!(!holds.is_good("shop"));
        holds.taken(&shop, now);
        assert!(!holds.any() && holds.is_good("shop"));
        let until = holds.refused(&shop, now);
        assert!(!holds.is_good("shop"));
        let back = now.since(Timestamp::default());
        holds.set_back(back);
        assert_eq!(
            holds.until("shop", now - back),
            Some(until - back),
            "a clock that is set back makes no wait longer"
        );
    }

    #[test]
    fn a_refusal_is_about_an_envelope_when_others_were_taken_lately() {
        let (shop, now): (Arc<str>, _) = ("shop".into(), Timestamp::from_millis(1000));
        let mut holds = Holds::default();
        assert!(!holds.takes_others("shop", now));
        holds.taken(&shop, now);
        assert!(holds.takes_others("shop", now + LATELY - Duration::from_millis(1)));
        assert!(!holds.takes_others("shop", now + LATELY));
        assert!(LATELY < Backoff::MISCONFIGURED.after(1), "nothing of before the first refusal counts");
        holds.refused(&shop, now);
        assert!(!holds.takes_others("shop", now));
    }

    #[test]
    fn the_first_refusals_after_something_was_taken_are_about_the_envelopes_and_the_next_is_about_the_project() {
        let (shop, now): (Arc<str>, _) = ("shop".into(), Timestamp::from_millis(100_000));
        let mut holds = Holds::default();
        assert!(!holds.doubt("shop", true), "nothing of it was ever taken");
        holds.taken(&shop, now);
        assert!((0..PATIENCE).all(|_| holds.doubt("shop", true)) && !holds.doubt("shop", true));
        holds.taken(&shop, now);
        assert!(holds.doubt("shop", false) && !holds.doubt("shop", false), "the same one again");
        assert!(!holds.takes_others("shop", now + AGAIN), "nothing was taken since");
        holds.taken(&shop, now + AGAIN / 2);
        assert!(holds.doubt("shop", true), "by another one");
        assert!(holds.takes_others("shop", now + AGAIN), "since the first one was refused");
        holds.refused(&shop, now + AGAIN);
        assert!(!holds.doubt("shop", true), "it waits already");
    }

    #[test]
    fn a_refusal_at_another_relay_holds_here_unless_something_was_taken_since() {
        let (shop, now): (Arc<str>, _) = ("shop".into(), Timestamp::from_millis(100_000));
        let mut holds = Holds::default();
        let until = now + Duration::from_secs(40);
        holds.taken(&shop, now);
        assert!(!holds.follow(&shop, (now - Duration::from_secs(1), until), 2));
        assert!(holds.follow(&shop, (now, until), 2) && !holds.is_good("shop"));
        assert_eq!((holds.until("shop", now), holds.refusals("shop")), (Some(until), 2));
        let mut own = holds.clone();
        holds.lift("shop");
        assert!(!holds.any(), "it was never refused here");
        assert!(own.refused(&shop, until).since(until) >= Duration::from_secs(120), "the third in a row");
    }

    #[test]
    fn what_is_refused_here_alone_is_tried_again_soon_and_not_at_once() {
        let (shop, mut now): (Arc<str>, _) = ("shop".into(), Timestamp::from_millis(100_000));
        let mut holds = Holds::default();
        for refusals in 1..5 {
            let until = holds.refused(&shop, now);
            let echo = (now, until + Duration::from_millis(5));
            assert!(holds.follow(&shop, echo, refusals), "it hears what it has told");
            holds.lift("shop");
            let soon = now + Duration::from_secs(30);
            assert_eq!((holds.until("shop", now), holds.refusals("shop")), (Some(soon), refusals));
            now = soon;
            assert_eq!(holds.until("shop", now), None);
        }
        assert!(holds.taken(&shop, now) && !holds.any());
    }

    #[test]
    fn a_mended_project_is_tried_at_once_or_after_the_cool_off() {
        let (shop, now): (Arc<str>, _) = ("shop".into(), Timestamp::from_millis(1000));
        let mut holds = Holds::default();
        holds.refused(&shop, now);
        let mut cooling = holds.clone();
        let soon = now + Duration::from_secs(1);
        holds.mended(soon, Duration::ZERO);
        assert!(!holds.any());
        cooling.mended(soon, Duration::from_secs(30));
        let end = now + Duration::from_secs(30);
        assert_eq!((cooling.until("shop", soon), cooling.last_end(soon)), (Some(end), Some(end)));
        assert_eq!((cooling.until("shop", end), cooling.last_end(end)), (None, None));
    }
}

//! Sessions of the status page: a cookie proves that its holder has given the token, and contains nothing of the token.
//!
//! Rule: a session costs no memory while it lasts. What is kept is bounded: the key, which is generated with the first session, the
//! sessions that were ended early, and the number of recent wrong tokens. A restart, another token and a new key end all sessions. Knows
//! no pages and no requests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::{hmac, rand};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use crate::units::Secret;

/// How long a session lasts.
pub(super) const LIFE: Duration = Duration::from_secs(12 * 60 * 60);
/// The most early ended sessions that are remembered; with more of them, a new key ends all sessions.
const MOST_ENDED: usize = 256;
/// The number of wrong tokens within [`WINDOW`], from all clients together, that blocks signing in.
const MOST_WRONG: u32 = 10;
/// How long wrong tokens count, from the first one on.
const WINDOW: Duration = Duration::from_secs(60);

/// All sessions. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    key: Option<hmac::Key>,
    /// The sessions that were ended early: when each would have expired, and its id.
    ended: Vec<(Duration, Uuid)>,
    guesses: Guesses,
}

/// The session of a signed-in visitor.
pub(super) struct Session {
    until: Duration,
    id: Uuid,
    /// The token that the forms of this session carry, and no others.
    pub(super) form_token: String,
}

/// Why a sign-in failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SignInError {
    /// The token is wrong.
    Wrong,
    /// Too many wrong tokens came: for this long, even the right one is refused.
    TooMany(Duration),
    /// The system gives no random numbers.
    NoKey,
}

impl Session {
    /// Whether `form_token` is that of this session.
    pub(super) fn is_of(&self, form_token: &str) -> bool {
        is_same(&self.form_token, form_token)
    }
}

impl Sessions {
    /// Begins a session if the right token is given. Returns the value of its cookie.
    ///
    /// `now` here and below is the monotonic time of [`Clock::uptime`](crate::clock::Clock::uptime).
    pub(super) fn begin(&self, given: &str, token: &Secret, now: Duration) -> Result<String, SignInError> {
        let mut kept = self.kept();
        kept.guesses.wait(now).map_or(Ok(()), |wait| Err(SignInError::TooMany(wait)))?;
        if !is_same(token.expose(), given) {
            kept.guesses.count(now);
            return Err(SignInError::Wrong);
        }
        let key = match &kept.key {
            Some(key) => key,
            None => {
                let drawn = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new());
                kept.key.insert(drawn.map_err(|_| SignInError::NoKey)?)
            }
        };
        let claim = claim(now + LIFE, Uuid::new_v4());
        Ok(format!("{claim}.{}", seal(key, "session", &claim, token)))
    }

    /// The session of a cookie; `None` if the cookie is not genuine, or the session has ended.
    pub(super) fn find(&self, cookie: &str, token: &Secret, now: Duration) -> Option<Session> {
        let (claimed, sealed) = cookie.rsplit_once('.')?;
        let kept = self.kept();
        let key = kept.key.as_ref()?;
        if !is_same(&seal(key, "session", claimed, token), sealed) {
            return None;
        }
        let (until, id) = claimed.split_once('.')?;
        let (until, id) = (Duration::from_secs(until.parse().ok()?), id.parse().ok()?);
        let lasts = now < until && !kept.ended.iter().any(|(_, ended)| *ended == id);
        lasts.then(|| Session { until, id, form_token: seal(key, "form", claimed, token) })
    }

    /// Ends a session early.
    pub(super) fn end(&self, session: &Session, now: Duration) {
        let mut kept = self.kept();
        kept.ended.retain(|(until, _)| now < *until);
        kept.ended.push((session.until, session.id));
        if kept.ended.len() > MOST_ENDED {
            kept.end_all();
        }
    }

    /// Ends all sessions.
    pub(super) fn end_all(&self) {
        self.kept().end_all();
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn end_all(&mut self) {
        (self.key, self.ended) = (None, vec![]);
    }
}

/// Whether the token `given` is the right one. The check takes the same time for every token of the same length.
pub(super) fn is_same(right: &str, given: &str) -> bool {
    right.as_bytes().ct_eq(given.as_bytes()).into()
}

fn claim(until: Duration, id: Uuid) -> String {
    format!("{}.{}", until.as_secs(), id.simple())
}

/// The HMAC of a claim for one purpose and under one token, which only this process can make. No claim contains a line end.
fn seal(key: &hmac::Key, purpose: &str, claim: &str, token: &Secret) -> String {
    let mut context = hmac::Context::with_key(key);
    for part in [purpose, "\n", claim, "\n", token.expose()] {
        context.update(part.as_bytes());
    }
    BASE64_URL_SAFE_NO_PAD.encode(context.sign())
}

/// The recent wrong tokens.
#[derive(Debug, Default)]
struct Guesses {
    since: Duration,
    wrong: u32,
}

impl Guesses {
    /// How long nobody may sign in, because too many tokens were wrong; `None` if everybody may.
    fn wait(&self, now: Duration) -> Option<Duration> {
        let left = (self.since + WINDOW).checked_sub(now).filter(|left| !left.is_zero());
        left.filter(|_| self.wrong >= MOST_WRONG)
    }

    fn count(&mut self, now: Duration) {
        if now >= self.since + WINDOW || self.wrong == 0 {
            *self = Self { since: now, wrong: 0 };
        }
        self.wrong += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1000);

    fn token(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[test]
    fn a_session_lasts_twelve_hours_and_its_cookie_holds_nothing_of_the_token() {
        let (sessions, right) = (Sessions::default(), token("the-right-one"));
        let cookie = sessions.begin("the-right-one", &right, NOW).unwrap();
        assert!(!cookie.contains("right") && cookie.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)));
        let session = sessions.find(&cookie, &right, NOW).unwrap();
        assert!(session.is_of(&session.form_token) && !session.is_of("") && !session.is_of(&cookie));
        assert!(sessions.find(&cookie, &right, NOW + LIFE - Duration::from_secs(1)).is_some());
        assert!(sessions.find(&cookie, &right, NOW + LIFE).is_none());
    }

    #[test]
    fn only_cookies_of_this_process_and_this_token_are_accepted() {
        let (sessions, right) = (Sessions::default(), token("the-right-one"));
        assert!(sessions.find("43200.0.x", &right, NOW).is_none(), "before there is a key");
        let cookie = sessions.begin("the-right-one", &right, NOW).unwrap();
        let (claim, sealed) = cookie.rsplit_once('.').unwrap();
        let (until, id) = claim.split_once('.').unwrap();
        let form_token = sessions.find(&cookie, &right, NOW).unwrap().form_token;
        for forged in [
            format!("9{until}.{id}.{sealed}"),
            format!("{until}.{}.{sealed}", Uuid::new_v4().simple()),
            format!("{claim}.{form_token}"),
            format!("{claim}."),
            claim.to_owned(),
            sealed.to_owned(),
            String::new(),
            "...".to_owned(),
        ] {
            assert!(sessions.find(&forged, &right, NOW).is_none(), "{forged}");
        }
        assert!(sessions.find(&cookie, &token("another"), NOW).is_none());
        assert!(Sessions::default().find(&cookie, &right, NOW).is_none());
        let other = Sessions::default();
        other.begin("the-right-one", &right, NOW).unwrap();
        assert!(other.find(&cookie, &right, NOW).is_none(), "of the process before");
    }

    #[test]
    fn ending_a_session_leaves_another_of_the_same_moment() {
        let (sessions, right) = (Sessions::default(), token("t"));
        let (one, two) = (sessions.begin("t", &right, NOW).unwrap(), sessions.begin("t", &right, NOW).unwrap());
        let first = sessions.find(&one, &right, NOW).unwrap();
        assert!(!sessions.find(&two, &right, NOW).unwrap().is_of(&first.form_token));
        sessions.end(&first, NOW);
        assert!(sessions.find(&one, &right, NOW).is_none() && sessions.find(&two, &right, NOW).is_some());
        sessions.end_all();
        assert!(sessions.find(&two, &right, NOW).is_none());
    }

    #[test]
    fn ended_sessions_are_forgotten_at_expiry_and_too_many_end_all() {
        let (sessions, right) = (Sessions::default(), token("t"));
        let begin = |now| sessions.find(&sessions.begin("t", &right, now).unwrap(), &right, now).unwrap();
        (0..MOST_ENDED).for_each(|_| sessions.end(&begin(NOW), NOW));
        assert_eq!(sessions.kept().ended.len(), MOST_ENDED);
        sessions.end(&begin(NOW + LIFE), NOW + LIFE);
        assert_eq!(sessions.kept().ended.len(), 1);
        (0..MOST_ENDED).for_each(|_| sessions.end(&begin(NOW + LIFE), NOW + LIFE));
        assert!(sessions.kept().ended.is_empty() && sessions.kept().key.is_none());
    }

    #[test]
    fn ten_wrong_tokens_within_a_minute_block_signing_in_for_its_rest() {
        let (sessions, right) = (Sessions::default(), token("t"));
        let at = |secs| NOW + Duration::from_secs(secs);
        for second in 0..10 {
            assert_eq!(sessions.begin("wrong", &right, at(second)), Err(SignInError::Wrong));
            assert_eq!(sessions.begin("t", &right, at(second)).is_ok(), second < 9, "the right one costs nothing");
        }
        assert_eq!(sessions.begin("t", &right, at(20)), Err(SignInError::TooMany(Duration::from_secs(40))));
        assert_eq!(sessions.begin("wrong", &right, at(59)), Err(SignInError::TooMany(Duration::from_secs(1))));
        assert!(sessions.begin("t", &right, at(60)).is_ok());
        assert_eq!(sessions.begin("wrong", &right, at(60)), Err(SignInError::Wrong));
        assert_eq!(sessions.kept().guesses.wrong, 1);
    }
}

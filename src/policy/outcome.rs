//! What can become of an item at an upstream: the closed vocabulary of metrics, ledger, status and dead letters.
//!
//! Rule: a reason to drop is declared in one row, and everything else is derived from it. Code that treats reasons differently asks for
//! their [`Cause`].

use serde::{Deserialize, Deserializer};

use crate::protocol::client_report::Reason;
use crate::vocabulary::vocabulary;

/// Whose doing a drop is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The configuration keeps it from the upstream, which can take it: a backfill may give it to it later.
    Withheld,
    /// The relay could not keep it long enough. An alert goes off.
    Lost,
    /// The upstream's rate limit.
    Limited,
    /// The upstream will not have it; a dead letter is kept, and may be retried.
    Refused,
    /// The upstream has no place for such items.
    NoPlace,
}

impl Cause {
    /// The cause behind the name of a reason.
    pub fn of(reason: &str) -> Option<Self> {
        DropReason::from_name(reason).map(DropReason::cause)
    }

    /// The criterion of a report that it counts against.
    pub const fn criterion(self) -> Option<&'static str> {
        match self {
            Self::Withheld => Some("withheld"),
            Self::Lost | Self::Limited => Some("lost"),
            Self::Refused => Some("refused"),
            Self::NoPlace => None,
        }
    }
}

macro_rules! drop_reasons {
    ($($Reason:ident = $name:literal, $meaning:literal, $Cause:ident, $reported_as:expr;)+) => {
        vocabulary! {
            /// Why an upstream does not get an item that was accepted.
            #[repr(u8)]
            pub enum DropReason {
                $(#[doc = $meaning] $Reason = $name,)+
            }
        }

        impl DropReason {
            /// What it means, told of the items and the upstream.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$Reason => $meaning,)+
                }
            }

            /// Whose doing it is.
            pub const fn cause(self) -> Cause {
                match self {
                    $(Self::$Reason => Cause::$Cause,)+
                }
            }

            /// The reason by which the upstream is told of the loss in a client report. `None` for what is none: what was not meant
            /// for it, and may be backfilled; what it refused itself, and may be retried; what it has no place for.
            pub const fn reported_as(self) -> Option<Reason> {
                match self {
                    $(Self::$Reason => $reported_as,)+
                }
            }
        }
    };
}

// All that is to be said of a reason. Two lists outside of the code repeat it, and tests compare them: the table in
// `deploy/handbook/delivery.md`, in this order; the alert `SwitchyardItemsLost` in `deploy/prometheus/rules.yml`, of those that are `Lost`.
// A name stays as it is: journals keep it.
drop_reasons! {
    MirrorOff = "mirror_off", "the mirror was off", Withheld, None;
    Filtered = "filtered", "the items of its shadow section leave them out", Withheld, None;
    Sampled = "sampled", "left out by the sample of its shadow section", Withheld, Some(Reason::SampleRate);
    Capped = "capped", "over the daily_cap of its shadow section", Withheld, Some(Reason::RatelimitBackoff);
    RateLimited = "rate_limited", "it limited them, and on_rate_limit is drop", Limited, Some(Reason::RatelimitBackoff);
    Expired = "expired", "they waited longer than max_age", Lost, Some(Reason::NetworkError);
    Evicted = "evicted", "the journal was full", Lost, Some(Reason::CacheOverflow);
    Rejected = "rejected", "it refused them for good", Refused, None;
    Unsupported = "unsupported", "it has no place for them", NoPlace, None;
}

impl<'de> Deserialize<'de> for DropReason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::from_name(&name).ok_or_else(|| serde::de::Error::custom(format!("{name:?} is no reason")))
    }
}

vocabulary! {
    /// Why an item of a submission is not accepted while the rest of it may be: the label of `refused_items_total`.
    pub enum RefusalReason {
        /// Over an inbound limit of its project.
        RateLimited = "rate_limited",
        /// One more of a storm of identical errors.
        Collapsed = "collapsed",
        /// Limited by every upstream in use.
        UpstreamLimited = "upstream_limited",
    }
}

impl RefusalReason {
    /// The reason by which upstreams are told of the loss in a client report. SDKs count neither: what is answered with 429 is
    /// told by whoever answers so ("Rate Limiting"), and a collapsed error is answered with 200.
    pub const fn reported_as(self) -> Reason {
        match self {
            Self::RateLimited | Self::UpstreamLimited => Reason::RatelimitBackoff,
            // As their own removal of repeated errors counts it (getsentry/sentry-javascript, `dedupeIntegration`).
            Self::Collapsed => Reason::EventProcessor,
        }
    }
}

/// One side of the account: accepted + returned = delivered + dropped + pending.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Outcome {
    /// The item was accepted and concerns the upstream: the left side of the account.
    Accepted,
    /// The upstream has it.
    Delivered,
    /// The upstream will not get it.
    Dropped(DropReason),
    /// What it was not to get waits for it again: a dead letter that is retried, a record that is backfilled. Figures only ever
    /// rise, so this stands beside what was dropped and takes nothing away from it.
    Returned,
    /// A backfill took up what was not meant for the upstream when it came. It is booked at the time of that drop, beside
    /// [`Outcome::Returned`], and moves no balance: what is kept from the upstream now is what was dropped so, less this.
    Backfilled,
    /// A dead letter that the upstream had refused was retried. It is booked at the time of the refusal, beside [`Outcome::Returned`], and
    /// moves no balance: what is refused for good is what was rejected, less this.
    Retried,
    /// It was found in the upstream by its API. This and what follows divides what was delivered: stored, less what vanished, lost,
    /// missing now, and unknown.
    Stored,
    /// It had been found, and was not there at a later look.
    Vanished,
    /// It was missing until it was sent again, given up, or could be kept no longer.
    Lost,
}

impl Outcome {
    /// The name in the journal: `accepted`, `delivered`, `returned`, `backfilled`, `retried`, `stored`, `vanished`, `lost`, or the reason of a
    /// drop.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Delivered => "delivered",
            Self::Dropped(reason) => reason.name(),
            Self::Returned => "returned",
            Self::Backfilled => "backfilled",
            Self::Retried => "retried",
            Self::Stored => "stored",
            Self::Vanished => "vanished",
            Self::Lost => "lost",
        }
    }

    /// The outcome of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "accepted" => Some(Self::Accepted),
            "delivered" => Some(Self::Delivered),
            "returned" => Some(Self::Returned),
            "backfilled" => Some(Self::Backfilled),
            "retried" => Some(Self::Retried),
            "stored" => Some(Self::Stored),
            "vanished" => Some(Self::Vanished),
            "lost" => Some(Self::Lost),
            other => DropReason::from_name(other).map(Self::Dropped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_found_by_their_names() {
        let dropped = Outcome::Dropped(DropReason::Evicted);
        let found = [Outcome::Backfilled, Outcome::Retried, Outcome::Stored, Outcome::Vanished, Outcome::Lost];
        for outcome in [Outcome::Accepted, Outcome::Delivered, Outcome::Returned, dropped].into_iter().chain(found) {
            assert_eq!(Outcome::from_name(outcome.name()), Some(outcome));
        }
        assert_eq!(Outcome::from_name("found"), None);
    }
}

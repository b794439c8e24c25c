//! What can become of an item at an upstream: the closed vocabulary of metrics, ledger, status and dead letters.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::protocol::client_report::Reason;

/// Why an upstream does not get an item that was accepted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum DropReason {
    /// Not meant for it: its shadow section leaves it out.
    Filtered,
    /// Left out by its sampling rate.
    Sampled,
    /// Over its daily cap.
    Capped,
    /// Under a rate limit of the upstream, with `on_rate_limit = "drop"`.
    RateLimited,
    /// Waited longer than `max_age`.
    Expired,
    /// Given up to make room in the journal.
    Evicted,
    /// Refused by the upstream for good; kept as a dead letter.
    Rejected,
    /// Of a kind that the upstream cannot take.
    Unsupported,
    /// Not meant for it: the mirror was off.
    MirrorOff,
}

impl DropReason {
    /// Every reason, in the order of their definition.
    pub const ALL: [Self; 9] = [
        Self::Filtered,
        Self::Sampled,
        Self::Capped,
        Self::RateLimited,
        Self::Expired,
        Self::Evicted,
        Self::Rejected,
        Self::Unsupported,
        Self::MirrorOff,
    ];

    /// Whether what is dropped so was kept from an upstream that can take it: a backfill may give it to it later.
    pub const fn is_withheld(self) -> bool {
        matches!(self, Self::MirrorOff | Self::Filtered | Self::Sampled | Self::Capped)
    }

    /// The name in labels, in the journal and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Filtered => "filtered",
            Self::Sampled => "sampled",
            Self::Capped => "capped",
            Self::RateLimited => "rate_limited",
            Self::Expired => "expired",
            Self::Evicted => "evicted",
            Self::Rejected => "rejected",
            Self::Unsupported => "unsupported",
            Self::MirrorOff => "mirror_off",
        }
    }

    /// The reason by which the upstream is told of the loss in a client report. `None` for what is none: what was not meant for
    /// it, and may be backfilled; what it refused itself, and may be retried; what it has no place for.
    pub const fn reported_as(self) -> Option<Reason> {
        match self {
            Self::Sampled => Some(Reason::SampleRate),
            Self::Capped | Self::RateLimited => Some(Reason::RatelimitBackoff),
            Self::Expired => Some(Reason::NetworkError),
            Self::Evicted => Some(Reason::CacheOverflow),
            Self::MirrorOff | Self::Filtered | Self::Rejected | Self::Unsupported => None,
        }
    }
}

impl Serialize for DropReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for DropReason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let known = Self::ALL.into_iter().find(|reason| reason.name() == name);
        known.ok_or_else(|| serde::de::Error::custom(format!("{name:?} is no reason")))
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why an item of a submission is not accepted while the rest of it may be: the label of `refused_items_total`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RefusalReason {
    /// Over an inbound limit of its project.
    RateLimited,
    /// One more of a storm of identical errors.
    Collapsed,
    /// Limited by every upstream in use.
    UpstreamLimited,
}

impl RefusalReason {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::RateLimited, Self::Collapsed, Self::UpstreamLimited];

    /// The name in labels and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::Collapsed => "collapsed",
            Self::UpstreamLimited => "upstream_limited",
        }
    }

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
            other => DropReason::ALL.into_iter().find(|reason| reason.name() == other).map(Self::Dropped),
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

//! What an upstream's answer means for the record that was sent.

use http::StatusCode;

use crate::vocabulary::vocabulary;

vocabulary! {
    /// What to do with a record after an answer: the label of `delivery_attempts_total`.
    pub enum Verdict {
        /// The upstream has it.
        Delivered = "delivered",
        /// The upstream takes it later: 429.
        RateLimited = "rate_limited",
        /// The upstream is in trouble: network, timeout, 408, 5xx. Try again.
        Failed = "failed",
        /// Our DSN is wrong there, or the way to it: 401, 403, 404, a redirect, an answer that no tracker gives, 508, anything
        /// else below 500 that nobody expects. Hold, and say so.
        Misconfigured = "misconfigured",
        /// The upstream will never take it.
        Refused = "refused",
        /// The upstream has no such endpoint.
        Unsupported = "unsupported",
    }
}

impl Verdict {
    /// The verdict on an answer. `text` is the beginning of its body: a tracker that answers "duplicate" has the event. `is_foreign`:
    /// the tracker answers otherwise when it has taken something.
    pub fn of(status: StatusCode, text: &str, is_foreign: bool) -> Self {
        match status.as_u16() {
            // A captive portal, a gateway's sign-in, another server at the port.
            200..=299 | 409 if is_foreign => Self::Misconfigured,
            200..=299 | 409 => Self::Delivered,
            429 => Self::RateLimited,
            400 | 403 if says_duplicate(text) => Self::Delivered,
            400 | 413 | 414 | 415 | 422 | 431 => Self::Refused,
            408 | 425 => Self::Failed,
            // A relay on the way has seen the request before (RFC 5842, section 7.2): the DSN leads back to it.
            508 => Self::Misconfigured,
            // No tracker answers an envelope so: something on the way to it did. Nothing is dropped for that.
            300..=499 => Self::Misconfigured,
            _ => Self::Failed,
        }
    }

    /// The verdict on an answer to a request that is no envelope: not every tracker has such endpoints (GlitchTip 5.2 has no
    /// NEL and no OTLP), and those that lack one say nothing against the DSN.
    pub fn of_other(status: StatusCode, text: &str, is_foreign: bool) -> Self {
        match status.as_u16() {
            404 | 405 | 410 | 501 => Self::Unsupported,
            _ => Self::of(status, text, is_foreign),
        }
    }
}

/// Sentry said "An event with the same ID already exists", GlitchTip says "Duplicate event id".
fn says_duplicate(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("duplicate event") || text.contains("same id already exists")
}

/// The failures that make a record poison, each while the upstream took others, or answered questions and nothing else failed. In the
/// second case that takes two to five minutes with the waits between tries.
pub const POISON_STRIKES: u32 = 5;
/// The failures when it is less certain: others fail as well and the upstream only answers questions, or the network or a proxy may have
/// failed. With the waits between tries that takes more than eight minutes.
pub const UNCERTAIN_STRIKES: u32 = 10;

/// Whether a record with `strikes` failures is poison. `certain`: the last failure was an answer about the record, while others were
/// taken or nothing else failed.
pub const fn is_poison(strikes: u32, certain: bool) -> bool {
    strikes >= if certain { POISON_STRIKES } else { UNCERTAIN_STRIKES }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_endpoint_says_nothing_against_the_dsn() {
        for (status, verdict) in [
            (404, Verdict::Unsupported),
            (405, Verdict::Unsupported),
            (501, Verdict::Unsupported),
            (202, Verdict::Delivered),
            (403, Verdict::Misconfigured),
            (415, Verdict::Refused),
            (500, Verdict::Failed),
        ] {
            assert_eq!(Verdict::of_other(StatusCode::from_u16(status).unwrap(), "", false), verdict, "{status}");
        }
    }

    #[test]
    fn each_status_has_its_meaning() {
        for (status, text, verdict) in [
            (200, "", Verdict::Delivered),
            (202, "", Verdict::Delivered),
            (200, "{\"id\":\"fc6d8c0c43fc4630ad850ee518f1b9d0\"}", Verdict::Delivered),
            (409, "", Verdict::Delivered),
            (403, "An event with the same ID already exists (abc)", Verdict::Delivered),
            (400, "Duplicate event id", Verdict::Delivered),
            (429, "", Verdict::RateLimited),
            (408, "", Verdict::Failed),
            (500, "", Verdict::Failed),
            (503, "", Verdict::Failed),
            (401, "", Verdict::Misconfigured),
            (403, "denied", Verdict::Misconfigured),
            (404, "", Verdict::Misconfigured),
            (301, "", Verdict::Misconfigured),
            (410, "", Verdict::Misconfigured),
            (426, "", Verdict::Misconfigured),
            (451, "", Verdict::Misconfigured),
            (508, "", Verdict::Misconfigured),
            (101, "", Verdict::Failed),
            (999, "", Verdict::Failed),
            (400, "bad envelope", Verdict::Refused),
            (413, "", Verdict::Refused),
            (415, "", Verdict::Refused),
            (422, "", Verdict::Refused),
        ] {
            assert_eq!(Verdict::of(StatusCode::from_u16(status).unwrap(), text, false), verdict, "{status} {text}");
        }
        for status in [200, 204, 409] {
            let verdict = Verdict::of(StatusCode::from_u16(status).unwrap(), "It works!", true);
            assert_eq!(verdict, Verdict::Misconfigured, "{status}");
        }
    }
}

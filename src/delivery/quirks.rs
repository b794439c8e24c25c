//! Quirks: what known trackers do otherwise than the protocol says. One table: a constant for each kind of upstream, a field of
//! [`Quirks`] for each quirk, and for what else a request to it needs to know.
//!
//! Rules: a quirk gets a field when accepted items would be lost without it. A comment beside it says where it was found. A record is
//! parsed on its way out only when a quirk concerns it: [`Quirks::concerns`] tells that by the categories of its items. So a quirk that
//! depends on what is in an envelope must list its categories there.

use std::time::Duration;

use http::StatusCode;

use crate::protocol::answer::Expected;
use crate::protocol::category::{Category, Quantities};
use crate::protocol::item::ItemType;
use crate::protocol::rate_limits::RateLimit;

use super::compress::Compress;
use super::settings::Kind;

/// How one kind of upstream differs from a generic one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quirks {
    /// It has no place for these and limits them for a day with its every answer: such items are dropped as unsupported, and
    /// such limits are not heeded.
    pub(super) never_stores: &'static [Category],
    /// Where an item goes among those of its record.
    place: fn(&ItemType) -> Place,
    /// Records with items of these categories are looked into.
    concerns: &'static [Category],
    /// Of an envelope with several events it stores none: one goes in each request, under its own id.
    pub(super) one_event_a_request: bool,
    /// It answers before it stores, and forgets what it has answered when another event reaches its quota meanwhile: one request
    /// at a time.
    pub(super) one_at_a_time: bool,
    /// A blank line between two items ends its reading.
    pub(super) ends_at_blank_lines: bool,
    /// A 429 that limits some categories has taken the others.
    pub(super) takes_the_rest_on_429: bool,
    /// A page of HTML with status 500 is its maintenance, and no answer to the envelope: no strike against it.
    maintenance_is_a_500_page: bool,
    /// It takes no body whose length is not known before its end.
    pub(super) wants_length: bool,
    /// After a wrong key it refuses the project to everybody for this long.
    pub(super) cool_off: Duration,
    /// Some events make it lose the whole batch they are stored with: those are counted.
    pub(super) has_batch_poison: bool,
    /// What it answers when it has taken an envelope.
    answers: Expected,
    /// How it takes envelopes best.
    compression: Compress,
}

/// Where an item goes among those of its record. In this order; what is [`Place::Apart`] in a request of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Place {
    First(u8),
    AsSent,
    Apart(u8),
}

/// Nothing special: it gets what was sent, and gets it plain: nobody knows which encodings it reads.
const GENERIC: Quirks = Quirks {
    never_stores: &[],
    place: |_| Place::AsSent,
    concerns: &[],
    one_event_a_request: false,
    one_at_a_time: false,
    ends_at_blank_lines: false,
    takes_the_rest_on_429: false,
    maintenance_is_a_500_page: false,
    wants_length: false,
    cool_off: Duration::ZERO,
    has_batch_poison: false,
    answers: Expected::Anything,
    compression: Compress::None,
};

/// Relay has enforced its limits by the time it answers (getsentry/relay, `relay-server/src/endpoints/common.rs`).
const SENTRY: Quirks = Quirks {
    takes_the_rest_on_429: true,
    // JSON each time: `relay-server/src/endpoints/envelope.rs`.
    answers: Expected::IdWithoutHtml,
    // gzip, deflate, br and zstd: `relay-server/src/extractors/request_body.rs`.
    compression: Compress::Zstd,
    ..GENERIC
};

/// GlitchTip 5.2, run (glitchtip-backend, `apps/event_ingest/views.py`, `schema.py`, `authentication.py`).
const GLITCHTIP: Quirks = Quirks {
    place: glitchtip_place,
    concerns: &[
        Category::Transaction,
        Category::Security,
        Category::Feedback,
        Category::ProfileChunk,
        Category::ProfileChunkUi,
        Category::Replay,
        Category::TraceMetric,
        Category::MetricBucket,
        Category::Unknown,
    ],
    ends_at_blank_lines: true,
    maintenance_is_a_500_page: true,
    wants_length: true,
    cool_off: Duration::from_secs(30),
    has_batch_poison: true,
    // JSON each time: `apps/event_ingest/views.py`.
    answers: Expected::IdWithoutHtml,
    // Version 5 reads compressed items without a length byte by byte.
    compression: Compress::None,
    ..GENERIC
};

/// Bugsink 2.6.1, run (bugsink, `ingest/views.py`, `IngestEnvelopeAPIView`, `count_project_periods_and_act_on_it`).
const BUGSINK: Quirks = Quirks {
    never_stores: &[Category::Transaction, Category::Span],
    one_event_a_request: true,
    one_at_a_time: true,
    wants_length: true,
    // Nothing where it has no place for what came, which Django calls `text/html`: `ingest/views.py`.
    answers: Expected::Id,
    // gzip, deflate (raw) and br: `bugsink/streams.py`.
    compression: Compress::Gzip,
    ..GENERIC
};

/// The row of a kind.
pub(super) const fn of(kind: Kind) -> &'static Quirks {
    match kind {
        Kind::Sentry | Kind::Relay => &SENTRY,
        Kind::Glitchtip => &GLITCHTIP,
        Kind::Bugsink => &BUGSINK,
        Kind::Generic => &GENERIC,
    }
}

impl Kind {
    /// What it answers when it has taken an envelope.
    pub const fn answers(self) -> Expected {
        of(self).answers
    }

    /// How it takes envelopes best.
    pub(super) const fn compression(self) -> Compress {
        of(self).compression
    }
}

/// The header of an item of a type it does not know ends GlitchTip's reading of the envelope, and the answer is 200 all the same:
/// what it stores goes first, what it does not know goes apart, `feedback`, which version 6 knows, before the others. Of an event
/// and a transaction with one id it keeps the first.
fn glitchtip_place(kind: &ItemType) -> Place {
    match kind {
        ItemType::Event => Place::First(0),
        ItemType::Transaction => Place::First(1),
        ItemType::Session
        | ItemType::Sessions
        | ItemType::CheckIn
        | ItemType::Log
        | ItemType::Attachment
        | ItemType::UserReport
        | ItemType::ClientReport
        | ItemType::ReplayEvent
        | ItemType::ReplayRecording
        | ItemType::Profile
        | ItemType::Span => Place::AsSent,
        ItemType::Feedback => Place::Apart(0),
        _ => Place::Apart(1),
    }
}

impl Quirks {
    /// Whether a record with such items has to be looked into before it is sent.
    pub(super) fn concerns(&self, quantities: &Quantities) -> bool {
        let several = |category, quantity| self.one_event_a_request && category == Category::Error && quantity > 1;
        let listed = |category| self.concerns.contains(&category) || self.never_stores.contains(&category);
        quantities.iter().any(|(category, quantity)| listed(category) || several(category, quantity))
    }

    /// Whether it matters what events say.
    pub(super) const fn look_into_events(&self) -> bool {
        self.has_batch_poison || self.one_event_a_request
    }

    /// Whether it has no place for items of this category.
    pub(super) fn never_stores(&self, category: Category) -> bool {
        self.never_stores.contains(&category)
    }

    /// What goes in one request now, in this order, and what goes in others after it. Nothing comes later when nothing comes now.
    pub(super) fn arrange(&self, items: &[(u16, &ItemType)]) -> (Vec<u16>, Vec<u16>) {
        let mut placed: Vec<(Place, u16, bool)> =
            items.iter().map(|(position, kind)| ((self.place)(kind), *position, **kind == ItemType::Event)).collect();
        placed.sort_by_key(|(place, ..)| *place);
        let apart = |place: Place| matches!(place, Place::Apart(_));
        let Some(first_apart) = placed.first().map(|(place, ..)| apart(*place)) else { return (vec![], vec![]) };
        let mut events = 0;
        let (mut now, mut later) = (vec![], vec![]);
        for (place, position, is_event) in placed {
            events += u32::from(is_event);
            let one_too_many = self.one_event_a_request && is_event && events > 1;
            let goes_now = apart(place) == first_apart && !one_too_many;
            if goes_now { &mut now } else { &mut later }.push(position);
        }
        (now, later)
    }

    /// Whether a failure with this answer may be the record's own fault. Of the statuses only 500 speaks of the record; the others
    /// speak of the server or of a proxy before it, and so does a page of HTML where that is how maintenance looks.
    pub(super) fn speaks_of_the_record(&self, status: StatusCode, text: &str) -> bool {
        let is_page = text.trim_ascii_start().starts_with('<');
        status == StatusCode::INTERNAL_SERVER_ERROR && !(self.maintenance_is_a_500_page && is_page)
    }

    /// Takes out of an answer's limits what is none: categories that it never stores.
    pub(super) fn heed(&self, limits: &mut Vec<RateLimit>) {
        if self.never_stores.is_empty() {
            return;
        }
        limits.retain_mut(|limit| match &mut limit.categories {
            None => true,
            Some(categories) => {
                categories.retain(|category| !self.never_stores(*category));
                !categories.is_empty()
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::rate_limits;

    fn arranged(kind: Kind, names: &[&str]) -> (Vec<u16>, Vec<u16>) {
        let kinds: Vec<ItemType> = names.iter().map(|name| ItemType::from_name(name)).collect();
        let items: Vec<(u16, &ItemType)> = (0..).zip(&kinds).collect();
        of(kind).arrange(&items)
    }

    #[test]
    fn glitchtip_gets_what_it_stores_first_and_what_it_does_not_know_apart() {
        let all = ["profile_chunk", "session", "transaction", "feedback", "event", "attachment", "new_word"];
        assert_eq!(arranged(Kind::Glitchtip, &all), (vec![4, 2, 1, 5], vec![3, 0, 6]));
        assert_eq!(arranged(Kind::Glitchtip, &["statsd", "feedback"]), (vec![1, 0], vec![]));
        assert_eq!(arranged(Kind::Glitchtip, &["event"]), (vec![0], vec![]));
        assert_eq!(arranged(Kind::Glitchtip, &[]), (vec![], vec![]));
    }

    #[test]
    fn what_glitchtip_is_said_to_know_is_what_it_is_sent_as_it_came() {
        for name in "session sessions check_in log attachment user_report client_report replay_event replay_recording profile span"
            .split(' ')
        {
            assert_eq!(glitchtip_place(&ItemType::from_name(name)), Place::AsSent, "{name}");
        }
        for name in
            "feedback profile_chunk replay_video statsd trace_metric metric_buckets nel security form_data other"
                .split(' ')
        {
            let kind = ItemType::from_name(name);
            assert!(glitchtip_place(&kind) > Place::AsSent, "{name}");
            let mut quantities = Quantities::new();
            kind.count(1, Default::default(), &mut quantities);
            assert!(of(Kind::Glitchtip).concerns(&quantities), "{name} is looked for");
        }
    }

    #[test]
    fn bugsink_gets_one_event_in_each_request() {
        assert_eq!(arranged(Kind::Bugsink, &["event", "attachment", "event", "event"]), (vec![0, 1], vec![2, 3]));
        assert_eq!(arranged(Kind::Bugsink, &["event", "event"]), (vec![0], vec![1]));
        assert_eq!(arranged(Kind::Generic, &["event", "event"]), (vec![0, 1], vec![]));
    }

    #[test]
    fn what_is_usual_goes_out_unread() {
        for kind in [Kind::Sentry, Kind::Glitchtip, Kind::Bugsink, Kind::Relay, Kind::Generic] {
            for usual in
                ["error=1", "error=1 attachment=9 attachment_item=1", "session=1", "error=1 internal=1", "monitor=1"]
            {
                assert!(!of(kind).concerns(&usual.parse().unwrap()), "{kind:?} {usual}");
            }
        }
        assert!(of(Kind::Bugsink).concerns(&"error=2".parse().unwrap()));
        assert!(of(Kind::Bugsink).concerns(&"transaction=1 profile=1".parse().unwrap()));
        assert!(!of(Kind::Generic).concerns(&"error=2 transaction=1 unknown=1".parse().unwrap()));
    }

    #[test]
    fn a_page_of_html_is_glitchtips_maintenance_and_no_strike_against_an_envelope() {
        let strike = |kind, code, text| of(kind).speaks_of_the_record(StatusCode::from_u16(code).unwrap(), text);
        assert!(!strike(Kind::Glitchtip, 500, "\n<!doctype html>\n<title>Server Error (500)</title>"));
        assert!(strike(Kind::Glitchtip, 500, "{\"detail\": \"broken\"}"));
        for kind in [Kind::Bugsink, Kind::Sentry, Kind::Relay, Kind::Generic] {
            assert!(strike(kind, 500, "<html>"), "{kind:?}");
        }
        assert!(!strike(Kind::Generic, 502, "") && !strike(Kind::Glitchtip, 503, "{}"));
    }

    #[test]
    fn bugsinks_limit_of_what_it_never_stores_is_no_limit() {
        let heeded = |kind, header| {
            let mut limits = rate_limits::parse(header);
            of(kind).heed(&mut limits);
            limits
        };
        let header = "60::key, 86400:transaction;span:organization, 5:transaction;error:key";
        assert_eq!(heeded(Kind::Bugsink, header), rate_limits::parse("60::key, 5:error:key"));
        assert_eq!(heeded(Kind::Sentry, header), rate_limits::parse(header));
    }
}

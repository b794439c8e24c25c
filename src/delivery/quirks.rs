//! Quirks: where known trackers differ from the protocol. One table: a constant for each kind of upstream, and a field of [`Quirks`] for
//! each quirk and for whatever else a request to it needs.
//!
//! Rules: a quirk gets a field if accepted items would be lost without it. A comment beside it says where it was found. A record is parsed
//! on its way out only if a quirk concerns it, and [`Quirks::concerns`] tells that by the categories of its items. So a quirk that depends
//! on the content of an envelope must list its categories there.

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
    /// The categories that it never stores, and limits for a day with its every answer. Such items are dropped as unsupported, and such
    /// limits are ignored.
    pub(super) never_stores: &'static [Category],
    /// The place of an item among those of its record.
    place: fn(&ItemType) -> Place,
    /// The categories whose records are parsed before they are sent.
    concerns: &'static [Category],
    /// It stores no event of an envelope with several. Each event is sent in a request of its own, under its own id.
    pub(super) one_event_a_request: bool,
    /// It answers before it stores, and drops an answered event when another one reaches its quota meanwhile. So it gets one request at a
    /// time.
    pub(super) one_at_a_time: bool,
    /// It stops reading an envelope at a blank line between two items.
    pub(super) ends_at_blank_lines: bool,
    /// When its 429 limits some categories, it has taken the others.
    pub(super) takes_the_rest_on_429: bool,
    /// In maintenance it answers 500 with a page of HTML. That is no answer to the envelope, and no strike against it.
    maintenance_is_a_500_page: bool,
    /// It takes no body without `Content-Length`.
    pub(super) wants_length: bool,
    /// How long it refuses a project to everybody after a wrong key.
    pub(super) cool_off: Duration,
    /// Some events make it lose the whole batch that they are stored with. They are counted.
    pub(super) has_batch_poison: bool,
    /// Its answer when it has taken an envelope.
    answers: Expected,
    /// The encoding of envelopes that suits it best.
    compression: Compress,
}

/// The place of an item among those of its record. Items are sent in this order, and those with [`Place::Apart`] in another request than
/// the rest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Place {
    First(u8),
    AsSent,
    Apart(u8),
}

/// A generic upstream gets what was sent, uncompressed, because nobody knows which encodings it reads.
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
    // It always answers JSON: `relay-server/src/endpoints/envelope.rs`.
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
    // It always answers JSON: `apps/event_ingest/views.py`.
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
    // It answers nothing, with Django's type `text/html`, if it has no place for an envelope: `ingest/views.py`.
    answers: Expected::Id,
    // gzip, deflate (raw) and br: `bugsink/streams.py`.
    compression: Compress::Gzip,
    ..GENERIC
};

/// The quirks of a kind.
pub(super) const fn of(kind: Kind) -> &'static Quirks {
    match kind {
        Kind::Sentry | Kind::Relay => &SENTRY,
        Kind::Glitchtip => &GLITCHTIP,
        Kind::Bugsink => &BUGSINK,
        Kind::Generic => &GENERIC,
    }
}

impl Kind {
    /// The answer of an upstream of this kind that has taken an envelope.
    pub const fn answers(self) -> Expected {
        of(self).answers
    }

    /// The encoding of envelopes that suits an upstream of this kind best.
    pub(super) const fn compression(self) -> Compress {
        of(self).compression
    }
}

/// GlitchTip stops reading an envelope at the header of an item type that it does not know, and answers 200 all the same. So known items go
/// first, and unknown ones apart, `feedback` before the others because version 6 knows it. Of an event and a transaction with one id it
/// keeps the first.
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
    /// Whether a record with these quantities must be parsed before it is sent.
    pub(super) fn concerns(&self, quantities: &Quantities) -> bool {
        let several = |category, quantity| self.one_event_a_request && category == Category::Error && quantity > 1;
        let listed = |category| self.concerns.contains(&category) || self.never_stores.contains(&category);
        quantities.iter().any(|(category, quantity)| listed(category) || several(category, quantity))
    }

    /// Whether the content of events matters.
    pub(super) const fn look_into_events(&self) -> bool {
        self.has_batch_poison || self.one_event_a_request
    }

    /// Whether it never stores items of this category.
    pub(super) fn never_stores(&self, category: Category) -> bool {
        self.never_stores.contains(&category)
    }

    /// Divides items into those that are sent in one request now, in this order, and those that are sent later. If there are none for now,
    /// there are none for later.
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

    /// Whether a failure with this answer may be the record's own fault. Only status 500 says something about the record; other statuses
    /// are about the server or a proxy before it, and so is a page of HTML from a tracker whose maintenance looks like that.
    pub(super) fn speaks_of_the_record(&self, status: StatusCode, text: &str) -> bool {
        let is_page = text.trim_ascii_start().starts_with('<');
        status == StatusCode::INTERNAL_SERVER_ERROR && !(self.maintenance_is_a_500_page && is_page)
    }

    /// Removes limits of categories that it never stores.
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
    fn glitchtip_gets_known_items_first_and_unknown_ones_apart() {
        let all = ["profile_chunk", "session", "transaction", "feedback", "event", "attachment", "new_word"];
        assert_eq!(arranged(Kind::Glitchtip, &all), (vec![4, 2, 1, 5], vec![3, 0, 6]));
        assert_eq!(arranged(Kind::Glitchtip, &["statsd", "feedback"]), (vec![1, 0], vec![]));
        assert_eq!(arranged(Kind::Glitchtip, &["event"]), (vec![0], vec![]));
        assert_eq!(arranged(Kind::Glitchtip, &[]), (vec![], vec![]));
    }

    #[test]
    fn types_unknown_to_glitchtip_are_sent_apart_and_looked_for() {
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
    fn usual_records_are_sent_unparsed() {
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
    fn glitchtips_maintenance_page_is_no_strike_against_an_envelope() {
        let strike = |kind, code, text| of(kind).speaks_of_the_record(StatusCode::from_u16(code).unwrap(), text);
        assert!(!strike(Kind::Glitchtip, 500, "\n<!doctype html>\n<title>Server Error (500)</title>"));
        assert!(strike(Kind::Glitchtip, 500, "{\"detail\": \"broken\"}"));
        for kind in [Kind::Bugsink, Kind::Sentry, Kind::Relay, Kind::Generic] {
            assert!(strike(kind, 500, "<html>"), "{kind:?}");
        }
        assert!(!strike(Kind::Generic, 502, "") && !strike(Kind::Glitchtip, 503, "{}"));
    }

    #[test]
    fn bugsinks_limit_on_categories_that_it_never_stores_is_ignored() {
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

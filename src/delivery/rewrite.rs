//! Rewrites the header line of an envelope for an upstream: `dsn`, `trace.public_key`, `sent_at` if the relay held the envelope, and
//! `event_id` if an envelope of several events is sent as several. Every other byte of the line stays where it is. The items are not read.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::policy::routing::{Project, PublicKey, Routing};
use crate::protocol::dsn::Dsn;
use crate::protocol::envelope::{HeaderSpans, header_line};
use crate::protocol::event_id::EventId;

/// An envelope that was kept for less than this was not held. Clocks differ by more, so `sent_at` stays as it is.
const HELD: Duration = Duration::from_secs(1);

/// The address of an envelope: its project's DSN at the upstream, and the DSNs of the other projects there.
pub struct Address<'a> {
    routing: &'a Routing,
    /// The envelope's project.
    pub(super) project: &'a Project,
    upstream: &'a str,
    /// The DSN of the envelope's project.
    pub(super) dsn: &'a Dsn,
}

impl<'a> Address<'a> {
    /// The address of a project at the upstream; `None` when it has none there.
    pub fn of(routing: &'a Routing, project: &str, upstream: &'a str) -> Option<Self> {
        let project = routing.project(project)?;
        Some(Self { routing, project, upstream, dsn: project.dsns.get(upstream)? })
    }

    /// The upstream's key for the project in which a trace began, as a JSON string. A trace that began in another project of ours keeps
    /// that project's sampling. An unknown key becomes this project's.
    fn key_of(&self, sent: &str) -> &'a str {
        if self.project.public_key.is(sent) {
            return self.dsn.quoted_key();
        }
        let key = PublicKey::new(sent);
        let mut others = self.routing.projects.iter().filter(|project| project.public_key == key);
        others.find_map(|project| project.dsns.get(self.upstream)).unwrap_or(self.dsn).quoted_key()
    }
}

/// The header line for the upstream, without its newline, and the rest of the envelope, newline first. Both share the memory of `envelope`
/// where nothing changed. `event_id` replaces that of the envelope.
///
/// `spans` are those of the line, found when it was accepted; without them the line is sent unchanged.
pub fn rewrite(
    envelope: &Bytes,
    spans: Option<&HeaderSpans>,
    to: &Address<'_>,
    dwell: Duration,
    event_id: Option<EventId>,
) -> (Bytes, Bytes) {
    let end = header_line(envelope).len();
    (rewrite_line(&envelope.slice(..end), spans, to, dwell, event_id), envelope.slice(end..))
}

/// As [`rewrite`], for the header line alone. Neither `line` nor the result has a newline.
pub(super) fn rewrite_line(
    line: &Bytes,
    spans: Option<&HeaderSpans>,
    to: &Address<'_>,
    dwell: Duration,
    event_id: Option<EventId>,
) -> Bytes {
    let Some(spans) = spans else { return line.clone() };
    let mut edits: SmallVec<[Edit<'_>; 4]> = SmallVec::new();
    if let Some(span) = &spans.dsn {
        edits.push((span, to.dsn.quoted().into()));
    }
    if let Some(span) = &spans.trace_public_key {
        edits.push((span, to.key_of(&text(line, span).unwrap_or_default()).into()));
    }
    if let (Some(span), Some(id)) = (&spans.event_id, event_id) {
        edits.push((span, format!("\"{id}\"").into()));
    }
    if let Some(span) = spans.sent_at.as_ref().filter(|_| dwell >= HELD) {
        let moved = text(line, span).and_then(|at| moved(&at, dwell));
        edits.extend(moved.map(|quoted| (span, quoted.into())));
    }
    if edits.is_empty() {
        return line.clone();
    }
    edits.sort_unstable_by_key(|(span, _)| span.start);
    apply(line, &edits).into()
}

/// A range of the line, and its new text.
pub(super) type Edit<'a> = (&'a Range<usize>, Cow<'a, str>);

/// The text of the JSON string at `span`, copied only if it has escapes. `None` when it is no string.
fn text<'a>(line: &'a [u8], span: &Range<usize>) -> Option<Cow<'a, str>> {
    let string = line.get(span.clone())?;
    if memchr::memchr(b'\\', string).is_some() {
        return serde_json::from_slice::<String>(string).ok().map(Cow::Owned);
    }
    let inner = string.get(1..string.len().checked_sub(1)?)?;
    std::str::from_utf8(inner).ok().map(Cow::Borrowed)
}

/// Applies edits, which are sorted by range.
pub(super) fn apply(line: &[u8], edits: &[Edit<'_>]) -> Vec<u8> {
    let (removed, added) =
        edits.iter().fold((0, 0), |(removed, added), (span, text)| (removed + span.len(), added + text.len()));
    let mut out = Vec::with_capacity(line.len() + added - removed);
    let mut at = 0;
    for (span, text) in edits {
        out.extend_from_slice(&line[at..span.start]);
        out.extend_from_slice(text.as_bytes());
        at = span.end;
    }
    out.extend_from_slice(&line[at..]);
    out
}

/// `sent_at` plus the time that the relay held the envelope, as a JSON string, so that no tracker takes the delay for a wrong clock and
/// shifts the event (getsentry/relay, `relay-event-normalization/src/clock_drift.rs`: from 55 minutes on). `None` when it is no date.
fn moved(sent_at: &str, dwell: Duration) -> Option<String> {
    let at = OffsetDateTime::parse(sent_at, &Rfc3339).ok()?.checked_add(dwell.try_into().ok()?)?;
    // Fraction and offset keep their spelling, because strict parsers expect the form that they always got.
    let tail = sent_at.get(19..)?;
    let offset = tail.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let mut out = Vec::with_capacity(sent_at.len() + 12);
    let (hour, minute, second) = at.time().as_hms();
    out.push(b'"');
    push_digits(&mut out, u32::try_from(at.year()).ok()?, 4);
    for (before, part) in [(b'-', at.month().into()), (b'-', at.day()), (b'T', hour), (b':', minute), (b':', second)] {
        out.push(before);
        push_digits(&mut out, part.into(), 2);
    }
    if let Some(digits) = (tail.len() - offset.len()).checked_sub(1) {
        out.push(b'.');
        let end = out.len() + digits;
        push_digits(&mut out, at.nanosecond(), 9);
        out.resize(end, b'0');
    }
    out.extend_from_slice(offset.as_bytes());
    out.push(b'"');
    String::from_utf8(out).ok()
}

/// Appends a number with this many digits, zeros in front.
fn push_digits(out: &mut Vec<u8>, mut number: u32, digits: usize) {
    let start = out.len();
    out.resize(start + digits, b'0');
    for digit in out[start..].iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// `shop` with the key `ours`, and `web` with a UUID, both at `tracker`; `old` is not.
    fn routing(dsn: &str) -> Routing {
        let project = |name: &str, key: &str, dsns: &[&str]| {
            Arc::new(Project {
                name: name.into(),
                id: "1".into(),
                public_key: PublicKey::new(key),
                dsns: dsns.iter().map(|dsn| ("tracker".into(), dsn.parse().unwrap())).collect(),
                places: [].into(),
                primary: None,
                mirror: None,
            })
        };
        let web = project("web", "9ec79c33-ec99-42ab-8353-589fcb2e04dc", &["http://web_key@tracker.example/43"]);
        let projects = vec![project("shop", "ours", &[dsn]), web, project("old", "old-key", &[])];
        Routing { primary: "tracker".into(), mirror: true, projects }
    }

    fn rewritten(envelope: &Bytes, dsn: &str, dwell: Duration, event_id: Option<EventId>) -> (Bytes, Bytes) {
        let routing = routing(dsn);
        let spans = HeaderSpans::locate(header_line(envelope)).ok();
        rewrite(envelope, spans.as_ref(), &Address::of(&routing, "shop", "tracker").unwrap(), dwell, event_id)
    }

    #[test]
    fn a_trace_keeps_the_project_in_which_it_began() {
        for (sent, expected) in
            [("ours", "own"), ("9EC79C33EC9942AB8353589FCB2E04DC", "web_key"), ("old-key", "own"), ("of nobody", "own")]
        {
            let envelope =
                Bytes::from(format!("{{\"trace\":{{\"public_key\":\"{sent}\",\"sample_rate\":\"0.5\"}}}}\n"));
            let (line, _) = rewritten(&envelope, "http://own@tracker.example/42", Duration::ZERO, None);
            assert_eq!(
                line,
                format!("{{\"trace\":{{\"public_key\":\"{expected}\",\"sample_rate\":\"0.5\"}}}}"),
                "{sent}"
            );
        }
    }

    fn out(envelope: &'static str, dwell_secs: u64) -> String {
        let dsn = "https://new_key@tracker.example:9000/prefix/42";
        let (line, rest) =
            rewritten(&Bytes::from_static(envelope.as_bytes()), dsn, Duration::from_secs(dwell_secs), None);
        format!("{}{}", std::str::from_utf8(&line).unwrap(), std::str::from_utf8(&rest).unwrap())
    }

    #[test]
    fn only_the_address_of_the_envelope_changes() {
        let envelope = concat!(
            r#"{ "x" : 1.50e+3,"dsn":"http://old@h/1", "trace":{"trace_id":"t","public_key" : "old"},"sdk":{"dsn":"kept"}}"#,
            "\n{\"type\":\"event\"}\n{\"dsn\":\"kept\"}"
        );
        let expected = concat!(
            r#"{ "x" : 1.50e+3,"dsn":"https://new_key@tracker.example:9000/prefix/42", "trace":{"trace_id":"t","public_key" : "new_key"},"sdk":{"dsn":"kept"}}"#,
            "\n{\"type\":\"event\"}\n{\"dsn\":\"kept\"}"
        );
        assert_eq!(out(envelope, 0), expected);
    }

    #[test]
    fn absent_fields_stay_absent() {
        for envelope in ["{}", "{}\n", "{\"trace\":{}}\n{\"type\":\"x\"}\n", "{\"dsn\":null,\"sent_at\":null}"] {
            assert_eq!(out(envelope, 7200), envelope);
        }
    }

    #[test]
    fn sent_at_moves_by_the_time_it_was_held_and_keeps_its_spelling() {
        for (before, held, after) in [
            ("2026-11-23T10:00:00.250Z", 7200, "2026-11-23T12:00:00.250Z"),
            ("2026-11-23T23:59:59.123456Z", 60, "2026-11-24T00:00:59.123456Z"),
            ("2026-11-23T10:00:00.000Z", 60, "2026-11-23T10:01:00.000Z"),
            ("2026-11-23T10:00:00Z", 60, "2026-11-23T10:01:00Z"),
            ("2026-11-23T10:00:00.5Z", 60, "2026-11-23T10:01:00.5Z"),
            ("2026-11-23T10:00:00.123456789Z", 60, "2026-11-23T10:01:00.123456789Z"),
            ("2026-11-23T10:00:00+02:00", 60, "2026-11-23T10:01:00+02:00"),
            ("2026-11-23T10:00:00.250Z", 0, "2026-11-23T10:00:00.250Z"),
            ("yesterday", 60, "yesterday"),
        ] {
            let envelope: &'static str = format!("{{\"sent_at\":\"{before}\"}}\n").leak();
            assert_eq!(out(envelope, held), format!("{{\"sent_at\":\"{after}\"}}\n"));
        }
    }

    #[test]
    fn an_event_that_is_sent_alone_has_its_own_id() {
        let envelope = Bytes::from_static(b"{\"event_id\":\"00000000-0000-0000-0000-000000000001\",\"x\": 1}\n");
        let (line, _) = rewritten(&envelope, "http://k@h/1", Duration::ZERO, Some(2.into()));
        assert_eq!(line, r#"{"event_id":"00000000000000000000000000000002","x": 1}"#);
        let (line, _) = rewritten(&Bytes::from_static(b"{}\n"), "http://k@h/1", Duration::ZERO, Some(2.into()));
        assert_eq!(line, "{}", "absent stays absent");
    }

    #[test]
    fn an_envelope_with_nothing_to_change_is_not_copied() {
        let envelope = Bytes::from_static(b"{\"event_id\":\"x\"}\n{\"type\":\"event\"}\n{}");
        let (line, rest) = rewritten(&envelope, "http://k@h/1", Duration::ZERO, None);
        assert_eq!(line.as_ptr(), envelope.as_ptr());
        assert_eq!(rest.as_ptr().addr(), envelope.as_ptr().addr() + line.len());
    }
}

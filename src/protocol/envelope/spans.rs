//! The result of reading a header line: the ranges of the values that a relay replaces, and the values that it needs.

use std::ops::Range;

use crate::protocol::event_id::EventId;

/// The ranges of the values that address an envelope, as offsets from the start of its header line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HeaderSpans {
    /// The value of `dsn`, quotes included.
    pub dsn: Option<Range<usize>>,
    /// The value of `sent_at`, quotes included.
    pub sent_at: Option<Range<usize>>,
    /// The value of `trace.public_key`, quotes included.
    pub trace_public_key: Option<Range<usize>>,
    /// The value of `event_id`, quotes included.
    pub event_id: Option<Range<usize>>,
}

/// The other values of the header.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Fields {
    pub(super) event_id: Option<EventId>,
}

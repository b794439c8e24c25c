//! What is known of a header line: where the values stand that a relay replaces, and what else it says.

use std::ops::Range;

use crate::protocol::event_id::EventId;

/// Where the values that address an envelope stand in its header line. Offsets from the start of the line.
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

/// What else the header says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Fields {
    pub(super) event_id: Option<EventId>,
}

//! Spans of time: merging them, finding the gaps, adding them up.

use std::time::Duration;

use crate::clock::Timestamp;

/// A span of time: its beginning and its end.
pub type Span = (Timestamp, Timestamp);

/// The spans within `window`, in order. Spans that overlap or touch are merged.
pub fn within(spans: impl IntoIterator<Item = Span>, window: Span) -> Vec<Span> {
    let cut = |(from, to): Span| (from.max(window.0), to.min(window.1));
    let mut all: Vec<Span> = spans.into_iter().map(cut).filter(|(from, to)| from < to).collect();
    all.sort_unstable();
    let mut merged: Vec<Span> = Vec::new();
    for (from, to) in all {
        match merged.last_mut().filter(|last| from <= last.1) {
            Some(last) => last.1 = last.1.max(to),
            None => merged.push((from, to)),
        }
    }
    merged
}

/// The parts of the window that no span covers.
pub fn gaps(spans: &[Span], window: Span) -> Vec<Span> {
    let mut open = vec![];
    let mut from = window.0;
    for span in within(spans.iter().copied(), window) {
        open.push((from, span.0));
        from = span.1;
    }
    open.push((from, window.1));
    open.retain(|(from, to)| from < to);
    open
}

/// The sum of the spans, which must not overlap.
pub fn length(spans: &[Span]) -> Duration {
    spans.iter().map(|(from, to)| to.since(*from)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_spans_count_once_and_parts_outside_the_window_do_not() {
        let at = |s: u64| Timestamp::from_millis(s * 1000);
        let spans = [(at(50), at(70)), (at(0), at(12)), (at(60), at(65)), (at(70), at(80)), (at(95), at(200))];
        let found = within(spans, (at(10), at(100)));
        assert_eq!(found, [(at(10), at(12)), (at(50), at(80)), (at(95), at(100))]);
        assert_eq!(length(&found), Duration::from_secs(37));
        assert_eq!(gaps(&found, (at(10), at(100))), [(at(12), at(50)), (at(80), at(95))]);
        assert_eq!(gaps(&[], (at(10), at(10))), []);
    }
}

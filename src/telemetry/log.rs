//! Logs, on standard error: for a terminal, for journald, or as JSON; and the damper for lines that would repeat.

use std::hash::Hash;
use std::io::IsTerminal as _;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use governor::clock::DefaultClock;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// For a terminal: time, level, message, fields; coloured when it is one.
    Text,
    /// For journald: no time, the level as a priority prefix.
    Journald,
    /// One JSON object a line.
    Json,
}

impl Format {
    /// What fits where standard error goes.
    pub fn detect() -> Self {
        if std::env::var_os("JOURNAL_STREAM").is_some() && !std::io::stderr().is_terminal() {
            Self::Journald
        } else {
            Self::Text
        }
    }
}

/// Starts logging. `filter` is in the syntax of `RUST_LOG`; a wrong one is reported and `info` is used.
pub fn start(format: Format, filter: &str) {
    let (filter, problem) = match EnvFilter::try_new(filter) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    // A second start in one process (tests) keeps the first one's subscriber.
    let started = match format {
        Format::Text => lines.with_target(false).try_init(),
        Format::Journald => lines.event_format(Journald).try_init(),
        Format::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
    };
    if let (Ok(()), Some(error)) = (started, problem) {
        tracing::warn!(%error, "the log filter cannot be read, using \"info\"");
    }
}

/// `<4>message field=value`: what journald makes priorities of (sd-daemon(3)).
struct Journald;

impl<S, N> FormatEvent<S, N> for Journald
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> std::fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        for span in ctx.event_scope().into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>().filter(|f| !f.is_empty()) {
                write!(writer, "{fields} ")?;
            }
        }
        ctx.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Lets one line of each kind through a minute; the rest is only counted in metrics.
#[derive(Clone, Debug)]
pub struct Damper<K: Hash + Eq + Clone>(Arc<RateLimiter<K, DefaultKeyedStateStore<K>, DefaultClock>>);

impl<K: Hash + Eq + Clone> Damper<K> {
    /// A damper that has let nothing through yet. `K` must be a closed set.
    pub fn new() -> Self {
        let quota = Quota::with_period(Duration::from_secs(60)).expect("a minute is not zero");
        Self(Arc::new(RateLimiter::keyed(quota.allow_burst(NonZeroU32::MIN))))
    }

    /// Whether a line of this kind may be written now.
    pub fn lets_through(&self, kind: &K) -> bool {
        self.0.check_key(kind).is_ok()
    }
}

impl<K: Hash + Eq + Clone> Default for Damper<K> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_each_kind_a_minute() {
        let damper = Damper::new();
        assert!(damper.lets_through(&"a"));
        assert!(!damper.lets_through(&"a"));
        assert!(damper.lets_through(&"b"));
    }
}

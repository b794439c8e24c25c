//! Logs: for a terminal, for journald, or as JSON; the stream they go to; and the damper for repeated lines.

use std::collections::HashMap;
use std::hash::Hash;
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use tokio::time::Instant;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriterExt as _};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::unstalled::{self, Unstalled};

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
    /// The format that fits standard error.
    pub fn detect() -> Self {
        if std::env::var_os("JOURNAL_STREAM").is_some() && !std::io::stderr().is_terminal() {
            Self::Journald
        } else {
            Self::Text
        }
    }
}

/// The streams that log lines go to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Streams {
    /// All lines go to standard error, because standard output belongs to the verb.
    Error,
    /// Under PM2, which sets `pm_id`, warnings and errors go to standard error and the rest to standard output: its `error.log` and its
    /// `out.log`. All lines go to standard error if both are one file, and under any other supervisor.
    Split,
}

impl Streams {
    fn are_apart(self) -> bool {
        let (out, err) = (rustix::fs::fstat(std::io::stdout()), rustix::fs::fstat(std::io::stderr()));
        let (Self::Split, Ok(out), Ok(err)) = (self, out, err) else { return false };
        std::env::var_os("pm_id").is_some() && (out.st_dev, out.st_ino) != (err.st_dev, err.st_ino)
    }
}

/// Starts logging. `filter` is in the syntax of `RUST_LOG`, limited to modules and levels; a level without a module is for our own code.
/// An invalid filter is reported, and `info` is used.
pub fn start(format: Format, streams: Streams, filter: &str) {
    let (filter, problem) = match read(filter) {
        Ok(filter) => (filter, None),
        Err(error) => (ours(Targets::new().with_default(Level::INFO)), Some(error)),
    };
    let are_apart = streams.are_apart();
    let colour = !are_apart && std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let errors = Arc::new(Unstalled::new(std::io::stderr()));
    let writer = match are_apart {
        true => {
            let rest = Arc::new(Unstalled::new(std::io::stdout()));
            BoxMakeWriter::new(errors.with_max_level(Level::WARN).or_else(rest))
        }
        false => BoxMakeWriter::new(errors),
    };
    let filtered = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colour);
    // If logging was started before in this process, as in tests, the first subscriber stays.
    let started = match format {
        Format::Text => filtered.with(lines.with_target(false)).try_init(),
        Format::Journald => filtered.with(lines.event_format(Journald)).try_init(),
        Format::Json => filtered.with(lines.json().flatten_event(true).with_current_span(false)).try_init(),
    };
    if let (Ok(()), Some(error)) = (started, problem) {
        tracing::warn!(%error, "the log filter cannot be read, using \"info\"");
    }
}

/// Logs the number of lines that were left out because nobody read them, until that line itself is written.
pub fn tell_left_out() {
    static TOLD: AtomicU64 = AtomicU64::new(0);
    let all = unstalled::left_out();
    let lines = all.saturating_sub(TOLD.load(Ordering::Relaxed));
    if lines > 0 {
        tracing::warn!(lines, "lines of the log were left out: whoever reads it stood still");
        if unstalled::left_out() == all {
            TOLD.store(all, Ordering::Relaxed);
        }
    }
}

fn read(filter: &str) -> Result<Targets, ParseError> {
    // An empty part would mean only errors, and a part with a space before it would be a module with that space in its name.
    let parts: Vec<&str> = filter.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    parts.join(",").parse().map(ours)
}

/// Limits the level that is for all modules to our own code. Libraries log only errors unless the filter names them: a client can make
/// some of them write a warning for each frame that it sends, and no damper is before those.
fn ours(filter: Targets) -> Targets {
    let Some(level) = filter.default_level() else { return filter };
    let names_us = filter.iter().any(|(target, _)| target == OURS);
    let filter = filter.with_default(level.min(LevelFilter::ERROR));
    if names_us { filter } else { filter.with_target(OURS, level) }
}

/// The format `<4>message field=value`, from which journald takes the priority (sd-daemon(3)).
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

/// The crate whose lines are ours.
const OURS: &str = "switchyard";
/// How long a line on one subject is not repeated.
const QUIET: Duration = Duration::from_secs(60);
/// The most subjects of one damper. Further ones within a minute get no line; metrics count them.
const SUBJECTS: usize = 1024;

/// Limits a line that others can cause repeatedly to one a minute for each subject. The first line is written at once, and the next one
/// says how many were left out. Cheap to clone; clones share their state.
#[derive(Clone, Debug)]
pub struct Damper<K>(Arc<Mutex<HashMap<K, Written>>>);

/// The last line on a subject.
#[derive(Clone, Copy, Debug)]
struct Written {
    at: Instant,
    left_out: u64,
}

/// A line that may be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// The number of such lines left out since the last one; `None` if there were none.
    pub suppressed: Option<u64>,
}

impl<K: Hash + Eq + Clone> Damper<K> {
    /// A damper without any lines yet.
    pub fn new() -> Self {
        Self(Arc::default())
    }

    /// The line on this subject; `None` if none may be written now.
    pub fn admit(&self, subject: &K) -> Option<Line> {
        let told = self.admit_sum(subject, 1)?;
        Some(Line { suppressed: (told > 1).then(|| told - 1) })
    }

    /// The same for a line with a number: the sum since the last line; `None` if no line may be written now.
    pub fn admit_sum(&self, subject: &K, quantity: u64) -> Option<u64> {
        let now = Instant::now();
        // Nothing panics while holding the lock.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = all.get_mut(subject) {
            last.left_out = last.left_out.saturating_add(quantity);
            if now.duration_since(last.at) < QUIET {
                return None;
            }
            last.at = now;
            return Some(std::mem::take(&mut last.left_out));
        }
        if all.len() >= SUBJECTS {
            all.retain(|_, last| now.duration_since(last.at) < QUIET);
        }
        let has_room = all.len() < SUBJECTS;
        has_room.then(|| {
            all.insert(subject.clone(), Written { at: now, left_out: 0 });
            quantity
        })
    }
}

/// The damper for all code that has none of its own.
static COMMON: LazyLock<Damper<(&'static str, Box<str>)>> = LazyLock::new(Damper::new);

/// The line of this kind on this subject, by the common damper; `None` if none may be written now. Subjects must be few: names from the
/// configuration, not values from clients.
pub fn admit(kind: &'static str, subject: &str) -> Option<Line> {
    COMMON.admit(&(kind, subject.into()))
}

/// The same for a line with a number, like [`Damper::admit_sum`].
pub fn admit_sum(kind: &'static str, subject: &str, quantity: u64) -> Option<u64> {
    COMMON.admit_sum(&(kind, subject.into()), quantity)
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
    fn a_filter_gives_levels_to_modules_and_one_to_all_others() {
        for filter in ["switchyard::delivery=debug,info", " switchyard::delivery=debug , info, "] {
            let filter = read(filter).unwrap();
            let is_on = |target, level| filter.would_enable(target, &level);
            assert!(is_on("switchyard::delivery::worker", Level::DEBUG) && is_on("switchyard::http", Level::INFO));
            assert!(!is_on("switchyard::intake", Level::DEBUG));
        }
        assert!(read("switchyard=loud").is_err());
    }

    #[test]
    fn libraries_log_only_errors_unless_the_filter_names_them() {
        let is_on = |filter: &str, target, level| read(filter).unwrap().would_enable(target, &level);
        for filter in ["info", "debug", "switchyard=warn,trace"] {
            assert!(
                !is_on(filter, "h2::proto::ping_pong", Level::WARN) && is_on(filter, "h2", Level::ERROR),
                "{filter}"
            );
            assert!(is_on(filter, "switchyard::http", Level::WARN), "{filter}");
        }
        assert!(is_on("info,h2=debug", "h2::proto::ping_pong", Level::DEBUG));
        assert!(!is_on("info,h2=debug", "rustls", Level::WARN));
        assert!(!is_on("switchyard=warn,trace", "switchyard::http", Level::INFO));
        assert!(!is_on("off", "h2", Level::ERROR) && !is_on("off", "switchyard", Level::ERROR));
    }

    #[tokio::test(start_paused = true)]
    async fn each_subject_has_one_line_a_minute_with_the_number_of_lines_left_out() {
        let damper = Damper::new();
        let line = |suppressed| Some(Line { suppressed });
        assert_eq!((damper.admit(&"a"), damper.admit(&"b")), (line(None), line(None)));
        for _ in 0..3 {
            assert_eq!(damper.admit(&"a"), None);
        }
        tokio::time::advance(QUIET).await;
        assert_eq!((damper.admit(&"a"), damper.admit(&"b")), (line(Some(3)), line(None)));
        assert_eq!((damper.admit(&"a"), damper.admit_sum(&"c", 7), damper.admit_sum(&"c", 2)), (None, Some(7), None));
        tokio::time::advance(QUIET).await;
        assert_eq!(damper.admit_sum(&"c", 1), Some(3));
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_subjects_of_a_damper_is_bounded() {
        let damper = Damper::new();
        let admitted = (0..3 * SUBJECTS).filter(|subject| damper.admit(subject).is_some()).count();
        assert_eq!(admitted, SUBJECTS);
        tokio::time::advance(QUIET).await;
        assert!(damper.admit(&usize::MAX).is_some());
    }
}

//! Problems of a configuration file, and how they are shown: with the line and a caret, as one line each, or as JSON.
//!
//! A long line is shown only around the problem: a file may be one line, which every problem would repeat.
//!
//! Rule: no form shows a secret. Messages arrive without any, and the text is masked.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents,
    Severity as MietteSeverity, SourceCode, SourceSpan, SpanContents,
};
use serde::{Serialize, Serializer, ser::SerializeStruct};

/// How bad a problem is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, but somebody should look at it.
    Warning,
}

/// One problem of a configuration file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The option, as in `upstreams.sentry.timeout`; empty for the file as a whole.
    pub path: String,
    /// Its line, from 1.
    pub line: usize,
    /// The column of its first character, from 1.
    pub column: usize,
    /// The place in the file, in bytes.
    #[serde(skip)]
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// How problems are written out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// For terminals: line, caret, help.
    Graphical {
        /// Whether to use colours.
        color: bool,
        /// The columns of the terminal.
        width: usize,
    },
    /// For files: as for terminals, in ASCII, without colour, 100 columns wide.
    Plain,
    /// For the log and the status: as [`Form::Plain`], the first [`LOGGED`] problems only.
    Log,
    /// One line for each, as compilers write them: `config.toml:12:5: upstreams.sentry.timeout: …`.
    Lines,
}

/// The number of problems that the log shows.
pub const LOGGED: usize = 20;
/// The number of bytes of a line that are shown before and after the start of a problem.
const AROUND: usize = 120;

/// All problems of a configuration file, in the order of the file.
#[derive(Clone, thiserror::Error)]
#[error("{}", self.render(Form::Lines))]
pub struct Problems {
    file: String,
    masked: Arc<str>,
    list: Vec<Problem>,
}

impl Problems {
    /// `masked` is the text of the file with its secrets hidden.
    pub(super) fn new(file: &str, masked: String, mut list: Vec<Problem>) -> Self {
        list.sort_by_key(|problem| (problem.span.start, problem.severity));
        Self { file: file.to_owned(), masked: masked.into(), list }
    }

    /// The problems, in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.list.iter()
    }

    /// Whether there are no problems.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The number of problems that make the file unusable.
    pub fn errors(&self) -> usize {
        self.list.iter().filter(|problem| problem.severity == Severity::Error).count()
    }

    /// The number of warnings.
    pub fn warnings(&self) -> usize {
        self.list.len() - self.errors()
    }

    /// The counts, as in `3 problems, 1 warning in config.toml`.
    pub fn summary(&self) -> String {
        let count = |n: usize, what: &str| match n {
            0 => None,
            1 => Some(format!("1 {what}")),
            n => Some(format!("{n} {what}s")),
        };
        let counts: Vec<_> =
            [count(self.errors(), "problem"), count(self.warnings(), "warning")].into_iter().flatten().collect();
        let counts = if counts.is_empty() { "no problems".to_owned() } else { counts.join(", ") };
        format!("{counts} in {}", self.file)
    }

    /// All problems and the counts in the given form; [`Form::Log`] leaves out those past the first [`LOGGED`].
    pub fn render(&self, form: Form) -> String {
        let most = if form == Form::Log { LOGGED } else { usize::MAX };
        let mut text: String = self.list.iter().take(most).map(|problem| self.render_one(problem, form)).collect();
        if self.list.len() > most {
            text += &format!("... and {} more, which `switchyard check` shows\n\n", self.list.len() - most);
        }
        text + &self.summary()
    }

    fn render_one(&self, problem: &Problem, form: Form) -> String {
        let (theme, width) = match form {
            Form::Graphical { color: true, width } => (GraphicalTheme::unicode(), width),
            Form::Graphical { color: false, width } => (GraphicalTheme::unicode_nocolor(), width),
            Form::Plain | Form::Log => (GraphicalTheme::none(), 100),
            Form::Lines => return self.line(problem),
        };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(width.max(40));
        let mut text = String::new();
        match handler.render_report(&mut text, &Shown { problem, file: &self.file, masked: &self.masked }) {
            Ok(()) => text + "\n",
            // A place that cannot be shown must not hide the problem.
            Err(fmt::Error) => self.line(problem),
        }
    }

    fn line(&self, problem: &Problem) -> String {
        let kind = if problem.severity == Severity::Warning { "warning: " } else { "" };
        let help = problem.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
        format!("{}:{}:{}: {kind}{problem}{help}\n", self.file, problem.line, problem.column)
    }
}

impl fmt::Debug for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Problems").field("file", &self.file).field("list", &self.list).finish_non_exhaustive()
    }
}

impl Serialize for Problems {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut shown = serializer.serialize_struct("Problems", 4)?;
        shown.serialize_field("file", &self.file)?;
        shown.serialize_field("errors", &self.errors())?;
        shown.serialize_field("warnings", &self.warnings())?;
        shown.serialize_field("problems", &self.list)?;
        shown.end()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.message),
            path => write!(f, "{path}: {}", self.message),
        }
    }
}

/// A problem with the file's text.
#[derive(Debug)]
struct Shown<'a> {
    problem: &'a Problem,
    file: &'a str,
    masked: &'a str,
}

impl Shown<'_> {
    /// The range of the text to show: the line of the problem without its end, cut to [`AROUND`] bytes on both sides.
    fn line(&self) -> Range<usize> {
        let at = self.problem.span.start;
        let start = self.masked[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let end = start + self.masked[start..].lines().next().map_or(0, str::len);
        let (from, to) = (at.saturating_sub(AROUND), at + AROUND);
        start.max(self.masked.ceil_char_boundary(from))..end.min(self.masked.floor_char_boundary(to))
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.problem, f)
    }
}

impl std::error::Error for Shown<'_> {}

impl Diagnostic for Shown<'_> {
    fn severity(&self) -> Option<MietteSeverity> {
        Some(match self.problem.severity {
            Severity::Error => MietteSeverity::Error,
            Severity::Warning => MietteSeverity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.problem.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(self)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let (line, span) = (self.line(), &self.problem.span);
        let label = LabeledSpan::new_with_span(None, span.start..span.end.min(line.end).max(span.start));
        // There is nothing to point at on an empty line.
        (!line.is_empty()).then(|| Box::new(std::iter::once(label)) as Box<dyn Iterator<Item = LabeledSpan>>)
    }
}

/// Shows exactly the problem's line, with no context.
impl SourceCode for Shown<'_> {
    fn read_span<'a>(
        &'a self,
        _: &SourceSpan,
        _: usize,
        _: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let line = self.line();
        let (number, column) = (self.problem.line - 1, self.problem.column - 1);
        let text = self.masked[line.clone()].as_bytes();
        let contents = MietteSpanContents::new_named(self.file.to_owned(), text, line.into(), number, column, 1);
        Ok(Box::new(contents))
    }
}

/// Why a configuration cannot be loaded.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError {
    /// The file does not exist.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// The file cannot be read.
    #[error("{} cannot be read: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Whether the permission is missing.
        denied: bool,
        /// The system's error.
        why: String,
    },
    /// The file is no text, or too large.
    #[error("{} is no configuration: {why}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// The configuration is at odds with what the relays on its journal share.
    #[error("{}: {why}", path.display())]
    Apart {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// The configuration has errors.
    #[error(transparent)]
    Invalid(#[from] Problems),
}

impl LoadError {
    pub(super) fn reading(path: &Path, error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::NotFound => Self::Missing(path.to_owned()),
            kind => Self::Unreadable {
                path: path.to_owned(),
                denied: kind == std::io::ErrorKind::PermissionDenied,
                why: error.to_string(),
            },
        }
    }

    /// Whether the file does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing(_))
    }

    /// Whether the permission to read it is missing.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Unreadable { denied: true, .. })
    }

    /// Whether the file was read and its content is invalid.
    pub fn is_invalid(&self) -> bool {
        matches!(self, Self::Invalid(_) | Self::Unfit { .. })
    }

    /// The problems of its content; `None` for any other error.
    pub fn problems(&self) -> Option<&Problems> {
        match self {
            Self::Invalid(problems) => Some(problems),
            _ => None,
        }
    }

    /// The whole message in the given form.
    pub fn render(&self, form: Form) -> String {
        match self {
            Self::Invalid(problems) => problems.render(form),
            other => other.to_string(),
        }
    }
}

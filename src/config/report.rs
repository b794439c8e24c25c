//! Collects the problems of a file while it is read, to report them all at once.
//!
//! Rule: one problem for one place. A value that is missing only because of another error is not reported again.

use std::ops::Range;

use super::diagnostics::{Problem, Problems, Severity};
use super::mask;
use super::tree::{Path, Segment, Tree};

/// The problems found so far, with the file as written to find their places.
#[derive(Debug)]
pub(super) struct Report<'t> {
    text: &'t str,
    written: Tree<'t>,
    found: Vec<(Path, Problem)>,
    /// The elements taken out of arrays. The paths that callers pass are those of the tree without them.
    removed: Vec<Path>,
}

impl<'t> Report<'t> {
    /// An empty report on `text`, which was parsed to `written`.
    pub(super) fn new(text: &'t str, written: Tree<'t>) -> Self {
        Self { text, written, found: vec![], removed: vec![] }
    }

    /// Reports an error of the value at `path`, or of its absence.
    pub(super) fn error(&mut self, path: &Path, message: impl Into<String>, help: Option<String>) {
        let path = self.as_written(path);
        let span = self.written.span(&path);
        self.add(Severity::Error, path, span, message.into(), help);
    }

    /// Reports an error of the key at `path`.
    pub(super) fn error_at_key(&mut self, path: &Path, message: impl Into<String>, help: Option<String>) {
        let path = self.as_written(path);
        let span = self.written.key_span(&path);
        self.add(Severity::Error, path, span, message.into(), help);
    }

    /// Reports a warning about the value at `path`.
    pub(super) fn warning(&mut self, path: &Path, message: impl Into<String>, help: Option<String>) {
        let path = self.as_written(path);
        let span = self.written.span(&path);
        self.add(Severity::Warning, path, span, message.into(), help);
    }

    /// Reports a syntax error, unless its line has a problem already.
    pub(super) fn syntax(&mut self, span: Range<usize>, message: &str) {
        let line = self.line_of(span.start);
        if self.found.iter().all(|(_, problem)| problem.line != line) {
            self.push(Severity::Error, Path::default(), span, message.to_owned(), None);
        }
    }

    /// Records that the value at `path` was taken out of the tree.
    pub(super) fn removed(&mut self, path: &Path) {
        let path = self.as_written(path);
        if matches!(path.split_last(), Some((Segment::Index(_), _))) {
            self.removed.push(path);
            self.removed.sort_by_key(|path| match path.split_last() {
                Some((Segment::Index(index), _)) => *index,
                _ => 0,
            });
        }
    }

    /// Whether the file has a value at `path`, valid or not.
    pub(super) fn has(&self, path: &Path) -> bool {
        self.written.value(&self.as_written(path)).is_some()
    }

    /// Whether the value at `path` has a header of its own in double brackets.
    pub(super) fn is_in_double_brackets(&self, path: &Path) -> bool {
        self.text[self.sound(self.written.span(&self.as_written(path)))].starts_with("[[")
    }

    /// The text at `path` as written, before `${…}` was followed.
    pub(super) fn quote(&self, path: &Path) -> &str {
        self.written.string(&self.as_written(path)).unwrap_or_default()
    }

    /// The keys of the table at `path`, valid or not.
    pub(super) fn keys(&self, path: &Path) -> Vec<String> {
        self.written.keys(&self.as_written(path))
    }

    /// Whether an error at `path`, below or above it was reported.
    pub(super) fn knows_about(&self, path: &Path) -> bool {
        let path = self.as_written(path);
        let mut errors = self.found.iter().filter(|(_, problem)| problem.severity == Severity::Error);
        errors.any(|(known, _)| known.contains(&path) || path.contains(known))
    }

    /// Whether an error was reported.
    pub(super) fn has_errors(&self) -> bool {
        self.found.iter().any(|(_, problem)| problem.severity == Severity::Error)
    }

    /// All problems, with `file` as the file's name.
    pub(super) fn finish(self, file: &str) -> Problems {
        let masked = mask::source(self.text, &self.written);
        Problems::new(file, masked, self.found.into_iter().map(|(_, problem)| problem).collect())
    }

    fn add(&mut self, severity: Severity, path: Path, span: Range<usize>, message: String, help: Option<String>) {
        // A problem of the file as a whole hides no other.
        let known = self.found.iter().any(|(known, _)| !known.segments().is_empty() && known.contains(&path));
        if !known {
            self.push(severity, path, span, message, help);
        }
    }

    fn push(&mut self, severity: Severity, path: Path, span: Range<usize>, message: String, help: Option<String>) {
        let span = self.sound(span);
        let line_start = self.text[..span.start].rfind('\n').map_or(0, |newline| newline + 1);
        let problem = Problem {
            severity,
            path: fit_to_show(&path.to_string()),
            line: self.line_of(span.start),
            column: self.text[line_start..span.start].chars().count() + 1,
            span,
            message: fit_to_show(&message),
            help: help.map(|help| fit_to_show(&help)),
        };
        self.found.push((path, problem));
    }

    /// The span clamped to the text and to character boundaries, and cut to its first line.
    fn sound(&self, span: Range<usize>) -> Range<usize> {
        let within = |position: usize| {
            let position = position.min(self.text.len());
            (0..=position).rev().find(|at| self.text.is_char_boundary(*at)).unwrap_or(0)
        };
        let (start, end) = (within(span.start), within(span.end.max(span.start)));
        let line = self.text[start..end].lines().next().unwrap_or_default();
        start..start + line.len()
    }

    fn line_of(&self, position: usize) -> usize {
        let before = &self.text.as_bytes()[..position.min(self.text.len())];
        memchr::memchr_iter(b'\n', before).count() + 1
    }

    /// Converts a path of the tree to one of the file as written.
    fn as_written(&self, path: &Path) -> Path {
        let mut written = Path::default();
        for segment in path.segments() {
            written = match segment {
                Segment::Key(key) => written.key(key),
                Segment::Index(index) => {
                    let gone = self.removed.iter().filter_map(|removed| match removed.split_last() {
                        Some((Segment::Index(gone), parent)) if parent == written => Some(*gone),
                        _ => None,
                    });
                    let index = gone.fold(*index, |index, gone| if gone <= index { index + 1 } else { index });
                    written.index(index)
                }
            };
        }
        written
    }
}

/// The text in one line, without secrets and control characters.
fn fit_to_show(text: &str) -> String {
    mask::message(text).replace(char::is_control, " ")
}

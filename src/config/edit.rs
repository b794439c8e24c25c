//! Changes the primary in the file, for `switchyard switch`.
//!
//! Rule: every other byte stays, with comments, order and line ends, and the file is never half written. The new text is written to a file
//! beside the old one, flushed to disk and renamed over it. A file that is itself a mount point cannot be renamed over: it is overwritten
//! in place. A symbolic link stays one; its target is changed.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use toml_edit::Document;

/// Why the primary was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The file does not exist.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// The file cannot be read, or its folder cannot be written.
    #[error("{} cannot be {what}: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The step that failed.
        what: &'static str,
        /// The system's error.
        error: io::Error,
    },
    /// The file is not valid TOML.
    #[error("{}:{line} is not valid; `switchyard check` says what is wrong", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The line of the first error, from 1.
        line: usize,
    },
    /// The file has no upstream of that name.
    #[error("there is no upstream {name:?}; there {}", listed(.known))]
    Unknown {
        /// The name that was given.
        name: String,
        /// The upstreams of the file.
        known: Vec<String>,
    },
}

impl EditError {
    /// Whether the file does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing(_))
    }

    /// Whether a permission is missing.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Io { error, .. } if error.kind() == ErrorKind::PermissionDenied)
    }

    /// Whether the file or its folder cannot be written.
    pub fn is_unwritable(&self) -> bool {
        let kinds = [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem];
        matches!(self, Self::Io { what, error, .. } if *what != "read" && kinds.contains(&error.kind()))
    }

    /// Whether no upstream has the name.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }

    fn io(path: &Path, what: &'static str, error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound if what == "read" => Self::Missing(path.to_owned()),
            _ => Self::Io { path: path.to_owned(), what, error },
        }
    }
}

fn listed(known: &[String]) -> String {
    match known {
        [] => "is none in the file".to_owned(),
        [one] => format!("is {one}"),
        many => format!("are {}", many.join(", ")),
    }
}

/// The text of the file at `path`, and the text with `name` as the primary.
///
/// # Errors
///
/// As [`set_primary`].
pub fn proposal(path: &Path, name: &str) -> Result<(String, String), EditError> {
    let text = read(path)?;
    let (_, changed) = propose(path, &text, name)?;
    Ok((text, changed))
}

/// Makes `name` the primary in the file at `path`. Returns the primary before, or `None` when the file named none. A file that names it
/// already is not touched.
///
/// # Errors
///
/// When the file cannot be read, written or parsed, and when it has no such upstream.
pub fn set_primary(path: &Path, name: &str) -> Result<Option<String>, EditError> {
    let target = std::fs::canonicalize(path).map_err(|error| EditError::io(path, "read", error))?;
    let text = read(path)?;
    let (old, changed) = propose(path, &text, name)?;
    if changed != text {
        replace(&target, changed.as_bytes())?;
    }
    Ok(old)
}

/// Makes `before` the primary again in the file at `path`, if it still names `name`.
///
/// # Errors
///
/// As [`set_primary`].
pub fn take_back(path: &Path, name: &str, before: &str) -> Result<(), EditError> {
    let (primary, _) = propose(path, &read(path)?, before)?;
    if primary.as_deref() == Some(name) { set_primary(path, before).map(drop) } else { Ok(()) }
}

/// Restores the file at `path` to `text`, from which `name` was made the primary. If somebody has changed the file since, only the line
/// `primary` is restored.
///
/// # Errors
///
/// As [`set_primary`].
pub fn put_back(path: &Path, text: &str, name: &str) -> Result<(), EditError> {
    let target = std::fs::canonicalize(path).map_err(|error| EditError::io(path, "read", error))?;
    let (before, changed) = propose(path, text, name)?;
    match before {
        _ if read(path)? == changed => replace(&target, text.as_bytes()),
        Some(before) => take_back(path, name, &before),
        None => Ok(()),
    }
}

fn read(path: &Path) -> Result<String, EditError> {
    let content = std::fs::read(path).map_err(|error| EditError::io(path, "read", error))?;
    String::from_utf8(content).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        EditError::Broken { path: path.to_owned(), line: line_at(before) }
    })
}

fn propose(path: &Path, text: &str, name: &str) -> Result<(Option<String>, String), EditError> {
    with_primary(text, name).map_err(|refusal| match refusal {
        Refusal::Broken { line } => EditError::Broken { path: path.to_owned(), line },
        Refusal::Unknown { known } => EditError::Unknown { name: name.to_owned(), known },
    })
}

enum Refusal {
    Broken { line: usize },
    Unknown { known: Vec<String> },
}

/// The old primary, and the text with `name` as the primary.
fn with_primary(text: &str, name: &str) -> Result<(Option<String>, String), Refusal> {
    let document = Document::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        Refusal::Broken { line: line_at(&text.as_bytes()[..at]) }
    })?;
    let upstreams = document.get("upstreams").and_then(|item| item.as_table_like());
    let known: Vec<_> = upstreams.into_iter().flat_map(|table| table.iter()).map(|(key, _)| key.to_owned()).collect();
    if !known.iter().any(|known| known == name) {
        return Err(Refusal::Unknown { known });
    }
    let old = document.get("primary");
    if old.and_then(|item| item.as_str()) == Some(name) {
        return Ok((Some(name.to_owned()), text.to_owned()));
    }
    let changed = match old.and_then(|item| item.span()) {
        Some(span) => {
            let quote = if text[span.clone()].starts_with('\'') { '\'' } else { '"' };
            format!("{}{quote}{name}{quote}{}", &text[..span.start], &text[span.end..])
        }
        None => {
            let start = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
            let newline = if text.split_inclusive('\n').next().is_some_and(|line| line.ends_with("\r\n")) {
                "\r\n"
            } else {
                "\n"
            };
            format!("{}primary = \"{name}\"{newline}{}", &text[..start], &text[start..])
        }
    };
    Ok((old.and_then(|item| item.as_str()).map(str::to_owned), changed))
}

fn line_at(before: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', before).count() + 1
}

/// Replaces the file at `target`, which is no symbolic link.
fn replace(target: &Path, content: &[u8]) -> Result<(), EditError> {
    let folder = target.parent().unwrap_or(Path::new("/"));
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}.new", std::process::id()));
    let result = write_beside(target, &temporary, content)
        .map_err(|error| EditError::io(folder, "written", error))
        .and_then(|()| match std::fs::rename(&temporary, target) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                overwrite(target, content).map_err(|error| EditError::io(target, "written", error))
            }
            other => other.map_err(|error| EditError::io(target, "replaced", error)),
        });
    if temporary.exists() {
        // After a success the file was renamed away; after a failure it is of no use.
        drop(std::fs::remove_file(&temporary));
    }
    result?;
    // The rename is done; flushing the folder makes it survive a loss of power.
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| EditError::io(folder, "flushed", error))
}

fn write_beside(target: &Path, temporary: &Path, content: &[u8]) -> io::Result<()> {
    let like = std::fs::metadata(target)?;
    match std::fs::remove_file(temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The file holds keys: nobody else may read it before it has the owner and mode of the old file.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
    file.write_all(content)?;
    let made = file.metadata()?;
    if (made.uid(), made.gid()) != (like.uid(), like.gid()) {
        // Only root may change the owner. For others the file becomes theirs, with the old group if they belong to it.
        if std::os::unix::fs::fchown(&file, Some(like.uid()), Some(like.gid())).is_err() {
            drop(std::os::unix::fs::fchown(&file, None, Some(like.gid())));
        }
    }
    file.set_permissions(like.permissions())?;
    file.sync_all()
}

fn overwrite(target: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(target)?;
    file.write_all(content)?;
    file.set_len(content.len() as u64)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    const FILE: &str = "# ours\r\nprimary   =  'sentry'  # flip me\n\n[ upstreams . sentry ]\n[upstreams.'glitchtip']\n\tkind=\"glitchtip\"";

    fn changed(text: &str, name: &str) -> (Option<String>, String) {
        with_primary(text, name).unwrap_or_else(|_| panic!("refused: {text}"))
    }

    #[test]
    fn only_the_name_changes() {
        let (old, text) = changed(FILE, "glitchtip");
        assert_eq!(old.as_deref(), Some("sentry"));
        assert_eq!(text, FILE.replace("'sentry'", "'glitchtip'"));
    }

    #[test]
    fn a_missing_primary_is_added_at_the_top_with_the_files_line_ends() {
        assert_eq!(changed("[upstreams.a]\n", "a"), (None, "primary = \"a\"\n[upstreams.a]\n".into()));
        assert_eq!(changed("# x\r\n[upstreams.a]", "a").1, "primary = \"a\"\r\n# x\r\n[upstreams.a]");
        assert_eq!(changed("\u{feff}[upstreams.a]", "a").1, "\u{feff}primary = \"a\"\n[upstreams.a]");
    }

    #[test]
    fn a_changed_file_keeps_its_mode_and_a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("real.toml"), folder.path().join("config.toml"));
        std::fs::write(&file, FILE).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("real.toml", &link).unwrap();
        assert_eq!(set_primary(&link, "glitchtip").unwrap().as_deref(), Some("sentry"));
        assert!(link.is_symlink());
        assert!(std::fs::read_to_string(&file).unwrap().contains("'glitchtip'  # flip me"));
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_primary_that_is_set_already_leaves_the_file_untouched() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, FILE).unwrap();
        let before = std::fs::metadata(&file).unwrap().ino();
        assert_eq!(set_primary(&file, "sentry").unwrap().as_deref(), Some("sentry"));
        assert_eq!(std::fs::metadata(&file).unwrap().ino(), before);
    }

    #[test]
    fn refusals_say_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        assert!(set_primary(&file, "sentry").unwrap_err().is_missing());
        std::fs::write(&file, FILE).unwrap();
        let unknown = set_primary(&file, "bugsink").unwrap_err();
        assert!(unknown.is_unknown());
        assert_eq!(unknown.to_string(), "there is no upstream \"bugsink\"; there are sentry, glitchtip");
        std::fs::write(&file, "a = 1\nb = \"hunter2").unwrap();
        let broken = set_primary(&file, "sentry").unwrap_err().to_string();
        assert!(broken.contains(":2 is not valid") && !broken.contains("hunter2"), "{broken}");
    }

    proptest! {
        #[test]
        fn all_bytes_around_the_primarys_name_stay(
            before in "(#[ -~é]{0,12}\r?\n|\n| |\t){0,4}",
            space in "[ \t]{0,3}",
            after in "(#[ -~é]{0,12}\r?\n|\n| ){0,4}",
        ) {
            let text = format!("{before}primary{space}={space}\"a\"{space}# c\n{after}\n[upstreams.a]\n[upstreams.b]\n{after}");
            if let Ok((old, changed)) = with_primary(&text, "b") {
                prop_assert_eq!(old.as_deref(), Some("a"));
                prop_assert_eq!(changed.replacen("\"b\"", "\"a\"", 1), text);
            }
        }
    }
}

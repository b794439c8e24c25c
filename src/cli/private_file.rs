//! Files with secrets, which nobody else may read. A link at their place is never followed.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::protocol::event_id::EventId;

use super::failure::{Exit, Failure};

/// Writes a file of mode 0600. An existing file or link stays and is an error; with `force` the new file replaces it.
pub(super) fn write(path: &Path, content: &[u8], force: bool) -> Result<(), Failure> {
    let written = if force { replace(path, content) } else { create(path, content).map(drop) };
    written.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => taken(path),
        _ => Failure::file(path, "created", &error),
    })
}

/// Whether [`write`] would succeed, as far as is known: checked before a person is asked for the content.
pub(super) fn check(path: &Path, force: bool) -> Result<(), Failure> {
    match path.symlink_metadata() {
        Ok(_) if !force => Err(taken(path)),
        _ => Ok(()),
    }
}

fn taken(path: &Path) -> Failure {
    Failure::new(Exit::CannotCreate, format!("{} is there already; --force replaces it", path.display()))
}

/// Creates a folder of mode 0700, unless it exists.
pub(super) fn folder(path: &Path) -> Result<(), Failure> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| Failure::file(path, "created", &error))
}

/// Creates a file. A new file never follows a link.
fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Replaces a file by renaming. A link is replaced, and its target stays.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = folder.join(format!(".{}.new", EventId::random()));
    let written = create(&beside, content).and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        // The file is of no use after a failure.
        drop(std::fs::remove_file(&beside));
    }
    written?;
    File::open(folder)?.sync_all()
}

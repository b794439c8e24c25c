//! Files that nobody else may read: what is in them is secret, and a link at their place is never followed.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::protocol::event_id::EventId;

use super::failure::{Exit, Failure};

/// Writes a file of mode 0600. What is there already, a link too, stays as it is; with `force` the new file takes its place.
pub(super) fn write(path: &Path, content: &[u8], force: bool) -> Result<(), Failure> {
    let written = if force { replace(path, content) } else { create(path, content).map(drop) };
    written.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => taken(path),
        _ => Failure::file(path, "created", &error),
    })
}

/// Whether [`write`] would leave what is there as it is: told before somebody is asked for what goes into the file.
pub(super) fn check(path: &Path, force: bool) -> Result<(), Failure> {
    match path.symlink_metadata() {
        Ok(_) if !force => Err(taken(path)),
        _ => Ok(()),
    }
}

fn taken(path: &Path) -> Failure {
    Failure::new(Exit::CannotCreate, format!("{} is there already; --force replaces it", path.display()))
}

/// Makes a folder of mode 0700, unless it is there.
pub(super) fn folder(path: &Path) -> Result<(), Failure> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| Failure::file(path, "created", &error))
}

/// A new file never follows a link.
fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// A rename takes the place of a link, and leaves alone what the link leads to.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = folder.join(format!(".{}.new", EventId::random()));
    let written = create(&beside, content).and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        // What is left of a failure tells nobody anything.
        drop(std::fs::remove_file(&beside));
    }
    written?;
    File::open(folder)?.sync_all()
}

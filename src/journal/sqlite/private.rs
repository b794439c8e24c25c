//! The journal's files are for their owner alone: they hold every event, and whoever opens the lock can hold it.
//!
//! Rules: what we make is closed from the start, whatever the umask. What is found open is closed, and said once. A folder is closed
//! only where nothing but the journal is in it, for others may have a right to what lies beside it.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The mode of the files that we make.
pub(super) const FILE: u32 = 0o600;
/// The mode of the folders that we make.
const FOLDER: u32 = 0o700;
/// What anybody but the owner may do.
const OTHERS: u32 = 0o077;
/// In a folder with this bit many users have files, as in `/tmp`.
const STICKY: u32 = 0o1000;
/// What the names of the journal's files end with, after the name of the database.
const ENDINGS: [&str; 5] = ["", "-wal", "-shm", ".lock", BODIES];
/// The same of the folder of large bodies.
pub(super) const BODIES: &str = "-bodies";

/// A file whose name is the database's with this ending.
pub(super) fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Makes a folder, and those above it, as far as they are missing, so that a loss of power leaves them there.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
    let missing: Vec<&Path> = folder.ancestors().take_while(is_missing).collect();
    DirBuilder::new().recursive(true).mode(FOLDER).create(folder)?;
    for parent in missing.iter().filter_map(|made| made.parent()) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match File::open(parent).and_then(|parent| parent.sync_all()) {
            // Who may make a folder there may not always read it, and some file systems sync no folder.
            Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput) => {}
            synced => synced?,
        }
    }
    Ok(())
}

/// Closes to others what they may open of the journal at `path`, and says so. `path` is without links.
pub(super) fn close(path: &Path) {
    let files = ENDINGS.map(|ending| beside(path, ending));
    let folder = path.parent().filter(|folder| is_ours_alone(folder, path).unwrap_or(false)).map(Path::to_owned);
    let mut closed = vec![];
    for found in files.into_iter().chain(folder) {
        let Ok(meta) = fs::symlink_metadata(&found) else { continue };
        if meta.is_symlink() || meta.mode() & OTHERS == 0 {
            continue;
        }
        let message = "others on this machine can read a part of the journal, and it cannot be closed to them";
        match fs::set_permissions(
            &found,
            Permissions::from_mode(meta.mode() & if meta.is_dir() { FOLDER } else { FILE }),
        ) {
            Ok(()) => closed.push(describe(&found, &meta)),
            Err(error) => tracing::warn!(%error, path = %found.display(), "{message}"),
        }
    }
    if !closed.is_empty() {
        let message = "others on this machine could read the journal: it is closed to them now";
        tracing::warn!(path = %path.display(), closed = closed.join(", "), "{message}");
    }
}

/// Whether a folder belongs to us and has nothing in it but the journal. A folder directly below the root never counts.
fn is_ours_alone(folder: &Path, journal: &Path) -> io::Result<bool> {
    let meta = fs::metadata(folder)?;
    let is_own = meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & STICKY == 0;
    if !is_own || folder.ancestors().count() < 3 {
        return Ok(false);
    }
    let name = journal.file_name().unwrap_or_default().as_bytes();
    for entry in fs::read_dir(folder)? {
        if !entry?.file_name().as_bytes().starts_with(name) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn describe(path: &Path, meta: &Metadata) -> String {
    let name = path.file_name().unwrap_or(OsStr::new("the folder"));
    format!("{} ({:04o})", name.display(), meta.mode() & 0o7777)
}

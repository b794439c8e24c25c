//! The journal's files are private to their owner: they hold every event, and anyone who can open the lock can hold it.
//!
//! Rules: the files that we make are private from the start, whatever the umask. Files that are found open to others are closed, and this
//! is logged once. A folder is closed only if nothing but the journal is in it, because others may have a right to its other files.

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
/// The permissions of everybody but the owner.
const OTHERS: u32 = 0o077;
/// The sticky bit: many users have files in a folder with it, as in `/tmp`.
const STICKY: u32 = 0o1000;
/// The suffixes of the journal's files, after the name of the database.
const ENDINGS: [&str; 5] = ["", "-wal", "-shm", ".lock", BODIES];
/// The suffix of the folder of large bodies.
pub(super) const BODIES: &str = "-bodies";

/// A file whose name is the database's with this ending.
pub(super) fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Makes a folder and its missing parents, so that they survive a loss of power.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
    let missing: Vec<&Path> = folder.ancestors().take_while(is_missing).collect();
    DirBuilder::new().recursive(true).mode(FOLDER).create(folder)?;
    for parent in missing.iter().filter_map(|made| made.parent()) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match File::open(parent).and_then(|parent| parent.sync_all()) {
            // A folder that we may write to may not be readable, and some file systems sync no folder.
            Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput) => {}
            synced => synced?,
        }
    }
    Ok(())
}

/// Takes the permissions of others off the files of the journal at `path`, and logs it. `path` is without links.
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

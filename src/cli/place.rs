//! Explains why a file cannot be opened, as far as the file system tells: the folder, the user, and how to mend it.

use std::path::{Path, absolute};

use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::process::geteuid;

/// The explanation for the file at `place`; `None` if its folder and the file itself are accessible.
pub(super) fn trouble(place: &Path) -> Option<String> {
    let place = absolute(place).ok()?;
    let folder = place.parent()?;
    let found = folder.ancestors().find(|folder| !matches!(folder.try_exists(), Ok(false)))?;
    let (user, lies, told) = (user(), found.display(), folder.display());
    if found.try_exists().is_err() {
        return Some(format!("user {user} may not look into the folders above {lies}"));
    }
    if !found.is_dir() {
        return Some(format!("{lies} is a file, and a folder is needed there: move it away, or set [journal] path"));
    }
    if found != folder {
        let own = format!("`install -d -o {user} -m 700 {told}`");
        return Some(format!("the folder {told} is not there, and user {user} cannot make it: {own} makes it"));
    }
    let of_its_own = "set [journal] path to a folder of its own";
    match access(folder, Access::WRITE_OK | Access::EXEC_OK) {
        Err(Errno::ROFS) => return Some(format!("the folder {told} cannot be written here by anybody: {of_its_own}")),
        Err(_) => return Some(format!("user {user} may not write in the folder {told}: {of_its_own}")),
        Ok(()) => {}
    }
    let is_shut = place.is_file() && access(&place, Access::READ_OK | Access::WRITE_OK).is_err();
    is_shut
        .then(|| format!("user {user} may not write {0}: `chown {user} {0}*` gives it to that user", place.display()))
}

/// The name of the user that this process runs as, or the user's number if it has no name.
fn user() -> String {
    let id = geteuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut lines = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let own = lines.find(|fields| fields.get(2) == Some(&&*id));
    own.and_then(|fields| fields.first().map(|name| (*name).to_owned())).unwrap_or(id)
}

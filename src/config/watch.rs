//! Notices changes of the configuration file's content.
//!
//! The system's notifications are quick, and a look at the content twice a second makes sure: editors replace files, mounts and symbolic
//! links change where a path leads, and some file systems send no notifications. Rule: only the content decides. Content that is read while
//! a file is being written is not reported. A file that is gone, cannot be read, is larger than 1 MiB or is no regular file is reported as
//! a broken one. A pipe that was the configuration from the start can be read only once, and is not read again.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use inotify::{EventStream, Inotify, WatchMask};
use rustix::fs::OFlags;
use tokio::time::Instant;

use crate::tasks;

use super::Fingerprint;
use super::load::LARGEST;

/// The pause between two looks without a notification.
const LOOK: Duration = Duration::from_millis(500);
/// How long the content must stay the same before it counts.
const STABLE: Duration = Duration::from_millis(20);
/// How long to wait for content to come to rest, and how long a file must be missing to count as gone: a replacement may take a moment.
const PATIENCE: Duration = Duration::from_millis(200);

/// The error of a pipe or a device, which is not read.
const NO_FILE: ErrorKind = ErrorKind::Unsupported;

/// The result of a look: the content's fingerprint, or why there is none.
type Found = Result<Fingerprint, ErrorKind>;

/// A watch over one file, which ends when it is dropped.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    seen: Found,
    /// `None` when the system sends no notifications.
    notices: Option<Notices>,
}

/// The system's notifications about the folders of the file and of its target.
struct Notices {
    events: EventStream<[u8; 4096]>,
    /// The names of the file and of its target in these folders.
    names: Vec<OsString>,
}

impl Watch {
    /// Watches the file at `path`. `seen` is the content that was loaded; a change since then is reported as well.
    pub fn new(path: &Path, seen: Fingerprint) -> Self {
        let seen = if is_pipe(path) { Err(NO_FILE) } else { Ok(seen) };
        Self { path: path.to_owned(), seen, notices: Notices::subscribe(path) }
    }

    /// Watches without notifications, by looks alone.
    #[cfg(test)]
    fn polling(path: &Path, seen: Fingerprint) -> Self {
        Self { path: path.to_owned(), seen: Ok(seen), notices: None }
    }

    /// Waits until the content differs from the last one. Cancelling the wait loses no change.
    pub async fn changed(&mut self) {
        loop {
            let told = tokio::select! {
                () = Notices::next(&mut self.notices) => true,
                () = tokio::time::sleep(LOOK) => false,
            };
            if content(&self.path).await == self.seen {
                continue;
            }
            let settled = self.settle().await;
            if !told {
                // The notifications missed the change: the path may lead to another folder by now.
                self.notices = self.notices.is_some().then(|| Notices::subscribe(&self.path)).flatten();
            }
            if settled != self.seen {
                self.seen = settled;
                return;
            }
        }
    }

    /// The content once it has come to rest, or the last one seen if it does not.
    async fn settle(&self) -> Found {
        let begun = Instant::now();
        let (mut last, mut since) = (content(&self.path).await, Instant::now());
        let rest = |found| if found == Err(ErrorKind::NotFound) { PATIENCE } else { STABLE };
        while since.elapsed() < rest(last) && begun.elapsed() < PATIENCE {
            tokio::time::sleep(STABLE / 4).await;
            let now = content(&self.path).await;
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        last
    }
}

async fn content(path: &Path) -> Found {
    let path = path.to_owned();
    tasks::blocking(move || {
        // A pipe cannot be read again, and a device may have no end.
        if is_pipe(&path) {
            return Err(NO_FILE);
        }
        let read = read(&path).map_err(|error| error.kind())?;
        if read.len() as u64 > LARGEST { Err(ErrorKind::FileTooLarge) } else { Ok(Fingerprint::of(&read)) }
    })
    .await
}

/// Reads a file up to one byte beyond the maximum size. It does not wait for the writer of a pipe that has just replaced the file.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = vec![];
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(nonblocking).open(path)?;
    file.take(LARGEST + 1).read_to_end(&mut content)?;
    Ok(content)
}

/// Whether the file at `path` is neither a regular file nor a folder, so that it can be read at most once.
pub fn is_pipe(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

impl Notices {
    /// Subscribes to notifications about the folder of the file and, if it is a symbolic link, about the folder of its target. Only events
    /// that end a change count: a journal in the same folder would otherwise wake the watch with each write.
    fn subscribe(path: &Path) -> Option<Self> {
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let names = [path, &target].iter().filter_map(|path| path.file_name()).map(Into::into).collect();
        let asked = Inotify::init().and_then(|inotify| {
            let finished = WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::CREATE;
            inotify.watches().add(folder(path), finished)?;
            inotify.watches().add(folder(&target), finished)?;
            inotify.into_event_stream([0; 4096])
        });
        match asked {
            Ok(events) => Some(Self { events, names }),
            Err(error) => {
                let path = path.display();
                let message =
                    "the system does not tell of changes to the configuration file; it is looked at twice a second";
                tracing::warn!(config.path = %path, %error, "{message}");
                None
            }
        }
    }

    /// Waits for a notification that concerns the file; never returns without notifications.
    async fn next(notices: &mut Option<Self>) {
        let Some(Self { events, names }) = notices else { return std::future::pending().await };
        while let Some(event) = events.next().await {
            // Mounted secrets and config maps are exchanged through links such as `..data`. An error may mean that notifications were lost,
            // which is a reason to look.
            let name = event.ok().and_then(|event| event.name);
            if name.is_none_or(|name| names.contains(&name) || name.to_string_lossy().starts_with("..")) {
                return;
            }
        }
        *notices = None;
    }
}

impl std::fmt::Debug for Notices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notices").field("names", &self.names).finish_non_exhaustive()
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn folder_with(content: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, content).unwrap();
        (folder, path)
    }

    async fn told(watch: &mut Watch) {
        tokio::time::timeout(SOON, watch.changed()).await.expect("the change is told");
    }

    #[tokio::test]
    async fn notifications_report_a_change_before_the_next_look() {
        let (_folder, path) = folder_with("a");
        let mut watch = Watch::new(&path, Fingerprint::of(b"a"));
        std::fs::write(&path, "b").unwrap();
        tokio::time::timeout(SOON, Notices::next(&mut watch.notices)).await.expect("the system tells");
        told(&mut watch).await;
    }

    #[tokio::test]
    async fn a_change_from_before_the_watch_is_reported() {
        let (_folder, path) = folder_with("b");
        told(&mut Watch::new(&path, Fingerprint::of(b"a"))).await;
    }

    #[tokio::test]
    async fn a_replaced_file_is_reported() {
        let (folder, path) = folder_with("a");
        let mut watch = Watch::new(&path, Fingerprint::of(b"a"));
        for content in ["b", "c"] {
            let beside = folder.path().join("beside");
            std::fs::write(&beside, content).unwrap();
            std::fs::rename(&beside, &path).unwrap();
            told(&mut watch).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_without_a_notification_is_found_within_a_second() {
        let (_folder, path) = folder_with("a");
        let mut watch = Watch::polling(&path, Fingerprint::of(b"a"));
        std::fs::write(&path, "b").unwrap();
        let saved = Instant::now();
        told(&mut watch).await;
        assert!(saved.elapsed() < Duration::from_secs(1), "{:?}", saved.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn writing_the_same_content_is_no_change() {
        let (_folder, path) = folder_with("a");
        let mut watch = Watch::polling(&path, Fingerprint::of(b"a"));
        std::fs::write(&path, "a").unwrap();
        assert!(tokio::time::timeout(5 * LOOK, watch.changed()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_file_is_reported_once_and_again_when_it_is_back() {
        let (folder, path) = folder_with("a");
        let mut watch = Watch::polling(&path, Fingerprint::of(b"a"));
        for content in ["a", "b"] {
            std::fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink(folder.path().join("nowhere"), &path).unwrap();
            told(&mut watch).await;
            assert!(tokio::time::timeout(5 * LOOK, watch.changed()).await.is_err());
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, content).unwrap();
            told(&mut watch).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_missing_during_its_replacement_is_not_reported_as_gone() {
        let (_folder, path) = folder_with("a");
        let mut watch = Watch::polling(&path, Fingerprint::of(b"a"));
        let replacing = async {
            tokio::time::sleep(LOOK - STABLE).await;
            std::fs::remove_file(&path).unwrap();
            tokio::time::sleep(PATIENCE / 2).await;
            std::fs::write(&path, "b").unwrap();
        };
        tokio::join!(replacing, watch.changed());
        assert_eq!(watch.seen, Ok(Fingerprint::of(b"b")));
    }

    #[tokio::test]
    async fn a_device_or_huge_file_is_reported_without_being_read_whole() {
        let (_folder, path) = folder_with("a");
        let mut watch = Watch::new(&path, Fingerprint::of(b"a"));
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        told(&mut watch).await;
        assert_eq!(watch.seen, Err(NO_FILE));
        std::fs::remove_file(&path).unwrap();
        File::create(&path).unwrap().set_len(1 << 30).unwrap();
        told(&mut watch).await;
        assert_eq!(watch.seen, Err(ErrorKind::FileTooLarge));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "a").unwrap();
        told(&mut watch).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_unreadable_file_is_reported_once_and_again_when_it_is_readable() {
        let (_folder, path) = folder_with("a");
        let mut watch = Watch::polling(&path, Fingerprint::of(b"a"));
        std::fs::remove_file(&path).unwrap();
        // Root cannot read a folder either.
        std::fs::create_dir(&path).unwrap();
        told(&mut watch).await;
        assert!(tokio::time::timeout(3 * LOOK, watch.changed()).await.is_err());
        std::fs::remove_dir(&path).unwrap();
        std::fs::write(&path, "a").unwrap();
        told(&mut watch).await;
    }

    #[tokio::test]
    async fn notifications_continue_after_the_file_was_gone() {
        let (_folder, path) = folder_with("a");
        let mut watch = Watch::new(&path, Fingerprint::of(b"a"));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "b").unwrap();
        told(&mut watch).await;
    }

    #[tokio::test]
    async fn exchanged_links_are_reported() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (version, content) in [("..one", "a"), ("..two", "b")] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("config.toml"), content).unwrap();
        }
        std::os::unix::fs::symlink("..one", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/config.toml", at("config.toml")).unwrap();
        let mut watch = Watch::new(&at("config.toml"), Fingerprint::of(b"a"));
        std::os::unix::fs::symlink("..two", at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
        told(&mut watch).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_written_file_is_not_reported() {
        let (_folder, path) = folder_with("whole");
        let mut watch = Watch::polling(&path, Fingerprint::of(b"whole"));
        let writing = async {
            tokio::time::sleep(LOOK - STABLE / 8).await;
            for part in ["", "w", "who", "whole again"] {
                std::fs::write(&path, part).unwrap();
                tokio::time::sleep(STABLE / 2).await;
            }
        };
        tokio::join!(writing, watch.changed());
        assert_eq!(watch.seen, Ok(Fingerprint::of(b"whole again")));
    }

    #[tokio::test]
    async fn a_pipe_in_place_of_a_file_and_its_successor_are_reported() {
        let (folder, path) = folder_with("a");
        let mut watch = Watch::new(&path, Fingerprint::of(b"a"));
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        std::fs::rename(&pipe, &path).unwrap();
        told(&mut watch).await;
        // A pipe that was the configuration from the start is no change. It is not opened, which would wait for a writer.
        let mut watch = Watch::new(&path, Fingerprint::of(b"a"));
        assert!(tokio::time::timeout(LOOK * 3, watch.changed()).await.is_err());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "b").unwrap();
        told(&mut watch).await;
    }
}

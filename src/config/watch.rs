//! Tells when the content of the configuration file changed.
//!
//! The system's notifications make it quick; a look at the content each second makes it certain: editors replace files, mounts and
//! symbolic links change where a path leads, and some file systems notify nobody. The rule: only the content decides. What is read
//! while a file is being written is not reported; a file that is gone changes nothing until it is back; one that is there and cannot
//! be read is reported as any broken one. A pipe, which can be read but once, counts as one that is gone.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use inotify::{EventStream, Inotify, WatchMask};
use tokio::time::Instant;

use crate::tasks;

use super::Fingerprint;

/// How often the content is looked at when nothing is notified.
const LOOK: Duration = Duration::from_secs(1);
/// How long the content must stay the same before it counts.
const STABLE: Duration = Duration::from_millis(20);
/// How long an unstable content is waited for.
const PATIENCE: Duration = Duration::from_millis(200);

/// What a look finds: a content, or why it cannot be read. `None` when there is no file.
type Found = Option<Result<Fingerprint, ErrorKind>>;

/// A watch over one file. Ends when dropped.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    seen: Result<Fingerprint, ErrorKind>,
    gone: bool,
    /// `None` when the system does not notify.
    notices: Option<Notices>,
}

/// The system's notifications about the folders that a file can be exchanged in.
struct Notices {
    events: EventStream<[u8; 4096]>,
    /// What the file is called there.
    names: Vec<OsString>,
}

impl Watch {
    /// Watches the file at `path`, whose content is known as `seen`: a change since then is reported too.
    pub fn new(path: &Path, seen: Fingerprint) -> Self {
        Self { path: path.to_owned(), seen: Ok(seen), gone: false, notices: Notices::subscribe(path) }
    }

    /// Without the system's notifications: the look each second alone.
    #[cfg(test)]
    fn polling(path: &Path, seen: Fingerprint) -> Self {
        Self { path: path.to_owned(), seen: Ok(seen), gone: false, notices: None }
    }

    /// Waits until the content is another one than last time. Nothing is lost when the wait is abandoned.
    pub async fn changed(&mut self) {
        loop {
            let told = tokio::select! {
                () = Notices::next(&mut self.notices) => true,
                () = tokio::time::sleep(LOOK) => false,
            };
            if !self.differs().await {
                continue;
            }
            let settled = self.settle().await;
            if !told {
                // The notifications have missed it: the folder they were asked for may be another one by now.
                self.notices = self.notices.is_some().then(|| Notices::subscribe(&self.path)).flatten();
            }
            if let Some(content) = settled.filter(|content| *content != self.seen) {
                self.seen = content;
                return;
            }
        }
    }

    /// Whether there is a content, and another one than last time.
    async fn differs(&mut self) -> bool {
        match content(&self.path).await {
            Some(content) => {
                if std::mem::take(&mut self.gone) {
                    tracing::info!(config.path = %self.path.display(), "the configuration file is back");
                }
                content != self.seen
            }
            None => {
                // A file that is being replaced may be missing for a moment.
                let gone = self.settle().await.is_none();
                if gone && !std::mem::replace(&mut self.gone, true) {
                    let path = self.path.display();
                    tracing::warn!(config.path = %path, "the configuration file is gone; what was loaded stays in force");
                }
                !gone
            }
        }
    }

    /// The content once it has stayed the same for a moment, or the last one when it does not come to rest.
    async fn settle(&self) -> Found {
        let begun = Instant::now();
        let (mut last, mut since) = (content(&self.path).await, Instant::now());
        while since.elapsed() < STABLE && begun.elapsed() < PATIENCE {
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
        // Who opens a pipe may wait for ever, and what was read from it is not there again.
        if is_pipe(&path) {
            return None;
        }
        match std::fs::read(&path) {
            Ok(content) => Some(Ok(Fingerprint::of(&content))),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => Some(Err(error.kind())),
        }
    })
    .await
}

/// Whether the file at `path` can be read at most once: it is neither a regular file nor a folder.
pub fn is_pipe(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

impl Notices {
    /// Asks for notifications about the folder of the file and, behind a symbolic link, about the folder it leads to. Only
    /// for what finishes a change: a journal in the same folder would otherwise wake us with each of its writes.
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
                    "the system does not tell of changes to the configuration file; it is looked at once a second";
                tracing::warn!(config.path = %path, %error, "{message}");
                None
            }
        }
    }

    /// Waits for a notification that concerns the file; for ever when there are none.
    async fn next(notices: &mut Option<Self>) {
        let Some(Self { events, names }) = notices else { return std::future::pending().await };
        while let Some(event) = events.next().await {
            // `..data` and its like are the links through which mounted secrets and config maps are exchanged. An error may
            // mean lost notifications, which is a reason to look.
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
    async fn a_changed_content_is_told_long_before_the_next_look() {
        let (_folder, path) = folder_with("a");
        let mut watch = Watch::new(&path, Fingerprint::of(b"a"));
        let saved = std::time::Instant::now();
        std::fs::write(&path, "b").unwrap();
        told(&mut watch).await;
        assert!(saved.elapsed() < LOOK, "{:?}", saved.elapsed());
    }

    #[tokio::test]
    async fn a_change_from_before_the_watch_began_is_told() {
        let (_folder, path) = folder_with("b");
        told(&mut Watch::new(&path, Fingerprint::of(b"a"))).await;
    }

    #[tokio::test]
    async fn a_replaced_file_is_told() {
        let (folder, path) = folder_with("a");
        let mut watch = Watch::new(&path, Fingerprint::of(b"a"));
        for content in ["b", "c"] {
            let beside = folder.path().join("beside");
            std::fs::write(&beside, content).unwrap();
            std::fs::rename(&beside, &path).unwrap();
            told(&mut watch).await;
        }
    }

    #[tokio::test]
    async fn without_notifications_the_look_each_second_finds_it() {
        let (_folder, path) = folder_with("a");
        let mut watch = Watch::polling(&path, Fingerprint::of(b"a"));
        std::fs::write(&path, "b").unwrap();
        told(&mut watch).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_content_again_is_no_change() {
        let (_folder, path) = folder_with("a");
        let mut watch = Watch::polling(&path, Fingerprint::of(b"a"));
        std::fs::write(&path, "a").unwrap();
        assert!(tokio::time::timeout(5 * LOOK, watch.changed()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_gone_changes_nothing_until_it_is_back() {
        let (_folder, path) = folder_with("a");
        let mut watch = Watch::polling(&path, Fingerprint::of(b"a"));
        for (content, tells) in [("a", false), ("b", true)] {
            std::fs::remove_file(&path).unwrap();
            assert!(tokio::time::timeout(5 * LOOK, watch.changed()).await.is_err());
            std::fs::write(&path, content).unwrap();
            assert_eq!(tokio::time::timeout(5 * LOOK, watch.changed()).await.is_ok(), tells);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_cannot_be_read_is_told_once_and_once_more_when_it_can() {
        let (_folder, path) = folder_with("a");
        let mut watch = Watch::polling(&path, Fingerprint::of(b"a"));
        std::fs::remove_file(&path).unwrap();
        // Which cannot be read by root either.
        std::fs::create_dir(&path).unwrap();
        told(&mut watch).await;
        assert!(tokio::time::timeout(3 * LOOK, watch.changed()).await.is_err());
        std::fs::remove_dir(&path).unwrap();
        std::fs::write(&path, "a").unwrap();
        told(&mut watch).await;
    }

    #[tokio::test]
    async fn notifications_go_on_after_the_file_was_gone() {
        let (_folder, path) = folder_with("a");
        let mut watch = Watch::new(&path, Fingerprint::of(b"a"));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "b").unwrap();
        told(&mut watch).await;
    }

    #[tokio::test]
    async fn exchanged_links_are_told() {
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
    async fn a_half_written_file_is_not_told() {
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
    async fn a_pipe_counts_as_gone_and_what_takes_its_place_is_told() {
        let (folder, path) = folder_with("a");
        let mut watch = Watch::new(&path, Fingerprint::of(b"a"));
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        std::fs::rename(&pipe, &path).unwrap();
        let looks = tokio::time::timeout(LOOK * 3, watch.changed()).await;
        assert!(looks.is_err() && watch.gone, "it is not opened, which would wait for a writer");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "b").unwrap();
        told(&mut watch).await;
    }
}

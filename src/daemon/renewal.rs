//! Renewals of the certificate: programs replace its files and tell nobody. They are looked at each second, and the configuration is
//! loaded again once they have come to rest, so that the certificate is never read without its key.

use std::path::Path;
use std::time::SystemTime;

use crate::config::Config;

use super::Daemon;

/// What tells one state of a file from another: when it was written, and its length.
type Look = Option<(SystemTime, u64)>;

/// The files of the certificate, as they were seen.
#[derive(Default)]
pub(super) struct Renewal {
    /// When the configuration was last loaded because of them.
    taken: [Look; 2],
    /// A second ago.
    last: [Look; 2],
}

impl Renewal {
    /// The files as they are now are those in force.
    pub(super) fn of(config: &Config) -> Self {
        let now = look(config);
        Self { taken: now, last: now }
    }

    /// Whether the files are others than before, and were so a second ago.
    fn is_due(&mut self, now: [Look; 2]) -> bool {
        let settled = std::mem::replace(&mut self.last, now) == now;
        settled && std::mem::replace(&mut self.taken, now) != now
    }
}

impl Daemon {
    /// Loads the configuration again when its certificate was renewed.
    pub(super) async fn follow_certificate(&mut self) {
        if self.renewal.is_due(look(&self.config)) {
            tracing::info!("the files of the certificate have changed");
            self.reload_as_asked().await;
        }
    }

    /// Loads the file for somebody who asked for it: the log says that it was done, though nothing in it has changed.
    pub(super) async fn reload_as_asked(&mut self) {
        self.seen = None;
        self.reload().await;
    }
}

fn look(config: &Config) -> [Look; 2] {
    let of = |path: &Path| std::fs::metadata(path).ok().and_then(|found| Some((found.modified().ok()?, found.len())));
    [&config.server.tls_cert, &config.server.tls_key].map(|path| path.as_deref().and_then(of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_once_they_have_come_to_rest_and_only_once() {
        let at = |seconds: u64| Some((SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds), 1));
        let mut renewal = Renewal { taken: [at(1), at(1)], last: [at(1), at(1)] };
        let looks = [
            [at(1), at(1)],
            [at(2), at(1)],
            [at(2), at(2)],
            [at(2), at(2)],
            [at(2), at(2)],
            [None, at(2)],
            [at(2), at(2)],
        ];
        let due: Vec<bool> = looks.into_iter().map(|look| renewal.is_due(look)).collect();
        assert_eq!(due, [false, false, false, true, false, false, false]);
    }
}

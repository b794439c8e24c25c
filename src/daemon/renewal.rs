//! Follows renewals of certificates: programs replace the files and notify nobody. The files are checked each second. Once they have come
//! to rest the configuration is loaded again, so that a certificate is never read without its key.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::config::Config;

use super::Daemon;

/// The state of a file: when it was modified, and its length; `None` if it cannot be read.
type Look = Option<(SystemTime, u64)>;

/// The files of certificates and keys, and their states.
#[derive(Default)]
pub(super) struct Renewal {
    /// The files.
    paths: Vec<PathBuf>,
    /// The states when the configuration was last loaded because of them.
    taken: Vec<Look>,
    /// The states a second ago.
    last: Vec<Look>,
}

impl Renewal {
    /// Takes the files in their present states as those in force.
    pub(super) fn of(config: &Config) -> Self {
        let now = look(config);
        Self { paths: paths(config), taken: now.clone(), last: now }
    }

    /// Follows a newly loaded configuration: if it names other files, those in their present states are in force.
    pub(super) fn follow(&mut self, config: &Config) {
        if paths(config) != self.paths {
            *self = Self::of(config);
        }
    }

    /// Whether the files have changed since they were last loaded, and not within the last second.
    fn is_due(&mut self, now: Vec<Look>) -> bool {
        let settled = self.last == now;
        self.last.clone_from(&now);
        settled && std::mem::replace(&mut self.taken, now) != self.last
    }
}

impl Daemon {
    /// Loads the configuration again after a certificate was renewed.
    pub(super) async fn follow_certificate(&mut self) {
        if self.renewal.is_due(look(&self.config)) {
            tracing::info!("the files of a certificate have changed");
            self.load_anew(false).await;
        }
    }

    /// Loads the file on request.
    pub(super) async fn reload_as_asked(&mut self) {
        self.load_anew(true).await;
    }

    /// Loads the file. The log reports it even if nothing has changed.
    async fn load_anew(&mut self, is_asked: bool) {
        self.seen = None;
        self.reload(is_asked).await;
    }
}

fn look(config: &Config) -> Vec<Look> {
    let of =
        |path: &PathBuf| std::fs::metadata(path).ok().and_then(|found| Some((found.modified().ok()?, found.len())));
    paths(config).iter().map(of).collect()
}

fn paths(config: &Config) -> Vec<PathBuf> {
    let server = [&config.server.tls_cert, &config.server.tls_key];
    let upstreams = config.upstreams.values();
    let upstreams = upstreams.flat_map(|own| [&own.tls_ca, &own.tls_client_cert, &own.tls_client_key]);
    server.into_iter().chain(upstreams).flatten().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_due_once_when_it_has_come_to_rest() {
        let at = |seconds: u64| Some((SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds), 1));
        let mut renewal = Renewal { taken: vec![at(1), at(1)], last: vec![at(1), at(1)], ..Renewal::default() };
        let looks = [
            [at(1), at(1)],
            [at(2), at(1)],
            [at(2), at(2)],
            [at(2), at(2)],
            [at(2), at(2)],
            [None, at(2)],
            [at(2), at(2)],
        ];
        let due: Vec<bool> = looks.into_iter().map(|look| renewal.is_due(look.to_vec())).collect();
        assert_eq!(due, [false, false, false, true, false, false, false]);
    }

    #[test]
    fn a_newly_named_file_does_not_count_as_changed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let own = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        std::fs::write(&file, own.cert.pem()).unwrap();
        let config = |line: &str| {
            let text = format!(
                "primary = \"a\"\n[upstreams.a]\n{line}\n[[projects]]\nname = \"shop\"\nid = \"1\"\npublic_key = \"k\"\n\
                 upstreams.a = \"http://k@h/1\"\n"
            );
            crate::config::parse("config.toml", &text, &|_| None).unwrap().config
        };
        let mut renewal = Renewal::of(&config(""));
        let named = config(&format!("tls_ca = {:?}", file.path()));
        renewal.follow(&named);
        assert!(!renewal.is_due(look(&named)) && !renewal.is_due(look(&named)));
        std::fs::write(&file, format!("{}\n", own.cert.pem())).unwrap();
        assert!(!renewal.is_due(look(&named)) && renewal.is_due(look(&named)), "one that is renewed has");
    }
}

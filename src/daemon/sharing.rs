//! The configuration of a relay that shares its journal: its own file, with the primary and the common part of all relays.
//!
//! Rules:
//!
//! - The database holds the primary and the common part. The first relay to start writes them.
//! - A file that differs is reported and changes nothing, with two exceptions. A change of its primary while the relay runs is a switch. A
//!   change of the common part at the leading relay is published, if its file equalled the common part before.
//! - A change takes effect as a whole or not at all. A relay does not use a change that it cannot take, and says why. It still follows
//!   switches.
//! - Without the database everything stays as it is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::config::common::Common;
use crate::config::diagnostics::{Form, LoadError};
use crate::config::{Config, Fingerprint, Loaded, diff, parse};
use crate::journal::plane::Plane;
use crate::journal::term::Epoch;
use crate::journal::{ControlPlane, JournalError};
use crate::tasks::Tasks;

use super::control::{Control, File};

/// The time between two retries.
const AGAIN: Duration = Duration::from_secs(2);

/// What relays on one journal share.
pub(super) struct Sharing {
    control_plane: Arc<dyn ControlPlane>,
    file: File,
    seen: Mutex<Seen>,
    /// Whether to load again: the database could not be told something, or the status does not yet show the file's problem.
    look_again: Arc<AtomicBool>,
}

/// What was loaded last.
#[derive(Clone)]
struct Seen {
    /// The file's last good content.
    loaded: Loaded,
    own: Own,
    /// The file's content that this relay cannot go over to, and why. It is tried again on request only.
    refused: Option<(Fingerprint, String)>,
    plane: Plane,
    /// The names in which the file differs from the common part, and whether the other relays were told.
    differs: Vec<String>,
    is_told: bool,
    /// The configuration in force at this relay.
    config: Config,
}

/// The file's values of what is shared.
#[derive(Clone, PartialEq, Eq)]
struct Own {
    primary: Arc<str>,
    common: Common,
}

impl Own {
    fn of(loaded: &Loaded) -> Self {
        Self { primary: Arc::clone(&loaded.config.primary), common: Common::of(loaded.text.expose()) }
    }
}

impl Sharing {
    /// Replaces the primary and the common part in `loaded` by those of all relays.
    pub(super) async fn begin(
        control_plane: Arc<dyn ControlPlane>,
        file: File,
        loaded: &mut Loaded,
    ) -> Result<Self, JournalError> {
        let own = Own::of(loaded);
        let mut plane = control_plane.plane(&own.primary, own.common.text()).await?;
        let differs = own.common.differing(&Common::from(plane.common.clone()));
        let of_file = loaded.clone();
        match made(of_file.clone(), &own, &plane) {
            Ok(made) => *loaded = made,
            Err(why) => {
                // The file's common part is used for now. The first load puts the reason into the status.
                tracing::error!("the common configuration of all relays cannot be used here:\n{why}");
                put_over(loaded, &plane).map_err(JournalError::Failed)?;
                plane.revision -= 1;
            }
        }
        let config = loaded.config.clone();
        let seen = Seen { loaded: of_file, own, refused: None, plane, differs: vec![], is_told: true, config };
        let sharing = Self { control_plane, file, seen: Mutex::new(seen), look_again: Arc::default() };
        sharing.tell(differs, false).await;
        Ok(sharing)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change of the file one of all relays, where that is allowed. Returns what is shared then, and why the change was refused, if
    /// it was.
    async fn follow(&self, loaded: &Loaded, own: &Own, is_asked: bool) -> Result<(Plane, Option<String>), String> {
        let Seen { own: before, config, .. } = self.seen().clone();
        let failed = |error: JournalError| format!("what all relays share cannot be changed now: {error}");
        let plane = self.control_plane.plane(&own.primary, own.common.text()).await.map_err(failed)?;
        let common = Common::from(plane.common.clone());
        // An edit of a file that differed before would revert what others published: that takes a request.
        let is_edit = own.common != before.common && before.common.differing(&common).is_empty();
        let is_meant = plane.common != own.common.text() && (is_asked || is_edit);
        let epoch = if is_meant { self.leads().await } else { None };
        let is_switch = own.primary != before.primary;
        if epoch.is_none() && !is_switch {
            return Ok((plane, None));
        }
        // A change that this relay cannot go over to is not shared.
        let mut wanted = plane.clone();
        if is_switch {
            wanted.primary = own.primary.to_string();
        }
        if epoch.is_some() {
            wanted.common = own.common.text().to_owned();
        }
        let path = self.file.path().display().to_string();
        let can_go = |made: Loaded| goes_over_to(&config, &made.config, (&path, loaded));
        if let Err(why) = made(loaded.clone(), own, &wanted).and_then(can_go) {
            return Ok((plane, Some(why)));
        }
        if let Some(epoch) = epoch {
            self.control_plane.publish(epoch, own.common.text()).await.map_err(failed)?;
            tracing::info!(changes = own.common.differing(&common).join(", "), "published to all relays");
        }
        if is_switch {
            self.control_plane.share_primary(&own.primary).await.map_err(failed)?;
        }
        let plane = self.control_plane.plane(&own.primary, own.common.text()).await.map_err(failed)?;
        Ok((plane, None))
    }

    /// Reports the names in which the file differs from the common part: when they are new in the log and to all relays, on request in the
    /// log.
    async fn tell(&self, differs: Vec<String>, is_asked: bool) {
        let (before, is_told) = {
            let mut seen = self.seen();
            (std::mem::replace(&mut seen.differs, differs.clone()), seen.is_told)
        };
        let is_new = before != differs;
        if is_new || (is_asked && !differs.is_empty()) {
            let (path, names) = (self.file.path().display(), differs.join(", "));
            match differs.as_slice() {
                [] => tracing::info!(config.path = %path, "the file is the common configuration of all relays"),
                _ => tracing::warn!(
                    config.path = %path,
                    differs = names,
                    "the file differs from the common configuration, which stays in force until the leading relay gets SIGHUP"
                ),
            }
        }
        if is_new || !is_told {
            let told = self.control_plane.note_differing(differs).await;
            self.seen().is_told = told.is_ok();
            self.look_again.fetch_or(told.is_err(), Ordering::AcqRel);
        }
    }

    /// Notes what was loaded. With `file` `None`, the last good content stays.
    fn note(
        &self,
        file: Option<(Loaded, Own)>,
        refused: Option<(Fingerprint, String)>,
        plane: Plane,
        made: Option<&Loaded>,
    ) {
        let mut seen = self.seen();
        if let Some((loaded, own)) = file {
            (seen.loaded, seen.own) = (loaded, own);
        }
        (seen.refused, seen.plane) = (refused, plane);
        if let Some(made) = made.filter(|made| goes_over(&seen.config, &made.config).is_ok()) {
            seen.config = made.config.clone();
        }
    }

    async fn load(&self, is_asked: bool) -> Result<Loaded, LoadError> {
        let unfit = |why: String| LoadError::Apart { path: self.file.path().to_owned(), why };
        let Seen { loaded: good, own: before, refused: known_refusal, plane: known, config, .. } = self.seen().clone();
        // The last good content stands in for a broken or refused file, so that switches are followed.
        let file = self.file.load(is_asked).await;
        let said = file.as_ref().map_or_else(|_| before.common.clone(), |file| Own::of(file).common);
        let (loaded, broken, kept) = match file {
            Ok(file) => match known_refusal.filter(|(of, _)| *of == file.fingerprint && !is_asked) {
                Some(kept) => (good.clone(), Some(unfit(kept.1.clone())), Some(kept)),
                None => (file, None, None),
            },
            Err(error) => (good.clone(), Some(error), None),
        };
        let own = Own::of(&loaded);
        self.look_again.store(false, Ordering::Release);
        let (plane, refused) = match self.follow(&loaded, &own, is_asked && broken.is_none()).await {
            Ok(followed) => followed,
            Err(_) if own == before && !is_asked => (known, None),
            Err(why) => {
                self.look_again.store(true, Ordering::Release);
                return Err(unfit(why));
            }
        };
        let mut outcome = if refused.is_none() { made(loaded.clone(), &own, &plane) } else { Err(String::new()) };
        let path = self.file.path().display().to_string();
        let can_go = |made: &Loaded| goes_over_to(&config, &made.config, (&path, &loaded));
        let fixed = outcome.as_ref().ok().and_then(|made| can_go(made).err());
        let unused = refused.clone().or(fixed);
        if unused.is_some() {
            outcome = made(good, &before, &plane);
        }
        let (outcome, kept) = (outcome.map_err(unfit), refused.map(|why| (loaded.fingerprint, why)).or(kept));
        let file = unused.is_none().then_some((loaded, own));
        self.note(file, kept, plane.clone(), outcome.as_ref().ok());
        self.tell(said.differing(&Common::from(plane.common)), is_asked).await;
        let is_usable = |made: &Loaded| made.config != config && goes_over(&config, &made.config).is_ok();
        match (broken.or(unused.map(unfit)), outcome) {
            (Some(broken), Ok(made)) if !is_usable(&made) => Err(broken),
            (broken, outcome) => {
                self.look_again.fetch_or(broken.is_some(), Ordering::AcqRel);
                outcome
            }
        }
    }
}

/// As [`goes_over`], to a configuration that was made of a file; the error has the places in the file.
pub(super) fn goes_over_to(before: &Config, after: &Config, file: (&str, &Loaded)) -> Result<(), String> {
    goes_over(before, after).map_err(|why| match diff::needs_restart(before, after).as_slice() {
        [] => why,
        fixed => file.1.problems_at(file.0, fixed, "a restart is needed to change this").render(Form::Plain),
    })
}

/// Whether a relay can go over from one configuration to the other; the error says why not.
pub(super) fn goes_over(before: &Config, after: &Config) -> Result<(), String> {
    let fixed = diff::needs_restart(before, after);
    if !fixed.is_empty() {
        return Err(format!("a restart is needed to change {}", fixed.join(", ")));
    }
    let moved = diff::moved_names(before, after);
    if moved.is_empty() { Ok(()) } else { Err(moved.join("\n")) }
}

/// Whether a configuration has the primary of all relays; the error says that it has not.
fn has_primary(config: &Config, plane: &Plane) -> Result<(), String> {
    let name = plane.primary.as_str();
    let why = || format!("{name} is the primary of all relays on this journal, and this file has no such upstream");
    if config.upstreams.contains_key(name) { Ok(()) } else { Err(why()) }
}

/// The configuration of a file with the primary and the common part of all relays.
fn made(mut loaded: Loaded, own: &Own, plane: &Plane) -> Result<Loaded, String> {
    if plane.common != own.common.text() {
        let text = Common::from(plane.common.clone()).put_into(loaded.text.expose());
        let variable = |name: &str| std::env::var(name).ok();
        loaded = parse("the common configuration", &text, &variable).map_err(|problems| problems.to_string())?;
    }
    put_over(&mut loaded, plane)?;
    Ok(loaded)
}

/// Replaces the primary by that of all relays.
fn put_over(loaded: &mut Loaded, plane: &Plane) -> Result<(), String> {
    let (config, name) = (&mut loaded.config, plane.primary.as_str());
    has_primary(config, plane)?;
    if *config.primary != *name {
        tracing::warn!(
            file = &*config.primary,
            primary = name,
            "the file names another primary than the database: the database's stays in force"
        );
    }
    config.primary = name.into();
    Ok(())
}

impl Control for Sharing {
    fn watch(&self, tasks: &Tasks) -> mpsc::Receiver<()> {
        let (tell, told) = mpsc::channel(1);
        let mut own = self.file.watch(tasks);
        let mut plane = self.control_plane.watch(self.seen().plane.revision);
        let (stop, files, retries) = (tasks.stopping().clone(), tell.clone(), tell.clone());
        tasks.spawn("the watch over the file", async move {
            while own.recv().await.is_some() && files.send(()).await.is_ok() {}
        });
        tasks.spawn("the watch over what relays share", async move {
            while stop.run_until_cancelled(plane.next()).await.flatten().is_some() && tell.send(()).await.is_ok() {}
        });
        let (stop, look_again) = (tasks.stopping().clone(), Arc::clone(&self.look_again));
        tasks.spawn("looking again at what relays share", async move {
            while stop.run_until_cancelled(sleep(AGAIN)).await.is_some() {
                if look_again.load(Ordering::Acquire) && retries.send(()).await.is_err() {
                    break;
                }
            }
        });
        let (set, replaced) = (tasks.clone(), self.control_plane.replaced().clone());
        tasks.spawn("the watch over the name", async move {
            if set.stopping().clone().run_until_cancelled(replaced.cancelled()).await.is_some() {
                set.fail(
                    "another relay has started under the name of this one: give each a journal.node of its own".into(),
                );
            }
        });
        told
    }

    fn load(&self, is_asked: bool) -> BoxFuture<'_, Result<Loaded, LoadError>> {
        self.load(is_asked).boxed()
    }

    fn set_primary(&self, name: &str) -> BoxFuture<'_, Result<Option<String>, String>> {
        let name = name.to_owned();
        async move {
            let shared = self.control_plane.share_primary(&name).await;
            shared.map_err(|error| format!("the primary of all relays cannot be changed: {error}"))
        }
        .boxed()
    }

    fn take_back(&self, name: &str, before: &str) -> BoxFuture<'_, Result<(), String>> {
        let (name, before) = (name.to_owned(), before.to_owned());
        async move {
            let taken = self.control_plane.take_back_primary(&name, &before).await;
            taken.map_err(|error| format!("the primary of all relays cannot be changed: {error}"))
        }
        .boxed()
    }

    fn made_primary(&self, name: &str) -> bool {
        let plane = &self.seen().plane;
        plane.is_ours && plane.primary == name
    }

    fn leads(&self) -> BoxFuture<'_, Option<Epoch>> {
        self.control_plane.leads()
    }
}

//! The control plane that nodes share. A node leads until it is gone; its term needs no renewal.

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio::sync::watch;

use super::*;
use crate::journal::plane::Plane;

/// The shared primary, the common part of the configuration, and the term.
#[derive(Debug, Default)]
pub(super) struct Kept {
    revision: watch::Sender<i64>,
    primary: Option<String>,
    /// The name of the node that set the primary.
    set_by: String,
    common: Option<String>,
    /// The owner number of the current or last leader.
    leader: u64,
    epoch: i64,
}

impl Kept {
    fn rise(&self) {
        self.revision.send_modify(|revision| *revision += 1);
    }

    /// Whether a node leads.
    pub(super) fn leads(&self, owner: u64) -> bool {
        self.leader == owner
    }

    /// Refuses an action under an earlier term.
    pub(super) fn check(&self, epoch: Option<Epoch>) -> Result<(), JournalError> {
        match epoch {
            Some(Epoch(epoch)) if epoch != self.epoch => Err(JournalError::Failed("another node leads".into())),
            _ => Ok(()),
        }
    }
}

impl ControlPlane for Node {
    fn plane(&self, primary: &str, common: &str) -> BoxFuture<'_, Result<Plane, JournalError>> {
        let (primary, common) = (primary.to_owned(), common.to_owned());
        self.call(move |state| {
            let kept = &mut state.plane;
            if kept.primary.is_none() {
                kept.set_by.clone_from(&self.name);
            }
            Ok(Plane {
                revision: *kept.revision.borrow(),
                primary: kept.primary.get_or_insert(primary).clone(),
                is_ours: kept.set_by == self.name,
                common: kept.common.get_or_insert(common).clone(),
            })
        })
    }

    fn share_primary(&self, name: &str) -> BoxFuture<'_, Result<Option<String>, JournalError>> {
        let name = name.to_owned();
        self.call(move |state| {
            let kept = &mut state.plane;
            if kept.primary.as_ref() == Some(&name) {
                return Ok(Some(name));
            }
            kept.set_by.clone_from(&self.name);
            kept.rise();
            Ok(kept.primary.replace(name))
        })
    }

    fn take_back_primary(&self, name: &str, before: &str) -> BoxFuture<'_, Result<(), JournalError>> {
        let (name, before) = (name.to_owned(), before.to_owned());
        self.call(move |state| {
            let kept = &mut state.plane;
            if kept.primary.as_ref() == Some(&name) && kept.set_by == self.name {
                kept.primary = Some(before);
                kept.rise();
            }
            Ok(())
        })
    }

    fn publish(&self, epoch: Epoch, common: &str) -> BoxFuture<'_, Result<(), JournalError>> {
        let common = common.to_owned();
        self.call(move |state| {
            state.plane.check(Some(epoch))?;
            state.plane.common = Some(common);
            state.plane.rise();
            Ok(())
        })
    }

    fn note_differing(&self, names: Vec<String>) -> BoxFuture<'_, Result<(), JournalError>> {
        self.call(move |state| {
            state.nodes.get_mut(&self.owner).expect("a node that lives").differs = names;
            Ok(())
        })
    }

    fn watch(&self, revision: i64) -> BoxStream<'static, ()> {
        let told = self.cluster.lock().plane.revision.subscribe();
        stream::unfold((told, revision), |(mut told, seen)| async move {
            let now = *told.wait_for(|now| *now != seen).await.ok()?;
            Some(((), (told, now)))
        })
        .boxed()
    }

    fn leads(&self) -> BoxFuture<'_, Option<Epoch>> {
        let epoch = self.call(|state| {
            let kept = &mut state.plane;
            if !state.nodes.contains_key(&kept.leader) {
                (kept.leader, kept.epoch) = (self.owner, kept.epoch + 1);
            }
            Ok(kept.leads(self.owner).then_some(Epoch(kept.epoch)))
        });
        Box::pin(async { epoch.await.ok().flatten() })
    }

    fn replaced(&self) -> &CancellationToken {
        &self.replaced
    }
}

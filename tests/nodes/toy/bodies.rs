//! Large bodies: kept in memory too, and counted as room while no record has them.

use std::io;
use std::ops::Range;

use bytes::Bytes;

use super::*;
use crate::journal::bodies::Draft;
use crate::journal::body::{Body, LargeBody, Pieces, Source};

/// The bodies that no record has yet, by number.
#[derive(Debug, Default)]
pub(super) struct Drafts {
    last: u64,
    taken: BTreeMap<u64, Taken>,
}

/// The room of such a body.
#[derive(Debug)]
struct Taken {
    owner: u64,
    project: Option<Arc<str>>,
    bytes: u64,
}

/// The room of a body that no record has yet; dropping it frees the room.
#[derive(Debug)]
struct Room {
    cluster: Cluster,
    number: u64,
    /// Set once a record has the body and counts its room.
    is_kept: AtomicBool,
}

#[derive(Debug)]
struct Writing {
    node: Arc<Node>,
    room: Room,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Written {
    room: Room,
    bytes: Bytes,
}

impl Bodies for Node {
    fn begin(self: Arc<Self>, project: Option<Arc<str>>) -> BoxFuture<'static, Result<Box<dyn Draft>, JournalError>> {
        Box::pin(async move {
            let owner = self.owner;
            let number = self.now(|state| {
                state.drafts.last += 1;
                state.drafts.taken.insert(state.drafts.last, Taken { owner, project, bytes: 0 });
                Ok(state.drafts.last)
            })?;
            let room = Room { cluster: self.cluster.clone(), number, is_kept: AtomicBool::new(false) };
            Ok(Box::new(Writing { node: self, room, bytes: vec![] }) as Box<dyn Draft>)
        })
    }
}

impl Draft for Writing {
    fn append(&mut self, mut bytes: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, JournalError>> {
        Box::pin(async move {
            let (number, need) = (self.room.number, bytes.len() as u64);
            self.node.now(|state| {
                let project = state.drafts.taken.get(&number).and_then(|taken| taken.project.clone());
                state.make_room(project.as_ref(), need)?;
                state.drafts.taken.get_mut(&number).ok_or(JournalError::Closed)?.bytes += need;
                Ok(())
            })?;
            self.bytes.append(&mut bytes);
            Ok(bytes)
        })
    }

    fn overwrite(&mut self, at: u64, bytes: Vec<u8>) -> BoxFuture<'_, Result<(), JournalError>> {
        let at = at as usize;
        self.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
        Box::pin(ready(Ok(())))
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<Body, JournalError>> {
        let Self { room, bytes, .. } = *self;
        let large = LargeBody::new(bytes.len() as u64, Written { room, bytes: bytes.into() });
        Box::pin(ready(Ok(Body::Large(Arc::new(large)))))
    }
}

impl Source for Written {
    fn open(&self) -> io::Result<Box<dyn Pieces>> {
        Ok(Box::new(Open(self.bytes.clone())))
    }
}

#[derive(Debug)]
struct Open(Bytes);

impl Pieces for Open {
    fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        Ok(self.0.slice(range.start as usize..range.end as usize))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // A thread that drops the last handle of a record's body may hold the lock.
        if !*self.is_kept.get_mut() {
            self.cluster.lock().drafts.taken.remove(&self.number);
        }
    }
}

impl Drafts {
    /// The room that a body takes already, in bytes.
    pub(super) fn taken_by(&self, body: &Body) -> u64 {
        let taken = room_of(body).and_then(|room| self.taken.get(&room.number));
        taken.map_or(0, |taken| taken.bytes)
    }

    /// Moves a body's room to the record that now has it.
    pub(super) fn keep(&mut self, body: &Body) {
        if let Some(room) = room_of(body) {
            room.is_kept.store(true, Ordering::Release);
            self.taken.remove(&room.number);
        }
    }

    /// Frees the room of a node that is gone.
    pub(super) fn bury(&mut self, owner: u64) {
        self.taken.retain(|_, taken| taken.owner != owner);
    }

    /// The bytes that are taken for no known project.
    pub(super) fn of_nobody(&self) -> u64 {
        self.taken.values().filter(|taken| taken.project.is_none()).map(|taken| taken.bytes).sum()
    }

    /// The bytes that are taken for each project.
    pub(super) fn takers(&self) -> BTreeMap<Arc<str>, u64> {
        let mut takers = BTreeMap::new();
        for Taken { project, bytes, .. } in self.taken.values() {
            if let Some(project) = project {
                *takers.entry(Arc::clone(project)).or_default() += bytes;
            }
        }
        takers
    }
}

fn room_of(body: &Body) -> Option<&Room> {
    match body {
        Body::Large(large) => large.source::<Written>().map(|written| &written.room),
        Body::Memory(_) => None,
    }
}

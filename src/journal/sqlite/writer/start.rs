//! The writer's thread from start to end.
//!
//! Rule: the connection outlives everything that borrows it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use rusqlite::Connection;

use crate::journal::Settings;
use crate::journal::sqlite::accounts::Totals;
use crate::journal::sqlite::append::Projects;
use crate::journal::sqlite::letters::Letters;
use crate::journal::sqlite::losses::Bodies;
use crate::journal::sqlite::settlement::Eviction;
use crate::journal::sqlite::shared::{Placed, Shared};
use crate::journal::sqlite::space::{self, Ahead, Order, Room};

use super::Writer;
use super::group::Command;

/// The state that the writer starts with. It is read early, so that a failure keeps the journal from opening.
#[derive(Debug)]
pub(in crate::journal::sqlite) struct Start {
    conn: Connection,
    shared: Arc<Shared>,
    room: Room,
    letters: Letters,
    next: u64,
}

impl Start {
    pub(in crate::journal::sqlite) fn new(
        conn: Connection,
        ahead: Ahead,
        shared: Arc<Shared>,
        settings: &Settings,
    ) -> rusqlite::Result<Self> {
        let room = Room::new(&conn, ahead, Arc::clone(&shared.spool), settings)?;
        room.publish(&shared);
        let letters = Letters::new(&conn, settings)?;
        let next = space::next_record(&conn)?;
        Ok(Self { conn, shared, room, letters, next })
    }

    /// Serves until a close command, or until all senders are gone. Answers the close command when the writer's connections are closed.
    pub(in crate::journal::sqlite) fn run(self, inbox: &Receiver<Placed<Command>>) {
        let Self { conn, shared, room, letters, next } = self;
        let (eviction, projects, looked) = (Eviction::default(), Projects::new(&shared), Instant::now());
        let bodies = Rc::new(Bodies::new(Arc::clone(&shared.spool)));
        let writer = Writer {
            conn: &conn,
            statements: None,
            shared,
            room,
            eviction,
            order: Order::default(),
            letters,
            bodies,
            projects,
            totals: Totals::default(),
            unwritten: vec![],
            next,
            tidying: false,
            looked,
            rolled: 0,
        };
        let closing = writer.run(inbox);
        drop(conn);
        if let Some(reply) = closing {
            // The caller may have given up waiting.
            reply.send(()).unwrap_or_default();
        }
    }
}

//! Switchyard: a durable relay at the address in a Sentry DSN.
//!
//! # An envelope's way
//!
//! An SDK connects to [`http`], which reads the request within limits of size, time and memory and hands it to [`intake`].
//! That finds the project by the key, undoes the encoding, finds the items' boundaries and nothing more ([`protocol`]), reserves
//! the event's id in the window of duplicates ([`policy`]), and appends the envelope to the [`journal`], once, with the upstreams
//! it is for. The writer thread commits what has come together in one transaction, and only then is the client answered.
//!
//! The same commit hands the record to the workers of [`delivery`], one for each upstream, in memory: in the steady state nothing
//! is read back from disk. A worker asks its circuit and its cooldowns whether and what to send, and the table of quirks in which
//! requests its kind of upstream wants it; it rewrites what addresses the envelope and nothing else, sends it, and settles the record by
//! the answer: delivered, dropped for a reason, or put off until a due time. Every settlement is an entry in the accounts
//! ([`telemetry::ledger`]), committed with it, so that for each upstream and category
//! accepted + returned = delivered + dropped + pending holds through crashes. Returned is what was dropped first and
//! waits again, as a dead letter does that is retried. Every drop is also a loss ([`journal::losses`]), of which the upstream
//! is told in a client report that goes the way of any other record.
//!
//! Who gets what is one value, [`policy::routing::Routing`], exchanged as a whole when the configuration changes: a switch of the
//! primary is that exchange.
//!
//! What only a tracker can answer takes none of these steps: [`http`] passes it on to the primary and hands the answer back.
//!
//! An envelope over 1 MiB goes the same way without ever being in memory as a whole, and so does any other request: it is written
//! piece by piece as the journal keeps large [bodies](journal::bodies) (SQLite in a file each), decoded from one such body to another,
//! an envelope's boundaries are found by the same grammar in pieces ([`protocol::envelope::Scanner`]), and each upstream is sent it
//! piece by piece.
//!
//! # The map
//!
//! | part | may use | what lives there |
//! | --- | --- | --- |
//! | [`protocol`] | - | the wire format: bytes to values and back |
//! | [`policy`] | protocol | decisions; `now` is passed in |
//! | [`telemetry`] | protocol, policy | metrics, accounts, the status, logs |
//! | [`content`] | - | whether a tracker's copy of an event is what was sent |
//! | [`journal`] | protocol, policy, telemetry | durable records and what became of them: a few ports, and SQLite behind them |
//! | [`intake`] | protocol, policy, telemetry, journal | one submission's way in; knows no HTTP |
//! | [`tracker`] | protocol | what trackers are asked by their APIs, and what the answers mean |
//! | [`delivery`] | protocol, policy, telemetry, journal, tracker, content | one upstream's way out, with the HTTP client of all deliveries |
//! | [`http`] | all above | the listener, the public side (ingest, proxy to the primary), the admin side (API, pages); the only user of axum |
//! | [`notify`] | protocol, policy, telemetry, delivery | a word to an operator when something breaks |
//! | [`config`] | the parts' settings, content | file to validated configuration, all problems at once |
//! | [`daemon`] | all above | assembly: start, reload, stop |
//! | [`cli`] | protocol, telemetry, delivery, http, config, daemon | one file for each verb |
//!
//! [`clock`], [`tasks`], [`units`] and `vocabulary` use nothing of ours and are open to all. `tests/architecture.rs` holds this table,
//! and that no files name each other in a circle.
//!
//! # Where to begin with a change
//!
//! | to add | begin at |
//! | --- | --- |
//! | a tracker's quirk: what a kind of upstream wants or does otherwise | a column of the table in `delivery/quirks.rs`; what its answers look like and how it takes compressed bodies: `Kind` in `delivery/settings.rs` |
//! | a kind of upstream | `Kind` in `delivery/settings.rs`; the compiler names the rest |
//! | a tracker's API | a file in `tracker/`, and a line of `dialect` in `delivery/asking.rs` |
//! | a field that a tracker changes in an event | the tracker's table in `content/drift/` |
//! | an endpoint of the admin API | a row in `http/admin/routes.rs` and its function, in the file of its subject: `http/admin/api.rs`, `backfill.rs`, `letters.rs`, `verify.rs` |
//! | a page of the admin listener, a form of one | a row in `http/admin/routes.rs` and its function in `http/admin/pages/mod.rs`, or in `changes.rs` there |
//! | a route for SDKs | a row in `http/public/routes.rs` |
//! | a drop reason | a row in `policy/outcome.rs`; the comment above the rows names the tables outside of the code. Workers, `intake/` and `daemon/upkeep.rs` give reasons |
//! | a type of item, a category | a row in `protocol/item.rs`, in `protocol/category.rs`; the compiler names what has to be decided |
//! | a journal backend | a folder `journal/NAME/` that implements the ports listed in `journal/mod.rs`, and `Store` of `journal/transfer.rs`; a line in `daemon/backend.rs`; its options in `journal/settings.rs`, checked in `config/shared.rs`. The suite in `journal/contract/` is its tests; `tests/nodes/toy/` is the smallest one |
//! | what relays on several machines share besides the journal | the port in `daemon/control.rs` |
//! | a section or an option of the configuration | `config/shape.rs`, and the part's own `Settings` |
//! | a verb of the command line | a file in `cli/`, and `cli/mod.rs` |
//! | a receiver of notifications | `notify/format.rs` |
//! | a metric | `telemetry/metrics.rs`, and the list in `tests/metrics.rs` |
//!
//! # Who owns what
//!
//! The configuration belongs to the daemon's loop; view and window of duplicates to the intake; circuit, cooldowns and connections
//! of an upstream to its worker; records, leases and accounts to the journal's writer thread. The intake and the workers share
//! the journal, and the limits that the workers know of ([`policy::cooldown::Cooldowns`]), which are read without waiting: so
//! nothing one upstream does is felt by another, and only what all of them do by an SDK.

pub mod cli;
pub mod clock;
pub mod config;
pub mod content;
pub mod daemon;
pub mod delivery;
pub mod http;
pub mod intake;
pub mod journal;
pub mod notify;
pub mod policy;
pub mod protocol;
pub mod tasks;
pub mod telemetry;
pub mod tracker;
pub mod units;
mod vocabulary;

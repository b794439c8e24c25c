//! Switchyard: a durable relay at the address in a Sentry DSN.
//!
//! # An envelope's way
//!
//! An SDK connects to [`http`], which reads the request within limits of size, time and memory, and hands it to [`intake`]. The intake
//! finds the project by the key, decodes the body, finds the boundaries of the items and nothing more ([`protocol`]), and reserves the
//! event's id in the window of duplicates ([`policy`]). Then it appends the envelope to the [`journal`], once, with the upstreams that
//! are to get it. The journal commits envelopes that came together in one transaction. The client is answered after the commit.
//!
//! The commit also hands the record, in memory, to the workers of [`delivery`], one for each upstream: in the steady state nothing is
//! read back from disk. A worker asks its circuit and its cooldowns whether to send and what, and the table of quirks how its kind of
//! upstream wants the envelope. It rewrites what addresses the envelope and nothing else, sends it, and settles the record by the answer:
//! delivered, dropped for a reason, or put off until a due time.
//!
//! Every settlement is posted to the accounts ([`telemetry::ledger`]) in the same commit. So for each upstream and category
//! accepted + returned = delivered + dropped + pending, through crashes. Returned items were dropped first and wait again, such as those
//! of a dead letter that is retried. Every drop is also a loss ([`journal::losses`]): the upstream is told of it in a client report, which
//! is delivered like any other record.
//!
//! One value, [`policy::routing::Routing`], says which upstreams get what. A change of the configuration replaces it as a whole; for the
//! primary, that is the switch.
//!
//! A request that only a tracker can answer takes none of these steps: [`http`] forwards it to the primary and returns the answer.
//!
//! A body over 1 MiB takes the same steps, but is never in memory as a whole. It is written in pieces to the journal's storage of large
//! [bodies](journal::bodies) (SQLite: a file each), and decoded from one such body to another. The same grammar finds an envelope's
//! boundaries in pieces ([`protocol::envelope::Scanner`]), and each upstream is sent the body in pieces.
//!
//! # The map
//!
//! | part | may use | what lives there |
//! | --- | --- | --- |
//! | [`protocol`] | - | the wire format: bytes to values and back |
//! | [`policy`] | protocol | decisions; `now` is passed in |
//! | [`telemetry`] | protocol, policy | metrics, accounts, the status, logs |
//! | [`content`] | - | whether a tracker's copy of an event is what was sent |
//! | [`journal`] | protocol, policy, telemetry | durable records and what became of them: a few ports, SQLite and PostgreSQL behind them |
//! | [`intake`] | protocol, policy, telemetry, journal | one submission's way in; knows no HTTP |
//! | [`tracker`] | protocol | what trackers are asked by their APIs, and what the answers mean |
//! | [`delivery`] | protocol, policy, telemetry, journal, tracker, content | one upstream's way out, with the HTTP client of all deliveries |
//! | [`http`] | all above but tracker | the listener, the public side (ingest, proxy to the primary), the admin side (API, pages); the only user of axum |
//! | [`notify`] | protocol, policy, telemetry, delivery | messages to an operator when something breaks |
//! | [`config`] | the parts' settings, content | file to validated configuration, all problems at once |
//! | [`daemon`] | all above but tracker, content | assembly: start, reload, stop; the chores |
//! | [`cli`] | protocol, telemetry, delivery, http, notify, config, daemon | one file for each verb |
//!
//! [`clock`], [`printable`], [`tasks`], [`units`] and `vocabulary` use no other part, and every part may use them. `tests/architecture.rs` checks this
//! table, and that no files use each other in a circle.
//!
//! # Where to begin with a change
//!
//! | to add | begin at |
//! | --- | --- |
//! | a tracker's quirk: what a kind of upstream wants or does otherwise | a field of `Quirks` in `delivery/quirks.rs`; what its answers look like and how it takes compressed bodies: `Kind` in `delivery/settings.rs` |
//! | a kind of upstream | `Kind` in `delivery/settings.rs`; the compiler names the rest. `cli/recognise.rs` finds it out from a DSN |
//! | a tracker's API | a file in `tracker/`, and a line of `dialect` in `delivery/asking.rs` |
//! | a field that a tracker changes in an event | the tracker's table in `content/drift/` |
//! | an endpoint of the admin API | a row in `http/admin/routes.rs` and its function, in the file of its subject: `http/admin/api.rs`, `backfill.rs`, `letters.rs`, `verify.rs` |
//! | a page of the admin listener, a form of one | a row in `http/admin/routes.rs` and its function in `http/admin/pages/mod.rs`, or in `changes.rs` there |
//! | a route for SDKs | a row in `http/public/routes.rs` |
//! | a drop reason | a row in `policy/outcome.rs`; the comment above the rows names the tables outside of the code. Workers, `intake/` and `daemon/upkeep.rs` give reasons |
//! | a type of item, a category | a row in `protocol/item.rs`, in `protocol/category.rs`; the compiler names what has to be decided |
//! | a journal backend | a folder `journal/NAME/` that implements the ports listed in `journal/mod.rs`, and `Store` of `journal/transfer.rs`; a line each in `Backend::of` and `store` of `daemon/backend.rs`; its options in `journal/settings.rs`, checked in `config/shared.rs`. The suite in `journal/contract/` is its tests; `tests/nodes/toy/` is the smallest one |
//! | what relays on one journal share besides it | the port in `journal/plane.rs`; `daemon/sharing.rs` puts it over what a relay's own file says |
//! | a section or an option of the configuration | `config/shape.rs`, and the part's own `Settings` |
//! | a verb of the command line | a file in `cli/`, and `cli/mod.rs` |
//! | a receiver of notifications | `notify/format.rs` |
//! | a metric | `telemetry/metrics.rs`, and the list in `tests/metrics.rs` |
//!
//! # Who owns what
//!
//! | owner | owns |
//! | --- | --- |
//! | the daemon's loop | the configuration |
//! | the intake | the current view of it, the window of duplicates |
//! | the worker of an upstream | its circuit, cooldowns and connections |
//! | the journal | records, leases and accounts |
//!
//! The intake and the workers share only the journal and the limits that upstreams have told ([`policy::cooldown::Cooldowns`]), which
//! are read without waiting. So no upstream affects another, and an SDK is told of a limit only when all upstreams have it.

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
pub mod printable;
pub mod protocol;
pub mod tasks;
pub mod telemetry;
pub mod tracker;
pub mod units;
mod vocabulary;

//! Recovery after trouble: viewing dead letters and sending them again, and backfilling an upstream.
//!
//! Rule: everything goes through the command line and the listeners of the real daemon; every test ends with balanced accounts.

mod support;

#[path = "recovery/backfill.rs"]
mod backfill;
#[path = "recovery/dead_letters.rs"]
mod dead_letters;
#[path = "recovery/eviction.rs"]
mod eviction;
#[path = "recovery/verbs.rs"]
mod verbs;

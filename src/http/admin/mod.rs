//! The admin listener, for operators: access, the API, the pages.

mod access;
mod answer;
mod api;
mod backfill;
mod denied;
mod exposition;
pub mod host;
mod lately;
mod letters;
mod names;
pub(super) mod order;
mod pages;
mod report;
pub(super) mod routes;
mod running;
mod scrape;
mod services;
mod session;
pub(super) mod state;
mod verdict;
mod verify;

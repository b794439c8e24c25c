//! The listeners.

pub mod settings;

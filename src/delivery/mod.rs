//! One upstream's way out.

pub mod settings;

//! One submission's way in: authenticate, decode, parse, police, journal. Knows no HTTP connection and no upstream's state.

pub mod decode;
pub mod keyring;
pub mod legacy;
mod part;
pub mod raw;
pub mod submit;
pub mod unpack;

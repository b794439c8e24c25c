//! One submission's way in: authenticate, decode, parse, police, journal. Knows no HTTP connection and no upstream's state.

pub mod decode;
pub mod keyring;
pub mod legacy;
pub mod submit;

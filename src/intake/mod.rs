//! Takes in a submission: authenticate, decode, parse, police, journal. Knows neither HTTP connections nor the state of an upstream.

mod assemble;
pub mod browsers;
pub mod crash;
pub mod decode;
mod form;
mod identity;
pub mod keyring;
pub mod legacy;
mod minidump;
mod part;
mod police;
pub mod raw;
mod read_ahead;
mod shadows;
mod shed;
pub mod sightings;
pub mod submit;
pub mod turns;
pub mod unpack;
mod workshop;

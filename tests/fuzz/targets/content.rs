//! The law `content` of `tests/properties/laws.rs`.
#![no_main]

#[path = "../../properties/laws.rs"]
mod laws;

libfuzzer_sys::fuzz_target!(|data: &[u8]| laws::content(data));

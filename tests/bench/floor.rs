//! `cargo bench --bench floor`: what accepting and forwarding twice costs before anything of ours happens, beside nginx's mirror.

mod support;

use std::process::ExitCode;

use support::contender::Kind;

fn main() -> ExitCode {
    support::main(&[Kind::Nginx, Kind::Floor])
}

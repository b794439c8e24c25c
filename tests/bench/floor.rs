//! `cargo bench --bench floor`: the cost of accepting a request and forwarding it twice without Switchyard's own work, beside nginx's
//! mirror.

mod support;

use std::process::ExitCode;

use support::contender::Kind;

fn main() -> ExitCode {
    support::main(&[Kind::Nginx, Kind::Floor])
}

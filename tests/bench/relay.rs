//! `cargo bench --bench relay`: Switchyard beside nginx's mirror module and beside the bare HTTP stack, in one run; prints the
//! table of speed and size. `-- --quick` takes under a minute, `-- --json` is for scripts, `-- --help` tells the rest.

mod support;

use std::process::ExitCode;

use support::contender::Kind;

fn main() -> ExitCode {
    support::main(&[Kind::Switchyard, Kind::Nginx, Kind::Floor])
}

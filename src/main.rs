//! The program: parses the command line, calls one function, and turns the result into an exit code.

use std::process::ExitCode;

use switchyard::cli::{self, Cli, Exit};

fn main() -> ExitCode {
    // This comes first: all TLS uses this provider and no other.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("switchyard: a second cryptography provider was installed");
        return ExitCode::from(Exit::Internal as u8);
    }
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(usage) => {
            // Help and version go to standard output, errors to standard error. If neither can be written, there is nowhere to report it.
            drop(usage.print());
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(Exit::Usage as u8));
        }
    };
    match cli.execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            cli::tell(&failure);
            ExitCode::from(failure.code())
        }
    }
}

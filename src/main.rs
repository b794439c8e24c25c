//! The program: parses the command line, calls one function, maps what comes back to an exit code. Knows nothing else.

use std::process::ExitCode;

use switchyard::cli::{self, Cli, Exit};

fn main() -> ExitCode {
    // First thing: whatever speaks TLS later finds it, and finds no other.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("switchyard: a second cryptography provider was installed");
        return ExitCode::from(Exit::Internal as u8);
    }
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(usage) => {
            // Help and version go to standard output, mistakes to standard error; nobody is left to tell when neither works.
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

//! The `echo-server` command: the library's server, with flags, a log and signals.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod certs;
mod cli;
mod descriptors;
mod flags;
mod log;
mod new_files;
mod probe;
mod ready_file;
mod report;
mod serve;
mod signals;
mod threads;

use std::process::ExitCode;

use cli::{Command, Stop};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Wrong usage or configuration.
const USAGE: u8 = 2;
/// The system refused something, or connections had to be aborted at the end.
const REFUSED: u8 = 1;

fn main() -> ExitCode {
    match cli::parse() {
        Ok(Command::Serve(options)) => serve::run(*options),
        Ok(Command::Probe(probe)) => probe::run(*probe),
        Ok(Command::Certs(certs)) => certs::run(certs),
        Err(Stop::Usage(message)) => fail(USAGE, &message),
        Err(Stop::Print(text)) => {
            let printed = text.print();
            if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) }
        }
    }
}

/// One line on stderr: the log may be off, or in a form that is not for people.
fn fail(code: u8, message: &str) -> ExitCode {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "echo-server: {message}");
    ExitCode::from(code)
}

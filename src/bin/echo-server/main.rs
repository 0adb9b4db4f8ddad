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
mod visible;

use std::process::ExitCode;

use cli::{Command, Exit};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit code for wrong usage or configuration.
const USAGE: u8 = 2;
/// The exit code when the system refused something, or a shutdown aborted connections.
const REFUSED: u8 = 1;

fn main() -> ExitCode {
    match cli::parse() {
        Ok(Command::Serve(options)) => serve::run(*options),
        Ok(Command::Probe(probe)) => probe::run(*probe),
        Ok(Command::Certs(certs)) => certs::run(certs),
        Err(Exit::Usage(message)) => fail(USAGE, &message),
        Err(Exit::Print(text)) => {
            let printed = text.print();
            if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) }
        }
    }
}

/// Prints one line on stderr, past the log: that may be off, or in JSON.
fn fail(code: u8, message: &str) -> ExitCode {
    use std::io::Write;
    let message = visible::visible(&without_error_numbers(&without_pem(message)));
    let level = if log::is_journal() { "<3>" } else { "" };
    let _ = writeln!(std::io::stderr(), "{level}echo-server: {message}");
    ExitCode::from(code)
}

/// `message` without the numbers that the standard library puts behind the system's words, as in
/// "No such file or directory (os error 2)".
pub fn without_error_numbers(message: &str) -> String {
    let mut parts = message.split(" (os error ");
    let mut words = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        words.push_str(
            part.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches(')'),
        );
    }
    words
}

/// `message` up to where it quotes an argument that is PEM text: somebody has given a private key
/// itself, and not the path of its file.
fn without_pem(message: &str) -> String {
    // Our own messages speak of -----BEGIN, too, but a label is in capitals (RFC 7468 section 3).
    let mut begins = message.match_indices("-----BEGIN ");
    let is_label = |text: &str| text.starts_with(|c: char| c.is_ascii_uppercase());
    match begins.find(|(at, begin)| is_label(&message[at + begin.len()..])) {
        Some((at, _)) => format!("{}(PEM text in place of the path of a file)", &message[..at]),
        None => message.to_owned(),
    }
}

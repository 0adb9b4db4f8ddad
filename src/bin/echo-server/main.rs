//! The `echo-server` command: the library's server, with flags, a log and signals.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod certs;
mod cli;
mod completions;
mod descriptors;
mod flags;
mod log;
mod man;
mod mesh;
mod new_files;
mod probe;
mod ready_file;
mod report;
mod serve;
mod signals;
#[cfg_attr(not(target_os = "linux"), path = "systemd/none.rs")]
mod systemd;
mod threads;
mod visible;
mod watch;

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
        Ok(Command::Watch(watch)) => watch::run(*watch),
        Ok(Command::Certs(certs)) => certs::run(certs),
        Ok(Command::Completions(shell)) => completions::run(shell),
        Ok(Command::Man(directory)) => man::run(directory.as_deref()),
        Err(Exit::Usage(message)) => fail(USAGE, &message),
        Err(Exit::Print(text)) => {
            let printed = text.print();
            if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) }
        }
    }
}

/// Prints on standard output. If nobody reads it to the end, that is no failure.
fn print(text: &[u8]) -> ExitCode {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            fail(REFUSED, &format!("standard output: {error}"))
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Prints one line on stderr, past the log: that may be off, or in JSON.
fn fail(code: u8, message: &str) -> ExitCode {
    use std::io::Write;
    let message = visible::visible(&without_error_numbers(&without_keys(message)));
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

/// `message`, unless it quotes an argument that may be a private key itself: somebody has given the
/// content of a file, and not its path.
fn without_keys(message: &str) -> String {
    const CURE: &str = "as if it were the content of a file, such as a private key; the flags take \
                        paths of files";
    // Our own messages speak of -----BEGIN, too, but a label is in capitals (RFC 7468 section 3).
    let has_label = |marker: &str| {
        message.match_indices(marker).any(|(at, marker)| {
            message[at + marker.len()..].starts_with(|c: char| c.is_ascii_uppercase())
        })
    };
    if has_label("-----BEGIN ") || has_label("-----END ") {
        return format!("an argument is PEM text, {CURE}");
    }
    let is_between = |c: char| c.is_whitespace() || "'\"`:;,()".contains(c);
    match message.split(is_between).any(is_base64) {
        true => format!("an argument is base64, {CURE}"),
        false => message.to_owned(),
    }
}

/// Whether `word` is a line of base64, and hardly a path: those have a slash every few characters.
/// PEM has lines of 64 characters, `base64` makes lines of 76.
fn is_base64(word: &str) -> bool {
    // A flag may stand before it, and padding behind it.
    let word = word.trim_end_matches('=');
    let word = word.rsplit('=').next().unwrap_or(word);
    let slashes = word.matches('/').count();
    let has = |is: fn(&char) -> bool| word.chars().any(|c| is(&c));
    word.len() >= 60
        && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '/'))
        && slashes * 16 < word.len()
        && has(char::is_ascii_uppercase)
        && has(char::is_ascii_lowercase)
        && has(char::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_place_of_its_path_is_not_quoted() {
        let line = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgAHbeAn9zUSZqLeeXQKFW";
        for (message, begin) in [
            ("there is no flag '-----BEGIN PRIVATE KEY-----", "an argument is PEM text, as if"),
            (&format!("--x: {line} -----END PRIVATE KEY-----"), "an argument is PEM text, as if"),
            (&format!("there is no command '{line}'"), "an argument is base64, as if"),
            (&format!("there is no command {line}=; see x"), "an argument is base64, as if"),
            (&format!("there is no flag '--kei={line}=='"), "an argument is base64, as if"),
        ] {
            let said = without_keys(message);
            assert!(said.starts_with(begin) && !said.contains("MIGH"), "{said}");
        }
        for message in [
            "--key a: not valid PEM: its -----BEGIN and -----END lines do not match",
            "--cert a: its line breaks are lost: -----BEGIN … and the base64 are on one line",
            "--cert /Srv/a1/b2/c3/d4/e5/f6/g7/h8/i9/j0/k1/l2/m3/n4/o5/p6/q7/r8/s9/t0: No such file",
            "--tls-ciphers: TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256_AND_SOMETHING_MORE_1a",
        ] {
            assert_eq!(without_keys(message), message);
        }
    }
}

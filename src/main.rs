//! The `echo-server` command: the library's server, with flags, a log and signals.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod cli;
mod logging;
mod ready_file;
mod signals;

use std::process::ExitCode;

use echo_server::Server;
use tracing::info;

use cli::{Options, Stop};
use ready_file::ReadyFile;
use signals::Signals;

/// Wrong usage or configuration.
const USAGE: u8 = 2;
/// The system refused something.
const REFUSED: u8 = 1;

fn main() -> ExitCode {
    let options = match cli::parse() {
        Ok(options) => options,
        Err(Stop::Usage(message)) => return fail(USAGE, &message),
        Err(Stop::Print(text)) => {
            let printed = text.print();
            return if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) };
        }
    };
    if let Err(error) = logging::start(options.log) {
        return fail(USAGE, &format!("RUST_LOG: {error}"));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(REFUSED, &format!("the runtime did not start: {error}")),
    };
    match runtime.block_on(run(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, message)) => fail(code, &message),
    }
}

async fn run(options: Options) -> Result<(), (u8, String)> {
    let mut signals = Signals::catch()
        .map_err(|error| (REFUSED, format!("signals cannot be caught: {error}")))?;
    let refused_file = |path: &std::path::Path, error: std::io::Error| {
        (REFUSED, format!("--ready-file {}: {error}", path.display()))
    };
    let ready_file = match options.ready_file {
        Some(path) => Some(ReadyFile::prepare(path.clone()).map_err(|e| refused_file(&path, e))?),
        None => None,
    };
    let server = Server::bind(options.config)
        .await
        .map_err(|error| (if error.is_config() { USAGE } else { REFUSED }, error.to_string()))?;
    if let Some(file) = ready_file {
        file.announce(server.local_addrs()).map_err(|error| refused_file(file.path(), error))?;
    }
    server
        .run(async {
            let signal = signals.next().await;
            info!(signal, "Asked to end");
        })
        .await;
    Ok(())
}

/// One line on stderr: the log may be off, or in a form that is not for people.
fn fail(code: u8, message: &str) -> ExitCode {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "echo-server: {message}");
    ExitCode::from(code)
}

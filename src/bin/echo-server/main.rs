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
mod signals;
mod threads;

use std::pin::pin;
use std::process::ExitCode;

use echo_server::{Server, TlsReloader};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use cli::{Command, Options, Stop};
use ready_file::ReadyFile;
use signals::{Hangups, Signals};
use threads::{Threads, runtime};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Wrong usage or configuration.
const USAGE: u8 = 2;
/// The system refused something, or connections had to be aborted at the end.
const REFUSED: u8 = 1;

fn main() -> ExitCode {
    match cli::parse() {
        Ok(Command::Serve(options)) => serve(*options),
        Ok(Command::Probe(probe)) => probe::run(*probe),
        Ok(Command::Certs(certs)) => certs::run(certs),
        Err(Stop::Usage(message)) => fail(USAGE, &message),
        Err(Stop::Print(text)) => {
            let printed = text.print();
            if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) }
        }
    }
}

fn serve(options: Options) -> ExitCode {
    let log = match log::start(options.log) {
        Ok(log) => log,
        Err(error) => return fail(USAGE, &format!("RUST_LOG: {error}")),
    };
    std::panic::set_hook(Box::new(|panic| error!("A bug: {panic}")));
    if let Err(error) = descriptors::raise_limit() {
        warn!(%error, "The limit on descriptors could not be raised");
    }
    let started = Threads::start(options.threads).and_then(|threads| Ok((threads, runtime()?)));
    let (threads, runtime) = match started {
        Ok(started) => started,
        Err(error) => return fail(REFUSED, &format!("a thread for echoes did not start: {error}")),
    };
    let outcome = runtime.block_on(run(options, threads.handles()));
    // A thread may still wait for somebody to read the ready file.
    runtime.shutdown_background();
    drop(threads);
    log.summarize();
    drop(log);
    match outcome {
        Ok(code) => code,
        Err((code, message)) => fail(code, &message),
    }
}

async fn run(options: Options, threads: Vec<Handle>) -> Result<ExitCode, (u8, String)> {
    let mut signals = Signals::catch()
        .map_err(|error| (REFUSED, format!("signals cannot be caught: {error}")))?;
    let ready_file = options.ready_file.map(ReadyFile::prepare).transpose();
    let ready_file = ready_file.map_err(|error| (REFUSED, error))?;
    let server = Server::bind_over(options.config, threads).await.map_err(|error| {
        (if error.is_config() { USAGE } else { REFUSED }, flags::start_error(&error))
    })?;
    let reloader = server.tls_reloader().filter(TlsReloader::has_files);
    if let Some(reloader) = reloader {
        let mut hangups = Hangups::catch()
            .map_err(|error| (REFUSED, format!("SIGHUP cannot be caught: {error}")))?;
        tokio::spawn(async move {
            loop {
                hangups.next().await;
                let reloader = reloader.clone();
                // How it went is in the log. It may block, and must not keep anybody waiting.
                drop(tokio::task::spawn_blocking(move || reloader.reload()));
            }
        });
    }
    if let Some(file) = ready_file {
        // It may be a pipe that nobody reads yet.
        let local_addrs = server.local_addrs().to_vec();
        let announced = tokio::task::spawn_blocking(move || file.announce(&local_addrs));
        tokio::select! {
            announced = announced => {
                announced.expect("announcing does not panic").map_err(|error| (REFUSED, error))?;
            }
            signal = signals.next() => {
                info!(signal, "Asked to end before the ready file was read");
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
    let (stop, stopped) = oneshot::channel::<()>();
    let mut running = pin!(server.run(async { drop(stopped.await) }));
    let signal = tokio::select! {
        _ = &mut running => unreachable!("it runs until it is stopped"),
        signal = signals.next() => signal,
    };
    info!(signal, "Asked to end; a second signal ends it at once");
    drop(stop);
    tokio::select! {
        summary = running => {
            Ok(if summary.aborted == 0 { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
        }
        signal = signals.next() => {
            warn!(signal, "Ended at once");
            Ok(ExitCode::from(REFUSED))
        }
    }
}

/// One line on stderr: the log may be off, or in a form that is not for people.
fn fail(code: u8, message: &str) -> ExitCode {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "echo-server: {message}");
    ExitCode::from(code)
}

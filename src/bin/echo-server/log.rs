//! The log: tracing events, to stderr.

use std::io::{self, IsTerminal};

use tracing::warn;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::prelude::*;

use crate::cli::{LogFormat, LogOptions};

/// Lines that may wait for a stderr that is slow. Past it they are dropped, and counted.
const WAITING_LINES: usize = 10_000;

/// Writes what is still waiting when it is dropped.
pub struct Log {
    dropped: ErrorCounter,
    _writer: WorkerGuard,
}

/// Starts logging. `RUST_LOG`, where it is set, decides alone what is logged.
pub fn start(options: LogOptions) -> Result<Log, ParseError> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => EnvFilter::builder().parse(directives)?,
        _ => EnvFilter::builder().parse(default_filter(options.verbosity))?,
    };
    // A thread of its own writes, so that a pipe whose reader has stopped, or a slow disk, stalls
    // no connection.
    let (stderr, writer) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING_LINES)
        .lossy(true)
        .finish(io::stderr());
    let log = Log { dropped: stderr.error_counter(), _writer: writer };
    // Errors of the log itself are dropped: reporting them on the same stderr, which is full or
    // closed, would panic in whatever connection had something to say.
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(stderr)
        .with_ansi(io::stderr().is_terminal())
        .log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter);
    match options.format {
        LogFormat::Text => registry.with(layer.with_target(false)).init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).init(),
    }
    Ok(log)
}

impl Log {
    /// Says how many lines stderr was too slow for, if any.
    pub fn summarize(&self) {
        let lines = self.dropped.dropped_lines();
        if lines > 0 {
            warn!(lines, "Log lines were dropped: stderr was too slow");
        }
    }
}

/// Below `-v` the libraries are heard only when they are in trouble themselves: what they say of
/// clients at warning level, any client could fill the disk with.
fn default_filter(verbosity: i8) -> &'static str {
    match verbosity {
        ..0 => "error,echo_server=warn",
        0 => "error,echo_server=info",
        1 => "info,echo_server=debug",
        2.. => "debug,echo_server=trace",
    }
}

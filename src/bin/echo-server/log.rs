//! The log: writes tracing events to stderr.

mod format;

use std::io;

use anstream::{AutoStream, ColorChoice};
use tracing::warn;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::prelude::*;

use crate::cli::{LogFormat, LogOptions};

/// How many lines are buffered for a slow stderr. Further lines are dropped and counted.
const BUFFERED_LINES: usize = 10_000;

/// The running log. Dropping it writes the buffered lines.
pub struct Log {
    dropped: ErrorCounter,
    _writer: WorkerGuard,
}

/// Starts logging. `RUST_LOG`, if set, replaces the filter of `options`.
pub fn start(options: LogOptions) -> Result<Log, ParseError> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => EnvFilter::builder().parse(directives)?,
        _ => EnvFilter::builder().parse(default_filter(options.verbosity))?,
    };
    // A separate thread writes, so that a slow disk, or a pipe whose reader has stopped, stalls no
    // connection.
    let (stderr, writer) = NonBlockingBuilder::default()
        .buffered_lines_limit(BUFFERED_LINES)
        .lossy(true)
        .finish(io::stderr());
    let log = Log { dropped: stderr.error_counter(), _writer: writer };
    let verbose = options.verbosity > 0;
    let journal = is_journal();
    // The layer would report its own errors on stderr with eprintln, which panics if stderr is
    // closed, in the connection that was logging.
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(stderr)
        .with_ansi(AutoStream::choice(&io::stderr()) != ColorChoice::Never)
        .with_target(verbose)
        .log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter);
    match options.format {
        LogFormat::Text => {
            let layer = layer.fmt_fields(format::Logfmt);
            match journal {
                // The journal has a time of its own.
                true => {
                    registry.with(layer.without_time().map_event_format(format::Journal)).init();
                }
                false => registry.with(layer).init(),
            }
        }
        LogFormat::Json => {
            let layer = layer.json().flatten_event(true).map_event_format(format::VisibleJson);
            match journal {
                true => registry.with(layer.map_event_format(format::Journal)).init(),
                false => registry.with(layer).init(),
            }
        }
    }
    Ok(log)
}

/// Whether stderr goes to systemd's journal.
pub fn is_journal() -> bool {
    format::Journal::is_stderr()
}

impl Log {
    /// Logs how many lines were dropped, if any.
    pub fn summarize(&self) {
        let lines = self.dropped.dropped_lines();
        if lines > 0 {
            warn!(lines, "Log lines were dropped: stderr was too slow");
        }
    }
}

/// Without `-v`, only errors of other crates are logged: some of them warn about what clients do,
/// and a client could fill the disk that way.
fn default_filter(verbosity: i8) -> &'static str {
    match verbosity {
        ..0 => "error,echo_server=warn",
        0 => "error,echo_server=info",
        // rustls warns about what clients do, with the names of its own files.
        1.. => "info,rustls=error,echo_server=debug",
    }
}

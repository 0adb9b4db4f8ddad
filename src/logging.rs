//! The log: tracing events, to stderr.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::prelude::*;

use crate::cli::{LogFormat, LogOptions};

/// Starts logging. `RUST_LOG`, where it is set, decides alone what is logged.
pub fn start(options: LogOptions) -> Result<(), ParseError> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => EnvFilter::builder().parse(directives)?,
        _ => EnvFilter::builder().parse(default_filter(options.verbosity))?,
    };
    // Errors of the log itself are dropped: reporting them on the same stderr, which is full or
    // closed, would panic in whatever connection had something to say.
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter);
    match options.format {
        LogFormat::Text => registry.with(layer.with_target(false)).init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).init(),
    }
    Ok(())
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

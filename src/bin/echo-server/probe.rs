//! `echo-server probe`: runs a probe, reports it, and makes an exit code of it.

use std::process::ExitCode;

use echo_server::probe::{self, ProbeError, Summary};

use crate::cli::{Mode, Probe};
use crate::report::Report;
use crate::signals::Signals;

/// Some messages were lost, late or duplicated, or the connection failed.
const IMPERFECT: u8 = 1;
const USAGE: u8 = 2;
const NOT_CONNECTED: u8 = 3;
const TLS_FAILED: u8 = 4;
/// An answer differed from what was sent.
const DIFFERENT: u8 = 5;

pub fn run(probe: Probe) -> ExitCode {
    // A connection needs a descriptor or two. If there are too few, that is what it says.
    let _ = crate::descriptors::raise_limit();
    // A worker has room for 256 tasks in its queue. What is woken beyond that waits with those that
    // have no worker, until the queue is empty, which it may never be: of 1,000 connections some
    // would wait twenty times as long as others, and be reported so. If it takes 64 events at a
    // time and runs 128 tasks before it looks for more, there is room as a rule.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.max_io_events_per_tick(64).event_interval(128).enable_all();
    let runtime = match runtime.build() {
        Ok(runtime) => runtime,
        Err(error) => return crate::fail(IMPERFECT, &format!("no runtime: {error}")),
    };
    let report = Report::new(probe.target.clone(), probe.json);
    let outcome = runtime.block_on(execute(probe));
    // The look-up of a name cannot be interrupted.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) => {
            let code = match &error {
                ProbeError::Usage(_) | ProbeError::Credential(_) => USAGE,
                ProbeError::Tls(_) => TLS_FAILED,
                _ => NOT_CONNECTED,
            };
            let why = match &error {
                ProbeError::Credential(error) => crate::flags::credential_error(error),
                other => other.to_string(),
            };
            report.failure(&why);
            crate::fail(code, &why)
        }
    }
}

async fn execute(probe: Probe) -> Result<ExitCode, ProbeError> {
    let Probe { target, dial, messages, mode, json } = probe;
    let mut report = Report::new(target.clone(), json);
    let signals = Signals::catch();
    let stop = async {
        match signals {
            Ok(mut signals) => {
                signals.next().await;
                // Standard output may be stuck; a second signal need not be polite.
                tokio::spawn(async move {
                    signals.next().await;
                    std::process::exit(i32::from(IMPERFECT));
                });
            }
            // Then it cannot be stopped politely.
            Err(_) => std::future::pending().await,
        }
    };
    let summary = match mode {
        Mode::Ping(options) => {
            let told = |event: &_| report.event(event);
            probe::ping(&target, &dial, messages, &options, stop, told).await?
        }
        Mode::Load(options) => {
            let told = |progress| report.progress(progress, options.duration);
            probe::load(&target, &dial, messages, &options, stop, told).await?
        }
        Mode::FindMtu { timeout } => {
            let told = |size, came_back| report.tried(size, came_back);
            let found = tokio::select! {
                found = probe::find_mtu(&target, &dial, timeout, told) => found?,
                () = stop => return Ok(ExitCode::from(IMPERFECT)),
            };
            report.mtu(found);
            return Ok(if found.is_some() { ExitCode::SUCCESS } else { ExitCode::from(IMPERFECT) });
        }
    };
    report.summary(&summary);
    Ok(exit_code(&summary))
}

fn exit_code(summary: &Summary) -> ExitCode {
    match summary {
        summary if summary.corrupted > 0 => ExitCode::from(DIFFERENT),
        summary if summary.is_clean() => ExitCode::SUCCESS,
        _ => ExitCode::from(IMPERFECT),
    }
}

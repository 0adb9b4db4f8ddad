//! `echo-server probe`: runs a probe, reports it, and derives the exit code.

use std::process::ExitCode;

use echo_server::probe::{ProbeError, Summary};

use crate::cli::{Mode, Probe};
use crate::flags;
use crate::report::Report;
use crate::signals::Signals;

/// Some messages were lost, late or duplicated, or the connection failed.
const IMPERFECT: u8 = 1;
const USAGE: u8 = 2;
const NOT_CONNECTED: u8 = 3;
const TLS_FAILED: u8 = 4;
/// A reply differed from what was sent.
const DIFFERENT: u8 = 5;

pub fn run(probe: Probe) -> ExitCode {
    // If the limit stays too low for the connections, connecting fails and says so.
    let _ = crate::descriptors::raise_limit();
    // One thread: a ping that is woken by another thread would be measured with that. A load has
    // threads of its own.
    let runtime = match crate::threads::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return crate::fail(IMPERFECT, &format!("no runtime: {error}")),
    };
    let report = Report::new(&probe);
    let outcome = runtime.block_on(execute(probe));
    // A name is resolved by a blocking call that cannot be interrupted, so do not wait for it.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) => {
            let code = match &error {
                ProbeError::Setting { .. } | ProbeError::Credential(_) => USAGE,
                ProbeError::Tls { .. } => TLS_FAILED,
                _ => NOT_CONNECTED,
            };
            let reason = flags::probe_error(&error);
            report.failure(&reason);
            crate::fail(code, &reason)
        }
    }
}

async fn execute(command: Probe) -> Result<ExitCode, ProbeError> {
    let mut report = Report::new(&command);
    let Probe { probe, mode, .. } = command;
    let signals = Signals::catch();
    let stop = async {
        match signals {
            Ok(mut signals) => {
                signals.next().await;
                // The report may be blocked on standard output: a second signal ends it at once.
                tokio::spawn(async move {
                    signals.next().await;
                    std::process::exit(i32::from(IMPERFECT));
                });
            }
            // Then a signal ends the process without a summary.
            Err(_) => std::future::pending().await,
        }
    };
    let summary = match mode {
        Mode::Ping(options) => {
            let ping = probe.ping(options).until(stop).on_event(|event| report.event(&event));
            ping.run().await?
        }
        Mode::Load(options) => {
            let load = probe.load(options).until(stop).on_event(|event| report.event(&event));
            load.run().await?
        }
        Mode::FindMtu(options) => {
            let search = probe.find_mtu(options).on_event(|event| report.event(&event));
            let found = tokio::select! {
                found = search.run() => found?,
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
        summary if summary.corrupted() > 0 => ExitCode::from(DIFFERENT),
        summary if summary.is_clean() => ExitCode::SUCCESS,
        _ => ExitCode::from(IMPERFECT),
    }
}

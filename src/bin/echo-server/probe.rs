//! `echo-server probe`: runs a probe, reports it, and derives the exit code.

use std::process::ExitCode;
use std::sync::Arc;

use echo_server::probe::{Arrival, EchoCheck, Event, ProbeError, Summary};
use futures::FutureExt;
use futures::future::join_all;
use tokio::sync::Notify;

use crate::cli::{Mode, Probe};
use crate::flags;
use crate::report::Report;
use crate::signals::{Quits, Signals};

/// Some messages were lost, late or duplicated, or the connection failed.
const IMPERFECT: u8 = 1;
const USAGE: u8 = 2;
const NOT_CONNECTED: u8 = 3;
const TLS_FAILED: u8 = 4;
/// A reply differed from what was sent.
const DIFFERENT: u8 = 5;

pub fn run(probe: Probe) -> ExitCode {
    // If the limit stays too low for the connections, the load says so.
    let _ = crate::descriptors::raise_limit();
    // One thread: a ping that is woken by another thread would be measured with that. A load has
    // threads of its own.
    let runtime = match crate::threads::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return crate::fail(IMPERFECT, &format!("no runtime: {error}")),
    };
    let code = runtime.block_on(execute(probe));
    // A name is resolved by a blocking call that cannot be interrupted, so do not wait for it.
    runtime.shutdown_background();
    ExitCode::from(code)
}

async fn execute(Probe { probes, mode, output }: Probe) -> u8 {
    let stop = stop().boxed().shared();
    let asked: Vec<Arc<Notify>> = probes.iter().map(|_| Arc::default()).collect();
    // Without the signal, nobody can ask.
    if let Ok(mut quits) = Quits::catch() {
        let asked = asked.clone();
        tokio::spawn(async move {
            loop {
                quits.next().await;
                asked.iter().for_each(|asked| asked.notify_one());
            }
        });
    }
    let mut reports = Report::of_all(&probes, &mode, output);
    let runs = probes.iter().zip(&mut reports).zip(asked).map(async |((probe, report), asked)| {
        match &mode {
            Mode::Ping(options) => {
                let ping = probe.ping(options.clone()).until(stop.clone()).interim_on(asked);
                let ping = ping.on_event(|event| report.event(&event));
                Ok(Outcome::Summary(Box::new(ping.run().await?)))
            }
            Mode::Load(options) => {
                let load = probe.load(options.clone()).until(stop.clone());
                let load = load.on_event(|event| {
                    report.event(&event);
                    // Nothing but progress tells how far a load has come.
                    if matches!(event, Event::Progress(_))
                        && asked.notified().now_or_never().is_some()
                    {
                        report.interim();
                    }
                });
                Ok(Outcome::Summary(Box::new(load.run().await?)))
            }
            Mode::FindMtu(options) => {
                let search = probe.find_mtu(options.clone());
                let search = search.on_event(|event| report.event(&event));
                tokio::select! {
                    found = search.run() => Ok(Outcome::Mtu(found?)),
                    () = stop.clone() => Ok(Outcome::Stopped),
                }
            }
            Mode::Facts(options) => {
                let asked = probe.facts(options.clone()).until(stop.clone());
                let asked = asked.on_event(|event| report.event(&event));
                Ok(Outcome::Facts(Box::new(asked.run().await?)))
            }
        }
    });
    let outcomes = join_all(runs).await;
    let codes = reports.iter_mut().zip(outcomes).map(|(report, outcome)| conclude(report, outcome));
    codes.max().unwrap_or(USAGE)
}

/// Waits for the signal to stop.
async fn stop() {
    match Signals::catch() {
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
}

/// What came of one URL.
enum Outcome {
    Summary(Box<Summary>),
    /// The largest datagram, if there is one.
    Mtu(Option<usize>),
    /// What the server saw.
    Facts(Box<Arrival>),
    /// The search was stopped.
    Stopped,
}

/// Reports what came of a URL. Returns its exit code.
fn conclude(report: &mut Report, outcome: Result<Outcome, ProbeError>) -> u8 {
    match outcome {
        Ok(Outcome::Summary(summary)) => {
            report.summary(&summary);
            exit_code(&summary)
        }
        Ok(Outcome::Mtu(found)) => {
            report.mtu(found);
            if found.is_some() { 0 } else { IMPERFECT }
        }
        Ok(Outcome::Facts(arrival)) => {
            report.arrival(&arrival);
            match (&arrival.facts, &arrival.echo) {
                (Ok(_), Some(EchoCheck::Exact(_))) => 0,
                (Ok(_), Some(EchoCheck::Different(_) | EchoCheck::ProxyHeader)) => DIFFERENT,
                (Ok(_), _) => IMPERFECT,
                (Err(why), _) => {
                    crate::fail(IMPERFECT, &flags::no_facts(report.target(), why));
                    IMPERFECT
                }
            }
        }
        Ok(Outcome::Stopped) => IMPERFECT,
        Err(error) => {
            let code = match &error {
                ProbeError::Setting { .. } | ProbeError::Credential(_) => USAGE,
                ProbeError::Tls { .. } => TLS_FAILED,
                _ => NOT_CONNECTED,
            };
            let reason = flags::probe_error(&error);
            report.failure(&reason);
            crate::fail(code, &reason);
            code
        }
    }
}

fn exit_code(summary: &Summary) -> u8 {
    match summary {
        summary if summary.corrupted() > 0 => DIFFERENT,
        summary if summary.is_clean() => 0,
        _ => IMPERFECT,
    }
}

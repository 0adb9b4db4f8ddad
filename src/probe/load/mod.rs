//! Load: many connections at once, each with messages in flight or on a schedule, for a while.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `options` | what a load is asked to do |
//! | `workers` | the threads, each with a runtime, an engine and a share of the connections |
//! | `engine` | sends and receives on all connections of a thread |
//! | `schedule` | when messages are due |
//! | `ready` | which connections have something to do |
//! | `expiry` | which connection has a reply overdue next |

mod engine;
mod expiry;
mod options;
mod ready;
mod schedule;
#[cfg(test)]
mod tests;
mod workers;

use std::future::{Pending, pending};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::interval;

use self::workers::{Established, Workers};
use super::{Event, Probe, ProbeError, Summary, Times, ignore};

use crate::causes::PORT_UNREACHABLE;
use crate::config::Protocol;

pub use options::LoadOptions;

/// How often progress is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// How far a load has come in connecting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connecting {
    /// Connections that were established.
    pub established: usize,
    /// Connections that could not be.
    pub failed: usize,
    /// How many there are to be.
    pub wanted: usize,
}

/// How far a load has come.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Progress {
    /// Since the first message; behind the warm-up, since its end.
    pub elapsed: Duration,
    /// Whether this is the warm-up, which is not part of the summary.
    pub is_warm_up: bool,
    /// Messages sent.
    pub sent: u64,
    /// Replies received by the same moment, whatever their verdict.
    pub replies: u64,
    /// Connections that have failed or were closed; over UDP, errors.
    pub failures: u64,
    /// The round trips as they were at the last progress.
    pub rtt: Times,
}

/// A load that [`run`](Load::run) starts. [`Probe::load`] makes one.
///
/// The type parameters are those of [`until`](Load::until) and [`on_event`](Load::on_event).
#[must_use = "a load does nothing until it is run"]
pub struct Load<Stop = Pending<()>, OnEvent = fn(Event)> {
    probe: Probe,
    options: LoadOptions,
    stop: Stop,
    on_event: OnEvent,
}

impl Load {
    pub(super) fn new(probe: Probe, options: LoadOptions) -> Self {
        Load { probe, options, stop: pending(), on_event: ignore }
    }
}

impl<Stop, OnEvent> Load<Stop, OnEvent> {
    /// Ends the load when `stop` completes. Messages that are in flight then count as
    /// [unanswered](Summary::unanswered), not as lost.
    pub fn until<F: Future<Output = ()>>(self, stop: F) -> Load<F, OnEvent> {
        let Load { probe, options, on_event, .. } = self;
        Load { probe, options, stop, on_event }
    }

    /// Calls `on_event` with an [`Event::Connecting`] every 200 ms while there are connections to
    /// establish, then with an [`Event::Connected`] for one of them, and then with an
    /// [`Event::Progress`] every 200 ms.
    pub fn on_event<F: FnMut(Event)>(self, on_event: F) -> Load<Stop, F> {
        let Load { probe, options, stop, .. } = self;
        Load { probe, options, stop, on_event }
    }
}

impl<Stop: Future<Output = ()>, OnEvent: FnMut(Event)> Load<Stop, OnEvent> {
    /// Establishes the connections, sends until the duration is over, and returns the counts and
    /// times of all connections together. The connections belong to
    /// [threads](LoadOptions::threads) of the load's own, so that what else the caller's runtime does
    /// is not measured. If the load is stopped before they are established, the counts are all zero.
    ///
    /// # Errors
    /// An option is wrong, the process has not enough file descriptors for the connections, a
    /// certificate or key cannot be used, or not one connection could be established. If only some could not, or fail later, the summary has the reasons.
    ///
    /// # Panics
    /// If a thread of the load panics, which would be a bug.
    pub async fn run(self) -> Result<Summary, ProbeError> {
        let Load { probe, options, stop, mut on_event } = self;
        probe.messages.check(probe.target())?;
        options.check()?;
        let mut stop = pin!(stop);
        // The threads end when this is dropped.
        let mut workers = Workers::start(&probe, &options)?;
        let connecting = workers.connecting();
        let mut ticks = interval(PROGRESS_INTERVAL);
        // The first tick is over at once, and most loads have connected before the second.
        ticks.tick().await;
        let Established { connections, example, mut summary, failures } = {
            let mut established = pin!(workers.established());
            loop {
                tokio::select! {
                    established = &mut established => break established?,
                    () = &mut stop => return Ok(Summary::new(probe.messages.bytes())),
                    _ = ticks.tick() => on_event(Event::Connecting(Connecting {
                        established: connecting.established.load(Ordering::Relaxed),
                        failed: connecting.failed.load(Ordering::Relaxed),
                        wanted: options.connections,
                    })),
                }
            }
        };
        let mut last = None;
        let not_established = failures.len() as u64;
        for failure in failures {
            summary.fail(failure.to_string());
            last = Some(failure);
        }
        if let Some(failure) = last.filter(|_| connections == 0) {
            return Err(failure);
        }
        if let Some(example) = example {
            on_event(Event::Connected(Box::new(example)));
        }
        let start = workers.begin(connections);
        let mut ticks = interval(PROGRESS_INTERVAL);
        loop {
            tokio::select! {
                biased;
                () = workers.done(&mut summary) => break,
                () = &mut stop => {
                    workers.stop();
                    workers.done(&mut summary).await;
                    break;
                }
                _ = ticks.tick() => {
                    let (counts, elapsed) = (workers.counts(), start.elapsed());
                    let is_warm_up = elapsed < options.warm_up;
                    on_event(Event::Progress(Progress {
                        elapsed: if is_warm_up { elapsed } else { elapsed - options.warm_up },
                        is_warm_up,
                        sent: counts.sent,
                        replies: counts.replies,
                        failures: counts.failures + not_established,
                        rtt: workers.rtt(),
                    }));
                }
            }
        }
        if probe.target().protocol() == Protocol::Udp && is_refused(&summary) {
            return Err(ProbeError::port_unreachable(probe.target(), None));
        }
        Ok(summary)
    }
}

/// Whether nothing but "port unreachable" has come back.
fn is_refused(summary: &Summary) -> bool {
    let mut errors = summary.errors();
    let replies = summary.received() + summary.corrupted() + summary.duplicated();
    let first = errors.next();
    replies == 0
        && first.is_some_and(|(reason, _)| reason == PORT_UNREACHABLE)
        && errors.next().is_none()
}

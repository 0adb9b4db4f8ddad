//! Faults on purpose: what each connection does wrong, and when. Nothing here runs unless faults
//! are configured; then listeners have other types (`transport::WithFaults`).
//!
//! | file | what it holds |
//! | --- | --- |
//! | `plan` | the faults of one connection |
//! | `chance` | everything that is left to chance |
//! | `alarms` | timers that are exact to less than a millisecond |
//! | `line` | bytes on their way: delay, rate, slices |
//! | `frames` | WebSocket frames on their way: masks, bad text, where a Close frame fits |
//! | `corruption` | flipped bits |
//! | `stream` | a stream that misbehaves |
//! | `control` | what HTTP and such a stream know of each other |
//! | `request` | faults that a client asks for |
//! | `datagrams` | datagrams that misbehave |

mod alarms;
mod chance;
mod control;
mod corruption;
mod datagrams;
mod frames;
mod line;
mod plan;
mod request;
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(crate) use alarms::{Alarm, Alarms};
pub(crate) use chance::Chance;
pub(crate) use control::{Control, Misbehaving};
pub(crate) use datagrams::{Detour, Tally};
pub(crate) use plan::Plan;
use request::of_query;
pub(crate) use request::of_server_name;
pub(crate) use stream::{Faulty, STALL_LINGER};

use crate::config::{Fault, FaultError, FaultGroup, FaultPolicy, Protocol};
use crate::connection::Connection;

/// What a server does wrong on purpose.
#[derive(Debug)]
pub(crate) struct Faults {
    seed: u64,
    groups: Vec<FaultGroup>,
    /// The longest time that clients can ask for, if they can ask for faults at all.
    by_request: Option<Duration>,
    /// One for each worker.
    alarms: Vec<Arc<Alarms>>,
    /// How many UDP flows there have been.
    flows: AtomicU64,
    counts: [[AtomicU64; Fault::NAMES.len()]; Protocol::ALL.len()],
}

impl Faults {
    /// The faults of `policy`. `alarms` has one for each worker. No client can ask for a longer time
    /// than `most`.
    pub(crate) fn new(
        policy: &FaultPolicy,
        most: Duration,
        seed: u64,
        alarms: Vec<Arc<Alarms>>,
    ) -> Self {
        Faults {
            seed,
            groups: policy.groups.clone(),
            by_request: policy.by_request.then_some(policy.max_delay.min(most)),
            alarms,
            flows: AtomicU64::new(0),
            counts: Default::default(),
        }
    }

    /// Whether connections of `protocol` may have faults.
    pub(crate) fn concern(&self, protocol: Protocol) -> bool {
        let is_on = |group: &FaultGroup| group.protocol.is_none_or(|one| one == protocol);
        let can_ask =
            self.by_request.is_some() && !matches!(protocol, Protocol::Tcp | Protocol::Udp);
        can_ask || self.groups.iter().any(is_on)
    }

    /// What `protocol` does wrong, on one line for people.
    pub(crate) fn shown(&self, protocol: Protocol) -> String {
        let of_protocol = |group: &&FaultGroup| group.protocol.is_none_or(|one| one == protocol);
        let groups = self.groups.iter().filter(of_protocol);
        // The protocol is known.
        let shown = groups.map(|group| FaultGroup { protocol: None, ..group.clone() }.to_string());
        let by_request = self.by_request.map(|_| "what a request asks for".to_owned());
        shown.chain(by_request).collect::<Vec<_>>().join("; ")
    }

    /// The longest time that clients can ask for, if they can ask for faults.
    pub(crate) fn by_request(&self) -> Option<Duration> {
        self.by_request
    }

    /// What `connection` does wrong.
    pub(crate) fn plan(&self, connection: &Connection) -> Plan {
        self.plan_of(connection.protocol, connection.number)
    }

    /// What the connection or flow `number` of `protocol` does wrong.
    pub(crate) fn plan_of(&self, protocol: Protocol, number: u64) -> Plan {
        let chance = self.chance(protocol, number).about("share");
        let mut plan = Plan::default();
        for (at, group) in (0..).zip(&self.groups) {
            if group.protocol.is_none_or(|one| one == protocol) && chance.happens(at, group.share) {
                plan.extend(&group.faults);
            }
        }
        plan
    }

    /// What a request with this query asks for, if clients can ask.
    ///
    /// # Errors
    /// There cannot be such faults.
    pub(crate) fn ask(&self, protocol: Protocol, query: Option<&str>) -> Result<Plan, FaultError> {
        self.by_request.map_or(Ok(Plan::default()), |most| of_query(query, protocol, most))
    }

    /// What is left to chance in the connection or flow `number` of `protocol`.
    pub(crate) fn chance(&self, protocol: Protocol, number: u64) -> Chance {
        Chance::of(self.seed, protocol as u64, number)
    }

    /// The number of a new UDP flow: 1 for the first.
    pub(crate) fn next_flow(&self) -> u64 {
        self.flows.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// An alarm on a worker.
    pub(crate) fn alarm(&self, worker: u16) -> Alarm {
        Alarm::of(&self.alarms[usize::from(worker) % self.alarms.len()])
    }

    /// Counts that a fault was done.
    pub(crate) fn count(&self, protocol: Protocol, name: &str, times: u64) {
        if let Some(at) = Fault::NAMES.iter().position(|other| *other == name) {
            self.counts[protocol as usize][at].fetch_add(times, Ordering::Relaxed);
        }
    }

    /// How often each fault was done on `protocol`: of those that are configured for it, and of
    /// those that were done.
    pub(crate) fn counts(&self, protocol: Protocol) -> Vec<(Protocol, &'static str, u64)> {
        let is_configured = |name: &str| {
            self.groups.iter().any(|group| {
                group.protocol.is_none_or(|one| one == protocol)
                    && group.faults.iter().any(|fault| fault.name() == name)
            })
        };
        let counts = self.counts[protocol as usize].iter().zip(Fault::NAMES);
        counts
            .map(|(count, name)| (protocol, name, count.load(Ordering::Relaxed)))
            .filter(|(_, name, count)| *count > 0 || is_configured(name))
            .collect()
    }
}

//! One core for the servers, another for the load.
//!
//! A child inherits the CPU affinity of the thread that starts it, so that thread changes its own
//! and changes it back. Our runtime, like tokio's own, then starts one worker: as many as it has
//! cores.

use std::fmt;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

pub struct Cores {
    /// The load's core and the server's. `None` if there is only one, or affinity may not be set.
    split: Option<(usize, usize)>,
}

impl Cores {
    /// Takes the first core that we may use for this process, and keeps the last for servers.
    pub fn split() -> Cores {
        let allowed = sched_getaffinity(None).unwrap_or_default();
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let split = cores.next().zip(cores.next_back());
        let split = split.filter(|(load, _)| go_to(*load));
        Cores { split }
    }

    /// Does `work` on the servers' core.
    pub fn as_a_server<T>(&self, work: impl FnOnce() -> T) -> T {
        let Some((load, server)) = self.split else { return work() };
        go_to(server);
        let result = work();
        go_to(load);
        result
    }
}

fn go_to(core: usize) -> bool {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).is_ok()
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.split {
            Some((load, server)) => write!(f, "load on core {load}, server on core {server}"),
            None => f.write_str("load and server share all cores"),
        }
    }
}

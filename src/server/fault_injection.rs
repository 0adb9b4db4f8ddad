//! Sets up what a server does wrong on purpose.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tracing::warn;

use super::placement::Workers;
use crate::config::{Config, FaultPolicy, Protocol};
use crate::error::StartError;
use crate::faults::{Alarms, Faults};

/// The faults of a server, and the tasks that ring their alarms, which end when this is dropped.
#[derive(Debug)]
pub(super) struct FaultInjection {
    seed: u64,
    faults: Arc<Faults>,
    watches: Vec<AbortHandle>,
}

impl FaultInjection {
    /// Prepares the faults of `config`, on the runtimes of `workers`; `None` if there are none.
    ///
    /// # Errors
    /// The system has no timer left.
    pub(super) fn start(config: &Config, workers: &Workers) -> Result<Option<Self>, StartError> {
        let policy = &config.faults;
        if policy.groups.is_empty() && !policy.by_request {
            return Ok(None);
        }
        let (mut all, mut watches) = (Vec::new(), Vec::new());
        for runtime in workers.threads() {
            let _guard = runtime.enter();
            let (alarms, watch) = Alarms::new().map_err(|source| StartError::System {
                problem: "could not create a timer for delays on purpose".to_owned(),
                source,
            })?;
            watches.push(runtime.spawn(watch).abort_handle());
            all.push(alarms);
        }
        // The standard library seeds its hashers at random.
        let most = config.timeouts.stall.unwrap_or(Duration::MAX);
        let seed = policy.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        let faults = Arc::new(Faults::new(policy, most, seed, all));
        Ok(Some(FaultInjection { seed, faults, watches }))
    }

    /// Warns of the faults of `policy`: somebody may have forgotten a flag, and would look for the
    /// cause elsewhere.
    pub(super) fn announce(&self, policy: &FaultPolicy) {
        let seed = self.seed;
        for group in &policy.groups {
            warn!(faults = %group, seed, "Faults on purpose");
        }
        if policy.by_request {
            let max_delay = humantime::format_duration(policy.max_delay);
            warn!(%max_delay, seed, "Faults on purpose, whenever a client asks for some");
        }
    }

    pub(super) fn faults(&self) -> Arc<Faults> {
        Arc::clone(&self.faults)
    }

    /// What is done wrong on `protocol`, if anything is.
    pub(super) fn on(&self, protocol: Protocol) -> Option<Arc<Faults>> {
        self.faults.concern(protocol).then(|| self.faults())
    }
}

impl Drop for FaultInjection {
    fn drop(&mut self) {
        self.watches.iter().for_each(AbortHandle::abort);
    }
}

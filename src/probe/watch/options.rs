//! How targets are watched.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

/// How often targets are probed, and which of them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WatchOptions {
    /// From one round of a target to its next. Names are looked up, and files looked at, as often. At
    /// least 1 millisecond, and at most a year. 10 seconds.
    pub every: Duration,
    /// How many messages a round sends, at least 1. 5.
    pub count: u32,
    /// How long to wait for a reply. A round is over before the next one begins, whatever it waits for.
    /// 2 seconds.
    pub timeout: Duration,
    /// Whether each address of a name is a target of its own. `false`: a round connects to the name,
    /// and takes the first address that answers.
    pub resolve_all: bool,
    /// Of how many members this one probes the targets. A member is an address, or a name where
    /// addresses are not told apart. They are chosen so that, if all members watch each other, each is
    /// probed by about as many; who is several members itself probes as many for each. `None`: of all.
    pub peers: Option<NonZeroUsize>,
    /// Who probes, as metrics name it.
    pub source: String,
    /// Where this process itself can be reached, so that it leaves out its own addresses. An
    /// unspecified address stands for all addresses of the machine. None.
    pub own: Vec<SocketAddr>,
}

impl WatchOptions {
    /// The defaults. `source` is who probes, such as the name of the host.
    pub fn new(source: impl Into<String>) -> Self {
        WatchOptions {
            every: Duration::from_secs(10),
            count: 5,
            timeout: Duration::from_secs(2),
            resolve_all: false,
            peers: None,
            source: source.into(),
            own: Vec::new(),
        }
    }

    /// Sets [`WatchOptions::every`].
    #[must_use]
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every.max(Duration::from_millis(1));
        self
    }

    /// Sets [`WatchOptions::count`].
    #[must_use]
    pub fn count(mut self, messages: u32) -> Self {
        self.count = messages.max(1);
        self
    }

    /// Sets [`WatchOptions::timeout`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets [`WatchOptions::resolve_all`].
    #[must_use]
    pub fn resolve_all(mut self) -> Self {
        self.resolve_all = true;
        self
    }

    /// Sets [`WatchOptions::peers`].
    #[must_use]
    pub fn peers(mut self, members: NonZeroUsize) -> Self {
        self.peers = Some(members);
        self
    }

    /// Adds to [`WatchOptions::own`].
    #[must_use]
    pub fn own(mut self, address: impl Into<SocketAddr>) -> Self {
        self.own.push(address.into());
        self
    }
}

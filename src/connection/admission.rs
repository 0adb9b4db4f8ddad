//! The limits on connections: on all together, and on those of one network.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Counts the admitted connections.
#[derive(Debug)]
pub(crate) struct Admission {
    max: usize,
    max_per_network: Option<usize>,
    admitted: AtomicUsize,
    /// Empty without a limit per network. With one, it has an entry for each network that has a
    /// connection, so never more entries than connections.
    by_network: Mutex<HashMap<Network, usize>>,
}

/// Why a connection was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[repr(usize)]
pub(crate) enum Refusal {
    #[error("the limit on connections is reached")]
    Full,
    #[error("the limit on connections of one address is reached")]
    NetworkFull,
}

impl Refusal {
    /// All of them, in their order.
    pub(crate) const ALL: [Refusal; 2] = [Refusal::Full, Refusal::NetworkFull];

    /// Its name in metrics: that of the limit.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Refusal::Full => "max_connections",
            Refusal::NetworkFull => "max_connections_per_ip",
        }
    }
}

impl Admission {
    pub(crate) fn new(max: usize, max_per_network: Option<usize>) -> Self {
        Admission {
            max,
            max_per_network,
            admitted: AtomicUsize::new(0),
            by_network: Mutex::new(HashMap::new()),
        }
    }

    /// The number of admitted connections.
    pub(crate) fn admitted(&self) -> usize {
        self.admitted.load(Ordering::Relaxed)
    }

    /// Admits a connection until the permit is dropped. Without an IP address, a peer counts
    /// towards the limit on all connections only.
    pub(crate) fn admit(self: &Arc<Self>, peer: Option<IpAddr>) -> Result<Permit, Refusal> {
        // Counting comes before comparing, so that two threads cannot both take the last place. On
        // every return, dropping the permit gives the place back.
        let before = self.admitted.fetch_add(1, Ordering::Relaxed);
        let mut permit = Permit { admission: Arc::clone(self), network: None };
        if before >= self.max {
            return Err(Refusal::Full);
        }
        permit.count_for(peer)?;
        Ok(permit)
    }
}

/// Counts an admitted connection until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    /// Set if there is a limit per network. Boxed to keep sessions small: few servers have one.
    network: Option<Box<Network>>,
}

impl Permit {
    /// Counts an admitted connection towards the limit of its peer's network, too: for a peer that
    /// was not known when the connection was admitted.
    pub(super) fn count_for(&mut self, peer: Option<IpAddr>) -> Result<(), Refusal> {
        let (Some(max), Some(peer)) = (self.admission.max_per_network, peer) else { return Ok(()) };
        debug_assert!(self.network.is_none(), "a connection counts for one network");
        let network = Network::of(peer);
        let by_network = &self.admission.by_network;
        let mut by_network = by_network.lock().unwrap_or_else(PoisonError::into_inner);
        // The lookup inserts nothing: a network whose connections are all refused leaves no entry
        // behind.
        let connections = by_network.get(&network).copied().unwrap_or(0);
        if connections >= max {
            return Err(Refusal::NetworkFull);
        }
        by_network.insert(network, connections + 1);
        self.network = Some(Box::new(network));
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.admitted.fetch_sub(1, Ordering::Relaxed);
        let Some(network) = self.network.take() else { return };
        let by_network = &self.admission.by_network;
        let mut by_network = by_network.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = by_network.entry(*network) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// What counts as one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Network {
    V4(Ipv4Addr),
    /// The first 64 bits of an IPv6 address: a client usually has a whole /64.
    V6(u64),
}

impl Network {
    fn of(peer: IpAddr) -> Network {
        // A dual-stack listener shows IPv4 clients as ::ffff:a.b.c.d, all in one /64.
        match peer.to_canonical() {
            IpAddr::V4(address) => Network::V4(address),
            IpAddr::V6(address) => Network::V6((address.to_bits() >> 64) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn a_place_is_free_again_when_its_permit_is_dropped() {
        let admission = Arc::new(Admission::new(2, None));
        let first = admission.admit(ip("127.0.0.1")).unwrap();
        let _second = admission.admit(ip("127.0.0.1")).unwrap();
        for _ in 0..3 {
            assert_eq!(admission.admit(ip("127.0.0.1")).unwrap_err(), Refusal::Full);
        }
        drop(first);
        admission.admit(ip("127.0.0.1")).unwrap();
    }

    #[test]
    fn a_network_has_its_own_limit() {
        let admission = Arc::new(Admission::new(100, Some(1)));
        let same =
            [("192.0.2.1", "::ffff:192.0.2.1"), ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff")];
        for (one, other) in same {
            let permit = admission.admit(ip(one)).unwrap();
            assert_eq!(admission.admit(ip(other)).unwrap_err(), Refusal::NetworkFull);
            drop(permit);
            drop(admission.admit(ip(other)).unwrap());
        }
        let _one = admission.admit(ip("192.0.2.1")).unwrap();
        let _neighbour = admission.admit(ip("192.0.2.2")).unwrap();
        let _six = admission.admit(ip("2001:db8::1")).unwrap();
        let _other_six = admission.admit(ip("2001:db8:0:1::1")).unwrap();
    }

    #[test]
    fn a_peer_that_is_known_later_counts_from_then_on() {
        let admission = Arc::new(Admission::new(100, Some(1)));
        let [mut first, mut second] = [(); 2].map(|()| admission.admit(None).unwrap());
        first.count_for(ip("192.0.2.1")).unwrap();
        assert_eq!(second.count_for(ip("192.0.2.1")).unwrap_err(), Refusal::NetworkFull);
        drop(first);
        second.count_for(ip("192.0.2.1")).unwrap();
        drop(second);
        assert!(admission.by_network.lock().unwrap().is_empty());
        assert_eq!(admission.admitted(), 0);
    }

    #[test]
    fn nothing_is_kept_of_a_network_that_is_refused() {
        let admission = Arc::new(Admission::new(100, Some(0)));
        for host in 0..200 {
            let refused = admission.admit(Some(IpAddr::from([10, 0, 0, host]))).unwrap_err();
            assert_eq!(refused, Refusal::NetworkFull);
        }
        assert!(admission.by_network.lock().unwrap().is_empty());
        assert_eq!(admission.admitted(), 0);
    }

    #[test]
    fn nothing_is_kept_of_a_network_that_left() {
        let admission = Arc::new(Admission::new(100, Some(1)));
        for host in 0..200 {
            drop(admission.admit(Some(IpAddr::from([10, 0, 0, host]))));
        }
        assert!(admission.by_network.lock().unwrap().is_empty());
    }
}

//! The members of a mesh, and which of them this one probes.
//!
//! Each of n members probes K others, so that there are n·K pairs and not n². They are chosen on K rings,
//! on each of which all members stand in another order, by hash: a member probes the next one on each
//! ring. Nobody has to agree on anything but the list of members, a member that comes or goes changes
//! one pair on each ring, and every member has one that probes it on every ring. Rendezvous hashing, by
//! which each would choose the K of the highest hash, gives no such bound: with n = 1,000 and K = 8 one
//! member in 3,000 is probed by nobody.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use super::hash::stable;

/// A host: an address, whatever names have it, or a name whose addresses are not told apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Member {
    Address(IpAddr),
    Name(String),
}

impl Member {
    /// What all members have to call it alike.
    fn identity(&self) -> String {
        match self {
            Member::Address(address) => address.to_string(),
            Member::Name(name) => name.clone(),
        }
    }
}

/// The members that are to be probed: `peers` of `others`, or all. `own` are the identities that this
/// one has among the members, and each of them is a place on the rings: whoever has two addresses is two
/// members, and probes twice as many. Without any, `source` stands for it.
pub(super) fn choose(
    others: &BTreeSet<Member>,
    peers: Option<usize>,
    own: &BTreeSet<IpAddr>,
    source: &str,
) -> BTreeSet<Member> {
    let Some(peers) = peers.filter(|peers| *peers < others.len()) else { return others.clone() };
    let mut here: Vec<_> = own.iter().map(IpAddr::to_string).collect();
    if here.is_empty() {
        here.push(source.to_owned());
    }
    let mut chosen = BTreeSet::new();
    for ring in 0..peers as u64 {
        let ring = ring.to_be_bytes();
        let place = |identity: &str| stable(&[&ring, identity.as_bytes()]);
        let places: Vec<_> =
            others.iter().map(|member| (place(&member.identity()), member)).collect();
        for here in &here {
            let start = place(here);
            // One that an earlier ring has chosen already makes room for the next.
            let free = places.iter().filter(|(_, member)| !chosen.contains(*member));
            // Behind the last comes the first, which is what the subtraction wraps to.
            let next = free.min_by_key(|(place, _)| place.wrapping_sub(start));
            chosen.extend(next.map(|(_, member)| (*member).clone()));
        }
    }
    chosen
}

/// Whether `address` is one of this process, which listens at `own`.
pub(super) fn is_own(own: &[SocketAddr], address: IpAddr) -> bool {
    own.iter().any(|own| match own.ip() {
        ip if ip.is_unspecified() => address.is_loopback() || is_of_this_machine(address),
        ip => ip == address,
    })
}

/// Whether the system sends to `address` from `address` itself, as it does for its own ones. Nothing is
/// sent to find out.
fn is_of_this_machine(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind((any, 0))?;
        // The port is of no account; discard is one that nobody minds.
        socket.connect((address, 9))?;
        Ok(socket.local_addr()?.ip())
    };
    source().is_ok_and(|source| source == address)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn members(count: u32) -> BTreeSet<Member> {
        let address = |n: u32| IpAddr::from([10, 0, (n >> 8) as u8, n as u8]);
        (0..count).map(|n| Member::Address(address(n))).collect()
    }

    fn ip(member: &Member) -> Option<IpAddr> {
        match member {
            Member::Address(ip) => Some(*ip),
            Member::Name(_) => None,
        }
    }

    /// Whom each of `all` probes.
    fn pairs(all: &BTreeSet<Member>, peers: usize) -> BTreeMap<Member, BTreeSet<Member>> {
        let choice = |member: &Member| {
            let mut others = all.clone();
            others.remove(member);
            let own = BTreeSet::from_iter(ip(member));
            (member.clone(), choose(&others, Some(peers), &own, "irrelevant"))
        };
        all.iter().map(choice).collect()
    }

    #[test]
    fn each_of_many_probes_k_others_and_is_probed_by_about_as_many() {
        let pairs = pairs(&members(300), 8);
        let mut probed: BTreeMap<&Member, usize> = BTreeMap::new();
        for (member, chosen) in &pairs {
            assert_eq!(chosen.len(), 8);
            assert!(!chosen.contains(member));
            chosen.iter().for_each(|other| *probed.entry(other).or_default() += 1);
        }
        assert_eq!(probed.len(), 300);
        let (least, most) = (probed.values().min().unwrap(), probed.values().max().unwrap());
        assert!((6..=8).contains(least) && (8..=10).contains(most), "{least} to {most}");
    }

    #[test]
    fn whoever_has_two_addresses_is_probed_at_both() {
        let host = |n: u8| {
            [IpAddr::from([10, 0, 0, n]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n.into()])]
        };
        let all: BTreeSet<_> = (0..60).flat_map(host).map(Member::Address).collect();
        let mut probed: BTreeMap<Member, usize> = BTreeMap::new();
        for n in 0..60 {
            let own = BTreeSet::from(host(n));
            let others = all.iter().filter(|other| !own.contains(&ip(other).unwrap()));
            let chosen = choose(&others.cloned().collect(), Some(3), &own, "irrelevant");
            assert_eq!(chosen.len(), 6);
            chosen.into_iter().for_each(|other| *probed.entry(other).or_default() += 1);
        }
        assert_eq!(probed.len(), 120);
        assert!(probed.values().all(|count| (2..=6).contains(count)), "{probed:?}");
    }

    #[test]
    fn one_that_leaves_changes_few_pairs() {
        let all = members(100);
        let before = pairs(&all, 8);
        let gone = all.first().unwrap().clone();
        let mut rest = all.clone();
        rest.remove(&gone);
        let after = pairs(&rest, 8);
        let added = |(member, chosen): (&Member, &BTreeSet<Member>)| {
            chosen.difference(&before[member]).count()
        };
        // Whoever probed it takes another: eight pairs, and seldom one that follows from them.
        let changed: usize = after.iter().map(added).sum();
        assert!((6..=12).contains(&changed), "{changed}");
    }

    #[test]
    fn all_are_chosen_if_there_are_no_more() {
        let all = members(3);
        assert_eq!(choose(&all, None, &BTreeSet::new(), "here"), all);
        assert_eq!(choose(&all, Some(3), &BTreeSet::new(), "here"), all);
        assert_eq!(choose(&all, Some(2), &BTreeSet::new(), "here").len(), 2);
    }

    #[test]
    fn the_addresses_of_a_listener_are_its_own() {
        let one: SocketAddr = "127.0.1.7:80".parse().unwrap();
        assert!(is_own(&[one], "127.0.1.7".parse().unwrap()));
        assert!(!is_own(&[one], "127.0.0.1".parse().unwrap()));
        let all: SocketAddr = "0.0.0.0:80".parse().unwrap();
        assert!(is_own(&[all], "127.0.0.1".parse().unwrap()));
        // Debian gives it to the host's name; packets to it come from 127.0.0.1.
        assert!(is_own(&[all], "127.0.1.1".parse().unwrap()));
        // TEST-NET-1 is nobody's (RFC 5737).
        assert!(!is_own(&[all], "192.0.2.1".parse().unwrap()));
        assert!(!is_own(&[], "127.0.0.1".parse().unwrap()));
    }
}

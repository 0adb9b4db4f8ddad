//! Which targets at which addresses there are to be probed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::WatchOptions;
use super::board::Key;
use super::members::{Member, choose, is_own};
use crate::probe::{Endpoint, Target};

/// The addresses of each name that has been looked up; none, if that has failed and never succeeded.
pub(super) type Addresses = BTreeMap<String, BTreeSet<IpAddr>>;

/// What is to be probed, and what else is known of the members.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) probed: BTreeMap<Key, Arc<Target>>,
    /// The addresses of all members but this one.
    pub(super) members: BTreeSet<IpAddr>,
    /// Those of this one.
    pub(super) own: BTreeSet<IpAddr>,
}

/// The names of `targets` that have to be looked up.
pub(super) fn names(targets: &[Arc<Target>], options: &WatchOptions) -> BTreeSet<String> {
    let name = |target: &Arc<Target>| match target.endpoint() {
        Endpoint::Host { name, .. } if is_looked_up(name) => Some(name.clone()),
        _ => None,
    };
    targets.iter().filter_map(name).filter(|_| options.resolve_all).collect()
}

/// Whether addresses are looked up for `name`. One of a link, with the name of an interface, is none that
/// could be given to another socket as it is.
fn is_looked_up(name: &str) -> bool {
    name.parse::<IpAddr>().is_err() && !name.contains('%')
}

impl Plan {
    pub(super) fn new(
        targets: &[Arc<Target>],
        addresses: &Addresses,
        options: &WatchOptions,
    ) -> Self {
        let mut plan = Plan::default();
        // Each target at each of its addresses, under the member that it is.
        let mut all: BTreeMap<Member, Vec<(Key, Arc<Target>)>> = BTreeMap::new();
        let mut is_own_already = BTreeMap::new();
        for target in targets {
            let url: Arc<str> = target.to_string().into();
            for (member, address) in places(target, addresses, options.resolve_all) {
                if let Member::Address(ip) = member {
                    let is_own =
                        *is_own_already.entry(ip).or_insert_with(|| is_own(&options.own, ip));
                    if is_own {
                        plan.own.insert(ip);
                        continue;
                    }
                    plan.members.insert(ip);
                }
                let key = (Arc::clone(&url), address);
                all.entry(member).or_default().push((key, Arc::clone(target)));
            }
        }
        let others = all.keys().cloned().collect();
        let peers = options.peers.map(usize::from);
        for member in choose(&others, peers, &plan.own, &options.source) {
            plan.probed.extend(all.remove(&member).unwrap_or_default());
        }
        plan
    }
}

/// The hosts that `target` means. A name that has no addresses is one itself: its round shows what is
/// wrong with it. One that has not been looked up yet is none.
fn places(
    target: &Target,
    addresses: &Addresses,
    resolves_all: bool,
) -> Vec<(Member, Option<SocketAddr>)> {
    let (name, port) = match target.endpoint() {
        Endpoint::Host { name, port } => (name.clone(), *port),
        Endpoint::Unix(address) => (address.to_string(), 0),
    };
    let at = |ip: IpAddr| (Member::Address(ip), Some(SocketAddr::new(ip, port)));
    if let Ok(ip) = name.parse() {
        return vec![at(ip)];
    }
    match addresses.get(&name) {
        Some(known) if !known.is_empty() => known.iter().copied().map(at).collect(),
        None if resolves_all
            && matches!(target.endpoint(), Endpoint::Host { .. })
            && is_looked_up(&name) =>
        {
            Vec::new()
        }
        _ => vec![(Member::Name(name.clone()), None)],
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn targets(urls: &[&str]) -> Vec<Arc<Target>> {
        urls.iter().map(|url| Arc::new(url.parse().unwrap())).collect()
    }

    fn addresses(name: &str, ips: &[&str]) -> Addresses {
        let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        Addresses::from([(name.to_owned(), ips)])
    }

    fn probed(plan: &Plan) -> Vec<String> {
        let text = |(url, address): &Key| match address {
            Some(address) => format!("{url} {address}"),
            None => url.to_string(),
        };
        plan.probed.keys().map(text).collect()
    }

    #[test]
    fn each_address_of_a_name_is_a_target_but_for_our_own() {
        let targets = targets(&["tcp://m:1", "udp://m:2"]);
        let known = addresses("m", &["10.0.0.1", "10.0.0.2"]);
        let options = WatchOptions::new("here").resolve_all().own(([10, 0, 0, 1], 1));
        assert_eq!(names(&targets, &options), BTreeSet::from(["m".to_owned()]));
        let plan = Plan::new(&targets, &known, &options);
        assert_eq!(probed(&plan), ["tcp://m:1 10.0.0.2:1", "udp://m:2 10.0.0.2:2"]);
        assert_eq!(plan.own, BTreeSet::from(["10.0.0.1".parse().unwrap()]));
        assert_eq!(plan.members, BTreeSet::from(["10.0.0.2".parse().unwrap()]));
    }

    #[test]
    fn a_name_is_a_target_itself_if_it_was_looked_up_in_vain_and_not_before() {
        let targets = targets(&["tcp://m:1"]);
        let options = WatchOptions::new("here").resolve_all();
        assert!(Plan::new(&targets, &Addresses::new(), &options).probed.is_empty());
        let plan = Plan::new(&targets, &addresses("m", &[]), &options);
        assert_eq!(probed(&plan), ["tcp://m:1"]);
    }

    #[test]
    fn what_has_no_known_address_is_probed_by_its_name() {
        let targets = targets(&["tcp://m:1", "tcp://[::1]:1", "tcp+unix:///run/e", "tcp://m:1"]);
        let options = WatchOptions::new("here");
        assert!(names(&targets, &options).is_empty());
        let plan = Plan::new(&targets, &Addresses::new(), &options);
        assert_eq!(probed(&plan), ["tcp+unix:///run/e", "tcp://[::1]:1 [::1]:1", "tcp://m:1"]);
    }

    #[test]
    fn a_peer_is_probed_over_all_protocols_or_none() {
        let targets = targets(&["tcp://m:1", "udp://m:2"]);
        let known = addresses("m", &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        let options = WatchOptions::new("here").resolve_all().peers(NonZeroUsize::MIN);
        let plan = Plan::new(&targets, &known, &options);
        let ips: BTreeSet<_> =
            plan.probed.keys().map(|(_, address)| address.unwrap().ip()).collect();
        assert_eq!((plan.probed.len(), ips.len(), plan.members.len()), (2, 1, 3));
    }
}

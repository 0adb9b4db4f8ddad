//! Who is who: rows of several hosts are put together, and everything gets one name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::row::{Cell, Row};
use super::text::natural;

/// The names that addresses have had, so that a host which has fallen silent is known by its name.
pub(super) type Names = BTreeMap<IpAddr, String>;

/// What a column is: a host at an address, or by the name that is probed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Address(IpAddr),
    Name(String),
}

impl Place {
    /// The host that `cell` is about.
    fn of(cell: &Cell) -> Place {
        cell.address.map_or_else(|| Place::of_target(cell), |address| Place::Address(address.ip()))
    }

    /// What `cell` is about, by its URL, and its address where the URL does not name it.
    fn of_target(cell: &Cell) -> Place {
        let (_, rest) = cell.target.split_once("://").unwrap_or(("", &cell.target));
        let rest = rest.trim_end_matches('/');
        Place::Name(match cell.address {
            Some(address) if !rest.starts_with(&address.to_string()) => {
                format!("{rest} ({})", address.ip())
            }
            _ => rest.to_owned(),
        })
    }
}

/// Everything that is known, by names.
#[derive(Debug)]
pub(super) struct Picture {
    /// The host that draws, and from one of its rounds to the next, in seconds.
    pub(super) here: String,
    pub(super) every: f64,
    /// What the names of all hosts end in behind their first dot, and is left out of them here.
    pub(super) domain: Option<String>,
    /// What each host knows, or why that is not known, in the order of their names.
    pub(super) rows: Vec<(String, Result<Row, String>)>,
    /// The names of the hosts at these addresses.
    pub(super) names: Names,
    /// How many addresses each name has.
    addresses: BTreeMap<String, usize>,
}

/// A target as one source sees it.
#[derive(Debug, Clone)]
pub(super) struct Pair<'a> {
    pub(super) source: &'a str,
    pub(super) target: String,
    pub(super) place: Place,
    pub(super) cell: &'a Cell,
}

impl Picture {
    /// Puts the row of this host together with those of `others`, which were asked at these addresses.
    /// `before` are names of an earlier picture.
    pub(super) fn new(
        own: Row,
        others: Vec<(SocketAddr, Result<Row, String>)>,
        before: &Names,
    ) -> Self {
        let every = own.every;
        let mut hosts: Vec<(BTreeSet<IpAddr>, Row)> = vec![(BTreeSet::new(), own)];
        let mut silent = Vec::new();
        for (address, row) in others {
            let row = match row {
                Ok(row) => row,
                Err(why) => {
                    silent.push((address.ip(), why));
                    continue;
                }
            };
            // A host that has several addresses has told the same row several times.
            let is_same = |known: &Row| known.source == row.source && known.own == row.own;
            match hosts.iter_mut().find(|(_, known)| is_same(known)) {
                Some((addresses, _)) => {
                    addresses.insert(address.ip());
                }
                None => hosts.push((BTreeSet::from([address.ip()]), row)),
            }
        }

        let domain = common_domain(hosts.iter().map(|(_, row)| &*row.source));
        if let Some(domain) = &domain {
            for (_, row) in &mut hosts {
                row.source.truncate(row.source.len() - domain.len() - 1);
            }
        }
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        hosts.iter().for_each(|(_, row)| *count.entry(row.source.clone()).or_default() += 1);
        let mut names = Names::new();
        let mut said = Names::new();
        let mut here = String::new();
        let mut rows = Vec::new();
        for (at, (addresses, row)) in hosts.into_iter().enumerate() {
            let address = addresses.first().or(row.own.first());
            let name = match address {
                Some(address) if count[&row.source] > 1 => format!("{} ({address})", row.source),
                _ => row.source.clone(),
            };
            // Whom an address led to counts for more than what somebody says of it.
            names.extend(addresses.into_iter().map(|ip| (ip, name.clone())));
            said.extend(row.own.iter().map(|ip| (*ip, name.clone())));
            if at == 0 {
                here.clone_from(&name);
            }
            rows.push((name, Ok(row)));
        }
        for (ip, name) in said {
            names.entry(ip).or_insert(name);
        }
        for (ip, why) in silent {
            if names.contains_key(&ip) {
                continue; // It has told its row at another address.
            }
            let is_free = |name: &&String| rows.iter().all(|(other, _)| other != *name);
            match before.get(&ip).filter(is_free).cloned() {
                Some(name) => {
                    names.insert(ip, name.clone());
                    rows.push((name, Err(why)));
                }
                None => rows.push((ip.to_string(), Err(why))),
            }
        }
        rows.sort_by(|(a, _), (b, _)| natural(a).cmp(&natural(b)));
        let mut addresses: BTreeMap<String, usize> = BTreeMap::new();
        names.values().for_each(|name| *addresses.entry(name.clone()).or_default() += 1);
        Picture { here, every, domain, rows, names, addresses }
    }

    /// The name of a column. If a host has several addresses, they tell its columns apart.
    pub(super) fn name(&self, place: &Place) -> String {
        match place {
            Place::Name(name) => name.clone(),
            Place::Address(ip) => match self.names.get(ip) {
                None => ip.to_string(),
                Some(name) if self.addresses[name] > 1 => format!("{name} ({ip})"),
                Some(name) => name.clone(),
            },
        }
    }

    pub(super) fn pairs(&self) -> Vec<Pair<'_>> {
        let mut names = BTreeMap::new();
        let mut pairs = Vec::new();
        // A host of a mesh is one target of each protocol. Where it is several, each is a column.
        let mut count: BTreeMap<(&str, &str, Place), usize> = BTreeMap::new();
        for (source, row) in &self.rows {
            for cell in row.iter().flat_map(|row| &row.cells) {
                *count.entry((source, &cell.protocol, Place::of(cell))).or_default() += 1;
            }
        }
        for (source, row) in &self.rows {
            for cell in row.iter().flat_map(|row| &row.cells) {
                let place = match Place::of(cell) {
                    place if count[&(&**source, &*cell.protocol, place.clone())] == 1 => place,
                    _ => Place::of_target(cell),
                };
                let name = names.entry(place.clone()).or_insert_with(|| self.name(&place));
                pairs.push(Pair { source, target: name.clone(), place, cell });
            }
        }
        pairs
    }
}

/// What all of several names have behind their first dot.
fn common_domain<'a>(mut names: impl Iterator<Item = &'a str>) -> Option<String> {
    let is_address = |name: &str| name.parse::<IpAddr>().is_ok();
    let domain = |name: &'a str| {
        name.split_once('.').filter(|_| !is_address(name)).map(|(_, domain)| domain)
    };
    let first = domain(names.next()?).filter(|domain| !domain.is_empty())?;
    let mut others = names.peekable();
    others.peek()?;
    others.all(|name| domain(name) == Some(first)).then(|| first.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn row(source: &str, own: &[&str]) -> Row {
        let own = own.iter().map(|text| ip(text)).collect();
        Row { source: source.to_owned(), every: 10.0, own, cells: Vec::new() }
    }

    fn picture(own: Row, others: Vec<(&str, Result<Row, String>)>, before: &Names) -> Picture {
        let others = others.into_iter().map(|(at, row)| (SocketAddr::new(ip(at), 8082), row));
        Picture::new(own, others.collect(), before)
    }

    fn names(picture: &Picture) -> Vec<&str> {
        picture.rows.iter().map(|(name, _)| &**name).collect()
    }

    #[test]
    fn a_host_with_two_addresses_is_one_row_and_two_columns() {
        let b = row("b", &["10.0.0.2", "fd00::2"]);
        let at_both = vec![("10.0.0.2", Ok(b.clone())), ("fd00::2", Ok(b.clone()))];
        let of_one = vec![("10.0.0.2", Ok(b)), ("fd00::2", Err("no answer".to_owned()))];
        for others in [at_both, of_one] {
            let picture = picture(row("a", &["10.0.0.1"]), others, &Names::new());
            assert_eq!(names(&picture), ["a", "b"]);
            assert_eq!(picture.name(&Place::Address(ip("fd00::2"))), "b (fd00::2)");
            assert_eq!(picture.name(&Place::Address(ip("10.0.0.1"))), "a");
        }
    }

    #[test]
    fn several_targets_at_one_host_are_several_columns() {
        let cell = |target: &str| {
            let json = format!(
                r#"{{"protocol": "tcp", "target": "{target}", "address": "10.0.0.2:1", "up": true}}"#
            );
            Row::parse(format!(r#"{{"source": "a", "targets": [{json}]}}"#).as_bytes()).unwrap()
        };
        let mut own = cell("tcp://h:1");
        own.cells.extend(cell("tcp://10.0.0.2:1").cells);
        let picture = picture(own, Vec::new(), &Names::new());
        let targets: Vec<_> = picture.pairs().into_iter().map(|pair| pair.target).collect();
        assert_eq!(targets, ["h:1 (10.0.0.2)", "10.0.0.2:1"]);
    }

    #[test]
    fn hosts_of_the_same_name_are_told_apart() {
        let others = vec![("10.0.0.2", Ok(row("h", &["10.0.0.2"])))];
        let picture = picture(row("h", &["10.0.0.1"]), others, &Names::new());
        assert_eq!(names(&picture), ["h (10.0.0.1)", "h (10.0.0.2)"]);
        assert_eq!(picture.here, "h (10.0.0.1)");
        assert_eq!(picture.name(&Place::Address(ip("10.0.0.2"))), "h (10.0.0.2)");
    }

    #[test]
    fn a_host_that_has_fallen_silent_keeps_its_name_unless_another_has_it() {
        let before =
            Names::from([(ip("10.0.0.2"), "b".to_owned()), (ip("10.0.0.3"), "a".to_owned())]);
        let silent = |at| (at, Err("no answer".to_owned()));
        let others = vec![silent("10.0.0.2"), silent("10.0.0.3"), silent("10.0.0.10")];
        let picture = picture(row("a", &["10.0.0.1"]), others, &before);
        assert_eq!(names(&picture), ["10.0.0.3", "10.0.0.10", "a", "b"]);
        assert_eq!(picture.name(&Place::Address(ip("10.0.0.2"))), "b");
    }

    #[test]
    fn what_a_peer_says_of_addresses_counts_for_less_than_whom_they_led_to() {
        let liar = ("10.0.0.2", Ok(row("liar", &["10.0.0.2", "10.0.0.3"])));
        let honest = ("10.0.0.3", Ok(row("honest", &["10.0.0.3"])));
        let picture = picture(row("a", &["10.0.0.1"]), vec![liar, honest], &Names::new());
        assert_eq!(picture.name(&Place::Address(ip("10.0.0.3"))), "honest");
    }

    #[test]
    fn the_domain_that_all_hosts_have_is_left_out() {
        let others = || vec![("10.0.0.2", Ok(row("b.example.com", &["10.0.0.2"])))];
        let same = picture(row("a.example.com", &["10.0.0.1"]), others(), &Names::new());
        assert_eq!((names(&same), same.domain.as_deref()), (vec!["a", "b"], Some("example.com")));
        for own in ["a", "a.example.org", "a."] {
            let picture = picture(row(own, &["10.0.0.1"]), others(), &Names::new());
            assert_eq!(
                (names(&picture), picture.domain.as_deref()),
                (vec![own, "b.example.com"], None)
            );
        }
        assert_eq!(common_domain(["a.example.com"].into_iter()), None);
        assert_eq!(common_domain(["10.0.0.1", "11.0.0.1"].into_iter()), None);
    }
}

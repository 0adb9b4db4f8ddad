//! What is down, said by the widest statements that explain it: a host that nobody reaches is one line,
//! and not one for each host and protocol. The alert rules of docs/mesh.md tell the same kinds apart.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::time::SystemTime;

use super::picture::Pair;
use super::text::{Age, Escaped, List, clock, time};

/// How many hosts, and how many reasons, one statement names.
const NAMED: usize = 8;
const REASONS: usize = 2;

/// The name of a protocol for people.
pub(super) fn title(protocol: &str) -> &str {
    match protocol {
        "tcp" => "TCP",
        "tls" => "TLS",
        "udp" => "UDP",
        "ws" => "WebSocket",
        "wss" => "WebSocket over TLS",
        other => other,
    }
}

/// One end of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Target,
}

impl End {
    fn other(self) -> End {
        match self {
            End::Source => End::Target,
            End::Target => End::Source,
        }
    }

    fn of<'a>(self, pair: &'a Pair<'_>) -> &'a str {
        match self {
            End::Source => pair.source,
            End::Target => &pair.target,
        }
    }
}

/// That all of some pairs are down.
#[derive(Debug)]
pub(super) struct Statement<'a> {
    /// The end that the pairs have in common, and the other ends. `None`: all that there are.
    end: End,
    name: &'a str,
    others: Option<BTreeSet<&'a str>>,
    protocols: BTreeSet<&'a str>,
    is_any_protocol: bool,
    pairs: Vec<&'a Pair<'a>>,
    /// Since when most of the pairs have been down. Neither a source that began to probe a moment ago nor
    /// a pair that has been down for weeks says when the trouble began.
    since: u64,
}

/// What is down among `pairs`: the widest statements first, and of those of a kind the latest.
pub(super) fn statements<'a>(pairs: &'a [Pair<'a>]) -> Vec<Statement<'a>> {
    let known: Vec<_> = pairs.iter().filter(|pair| pair.cell.is_up.is_some()).collect();
    let mut left: Vec<_> = known.iter().copied().filter(|pair| is_down(pair)).collect();
    let all: BTreeSet<_> = known.iter().map(|pair| protocol(pair)).collect();
    let statement = |end, name, others, pairs| Statement::new(end, name, others, &all, pairs);

    let mut statements = Vec::new();
    for is_by_protocol in [false, true] {
        for end in [End::Target, End::Source] {
            let key = |pair: &&'a Pair<'a>| (end.of(pair), is_by_protocol.then(|| protocol(pair)));
            let whole = whole(grouped(&known, key), end);
            let (explained, rest) = left.into_iter().partition(|pair| whole.contains(&key(pair)));
            left = rest;
            let of_one_end = grouped(&explained, |pair| end.of(pair)).into_iter();
            append(
                &mut statements,
                of_one_end.map(|(name, pairs)| statement(end, name, None, pairs)),
            );
        }
    }

    // One end after the other, with all to which the same applies; from the end that takes fewer lines.
    let by_ends = grouped(&left, |pair| (pair.source, &*pair.target)).into_values();
    let by_ends: Vec<_> = by_ends
        .map(|pairs| (pairs.iter().map(|pair| protocol(pair)).collect::<BTreeSet<_>>(), pairs))
        .collect();
    let [by_source, by_target] = [End::Source, End::Target].map(|end| {
        let mut merged: BTreeMap<_, Vec<&'a Pair<'a>>> = BTreeMap::new();
        for (protocols, pairs) in &by_ends {
            merged.entry((end.of(pairs[0]), protocols)).or_default().extend(pairs);
        }
        let line = |((name, _), pairs): ((&'a str, _), Vec<&'a Pair<'a>>)| {
            let others = pairs.iter().map(|pair| end.other().of(pair)).collect();
            statement(end, name, Some(others), pairs)
        };
        merged.into_iter().map(line).collect::<Vec<_>>()
    });
    let shorter = if by_target.len() < by_source.len() { by_target } else { by_source };
    append(&mut statements, shorter);
    statements
}

fn grouped<'a, Key: Ord>(
    pairs: &[&'a Pair<'a>],
    key: impl Fn(&&'a Pair<'a>) -> Key,
) -> BTreeMap<Key, Vec<&'a Pair<'a>>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    pairs.iter().for_each(|pair| groups.entry(key(pair)).or_default().push(*pair));
    groups
}

/// The groups of which all pairs are down, and have several other ends: that of one is a pair.
fn whole<'a, Key: Ord>(groups: BTreeMap<Key, Vec<&'a Pair<'a>>>, end: End) -> BTreeSet<Key> {
    let is_whole = |pairs: &[&'a Pair<'a>]| {
        let others: BTreeSet<_> = pairs.iter().map(|pair| end.other().of(pair)).collect();
        others.len() > 1 && pairs.iter().all(|pair| is_down(pair))
    };
    groups.into_iter().filter(|(_, pairs)| is_whole(pairs)).map(|(key, _)| key).collect()
}

/// Appends statements of a kind, the latest first.
fn append<'a>(all: &mut Vec<Statement<'a>>, new: impl IntoIterator<Item = Statement<'a>>) {
    let start = all.len();
    all.extend(new);
    all[start..].sort_by_key(|statement| Reverse(statement.since));
}

fn is_down(pair: &Pair<'_>) -> bool {
    pair.cell.is_up == Some(false)
}

fn protocol<'a>(pair: &'a Pair<'a>) -> &'a str {
    &pair.cell.protocol
}

impl<'a> Statement<'a> {
    fn new(
        end: End,
        name: &'a str,
        others: Option<BTreeSet<&'a str>>,
        all: &BTreeSet<&'a str>,
        pairs: Vec<&'a Pair<'a>>,
    ) -> Self {
        let protocols: BTreeSet<_> = pairs.iter().map(|pair| protocol(pair)).collect();
        let is_any_protocol = all.len() > 1 && protocols == *all;
        let mut since: Vec<_> = pairs.iter().map(|pair| pair.cell.since).collect();
        since.sort_unstable();
        let since = since[since.len() / 2];
        Statement { end, name, others, protocols, is_any_protocol, pairs, since }
    }

    /// Writes it as HTML.
    pub(super) fn write(&self, page: &mut String, now: SystemTime) -> fmt::Result {
        let name = Escaped(self.name);
        match (self.end, &self.others) {
            (End::Target, None) => write!(page, "<b>{name}</b> is not reached by anybody")?,
            (End::Source, None) => write!(page, "<b>{name}</b> reaches nobody")?,
            (End::Target, Some(others)) => {
                write!(page, "<b>{} → {name}</b>", List(others, NAMED))?;
            }
            (End::Source, Some(others)) => {
                write!(page, "<b>{name} → {}</b>", List(others, NAMED))?;
            }
        }
        if self.is_any_protocol {
            page.push_str(" over any protocol: ");
        } else {
            let titles = self.protocols.iter().map(|protocol| title(protocol)).collect();
            write!(page, " over {}: ", List(&titles, NAMED))?;
        }
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for pair in &self.pairs {
            *reasons.entry(pair.cell.problem.as_deref().unwrap_or("down")).or_default() += 1;
        }
        let mut reasons: Vec<_> = reasons.into_iter().collect();
        reasons.sort_by_key(|(_, count)| Reverse(*count));
        for (at, (reason, _)) in reasons.iter().take(REASONS).enumerate() {
            let before = if at == 0 { "" } else { "; " };
            write!(page, "{before}{}", Escaped(reason))?;
        }
        if reasons.len() > REASONS {
            write!(page, "; and {} more", reasons.len() - REASONS)?;
        }
        let (age, since) = (Age::since(self.since, now), clock(time(self.since), now));
        write!(page, " <small>for {age}, since {since}</small>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::mesh::picture::Place;
    use crate::admin::mesh::row::Cell;

    const HOSTS: [&str; 4] = ["a", "b", "c", "d"];

    /// The statements for four hosts, of which those pairs are down for which `is_down` is true of the
    /// source, the target and the protocol.
    fn said(is_down: impl Fn(&str, &str, &str) -> bool) -> Vec<String> {
        let cell = |source: &str, target: &str, protocol: &str| Cell {
            protocol: protocol.to_owned(),
            target: format!("{protocol}://{target}"),
            address: None,
            is_up: Some(!is_down(source, target, protocol)),
            since: 100,
            failed_rounds: 0,
            loss: 0.0,
            median: None,
            longest: None,
            problem: Some("<late>".to_owned()),
        };
        let mut cells = Vec::new();
        for (source, target) in
            HOSTS.iter().flat_map(|source| HOSTS.map(|target| (*source, target)))
        {
            let all = ["tcp", "udp", "tls"]
                .map(|protocol| (source, target, cell(source, target, protocol)));
            cells.extend(all.into_iter().filter(|_| source != target));
        }
        let pair = |(source, target, cell)| Pair {
            source,
            target: String::from(target),
            place: Place::Name(String::from(target)),
            cell,
        };
        let pairs: Vec<_> = cells.iter().map(|(s, t, cell)| pair((*s, *t, cell))).collect();
        let line = |statement: Statement<'_>| {
            let mut line = String::new();
            statement.write(&mut line, time(190)).unwrap();
            let end = ": &lt;late&gt; <small>for 1 min 30 s, since 00:01:40 UTC</small>";
            line.strip_suffix(end).unwrap_or_else(|| panic!("{line}")).to_owned()
        };
        statements(&pairs).into_iter().map(line).collect()
    }

    #[test]
    fn nothing_is_said_of_what_is_up() {
        assert!(said(|_, _, _| false).is_empty());
        assert!(statements(&[]).is_empty());
    }

    #[test]
    fn a_dead_host_is_one_line_and_the_rest_is_told_besides() {
        let said = said(|source, target, protocol| {
            target == "c" || (source, target, protocol) == ("a", "b", "udp")
        });
        assert_eq!(
            said,
            ["<b>c</b> is not reached by anybody over any protocol", "<b>a → b</b> over UDP"]
        );
    }

    #[test]
    fn a_host_that_is_cut_off_reaches_nobody() {
        assert_eq!(
            said(|source, _, _| source == "b"),
            ["<b>b</b> reaches nobody over any protocol"]
        );
        let both = said(|source, target, _| source == "b" || target == "b");
        assert_eq!(
            both,
            [
                "<b>b</b> is not reached by anybody over any protocol",
                "<b>b</b> reaches nobody over any protocol",
            ]
        );
    }

    #[test]
    fn a_protocol_that_a_host_does_not_serve_is_one_line() {
        let certificate = said(|_, target, protocol| target == "d" && protocol != "udp");
        assert_eq!(certificate, ["<b>d</b> is not reached by anybody over TCP, TLS"]);
        let firewall = said(|source, _, protocol| source == "d" && protocol == "udp");
        assert_eq!(firewall, ["<b>d</b> reaches nobody over UDP"]);
    }

    #[test]
    fn pairs_are_told_from_the_end_that_takes_fewer_lines() {
        assert_eq!(
            said(|s, t, _| s == "a" && "bc".contains(t)),
            ["<b>a → b, c</b> over any protocol"]
        );
        assert_eq!(
            said(|s, t, _| t == "a" && "bc".contains(s)),
            ["<b>b, c → a</b> over any protocol"]
        );
    }
}

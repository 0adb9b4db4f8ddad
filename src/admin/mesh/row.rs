//! What one host knows, as JSON, which is an interface between hosts of different versions:
//!
//! ```json
//! {"version": 1, "source": "h1", "every_s": 10.0, "own": ["10.0.0.1"], "targets": [
//!   {"protocol": "tcp", "target": "tcp://echo-mesh:8080", "address": "10.0.0.2:8080", "up": true,
//!    "since": 1800000000, "failed_rounds": 0, "loss": 0.0, "median_us": 70, "longest_us": 90,
//!    "problem": null}]}
//! ```
//!
//! `own` are the addresses that the names of the targets have for this host itself. `up` is `null` before
//! the end of the first round, `since` is in seconds since 1970, and `loss` (from 0 to 1) and the times
//! are of the last three rounds. Members may be added; what is missing has its least value.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::probe::{Board, Series};

/// The longest text that is taken from a peer, in characters: a host name has up to 253.
const LONGEST: usize = 300;

/// What one host knows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) source: String,
    /// From one round to the next, in seconds.
    pub(super) every: f64,
    /// The addresses that the names of the targets have for this host itself.
    pub(super) own: Vec<IpAddr>,
    pub(super) cells: Vec<Cell>,
}

/// What a host knows of its mesh.
#[derive(Debug)]
pub(super) struct Known {
    /// The addresses of all members, its own included.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// The URLs of the targets.
    pub(super) targets: BTreeSet<String>,
}

/// A target, as one host sees it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cell {
    pub(super) protocol: String,
    pub(super) target: String,
    pub(super) address: Option<SocketAddr>,
    /// `None` before the end of the first round.
    pub(super) is_up: Option<bool>,
    /// Since when it is so, in seconds since 1970.
    pub(super) since: u64,
    pub(super) failed_rounds: u64,
    /// Of the last rounds: the share of messages that did not come back.
    pub(super) loss: f64,
    /// Of the last rounds, in microseconds.
    pub(super) median: Option<u64>,
    pub(super) longest: Option<u64>,
    pub(super) problem: Option<String>,
}

impl Row {
    pub(super) fn of(board: &Board) -> Self {
        Row {
            source: board.source().to_owned(),
            every: board.every().as_secs_f64(),
            own: board.own(),
            cells: board.series().iter().filter(|series| series.is_probed).map(Cell::of).collect(),
        }
    }

    pub(super) fn to_json(&self) -> String {
        let Row { source, every, own, cells } = self;
        let cells: Vec<_> = cells.iter().map(Cell::to_json).collect();
        let own: Vec<_> = own.iter().map(IpAddr::to_string).collect();
        let row = json!({
            "version": 1, "source": source, "every_s": every, "own": own, "targets": cells,
        });
        format!("{row}\n")
    }

    /// Leaves out what is about neither hosts nor targets that this host knows itself: a peer shall not
    /// fill the picture with what nobody asked for.
    pub(super) fn about(mut self, known: &Known) -> Self {
        self.own.retain(|ip| known.addresses.contains(ip));
        self.cells.retain(|cell| match cell.address {
            Some(address) => known.addresses.contains(&address.ip()),
            // A host that cannot look its peers up has nothing but their names.
            None => known.targets.contains(&cell.target),
        });
        self.cells.truncate((known.targets.len() + 1) * (known.addresses.len() + 1));
        self
    }

    /// `None` if it is no row.
    pub(super) fn parse(json: &[u8]) -> Option<Row> {
        let row: Value = serde_json::from_slice(json).ok()?;
        let list = |name: &str| row[name].as_array().map(Vec::as_slice).unwrap_or_default();
        Some(Row {
            source: row["source"].as_str().filter(|source| !source.is_empty()).map(cut)?,
            every: row["every_s"].as_f64().unwrap_or_default(),
            own: list("own").iter().filter_map(|ip| ip.as_str()?.parse().ok()).collect(),
            cells: list("targets").iter().filter_map(Cell::parse).collect(),
        })
    }
}

impl Cell {
    fn of(series: &Series) -> Self {
        let lately = series.lately();
        let micros = |time: std::time::Duration| time.as_micros() as u64;
        let since = series.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Cell {
            protocol: series.target.protocol().to_string(),
            target: series.target.to_string(),
            address: series.address,
            is_up: series.is_up,
            since: since.as_secs(),
            failed_rounds: series.failed_rounds,
            loss: lately.map_or(0.0, |lately| lately.loss),
            median: lately.and_then(|lately| lately.median).map(micros),
            longest: lately.and_then(|lately| lately.longest).map(micros),
            problem: series.problem.clone(),
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "protocol": self.protocol, "target": self.target,
            "address": self.address.map(|address| address.to_string()), "up": self.is_up,
            "since": self.since, "failed_rounds": self.failed_rounds, "loss": self.loss,
            "median_us": self.median, "longest_us": self.longest, "problem": self.problem,
        })
    }

    fn parse(cell: &Value) -> Option<Cell> {
        let text = |name: &str| cell[name].as_str().map(cut);
        let number = |name: &str| cell[name].as_u64();
        Some(Cell {
            protocol: text("protocol")?,
            target: text("target")?,
            address: text("address").and_then(|address| address.parse().ok()),
            is_up: cell["up"].as_bool(),
            since: number("since").unwrap_or_default(),
            failed_rounds: number("failed_rounds").unwrap_or_default(),
            loss: cell["loss"].as_f64().unwrap_or_default().clamp(0.0, 1.0),
            median: number("median_us"),
            longest: number("longest_us"),
            problem: text("problem"),
        })
    }
}

/// What a peer says, but not more of it than belongs on a page.
fn cut(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_as_it_was_written() {
        let cell = Cell {
            protocol: "tls".to_owned(),
            target: "tls://m:8443".to_owned(),
            address: Some("[fe80::1]:8443".parse().unwrap()),
            is_up: Some(false),
            since: 1_800_000_000,
            failed_rounds: 4,
            loss: 0.25,
            median: Some(70),
            longest: None,
            problem: Some("it is <late>".to_owned()),
        };
        let row = Row {
            source: "a \"host\"".to_owned(),
            every: 0.5,
            own: vec!["10.0.0.1".parse().unwrap()],
            cells: vec![cell],
        };
        assert_eq!(Row::parse(row.to_json().as_bytes()), Some(row));
    }

    #[test]
    fn a_row_counts_where_it_is_about_what_is_known() {
        let cell = |target: &str, address: &str| {
            format!(r#"{{"protocol": "tcp", "target": "{target}", "address": {address}}}"#)
        };
        let cells = [
            cell("tcp://m:1", r#""10.0.0.2:1""#),
            cell("tcp://m:1", r#""192.0.2.1:1""#),
            cell("tcp://m:1", "null"),
            cell("tcp://elsewhere:1", "null"),
        ];
        let row = format!(
            r#"{{"source": "a", "own": ["10.0.0.1", "192.0.2.2"], "targets": [{}]}}"#,
            cells.join(",")
        );
        let ip = |last| IpAddr::from([10, 0, 0, last]);
        let known = Known {
            addresses: BTreeSet::from([ip(1), ip(2)]),
            targets: BTreeSet::from(["tcp://m:1".to_owned()]),
        };
        let row = Row::parse(row.as_bytes()).unwrap().about(&known);
        assert_eq!(row.own, [ip(1)]);
        let addresses: Vec<_> = row.cells.iter().map(|cell| cell.address).collect();
        assert_eq!(addresses, [Some((ip(2), 1).into()), None]);
    }

    #[test]
    fn what_is_no_row_is_none() {
        for json in ["", "[]", "{}", r#"{"source": 1}"#, r#"{"source": ""}"#] {
            assert_eq!(Row::parse(json.as_bytes()), None, "{json}");
        }
        let row = Row::parse(br#"{"source": "a", "targets": [{}, 1, {"protocol": "x"}]}"#);
        assert_eq!(row.unwrap().cells, []);
    }

    #[test]
    fn what_a_peer_exaggerates_is_cut() {
        let name = "x".repeat(1_000);
        let row = format!(
            r#"{{"source": "{name}", "targets": [{{"protocol": "tcp", "target": "t", "loss": 1e300}}]}}"#
        );
        let row = Row::parse(row.as_bytes()).unwrap();
        assert_eq!((row.source.len(), row.cells[0].loss), (LONGEST, 1.0));
    }
}

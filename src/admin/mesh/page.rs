//! Draws the page: HTML without a script, which asks for itself again.
//!
//! All that peers say is text of somebody else's, and is written escaped.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64;
use hyper::header::HeaderValue;

use super::row::{Cell, Row};

const STYLE: &str = include_str!("page.css");

/// Nothing but the page itself, and this style.
pub(in crate::admin) static CONTENT_SECURITY_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = BASE64.encode(digest(&SHA256, STYLE.as_bytes()).as_ref());
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).expect("base64 is ASCII")
});

/// More hosts than this have no matrix, which nobody could read, but lists.
const WIDEST: usize = 64;

/// The longest list.
const LISTED: usize = 100;

/// Messages that did not come back make a cell look worse from here on.
const LOSS: f64 = 0.001;

/// The protocols, in the order of the page.
const PROTOCOLS: [(&str, &str); 5] = [
    ("tcp", "TCP"),
    ("tls", "TLS"),
    ("udp", "UDP"),
    ("ws", "WebSocket"),
    ("wss", "WebSocket over TLS"),
];

/// Draws the row of this host and those of `others`, which were asked at these addresses.
pub(super) fn draw(
    own: Row,
    others: Vec<(SocketAddr, Result<Row, String>)>,
    now: SystemTime,
) -> String {
    let picture = Picture::new(own, others);
    let mut page = String::new();
    picture.write(&mut page, now).expect("writing to a string does not fail");
    page
}

/// What a column is: a host at an address, or by the name that is probed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Address(IpAddr),
    Name(String),
}

impl Place {
    fn of(cell: &Cell) -> Place {
        match cell.address {
            Some(address) => Place::Address(address.ip()),
            None => {
                let (_, rest) = cell.target.split_once("://").unwrap_or(("", &cell.target));
                Place::Name(rest.trim_end_matches('/').to_owned())
            }
        }
    }
}

struct Picture {
    /// The host that draws.
    here: String,
    every: f64,
    /// By source. A host that has several addresses has told the same row several times.
    rows: BTreeMap<String, Row>,
    /// Hosts that gave no row, and why.
    silent: Vec<(SocketAddr, String)>,
    /// Which host an address is.
    hosts: BTreeMap<IpAddr, String>,
}

impl Picture {
    fn new(own: Row, others: Vec<(SocketAddr, Result<Row, String>)>) -> Self {
        let (here, every) = (own.source.clone(), own.every);
        let mut hosts: BTreeMap<_, _> =
            own.own.iter().map(|ip| (*ip, own.source.clone())).collect();
        let mut rows = BTreeMap::from([(own.source.clone(), own)]);
        let mut silent = Vec::new();
        for (address, row) in others {
            match row {
                Ok(row) => {
                    hosts.insert(address.ip(), row.source.clone());
                    rows.entry(row.source.clone()).or_insert(row);
                }
                Err(why) => silent.push((address, why)),
            }
        }
        Picture { here, every, rows, silent, hosts }
    }

    /// The name of a column.
    fn name(&self, place: &Place) -> String {
        match place {
            Place::Address(ip) => self.hosts.get(ip).cloned().unwrap_or_else(|| ip.to_string()),
            Place::Name(name) => name.clone(),
        }
    }

    fn cells(&self) -> impl Iterator<Item = (&str, &Cell)> {
        self.rows
            .iter()
            .flat_map(|(source, row)| row.cells.iter().map(move |cell| (&**source, cell)))
    }

    fn write(&self, page: &mut String, now: SystemTime) -> fmt::Result {
        // As often as there is something new.
        let refresh = self.every.clamp(5.0, 60.0).round();
        let here = Escaped(&self.here);
        write!(
            page,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta http-equiv=\"refresh\" content=\"{refresh}\">\n<title>Mesh, seen from {here}</title>\n\
             <style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>Mesh</h1>\n"
        )?;
        let time = humantime::format_rfc3339_seconds(now);
        let every =
            humantime::format_duration(Duration::try_from_secs_f64(self.every).unwrap_or_default());
        writeln!(
            page,
            "<p>Seen from {here} at {time}. A round every {every}; numbers are of the last three rounds.</p>"
        )?;
        self.write_state(page)?;
        self.write_problems(page, now)?;
        let places: BTreeSet<_> = self.cells().map(|(_, cell)| Place::of(cell)).collect();
        if places.len() > WIDEST {
            let count = places.len();
            writeln!(page, "<p>{count} targets are too many for a matrix.</p>")?;
        } else {
            self.write_matrices(page, &places)?;
        }
        page.push_str("</main>\n</body>\n</html>\n");
        Ok(())
    }

    fn write_state(&self, page: &mut String) -> fmt::Result {
        let known = || self.cells().filter_map(|(_, cell)| cell.is_up);
        let (all, down) = (known().count(), known().filter(|is_up| !is_up).count());
        let is_lossy = |cell: &Cell| cell.is_up == Some(true) && cell.loss >= LOSS;
        let lossy = self.cells().filter(|(_, cell)| is_lossy(cell)).count();
        let class = match (down, lossy, all) {
            (0, 0, 0) => "none",
            (0, 0, _) => "good",
            (0, _, _) => "worse",
            _ => "bad",
        };
        write!(page, "<p id=\"state\" class=\"state {class}\">")?;
        match (down, lossy) {
            _ if all == 0 => page.push_str("No round has ended yet."),
            (0, 0) => write!(page, "All {all} pairs are up.")?,
            (0, _) => write!(page, "All {all} pairs are up; {lossy} lose messages.")?,
            (_, 0) => write!(page, "{down} of {all} pairs are down.")?,
            _ => write!(page, "{down} of {all} pairs are down; {lossy} lose messages.")?,
        }
        page.push_str("</p>\n");
        Ok(())
    }

    /// What is not as it should be, in words.
    fn write_problems(&self, page: &mut String, now: SystemTime) -> fmt::Result {
        let mut down: Vec<_> = self.cells().filter(|(_, cell)| cell.is_up == Some(false)).collect();
        if down.is_empty() && self.silent.is_empty() {
            return Ok(());
        }
        // What has just begun is what one looks for.
        down.sort_by_key(|(_, cell)| std::cmp::Reverse(cell.since));
        page.push_str("<h2>Down</h2>\n<ul id=\"down\">\n");
        for (source, cell) in down.iter().take(LISTED) {
            let name = self.name(&Place::of(cell));
            let since = UNIX_EPOCH + Duration::from_secs(cell.since.min(u64::from(u32::MAX)));
            let age = now.duration_since(since).unwrap_or_default().as_secs();
            let age = humantime::format_duration(Duration::from_secs(age));
            let problem = cell.problem.as_deref().unwrap_or("it is down");
            writeln!(
                page,
                "<li><b>{} → {}</b> {}: {}, for {age}</li>",
                Escaped(source),
                Escaped(&name),
                Escaped(&cell.protocol),
                Escaped(problem),
            )?;
        }
        if down.len() > LISTED {
            writeln!(page, "<li>and {} more</li>", down.len() - LISTED)?;
        }
        for (address, why) in self.silent.iter().take(LISTED) {
            writeln!(
                page,
                "<li><b>{}</b> gives no row: {} ({address}, its --admin)</li>",
                Escaped(&self.name(&Place::Address(address.ip()))),
                Escaped(why),
            )?;
        }
        if self.silent.len() > LISTED {
            writeln!(page, "<li>and {} more give no row</li>", self.silent.len() - LISTED)?;
        }
        page.push_str("</ul>\n");
        Ok(())
    }

    fn write_matrices(&self, page: &mut String, places: &BTreeSet<Place>) -> fmt::Result {
        // Columns in the order of the rows, so that the diagonal is one.
        let mut columns: Vec<_> = places.iter().map(|place| (self.name(place), place)).collect();
        let addresses = self.hosts.keys().map(|ip| Place::Address(*ip));
        let unprobed: Vec<_> = addresses.filter(|place| !places.contains(place)).collect();
        columns.extend(unprobed.iter().map(|place| (self.name(place), place)));
        columns.sort();
        for (protocol, title) in PROTOCOLS {
            let mut cells: BTreeMap<(&str, Place), &Cell> = BTreeMap::new();
            for (source, cell) in self.cells().filter(|(_, cell)| cell.protocol == protocol) {
                cells.insert((source, Place::of(cell)), cell);
            }
            if cells.is_empty() {
                continue;
            }
            writeln!(
                page,
                "<h2 id=\"{protocol}\">{title}</h2>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" \
                 aria-labelledby=\"{protocol}\"><table>\n<thead><tr><th scope=\"col\">from \\ to</th>"
            )?;
            for (name, place) in &columns {
                write!(page, "<th scope=\"col\">{}", Escaped(name))?;
                match place {
                    Place::Address(ip) if ip.to_string() != *name => {
                        write!(page, "<small>{ip}</small>")?;
                    }
                    _ => {}
                }
                page.push_str("</th>");
            }
            page.push_str("</tr></thead>\n<tbody>\n");
            for source in self.rows.keys() {
                write!(page, "<tr><th scope=\"row\">{}</th>", Escaped(source))?;
                for (name, place) in &columns {
                    match cells.get(&(&**source, (*place).clone())) {
                        Some(cell) => write_cell(page, cell)?,
                        None if name == source => page.push_str("<td>·</td>"),
                        None => page.push_str("<td></td>"),
                    }
                }
                page.push_str("</tr>\n");
            }
            page.push_str("</tbody></table></div>\n");
        }
        Ok(())
    }
}

/// A cell: a word on its state or its loss, and the median.
fn write_cell(page: &mut String, cell: &Cell) -> fmt::Result {
    let Some(is_up) = cell.is_up else {
        page.push_str("<td class=\"none\">…</td>");
        return Ok(());
    };
    let class = match is_up {
        false => "bad",
        true if cell.loss >= LOSS => "worse",
        true => "good",
    };
    write!(page, "<td class=\"{class}\"")?;
    if let Some(problem) = &cell.problem {
        write!(page, " title=\"{}\"", Escaped(problem))?;
    }
    page.push('>');
    let percent = cell.loss * 100.0;
    match is_up {
        false => page.push_str("down"),
        true if cell.loss < LOSS => page.push_str("0%"),
        true if percent < 10.0 => write!(page, "{percent:.1}% lost")?,
        true => write!(page, "{percent:.0}% lost")?,
    }
    if let (true, Some(median)) = (is_up, cell.median) {
        write!(page, "<small>{}</small>", Micros(median))?;
    }
    page.push_str("</td>");
    Ok(())
}

/// A number of microseconds, to three digits.
struct Micros(u64);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0 as f64 / 1000.0;
        match self.0 {
            0..1_000 => write!(f, "{} µs", self.0),
            1_000..10_000 => write!(f, "{millis:.2} ms"),
            10_000..100_000 => write!(f, "{millis:.1} ms"),
            100_000..1_000_000 => write!(f, "{millis:.0} ms"),
            _ => write!(f, "{:.2} s", millis / 1000.0),
        }
    }
}

/// Text within HTML or an attribute's quotes.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            c if c.is_control() => f.write_char(' '),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(target: u8, is_up: Option<bool>, loss: f64) -> Cell {
        Cell {
            protocol: "tcp".to_owned(),
            target: "tcp://m:1".to_owned(),
            address: Some(([10, 0, 0, target], 1).into()),
            is_up,
            since: 1_000,
            failed_rounds: 0,
            loss,
            median: Some(1_234),
            longest: None,
            problem: (is_up == Some(false)).then(|| "\"it\" <refuses>".to_owned()),
        }
    }

    fn row(source: &str, own: u8, cells: Vec<Cell>) -> Row {
        let own = vec![IpAddr::from([10, 0, 0, own])];
        Row { source: source.to_owned(), every: 10.0, own, cells }
    }

    fn asked(last: u8, row: Result<Row, String>) -> (SocketAddr, Result<Row, String>) {
        (([10, 0, 0, last], 8082).into(), row)
    }

    fn drawn(own: Row, others: Vec<(SocketAddr, Result<Row, String>)>) -> String {
        draw(own, others, UNIX_EPOCH + Duration::from_secs(1_090))
    }

    #[test]
    fn rows_and_columns_are_hosts_by_their_names() {
        let a = row("a", 1, vec![cell(2, Some(true), 0.0), cell(3, Some(false), 1.0)]);
        let b = row("b", 2, vec![cell(1, Some(true), 0.25), cell(3, None, 0.0)]);
        let page = drawn(a, vec![asked(2, Ok(b)), asked(3, Err("no answer".to_owned()))]);
        assert!(page.contains("1 of 3 pairs are down; 1 lose messages."), "{page}");
        let head = "<th scope=\"col\">10.0.0.3</th><th scope=\"col\">a<small>10.0.0.1</small></th>\
                    <th scope=\"col\">b<small>10.0.0.2</small></th>";
        assert!(page.contains(head), "{page}");
        let of_a = "<th scope=\"row\">a</th><td class=\"bad\" title=\"&quot;it&quot; &lt;refuses&gt;\">down</td>\
                    <td>·</td><td class=\"good\">0%<small>1.23 ms</small></td>";
        assert!(page.contains(of_a), "{page}");
        let of_b = "<th scope=\"row\">b</th><td class=\"none\">…</td>\
                    <td class=\"worse\">25% lost<small>1.23 ms</small></td><td>·</td>";
        assert!(page.contains(of_b), "{page}");
        let line = "<b>a → 10.0.0.3</b> tcp: &quot;it&quot; &lt;refuses&gt;, for 1m 30s";
        assert!(page.contains(line), "{page}");
        assert!(page.contains("<b>10.0.0.3</b> gives no row: no answer"), "{page}");
    }

    #[test]
    fn a_mesh_that_is_in_order_says_so() {
        let page = drawn(row("a", 1, vec![cell(2, Some(true), 0.0)]), Vec::new());
        assert!(page.contains("class=\"state good\">All 1 pairs are up."), "{page}");
        assert!(!page.contains("<h2>Down</h2>"));
        let page = drawn(row("a", 1, Vec::new()), Vec::new());
        assert!(page.contains("No round has ended yet."), "{page}");
    }

    #[test]
    fn what_a_peer_calls_itself_is_no_html() {
        let name = "<script>alert(1)</script>";
        let peer = row(name, 2, vec![cell(1, Some(false), 1.0)]);
        let page = drawn(row("a", 1, vec![cell(2, Some(true), 0.0)]), vec![asked(2, Ok(peer))]);
        assert!(!page.contains("<script"), "{page}");
        assert!(page.contains("&lt;script&gt;"), "{page}");
    }

    #[test]
    fn many_hosts_have_lists_in_place_of_a_matrix() {
        let cells = (0..200).map(|last| cell(last, Some(last < 20), 0.0)).collect();
        let page = drawn(row("a", 250, cells), Vec::new());
        assert!(!page.contains("<table"), "{page}");
        assert!(page.contains("180 of 200 pairs are down."), "{page}");
        assert!(page.contains("<li>and 80 more</li>"), "{page}");
    }
}

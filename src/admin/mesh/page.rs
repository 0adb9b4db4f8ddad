//! Draws the page: HTML without a script, which the browser asks for again by itself. The header
//! `Refresh` tells it to, and not an element of the page, so that the page that is paused is the same.
//!
//! All that peers say is text of somebody else's, and is written escaped.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64;
use hyper::header::HeaderValue;

use super::down::{statements, title};
use super::picture::{Pair, Picture, Place};
use super::row::Cell;
use super::text::{Age, Escaped, List, Micros, clock, natural};

const STYLE: &str = include_str!("page.css");

/// Nothing but the page itself, this style, and the icon, which is in the page.
pub(in crate::admin) static CONTENT_SECURITY_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = BASE64.encode(digest(&SHA256, STYLE.as_bytes()).as_ref());
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).expect("base64 is ASCII")
});

/// More hosts than this have no matrix, which nobody could read, but lists.
const WIDEST: usize = 64;

/// More columns than this, or such with longer names, have their names upright.
const WIDE: usize = 12;
const LONG: usize = 18;

/// The longest list.
const LISTED: usize = 100;

/// Messages that did not come back make a cell look worse from here on.
const LOSS: f64 = 0.001;

/// The protocols, in the order of the page.
const PROTOCOLS: [&str; 5] = ["tcp", "tls", "udp", "ws", "wss"];

/// A page, in two parts: between them is how often it is asked for again.
#[derive(Debug)]
pub(in crate::admin) struct Page {
    head: String,
    rest: String,
    /// How often there is something new, in seconds.
    refresh: u64,
}

impl Page {
    pub(super) fn draw(picture: &Picture, now: SystemTime) -> Page {
        let refresh = picture.every.clamp(5.0, 60.0).round() as u64;
        let mut page = Page { head: String::new(), rest: String::new(), refresh };
        let drawing = Drawing { picture, pairs: picture.pairs(), now };
        drawing.write(&mut page).expect("writing to a string does not fail");
        page
    }

    /// After how many seconds the browser is to ask again.
    pub(in crate::admin) fn refresh(&self) -> u64 {
        self.refresh
    }

    /// The page that refreshes itself, or the one that does not: how far a matrix is scrolled is lost
    /// with every refresh, and so is the place of somebody to whom it is read out.
    pub(in crate::admin) fn to_html(&self, is_paused: bool) -> String {
        let Page { head, rest, refresh } = self;
        if is_paused {
            format!("{head} Paused (<a href=\"/mesh\">resume</a>).{rest}")
        } else {
            format!(
                "{head} Refreshes every {refresh} s (<a href=\"/mesh?paused\">pause</a>).{rest}"
            )
        }
    }
}

/// What is drawn.
struct Drawing<'a> {
    picture: &'a Picture,
    pairs: Vec<Pair<'a>>,
    now: SystemTime,
}

impl Drawing<'_> {
    fn write(&self, page: &mut Page) -> fmt::Result {
        let State { class, words } = self.state();
        let (here, state) = (Escaped(&self.picture.here), Escaped(&words));
        // The icon of the tab is as the state is; its title says it, too.
        let color = match class {
            "good" => "1a7f37",
            "worse" => "d9a400",
            "bad" => "cf222e",
            _ => "888",
        };
        let every = Duration::try_from_secs_f64(self.picture.every).unwrap_or_default();
        let every = humantime::format_duration(every);
        let time = humantime::format_rfc3339_seconds(self.now);
        let clock = clock(self.now, self.now);
        write!(
            page.head,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{state} – Mesh, seen from {here}</title>\n\
             <link rel=\"icon\" href=\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' \
             viewBox='0 0 16 16'%3E%3Ccircle cx='8' cy='8' r='7' fill='%23{color}'/%3E%3C/svg%3E\">\n\
             <style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>Mesh</h1>\n\
             <p id=\"state\" class=\"state {class}\">{state}</p>\n\
             <p>Seen from <b>{here}</b> at <time datetime=\"{time}\">{clock}</time>, with a round every {every}."
        )?;
        let page = &mut page.rest;
        page.push_str("</p>\n");
        if let Some(domain) = &self.picture.domain {
            writeln!(page, "<p>The names of all hosts end in .{}</p>", Escaped(domain))?;
        }
        self.write_down(page)?;
        self.write_silent(page)?;
        let places: BTreeSet<_> = self.pairs.iter().map(|pair| &pair.place).collect();
        if places.len().max(self.picture.names.len()) > WIDEST {
            let count = places.len();
            writeln!(
                page,
                "<p>{count} targets are too many for a matrix; /metrics has the numbers.</p>"
            )?;
        } else if !places.is_empty() {
            page.push_str(
                "<p id=\"key\">From row to column, over the last three rounds: the median round trip, how \
                 many messages were lost if any were, or for how long it has been down. \
                 … has not ended its first round; an empty cell is not probed.</p>\n<div class=\"matrices\">\n",
            );
            for protocol in PROTOCOLS {
                self.write_matrix(page, protocol)?;
            }
            page.push_str("</div>\n");
        }
        page.push_str("</main>\n</body>\n</html>\n");
        Ok(())
    }

    fn silent(&self) -> impl Iterator<Item = (&str, &str)> {
        let rows = self.picture.rows.iter();
        rows.filter_map(|(name, row)| Some((&**name, &**row.as_ref().err()?)))
    }

    fn state(&self) -> State {
        let count = |state| self.pairs.iter().filter(|pair| badness(pair.cell) == state).count();
        let (down, lossy) = (count(Badness::Down), count(Badness::Lossy));
        let known = self.pairs.len() - count(Badness::Unknown);
        let silent = self.silent().count();
        let class = match (down, lossy + silent, known) {
            (0, 0, 0) => "none",
            (0, 0, _) => "good",
            (0, _, _) => "worse",
            _ => "bad",
        };
        let mut words = match (known, down) {
            (0, _) => "No round has ended yet".to_owned(),
            (_, 0) => format!("{known} of {known} pairs up"),
            _ => format!("{down} of {known} pairs down"),
        };
        if lossy > 0 {
            words += &format!(", {lossy} with loss");
        }
        if silent > 0 {
            words += &format!(", {silent} of {} rows missing", self.picture.rows.len());
        }
        State { class, words }
    }

    fn write_down(&self, page: &mut String) -> fmt::Result {
        let statements = statements(&self.pairs);
        if statements.is_empty() {
            return Ok(());
        }
        page.push_str("<h2>Down</h2>\n<ul id=\"down\">\n");
        for statement in statements.iter().take(LISTED) {
            page.push_str("<li>");
            statement.write(page, self.now)?;
            page.push_str("</li>\n");
        }
        if statements.len() > LISTED {
            writeln!(page, "<li>and {} more</li>", statements.len() - LISTED)?;
        }
        page.push_str("</ul>\n");
        Ok(())
    }

    /// Whose rows are missing, by the reason: it is often the same for all.
    fn write_silent(&self, page: &mut String) -> fmt::Result {
        let mut reasons: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (name, why) in self.silent() {
            reasons.entry(why).or_default().insert(name);
        }
        if reasons.is_empty() {
            return Ok(());
        }
        page.push_str("<h2>Rows missing</h2>\n<ul id=\"missing\">\n");
        for (why, names) in reasons {
            writeln!(page, "<li><b>{}</b>: {}</li>", List(&names, LISTED), Escaped(why))?;
        }
        page.push_str(
            "</ul>\n<p><small>Each peer is asked for its row at /mesh/row of its --admin, which has to \
             have the same port as here.</small></p>\n",
        );
        Ok(())
    }

    fn write_matrix(&self, page: &mut String, protocol: &str) -> fmt::Result {
        let mut cells: BTreeMap<(&str, &Place), &Cell> = BTreeMap::new();
        for pair in self.pairs.iter().filter(|pair| pair.cell.protocol == protocol) {
            // A peer may say two things of a target.
            let cell = cells.entry((pair.source, &pair.place)).or_insert(pair.cell);
            if badness(pair.cell) > badness(cell) {
                *cell = pair.cell;
            }
        }
        if cells.is_empty() {
            return Ok(());
        }
        // Hosts that are not probed have columns, too, so that the diagonal is one.
        let hosts = self.picture.names.keys().map(|ip| Place::Address(*ip));
        let places: BTreeSet<_> =
            cells.keys().map(|(_, place)| (*place).clone()).chain(hosts).collect();
        let name = |place| (self.picture.name(&place), place);
        let mut columns: Vec<(String, Place)> = places.into_iter().map(name).collect();
        columns.sort_by(|(a, _), (b, _)| natural(a).cmp(&natural(b)));

        let longest = columns.iter().map(|(name, _)| name.chars().count()).max();
        let wide = if columns.len() > WIDE || longest > Some(LONG) { " wide" } else { "" };
        writeln!(
            page,
            "<section>\n<h2 id=\"{protocol}\">{}</h2>\n<div class=\"scroll{wide}\" tabindex=\"0\" role=\"region\" \
             aria-labelledby=\"{protocol}\"><table>\n<thead><tr><th scope=\"col\"><span>to →<small>from ↓</small></span></th>",
            title(protocol)
        )?;
        for (name, place) in &columns {
            write!(page, "<th scope=\"col\"><span>{}", Escaped(name))?;
            match place {
                Place::Address(ip) if !name.contains(&ip.to_string()) => {
                    write!(page, "<small>{ip}</small>")?;
                }
                _ => {}
            }
            page.push_str("</span></th>");
        }
        page.push_str("</tr></thead>\n<tbody>\n");
        for (source, row) in &self.picture.rows {
            write!(page, "<tr><th scope=\"row\"><span>{}</span></th>", Escaped(source))?;
            if row.is_err() {
                write!(
                    page,
                    "<td class=\"missing\" colspan=\"{}\">row missing</td>",
                    columns.len()
                )?;
            } else {
                for (_, place) in &columns {
                    match cells.get(&(&**source, place)) {
                        Some(cell) => self.write_cell(page, cell)?,
                        None if self.is_own(source, place) => page.push_str("<td>·</td>"),
                        None => page.push_str("<td></td>"),
                    }
                }
            }
            page.push_str("</tr>\n");
        }
        page.push_str("</tbody></table></div>\n</section>\n");
        Ok(())
    }

    fn is_own(&self, source: &str, place: &Place) -> bool {
        match place {
            Place::Address(ip) => self.picture.names.get(ip).is_some_and(|name| name == source),
            Place::Name(_) => false,
        }
    }

    /// A cell: never a colour alone.
    fn write_cell(&self, page: &mut String, cell: &Cell) -> fmt::Result {
        let class = match badness(cell) {
            Badness::Unknown => "none",
            Badness::Good => "good",
            Badness::Lossy => "worse",
            Badness::Down => "bad",
        };
        write!(page, "<td class=\"{class}\"")?;
        if let Some(problem) = &cell.problem {
            write!(page, " title=\"{}\"", Escaped(problem))?;
        }
        page.push('>');
        let median = cell.median.map(Micros);
        match (badness(cell), median) {
            (Badness::Unknown, _) => page.push('…'),
            (Badness::Down, _) => {
                write!(page, "down<small>{:.1}</small>", Age::since(cell.since, self.now))?;
            }
            (Badness::Good, Some(median)) => write!(page, "{median}")?,
            (Badness::Good, None) => page.push_str("up"),
            (Badness::Lossy, median) => {
                let percent = cell.loss * 100.0;
                let digits = usize::from(percent < 10.0);
                write!(page, "{percent:.digits$}% lost")?;
                if let Some(median) = median {
                    write!(page, "<small>{median}</small>")?;
                }
            }
        }
        page.push_str("</td>");
        Ok(())
    }
}

/// The state of the mesh: a class of the style, and words.
struct State {
    class: &'static str,
    words: String,
}

/// The states of a cell, from the least to the most urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Badness {
    Unknown,
    Good,
    Lossy,
    Down,
}

fn badness(cell: &Cell) -> Badness {
    match cell.is_up {
        None => Badness::Unknown,
        Some(false) => Badness::Down,
        Some(true) if cell.loss >= LOSS => Badness::Lossy,
        Some(true) => Badness::Good,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use super::*;
    use crate::admin::mesh::picture::Names;
    use crate::admin::mesh::row::Row;
    use crate::admin::mesh::text::time;

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
        let before = Names::from([([10, 0, 0, 4].into(), "d".to_owned())]);
        Page::draw(&Picture::new(own, others, &before), time(1_090)).to_html(false)
    }

    #[test]
    fn rows_and_columns_are_hosts_by_their_names() {
        let a = row("a", 1, vec![cell(2, Some(true), 0.0), cell(3, Some(false), 1.0)]);
        let b = row("b", 2, vec![cell(1, Some(true), 0.25), cell(3, None, 0.0)]);
        let silent = || Err("no answer".to_owned());
        let page = drawn(a, vec![asked(2, Ok(b)), asked(3, silent()), asked(4, silent())]);
        assert!(
            page.contains(">1 of 3 pairs down, 1 with loss, 2 of 4 rows missing</p>"),
            "{page}"
        );
        let head = "<th scope=\"col\"><span>10.0.0.3</span></th>\
                    <th scope=\"col\"><span>a<small>10.0.0.1</small></span></th>\
                    <th scope=\"col\"><span>b<small>10.0.0.2</small></span></th>\
                    <th scope=\"col\"><span>d<small>10.0.0.4</small></span></th></tr>";
        assert!(page.contains(head), "{page}");
        let of_a = "<span>a</span></th><td class=\"bad\" title=\"&quot;it&quot; &lt;refuses&gt;\">\
                    down<small>1 min</small></td><td>·</td><td class=\"good\">1.23 ms</td><td></td>";
        assert!(page.contains(of_a), "{page}");
        let of_b = "<span>b</span></th><td class=\"none\">…</td>\
                    <td class=\"worse\">25% lost<small>1.23 ms</small></td><td>·</td><td></td>";
        assert!(page.contains(of_b), "{page}");
        let of_d = "<span>d</span></th><td class=\"missing\" colspan=\"4\">row missing</td></tr>";
        assert!(page.contains(of_d), "{page}");
        assert!(
            page.contains("<b>a → 10.0.0.3</b> over TCP: &quot;it&quot; &lt;refuses&gt; "),
            "{page}"
        );
        assert!(page.contains("<li><b>10.0.0.3, d</b>: no answer</li>"), "{page}");
    }

    #[test]
    fn a_mesh_that_is_in_order_says_so() {
        let page = drawn(row("a", 1, vec![cell(2, Some(true), 0.0)]), Vec::new());
        assert!(page.contains("class=\"state good\">1 of 1 pairs up</p>"), "{page}");
        assert!(!page.contains("<h2>Down</h2>"));
        let page = drawn(row("a", 1, Vec::new()), Vec::new());
        assert!(page.contains("class=\"state none\">No round has ended yet</p>"), "{page}");
        assert!(!page.contains("<table"));
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
    fn many_hosts_stand_close_and_more_have_lists_in_place_of_a_matrix() {
        let cells = |count| (0..count).map(|last| cell(last, Some(last < 20), 0.0)).collect();
        let page = drawn(row("a", 250, cells(40)), Vec::new());
        assert!(page.contains("<div class=\"scroll wide\""), "{page}");
        let page = drawn(row("a", 250, cells(200)), Vec::new());
        assert!(!page.contains("<table"), "{page}");
        assert!(page.contains("180 of 200 pairs down<"), "{page}");
        assert!(page.contains(" and 172 more</b> over TCP"), "{page}");
    }

    #[test]
    fn a_page_that_is_paused_says_so() {
        let page =
            Page::draw(&Picture::new(row("a", 1, Vec::new()), Vec::new(), &Names::new()), time(0));
        assert!(page.to_html(false).contains("Refreshes every 10 s (<a href=\"/mesh?paused\">"));
        assert!(page.to_html(true).contains("Paused (<a href=\"/mesh\">"));
    }
}

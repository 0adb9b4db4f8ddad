//! Prints what a probe does and finds: as text for people, as JSON or as CSV.
//!
//! A format prints what it is given; all its numbers are those of the library's summary.

mod csv;
mod facts;
mod json;
pub mod lines;
mod text;
pub mod watch;

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use echo_server::probe::{Arrival, Difference, Event, Probe, Summary, Target, Verdict};

use crate::cli::{Format, Mode, Output};

/// Prints the events and the summary of one target.
pub struct Report {
    target: Target,
    printer: Box<dyn Printer>,
    is_quiet: bool,
    /// The bytes of the headers of IP and UDP, once the address is known.
    headers: Option<usize>,
}

/// The largest datagram that comes back.
#[derive(Debug, Clone, Copy)]
struct Largest {
    payload: usize,
    /// The bytes of the headers of IP and UDP.
    headers: Option<usize>,
}

/// A format.
trait Printer {
    fn event(&mut self, event: &Event);

    /// Prints how far a load has come, because somebody asks.
    fn interim(&mut self) {}

    fn summary(&mut self, summary: &Summary);

    /// Prints the result of the search for the largest datagram.
    fn mtu(&mut self, found: Option<Largest>);

    /// Prints what the server saw.
    fn arrival(&mut self, arrival: &Arrival);

    /// Prints why there is no summary, if standard error is not enough.
    fn failure(&mut self, _reason: &str) {}
}

impl Report {
    /// A report for each of the probes, which run at the same time.
    pub fn of_all(probes: &[Probe], mode: &Mode, output: Output) -> Vec<Report> {
        let is_one_of_many = probes.len() > 1;
        let report = |(number, probe): (usize, &Probe)| {
            let target = probe.target().clone();
            let printer: Box<dyn Printer> = match output.format {
                Format::Text => Box::new(text::Text::new(probe, mode, output, is_one_of_many)),
                Format::Json => Box::new(json::Json::new(target, mode)),
                Format::Csv => Box::new(csv::Csv::new(target, mode, number == 0)),
            };
            let target = probe.target().clone();
            Report { target, printer, is_quiet: output.is_quiet, headers: None }
        };
        probes.iter().enumerate().map(report).collect()
    }

    pub fn event(&mut self, event: &Event) {
        if let Event::Connected(connected) = event {
            self.headers = connected.peer.ip().map(|ip| if ip.is_ipv4() { 20 + 8 } else { 40 + 8 });
        }
        if !self.is_quiet || matches!(event, Event::Interim(_)) {
            self.printer.event(event);
        }
    }

    pub fn interim(&mut self) {
        self.printer.interim();
    }

    pub fn summary(&mut self, summary: &Summary) {
        self.printer.summary(summary);
    }

    pub fn mtu(&mut self, payload: Option<usize>) {
        let headers = self.headers;
        self.printer.mtu(payload.map(|payload| Largest { payload, headers }));
    }

    pub fn arrival(&mut self, arrival: &Arrival) {
        self.printer.arrival(arrival);
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    pub fn failure(&mut self, reason: &str) {
        self.printer.failure(reason);
    }
}

/// Prints a line. Colours are removed unless standard output is a terminal that takes them.
fn print(line: &str) {
    let mut out = anstream::stdout().lock();
    if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
        // The reader has closed the pipe, or the disk is full: the rest would be lost as well.
        if error.kind() != io::ErrorKind::BrokenPipe {
            let _ = crate::fail(1, &format!("standard output: {error}"));
        }
        std::process::exit(1);
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Echoed => "echoed",
        Verdict::Late => "late",
        Verdict::Duplicated => "duplicated",
        Verdict::Corrupted => "corrupted",
        _ => "unknown",
    }
}

/// The time of day, in RFC 3339.
fn now() -> String {
    humantime::format_rfc3339_micros(SystemTime::now()).to_string()
}

/// Where a reply differs, and what came in place of what.
fn different(difference: &Difference) -> String {
    let Difference { offset, count, .. } = difference;
    let (sent, received) = (difference.sent(), difference.received());
    let bytes = if *count == 1 { "byte differs" } else { "bytes differ" };
    match (sent, received) {
        ([], more) => format!(" from byte {offset}: {count} more, {}", quoted(more)),
        (_, []) => format!(" from byte {offset}: {count} are missing"),
        _ => format!(
            " from byte {offset}: {} instead of {}, {count} {bytes}",
            quoted(received),
            hexadecimal(sent)
        ),
    }
}

/// Text in quotes, other bytes in hexadecimal.
fn quoted(bytes: &[u8]) -> String {
    match bytes.len() > 2 && bytes.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        true => format!("\"{}\"", String::from_utf8_lossy(bytes)),
        false => hexadecimal(bytes),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(" ")
}

fn microseconds(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}

/// What stands in front of a line that belongs to one of several targets.
fn label(target: &Target) -> String {
    target.to_string().trim_end_matches('/').to_owned()
}

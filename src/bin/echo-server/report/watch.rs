//! Prints what a watch notices: as text for people, or as JSON.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::builder::styling::{AnsiColor, Style};
use echo_server::Address;
use echo_server::probe::{Board, Series, WatchEvent};
use serde_json::{Value, json};

use super::lines::Lines;
use super::now;
use crate::cli::{Format, Output};
use crate::flags;
use crate::visible::{visible, visible_json};

const WRONG: Style = AnsiColor::Red.on_default().bold();
const RIGHT: Style = AnsiColor::Green.on_default().bold();

/// The version of the JSON objects. It changes if a program that reads them may break.
const SCHEMA: u32 = 1;

/// Prints the events and the summary of a watch.
pub struct Report {
    output: Output,
    lines: Lines,
}

impl Report {
    pub fn new(output: Output, lines: Lines) -> Self {
        Report { output, lines }
    }

    fn is_json(&self) -> bool {
        self.output.format == Format::Json
    }

    /// The endpoint listens.
    pub fn listening(&self, addresses: &[Address]) {
        for address in addresses.iter().filter(|_| !self.output.is_quiet) {
            match (self.is_json(), address) {
                (true, _) => self.object("listening", json!({ "address": address.to_string() })),
                (false, Address::Ip(ip)) => {
                    self.lines.print(format!(
                        "Metrics at http://{ip}/metrics, a page at http://{ip}/mesh"
                    ));
                }
                (false, other) => self.lines.print(format!("Metrics and a page at {other}")),
            }
        }
    }

    pub fn event(&self, event: &WatchEvent) {
        if self.output.is_quiet {
            return;
        }
        if self.is_json() {
            return self.event_as_json(event);
        }
        let time = humantime::format_rfc3339_seconds(SystemTime::now());
        let line = match event {
            WatchEvent::Down(series) => {
                let problem = series.problem.as_deref().unwrap_or_default();
                format!("{WRONG}down{WRONG:#} {}: {problem}", place(series))
            }
            WatchEvent::Up { series, after, .. } => {
                format!("{RIGHT}up{RIGHT:#} {}, after {}", place(series), seconds(*after))
            }
            WatchEvent::LookupFailed { name, problem, .. } => {
                format!("the name {name} could not be looked up: {problem}")
            }
            WatchEvent::Reread { targets, .. } => format!("files read again: {targets} targets"),
            WatchEvent::Unusable(error) => {
                format!("what was read before is kept: {}", flags::watch_error(error))
            }
            _ => return,
        };
        self.lines.print(format!("{time} {line}"));
    }

    /// A line for each target, with all that is known of it.
    pub fn summary(&self, board: &Board) {
        if board.series().is_empty() && !self.is_json() {
            self.lines.print("nothing was probed: no name has been looked up yet".to_owned());
        }
        for series in board.series() {
            match self.is_json() {
                true => self.object("summary", numbers(&series)),
                false => self.lines.print(line(&series)),
            }
        }
    }

    fn event_as_json(&self, event: &WatchEvent) {
        match event {
            WatchEvent::Down(series) => self.object("down", numbers(series)),
            WatchEvent::Up { series, after, .. } => {
                let mut fields = numbers(series);
                fields["after_s"] = after.as_secs_f64().into();
                self.object("up", fields);
            }
            WatchEvent::LookupFailed { name, problem, .. } => {
                self.object("lookup_failed", json!({ "name": name, "why": problem }));
            }
            WatchEvent::Reread { targets, .. } => {
                self.object("reread", json!({ "targets": targets }));
            }
            WatchEvent::Unusable(error) => {
                self.object("unusable", json!({ "why": flags::watch_error(error) }));
            }
            _ => {}
        }
    }

    /// Prints an object that has the fields of all events, and those of `fields`.
    fn object(&self, event: &str, mut fields: Value) {
        let mut object = json!({ "event": event, "schema": SCHEMA, "time": now() });
        if let (Value::Object(object), Value::Object(fields)) = (&mut object, &mut fields) {
            object.append(fields);
        }
        self.lines.print(visible_json(&object.to_string()));
    }
}

/// The target, and its address if it does not name one.
fn place(series: &Series) -> String {
    let url = super::label(&series.target);
    match series.address {
        Some(address) if !url.ends_with(&format!("//{address}")) => {
            format!("{} at {address}", visible(&url))
        }
        _ => visible(&url),
    }
}

fn line(series: &Series) -> String {
    let messages = &series.messages;
    let place = place(series);
    let state = match series.is_up {
        None => return format!("{place}: no round has ended"),
        Some(true) => format!("{RIGHT}up{RIGHT:#}"),
        Some(false) => format!("{WRONG}down{WRONG:#}"),
    };
    let failed: u64 = series.failures.values().sum();
    let mut line = format!("{place}: {state}, {} rounds", series.rounds);
    let mut add = |count: u64, what: &str| {
        if count > 0 {
            line += &format!(", {count} {what}");
        }
    };
    add(failed, "failed");
    add(series.missed, "missed");
    line += &format!("; {} messages", messages.sent);
    let mut add = |count: u64, what: &str| {
        if count > 0 {
            line += &format!(", {WRONG}{count} {what}{WRONG:#}");
        }
    };
    add(messages.lost, "lost");
    add(messages.late, "late");
    add(messages.corrupted, "corrupted");
    add(messages.duplicated, "duplicated");
    add(messages.reordered, "reordered");
    if let Some((median, longest)) =
        series.lately().and_then(|lately| Some((lately.median?, lately.longest?)))
    {
        line += &format!("; lately {} in the median, {} at most", ms(median), ms(longest));
    }
    line
}

fn numbers(series: &Series) -> Value {
    let lately = series.lately();
    let us = |time: Option<Duration>| time.map(super::microseconds);
    let since = series.since.duration_since(UNIX_EPOCH).unwrap_or_default();
    let messages = &series.messages;
    let failures: serde_json::Map<_, _> = series
        .failures
        .iter()
        .map(|(kind, count)| (kind.name().to_owned(), (*count).into()))
        .collect();
    json!({
        "target": series.target.to_string(),
        "address": series.address.map(|address| address.to_string()),
        "up": series.is_up, "since": since.as_secs(), "why": series.problem,
        "rounds": series.rounds, "failed_rounds": series.failed_rounds, "missed": series.missed,
        "sent": messages.sent, "received": messages.received, "lost": messages.lost,
        "late": messages.late, "corrupted": messages.corrupted,
        "duplicated": messages.duplicated, "reordered": messages.reordered,
        "errors": failures,
        "lately": lately.map(|lately| json!({
            "loss": lately.loss, "median_us": us(lately.median), "longest_us": us(lately.longest),
        })),
    })
}

fn ms(time: Duration) -> String {
    format!("{:.3} ms", super::microseconds(time) / 1000.0)
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

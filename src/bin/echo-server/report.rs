//! Prints the events of a probe: lines for people, or JSON, one object a line.

use std::io::{self, Write};
use std::time::Duration;

use echo_server::probe::{Connected, Difference, Event, Progress, Reply, Summary, Target, Verdict};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use crate::cli::{Mode, Probe};
use crate::flags;

/// The largest payload that the search tries.
const MAX_PAYLOAD: usize = 65_507;

/// Prints events as they happen.
pub struct Report {
    target: Target,
    json: bool,
    /// How long a load is going to take.
    duration: Duration,
    /// The progress of a load or of a search, which is visible on a terminal only.
    bar: Option<ProgressBar>,
    /// Whether the largest datagram is searched for. As text, the result comes first.
    is_search: bool,
    /// The bytes of the headers of IP and UDP, once the address is known.
    headers: Option<usize>,
}

impl Report {
    pub fn new(command: &Probe) -> Self {
        let duration = match &command.mode {
            Mode::Load(options) => options.duration,
            _ => Duration::ZERO,
        };
        let target = command.probe.target().clone();
        let is_search = matches!(command.mode, Mode::FindMtu(_));
        Report { target, json: command.json, duration, bar: None, is_search, headers: None }
    }

    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Connected(connected) => self.connected(connected),
            Event::Reply(reply) => self.reply(reply),
            Event::Overdue { seq, .. } => {
                self.print(json!({ "event": "overdue", "seq": seq }), || {
                    format!("seq={seq} overdue")
                });
            }
            Event::Failed { reason, .. } => {
                self.print(json!({ "event": "failed", "why": reason }), || {
                    format!("failed: {reason}")
                });
            }
            Event::Noticed(oddity) => {
                let note = flags::oddity(oddity);
                self.print(json!({ "event": "noticed", "what": note }), || format!("note: {note}"));
            }
            Event::Progress(progress) => self.progress(*progress),
            Event::SizeTried { size, came_back, .. } => self.size_tried(*size, *came_back),
            _ => {}
        }
    }

    fn connected(&mut self, connected: &Connected) {
        self.headers = connected.peer.ip().map(|ip| if ip.is_ipv4() { 20 + 8 } else { 40 + 8 });
        if self.is_search && !self.json {
            return;
        }
        let us = |time: Option<Duration>| time.map(microseconds);
        let facts = connected.tls_facts.as_ref().map(|facts| {
            let expires = facts.expires.map(|at| humantime::format_rfc3339_seconds(at).to_string());
            json!({
                "version": facts.version, "cipher": facts.cipher, "group": facts.group,
                "alpn": facts.alpn, "subject": facts.subject, "expires": expires,
                "sha256": facts.fingerprint.map(|fingerprint| fingerprint.to_string()),
                "pinned": facts.is_pinned, "verified": facts.unverified.is_none(), "unverified": facts.unverified,
            })
        });
        let object = json!({
            "event": "connected", "target": self.target.to_string(),
            "peer": connected.peer.to_string(), "local": connected.local.map(|local| local.to_string()),
            "resolve_us": us(connected.resolve), "connect_us": us(connected.connect),
            "tls_us": us(connected.tls), "http2_us": us(connected.http2), "upgrade_us": us(connected.upgrade),
            "tls": facts, "subprotocol": connected.subprotocol,
        });
        self.print(object, || {
            let mut first = format!("{} at {}", self.target, connected.peer);
            if let Some(local) = connected.local {
                first += &format!(" from {local}");
            }
            let mut lines = vec![first];
            let mut phases = Vec::new();
            for (name, time) in [
                ("name", connected.resolve),
                ("connect", connected.connect),
                ("TLS", connected.tls),
                ("HTTP/2", connected.http2),
                ("upgrade", connected.upgrade),
            ] {
                phases.extend(time.map(|time| format!("{name} {}", ms(time))));
            }
            lines.push(phases.join(", "));
            lines.extend(connected.tls_facts.as_ref().map(ToString::to_string));
            lines.extend(connected.subprotocol.as_ref().map(|name| format!("subprotocol {name}")));
            lines.join("\n")
        });
    }

    fn reply(&mut self, reply: &Reply) {
        let verdict = match reply.verdict {
            Verdict::Echoed => "echoed",
            Verdict::Late => "late",
            Verdict::Duplicated => "duplicated",
            Verdict::Corrupted => "corrupted",
            _ => "unknown",
        };
        let object = json!({
            "event": "reply", "seq": reply.seq, "size": reply.size, "verdict": verdict,
            "reordered": reply.is_reordered, "rtt_us": reply.rtt.map(microseconds),
            "difference": reply.difference.map(|difference| json!({
                "offset": difference.offset, "count": difference.count,
                "sent": hexadecimal(difference.sent()),
                "received": hexadecimal(difference.received()),
            })),
        });
        self.print(object, || {
            let seq = reply.seq.map_or("?".to_owned(), |seq| seq.to_string());
            let mut line = format!("seq={seq} size={}", reply.size);
            if let Some(rtt) = reply.rtt {
                line += &format!(" rtt={}", ms(rtt));
            }
            if reply.is_reordered {
                line += " reordered";
            }
            if reply.verdict != Verdict::Echoed {
                line += &format!(" {}", verdict.to_uppercase());
            }
            if let Some(difference) = reply.difference {
                line += &different(&difference);
            } else if reply.verdict == Verdict::Corrupted && reply.seq.is_some() {
                line += ": text for binary, or binary for text";
            }
            line
        });
    }

    /// Text shows progress on a terminal only, JSON always.
    fn progress(&mut self, progress: Progress) {
        if self.json {
            let object = json!({
                "event": "progress", "elapsed_s": progress.elapsed.as_secs_f64(),
                "sent": progress.sent, "replies": progress.replies,
            });
            return self.print(object, String::new);
        }
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("[{bar:30}] {msg}");
            ProgressBar::new(self.duration.as_millis() as u64)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        bar.set_position(progress.elapsed.as_millis() as u64);
        let rate = progress.replies as f64 / progress.elapsed.as_secs_f64().max(0.001);
        bar.set_message(format!(
            "{:.1} s, {} replies, {rate:.0} a second",
            progress.elapsed.as_secs_f64(),
            progress.replies
        ));
    }

    /// The search is shown on standard error: on one line of a terminal, else line by line. So the
    /// result comes first on standard output.
    fn size_tried(&mut self, size: usize, came_back: bool) {
        if self.json {
            let object = json!({ "event": "tried", "size": size, "came_back": came_back });
            return self.print(object, String::new);
        }
        let line =
            format!("{size} bytes: {}", if came_back { "came back" } else { "did not come back" });
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{spinner} {msg}");
            ProgressBar::new_spinner()
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        });
        if bar.is_hidden() {
            let _ = writeln!(io::stderr(), "{line}");
        } else {
            bar.set_message(line);
            bar.tick();
        }
    }

    /// Prints the result of the search for the largest datagram.
    pub fn mtu(&mut self, payload: Option<usize>) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let mtu = payload.zip(self.headers).map(|(payload, headers)| payload + headers);
        let object = json!({ "event": "summary", "largest_payload": payload, "mtu": mtu });
        self.print(object, || match (payload, mtu, self.headers) {
            (Some(payload), Some(mtu), Some(headers)) => format!(
                "largest payload that comes back unfragmented: {payload} bytes; with {headers} of \
                 headers the MTU is {mtu}{}",
                // The limit of UDP itself.
                if payload == MAX_PAYLOAD { " or more" } else { "" }
            ),
            (Some(payload), ..) => {
                format!("largest payload that comes back unfragmented: {payload} bytes")
            }
            _ => "nothing comes back".to_owned(),
        });
    }

    /// Prints why there is no summary. As text it is on standard error already.
    pub fn failure(&self, reason: &str) {
        if self.json {
            let target = self.target.to_string();
            let object = json!({ "event": "summary", "target": target, "error": reason });
            self.print(object, String::new);
        }
    }

    pub fn summary(&mut self, summary: &Summary) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let us = |time: Option<Duration>| time.map(microseconds);
        let errors: Map<_, _> = summary
            .errors()
            .map(|(reason, count)| (reason.to_owned(), Value::from(count)))
            .collect();
        let object = json!({
            "event": "summary", "target": self.target.to_string(),
            "sent": summary.sent(), "received": summary.received(), "lost": summary.lost(),
            "late": summary.late(), "corrupted": summary.corrupted(),
            "duplicated": summary.duplicated(), "reordered": summary.reordered(),
            "unanswered": summary.unanswered(), "unsent": summary.unsent(),
            "errors": errors, "elapsed_s": summary.elapsed().as_secs_f64(),
            "rate": summary.rate(), "sent_late": summary.sent_late(),
            "late_by_us": {
                "p50": us(summary.late_by_percentile(50.0)),
                "p99": us(summary.late_by_percentile(99.0)), "max": us(summary.late_by_max()),
            },
            "rtt_us": {
                "min": us(summary.rtt_min()), "mean": us(summary.rtt_mean()),
                "p50": us(summary.rtt_percentile(50.0)), "p90": us(summary.rtt_percentile(90.0)),
                "p99": us(summary.rtt_percentile(99.0)),
                "p99.9": us(summary.rtt_percentile(99.9)),
                "p99.99": us(summary.rtt_percentile(99.99)),
                "max": us(summary.rtt_max()), "jitter": us(summary.jitter()),
            },
        });
        self.print(object, || format!("--- {}\n{summary}", self.target));
    }

    fn print(&self, object: Value, text: impl FnOnce() -> String) {
        let line = if self.json { object.to_string() } else { text() };
        let mut out = io::stdout().lock();
        if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
            // The reader has closed the pipe, or the disk is full: the rest would be lost as well.
            if error.kind() != io::ErrorKind::BrokenPipe {
                let _ = writeln!(io::stderr(), "echo-server: standard output: {error}");
            }
            std::process::exit(1);
        }
    }
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

fn hexadecimal(bytes: &[u8]) -> String {
    let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(" ")
}

/// Text in quotes, other bytes in hexadecimal.
fn quoted(bytes: &[u8]) -> String {
    match bytes.len() > 2 && bytes.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        true => format!("\"{}\"", String::from_utf8_lossy(bytes)),
        false => hexadecimal(bytes),
    }
}

fn ms(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1000.0)
}

fn microseconds(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}

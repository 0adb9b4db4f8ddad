//! One JSON object a line, for programs. docs/probe-json.md describes them, and a test compares.

use std::time::Duration;

use echo_server::probe::{Arrival, Connected, Ending, Event, Phase, Summary, Target, Times};
use serde_json::{Map, Value, json};

use super::{Largest, Printer, facts, hexadecimal, microseconds, now, print, verdict};
use crate::cli::Mode;
use crate::flags;
use crate::visible::visible_json;

/// The version of the schema. It changes if a program that reads it may break.
const SCHEMA: u32 = 1;

/// How many buckets a histogram has at most: as fine as there are.
const BUCKETS: usize = usize::MAX;

pub(super) struct Json {
    target: Target,
    /// Whether the server is asked for facts. They are one object, with the connection.
    is_facts: bool,
}

impl Json {
    pub(super) fn new(target: Target, mode: &Mode) -> Self {
        Json { target, is_facts: matches!(mode, Mode::Facts(_)) }
    }

    /// Prints an object that has the fields of all events, and those of `fields`.
    fn print(&self, event: &str, fields: Value) {
        let target = self.target.to_string();
        let mut object =
            json!({ "event": event, "schema": SCHEMA, "time": now(), "target": target });
        if let (Value::Object(object), Value::Object(mut fields)) = (&mut object, fields) {
            object.append(&mut fields);
        }
        print(&visible_json(&object.to_string()));
    }
}

impl Printer for Json {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Connected(_) if self.is_facts => {}
            Event::Connected(connected) => self.print("connected", connection(connected)),
            Event::Reply(reply) => self.print(
                "reply",
                json!({
                    "seq": reply.seq, "size": reply.size, "verdict": verdict(reply.verdict),
                    "reordered": reply.is_reordered, "rtt_us": us(reply.rtt),
                    "difference": reply.difference.map(|difference| json!({
                        "offset": difference.offset, "count": difference.count,
                        "sent": hexadecimal(difference.sent()),
                        "received": hexadecimal(difference.received()),
                    })),
                }),
            ),
            Event::Overdue { seq, .. } => self.print("overdue", json!({ "seq": seq })),
            Event::Failed { reason, echoed, .. } => self.print(
                "failed",
                json!({
                    "why": reason, "bytes": echoed.map(|echoed| echoed.bytes),
                    "echoes": echoed.map(|echoed| echoed.messages),
                    "mid_echo": echoed.map(|echoed| echoed.is_partial),
                }),
            ),
            Event::Reconnected { after, attempts, connected, .. } => {
                let mut fields = connection(connected);
                fields["after_s"] = after.as_secs_f64().into();
                fields["attempts"] = (*attempts).into();
                self.print("reconnected", fields);
            }
            Event::Interim(summary) => self.print("interim", numbers(summary)),
            Event::Connecting(connecting) => self.print(
                "connecting",
                json!({
                    "established": connecting.established, "failed": connecting.failed,
                    "wanted": connecting.wanted,
                }),
            ),
            Event::Progress(progress) => self.print(
                "progress",
                json!({
                    "elapsed_s": progress.elapsed.as_secs_f64(), "warm_up": progress.is_warm_up,
                    "sent": progress.sent, "replies": progress.replies,
                    "failures": progress.failures,
                    "p50_us": us(progress.rtt.percentile(50.0)),
                    "p99_us": us(progress.rtt.percentile(99.0)),
                }),
            ),
            Event::Noticed(oddity) => {
                self.print("noticed", json!({ "what": flags::oddity(oddity) }));
            }
            Event::SizeTried { size, came_back, .. } => {
                self.print("tried", json!({ "size": size, "came_back": came_back }));
            }
            _ => {}
        }
    }

    fn summary(&mut self, summary: &Summary) {
        self.print("summary", numbers(summary));
    }

    fn mtu(&mut self, found: Option<Largest>) {
        let payload = found.map(|found| found.payload);
        let mtu = found.and_then(|found| Some(found.payload + found.headers?));
        self.print("mtu", json!({ "largest_payload": payload, "mtu": mtu }));
    }

    fn arrival(&mut self, arrival: &Arrival) {
        let mut fields = connection(&arrival.connected);
        if let (Value::Object(fields), Value::Object(mut more)) =
            (&mut fields, facts::json(&self.target, arrival))
        {
            fields.append(&mut more);
        }
        self.print("facts", fields);
    }

    fn failure(&mut self, reason: &str) {
        self.print("error", json!({ "why": reason }));
    }
}

fn connection(connected: &Connected) -> Value {
    let facts = connected.tls_facts.as_ref().map(|facts| {
        let expires = facts.expires.map(|at| humantime::format_rfc3339_seconds(at).to_string());
        json!({
            "version": facts.version, "cipher": facts.cipher, "group": facts.group,
            "alpn": facts.alpn, "subject": facts.subject, "expires": expires,
            "sha256": facts.fingerprint.map(|fingerprint| fingerprint.to_string()),
            "pinned": facts.is_pinned, "verified": facts.unverified.is_none(),
            "unverified": facts.unverified,
        })
    });
    json!({
        "peer": connected.peer.to_string(),
        "local": connected.local.map(|local| local.to_string()),
        "resolve_us": us(connected.resolve), "connect_us": us(connected.connect),
        "tls_us": us(connected.tls), "http2_us": us(connected.http2),
        "upgrade_us": us(connected.upgrade),
        "tls": facts, "subprotocol": connected.subprotocol,
    })
}

fn numbers(summary: &Summary) -> Value {
    let errors: Map<_, _> =
        summary.errors().map(|(reason, count)| (reason.to_owned(), Value::from(count))).collect();
    json!({
        "sent": summary.sent(), "received": summary.received(), "lost": summary.lost(),
        "lost_percent": summary.lost_percent(), "late": summary.late(),
        "corrupted": summary.corrupted(), "duplicated": summary.duplicated(),
        "reordered": summary.reordered(), "unanswered": summary.unanswered(),
        "unsent": summary.unsent(), "errors": errors,
        "endings": summary.endings().map(ending).collect::<Vec<_>>(), "connections": summary.connections(),
        "reconnects": summary.reconnects(),
        "disconnected_s": summary.disconnected().as_secs_f64(),
        "elapsed_s": summary.elapsed().as_secs_f64(), "rate": summary.rate(),
        "message_size": summary.message_size(), "bytes_received": summary.bytes_received(),
        "sent_late": summary.sent_late(), "late_by_us": times(summary.late_by()),
        "resolve_us": times(summary.phase(Phase::Resolve)),
        "connect_us": times(summary.phase(Phase::Connect)),
        "tls_us": times(summary.phase(Phase::Tls)),
        "upgrade_us": times(summary.phase(Phase::Upgrade)),
        "rtt_us": times(summary.rtt()), "jitter_us": us(summary.jitter()),
        "histogram": histogram(summary.rtt()),
    })
}

fn ending(ending: &Ending) -> Value {
    json!({
        "why": ending.reason(), "what": ending.to_string(), "count": ending.count,
        "least_bytes": ending.bytes.start(), "most_bytes": ending.bytes.end(),
        "least_echoes": ending.messages.start(), "most_echoes": ending.messages.end(),
        "mid_echo": ending.partial,
    })
}

fn times(times: &Times) -> Value {
    json!({
        "count": times.count(), "exact": times.is_exact(), "min": us(times.min()),
        "mean": us(times.mean()), "stddev": us(times.stddev()),
        "p50": us(times.percentile(50.0)), "p90": us(times.percentile(90.0)),
        "p99": us(times.percentile(99.0)), "p99.9": us(times.percentile(99.9)),
        "p99.99": us(times.percentile(99.99)), "max": us(times.max()),
    })
}

/// The buckets that have something in them.
fn histogram(times: &Times) -> Vec<Value> {
    let buckets = times.histogram(BUCKETS).into_iter().filter(|bucket| bucket.count > 0);
    buckets
        .map(|bucket| {
            json!({
                "from_us": microseconds(bucket.from), "to_us": microseconds(bucket.to),
                "count": bucket.count,
            })
        })
        .collect()
}

fn us(time: Option<Duration>) -> Option<f64> {
    time.map(microseconds)
}

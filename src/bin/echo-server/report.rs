//! What a probe prints: lines for people, or JSON, one object a line.

use std::io::{self, Write};
use std::time::Duration;

use echo_server::probe::{Connected, Event, Progress, Reply, Summary, Target, Verdict};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

/// Prints events as they happen.
pub struct Report {
    target: Target,
    json: bool,
    /// Of a load; it shows itself on a terminal only.
    bar: Option<ProgressBar>,
}

impl Report {
    pub fn new(target: Target, json: bool) -> Self {
        Report { target, json, bar: None }
    }

    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Connected(connected) => self.connected(connected),
            Event::Reply(reply) => self.reply(reply),
            Event::Overdue { seq } => {
                self.print(json!({ "event": "overdue", "seq": seq }), || {
                    format!("seq={seq} overdue")
                });
            }
            Event::Failed { why } => {
                self.print(json!({ "event": "failed", "why": why }), || format!("failed: {why}"));
            }
            _ => {}
        }
    }

    fn connected(&mut self, connected: &Connected) {
        let us = |time: Option<Duration>| time.map(microseconds);
        let facts = connected.tls_facts.as_ref().map(|facts| {
            let expires = facts.expires.map(|at| humantime::format_rfc3339_seconds(at).to_string());
            json!({
                "version": facts.version, "cipher": facts.cipher, "group": facts.group,
                "alpn": facts.alpn, "subject": facts.subject, "expires": expires,
                "verified": facts.unverified.is_none(), "unverified": facts.unverified,
            })
        });
        let object = json!({
            "event": "connected", "target": self.target.to_string(),
            "peer": connected.peer.to_string(), "local": connected.local.to_string(),
            "resolve_us": microseconds(connected.resolve), "connect_us": us(connected.connect),
            "tls_us": us(connected.tls), "upgrade_us": us(connected.upgrade),
            "tls": facts, "subprotocol": connected.subprotocol,
        });
        self.print(object, || {
            let mut lines =
                vec![format!("{} at {} from {}", self.target, connected.peer, connected.local)];
            let mut phases = vec![format!("name {}", ms(connected.resolve))];
            for (name, time) in [
                ("connect", connected.connect),
                ("TLS", connected.tls),
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
            line
        });
    }

    /// A load has come this far. Without a terminal it goes on in silence; JSON is for programs,
    /// which want to know.
    pub fn progress(&mut self, progress: Progress, duration: Duration) {
        if self.json {
            let object = json!({
                "event": "progress", "elapsed_s": progress.elapsed.as_secs_f64(),
                "sent": progress.sent, "replies": progress.replies,
            });
            return self.print(object, String::new);
        }
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("[{bar:30}] {msg}");
            ProgressBar::new(duration.as_millis() as u64)
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

    /// A size has been tried.
    pub fn tried(&mut self, size: usize, came_back: bool) {
        self.print(json!({ "event": "tried", "size": size, "came_back": came_back }), || {
            format!("{size} bytes: {}", if came_back { "came back" } else { "did not come back" })
        });
    }

    /// The largest size has been found.
    pub fn mtu(&mut self, payload: Option<usize>) {
        self.print(json!({ "event": "summary", "largest_payload": payload }), || match payload {
            Some(payload) => {
                format!("largest payload that comes back unfragmented: {payload} bytes")
            }
            None => "nothing comes back".to_owned(),
        });
    }

    /// There is nothing to sum up, and this is why. People read it on stderr.
    pub fn failure(&self, why: &str) {
        if self.json {
            let target = self.target.to_string();
            let object = json!({ "event": "summary", "target": target, "error": why });
            self.print(object, String::new);
        }
    }

    pub fn summary(&mut self, summary: &Summary) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let us = |time| microseconds(time);
        let object = json!({
            "event": "summary", "target": self.target.to_string(),
            "sent": summary.sent, "received": summary.received, "lost": summary.lost,
            "late": summary.late, "corrupted": summary.corrupted,
            "duplicated": summary.duplicated, "reordered": summary.reordered,
            "unanswered": summary.unanswered, "unsent": summary.unsent,
            "errors": summary.errors, "elapsed_s": summary.elapsed.as_secs_f64(),
            "rate": summary.rate(),
            "rtt_us": {
                "min": us(summary.rtt_min()), "mean": us(summary.rtt_mean()),
                "p50": us(summary.rtt_percentile(50.0)), "p90": us(summary.rtt_percentile(90.0)),
                "p99": us(summary.rtt_percentile(99.0)),
                "p99.9": us(summary.rtt_percentile(99.9)),
                "p99.99": us(summary.rtt_percentile(99.99)),
                "max": us(summary.rtt_max()), "jitter": summary.jitter().map(us),
            },
        });
        self.print(object, || text_summary(&self.target, summary));
    }

    fn print(&self, object: Value, text: impl FnOnce() -> String) {
        let line = if self.json { object.to_string() } else { text() };
        let mut out = io::stdout().lock();
        if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
            // Whoever listened has heard enough, or the disk is full: either way nobody learns how
            // it goes on.
            if error.kind() != io::ErrorKind::BrokenPipe {
                let _ = writeln!(io::stderr(), "echo-server: standard output: {error}");
            }
            std::process::exit(1);
        }
    }
}

fn text_summary(target: &Target, summary: &Summary) -> String {
    let Summary { sent, received, lost, late, corrupted, duplicated, reordered, .. } = summary;
    let mut lines = vec![
        format!("--- {target}"),
        format!(
            "{sent} sent, {received} received, {lost} lost, {late} late, {corrupted} corrupted, \
             {duplicated} duplicated, {reordered} reordered in {:.3} s ({:.0} a second)",
            summary.elapsed.as_secs_f64(),
            summary.rate()
        ),
    ];
    if *received > 0 {
        // A percentile says something only if there are values beyond it.
        let percentiles = [50.0, 90.0, 99.0, 99.9, 99.99].into_iter().filter(|percent| {
            *percent <= 99.0 || *received as f64 * (100.0 - percent) / 100.0 >= 1.0
        });
        let percentiles: Vec<_> = percentiles
            .map(|percent| format!("p{percent} {}", ms(summary.rtt_percentile(percent))))
            .collect();
        let mut line = format!(
            "rtt: min {}, mean {}, {}, max {}",
            ms(summary.rtt_min()),
            ms(summary.rtt_mean()),
            percentiles.join(", "),
            ms(summary.rtt_max()),
        );
        if let Some(jitter) = summary.jitter() {
            line += &format!(", jitter {}", ms(jitter));
        }
        lines.push(line);
    }
    if summary.unanswered > 0 {
        lines.push(format!("{} still in flight when stopped", summary.unanswered));
    }
    if summary.unsent > 0 {
        lines.push(format!("{} due but not sent", summary.unsent));
    }
    lines.extend(summary.errors.iter().map(|(why, count)| format!("{count} times: {why}")));
    lines.join("\n")
}

fn ms(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1000.0)
}

fn microseconds(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}

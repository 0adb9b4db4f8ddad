//! Comma-separated values (RFC 4180): of a ping a line for each reply, of a load one line.

use std::time::Duration;

use echo_server::probe::{Arrival, Event, Summary, Target};

use super::{Largest, Printer, microseconds, now, print, verdict};
use crate::cli::Mode;

const REPLY: &str = "time,target,seq,size,verdict,reordered,rtt_us,error";

const LOAD: &str = "time,target,sent,received,lost,late,corrupted,duplicated,reordered,unanswered,\
                    unsent,connections,errors,elapsed_s,rate,bytes_received,rtt_min_us,rtt_mean_us,\
                    rtt_stddev_us,rtt_p50_us,rtt_p90_us,rtt_p99_us,rtt_p99.9_us,rtt_max_us";

pub(super) struct Csv {
    target: Target,
    is_load: bool,
}

impl Csv {
    /// The first of several has the names of the columns printed.
    pub(super) fn new(target: Target, mode: &Mode, is_first: bool) -> Self {
        let is_load = matches!(mode, Mode::Load(_));
        if is_first {
            print(if is_load { LOAD } else { REPLY });
        }
        Csv { target, is_load }
    }

    fn print(&self, fields: &[String]) {
        let first = [now(), self.target.to_string()];
        let fields: Vec<_> = first.iter().chain(fields).map(|field| quoted(field)).collect();
        print(&fields.join(","));
    }

    /// A line of what is no reply.
    fn print_trouble(&self, seq: String, verdict: &str, error: &str) {
        let none = String::new;
        self.print(&[seq, none(), verdict.to_owned(), none(), none(), error.to_owned()]);
    }
}

impl Printer for Csv {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Reply(reply) => self.print(&[
                reply.seq.map(|seq| seq.to_string()).unwrap_or_default(),
                reply.size.to_string(),
                verdict(reply.verdict).to_owned(),
                reply.is_reordered.to_string(),
                us(reply.rtt),
                String::new(),
            ]),
            Event::Overdue { seq, .. } => self.print_trouble(seq.to_string(), "overdue", ""),
            Event::Failed { reason, .. } => self.print_trouble(String::new(), "failed", reason),
            _ => {}
        }
    }

    fn summary(&mut self, summary: &Summary) {
        if !self.is_load {
            return;
        }
        let rtt = summary.rtt();
        let counts = [
            summary.sent(),
            summary.received(),
            summary.lost(),
            summary.late(),
            summary.corrupted(),
            summary.duplicated(),
            summary.reordered(),
            summary.unanswered(),
            summary.unsent(),
            summary.connections(),
            summary.errors().map(|(_, count)| count).sum(),
        ];
        let mut fields: Vec<_> = counts.iter().map(ToString::to_string).collect();
        fields.push(summary.elapsed().as_secs_f64().to_string());
        fields.push(summary.rate().to_string());
        fields.push(summary.bytes_received().to_string());
        fields.extend([rtt.min(), rtt.mean(), rtt.stddev()].map(us));
        fields.extend([50.0, 90.0, 99.0, 99.9].map(|percent| us(rtt.percentile(percent))));
        fields.push(us(rtt.max()));
        self.print(&fields);
    }

    // The flag excludes facts.
    fn arrival(&mut self, _arrival: &Arrival) {}

    fn mtu(&mut self, _found: Option<Largest>) {}
}

fn us(time: Option<Duration>) -> String {
    time.map(|time| microseconds(time).to_string()).unwrap_or_default()
}

fn quoted(field: &str) -> String {
    match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_quoted_where_it_has_to_be() {
        assert_eq!(quoted("plain: text"), "plain: text");
        assert_eq!(quoted("a \"b\", c"), "\"a \"\"b\"\", c\"");
    }
}

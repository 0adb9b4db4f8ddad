//! What a measurement found.

use std::collections::BTreeMap;

use echo_server::Protocol;
use echo_server::probe::Summary;

/// A metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Echoes a second; for churn, connections a second.
    Rate,
    /// The server's processor time for each of them, all threads, in nanoseconds.
    Cpu,
    /// Percentiles of the round trip, in nanoseconds.
    P50,
    P99,
    P999,
    /// The server's system calls for each echo; for churn, for each connection.
    Syscalls,
    /// The server's instructions outside the kernel, for the same.
    Instructions,
    /// The server's resident bytes for each connection.
    Resident,
    /// From exec to listening, in nanoseconds.
    Start,
}

impl Metric {
    /// Its heading in a table.
    pub fn heading(self) -> &'static str {
        match self {
            Metric::Rate => "per second",
            Metric::Cpu => "CPU each, µs",
            Metric::P50 => "p50, µs",
            Metric::P99 => "p99, µs",
            Metric::P999 => "p99.9, µs",
            Metric::Syscalls => "calls each",
            Metric::Instructions => "instructions each",
            Metric::Resident => "memory each, B",
            Metric::Start => "start, ms",
        }
    }

    /// Its name in JSON, with the unit of its values.
    pub fn key(self) -> &'static str {
        match self {
            Metric::Rate => "per_second",
            Metric::Cpu => "cpu_ns",
            Metric::P50 => "p50_ns",
            Metric::P99 => "p99_ns",
            Metric::P999 => "p999_ns",
            Metric::Syscalls => "syscalls",
            Metric::Instructions => "instructions",
            Metric::Resident => "resident_bytes",
            Metric::Start => "start_ns",
        }
    }

    /// The short name in the heading of a ratio.
    pub fn noun(self) -> &'static str {
        match self {
            Metric::Rate => "rate",
            Metric::Cpu => "CPU",
            Metric::Resident => "memory",
            Metric::Start => "start",
            other => other.key(),
        }
    }

    /// A value as a table shows it.
    pub fn show(self, value: f64) -> String {
        match self {
            Metric::Rate | Metric::Resident | Metric::Instructions => format!("{value:.0}"),
            Metric::Cpu | Metric::Syscalls => format!("{value:.2}", value = self.scaled(value)),
            Metric::P50 | Metric::P99 | Metric::P999 => {
                format!("{value:.0}", value = self.scaled(value))
            }
            Metric::Start => format!("{value:.1}", value = self.scaled(value)),
        }
    }

    /// Converts a value to the unit of the heading.
    fn scaled(self, value: f64) -> f64 {
        match self {
            Metric::Cpu | Metric::P50 | Metric::P99 | Metric::P999 => value / 1e3,
            Metric::Start => value / 1e6,
            Metric::Rate | Metric::Syscalls | Metric::Instructions | Metric::Resident => value,
        }
    }
}

/// What stopped a measurement, in one line.
pub type Trouble = String;

/// One measurement.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    pub values: BTreeMap<Metric, f64>,
    /// Messages that came back as they were sent.
    pub right: u64,
    /// Messages that did not come back in time.
    pub lost: u64,
    /// What else went wrong, in words.
    pub wrong: Option<String>,
}

impl Sample {
    /// The counts and times of a load.
    pub fn of(summary: &Summary) -> Sample {
        let (corrupted, duplicated) = (summary.corrupted(), summary.duplicated());
        let (sent, unsent) = (summary.sent(), summary.unsent());
        let error = summary.errors().next();
        let wrong = (corrupted + duplicated > 0)
            .then(|| format!("{corrupted} corrupted, {duplicated} duplicated"))
            .or_else(|| error.map(|(reason, _)| reason.to_owned()))
            // The actual rate then differs from the requested one.
            .or_else(|| {
                (unsent > sent / 100).then(|| format!("{unsent} could not be sent in time"))
            });
        let percentiles = [(Metric::P50, 50.0), (Metric::P99, 99.0), (Metric::P999, 99.9)];
        let values = percentiles
            .into_iter()
            .map(|(metric, percent)| {
                let rtt = summary.rtt_percentile(percent).unwrap_or_default();
                (metric, rtt.as_nanos() as f64)
            })
            .collect();
        Sample { values, right: summary.received(), lost: summary.lost() + summary.late(), wrong }
    }

    /// Whether all echoes were right, as far as the protocol promises.
    pub fn check(&self, protocol: Protocol) -> Result<(), String> {
        if let Some(wrong) = &self.wrong {
            return Err(wrong.clone());
        }
        if self.right == 0 {
            return Err("nothing came back".to_owned());
        }
        match self.lost {
            lost if lost > 0 && protocol != Protocol::Udp => Err(format!("{lost} were lost")),
            _ => Ok(()),
        }
    }
}

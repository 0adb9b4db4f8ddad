//! The families of metrics of probes. Their names and labels are an interface: see docs/metrics.md.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use prometheus_client::encoding::{MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::families::{Families, counter, gauge};
use crate::probe::{Board, Phase, Series};

/// A target, and what its series are labelled with.
struct Labelled {
    series: Series,
    target: String,
    address: Option<String>,
}

impl Labelled {
    fn labels<'a>(&'a self, source: &'a str) -> Vec<(&'a str, &'a str)> {
        let protocol = self.series.target.protocol().name();
        let mut labels = vec![("source", source), ("target", &*self.target)];
        labels.extend(self.address.as_deref().map(|address| ("address", address)));
        labels.push(("protocol", protocol));
        labels
    }
}

impl Families<'_> {
    /// Of all targets that have had a round.
    pub(super) fn probes(&mut self, board: &Board) -> fmt::Result {
        let source = board.source();
        let all = board.series();
        let help = "Targets that are probed, each address of a name by itself";
        let mut family = self.family("echo_probe_targets", help, MetricType::Gauge)?;
        let probed = all.iter().filter(|series| series.is_probed).count() as u64;
        gauge(&mut family, &[("source", source)], probed)?;
        let all: Vec<_> = all
            .into_iter()
            .filter(|series| series.is_up.is_some())
            .map(|series| Labelled {
                target: series.target.to_string(),
                address: series.address.map(|address| address.to_string()),
                series,
            })
            .collect();

        let help = "Whether the last round connected, and messages came back unchanged";
        let mut family = self.family("echo_probe_up", help, MetricType::Gauge)?;
        for one in &all {
            let is_up = i64::from(one.series.is_up == Some(true));
            gauge(&mut family, &one.labels(source), is_up)?;
        }
        let help = "How many of the last rounds have failed in a row";
        let mut family = self.family("echo_probe_failed_rounds", help, MetricType::Gauge)?;
        for one in &all {
            gauge(&mut family, &one.labels(source), one.series.failed_rounds)?;
        }
        type Count = fn(&Series) -> u64;
        let messages: [(&str, &str, Count); 9] = [
            ("echo_probe_rounds", "Rounds that have ended", |series| series.rounds),
            (
                "echo_probe_rounds_missed",
                "Rounds that did not begin, because the one before was still going on",
                |series| series.missed,
            ),
            ("echo_probe_messages_sent", "Messages sent", |series| series.messages.sent),
            (
                "echo_probe_messages_received",
                "Messages that came back unchanged and in time",
                |series| series.messages.received,
            ),
            ("echo_probe_messages_lost", "Messages that did not come back", |series| {
                series.messages.lost
            }),
            ("echo_probe_messages_late", "Messages that came back too late", |series| {
                series.messages.late
            }),
            (
                "echo_probe_messages_corrupted",
                "Replies that differed from what was sent",
                |series| series.messages.corrupted,
            ),
            (
                "echo_probe_messages_duplicated",
                "Replies to messages that had come back already",
                |series| series.messages.duplicated,
            ),
            (
                "echo_probe_messages_reordered",
                "Messages that came back behind one that was sent later",
                |series| series.messages.reordered,
            ),
        ];
        for (name, help, value) in messages {
            let mut family = self.family(name, help, MetricType::Counter)?;
            for one in &all {
                counter(&mut family, &one.labels(source), value(&one.series))?;
            }
        }
        let help = "Time from sending a message to its reply";
        let mut family = self.family("echo_probe_rtt_seconds", help, MetricType::Histogram)?;
        for one in &all {
            round_trips(&mut family, one, source)?;
        }
        let help = "How long each phase of the last connection took";
        let name = "echo_probe_phase_duration_seconds";
        let mut family = self.family(name, help, MetricType::Gauge)?;
        for one in &all {
            for (phase, time) in &one.series.phases {
                let mut labels = one.labels(source);
                labels.push(("phase", phase_name(*phase)));
                gauge(&mut family, &labels, time.as_secs_f64())?;
            }
        }
        let help = "Rounds that have failed, by the kind of the failure";
        let mut family = self.family("echo_probe_errors", help, MetricType::Counter)?;
        for one in &all {
            for (kind, count) in &one.series.failures {
                let mut labels = one.labels(source);
                labels.push(("kind", kind.name()));
                counter(&mut family, &labels, *count)?;
            }
        }
        let help = "When the certificate of a target expires, in seconds since 1970";
        let name = "echo_probe_certificate_not_after_timestamp_seconds";
        let mut family = self.family(name, help, MetricType::Gauge)?;
        for one in &all {
            let since = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).ok();
            if let Some(not_after) = one.series.expires.and_then(since) {
                gauge(&mut family, &one.labels(source), not_after.as_secs())?;
            }
        }
        self.lookups(source, &board.lookup_failures())?;
        if let Some(is_usable) = board.are_files_usable() {
            let help = "Whether targets and certificates could be used when they were last read";
            let name = "echo_probe_last_reload_successful";
            let mut family = self.family(name, help, MetricType::Gauge)?;
            gauge(&mut family, &[("source", source)], i64::from(is_usable))?;
        }
        Ok(())
    }

    fn lookups(&mut self, source: &str, failures: &BTreeMap<String, u64>) -> fmt::Result {
        let help = "Lookups that have failed, of names whose addresses are all probed";
        let mut family = self.family("echo_probe_lookup_failures", help, MetricType::Counter)?;
        for (name, count) in failures {
            counter(&mut family, &[("source", source), ("name", name.as_str())], *count)?;
        }
        Ok(())
    }
}

fn round_trips(family: &mut MetricEncoder<'_>, one: &Labelled, source: &str) -> fmt::Result {
    let trips = &one.series.round_trips;
    let buckets: Vec<_> = trips.buckets().collect();
    let count = buckets.iter().map(|(_, count)| count).sum();
    family.encode_family(&one.labels(source).as_slice())?.encode_histogram::<NoLabelSet>(
        trips.sum().as_secs_f64(),
        count,
        &buckets,
        None,
    )
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Resolve => "resolve",
        Phase::Connect => "connect",
        Phase::Tls => "tls",
        Phase::Upgrade => "upgrade",
    }
}

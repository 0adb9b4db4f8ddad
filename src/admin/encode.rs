//! The metrics as text.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text, text};
use prometheus_client::registry::Registry;

use super::families::Families;
use super::process::Process;
use crate::probe::Board;
use crate::server::{Metrics, Snapshot};

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus' text format, version 0.0.4.
    Prometheus,
    /// OpenMetrics, version 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The format for a client whose Accept fields are `accept` (RFC 9110 section 12.5.1):
    /// OpenMetrics if it is named with at least the weight of plain text, as Prometheus does.
    pub(super) fn preferred<'a>(accept: impl Iterator<Item = &'a str>) -> Format {
        let (mut open_metrics, mut plain) = (0.0, 0.0);
        for range in accept.flat_map(|value| value.split(',')) {
            // Types and the names of parameters are case-insensitive (RFC 9110 section 8.3.1).
            let range = range.to_ascii_lowercase();
            let mut parts = range.split(';').map(str::trim);
            let weight = match parts.next() {
                Some("application/openmetrics-text") => &mut open_metrics,
                Some("text/plain") => &mut plain,
                _ => continue,
            };
            let q = parts.find_map(|part| part.strip_prefix("q="));
            let q = q.map_or(1.0, |q| q.parse::<f32>().unwrap_or(0.0));
            *weight = q.max(*weight);
        }
        match open_metrics > 0.0 && open_metrics >= plain {
            true => Format::OpenMetrics,
            false => Format::Prometheus,
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => prometheus_text::CONTENT_TYPE,
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Writes the metrics of a process, of the server in it and of the watch in it.
#[derive(Debug)]
pub(super) struct Encoder(Registry);

impl Encoder {
    pub(super) fn new(metrics: Option<Metrics>, watch: Option<Board>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(OfProcess { metrics, process: Process::new() }));
        let mut encoder = Encoder(registry);
        watch.into_iter().for_each(|board| encoder.add_watch(board));
        encoder
    }

    pub(super) fn add_watch(&mut self, board: Board) {
        self.0.register_collector(Box::new(OfWatch(board)));
    }

    pub(super) fn encode(&self, format: Format) -> String {
        let mut written = String::new();
        let encoded = match format {
            Format::Prometheus => prometheus_text::encode(&mut written, &self.0),
            Format::OpenMetrics => text::encode(&mut written, &self.0),
        };
        encoded.expect("writing to a string does not fail");
        written
    }
}

/// What is read whenever somebody asks.
#[derive(Debug)]
struct OfProcess {
    metrics: Option<Metrics>,
    process: Process,
}

/// What a watch knows.
#[derive(Debug)]
struct OfWatch(Board);

impl Collector for OfWatch {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        Families::new(encoder).probes(&self.0)
    }
}

impl Collector for OfProcess {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families::new(encoder);
        if let Some(metrics) = &self.metrics {
            families.server(metrics.snapshot())?;
        }
        families.build()?;
        self.process.encode(&mut families)
    }
}

impl Families<'_> {
    fn server(&mut self, snapshot: Snapshot) -> fmt::Result {
        let Snapshot { protocols, refused, tls, udp, faults } = snapshot;
        self.connections(&protocols, &refused)?;
        self.traffic(&protocols)?;
        if let Some(tls) = &tls {
            self.tls(tls)?;
        }
        if let Some(udp) = &udp {
            self.udp(udp)?;
        }
        match faults.is_empty() {
            true => Ok(()),
            false => self.faults(&faults),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_for_those_who_ask() {
        let prometheus = "application/openmetrics-text;version=1.0.0,\
            application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, format) in [
            (prometheus, Format::OpenMetrics),
            ("application/openmetrics-text; q=0.5, text/plain", Format::Prometheus),
            ("Application/OpenMetrics-Text;Q=0.6, text/plain;q=0.5", Format::OpenMetrics),
            ("application/openmetrics-text, TEXT/plain; Q=0.1", Format::OpenMetrics),
            ("application/openmetrics-text;Q=0", Format::Prometheus),
            ("application/openmetrics-text;q=0", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("", Format::Prometheus),
        ] {
            assert_eq!(Format::preferred([accept].into_iter()), format, "{accept}");
        }
        assert_eq!(Format::preferred([].into_iter()), Format::Prometheus);
    }
}

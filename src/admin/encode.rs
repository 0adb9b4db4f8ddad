//! The metrics as text.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text, text};
use prometheus_client::registry::Registry;

use super::families::Families;
use super::process::Process;
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

/// Writes the metrics of a server and its process.
#[derive(Debug)]
pub(super) struct Encoder(Registry);

impl Encoder {
    pub(super) fn new(metrics: Metrics) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Collected { metrics, process: Process::new() }));
        Encoder(registry)
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
struct Collected {
    metrics: Metrics,
    process: Process,
}

impl Collector for Collected {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families::new(encoder);
        let Snapshot { protocols, refused, tls, udp, faults } = self.metrics.snapshot();
        families.connections(&protocols, &refused)?;
        families.traffic(&protocols)?;
        if let Some(tls) = &tls {
            families.tls(tls)?;
        }
        if let Some(udp) = &udp {
            families.udp(udp)?;
        }
        if !faults.is_empty() {
            families.faults(&faults)?;
        }
        families.build()?;
        self.process.encode(&mut families)
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

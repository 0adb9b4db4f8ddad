//! The families of metrics, one after the other. Their names and labels are an interface: see
//! docs/metrics.md.

use std::fmt;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;

use crate::config::Protocol;
use crate::server::{ProtocolSnapshot, TlsSnapshot, UdpSnapshot};

/// Writes metric families.
pub(super) struct Families<'a>(DescriptorEncoder<'a>);

impl<'a> Families<'a> {
    pub(super) fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Families(encoder)
    }
}

impl Families<'_> {
    pub(super) fn connections(
        &mut self,
        protocols: &[ProtocolSnapshot],
        refused: &[(&'static str, u64)],
    ) -> fmt::Result {
        // UDP has none.
        let streams = || protocols.iter().filter(|counts| counts.protocol != Protocol::Udp);
        let mut open = self.family("echo_connections", "Open connections", MetricType::Gauge)?;
        for counts in streams() {
            gauge(&mut open, &[("protocol", counts.protocol.name())], counts.open)?;
        }
        let help = "Connections that were opened";
        let mut opened = self.family("echo_connections_opened", help, MetricType::Counter)?;
        for counts in streams() {
            counter(&mut opened, &[("protocol", counts.protocol.name())], counts.opened)?;
        }
        let help = "Connections that were closed, by the reason";
        let mut closed = self.family("echo_connections_closed", help, MetricType::Counter)?;
        for counts in streams() {
            for (reason, count) in &counts.closed {
                let labels = [("protocol", counts.protocol.name()), ("reason", *reason)];
                counter(&mut closed, &labels, *count)?;
            }
        }
        let help = "Connections that were accepted and closed at once, by the limit";
        let mut family = self.family("echo_connections_refused", help, MetricType::Counter)?;
        for (reason, count) in refused {
            counter(&mut family, &[("reason", *reason)], *count)?;
        }
        let help = "Time from accept until a TLS handshake or WebSocket upgrade was complete";
        let name = "echo_handshake_duration_seconds";
        let mut family = self.family(name, help, MetricType::Histogram)?;
        for counts in streams().filter(|counts| counts.protocol != Protocol::Tcp) {
            let durations = &counts.handshakes;
            let count = durations.buckets.iter().map(|(_, count)| count).sum();
            family
                .encode_family(&[("protocol", counts.protocol.name())])?
                .encode_histogram::<NoLabelSet>(
                    durations.sum.as_secs_f64(),
                    count,
                    &durations.buckets,
                    None,
                )?;
        }
        Ok(())
    }

    pub(super) fn traffic(&mut self, protocols: &[ProtocolSnapshot]) -> fmt::Result {
        type Value = fn(&ProtocolSnapshot) -> u64;
        let families: [(&str, &str, Value); 3] = [
            ("echo_received_bytes", "Bytes of payload received", |counts| counts.received),
            ("echo_sent_bytes", "Bytes of payload sent", |counts| counts.sent),
            (
                "echo_messages",
                "WebSocket messages or datagrams received; for byte streams, reads",
                |counts| counts.messages,
            ),
        ];
        for (name, help, value) in families {
            let mut family = self.family(name, help, MetricType::Counter)?;
            for counts in protocols {
                counter(&mut family, &[("protocol", counts.protocol.name())], value(counts))?;
            }
        }
        Ok(())
    }

    pub(super) fn tls(&mut self, tls: &TlsSnapshot) -> fmt::Result {
        let help = "Completed TLS handshakes";
        let mut family = self.family("echo_tls_handshakes", help, MetricType::Counter)?;
        for (version, resumed, count) in &tls.completed {
            let resumed = if *resumed { "true" } else { "false" };
            counter(&mut family, &[("version", *version), ("resumed", resumed)], *count)?;
        }
        let help = "Failed TLS handshakes, by the alert that was received or sent";
        let mut family = self.family("echo_tls_handshake_failures", help, MetricType::Counter)?;
        for (alert, count) in &tls.failed {
            counter(&mut family, &[("alert", alert)], *count)?;
        }
        let help = "When a certificate expires, in seconds since 1970";
        let name = "echo_certificate_not_after_timestamp_seconds";
        let mut family = self.family(name, help, MetricType::Gauge)?;
        for (at, expiry) in tls.certificates.iter().enumerate() {
            let number = (at + 1).to_string();
            let file = expiry.origin.as_deref().unwrap_or("self-signed");
            let labels = [("number", number.as_str()), ("file", file)];
            gauge(&mut family, &labels, expiry.not_after)?;
        }
        let help = "Whether the last reading of certificates, keys and revocation lists succeeded";
        let name = "echo_config_last_reload_successful";
        self.gauge(name, help, i64::from(tls.last_reload_succeeded))
    }

    pub(super) fn udp(&mut self, udp: &UdpSnapshot) -> fmt::Result {
        let help = "Datagrams that were received and not answered, by the reason";
        let mut family = self.family("echo_udp_unanswered", help, MetricType::Counter)?;
        for (reason, count) in &udp.unanswered {
            counter(&mut family, &[("reason", *reason)], *count)?;
        }
        let help = "Datagrams that the kernel dropped because the receive buffer was full";
        let name = "echo_udp_receive_overflow";
        self.counter(name, help, udp.overflowed)
    }

    pub(super) fn faults(&mut self, faults: &[(Protocol, &'static str, u64)]) -> fmt::Result {
        let help = "Faults that were done on purpose";
        let mut family = self.family("echo_faults", help, MetricType::Counter)?;
        for (protocol, fault, count) in faults {
            let labels = [("protocol", protocol.name()), ("fault", *fault)];
            counter(&mut family, &labels, *count)?;
        }
        Ok(())
    }

    pub(super) fn build(&mut self) -> fmt::Result {
        let help = "The version of the server, and what it was built for";
        let mut family = self.family("echo_build_info", help, MetricType::Gauge)?;
        let labels = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("os", std::env::consts::OS),
            ("arch", std::env::consts::ARCH),
        ];
        gauge(&mut family, &labels, 1_i64)
    }

    /// A counter without labels.
    pub(super) fn counter<N: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        value: N,
    ) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, N, f64>(&value, None)
    }

    /// A gauge without labels.
    pub(super) fn gauge(
        &mut self,
        name: &str,
        help: &str,
        value: impl EncodeGaugeValue,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Gauge)?.encode_gauge(&value)
    }

    pub(super) fn family<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, None, kind)
    }
}

pub(super) fn counter(
    family: &mut MetricEncoder<'_>,
    labels: &[(&str, &str)],
    value: u64,
) -> fmt::Result {
    family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&value, None)
}

pub(super) fn gauge(
    family: &mut MetricEncoder<'_>,
    labels: &[(&str, &str)],
    value: impl EncodeGaugeValue,
) -> fmt::Result {
    family.encode_family(&labels)?.encode_gauge(&value)
}

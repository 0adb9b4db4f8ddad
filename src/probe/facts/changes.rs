//! What has arrived otherwise than it was sent.

use std::fmt;
use std::net::SocketAddr;

use super::received::Facts;
use super::sent::{Hello, HttpRequest, Packet, Sent};
use crate::probe::tls::TlsFacts;

/// Something that has arrived otherwise than it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// What it is.
    pub kind: ChangeKind,
    /// The name of the header field, if it is one.
    pub field: Option<String>,
    /// What was sent. `None`: nothing was.
    pub sent: Option<String>,
    /// What the server saw. `None`: nothing.
    pub arrived: Option<String>,
}

/// What can arrive otherwise than it was sent. As text, it has a name that does not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChangeKind {
    /// `source`: the address and port of the client (NAT).
    Source,
    /// `destination`: those of the server (DNAT).
    Destination,
    /// `ttl`: the TTL of a datagram (IPv4), which each router lowers by one.
    Ttl,
    /// `hop_limit`: the same of IPv6.
    HopLimit,
    /// `dscp`: the DSCP of a datagram (RFC 2474).
    Dscp,
    /// `ecn`: the ECN of a datagram (RFC 3168).
    Ecn,
    /// `tls`: TLS itself, which one side has and the other has not.
    Tls,
    /// `sni`: the name that the client asked for.
    Sni,
    /// `alpn_offered`: the ALPN protocols that it offered.
    AlpnOffered,
    /// `alpn`: the ALPN protocol that was selected.
    Alpn,
    /// `tls_version`: the version of TLS.
    TlsVersion,
    /// `tls_cipher`: the cipher suite.
    TlsCipher,
    /// `tls_group`: the group of the key exchange.
    TlsGroup,
    /// `ja4`: the fingerprint of the client.
    Ja4,
    /// `method`: the method of the HTTP request.
    Method,
    /// `path`: its path and query.
    Path,
    /// `http_version`: its version.
    HttpVersion,
    /// `authority`: its authority (HTTP/2).
    Authority,
    /// `field_removed`: a header field that has not arrived.
    FieldRemoved,
    /// `field_changed`: one that has arrived with another value.
    FieldChanged,
    /// `field_added`: one that was not sent.
    FieldAdded,
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ChangeKind::Source => "source",
            ChangeKind::Destination => "destination",
            ChangeKind::Ttl => "ttl",
            ChangeKind::HopLimit => "hop_limit",
            ChangeKind::Dscp => "dscp",
            ChangeKind::Ecn => "ecn",
            ChangeKind::Tls => "tls",
            ChangeKind::Sni => "sni",
            ChangeKind::AlpnOffered => "alpn_offered",
            ChangeKind::Alpn => "alpn",
            ChangeKind::TlsVersion => "tls_version",
            ChangeKind::TlsCipher => "tls_cipher",
            ChangeKind::TlsGroup => "tls_group",
            ChangeKind::Ja4 => "ja4",
            ChangeKind::Method => "method",
            ChangeKind::Path => "path",
            ChangeKind::HttpVersion => "http_version",
            ChangeKind::Authority => "authority",
            ChangeKind::FieldRemoved => "field_removed",
            ChangeKind::FieldChanged => "field_changed",
            ChangeKind::FieldAdded => "field_added",
        })
    }
}

/// One line.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = self.field.as_deref().unwrap_or_default();
        let sent = self.sent.as_deref().unwrap_or("none");
        let arrived = self.arrived.as_deref().unwrap_or("none");
        let terminated = |f: &mut fmt::Formatter<'_>, what| {
            write!(f, "TLS was terminated on the way: {what}{sent} here, {what}{arrived} there")
        };
        let became = |f: &mut fmt::Formatter<'_>, what| match (&self.sent, &self.arrived) {
            (None, Some(arrived)) => write!(f, "{what} added: {arrived}"),
            (Some(sent), None) => write!(f, "{what} removed: it was {sent}"),
            _ => write!(f, "{what} {sent} became {arrived}"),
        };
        match self.kind {
            ChangeKind::Source => write!(f, "NAT: from {sent}, seen as {arrived}"),
            ChangeKind::Destination => write!(f, "DNAT: sent to {sent}, arrived at {arrived}"),
            ChangeKind::Ttl => self.hops(f, "TTL"),
            ChangeKind::HopLimit => self.hops(f, "hop limit"),
            ChangeKind::Dscp => became(f, "DSCP"),
            ChangeKind::Ecn => became(f, "ECN"),
            ChangeKind::Tls if self.arrived.is_none() => {
                f.write_str("TLS was terminated on the way: it arrived without")
            }
            ChangeKind::Tls => f.write_str("TLS was added on the way"),
            ChangeKind::Sni => became(f, "SNI"),
            ChangeKind::AlpnOffered => became(f, "ALPN offers"),
            ChangeKind::Alpn => terminated(f, "ALPN "),
            ChangeKind::TlsVersion | ChangeKind::TlsCipher => terminated(f, ""),
            ChangeKind::TlsGroup => terminated(f, "group "),
            ChangeKind::Ja4 => terminated(f, "JA4 "),
            ChangeKind::Method => became(f, "method"),
            ChangeKind::Path => became(f, "path"),
            ChangeKind::HttpVersion => write!(f, "{sent} became {arrived}"),
            ChangeKind::Authority => became(f, "authority"),
            ChangeKind::FieldRemoved => write!(f, "removed on the way: {field}: {sent}"),
            ChangeKind::FieldChanged => {
                write!(f, "changed on the way: {field}: {sent} became {arrived}")
            }
            ChangeKind::FieldAdded => write!(f, "added on the way: {field}: {arrived}"),
        }
    }
}

impl Change {
    fn hops(&self, f: &mut fmt::Formatter<'_>, what: &str) -> fmt::Result {
        let number = |text: &Option<String>| text.as_ref()?.parse::<u32>().ok();
        match (number(&self.sent), number(&self.arrived)) {
            (Some(sent), Some(arrived)) if sent > arrived => {
                write!(f, "{what} fell by {}", sent - arrived)
            }
            (Some(sent), Some(arrived)) => write!(f, "{what} {sent} became {arrived}"),
            _ => write!(f, "{what} changed"),
        }
    }
}

/// What differs. What the server does not mention is not compared.
pub(super) fn compare(sent: &Sent, facts: &Facts) -> Vec<Change> {
    let mut changes = Changes(Vec::new());
    changes.addresses(sent, facts);
    if let Some(packet) = &sent.packet {
        changes.packet(packet, facts);
    }
    let has_tls = facts.json().get("tls").is_some();
    match (&sent.tls, has_tls) {
        (Some(_), false) => changes.add(ChangeKind::Tls, Some("TLS".to_owned()), None),
        (None, true) => changes.add(ChangeKind::Tls, None, Some("TLS".to_owned())),
        (Some(tls), true) => changes.tls(tls, facts),
        (None, false) => {}
    }
    if let (Some(hello), true) = (&sent.hello, has_tls) {
        changes.hello(hello, facts);
    }
    if let (Some(request), true) = (&sent.request, facts.json().get("http").is_some()) {
        changes.http(request, facts);
    }
    changes.0
}

struct Changes(Vec<Change>);

impl Changes {
    fn add(&mut self, kind: ChangeKind, sent: Option<String>, arrived: Option<String>) {
        self.0.push(Change { kind, field: None, sent, arrived });
    }

    /// Adds it if the two differ.
    fn compare(&mut self, kind: ChangeKind, sent: Option<&str>, arrived: Option<&str>) {
        if sent != arrived {
            self.add(kind, sent.map(str::to_owned), arrived.map(str::to_owned));
        }
    }

    /// Adds it if the server mentions it, and the two differ.
    fn compare_known(&mut self, kind: ChangeKind, sent: &str, arrived: Option<&str>) {
        if arrived.is_some() {
            self.compare(kind, Some(sent), arrived);
        }
    }

    fn addresses(&mut self, sent: &Sent, facts: &Facts) {
        for (kind, sent, arrived) in [
            (ChangeKind::Source, sent.peer, facts.text("/peer")),
            (ChangeKind::Destination, sent.to, facts.text("/local")),
        ] {
            let (Some(sent), Some(arrived)) = (sent, arrived) else { continue };
            if !arrived.parse().is_ok_and(|arrived| is_same(sent, arrived)) {
                self.add(kind, Some(sent.to_string()), Some(arrived.to_owned()));
            }
        }
    }

    fn packet(&mut self, packet: &Packet, facts: &Facts) {
        let kind = if packet.is_ipv6 { ChangeKind::HopLimit } else { ChangeKind::Ttl };
        let mut compare = |kind, sent: u8, pointer| {
            let arrived = facts.number(pointer).map(|arrived| arrived.to_string());
            self.compare_known(kind, &sent.to_string(), arrived.as_deref());
        };
        compare(kind, packet.ttl, "/ip/ttl");
        let Some(class) = packet.traffic_class else { return };
        compare(ChangeKind::Dscp, class >> 2, "/ip/dscp");
        // RFC 3168 section 5.
        let ecn = ["Not-ECT", "ECT(1)", "ECT(0)", "CE"][usize::from(class & 3)];
        self.compare_known(ChangeKind::Ecn, ecn, facts.text("/ip/ecn"));
    }

    fn tls(&mut self, tls: &TlsFacts, facts: &Facts) {
        self.compare_known(ChangeKind::TlsVersion, &tls.version, facts.text("/tls/version"));
        self.compare_known(ChangeKind::TlsCipher, &tls.cipher, facts.text("/tls/cipher"));
        self.compare_known(ChangeKind::TlsGroup, &tls.group, facts.text("/tls/group"));
        self.compare(ChangeKind::Alpn, tls.alpn.as_deref(), facts.text("/tls/alpn"));
    }

    fn hello(&mut self, hello: &Hello, facts: &Facts) {
        let sni = facts.text("/tls/sni");
        let is_same_name = match (&hello.sni, sni) {
            (Some(sent), Some(arrived)) => sent.eq_ignore_ascii_case(arrived),
            _ => false,
        };
        if !is_same_name {
            self.compare(ChangeKind::Sni, hello.sni.as_deref(), sni);
        }
        let list = |names: &[&str]| (!names.is_empty()).then(|| names.join(", "));
        let sent: Vec<&str> = hello.alpn.iter().map(String::as_str).collect();
        let (sent, arrived) = (list(&sent), list(&facts.alpn_offered()));
        self.compare(ChangeKind::AlpnOffered, sent.as_deref(), arrived.as_deref());
        self.compare_known(ChangeKind::Ja4, &hello.ja4, facts.text("/tls/ja4"));
    }

    fn http(&mut self, request: &HttpRequest, facts: &Facts) {
        let version = facts.text("/http/version");
        let has_version = version.is_none_or(|version| version == request.version);
        self.compare_known(ChangeKind::HttpVersion, request.version, version);
        if has_version {
            self.compare_known(ChangeKind::Method, &request.method, facts.text("/http/method"));
        }
        self.compare_known(ChangeKind::Path, &request.path, facts.text("/http/path"));
        if let Some(sent) = &request.authority {
            self.compare_known(ChangeKind::Authority, sent, facts.text("/http/authority"));
        }
        if facts.json().pointer("/http/fields").is_some() {
            let sent = request.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            self.fields(&grouped(sent), &grouped(facts.fields().into_iter()), has_version);
        }
    }

    /// Compares header fields. Those of several lines are one, as they are to their reader (RFC 9110
    /// section 5.3). `has_version`: the request has kept its version of HTTP.
    fn fields(&mut self, sent: &[Field], arrived: &[Field], has_version: bool) {
        // They exist in one version only (RFC 8441 section 5).
        let is_of_version = |name: &str| {
            let those = ["host", "connection", "upgrade", "sec-websocket-key"];
            those.iter().any(|one| name.eq_ignore_ascii_case(one))
        };
        let mut add = |kind, name: &str, sent: Option<&str>, arrived: Option<&str>| {
            if has_version || !is_of_version(name) {
                let [sent, arrived] = [sent, arrived].map(|value| value.map(str::to_owned));
                self.0.push(Change { kind, field: Some(name.to_owned()), sent, arrived });
            }
        };
        for (name, value) in sent {
            match find(arrived, name) {
                None => add(ChangeKind::FieldRemoved, name, Some(value), None),
                Some((_, other)) if other != value => {
                    add(ChangeKind::FieldChanged, name, Some(value), Some(other));
                }
                Some(_) => {}
            }
        }
        for (name, value) in arrived {
            if find(sent, name).is_none() {
                add(ChangeKind::FieldAdded, name, None, Some(value));
            }
        }
    }
}

/// A header field with all its values.
type Field = (String, String);

/// The fields with the values of each name together.
fn grouped<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<Field> {
    let mut grouped: Vec<Field> = Vec::new();
    for (name, value) in fields {
        match grouped.iter_mut().find(|(one, _)| one.eq_ignore_ascii_case(name)) {
            Some((_, values)) => {
                values.push_str(", ");
                values.push_str(value);
            }
            None => grouped.push((name.to_owned(), value.to_owned())),
        }
    }
    grouped
}

fn find<'a>(fields: &'a [Field], name: &str) -> Option<&'a Field> {
    fields.iter().find(|(one, _)| one.eq_ignore_ascii_case(name))
}

/// Whether two addresses are one. IPv4 may be written as IPv6, the scope of a link-local address is
/// each host's own number, and a UDP socket for all addresses may not know its own.
fn is_same(sent: SocketAddr, arrived: SocketAddr) -> bool {
    let (from, to) = (sent.ip().to_canonical(), arrived.ip().to_canonical());
    sent.port() == arrived.port() && (from == to || to.is_unspecified())
}

#[cfg(test)]
mod tests;

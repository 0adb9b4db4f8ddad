//! What has arrived otherwise than it was sent.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;

use super::received::Facts;
use super::sent::{Hello, HttpRequest, Packet, Sent, SentProxy};
use crate::probe::tls::TlsFacts;

/// From how many bytes of ALPN names on the server may have cut the rest off: it tells whole names up
/// to 4 KiB, and a name has up to 255 bytes.
const CUT_OFFERS: usize = 3000;

/// Something that has arrived otherwise than it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// What it is.
    pub kind: ChangeKind,
    /// The name of the header field, or of the part of the PROXY header, if it is one.
    pub field: Option<String>,
    /// What was sent. `None`: nothing was.
    pub sent: Option<String>,
    /// What the server saw. `None`: nothing.
    pub arrived: Option<String>,
    /// Of the source: whether something else tells that a proxy is between.
    has_proxy: bool,
}

/// What can arrive otherwise than it was sent. As text, it has a name that does not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChangeKind {
    /// `source`: the address and port of the client (NAT).
    Source,
    /// `destination`: those of the server (DNAT).
    Destination,
    /// `proxy`: a part of the PROXY header.
    Proxy,
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
            ChangeKind::Proxy => "proxy",
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
        let became = |f: &mut fmt::Formatter<'_>, what: &str| match (&self.sent, &self.arrived) {
            (None, Some(arrived)) => write!(f, "{what} added: {arrived}"),
            (Some(sent), None) => write!(f, "{what} removed: it was {sent}"),
            _ => write!(f, "{what} {sent} became {arrived}"),
        };
        match self.kind {
            ChangeKind::Source if self.has_proxy => {
                write!(f, "from {sent}, seen as {arrived}, by a NAT or a proxy")
            }
            ChangeKind::Source => write!(f, "NAT: from {sent}, seen as {arrived}"),
            ChangeKind::Destination => write!(f, "DNAT: sent to {sent}, arrived at {arrived}"),
            ChangeKind::Proxy => became(f, &format!("PROXY header: {field}")),
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
    /// Whether only a proxy does such a thing, and no NAT.
    fn is_of_proxy(&self) -> bool {
        let is_field = |name: &str| {
            let those = ["via", "forwarded", "x-forwarded-for"];
            those.iter().any(|one| name.eq_ignore_ascii_case(one))
        };
        match self.kind {
            ChangeKind::Tls
            | ChangeKind::Sni
            | ChangeKind::AlpnOffered
            | ChangeKind::Alpn
            | ChangeKind::TlsVersion
            | ChangeKind::TlsCipher
            | ChangeKind::TlsGroup
            | ChangeKind::Ja4 => true,
            ChangeKind::FieldAdded => self.field.as_deref().is_some_and(is_field),
            _ => false,
        }
    }

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
    if let (Some(proxy), true) = (&sent.proxy, facts.has_proxy()) {
        changes.proxy(proxy, facts);
    }
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
    // Whether a proxy is between is told by what it does to the rest.
    let has_foreign_header = sent.proxy.is_none() && facts.has_proxy();
    let has_proxy = has_foreign_header || changes.0.iter().any(Change::is_of_proxy);
    let mut all = Changes(Vec::new());
    all.addresses(sent, facts, has_proxy);
    all.0.append(&mut changes.0);
    all.0
}

struct Changes(Vec<Change>);

impl Changes {
    fn add(&mut self, kind: ChangeKind, sent: Option<String>, arrived: Option<String>) {
        self.add_named(kind, None, sent, arrived);
    }

    fn add_named(
        &mut self,
        kind: ChangeKind,
        field: Option<&str>,
        sent: Option<String>,
        arrived: Option<String>,
    ) {
        let field = field.map(str::to_owned);
        self.0.push(Change { kind, field, sent, arrived, has_proxy: false });
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

    fn addresses(&mut self, sent: &Sent, facts: &Facts, has_proxy: bool) {
        // A header that was not read has announced nobody.
        let is_unread = sent.proxy.is_some() && !facts.has_proxy();
        let from = if is_unread { sent.local } else { sent.peer };
        // A proxy tells where the client has connected to. A header that came straight from here tells
        // it as well, and then it was the network that changed it.
        let is_at = |pointer, address: Option<SocketAddr>| {
            let told = facts.text(pointer).and_then(|told| told.parse().ok());
            address.zip(told).is_some_and(|(address, told)| is_same(address, told))
        };
        let is_relayed = is_at("/proxy/destination", sent.to) && !is_at("/proxy/from", sent.local);
        for (kind, sent, arrived) in [
            (ChangeKind::Source, from, facts.text("/peer")),
            (ChangeKind::Destination, sent.to.filter(|_| !is_relayed), facts.text("/local")),
        ] {
            let (Some(sent), Some(arrived)) = (sent, arrived) else { continue };
            if !arrived.parse().is_ok_and(|arrived| is_same(sent, arrived)) {
                self.add(kind, Some(sent.to_string()), Some(arrived.to_owned()));
            }
        }
        self.0.iter_mut().for_each(|change| change.has_proxy = has_proxy);
    }

    fn proxy(&mut self, proxy: &SentProxy, facts: &Facts) {
        let mut compare = |name, sent: &str, arrived: Option<&str>| {
            if arrived != Some(sent) {
                let [sent, arrived] = [Some(sent), arrived].map(|text| text.map(str::to_owned));
                self.add_named(ChangeKind::Proxy, Some(name), sent, arrived);
            }
        };
        let version = facts.number("/proxy/version").map(|version| version.to_string());
        compare("version", proxy.version, version.as_deref());
        compare("command", proxy.command, facts.text("/proxy/command"));
        for (name, value) in &proxy.tlvs {
            compare(name, value, facts.text(&format!("/proxy/{name}")));
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
        let arrived = facts.alpn_offered();
        let length: usize = arrived.iter().map(|name| name.len()).sum();
        if length < CUT_OFFERS || !sent.starts_with(&arrived) {
            let (sent, arrived) = (list(&sent), list(&arrived));
            self.compare(ChangeKind::AlpnOffered, sent.as_deref(), arrived.as_deref());
        }
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
            let (sent, arrived) = (Fields::new(sent), Fields::new(facts.fields().into_iter()));
            self.fields(&sent, &arrived, has_version);
        }
    }

    /// Compares header fields. Those of several lines are one, as they are to their reader (RFC 9110
    /// section 5.3). `has_version`: the request has kept its version of HTTP.
    fn fields(&mut self, sent: &Fields, arrived: &Fields, has_version: bool) {
        // They exist in one version only (RFC 8441 section 5).
        let is_of_version = |name: &str| {
            let those = ["host", "connection", "upgrade", "sec-websocket-key"];
            those.iter().any(|one| name.eq_ignore_ascii_case(one))
        };
        let mut add = |kind, name: &str, sent: Option<&str>, arrived: Option<&str>| {
            if has_version || !is_of_version(name) {
                let [sent, arrived] = [sent, arrived].map(|value| value.map(str::to_owned));
                self.add_named(kind, Some(name), sent, arrived);
            }
        };
        for (name, value) in &sent.list {
            match arrived.find(name) {
                None => add(ChangeKind::FieldRemoved, name, Some(value), None),
                Some(other) if other != value => {
                    add(ChangeKind::FieldChanged, name, Some(value), Some(other));
                }
                Some(_) => {}
            }
        }
        for (name, value) in &arrived.list {
            if sent.find(name).is_none() {
                add(ChangeKind::FieldAdded, name, None, Some(value));
            }
        }
    }
}

/// The header fields in their order, with the values of each name together.
struct Fields {
    list: Vec<(String, String)>,
    /// Where each is, by its name in lower case. A hostile server tells of thousands.
    at: HashMap<String, usize>,
}

impl Fields {
    fn new<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut all = Fields { list: Vec::new(), at: HashMap::new() };
        for (name, value) in fields {
            let key = name.to_ascii_lowercase();
            match all.at.get(&key) {
                Some(at) => {
                    // HTTP/2 may split a Cookie field (RFC 9113 section 8.2.3).
                    let separator = if key == "cookie" { "; " } else { ", " };
                    let values = &mut all.list[*at].1;
                    values.push_str(separator);
                    values.push_str(value);
                }
                None => {
                    all.at.insert(key, all.list.len());
                    all.list.push((name.to_owned(), value.to_owned()));
                }
            }
        }
        all
    }

    fn find(&self, name: &str) -> Option<&String> {
        self.at.get(&name.to_ascii_lowercase()).map(|at| &self.list[*at].1)
    }
}

/// Whether two addresses are one. IPv4 may be written as IPv6, the scope of a link-local address is
/// each host's own number, and a UDP socket for all addresses may not know its own.
fn is_same(sent: SocketAddr, arrived: SocketAddr) -> bool {
    let (from, to) = (sent.ip().to_canonical(), arrived.ip().to_canonical());
    sent.port() == arrived.port() && (from == to || to.is_unspecified())
}

#[cfg(test)]
mod tests;

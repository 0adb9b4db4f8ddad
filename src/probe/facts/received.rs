//! The facts as they came: JSON, whose schema is docs/facts.schema.json.

use std::fmt;
use std::net::SocketAddr;

use serde_json::Value;

/// What a server says about a connection or a datagram: one JSON object. Keys are absent where there
/// is nothing to say.
///
/// The methods are for what most tests look at. [`Facts::text`] and [`Facts::json`] reach the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    json: Value,
}

impl Facts {
    /// All of it, as it came.
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// The string at a JSON pointer (RFC 6901), for example `/tls/sni`.
    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.json.pointer(pointer)?.as_str()
    }

    /// The number at a JSON pointer, for example `/ip/ttl`.
    pub fn number(&self, pointer: &str) -> Option<u64> {
        self.json.pointer(pointer)?.as_u64()
    }

    /// The protocol of the listener: `tcp`, `tls`, `udp`, `ws` or `wss`.
    pub fn protocol(&self) -> Option<&str> {
        self.text("/protocol")
    }

    /// The client, as the server sees it, or as a PROXY header announced it. `None` if it is no IP
    /// address, as for a Unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.text("/peer")?.parse().ok()
    }

    /// The server's end of the connection. `None` if it is no IP address.
    pub fn local(&self) -> Option<SocketAddr> {
        self.text("/local")?.parse().ok()
    }

    /// The ALPN protocols that the client offered, as the server read them.
    pub fn alpn_offered(&self) -> Vec<&str> {
        let offered = self.json.pointer("/tls/alpn_offered").and_then(Value::as_array);
        offered.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// The header fields of the request in their order: names and values.
    pub fn fields<'a>(&'a self) -> Vec<(&'a str, &'a str)> {
        let fields = self.json.pointer("/http/fields").and_then(Value::as_array);
        let pair = |field: &'a Value| match field.as_array()?.as_slice() {
            [name, value] => Some((name.as_str()?, value.as_str()?)),
            _ => None,
        };
        fields.into_iter().flatten().filter_map(pair).collect()
    }

    /// The values of a header field, whatever the case of its name.
    pub fn field(&self, name: &str) -> Vec<&str> {
        let fields = self.fields().into_iter();
        fields.filter(|(one, _)| one.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }
}

/// As JSON on one line.
impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.json.fmt(f)
    }
}

/// What a first line, a first message or a reply is.
pub(super) enum Parsed {
    Facts(Facts),
    /// How long the question has to be.
    Need(u64),
    /// Facts whose schema has this version.
    Version(u64),
    Other,
}

pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let Ok(json @ Value::Object(_)) = serde_json::from_slice(bytes) else { return Parsed::Other };
    match (json["echo_facts"].as_u64(), json["need"].as_u64()) {
        (Some(1), Some(bytes)) => Parsed::Need(bytes),
        (Some(1), None) => Parsed::Facts(Facts { json }),
        (Some(version), _) => Parsed::Version(version),
        (None, _) => Parsed::Other,
    }
}

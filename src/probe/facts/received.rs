//! The facts as they came: JSON, whose schema is docs/facts.schema.json.

use std::fmt;
use std::net::SocketAddr;

use serde_json::Value;

/// What all facts have.
const REQUIRED: [&str; 4] = ["protocol", "time", "peer", "local"];

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

    /// Whether a PROXY header was read.
    pub(super) fn has_proxy(&self) -> bool {
        self.json.get("proxy").is_some()
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
    match (json["echo_facts"].as_u64(), json.get("need")) {
        (Some(1), Some(need)) => need.as_u64().map_or(Parsed::Other, Parsed::Need),
        (Some(1), None) if REQUIRED.iter().all(|name| json[name].is_string()) => {
            Parsed::Facts(Facts { json })
        }
        (None | Some(1), _) => Parsed::Other,
        (Some(version), _) => Parsed::Version(version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_that_are_no_facts_are_not_taken_for_them() {
        let kind = |json: &str| match parse(json.as_bytes()) {
            Parsed::Facts(_) => "facts".to_owned(),
            Parsed::Need(bytes) => format!("need {bytes}"),
            Parsed::Version(version) => format!("version {version}"),
            Parsed::Other => "other".to_owned(),
        };
        let all = r#"{"echo_facts":1,"protocol":"tcp","time":"t","peer":"p","local":"l"}"#;
        assert_eq!(kind(all), "facts");
        for name in REQUIRED {
            assert_eq!(kind(&all.replace(&format!("\"{name}\":\""), "\"other\":\"")), "other");
            assert_eq!(
                kind(
                    &all.replace(&format!("\"{name}\":\""), &format!("\"{name}\":1,\"other\":\""))
                ),
                "other"
            );
        }
        assert_eq!(kind(&all.replace("}", r#","need":9}"#)), "need 9");
        for need in ["-1", "null", "\"9\"", "1.5", "1e99", "[]"] {
            assert_eq!(kind(&format!("{{\"echo_facts\":1,\"need\":{need}}}")), "other", "{need}");
            assert_eq!(kind(&all.replace("}", &format!(",\"need\":{need}}}"))), "other", "{need}");
        }
        assert_eq!(kind(r#"{"echo_facts":2}"#), "version 2");
        assert_eq!(kind(r#"{"echo_facts":1}"#), "other");
        assert_eq!(kind("[]"), "other");
    }
}

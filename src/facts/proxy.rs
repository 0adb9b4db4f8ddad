//! What a PROXY header said.

use super::lossy;
use super::object::Object;
use crate::connection::Proxy;
use crate::net::Peer;
use crate::proxy_protocol::{Addresses, Command, Header, Ssl, Tlvs, Transport, Version};

/// The header that `proxy` has sent. Text that is not UTF-8 has U+FFFD in place of what is not.
pub(super) fn to_json(proxy: &Proxy) -> String {
    let Header { version, command, addresses, tlvs } = &proxy.header;
    let mut json = Object::new();
    json.put("from", address(proxy.peer));
    json.put("version", if *version == Version::One { 1 } else { 2 });
    json.put("command", if *command == Command::Local { "local" } else { "proxy" });
    json.put("transport", transport(addresses));
    match addresses {
        Addresses::Unspecified => {}
        Addresses::Ip { source, destination, .. } => {
            json.put("source", source.to_string());
            json.put("destination", destination.to_string());
        }
        Addresses::Unix { source, destination, .. } => {
            json.put_some("source", &unix_name(source));
            json.put_some("destination", &unix_name(destination));
        }
    }
    put_tlvs(&mut json, tlvs);
    json.end()
}

/// IP:PORT, or that it is a process at a Unix socket.
pub(super) fn address(peer: Peer) -> String {
    match peer.uid() {
        None => peer.to_string(),
        Some(_) => "unix".to_owned(),
    }
}

/// The transport as HAProxy names it.
fn transport(addresses: &Addresses) -> &'static str {
    match addresses {
        Addresses::Unspecified => "unspec",
        Addresses::Ip { source, transport, .. } => match (source.is_ipv4(), transport) {
            (true, Transport::Stream) => "tcp4",
            (false, Transport::Stream) => "tcp6",
            (true, Transport::Datagram) => "udp4",
            (false, Transport::Datagram) => "udp6",
        },
        Addresses::Unix { transport: Transport::Stream, .. } => "unix",
        Addresses::Unix { transport: Transport::Datagram, .. } => "unix-datagram",
    }
}

/// The name of a Unix socket for people: with an `@` in place of the NUL byte that a name in the
/// abstract namespace begins with. `None` if it has none.
fn unix_name(name: &[u8]) -> Option<String> {
    match name {
        [] => None,
        [0, name @ ..] => Some(format!("@{}", lossy(name))),
        path => Some(lossy(path)),
    }
}

fn put_tlvs(json: &mut Object, tlvs: &Tlvs) {
    json.put_some("alpn", &text(&tlvs.alpn));
    json.put_some("authority", &text(&tlvs.authority));
    json.put_some("unique_id", &digits(&tlvs.unique_id));
    json.put_some("netns", &text(&tlvs.netns));
    if tlvs.crc32c {
        json.put("crc32c", true);
    }
    if let Some(ssl) = &tlvs.ssl {
        json.put_written("ssl", &ssl_to_json(ssl));
    }
    json.put_some("aws_vpce_id", &text(&tlvs.aws_vpce_id));
    json.put_some("azure_link_id", &tlvs.azure_link_id);
    // Of a number in JSON, many readers keep 53 bits.
    json.put_some("gcp_psc_id", &tlvs.gcp_psc_id.map(|id| id.to_string()));
    if !tlvs.others.is_empty() {
        let others = tlvs.others.iter().map(|tlv| {
            let mut other = Object::new();
            other.put("type", format!("0x{:02x}", tlv.kind));
            other.put("value", hex(&tlv.value));
            other.end()
        });
        json.put_written("tlvs", &format!("[{}]", others.collect::<Vec<_>>().join(",")));
    }
}

fn ssl_to_json(ssl: &Ssl) -> String {
    let mut json = Object::new();
    for (name, bit) in [
        ("client_ssl", Ssl::CLIENT_SSL),
        ("client_cert_connection", Ssl::CLIENT_CERT_CONN),
        ("client_cert_session", Ssl::CLIENT_CERT_SESS),
    ] {
        json.put(name, ssl.client & bit != 0);
    }
    json.put("verify", ssl.verify);
    for (name, value) in [
        ("version", &ssl.version),
        ("cn", &ssl.cn),
        ("cipher", &ssl.cipher),
        ("sig_alg", &ssl.sig_alg),
        ("key_alg", &ssl.key_alg),
        ("group", &ssl.group),
        ("sig_scheme", &ssl.sig_scheme),
    ] {
        json.put_some(name, &text(value));
    }
    json.put_some("client_cert", &digits(&ssl.client_cert));
    json.end()
}

/// A value for people. An empty one has nothing to say.
fn text(bytes: &Option<Vec<u8>>) -> Option<String> {
    let bytes = bytes.as_ref().filter(|bytes| !bytes.is_empty());
    bytes.map(|bytes| lossy(bytes))
}

fn digits(bytes: &Option<Vec<u8>>) -> Option<String> {
    bytes.as_deref().filter(|bytes| !bytes.is_empty()).map(hex)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::proxy_protocol::{Tlv, encode, kind, parse};

    fn tlv(kind: u8, value: &[u8]) -> Tlv {
        Tlv { kind, value: value.to_vec() }
    }

    /// The facts of a header.
    fn told(bytes: &[u8]) -> Value {
        let (header, _) = parse(bytes).unwrap().unwrap();
        let peer = Peer::Ip(([10, 0, 0, 5], 33000).into());
        serde_json::from_str(&to_json(&Proxy { peer, header })).unwrap()
    }

    fn tcp4() -> Addresses {
        let source = ([192, 0, 2, 1], 61000).into();
        let destination = ([203, 0, 113, 9], 443).into();
        Addresses::Ip { source, destination, transport: Transport::Stream }
    }

    #[test]
    fn every_known_tlv_is_told() {
        let ssl = [
            (kind::SSL_VERSION, &b"TLSv1.3"[..]),
            (kind::SSL_CN, b"client"),
            (kind::SSL_CIPHER, b"TLS_AES_128_GCM_SHA256"),
            (kind::SSL_SIG_ALG, b"RSA-SHA256"),
            (kind::SSL_KEY_ALG, b"RSA2048"),
            (kind::SSL_GROUP, b"X25519MLKEM768"),
            (kind::SSL_SIG_SCHEME, b"rsa_pss_rsae_sha256"),
            (kind::SSL_CLIENT_CERT, &[0x30, 0x82]),
            (0x2F, b"of the future"),
        ];
        let parts = ssl.iter().flat_map(|(kind, value)| {
            let length = u16::try_from(value.len()).unwrap().to_be_bytes();
            [&[*kind], &length[..], value].concat()
        });
        let ssl: Vec<u8> = [0x05, 0, 0, 0, 20].into_iter().chain(parts).collect();
        let tlvs = [
            tlv(kind::NOOP, &[0; 9]),
            tlv(kind::ALPN, b"h2"),
            tlv(kind::AUTHORITY, "exämple.com".as_bytes()),
            tlv(kind::UNIQUE_ID, &[0xAB; 128]),
            tlv(kind::SSL, &ssl),
            tlv(kind::NETNS, b"blue\xFF"),
            tlv(kind::AWS, b"\x01vpce-08d2bf15fac5001c9"),
            tlv(kind::AZURE, &[1, 4, 3, 2, 1]),
            tlv(kind::GCP, &[0xFF, 0xFF, 0xFF, 0xFF, 0xC0, 0xA8, 0x64, 0x02]),
            // Those of the clouds that are something else, and a second one of a type.
            tlv(kind::AWS, b"\x02what"),
            tlv(kind::AZURE, &[1, 4, 3, 2]),
            tlv(kind::GCP, &[1]),
            tlv(kind::ALPN, b"http/1.1"),
            tlv(0xE5, b""),
        ];
        let nothing = [kind::ALPN, kind::UNIQUE_ID, kind::NETNS].map(|kind| tlv(kind, b""));
        let empty = told(&encode::version_2(Command::Proxy, &tcp4(), &nothing).unwrap());
        assert_eq!(empty.as_object().unwrap().len(), 7, "{empty}");
        let expected = json!({
            "from": "10.0.0.5:33000", "version": 2, "command": "proxy", "transport": "tcp4",
            "source": "192.0.2.1:61000", "destination": "203.0.113.9:443",
            "alpn": "h2", "authority": "exämple.com", "unique_id": "ab".repeat(128),
            "netns": "blue\u{FFFD}", "crc32c": true,
            "ssl": {
                "client_ssl": true, "client_cert_connection": false,
                "client_cert_session": true, "verify": 20, "version": "TLSv1.3", "cn": "client",
                "cipher": "TLS_AES_128_GCM_SHA256", "sig_alg": "RSA-SHA256",
                "key_alg": "RSA2048", "group": "X25519MLKEM768",
                "sig_scheme": "rsa_pss_rsae_sha256", "client_cert": "3082",
            },
            "aws_vpce_id": "vpce-08d2bf15fac5001c9", "azure_link_id": 0x0102_0304,
            "gcp_psc_id": "18446744072646845442",
            "tlvs": [
                {"type": "0xea", "value": "0277686174"}, {"type": "0xee", "value": "01040302"},
                {"type": "0xe0", "value": "01"}, {"type": "0x01", "value": "687474702f312e31"},
                {"type": "0xe5", "value": ""},
            ],
        });
        assert_eq!(told(&encode::version_2(Command::Proxy, &tcp4(), &tlvs).unwrap()), expected);
    }

    #[test]
    fn what_a_header_does_not_say_is_not_told() {
        let from = "10.0.0.5:33000";
        let unix = |source: &[u8], transport| {
            let source = source.to_vec();
            let addresses = Addresses::Unix { source, destination: Vec::new(), transport };
            encode::version_2(Command::Proxy, &addresses, &[]).unwrap()
        };
        for (bytes, expected) in [
            (
                b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n".to_vec(),
                json!({"from": from, "version": 1, "command": "proxy", "transport": "tcp6",
                    "source": "[2001:db8::1]:1", "destination": "[::1]:2"}),
            ),
            (
                b"PROXY UNKNOWN\r\n".to_vec(),
                json!({"from": from, "version": 1, "command": "proxy", "transport": "unspec"}),
            ),
            (
                encode::version_2(Command::Local, &tcp4(), &[]).unwrap(),
                json!({"from": from, "version": 2, "command": "local", "transport": "unspec"}),
            ),
            (
                unix(b"\0a", Transport::Stream),
                json!({"from": from, "version": 2, "command": "proxy", "transport": "unix",
                    "source": "@a", "crc32c": true}),
            ),
            (
                unix(b"/run/a", Transport::Datagram),
                json!({"from": from, "version": 2, "command": "proxy",
                    "transport": "unix-datagram", "source": "/run/a", "crc32c": true}),
            ),
        ] {
            assert_eq!(told(&bytes), expected);
        }
    }
}

//! The facts of a datagram, and the reply that has room for them.
//!
//! The JSON is written by hand, so that its keys have the schema's order. All values are numbers,
//! addresses and fixed words, and none of these has a character that JSON escapes.

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::address::Address;

/// How a datagram begins that asks for facts.
pub(crate) const QUESTION: &[u8] = b"ECHO-FACTS?";

/// What the server saw of a datagram.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// When it is answered.
    pub(crate) time: SystemTime,
    /// Its source.
    pub(crate) peer: SocketAddr,
    /// Its destination.
    pub(crate) local: SocketAddr,
    /// The TTL, or the hop limit, that it arrived with. `None`: nothing is known of its IP header.
    pub(crate) ttl: Option<u8>,
    /// The TOS (RFC 2474 and 3168: DSCP and ECN), or the traffic class.
    pub(crate) tos: u8,
}

impl Seen {
    /// The reply to a question of `room` bytes, and never longer: the facts; or if they are longer,
    /// how long the question has to be; or if even that is longer, `None`, which means its echo.
    pub(crate) fn reply(&self, room: usize) -> Option<String> {
        let facts = self.to_string();
        if facts.len() <= room {
            return Some(facts);
        }
        let need = format!(r#"{{"echo_facts":1,"need":{}}}"#, facts.len());
        (need.len() <= room).then_some(need)
    }
}

/// As JSON, in one line. Its length depends on the addresses and the IP header, though not on the
/// time.
impl Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // humantime panics at a time before 1970, which a clock that was never set may show.
        let time = humantime::format_rfc3339_micros(self.time.max(UNIX_EPOCH));
        let [peer, local] = [self.peer, self.local].map(|each| Address::from(each).canonical());
        write!(
            f,
            r#"{{"echo_facts":1,"protocol":"udp","time":"{time}","peer":"{peer}","local":"{local}""#
        )?;
        if let Some(ttl) = self.ttl {
            let (dscp, ecn) = (self.tos >> 2, ecn(self.tos));
            write!(f, r#","ip":{{"ttl":{ttl},"dscp":{dscp},"ecn":"{ecn}"}}"#)?;
        }
        f.write_str("}")
    }
}

/// The name of the ECN field (RFC 3168 section 5).
fn ecn(tos: u8) -> &'static str {
    match tos & 0b11 {
        0b00 => "Not-ECT",
        0b01 => "ECT(1)",
        0b10 => "ECT(0)",
        _ => "CE",
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn seen(peer: &str, local: &str, ttl: Option<u8>, tos: u8) -> Seen {
        let time = UNIX_EPOCH + Duration::from_micros(1_795_829_103_123_456);
        Seen { time, peer: peer.parse().unwrap(), local: local.parse().unwrap(), ttl, tos }
    }

    #[test]
    fn the_facts_are_one_line_of_json_in_the_schemas_order() {
        let facts = seen("192.0.2.1:61000", "203.0.113.9:8080", Some(61), 0xba).to_string();
        let expected = concat!(
            r#"{"echo_facts":1,"protocol":"udp","time":"2026-11-28T01:25:03.123456Z","#,
            r#""peer":"192.0.2.1:61000","local":"203.0.113.9:8080","#,
            r#""ip":{"ttl":61,"dscp":46,"ecn":"ECT(0)"}}"#
        );
        assert_eq!(facts, expected);
    }

    #[test]
    fn what_is_not_known_has_no_key() {
        let facts = seen("192.0.2.1:1", "192.0.2.2:2", None, 0xff).to_string();
        let facts: Value = serde_json::from_str(&facts).unwrap();
        let keys: Vec<_> = facts.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["echo_facts", "local", "peer", "protocol", "time"]);
    }

    #[test]
    fn an_ipv4_peer_of_a_dual_stack_socket_is_an_ipv4_address() {
        let facts = seen("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2", Some(0), 0).to_string();
        let facts: Value = serde_json::from_str(&facts).unwrap();
        assert_eq!(facts["peer"], "192.0.2.1:1");
        assert_eq!(facts["local"], "192.0.2.2:2");
        let facts = seen("[fe80::1%3]:1", "[2001:db8::1]:2", Some(255), 0).to_string();
        let facts: Value = serde_json::from_str(&facts).unwrap();
        assert_eq!(facts["peer"], "[fe80::1%3]:1");
        assert_eq!(facts["local"], "[2001:db8::1]:2");
    }

    #[test]
    fn the_tos_byte_is_dscp_and_ecn() {
        for (tos, dscp, ecn) in [
            (0x00, 0, "Not-ECT"),
            (0xb9, 46, "ECT(1)"),
            (0x22, 8, "ECT(0)"),
            (0x03, 0, "CE"),
            (0xff, 63, "CE"),
        ] {
            let facts = seen("192.0.2.1:1", "192.0.2.2:2", Some(64), tos).to_string();
            let facts: Value = serde_json::from_str(&facts).unwrap();
            assert_eq!(facts["ip"], json!({ "ttl": 64, "dscp": dscp, "ecn": ecn }), "{tos:#x}");
        }
    }

    #[test]
    fn a_clock_before_1970_is_told_as_1970() {
        let seen = Seen {
            time: UNIX_EPOCH - Duration::from_secs(1),
            ..seen("192.0.2.1:1", "192.0.2.2:2", None, 0)
        };
        assert!(seen.to_string().contains(r#""time":"1970-01-01T00:00:00.000000Z""#), "{seen}");
    }

    /// Addresses of both families.
    fn address() -> impl Strategy<Value = SocketAddr> {
        any::<(IpAddr, u16)>().prop_map(SocketAddr::from)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_reply_is_never_longer_than_its_question(
            peer in address(),
            local in address(),
            ttl in any::<Option<u8>>(),
            tos in any::<u8>(),
            micros in 0..1_u64 << 52,
        ) {
            let time = UNIX_EPOCH + Duration::from_micros(micros);
            let seen = Seen { time, peer, local, ttl, tos };
            let facts = seen.to_string();
            let need = format!(r#"{{"echo_facts":1,"need":{}}}"#, facts.len());
            prop_assert!(serde_json::from_str::<Value>(&facts).is_ok());
            for room in 0..=2000 {
                let reply = seen.reply(room);
                prop_assert!(reply.as_ref().is_none_or(|reply| reply.len() <= room));
                let expected = if room >= facts.len() {
                    Some(&facts)
                } else if room >= need.len() {
                    Some(&need)
                } else {
                    None
                };
                prop_assert_eq!(reply.as_ref(), expected, "{} bytes", room);
            }
        }
    }
}

//! Each difference, and what is none.

use serde_json::{Value, json};

use super::super::received::{Parsed, parse};
use super::*;

fn facts(json: Value) -> Facts {
    let mut all = json!({
        "echo_facts": 1, "protocol": "tcp", "time": "", "peer": "unix", "local": "unix:/run/echo.sock",
    });
    all.as_object_mut().unwrap().extend(json.as_object().unwrap().clone());
    match parse(all.to_string().as_bytes()) {
        Parsed::Facts(facts) => facts,
        _ => panic!("no facts: {all}"),
    }
}

/// The kinds of what differs, and their words.
fn told(sent: &Sent, json: Value) -> Vec<(String, String)> {
    let changes = compare(sent, &facts(json));
    changes.iter().map(|change| (change.kind.to_string(), change.to_string())).collect()
}

fn words(sent: &Sent, json: Value) -> Vec<String> {
    told(sent, json).into_iter().map(|(_, words)| words).collect()
}

const NONE: [&str; 0] = [];

#[test]
fn addresses_that_were_translated_are_told() {
    let address = |text: &str| text.parse().ok();
    let sent =
        Sent { peer: address("10.0.0.7:4711"), to: address("192.0.2.9:443"), ..Sent::default() };
    let seen = |peer: &str, local: &str| words(&sent, json!({ "peer": peer, "local": local }));
    assert_eq!(seen("10.0.0.7:4711", "192.0.2.9:443"), NONE);
    assert_eq!(seen("[::ffff:10.0.0.7]:4711", "0.0.0.0:443"), NONE);
    assert_eq!(
        told(&sent, json!({ "peer": "192.0.2.1:61000", "local": "10.9.9.9:8443" })),
        [
            ("source".into(), "NAT: from 10.0.0.7:4711, seen as 192.0.2.1:61000".into()),
            ("destination".into(), "DNAT: sent to 192.0.2.9:443, arrived at 10.9.9.9:8443".into()),
        ]
    );
    assert_eq!(
        seen("10.0.0.7:4712", "0.0.0.0:8443"),
        [
            "NAT: from 10.0.0.7:4711, seen as 10.0.0.7:4712",
            "DNAT: sent to 192.0.2.9:443, arrived at 0.0.0.0:8443",
        ]
    );
    assert_eq!(
        seen("unix", "unix:/run/echo.sock"),
        [
            "NAT: from 10.0.0.7:4711, seen as unix",
            "DNAT: sent to 192.0.2.9:443, arrived at unix:/run/echo.sock",
        ]
    );
    // A Unix socket has no addresses to translate, and a link-local address a scope on each host.
    let unix = json!({});
    assert_eq!(words(&Sent::default(), unix), NONE);
    let sent = Sent { peer: address("[fe80::1%3]:9"), ..Sent::default() };
    assert_eq!(words(&sent, json!({ "peer": "[fe80::1%7]:9" })), NONE);
}

#[test]
fn what_happened_to_a_datagram_is_told() {
    let packet = Packet { ttl: 64, is_ipv6: false, traffic_class: Some(46 << 2 | 2) };
    let sent = Sent { packet: Some(packet), ..Sent::default() };
    let ip =
        |ttl: u8, dscp: u8, ecn: &str| json!({ "ip": { "ttl": ttl, "dscp": dscp, "ecn": ecn } });
    assert_eq!(words(&sent, ip(64, 46, "ECT(0)")), NONE);
    assert_eq!(words(&sent, json!({ "ip": {} })), NONE);
    assert_eq!(
        told(&sent, ip(61, 0, "CE")),
        [
            ("ttl".into(), "TTL fell by 3".into()),
            ("dscp".into(), "DSCP 46 became 0".into()),
            ("ecn".into(), "ECN ECT(0) became CE".into()),
        ]
    );
    assert_eq!(words(&sent, ip(128, 46, "ECT(0)")), ["TTL 64 became 128"]);
    let packet = Packet { ttl: 64, is_ipv6: true, traffic_class: None };
    let sent = Sent { packet: Some(packet), ..Sent::default() };
    assert_eq!(told(&sent, ip(63, 9, "CE")), [("hop_limit".into(), "hop limit fell by 1".into())]);
}

fn tls() -> Sent {
    let tls = TlsFacts {
        version: "TLSv1.3".to_owned(),
        cipher: "TLS_AES_256_GCM_SHA384".to_owned(),
        group: "X25519".to_owned(),
        alpn: Some("h2".to_owned()),
        subject: String::new(),
        fingerprint: None,
        is_pinned: false,
        expires: None,
        unverified: None,
    };
    let hello = Hello {
        sni: Some("a.test".to_owned()),
        alpn: vec!["h2".to_owned(), "http/1.1".to_owned()],
        ja4: "t13d1516h2_8daaf6152771_e5627efa2ab1".to_owned(),
    };
    Sent { tls: Some(tls), hello: Some(hello), ..Sent::default() }
}

#[test]
fn what_happened_to_tls_is_told() {
    let same = json!({
        "version": "TLSv1.3", "cipher": "TLS_AES_256_GCM_SHA384", "group": "X25519", "alpn": "h2",
        "sni": "A.test", "alpn_offered": ["h2", "http/1.1"],
        "ja4": "t13d1516h2_8daaf6152771_e5627efa2ab1",
    });
    assert_eq!(words(&tls(), json!({ "tls": same })), NONE);
    let other = json!({
        "version": "TLSv1.2", "cipher": "TLS_RSA_WITH_AES_128_CBC_SHA", "group": "secp256r1",
        "sni": "b.test", "alpn_offered": ["http/1.1"], "ja4": "t12i010000_000000000000_000000000000",
    });
    assert_eq!(
        told(&tls(), json!({ "tls": other })),
        [
            ("tls_version", "TLS was terminated on the way: TLSv1.3 here, TLSv1.2 there"),
            (
                "tls_cipher",
                "TLS was terminated on the way: TLS_AES_256_GCM_SHA384 here, \
                 TLS_RSA_WITH_AES_128_CBC_SHA there"
            ),
            (
                "tls_group",
                "TLS was terminated on the way: group X25519 here, group secp256r1 there"
            ),
            ("alpn", "TLS was terminated on the way: ALPN h2 here, ALPN none there"),
            ("sni", "SNI a.test became b.test"),
            ("alpn_offered", "ALPN offers h2, http/1.1 became http/1.1"),
            (
                "ja4",
                "TLS was terminated on the way: JA4 t13d1516h2_8daaf6152771_e5627efa2ab1 here, \
                 JA4 t12i010000_000000000000_000000000000 there"
            ),
        ]
        .map(|(kind, words)| (kind.to_owned(), words.to_owned()))
    );
    let mut removed = same.clone();
    removed.as_object_mut().unwrap().remove("sni");
    removed["alpn_offered"] = json!([]);
    assert_eq!(
        words(&tls(), json!({ "tls": removed })),
        ["SNI removed: it was a.test", "ALPN offers removed: it was h2, http/1.1"]
    );
    let mut without = tls();
    without.hello.as_mut().unwrap().sni = None;
    assert_eq!(words(&without, json!({ "tls": same })), ["SNI added: A.test"]);
    assert_eq!(
        words(&tls(), json!({ "protocol": "tcp" })),
        ["TLS was terminated on the way: it arrived without"]
    );
    assert_eq!(words(&Sent::default(), json!({ "tls": same })), ["TLS was added on the way"]);
}

#[test]
fn alpn_offers_that_the_server_has_cut_are_no_difference() {
    let names: Vec<String> = (100..150).map(|number| format!("{number}").repeat(40)).collect();
    let mut sent = tls();
    sent.hello.as_mut().unwrap().alpn = names.clone();
    let seen = |offered: &[String]| {
        let tls = json!({
            "version": "TLSv1.3", "alpn": "h2", "sni": "a.test", "alpn_offered": offered,
        });
        told(&sent, json!({ "tls": tls })).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>()
    };
    assert_eq!(seen(&names), NONE);
    // 3,960 bytes, and 2,880.
    assert_eq!(seen(&names[..33]), NONE);
    assert_eq!(seen(&names[..24]), ["alpn_offered"]);
    assert_eq!(seen(&names[1..34]), ["alpn_offered"]);
}

#[test]
fn what_happened_to_the_proxy_header_is_told() {
    let address = |text: &str| text.parse().ok();
    let sent = Sent {
        peer: address("198.51.100.1:1"),
        local: address("10.0.0.7:4711"),
        to: address("192.0.2.9:443"),
        proxy: Some(SentProxy {
            version: "2",
            command: "proxy",
            tlvs: vec![("authority", "a.test".to_owned()), ("unique_id", "abcd".to_owned())],
        }),
        ..Sent::default()
    };
    let seen = |proxy: Value| {
        let peer = if proxy["command"] == "local" { "10.0.0.7:4711" } else { "198.51.100.1:1" };
        words(&sent, json!({ "peer": peer, "local": "10.9.9.9:80", "proxy": proxy }))
    };
    let mut proxy = json!({
        "from": "10.9.9.1:5", "version": 2, "command": "proxy", "destination": "192.0.2.9:443",
        "authority": "a.test", "unique_id": "abcd", "netns": "added",
    });
    assert_eq!(seen(proxy.clone()), NONE, "the proxy tells where it was connected to");
    proxy["from"] = "10.0.0.7:4711".into();
    assert_eq!(seen(proxy), ["DNAT: sent to 192.0.2.9:443, arrived at 10.9.9.9:80"]);
    let other = json!({
        "version": 1, "command": "local", "destination": "192.0.2.9:443", "unique_id": "ef",
    });
    assert_eq!(
        seen(other),
        [
            "NAT: from 198.51.100.1:1, seen as 10.0.0.7:4711",
            "PROXY header: version 2 became 1",
            "PROXY header: command proxy became local",
            "PROXY header: authority removed: it was a.test",
            "PROXY header: unique_id abcd became ef",
        ]
    );
    // A header that was not read has announced nobody.
    let unread = json!({ "peer": "10.0.0.7:4711", "local": "192.0.2.9:443" });
    assert_eq!(words(&sent, unread), NONE);
}

#[test]
fn an_address_that_a_proxy_may_have_changed_is_no_certain_nat() {
    let with_peer = |mut sent: Sent| {
        sent.peer = "10.0.0.7:4711".parse().ok();
        sent
    };
    let first = |sent: Sent, mut json: Value| {
        json["peer"] = "192.0.2.1:61000".into();
        words(&with_peer(sent), json).remove(0)
    };
    let nat = "NAT: from 10.0.0.7:4711, seen as 192.0.2.1:61000";
    let either = "from 10.0.0.7:4711, seen as 192.0.2.1:61000, by a NAT or a proxy";
    assert_eq!(first(Sent::default(), json!({})), nat);
    assert_eq!(first(Sent::default(), json!({ "proxy": { "version": 1 } })), either);
    assert_eq!(first(tls(), json!({})), either);
    let field = |name: &str| json!({ "http": { "fields": [[name, "x"]] } });
    for name in ["Via", "X-Forwarded-For", "forwarded"] {
        assert_eq!(first(http("HTTP/1.1", &[]), field(name)), either, "{name}");
    }
    assert_eq!(first(http("HTTP/1.1", &[]), field("x-other")), nat);
}

fn http(version: &'static str, fields: &[(&str, &str)]) -> Sent {
    let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let request = HttpRequest {
        method: "GET".to_owned(),
        path: "/a?b".to_owned(),
        version,
        authority: (version == "HTTP/2").then(|| "a.test".to_owned()),
        fields: fields.collect(),
    };
    Sent { request: Some(request), ..Sent::default() }
}

#[test]
fn what_happened_to_header_fields_is_told() {
    let sent = http("HTTP/1.1", &[("host", "a.test"), ("x-a", "1"), ("x-b", "2"), ("x-b", "3")]);
    let seen = |fields: &[[&str; 2]]| {
        let http =
            json!({ "version": "HTTP/1.1", "method": "GET", "path": "/a?b", "fields": fields });
        told(&sent, json!({ "http": http }))
    };
    assert_eq!(seen(&[["X-B", "2, 3"], ["Host", "a.test"], ["X-A", "1"]]), []);
    assert_eq!(
        seen(&[["Host", "b.test"], ["x-b", "2"], ["X-Forwarded-For", "10.0.0.7"]]),
        [
            ("field_changed", "changed on the way: host: a.test became b.test"),
            ("field_removed", "removed on the way: x-a: 1"),
            ("field_changed", "changed on the way: x-b: 2, 3 became 2"),
            ("field_added", "added on the way: X-Forwarded-For: 10.0.0.7"),
        ]
        .map(|(kind, words)| (kind.to_owned(), words.to_owned()))
    );
}

#[test]
fn cookies_that_were_joined_are_no_difference() {
    let sent = http("HTTP/1.1", &[("cookie", "a=1"), ("Cookie", "b=2")]);
    let seen = |fields: &[[&str; 2]]| words(&sent, json!({ "http": { "fields": fields } }));
    assert_eq!(seen(&[["cookie", "a=1; b=2"]]), NONE);
    assert_eq!(seen(&[["Cookie", "a=1"], ["cookie", "b=2"]]), NONE);
    assert_eq!(
        seen(&[["cookie", "a=1, b=2"]]),
        ["changed on the way: cookie: a=1; b=2 became a=1, b=2"]
    );
}

#[test]
fn fields_without_end_are_compared_without_end_of_time() {
    // With a search for each, these are 80 thousand million comparisons of names.
    let fields: Vec<_> = (0..400_000).map(|number| json!([format!("x-{number}"), "1"])).collect();
    let changes = compare(&http("HTTP/1.1", &[]), &facts(json!({ "http": { "fields": fields } })));
    assert_eq!(changes.len(), 400_000);
    assert_eq!(changes[399_999].field.as_deref(), Some("x-399999"));
}

#[test]
fn what_happened_to_the_request_is_told() {
    let sent = http("HTTP/1.1", &[("host", "a.test"), ("upgrade", "websocket")]);
    let http2 = json!({
        "version": "HTTP/2", "method": "CONNECT", "path": "/b", "authority": "b.test", "fields": [],
    });
    assert_eq!(
        words(&sent, json!({ "http": http2 })),
        ["HTTP/1.1 became HTTP/2", "path /a?b became /b"]
    );
    let sent = http("HTTP/2", &[]);
    assert_eq!(
        words(&sent, json!({ "http": http2 })),
        ["method GET became CONNECT", "path /a?b became /b", "authority a.test became b.test"]
    );
    let same = json!({
        "version": "HTTP/2", "method": "GET", "path": "/a?b", "authority": "a.test", "fields": [],
    });
    assert_eq!(words(&sent, json!({ "http": same })), NONE);
    assert_eq!(words(&sent, json!({ "protocol": "ws" })), NONE);
}

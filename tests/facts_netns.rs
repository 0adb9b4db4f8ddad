//! Facts over UDP across a router that changes what passes it: TTL, DSCP, addresses. Each test makes
//! three network namespaces, a client's, a router's and a server's. Where that is not permitted, it
//! says so and is skipped.

#![cfg(target_os = "linux")]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use common::binary;
use common::netns::Namespace;
use common::schema::Schema;
use common::tools;
use echo_server::{Config, Protocol, blocking};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::{Value, json};

/// The longest that a test waits for a datagram.
const PATIENCE: Duration = Duration::from_secs(10);

/// Three namespaces, which are removed with the test.
struct Net {
    client: Namespace,
    router: Namespace,
    server: Namespace,
}

impl Net {
    /// Makes the namespaces: 10.77.1.0/24 and fd77:1::/64 are the client's side, 10.77.2.0/24 and
    /// fd77:2::/64 the server's. `None` if that is not permitted here.
    fn new() -> Option<Net> {
        let [client, router, server] = ["c", "r", "s"].map(Namespace::new);
        let net = Net { client: client?, router: router?, server: server? };
        let Net { client: c, router: r, server: s } = &net;
        c.ip(&format!("link add fc type veth peer name rc netns {}", r.name));
        s.ip(&format!("link add fs type veth peer name rs netns {}", r.name));
        c.ip("addr add 10.77.1.9/24 dev fc");
        c.ip("addr add fd77:1::9/64 dev fc nodad");
        r.ip("addr add 10.77.1.1/24 dev rc");
        r.ip("addr add fd77:1::1/64 dev rc nodad");
        r.ip("addr add 10.77.2.1/24 dev rs");
        r.ip("addr add fd77:2::1/64 dev rs nodad");
        s.ip("addr add 10.77.2.2/24 dev fs");
        s.ip("addr add fd77:2::2/64 dev fs nodad");
        c.ip("link set fc up");
        r.ip("link set rc up");
        r.ip("link set rs up");
        s.ip("link set fs up");
        c.ip("route add default via 10.77.1.1");
        c.ip("-6 route add default via fd77:1::1");
        s.ip("route add default via 10.77.2.1");
        s.ip("-6 route add default via fd77:2::1");
        let forwarding = r.within(|| {
            for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{path}"), "1").unwrap();
            }
        });
        forwarding.join().unwrap();
        Some(net)
    }

    /// A server with facts in the server's namespace, at a port of all of its addresses.
    fn start(&self) -> (blocking::TestServer, u16) {
        let address: SocketAddr = "[::]:0".parse().unwrap();
        let config = Config::new().listen(Protocol::Udp, address).facts([Protocol::Udp]);
        // The threads that it starts inherit the namespace.
        let server = self.server.within(move || blocking::TestServer::with(config).unwrap());
        let server = server.join().unwrap();
        let port = server.addr(Protocol::Udp).port();
        (server, port)
    }

    /// The facts of a datagram from the client, with this TTL and TOS, to `address`; and the
    /// client's own address.
    fn ask(&self, address: SocketAddr, ttl: i32, tos: i32) -> (Value, SocketAddr) {
        let asked = self.client.within(move || {
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let client = UdpSocket::bind(any).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.connect(address).unwrap();
            if address.is_ipv4() {
                setsockopt(&client, sockopt::Ipv4Ttl, &ttl).unwrap();
                setsockopt(&client, sockopt::Ipv4Tos, &tos).unwrap();
            } else {
                setsockopt(&client, sockopt::Ipv6Ttl, &ttl).unwrap();
                setsockopt(&client, sockopt::Ipv6TClass, &tos).unwrap();
            }
            let mut datagram = [b'.'; 400];
            datagram[..11].copy_from_slice(b"ECHO-FACTS?");
            client.send(&datagram).unwrap();
            let length = client.recv(&mut datagram).expect("a reply");
            let reply = std::str::from_utf8(&datagram[..length]).unwrap();
            let facts = Schema::of_facts().facts(reply);
            (facts, client.local_addr().unwrap())
        });
        asked.join().unwrap()
    }
}

#[test]
fn a_router_takes_one_from_the_ttl() {
    let Some(net) = Net::new() else { return };
    let (_server, port) = net.start();
    for (host, client) in [("10.77.2.2", "10.77.1.9"), ("fd77:2::2", "fd77:1::9")] {
        let address = SocketAddr::new(host.parse().unwrap(), port);
        // With 1, it would not pass the router.
        for ttl in [64, 2, 255] {
            let (facts, from) = net.ask(address, ttl, 0xb8);
            assert_eq!(from.ip().to_string(), client);
            assert_eq!(facts["peer"], from.to_string());
            assert_eq!(facts["local"], address.to_string());
            assert_eq!(facts["ip"], json!({ "ttl": ttl - 1, "dscp": 46, "ecn": "Not-ECT" }));
        }
    }
}

#[test]
fn a_dscp_that_the_path_changed_is_told_as_it_arrived() {
    let Some(net) = Net::new() else { return };
    let (_server, port) = net.start();
    // What comes from the client loses its class, as at the edge of many networks.
    let bleach = "table inet facts {
        chain forward {
            type filter hook forward priority mangle;
            iifname rc meta nfproto ipv4 ip dscp set cs1
            iifname rc meta nfproto ipv6 ip6 dscp set cs1
        }
    }";
    if !net.router.apply(bleach) {
        return;
    }
    for host in ["10.77.2.2", "fd77:2::2"] {
        let address = SocketAddr::new(host.parse().unwrap(), port);
        for (tos, ecn) in [(0xb8, "Not-ECT"), (0xb9, "ECT(1)"), (0xba, "ECT(0)"), (0x03, "CE")] {
            let (facts, _) = net.ask(address, 64, tos);
            assert_eq!(facts["ip"], json!({ "ttl": 63, "dscp": 8, "ecn": ecn }), "{host} {tos:#x}");
        }
    }
}

#[test]
fn behind_a_nat_the_peer_is_the_address_that_it_translates_to() {
    let Some(net) = Net::new() else { return };
    let (_server, port) = net.start();
    // Source and destination: the client asks the router, and the server hears the router ask.
    let translate = format!(
        "table inet facts {{
            chain in {{
                type nat hook prerouting priority dstnat;
                iifname rc udp dport 7777 meta nfproto ipv4 dnat ip to 10.77.2.2:{port}
                iifname rc udp dport 7777 meta nfproto ipv6 dnat ip6 to [fd77:2::2]:{port}
            }}
            chain out {{
                type nat hook postrouting priority srcnat;
                oifname rs udp dport {port} meta nfproto ipv4 snat ip to 10.77.2.1:50000
                oifname rs udp dport {port} meta nfproto ipv6 snat ip6 to [fd77:2::1]:50000
            }}
        }}"
    );
    if !net.router.apply(&translate) {
        return;
    }
    for (asked, peer, local) in [
        ("10.77.1.1:7777", "10.77.2.1:50000", format!("10.77.2.2:{port}")),
        ("[fd77:1::1]:7777", "[fd77:2::1]:50000", format!("[fd77:2::2]:{port}")),
    ] {
        let (facts, from) = net.ask(asked.parse().unwrap(), 64, 0);
        assert_ne!(from.to_string(), peer);
        assert_eq!(facts["peer"], peer);
        assert_eq!(facts["local"], local);
        assert_eq!(facts["ip"]["ttl"], 63);
    }
}

/// What the probe says of a server across the router.
fn probe(net: &Net, arguments: &[&str]) -> (String, bool) {
    let mut command = net.client.command(binary::PATH);
    command.arg("probe").args(arguments);
    let output = tools::run(&mut command, b"");
    (String::from_utf8(output.stdout).unwrap(), output.status.success())
}

#[test]
fn the_probe_says_what_the_path_has_changed() {
    let Some(net) = Net::new() else { return };
    let address: SocketAddr = "[::]:0".parse().unwrap();
    let (udp, tcp) = (address, address);
    let config = Config::new().listen(Protocol::Udp, udp).listen(Protocol::Tcp, tcp);
    let config = config.facts([Protocol::Udp, Protocol::Tcp]);
    let server = net.server.within(move || blocking::TestServer::with(config).unwrap());
    let server = server.join().unwrap();
    let [udp, tcp] = [Protocol::Udp, Protocol::Tcp].map(|each| server.addr(each).port());
    let url = |scheme: &str, port: u16| format!("{scheme}://10.77.2.2:{port}");

    // A router alone changes the TTL.
    let (said, is_success) = probe(&net, &[&url("udp", udp), "--facts", "--dscp", "EF"]);
    assert!(is_success && said.contains("TTL fell by 1\n"), "{said}");
    assert!(!said.contains("NAT") && !said.contains("DSCP 46 became"), "{said}");
    let (said, is_success) = probe(&net, &[&url("tcp", tcp), "--facts"]);
    assert!(is_success && said.contains("nothing that it tells has changed"), "{said}");

    let rules = "table inet facts {
        chain forward {
            type filter hook forward priority mangle;
            iifname rc ip dscp set cs0
        }
        chain out {
            type nat hook postrouting priority srcnat;
            oifname rs meta l4proto { tcp, udp } snat ip to 10.77.2.1:50000-50999
        }
    }";
    if !net.router.apply(rules) {
        return;
    }
    let (said, is_success) = probe(&net, &[&url("udp", udp), "--facts", "--dscp", "EF"]);
    assert!(is_success, "{said}");
    for part in ["NAT: from 10.77.1.9:", ", seen as 10.77.2.1:50", "DSCP 46 became 0\n"] {
        assert!(said.contains(part), "'{part}' is not in {said}");
    }
    let (said, is_success) = probe(&net, &[&url("tcp", tcp), "--facts", "--json"]);
    let facts: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert!(is_success, "{said}");
    assert_eq!(facts["differences"][0]["kind"], "source", "{facts:#}");
    assert_eq!(facts["echoed"], true);
}

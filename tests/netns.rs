//! What cannot be tested over loopback: a host with several addresses, a link with an MTU, forged
//! datagrams. Each test makes two network namespaces, a server's and a client's, with a link
//! between them. Where that is not permitted, it says so and is skipped.

#![cfg(target_os = "linux")]

mod common;

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::binary::{self, Running};
use common::netns::{Etc, Namespace};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn};
use nix::sys::socket::{recvmsg, sendmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

/// The longest that a test waits for a datagram.
const PATIENCE: Duration = Duration::from_secs(10);

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// Two namespaces, which are removed with the test.
struct Net {
    server: Namespace,
    client: Namespace,
}

impl Net {
    /// Makes the namespaces. `None` if that is not permitted here.
    fn new() -> Option<Net> {
        let net = Net { server: Namespace::new("s")?, client: Namespace::new("c")? };
        let (s, c) = (&net.server, &net.client);
        s.ip(&format!("link add es mtu 1500 type veth peer name ec netns {}", c.name));
        s.ip(&format!("addr add {SERVER}/24 brd + dev es"));
        s.ip(&format!("addr add {SECOND}/24 brd + dev es"));
        s.ip("addr add fd77::1/64 dev es nodad");
        s.ip("addr add fd77::2/64 dev es nodad");
        c.ip(&format!("addr add {CLIENT}/24 brd + dev ec"));
        c.ip("addr add fd77::9/64 dev ec nodad");
        s.ip("link set es up");
        c.ip("link set ec up");
        Some(net)
    }

    /// Starts the echo server in one of the two.
    fn start(&self, namespace: &Namespace, args: &[&str]) -> Running {
        Running::spawn(namespace.command(binary::PATH).arg("-v").args(args))
    }

    /// Runs `echo-server probe` in the client's.
    fn probe(&self, args: &[&str]) -> Output {
        let mut command = self.client.command(binary::PATH);
        command.arg("probe").args(args).stdin(Stdio::null()).output().unwrap()
    }
}

/// How many datagrams the current namespace has received.
fn datagrams() -> u64 {
    let table = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let values = table.lines().filter(|line| line.starts_with("Udp:")).nth(1).unwrap();
    values.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Sends a datagram with the forged source address `from`.
fn forge(from: SocketAddrV4, to: SocketAddrV4) {
    const PAYLOAD: &[u8] = b"who are you?";
    let length = (8 + PAYLOAD.len()) as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(length.to_be_bytes());
    // The kernel fills in the header's checksum; over IPv4, UDP needs none.
    packet.extend([0, 0]);
    packet.extend(PAYLOAD);
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
    raw.send_to(&packet, &SocketAddr::from((*to.ip(), 0)).into()).unwrap();
}

/// Sends a forged datagram, and waits until no more datagrams come. Returns how many came.
#[expect(clippy::disallowed_methods, reason = "that nothing comes is not an event")]
fn stir(namespace: &Namespace, from: SocketAddrV4, to: SocketAddrV4) -> u64 {
    let stirred = namespace.within(move || {
        let before = datagrams();
        forge(from, to);
        let start = Instant::now();
        let mut last = (before, Instant::now());
        // A loop would make thousands of datagrams in this time.
        while last.1.elapsed() < Duration::from_millis(300) {
            assert!(start.elapsed() < PATIENCE, "it does not end");
            thread::sleep(Duration::from_millis(20));
            let now = datagrams();
            if now != last.0 {
                last = (now, Instant::now());
            }
        }
        last.0 - before
    });
    stirred.join().unwrap()
}

#[test]
fn a_reply_comes_from_the_address_that_the_request_was_sent_to() {
    let Some(net) = Net::new() else { return };
    for wildcard in ["0.0.0.0:7777", "[::]:7777"] {
        let _server = net.start(&net.server, &["--udp", wildcard]);
        let is_v6 = wildcard.starts_with('[');
        let asked = net.client.within(move || {
            for address in ["10.77.0.1", "10.77.0.2", "fd77::1", "fd77::2"] {
                let address: IpAddr = address.parse().unwrap();
                if address.is_ipv6() && !is_v6 {
                    continue;
                }
                let any = if address.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
                let client = UdpSocket::bind(any).unwrap();
                client.set_read_timeout(Some(PATIENCE)).unwrap();
                // A connected socket takes nothing from any other address.
                client.connect((address, 7777)).unwrap();
                let mut buffer = vec![0; 65_536];
                for size in [0_usize, 1, 1472, 1473, 9000, 65_507] {
                    let payload: Vec<u8> = (0..size).map(|i| (i * 31) as u8).collect();
                    client.send(&payload).unwrap();
                    let length = client.recv(&mut buffer).expect("an answer");
                    assert!(buffer[..length] == payload, "{address}: {size} came back as {length}");
                }
            }
        });
        asked.join().unwrap();
    }
}

#[test]
fn a_reply_has_the_dscp_and_ecn_of_its_request() {
    let Some(net) = Net::new() else { return };
    let _server = net.start(&net.server, &["--udp", "0.0.0.0:7777"]);
    let asked = net.client.within(|| {
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        setsockopt(&client, sockopt::IpRecvTos, &true).unwrap();
        let server = SockaddrIn::from(SocketAddrV4::new(SERVER, 7777));
        // Expedited Forwarding with ECT(1), Class Selector 1 with ECT(0), and CE.
        for tos in [0xb9_u8, 0x22, 0x03, 0x00] {
            let control = [ControlMessage::Ipv4Tos(&tos)];
            let payload = [IoSlice::new(b"x")];
            let flags = MsgFlags::empty();
            sendmsg(client.as_raw_fd(), &payload, &control, flags, Some(&server)).unwrap();
            let mut buffer = [0; 10];
            let mut buffer = [std::io::IoSliceMut::new(&mut buffer)];
            let mut space = nix::cmsg_space!(u8);
            let echo =
                recvmsg::<SockaddrIn>(client.as_raw_fd(), &mut buffer, Some(&mut space), flags);
            let echo = echo.unwrap();
            let marks: Vec<_> = echo.cmsgs().unwrap().collect();
            assert_eq!(marks, [ControlMessageOwned::Ipv4Tos(tos)]);
        }
    });
    asked.join().unwrap();
}

#[test]
fn a_broadcast_is_not_answered() {
    let Some(net) = Net::new() else { return };
    let server = net.start(&net.server, &["--udp", "[::]:7777"]);
    let asked = net.client.within(|| {
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        client.set_broadcast(true).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.send_to(b"all", "10.77.0.255:7777").unwrap();
        // Both reach the same socket in this order, and so would their replies.
        client.send_to(b"one", (SERVER, 7777)).unwrap();
        let mut buffer = [0; 10];
        let (length, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&b"one"[..], (SERVER, 7777).into()));
    });
    asked.join().unwrap();
    let (_, log) = server.terminate();
    assert!(log.contains("sent to a broadcast or multicast address"), "{log}");
}

#[test]
fn a_loop_between_two_servers_ends() {
    let Some(net) = Net::new() else { return };
    let _one = net.start(&net.server, &["--udp", "10.77.0.1:7777"]);
    let _other = net.start(&net.client, &["--udp", "10.77.0.9:7777"]);
    let (one, other) = (SocketAddrV4::new(SERVER, 7777), SocketAddrV4::new(CLIENT, 7777));
    let datagrams = stir(&net.server, other, one);
    assert!((1..20_000).contains(&datagrams), "{datagrams}");
}

#[test]
fn a_server_does_not_answer_itself() {
    let Some(net) = Net::new() else { return };
    for (bound, asked) in [
        ("10.77.0.1:7777", SERVER),
        ("0.0.0.0:7777", SECOND),
        ("[::]:7777", SECOND),
        ("127.0.0.1:7777", Ipv4Addr::LOCALHOST),
        ("0.0.0.0:7777", Ipv4Addr::LOCALHOST),
    ] {
        // Its other listener is the server itself, too.
        let server = net.start(&net.server, &["--udp", bound, "--udp", "0.0.0.0:7778"]);
        for port in [7777, 7778] {
            let (from, to) = (SocketAddrV4::new(asked, port), SocketAddrV4::new(asked, 7777));
            let datagrams = stir(&net.server, from, to);
            assert_eq!(datagrams, 1, "{bound}, from port {port}");
        }
        let (_, log) = server.terminate();
        assert!(log.contains("own addresses"), "{log}");
    }
}

#[test]
fn a_loop_with_a_plain_echo_service_ends() {
    let Some(net) = Net::new() else { return };
    let _server = net.start(&net.server, &["--udp", "0.0.0.0:7777"]);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let plain = net.client.within(move || {
        let socket = UdpSocket::bind("0.0.0.0:40000").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        ready.send(()).unwrap();
        let mut buffer = [0; 100];
        let mut echoed = 0;
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..length], peer).unwrap();
            echoed += 1;
        }
        echoed
    });
    is_ready.recv().unwrap();
    let (plain_one, server) = (SocketAddrV4::new(CLIENT, 40000), SocketAddrV4::new(SERVER, 7777));
    let datagrams = stir(&net.server, plain_one, server);
    assert!((1000..20_000).contains(&datagrams), "it bounced, and stopped: {datagrams}");
    assert!(plain.join().unwrap() > 1000);
}

/// RFC 8305: an address that swallows everything delays the next one by 250 ms.
#[test]
fn a_name_whose_ipv6_address_leads_nowhere_is_connected_to_over_ipv4() {
    let Some(net) = Net::new() else { return };
    // Global addresses, which RFC 6724 sorts before IPv4.
    net.server.ip("addr add 2001:db8:77::1/64 dev es nodad");
    net.client.ip("addr add 2001:db8:77::9/64 dev ec nodad");
    net.client.ip("route add 2001:db8:78::/64 via 2001:db8:77::1");
    // Without a route there, the kernel would answer that there is none, as often as its rate limit
    // allows.
    net.server.ip("-6 route add blackhole 2001:db8:78::/64");
    let hosts = format!("2001:db8:78::1 echo.test\n{SERVER} echo.test\n");
    let Some(_etc) = Etc::with_hosts(&net.client, &hosts) else { return };
    let all = "0.0.0.0:7777";
    let _server = net.start(&net.server, &["--tcp", all, "--udp", all, "--ws", "0.0.0.0:7778"]);
    for (url, count) in
        [("tcp://echo.test:7777", "2"), ("ws://echo.test:7778", "2"), ("udp://echo.test:7777", "2")]
    {
        let began = Instant::now();
        let output = net.probe(&[url, "--count", count, "--interval", "1ms"]);
        let text = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{url}: {text}{errors}");
        assert!(text.contains(&format!("at {SERVER}:777")), "{url}: {text}");
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(250) && took < Duration::from_secs(5), "{took:?}");
    }
    // Nothing listens at this port: both addresses are told, each with its cause.
    for (url, refused) in [
        ("tcp://echo.test:7779", "connection refused: nothing listens there"),
        ("udp://echo.test:7779", "nothing listens there"),
    ] {
        let output =
            net.probe(&[url, "--count", "1", "--connect-timeout", "1s", "--timeout", "1s"]);
        let text = String::from_utf8(output.stderr).unwrap();
        if url.starts_with("tcp") {
            assert_eq!(output.status.code(), Some(3), "{text}");
            assert!(text.contains(&format!("{SERVER}:7779: {refused}")), "{text}");
            assert!(text.contains("[2001:db8:78::1]:7779: no answer"), "{text}");
        } else {
            // The silent address may lose what it is sent, and that is for the probe to show.
            assert_eq!(output.status.code(), Some(1), "{text}");
        }
    }
}

#[test]
fn a_udp_service_on_the_second_address_of_localhost_is_found() {
    let Some(net) = Net::new() else { return };
    let Some(_etc) = Etc::with_hosts(&net.client, "::1 localhost\n127.0.0.1 localhost\n") else {
        return;
    };
    let _server = net.start(&net.client, &["--udp", "127.0.0.1:8080"]);
    let output = net.probe(&["udp://localhost:8080", "--count", "3", "--interval", "1ms"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("udp://localhost:8080 at 127.0.0.1:8080 from 127.0.0.1:"), "{text}");
    assert!(text.contains("3 sent, 3 received, 0 lost"), "{text}");
    let output = net.probe(&["udp://localhost:8081", "--count", "1"]);
    assert_eq!(output.status.code(), Some(3));
    let text = String::from_utf8(output.stderr).unwrap();
    let refused = "nothing listens there";
    assert!(
        text.contains("[::1]:8081: ")
            && text.contains("127.0.0.1:8081: ")
            && text.contains(refused),
        "{text}"
    );
}

#[test]
fn the_largest_datagram_of_a_link_is_found_over_both_families() {
    let Some(net) = Net::new() else { return };
    let _server = net.start(&net.server, &["--udp", "[::]:7777"]);
    for (host, largest, headers) in [("10.77.0.1", 1472, 28), ("[fd77::1]", 1452, 48)] {
        let url = format!("udp://{host}:7777");
        let output = net.probe(&[&url, "--find-mtu", "--timeout", "300ms"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{text}");
        let found = format!(
            "largest payload that comes back unfragmented: {largest} bytes; with {headers} of \
             headers the MTU is 1500\n"
        );
        assert_eq!(text, found);
        let search = String::from_utf8(output.stderr).unwrap();
        assert!(search.starts_with("64 bytes: came back\n"), "{search}");
        assert!(
            search.contains(&format!("\n{} bytes: did not come back\n", largest + 1)),
            "{search}"
        );
        // The system refuses a datagram that is larger: it was not sent, and is not waited for.
        let size = (largest + 1).to_string();
        let args = [&url, "--dont-fragment", "--count", "2", "--interval", "1ms", "--size", &size];
        let output = net.probe(&args);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("0 sent, 0 received, 0 lost"), "{text}");
        assert!(text.contains("2 due but not sent"), "{text}");
        let reason = "the datagram is larger than the interface or the path carries unfragmented";
        assert!(text.contains(&format!("2 times: {reason}")), "{text}");
    }
}

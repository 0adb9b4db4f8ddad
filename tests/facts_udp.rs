//! Facts over UDP: a datagram that begins with `ECHO-FACTS?` is answered with what the server saw of
//! it, and never with more bytes than it has.

#![cfg(target_os = "linux")]

mod common;

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, SystemTime};

use common::TestServer;
use common::schema::Schema;
use echo_server::{Config, Inherited, ListenAddress, Protocol, blocking};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use serde_json::{Value, json};

/// The longest that a test waits for a datagram.
const PATIENCE: Duration = Duration::from_secs(10);

/// The length of `{"echo_facts":1,"need":NNN}`.
const SHORTEST_REPLY: usize = 27;

/// A server with facts at `address`.
fn server(address: &str) -> blocking::TestServer {
    blocking::TestServer::with(config(address)).unwrap()
}

fn config(address: &str) -> Config {
    let address: SocketAddr = address.parse().unwrap();
    Config::new().listen(Protocol::Udp, address).facts([Protocol::Udp])
}

/// A socket that is connected to `address`.
fn connect(address: SocketAddr) -> UdpSocket {
    let any = if address.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let client = UdpSocket::bind(any).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.connect(address).unwrap();
    client
}

/// A question of `size` bytes, or as many of its first bytes if there are less than it takes.
fn question(size: usize) -> Vec<u8> {
    let mut question = b"ECHO-FACTS?".to_vec();
    question.extend((11..size).map(|i| (i * 31) as u8));
    question.truncate(size);
    question
}

fn exchange(client: &UdpSocket, datagram: &[u8]) -> Vec<u8> {
    client.send(datagram).unwrap();
    receive(client)
}

fn receive(client: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let length = client.recv(&mut buffer).expect("a reply");
    buffer.truncate(length);
    buffer
}

/// The facts that a question of 400 bytes is answered with.
fn ask(client: &UdpSocket) -> Value {
    facts(&exchange(client, &question(400)))
}

fn facts(reply: &[u8]) -> Value {
    Schema::of_facts().facts(std::str::from_utf8(reply).expect("text"))
}

/// The number of bytes that facts take.
fn need(client: &UdpSocket) -> usize {
    let reply = facts(&exchange(client, &question(SHORTEST_REPLY)));
    assert_eq!(reply.as_object().unwrap().len(), 2, "{reply}");
    assert_eq!(reply["echo_facts"], 1);
    reply["need"].as_u64().unwrap() as usize
}

#[test]
fn a_question_is_answered_with_what_the_server_saw() {
    for (bound, asked) in [
        ("127.0.0.1:0", "127.0.0.1"),
        ("0.0.0.0:0", "127.0.0.1"),
        // All of 127.0.0.0/8 is this machine.
        ("0.0.0.0:0", "127.0.0.7"),
        ("[::1]:0", "::1"),
        ("[::]:0", "::1"),
        ("[::]:0", "127.0.0.7"),
    ] {
        let server = server(bound);
        let local = SocketAddr::new(asked.parse().unwrap(), server.addr(Protocol::Udp).port());
        let client = connect(local);
        if local.is_ipv4() {
            setsockopt(&client, sockopt::Ipv4Ttl, &61).unwrap();
        } else {
            setsockopt(&client, sockopt::Ipv6Ttl, &61).unwrap();
        }
        let before = SystemTime::now() - Duration::from_micros(1);
        let mut facts = ask(&client);
        let after = SystemTime::now();
        let time = facts.as_object_mut().unwrap().remove("time").expect("a time");
        let time = time.as_str().unwrap();
        assert!(time.ends_with('Z') && time.len() == 27, "{time}");
        let instant = humantime::parse_rfc3339(time).unwrap();
        assert!(before <= instant && instant <= after, "{time}");
        let expected = json!({
            "echo_facts": 1,
            "protocol": "udp",
            "peer": client.local_addr().unwrap().to_string(),
            "local": local.to_string(),
            "ip": { "ttl": 61, "dscp": 0, "ecn": "Not-ECT" },
        });
        assert_eq!(facts, expected, "{asked} of {bound}");
    }
}

#[test]
fn the_facts_are_one_line_that_begins_with_the_schemas_version() {
    let server = server("127.0.0.1:0");
    let client = connect(server.addr(Protocol::Udp));
    let reply = String::from_utf8(exchange(&client, &question(400))).unwrap();
    assert!(reply.starts_with(r#"{"echo_facts":1,"protocol":"udp","time":""#), "{reply}");
    assert!(!reply.contains('\n'), "{reply}");
}

#[test]
fn a_reply_is_never_longer_than_its_question() {
    for (bound, asked) in [("127.0.0.1:0", "127.0.0.1"), ("[::]:0", "::1")] {
        let server = server(bound);
        let port = server.addr(Protocol::Udp).port();
        let client = connect(SocketAddr::new(asked.parse().unwrap(), port));
        let need = need(&client);
        for size in 0..=2000 {
            let question = question(size);
            let reply = exchange(&client, &question);
            assert!(reply.len() <= size, "{size} bytes were answered with {}", reply.len());
            if size < SHORTEST_REPLY {
                assert_eq!(reply, question, "{size} bytes");
            } else if size < need {
                assert_eq!(facts(&reply), json!({ "echo_facts": 1, "need": need }), "{size} bytes");
            } else {
                assert_eq!(reply.len(), need, "{size} bytes");
                assert_eq!(facts(&reply)["protocol"], "udp", "{size} bytes");
            }
        }
        // The largest datagram that IP carries.
        assert_eq!(exchange(&client, &question(65_507)).len(), need);
    }
}

#[test]
fn what_is_no_question_is_echoed() {
    let server = server("127.0.0.1:0");
    let client = connect(server.addr(Protocol::Udp));
    let padded = |start: &str| format!("{start:.<400}").into_bytes();
    for datagram in [
        padded(""),
        padded("ECHO-FACTS"),
        padded("ECHO-FACTS!"),
        padded("echo-facts?"),
        padded(" ECHO-FACTS?"),
        padded("ECHO-FACTS ?"),
        padded(r#"{"echo_facts":1,"need":158}"#),
    ] {
        assert_eq!(exchange(&client, &datagram), datagram);
    }
}

#[test]
fn a_server_without_facts_echoes_questions() {
    let protocols = [Protocol::Udp, Protocol::Tcp];
    for facts in [&[][..], &[Protocol::Tcp]] {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = protocols.iter().fold(Config::new(), |all, each| all.listen(*each, local));
        let config = config.facts(facts.iter().copied());
        let server = blocking::TestServer::with(config).unwrap();
        let client = connect(server.addr(Protocol::Udp));
        for size in [11, SHORTEST_REPLY, 400] {
            assert_eq!(exchange(&client, &question(size)), question(size));
        }
    }
}

/// The server shares its thread with the test, so it finds all datagrams when it is polled.
#[tokio::test]
async fn questions_among_other_datagrams_of_a_batch_are_answered_in_their_places() {
    let server = TestServer::with(config("127.0.0.1:0")).await;
    let client = connect(server.address);
    let datagrams: Vec<Vec<u8>> = (0..90_usize)
        .map(|number| match number % 6 {
            0 => question(400),
            1 => question(SHORTEST_REPLY),
            2 => question(11),
            3 => Vec::new(),
            // Each with its own number, so that an exchange of two would be seen.
            _ => format!("plain, number {number}").into_bytes(),
        })
        .collect();
    for datagram in &datagrams {
        client.send(datagram).unwrap();
    }
    client.set_nonblocking(true).unwrap();
    let client = tokio::net::UdpSocket::from_std(client).unwrap();
    let mut buffer = [0; 500];
    for (number, datagram) in datagrams.iter().enumerate() {
        let length = client.recv(&mut buffer).await.unwrap();
        let reply = &buffer[..length];
        match number % 6 {
            0 => assert_eq!(facts(reply)["local"], server.address.to_string()),
            1 => assert!(facts(reply)["need"].as_u64() > Some(100)),
            _ => assert_eq!(reply, datagram, "number {number}"),
        }
    }
}

/// Sends `datagrams` as one train: all have the size of the first, and the last may be shorter.
fn send_train(client: &UdpSocket, datagrams: &[Vec<u8>]) {
    let size = datagrams[0].len() as u16;
    let slices: Vec<_> = datagrams.iter().map(|each| IoSlice::new(each)).collect();
    let control = [ControlMessage::UdpGsoSegments(&size)];
    sendmsg::<SockaddrStorage>(client.as_raw_fd(), &slices, &control, MsgFlags::empty(), None)
        .unwrap();
}

#[test]
fn each_datagram_of_a_train_is_a_question_of_its_own() {
    // One of its sockets was bound by somebody who wanted trains.
    let inherited = UdpSocket::bind("127.0.0.1:0").unwrap();
    setsockopt(&inherited, sockopt::UdpGroSegment, &true).unwrap();
    let descriptors = Inherited::new([("echo".to_owned(), Ok(inherited.into()))]);
    let config = config("127.0.0.1:0")
        .listen(Protocol::Udp, ListenAddress::Inherited { name: None })
        .inherited(descriptors);
    let server = blocking::TestServer::with(config).unwrap();
    let plain = |number: u8| vec![number; 200];
    let train: Vec<_> = (0..20)
        .map(|number| if number % 5 == 0 { question(200) } else { plain(number) })
        .chain([question(SHORTEST_REPLY)])
        .collect();
    for address in server.local_addrs() {
        let address = address.address.ip().unwrap();
        let client = connect(address);
        send_train(&client, &train);
        for number in 0..20 {
            let reply = receive(&client);
            if number % 5 == 0 {
                assert_eq!(facts(&reply)["local"], address.to_string());
            } else {
                assert_eq!(reply, plain(number));
            }
        }
        assert!(facts(&receive(&client))["need"].is_u64());
        // A train without a question.
        let train: Vec<_> = (0..20).map(plain).chain([vec![1; 10]]).collect();
        send_train(&client, &train);
        for datagram in train {
            assert_eq!(receive(&client), datagram);
        }
    }
}

#[test]
fn the_marks_of_the_ip_header_arrive() {
    let server = server("[::]:0");
    let port = server.addr(Protocol::Udp).port();
    for host in ["127.0.0.1", "::1"] {
        let client = connect(SocketAddr::new(host.parse().unwrap(), port));
        for (tos, ttl, dscp, ecn) in [
            // Expedited Forwarding with ECT(1), Class Selector 1 with ECT(0), and CE.
            (0xb9, 1, 46, "ECT(1)"),
            (0x22, 64, 8, "ECT(0)"),
            (0x03, 128, 0, "CE"),
            (0x00, 255, 0, "Not-ECT"),
            (0xff, 200, 63, "CE"),
        ] {
            if host == "::1" {
                setsockopt(&client, sockopt::Ipv6TClass, &tos).unwrap();
                setsockopt(&client, sockopt::Ipv6Ttl, &ttl).unwrap();
            } else {
                setsockopt(&client, sockopt::Ipv4Tos, &tos).unwrap();
                setsockopt(&client, sockopt::Ipv4Ttl, &ttl).unwrap();
            }
            let facts = ask(&client);
            assert_eq!(facts["ip"], json!({ "ttl": ttl, "dscp": dscp, "ecn": ecn }), "{host}");
        }
    }
}

#[test]
fn the_facts_have_the_marks_of_their_question_as_an_echo_has() {
    let server = server("127.0.0.1:0");
    let client = connect(server.addr(Protocol::Udp));
    setsockopt(&client, sockopt::IpRecvTos, &true).unwrap();
    setsockopt(&client, sockopt::Ipv4Tos, &0xb9).unwrap();
    client.send(&question(400)).unwrap();
    let mut buffer = [0; 500];
    let mut slices = [std::io::IoSliceMut::new(&mut buffer)];
    let mut space = nix::cmsg_space!(u8);
    let flags = MsgFlags::empty();
    let reply =
        recvmsg::<SockaddrStorage>(client.as_raw_fd(), &mut slices, Some(&mut space), flags);
    let marks: Vec<_> = reply.unwrap().cmsgs().unwrap().collect();
    assert_eq!(marks, [ControlMessageOwned::Ipv4Tos(0xb9)]);
}

#[tokio::test]
async fn questions_are_within_the_rate_limit() {
    let config = config("127.0.0.1:0").udp(|udp| {
        udp.rate_limit = Some(1);
        udp.rate_limit_loopback = true;
    });
    let server = TestServer::with(config).await;
    let client = connect(server.address);
    for _ in 0..64 {
        client.send(&question(400)).unwrap();
    }
    client.set_nonblocking(true).unwrap();
    let client = tokio::net::UdpSocket::from_std(client).unwrap();
    let mut buffer = [0; 500];
    // A burst has two.
    for _ in 0..2 {
        let length = client.recv(&mut buffer).await.unwrap();
        assert_eq!(facts(&buffer[..length])["protocol"], "udp");
    }
    server.stop().await;
    let mut more = 0;
    while client.try_recv(&mut buffer).is_ok() {
        more += 1;
    }
    // One more for each second that this takes.
    assert!(more < 10, "{more}");
}

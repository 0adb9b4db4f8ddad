//! PROXY headers byte by byte, good and bad: what is no header ends the connection with a line in the
//! log that says why, what comes behind a header is echoed in full, and a header that announces nobody
//! leaves the connection its real addresses.

mod common;

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use common::binary::{Running, command};
use common::cert;
use common::client::{Client, noise};
use common::http::{Metrics, admin, wait_for};
use common::log::Log;
use common::schema::Schema;
use echo_server::Protocol;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

const STREAMS: [Protocol; 4] = [Protocol::Tcp, Protocol::Tls, Protocol::Ws, Protocol::Wss];

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2, and a command.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// TCP over IPv4, and over IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// The client that the headers below announce, and what it is said to have connected to.
const CLIENT: &str = "203.0.113.7:61000";
const ADDRESSES: [u8; 12] = [203, 0, 113, 7, 198, 51, 100, 9, 0xEE, 0x48, 0x01, 0xBB];

const LINE: &[u8] = b"PROXY TCP4 203.0.113.7 198.51.100.9 61000 443\r\n";

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A header of version 2.
fn header(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family][..], &length, block].concat()
}

/// A header of version 2 that announces [`CLIENT`].
fn announcement() -> Vec<u8> {
    header(PROXY, TCP4, &ADDRESSES)
}

/// A server with the test certificate, whose log is JSON.
fn start(args: &[&str]) -> Running {
    let (pem, key) = (cert("server.pem"), cert("server.key"));
    let (pem, key) = (pem.to_str().unwrap(), key.to_str().unwrap());
    Running::start(&[&["--cert", pem, "--key", key, "--log-format", "json"], args].concat())
}

/// A server that expects PROXY headers at all of its streams.
fn start_all(more: &[&str]) -> Running {
    let all = ["--tcp=0", "--tls=0", "--ws=0", "--wss=0", "--proxy-protocol=all"];
    start(&[&all, more].concat())
}

fn connect(server: &Running, protocol: &str) -> TcpStream {
    let client = TcpStream::connect(server.address(protocol)).unwrap();
    // With a timeout, so that a bug is a failure and not a hang.
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    client.set_nodelay(true).unwrap();
    client
}

/// The connection's end. Nothing may come before it.
#[track_caller]
fn assert_closed(client: &mut TcpStream, what: &str) {
    match client.read(&mut [0; 256]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("{what}: not closed, but {other:?}"),
    }
}

fn read_line(client: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).expect("a line");
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// The facts with which a stream begins.
fn facts(client: &mut TcpStream) -> Value {
    Schema::of_facts().facts(&read_line(client))
}

/// Echoes 300 kB.
fn echo(client: &mut TcpStream) {
    let payload = noise(300_000);
    let mut writing = client.try_clone().unwrap();
    let mut echoed = vec![0; payload.len()];
    std::thread::scope(|scope| {
        scope.spawn(|| writing.write_all(&payload).unwrap());
        client.read_exact(&mut echoed).unwrap();
    });
    assert!(echoed == payload);
}

/// Whether a client that is announced is served, as soon as there is a place for it.
fn is_served(server: &Running) {
    loop {
        let mut client = connect(server, "tcp");
        let sent = client.write_all(&[LINE, b"x"].concat());
        if sent.is_ok() && matches!(client.read(&mut [0]), Ok(1)) {
            return;
        }
    }
}

/// What is no header, each with what the log says of it.
fn bad() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let bad_checksum = [&ADDRESSES[..], &[0x03, 0, 4, 1, 2, 3, 4]].concat();
    let mut too_long = header(PROXY, TCP4, &[]);
    too_long[14..].copy_from_slice(&[0xFF, 0xFF]);
    // 108 bytes with its CRLF.
    let line = [b"PROXY UNKNOWN ", &[b'f'; 92][..], b"\r\n"].concat();
    assert_eq!(line.len(), 108);
    vec![
        ("plain bytes", b"hello\n".to_vec(), "byte 1 is 0x68"),
        ("an HTTP request", UPGRADE.to_vec(), "byte 1 is 0x47"),
        ("a request of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), "byte 3 is 0x49"),
        ("a ClientHello", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03".to_vec(), "byte 1 is 0x16"),
        ("a header behind a byte", [b"\n", LINE].concat(), "byte 1 is 0x0a"),
        ("a line that is too long", line, "longer than 107 bytes"),
        ("an unknown family", b"PROXY UDP4 1.2.3.4 1.2.3.4 5 6\r\n".to_vec(), "TCP4"),
        ("a port too high", b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 6\r\n".to_vec(), "source port"),
        ("a line without CR", b"PROXY TCP4 1.2.3.4 1.2.3.4 5 6\n".to_vec(), "CRLF"),
        ("version 1 in binary", header(0x11, TCP4, &ADDRESSES), "version 1"),
        ("version 3", header(0x31, TCP4, &ADDRESSES), "version 3"),
        ("an unknown command", header(0x22, TCP4, &ADDRESSES), "command is 0x2"),
        ("a block of 65,535 bytes", too_long, "65535"),
        ("half an address", header(PROXY, TCP4, &ADDRESSES[..6]), "addresses"),
        ("a bad checksum", header(PROXY, TCP4, &bad_checksum), "checksum"),
        ("half a TLV", header(PROXY, TCP4, &[&ADDRESSES[..], &[1, 0, 9]].concat()), "TLV"),
    ]
}

/// Headers that are cut off by the end of the stream.
fn cut() -> Vec<Vec<u8>> {
    vec![
        b"P".to_vec(),
        b"PROXY ".to_vec(),
        LINE[..LINE.len() - 1].to_vec(),
        b"\r".to_vec(),
        SIGNATURE.to_vec(),
        announcement()[..27].to_vec(),
    ]
}

#[test]
fn what_is_no_header_is_refused_with_a_reason() {
    let server = start_all(&["--facts=all", "--max-connections=1000"]);
    let mut refused = Vec::new();
    for protocol in STREAMS {
        for (what, bytes, reason) in bad() {
            let mut client = connect(&server, protocol.name());
            client.write_all(&bytes).unwrap();
            assert_closed(&mut client, what);
            refused.push((what, client.local_addr().unwrap(), reason, protocol));
        }
        for bytes in cut() {
            let mut client = connect(&server, protocol.name());
            client.write_all(&bytes).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_closed(&mut client, "a header that is cut off");
            let address = client.local_addr().unwrap();
            refused.push(("a header that is cut off", address, "the stream ended", protocol));
        }
        let mut client = connect(&server, protocol.name());
        client.shutdown(Shutdown::Write).unwrap();
        assert_closed(&mut client, "nothing at all");
        let address = client.local_addr().unwrap();
        refused.push(("nothing at all", address, "sent nothing", protocol));
        is_served(&server);
    }
    let log = Log::of(server);
    for (what, address, reason, protocol) in refused {
        let line = log.closing(protocol, address);
        let said = line["reason"].as_str().unwrap();
        assert!(
            said.starts_with("PROXY header refused: ") && said.contains(reason),
            "{what}: {line}"
        );
        assert_eq!(
            (&line["level"], &line["received"], &line["sent"]),
            (&json!("INFO"), &json!(0), &json!(0))
        );
        assert!(log.all(&format!("New connection from: {address}")).is_empty(), "{what}: {log}");
    }
    assert!(log.beginning("Refused connections").is_empty(), "{log}");
    let client = log.beginning(&format!("New connection from: {CLIENT}"));
    assert_eq!(client.len(), STREAMS.len(), "{log}");
}

#[test]
fn who_connects_and_goes_away_leaves_one_line() {
    let server = start_all(&[]);
    let address = connect(&server, "tcp").local_addr().unwrap();
    // Its end comes as a reset.
    let client = socket2::Socket::from(connect(&server, "tcp"));
    let reset = client.local_addr().unwrap().as_socket().unwrap();
    client.set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    is_served(&server);
    let log = Log::of(server);
    let line = log.one(&format!("Connection closed: {address}"));
    assert_eq!(line["reason"], "PROXY header refused: the client sent nothing");
    // What the kernel forgets before the server accepts it leaves none.
    assert!(log.all(&format!("Connection closed: {reset}")).len() <= 1, "{log}");
}

#[test]
fn a_header_that_announces_nobody_leaves_the_real_address() {
    let server = start(&["--tcp=0", "--proxy-protocol=tcp", "--facts=tcp"]);
    let unknown = String::from_utf8_lossy(LINE).replace("TCP4", "UNKNOWN");
    let mut seen = Vec::new();
    for (what, header, version, command) in [
        // A forged address counts for nothing.
        ("LOCAL", header(LOCAL, TCP4, &ADDRESSES), 2, "local"),
        ("LOCAL, bare", header(LOCAL, 0, &[]), 2, "local"),
        ("LOCAL, of a family that is none", header(LOCAL, 0x7F, &ADDRESSES), 2, "local"),
        ("UNSPEC", header(PROXY, 0, &[]), 2, "proxy"),
        ("UNSPEC with addresses", header(PROXY, 0, &ADDRESSES), 2, "proxy"),
        ("UNKNOWN", b"PROXY UNKNOWN\r\n".to_vec(), 1, "proxy"),
        ("UNKNOWN with addresses", unknown.into_bytes(), 1, "proxy"),
    ] {
        let mut client = connect(&server, "tcp");
        client.write_all(&header).unwrap();
        let facts = facts(&mut client);
        let address = client.local_addr().unwrap().to_string();
        assert_eq!(facts["peer"], address, "{what}: {facts}");
        let proxy = &facts["proxy"];
        assert_eq!(proxy["from"], address, "{what}: {facts}");
        assert_eq!((&proxy["version"], &proxy["command"]), (&json!(version), &json!(command)));
        assert_eq!(proxy["transport"], "unspec", "{what}: {facts}");
        assert_eq!(proxy["source"], Value::Null, "{what}: {facts}");
        echo(&mut client);
        seen.push(address);
    }
    let log = Log::of(server);
    for address in seen {
        for what in ["New connection from", "Connection closed"] {
            let line = log.one(&format!("{what}: {address}"));
            assert_eq!((&line["peer"], &line["proxy"]), (&json!(address), &json!(address)));
        }
    }
    assert!(!log.to_string().contains("203.0.113.7"), "{log}");
}

#[test]
fn an_ipv6_client_is_announced() {
    let server = start(&["--tcp=0", "--proxy-protocol=tcp", "--facts=tcp"]);
    let local = "2001:db8::9".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let ports = [0xEE, 0x48, 0x01, 0xBB];
    let block = |ip: &str| {
        let ip = ip.parse::<std::net::Ipv6Addr>().unwrap().octets();
        [&ip[..], &local, &ports].concat()
    };
    let line = b"PROXY TCP6 2001:db8::7 2001:db8::9 61000 443\r\n".to_vec();
    for (header, peer) in [
        (line, "[2001:db8::7]:61000"),
        (header(PROXY, TCP6, &block("2001:db8::7")), "[2001:db8::7]:61000"),
        // It is one client, whichever family its proxy listens with.
        (header(PROXY, TCP6, &block("::ffff:203.0.113.7")), CLIENT),
    ] {
        let mut client = connect(&server, "tcp");
        client.write_all(&header).unwrap();
        let facts = facts(&mut client);
        assert_eq!(facts["peer"], peer, "{facts}");
        assert_eq!(facts["proxy"]["transport"], "tcp6", "{facts}");
        echo(&mut client);
    }
}

/// A stream whose first write is in one segment with a header in front of it.
struct Headed<S> {
    io: S,
    header: Vec<u8>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Headed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Headed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.header.is_empty() {
            return Pin::new(&mut self.io).poll_write(cx, bytes);
        }
        let bytes = &bytes[..bytes.len().min(16 * 1024)];
        let both = [&self.header, bytes].concat();
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, &both))?;
        assert_eq!(written, both.len(), "an empty send buffer takes it");
        self.header.clear();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

async fn connect_async(address: SocketAddr) -> tokio::net::TcpStream {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Checks the lines about the connections that announced [`CLIENT`].
fn check_log(server: Running, connections: usize) {
    let log = Log::of(server);
    for words in ["New connection from", "PROXY header for", "Connection closed"] {
        let lines = log.all(&format!("{words}: {CLIENT}"));
        assert_eq!(lines.len(), connections, "{words}: {log}");
        for line in lines {
            assert_eq!(line["level"], "INFO", "{line}");
        }
    }
}

#[tokio::test]
async fn what_comes_in_one_segment_with_the_header_is_kept() {
    // The first segment has all of the first message over TCP, the ClientHello over TLS, and the
    // request for the upgrade over WebSocket.
    let server = start_all(&[]);
    for protocol in STREAMS {
        for header in [LINE.to_vec(), announcement()] {
            let io = connect_async(server.address(protocol.name())).await;
            let mut client = Client::over(protocol, Headed { io, header }).await;
            for length in [1000, 300_000] {
                let payload = noise(length);
                assert!(client.echo(&payload).await == payload, "{protocol}");
            }
            client.close().await;
        }
    }
    check_log(server, 2 * STREAMS.len());
}

#[test]
fn messages_in_one_segment_with_the_header_are_echoed_behind_the_facts() {
    let server = start_all(&["--facts=all"]);
    for header in [LINE.to_vec(), announcement()] {
        let mut tcp = connect(&server, "tcp");
        tcp.write_all(&[&header[..], b"early, and "].concat()).unwrap();
        let said = facts(&mut tcp);
        assert_eq!((&said["peer"], &said["protocol"]), (&json!(CLIENT), &json!("tcp")), "{said}");
        tcp.write_all(b"late").unwrap();
        tcp.shutdown(Shutdown::Write).unwrap();
        let mut echo = String::new();
        tcp.read_to_string(&mut echo).unwrap();
        assert_eq!(echo, "early, and late");

        let mut ws = connect(&server, "ws");
        let frames = b"\x82\x85\0\0\0\0early\x88\x80\0\0\0\0";
        ws.write_all(&[&header[..], UPGRADE, frames].concat()).unwrap();
        while read_line(&mut ws) != "\r\n" {}
        let mut rest = Vec::new();
        ws.read_to_end(&mut rest).unwrap();
        // A text frame, whose length has 16 bits.
        let [0x81, 126, high, low, ref messages @ ..] = rest[..] else { panic!("{rest:?}") };
        let (text, echo) = messages.split_at(usize::from(u16::from_be_bytes([high, low])));
        let said = Schema::of_facts().facts(std::str::from_utf8(text).unwrap());
        assert_eq!((&said["peer"], &said["protocol"]), (&json!(CLIENT), &json!("ws")), "{said}");
        assert_eq!(echo, b"\x82\x05early\x88\x00");
    }
    check_log(server, 4);
}

#[tokio::test]
async fn a_header_may_come_byte_by_byte() {
    let server = start_all(&["--facts=all"]);
    let tlvs = [&ADDRESSES[..], &[0x02, 0, 4], b"a.tm", &[0xE5, 0, 1, 7]].concat();
    let long = header(PROXY, TCP4, &tlvs);
    for protocol in STREAMS {
        for (header, version) in [(LINE, 1), (&announcement(), 2), (&long, 2)] {
            let mut stream = connect_async(server.address(protocol.name())).await;
            for byte in header {
                stream.write_all(&[*byte]).await.unwrap();
            }
            let mut client = Client::over(protocol, stream).await;
            let facts = client.facts().await;
            assert_eq!(facts["peer"], CLIENT, "{facts}");
            assert_eq!(facts["proxy"]["version"], version, "{facts}");
            assert_eq!(facts["proxy"]["destination"], "198.51.100.9:443", "{facts}");
            if header.len() == long.len() {
                assert_eq!(facts["proxy"]["authority"], "a.tm", "{facts}");
                let others = json!([{ "type": "0xe5", "value": "07" }]);
                assert_eq!(facts["proxy"]["tlvs"], others, "{facts}");
            }
            let payload = noise(300_000);
            assert!(client.echo(&payload).await == payload, "{protocol}");
            client.close().await;
        }
    }
    check_log(server, 3 * STREAMS.len());
}

#[test]
fn a_header_that_does_not_come_frees_its_place_in_time() {
    let args = ["--handshake-timeout=100ms", "--max-connections=1", "--admin=0"];
    let server = start_all(&args);
    let mut ended = 0;
    for protocol in STREAMS {
        let timeouts = || {
            let label = format!("protocol=\"{protocol}\",reason=\"handshake_timeout\"");
            let metrics = Metrics::of(admin(&server));
            metrics.find(&format!("echo_connections_closed_total{{{label}}}")).unwrap_or(0.0)
        };
        for begun in [&b""[..], b"PROXY TCP4 203.0.113.7", &announcement()[..20]] {
            let before = timeouts();
            // The place of the one before is free a little after its end, and who has none is closed
            // at once.
            while timeouts() == before {
                let mut client = connect(&server, protocol.name());
                let _ = client.write_all(begun);
                assert_closed(&mut client, "no header comes");
            }
        }
        is_served(&server);
        ended += timeouts() as usize;
    }
    let log = Log::of(server);
    let closed = log.beginning("Connection closed: 127.0.0.1:");
    assert_eq!(closed.len(), ended, "{log}");
    assert!(closed.iter().all(|line| line["reason"] == "handshake timeout"), "{log}");
    assert_eq!(log.all(&format!("Connection closed: {CLIENT}")).len(), STREAMS.len(), "{log}");
}

#[test]
fn a_drain_does_not_wait_for_a_header() {
    let server = start_all(&["--admin=0", "--drain-timeout=1h", "--handshake-timeout=0"]);
    let mut clients = Vec::new();
    for protocol in STREAMS {
        for begun in [&b""[..], &LINE[..20]] {
            let mut client = connect(&server, protocol.name());
            client.write_all(begun).unwrap();
            clients.push((protocol, client));
        }
        wait_for(admin(&server), &format!("echo_connections{{protocol=\"{protocol}\"}}"), 2.0);
    }
    server.signal(Signal::TERM);
    for (_, client) in &mut clients {
        assert_closed(client, "the server drains");
    }
    let (status, log) = server.wait();
    assert!(status.success(), "{log}");
    let log = Log::parse(&log);
    for (protocol, client) in clients {
        let line = log.closing(protocol, client.local_addr().unwrap());
        assert_eq!(line["reason"], "the server is shutting down", "{line}");
    }
}

#[test]
fn an_address_that_is_not_listed_may_not_announce() {
    let server = start_all(&["--proxy-from=10.0.0.0/8,192.0.2.1,2001:db8::/32"]);
    let mut refused = Vec::new();
    for protocol in STREAMS {
        // Whether it sends a header makes no difference.
        for bytes in [LINE, &header(LOCAL, 0, &[]), b""] {
            let mut client = connect(&server, protocol.name());
            let _ = client.write_all(bytes);
            assert_closed(&mut client, "not listed");
            refused.push((protocol, client.local_addr().unwrap()));
        }
    }
    let log = Log::of(server);
    for (protocol, address) in refused {
        let line = log.closing(protocol, address);
        let reason = line["reason"].as_str().unwrap();
        assert!(reason.starts_with("PROXY header refused: "), "{line}");
        assert!(reason.contains("--proxy-from"), "{line}");
    }
    assert!(log.beginning("New connection from").is_empty(), "{log}");
}

#[test]
fn who_is_listed_may_announce_on_every_address() {
    let server = start(&["--tcp=0.0.0.0:0", "--proxy-protocol=tcp", "--proxy-from=127.0.0.0/8"]);
    let address = SocketAddr::from(([127, 0, 0, 1], server.address("tcp").port()));
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(LINE).unwrap();
    echo(&mut client);
    drop(client);
    check_log(server, 1);
}

#[test]
fn a_port_that_expects_no_header_echoes_it() {
    let args = ["--tcp=0", "--ws=0", "--proxy-protocol=ws"];
    let server = start(&args);
    let mut client = connect(&server, "tcp");
    client.write_all(LINE).unwrap();
    let mut echoed = vec![0; LINE.len()];
    client.read_exact(&mut echoed).unwrap();
    assert_eq!(echoed, LINE);
    let address = client.local_addr().unwrap();
    drop(client);
    let log = Log::of(server);
    let line = log.one(&format!("New connection from: {address}"));
    assert_eq!(line["proxy"], Value::Null, "{line}");
}

#[test]
fn a_start_that_cannot_be_meant_is_refused_on_one_line() {
    for (args, parts) in [
        (&["--udp=0", "--proxy-protocol=udp"][..], &["--proxy-protocol", "udp"][..]),
        (&["--tcp=0", "--proxy-protocol=ws"], &["--proxy-protocol", "ws"]),
        (&["--tcp=0", "--proxy-protocol=tcp,wss"], &["--proxy-protocol", "wss"]),
        (&["--tcp=0", "--proxy-protocol=sctp"], &["--proxy-protocol", "sctp"]),
        (&["--udp=0", "--proxy-protocol=all"], &["--proxy-protocol", "UDP"]),
        (&["--tcp=0", "--proxy-from=10.0.0.0/8"], &["--proxy-from"]),
        (&["--tcp=0.0.0.0:0", "--proxy-protocol=tcp"], &["--proxy-from", "tcp on 0.0.0.0:"]),
        (&["--tcp=[::]:0", "--proxy-protocol=all"], &["--proxy-from", "tcp on [::]:"]),
        (
            &["--tcp=0", "--proxy-protocol=tcp", "--proxy-from=10.0.0.1/8"],
            &["--proxy-from", "10.0.0.1/8", "10.0.0.0/8"],
        ),
        (
            &["--tcp=0", "--proxy-protocol=tcp", "--proxy-from=localhost"],
            &["--proxy-from", "localhost"],
        ),
    ] {
        let said = refusal(args);
        for part in parts {
            assert!(said.contains(part), "{args:?}: '{part}' is not in: {said}");
        }
    }
}

/// What a start says that fails, which has to be one line.
fn refusal(args: &[&str]) -> String {
    let mut server = command()
        .args(args)
        .args(["--ready-file", "/dev/stdout"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A server that starts would not end by itself.
    let mut ready = String::new();
    io::BufReader::new(server.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    if !ready.is_empty() {
        server.kill().unwrap();
    }
    let output = server.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(ready, "", "{args:?} starts: {said}");
    assert!(!output.status.success(), "{args:?}: {said}");
    let errors: Vec<_> = said.lines().filter(|line| !line.contains(" INFO ")).collect();
    assert_eq!(errors.len(), 1, "{args:?}: {said}");
    errors[0].to_owned()
}

/// What the kernel has of a client when the drain begins, a header with something behind it, is
/// answered.
#[test]
fn a_drain_echoes_what_was_sent_behind_a_header() {
    let server = start(&["--tcp=0", "--proxy-protocol=tcp", "--threads=1"]);
    server.signal(Signal::STOP);
    let clients = (0..50).map(|_| {
        let mut client = connect(&server, "tcp");
        client.write_all(&[LINE, b"hello"].concat()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        client
    });
    let clients: Vec<_> = clients.collect();
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    for mut client in clients {
        let mut echo = String::new();
        client.read_to_string(&mut echo).unwrap();
        assert_eq!(echo, "hello");
    }
}

#[test]
fn an_ipv4_network_may_be_written_as_ipv6() {
    for networks in ["::ffff:127.0.0.1", "::ffff:127.0.0.0/104", "127.0.0.0/8"] {
        let from = format!("--proxy-from={networks}");
        let server = start(&["--tcp=[::]:0", "--proxy-protocol=tcp", &from]);
        let mut client = TcpStream::connect(("127.0.0.1", server.address("tcp").port())).unwrap();
        client.write_all(&[LINE, b"x"].concat()).unwrap();
        client.read_exact(&mut [0]).unwrap();
    }
}

/// An HTTP/2 stream is a connection of the client that was announced for the one that carries it.
#[test]
fn the_streams_of_a_connection_have_its_proxy() {
    let server = start(&["--ws=0", "--proxy-protocol=ws", "--facts=ws"]);
    let mut client = connect(&server, "ws");
    let proxy = client.local_addr().unwrap().to_string();
    // GET /facts of h (RFC 7541): END_STREAM and END_HEADERS.
    let block = b"\x82\x86\x04\x06/facts\x01\x01h";
    let length = u8::try_from(block.len()).unwrap();
    let headers = [&[0, 0, length, 1, 5, 0, 0, 0, 1], &block[..]].concat();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    client.write_all(&[LINE, preface, &headers].concat()).unwrap();
    server.wait_for_line("Connection closed");
    let log = Log::of(server);
    for line in log.all(&format!("New connection from: {CLIENT}")) {
        assert_eq!(line["proxy"], *proxy, "{line}");
    }
    let closed = log.all(&format!("Connection closed: {CLIENT}"));
    assert_eq!(closed.len(), 2, "{log}");
    assert!(closed.iter().all(|line| line["proxy"] == *proxy), "{log}");
}

/// A hint for HTTP on a TLS port does not depend on where the bytes behind a header are cut.
#[test]
fn http_at_a_tls_port_is_told_wherever_a_read_ends() {
    let server = start(&["--tls=0", "--proxy-protocol=tls"]);
    // A read takes 1,024 bytes.
    for length in 1010..=1024 {
        let padding = length - 16 - ADDRESSES.len() - 3;
        let noop = [&[0x04], &u16::try_from(padding).unwrap().to_be_bytes()[..], &vec![0; padding]];
        let header = header(PROXY, TCP4, &[&ADDRESSES[..], &noop.concat()].concat());
        assert_eq!(header.len(), length);
        let mut client = connect(&server, "tls");
        client.write_all(&[&header, &b"GET / HTTP/1.1\r\n\r\n"[..]].concat()).unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap();
        assert!(said.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{length}: {said}");
    }
}

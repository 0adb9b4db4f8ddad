//! The PROXY header that a probe sends first, byte for byte.

mod common;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::sync::mpsc;

use common::binary::command;
use common::{TestServer, cert};
use echo_server::Protocol;

/// Runs `echo-server probe`.
async fn run(args: &[&str]) -> Output {
    let mut command = command();
    command.arg("probe").args(args);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// The header of one connection, and who has connected.
#[derive(Debug, Clone)]
struct Seen {
    header: Vec<u8>,
    from: SocketAddr,
}

/// Reads a PROXY header, and nothing that follows it.
fn read_header(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut header = vec![0; 6];
    stream.read_exact(&mut header)?;
    if header == b"PROXY " {
        while !header.ends_with(b"\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            header.extend(byte);
        }
        return Ok(header);
    }
    header.resize(16, 0);
    stream.read_exact(&mut header[6..])?;
    assert_eq!(header[..12], *b"\r\n\r\n\0\r\nQUIT\n", "{header:x?}");
    let length = u16::from_be_bytes([header[14], header[15]]);
    let fixed = header.len();
    header.resize(fixed + usize::from(length), 0);
    stream.read_exact(&mut header[fixed..])?;
    Ok(header)
}

/// A proxy that takes the header off each connection, and relays what follows to `server`.
fn relay(server: SocketAddr) -> (SocketAddr, mpsc::Receiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, seen) = mpsc::channel();
    std::thread::spawn(move || {
        while let Ok((client, from)) = listener.accept() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let header = read_header(&mut &client).unwrap();
                // The test may have what it wants.
                let _ = sender.send(Seen { header, from });
                let server = TcpStream::connect(server).unwrap();
                let (mut to_client, mut from_server) =
                    (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = io::copy(&mut from_server, &mut to_client);
                    let _ = to_client.shutdown(Shutdown::Write);
                });
                let _ = io::copy(&mut &client, &mut &server);
                let _ = server.shutdown(Shutdown::Write);
            });
        }
    });
    (address, seen)
}

/// A header of version 2 with a right checksum behind `block`.
fn version_2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len() + 7).unwrap().to_be_bytes();
    let start = [0x20 | command, family, length[0], length[1]];
    let mut header = [b"\r\n\r\n\0\r\nQUIT\n", &start[..], block, &[3, 0, 4, 0, 0, 0, 0]].concat();
    let checksum = !header.iter().fold(!0_u32, |crc, byte| {
        let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
        (0..8).fold(crc ^ u32::from(*byte), step)
    });
    let end = header.len();
    header[end - 4..].copy_from_slice(&checksum.to_be_bytes());
    header
}

/// Two IPv4 addresses, and their ports.
fn ipv4_block(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let octets = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => v4.ip().octets(),
        SocketAddr::V6(_) => panic!("{address} is IPv6"),
    };
    let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    [&octets(source)[..], &octets(destination), &ports].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_header_announces_the_own_address_or_another() {
    let server = TestServer::start(Protocol::Tcp).await;
    let (address, seen) = relay(server.address);
    let port = address.port();
    let client: SocketAddr = "192.0.2.1:61000".parse().unwrap();
    let long = "x".repeat(128);
    let unique_id = format!("unique-id={long}");
    type Expected<'a> = &'a dyn Fn(SocketAddr) -> Vec<u8>;
    let cases: [(&[&str], Expected); 7] = [
        (&["--proxy-protocol", "1"], &|from| {
            format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {port}\r\n", from.port()).into()
        }),
        (&["--proxy-protocol", "1", "--proxy-client", "192.0.2.1:0"], &|_| {
            format!("PROXY TCP4 192.0.2.1 127.0.0.1 0 {port}\r\n").into()
        }),
        (&["--proxy-protocol", "1", "--proxy-client", "[2001:db8::1]:5"], &|_| {
            format!("PROXY TCP6 2001:db8::1 ::ffff:7f00:1 5 {port}\r\n").into()
        }),
        (&["--proxy-protocol", "2"], &|from| version_2(1, 0x11, &ipv4_block(from, address))),
        (&["--proxy-protocol", "local"], &|_| version_2(0, 0, b"")),
        (&["--proxy-protocol", "local", "--proxy-tlv", "0xE5=0A"], &|_| {
            version_2(0, 0, &[0xE5, 0, 1, 10])
        }),
        (
            &[
                "--proxy-protocol=2",
                "--proxy-client=192.0.2.1:61000",
                "--proxy-tlv=alpn=h2",
                "--proxy-tlv=authority=example.com",
                "--proxy-tlv",
                &unique_id,
                "--proxy-tlv=netns=blue",
                "--proxy-tlv=noop=2",
                "--proxy-tlv=0xE0=0102030405060708",
            ],
            &|_| {
                let tlvs = [
                    &b"\x01\0\x02h2"[..],
                    b"\x02\0\x0Bexample.com",
                    &[&b"\x05\0\x80"[..], long.as_bytes()].concat(),
                    b"\x30\0\x04blue",
                    b"\x04\0\x02\0\0",
                    b"\xE0\0\x08\x01\x02\x03\x04\x05\x06\x07\x08",
                ];
                version_2(1, 0x11, &[ipv4_block(client, address), tlvs.concat()].concat())
            },
        ),
    ];
    for (args, expected) in cases {
        let url = format!("tcp://{address}");
        let output = run(&[&[&*url, "-c", "1"], args].concat()).await;
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
        let Seen { header, from } = seen.try_recv().unwrap();
        assert_eq!(header, expected(from), "{args:?}: {}", header.escape_ascii());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_header_precedes_every_protocol_that_runs_over_a_stream() {
    for (protocol, more) in [
        (Protocol::Tcp, &[][..]),
        (Protocol::Tls, &[]),
        (Protocol::Ws, &[]),
        (Protocol::Wss, &[]),
        (Protocol::Wss, &["--alpn", "h2"]),
    ] {
        let server = TestServer::start(protocol).await;
        let (address, seen) = relay(server.address);
        let (url, ca) = (format!("{protocol}://{address}"), cert("ca.pem"));
        let mut args = vec![&*url, "-c", "3", "-i", "1ms", "--proxy-protocol", "2"];
        if protocol.is_over_tls() {
            args.extend(["--server-name", "localhost", "--ca", ca.to_str().unwrap()]);
        }
        args.extend(more);
        let output = run(&args).await;
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
        let Seen { header, from } = seen.try_recv().unwrap();
        assert_eq!(header, version_2(1, 0x11, &ipv4_block(from, address)), "{args:?}");
        assert!(seen.try_recv().is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_connection_begins_with_a_header_of_its_own() {
    let server = TestServer::start(Protocol::Tcp).await;
    for (args, count) in [
        (&["-c", "3", "-i", "1ms", "--connect-each"][..], 3),
        (&["-c", "40", "--connections", "4"], 4),
    ] {
        let (address, seen) = relay(server.address);
        let url = format!("tcp://{address}");
        let output = run(&[&[&*url, "--proxy-protocol", "1"], args].concat()).await;
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
        let seen: Vec<_> = seen.try_iter().collect();
        assert_eq!(seen.len(), count, "{args:?}");
        for Seen { header, from } in seen {
            let (from, to) = (from.port(), address.port());
            let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {to}\r\n");
            assert_eq!(header.escape_ascii().to_string(), expected.escape_default().to_string());
        }
    }
}

#[tokio::test]
async fn a_new_connection_in_place_of_a_failed_one_begins_with_a_header() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    let (sender, headers) = mpsc::channel();
    std::thread::spawn(move || {
        // The first connection has one message echoed, and fails then.
        for most in [1, usize::MAX] {
            let (client, _) = listener.accept().unwrap();
            sender.send(read_header(&mut &client).unwrap()).unwrap();
            for line in BufReader::new(&client).lines().take(most).map_while(Result::ok) {
                (&client).write_all(format!("{line}\n").as_bytes()).unwrap();
            }
        }
    });
    let args = ["--lines", "--reconnect", "-c", "5", "-i", "10ms", "--proxy-protocol", "local"];
    let output = run(&[&[&*url], &args[..]].concat()).await;
    // A message may have been lost with the first connection.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    let headers: Vec<_> = headers.try_iter().collect();
    assert_eq!(headers, [version_2(0, 0, b""), version_2(0, 0, b"")], "{output:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn over_a_unix_socket_the_client_is_unknown_unless_it_is_named() {
    use std::os::unix::net::UnixListener;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echo.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let service = std::thread::spawn(move || {
        std::iter::repeat_with(|| {
            let (client, _) = listener.accept().unwrap();
            let header = read_header(&mut &client).unwrap();
            let _ = io::copy(&mut &client, &mut &client);
            header
        })
        .take(4)
        .collect::<Vec<_>>()
    });
    let url = format!("tcp+unix://{}", path.display());
    let client = "192.0.2.1:61000";
    for args in [
        &["--proxy-protocol", "1"][..],
        &["--proxy-protocol", "1", "--proxy-client", client],
        &["--proxy-protocol", "2", "--proxy-tlv", "netns=a"],
        &["--proxy-protocol", "2", "--proxy-client", client],
    ] {
        let output = run(&[&[&*url, "-c", "1"], args].concat()).await;
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    }
    let named = ipv4_block(client.parse().unwrap(), ([0, 0, 0, 0], 0).into());
    let expected = [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 0.0.0.0 61000 0\r\n".to_vec(),
        version_2(1, 0, b"\x30\0\x01a"),
        version_2(1, 0x11, &named),
    ];
    assert_eq!(service.join().unwrap(), expected);
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_with_the_name_of_the_flag() {
    let long = format!("unique-id={}", "x".repeat(129));
    let huge = ["--proxy-tlv=noop=65535", "--proxy-tlv=noop=1"];
    for (args, said) in [
        (
            &["udp://127.0.0.1:1", "--proxy-protocol", "2"][..],
            "--proxy-protocol: a PROXY header stands in front of a stream of bytes, and UDP has none\n",
        ),
        (
            &["tcp://127.0.0.1:1", "--proxy-protocol", "local", "--proxy-client", "192.0.2.1:1"],
            "--proxy-client: LOCAL announces no client\n",
        ),
        (
            &["tcp://127.0.0.1:1", "--proxy-protocol", "1", "--proxy-tlv", "alpn=h2"],
            "--proxy-tlv: version 1 has no TLVs\n",
        ),
        (
            &["tcp://127.0.0.1:1", "--proxy-protocol", "2", "--proxy-tlv", "0x03=00000000"],
            "--proxy-tlv: 0x03 is the checksum, which is always sent\n",
        ),
        (
            &["tcp://127.0.0.1:1", "--proxy-protocol", "2", "--proxy-tlv", &long],
            "--proxy-tlv: a unique id has at most 128 bytes, and this one 129\n",
        ),
        (
            &["tcp://127.0.0.1:1", "--proxy-protocol", "2", huge[0], huge[1]],
            "--proxy-tlv: a header of version 2 has no room for 65585 bytes, but for 65535\n",
        ),
        (
            &["tcp://127.0.0.1:1", "--proxy-client", "192.0.2.1:1"],
            "--proxy-client needs --proxy-protocol 1|2|local; see 'echo-server probe --help'\n",
        ),
        (
            &["tcp://127.0.0.1:1", "--proxy-tlv", "alpn=h2"],
            "--proxy-tlv needs --proxy-protocol 1|2|local; see 'echo-server probe --help'\n",
        ),
        (
            &["tcp://127.0.0.1:1", "--proxy-protocol", "3"],
            "--proxy-protocol 3: expected 1, 2 or local; see 'echo-server probe --help'\n",
        ),
        (
            &["tcp://127.0.0.1:1", "--proxy-protocol", "1", "--proxy-client", "192.0.2.1"],
            "--proxy-client 192.0.2.1: expected IP:PORT, like 192.0.2.1:61000 or \
             [2001:db8::1]:61000; see 'echo-server probe --help'\n",
        ),
    ] {
        let output = run(args).await;
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(stderr, format!("echo-server: {said}"), "{args:?}");
    }
}

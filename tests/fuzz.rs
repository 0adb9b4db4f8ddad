//! Garbage for every listener's handshake: random bytes, and damaged ClientHellos and HTTP
//! requests.
//!
//! `cargo test --test fuzz` sends a few hundred. `cargo test --test fuzz -- --ignored` goes on for
//! a minute, and prints its seed. `ECHO_FUZZ_SEED` repeats a run.

mod common;
#[path = "../src/noise.rs"]
mod noise;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use common::binary::{Running, command};
use common::cert;
use noise::Noise;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

/// A real `ClientHello`.
fn client_hello() -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let mut hello = Vec::new();
    ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut hello).unwrap();
    hello
}

/// A real upgrade, with frames of all kinds behind it.
fn upgrade() -> Vec<u8> {
    let mut bytes =
        b"GET /chat?x=1 HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: a, b\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            .to_vec();
    bytes.extend([0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    bytes.extend([0x02, 0x81, 1, 2, 3, 4, 5]);
    bytes.extend([0x89, 0x82, 1, 2, 3, 4, 5, 6]);
    bytes.extend([0x80, 0xFE, 0, 126, 1, 2, 3, 4]);
    bytes.extend([9; 126]);
    bytes.extend([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8]);
    bytes
}

/// Some bytes to open a connection with.
fn opening(noise: &mut Noise, seeds: &[Vec<u8>]) -> Vec<u8> {
    if noise.below(4) == 0 {
        let length = noise.below(2000);
        return noise.bytes(length);
    }
    let mut bytes = seeds[noise.below(seeds.len())].clone();
    for _ in 0..noise.below(6) {
        let at = noise.below(bytes.len());
        match noise.below(6) {
            0 => bytes[at] = noise.next() as u8,
            1 => bytes[at] ^= 1 << noise.below(8),
            2 => bytes.truncate(at.max(1)),
            3 => drop(bytes.drain(at..(at + noise.below(20)).min(bytes.len()))),
            4 => {
                let length = noise.below(40);
                let inserted = noise.bytes(length);
                bytes.splice(at..at, inserted);
            }
            _ => bytes.extend_from_within(at..),
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
    bytes
}

/// One client: it sends `bytes` in pieces, and ends in one of the ways in which clients do.
fn visit(noise: &mut Noise, address: SocketAddr, bytes: &[u8]) {
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (now, later) = rest.split_at((1 + noise.below(rest.len())).min(rest.len()));
        // The server may have closed the connection.
        if client.write_all(now).is_err() {
            return;
        }
        rest = later;
    }
    match noise.below(3) {
        0 => {}
        1 => rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap(),
        _ => {
            // Whatever the server sends, it has to close.
            let _ = client.shutdown(Shutdown::Write);
            let mut answer = Vec::new();
            if let Err(error) = client.read_to_end(&mut answer) {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{bytes:?}");
            }
        }
    }
}

fn fuzz(seed: u64, mut goes_on: impl FnMut(usize) -> bool) {
    println!("ECHO_FUZZ_SEED={seed}");
    let server = Running::spawn(
        command()
            .args(["--tcp", "0", "--tls", "0", "--ws", "0", "--wss", "0", "--udp", "0"])
            .args(["--handshake-timeout", "5s", "--cert"])
            .arg(cert("server.pem"))
            .arg("--key")
            .arg(cert("server.key")),
    );
    let seeds = [client_hello(), upgrade()];
    let mut noise = Noise(seed | 1);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.connect(server.address("udp")).unwrap();
    udp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut buffer = vec![0; 65_536];
    let mut visits = 0;
    while goes_on(visits) {
        for protocol in ["tls", "ws", "wss", "tcp"] {
            let bytes = opening(&mut noise, &seeds);
            visit(&mut noise, server.address(protocol), &bytes);
        }
        let datagram = opening(&mut noise, &seeds);
        udp.send(&datagram).unwrap();
        let length = udp.recv(&mut buffer).unwrap();
        assert!(buffer[..length] == datagram);
        visits += 5;
    }
    println!("{visits} openings");
    let mut client = TcpStream::connect(server.address("tcp")).unwrap();
    client.write_all(b"still here").unwrap();
    let mut echo = [0; 10];
    client.read_exact(&mut echo).unwrap();
    drop(client);
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    assert!(log.contains("panicked=0") && !log.contains("A bug"), "{log}");
}

#[test]
fn garbage_takes_nothing_down() {
    fuzz(0x5EED, |visits| visits < 500);
}

#[test]
#[ignore = "takes a minute; CI runs it"]
fn garbage_for_a_minute() {
    let seed = std::env::var("ECHO_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    fuzz(seed.unwrap_or(now.as_nanos() as u64), |_| Instant::now() < end);
}

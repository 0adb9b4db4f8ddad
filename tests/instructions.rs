//! The number of user-space instructions of an echo, counted by valgrind. On a shared machine times
//! are noisy, and instruction counts are not. It needs a release build:
//! `cargo test --release --test instructions -- --ignored --nocapture`.

#![cfg(target_os = "linux")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;

use common::binary::{self, Running};
use common::{ca_certificates, cert, tools};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Echoes that are counted; those before them are not.
const ECHOES: u64 = 4000;
const WARM_UP: u64 = 500;

/// A protocol, the bytes of a message, and the most instructions for an echo of it, with one in
/// flight on one connection: up to a tenth more than was measured.
const BUDGETS: [(&str, usize, u64); 5] = [
    ("tcp", 64, 3540),
    ("ws", 64, 4100),
    ("udp", 64, 6000),
    ("tls", 64, 8000),
    ("tls", 16 * 1024, 162_000),
];

/// The most instructions that metrics may add to an echo.
const COUNTING: u64 = 10;

/// Two counts of the same differ by up to this much.
const NOISE: u64 = 50;

#[test]
#[ignore = "takes a release build"]
fn an_echo_keeps_to_its_budget() {
    if !tools::have(&["valgrind", "--version"], "valgrind") {
        return;
    }
    let mut is_kept = true;
    for (protocol, size, budget) in BUDGETS {
        let each = an_echo(protocol, size, &[]);
        println!("{protocol}, {size} bytes: {each} instructions an echo, of {budget}");
        is_kept &= each <= budget;
        // Those of UDP differ from run to run, by how many datagrams share a wake; those of TLS by a
        // hundred.
        if protocol == "udp" || protocol == "tls" {
            continue;
        }
        let counted = an_echo(protocol, size, &["--admin", "0"]);
        println!("{protocol}: {counted} with metrics, of {COUNTING} more");
        is_kept &= counted <= each + COUNTING + NOISE;
    }
    assert!(is_kept, "an echo takes more instructions than its budget");
}

/// How many instructions an echo takes.
fn an_echo(protocol: &str, size: usize, args: &[&str]) -> u64 {
    // A handshake differs from another by millions of instructions, so it takes more echoes to tell.
    let echoes = if protocol == "tls" && size < 1024 { 10 * ECHOES } else { ECHOES };
    let few = instructions(protocol, size, args, WARM_UP);
    let many = instructions(protocol, size, args, WARM_UP + echoes);
    (many - few) / echoes
}

/// How many instructions a server executes from its start to its end, with this many echoes.
fn instructions(protocol: &str, size: usize, args: &[&str], echoes: u64) -> u64 {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", binary::PATH]);
    // A second thread would add noise.
    valgrind.args(["-q", "--threads", "1", &format!("--{protocol}"), "0"]);
    if protocol == "tls" {
        valgrind.arg("--cert").arg(cert("server.pem")).arg("--key").arg(cert("server.key"));
    }
    let server = Running::spawn(valgrind.args(args));
    let address = server.address(protocol);
    match protocol {
        "udp" => over_udp(address, echoes),
        "ws" => over_websocket(address, echoes),
        "tls" => over_tls(address, size, echoes),
        _ => over_tcp(address, echoes),
    }
    let (_, log) = server.terminate();
    let (_, count) = log.split_once("Collected : ").expect("callgrind's summary");
    count.split_whitespace().next().unwrap().parse().unwrap()
}

fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    client.set_nodelay(true).unwrap();
    client
}

fn over_tcp(address: SocketAddr, echoes: u64) {
    exchange(connect(address), &[b'x'; 64], &[b'x'; 64], echoes);
}

fn over_tls(address: SocketAddr, size: usize, echoes: u64) {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(ca_certificates());
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let tls = ClientConnection::new(Arc::new(config), name).unwrap();
    let tcp = connect(address);
    let message = vec![b'x'; size];
    exchange(StreamOwned::new(tls, tcp), &message, &message, echoes);
}

fn over_websocket(address: SocketAddr, echoes: u64) {
    let mut client = connect(address);
    common::client::upgrade(&mut client);
    // A binary frame, with a masking key of zeros.
    let message = [&[0x82, 0x80 | 64, 0, 0, 0, 0][..], &[b'x'; 64]].concat();
    let echo = [&[0x82, 64][..], &[b'x'; 64]].concat();
    exchange(client, &message, &echo, echoes);
}

fn exchange(mut client: impl Read + Write, message: &[u8], echo: &[u8], echoes: u64) {
    let mut received = vec![0; echo.len()];
    for _ in 0..echoes {
        client.write_all(message).unwrap();
        client.read_exact(&mut received).unwrap();
        assert_eq!(received, echo);
    }
}

fn over_udp(address: SocketAddr, echoes: u64) {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(address).unwrap();
    let mut echo = [0; 65];
    for _ in 0..echoes {
        client.send(&[b'x'; 64]).unwrap();
        assert_eq!(client.recv(&mut echo).unwrap(), 64);
    }
}

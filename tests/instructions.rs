//! The number of user-space instructions of an echo, counted by valgrind. On a shared machine times
//! are noisy, and instruction counts are not. It needs a release build:
//! `cargo test --release --test instructions -- --ignored --nocapture`.

#![cfg(target_os = "linux")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Command;

use common::binary::{self, Running};
use common::tools;

/// Echoes that are counted; those before them are not.
const ECHOES: u64 = 4000;
const WARM_UP: u64 = 500;

/// A protocol, and the most instructions for an echo of 64 bytes, with one in flight on one
/// connection: a tenth more than was measured.
const BUDGETS: [(&str, u64); 3] = [("tcp", 3540), ("ws", 4100), ("udp", 6000)];

/// The most instructions that metrics may add to an echo.
const COUNTING: u64 = 10;

#[test]
#[ignore = "takes a release build"]
fn an_echo_keeps_to_its_budget() {
    if !tools::have(&["valgrind", "--version"], "valgrind") {
        return;
    }
    for (protocol, budget) in BUDGETS {
        let each = an_echo(protocol, &[]);
        println!("{protocol}: {each} instructions an echo, of {budget}");
        assert!(each <= budget, "{protocol}: {each} instructions an echo, of {budget}");
        // Those of UDP differ from run to run, by how many datagrams share a wake.
        if protocol == "udp" {
            continue;
        }
        let counted = an_echo(protocol, &["--admin", "0"]);
        println!("{protocol}: {counted} with metrics, of {COUNTING} more");
        assert!(counted <= each + COUNTING, "{protocol}: {counted} with metrics, {each} without");
    }
}

/// How many instructions an echo takes.
fn an_echo(protocol: &str, args: &[&str]) -> u64 {
    let few = instructions(protocol, args, WARM_UP);
    let many = instructions(protocol, args, WARM_UP + ECHOES);
    (many - few) / ECHOES
}

/// How many instructions a server executes from its start to its end, with this many echoes.
fn instructions(protocol: &str, args: &[&str], echoes: u64) -> u64 {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", binary::PATH]);
    // A second thread would add noise.
    valgrind.args(["-q", "--threads", "1", &format!("--{protocol}"), "0"]);
    let server = Running::spawn(valgrind.args(args));
    let address = server.address(protocol);
    match protocol {
        "udp" => over_udp(address, echoes),
        "ws" => over_websocket(address, echoes),
        _ => over_tcp(address, echoes),
    }
    let (_, log) = server.terminate();
    let (_, count) = log.split_once("Collected : ").expect("callgrind's summary");
    count.split_whitespace().next().unwrap().parse().unwrap()
}

fn over_tcp(address: SocketAddr, echoes: u64) {
    exchange(TcpStream::connect(address).unwrap(), &[b'x'; 64], &[b'x'; 64], echoes);
}

fn over_websocket(address: SocketAddr, echoes: u64) {
    let mut client = TcpStream::connect(address).unwrap();
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    // A binary frame, with a masking key of zeros.
    let message = [&[0x82, 0x80 | 64, 0, 0, 0, 0][..], &[b'x'; 64]].concat();
    let echo = [&[0x82, 64][..], &[b'x'; 64]].concat();
    exchange(client, &message, &echo, echoes);
}

fn exchange(mut client: TcpStream, message: &[u8], echo: &[u8], echoes: u64) {
    client.set_nodelay(true).unwrap();
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

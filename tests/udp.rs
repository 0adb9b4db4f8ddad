//! What only UDP has, and its real client, `nc -u`.

mod common;

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::binary::Running;
use common::{TestServer, tools};
use echo_server::Protocol;
use tokio::net::UdpSocket;

async fn connect(server: &TestServer) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.address).await.unwrap();
    socket
}

#[tokio::test]
async fn every_size_is_one_datagram_each_way() {
    let server = TestServer::start(Protocol::Udp).await;
    let client = connect(&server).await;
    let mut buffer = vec![0; 65_536];
    for size in [0, 1, 2, 511, 512, 1024, 1472, 1473, 2048, 9000, 32_768, 65_506, 65_507] {
        let payload: Vec<u8> = (0..size).map(|i: usize| (i * 31) as u8).collect();
        client.send(&payload).await.unwrap();
        let length = client.recv(&mut buffer).await.unwrap();
        assert!(buffer[..length] == payload, "{size} bytes came back as {length}");
    }
}

#[tokio::test]
async fn interleaved_clients_get_their_own() {
    let server = TestServer::start(Protocol::Udp).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(connect(&server).await);
    }
    for (number, client) in clients.iter().enumerate() {
        client.send(format!("client {number}").as_bytes()).await.unwrap();
    }
    for (number, client) in clients.iter().enumerate() {
        let mut buffer = [0; 64];
        let length = client.recv(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], format!("client {number}").as_bytes());
    }
}

#[tokio::test]
async fn a_client_that_is_gone_does_not_disturb_the_others() {
    let server = TestServer::start(Protocol::Udp).await;
    let bystander = connect(&server).await;
    for _ in 0..20 {
        // The echo reaches a closed port, and the kernel may report ECONNREFUSED.
        connect(&server).await.send(b"and gone").await.unwrap();
    }
    bystander.send(b"still here").await.unwrap();
    let mut buffer = [0; 64];
    let length = bystander.recv(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..length], b"still here");
}

#[test]
fn nc_gets_its_echo() {
    if !tools::have_nc() {
        return;
    }
    let server = Running::start(&["--udp", "0"]);
    let port = server.address("udp").port().to_string();
    let mut nc = Command::new("nc")
        .args(["-u", "127.0.0.1", &port])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    nc.stdin.as_mut().unwrap().write_all(b"hi\n").unwrap();
    let mut echo = [0; 3];
    nc.stdout.as_mut().unwrap().read_exact(&mut echo).unwrap();
    nc.kill().unwrap();
    nc.wait().unwrap();
    assert_eq!(&echo, b"hi\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_datagrams_of_fifty_clients_come_back_to_their_senders() {
    const CLIENTS: usize = 50;
    const EACH: usize = 2000;
    let server = Running::start(&["--udp", "0"]);
    let address = server.address("udp");
    let client = |number: usize| async move {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(address).await.unwrap();
        // Each client has another sequence of sizes, most of them small.
        let mut random = number as u64 + 1;
        let mut buffer = vec![0; 65_536];
        let mut lost = 0;
        for i in 0..EACH {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(number as u64 | 1);
            let most = if i % 100 == 0 { 65_508 } else { 2000 };
            let size = (random >> 33) as usize % most;
            let payload: Vec<u8> = (0..size).map(|j| (i + j * 31 + number) as u8).collect();
            socket.send(&payload).await.unwrap();
            let echo = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut buffer));
            match echo.await {
                Ok(length) => assert!(buffer[..length.unwrap()] == payload, "client {number}"),
                Err(_) => lost += 1,
            }
        }
        lost
    };
    let clients: Vec<_> = (0..CLIENTS).map(|number| tokio::spawn(client(number))).collect();
    let mut lost = 0;
    for client in clients {
        lost += client.await.unwrap();
    }
    let (_, log) = tokio::task::spawn_blocking(|| server.terminate()).await.unwrap();
    let line = log.lines().find(|line| line.contains("Socket closed")).expect("a closing line");
    let field = |name: &str| -> usize {
        let (_, rest) = line.split_once(&format!(" {name}=")).expect("the field");
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(lost, field("dropped"), "{log}");
    assert_eq!(field("messages") + lost, CLIENTS * EACH, "{log}");
    assert_eq!(field("sent"), field("received"), "{log}");
}

#[test]
fn a_rate_limit_is_applied_and_logged() {
    let server = Running::start(&["--udp", "0", "--udp-rate-limit", "10"]);
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(server.address("udp")).unwrap();
    for _ in 0..1000 {
        client.send(b"x").unwrap();
    }
    for _ in 0..20 {
        client.recv(&mut [0; 1]).unwrap();
    }
    let (_, log) = server.terminate();
    let line = log.lines().find(|line| line.contains("Socket closed")).expect("a closing line");
    let unanswered = log.lines().find(|line| line.contains("Datagrams not answered in all"));
    assert!(unanswered.is_some_and(|line| line.contains("over the rate limit of its source")));
    let sent: u64 =
        line.split_once(" sent=").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    assert!((20..=30).contains(&sent), "a burst of 20, and what fills up meanwhile: {line}");
}

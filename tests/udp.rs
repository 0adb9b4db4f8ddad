//! What only UDP has, and its real client, `nc -u`.

mod common;

use std::io::{Read, Write};
use std::process::{Command, Stdio};

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
async fn a_client_that_is_gone_takes_nobody_with_it() {
    let server = TestServer::start(Protocol::Udp).await;
    let bystander = connect(&server).await;
    for _ in 0..20 {
        // Its echo meets a closed port, and the kernel reports that to somebody.
        connect(&server).await.send(b"and gone").await.unwrap();
    }
    bystander.send(b"still here").await.unwrap();
    let mut buffer = [0; 64];
    let length = bystander.recv(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..length], b"still here");
}

#[test]
fn nc_hears_its_echo() {
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

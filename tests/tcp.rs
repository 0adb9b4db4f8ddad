//! What only plain TCP has, and its real client, nc.

mod common;

use std::process::Command;

use common::binary::Running;
use common::client::{half_close_gets_all, noise};
use common::{TestServer, tools};
use echo_server::{Config, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn connect(server: &TestServer) -> TcpStream {
    TcpStream::connect(server.address).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_clients_fin_it_still_gets_all_it_is_owed() {
    let server = TestServer::start(Protocol::Tcp).await;
    half_close_gets_all(connect(&server).await, &noise(10 << 20)).await;
}

#[tokio::test]
async fn a_buffer_of_one_byte_echoes_the_same() {
    let config = Config::new().listen(Protocol::Tcp, ([127, 0, 0, 1], 0)).buffer_size(1);
    let server = TestServer::with(config).await;
    let mut client = connect(&server).await;
    client.write_all(b"one at a time").await.unwrap();
    client.shutdown().await.unwrap();
    let mut echo = Vec::new();
    client.read_to_end(&mut echo).await.unwrap();
    assert_eq!(echo, b"one at a time");
}

#[tokio::test]
async fn a_reset_ends_only_its_own_connection() {
    let server = TestServer::start(Protocol::Tcp).await;
    let mut bystander = connect(&server).await;
    for _ in 0..50 {
        let mut client = connect(&server).await;
        client.write_all(b"never read").await.unwrap();
        client.set_zero_linger().unwrap();
        drop(client);
    }
    bystander.write_all(b"still here").await.unwrap();
    let mut echo = [0; 10];
    bystander.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"still here");
}

#[tokio::test]
async fn nothing_is_sent_that_the_client_did_not_send() {
    let server = TestServer::start(Protocol::Tcp).await;
    let mut client = connect(&server).await;
    client.shutdown().await.unwrap();
    let mut received = Vec::new();
    client.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"");
}

#[tokio::test]
async fn at_shutdown_a_client_gets_its_echo_and_a_fin() {
    let server = TestServer::start(Protocol::Tcp).await;
    let mut client = connect(&server).await;
    client.write_all(b"before").await.unwrap();
    let mut echo = [0; 6];
    client.read_exact(&mut echo).await.unwrap();
    let stopping = tokio::spawn(server.stop());
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.expect("a FIN, not a reset");
    assert_eq!(rest, b"");
    drop(client);
    stopping.await.unwrap();
}

#[tokio::test]
async fn at_shutdown_clients_in_the_accept_queue_are_served() {
    // More than tokio's budget allows a task in one poll.
    const CLIENTS: usize = 500;
    let server = TestServer::start(Protocol::Tcp).await;
    // The server runs on this thread too, so it accepts nobody while this thread does not await.
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = std::net::TcpStream::connect(server.address).unwrap();
            std::io::Write::write_all(&mut client, b"early").unwrap();
            client.set_nonblocking(true).unwrap();
            client
        })
        .collect();
    let stopping = tokio::spawn(server.stop());
    for client in clients {
        let mut rest = String::new();
        TcpStream::from_std(client).unwrap().read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "early");
    }
    assert_eq!(stopping.await.unwrap().drained, CLIENTS as u64);
}

#[tokio::test]
async fn a_server_that_is_stopped_at_once_serves_the_clients_that_have_connected() {
    let config = Config::new().listen(Protocol::Tcp, ([127, 0, 0, 1], 0));
    let server = echo_server::Server::bind(config).await.unwrap();
    let mut client = connect_to(server.local_addrs()[0].address.ip().unwrap());
    client.write_all(b"early").await.unwrap();
    let running = tokio::spawn(server.run(std::future::ready(())));
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "early");
    drop(client);
    assert_eq!(running.await.unwrap().drained, 1);
}

/// Connects without giving other tasks a turn.
fn connect_to(address: std::net::SocketAddr) -> TcpStream {
    let client = std::net::TcpStream::connect(address).unwrap();
    client.set_nonblocking(true).unwrap();
    TcpStream::from_std(client).unwrap()
}

#[tokio::test]
async fn dropping_a_running_server_leaves_no_connection_behind() {
    let config = Config::new().listen(Protocol::Tcp, ([127, 0, 0, 1], 0));
    let server = echo_server::Server::bind(config).await.unwrap();
    let address = server.local_addrs()[0].address.ip().unwrap();
    let running = tokio::spawn(server.run(std::future::pending()));
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"x").await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'x');
    running.abort();
    let mut rest = Vec::new();
    // A dropped server may also reset its connections.
    assert!(matches!(client.read_to_end(&mut rest).await, Ok(0) | Err(_)));
}

#[test]
fn nc_gets_its_bytes_back_and_then_end_of_file() {
    if !tools::have_nc() {
        return;
    }
    let server = Running::start(&["--tcp", "0"]);
    let port = server.address("tcp").port().to_string();
    let nc = |input: &[u8]| {
        tools::run(Command::new("nc").args(["-N", "127.0.0.1", &port]), input).stdout
    };
    assert_eq!(nc(b"hello"), b"hello");
    assert_eq!(nc(b""), b"");
    let large = noise(20_000_000);
    assert!(nc(&large) == large);
}

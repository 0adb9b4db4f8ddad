//! One suite for all five protocols: what comes in goes back unchanged. And what becomes of addresses:
//! no test of this file starts a process, which would hold a listener open until it is executed.

mod common;

use common::TestServer;
use common::client::Client;
use echo_server::{Config, Protocol};
use futures::future::join_all;

async fn round_trip(protocol: Protocol) {
    let server = TestServer::start(protocol).await;
    let mut client = Client::connect(protocol, &server).await;
    for payload in ["hello", "and", "hello again"] {
        assert_eq!(client.echo(payload.as_bytes()).await, payload.as_bytes());
    }
}

async fn every_byte_value(protocol: Protocol) {
    let server = TestServer::start(protocol).await;
    let mut client = Client::connect(protocol, &server).await;
    let payload: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
    assert_eq!(client.echo(&payload).await, payload);
    for byte in 0..=255 {
        assert_eq!(client.echo(&[byte]).await, [byte]);
    }
}

async fn an_empty_message(protocol: Protocol) {
    let server = TestServer::start(protocol).await;
    let mut client = Client::connect(protocol, &server).await;
    assert_eq!(client.echo(b"").await, b"");
    assert_eq!(client.echo(b"and one that is not").await, b"and one that is not");
}

async fn a_mebibyte(protocol: Protocol) {
    let server = TestServer::start(protocol).await;
    let mut client = Client::connect(protocol, &server).await;
    let payload: Vec<u8> =
        (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert!(client.echo(&payload).await == payload);
    assert_eq!(client.echo(b"still in step").await, b"still in step");
}

async fn two_hundred_clients_at_once(protocol: Protocol) {
    let server = TestServer::start(protocol).await;
    let mut clients = join_all((0..200).map(|_| Client::connect(protocol, &server))).await;
    for round in 0..3 {
        let echoes = clients.iter_mut().enumerate().map(|(number, client)| async move {
            let payload = format!("client {number}, round {round}").repeat(10);
            assert_eq!(client.echo(payload.as_bytes()).await, payload.as_bytes());
        });
        join_all(echoes).await;
    }
    join_all(clients.into_iter().map(Client::close)).await;
}

async fn a_clean_close(protocol: Protocol) {
    let server = TestServer::start(protocol).await;
    let untouched = Client::connect(protocol, &server).await;
    let mut used = Client::connect(protocol, &server).await;
    assert_eq!(used.echo(b"hello").await, b"hello");
    untouched.close().await;
    used.close().await;
    let mut next = Client::connect(protocol, &server).await;
    assert_eq!(next.echo(b"next, please").await, b"next, please");
    next.close().await;
    server.stop().await;
}

macro_rules! contract {
    ($($protocol_name:ident = $protocol:expr, [$($case:ident),* $(,)?];)*) => {$(
        mod $protocol_name {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::$case($protocol).await;
                }
            )*
        }
    )*};
}

contract! {
    tcp = super::Protocol::Tcp,
        [round_trip, every_byte_value, a_mebibyte, two_hundred_clients_at_once, a_clean_close];
    tls = super::Protocol::Tls,
        [round_trip, every_byte_value, a_mebibyte, two_hundred_clients_at_once, a_clean_close];
    udp = super::Protocol::Udp,
        [round_trip, every_byte_value, an_empty_message, a_mebibyte, two_hundred_clients_at_once,
         a_clean_close];
    ws = super::Protocol::Ws,
        [round_trip, every_byte_value, an_empty_message, a_mebibyte, two_hundred_clients_at_once,
         a_clean_close];
    wss = super::Protocol::Wss,
        [round_trip, every_byte_value, an_empty_message, a_mebibyte, two_hundred_clients_at_once,
         a_clean_close];
}

#[tokio::test]
async fn when_a_server_has_stopped_its_address_is_free() {
    // On 127.0.0.1 a client of somebody else may get the port that has become free.
    let host = if cfg!(target_os = "linux") { [127, 20, 30, 40] } else { [127, 0, 0, 1] };
    for _ in 0..20 {
        let server = TestServer::with(Config::new().listen(Protocol::Tcp, (host, 0))).await;
        let address = server.address;
        let summary = server.stop().await;
        assert_eq!((summary.drained, summary.aborted), (0, 0));
        let config = Config::new().listen(Protocol::Tcp, address);
        echo_server::Server::bind(config).await.expect("the address is free again");
    }
}

#[tokio::test]
async fn both_wildcard_addresses_can_be_bound_to_one_port() {
    use std::net::{Ipv4Addr, Ipv6Addr};
    let probe = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = probe.local_addr().unwrap().port();
    drop(probe);
    if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        eprintln!("skipped: there is no IPv6 here");
        return;
    }
    let config = Config::new()
        .listen(Protocol::Tcp, (Ipv4Addr::UNSPECIFIED, port))
        .listen(Protocol::Tcp, (Ipv6Addr::UNSPECIFIED, port))
        .listen(Protocol::Udp, (Ipv4Addr::UNSPECIFIED, port))
        .listen(Protocol::Udp, (Ipv6Addr::UNSPECIFIED, port));
    echo_server::Server::bind(config).await.expect("both");
}

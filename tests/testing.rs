//! The server for the length of a test, as other people's tests use it.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use common::tls_connect_trusting;
use echo_server::{Config, Protocol, StartError, TestServer, blocking};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::ALL_VERSIONS;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

/// One echo, with std's own blocking client.
fn echo(client: &mut TcpStream) {
    client.write_all(b"hello").unwrap();
    let mut echo = [0; 5];
    client.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"hello");
}

#[tokio::test]
async fn every_protocol_has_an_address_and_a_url() {
    let server = TestServer::start(Protocol::ALL.iter().copied()).await;
    assert_eq!(server.local_addrs().len(), Protocol::ALL.len());
    for &protocol in Protocol::ALL {
        let address = server.addr(protocol);
        assert!(address.ip().is_loopback() && address.port() != 0, "{address}");
        assert_eq!(server.url(protocol), format!("{protocol}://{address}"));
    }
}

#[tokio::test]
async fn its_certificate_is_the_one_to_trust_as_der_and_as_pem() {
    let server = TestServer::start([Protocol::Tls]).await;
    let der = CertificateDer::from(server.certificate_der().to_vec());
    let pem = CertificateDer::from_pem_slice(server.certificate_pem().as_bytes()).unwrap();
    assert_eq!(der, pem);
    let mut client = tls_connect_trusting(server.addr(Protocol::Tls), [der], ALL_VERSIONS).await;
    client.write_all(b"hello").await.unwrap();
    client.flush().await.unwrap();
    let mut echo = [0; 5];
    client.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"hello");
}

/// A test's runtime usually has one thread, which a blocking call blocks.
#[tokio::test]
async fn a_test_that_blocks_does_not_block_its_server() {
    let server = TestServer::start([Protocol::Tcp]).await;
    echo(&mut TcpStream::connect(server.addr(Protocol::Tcp)).unwrap());
}

/// On a paused clock, time jumps to the next timer whenever the runtime has nothing to do.
#[tokio::test(start_paused = true)]
async fn a_paused_clock_does_not_affect_the_server() {
    let server = TestServer::start([Protocol::Tcp]).await;
    let mut client = tokio::net::TcpStream::connect(server.addr(Protocol::Tcp)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(24 * 60 * 60)).await;
    client.write_all(b"x").await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn a_shutdown_lets_connections_finish_and_frees_the_address() {
    let server = TestServer::start([Protocol::Tcp]).await;
    let address = server.addr(Protocol::Tcp);
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"sent before the end").unwrap();
    let shutdown = tokio::spawn(server.shutdown());
    let received = tokio::task::spawn_blocking(move || {
        let mut echo = String::new();
        client.read_to_string(&mut echo).map(|_| echo)
    });
    assert_eq!(received.await.unwrap().unwrap(), "sent before the end");
    let summary = shutdown.await.unwrap();
    assert_eq!((summary.drained, summary.aborted, summary.refused, summary.panicked), (1, 0, 0, 0));
    TcpListener::bind(address).expect("the address is free again");
}

#[test]
fn dropping_the_server_stops_it_and_frees_the_address() {
    let server = blocking::TestServer::start([Protocol::Tcp, Protocol::Udp]);
    let (tcp, udp) = (server.addr(Protocol::Tcp), server.addr(Protocol::Udp));
    let mut leftover = TcpStream::connect(tcp).unwrap();
    echo(&mut leftover);
    drop(server);
    assert!(matches!(leftover.read(&mut [0]), Ok(0) | Err(_)), "the connection is gone");
    std::net::UdpSocket::bind(udp).expect("the address is free again");
    assert!(TcpStream::connect(tcp).is_err(), "nobody listens");
}

#[test]
fn a_test_that_panics_ends_its_server() {
    let address = std::panic::catch_unwind(|| {
        let server = blocking::TestServer::start([Protocol::Tcp]);
        let address = server.addr(Protocol::Tcp);
        let _leftover = TcpStream::connect(address).unwrap();
        std::panic::panic_any(address);
    });
    let address = *address.unwrap_err().downcast::<std::net::SocketAddr>().unwrap();
    assert!(TcpStream::connect(address).is_err(), "nobody listens");
}

#[test]
fn a_client_that_never_closes_does_not_hang_a_shutdown() {
    let server = blocking::TestServer::start([Protocol::Tcp]);
    let mut leftover = TcpStream::connect(server.addr(Protocol::Tcp)).unwrap();
    echo(&mut leftover);
    // The client has got all that it is owed. It is not aborted for keeping its side open.
    let summary = server.shutdown();
    assert_eq!((summary.drained, summary.aborted), (1, 0));
    drop(leftover);
}

#[test]
fn a_failed_start_says_why() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = Config::new().listen(Protocol::Tcp, taken.local_addr().unwrap());
    let error = blocking::TestServer::with(config).unwrap_err();
    let StartError::Bind { source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
}

#[test]
#[should_panic = "the echo server was not asked for ws"]
fn a_protocol_that_was_not_asked_for_has_no_address() {
    blocking::TestServer::start([Protocol::Tcp]).addr(Protocol::Ws);
}

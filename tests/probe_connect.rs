//! How a probe connects: what refuses it, what it says then, and how long it waits.

mod common;

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::Output;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::TestServer;
use common::binary::command;
use echo_server::Protocol;
use echo_server::probe::{Event, PingOptions, Probe, ProbeError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Runs `echo-server probe`.
async fn run(args: &[&str]) -> Output {
    let mut command = command();
    command.arg("probe").args(args);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A port of 127.0.0.1 where nothing listens.
fn closed_udp_port() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_closed_udp_port_refuses_a_ping_and_a_load_at_once() {
    let url = format!("udp://{}", closed_udp_port());
    for args in [
        &["--count", "1"][..],
        &["--count", "5", "--interval", "0"],
        &["--connections", "3", "--in-flight", "20", "--duration", "30s"],
        &["--find-mtu"],
    ] {
        let began = Instant::now();
        let output = run(&[&[url.as_str(), "--timeout", "30s"], args].concat()).await;
        assert_eq!(output.status.code(), Some(3), "{args:?}: {output:?}");
        let expected = format!("echo-server: {url}: port unreachable: nothing listens there\n");
        assert_eq!(said(&output), expected, "{args:?}");
        assert!(began.elapsed() < Duration::from_secs(20), "{args:?}: {:?}", began.elapsed());
    }
}

/// A service that answers, goes away, and comes back when an error has been seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_udp_service_that_goes_away_is_told_and_no_message_is_swallowed() {
    const COUNT: u64 = 30;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let (failed, was_failed) = mpsc::channel();
    let service = std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        let mut echo = |socket: &UdpSocket| {
            let (length, from) = socket.recv_from(&mut buffer).ok()?;
            socket.send_to(&buffer[..length], from).ok()
        };
        for _ in 0..2 {
            echo(&socket).unwrap();
        }
        drop(socket);
        was_failed.recv().unwrap();
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut echoed = 2;
        while echo(&socket).is_some() {
            echoed += 1;
        }
        echoed
    });
    let mut errors = 0;
    let probe = Probe::new(format!("udp://{address}").parse().unwrap());
    let options = PingOptions::new()
        .count(COUNT)
        .interval(Duration::from_millis(10))
        .timeout(Duration::from_millis(500));
    let ping = probe.ping(options).on_event(|event| {
        if let Event::Failed { reason, .. } = event {
            assert_eq!(reason, "port unreachable: nothing listens there");
            errors += 1;
            let _ = failed.send(());
        }
    });
    let summary = ping.run().await.unwrap();
    let echoed: u64 = service.join().unwrap();
    assert!(errors > 0 && summary.errors().next().is_some(), "{summary}");
    assert_eq!((summary.sent(), summary.unsent()), (COUNT, 0), "{summary}");
    // Each message was sent, and either answered or refused: none was swallowed.
    assert_eq!(summary.received(), echoed, "{summary}");
    assert_eq!(summary.lost(), errors, "{summary}");
}

#[tokio::test]
async fn a_header_field_that_cannot_be_set_is_refused() {
    for field in [
        "Connection: close",
        "Upgrade: h2c",
        "Sec-WebSocket-Key: abc",
        "Sec-WebSocket-Version: 8",
        "Sec-WebSocket-Protocol: chat",
        "Sec-WebSocket-Extensions: permessage-deflate",
        "Content-Length: 3",
        "Transfer-Encoding: chunked",
    ] {
        let output = run(&["ws://127.0.0.1:1", "--header", field]).await;
        assert_eq!(output.status.code(), Some(2), "{field}: {output:?}");
        let name = field.split(':').next().unwrap().to_lowercase();
        let expected = format!("echo-server: --header: {name} is the handshake's own field, and ");
        assert!(said(&output).starts_with(&expected), "{field}: {}", said(&output));
        assert_eq!(said(&output).lines().count(), 1);
    }
}

#[tokio::test]
async fn a_service_that_accepts_and_says_nothing_is_given_up_at_the_connect_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for (scheme, phase) in [("tls", "the TLS handshake"), ("ws", "the WebSocket upgrade")] {
        let began = Instant::now();
        let url = format!("{scheme}://{address}");
        let output = run(&[&url, "--connect-timeout", "200ms"]).await;
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(said(&output).ends_with(&format!("{phase} took too long\n")), "{}", said(&output));
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(9), "{took:?}");
    }
}

/// An HTTP server that gives each request the same response.
async fn answering(response: &'static str) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") && tcp.read_buf(&mut request).await.unwrap() > 0 {
            }
            tcp.write_all(response.as_bytes()).await.unwrap();
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_http_server_says_instead_of_upgrading_is_told() {
    for (response, expected) in [
        (
            "HTTP/1.1 301 Moved Permanently\r\nLocation: wss://elsewhere.test/echo\r\n\
             Content-Length: 0\r\n\r\n",
            "the server answered 301 Moved Permanently instead of upgrading; it is at \
             wss://elsewhere.test/echo",
        ),
        (
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"echo\"\r\n\
             Content-Type: text/plain\r\nContent-Length: 26\r\n\r\n\nYou have no token.\nDetails",
            "the server answered 401 Unauthorized instead of upgrading; it asks for \
             authentication: Basic realm=\"echo\": You have no token.",
        ),
        (
            "HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
            "the server answered 404 Not Found instead of upgrading",
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n", "it does not speak HTTP: it answered \"SSH-2.0-OpenSSH_9.2\""),
    ] {
        let url = format!("ws://{}/chat", answering(response).await);
        let output = run(&[&url, "--count", "1"]).await;
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert_eq!(said(&output), format!("echo-server: {url}: {expected}\n"));
    }
}

#[tokio::test]
async fn every_address_that_fails_is_told_with_its_own_cause() {
    let port = closed_udp_port().port();
    // Whatever addresses localhost has here, nothing listens at any of them.
    let found: Vec<_> = tokio::net::lookup_host(("localhost", port)).await.unwrap().collect();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let target = format!("{protocol}://localhost:{port}").parse().unwrap();
        let probe = Probe::new(target).ping(PingOptions::new().count(1));
        let error = probe.run().await.unwrap_err();
        assert!(matches!(error, ProbeError::Connect { .. }), "{error:?}");
        let text = error.to_string();
        let mut addresses = found.clone();
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.len() > 1 {
            for address in addresses {
                assert!(text.contains(&format!("{address}: ")), "{protocol}: {text}");
            }
        } else {
            assert!(text.ends_with(": nothing listens there"), "{protocol}: {text}");
        }
    }
}

#[tokio::test]
async fn a_name_that_has_an_answer_on_one_address_is_pinged_there() {
    let server = TestServer::start(Protocol::Udp).await;
    let url = format!("udp://localhost:{}", server.address.port());
    let summary = Probe::new(url.parse().unwrap()).ping(PingOptions::new().count(1)).run().await;
    assert!(summary.unwrap().is_clean());
}

//! How a probe connects: what refuses it, what it says then, and how long it waits.

mod common;

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::Output;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::binary::command;
use common::{TestServer, cert};
use echo_server::probe::{Connected, Event, Family, LoadOptions, PingOptions, Probe, ProbeError};
use echo_server::{Config, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Runs `echo-server probe`.
async fn run(args: &[&str]) -> Output {
    let mut command = command();
    command.arg("probe").args(args);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn said_by(output: &Output) -> String {
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
        assert_eq!(said_by(&output), expected, "{args:?}");
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
        assert!(said_by(&output).starts_with(&expected), "{field}: {}", said_by(&output));
        assert_eq!(said_by(&output).lines().count(), 1);
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
        assert!(
            said_by(&output).contains(&format!(": {phase} took too long: nothing came for ")),
            "{}",
            said_by(&output)
        );
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
            // In HTTP/2's preface, more follows the empty line.
            let has_head = |read: &[u8]| read.windows(4).any(|window| window == b"\r\n\r\n");
            while !has_head(&request) && tcp.read_buf(&mut request).await.unwrap() > 0 {}
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
        assert_eq!(said_by(&output), format!("echo-server: {url}: {expected}\n"));
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

/// A probe that trusts the test CA, and offers `alpn`.
fn over(server: &TestServer, protocol: Protocol, alpn: &[&str]) -> Probe {
    let url = format!("{protocol}://localhost:{}/chat?room=1", server.address.port());
    Probe::new(url.parse().unwrap()).connect(|connect| {
        connect.family = Some(Family::V4);
        connect.tls.ca = Some(cert("ca.pem").into());
        connect.tls.alpn = alpn.iter().map(|&name| name.to_owned()).collect();
    })
}

/// Pings three times, and describes the connection.
async fn connected(probe: &Probe) -> Result<Connected, ProbeError> {
    let mut connected = None;
    let options = PingOptions::new().count(3).interval(Duration::from_millis(1));
    let ping = probe.ping(options.timeout(Duration::from_secs(20))).on_event(|event| {
        if let Event::Connected(connection) = event {
            connected = Some(*connection);
        }
    });
    let summary = ping.run().await?;
    assert!(summary.is_clean() && summary.received() == 3, "{summary}");
    Ok(connected.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_is_opened_over_http2_if_that_is_selected_or_known() {
    let (ws, wss) = (TestServer::start(Protocol::Ws).await, TestServer::start(Protocol::Wss).await);
    for (server, protocol, alpn, is_http2) in [
        (&ws, Protocol::Ws, &["h2"][..], true),
        (&ws, Protocol::Ws, &["http/1.1"], false),
        (&ws, Protocol::Ws, &[], false),
        (&wss, Protocol::Wss, &["h2"], true),
        (&wss, Protocol::Wss, &["h2", "http/1.1"], true),
        (&wss, Protocol::Wss, &["http/1.1"], false),
        (&wss, Protocol::Wss, &[], false),
    ] {
        let probe = over(server, protocol, alpn)
            .connect(|connect| connect.subprotocols = vec!["chat".to_owned()]);
        let connected = connected(&probe).await.unwrap();
        assert_eq!(connected.http2.is_some(), is_http2, "{protocol} {alpn:?}");
        assert!(connected.upgrade.is_some());
        assert_eq!(connected.subprotocol.as_deref(), Some("chat"));
        let selected = connected.tls_facts.and_then(|facts| facts.alpn);
        let expected = alpn.first().filter(|_| protocol == Protocol::Wss).copied();
        assert_eq!(selected.as_deref(), expected);
    }
    // Text, nothing, and more than all windows and buffers.
    for (size, is_text) in [(0, false), (1, true), (100_000, true), (5 << 20, false)] {
        let probe = over(&wss, Protocol::Wss, &["h2"]).messages(|messages| {
            (messages.size, messages.is_text) = (size, is_text);
        });
        connected(&probe).await.unwrap();
    }
    let load = LoadOptions::new().duration(Duration::from_millis(300)).connections(5).in_flight(8);
    let summary = over(&ws, Protocol::Ws, &["h2"]).load(load).run().await.unwrap();
    assert!(summary.is_clean() && summary.received() > 40, "{summary}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_selects_http_1_1_is_spoken_to_over_that() {
    let config = Config::new().listen(Protocol::Wss, ([127, 0, 0, 1], 0));
    let config = config.tls(|tls| tls.alpn = vec!["http/1.1".to_owned()]);
    let server = TestServer::with(config).await;
    let known = connected(&over(&server, Protocol::Wss, &["h2", "http/1.1"])).await.unwrap();
    assert_eq!(known.http2, None);
    assert_eq!(known.tls_facts.unwrap().alpn.as_deref(), Some("http/1.1"));
    let error = connected(&over(&server, Protocol::Wss, &["h2"])).await.unwrap_err();
    assert!(error.to_string().contains("no_application_protocol"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_has_no_websocket_over_http2_is_told() {
    let http1 = answering("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    // One that speaks HTTP/2, but without extended CONNECT, and one that refuses.
    let http2 = async |offers: bool| {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut builder = h2::server::Builder::new();
            if offers {
                builder.enable_connect_protocol();
            }
            let mut connection = builder.handshake(tcp).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                assert_eq!(request.uri().path(), "/chat");
                let response = hyper::Response::builder().status(403).body(()).unwrap();
                let mut body: h2::SendStream<bytes::Bytes> =
                    respond.send_response(response, false).unwrap();
                body.send_data("You have no token.\nDetails".into(), true).unwrap();
            }
        });
        address
    };
    for (address, said) in [
        (
            http1,
            "it does not speak HTTP/2, but HTTP/1.1: it answered \"HTTP/1.1 400 Bad Request\"; \
             --alpn http/1.1 does without",
        ),
        (
            http2(false).await,
            "the server speaks HTTP/2, but not WebSocket over it (RFC 8441); --alpn http/1.1 does \
             without",
        ),
        (
            http2(true).await,
            "the server answered 403 Forbidden instead of upgrading: You have no token.",
        ),
    ] {
        let url = format!("ws://{address}/chat");
        let output = run(&[&url, "--count", "1", "--alpn", "h2"]).await;
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert_eq!(said_by(&output), format!("echo-server: {url}: {said}\n"));
    }
    let output = run(&["ws://127.0.0.1:1", "--alpn", "h2,http/1.1"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(
        said_by(&output),
        "echo-server: --alpn: without TLS nothing is selected: it is h2 or http/1.1\n"
    );
}

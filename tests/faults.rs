//! Faults on purpose on streams: what the client's side of each connection sees, byte by byte, and
//! that the same seed gives the same again.

mod common;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::TestServer;
use common::binary::{Running, command};
use common::client::{Client, noise};
use common::http::{Metrics, admin};
use common::log::Log;
use echo_server::{Config, FaultGroup, Protocol};
use futures::future::join_all;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{self, pki_types::ServerName};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

const STREAMS: [Protocol; 4] = [Protocol::Tcp, Protocol::Tls, Protocol::Ws, Protocol::Wss];

/// A server of `protocol` with these faults, and the seed 7.
async fn start(protocol: Protocol, faults: &str) -> TestServer {
    TestServer::with(config(protocol, faults)).await
}

fn config(protocol: Protocol, faults: &str) -> Config {
    let config = Config::new().listen(protocol, ([127, 0, 0, 1], 0));
    let config = config.faults(|policy| policy.seed = Some(7));
    match faults {
        "" => config,
        faults => config.fault(faults.parse::<FaultGroup>().expect(faults)),
    }
}

/// All bytes that come, and the error behind them.
async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> (Vec<u8>, Option<ErrorKind>) {
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes).await;
    (bytes, end.err().map(|error| error.kind()))
}

/// The bytes that come for `payload`, and the error behind them; of messages, their payload.
async fn echoed(client: &mut Client, payload: &[u8]) -> (Vec<u8>, String) {
    match client {
        Client::Bytes(stream) => {
            // The server may end the connection while this is written.
            let _ = stream.write_all(payload).await;
            let (bytes, error) = rest(stream).await;
            (bytes, format!("{error:?}"))
        }
        Client::Messages(socket) => {
            let _ = socket.send(Message::binary(payload.to_vec())).await;
            let mut bytes = Vec::new();
            loop {
                match socket.next().await {
                    Some(Ok(Message::Binary(message))) => bytes.extend_from_slice(&message),
                    Some(Ok(Message::Close(frame))) => {
                        return (bytes, format!("{:?}", frame.map(|frame| u16::from(frame.code))));
                    }
                    Some(Ok(other)) => panic!("{other:?}"),
                    Some(Err(Error::Io(error))) => return (bytes, format!("{:?}", error.kind())),
                    Some(Err(Error::Protocol(error))) => return (bytes, error.to_string()),
                    other => return (bytes, format!("{other:?}")),
                }
            }
        }
        Client::Datagrams(_) => unreachable!("a stream"),
    }
}

#[tokio::test]
async fn a_byte_stream_ends_behind_exactly_as_many_bytes_as_were_asked_for() {
    let payload = noise(1000);
    for (protocol, faults, end) in [
        (Protocol::Tcp, "reset=300", "Some(ConnectionReset)"),
        (Protocol::Tls, "reset=300", "Some(ConnectionReset)"),
        (Protocol::Tcp, "close=300", "None"),
        (Protocol::Tls, "close=300", "None"),
        (Protocol::Tls, "truncate=300", "Some(UnexpectedEof)"),
    ] {
        for more in
            ["", ",delay=20ms", ",slice=7", ",rate=100KiB", ",delay=5ms,jitter=5ms,slice=100"]
        {
            let server = start(protocol, &format!("{faults}{more}")).await;
            let mut client = Client::connect(protocol, &server).await;
            let (bytes, error) = echoed(&mut client, &payload).await;
            assert_eq!(bytes, payload[..300], "{protocol} {faults}{more}");
            assert_eq!(error, end, "{protocol} {faults}{more}");
            drop(client);
            assert_eq!(server.stop().await.aborted, 0);
        }
    }
}

#[tokio::test]
async fn an_end_at_0_comes_before_all_bytes() {
    for (protocol, faults, end) in [
        (Protocol::Tcp, "reset=0", "Some(ConnectionReset)"),
        (Protocol::Tcp, "close=0", "None"),
        (Protocol::Tls, "close=0", "None"),
        (Protocol::Tls, "truncate=0", "Some(UnexpectedEof)"),
        (Protocol::Ws, "close=0", "Some(1001)"),
        (Protocol::Wss, "ws-close=1011", "Some(1011)"),
        (Protocol::Ws, "ws-close=4321,close=0", "Some(4321)"),
    ] {
        let server = start(protocol, faults).await;
        let mut client = Client::connect(protocol, &server).await;
        assert_eq!(echoed(&mut client, &[]).await.1, end, "{protocol} {faults}");
    }
}

#[tokio::test]
async fn a_websocket_ends_within_a_message_or_behind_it() {
    let payload = noise(1000);
    let whole = payload.clone();
    for (faults, expected, end) in [
        ("close=300", &whole, "Some(1001)"),
        ("ws-close=1012,close=300", &whole, "Some(1012)"),
        ("truncate=1000", &whole, "Connection reset without closing handshake"),
        ("truncate=300", &Vec::new(), "Connection reset without closing handshake"),
        ("reset=300", &Vec::new(), "ConnectionReset"),
        ("reset=1000", &whole, "ConnectionReset"),
        ("ws-mask", &Vec::new(), "Received a masked frame from server"),
    ] {
        for protocol in [Protocol::Ws, Protocol::Wss] {
            if protocol == Protocol::Wss && faults.starts_with("truncate") {
                // rustls tells of the missing close_notify first.
                continue;
            }
            let server = start(protocol, faults).await;
            let mut client = Client::connect(protocol, &server).await;
            let (bytes, error) = echoed(&mut client, &payload).await;
            assert_eq!((&bytes, error.as_str()), (expected, end), "{protocol} {faults}");
        }
    }
}

#[tokio::test]
async fn the_echo_of_a_text_is_no_utf8_and_that_of_bytes_is_exact() {
    let server = start(Protocol::Ws, "ws-utf8").await;
    let Client::Messages(mut socket) = Client::connect(Protocol::Ws, &server).await else {
        unreachable!()
    };
    socket.send(Message::binary(vec![1, 2])).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::binary(vec![1, 2]));
    socket.send(Message::text("a text")).await.unwrap();
    let error = socket.next().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Utf8(_)), "{error:?}");
}

/// A stalled connection shows nothing, not even its end, before the server drains.
#[tokio::test]
async fn what_stalls_sends_nothing_and_does_not_end_before_a_drain() {
    for protocol in STREAMS {
        let server = start(protocol, "stall=300").await;
        let mut client = Client::connect(protocol, &server).await;
        let mut waiting = Box::pin(async move { echoed(&mut client, &noise(1000)).await });
        let silence = tokio::time::timeout(Duration::from_millis(200), &mut waiting).await;
        assert!(silence.is_err(), "{protocol}: {silence:?}");
        let (summary, (bytes, _)) = tokio::join!(server.stop(), waiting);
        assert_eq!((summary.drained, summary.aborted), (1, 0), "{protocol}");
        let expected = if matches!(protocol, Protocol::Tcp | Protocol::Tls) { 300 } else { 0 };
        assert_eq!(bytes.len(), expected, "{protocol}");
    }
}

#[tokio::test]
async fn what_stalls_does_not_end_with_the_clients_fin() {
    let server = start(Protocol::Tcp, "stall=3").await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    // The server can read the FIN together with what comes before it.
    client.write_all(&noise(6)).await.unwrap();
    client.shutdown().await.unwrap();
    let mut echo = [0; 3];
    client.read_exact(&mut echo).await.unwrap();
    let end = tokio::time::timeout(Duration::from_millis(100), client.read_u8()).await;
    assert!(end.is_err(), "{end:?}");
    server.stop().await;
    assert_eq!(rest(&mut client).await, (Vec::new(), None));
}

#[tokio::test]
async fn a_stall_ends_with_the_idle_timeout() {
    for protocol in [Protocol::Tcp, Protocol::Tls] {
        let config = config(protocol, "stall=300");
        let idle = Some(Duration::from_millis(300));
        let server = TestServer::with(config.timeouts(|timeouts| timeouts.idle = idle)).await;
        let mut client = Client::connect(protocol, &server).await;
        let before = Instant::now();
        echoed(&mut client, &noise(1000)).await;
        assert!(before.elapsed() >= Duration::from_millis(300), "{protocol}");
    }
}

#[tokio::test]
async fn a_delay_is_one_for_all_that_is_under_way_and_a_drain_ends_it() {
    for protocol in STREAMS {
        let server = start(protocol, "delay=100ms").await;
        let mut client = Client::connect(protocol, &server).await;
        let before = Instant::now();
        assert_eq!(client.echo(&noise(200_000)).await, noise(200_000), "{protocol}");
        assert!(before.elapsed() >= Duration::from_millis(100), "{protocol}");
    }
    // No test would wait as long as this.
    let server = start(Protocol::Tcp, "delay=40s").await;
    let Client::Bytes(mut client) = Client::connect(Protocol::Tcp, &server).await else {
        unreachable!()
    };
    client.write_all(b"late").await.unwrap();
    let silence = tokio::time::timeout(Duration::from_millis(100), client.read_u8()).await;
    assert!(silence.is_err(), "{silence:?}");
    let reading = async move { rest(&mut client).await };
    let (summary, echo) = tokio::join!(server.stop(), reading);
    assert_eq!((summary.drained, echo), (1, (b"late".to_vec(), None)));
}

#[tokio::test]
async fn what_was_sent_before_the_clients_fin_comes_back_however_late() {
    for faults in ["delay=50ms,jitter=50ms", "rate=4KiB,slice=100", "corrupt=0,slice=1"] {
        let server = start(Protocol::Tcp, faults).await;
        let Client::Bytes(mut client) = Client::connect(Protocol::Tcp, &server).await else {
            unreachable!()
        };
        let payload = noise(1000);
        client.write_all(&payload).await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(rest(&mut client).await, (payload, None), "{faults}");
    }
}

#[tokio::test]
async fn a_rate_takes_its_time() {
    for protocol in STREAMS {
        let server = start(protocol, "rate=100KB").await;
        let mut client = Client::connect(protocol, &server).await;
        let before = Instant::now();
        client.echo(&noise(20_000)).await;
        // The first 4 ms leave at once.
        assert!(before.elapsed() >= Duration::from_millis(190), "{protocol}");
    }
}

/// The numbers of the connections, of the first 200, that a server with these faults resets.
async fn resets(seed: u64, threads: &str) -> Vec<usize> {
    let server = Running::start(&[
        "--tcp=0",
        "--fault=tcp:reset=0,share=30%",
        &format!("--fault-seed={seed}"),
        &format!("--threads={threads}"),
    ]);
    let mut resets = Vec::new();
    for number in 0..200 {
        // Connect, write or read may be what is told of the reset, which is told once.
        let echo = async {
            let mut client = TcpStream::connect(server.address("tcp")).await?;
            client.write_all(b"x").await?;
            client.read_u8().await
        };
        match echo.await {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => resets.push(number),
            Err(error) => panic!("{error:?}"),
        }
    }
    resets
}

#[tokio::test]
async fn the_same_seed_picks_the_same_connections_with_any_number_of_threads() {
    let first = resets(7, "1").await;
    // 60 of 200, and four standard deviations of 6.5.
    assert!((34..=86).contains(&first.len()), "{first:?}");
    assert_eq!(resets(7, "2").await, first);
    assert_ne!(resets(8, "2").await, first);
}

#[tokio::test]
async fn the_same_seed_flips_the_same_bits_however_the_stream_is_cut() {
    const SIZE: usize = 100_000;
    let mut all = Vec::new();
    for (protocol, faults, piece) in [
        (Protocol::Tcp, "corrupt=1%", SIZE),
        (Protocol::Tcp, "corrupt=1%", 777),
        (Protocol::Tcp, "corrupt=1%,delay=1ms,slice=1000", 10_000),
    ] {
        let server = start(protocol, faults).await;
        let mut client = Client::connect(protocol, &server).await;
        let mut echo = Vec::new();
        for piece in vec![0; SIZE].chunks(piece) {
            echo.extend(client.echo(piece).await);
        }
        let flipped = echo.iter().filter(|byte| **byte != 0).count();
        // 1,000, and four standard deviations of 31.
        assert!((870..=1130).contains(&flipped), "{flipped}");
        all.push(echo);
    }
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
    for protocol in [Protocol::Tls, Protocol::Ws, Protocol::Wss] {
        let server = start(protocol, "corrupt=1%").await;
        let mut client = Client::connect(protocol, &server).await;
        let echo = client.echo(&[0; SIZE]).await;
        let flipped = echo.iter().filter(|byte| **byte != 0).count();
        assert!((870..=1130).contains(&flipped), "{protocol}: {flipped}");
    }
}

/// The response to a request for `path` over plain HTTP, as far as it comes.
async fn get(server: &TestServer, path: &str) -> (String, Option<ErrorKind>) {
    let mut client = TcpStream::connect(server.address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let (bytes, error) = rest(&mut client).await;
    (String::from_utf8(bytes).unwrap(), error)
}

#[tokio::test]
async fn http_does_what_its_query_asks_for() {
    let config = config(Protocol::Ws, "").faults(|faults| faults.by_request = true);
    let server = TestServer::with(config).await;
    let page = get(&server, "/").await;
    assert!(page.0.starts_with("HTTP/1.1 200") && page.1.is_none());
    let expect = |text: &'static str| {
        move |(got, error): &(String, Option<ErrorKind>)| got.contains(text) && error.is_none()
    };
    type Check = Box<dyn Fn(&(String, Option<ErrorKind>)) -> bool>;
    let checks: [(&str, Check); 9] = [
        ("/?upgrade=503", Box::new(expect("HTTP/1.1 503 Service Unavailable"))),
        ("/?upgrade=204", Box::new(expect("HTTP/1.1 204 No Content"))),
        ("/?delay=11s", Box::new(expect("delay=11s: it may last at most 10s"))),
        ("/?delay", Box::new(expect("HTTP/1.1 400 Bad Request"))),
        ("/?drop=1%25", Box::new(expect("HTTP/1.1 400 Bad Request"))),
        ("/?reset=0", Box::new(|got| *got == (String::new(), Some(ErrorKind::ConnectionReset)))),
        (
            "/?reset=100",
            Box::new(|got| got.0.len() == 100 && got.1 == Some(ErrorKind::ConnectionReset)),
        ),
        ("/?truncate=100", Box::new(|got| got.0.len() == 100 && got.1.is_none())),
        ("/?other=1&slice=100", Box::new(move |got| got.0.len() == page.0.len())),
    ];
    for (path, check) in checks {
        let got = get(&server, path).await;
        assert!(check(&got), "{path}: {got:?}");
    }
    let before = Instant::now();
    get(&server, "/?delay=50ms").await;
    assert!(before.elapsed() >= Duration::from_millis(50));
    for path in ["/?upgrade=stall", "/?stall=0"] {
        let silence = tokio::time::timeout(Duration::from_millis(100), get(&server, path)).await;
        assert!(silence.is_err(), "{path}: {silence:?}");
    }
}

#[tokio::test]
async fn a_server_whose_clients_may_not_ask_ignores_what_they_ask_for() {
    let server = start(Protocol::Ws, "").await;
    assert!(get(&server, "/?reset=0&upgrade=503").await.0.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_websocket_over_http_1_does_what_its_query_asks_for() {
    let config = config(Protocol::Ws, "").faults(|faults| faults.by_request = true);
    let server = TestServer::with(config).await;
    let open = async |query: &str| {
        let tcp = TcpStream::connect(server.address).await.unwrap();
        tokio_tungstenite::client_async(format!("ws://localhost/{query}"), tcp).await
    };
    let (mut socket, _) = open("?delay=50ms&close=1011").await.unwrap();
    let Some(Ok(Message::Close(Some(CloseFrame { code, .. })))) = socket.next().await else {
        panic!("no Close frame")
    };
    assert_eq!(u16::from(code), 1011);
    let refused = open("?upgrade=429").await.unwrap_err();
    assert!(matches!(&refused, Error::Http(response) if response.status() == 429), "{refused:?}");
    let refused = open("?ws-close=70000").await.unwrap_err();
    assert!(matches!(&refused, Error::Http(response) if response.status() == 400), "{refused:?}");
    let (mut socket, _) = open("?ws-mask").await.unwrap();
    socket.send(Message::text("x")).await.unwrap();
    let error = socket.next().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Protocol(ProtocolError::MaskedFrameFromServer)), "{error:?}");
    let (mut socket, _) = open("").await.unwrap();
    socket.send(Message::text("exact")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("exact"));
}

/// The error of a TLS handshake with a server by `name`, and the bytes that come if there is none.
async fn handshake(server: SocketAddr, name: &str) -> Result<Vec<u8>, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(common::ca_certificates());
    let mut client =
        rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    client.dangerous().set_certificate_verifier(Arc::new(AnyName));
    let tcp = TcpStream::connect(server).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connected = TlsConnector::from(Arc::new(client)).connect(name, tcp).await;
    let mut stream = connected.map_err(|error| match error.get_ref() {
        Some(inner) => inner.to_string(),
        None => format!("{:?}", error.kind()),
    })?;
    stream.write_all(b"hello").await.map_err(|error| error.to_string())?;
    let mut echo = Vec::new();
    match stream.read_to_end(&mut echo).await {
        Ok(_) => Ok(echo),
        Err(error) => Err(format!("{:?} after {}", error.kind(), echo.len())),
    }
}

/// Verifies nothing: the names of these tests are in no certificate.
#[derive(Debug)]
struct AnyName;

impl rustls::client::danger::ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[tokio::test]
async fn a_handshake_fails_as_planned_or_as_the_server_name_asks() {
    for protocol in [Protocol::Tls, Protocol::Wss] {
        let by_request = config(protocol, "").faults(|faults| faults.by_request = true);
        let asked = TestServer::with(by_request).await;
        for (fault, name, end) in [
            ("handshake=reset", "reset.localhost", "ConnectionReset"),
            (
                "handshake=garbage",
                "garbage.localhost",
                "received corrupt message of type InvalidContentType",
            ),
            (
                "handshake=plain",
                "plain.localhost",
                "received corrupt message of type InvalidContentType",
            ),
            (
                "handshake=alert:internal_error",
                "alert-internal-error.localhost",
                "received fatal alert: InternalError",
            ),
        ] {
            let planned = start(protocol, fault).await;
            assert_eq!(
                handshake(planned.address, "localhost").await.unwrap_err(),
                end,
                "{protocol} {fault}"
            );
            assert_eq!(handshake(asked.address, name).await.unwrap_err(), end, "{protocol} {name}");
        }
        let stalled = start(protocol, "handshake=stall").await;
        for (server, name) in [(stalled.address, "localhost"), (asked.address, "stall.localhost")] {
            let silence =
                tokio::time::timeout(Duration::from_millis(100), handshake(server, name)).await;
            assert!(silence.is_err(), "{protocol} {name}: {silence:?}");
        }
        let refused = handshake(asked.address, "delay-1h.localhost").await.unwrap_err();
        assert_eq!(refused, "received fatal alert: UnrecognisedName");
    }
    let config = config(Protocol::Tls, "").faults(|faults| faults.by_request = true);
    let server = TestServer::with(config).await;
    assert_eq!(handshake(server.address, "close-3.localhost").await, Ok(b"hel".to_vec()));
    assert_eq!(
        handshake(server.address, "truncate-3.localhost").await,
        Err("UnexpectedEof after 3".into())
    );
    assert_eq!(
        handshake(server.address, "reset-3.localhost").await,
        Err("ConnectionReset after 3".into())
    );
}

/// A drain must not wait for anybody who stalls before the echo.
#[tokio::test]
async fn a_drain_ends_what_stalls_in_a_handshake_or_a_request() {
    let server = start(Protocol::Tls, "handshake=stall").await;
    let mut hanging = std::pin::pin!(handshake(server.address, "localhost"));
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut hanging).await.is_err());
    let (summary, end) = tokio::join!(server.stop(), hanging);
    assert_eq!((summary.aborted, end), (0, Err("tls handshake eof".to_owned())));
    let server = start(Protocol::Ws, "upgrade=stall").await;
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let mut hanging = std::pin::pin!(tokio_tungstenite::client_async("ws://localhost/", tcp));
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut hanging).await.is_err());
    let (summary, end) = tokio::join!(server.stop(), hanging);
    assert!(summary.aborted == 0 && end.is_err(), "{summary:?}");
}

#[tokio::test]
async fn many_connections_are_late_at_once_and_none_is_wrong() {
    let server = start(Protocol::Tcp, "delay=20ms,jitter=20ms,slice=333").await;
    let clients = (0..100).map(async |_| {
        let mut client = Client::connect(Protocol::Tcp, &server).await;
        for size in [1, 1000, 10_000] {
            assert_eq!(client.echo(&noise(size)).await, noise(size));
        }
    });
    join_all(clients).await;
}

#[tokio::test]
async fn the_log_the_metrics_and_the_facts_tell_what_was_done() {
    let server = Running::start(&[
        "--tcp=0",
        "--admin=0",
        "--log-format=json",
        "--facts=tcp",
        "--fault=tcp:delay=10ms,corrupt=100%",
        "--fault=tcp:reset=2KB",
        "--fault-seed=7",
    ]);
    let mut client = TcpStream::connect(server.address("tcp")).await.unwrap();
    let local = client.local_addr().unwrap();
    client.write_all(&[0; 3000]).await.unwrap();
    let (bytes, error) = rest(&mut client).await;
    assert_eq!((bytes.len(), error), (2000, Some(ErrorKind::ConnectionReset)));
    let metrics = Metrics::of(admin(&server));
    for (fault, count) in [("delay", 1.0), ("corrupt", 2000.0), ("reset", 1.0)] {
        let series = format!(r#"echo_faults_total{{protocol="tcp",fault="{fault}"}}"#);
        assert_eq!(metrics.find(&series), Some(count), "{}", metrics.0);
    }
    let closed = r#"echo_connections_closed_total{protocol="tcp",reason="on_purpose"}"#;
    assert_eq!(metrics.find(closed), Some(1.0));
    let log = Log::of(server);
    let line = log.closing(Protocol::Tcp, local);
    assert_eq!(line["faults"], "delay=10ms,corrupt=100%,reset=2000 (2000 bytes corrupted)");
    assert_eq!(line["reason"], "reset on purpose after 2000 bytes");
    assert_eq!((&line["received"], &line["sent"]), (&3000.into(), &2000.into()));
    assert_eq!(log.all("Faults on purpose")[1]["faults"], "tcp:reset=2000");

    assert_eq!(log.all("Faults on purpose")[1]["seed"], 7);
}

#[tokio::test]
async fn the_log_does_not_count_what_an_end_has_overtaken() {
    let server =
        Running::start(&["--tcp=0", "--log-format=json", "--fault=tcp:delay=50s,reset=50ms"]);
    let mut client = TcpStream::connect(server.address("tcp")).await.unwrap();
    let local = client.local_addr().unwrap();
    client.write_all(&[0; 1000]).await.unwrap();
    assert_eq!(rest(&mut client).await, (Vec::new(), Some(ErrorKind::ConnectionReset)));
    let log = Log::of(server);
    let line = log.closing(Protocol::Tcp, local);
    assert_eq!(line["reason"], "reset on purpose after 0 bytes");
    assert_eq!((&line["received"], &line["sent"]), (&1000.into(), &0.into()));
}

#[tokio::test]
async fn the_log_tells_what_was_done_to_a_websocket() {
    let server = Running::start(&["--ws=0", "--log-format=json", "--fault=ws:close=0"]);
    let mut client = TcpStream::connect(server.address("ws")).await.unwrap();
    let local = client.local_addr().unwrap();
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    rest(&mut client).await;
    drop(client);
    let log = Log::of(server);
    let line = log.closing(Protocol::Ws, local);
    assert_eq!(
        (&line["faults"], &line["reason"]),
        (&"close=0".into(), &"closed on purpose after 0 bytes".into())
    );
}

#[tokio::test]
async fn the_log_names_the_end_on_purpose_if_the_clients_own_comes_with_it() {
    let server = Running::start(&["--tcp=0", "--log-format=json", "--fault=tcp:close=3"]);
    let mut locals = Vec::new();
    for _ in 0..50 {
        let mut client = TcpStream::connect(server.address("tcp")).await.unwrap();
        locals.push(client.local_addr().unwrap());
        client.write_all(b"hello").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(rest(&mut client).await, (b"hel".to_vec(), None));
    }
    let log = Log::of(server);
    for local in locals {
        let line = log.closing(Protocol::Tcp, local);
        assert_eq!(line["reason"], "closed on purpose after 3 bytes");
    }
}

#[tokio::test]
async fn the_facts_name_the_faults_that_are_planned() {
    let server = Running::start(&["--tcp=0", "--facts=tcp", "--fault=tcp:delay=10ms"]);
    let mut client = TcpStream::connect(server.address("tcp")).await.unwrap();
    client.shutdown().await.unwrap();
    let (facts, _) = rest(&mut client).await;
    let facts: serde_json::Value = serde_json::from_slice(&facts).unwrap();
    assert_eq!(facts["faults"], "delay=10ms");
}

#[test]
fn faults_that_cannot_be_are_refused_at_start() {
    for (args, said) in [
        (
            &["--fault=drop=1%"][..],
            "--fault: drop=1% on tcp: a byte stream that lacks bytes is corrupt, and not lossy",
        ),
        (
            &["--udp=0", "--tcp=0", "--fault=drop=1%"],
            "--fault: drop=1% on tcp: a byte stream that lacks bytes is corrupt, and not lossy; udp:drop=1% is possible",
        ),
        (&["--fault=udp:drop=1%"], "--fault udp: no listener speaks it; --udp starts one"),
        (
            &["--udp=0", "--fault=udp:reset=0"],
            "--fault: reset=0 on udp: datagrams have no connection that could end; drop=100% echoes none",
        ),
        (
            &["--fault=truncate=1"],
            "--fault: truncate=1 on tcp: TCP has no farewell but its FIN, which close sends",
        ),
        (
            &["--ws=0", "--fault=handshake=stall"],
            "--fault: handshake=stall on ws: it does not run over TLS",
        ),
        (&["--fault=ws-mask"], "--fault: ws-mask on tcp: it is not WebSocket"),
        (&["--udp=0", "--fault=slice=1"], "--fault: slice=1 on udp: a datagram is sent whole"),
        (
            &["--fault-by-request"],
            "--fault-by-request: no listener speaks a protocol that has a place for requests: tls, ws or wss",
        ),
        (&["--fault=delay=60s"], "--fault: delay=1m: it has to be less than the stall timeout, 1m"),
        (&["--fault=delay"], "delay: a value is missing, as in delay=200ms"),
        (&["--fault=delay=5"], "delay: expected a time with a unit, like 200ms, 1.5s or 2min"),
        (
            &["--fault=reset=5m"],
            "reset: expected 0, a size like 64KiB, or a time with a unit, like 5s or 2min",
        ),
        (&["--fault=reset=1,close=1"], "close: reset ends the connection already"),
        (&["--fault=delay=1s,delay=2s"], "delay: it is there twice"),
        (&["--fault=share=10%"], "share: of what?"),
        (&["--fault=sctp:delay=1s"], "'sctp' is no protocol: tcp, tls, udp, ws or wss"),
        (&["--fault=dealy=1s"], "'dealy' is no fault"),
        (&["--fault=corrupt=2"], "corrupt: expected a share, like 1% or 0.01, from 0 to 1"),
        (
            &["--tls=0", "--fault=handshake=alert:nonsense"],
            "'nonsense' is no alert of RFC 8446 section 6",
        ),
        (
            &["--ws=0", "--fault=upgrade=99"],
            "upgrade: expected stall, or a status from 200 to 599, like 503",
        ),
        (&["--fault="], "an empty item"),
    ] {
        let output = command().args(args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        let error = stderr.lines().find(|line| line.contains("error")).unwrap_or(&stderr);
        assert!(error.contains(said), "{args:?}: {stderr}");
    }
}

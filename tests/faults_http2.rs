//! Faults on purpose over HTTP/2: those of the link are the connection's, all others each stream's.

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::TestServer;
use echo_server::{Config, FaultGroup, Protocol};
use h2::ext::Protocol as ConnectProtocol;
use h2::{Reason, RecvStream, SendStream, client};
use hyper::{Method, Request, StatusCode, Version};
use tokio::net::TcpStream;
use tokio::time::timeout;

type Client = client::SendRequest<Bytes>;

async fn start(faults: &str, by_request: bool) -> TestServer {
    let config = Config::new().listen(Protocol::Ws, ([127, 0, 0, 1], 0)).faults(|policy| {
        policy.seed = Some(7);
        policy.by_request = by_request;
    });
    TestServer::with(match faults {
        "" => config,
        faults => config.fault(faults.parse::<FaultGroup>().unwrap()),
    })
    .await
}

/// HTTP/2 with prior knowledge, when the server's SETTINGS have come.
async fn connect(server: &TestServer) -> Client {
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let (mut client, connection) = client::handshake(tcp).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    let page = Request::builder().uri("http://localhost/").body(()).unwrap();
    assert_eq!(client.send_request(page, true).unwrap().0.await.unwrap().status(), StatusCode::OK);
    client
}

/// The response to a request for a WebSocket at `path`.
async fn open(client: &mut Client, path: &str) -> (StatusCode, RecvStream, SendStream<Bytes>) {
    let request = Request::builder()
        .method(Method::CONNECT)
        .version(Version::HTTP_2)
        .uri(format!("http://localhost{path}"))
        .header("sec-websocket-version", "13")
        .extension(ConnectProtocol::from_static("websocket"))
        .body(())
        .unwrap();
    let (response, sending) = client.send_request(request, false).unwrap();
    let response = response.await.unwrap();
    (response.status(), response.into_body(), sending)
}

/// All that comes on a stream, and the reason if it is reset.
async fn rest(receiving: &mut RecvStream) -> (Vec<u8>, Option<Reason>) {
    let mut bytes = Vec::new();
    while let Some(data) = receiving.data().await {
        match data {
            Ok(data) => {
                receiving.flow_control().release_capacity(data.len()).unwrap();
                bytes.extend(data);
            }
            Err(error) => return (bytes, error.reason()),
        }
    }
    (bytes, None)
}

/// "Hello" of RFC 6455 section 5.7, and its echo.
const HELLO: [u8; 11] = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
const ECHO: [u8; 7] = *b"\x81\x05Hello";

#[tokio::test]
async fn a_stream_does_what_its_request_asks_for_and_the_others_do_not() {
    let server = start("", true).await;
    let mut client = connect(&server).await;
    let (_, mut exact, mut exact_sending) = open(&mut client, "/").await;
    for (path, status, bytes, reason) in [
        ("/?upgrade=503", 503, None, None),
        ("/?delay=1h", 400, None, None),
        ("/?ws-close=1011", 200, Some(&b"\x88\x02\x03\xf3"[..]), None),
        ("/?close=5B", 200, Some(b"\x81\x05Hello\x88\x02\x03\xe9"), None),
        ("/?truncate=3", 200, Some(b"\x81\x05Hel"), None),
        ("/?reset=3", 200, Some(b"\x81\x05Hel"), Some(Reason::CANCEL)),
        ("/?ws-utf8", 200, Some(b"\x81\x05\xffello"), None),
    ] {
        let (answered, mut receiving, mut sending) = open(&mut client, path).await;
        assert_eq!(answered.as_u16(), status, "{path}");
        let Some(bytes) = bytes else { continue };
        let _ = sending.send_data(Bytes::from_static(&HELLO), false);
        // A Close frame, so that those end that do not end by themselves.
        let _ = sending.send_data(Bytes::from_static(&[0x88, 0x80, 0, 0, 0, 0]), true);
        let (mut got, end) = rest(&mut receiving).await;
        if path == "/?ws-utf8" {
            got.truncate(bytes.len());
        }
        assert_eq!((got.as_slice(), end), (bytes, reason), "{path}");
    }
    exact_sending.send_data(Bytes::from_static(&HELLO), false).unwrap();
    let echo = exact.data().await.unwrap().unwrap();
    assert_eq!(echo[..], ECHO);
}

#[tokio::test]
async fn a_plain_request_does_what_it_asks_for() {
    let server = start("", true).await;
    let mut client = connect(&server).await;
    let mut get = async |path: &str| {
        let request = Request::builder().uri(format!("http://localhost{path}")).body(()).unwrap();
        let response = match client.send_request(request, true).unwrap().0.await {
            Ok(response) => response,
            // h2 gives up a response when a reset comes right behind it.
            Err(error) => return (200, 100, error.reason()),
        };
        let status = response.status().as_u16();
        let (bytes, reason) = rest(&mut response.into_body()).await;
        (status, bytes.len(), reason)
    };
    let (_, page, _) = get("/").await;
    let before = Instant::now();
    assert_eq!(get("/?delay=50ms&slice=1000").await, (200, page, None));
    assert!(before.elapsed() >= Duration::from_millis(50));
    assert_eq!(get("/?upgrade=429").await.0, 429);
    assert_eq!(get("/?reset=100").await, (200, 100, Some(Reason::CANCEL)));
    // The length is not that of the Content-Length field.
    assert_eq!(get("/?truncate=100").await, (200, 100, Some(Reason::PROTOCOL_ERROR)));
    for path in ["/?upgrade=stall", "/?stall=0"] {
        assert!(timeout(Duration::from_millis(100), get(path)).await.is_err(), "{path}");
    }
    // All of them end with a drain.
    assert_eq!(server.stop().await.aborted, 0);
}

#[tokio::test]
async fn the_body_of_a_request_that_misbehaves_is_not_echoed() {
    let server = start("", true).await;
    let mut client = connect(&server).await;
    for path in ["/", "/?slice=100", "/?delay=20ms"] {
        let request = Request::builder().uri(format!("http://localhost{path}")).body(()).unwrap();
        let (response, mut sending) = client.send_request(request, false).unwrap();
        sending.send_data(Bytes::from_static(&[b'x'; 1000]), false).unwrap();
        let response = response.await.unwrap();
        let length = response.headers()["content-length"].to_str().unwrap().to_owned();
        let (bytes, _) = rest(&mut response.into_body()).await;
        assert_eq!(bytes.len().to_string(), length, "{path}");
    }
}

#[tokio::test]
async fn what_comes_before_a_late_response_is_echoed_behind_it() {
    let server = start("", true).await;
    let mut client = connect(&server).await;
    let request = Request::builder()
        .method(Method::CONNECT)
        .version(Version::HTTP_2)
        .uri("http://localhost/?delay=50ms")
        .header("sec-websocket-version", "13")
        .extension(ConnectProtocol::from_static("websocket"))
        .body(())
        .unwrap();
    let (response, mut sending) = client.send_request(request, false).unwrap();
    for byte in HELLO {
        sending.send_data(Bytes::copy_from_slice(&[byte]), false).unwrap();
    }
    let mut receiving = response.await.unwrap().into_body();
    assert_eq!(receiving.data().await.unwrap().unwrap()[..], ECHO);
}

#[tokio::test]
async fn a_late_response_is_no_handshake_that_takes_too_long_and_a_drain_ends_the_delay() {
    let config = Config::new().listen(Protocol::Ws, ([127, 0, 0, 1], 0));
    let config = config.faults(|faults| faults.by_request = true);
    let handshake = Some(Duration::from_millis(100));
    let server = TestServer::with(config.timeouts(|timeouts| timeouts.handshake = handshake)).await;
    let mut client = connect(&server).await;
    let (status, ..) = open(&mut client, "/?delay=300ms").await;
    assert_eq!(status, StatusCode::OK);
    let late = open(&mut client, "/?delay=10s");
    let mut late = std::pin::pin!(late);
    assert!(timeout(Duration::from_millis(50), &mut late).await.is_err());
    let (summary, (status, ..)) = tokio::join!(server.stop(), late);
    assert_eq!((summary.aborted, status), (0, StatusCode::OK));
}

#[tokio::test]
async fn planned_faults_of_the_link_are_the_connections_and_others_each_streams() {
    let server = start("delay=20ms,close=0,ws-close=1012", false).await;
    let mut client = connect(&server).await;
    for _ in 0..2 {
        let before = Instant::now();
        let (status, mut receiving, _sending) = open(&mut client, "/").await;
        assert_eq!(
            (status, rest(&mut receiving).await.0),
            (StatusCode::OK, b"\x88\x02\x03\xf4".to_vec())
        );
        assert!(before.elapsed() >= Duration::from_millis(20));
    }
}

//! HTTP/2 on WebSocket listeners: the page, WebSockets on streams (RFC 8441), and how they end.

mod common;

use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

use common::{TestServer, ca_certificates, cert, tools};
use echo_server::{Config, Protocol};
use h2::ext::Protocol as ConnectProtocol;
use h2::{RecvStream, SendStream, client};
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

type Client = client::SendRequest<Bytes>;

/// HTTP/2 with prior knowledge, over plain TCP.
async fn connect(server: &TestServer) -> Client {
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let (mut client, connection) = client::handshake(tcp).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    // After a response the server's SETTINGS have come, which extended CONNECT needs.
    let page = Request::builder().uri("http://localhost/").body(()).unwrap();
    let (response, _) = client.send_request(page, true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
    assert!(client.is_extended_connect_protocol_enabled());
    client
}

fn extended_connect(protocol: &'static str) -> Request<()> {
    Request::builder()
        .method(Method::CONNECT)
        .version(Version::HTTP_2)
        .uri("http://localhost/any/path")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat.v2, chat.v1")
        .header("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")
        .extension(ConnectProtocol::from_static(protocol))
        .body(())
        .unwrap()
}

async fn websocket(client: &mut Client) -> (Response<RecvStream>, SendStream<Bytes>) {
    let (response, sending) = client.send_request(extended_connect("websocket"), false).unwrap();
    (response.await.unwrap(), sending)
}

/// Reads as many bytes as `expected` has, and compares them.
async fn reads(receiving: &mut RecvStream, expected: &[u8]) {
    let mut read = Vec::new();
    while read.len() < expected.len() {
        let bytes = receiving.data().await.expect("not yet the end").unwrap();
        receiving.flow_control().release_capacity(bytes.len()).unwrap();
        read.extend(bytes);
    }
    assert_eq!(read, expected);
}

/// "Hello" of RFC 6455 section 5.7, and its echo.
const HELLO: [u8; 11] = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
const ECHO: [u8; 7] = *b"\x81\x05Hello";

#[tokio::test]
async fn several_streams_of_a_connection_can_be_websockets() {
    let server = TestServer::start(Protocol::Ws).await;
    let mut client = connect(&server).await;
    let mut streams = Vec::new();
    for _ in 0..50 {
        let (response, sending) = websocket(&mut client).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat.v2");
        let extensions = &response.headers()["sec-websocket-extensions"];
        assert_eq!(extensions, "permessage-deflate; client_no_context_takeover");
        assert!(!response.headers().contains_key("sec-websocket-accept"));
        streams.push((response.into_body(), sending));
    }
    for (_, sending) in &mut streams {
        sending.send_data(Bytes::from_static(&HELLO), false).unwrap();
    }
    for (receiving, _) in &mut streams {
        reads(receiving, &ECHO).await;
    }
    // A Close frame is answered, and then the stream ends.
    let (receiving, sending) = &mut streams[7];
    sending.send_data(Bytes::from_static(&[0x88, 0x82, 0, 0, 0, 0, 3, 0xE8]), false).unwrap();
    reads(receiving, &[0x88, 2, 3, 0xE8]).await;
    assert!(receiving.data().await.is_none_or(|end| end.unwrap().is_empty()));
    // The other streams go on.
    let (receiving, sending) = &mut streams[8];
    sending.send_data(Bytes::from_static(&HELLO), false).unwrap();
    reads(receiving, &ECHO).await;
}

#[tokio::test]
async fn requests_for_anything_else_are_answered() {
    let server = TestServer::start(Protocol::Ws).await;
    let mut client = connect(&server).await;
    let no_version = {
        let mut request = extended_connect("websocket");
        request.headers_mut().remove("sec-websocket-version");
        request
    };
    let two_origins = {
        let mut request = extended_connect("websocket");
        for origin in ["http://a", "http://b"] {
            request.headers_mut().append("origin", origin.parse().unwrap());
        }
        request
    };
    let plain = |method: Method, path: &str| {
        let uri = format!("http://localhost{path}");
        Request::builder().method(method).uri(uri).body(()).unwrap()
    };
    let cases = [
        (extended_connect("connect-udp"), StatusCode::NOT_IMPLEMENTED),
        (no_version, StatusCode::UPGRADE_REQUIRED),
        (two_origins, StatusCode::BAD_REQUEST),
        (plain(Method::HEAD, "/"), StatusCode::OK),
        (plain(Method::GET, "/elsewhere"), StatusCode::NOT_FOUND),
        (plain(Method::POST, "/"), StatusCode::METHOD_NOT_ALLOWED),
    ];
    for (request, status) in cases {
        let is_head = request.method() == Method::HEAD;
        let (response, _) = client.send_request(request, true).unwrap();
        let mut response = response.await.unwrap();
        assert_eq!(response.status(), status);
        let body = response.body_mut().data().await;
        assert_eq!(body.is_none(), is_head);
        assert!(response.headers().contains_key("content-length"));
    }
}

#[tokio::test]
async fn each_stream_counts_towards_the_limit_on_connections() {
    let config = Config::new()
        .listen(Protocol::Ws, ([127, 0, 0, 1], 0))
        .limits(|limits| limits.max_connections = Some(3));
    let server = TestServer::with(config).await;
    let mut client = connect(&server).await;
    let _two = (websocket(&mut client).await, websocket(&mut client).await);
    let (refused, _) = websocket(&mut client).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn at_shutdown_a_stream_is_told_1001_and_the_connection_ends() {
    let server = TestServer::start(Protocol::Ws).await;
    let mut client = connect(&server).await;
    let (response, mut sending) = websocket(&mut client).await;
    let mut receiving = response.into_body();
    sending.send_data(Bytes::from_static(&HELLO), false).unwrap();
    reads(&mut receiving, &ECHO).await;
    let stopping = tokio::spawn(server.stop());
    reads(&mut receiving, &[0x88, 2, 3, 0xE9]).await;
    sending.send_data(Bytes::from_static(&[0x88, 0x82, 0, 0, 0, 0, 3, 0xE9]), true).unwrap();
    assert!(receiving.data().await.is_none_or(|end| end.unwrap().is_empty()));
    let summary = stopping.await.unwrap();
    assert_eq!((summary.drained, summary.aborted), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_gets_the_page_over_both_versions() {
    if !tools::have(&["curl", "--version"], "HTTP2") {
        return;
    }
    let server = TestServer::start(Protocol::Wss).await;
    let url = format!("https://localhost:{}/", server.address.port());
    let ways = [("--http2", "2", true), ("--http1.1", "1.1", true), ("--http2", "2", false)];
    for (flag, version, is_get) in ways {
        let mut curl = std::process::Command::new("curl");
        curl.args(["--silent", "--show-error", flag, "--write-out", "\n%{http_version}"])
            .arg("--cacert")
            .arg(cert("ca.pem"))
            .args((!is_get).then_some("--head"))
            .arg(&url);
        let output = tools::run_async(curl, Vec::new()).await;
        let said = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}{stderr}");
        assert_eq!(said.contains("<title>"), is_get, "{said}{stderr}");
        assert!(said.ends_with(&format!("\n{version}")), "{said}");
    }
}

/// A client that has sent its preface and an empty SETTINGS frame, and sends nothing more.
async fn silent(server: &TestServer) -> TcpStream {
    let mut client = TcpStream::connect(server.address).await.unwrap();
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    client.read_u8().await.expect("the server's settings");
    client
}

#[tokio::test]
async fn a_client_without_a_request_is_closed_at_the_handshake_timeout() {
    let config = Config::new()
        .listen(Protocol::Ws, ([127, 0, 0, 1], 0))
        .timeouts(|timeouts| timeouts.handshake = Some(Duration::from_millis(300)));
    let server = TestServer::with(config).await;
    let mut client = silent(&server).await;
    let mut rest = Vec::new();
    timeout(Duration::from_secs(10), client.read_to_end(&mut rest)).await.unwrap().ok();
}

#[tokio::test]
async fn a_client_that_does_not_answer_goaway_is_not_waited_for() {
    let server = TestServer::start(Protocol::Ws).await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    // A GET of the page. HPACK's static table has GET, http and /.
    let get = b"\0\0\x04\x01\x05\0\0\0\x01\x82\x86\x84\x41";
    let get = [&get[..], b"\x01x"].concat();
    let get = [&b"\0\0\x06"[..], &get[3..]].concat();
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    client.write_all(&get).await.unwrap();
    let mut page = vec![0; 20_000];
    client.read_exact(&mut page).await.unwrap();
    let summary = timeout(Duration::from_secs(9), server.stop()).await.expect("within its linger");
    assert_eq!((summary.drained, summary.aborted), (1, 0));
}

/// The client's task is the connection's: it ends when the server has closed.
async fn connect_with(
    server: &TestServer,
    builder: &client::Builder,
) -> (Client, tokio::task::JoinHandle<Result<(), h2::Error>>) {
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let (mut client, connection) = builder.handshake(tcp).await.unwrap();
    let connection = tokio::spawn(connection);
    let page = Request::builder().method(Method::HEAD).uri("http://localhost/").body(()).unwrap();
    let (response, _) = client.send_request(page, true).unwrap();
    response.await.unwrap();
    (client, connection)
}

#[tokio::test]
async fn streams_that_stall_are_reset_and_a_client_that_lets_all_stall_is_closed() {
    const STREAMS: usize = 100;
    let config = Config::new()
        .listen(Protocol::Ws, ([127, 0, 0, 1], 0))
        .limits(|limits| limits.max_connections = Some(STREAMS + 1))
        .timeouts(|timeouts| timeouts.stall = Some(Duration::from_millis(300)));
    let server = TestServer::with(config).await;
    // No window: nothing of an echo can be sent.
    let mut builder = client::Builder::new();
    builder.initial_window_size(0);
    let (mut client, connection) = connect_with(&server, &builder).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let (response, mut sending) = websocket(&mut client).await;
        assert_eq!(response.status(), StatusCode::OK);
        sending.send_data(Bytes::from_static(&HELLO), false).unwrap();
        streams.push((response.into_body(), sending));
    }
    for (receiving, _) in &mut streams {
        let error = receiving.data().await.expect("a reset, and not an end").unwrap_err();
        assert_eq!((error.is_reset(), error.reason()), (true, Some(h2::Reason::CANCEL)));
    }
    drop(client);
    drop(streams);
    timeout(Duration::from_secs(20), connection).await.expect("closed").unwrap().ok();
    // Every place is free again.
    let mut client = connect(&server).await;
    assert_eq!(websocket(&mut client).await.0.status(), StatusCode::OK);
    server.stop().await;
}

#[tokio::test]
async fn a_stream_that_stalls_takes_no_other_with_it() {
    let config = Config::new()
        .listen(Protocol::Ws, ([127, 0, 0, 1], 0))
        .timeouts(|timeouts| timeouts.stall = Some(Duration::from_millis(300)));
    let server = TestServer::with(config).await;
    let mut builder = client::Builder::new();
    builder.initial_window_size(7);
    let (mut client, _connection) = connect_with(&server, &builder).await;
    let (response, mut stalled) = websocket(&mut client).await;
    let mut stalled_receiving = response.into_body();
    let (response, mut sending) = websocket(&mut client).await;
    let mut receiving = response.into_body();
    // The first echo fills the window, the second has no place.
    for _ in 0..2 {
        stalled.send_data(Bytes::from_static(&HELLO), false).unwrap();
    }
    assert_eq!(stalled_receiving.data().await.unwrap().unwrap()[..], ECHO);
    assert!(stalled_receiving.data().await.unwrap().unwrap_err().is_reset());
    sending.send_data(Bytes::from_static(&HELLO), false).unwrap();
    reads(&mut receiving, &ECHO).await;
}

/// Flow control is the only limit that a client meets that keeps to it.
#[tokio::test]
async fn many_small_frames_on_every_stream_are_all_echoed() {
    const STREAMS: usize = 100;
    const MESSAGES: usize = 1000;
    let server = TestServer::start(Protocol::Ws).await;
    // It is the server whose patience is asked about.
    let mut builder = client::Builder::new();
    builder.data_frame_budget(1 << 30).initial_connection_window_size(1 << 20);
    let (mut client, _connection) = connect_with(&server, &builder).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let (response, sending) = websocket(&mut client).await;
        streams.push((response.into_body(), sending));
    }
    // A binary message of one byte, and a frame of HTTP/2 for each.
    let message = Bytes::from_static(&[0x82, 0x81, 0, 0, 0, 0, b'x']);
    for _ in 0..MESSAGES {
        for (_, sending) in &mut streams {
            sending.send_data(message.clone(), false).unwrap();
        }
    }
    let echo = [0x82, 1, b'x'].repeat(MESSAGES);
    for (receiving, _) in &mut streams {
        timeout(Duration::from_secs(60), reads(receiving, &echo)).await.expect("all come back");
    }
}

#[tokio::test]
async fn a_client_that_does_not_answer_a_ping_is_closed() {
    let config = Config::new()
        .listen(Protocol::Ws, ([127, 0, 0, 1], 0))
        .timeouts(|timeouts| timeouts.ping = Some(Duration::from_millis(200)));
    let server = TestServer::with(config).await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    // A HEAD of the page: a literal method, and http and / of HPACK's static table.
    client.write_all(b"\0\0\x0b\x01\x05\0\0\0\x01\x02\x04HEAD\x86\x84\x41\x01x").await.unwrap();
    let mut received = Vec::new();
    let ended = timeout(Duration::from_secs(20), client.read_to_end(&mut received)).await;
    ended.expect("it is closed").unwrap();
    // A PING frame has 8 bytes and type 6; GOAWAY is type 7.
    let has = |frame: &[u8]| received.windows(frame.len()).any(|window| window == frame);
    assert!(has(b"\0\0\x08\x06\0\0\0\0\0"), "{received:x?}");
    assert!(has(b"\0\0\x08\x07\0\0\0\0\0"), "{received:x?}");
}

/// TLS to `server`, and the bytes that it answers to `request` until it closes.
async fn exchange_with_alpn(server: &TestServer, alpn: &[&str], request: &[u8]) -> Vec<u8> {
    let mut roots = RootCertStore::empty();
    for root in ca_certificates() {
        roots.add(root).unwrap();
    }
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), alpn.first().map(|name| name.as_bytes()));
    stream.write_all(request).await.unwrap();
    if request == PREFACE {
        // An HTTP/2 connection goes on until its client closes it.
        stream.shutdown().await.unwrap();
    }
    let mut answer = Vec::new();
    // Without close_notify this would be an error.
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// The client's preface, with an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[tokio::test]
async fn a_client_has_to_speak_the_version_of_http_that_alpn_selected() {
    let server = TestServer::start(Protocol::Wss).await;
    let is_http2 = |answer: &[u8]| answer.get(3) == Some(&4);
    // SETTINGS, and GOAWAY with PROTOCOL_ERROR (RFC 9113 section 7).
    let goaway = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x01";
    assert_eq!(exchange_with_alpn(&server, &["h2", "http/1.1"], GET).await, goaway);
    let answer = exchange_with_alpn(&server, &["http/1.1"], PREFACE).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
    assert!(is_http2(&exchange_with_alpn(&server, &["h2"], PREFACE).await));
    assert!(exchange_with_alpn(&server, &["http/1.1"], GET).await.starts_with(b"HTTP/1.1 200 "));
    // Where ALPN says nothing about HTTP, the preface decides.
    let config = Config::new().listen(Protocol::Wss, ([127, 0, 0, 1], 0));
    let other = TestServer::with(config.tls(|tls| tls.alpn = vec!["foo".to_owned()])).await;
    for (server, alpn) in [(&server, &[][..]), (&other, &["foo"])] {
        assert!(is_http2(&exchange_with_alpn(server, alpn, PREFACE).await));
        assert!(exchange_with_alpn(server, alpn, GET).await.starts_with(b"HTTP/1.1 200 "));
    }
}

//! What only WebSocket has: its opening request, frame kinds and close codes, and real clients.

mod common;

use std::process::Command;

use common::client::websocket;
use common::{TestServer, cert, tools};
use echo_server::{Config, Protocol};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

async fn connect(server: &TestServer) -> WebSocketStream<TcpStream> {
    websocket(TcpStream::connect(server.address).await.unwrap()).await
}

/// Sends raw bytes, ends the input, and returns all that comes back.
async fn exchange(server: &TestServer, request: &[u8]) -> String {
    let mut client = TcpStream::connect(server.address).await.unwrap();
    client.write_all(request).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("a FIN, not a reset");
    String::from_utf8_lossy(&answer).into_owned()
}

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[tokio::test]
async fn text_stays_text_and_binary_stays_binary() {
    let server = TestServer::start(Protocol::Ws).await;
    let mut client = connect(&server).await;
    for message in [Message::text("grüß dich"), Message::binary(vec![0, 255]), Message::text("")]
    {
        client.send(message.clone()).await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), message);
    }
}

#[tokio::test]
async fn a_ping_is_answered_with_its_payload() {
    let server = TestServer::start(Protocol::Ws).await;
    let mut client = connect(&server).await;
    client.send(Message::Ping("are you there?".into())).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Pong("are you there?".into()));
}

#[tokio::test]
async fn a_flood_of_messages_comes_back_in_order() {
    let server = TestServer::start(Protocol::Ws).await;
    let (mut sending, mut receiving) = connect(&server).await.split();
    let messages = |i: usize| Message::binary(vec![i as u8; i % 3000]);
    let sender = tokio::spawn(async move {
        for i in 0..5000 {
            sending.feed(messages(i)).await.unwrap();
        }
        sending.flush().await.unwrap();
        sending
    });
    for i in 0..5000 {
        assert_eq!(receiving.next().await.unwrap().unwrap(), messages(i));
    }
    drop(sender.await.unwrap());
}

#[tokio::test]
async fn a_frame_sent_together_with_the_request_is_not_lost() {
    let server = TestServer::start(Protocol::Ws).await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    // The request of RFC 6455 section 1.3, and behind it "Hello" as in section 5.7.
    let mut request = UPGRADE.as_bytes().to_vec();
    request.extend([0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    client.write_all(&request).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\x81\x05Hello") {
        assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0, "{answer:?}");
    }
    let head = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(head.starts_with("http/1.1 101 switching protocols\r\n"), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
}

#[tokio::test]
async fn text_that_is_not_utf8_is_closed_with_1007() {
    let server = TestServer::start(Protocol::Ws).await;
    let mut client = connect(&server).await;
    // A text frame with the payload 0xFF, and a masking key of zeros.
    client.get_mut().write_all(&[0x81, 0x81, 0, 0, 0, 0, 0xFF]).await.unwrap();
    assert_eq!(close_code(&mut client).await, CloseCode::Invalid);
}

#[tokio::test]
async fn an_unmasked_frame_is_closed_with_1002() {
    let server = TestServer::start(Protocol::Ws).await;
    let mut client = connect(&server).await;
    client.get_mut().write_all(&[0x82, 0x01, 0x00]).await.unwrap();
    assert_eq!(close_code(&mut client).await, CloseCode::Protocol);
}

#[tokio::test]
async fn at_shutdown_a_client_is_told_1001() {
    let server = TestServer::start(Protocol::Ws).await;
    let mut client = connect(&server).await;
    client.send(Message::text("hello")).await.unwrap();
    client.next().await.unwrap().unwrap();
    let stopping = tokio::spawn(server.stop());
    assert_eq!(close_code(&mut client).await, CloseCode::Away);
    assert!(client.next().await.is_none());
    drop(client);
    stopping.await.unwrap();
}

async fn close_code(client: &mut WebSocketStream<TcpStream>) -> CloseCode {
    match client.next().await {
        Some(Ok(Message::Close(Some(close)))) => close.code,
        other => panic!("not a Close frame: {other:?}"),
    }
}

#[tokio::test]
async fn the_first_subprotocol_offered_is_selected() {
    let server = TestServer::start(Protocol::Ws).await;
    let offer = "Sec-WebSocket-Protocol: chat.v2, chat.v1\r\n\r\n";
    let request = UPGRADE.strip_suffix("\r\n").unwrap().to_owned() + offer;
    let answer = exchange(&server, request.as_bytes()).await.to_lowercase();
    assert!(answer.contains("sec-websocket-protocol: chat.v2\r\n"), "{answer}");
}

#[tokio::test]
async fn only_an_allowed_subprotocol_is_selected() {
    let config = Config::new()
        .listen(Protocol::Ws, ([127, 0, 0, 1], 0))
        .websocket(|websocket| websocket.subprotocols = vec!["b".into(), "c".into()]);
    let server = TestServer::with(config).await;
    for (offer, selected) in [("a, c ,b", Some("c")), ("a", None)] {
        let offer = format!("Sec-WebSocket-Protocol: {offer}\r\n\r\n");
        let request = UPGRADE.strip_suffix("\r\n").unwrap().to_owned() + &offer;
        let answer = exchange(&server, request.as_bytes()).await.to_lowercase();
        assert!(answer.starts_with("http/1.1 101 "), "{answer}");
        let field = selected.map(|name| format!("sec-websocket-protocol: {name}\r\n"));
        assert_eq!(field.is_some(), answer.contains("sec-websocket-protocol"), "{answer}");
        assert!(field.is_none_or(|field| answer.contains(&field)), "{answer}");
    }
}

#[tokio::test]
async fn pages_of_other_origins_are_refused() {
    let config = Config::new().listen(Protocol::Ws, ([127, 0, 0, 1], 0)).websocket(|websocket| {
        websocket.origins = vec!["https://example.com".into(), "https://*.example.org".into()];
    });
    let server = TestServer::with(config).await;
    let cases = [
        ("", "101"),
        ("Origin: https://example.com\r\n", "101"),
        ("Origin: HTTPS://Example.com\r\n", "101"),
        ("Origin: http://example.com\r\n", "403"),
        ("Origin: https://example.com.evil.example\r\n", "403"),
        ("Origin: null\r\n", "403"),
        ("Origin: https://a.example.org\r\n", "101"),
        ("Origin: HTTPS://A.B.Example.org\r\n", "101"),
        ("Origin: https://example.org\r\n", "403"),
        ("Origin: https://.example.org\r\n", "403"),
        ("Origin: https://evilexample.org\r\n", "403"),
        ("Origin: http://a.example.org\r\n", "403"),
        ("Origin: https://a.example.org:8443\r\n", "403"),
        ("Origin: https://example.com, https://evil.example\r\n", "403"),
        ("Origin: https://example.com\r\nOrigin: https://evil.example\r\n", "400"),
        ("Origin: https://evil.example\r\nOrigin: https://example.com\r\n", "400"),
        ("Origin: https://example.com\r\nOrigin: https://example.com\r\n", "400"),
    ];
    for (origin, status) in cases {
        let request = UPGRADE.strip_suffix("\r\n").unwrap().to_owned() + origin + "\r\n";
        let answer = exchange(&server, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{origin}: {answer}");
    }
}

#[tokio::test]
async fn every_request_is_answered() {
    let server = TestServer::start(Protocol::Ws).await;
    let upgrade = |from: &str, to: &str| {
        assert!(UPGRADE.contains(from));
        UPGRADE.replace(from, to)
    };
    let many_fields = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(101));
    let long_head = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "b".repeat(20_000));
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let cases = [
        (get("/"), "200 ", "content-type: text/html"),
        (get("/?x=y"), "200 ", "content-security-policy: default-src 'none'; script-src 'sha256-"),
        ("GET / HTTP/1.0\r\n\r\n".into(), "200 ", "text/html"),
        (get("/elsewhere"), "426 ", "upgrade: websocket"),
        ("GET / HTTP/1.1\r\n\r\n".into(), "400 ", "host"),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody".into(),
            "405 ",
            "allow: get, head",
        ),
        ("CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n".into(), "405 ", "allow"),
        (upgrade("GET", "PUT"), "405 ", "allow"),
        (upgrade("Connection: Upgrade", "Connection: close"), "400 ", "connection"),
        (upgrade("Sec-WebSocket-Key", "X-Key"), "400 ", "sec-websocket-key"),
        (upgrade("dGhlIHNhbXBsZSBub25jZQ==", "short"), "400 ", "sec-websocket-key"),
        (upgrade(key, &key.repeat(2)), "400 ", "sec-websocket-key"),
        (upgrade("Host", "Origin: http://a\r\nOrigin: http://b\r\nHost"), "400 ", "origin"),
        (upgrade("Host", "Content-Length: 3\r\nHost"), "400 ", "must not have a body"),
        (upgrade("Version: 13", "Version: 8"), "426 ", "sec-websocket-version: 13"),
        (upgrade("Sec-WebSocket-Version: 13\r\n", ""), "426 ", "sec-websocket-version: 13"),
        (upgrade("HTTP/1.1", "HTTP/1.0"), "505 ", ""),
        (upgrade("Host", "Sec-WebSocket-Protocol: a b\r\nHost"), "400 ", "token"),
        // Lists may be in one field or several, in upper or lower case.
        (
            upgrade("Connection: Upgrade", "Connection: keep-alive\r\nConnection: a, UPGRADE"),
            "101 ",
            "",
        ),
        (upgrade("Upgrade: websocket", "Upgrade: h2c, WebSocket"), "101 ", "upgrade: websocket"),
        (upgrade("GET / ", "GET /any/path?at=all "), "101 ", ""),
        (many_fields, "431 ", "100 fields"),
        (long_head, "431 ", "16 kib"),
        ("\x16\x03\x01 not HTTP at all\r\n\r\n".into(), "400 ", ""),
        ("PRI * HTTP/2.0\r\n\r\nno".into(), "400 ", "it breaks the syntax of http/1.1"),
        ("\0\r\n\r\n".into(), "400 ", "what came is not http"),
    ];
    for (request, status, field) in cases {
        let answer = exchange(&server, request.as_bytes()).await.to_lowercase();
        assert!(
            answer.starts_with(&format!("http/1.1 {status}"))
                || answer.starts_with(&format!("http/1.0 {status}")),
            "{request:?}: {answer}"
        );
        assert!(answer.contains(field), "{request:?}: {answer}");
    }
}

#[tokio::test]
async fn head_has_the_fields_of_get_and_no_body() {
    let server = TestServer::start(Protocol::Ws).await;
    let request = |method: &str| format!("{method} / HTTP/1.1\r\nHost: x\r\n\r\n");
    let get = exchange(&server, request("GET").as_bytes()).await;
    let head = exchange(&server, request("HEAD").as_bytes()).await;
    let (fields, page) = get.split_once("\r\n\r\n").unwrap();
    assert!(page.contains("<title>"));
    let no_date = |text: &str| {
        text.lines().filter(|line| !line.starts_with("date:")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(no_date(&head).trim_end(), no_date(fields));
    assert!(head.contains(&format!("content-length: {}", page.len())), "{head}");
}

#[tokio::test]
async fn compression_is_accepted_if_it_is_offered() {
    let server = TestServer::start(Protocol::Ws).await;
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    let mut request = (UPGRADE.strip_suffix("\r\n").unwrap().to_owned() + offer).into_bytes();
    // "Hello", compressed as in RFC 7692 section 7.2.3.1, with a masking key of zeros.
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    request.extend([&[0xC1, 0x87, 0, 0, 0, 0][..], &hello].concat());
    let mut client = TcpStream::connect(server.address).await.unwrap();
    client.write_all(&request).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(&[&[0xC1, 0x07][..], &hello].concat()) {
        assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0, "{answer:?}");
    }
    let head = String::from_utf8_lossy(&answer).to_lowercase();
    let accepted = "sec-websocket-extensions: permessage-deflate; client_no_context_takeover\r\n";
    assert!(head.contains(accepted), "{head}");
}

#[tokio::test]
async fn a_message_larger_than_any_buffer_comes_back_as_one_frame() {
    let server = TestServer::start(Protocol::Ws).await;
    let (mut sending, mut receiving) = connect(&server).await.split();
    for message in [Message::binary(vec![7; 20 << 20]), Message::text("x".repeat(20 << 20))] {
        let expected = message.clone();
        let sent = async { sending.send(message).await.unwrap() };
        let (received, ()) = tokio::join!(receiving.next(), sent);
        assert!(received.unwrap().unwrap() == expected);
    }
}

/// Sends text, binary, empty and 1 MiB, and prints what went wrong, if anything.
const NODE_CLIENT: &str = r#"
const same = (a, b) => typeof a === 'string' ? a === b : Buffer.from(a).equals(Buffer.from(b));
const payloads = ['hello', '', 'grüß dich 👋', new Uint8Array([0, 1, 255]),
                  new Uint8Array(1 << 20).map((_, i) => i * 31), 'x'.repeat(1 << 20)];
const socket = new WebSocket(process.argv[1]);
socket.binaryType = 'arraybuffer';
let next = 0, verdict = 'identical';
socket.onopen = () => payloads.forEach(payload => socket.send(payload));
socket.onmessage = ({ data }) => {
  if (!same(payloads[next], data)) verdict = `message ${next} differs`;
  if (++next === payloads.length) socket.close(1000, 'done');
};
socket.onclose = ({ code }) => console.log(verdict, next, code);
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_gets_its_messages_back() {
    if !tools::have_node() {
        return;
    }
    for protocol in [Protocol::Ws, Protocol::Wss] {
        let server = TestServer::start(protocol).await;
        let url = format!("{protocol}://localhost:{}/", server.address.port());
        let mut node = Command::new("node");
        node.args(["--experimental-websocket", "--no-warnings", "-e", NODE_CLIENT, &url])
            .env("NODE_EXTRA_CA_CERTS", cert("ca.pem"));
        let output = tools::run_async(node, Vec::new()).await;
        let said = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.trim(), "identical 6 1000", "{protocol}: {stderr}");
    }
}

/// A client with Python's `websockets`, which offers compression.
const PYTHON_CLIENT: &str = r#"
import ssl, sys
from websockets.sync.client import connect
url, ca = sys.argv[1:]
context = ssl.create_default_context(cafile=ca) if url.startswith("wss:") else None
with connect(url, ssl=context, max_size=None) as socket:
    for payload in ["hello", "", "grüß dich 👋", bytes(range(256)), b"", bytes(1 << 20), "x" * (1 << 20)]:
        socket.send(payload)
        assert socket.recv() == payload, payload[:20]
    assert socket.ping().wait(10)
print("identical", socket.close_code)
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_gets_its_messages_back() {
    if !tools::have_python_websockets() {
        return;
    }
    for protocol in [Protocol::Ws, Protocol::Wss] {
        let server = TestServer::start(protocol).await;
        let url = format!("{protocol}://localhost:{}/", server.address.port());
        let mut python = Command::new("python3");
        python.args(["-c", PYTHON_CLIENT, &url]).arg(cert("ca.pem"));
        let output = tools::run_async(python, Vec::new()).await;
        let said = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.trim(), "identical 1000", "{protocol}: {stderr}");
    }
}

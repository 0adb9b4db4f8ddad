//! What only WebSocket has: its opening request, frame kinds and close codes, and real clients.

mod common;

use std::process::Command;

use common::client::websocket;
use common::{TestServer, cert, tools};
use echo_server::Protocol;
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
async fn text_stays_text_and_binary_binary() {
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
async fn a_frame_sent_behind_the_request_is_not_lost() {
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
    // A text frame with the payload 0xFF, under a mask of zeros.
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
async fn a_request_for_anything_else_is_answered() {
    let server = TestServer::start(Protocol::Ws).await;
    let no_key = UPGRADE.replace("Sec-WebSocket-Key", "X-Key");
    let old = UPGRADE.replace("Version: 13", "Version: 8");
    let many_fields = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(101));
    let long_head = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "b".repeat(20_000));
    let cases = [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "426 ", "upgrade: websocket"),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody", "405 ", "allow: get"),
        (no_key.as_str(), "400 ", "sec-websocket-key"),
        (old.as_str(), "426 ", "sec-websocket-version: 13"),
        (many_fields.as_str(), "431 ", ""),
        (long_head.as_str(), "431 ", ""),
        ("\x16\x03\x01 not HTTP at all\r\n\r\n", "400 ", ""),
    ];
    for (request, status, field) in cases {
        let answer = exchange(&server, request.as_bytes()).await.to_lowercase();
        assert!(answer.starts_with(&format!("http/1.1 {status}")), "{request:?}: {answer}");
        assert!(answer.contains(field), "{request:?}: {answer}");
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

/// The same with Python's `websockets`, which offers compression.
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

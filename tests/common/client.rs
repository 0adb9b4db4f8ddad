//! One client for every protocol, so that one suite tests them all.

use echo_server::Protocol;
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::rustls::ALL_VERSIONS;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::schema::Schema;
use super::{TestServer, ca_certificates, tls_over};

/// A byte stream of any kind.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for T {}

/// The largest payload of a datagram over IPv4.
const MAX_PAYLOAD: usize = 65_507;

pub enum Client {
    Bytes(Box<dyn ByteStream>),
    Datagrams(UdpSocket),
    Messages(Box<WebSocketStream<Box<dyn ByteStream>>>),
}

impl Client {
    pub async fn connect(protocol: Protocol, server: &TestServer) -> Client {
        let address = server.address;
        if protocol == Protocol::Udp {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket.connect(address).await.unwrap();
            return Client::Datagrams(socket);
        }
        Client::over(protocol, TcpStream::connect(address).await.unwrap()).await
    }

    /// A client of a server with the test certificate, on a stream that is connected to it.
    pub async fn over(protocol: Protocol, stream: impl ByteStream + 'static) -> Client {
        let bytes: Box<dyn ByteStream> = match protocol {
            Protocol::Tls | Protocol::Wss => {
                Box::new(tls_over(stream, ca_certificates(), ALL_VERSIONS).await)
            }
            _ => Box::new(stream),
        };
        match protocol {
            Protocol::Ws | Protocol::Wss => Client::Messages(Box::new(websocket(bytes).await)),
            _ => Client::Bytes(bytes),
        }
    }

    /// Sends `payload`, as one message where the protocol has messages, and returns its echo.
    pub async fn echo(&mut self, payload: &[u8]) -> Vec<u8> {
        match self {
            Client::Bytes(stream) => {
                let (mut reading, mut writing) = split(stream);
                let mut echo = vec![0; payload.len()];
                let send = async {
                    writing.write_all(payload).await.unwrap();
                    // A TLS stream buffers records until it is flushed.
                    writing.flush().await.unwrap();
                };
                let (_, received) = tokio::join!(send, reading.read_exact(&mut echo));
                received.unwrap();
                echo
            }
            Client::Datagrams(socket) => {
                let mut echo = Vec::new();
                let mut buffer = vec![0; 65_536];
                // An empty payload is a datagram too.
                for datagram in
                    payload.chunks(MAX_PAYLOAD).chain(payload.is_empty().then_some(&[][..]))
                {
                    socket.send(datagram).await.unwrap();
                    let length = socket.recv(&mut buffer).await.unwrap();
                    echo.extend_from_slice(&buffer[..length]);
                }
                echo
            }
            Client::Messages(socket) => {
                socket.send(Message::Binary(payload.to_vec().into())).await.unwrap();
                match socket.next().await {
                    Some(Ok(Message::Binary(echo))) => echo.to_vec(),
                    other => panic!("not a binary message: {other:?}"),
                }
            }
        }
    }

    /// The facts with which the server begins, where `--facts` makes it.
    pub async fn facts(&mut self) -> Value {
        let text = match self {
            Client::Bytes(stream) => {
                let mut line = Vec::new();
                while !line.ends_with(b"\n") {
                    line.push(stream.read_u8().await.expect("a line of facts"));
                }
                String::from_utf8(line).unwrap()
            }
            Client::Messages(socket) => match socket.next().await {
                Some(Ok(Message::Text(text))) => text.to_string(),
                other => panic!("not a text message: {other:?}"),
            },
            Client::Datagrams(_) => panic!("datagrams have no beginning"),
        };
        Schema::of_facts().facts(&text)
    }

    /// Closes as the protocol prescribes, and checks that the server does too.
    pub async fn close(self) {
        match self {
            Client::Bytes(mut stream) => {
                stream.shutdown().await.unwrap();
                let mut rest = Vec::new();
                // Over TLS this is an error unless close_notify came.
                stream.read_to_end(&mut rest).await.expect("a clean end");
                assert_eq!(rest, b"");
            }
            Client::Datagrams(_) => {}
            Client::Messages(mut socket) => {
                let close = CloseFrame { code: CloseCode::Normal, reason: "bye".into() };
                socket.send(Message::Close(Some(close.clone()))).await.unwrap();
                match socket.next().await {
                    Some(Ok(Message::Close(Some(answer)))) => assert_eq!(answer.code, close.code),
                    other => panic!("not a Close frame: {other:?}"),
                }
                assert!(socket.next().await.is_none());
            }
        }
    }
}

/// A WebSocket on `bytes`.
pub async fn websocket<S: AsyncRead + AsyncWrite + Unpin>(bytes: S) -> WebSocketStream<S> {
    websocket_at("ws://localhost/", bytes).await
}

/// A WebSocket on `bytes`, opened with `url`.
pub async fn websocket_at<S: AsyncRead + AsyncWrite + Unpin>(
    url: &str,
    bytes: S,
) -> WebSocketStream<S> {
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    let (socket, response) =
        client_async_with_config(url, bytes, Some(config)).await.expect("an upgrade");
    assert_eq!(response.status(), 101);
    socket
}

/// Sends `payload` and closes the sending side. All of it has to come back, and then a clean end.
pub async fn half_close_gets_all<S: AsyncRead + AsyncWrite>(stream: S, payload: &[u8]) {
    let (mut reading, mut writing) = split(stream);
    let send = async {
        writing.write_all(payload).await.unwrap();
        writing.shutdown().await.unwrap();
    };
    let mut echo = Vec::new();
    let (_, received) = tokio::join!(send, reading.read_to_end(&mut echo));
    received.expect("a clean end, not a reset");
    assert!(echo == payload);
}

/// Bytes without a period, so that a lost or repeated batch shows.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(&mut next).take(length).collect()
}

/// Opens a WebSocket by hand, for clients that count what each frame costs the server.
pub fn upgrade(client: &mut std::net::TcpStream) {
    use std::io::{Read, Write};
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
}

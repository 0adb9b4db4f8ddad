//! The probe names how a connection ends, over every protocol that has connections: as a ping and as
//! a load, in words and in JSON.

mod common;

use std::net::SocketAddr;
use std::pin::Pin;
use std::process::Output;
use std::sync::Arc;
use std::task::{Context, Poll};

use common::binary::command;
use common::cert;
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

/// The server's end of a connection, which can end in every way.
enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// How a test's server ends a connection.
#[derive(Debug, Clone, Copy)]
enum End {
    /// FIN, behind close_notify if there is TLS.
    Orderly,
    /// FIN without close_notify.
    Bare,
    Reset,
    /// Nothing, and no end.
    Silence,
    /// These bytes, and then nothing.
    Says(&'static [u8]),
}

impl Wire {
    async fn accept(tcp: TcpStream, tls: Option<TlsAcceptor>) -> Option<Wire> {
        Some(match tls {
            None => Wire::Plain(tcp),
            Some(tls) => Wire::Tls(Box::new(tls.accept(tcp).await.ok()?)),
        })
    }

    /// Echoes so many bytes of a stream.
    async fn echo(&mut self, mut left: usize) {
        let mut buffer = [0; 4096];
        while left > 0 {
            let most = left.min(buffer.len());
            let Ok(read @ 1..) = self.read(&mut buffer[..most]).await else { return };
            if self.write_all(&buffer[..read]).await.is_err() || self.flush().await.is_err() {
                return;
            }
            left -= read;
        }
    }

    async fn end(mut self, end: End) {
        match end {
            End::Orderly => drop(self.shutdown().await),
            End::Says(bytes) => drop((self.write_all(bytes).await, self.flush().await)),
            End::Bare | End::Reset | End::Silence => {}
        }
        let mut tcp = match self {
            Wire::Plain(tcp) => tcp,
            Wire::Tls(tls) => tls.into_inner().0,
        };
        match end {
            End::Reset => return tcp.set_zero_linger().unwrap(),
            End::Bare => drop(tcp.shutdown().await),
            End::Orderly | End::Silence | End::Says(_) => {}
        }
        // Until the probe has gone: a socket with something unread would send a reset.
        let _ = tokio::io::copy(&mut tcp, &mut tokio::io::sink()).await;
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(tcp) => Pin::new(tcp).poll_read(cx, into),
            Wire::Tls(tls) => Pin::new(tls).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Wire::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Wire::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Wire::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Wire::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

fn acceptor() -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(cert("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(cert("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// A TCP service that does `work` on each connection.
async fn service<F: Future<Output = ()> + Send + 'static>(
    work: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            // What waits for an ACK (Nagle's algorithm) is dropped by a reset.
            tcp.set_nodelay(true).unwrap();
            tokio::spawn(work(tcp));
        }
    });
    address
}

/// Echoes so much on each connection, bytes or WebSocket messages, and ends it.
async fn ending(scheme: &'static str, amount: usize, end: End) -> String {
    let tls = matches!(scheme, "tls" | "wss").then(acceptor);
    let address = service(move |tcp| {
        let tls = tls.clone();
        async move {
            let Some(mut wire) = Wire::accept(tcp, tls).await else { return };
            if matches!(scheme, "tcp" | "tls") {
                wire.echo(amount).await;
                if amount == 0 {
                    // The connection is established at the other end, too.
                    let _ = wire.read(&mut [0; 64]).await;
                }
                return wire.end(end).await;
            }
            let mut socket = tokio_tungstenite::accept_async(wire).await.unwrap();
            for _ in 0..amount {
                let Some(Ok(message)) = socket.next().await else { return };
                socket.send(message).await.unwrap();
            }
            socket.into_inner().end(end).await;
        }
    })
    .await;
    format!("{scheme}://localhost:{}", address.port())
}

/// Runs `echo-server probe` on IPv4.
async fn run(url: &str, args: &[&str]) -> (i32, String) {
    let mut command = command();
    command.args(["probe", url, "-4"]).args(args);
    if url.starts_with("tls") || url.starts_with("wss") {
        command.arg("--ca").arg(cert("ca.pem"));
    }
    let output: Output =
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

const PING: [&str; 4] = ["--count", "5", "--interval", "1ms"];
const LOAD: [&str; 4] = ["--connections", "2", "--count", "20"];

/// What waits for a silence to be long enough.
const SOON: [&str; 2] = ["--timeout", "300ms"];

/// Asserts that a ping, and a load of two connections, say how they end.
async fn assert_told(scheme: &'static str, amount: usize, end: End, said: &str) {
    let url = ending(scheme, amount, end).await;
    let (code, text) = run(&url, &PING).await;
    assert_eq!(code, 1, "{url} {end:?}: {text}");
    assert!(text.contains(&format!("failed: {said}\n")), "{url} {end:?}, not {said}: {text}");
    assert!(text.ends_with(&format!("\nonce: {said}\n")), "{url} {end:?}: {text}");
    let (code, text) = run(&url, &LOAD).await;
    assert_eq!(code, 1, "{url} {end:?}: {text}");
    let said = said.replace("in the middle", "each in the middle");
    assert!(text.ends_with(&format!("\n2 times: {said}\n")), "{url} {end:?}, not {said}: {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_stream_is_told_with_what_had_come_back() {
    for (end, said) in [
        (End::Orderly, "closed by the peer after 192 bytes"),
        (End::Reset, "reset by the peer after 192 bytes"),
    ] {
        assert_told("tcp", 192, end, said).await;
    }
    let cut = "closed by the peer after 160 bytes, in the middle of an echo";
    assert_told("tcp", 160, End::Orderly, cut).await;
    let cut = "reset by the peer after 160 bytes, in the middle of an echo";
    assert_told("tcp", 160, End::Reset, cut).await;
    assert_told("tcp", 0, End::Orderly, "closed by the peer before any echo").await;
    assert_told("tcp", 0, End::Reset, "reset by the peer before any echo").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tls_stream_that_is_truncated_is_told_from_one_that_is_closed() {
    for (amount, end, said) in [
        (192, End::Orderly, "closed by the peer with close_notify after 192 bytes"),
        (192, End::Bare, "the stream ended without close_notify after 192 bytes (truncated)"),
        (192, End::Reset, "reset by the peer after 192 bytes"),
        (0, End::Bare, "the stream ended without close_notify before any echo (truncated)"),
        (
            160,
            End::Bare,
            "the stream ended without close_notify after 160 bytes, in the middle of an echo \
             (truncated)",
        ),
    ] {
        assert_told("tls", amount, end, said).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_without_a_close_frame_is_told_from_one_with_a_code() {
    let internal_error = End::Says(b"\x88\x02\x03\xf3");
    let with_a_reason = End::Says(b"\x88\x06\x03\xf5full");
    let own_code = End::Says(b"\x88\x02\x0f\xa0");
    let no_code = End::Says(b"\x88\x00");
    for scheme in ["ws", "wss"] {
        for (amount, end, said) in [
            (3, internal_error, "closed with 1011 after 3 echoes (internal error)"),
            (1, with_a_reason, "closed with 1013 after 1 echo (try again later): \"full\""),
            (0, own_code, "closed with 4000 before any echo"),
            (3, no_code, "closed with a Close frame that has no code after 3 echoes"),
            (3, End::Reset, "reset by the peer after 192 bytes"),
        ] {
            // The meaning of 1013 is registered with IANA, and that of 1011 in RFC 6455.
            assert_told(scheme, amount, end, said).await;
        }
    }
    let truncated = "the stream ended without a Close frame after 192 bytes (truncated)";
    assert_told("ws", 3, End::Bare, truncated).await;
    assert_told("wss", 3, End::Orderly, truncated).await;
    let truncated = "the stream ended without a Close frame and without close_notify after 192 \
                     bytes (truncated)";
    assert_told("wss", 3, End::Bare, truncated).await;
    // 1005 stands for no code, and is none itself (RFC 6455 section 7.4.1).
    let told = "closed with 1002, or with a code that no Close frame may have, after 2 echoes";
    assert_told("ws", 2, End::Says(b"\x88\x02\x03\xed"), told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_rule_of_websocket_is_named() {
    for (scheme, frame, said) in [
        ("ws", &b"\x82\x81abcd\x01"[..], "masked frame from a server (RFC 6455 section 5.1)"),
        ("wss", b"\x82\x81abcd\x01", "masked frame from a server (RFC 6455 section 5.1)"),
        ("ws", b"\x81\x01\xff", "text that is not UTF-8 (RFC 6455 section 8.1)"),
        ("wss", b"\x81\x01\xff", "text that is not UTF-8 (RFC 6455 section 8.1)"),
    ] {
        let said = format!("the server broke the WebSocket protocol: {said}, after 2 echoes");
        assert_told(scheme, 2, End::Says(frame), &said).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_goes_silent_is_told_as_stalled() {
    for (scheme, amount) in [("tcp", 192), ("tls", 192), ("ws", 3), ("wss", 3)] {
        let url = ending(scheme, amount, End::Silence).await;
        let said = "stalled after 192 bytes: nothing more came, and the connection stayed open";
        let (code, text) = run(&url, &[&PING[..], &SOON].concat()).await;
        assert_eq!(code, 1, "{url}: {text}");
        assert!(text.contains(&format!("note: it {said}\n")), "{url}: {text}");
        assert!(text.ends_with(&format!("\nonce: {said}\n")), "{url}: {text}");
        let (code, text) = run(&url, &[&LOAD[..], &SOON].concat()).await;
        assert_eq!(code, 1, "{url}: {text}");
        assert!(text.ends_with(&format!("\n2 times: {said}\n")), "{url}: {text}");
    }
}

/// Does `end` as soon as the probe has said something, in the place of a handshake.
async fn in_place_of_a_handshake(end: End) -> SocketAddr {
    service(move |mut tcp| async move {
        // A ClientHello, or a request, to its end: what is unread would be a reset.
        tcp.readable().await.unwrap();
        let _ = tcp.read(&mut [0; 16 * 1024]).await;
        Wire::Plain(tcp).end(end).await;
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_gets_no_answer_is_told_with_what_came() {
    let silent = End::Silence;
    // The beginning of a ServerHello, of an answer, and an alert.
    let (hello, answer) = (End::Says(b"\x16\x03\x03\x00\x7a\x02\x00"), End::Says(b"HTTP/1.1 1"));
    let alert = End::Says(b"\x15\x03\x03\x00\x02\x02\x50");
    for (scheme, end, code, said) in [
        (
            "tls",
            silent,
            3,
            "the TLS handshake took too long: nothing came for TIME after the ClientHello",
        ),
        (
            "wss",
            hello,
            3,
            "the TLS handshake took too long: 7 bytes came after the ClientHello, and nothing more for ",
        ),
        (
            "tls",
            End::Reset,
            4,
            "the server reset the connection during the handshake, before any answer",
        ),
        (
            "tls",
            End::Bare,
            4,
            "the server closed the connection during the handshake, before any answer",
        ),
        ("wss", alert, 4, "alert received: internal_error: the server failed by itself"),
        (
            "ws",
            silent,
            3,
            "the WebSocket upgrade took too long: nothing came for TIME after the request",
        ),
        (
            "ws",
            answer,
            3,
            "the WebSocket upgrade took too long: 10 bytes came after the request, and nothing more for ",
        ),
        (
            "ws",
            End::Reset,
            3,
            "the WebSocket upgrade failed: the connection was reset, before any answer",
        ),
        (
            "ws",
            End::Bare,
            3,
            "the WebSocket upgrade failed: the other side closed the connection, before any answer",
        ),
    ] {
        let url = format!("{scheme}://{}", in_place_of_a_handshake(end).await);
        // What has to come in time has time.
        let patience = match end {
            End::Silence => "300ms",
            End::Says(_) if code == 3 => "2s",
            _ => "60s",
        };
        for mode in [PING, LOAD] {
            let (got, text) =
                run(&url, &[&mode[..], &["--connect-timeout", patience]].concat()).await;
            assert_eq!(got, code, "{url} {end:?}: {text}");
            // How long it took is not exactly known.
            let mut parts = said.split("TIME");
            assert!(parts.all(|part| text.contains(part)), "{url} {end:?}, not {said}: {text}");
        }
    }
    // An upgrade that TLS ends without close_notify.
    let tls = acceptor();
    let address = service(move |tcp| {
        let tls = tls.clone();
        async move {
            let mut wire = Wire::accept(tcp, Some(tls)).await.unwrap();
            let _ = wire.read(&mut [0; 4096]).await;
            wire.end(End::Bare).await;
        }
    })
    .await;
    let (code, text) = run(&format!("wss://localhost:{}", address.port()), &PING).await;
    assert_eq!(code, 3, "{text}");
    let said =
        "the WebSocket upgrade failed: the stream ended without close_notify, before any answer\n";
    assert!(text.ends_with(said), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_has_an_end_in_numbers() {
    let url = ending("tcp", 160, End::Reset).await;
    let (_, text) = run(&url, &[&PING[..], &["--json"]].concat()).await;
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let failed = events.iter().find(|event| event["event"] == "failed").expect(&text);
    assert_eq!(failed["why"], "reset by the peer after 160 bytes, in the middle of an echo");
    assert_eq!((&failed["bytes"], &failed["echoes"]), (&160.into(), &2.into()));
    assert_eq!(failed["mid_echo"], true);
    let (_, text) = run(&url, &[&LOAD[..], &["--json"]].concat()).await;
    let summary: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(summary["errors"]["reset by the peer"], 2, "{summary}");
    let [ending] = &summary["endings"].as_array().unwrap()[..] else { panic!("{summary}") };
    assert_eq!((&ending["why"], &ending["count"]), (&"reset by the peer".into(), &2.into()));
    assert_eq!((&ending["least_bytes"], &ending["most_bytes"]), (&160.into(), &160.into()));
    assert_eq!((&ending["least_echoes"], &ending["most_echoes"]), (&2.into(), &2.into()));
    assert_eq!(ending["mid_echo"], 2, "{summary}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_no_echo_does_not_end_in_the_middle_of_one() {
    let address = service(|mut tcp| async move {
        let _ = tcp.read(&mut [0; 4096]).await;
        Wire::Plain(tcp).end(End::Says(b"HTTP/1.1 400 Bad Request\r\n\r\n")).await;
    })
    .await;
    let url = format!("tcp://{address}");
    let (_, text) = run(&url, &["--count", "1"]).await;
    assert!(text.contains("note: it does not echo, but speaks HTTP"), "{text}");
    let address = service(|mut tcp| async move {
        let _ = tcp.read(&mut [0; 4096]).await;
        let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        Wire::Plain(tcp).end(End::Orderly).await;
    })
    .await;
    let (_, text) = run(&format!("tcp://{address}"), &PING).await;
    assert!(text.contains("failed: closed by the peer after 28 bytes\n"), "{text}");
    assert!(text.contains("note: it does not echo, but speaks HTTP"), "{text}");
}

//! TCP urgent data (RFC 6093): the kernel ends a read in front of it, and the server must not take
//! that for the end of what has arrived. The clients wait for the whole echo before they send more.

#![cfg(target_os = "linux")]

mod common;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use common::TestServer;
use common::client::{Client, noise};
use echo_server::Protocol;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

/// The client sends and the server reads on one thread, so all has arrived before the first read,
/// which ends at the last urgent byte.
#[tokio::test]
async fn urgent_data_is_echoed_in_line() {
    let server = TestServer::start(Protocol::Tcp).await;
    for sends in [
        &[("urgent", true)][..],
        &[("before", false), ("u", true), ("after", false)],
        &[("first", true), ("second", true), ("third", true)],
        &[("before", false), ("urgent", true)],
    ] {
        let mut client = TcpStream::connect(server.address).await.unwrap();
        // The second round shows that the first has left nothing behind.
        for _ in 0..2 {
            let mut sent: Vec<u8> = Vec::new();
            for (bytes, is_urgent) in sends {
                let socket = SockRef::from(&client);
                let bytes = bytes.as_bytes();
                let length = match is_urgent {
                    true => socket.send_out_of_band(bytes).unwrap(),
                    false => socket.send(bytes).unwrap(),
                };
                assert_eq!(length, bytes.len());
                sent.extend(bytes);
            }
            let mut echo = vec![0; sent.len()];
            let read = client.read_exact(&mut echo);
            soon(read).await.unwrap_or_else(|| panic!("no whole echo of {sends:?}")).unwrap();
            assert_eq!(echo, sent, "{sends:?}");
        }
        client.write_all(b"more").await.unwrap();
        client.shutdown().await.unwrap();
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "more", "{sends:?}");
    }
}

/// Below TLS and WebSocket an urgent byte is a byte of the stream like any other.
#[tokio::test]
async fn urgent_data_delays_no_protocol() {
    urgent_data_delays_nothing().await;
}

/// On several threads the server reads while the client sends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urgent_data_delays_no_protocol_while_it_comes() {
    urgent_data_delays_nothing().await;
}

async fn urgent_data_delays_nothing() {
    for protocol in [Protocol::Tcp, Protocol::Tls, Protocol::Ws, Protocol::Wss] {
        let server = TestServer::start(protocol).await;
        let echoes = async {
            let stream = Urgent(TcpStream::connect(server.address).await.unwrap());
            let mut client = Client::over(protocol, stream).await;
            for size in 1..100 {
                let payload = noise(size);
                assert_eq!(client.echo(&payload).await, payload, "{protocol}");
            }
        };
        soon(echoes).await.unwrap_or_else(|| panic!("{protocol} waits for more"));
    }
}

/// What `future` gives, unless it takes far longer than it should.
async fn soon<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::from_secs(20), future).await.ok()
}

/// Sends a byte in the midst of each write as urgent data. A write must fit the send buffer.
struct Urgent(TcpStream);

impl AsyncWrite for Urgent {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let socket = SockRef::from(&self.0);
        let (before, behind) = bytes.split_at(bytes.len() / 2);
        let (urgent, behind) = behind.split_at(1);
        for (bytes, flags) in [(before, 0), (urgent, nix::libc::MSG_OOB), (behind, 0)] {
            assert_eq!(socket.send_with_flags(bytes, flags)?, bytes.len());
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl AsyncRead for Urgent {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

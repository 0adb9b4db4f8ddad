//! Two thousand connections over all protocols, with all kinds of faults: memory and descriptors
//! return to where they began.
//!
//! `cargo test --release --test soak -- --ignored --nocapture` takes ten minutes.
//! `ECHO_SOAK_SECONDS` changes that.
#![cfg(target_os = "linux")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::binary::{Running, command};
use common::client::websocket;
use common::{cert, tls_connect};
use futures::future::join_all;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::rustls::ALL_VERSIONS;
use tokio_tungstenite::tungstenite::Message;

const CONNECTIONS: u64 = 2000;

/// The counts of all clients.
#[derive(Default)]
struct Tally {
    echoes: AtomicU64,
    visits: AtomicU64,
    wrong: AtomicU64,
}

impl Tally {
    fn echoed(&self, is_right: bool) {
        self.echoes.fetch_add(1, Ordering::Relaxed);
        self.wrong.fetch_add(u64::from(!is_right), Ordering::Relaxed);
    }
}

#[derive(Clone, Copy)]
struct Addresses {
    tcp: SocketAddr,
    tls: SocketAddr,
    udp: SocketAddr,
    ws: SocketAddr,
    wss: SocketAddr,
}

fn payload(n: u64) -> Vec<u8> {
    let length = [0, 1, 64, 1000, 16_384, 100_000][n as usize % 6];
    (0..length).map(|i: u64| (i.wrapping_mul(31) + n) as u8).collect()
}

async fn echo_bytes<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, n: u64, tally: &Tally) {
    for round in 0..5 {
        let sent = payload(n + round);
        let mut back = vec![0; sent.len()];
        let (mut reading, mut writing) = tokio::io::split(&mut stream);
        let send = async {
            writing.write_all(&sent).await?;
            writing.flush().await
        };
        match tokio::join!(send, reading.read_exact(&mut back)) {
            (Ok(()), Ok(_)) => tally.echoed(back == sent),
            _ => tally.echoed(false),
        }
    }
    match n % 4 {
        // An orderly close, and three that are not.
        0 => {
            let ended = stream.shutdown().await.is_ok();
            let mut rest = Vec::new();
            let clean = stream.read_to_end(&mut rest).await.is_ok();
            tally.echoed(ended && clean && rest.is_empty());
        }
        1 => drop(stream.write_all(&payload(n)).await),
        2 => drop(stream.shutdown().await),
        _ => {}
    }
}

async fn echo_messages<S: AsyncRead + AsyncWrite + Unpin>(stream: S, n: u64, tally: &Tally) {
    let mut socket = websocket(stream).await;
    for round in 0..5 {
        let sent = match round % 2 {
            0 => Message::binary(payload(n + round)),
            _ => Message::text("grüße ".repeat(payload(n + round).len() / 7)),
        };
        let back = match socket.send(sent.clone()).await {
            Ok(()) => socket.next().await,
            Err(error) => Some(Err(error)),
        };
        tally.echoed(matches!(back, Some(Ok(back)) if back == sent));
    }
    match n % 3 {
        0 => drop(socket.close(None).await),
        // An unmasked frame, which has to be answered with a Close frame.
        1 => drop(socket.get_mut().write_all(&[0x82, 1, 0]).await),
        _ => {}
    }
}

/// An empty binary message, masked with zeros.
const EMPTY_MESSAGE: [u8; 6] = [0x82, 0x80, 0, 0, 0, 0];

/// Sends without reading, until the server has enough of it.
async fn flood(mut client: TcpStream, bytes: &[u8]) {
    let flood = async { while client.write_all(bytes).await.is_ok() {} };
    drop(tokio::time::timeout(Duration::from_secs(5), flood).await);
}

/// A WebSocket with compression.
async fn opened(mut client: TcpStream) -> TcpStream {
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
    drop(client.write_all(request.as_bytes()).await);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && client.read_buf(&mut head).await.is_ok_and(|n| n > 0) {}
    client
}

/// A text message of a mebibyte in a kibibyte.
fn inflating() -> Vec<u8> {
    let mut deflate = flate2::Compress::new(flate2::Compression::best(), false);
    let mut compressed = Vec::with_capacity(4096);
    deflate.compress_vec(&[b'x'; 1 << 20], &mut compressed, flate2::FlushCompress::Sync).unwrap();
    compressed.truncate(compressed.len() - 4);
    let length = u16::try_from(compressed.len()).unwrap().to_be_bytes();
    [&[0xC1, 0xFE, length[0], length[1], 0, 0, 0, 0], &compressed[..]].concat()
}

/// WebSockets over HTTP/2 whose echoes have no window.
async fn streams_without_a_window(client: TcpStream) {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0);
    let Ok((mut client, connection)) = builder.handshake::<_, bytes::Bytes>(client).await else {
        return;
    };
    let connection = tokio::spawn(connection);
    let mut streams = Vec::new();
    for _ in 0..10 {
        let request = hyper::Request::builder()
            .method(hyper::Method::CONNECT)
            .uri("http://localhost/")
            .header("sec-websocket-version", "13")
            .extension(h2::ext::Protocol::from_static("websocket"))
            .body(())
            .unwrap();
        let Ok(ready) = client.ready().await else { break };
        client = ready;
        // Until the server's settings have come, an extended CONNECT is refused here.
        let Ok((response, mut stream)) = client.send_request(request, false) else { continue };
        drop(stream.send_data(EMPTY_MESSAGE.repeat(100).into(), false));
        streams.push((response, stream));
    }
    drop(tokio::time::timeout(Duration::from_secs(10), connection).await);
}

/// A ClientHello, and no more after the server's flight.
async fn hello_and_goodbye(mut client: TcpStream) {
    let config = tokio_rustls::rustls::ClientConfig::builder()
        .with_root_certificates(tokio_rustls::rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let mut tls = tokio_rustls::rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    drop(client.write_all(&hello).await);
    drop(client.read(&mut [0; 4096]).await);
}

/// One client's life.
async fn visit(addresses: Addresses, n: u64, tally: &Tally) {
    let tcp = |address| async move { TcpStream::connect(address).await.expect("it connects") };
    match n % 10 {
        0..=2 => echo_bytes(tcp(addresses.tcp).await, n, tally).await,
        3 => echo_bytes(tls_connect(addresses.tls, ALL_VERSIONS).await, n, tally).await,
        4 => echo_messages(tcp(addresses.ws).await, n, tally).await,
        5 => echo_messages(tls_connect(addresses.wss, ALL_VERSIONS).await, n, tally).await,
        6 => {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket.connect(addresses.udp).await.unwrap();
            let sent = &payload(n)[..payload(n).len().min(1400)];
            socket.send(sent).await.unwrap();
            let mut back = [0; 2000];
            // A datagram may be lost, but not changed.
            if let Ok(Ok(length)) =
                tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut back)).await
            {
                tally.echoed(&back[..length] == sent);
            }
        }
        // A client that is silent in its handshake, one that sends noise, and a bulk sender that
        // never reads.
        7 => {
            let address = if n % 20 == 7 { addresses.tls } else { addresses.ws };
            drop(tcp(address).await.read(&mut [0; 100]).await);
        }
        8 => {
            let mut client =
                tcp([addresses.tls, addresses.ws, addresses.wss][n as usize / 10 % 3]).await;
            drop(client.write_all(&payload(n | 3)).await);
            drop(client.set_zero_linger());
        }
        // Clients that make much work, or take nothing of what they are owed.
        _ => match n / 10 % 6 {
            0 => flood(tcp(addresses.tcp).await, &[7; 1 << 16]).await,
            1 => flood(tcp(addresses.tls).await, &[7; 1 << 16]).await,
            2 => flood(opened(tcp(addresses.ws).await).await, &inflating()).await,
            3 => flood(opened(tcp(addresses.ws).await).await, &EMPTY_MESSAGE.repeat(4096)).await,
            4 => streams_without_a_window(tcp(addresses.ws).await).await,
            _ => hello_and_goodbye(tcp(addresses.tls).await).await,
        },
    }
    tally.visits.fetch_add(1, Ordering::Relaxed);
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Waits until at most `expected` descriptors are open, or as long as all timeouts together take.
async fn settle(pid: u32, expected: usize) -> usize {
    let end = Instant::now() + Duration::from_secs(30);
    while descriptors(pid) > expected && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    descriptors(pid)
}

async fn load(addresses: Addresses, until: Instant, tally: &Arc<Tally>) {
    let workers = (0..CONNECTIONS).map(|worker| {
        let tally = Arc::clone(tally);
        tokio::spawn(async move {
            let mut n = worker;
            while Instant::now() < until {
                visit(addresses, n, &tally).await;
                n += CONNECTIONS + 1;
            }
        })
    });
    for worker in join_all(workers).await {
        worker.expect("no client panics");
    }
}

#[test]
#[ignore = "takes ten minutes"]
fn soak() {
    // A worker's local queue holds 256 tasks. With smaller batches of events it does not overflow,
    // and no client waits so long for its turn that the server's handshake timeout ends it.
    let mut clients = tokio::runtime::Builder::new_multi_thread();
    clients.worker_threads(2).max_io_events_per_tick(64).event_interval(128).enable_all();
    clients.build().unwrap().block_on(all_protocols_and_faults());
}

async fn all_protocols_and_faults() {
    let seconds = std::env::var("ECHO_SOAK_SECONDS").ok().and_then(|s| s.parse().ok());
    let length = Duration::from_secs(seconds.unwrap_or(600));
    let server = Running::spawn(
        command()
            .args(["--tcp", "0", "--tls", "0", "--ws", "0", "--wss", "0", "--udp", "0"])
            .args(["--handshake-timeout", "10s", "--stall-timeout", "2s", "--idle-timeout", "20s"])
            .arg("--cert")
            .arg(cert("server.pem"))
            .arg("--key")
            .arg(cert("server.key")),
    );
    let addresses = Addresses {
        tcp: server.address("tcp"),
        tls: server.address("tls"),
        udp: server.address("udp"),
        ws: server.address("ws"),
        wss: server.address("wss"),
    };
    let (pid, tally) = (server.pid(), Arc::new(Tally::default()));
    let fresh = descriptors(pid);
    // The allocator's pools and each thread's buffer grow once, during the warm-up.
    load(addresses, Instant::now() + length / 10, &tally).await;
    // At first one more may be open for a moment, while a thread of the runtime starts.
    assert!(settle(pid, fresh).await <= fresh, "descriptors after the warm-up");
    let warm = resident_kib(pid);
    load(addresses, Instant::now() + length * 9 / 10, &tally).await;
    let after = settle(pid, fresh).await;
    let end = resident_kib(pid);
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{} visits, {} echoes, {} wrong; descriptors {fresh} -> {after}; resident {warm} KiB -> {end} KiB",
        read(&tally.visits),
        read(&tally.echoes),
        read(&tally.wrong),
    );
    assert_eq!(read(&tally.wrong), 0, "echoes that were not");
    assert!(after <= fresh, "{fresh} descriptors became {after}");
    assert!(end <= warm + warm / 5, "memory: {warm} KiB after the warm-up, {end} KiB at the end");
    let (status, log) = tokio::task::spawn_blocking(move || server.terminate()).await.unwrap();
    assert!(status.success(), "{log}");
    assert!(log.contains("panicked=0"), "{log}");
}

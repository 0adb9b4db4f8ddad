//! A seeded path that impairs datagrams, and echo services that are wrong on purpose.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// What the path does to a datagram on its way back, as probabilities.
#[derive(Debug, Clone, Copy, Default)]
pub struct Impairment {
    pub loss: f64,
    pub duplication: f64,
    /// The datagram is held until the next one has passed.
    pub reordering: f64,
    pub delay: Duration,
    pub jitter: Duration,
}

/// What the path has done.
#[derive(Debug, Default)]
pub struct Done {
    pub lost: AtomicU64,
    pub duplicated: AtomicU64,
    pub reordered: AtomicU64,
}

impl Done {
    pub fn counts(&self) -> (u64, u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.lost), read(&self.duplicated), read(&self.reordered))
    }
}

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) as f64 / u64::MAX as f64
    }
}

/// Carries one client's datagrams to `server` and back, and impairs the way back.
pub async fn impaired_path(
    server: SocketAddr,
    impairment: Impairment,
    seed: u64,
) -> (SocketAddr, Arc<Done>) {
    let outside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let inside = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    inside.connect(server).await.unwrap();
    let address = outside.local_addr().unwrap();
    let done = Arc::new(Done::default());
    let counted = Arc::clone(&done);
    tokio::spawn(async move {
        let (mut dice, mut client, mut held) = (Dice(seed), None, None);
        let (mut there, mut back) = (vec![0; 65_536], vec![0; 65_536]);
        loop {
            tokio::select! {
                received = outside.recv_from(&mut there) => {
                    let (length, from) = received.unwrap();
                    client = Some(from);
                    inside.send(&there[..length]).await.unwrap();
                }
                received = inside.recv(&mut back) => {
                    let datagram = back[..received.unwrap()].to_vec();
                    let client = client.expect("a reply follows a request");
                    // Every datagram takes the same number of rolls, so that one impairment does
                    // not shift the others.
                    let [loss, duplication, reordering, jitter] = [(); 4].map(|()| dice.roll());
                    if loss < impairment.loss {
                        counted.lost.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    if reordering < impairment.reordering && held.is_none() {
                        held = Some(datagram);
                        continue;
                    }
                    let mut sent = vec![datagram.clone()];
                    if duplication < impairment.duplication {
                        counted.duplicated.fetch_add(1, Ordering::Relaxed);
                        sent.push(datagram);
                    }
                    if let Some(held) = held.take() {
                        counted.reordered.fetch_add(1, Ordering::Relaxed);
                        sent.push(held);
                    }
                    let delay = impairment.delay + impairment.jitter.mul_f64(jitter);
                    let outside = Arc::clone(&outside);
                    tokio::spawn(async move {
                        // The delay of the path.
                        tokio::time::sleep(delay).await;
                        for datagram in sent {
                            outside.send_to(&datagram, client).await.unwrap();
                        }
                    });
                }
            }
        }
    });
    (address, done)
}

/// A wrong answer: what to send for message `n`.
pub type Wrong = fn(n: usize, message: &[u8], earlier: &[Vec<u8>]) -> Vec<Vec<u8>>;

/// A UDP service that answers as `wrong` says.
pub async fn wrong_udp(wrong: Wrong) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut buffer, mut earlier) = (vec![0; 65_536], Vec::new());
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            for answer in wrong(earlier.len(), &buffer[..length], &earlier) {
                socket.send_to(&answer, from).await.unwrap();
            }
            earlier.push(buffer[..length].to_vec());
        }
    });
    address
}

/// A TCP service that takes `size` bytes for a message, answers as `wrong` says, and closes after
/// `until` messages.
pub async fn wrong_tcp(size: usize, wrong: Wrong, until: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut message, mut earlier) = (vec![0; size], Vec::new());
                while earlier.len() < until && tcp.read_exact(&mut message).await.is_ok() {
                    for answer in wrong(earlier.len(), &message, &earlier) {
                        let _ = tcp.write_all(&answer).await;
                    }
                    earlier.push(message.clone());
                }
            });
        }
    });
    address
}

/// Carries TCP connections to `server` and back, in pieces of 1 to 50 bytes each way.
pub async fn splitting_path(server: SocketAddr, seed: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(server).await.unwrap();
            for side in [&client, &server] {
                // Nagle's algorithm would put the pieces together again.
                side.set_nodelay(true).unwrap();
            }
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::spawn(split_up(from_client, to_server, Dice(seed)));
            tokio::spawn(split_up(from_server, to_client, Dice(!seed)));
        }
    });
    address
}

async fn split_up(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut dice: Dice) {
    let mut piece = [0; 50];
    loop {
        let most = 1 + (dice.roll() * 49.0) as usize;
        match from.read(&mut piece[..most]).await {
            Ok(length) if length > 0 => {
                if to.write_all(&piece[..length]).await.is_err() {
                    return;
                }
                // Lets this piece leave before the next one is written.
                tokio::task::yield_now().await;
            }
            _ => return,
        }
    }
}

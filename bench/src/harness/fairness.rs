//! Fairness: how long a bystander's echoes take while other clients make costly work for the same
//! thread of the server.
//!
//! The clients are tasks of the harness's runtime, the bystander has a thread of its own, and all of
//! them share the load's core. So a time includes what the bystander waits for that core.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use echo_server::Protocol;
use flate2::{Compress, Compression, FlushCompress};
use futures::future::try_join_all;
use h2::Reason;
use h2::ext::Protocol as ConnectProtocol;
use hyper::{Method, Request};
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{JoinSet, spawn_blocking, yield_now};
use tokio_rustls::rustls::ClientConnection;
use tokio_rustls::rustls::pki_types::ServerName;

use super::args::Args;
use super::cores::Cores;
use super::sample::Trouble;
use super::servers::{Running, Which};
use super::{table, visit};

/// Clients that make costly work at a time.
const CLIENTS: [usize; 3] = [1, 8, 50];

/// The time from one ping of the bystander to the next.
const INTERVAL: Duration = Duration::from_millis(2);

/// The length of a measurement.
pub const SECONDS: f64 = 2.0;

/// A bystander that waits longer for an echo gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// The inflated size of a compressed message.
const INFLATED: usize = 1 << 20;

/// What a client sends in one go, at most.
const CHUNK: usize = 64 * 1024;

/// The streams that one HTTP/2 client has open at a time.
const STREAMS: usize = 16;

/// Measures each kind of work that `args` ask for, and returns a table.
pub fn measure(
    args: &Args,
    runtime: &tokio::runtime::Runtime,
    cores: &Cores,
) -> Result<String, Trouble> {
    let certificate = rsa_certificate().map_err(|error| error.to_string())?;
    let builds = args.builds.iter().map(|(name, path)| Which::Build(name.clone(), path.clone()));
    let servers: Vec<Which> = builds.chain([Which::Ours]).collect();
    let seconds = if args.is_smoke { args.seconds } else { SECONDS };
    let heading = ["work", "clients", "server", "p50, ms", "p99, ms", "max, ms", "done per second"];
    let mut lines = vec![heading.map(str::to_owned).to_vec()];
    let is_asked = |kind: &Kind| args.only.as_ref().is_none_or(|only| kind.name.contains(only));
    for kind in kinds().map_err(|error| error.to_string())?.into_iter().filter(is_asked) {
        let kind = Arc::new(kind);
        let counts: &[usize] = match kind.work {
            Work::None => &[0],
            _ if args.is_smoke => &CLIENTS[..1],
            _ => &CLIENTS,
        };
        for clients in counts {
            for which in &servers {
                let server = start(which, &certificate, cores)?;
                let measured = runtime.block_on(beside(&kind, *clients, &server, seconds));
                let Measured { times, rate } = measured.map_err(|error| {
                    format!("{clients} {}, {}: {error}", kind.name, which.name())
                })?;
                let at = |part: f64| {
                    let time = times[((times.len() - 1) as f64 * part) as usize];
                    format!("{:.2}", time.as_secs_f64() * 1e3)
                };
                let work = match kind.work {
                    Work::None => String::new(),
                    _ => format!("{rate:.0} {}", kind.unit),
                };
                let (count, server) = (clients.to_string(), which.name().to_owned());
                let kind = kind.name.to_owned();
                lines.push(vec![kind, count, server, at(0.5), at(0.99), at(1.0), work]);
            }
        }
    }
    Ok(table::aligned(&lines))
}

/// Starts a server with one thread and three listeners.
fn start(which: &Which, certificate: &TempDir, cores: &Cores) -> Result<Running, Trouble> {
    let file = |name| certificate.path().join(name).display().to_string();
    let (cert, key) = (file(CERT), file(KEY));
    let more = ["--ws", "0", "--tls", "0", "--threads", "1", "--cert", &cert, "--key", &key];
    Running::start_with(which, Protocol::Tcp, &more, cores)
}

const CERT: &str = "cert.pem";
const KEY: &str = "key.pem";

/// A directory with a certificate whose key makes signatures costly: RSA with 2048 bits.
fn rsa_certificate() -> io::Result<TempDir> {
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).map_err(io::Error::other)?;
    let names = CertificateParams::new(["localhost".to_owned()]).map_err(io::Error::other)?;
    let certificate = names.self_signed(&key).map_err(io::Error::other)?;
    let directory = TempDir::new()?;
    std::fs::write(directory.path().join(CERT), certificate.pem())?;
    std::fs::write(directory.path().join(KEY), key.serialize_pem())?;
    Ok(directory)
}

/// A kind of clients.
struct Kind {
    name: &'static str,
    unit: &'static str,
    work: Work,
}

enum Work {
    None,
    /// Frames on a WebSocket: `first` once, then `chunk` again and again. Each echo has `echo`
    /// bytes.
    Frames {
        first: &'static [u8],
        chunk: Vec<u8>,
        echo: u64,
    },
    /// This ClientHello on connections that the client closes when it has an answer.
    Hellos(Vec<u8>),
    /// WebSockets on HTTP/2 streams (RFC 8441) that the client resets when they are open.
    Resets,
}

impl Work {
    fn frames(first: &'static [u8], frame: &[u8]) -> Work {
        // The echo lacks the masking key.
        Work::Frames {
            first,
            chunk: frame.repeat(CHUNK / frame.len()),
            echo: frame.len() as u64 - 4,
        }
    }
}

/// Frame headers with masking keys of zeros (RFC 6455 section 5.2).
const EMPTY_BINARY: [u8; 6] = [0x82, 0x80, 0, 0, 0, 0];
const BEGIN_TEXT: [u8; 6] = [0x01, 0x80, 0, 0, 0, 0];
const CONTINUE: [u8; 6] = [0x00, 0x80, 0, 0, 0, 0];

fn kinds() -> io::Result<Vec<Kind>> {
    let text = |character: &str| -> io::Result<Work> {
        let payload = deflated(&character.repeat(INFLATED / character.len()))?;
        let length = (payload.len() as u16).to_be_bytes();
        let header = [0xC1, 0x80 | 126, length[0], length[1], 0, 0, 0, 0];
        Ok(Work::frames(&[], &[&header, &payload[..]].concat()))
    };
    let kinds = [
        ("none", "", Work::None),
        ("compressed ASCII", "MiB", text("a")?),
        ("compressed two-byte UTF-8", "MiB", text("é")?),
        ("compressed three-byte UTF-8", "MiB", text("€")?),
        ("empty messages", "frames", Work::frames(&[], &EMPTY_BINARY)),
        ("empty fragments", "frames", Work::frames(&BEGIN_TEXT, &CONTINUE)),
        ("ClientHellos", "handshakes", Work::Hellos(client_hello()?)),
        ("HTTP/2 resets", "resets", Work::Resets),
    ];
    Ok(kinds.into_iter().map(|(name, unit, work)| Kind { name, unit, work }).collect())
}

/// The payload of a compressed message (RFC 7692 section 7.2.1).
fn deflated(text: &str) -> io::Result<Vec<u8>> {
    let mut payload = Vec::with_capacity(text.len());
    Compress::new(Compression::best(), false)
        .compress_vec(text.as_bytes(), &mut payload, FlushCompress::Sync)
        .map_err(io::Error::other)?;
    payload.truncate(payload.len() - 4);
    Ok(payload)
}

fn client_hello() -> io::Result<Vec<u8>> {
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let client = ClientConnection::new(Arc::new(visit::trust()?), name);
    let mut hello = Vec::new();
    client.map_err(io::Error::other)?.write_tls(&mut hello)?;
    Ok(hello)
}

struct Measured {
    /// How long the bystander's echoes took, sorted.
    times: Vec<Duration>,
    /// The work that the clients got done, each second.
    rate: f64,
}

/// Pings for this many `seconds` while `clients` work.
async fn beside(
    kind: &Arc<Kind>,
    clients: usize,
    server: &Running,
    seconds: f64,
) -> io::Result<Measured> {
    let done = Arc::new(AtomicU64::new(0));
    let address = |protocol| server.address_of(protocol).ok_or(ErrorKind::AddrNotAvailable);
    let (ws, tls) = (address(Protocol::Ws)?, address(Protocol::Tls)?);
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (kind, done) = (Arc::clone(kind), Arc::clone(&done));
        tasks.spawn(async move {
            loop {
                // If the server closes the connection, the client makes another.
                let _ = match &kind.work {
                    Work::None => return,
                    Work::Frames { first, chunk, .. } => frames(ws, first, chunk, &done).await,
                    Work::Hellos(hello) => hellos(tls, hello, &done).await,
                    Work::Resets => resets(ws, &done).await,
                };
                yield_now().await;
            }
        });
    }
    let (address, began) = (server.address, Instant::now());
    let pings = spawn_blocking(move || pings(address, Duration::from_secs_f64(seconds)));
    let mut times = pings.await??;
    times.sort_unstable();
    let done = done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    let each = if let Work::Frames { echo, .. } = kind.work { echo } else { 1 };
    Ok(Measured { times, rate: done / each as f64 })
}

/// The bystander. Returns how long each echo took.
#[expect(clippy::disallowed_methods, reason = "a ping is due after a while, not after an event")]
fn pings(server: SocketAddr, duration: Duration) -> io::Result<Vec<Duration>> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut times, began) = (Vec::new(), Instant::now());
    while times.is_empty() || began.elapsed() < duration {
        let message: [u8; 64] = std::array::from_fn(|i| (times.len() + i) as u8);
        let (sent, mut echo) = (Instant::now(), [0; 64]);
        stream.write_all(&message)?;
        stream.read_exact(&mut echo)?;
        let took = sent.elapsed();
        if echo != message {
            return Err(io::Error::new(ErrorKind::InvalidData, "the bystander's echo differs"));
        }
        times.push(took);
        thread::sleep(INTERVAL.saturating_sub(took));
    }
    Ok(times)
}

/// Sends frames without end, and counts the bytes of their echoes. Compression is negotiated for all
/// of them, and the server then reads less at a time.
async fn frames(
    server: SocketAddr,
    first: &[u8],
    chunk: &[u8],
    done: &AtomicU64,
) -> io::Result<()> {
    let mut tcp = tokio::net::TcpStream::connect(server).await?;
    let (head, end) = visit::REQUEST.split_at(visit::REQUEST.len() - b"\r\n".len());
    let compression = b"Sec-WebSocket-Extensions: permessage-deflate\r\n";
    tcp.write_all(&[head, compression, end].concat()).await?;
    visit::upgraded(&mut tcp).await?;
    let (mut reading, mut writing) = tcp.split();
    let send = async {
        writing.write_all(first).await?;
        loop {
            writing.write_all(chunk).await?;
        }
    };
    let receive = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            match reading.read(&mut buffer).await? {
                0 => return io::Result::<()>::Err(ErrorKind::UnexpectedEof.into()),
                length => done.fetch_add(length as u64, Ordering::Relaxed),
            };
        }
    };
    tokio::select! { sent = send => sent, received = receive => received }
}

async fn hellos(server: SocketAddr, hello: &[u8], done: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let mut tcp = tokio::net::TcpStream::connect(server).await?;
        tcp.write_all(hello).await?;
        // The server writes its whole flight at once.
        if tcp.read(&mut buffer).await? > 0 {
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn resets(server: SocketAddr, done: &AtomicU64) -> io::Result<()> {
    let tcp = tokio::net::TcpStream::connect(server).await?;
    let (client, connection) = h2::client::handshake(tcp).await.map_err(io::Error::other)?;
    let connect = Request::builder()
        .method(Method::CONNECT)
        .uri("http://localhost/")
        .header("sec-websocket-version", "13")
        .extension(ConnectProtocol::from_static("websocket"))
        .body(())
        .map_err(io::Error::other)?;
    let ask = async {
        // Behind a response the server's SETTINGS have come, which extended CONNECT needs.
        let page = Request::get("http://localhost/").body(()).expect("a request like others");
        client.clone().ready().await?.send_request(page, true)?.0.await?;
        let streams = (0..STREAMS).map(|_| async {
            let mut client = client.clone();
            loop {
                client = client.ready().await?;
                let (response, mut stream) = client.send_request(connect.clone(), false)?;
                response.await?;
                stream.send_reset(Reason::CANCEL);
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
        try_join_all(streams).await.map(|_: Vec<()>| ())
    };
    let ended: Result<(), h2::Error> =
        tokio::select! { ended = connection => ended, asked = ask => asked };
    ended.map_err(io::Error::other)
}

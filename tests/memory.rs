//! The bound on the memory that all connections hold together, seen from outside.
//!
//! `cargo test --release --test memory -- --ignored --nocapture` besieges a server in a control group
//! of 64 MiB, and measures what a connection costs, for README's table.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use common::binary::{self, Running};
use common::client::{ByteStream, websocket};
use common::{ca_certificates, cert};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const PROTOCOLS: [&str; 4] = ["tcp", "tls", "ws", "wss"];

/// The longest that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(120);

/// What all TLS clients share. Most of thousands resume a session, which is cheaper for both sides.
static CONNECTOR: LazyLock<TlsConnector> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(ca_certificates());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
    Arc::new(config).into()
});

/// Starts a server for `protocol`, below `command`.
fn start(mut command: Command, protocol: &str, flags: &[&str]) -> Running {
    raise_descriptor_limit();
    command.args([format!("--{protocol}").as_str(), "0", "-q", "--threads", "1"]).args(flags);
    command.args(["--drain-timeout", "100ms"]);
    if matches!(protocol, "tls" | "wss") {
        command.arg("--cert").arg(cert("server.pem")).arg("--key").arg(cert("server.key"));
    }
    Running::spawn(&mut command)
}

fn raise_descriptor_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// A TCP connection whose client receives little, so that thousands stall soon, and sends much, so
/// that the server reads as much at a time as it can.
async fn tcp(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.set_send_buffer_size(128 * 1024).unwrap();
    socket.connect(address).await.unwrap()
}

/// A connection whose handshake is done.
async fn connect(protocol: &str, address: SocketAddr) -> Box<dyn ByteStream> {
    let tcp = tcp(address).await;
    let stream: Box<dyn ByteStream> = match protocol {
        "tls" | "wss" => {
            let name = ServerName::try_from("localhost").unwrap();
            Box::new(CONNECTOR.connect(name, tcp).await.unwrap())
        }
        _ => Box::new(tcp),
    };
    match protocol {
        "ws" | "wss" => Box::new(websocket(stream).await.into_inner()),
        _ => stream,
    }
}

/// Sends without end and reads nothing. Returns when the server has closed the connection.
async fn never_read(mut stream: impl AsyncWrite + Unpin, protocol: &str) {
    // Binary frames of 60,000 bytes whose masking key is zero, or just bytes.
    let mut bulk = vec![0x82, 0xFE, 0xEA, 0x60, 0, 0, 0, 0];
    bulk.resize(8 + 60_000, 0);
    let bulk = if protocol.starts_with('w') { &bulk[..] } else { &bulk[8..] };
    while stream.write_all(bulk).await.is_ok() && stream.flush().await.is_ok() {}
}

/// The same bytes come back: 100 of them, which a WebSocket sees as one frame.
async fn is_echoed<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, protocol: &str) {
    let (sent, expected): (Vec<u8>, Vec<u8>) = if protocol.starts_with('w') {
        let header = [0x82, 0x80 | 100, 0, 0, 0, 0];
        ([&header[..], &[7; 100]].concat(), [&[0x82, 100][..], &[7; 100]].concat())
    } else {
        (vec![7; 100], vec![7; 100])
    };
    stream.write_all(&sent).await.unwrap();
    stream.flush().await.unwrap();
    let mut echo = vec![0; expected.len()];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(echo, expected);
}

/// Opens `clients` connections that never read, and waits until the server has closed `closed` of
/// them. A bystander is echoed before, meanwhile and after. The connections stay open.
async fn besiege(protocol: &'static str, address: SocketAddr, clients: usize, closed: usize) {
    let mut bystander = connect(protocol, address).await;
    is_echoed(&mut bystander, protocol).await;
    let (ended, mut ends) = mpsc::channel(clients);
    for client in 0..clients {
        let stream = connect(protocol, address).await;
        let ended = ended.clone();
        tokio::spawn(async move {
            never_read(stream, protocol).await;
            // Nobody waits for more than are expected to end.
            let _ = ended.send(()).await;
        });
        if client % 100 == 0 {
            is_echoed(&mut bystander, protocol).await;
        }
    }
    let all = async {
        for _ in 0..closed {
            ends.recv().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("connections are closed");
    is_echoed(&mut bystander, protocol).await;
    is_echoed(connect(protocol, address).await, protocol).await;
}

/// The count of `name` in the last log line.
fn count(log: &str, name: &str) -> usize {
    let (_, rest) = log.rsplit_once(&format!(" {name}=")).expect("the last line counts it");
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn clients_that_never_read_are_closed_when_all_together_are_owed_too_much() {
    for protocol in PROTOCOLS {
        // Without -q, for the closing lines.
        let mut command = binary::command();
        command.env("RUST_LOG", "info");
        let server = start(command, protocol, &["--max-buffered", "1MiB"]);
        besiege(protocol, server.address(protocol), 100, 20).await;
        let (_, log) = server.terminate();
        let evicted = count(&log, "evicted");
        let lines = log.matches("reason=\"evicted: the limit on buffered bytes is reached").count();
        assert!(evicted >= 20 && lines == evicted, "{protocol}: {evicted} and {lines}\n{log}");
        assert!(log.contains("WARN The limit on buffered bytes is reached"), "{log}");
    }
}

#[tokio::test]
async fn without_a_limit_on_buffered_bytes_they_all_stay() {
    let server = start(binary::command(), "tcp", &["--max-buffered", "0"]);
    let address = server.address("tcp");
    besiege("tcp", address, 50, 0).await;
    drop(server);
}

/// A control group with a limit on its memory. Dropping it removes it.
struct Group(PathBuf);

impl Group {
    /// `None`, with a message, where none can be made.
    fn new(bytes: u64) -> Option<Group> {
        let name = format!("echo-server-test-{}", std::process::id());
        let made = Group::version_2(&name, bytes).or_else(|| Group::version_1(&name, bytes));
        if made.is_none() {
            eprintln!("skipped: no control group with a memory limit can be made here");
        }
        made
    }

    fn version_2(name: &str, bytes: u64) -> Option<Group> {
        let root = Path::new("/sys/fs/cgroup");
        let controllers = fs::read_to_string(root.join("cgroup.subtree_control")).ok()?;
        if !controllers.split_whitespace().any(|controller| controller == "memory") {
            return None;
        }
        Group::at(root.join(name), &[("memory.max", bytes), ("memory.swap.max", 0)])
    }

    fn version_1(name: &str, bytes: u64) -> Option<Group> {
        let limit = "memory.limit_in_bytes";
        Group::at(Path::new("/sys/fs/cgroup/memory").join(name), &[(limit, bytes)])
    }

    fn at(path: PathBuf, files: &[(&str, u64)]) -> Option<Group> {
        fs::create_dir(&path).ok()?;
        let group = Group(path);
        // Without swap there is no file for it.
        let (limit, rest) = files.split_first().unwrap();
        fs::write(group.0.join(limit.0), limit.1.to_string()).ok()?;
        for (file, value) in rest {
            let _ = fs::write(group.0.join(file), value.to_string());
        }
        Some(group)
    }

    /// A command that runs the server in this group.
    fn command(&self) -> Command {
        let line = "echo $$ > \"$1/cgroup.procs\" && shift && exec echo-server \"$@\"";
        let mut shell = binary::shell(line);
        shell.arg(&self.0);
        shell
    }

    fn peak(&self) -> Option<u64> {
        let files = ["memory.peak", "memory.max_usage_in_bytes"];
        let text = files.iter().find_map(|file| fs::read_to_string(self.0.join(file)).ok())?;
        text.trim().parse().ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[tokio::test]
#[ignore = "takes a minute"]
async fn two_thousand_clients_that_never_read_do_not_exhaust_sixty_four_mebibytes() {
    for protocol in PROTOCOLS {
        let Some(group) = Group::new(64 << 20) else { return };
        let server = start(group.command(), protocol, &[]);
        besiege(protocol, server.address(protocol), 2000, 1000).await;
        println!("{protocol}: at most {} KiB", group.peak().unwrap_or(0) / 1024);
        let (status, log) = server.terminate();
        assert!(status.code().is_some(), "{protocol}: it was killed\n{log}");
    }
}

/// Connections for which resident memory is measured.
const MEASURED: usize = 1000;

#[tokio::test]
#[ignore = "measures, and takes a release build"]
async fn what_a_thousand_connections_cost() {
    println!("| KiB for each connection | silent in its handshake | idle | stalled |");
    for protocol in PROTOCOLS {
        let mut columns = Vec::new();
        for kind in ["silent", "idle", "stalled"] {
            let server = start(binary::command(), protocol, &["--handshake-timeout", "0"]);
            let address = server.address(protocol);
            // The first connection pays for what all share.
            is_echoed(connect(protocol, address).await, protocol).await;
            let before = resident(&server);
            let mut open: Vec<Box<dyn ByteStream>> = Vec::new();
            for _ in 0..MEASURED {
                match kind {
                    "silent" => open.push(Box::new(tcp(address).await)),
                    "idle" => open.push(connect(protocol, address).await),
                    _ => {
                        let mut stream = connect(protocol, address).await;
                        let stall = never_read(&mut stream, protocol);
                        let _ = tokio::time::timeout(Duration::from_millis(20), stall).await;
                        open.push(stream);
                    }
                }
            }
            let after = resident(&server);
            columns.push(format!("{:.1}", (after - before) as f64 / MEASURED as f64));
            drop(server);
        }
        println!("| {protocol} | {} |", columns.join(" | "));
    }
}

/// The resident memory of `server` in KiB.
fn resident(server: &Running) -> u64 {
    let mut text = String::new();
    let path = format!("/proc/{}/status", server.pid());
    fs::File::open(path).unwrap().read_to_string(&mut text).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

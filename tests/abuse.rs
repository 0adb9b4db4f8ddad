//! Hostile and broken clients against the real binary: none of them takes it down.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use common::binary::{Running, command};
use common::{cert, tls_connect};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::ALL_VERSIONS;

fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    // With a timeout, so that a bug is a failure and not a hang.
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    client
}

fn echo(client: &mut TcpStream, payload: &[u8]) {
    client.write_all(payload).unwrap();
    let mut echo = vec![0; payload.len()];
    client.read_exact(&mut echo).unwrap();
    assert_eq!(echo, payload);
}

/// Whether the server closed this connection without a byte.
fn is_closed(client: &mut TcpStream) -> bool {
    let mut byte = [0];
    match client.read(&mut byte) {
        Ok(0) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
        Ok(_) => false,
    }
}

/// Starts the binary with the test certificate.
fn start(args: &[&str]) -> Running {
    Running::spawn(
        command()
            .arg("--cert")
            .arg(cert("server.pem"))
            .arg("--key")
            .arg(cert("server.key"))
            .args(args),
    )
}

/// The binary, with a limit of `limit` descriptors.
fn with_descriptors(limit: u32) -> Command {
    let binary = command();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\"")]).arg(binary.get_program());
    for (name, value) in binary.get_envs() {
        if value.is_none() {
            shell.env_remove(name);
        }
    }
    shell
}

/// The process's peak resident memory, in MiB.
#[cfg(target_os = "linux")]
fn peak_mib(server: &Running) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

#[test]
fn descriptors_run_out_and_come_back() {
    let server = Running::spawn(with_descriptors(64).args([
        "--tcp",
        "0",
        "--threads",
        "2",
        "--max-connections",
        "1000",
    ]));
    let address = server.address("tcp");
    // The kernel completes all of these; the server can accept only some.
    let mut clients: Vec<_> = (0..100).map(|_| connect(address)).collect();
    echo(&mut clients[0], b"the first are served");
    for client in &mut clients {
        client.write_all(b"x").unwrap();
    }
    // Each client that leaves makes room for one that waits.
    for mut client in clients {
        let mut byte = [0];
        client.read_exact(&mut byte).expect("in the end every client is served");
    }
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    assert_eq!(log.matches("backing off").count(), 1, "{log}");
}

#[test]
fn connections_beyond_the_limit_are_closed_at_once() {
    let server = start(&["--tcp", "0", "--ws", "0", "--max-connections", "2"]);
    let (tcp, ws) = (server.address("tcp"), server.address("ws"));
    let (mut first, mut second) = (connect(tcp), connect(tcp));
    echo(&mut first, b"one");
    echo(&mut second, b"two");
    assert!(is_closed(&mut connect(tcp)));
    assert!(is_closed(&mut connect(ws)), "the limit is over all listeners");
    echo(&mut first, b"does not notice");
    drop(second);
    loop {
        let mut next = connect(tcp);
        if next.write_all(b"x").is_ok() && matches!(next.read(&mut [0]), Ok(1)) {
            break;
        }
    }
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    assert_eq!(log.matches("Refused connections").count(), 1, "{log}");
    assert!(log.contains("the limit on connections is reached"), "{log}");
}

#[test]
fn one_address_cannot_take_every_place() {
    let server = start(&["--tcp", "0", "--max-connections-per-ip", "1"]);
    let mut first = connect(server.address("tcp"));
    echo(&mut first, b"one");
    assert!(is_closed(&mut connect(server.address("tcp"))));
    let (_, log) = server.terminate();
    assert!(log.contains("the limit on connections of one address is reached"), "{log}");
}

#[test]
fn a_limit_of_0_is_no_limit() {
    let no_limits = ["--max-connections", "0", "--max-connections-per-ip", "0"];
    let server = start(&[&["--tcp", "0"], &no_limits[..]].concat());
    let mut clients: Vec<_> = (0..50).map(|_| connect(server.address("tcp"))).collect();
    for client in &mut clients {
        echo(client, b"let in");
    }
    let (_, log) = server.terminate();
    assert!(!log.contains("Refused connections"), "{log}");
}

#[test]
fn the_default_limit_leaves_descriptors_to_spare() {
    // 64 less 32, and less 4 for each of several runtimes.
    for (threads, served) in [("1", 32), ("4", 16)] {
        let args = ["--tcp", "0", "--threads", threads];
        let server = Running::spawn(with_descriptors(64).args(args));
        let mut clients: Vec<_> = (0..60).map(|_| connect(server.address("tcp"))).collect();
        for client in &mut clients[..served] {
            echo(client, b"served");
        }
        for client in &mut clients[served..] {
            assert!(is_closed(client));
        }
        let (_, log) = server.terminate();
        assert!(!log.contains("backing off"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_silent_handshakes_do_not_stall_other_clients() {
    // With -v every line is logged.
    let ports = ["--tls", "0", "--ws", "0", "--tcp", "0"];
    let server = start(&[&ports[..], &["--handshake-timeout", "3s", "-v"]].concat());
    let mut silent = Vec::new();
    for n in 0..500 {
        let mut client = connect(server.address(if n % 2 == 0 { "tls" } else { "ws" }));
        // Half of them send a valid beginning.
        match n % 4 {
            2 => client.write_all(&[0x16, 3, 1, 2, 0]).unwrap(),
            3 => client.write_all(b"GET / HTTP/1.1\r\nHost: ").unwrap(),
            _ => {}
        }
        silent.push(client);
    }
    let mut plain = connect(server.address("tcp"));
    let mut secured = tls_connect(server.address("tls"), ALL_VERSIONS).await;
    for _ in 0..200 {
        echo(&mut plain, b"meanwhile");
        secured.write_all(b"meanwhile").await.unwrap();
        secured.flush().await.unwrap();
        let mut back = [0; 9];
        secured.read_exact(&mut back).await.unwrap();
    }
    for mut client in silent {
        // The server closes a silent connection without sending anything.
        assert!(is_closed(&mut client));
    }
    let (_, log) = tokio::task::spawn_blocking(move || server.terminate()).await.unwrap();
    assert_eq!(log.matches(r#"reason="handshake timeout""#).count(), 500, "{log}");
}

/// Writes until the server takes no more, then waits until the stall timeout closes the connection.
#[cfg(target_os = "linux")]
async fn fill_and_wait<S>(mut client: S, message: &[u8])
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    // 1 GiB is more than any buffers on the way hold.
    let mut sent = 0_u64;
    while sent < 1 << 30 {
        match client.write_all(message).await {
            Ok(()) => sent += message.len() as u64,
            Err(_) => return,
        }
    }
    panic!("the server took {sent} bytes from a client that reads nothing");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_is_closed_and_takes_little_memory() {
    let ports = ["--tcp", "0", "--tls", "0", "--ws", "0", "--wss", "0"];
    let server = start(&[&ports[..], &["--stall-timeout", "500ms"]].concat());
    let tcp = |protocol| tokio::net::TcpStream::connect(server.address(protocol));
    let bulk = vec![7; 1 << 16];
    fill_and_wait(tcp("tcp").await.unwrap(), &bulk).await;
    fill_and_wait(tls_connect(server.address("tls"), ALL_VERSIONS).await, &bulk).await;
    // A binary frame of 65,536 bytes, and a Ping of 125, both with a masking key of zeros.
    let frame = [&[0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &bulk].concat();
    let ping = [&[0x89, 0xFD, 0, 0, 0, 0][..], &[7; 125]].concat();
    for message in [frame, ping.repeat(500)] {
        let mut client = common::client::websocket(tcp("ws").await.unwrap()).await;
        fill_and_wait(client.get_mut(), &message).await;
        let secured = tls_connect(server.address("wss"), ALL_VERSIONS).await;
        let mut client = common::client::websocket(secured).await;
        fill_and_wait(client.get_mut(), &message).await;
    }
    let peak = peak_mib(&server);
    assert!(peak < 40, "{peak} MiB");
    let (_, log) = tokio::task::spawn_blocking(move || server.terminate()).await.unwrap();
    assert_eq!(log.matches("reason=\"stall timeout").count(), 6, "{log}");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_announced_length_and_endless_fragments_take_little_memory() {
    let server = start(&["--ws", "0"]);
    let tcp = || tokio::net::TcpStream::connect(server.address("ws"));
    let mut held = Vec::new();
    for _ in 0..50 {
        let mut client = common::client::websocket(tcp().await.unwrap()).await;
        // The header of a binary frame of 15 MiB, whose payload never comes.
        let head = [0x82, 0xFF, 0, 0, 0, 0, 0, 0xF0, 0, 0, 0, 0, 0, 0];
        client.get_mut().write_all(&head).await.unwrap();
        held.push(client);
    }
    let mut client = common::client::websocket(tcp().await.unwrap()).await;
    // The start of a binary message, then empty fragments of it.
    client.get_mut().write_all(&[0x02, 0x80, 0, 0, 0, 0]).await.unwrap();
    let empty = [0x00, 0x80, 0, 0, 0, 0].repeat(10_000);
    for _ in 0..20 {
        client.get_mut().write_all(&empty).await.unwrap();
    }
    // Each fragment comes back, and a Ping between them is answered.
    client.get_mut().write_all(&[0x89, 0x80, 0, 0, 0, 0]).await.unwrap();
    let mut echo = vec![0; 2 + 2 * 200_000 + 2];
    client.get_mut().read_exact(&mut echo).await.unwrap();
    assert_eq!(echo[..2], [0x02, 0]);
    assert!(echo[2..400_002].iter().all(|byte| *byte == 0));
    assert_eq!(echo[400_002..], [0x8A, 0]);
    let peak = peak_mib(&server);
    assert!(peak < 40, "{peak} MiB");
}

#[test]
fn a_client_that_reads_only_at_the_end_gets_all_of_it() {
    let server = start(&["--tcp", "0"]);
    let mut client = connect(server.address("tcp"));
    let mut writer = client.try_clone().unwrap();
    let payload: Vec<u8> = (0..64_u32 << 20).map(|i| (i % 253) as u8).collect();
    let sent = payload.clone();
    // The buffers on the way hold a part of it. Backpressure keeps the rest in the client.
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut echo = Vec::with_capacity(payload.len());
    client.read_to_end(&mut echo).expect("a FIN, not a reset");
    writing.join().unwrap();
    assert!(echo == payload);
}

#[tokio::test]
async fn resets_in_every_phase() {
    let ports = ["--tcp", "0", "--tls", "0", "--ws", "0", "--wss", "0"];
    let server = start(&ports);
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1];
    let starts: [&[u8]; 4] = [b"", b"x", &hello, b"GET / HTTP/1.1\r\nHost: x\r\n"];
    for protocol in ["tcp", "tls", "ws", "wss"] {
        for start in starts {
            for _ in 0..5 {
                let mut client =
                    tokio::net::TcpStream::connect(server.address(protocol)).await.unwrap();
                client.write_all(start).await.unwrap();
                client.set_zero_linger().unwrap();
            }
        }
    }
    for _ in 0..5 {
        let mut client = tls_connect(server.address("tls"), ALL_VERSIONS).await;
        client.write_all(b"in the middle of an echo").await.unwrap();
        client.get_ref().0.set_zero_linger().unwrap();
        let tcp = tokio::net::TcpStream::connect(server.address("ws")).await.unwrap();
        let client = common::client::websocket(tcp).await;
        client.get_ref().set_zero_linger().unwrap();
    }
    let mut client = tokio::net::TcpStream::connect(server.address("tcp")).await.unwrap();
    client.write_all(b"still here").await.unwrap();
    let mut echo = [0; 10];
    client.read_exact(&mut echo).await.unwrap();
    drop(client);
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    assert!(!log.contains("panicked at"), "{log}");
}

#[test]
fn a_drain_counts_drained_and_aborted_connections() {
    let server = start(&["--tcp", "0", "--drain-timeout", "1s"]);
    let mut idle = connect(server.address("tcp"));
    echo(&mut idle, b"hello");
    let mut stuck = connect(server.address("tcp"));
    stuck.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    while stuck.write_all(&[7; 1 << 16]).is_ok() {}
    server.signal(Signal::TERM);
    assert!(is_closed(&mut idle));
    drop(idle);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("Server stopped drained=1 aborted=1 refused=0"), "{log}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let server = start(&["--tcp", "0", "--drain-timeout", "1h", "--stall-timeout", "0"]);
    let mut stuck = connect(server.address("tcp"));
    stuck.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    while stuck.write_all(&[7; 1 << 16]).is_ok() {}
    let mut idle = connect(server.address("tcp"));
    echo(&mut idle, b"hello");
    server.signal(Signal::INT);
    // Once it has closed an idle connection, it is draining.
    assert!(is_closed(&mut idle));
    server.signal(Signal::INT);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("Ended at once"), "{log}");
}

#[test]
fn a_flood_of_connections_does_not_flood_the_log() {
    let server = start(&["--tcp", "0"]);
    for _ in 0..2000 {
        let mut client = connect(server.address("tcp"));
        echo(&mut client, b"x");
    }
    let (_, log) = server.terminate();
    let shown = log.lines().filter(|line| line.contains("onnection")).count();
    // Each connection has two lines. The limit hides most of them, and shows more as time passes.
    assert!((1000..3000).contains(&shown), "{shown} lines");
    let summary = log.lines().find(|line| line.contains("were not shown")).expect("a summary");
    assert!(summary.contains("lines="), "{summary}");
}

#[test]
fn a_quiet_server_says_nothing_about_lines_that_it_would_not_have_shown() {
    let server = start(&["--tcp", "0", "-q"]);
    for _ in 0..1200 {
        let mut client = connect(server.address("tcp"));
        echo(&mut client, b"x");
    }
    let (_, log) = server.terminate();
    assert!(!log.contains("onnection") && !log.contains("shown"), "{log}");
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") else {
        eprintln!("skipped: there is no /dev/full");
        return;
    };
    let mut child = command()
        .args(["--tcp", "0", "--ready-file", "/dev/stdout"])
        .stdout(std::process::Stdio::piped())
        .stderr(full)
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(child.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address = ready["listeners"][0]["address"].as_str().unwrap().parse().unwrap();
    for _ in 0..3 {
        echo(&mut connect(address), b"hello");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

//! The system calls that connections and messages cost, counted by strace.

#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::binary::{self, Running};
use common::tools;

/// How often each system call was made, by name. Those that found nothing (EAGAIN) are counted once
/// more, with `EAGAIN` behind the name.
type Calls = BTreeMap<String, usize>;

#[test]
fn a_connection_keeps_to_its_budget() {
    if !has_strace() {
        return;
    }
    // What one connection costs that connects, sends once and closes, one after the other. Each comes
    // alone, so that none shares a call with another. With two threads, the one that accepts wakes
    // one that echoes. An epoll_wait may report several events, as the client's timing has it, so these
    // are the most: one for each event.
    let budgets = [("1", 11.2), ("2", 14.2)];
    for (threads, budget) in budgets {
        let [few, many] = [10, 60].map(|connections| {
            traced(&["-q", "--threads", threads, "--tcp", "0"], |server| {
                for _ in 0..connections {
                    exchange(&mut connect(server, "tcp"), 5, 1);
                }
            })
        });
        let each = difference(&few, &many, 50);
        // A second accept4 may find the backlog empty.
        for (call, most) in [
            ("epoll_ctl", 2.0),
            ("accept4", 2.0),
            ("recvfrom", 2.0),
            ("sendto", 1.0),
            ("close", 1.0),
            ("write", if threads == "1" { 0.0 } else { 1.2 }),
            ("shutdown", 0.0),
            ("setsockopt", 0.0),
            ("ioctl", 0.0),
        ] {
            let calls = each.get(call).copied().unwrap_or(0.0);
            assert!(calls <= most + 0.1, "{threads} threads, {call}: {calls}, of {most}; {each:?}");
        }
        let all = total(&each);
        println!("{threads} threads: {all:.1} calls for each connection, of {budget}");
        assert!(all <= budget, "{threads} threads: {all} calls, of {budget}: {each:?}");
    }
}

/// A header that comes with the first bytes costs nothing; one that comes alone costs the read of it,
/// and the wait for what follows.
#[test]
fn a_proxy_header_costs_at_most_a_read() {
    if !has_strace() {
        return;
    }
    const HEADER: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 61000 8080\r\n";
    const PLAIN: &[&str] = &["-q", "--threads", "1", "--tcp", "0"];
    const PROXIED: &[&str] = &[
        "-q",
        "--threads",
        "1",
        "--tcp",
        "0",
        "--proxy-protocol",
        "tcp",
        "--proxy-from",
        "127.0.0.1",
    ];
    let cost = |args: &[&str], beginning: &[&[u8]]| {
        let [few, many] = [10, 60].map(|connections| {
            traced(args, |server| {
                for _ in 0..connections {
                    let mut client = connect(server, "tcp");
                    for piece in beginning {
                        client.write_all(piece).unwrap();
                        // The server has read a header once it waits again.
                        wait_until_read(&client);
                    }
                    client.read_exact(&mut [0; 5]).unwrap();
                }
            })
        });
        difference(&few, &many, 50)
    };
    let plain = cost(PLAIN, &[b"hello"]);
    let together = cost(PROXIED, &[&[HEADER, b"hello"].concat()]);
    let alone = cost(PROXIED, &[HEADER, b"hello"]);
    let reads = |each: &BTreeMap<String, f64>| each.get("recvfrom").copied().unwrap_or(0.0);
    let (all, with, behind) = (total(&plain), total(&together), total(&alone));
    println!("{all:.1} calls, {with:.1} with a header, {behind:.1} behind one that came alone");
    assert!(reads(&together) <= reads(&plain) + 0.1, "{plain:?}, {together:?}");
    assert!(reads(&alone) <= reads(&plain) + 1.1, "{plain:?}, {alone:?}");
    // An epoll_wait may report several events, or one.
    assert!(with <= all + 1.1, "{plain:?}, {together:?}");
    assert!(behind <= all + 3.1, "{plain:?}, {alone:?}");
}

/// Waits until the other end has acknowledged and read all that was sent on `client`, which is on
/// this machine.
fn wait_until_read(client: &TcpStream) {
    let local = client.local_addr().unwrap();
    let began = Instant::now();
    loop {
        // proc(5), net/tcp: the server's socket has the client's port as its remote one.
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let remote = format!("{:02X}{:02X}{:02X}{:02X}:{:04X}", 1, 0, 0, 127, local.port());
        let unread = table.lines().filter_map(|line| {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            (*fields.get(2)? == remote).then(|| fields[4].ends_with(":00000000"))
        });
        if unread.collect::<Vec<_>>().last() == Some(&true) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "nobody reads: {table}");
        std::thread::yield_now();
    }
}

#[test]
fn a_message_costs_a_receive_and_a_send() {
    if !has_strace() {
        return;
    }
    // Neither a header before them nor facts make messages dearer.
    let seen = ["--proxy-protocol", "tcp", "--facts", "tcp"];
    for (protocol, flags) in [("tcp", &[][..]), ("ws", &[]), ("tcp", &seen)] {
        let [few, many] = [20, 120].map(|messages| {
            let listener = format!("--{protocol}");
            let args = [&["-q", "--threads", "1", &listener, "0"], flags].concat();
            traced(&args, |server| {
                let mut client = connect(server, protocol);
                if !flags.is_empty() {
                    let mut byte = [0];
                    client.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 61000 8080\r\n").unwrap();
                    while client.read_exact(&mut byte).is_ok() && byte != *b"\n" {}
                }
                // Over WebSocket a binary frame, with a masking key of zeros.
                let (head, back): (&[u8], &[u8]) = match protocol {
                    "ws" => (&[0x82, 0x80 | 64, 0, 0, 0, 0], &[0x82, 64]),
                    _ => (&[], &[]),
                };
                exchange_in(&mut client, head, back, 64, messages);
            })
        });
        let each = difference(&few, &many, 100);
        let sends = each.get("sendto").or(each.get("writev")).copied().unwrap_or(0.0);
        assert!((0.9..1.1).contains(&sends), "{protocol}: {each:?}");
        // The third is epoll_wait.
        let all = total(&each);
        println!("{protocol} {flags:?}: {all:.2} calls for each message");
        assert!(all <= 3.1, "{protocol}: {all} calls, of 3: {each:?}");
    }
}

#[test]
fn hardly_a_read_finds_nothing() {
    if !has_strace() {
        return;
    }
    const CONNECTIONS: usize = 8;
    // Sizes of which several fill a power of two exactly, and how many are in flight.
    for (size, in_flight) in [(64, 16), (16 * 1024, 4), (64 * 1024, 1), (256 * 1024, 1)] {
        let calls = traced(&["-q", "--threads", "1", "--tcp", "0"], |server| {
            let clients = (0..CONNECTIONS).map(|_| connect(server, "tcp"));
            let pumps = clients.map(|mut client| {
                std::thread::spawn(move || exchange(&mut client, size * in_flight, 40))
            });
            let pumps: Vec<_> = pumps.collect();
            pumps.into_iter().for_each(|pump| pump.join().unwrap());
        });
        let count = |call: &str| calls.get(call).copied().unwrap_or(0);
        let (reads, vain) = (count("recvfrom"), count("recvfrom EAGAIN"));
        println!("{in_flight} x {size} bytes: {vain} of {reads} reads find nothing");
        assert!(vain * 50 <= reads, "{in_flight} x {size}: {vain} of {reads} find nothing");
    }
}

fn has_strace() -> bool {
    tools::have(&["strace", "-e", "trace=none", "echo", "traced"], "traced")
}

fn connect(server: &Running, protocol: &str) -> TcpStream {
    let mut client = TcpStream::connect(server.address(protocol)).unwrap();
    client.set_nodelay(true).unwrap();
    if protocol == "ws" {
        common::client::upgrade(&mut client);
    }
    client
}

/// Sends messages of this many bytes, and waits for each echo.
fn exchange(client: &mut TcpStream, size: usize, messages: usize) {
    exchange_in(client, &[], &[], size, messages);
}

/// The same, with a head before each message and each echo.
fn exchange_in(client: &mut TcpStream, head: &[u8], back: &[u8], size: usize, messages: usize) {
    let payload = vec![b'x'; size];
    let (message, expected) = ([head, &payload].concat(), [back, &payload].concat());
    let mut echo = vec![0; expected.len()];
    for _ in 0..messages {
        client.write_all(&message).unwrap();
        client.read_exact(&mut echo).unwrap();
        assert!(echo == expected, "another echo");
    }
}

/// The system calls of a server that is started with `args`, from its start to its end.
fn traced(args: &[&str], drive: impl FnOnce(&Running)) -> Calls {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let mut strace = Command::new("strace");
    // With --daemonize the process is the server's own, so that signals reach it.
    strace.args(["--daemonize", "--follow-forks", "--quiet=attach", "--output"]).arg(&trace);
    strace.arg(binary::PATH).args(args);
    let server = Running::spawn(&mut strace);
    drive(&server);
    let pid = server.pid();
    server.terminate();
    let lines = wait_for_end(&trace, pid);
    let mut calls = Calls::new();
    for line in lines.lines() {
        let Some((_, rest)) = line.split_once(' ') else { continue };
        let name = |text: &str| text.trim_start().split(['(', ' ']).next().unwrap_or("").to_owned();
        let (begins, ends) = match rest.trim_start().strip_prefix("<... ") {
            Some(resumed) => (None, Some(name(resumed))),
            None if rest.contains('(') => (Some(name(rest)), Some(name(rest))),
            None => (None, None),
        };
        // A debug build checks each descriptor that it closes.
        if let Some(call) = begins.filter(|call| call != "fcntl") {
            *calls.entry(call).or_default() += 1;
        }
        if let Some(call) = ends.filter(|_| rest.contains(" = -1 EAGAIN")) {
            *calls.entry(call + " EAGAIN").or_default() += 1;
        }
    }
    calls
}

/// How often each call is made for each of `count` more things.
fn difference(few: &Calls, many: &Calls, count: usize) -> BTreeMap<String, f64> {
    let of = |calls: &Calls, call: &String| calls.get(call).copied().unwrap_or(0) as f64;
    let each = |call: &String| (of(many, call) - of(few, call)) / count as f64;
    many.keys().map(|call| (call.clone(), each(call))).filter(|(_, each)| *each != 0.0).collect()
}

/// All calls together. Those of the allocator come and go, and those of the thread that writes the
/// log.
fn total(each: &BTreeMap<String, f64>) -> f64 {
    const OTHERS: [&str; 5] = ["madvise", "mmap", "munmap", "futex", "sched_yield"];
    let is_counted = |call: &str| !call.contains(' ') && !OTHERS.contains(&call);
    each.iter().filter(|(call, _)| is_counted(call)).map(|(_, each)| each).sum()
}

/// Waits until strace has written all of its output.
fn wait_for_end(trace: &Path, pid: u32) -> String {
    let began = Instant::now();
    loop {
        let lines = std::fs::read_to_string(trace).unwrap();
        let is_last = |line: &str| line.starts_with(&format!("{pid} ")) && line.contains("+++");
        if lines.lines().any(is_last) {
            return lines;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "strace has not ended: {lines}");
        std::thread::yield_now();
    }
}

//! The system calls that a connection costs, counted by strace.

#![cfg(target_os = "linux")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::binary::{self, Running};
use common::tools;

/// The calls that are counted.
const CALLS: [&str; 3] = ["epoll_ctl", "accept4", "ioctl"];

#[test]
fn a_connection_is_registered_once_and_deregistered_once() {
    if !tools::have(&["strace", "-e", "trace=none", "echo", "traced"], "traced") {
        return;
    }
    for threads in ["1", "2"] {
        // The difference is free of what the server does at its start and at its end.
        let [few, many] = [10, 60].map(|connections| calls(threads, connections));
        let each: Vec<_> = many.iter().zip(few).map(|(many, few)| (many - few) / 50).collect();
        // A second accept4 may find the backlog empty.
        let expected = [&[2, 1, 0][..], &[2, 2, 0]];
        assert!(expected.contains(&&each[..]), "{threads} threads, {CALLS:?}: {each:?}");
    }
}

/// How often a server that serves this many connections does each of [`CALLS`].
fn calls(threads: &str, connections: usize) -> Vec<usize> {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let mut strace = Command::new("strace");
    // With --daemonize the process is the server's own, so that signals reach it.
    strace.args(["--daemonize", "--follow-forks", "--quiet=attach", "--output"]).arg(&trace);
    strace.args(["--trace", &CALLS.join(","), binary::PATH, "--threads", threads, "--tcp", "0"]);
    let server = Running::spawn(&mut strace);
    for _ in 0..connections {
        let mut client = TcpStream::connect(server.address("tcp")).unwrap();
        client.write_all(b"hello").unwrap();
        let mut echo = [0; 5];
        client.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"hello");
    }
    let pid = server.pid();
    server.terminate();
    let lines = wait_for_end(&trace, pid);
    let begins = |line: &&str, call| line.contains(&format!(" {call}("));
    CALLS.map(|call| lines.lines().filter(|line| begins(line, call)).count()).to_vec()
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

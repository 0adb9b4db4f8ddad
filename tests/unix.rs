//! Unix sockets: the stream protocols over them, and their files.

#![cfg(unix)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use common::binary::{Running, command};
use common::client::{Client, half_close_gets_all, noise};
use common::{identity, tools};
use echo_server::{Config, Protocol, TestServer, UnixAddress};
use rustix::process::Signal;

const PROTOCOLS: [Protocol; 4] = [Protocol::Tcp, Protocol::Tls, Protocol::Ws, Protocol::Wss];

/// `path` as a flag takes it.
fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

fn config(protocol: Protocol, path: &Path) -> Config {
    Config::new().listen(protocol, UnixAddress::Path(path.to_owned())).identity(identity())
}

/// Makes one echo, and reads to the end of the stream.
fn echo(path: &Path) {
    let mut client = UnixStream::connect(path).unwrap();
    client.write_all(b"hello").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut echo = String::new();
    client.read_to_string(&mut echo).unwrap();
    assert_eq!(echo, "hello");
}

/// The exit code of a failed start, and its message, which has to be one line.
fn refusal(args: &[&str]) -> (Option<i32>, String) {
    let output = command().args(args).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    (output.status.code(), said)
}

#[tokio::test]
async fn every_stream_protocol_echoes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echo.sock");
    for protocol in PROTOCOLS {
        let server = TestServer::with(config(protocol, &path)).await.unwrap();
        let stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        let mut client = Client::over(protocol, stream).await;
        for payload in [&b"hello"[..], &noise(300_000)] {
            assert!(client.echo(payload).await == payload, "{protocol}");
        }
        client.close().await;
        let summary = server.shutdown().await;
        assert_eq!((summary.aborted, summary.panicked), (0, 0), "{protocol}");
        assert!(!path.exists(), "{protocol}: the file goes with the listener");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_shutting_down_writing_the_client_still_gets_all_it_is_owed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echo.sock");
    let _server = TestServer::with(config(Protocol::Tcp, &path)).await.unwrap();
    let client = tokio::net::UnixStream::connect(&path).await.unwrap();
    half_close_gets_all(client, &noise(3 << 20)).await;
}

#[test]
fn the_clients_uid_and_pid_are_logged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echo.sock");
    // The log must not depend on which thread serves the connection.
    for threads in ["1", "2"] {
        let server = Running::start(&["--tcp", &unix(&path), "--threads", threads]);
        assert_eq!(server.ready["listeners"][0]["address"], unix(&path));
        echo(&path);
        let (status, log) = server.terminate();
        assert!(status.success(), "{log}");
        let (uid, pid) = (rustix::process::getuid().as_raw(), std::process::id());
        assert!(log.contains(&format!("Server listening on {}", unix(&path))), "{log}");
        let peer = format!("New connection from: pid {pid} of uid {uid} ");
        let opening = log.lines().find(|line| line.contains(&peer)).expect(&log);
        assert!(opening.contains(&format!("uid={uid} pid={pid}")), "{opening}");
        assert!(log.contains(&format!("Connection closed: pid {pid} of uid {uid} ")), "{log}");
    }
}

#[test]
fn a_mode_is_applied_to_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echo.sock");
    for mode in ["0660", "600", "0777"] {
        let server = Running::start(&["--tcp", &unix(&path), "--unix-mode", mode]);
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert!(metadata.file_type().is_socket());
        let expected = u32::from_str_radix(mode, 8).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, expected, "{mode}");
        server.terminate();
    }
    let (code, said) = refusal(&["--tcp", &unix(&path), "--unix-mode", "999"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("--unix-mode") && said.contains("octal"), "{said}");
}

#[test]
fn a_stale_file_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echo.sock");
    let server = Running::start(&["--tcp", &unix(&path)]);
    server.signal(Signal::KILL);
    server.wait();
    assert!(path.exists(), "a killed server leaves its file");
    let server = Running::start(&["--tcp", &unix(&path)]);
    echo(&path);
    server.terminate();
    assert!(!path.exists());
}

#[test]
fn a_socket_that_somebody_listens_on_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echo.sock");
    let server = Running::start(&["--tcp", &unix(&path)]);
    let (code, said) = refusal(&["--ws", &unix(&path)]);
    assert_eq!(code, Some(1));
    assert!(said.contains(&format!("--ws {}", unix(&path))) && said.contains("in use"), "{said}");
    echo(&path);
    server.terminate();
    // A listener with a full backlog is in use all the same.
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    let (code, said) = refusal(&["--tcp", &unix(&path)]);
    assert_eq!(code, Some(1), "{said}");
    assert!(path.exists());
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "precious").unwrap();
    let link = directory.path().join("link");
    symlink(&file, &link).unwrap();
    for path in [&file, &link] {
        let (code, said) = refusal(&["--tcp", &unix(path)]);
        assert_eq!(code, Some(1));
        assert!(said.contains("no socket") && said.contains(&unix(path)), "{said}");
        assert_eq!(fs::read_to_string(path).unwrap(), "precious");
    }
}

#[test]
fn a_file_that_was_replaced_meanwhile_is_not_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echo.sock");
    let server = Running::start(&["--tcp", &unix(&path)]);
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    server.terminate();
    assert!(path.exists(), "it is another server's by now");
}

#[test]
fn a_path_that_cannot_be_bound_is_reported_with_its_cause() {
    let directory = tempfile::tempdir().unwrap();
    let long = directory.path().join("x".repeat(120));
    let missing = directory.path().join("no/such/directory");
    for (args, code, part) in [
        (["--tcp", &unix(&long)], 1, "107 bytes"),
        (["--tcp", &unix(&missing)], 1, "No such file"),
        (["--udp", &unix(directory.path())], 2, "UDP has no Unix sockets"),
        (["--tcp", "unix:"], 2, "unix:/path"),
    ] {
        let (actual, said) = refusal(&args);
        assert_eq!(actual, Some(code), "{said}");
        assert!(said.contains(part) && said.contains(args[0]), "{part}: {said}");
    }
}

#[test]
fn at_shutdown_clients_in_the_accept_queue_are_served() {
    const CLIENTS: usize = 100;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echo.sock");
    let server = Running::start(&["--tcp", &unix(&path), "--threads", "1"]);
    server.signal(Signal::STOP);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = UnixStream::connect(&path).unwrap();
            client.write_all(b"early").unwrap();
            client
        })
        .collect();
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    for mut client in clients {
        let mut rest = String::new();
        client.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "early");
    }
    let (status, log) = server.wait();
    assert!(status.success(), "{log}");
    assert!(log.contains(&format!("drained={CLIENTS} ")), "{log}");
}

#[cfg(target_os = "linux")]
#[test]
fn an_abstract_name_has_no_file() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;

    let name = format!("echo-server-test-{}", std::process::id());
    let address = format!("unix:@{name}");
    let server = Running::start(&["--tcp", &address]);
    assert_eq!(server.ready["listeners"][0]["address"], address);
    let socket = SocketAddr::from_abstract_name(&name).unwrap();
    let mut client = UnixStream::connect_addr(&socket).unwrap();
    client.write_all(b"x").unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 1);
    let (code, said) = refusal(&["--tcp", &address]);
    assert_eq!(code, Some(1));
    assert!(said.contains(&address) && said.contains("in use"), "{said}");
    drop(client);
    server.terminate();
}

#[test]
fn socat_and_curl_can_connect() {
    if !tools::have(&["socat", "-V"], "socat version") || !tools::have(&["curl", "-V"], "curl ") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (tcp, ws) = (directory.path().join("tcp"), directory.path().join("ws"));
    let server = Running::start(&["--tcp", &unix(&tcp), "--ws", &unix(&ws)]);
    let connect = format!("UNIX-CONNECT:{}", tcp.display());
    let socat = tools::run(Command::new("socat").args(["-", &connect]), b"hello");
    assert_eq!(socat.stdout, b"hello");
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--unix-socket"]).arg(&ws).arg("http://localhost/");
    let page = String::from_utf8(tools::run(&mut curl, b"").stdout).unwrap();
    assert!(page.starts_with("<!doctype html>") || page.starts_with("<!DOCTYPE html>"), "{page}");
    server.terminate();
}

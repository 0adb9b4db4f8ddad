//! The binary: flags, environment, failed starts, the log, signals.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Output, Stdio};

use common::binary::{Running, command, shell};
use common::cert;
use rustix::process::Signal;

/// Runs the binary to its end.
fn output(args: &[&str]) -> Output {
    command().args(args).output().unwrap()
}

/// The exit code of a failed start, and its message, which has to be one line.
fn failure(args: &[&str]) -> (i32, String) {
    let output = output(args);
    let said = String::from_utf8(output.stderr).unwrap();
    let errors: Vec<_> = said.lines().filter(|line| !line.contains(" INFO ")).collect();
    assert_eq!(errors.len(), 1, "{args:?}: {said}");
    assert!(errors[0].starts_with("echo-server: "), "{args:?}: {said}");
    assert_eq!(output.stdout, b"", "{args:?}");
    (output.status.code().unwrap(), errors[0].to_owned())
}

#[track_caller]
fn assert_fails(args: &[&str], code: i32, parts: &[&str]) {
    let (actual, said) = failure(args);
    assert_eq!(actual, code, "{said}");
    for part in parts {
        assert!(said.contains(part), "'{part}' is not in: {said}");
    }
}

fn echo_once(address: std::net::SocketAddr) {
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"hello").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut echo = Vec::new();
    client.read_to_end(&mut echo).unwrap();
    assert_eq!(echo, b"hello");
}

#[test]
fn help_and_version_are_printed_on_stdout() {
    let help = output(&["--help"]);
    assert!(help.status.success());
    let text = String::from_utf8(help.stdout).unwrap();
    for flag in ["--tcp", "--tls", "--udp", "--ws", "--wss", "--all", "--cert", "--key"] {
        assert!(text.contains(flag), "{flag} is not in: {text}");
    }
    let version = output(&["--version"]);
    assert_eq!(
        String::from_utf8(version.stdout).unwrap(),
        format!("echo-server {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn the_documented_lines_are_logged() {
    let server = Running::start(&["--tcp", "0"]);
    let address = server.address("tcp");
    echo_once(address);
    let (status, log) = server.terminate();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains(&format!("Server listening on port {}", address.port())), "{log}");
    assert!(log.contains("New connection from: 127.0.0.1:"), "{log}");
    let closing = log.lines().find(|line| line.contains("Connection closed: ")).unwrap();
    for fact in ["received=5", "sent=5", "messages=1", "duration_ms=", r#"reason="end of stream""#]
    {
        assert!(closing.contains(fact), "{fact} is not in: {closing}");
    }
}

#[test]
fn every_listener_is_announced() {
    let listeners =
        ["--tcp", "0", "--tcp", "0", "--tls", "0", "--udp", "0", "--ws", "0", "--wss", "0"];
    let server = Running::start(&listeners);
    let protocols: Vec<_> = server.ready["listeners"]
        .as_array()
        .unwrap()
        .iter()
        .map(|listener| listener["protocol"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(protocols, ["tcp", "tcp", "tls", "udp", "ws", "wss"]);
    assert_eq!(server.ready["pid"], server.pid());
    echo_once(server.address("tcp"));
    let (status, log) = server.terminate();
    assert!(status.success());
    assert_eq!(log.matches("Server listening on port ").count(), 6, "{log}");
    assert!(log.contains("Made a self-signed certificate sha256="), "{log}");
}

#[test]
fn the_ready_file_appears_whole_and_replaces_an_old_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ready");
    fs::write(&path, "from an earlier run").unwrap();
    let pipe = Running::start(&["--tcp", "0"]);
    let taken = pipe.address("tcp").to_string();
    let path_text = path.to_str().unwrap();
    assert_fails(&["--tcp", &taken, "--ready-file", path_text], 1, &["in use"]);
    assert!(!path.exists(), "a server that did not start must not look ready");
    let unwritable = directory.path().join("no such directory/ready");
    let unwritable = unwritable.to_str().unwrap();
    assert_fails(&["--tcp", "0", "--ready-file", unwritable], 1, &["--ready-file", "No such file"]);
}

#[test]
fn the_ready_file_is_not_written_through_a_link_that_somebody_has_put_there() {
    let directory = tempfile::tempdir().unwrap();
    let (path, victim) = (directory.path().join("ready"), directory.path().join("victim"));
    fs::write(&victim, "precious").unwrap();
    // The shell knows the server's process ID, as somebody who guesses it would.
    let line = r#"for n in "" .0 .1; do ln -s victim "$1.$$$n"; done; ln -s victim "$1"
                  exec echo-server --tcp 0 --ready-file "$1""#;
    let server = Started(shell(line).arg(&path).stderr(Stdio::null()).spawn().unwrap());
    let is_complete = || fs::read_to_string(&path).is_ok_and(|text| text.contains("listeners"));
    while !is_complete() {
        std::thread::yield_now();
    }
    drop(server);
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

/// A process that ends with the test.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_ready_file_can_be_standard_output_that_is_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    let mut server = command();
    server.args(["--tcp", "0", "--ready-file", "/dev/stdout"]).stderr(Stdio::null());
    let server = Started(server.stdout(fs::File::create(&path).unwrap()).spawn().unwrap());
    while !fs::read_to_string(&path).unwrap().contains("listeners") {
        std::thread::yield_now();
    }
    drop(server);
    assert!(fs::symlink_metadata("/dev/stdout").unwrap().is_symlink());
}

#[test]
fn sighup_without_files_to_reload_ends_nothing() {
    for listener in ["--tcp", "--tls"] {
        let server = Running::start(&[listener, "0", "--tcp", "0"]);
        server.signal(Signal::HUP);
        echo_once(server.address("tcp"));
        let (status, log) = server.terminate();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(log.contains("SIGHUP received; there is nothing to reload"), "{log}");
    }
}

#[test]
fn flags_are_read_from_the_environment_too() {
    let server = Running::spawn(
        command()
            .env("ECHO_TCP", "127.0.0.1:0,127.0.0.1:0")
            .env("ECHO_LOG_FORMAT", "json")
            .env("ECHO_VERBOSE", "1"),
    );
    assert_eq!(server.ready["listeners"].as_array().unwrap().len(), 2);
    let (_, log) = server.terminate();
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(line["message"].is_string());
    }
    let quiet = Running::spawn(command().args(["--tcp", "0"]).env("ECHO_QUIET", "true"));
    assert_eq!(quiet.terminate().1, "");
}

#[test]
fn rust_log_overrides_the_flags() {
    let server = Running::spawn(command().args(["--tcp", "0", "--verbose"]).env("RUST_LOG", "off"));
    assert_eq!(server.terminate().1, "");
    let output = command().env("RUST_LOG", "echo_server=loud").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("echo-server: RUST_LOG: "));
}

#[test]
fn wrong_usage_is_reported_in_one_line_with_exit_code_2() {
    let server_pem = cert("server.pem").to_str().unwrap().to_owned();
    let client_key = cert("client.key").to_str().unwrap().to_owned();
    assert_fails(&["--tcp", "127.0.0.1"], 2, &["--tcp", "127.0.0.1:8080"]);
    assert_fails(&["--udp", "here:there"], 2, &["--udp", "here:there"]);
    assert_fails(&["--tcp", "host.invalid:80"], 2, &["--tcp", "host.invalid"]);
    assert_fails(&["--buffersize", "1"], 2, &["--buffersize", "--buffer-size"]);
    assert_fails(&["--buffer-size", "0"], 2, &["--buffer-size", "64MiB"]);
    assert_fails(&["--max-buffered", "much"], 2, &["--max-buffered", "64MiB"]);
    assert_fails(&["--tls", "0", "--cert", &server_pem], 2, &["--key"]);
    assert_fails(&["--tls", "0", "--key", &client_key], 2, &["--cert"]);
    let missing = ["--tls", "0", "--cert", "/no/such/file", "--key", "/no/such/file"];
    assert_fails(&missing, 2, &["--cert /no/such/file: No such file"]);
    let swapped = ["--tls", "0", "--cert", &client_key, "--key", &server_pem];
    assert_fails(
        &swapped,
        2,
        &["--cert", "it holds a private key, and no certificate; it and", "are swapped"],
    );
    let mismatch = ["--tls", "0", "--cert", &server_pem, "--key", &client_key];
    assert_fails(&mismatch, 2, &["--key", "not the key of the certificate in", "server.pem"]);
}

#[test]
fn an_address_that_cannot_be_bound_is_reported_in_one_line_with_exit_code_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    assert_fails(&["--ws", &address], 1, &[&format!("--ws {address}: "), "in use"]);
    assert_fails(&["--tcp", "192.0.2.1:0"], 1, &["--tcp 192.0.2.1:0", "no such address"]);
}

#[test]
fn a_failed_start_opens_no_listener() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = output(&["--tcp", "0", "--udp", "0", "--wss", &address]);
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(!log.contains("listening"), "{log}");
}

#[test]
fn signals_end_the_server_with_exit_code_0() {
    for (signal, name) in [(Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM")] {
        let server = Running::start(&["--tcp", "0", "--udp", "0"]);
        let _idle = TcpStream::connect(server.address("tcp")).unwrap();
        server.signal(signal);
        drop(_idle);
        let (status, log) = server.wait();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(log.contains(name), "{log}");
    }
}

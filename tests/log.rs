//! The log's form: every line can be parsed, and the documented fields are there.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::process::Command;

use common::binary::{Running, command};
use serde_json::Value;

/// What came back before the connection ended.
fn answer(server: &Running, protocol: &str, request: &[u8]) -> String {
    let mut client = TcpStream::connect(server.address(protocol)).unwrap();
    client.write_all(request).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Clients of every kind, well-behaved and not, with what would spoil a line of text.
fn mixed_run(command: &mut Command) -> String {
    let listeners = [
        "--tcp",
        "0",
        "--tls",
        "0",
        "--udp",
        "0",
        "--ws",
        "0",
        "--wss",
        "0",
        "--ws-origin",
        "http://a",
    ];
    let server = Running::spawn(command.args(listeners));
    answer(&server, "tcp", b"hello");
    let upgrade = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: a, b\r\nOrigin: http://a\r\n\r\n"
        )
    };
    let opened = answer(&server, "ws", upgrade("/a=b&c='d'?e").as_bytes());
    assert!(opened.starts_with("HTTP/1.1 101 "), "{opened}");
    // A frame without a mask.
    answer(&server, "ws", &[upgrade("/").as_bytes(), &[0x81, 1, b'x']].concat());
    answer(&server, "ws", b"");
    answer(&server, "ws", b"GET / HTTP/1.1\r\n\r\n");
    answer(&server, "ws", b"\x00\x1b[31m garbage\r\n\r\n");
    answer(&server, "ws", b"GET \x01\r\n\r\n");
    answer(&server, "ws", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x09\x04\0\0\0\0\0garbage..");
    let at_ws = answer(&server, "ws", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03");
    assert!(at_ws.starts_with("HTTP/1.1 400 ") && at_ws.contains("perhaps TLS"), "{at_ws}");
    for (protocol, hint) in [("wss", "https://"), ("tls", "speaks no HTTP")] {
        let answered = answer(&server, protocol, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answered.starts_with("HTTP/1.1 400 ") && answered.contains(hint), "{answered}");
        answer(&server, protocol, b"EHLO x\r\n");
        answer(&server, protocol, b"");
    }
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.connect(server.address("udp")).unwrap();
    udp.send(b"ping").unwrap();
    udp.recv(&mut [0; 16]).unwrap();
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    log
}

/// Splits a line into keys and values as logfmt parsers do: a word without `=` is a key without a
/// value, and a quoted value has JSON's escapes.
fn parse(line: &str) -> Vec<(String, Option<String>)> {
    let mut pairs = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let end = rest.find(['=', ' ', '"']).unwrap_or(rest.len());
        let key = rest[..end].to_owned();
        assert!(!key.is_empty() && !rest[end..].starts_with('"'), "a stray quote or =: {line}");
        rest = &rest[end..];
        let value = rest.strip_prefix('=').map(|text| {
            let value;
            if text.starts_with('"') {
                let mut values = serde_json::Deserializer::from_str(text).into_iter::<String>();
                value = values.next().unwrap().unwrap_or_else(|error| panic!("{error}: {line}"));
                rest = &text[values.byte_offset()..];
            } else {
                let end = text.find(' ').unwrap_or(text.len());
                assert!(!text[..end].contains(['=', '"']), "{line}");
                value = text[..end].to_owned();
                rest = &text[end..];
            }
            value
        });
        assert!(rest.is_empty() || rest.starts_with(' '), "no space after a value: {line}");
        rest = rest.trim_start();
        pairs.push((key, value));
    }
    pairs
}

#[test]
fn a_logfmt_parser_takes_every_line() {
    let log = mixed_run(&mut command());
    assert!(!log.contains(|c: char| c.is_control() && c != '\n'), "{log}");
    let lines: Vec<_> = log.lines().map(parse).collect();
    let has = |line: &[(String, Option<String>)], key: &str| {
        line.iter().any(|(name, value)| name == key && value.is_some())
    };
    let connections = lines.iter().filter(|line| has(line, "conn"));
    for line in connections.clone() {
        assert!(has(line, "protocol") && has(line, "peer"), "{line:?}");
    }
    assert!(connections.count() >= 30, "{log}");
    for reason in [
        "end of stream",
        "what came is not HTTP",
        "perhaps TLS",
        "it breaks the syntax of HTTP/1.1",
        "HTTP request answered with 400",
        "the client sent an HTTP request in plain text",
        "the client closed the connection without one",
        "protocol violation, closed with 1002",
        "the client broke the rules of HTTP/2: PROTOCOL_ERROR",
    ] {
        assert!(log.contains(reason), "'{reason}' is not in: {log}");
    }
}

#[test]
fn every_line_of_json_has_the_documented_fields() {
    let log = mixed_run(command().env("ECHO_LOG_FORMAT", "json"));
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).expect(line);
        for field in ["timestamp", "level", "message"] {
            assert!(line[field].is_string(), "{field}: {line}");
        }
        if line["conn"].is_u64() {
            assert!(line["peer"].is_string() && line["protocol"].is_string(), "{line}");
        }
        if line["message"].as_str().unwrap().starts_with("Connection closed: ") {
            for field in ["received", "sent", "messages"] {
                assert!(line[field].is_u64(), "{field}: {line}");
            }
            assert!(line["duration_ms"].is_f64() && line["reason"].is_string(), "{line}");
        }
    }
}

#[test]
fn a_service_has_its_levels_in_the_journal() {
    use std::os::unix::fs::MetadataExt;
    // The child's stderr is a pipe that we make, so that its inode is known beforehand.
    let (reader, writer) = std::io::pipe().unwrap();
    let writer = std::fs::File::from(std::os::fd::OwnedFd::from(writer));
    let stat = writer.metadata().unwrap();
    let mut child = command()
        .env("JOURNAL_STREAM", format!("{}:{}", stat.dev(), stat.ino()))
        .args(["--tcp", "0", "--cert", "/no/such", "--key", "/no/such"])
        .stderr(writer)
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(reader));
    let lines: Vec<_> = (0..2).map(|_| lines.next().unwrap().unwrap()).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(lines[0].starts_with("<4>") && lines[0].contains("are not used"), "{lines:?}");
    assert!(lines[1].starts_with("<6>") && lines[1].contains("INFO Server listening"), "{lines:?}");
}

#[test]
fn no_colour_where_none_is_wanted() {
    let log = mixed_run(command().env("CLICOLOR_FORCE", "1"));
    assert!(log.contains("\u{1b}["), "{log}");
    let log = mixed_run(command().env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1"));
    assert!(!log.contains('\u{1b}'), "{log}");
}

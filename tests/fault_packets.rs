//! What the client's kernel is sent when a connection ends on purpose: segments, as tcpdump shows
//! them on the loopback interface.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use common::binary::Running;
use common::tools;
use rustix::process::Signal;

/// tcpdump on the segments from a port.
struct Capture {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Capture {
    /// Begins to capture; returns when it does.
    fn from_port(port: u16) -> Capture {
        let filter = format!("tcp src port {port}");
        let mut child = Command::new("tcpdump")
            .args(["-i", "lo", "-nn", "-l", "--immediate-mode", "-S", &filter])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tcpdump starts");
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("listening on") {
            line.clear();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "tcpdump listens");
        }
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Capture { child, lines }
    }

    /// The flags and the length of each segment with data, FIN or RST, up to the first that ends
    /// the server's side, or to a pause of so long.
    fn segments(&self, pause: Duration) -> Vec<(String, usize)> {
        let mut segments = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(pause) {
            let flags = line.split_once("Flags [").unwrap().1.split_once(']').unwrap().0.to_owned();
            let length = line.rsplit_once("length ").unwrap().1;
            let length = length.split(':').next().unwrap().trim().parse().unwrap();
            let is_end = flags.contains(['F', 'R']);
            if length > 0 || is_end {
                segments.push((flags, length));
            }
            if is_end {
                break;
            }
        }
        segments
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn have_tcpdump() -> bool {
    tools::have(&["tcpdump", "--version"], "tcpdump")
        && tools::have(&["tcpdump", "-i", "lo", "-L"], "EN10MB")
}

/// Long enough that nothing more is to come, and no more than that.
const PAUSE: Duration = Duration::from_millis(700);

#[test]
fn the_ends_are_those_that_the_clients_kernel_sees() {
    if !have_tcpdump() {
        return;
    }
    for (fault, expected) in [
        ("reset=300", ("R", 300)),
        ("reset=0", ("R", 0)),
        ("close=300", ("F", 300)),
        ("stall=300", ("", 300)),
        ("reset=50ms", ("R", 0)),
    ] {
        let server = Running::start(&["--tcp=0", &format!("--fault=tcp:{fault}")]);
        let address = server.address("tcp");
        let capture = Capture::from_port(address.port());
        let client = TcpStream::connect(address);
        if let Ok(client) = &client
            && !fault.ends_with("ms")
        {
            let _ = (&*client).write_all(&[7; 1000]);
        }
        let segments = capture.segments(PAUSE);
        let length: usize = segments.iter().map(|(_, length)| length).sum();
        let end: String = segments
            .iter()
            .flat_map(|(flags, _)| flags.chars())
            .filter(|flag| "FR".contains(*flag))
            .collect();
        assert_eq!((end.as_str(), length), expected, "{fault}: {segments:?}");
        server.signal(Signal::TERM);
        if fault.starts_with("stall") {
            let end = capture.segments(Duration::from_secs(10));
            assert!(end.last().is_some_and(|(flags, _)| flags.contains('F')), "{end:?}");
        }
        drop(client);
    }
}

/// TLS' close_notify is a record of 24 bytes in TLS 1.3; truncated, the FIN comes without.
#[test]
fn a_truncated_tls_stream_has_a_fin_and_no_close_notify() {
    if !have_tcpdump() || !tools::have_openssl() {
        return;
    }
    const CLOSE_NOTIFY: usize = 5 + 2 + 1 + 16;
    for (fault, has_farewell) in [("close=5", true), ("truncate=5", false)] {
        let server = Running::start(&["--tls=0", &format!("--fault=tls:{fault}")]);
        let address = server.address("tls");
        let mut client = Command::new("openssl")
            .args(["s_client", "-quiet", "-tls1_3", "-connect", &address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Only what comes behind the handshake and its tickets is of interest.
        server.wait_for_line("TLS established");
        let capture = Capture::from_port(address.port());
        client.stdin.as_mut().unwrap().write_all(b"hello, echo\n").unwrap();
        let segments = capture.segments(Duration::from_secs(10));
        let mut echo = String::new();
        client.stdout.take().unwrap().read_to_string(&mut echo).unwrap();
        let _ = client.kill();
        let _ = client.wait();
        assert_eq!(echo, "hello");
        let length: usize = segments.iter().map(|(_, length)| length).sum();
        // The record of the echo: its header, five bytes, their type, and the tag.
        let expected = 5 + 5 + 1 + 16 + if has_farewell { CLOSE_NOTIFY } else { 0 };
        assert_eq!(length, expected, "{fault}: {segments:?}");
        assert!(segments.last().unwrap().0.contains('F'), "{fault}: {segments:?}");
    }
}

/// Slices are segments of their own.
#[test]
fn a_slice_is_a_segment() {
    if !have_tcpdump() {
        return;
    }
    let server = Running::start(&["--tcp=0", "--fault=tcp:slice=100,rate=20KB"]);
    let capture = Capture::from_port(server.address("tcp").port());
    let mut client = TcpStream::connect(server.address("tcp")).unwrap();
    client.write_all(&[7; 950]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    client.read_to_end(&mut Vec::new()).unwrap();
    let segments = capture.segments(Duration::from_secs(10));
    let lengths: Vec<usize> = segments.iter().map(|(_, length)| *length).collect();
    // 20 KB a second lets 80 bytes through in 4 ms, and those are less than a slice.
    assert!(lengths.iter().all(|length| *length <= 100), "{lengths:?}");
    assert_eq!(lengths.iter().sum::<usize>(), 950);
}

//! What a ping and a load can be asked for, in the library and on the command line.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::time::Duration;

use common::binary::{Running, command};
use common::impair::{wrong_tcp, wrong_udp};
use common::{TestServer, cert};
use echo_server::Protocol;
use echo_server::probe::{
    Event, Family, LoadOptions, Phase, PingOptions, Probe, ProbeError, ProbeSetting, Summary,
};
use rustix::process::{Pid, Signal, kill_process};

/// A probe that trusts the test CA, and stays on IPv4, where the tests' servers are.
fn probe(protocol: Protocol, address: SocketAddr) -> Probe {
    let url = format!("{protocol}://localhost:{}", address.port());
    Probe::new(url.parse().unwrap()).connect(|connect| {
        connect.family = Some(Family::V4);
        connect.tls.ca = Some(cert("ca.pem").into());
    })
}

fn count(count: u64) -> PingOptions {
    PingOptions::new().count(count).interval(Duration::from_millis(1))
}

/// Runs `echo-server probe`.
async fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = command();
    command.arg("probe").args(args);
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// Accepts connections, each of which echoes `messages` messages of 64 bytes and is closed then.
async fn closing_after(messages: usize) -> SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut message = [0; 64];
            for _ in 0..messages {
                if tcp.read_exact(&mut message).await.is_err() {
                    break;
                }
                tcp.write_all(&message).await.unwrap();
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_closed_is_established_again() {
    let probe = probe(Protocol::Tcp, closing_after(2).await);
    let (mut seqs, mut gaps) = (Vec::new(), 0);
    let options = count(7).reconnect().interval(Duration::from_millis(20));
    let ping = probe.ping(options).on_event(|event| match event {
        Event::Reply(reply) => seqs.extend(reply.seq),
        Event::Reconnected { attempts, .. } => gaps += u64::from(attempts > 0),
        _ => {}
    });
    let summary = ping.run().await.unwrap();
    assert_eq!((summary.sent(), summary.received() + summary.lost()), (7, 7), "{summary}");
    assert!(seqs.is_sorted() && seqs.iter().all(|seq| *seq < 7), "{seqs:?}");
    assert!(summary.reconnects() >= 1 && summary.reconnects() == gaps, "{summary}");
    assert_eq!(summary.connections(), summary.reconnects() + 1);
    assert!(summary.disconnected() > Duration::ZERO && !summary.is_clean());
    assert!(summary.to_string().contains("without a connection for"), "{summary}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_message_has_its_own_connection_if_asked() {
    for (protocol, phases) in [
        (Protocol::Tcp, &[Phase::Resolve, Phase::Connect][..]),
        (Protocol::Udp, &[Phase::Resolve]),
        (Protocol::Wss, &Phase::ALL),
    ] {
        let server = TestServer::start(protocol).await;
        let ping = probe(protocol, server.address).ping(count(4).connect_each());
        let summary = ping.run().await.unwrap();
        assert!(summary.is_clean(), "{protocol}: {summary}");
        assert_eq!((summary.received(), summary.connections()), (4, 4), "{protocol}");
        for phase in Phase::ALL {
            let expected = if phases.contains(&phase) { 4 } else { 0 };
            assert_eq!(summary.phase(phase).count(), expected, "{protocol}: {phase:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_ends_when_its_duration_is_over() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let server = TestServer::start(protocol).await;
        let probe = probe(protocol, server.address);
        let options = PingOptions::new().duration(Duration::from_millis(500));
        let flood = probe.ping(options.clone().interval(Duration::ZERO)).run().await.unwrap();
        // The next message follows the reply to the last one, whatever the interval.
        assert!(flood.is_clean() && flood.sent() > 51, "{protocol}: {flood}");
        let once = probe.ping(options.interval(Duration::from_secs(3600))).run().await.unwrap();
        assert_eq!((once.sent(), once.received()), (1, 1), "{protocol}");
    }
}

#[tokio::test]
async fn a_flood_does_not_wait_for_what_does_not_come() {
    let silent = probe(Protocol::Udp, wrong_udp(|_, _, _| vec![]).await);
    let options =
        PingOptions::new().count(5).interval(Duration::ZERO).timeout(Duration::from_millis(200));
    let summary = silent.ping(options).run().await.unwrap();
    assert_eq!((summary.sent(), summary.lost(), summary.lost_percent()), (5, 5, 100.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_data_is_sent_and_compared() {
    for &protocol in Protocol::ALL {
        let server = TestServer::start(protocol).await;
        let probe = probe(protocol, server.address)
            .messages(|messages| messages.data = Some((*b"hello").into()));
        let summary = probe.ping(count(3)).run().await.unwrap();
        assert!(summary.is_clean(), "{protocol}: {summary}");
        assert_eq!((summary.message_size(), summary.bytes_received()), (5, 15), "{protocol}");
    }
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let upper = wrong_tcp(5, |_, message, _| vec![message.to_ascii_uppercase()], 9).await;
    let probe =
        probe(Protocol::Tcp, upper).messages(|messages| messages.data = Some((*b"hello").into()));
    let record = seen.clone();
    let ping = probe.ping(count(2)).on_event(move |event| {
        if let Event::Reply(reply) = event {
            record.lock().unwrap().push((reply.seq, reply.size));
        }
    });
    assert_eq!(ping.run().await.unwrap().corrupted(), 2);
    assert_eq!(*seen.lock().unwrap(), [(Some(0), 5), (Some(1), 5)]);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn packets_have_the_dscp() {
    let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    rustix::net::sockopt::set_ip_recvtos(&receiver, true).unwrap();
    let address = receiver.local_addr().unwrap();
    let received = tokio::task::spawn_blocking(move || {
        use std::io::IoSliceMut;
        use std::os::fd::AsRawFd;
        let mut bytes = [0; 64];
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let mut space = nix::cmsg_space!(u8);
        let message = nix::sys::socket::recvmsg::<()>(
            receiver.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            nix::sys::socket::MsgFlags::empty(),
        )
        .unwrap();
        message.cmsgs().unwrap().next()
    });
    let marked = probe(Protocol::Udp, address).connect(|connect| connect.dscp = Some(46));
    let options = count(1).timeout(Duration::from_millis(1));
    marked.ping(options).run().await.unwrap();
    let Some(nix::sys::socket::ControlMessageOwned::Ipv4Tos(tos)) = received.await.unwrap() else {
        panic!("the kernel tells the field");
    };
    assert_eq!(tos, 46 << 2);
}

async fn load(probe: &Probe, options: LoadOptions) -> Summary {
    probe.load(options).run().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_sends_exactly_so_many_messages() {
    let threads = |count| std::num::NonZeroUsize::new(count).unwrap();
    for &protocol in Protocol::ALL {
        let server = TestServer::start(protocol).await;
        let probe = probe(protocol, server.address);
        let warm = Duration::from_millis(50);
        for options in [
            LoadOptions::new().connections(7).in_flight(3).count(500).threads(threads(3)),
            LoadOptions::new().connections(7).count(3),
            LoadOptions::new().connections(2).rate(5000.0).count(100).threads(threads(2)),
            LoadOptions::new().connections(2).count(300).warm_up(warm),
        ] {
            let expected = options.count;
            let summary = load(&probe, options.clone()).await;
            assert!(summary.is_clean(), "{protocol}, {options:?}: {summary}");
            assert_eq!(Some(summary.sent()), expected, "{protocol}, {options:?}");
            assert_eq!(Some(summary.rtt().count()), expected, "{protocol}, {options:?}");
            assert_eq!(summary.connections(), options.connections as u64);
        }
    }
}

#[tokio::test]
async fn a_load_reports_that_it_connects_and_what_is_connected() {
    let server = TestServer::start(Protocol::Tls).await;
    let mut events = Vec::new();
    let options = LoadOptions::new().connections(3).count(30);
    let load = probe(Protocol::Tls, server.address).load(options);
    let summary = load.on_event(|event| events.push(event)).run().await.unwrap();
    let connected = events.iter().find_map(|event| match event {
        Event::Connected(connected) => Some(connected),
        _ => None,
    });
    assert_eq!(connected.unwrap().peer, server.address.into());
    assert!(connected.unwrap().tls_facts.is_some());
    assert_eq!(summary.phase(Phase::Tls).count(), 3);
}

#[tokio::test]
async fn more_connections_than_descriptors_are_refused_at_once() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let probe = probe(Protocol::Tcp, listener.local_addr().unwrap());
    let load = probe.load(LoadOptions::new().connections(usize::MAX));
    let error = load.run().await.unwrap_err();
    let ProbeError::Setting { setting: ProbeSetting::Connections, problem, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(problem.contains("file descriptors"), "{problem}");
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "nobody has connected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_targets_are_labelled_and_the_worst_outcome_counts() {
    let server = Running::start(&["--tcp", "0", "--udp", "0"]);
    let (tcp, udp) = (server.address("tcp"), server.address("udp"));
    let urls = [format!("tcp://{tcp}"), format!("udp://{udp}")];
    let quick = ["-c", "2", "-i", "1ms"];
    let (code, text, _) = run(&[&[urls[0].as_str(), &urls[1]], &quick[..]].concat()).await;
    assert_eq!(code, Some(0), "{text}");
    for url in &urls {
        for line in
            [format!("{url}: seq=0 "), format!("{url}: seq=1 "), format!("--- {url}\n2 sent, ")]
        {
            assert!(text.contains(&line), "{line}: {text}");
        }
    }
    let wrong = ["tcp://127.0.0.1:1", &urls[0]];
    let (code, text, error) = run(&[&wrong[..], &quick[..]].concat()).await;
    assert_eq!(code, Some(3), "{text}");
    assert!(
        text.contains("2 sent, 2 received") && error.contains("tcp://127.0.0.1:1: "),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_is_as_quiet_and_as_plain_as_asked() {
    let server = Running::start(&["--tcp", "0"]);
    let url = format!("tcp://{}", server.address("tcp"));
    let ping = async |args: &[&str]| {
        let (code, text, _) = run(&[&[&url, "-c", "2", "-i", "1ms"], args].concat()).await;
        assert_eq!(code, Some(0), "{text}");
        text
    };
    assert!(ping(&["-q"]).await.starts_with("--- tcp://"));
    let stamped = ping(&["-D"]).await;
    assert!(stamped.lines().take(4).all(|line| line.starts_with('[')), "{stamped}");
    let csv = ping(&["--csv", "--data", "a, b"]).await;
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!(lines.len(), 3, "{csv}");
    assert!(lines[0].starts_with("time,target,seq,") && lines[2].contains(",1,4,echoed,false,"));
    let load = ["--connections", "2", "--count", "100"];
    let (code, csv, _) = run(&[&[url.as_str(), "--csv"], &load[..]].concat()).await;
    let lines: Vec<_> = csv.lines().map(|line| line.split(',').count()).collect();
    assert_eq!((code, lines.len()), (Some(0), 2), "{csv}");
    assert_eq!(lines[0], lines[1], "{csv}");
    // Long enough for a live line, which is for terminals only.
    let load = ["--connections", "2", "--duration", "500ms"];
    let (code, text, error) = run(&[&[url.as_str()], &load[..]].concat()).await;
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    assert!(text.contains("2 connections, 1 message in flight on each"), "{text}");
    assert!(text.contains(" messages/s, ") && text.contains("\u{25a0}"), "{text}");
}

/// Runs `echo-server probe` on a pseudo-terminal, which script(1) gives it. `None` if there is no
/// script(1).
#[cfg(target_os = "linux")]
async fn run_on_a_terminal(arguments: &str, no_color: &str) -> Option<String> {
    let line = format!("{} probe {arguments}", common::binary::PATH);
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null());
    script.env("TERM", "xterm").env("NO_COLOR", no_color);
    match tokio::task::spawn_blocking(move || script.output()).await.unwrap() {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(error) => {
            eprintln!("script(1): {error}: not tested");
            None
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_has_a_live_line() {
    let server = Running::start(&["--tcp", "0"]);
    let arguments = format!("tcp://{} --connections 2 --duration 700ms", server.address("tcp"));
    let Some(text) = run_on_a_terminal(&arguments, "").await else { return };
    assert!(text.contains("\u{1b}[") && text.contains(" replies, "), "{text:?}");
    assert!(text.contains(", median ") && text.contains(" 0 errors"), "{text:?}");
    // The last line is removed before the summary.
    assert!(text.rfind(" 0 errors") < text.find("--- tcp://"), "{text:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_has_colours_unless_they_are_not_wanted() {
    let silent = wrong_udp(|_, _, _| vec![]).await;
    let arguments = format!("udp://{silent} -c 1 --timeout 10ms");
    let Some(coloured) = run_on_a_terminal(&arguments, "").await else { return };
    assert!(coloured.contains("\u{1b}[31mseq=0 overdue\u{1b}[0m"), "{coloured:?}");
    let plain = run_on_a_terminal(&arguments, "1").await.unwrap();
    assert!(plain.contains("\nseq=0 overdue\r\n") && !plain.contains('\u{1b}'), "{plain:?}");
    let (code, piped, _) = run(&arguments.split(' ').collect::<Vec<_>>()).await;
    assert_eq!(code, Some(1));
    assert!(piped.contains("\nseq=0 overdue\n") && !piped.contains('\u{1b}'), "{piped:?}");
}

#[test]
fn sigquit_prints_the_summary_so_far() {
    let server = Running::start(&["--tcp", "0"]);
    let mut child = command()
        .args(["probe", &format!("tcp://{}", server.address("tcp")), "--interval", "1ms"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut until = |start: &str| {
        loop {
            let mut line = String::new();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "{start}");
            if line.starts_with(start) {
                return line;
            }
        }
    };
    until("seq=3 ");
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::QUIT).unwrap();
    assert!(until("--- ").ends_with(", so far\n"));
    assert!(until("").contains(" sent, "));
    until("seq=");
    kill_process(pid, Signal::INT).unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest}");
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let server = Running::start(&["--tcp", "0"]);
    let mut child = command()
        .args(["probe", &format!("tcp://{}", server.address("tcp")), "--interval", "1ms"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert_eq!((child.wait().unwrap().code(), error.as_str()), (Some(1), ""));
}

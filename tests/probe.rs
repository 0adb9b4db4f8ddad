//! The probe against our server, against services that are wrong on purpose, and over an impaired
//! path. It has to report each of them correctly.

mod common;

use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;

use common::binary::{Running, command};
use common::impair::{Impairment, Wrong, impaired_path, splitting_path, wrong_tcp, wrong_udp};
use common::{TestServer, cert};
use echo_server::probe::{
    self, DialOptions, Event, LoadOptions, Messages, PingOptions, ProbeError, Summary, Target,
    TlsOptions, Verdict,
};
use echo_server::{Config, Protocol};

fn target(protocol: Protocol, address: SocketAddr) -> Target {
    format!("{protocol}://localhost:{}", address.port()).parse().unwrap()
}

/// Trusts the test CA, and stays on IPv4, where the tests' servers are.
fn dial() -> DialOptions {
    let mut tls = TlsOptions::default();
    tls.ca = Some(cert("ca.pem").into());
    let mut dial = DialOptions::default();
    dial.family = Some(probe::Family::V4);
    dial.tls = tls;
    dial
}

fn count(count: u64) -> PingOptions {
    let mut options = PingOptions::default();
    options.count = Some(count);
    options.interval = Duration::from_millis(1);
    options
}

async fn ping(target: &Target, messages: Messages, options: &PingOptions) -> Summary {
    let never = std::future::pending();
    probe::ping(target, &dial(), messages, options, never, |_| {}).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_protocol_is_clean() {
    for &protocol in Protocol::ALL {
        let server = TestServer::start(protocol).await;
        for size in [1, 7, 64, 1000, 60_000] {
            let target = target(protocol, server.address);
            let summary = ping(&target, Messages::of(size), &count(5)).await;
            assert!(summary.is_clean(), "{protocol}, {size} bytes: {summary:?}");
            assert_eq!((summary.sent, summary.received), (5, 5));
            assert!(summary.rtt_min() > Duration::ZERO && summary.rtt_min() <= summary.rtt_max());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_larger_than_all_buffers_does_not_deadlock() {
    for protocol in [Protocol::Tcp, Protocol::Tls, Protocol::Ws] {
        let server = TestServer::start(protocol).await;
        let target = target(protocol, server.address);
        let summary = ping(&target, Messages::of(12 << 20), &count(2)).await;
        assert!(summary.is_clean(), "{protocol}: {summary:?}");
    }
}

#[tokio::test]
async fn empty_messages_are_echoed_where_the_protocol_has_messages() {
    for protocol in [Protocol::Udp, Protocol::Ws] {
        let server = TestServer::start(protocol).await;
        let target = target(protocol, server.address);
        let summary = ping(&target, Messages::of(0), &count(3)).await;
        assert_eq!((summary.received, summary.is_clean()), (3, true), "{protocol}");
    }
}

#[tokio::test]
async fn the_connection_is_described() {
    let server = TestServer::start(Protocol::Wss).await;
    let mut dial = dial();
    dial.subprotocols = vec!["first".to_owned(), "second".to_owned()];
    let mut events = Vec::new();
    let mut messages = Messages::of(100);
    messages.is_text = true;
    let summary = probe::ping(
        &target(Protocol::Wss, server.address),
        &dial,
        messages,
        &count(2),
        std::future::pending(),
        |event| events.push(event.clone()),
    )
    .await
    .unwrap();
    assert!(summary.is_clean());
    let [Event::Connected(connected), Event::Reply(first), Event::Reply(second)] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!(connected.peer, server.address);
    assert!(connected.connect.is_some() && connected.tls.is_some() && connected.upgrade.is_some());
    assert_eq!(connected.subprotocol.as_deref(), Some("first"));
    let facts = connected.tls_facts.as_ref().unwrap();
    assert_eq!((&*facts.version, &*facts.subject), ("TLSv1.3", "CN=localhost"));
    assert_eq!(facts.unverified, None);
    assert!(facts.expires.unwrap() > std::time::SystemTime::now());
    assert_eq!((first.seq, second.seq), (Some(0), Some(1)));
    assert_eq!((first.verdict, first.size), (Verdict::Echoed, 100));
}

#[tokio::test]
async fn a_certificate_is_verified_or_reported_as_unverified() {
    let server = TestServer::start(Protocol::Tls).await;
    let target = target(Protocol::Tls, server.address);
    let connect = async |tls: TlsOptions| {
        let mut dial = dial();
        dial.tls = tls;
        let mut facts = None;
        let told = |event: &Event| {
            if let Event::Connected(connected) = event {
                facts = connected.tls_facts.clone();
            }
        };
        let never = std::future::pending();
        let result = probe::ping(&target, &dial, Messages::default(), &count(1), never, told).await;
        result.map(|_| facts.unwrap())
    };
    let mut elsewhere = dial().tls;
    elsewhere.server_name = Some("elsewhere.test".to_owned());
    let error = connect(elsewhere).await.unwrap_err();
    assert!(matches!(error, ProbeError::Tls(_)), "{error}");
    let mut unknown = TlsOptions::default();
    unknown.ca = Some(cert("client.pem").into());
    assert!(matches!(connect(unknown.clone()).await.unwrap_err(), ProbeError::Tls(_)));
    unknown.insecure = true;
    let facts = connect(unknown).await.unwrap();
    assert!(facts.unverified.unwrap().contains("UnknownIssuer"));
}

fn right(_: usize, message: &[u8], _: &[Vec<u8>]) -> Vec<Vec<u8>> {
    vec![message.to_vec()]
}

fn drops_every_third(n: usize, message: &[u8], _: &[Vec<u8>]) -> Vec<Vec<u8>> {
    if n % 3 == 2 { vec![] } else { vec![message.to_vec()] }
}

fn flips_a_bit_of_the_second(n: usize, message: &[u8], _: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut answer = message.to_vec();
    answer[40] ^= u8::from(n == 1);
    vec![answer]
}

fn answers_twice(_: usize, message: &[u8], _: &[Vec<u8>]) -> Vec<Vec<u8>> {
    vec![message.to_vec(); 2]
}

/// Answers each message when the next one comes.
fn answers_late(n: usize, _: &[u8], earlier: &[Vec<u8>]) -> Vec<Vec<u8>> {
    n.checked_sub(1).map(|last| earlier[last].clone()).into_iter().collect()
}

fn swaps_neighbours(n: usize, message: &[u8], earlier: &[Vec<u8>]) -> Vec<Vec<u8>> {
    if n.is_multiple_of(2) { vec![] } else { vec![message.to_vec(), earlier[n - 1].clone()] }
}

/// Received, lost, late, corrupted, duplicated, reordered.
fn counts(summary: &Summary) -> [u64; 6] {
    let Summary { received, lost, late, corrupted, duplicated, reordered, .. } = *summary;
    [received, lost, late, corrupted, duplicated, reordered]
}

#[tokio::test]
async fn faults_of_a_datagram_service_are_reported() {
    let mut patient = count(6);
    patient.timeout = Duration::from_millis(1500);
    let cases: [(Wrong, [u64; 6]); 5] = [
        (right, [6, 0, 0, 0, 0, 0]),
        (drops_every_third, [4, 2, 0, 0, 0, 0]),
        (flips_a_bit_of_the_second, [5, 0, 0, 1, 0, 0]),
        (answers_twice, [6, 0, 0, 0, 6, 0]),
        (swaps_neighbours, [6, 0, 0, 0, 0, 3]),
    ];
    for (case, (wrong, expected)) in cases.into_iter().enumerate() {
        let address = wrong_udp(wrong).await;
        let target = target(Protocol::Udp, address);
        let summary = ping(&target, Messages::default(), &patient).await;
        assert_eq!(counts(&summary), expected, "case {case}");
    }
    let mut impatient = count(4);
    impatient.interval = Duration::from_millis(100);
    impatient.timeout = Duration::from_millis(50);
    let target = target(Protocol::Udp, wrong_udp(answers_late).await);
    let summary = ping(&target, Messages::default(), &impatient).await;
    assert_eq!(counts(&summary), [3, 1, 3, 0, 0, 0]);
}

#[tokio::test]
async fn faults_of_a_stream_service_are_reported() {
    let mut patient = count(6);
    patient.timeout = Duration::from_millis(1500);
    let cases: [(Wrong, usize, [u64; 6], bool); 5] = [
        (right, usize::MAX, [6, 0, 0, 0, 0, 0], false),
        (drops_every_third, usize::MAX, [4, 2, 0, 0, 0, 0], false),
        (flips_a_bit_of_the_second, usize::MAX, [5, 0, 0, 1, 0, 0], false),
        (answers_twice, usize::MAX, [6, 0, 0, 0, 6, 0], false),
        // Closes after the third.
        (right, 3, [3, 1, 0, 0, 0, 0], true),
    ];
    for (case, (wrong, until, expected, is_closed)) in cases.into_iter().enumerate() {
        let target = target(Protocol::Tcp, wrong_tcp(64, wrong, until).await);
        let summary = ping(&target, Messages::default(), &patient).await;
        if is_closed {
            // A fourth may or may not have been sent before the end of the stream was seen.
            assert_eq!(summary.received, 3);
            assert_eq!(summary.lost, summary.sent - 3);
            assert!(!summary.errors.is_empty());
        } else {
            assert_eq!(counts(&summary), expected, "case {case}");
            assert_eq!(summary.is_clean(), case == 0);
        }
    }
}

#[tokio::test]
async fn an_impaired_path_is_measured_as_it_is() {
    let server = TestServer::start(Protocol::Udp).await;
    let impairment = Impairment {
        loss: 0.1,
        duplication: 0.1,
        reordering: 0.1,
        delay: Duration::from_millis(20),
        jitter: Duration::ZERO,
    };
    let (path, done) = impaired_path(server.address, impairment, 7).await;
    let mut options = count(300);
    options.timeout = Duration::from_millis(1500);
    let target = target(Protocol::Udp, path);
    let summary = ping(&target, Messages::default(), &options).await;
    let (lost, duplicated, reordered) = done.counts();
    assert!(lost > 10 && duplicated > 10 && reordered > 10, "the path did its work: {done:?}");
    // The last datagram may be held for ever.
    assert!((lost..=lost + 1).contains(&summary.lost), "{lost}: {summary:?}");
    assert_eq!(summary.duplicated, duplicated);
    assert_eq!(summary.reordered, reordered);
    assert_eq!(summary.corrupted, 0);
    assert!(summary.rtt_min() >= impairment.delay, "{:?}", summary.rtt_min());
}

#[tokio::test]
async fn a_path_that_splits_streams_changes_nothing() {
    for protocol in [Protocol::Tcp, Protocol::Tls, Protocol::Ws, Protocol::Wss] {
        let server = TestServer::start(protocol).await;
        let path = splitting_path(server.address, 11).await;
        for size in [1, 64, 5000] {
            let summary = ping(&target(protocol, path), Messages::of(size), &count(20)).await;
            assert!(summary.is_clean(), "{protocol}, {size} bytes: {summary:?}");
            assert_eq!(summary.received, 20);
        }
    }
}

#[tokio::test]
async fn jitter_shows() {
    let server = TestServer::start(Protocol::Udp).await;
    let with = async |jitter| {
        let impairment = Impairment { jitter, ..Impairment::default() };
        let (path, _) = impaired_path(server.address, impairment, 3).await;
        let mut options = count(30);
        options.interval = Duration::from_millis(5);
        ping(&target(Protocol::Udp, path), Messages::default(), &options).await.jitter().unwrap()
    };
    let (steady, shaky) = (with(Duration::ZERO).await, with(Duration::from_millis(100)).await);
    assert!(shaky > steady, "{steady:?}, {shaky:?}");
}

async fn load(target: &Target, change: impl FnOnce(&mut LoadOptions)) -> Summary {
    let mut options = LoadOptions::default();
    options.duration = Duration::from_millis(300);
    change(&mut options);
    let never = std::future::pending();
    probe::load(target, &dial(), Messages::default(), &options, never, |_| {}).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_protocol_bears_a_load() {
    for &protocol in Protocol::ALL {
        let server = TestServer::start(protocol).await;
        let target = target(protocol, server.address);
        let summary = load(&target, |options| {
            options.connections = 10;
            options.in_flight = 4;
        })
        .await;
        assert!(summary.is_clean(), "{protocol}: {summary:?}");
        assert!(summary.sent >= 40, "{protocol}: {summary:?}");
        assert_eq!(summary.received, summary.sent, "{protocol}");
        assert!(summary.rtt_percentile(50.0) > Duration::ZERO);
    }
}

#[tokio::test]
async fn a_scheduled_load_keeps_to_its_schedule_whatever_the_server_does() {
    let server = TestServer::start(Protocol::Tcp).await;
    let scheduled = |options: &mut LoadOptions| {
        options.connections = 2;
        options.rate = Some(1000.0);
        options.timeout = Duration::from_millis(200);
    };
    let summary = load(&target(Protocol::Tcp, server.address), scheduled).await;
    // Everything that is due in 300 ms is counted, however late the machine is.
    assert_eq!(summary.sent + summary.unsent, 300, "{summary:?}");
    assert_eq!(summary.received, summary.sent);
    // A server that answers nothing is sent just as many.
    let silent = wrong_tcp(64, |_, _, _| vec![], usize::MAX).await;
    let asked = load(&target(Protocol::Tcp, silent), scheduled).await;
    assert_eq!(asked.sent + asked.unsent, 300, "{asked:?}");
    assert!(asked.sent > 2, "{asked:?}");
    assert_eq!((asked.received, asked.lost), (0, asked.sent));
}

#[tokio::test]
async fn a_load_reports_faults() {
    let target_of = |address| target(Protocol::Udp, address);
    let twice = load(&target_of(wrong_udp(answers_twice).await), |_| {}).await;
    assert!(twice.duplicated > 0 && twice.corrupted == 0, "{twice:?}");
    let different = load(&target_of(wrong_udp(flips_a_bit_of_the_second).await), |_| {}).await;
    assert_eq!(different.corrupted, 1, "{different:?}");
    let closing = target(Protocol::Tcp, wrong_tcp(64, right, 3).await);
    let closed = load(&closing, |options| options.connections = 5).await;
    assert_eq!((closed.received, closed.errors.values().sum::<u64>()), (15, 5), "{closed:?}");
}

#[tokio::test]
async fn a_service_that_reads_nothing_is_reported() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = target(Protocol::Tcp, listener.local_addr().unwrap());
    let mut options = count(3);
    options.timeout = Duration::from_millis(200);
    // The kernel accepts the connection, and nobody reads from it.
    let summary = ping(&target, Messages::of(20 << 20), &options).await;
    assert!(summary.errors.contains_key("the other side takes nothing"), "{summary:?}");
    assert_eq!((summary.sent, summary.lost), (1, 1));
    let scheduled = |options: &mut LoadOptions| {
        options.rate = Some(1e6);
        options.timeout = Duration::from_millis(200);
    };
    let summary = load(&target, scheduled).await;
    assert!(summary.unsent > 0 && summary.lost == summary.sent, "{summary:?}");
}

#[tokio::test]
async fn a_service_that_never_stops_sending_does_not_delay_the_end() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = target(Protocol::Tcp, listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        while tokio::io::AsyncWriteExt::write_all(&mut tcp, &[b'!'; 4096]).await.is_ok() {}
    });
    let summary = ping(&target, Messages::default(), &count(1)).await;
    assert!(summary.corrupted > 0 && summary.received == 0, "{summary:?}");
}

#[tokio::test]
async fn a_load_that_is_stopped_does_not_pass_for_clean() {
    let silent = target(Protocol::Udp, wrong_udp(|_, _, _| vec![]).await);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut stop = Some(stop);
    let stop_once_sent = |progress: probe::Progress| {
        if progress.sent > 0 {
            stop.take();
        }
    };
    let mut options = LoadOptions::default();
    options.in_flight = 10;
    options.timeout = Duration::from_secs(60);
    let stopped = async { drop(stopped.await) };
    let messages = Messages::default();
    let summary = probe::load(&silent, &dial(), messages, &options, stopped, stop_once_sent).await;
    let summary = summary.unwrap();
    assert!(summary.sent > 0 && !summary.is_clean(), "{summary:?}");
    assert_eq!((summary.lost, summary.unanswered), (0, summary.sent));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_largest_datagram_of_a_path_is_found() {
    let server = TestServer::start(Protocol::Udp).await;
    let target = target(Protocol::Udp, server.address);
    let timeout = Duration::from_millis(200);
    let found = probe::find_mtu(&target, &dial(), timeout, |_, _| {}).await.unwrap();
    // The loopback interface's MTU is 65,536, so only the protocol's own limit applies.
    assert_eq!(found, Some(65_507));
    let short: Wrong = |_, message, _| {
        if message.len() > 1234 { vec![] } else { vec![message.to_vec()] }
    };
    let short = self::target(Protocol::Udp, wrong_udp(short).await);
    let timeout = Duration::from_millis(100);
    let found = probe::find_mtu(&short, &dial(), timeout, |_, _| {}).await.unwrap();
    assert_eq!(found, Some(1234));
}

/// Runs `echo-server probe`.
async fn run(args: &[&str]) -> Output {
    let mut command = command();
    command.arg("probe").args(args);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_tell_the_outcomes_apart() {
    let quick = ["--count", "6", "--interval", "1ms", "--timeout", "1500ms"];
    let code = async |url: String, args: &[&str]| {
        let output = run(&[&[url.as_str()], &quick[..], args].concat()).await;
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    };
    let tcp = |address: SocketAddr| format!("tcp://{address}");
    let (clean, text) = code(tcp(wrong_tcp(64, right, usize::MAX).await), &[]).await;
    assert_eq!(clean, 0, "{text}");
    assert!(text.contains("6 sent, 6 received, 0 lost"), "{text}");
    let (lossy, text) = code(tcp(wrong_tcp(64, drops_every_third, 99).await), &[]).await;
    assert_eq!(lossy, 1, "{text}");
    assert_eq!(code(tcp(wrong_tcp(64, answers_twice, 99).await), &[]).await.0, 1);
    assert_eq!(code(tcp(wrong_tcp(64, right, 3).await), &[]).await.0, 1);
    let (different, text) =
        code(tcp(wrong_tcp(64, flips_a_bit_of_the_second, 99).await), &[]).await;
    assert_eq!(different, 5, "{text}");
    assert!(text.contains("seq=1 size=64 CORRUPTED"), "{text}");
    for (url, args) in [
        ("tcp://127.0.0.1", &[][..]),
        ("tcp://127.0.0.1:1", &["--size", "0"]),
        ("udp://127.0.0.1:1", &["--size", "65508"]),
        ("tcp://127.0.0.1:1", &["--rate", "5"]),
        ("tls://127.0.0.1:1", &["--ca", "/no/such/file"]),
        ("tls://127.0.0.1:1", &["--alpn", ""]),
        ("tcp://127.0.0.1:1", &["--interval", "500000000000y"]),
    ] {
        let (usage, text) = code(url.to_owned(), args).await;
        assert_eq!(usage, 2, "{url} {args:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (refused, text) = code(tcp(free), &[]).await;
    assert_eq!(refused, 3, "{text}");
    assert!(text.contains(&format!("tcp://{free}: Connection refused")), "{text}");
    assert_eq!(code("ws://host.invalid/".to_owned(), &[]).await.0, 3);
    let server = TestServer::start(Protocol::Tls).await;
    let (untrusted, text) = code(format!("tls://{}", server.address), &[]).await;
    assert_eq!(untrusted, 4, "{text}");
    let (plain, text) = code(format!("ws://{}", server.address), &[]).await;
    assert_eq!(plain, 3, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_has_one_object_per_line() {
    let server = TestServer::with(Config::new().listen(Protocol::Ws, ([127, 0, 0, 1], 0))).await;
    let url = format!("ws://{}", server.address);
    let output = run(&[&url, "--count", "2", "--interval", "1ms", "--json", "--text"]).await;
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let events: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let kinds: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["connected", "reply", "reply", "summary"]);
    assert_eq!(events[2]["seq"], 1);
    assert_eq!((&events[3]["sent"], &events[3]["received"]), (&2.into(), &2.into()));
    assert!(events[3]["rtt_us"]["p50"].as_f64().unwrap() > 0.0);
}

#[test]
fn ctrl_c_ends_a_ping_with_its_summary() {
    use std::io::{BufRead, BufReader, Read};
    let server = Running::start(&["--tcp", "0"]);
    let mut child = command()
        .args(["probe", &format!("tcp://{}", server.address("tcp")), "--interval", "1ms"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("seq=3 ") {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0);
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert!(rest.contains(" sent, ") && rest.contains("rtt: min "), "{rest}");
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest}");
}

//! The probe against our server, against services that are wrong on purpose, and over an impaired
//! path. It has to report each of them correctly.

mod common;

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use common::binary::{Running, command};
use common::impair::{Impairment, Wrong, impaired_path, splitting_path, wrong_tcp, wrong_udp};
use common::{TestServer, cert};
use echo_server::probe::{
    Connected, Event, Family, LoadOptions, MtuOptions, PingOptions, Probe, ProbeError,
    ProbeSetting, Summary, Target, TlsOptions, Verdict,
};
use echo_server::{Config, Credentials, Identity, Protocol, Server, Source, UnixAddress, certs};

fn target(protocol: Protocol, address: SocketAddr) -> Target {
    format!("{protocol}://localhost:{}", address.port()).parse().unwrap()
}

/// A probe that trusts the test CA, and stays on IPv4, where the tests' servers are.
fn probe(protocol: Protocol, address: SocketAddr) -> Probe {
    Probe::new(target(protocol, address)).connect(|connect| {
        connect.family = Some(Family::V4);
        connect.tls.ca = Some(cert("ca.pem").into());
    })
}

fn count(count: u64) -> PingOptions {
    PingOptions::new().count(count).interval(Duration::from_millis(1))
}

async fn ping(probe: &Probe, options: &PingOptions) -> Summary {
    probe.ping(options.clone()).run().await.unwrap()
}

/// Pings once, and describes the connection.
async fn connected(probe: &Probe) -> Result<Connected, ProbeError> {
    let mut connected = None;
    let ping = probe.ping(count(1)).on_event(|event| {
        if let Event::Connected(connection) = event {
            connected = Some(*connection);
        }
    });
    let summary = ping.run().await?;
    assert!(summary.is_clean(), "{summary}");
    Ok(connected.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_protocol_is_clean() {
    for &protocol in Protocol::ALL {
        let server = TestServer::start(protocol).await;
        for size in [1, 7, 64, 1000, 60_000] {
            let summary = ping(&probe(protocol, server.address).size(size), &count(5)).await;
            assert!(summary.is_clean(), "{protocol}, {size} bytes: {summary:?}");
            assert_eq!((summary.sent(), summary.received()), (5, 5));
            assert!(
                summary.rtt_min() > Some(Duration::ZERO) && summary.rtt_min() <= summary.rtt_max()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_larger_than_all_buffers_does_not_deadlock() {
    for protocol in [Protocol::Tcp, Protocol::Tls, Protocol::Ws] {
        let server = TestServer::start(protocol).await;
        let summary = ping(&probe(protocol, server.address).size(12 << 20), &count(2)).await;
        assert!(summary.is_clean(), "{protocol}: {summary:?}");
    }
}

#[tokio::test]
async fn empty_messages_are_echoed_where_the_protocol_has_messages() {
    for protocol in [Protocol::Udp, Protocol::Ws] {
        let server = TestServer::start(protocol).await;
        let summary = ping(&probe(protocol, server.address).size(0), &count(3)).await;
        assert_eq!((summary.received(), summary.is_clean()), (3, true), "{protocol}");
    }
}

#[tokio::test]
async fn the_connection_is_described() {
    let server = TestServer::start(Protocol::Wss).await;
    let probe = probe(Protocol::Wss, server.address)
        .connect(|connect| connect.subprotocols = vec!["first".to_owned(), "second".to_owned()])
        .size(100)
        .messages(|messages| messages.is_text = true);
    let mut events = Vec::new();
    let ping = probe.ping(count(2)).on_event(|event| events.push(event));
    let summary = ping.run().await.unwrap();
    assert!(summary.is_clean());
    let [Event::Connected(connected), Event::Reply(first), Event::Reply(second)] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!(connected.peer, server.address.into());
    assert!(connected.local.is_some() && connected.resolve.is_some());
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
    let with = async |tls: TlsOptions| {
        let probe = probe(Protocol::Tls, server.address).connect(|connect| connect.tls = tls);
        connected(&probe).await
    };
    let elsewhere = TlsOptions::new().ca(cert("ca.pem")).server_name("elsewhere.test");
    let error = with(elsewhere).await.unwrap_err();
    assert!(matches!(error, ProbeError::Tls { .. }), "{error}");
    let unknown = TlsOptions::new().ca(cert("client.pem"));
    let error = with(unknown.clone()).await.unwrap_err();
    assert!(matches!(error, ProbeError::Tls { .. }), "{error}");
    let facts = with(unknown.insecure()).await.unwrap().tls_facts.unwrap();
    assert!(facts.unverified.unwrap().contains("is not trusted"));
}

#[tokio::test]
async fn certificates_from_memory_are_trusted_and_presented() {
    let names = certs::Name::of_this_machine();
    let made = certs::issue(&names, std::time::SystemTime::now()).unwrap();
    let config = Config::new()
        .listen(Protocol::Tls, ([127, 0, 0, 1], 0))
        .identity(Identity::pem(&made.server.certificate, &made.server.key))
        .tls(|tls| tls.client_ca = Some(Source::memory(&made.ca.certificate)));
    let server = TestServer::run(Server::bind(config).await.unwrap());
    let known = probe(Protocol::Tls, server.address)
        .connect(|connect| connect.tls.ca = Some(Source::memory(&made.ca.certificate)));
    let client = &made.client;
    let certified = known.clone().connect(|connect| {
        connect.tls.client_credentials = Some(Credentials::new(
            Source::memory(&client.certificate),
            Source::memory(&client.key),
        ));
    });
    let facts = connected(&certified).await.unwrap().tls_facts.unwrap();
    assert_eq!(facts.unverified, None);
    let error = connected(&known).await.unwrap_err();
    assert!(matches!(error, ProbeError::Tls { .. }), "{error}");
    let stranger = certified.connect(|connect| connect.tls.ca = Some(cert("ca.pem").into()));
    let error = connected(&stranger).await.unwrap_err();
    assert!(matches!(error, ProbeError::Tls { .. }), "{error}");
}

#[tokio::test]
async fn an_error_has_its_source() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = connected(&probe(Protocol::Tcp, free)).await.unwrap_err();
    let source = error.source().unwrap().downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(source.kind(), std::io::ErrorKind::ConnectionRefused);
    let server = TestServer::start(Protocol::Tls).await;
    let untrusting = probe(Protocol::Tls, server.address)
        .connect(|connect| connect.tls.ca = Some(cert("client.pem").into()));
    let error = connected(&untrusting).await.unwrap_err();
    assert!(matches!(error, ProbeError::Tls { .. }) && error.source().is_some(), "{error:?}");
    let without_ca = probe(Protocol::Tls, server.address)
        .connect(|connect| connect.tls.ca = Some(Source::file("/no/such/file")));
    let error = connected(&without_ca).await.unwrap_err();
    assert!(matches!(error, ProbeError::Credential(_)) && error.source().is_some(), "{error:?}");
    let plain = probe(Protocol::Ws, server.address);
    let error = connected(&plain).await.unwrap_err();
    assert!(matches!(error, ProbeError::Connect { .. }) && error.source().is_some(), "{error:?}");
}

#[tokio::test]
async fn a_wrong_option_is_named_before_anything_is_sent() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = |protocol| probe(protocol, listener.local_addr().unwrap());
    let tls =
        |change: fn(&mut TlsOptions)| at(Protocol::Tls).connect(|connect| change(&mut connect.tls));
    let cases = [
        (at(Protocol::Tcp).size(0), ProbeSetting::Size),
        (at(Protocol::Udp).size(65_508), ProbeSetting::Size),
        (at(Protocol::Tls).messages(|messages| messages.is_text = true), ProbeSetting::Text),
        (tls(|tls| tls.alpn = vec![String::new()]), ProbeSetting::Alpn),
        (tls(|tls| tls.server_name = Some("a b".to_owned())), ProbeSetting::ServerName),
        (
            at(Protocol::Ws).connect(|connect| connect.subprotocols = vec!["a\n".to_owned()]),
            ProbeSetting::Subprotocols,
        ),
        (
            at(Protocol::Ws).connect(|connect| connect.headers = vec![("a b".into(), "".into())]),
            ProbeSetting::Headers,
        ),
    ];
    for (probe, expected) in cases {
        let error = connected(&probe).await.unwrap_err();
        let ProbeError::Setting { setting, .. } = error else { panic!("{error:?}") };
        assert_eq!(setting, expected, "{error}");
    }
    for (options, expected) in [
        (briefly().connections(0), ProbeSetting::Connections),
        (briefly().in_flight(0), ProbeSetting::InFlight),
        (briefly().rate(f64::NAN), ProbeSetting::Rate),
    ] {
        let error = at(Protocol::Tcp).load(options).run().await.unwrap_err();
        let ProbeError::Setting { setting, .. } = error else { panic!("{error:?}") };
        assert_eq!(setting, expected, "{error}");
    }
    let error = at(Protocol::Tcp).find_mtu(MtuOptions::new()).run().await.unwrap_err();
    let ProbeError::Setting { setting, .. } = error else { panic!("{error:?}") };
    assert_eq!(setting, ProbeSetting::Target, "{error}");
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "nobody has connected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_can_run_as_a_task_of_its_own_and_again() {
    let server = TestServer::start(Protocol::Tcp).await;
    let probe = probe(Protocol::Tcp, server.address);
    let ping = tokio::spawn(probe.ping(count(2)).run());
    let load = tokio::spawn(probe.load(briefly()).run());
    assert!(ping.await.unwrap().unwrap().is_clean());
    assert!(load.await.unwrap().unwrap().is_clean());
}

#[tokio::test]
async fn a_header_field_replaces_what_the_request_has_anyway() {
    use tokio::io::AsyncReadExt;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let probe = probe(Protocol::Ws, listener.local_addr().unwrap()).connect(|connect| {
        connect.headers = [("Host", "echo.test"), ("X-A", "1"), ("X-A", "2")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec();
    });
    let request = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            tcp.read_buf(&mut request).await.unwrap();
        }
        String::from_utf8(request).unwrap().to_lowercase()
    };
    let (request, refused) = tokio::join!(request, connected(&probe));
    assert!(refused.is_err());
    let fields: Vec<_> = request
        .lines()
        .filter(|line| line.starts_with("host:") || line.starts_with("x-a:"))
        .collect();
    assert_eq!(fields, ["host: echo.test", "x-a: 1", "x-a: 2"], "{request}");
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
    [
        summary.received(),
        summary.lost(),
        summary.late(),
        summary.corrupted(),
        summary.duplicated(),
        summary.reordered(),
    ]
}

#[tokio::test]
async fn faults_of_a_datagram_service_are_reported() {
    let patient = count(6).timeout(Duration::from_millis(1500));
    let cases: [(Wrong, [u64; 6]); 5] = [
        (right, [6, 0, 0, 0, 0, 0]),
        (drops_every_third, [4, 2, 0, 0, 0, 0]),
        (flips_a_bit_of_the_second, [5, 0, 0, 1, 0, 0]),
        (answers_twice, [6, 0, 0, 0, 6, 0]),
        (swaps_neighbours, [6, 0, 0, 0, 0, 3]),
    ];
    for (case, (wrong, expected)) in cases.into_iter().enumerate() {
        let summary = ping(&probe(Protocol::Udp, wrong_udp(wrong).await), &patient).await;
        assert_eq!(counts(&summary), expected, "case {case}");
    }
    let impatient = PingOptions::new()
        .count(4)
        .interval(Duration::from_millis(100))
        .timeout(Duration::from_millis(50));
    let summary = ping(&probe(Protocol::Udp, wrong_udp(answers_late).await), &impatient).await;
    assert_eq!(counts(&summary), [3, 1, 3, 0, 0, 0]);
}

#[tokio::test]
async fn faults_of_a_stream_service_are_reported() {
    let patient = count(6).timeout(Duration::from_millis(1500));
    let cases: [(Wrong, usize, [u64; 6], bool); 5] = [
        (right, usize::MAX, [6, 0, 0, 0, 0, 0], false),
        (drops_every_third, usize::MAX, [4, 2, 0, 0, 0, 0], false),
        (flips_a_bit_of_the_second, usize::MAX, [5, 0, 0, 1, 0, 0], false),
        (answers_twice, usize::MAX, [6, 0, 0, 0, 6, 0], false),
        // Closes after the third.
        (right, 3, [3, 1, 0, 0, 0, 0], true),
    ];
    for (case, (wrong, until, expected, is_closed)) in cases.into_iter().enumerate() {
        let probe = probe(Protocol::Tcp, wrong_tcp(64, wrong, until).await);
        let summary = ping(&probe, &patient).await;
        if is_closed {
            // A fourth may or may not have been sent before the end of the stream was seen.
            assert_eq!(summary.received(), 3);
            assert_eq!(summary.lost(), summary.sent() - 3);
            assert_eq!(summary.errors().count(), 1);
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
    let options = count(300).timeout(Duration::from_millis(1500));
    let summary = ping(&probe(Protocol::Udp, path), &options).await;
    let (lost, duplicated, reordered) = done.counts();
    assert!(lost > 10 && duplicated > 10 && reordered > 10, "the path did its work: {done:?}");
    // The last datagram may be held for ever.
    assert!((lost..=lost + 1).contains(&summary.lost()), "{lost}: {summary:?}");
    assert_eq!(summary.duplicated(), duplicated);
    assert_eq!(summary.reordered(), reordered);
    assert_eq!(summary.corrupted(), 0);
    assert!(summary.rtt_min() >= Some(impairment.delay), "{:?}", summary.rtt_min());
}

#[tokio::test]
async fn a_path_that_splits_streams_changes_nothing() {
    for protocol in [Protocol::Tcp, Protocol::Tls, Protocol::Ws, Protocol::Wss] {
        let server = TestServer::start(protocol).await;
        let path = splitting_path(server.address, 11).await;
        for size in [1, 64, 5000] {
            let summary = ping(&probe(protocol, path).size(size), &count(20)).await;
            assert!(summary.is_clean(), "{protocol}, {size} bytes: {summary:?}");
            assert_eq!(summary.received(), 20);
        }
    }
}

#[tokio::test]
async fn jitter_shows() {
    let server = TestServer::start(Protocol::Udp).await;
    let with = async |jitter| {
        let impairment = Impairment { jitter, ..Impairment::default() };
        let (path, _) = impaired_path(server.address, impairment, 3).await;
        let options = PingOptions::new().count(30).interval(Duration::from_millis(5));
        ping(&probe(Protocol::Udp, path), &options).await.jitter().unwrap()
    };
    let (steady, shaky) = (with(Duration::ZERO).await, with(Duration::from_millis(100)).await);
    assert!(shaky > steady, "{steady:?}, {shaky:?}");
}

fn briefly() -> LoadOptions {
    LoadOptions::new().duration(Duration::from_millis(300))
}

async fn load(probe: &Probe, options: LoadOptions) -> Summary {
    probe.load(options).run().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_protocol_bears_a_load() {
    for &protocol in Protocol::ALL {
        let server = TestServer::start(protocol).await;
        let options = briefly().connections(10).in_flight(4);
        let summary = load(&probe(protocol, server.address), options).await;
        assert!(summary.is_clean(), "{protocol}: {summary:?}");
        assert!(summary.sent() >= 40, "{protocol}: {summary:?}");
        assert_eq!(summary.received(), summary.sent(), "{protocol}");
        assert!(summary.rtt_percentile(50.0) > Some(Duration::ZERO));
    }
}

#[tokio::test]
async fn a_scheduled_load_keeps_to_its_schedule_whatever_the_server_does() {
    let server = TestServer::start(Protocol::Tcp).await;
    let scheduled = briefly().connections(2).rate(1000.0).timeout(Duration::from_millis(200));
    let summary = load(&probe(Protocol::Tcp, server.address), scheduled.clone()).await;
    // Everything that is due in 300 ms is counted, however late the machine is.
    assert_eq!(summary.sent() + summary.unsent(), 300, "{summary:?}");
    assert_eq!(summary.received(), summary.sent());
    // Threads divide the schedule among them.
    let threads = std::num::NonZeroUsize::new(2).unwrap();
    let divided = scheduled.clone().connections(3).threads(threads);
    let divided = load(&probe(Protocol::Tcp, server.address), divided).await;
    assert_eq!(divided.sent() + divided.unsent(), 300, "{divided:?}");
    assert_eq!(divided.received(), divided.sent());
    // A server that answers nothing is sent just as many.
    let silent = wrong_tcp(64, |_, _, _| vec![], usize::MAX).await;
    let asked = load(&probe(Protocol::Tcp, silent), scheduled).await;
    assert_eq!(asked.sent() + asked.unsent(), 300, "{asked:?}");
    assert!(asked.sent() > 2, "{asked:?}");
    assert_eq!((asked.received(), asked.lost()), (0, asked.sent()));
}

#[tokio::test]
async fn a_load_reports_faults() {
    let udp = |address| probe(Protocol::Udp, address);
    let twice = load(&udp(wrong_udp(answers_twice).await), briefly()).await;
    assert!(twice.duplicated() > 0 && twice.corrupted() == 0, "{twice:?}");
    let different = load(&udp(wrong_udp(flips_a_bit_of_the_second).await), briefly()).await;
    assert_eq!(different.corrupted(), 1, "{different:?}");
    let closing = probe(Protocol::Tcp, wrong_tcp(64, right, 3).await);
    let closed = load(&closing, briefly().connections(5)).await;
    let errors: u64 = closed.errors().map(|(_, count)| count).sum();
    assert_eq!((closed.received(), errors), (15, 5), "{closed:?}");
}

#[tokio::test]
async fn a_service_that_reads_nothing_is_reported() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let probe = probe(Protocol::Tcp, listener.local_addr().unwrap());
    let options = count(3).timeout(Duration::from_millis(200));
    // The kernel accepts the connection, and nobody reads from it.
    let summary = ping(&probe.clone().size(20 << 20), &options).await;
    let errors: Vec<_> = summary.errors().collect();
    assert_eq!(errors, [("the other side takes nothing", 1)], "{summary:?}");
    assert_eq!((summary.sent(), summary.lost()), (1, 1));
    let scheduled = briefly().rate(1e6).timeout(Duration::from_millis(200));
    let summary = load(&probe, scheduled).await;
    assert!(summary.unsent() > 0 && summary.lost() == summary.sent(), "{summary:?}");
}

#[tokio::test]
async fn a_service_that_never_stops_sending_does_not_delay_the_end() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let probe = probe(Protocol::Tcp, listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        while tokio::io::AsyncWriteExt::write_all(&mut tcp, &[b'!'; 4096]).await.is_ok() {}
    });
    let summary = ping(&probe, &count(1)).await;
    assert!(summary.corrupted() > 0 && summary.received() == 0, "{summary:?}");
}

#[tokio::test]
async fn a_load_that_is_stopped_does_not_pass_for_clean() {
    let silent = probe(Protocol::Udp, wrong_udp(|_, _, _| vec![]).await);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut stop = Some(stop);
    let stop_once_sent = |event| {
        if matches!(event, Event::Progress(progress) if progress.sent > 0) {
            stop.take();
        }
    };
    let options = LoadOptions::new().in_flight(10).timeout(Duration::from_secs(60));
    let load = silent.load(options).until(async { drop(stopped.await) }).on_event(stop_once_sent);
    let summary = load.run().await.unwrap();
    assert!(summary.sent() > 0 && !summary.is_clean(), "{summary:?}");
    assert_eq!((summary.lost(), summary.unanswered()), (0, summary.sent()));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_largest_datagram_of_a_path_is_found() {
    let server = TestServer::start(Protocol::Udp).await;
    let found = async |probe: Probe, timeout| {
        let options = MtuOptions::new().timeout(Duration::from_millis(timeout));
        probe.find_mtu(options).run().await.unwrap()
    };
    let found_here = found(probe(Protocol::Udp, server.address), 200).await;
    // The loopback interface's MTU is 65,536, so only the protocol's own limit applies.
    assert_eq!(found_here, Some(65_507));
    let short: Wrong = |_, message, _| {
        if message.len() > 1234 { vec![] } else { vec![message.to_vec()] }
    };
    let short = probe(Protocol::Udp, wrong_udp(short).await);
    assert_eq!(found(short, 100).await, Some(1234));
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
    assert!(text.contains("6 sent, 6 received, 0 lost (0%)"), "{text}");
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
        ("udp://127.0.0.1:1", &["--data", &"x".repeat(65_508)]),
        ("ws://127.0.0.1:1", &["--data-file", "/no/such/file"]),
        ("tcp://127.0.0.1:1", &["--dscp", "64"]),
        ("tcp+unix:///no/such", &["--dscp", "EF"]),
        ("tls://127.0.0.1:1", &["--ca", "/no/such/file"]),
        ("tls://127.0.0.1:1", &["--alpn", ""]),
        ("tls://127.0.0.1:1", &["--server-name", "a b"]),
        ("tcp://127.0.0.1:1", &["--text"]),
        ("ws://127.0.0.1:1", &["--header", "a b: c"]),
        ("ws://127.0.0.1:1", &["--subprotocol", "\u{1}"]),
        ("tcp+unix:///no/such", &["--source", "127.0.0.1"]),
        ("tcp+unix:///no/such", &["-4"]),
        ("tcp+unix:///no/such", &["-6"]),
        ("udp+unix:///no/such", &[]),
        ("tcp://127.0.0.1:1", &["--interval", "500000000000y"]),
    ] {
        let (usage, text) = code(url.to_owned(), args).await;
        assert_eq!(usage, 2, "{url} {args:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        let flag = args.first().map_or(url, |flag| *flag);
        assert!(text.contains(flag), "{url} {args:?}: {text}");
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (refused, text) = code(tcp(free), &[]).await;
    assert_eq!(refused, 3, "{text}");
    assert!(
        text.contains(&format!("tcp://{free}: connection refused: nothing listens there")),
        "{text}"
    );
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
    assert!(events[3]["late_by_us"]["p99"].is_null(), "a ping has no schedule");
    assert_eq!(events[3]["late_by_us"]["count"], 0);
    let arguments = [&url, "--rate", "1000", "--duration", "50ms", "--threads", "2", "--json"];
    let output = run(&[&arguments[..], &["--connections", "2"]].concat()).await;
    let text = String::from_utf8(output.stdout).unwrap();
    let last = text.lines().last().unwrap();
    let summary: serde_json::Value = serde_json::from_str(last).expect(last);
    assert!(summary["late_by_us"]["max"].as_f64().unwrap() > 0.0, "{summary}");
}

/// Where a server of this test listens for `protocol`, as a URL without a request path.
fn unix_url(protocol: Protocol, directory: &Path) -> String {
    format!("{protocol}+unix://{}/echo%20{protocol}", directory.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stream_protocol_is_probed_over_a_unix_socket() {
    const PROTOCOLS: [Protocol; 4] = [Protocol::Tcp, Protocol::Tls, Protocol::Ws, Protocol::Wss];
    let directory = tempfile::tempdir().unwrap();
    let file = |protocol| directory.path().join(format!("echo {protocol}"));
    let listeners = PROTOCOLS
        .map(|protocol| [format!("--{protocol}"), format!("unix:{}", file(protocol).display())]);
    let _server = Running::spawn(
        command()
            .args(listeners.as_flattened())
            .arg("--cert")
            .arg(cert("server.pem"))
            .arg("--key")
            .arg(cert("server.key")),
    );
    for protocol in PROTOCOLS {
        let mut url = unix_url(protocol, directory.path());
        if matches!(protocol, Protocol::Ws | Protocol::Wss) {
            url += ":/chat?room=1";
        }
        let probe = Probe::new(url.parse().unwrap())
            .connect(|connect| connect.tls.ca = Some(cert("ca.pem").into()));
        let connected = connected(&probe).await.unwrap();
        let address = format!("unix:{}", file(protocol).display());
        assert_eq!(connected.peer.to_string(), address);
        assert_eq!((connected.local, connected.resolve), (None, None));
        assert_eq!(connected.tls.is_some(), protocol.is_over_tls());
        if let Some(facts) = connected.tls_facts {
            assert_eq!(facts.unverified, None, "the certificate is for localhost");
        }
        let load = load(&probe, briefly().connections(3).in_flight(2)).await;
        assert!(load.is_clean(), "{protocol}: {load}");

        let ca = cert("ca.pem");
        let ca = ca.to_str().unwrap();
        let output = run(&[&url, "--ca", ca, "--count", "1", "--json"]).await;
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let event: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!((&event["target"], &event["peer"]), (&url.clone().into(), &address.into()));
        assert!(event["local"].is_null() && event["resolve_us"].is_null(), "{event}");
    }
    let output = run(&[&unix_url(Protocol::Tcp, directory.path()), "--count", "1"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("/echo tcp\nconnect "), "no local address, no name: {text}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_abstract_unix_socket_is_probed() {
    let name = format!("echo-server probe {}", std::process::id());
    let address: UnixAddress = format!("unix:@{name}").parse().unwrap();
    let config = Config::new().listen(Protocol::Ws, address.clone());
    let server = Server::bind(config).await.unwrap();
    tokio::spawn(server.run(std::future::pending()));
    let url = format!("ws+unix://@{}:/chat", name.replace(' ', "%20"));
    let probe = Probe::new(url.parse().unwrap());
    assert_eq!(connected(&probe).await.unwrap().peer, address.into());
}

#[tokio::test]
async fn a_unix_socket_that_cannot_be_connected_to_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echo.sock");
    let url = format!("tcp+unix://{}", path.display());
    let attempt = async || {
        let output = run(&[&url, "--count", "1"]).await;
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let text = attempt().await;
    assert!(text.contains(&format!("{url}: No such file or directory")), "{text}");
    // The file outlives its listener.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let text = attempt().await;
    assert!(text.contains(&format!("{url}: connection refused: nothing listens there")), "{text}");
}

/// The kernel does not let a non-blocking connect wait for a listener with a full backlog.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_unix_listener_with_a_full_backlog_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echo.sock");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let first = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let probe = Probe::new(format!("tcp+unix://{}", path.display()).parse().unwrap());
    let probe = probe.connect(|connect| connect.timeout = Duration::from_millis(50));
    let error = connected(&probe).await.unwrap_err();
    assert!(error.to_string().ends_with("connecting took too long"), "{error}");
    let probe = probe.connect(|connect| connect.timeout = Duration::from_secs(60));
    let ping = tokio::spawn(async move { connected(&probe).await });
    let echo = tokio::task::spawn_blocking(move || {
        drop(first);
        let _ = socket.accept().unwrap();
        let (second, _) = socket.accept().unwrap();
        std::io::copy(&mut &second, &mut &second).unwrap();
    });
    ping.await.unwrap().unwrap();
    echo.await.unwrap();
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

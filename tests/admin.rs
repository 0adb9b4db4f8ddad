//! The admin endpoint, from outside: what each path answers, what the metrics say after known
//! traffic, and what becomes of it under load and in a drain.

#![cfg(unix)]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use common::binary::{Running, command};
use common::client::Client;
use common::http::{Metrics, Response, admin, get, request, send, wait_for};
use common::{cert, tls_connect};
use echo_server::{Admin, Config, Protocol, Server};
use rustix::process::Signal;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A server with all five protocols and the test certificate.
fn start_all(more: &[&str]) -> Running {
    let (pem, key) = (cert("server.pem"), cert("server.key"));
    let args = [
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
        "--admin",
        "0",
        "--cert",
        pem.to_str().unwrap(),
        "--key",
        key.to_str().unwrap(),
    ];
    Running::start(&[&args, more].concat())
}

/// Sends `message` on `stream` and reads its echo.
fn echo(stream: &mut TcpStream, message: &[u8]) {
    stream.write_all(message).unwrap();
    let mut echo = vec![0; message.len()];
    stream.read_exact(&mut echo).unwrap();
    assert_eq!(echo, message);
}

#[test]
fn each_path_answers_get_and_head_and_nothing_else() {
    let server = Running::start(&["--tcp", "0", "--admin", "0"]);
    let admin = admin(&server);
    for (path, body) in [("/livez", "ok\n"), ("/readyz", "ok\n"), ("/readyz?verbose", "ok\n")] {
        let response = get(admin, path);
        assert_eq!((response.status, response.body.as_str()), (200, body), "{path}");
        assert!(response.head.contains("cache-control: no-store"), "{}", response.head);
    }
    let metrics = get(admin, "/metrics");
    assert_eq!(metrics.status, 200);
    assert!(metrics.head.contains("content-type: text/plain; version=0.0.4"), "{}", metrics.head);
    let accept = "Accept: application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n";
    let metrics = send(admin, "GET", "/metrics", accept);
    assert!(metrics.head.contains("application/openmetrics-text; version=1.0.0"));
    assert!(metrics.body.ends_with("# EOF\n"), "{}", metrics.body);
    for path in ["/", "/metrics", "/livez", "/readyz"] {
        let response = send(admin, "HEAD", path, "");
        assert_eq!((response.status, response.body.as_str()), (200, ""), "{path}");
        assert!(!response.head.contains("content-length: 0"), "{}", response.head);
        let response = send(admin, "DELETE", path, "");
        assert_eq!(response.status, 405, "{path}");
        assert!(response.head.contains("allow: get, head"), "{}", response.head);
    }
    for path in ["/metric", "/livez/", "/../etc/passwd", "//metrics"] {
        assert_eq!(get(admin, path).status, 404, "{path}");
    }
    let mut stranger = TcpStream::connect(admin).unwrap();
    stranger.write_all(b"\x16\x03\x01 no HTTP\r\n\r\n").unwrap();
    assert_eq!(Response::read(stranger).status, 400);
}

#[tokio::test]
async fn metrics_tell_known_traffic_while_it_moves_and_afterwards() {
    let server = start_all(&[]);
    let admin = admin(&server);
    const PAYLOAD: [u8; 1000] = [7; 1000];
    let mut clients = Vec::new();
    for protocol in Protocol::ALL.iter().copied() {
        let address = server.address(protocol.name());
        let mut client = match protocol {
            Protocol::Udp => {
                let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
                socket.connect(address).await.unwrap();
                Client::Datagrams(socket)
            }
            _ => {
                let stream = tokio::net::TcpStream::connect(address).await.unwrap();
                Client::over(protocol, stream).await
            }
        };
        for _ in 0..3 {
            assert_eq!(client.echo(&PAYLOAD).await, PAYLOAD);
        }
        clients.push((protocol, client));
    }
    // The echo may arrive before its session's poll ends.
    for protocol in Protocol::ALL {
        let metrics =
            wait_for(admin, &format!("echo_sent_bytes_total{{protocol=\"{protocol}\"}}"), 3000.0);
        let of = |name: &str| metrics.find(&format!("{name}{{protocol=\"{protocol}\"}}"));
        assert_eq!(of("echo_received_bytes_total"), Some(3000.0), "{protocol}");
        let messages = of("echo_messages_total").unwrap();
        match protocol {
            Protocol::Tcp | Protocol::Tls => assert!(messages >= 3.0, "{messages} reads"),
            _ => assert_eq!(messages, 3.0, "{protocol}"),
        }
        let connections = (*protocol != Protocol::Udp).then_some(1.0);
        assert_eq!(of("echo_connections"), connections, "{protocol}");
        assert_eq!(of("echo_connections_opened_total"), connections, "{protocol}");
        let handshakes = connections.filter(|_| *protocol != Protocol::Tcp);
        assert_eq!(of("echo_handshake_duration_seconds_count"), handshakes, "{protocol}");
    }
    for (protocol, client) in clients {
        client.close().await;
        if protocol == Protocol::Udp {
            continue;
        }
        let reason = match protocol {
            Protocol::Ws | Protocol::Wss => "close_frame",
            _ => "end_of_stream",
        };
        let closed =
            format!("echo_connections_closed_total{{protocol=\"{protocol}\",reason=\"{reason}\"}}");
        let metrics = wait_for(admin, &closed, 1.0);
        assert_eq!(metrics.value(&format!("echo_connections{{protocol=\"{protocol}\"}}")), 0.0);
        let sent = format!("echo_sent_bytes_total{{protocol=\"{protocol}\"}}");
        assert_eq!(metrics.value(&sent), 3000.0, "what has ended still counts, once");
    }
    let metrics = Metrics::of(admin);
    assert_eq!(
        metrics.value("echo_tls_handshakes_total{version=\"TLSv1.3\",resumed=\"false\"}"),
        2.0
    );
    let version = env!("CARGO_PKG_VERSION");
    let info = |line: &str| line.starts_with(&format!("echo_build_info{{version=\"{version}\""));
    assert!(metrics.0.lines().any(info), "{}", metrics.0);
    assert_eq!(metrics.value("echo_config_last_reload_successful"), 1.0);
}

#[cfg(target_os = "linux")]
#[test]
fn metrics_tell_what_the_process_uses() {
    let server = Running::start(&["--tcp", "0", "--admin", "0"]);
    let metrics = Metrics::of(admin(&server));
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let started = metrics.value("process_start_time_seconds");
    assert!(started <= now + 1.0 && started > now - 3600.0, "{started} of {now}");
    let fds = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count() as f64;
    // The connection of the scrape is over, perhaps.
    assert!((metrics.value("process_open_fds") - fds).abs() <= 2.0, "{fds} descriptors");
    assert!(metrics.value("process_max_fds") >= fds);
    assert!(metrics.value("process_resident_memory_bytes") > 1e6);
    assert!(metrics.value("process_cpu_seconds_total") >= 0.0);
}

#[tokio::test]
async fn tls_handshakes_are_told_by_version_and_failures_by_alert() {
    let server = start_all(&[]);
    let (admin, tls) = (admin(&server), server.address("tls"));
    for versions in [&[&TLS12][..], &[&TLS13]] {
        drop(tls_connect(tls, versions).await);
    }
    for version in ["TLSv1.2", "TLSv1.3"] {
        let series =
            format!("echo_tls_handshakes_total{{version=\"{version}\",resumed=\"false\"}}");
        wait_for(admin, &series, 1.0);
        let resumed = series.replace("false", "true");
        assert_eq!(Metrics::of(admin).value(&resumed), 0.0);
    }
    // A first failure has to be seen as an increase.
    for alert in ["none", "unknown", "unknown_ca", "certificate_required", "protocol_version"] {
        let series = format!("echo_tls_handshake_failures_total{{alert=\"{alert}\"}}");
        assert_eq!(Metrics::of(admin).value(&series), 0.0);
    }
    // A client that trusts nobody says so.
    let provider = Arc::new(aws_lc_rs::default_provider());
    let distrusting = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(tls).await.unwrap();
    let name = "localhost".try_into().unwrap();
    TlsConnector::from(Arc::new(distrusting)).connect(name, stream).await.unwrap_err();
    wait_for(admin, "echo_tls_handshake_failures_total{alert=\"unknown_ca\"}", 1.0);
    // A client that leaves says nothing.
    drop(TcpStream::connect(tls).unwrap());
    wait_for(admin, "echo_tls_handshake_failures_total{alert=\"none\"}", 1.0);
    let mut client = TcpStream::connect(tls).unwrap();
    client.write_all(b"no TLS at all").unwrap();
    let mut client = TcpStream::connect(tls).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let metrics = wait_for(
        admin,
        "echo_connections_closed_total{protocol=\"tls\",reason=\"tls_handshake_failed\"}",
        4.0,
    );
    let failures = metrics.0.lines().filter(|line| line.starts_with("echo_tls_handshake_failures"));
    let count = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
    assert_eq!(failures.map(count).sum::<f64>(), 4.0);
}

/// Nobody waits for an echo there: it may carry WebSockets, each a connection of its own.
#[test]
fn an_http2_connection_is_no_handshake_that_is_timed() {
    let server = Running::start(&["--ws", "0", "--admin", "0"]);
    let admin = admin(&server);
    // The preface, empty SETTINGS, and GET / (RFC 7541 appendix A: 2, 6, 4).
    let request = b"\x00\x00\x03\x01\x05\x00\x00\x00\x01\x82\x86\x84";
    for sent in [&b""[..], request] {
        let mut client = TcpStream::connect(server.address("ws")).unwrap();
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        client.write_all(&[&[0, 0, 0, 4, 0, 0, 0, 0, 0], sent].concat()).unwrap();
        client.read_exact(&mut [0]).unwrap();
    }
    let opened = "echo_connections_opened_total{protocol=\"ws\"}";
    let metrics = wait_for(admin, "echo_connections{protocol=\"ws\"}", 0.0);
    assert_eq!(metrics.value(opened), 2.0);
    let count = "echo_handshake_duration_seconds_count{protocol=\"ws\"}";
    assert_eq!(metrics.value(count), 0.0);
}

#[test]
fn refused_connections_are_told_by_the_limit() {
    let args = ["--tcp", "0", "--admin", "0", "--max-connections", "2"];
    let server = Running::start(&[&args[..], &["--max-connections-per-ip", "1"]].concat());
    let (admin, tcp) = (admin(&server), server.address("tcp"));
    let mut first = TcpStream::connect(tcp).unwrap();
    echo(&mut first, b"hello");
    let mut second = TcpStream::connect(tcp).unwrap();
    assert_eq!(second.read(&mut [0]).unwrap(), 0);
    let metrics =
        wait_for(admin, "echo_connections_refused_total{reason=\"max_connections_per_ip\"}", 1.0);
    assert_eq!(metrics.value("echo_connections_refused_total{reason=\"max_connections\"}"), 0.0);
    assert_eq!(metrics.value("echo_connections_opened_total{protocol=\"tcp\"}"), 1.0);
    // The admin endpoint has limits of its own.
    for _ in 0..5 {
        assert_eq!(get(admin, "/livez").status, 200);
    }
}

#[test]
fn datagrams_that_get_no_answer_are_told() {
    let server = Running::start(&["--udp", "0", "--udp-rate-limit", "1", "--admin", "0"]);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(server.address("udp")).unwrap();
    for _ in 0..5 {
        client.send(b"hello").unwrap();
    }
    let admin = admin(&server);
    // A burst may have two; a slow machine may let the third come a second later.
    loop {
        let metrics = Metrics::of(admin);
        let unanswered = metrics.value("echo_udp_unanswered_total{reason=\"rate_limit\"}");
        let answered = metrics.value("echo_sent_bytes_total{protocol=\"udp\"}") / 5.0;
        if unanswered + answered == 5.0 {
            assert!(unanswered > 0.0 && answered >= 2.0, "{unanswered} and {answered}");
            return;
        }
    }
}

#[test]
fn empty_datagrams_are_told_as_they_come() {
    let server = Running::start(&["--udp", "0", "--admin", "0"]);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(server.address("udp")).unwrap();
    for _ in 0..5 {
        client.send(b"").unwrap();
        assert_eq!(client.recv(&mut [0]).unwrap(), 0);
    }
    let messages = "echo_messages_total{protocol=\"udp\"}";
    let metrics = wait_for(admin(&server), messages, 5.0);
    assert_eq!(metrics.value("echo_received_bytes_total{protocol=\"udp\"}"), 0.0);
}

#[cfg(target_os = "linux")]
#[test]
fn datagrams_that_the_kernel_dropped_are_told() {
    let args = ["--udp", "0", "--udp-recv-buffer", "8KiB", "--admin", "0", "--threads", "1"];
    let server = Running::start(&args);
    let (admin, udp) = (admin(&server), server.address("udp"));
    assert_eq!(Metrics::of(admin).value("echo_udp_receive_overflow_total"), 0.0);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.signal(Signal::STOP);
    for _ in 0..100 {
        client.send_to(&[0; 1000], udp).unwrap();
    }
    server.signal(Signal::CONT);
    let dropped = Metrics::of(admin).value("echo_udp_receive_overflow_total");
    assert!(dropped > 0.0 && dropped < 100.0, "{dropped}");
}

#[test]
fn a_certificate_that_cannot_be_reloaded_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let pem = directory.path().join("server.pem");
    std::fs::copy(cert("server.pem"), &pem).unwrap();
    let key = cert("server.key");
    let (file, key) = (pem.to_str().unwrap(), key.to_str().unwrap());
    let server = Running::start(&["--tls", "0", "--cert", file, "--key", key, "--admin", "0"]);
    let admin = admin(&server);
    let expiry =
        format!("echo_certificate_not_after_timestamp_seconds{{number=\"1\",file=\"{file}\"}}");
    let before = Metrics::of(admin);
    assert!(before.value(&expiry) > 2e9);
    assert_eq!(before.value("echo_config_last_reload_successful"), 1.0);
    std::fs::write(&pem, "no certificate").unwrap();
    server.signal(Signal::HUP);
    let broken = wait_for(admin, "echo_config_last_reload_successful", 0.0);
    assert_eq!(broken.value(&expiry), before.value(&expiry), "the old one stays in use");
    std::fs::copy(cert("server.pem"), &pem).unwrap();
    server.signal(Signal::HUP);
    wait_for(admin, "echo_config_last_reload_successful", 1.0);
}

#[test]
fn a_hundred_clients_that_scrape_at_once_are_all_answered() {
    let server = Running::start(&["--tcp", "0", "--admin", "0"]);
    let admin = admin(&server);
    let mut bystander = TcpStream::connect(server.address("tcp")).unwrap();
    // None asks for the connection to be closed, and none is read before all have asked.
    let head = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let clients: Vec<_> = (0..100)
        .map(|_| {
            let mut client = TcpStream::connect(admin).unwrap();
            client.write_all(head.as_bytes()).unwrap();
            client
        })
        .collect();
    echo(&mut bystander, b"hello");
    // The last one waits for all others, which the server closes because others wait.
    for mut client in clients.into_iter().rev() {
        let mut start = [0; 12];
        client.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
    }
}

#[test]
fn a_request_that_never_ends_delays_nobody_and_is_closed() {
    let server = Running::start(&["--tcp", "0", "--admin", "0"]);
    let admin = admin(&server);
    let mut slow: Vec<_> = (0..8).map(|_| TcpStream::connect(admin).unwrap()).collect();
    for (at, client) in slow.iter_mut().enumerate() {
        // Nothing, half a line, half a head.
        let sent = ["", "GE", "GET /metrics HTTP/1.1\r\nHost: localhost\r\n"][at % 3];
        client.write_all(sent.as_bytes()).unwrap();
    }
    let mut endless = TcpStream::connect(admin).unwrap();
    let head = "POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n";
    endless.write_all(head.as_bytes()).unwrap();
    assert_eq!(Response::read(&endless).status, 405);
    let mut large = TcpStream::connect(admin).unwrap();
    let field = format!("X-Large: {}\r\n", "x".repeat(20_000));
    // The server may close before it has read all.
    let _ = large.write_all(request("GET", "/metrics", &field).as_bytes());
    let mut start = [0; 12];
    if large.read_exact(&mut start).is_ok() {
        assert_eq!(&start, b"HTTP/1.1 431");
    }
    let mut bystander = TcpStream::connect(server.address("tcp")).unwrap();
    echo(&mut bystander, b"hello");
    assert_eq!(get(admin, "/livez").status, 200);
    for mut client in slow {
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest);
        assert!(!rest.starts_with(b"HTTP/1.1 200"));
    }
}

#[test]
fn clients_that_ask_nothing_make_room_for_those_that_do() {
    const HALF: &str = "GET /readyz HTTP/1.1\r\nHost: localhost\r\n";
    let server = Running::start(&["--tcp", "0", "--admin", "0"]);
    let admin = admin(&server);
    // All wait until their time is up if nobody makes room; then the last one has no time left.
    // On a machine that is busy for so long, it is tried again.
    let is_in_time = || {
        let clients = (0..64).map(|_| {
            let mut client = TcpStream::connect(admin).unwrap();
            client.write_all(HALF.as_bytes()).unwrap();
            client
        });
        let clients: Vec<_> = clients.collect();
        assert_eq!(get(admin, "/readyz").status, 200);
        let mut last = clients.last().unwrap();
        let mut start = [0; 12];
        last.write_all(b"\r\n").is_ok()
            && last.read_exact(&mut start).is_ok_and(|()| &start == b"HTTP/1.1 200")
    };
    assert!((0..10).any(|_| is_in_time()));
}

#[test]
fn a_server_that_is_to_end_says_so_and_still_accepts() {
    let server = Running::start(&["--tcp", "0", "--admin", "0", "--drain-delay", "1h"]);
    let (admin, tcp) = (admin(&server), server.address("tcp"));
    assert_eq!(get(admin, "/readyz").status, 200);
    let mut before = TcpStream::connect(tcp).unwrap();
    echo(&mut before, b"hello");
    server.signal(Signal::TERM);
    server.wait_for_line("Shutting down soon; new connections are still accepted");
    let response = get(admin, "/readyz");
    assert_eq!((response.status, response.body.as_str()), (503, "draining\n"));
    assert_eq!(get(admin, "/livez").status, 200, "it lives");
    let mut after = TcpStream::connect(tcp).unwrap();
    echo(&mut after, b"hello");
    echo(&mut before, b"again");
    assert_eq!(Metrics::of(admin).value("echo_connections_opened_total{protocol=\"tcp\"}"), 2.0);
    // A second signal ends it at once.
    let (status, log) = server.terminate();
    assert_eq!(status.code(), Some(1), "{log}");
}

#[test]
fn after_the_delay_it_drains() {
    let server = Running::start(&["--tcp", "0", "--drain-delay", "50ms"]);
    let mut client = TcpStream::connect(server.address("tcp")).unwrap();
    echo(&mut client, b"hello");
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    assert!(log.contains("delay_ms=50"), "{log}");
    assert!(log.contains("drained=1"), "{log}");
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn it_answers_until_the_drain_is_over() {
    let server = Running::start(&["--tcp", "0", "--admin", "0", "--drain-timeout", "1h"]);
    let (admin, tcp) = (admin(&server), server.address("tcp"));
    // A client that takes nothing holds the drain up.
    let mut stalled = TcpStream::connect(tcp).unwrap();
    stalled.set_nonblocking(true).unwrap();
    let mut last = 0;
    loop {
        let _ = stalled.write(&[0; 65536]);
        let received =
            Metrics::of(admin).value("echo_received_bytes_total{protocol=\"tcp\"}") as u64;
        if received > 0 && received == last {
            break;
        }
        last = received;
    }
    server.signal(Signal::TERM);
    server.wait_for_line("Shutting down");
    assert_eq!(get(admin, "/readyz").status, 503);
    assert_eq!(get(admin, "/livez").status, 200);
    let metrics = Metrics::of(admin);
    assert_eq!(metrics.value("echo_connections{protocol=\"tcp\"}"), 1.0);
    assert!(TcpStream::connect(tcp).is_err(), "the listener is closed");
    let (status, _) = server.terminate();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn an_address_that_cannot_be_had_is_said_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let path = format!("unix:{}", directory.path().join("socket").display());
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let used = holder.local_addr().unwrap().to_string();
    for (tcp, admin, code, said) in [
        ("0", used.as_str(), 1, "the address is in use: another program listens there"),
        (path.as_str(), path.as_str(), 2, "--tcp has it already"),
        ("0", "no.such.name.invalid:80", 2, "the name 'no.such.name.invalid'"),
        ("0", "127.0.0.1", 2, "it has no port; did you mean 127.0.0.1:8082?"),
        ("0", "192.0.2.1:80", 1, "this machine has no such address"),
    ] {
        let output = command().args(["--tcp", tcp, "--admin", admin]).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains(said) && error.contains("--admin"), "{admin}: {error}");
        let lines = error.lines().filter(|line| line.starts_with("echo-server: "));
        assert_eq!(lines.count(), 1, "{error}");
    }
}

#[test]
fn it_has_one_address() {
    let output =
        command().args(["--tcp", "0", "--admin", "0", "--admin", "9000"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("--admin: it was given more than once"), "{error}");
}

#[test]
fn it_listens_on_a_unix_socket_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin");
    let address = format!("unix:{}", path.display());
    let server = Running::start(&["--tcp", "0", "--admin", &address]);
    assert_eq!(server.ready["admin"][0], address);
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(request("GET", "/readyz", "").as_bytes()).unwrap();
    assert_eq!(Response::read(client).status, 200);
}

#[test]
fn without_it_nothing_listens() {
    let server = Running::start(&["--tcp", "0"]);
    assert_eq!(server.ready.get("admin"), None);
}

/// A runtime in a thread of its own, until the sender is dropped.
fn runtime() -> (tokio::runtime::Handle, tokio::sync::oneshot::Sender<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || runtime.block_on(stopped));
    (handle, stop)
}

#[tokio::test]
async fn a_stuck_thread_is_named_until_it_goes_on() {
    let ((first, _one), (second, _two)) = (runtime(), runtime());
    let config = Config::new().listen(Protocol::Tcp, ([127, 0, 0, 1], 0));
    let mut server = Server::bind_over(config, vec![first, second.clone()]).await.unwrap();
    let admin = Admin::bind(&mut server, &"127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address: SocketAddr = admin.local_addrs()[0].ip().unwrap();
    tokio::spawn(admin.serve());
    let livez = async || tokio::task::spawn_blocking(move || get(address, "/livez")).await.unwrap();
    tokio::spawn(server.run(std::future::pending()));
    assert_eq!(livez().await.status, 200);
    let (release, released) = mpsc::channel::<()>();
    second.spawn(async move {
        let _ = released.recv_timeout(Duration::from_secs(60));
    });
    let stuck = loop {
        let response = livez().await;
        if response.status != 200 {
            break response;
        }
    };
    assert_eq!(stuck.status, 503);
    assert!(stuck.body.starts_with("thread 2 is stuck"), "{}", stuck.body);
    drop(release);
    while livez().await.status != 200 {}
}

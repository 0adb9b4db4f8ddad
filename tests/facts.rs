//! `--facts`: what the server saw of each client, on every stream protocol; UDP is in `facts_udp.rs`.

mod common;

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::SystemTime;

use common::binary::{Running, command};
use common::client::{Client, noise};
use common::http::{self, Response};
use common::schema::Schema;
use common::{TestServer, ca_certificates, cert};
use echo_server::{Config, Protocol, UnixAddress};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ProtocolVersion, RootCertStore};

const STREAMS: [Protocol; 4] = [Protocol::Tcp, Protocol::Tls, Protocol::Ws, Protocol::Wss];

async fn server(protocol: Protocol) -> TestServer {
    TestServer::with(Config::new().listen(protocol, ([127, 0, 0, 1], 0)).facts([protocol])).await
}

fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    ca_certificates().for_each(|ca| roots.add(ca).unwrap());
    roots
}

#[tokio::test]
async fn every_stream_begins_with_facts_and_echoes_exactly_behind_them() {
    for protocol in STREAMS {
        let server = server(protocol).await;
        let stream = TcpStream::connect(server.address).await.unwrap();
        let local = stream.local_addr().unwrap();
        let mut client = Client::over(protocol, stream).await;
        let before = SystemTime::now();
        let facts = client.facts().await;
        assert_eq!(facts["echo_facts"], 1);
        assert_eq!(facts["protocol"], protocol.name());
        assert_eq!(facts["connection"], 1);
        assert_eq!(facts["peer"], local.to_string());
        assert_eq!(facts["local"], server.address.to_string());
        assert!(facts["tcp"]["mss"].as_u64().unwrap() > 500, "{facts}");
        let time = humantime::parse_rfc3339(facts["time"].as_str().unwrap()).unwrap();
        let apart = before.duration_since(time).unwrap_or_else(|later| later.duration());
        assert!(apart.as_secs() < 60, "{facts}");
        assert_eq!(facts.get("tls").is_some(), protocol.is_over_tls(), "{facts}");
        let is_http = matches!(protocol, Protocol::Ws | Protocol::Wss);
        assert_eq!(facts.get("http").is_some(), is_http, "{facts}");
        assert!(facts.get("proxy").is_none(), "{facts}");
        for payload in [&b"hello"[..], &noise(300_000)] {
            assert!(client.echo(payload).await == payload, "{protocol}");
        }
        client.close().await;
        server.stop().await;
    }
}

#[tokio::test]
async fn without_the_setting_nothing_comes_first() {
    for protocol in STREAMS {
        // Another protocol of the same server tells facts.
        let other = if protocol == Protocol::Tcp { Protocol::Ws } else { Protocol::Tcp };
        let config = Config::new()
            .listen(protocol, ([127, 0, 0, 1], 0))
            .listen(other, ([127, 0, 0, 1], 0))
            .facts([other]);
        let server = TestServer::with(config).await;
        let mut client = Client::connect(protocol, &server).await;
        assert_eq!(client.echo(b"hello").await, b"hello");
        client.close().await;
    }
}

#[tokio::test]
async fn tls_facts_are_what_was_offered_and_negotiated() {
    let server = server(Protocol::Tls).await;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let config = Arc::new(config);
    let mut resumed = Vec::new();
    for _ in 0..2 {
        let tcp = TcpStream::connect(server.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = TlsConnector::from(Arc::clone(&config)).connect(name, tcp).await.unwrap();
        let version = tls.get_ref().1.protocol_version().unwrap();
        assert_eq!(version, ProtocolVersion::TLSv1_3);
        let mut client = Client::Bytes(Box::new(tls));
        let facts = client.facts().await;
        let tls = &facts["tls"];
        assert_eq!(tls["version"], "TLSv1.3");
        assert_eq!(tls["sni"], "localhost");
        assert_eq!(tls["alpn_offered"], json!(["h2", "http/1.1"]));
        assert_eq!(tls["alpn"], "h2");
        assert!(tls["cipher"].as_str().unwrap().starts_with("TLS_"), "{tls}");
        let (ja4, raw) = (tls["ja4"].as_str().unwrap(), tls["ja4_r"].as_str().unwrap());
        assert!(ja4.starts_with("t13d") && ja4[..10].ends_with("h2"), "{ja4}");
        assert_eq!(ja4.split('_').next(), raw.split('_').next());
        resumed.push(tls["resumed"].as_bool().unwrap());
        // The ticket comes before the echo does.
        assert_eq!(client.echo(b"hello").await, b"hello");
        client.close().await;
    }
    assert_eq!(resumed, [false, true]);
}

#[tokio::test]
async fn a_client_certificate_is_a_fact() {
    let config = Config::new()
        .listen(Protocol::Tls, ([127, 0, 0, 1], 0))
        .tls(|tls| tls.client_ca = Some(cert("ca.pem").into()))
        .facts([Protocol::Tls]);
    let server = TestServer::with(config).await;
    let chain = CertificateDer::pem_file_iter(cert("client.pem")).unwrap();
    let chain = chain.collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(cert("client.key")).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots())
        .with_client_auth_cert(chain, key)
        .unwrap();
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let tls = TlsConnector::from(Arc::new(client)).connect(name, tcp).await.unwrap();
    let facts = Client::Bytes(Box::new(tls)).facts().await;
    assert!(facts["tls"]["client"].as_str().unwrap().contains("CN="), "{facts}");
}

#[test]
fn http_fields_are_told_as_they_were_written() {
    let server = Running::start(&["--ws", "0", "--facts", "ws"]);
    let fields =
        "X-First: 1\r\nuser-agent: a\r\nX-Repeated: a\r\nCOOKIE: secret=1\r\nx-rEPEATED: b \r\n";
    let response = http::send(server.address("ws"), "GET", "/facts?x=%20y", fields);
    assert_eq!(response.status, 200);
    assert!(response.head.contains("content-type: application/json\r\n"), "{}", response.head);
    assert!(response.head.contains("cache-control: no-store"), "{}", response.head);
    let facts = Schema::of_facts().facts(&response.body);
    let http = &facts["http"];
    assert_eq!((&http["method"], &http["path"]), (&json!("GET"), &json!("/facts?x=%20y")));
    assert_eq!(http["version"], "HTTP/1.1");
    let expected = json!([
        ["Host", "localhost"],
        ["Connection", "close"],
        ["X-First", "1"],
        ["user-agent", "a"],
        ["X-Repeated", "a"],
        ["COOKIE", "secret=1"],
        ["x-rEPEATED", "b"]
    ]);
    assert_eq!(http["fields"], expected);
    // HEAD has the same head, and POST is no question.
    assert_eq!(http::send(server.address("ws"), "HEAD", "/facts", "").body, "");
    assert_eq!(http::send(server.address("ws"), "POST", "/facts", "").status, 405);
    // The log shows none of it.
    let (_, log) = server.terminate();
    assert!(!log.contains("secret"), "{log}");
}

/// A head that comes in pieces is told whole.
#[test]
fn a_request_in_pieces_is_told_whole() {
    let server = Running::start(&["--ws", "0", "--facts", "ws"]);
    let mut stream = std::net::TcpStream::connect(server.address("ws")).unwrap();
    stream.set_nodelay(true).unwrap();
    let request = http::request("GET", "/facts", "X-Long: 0123456789\r\n");
    for piece in request.as_bytes().chunks(7) {
        stream.write_all(piece).unwrap();
    }
    let facts = Schema::of_facts().facts(&Response::read(stream).body);
    assert_eq!(facts["http"]["fields"][2], json!(["X-Long", "0123456789"]));
}

#[test]
fn without_the_setting_there_is_no_page_of_facts() {
    let server = Running::start(&["--ws", "0"]);
    let response = http::send(server.address("ws"), "GET", "/facts", "");
    assert_eq!(response.status, 404);
    assert!(response.body.contains("--facts"), "{}", response.body);
}

#[tokio::test]
async fn http2_streams_tell_facts_of_their_own() {
    let server = server(Protocol::Ws).await;
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    let request =
        hyper::Request::get("http://localhost/facts").header("x-a", "1").body(()).unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    let mut body = response.await.unwrap().into_body();
    let body = body.data().await.unwrap().unwrap();
    let facts = Schema::of_facts().facts(std::str::from_utf8(&body).unwrap());
    assert_eq!(facts["http"]["version"], "HTTP/2");
    assert_eq!(facts["http"]["authority"], "localhost");
    assert_eq!(facts["http"]["fields"], json!([["x-a", "1"]]));
    assert_eq!(facts["connection"], 1);
    // RFC 8441: each stream is a connection of its own; the first message is the facts.
    let upgrade = hyper::Request::connect("http://localhost/chat")
        .version(hyper::Version::HTTP_2)
        .header("sec-websocket-version", "13")
        .extension(h2::ext::Protocol::from_static("websocket"))
        .body(())
        .unwrap();
    let (response, _sending) = client.send_request(upgrade, false).unwrap();
    let mut stream = response.await.unwrap().into_body();
    let mut frame = Vec::new();
    let facts: Value = loop {
        let bytes = stream.data().await.expect("not yet the end").unwrap();
        stream.flow_control().release_capacity(bytes.len()).unwrap();
        frame.extend(bytes);
        // FIN and text, then a 16-bit length (RFC 6455 section 5.2).
        if frame.len() > 4 {
            assert_eq!(frame[..2], [0x81, 126]);
            let length = usize::from(u16::from_be_bytes([frame[2], frame[3]]));
            if frame.len() == 4 + length {
                break Schema::of_facts().facts(std::str::from_utf8(&frame[4..]).unwrap());
            }
        }
    };
    assert_eq!((&facts["connection"], &facts["http"]["path"]), (&json!(3), &json!("/chat")));
}

#[cfg(unix)]
#[tokio::test]
async fn a_process_at_a_unix_socket_is_told_by_its_ids() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echo.sock");
    let address = UnixAddress::Path(path.clone());
    let config = Config::new().listen(Protocol::Tcp, address).facts([Protocol::Tcp]);
    let _server = echo_server::TestServer::with(config).await.unwrap();
    let stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let facts = Client::Bytes(Box::new(stream)).facts().await;
    assert_eq!(facts["peer"], "unix");
    assert_eq!(facts["unix"]["pid"], std::process::id());
    assert_eq!(facts["local"], format!("unix:{}", path.display()));
    assert!(facts.get("tcp").is_none(), "{facts}");
}

#[test]
fn facts_need_a_listener() {
    let output = command().args(["--tcp", "0", "--facts", "ws"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--facts") && said.contains("ws"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// The probe's words and the server's facts are of one mind, over every protocol.
#[test]
fn the_probe_finds_nothing_changed_where_nothing_is_between() {
    let (pem, key, ca) = (cert("server.pem"), cert("server.key"), cert("ca.pem"));
    let [pem, key, ca] = [&pem, &key, &ca].map(|path| path.to_str().unwrap());
    let listeners = ["--tcp=0", "--tls=0", "--udp=0", "--ws=0", "--wss=0", "--facts=all"];
    let plain = Running::start(&[&listeners[..], &["--cert", pem, "--key", key]].concat());
    let proxied = Running::start(
        &[&listeners[..], &["--cert", pem, "--key", key, "--proxy-protocol=all"]].concat(),
    );
    let of_tls: &[&str] = &["--ca", ca];
    let over_h2: &[&str] = &["--ca", ca, "--alpn", "h2"];
    let header: &[&str] = &["--proxy-protocol", "2", "--proxy-client", "192.0.2.1:61000"];
    for (server, protocol, more) in [
        (&plain, "tcp", &[][..]),
        (&plain, "tls", of_tls),
        (&plain, "udp", &["--dscp", "EF"]),
        (&plain, "ws", &["--header", "X-Test: a"]),
        (&plain, "ws", &["--alpn", "h2"]),
        (&plain, "wss", of_tls),
        (&plain, "wss", over_h2),
        (&proxied, "tcp", header),
        (&proxied, "tls", &[of_tls, header].concat()),
        (&proxied, "wss", &[over_h2, &["--proxy-protocol", "1"]].concat()),
        (&proxied, "ws", &["--proxy-protocol", "local"]),
    ] {
        let url = format!("{protocol}://localhost:{}", server.address(protocol).port());
        let output = command().args(["probe", &url, "-4", "--facts"]).args(more).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "{url} {more:?}: {said}");
        assert!(said.contains("nothing that it tells has changed"), "{url} {more:?}: {said}");
        assert!(said.contains("it echoes: 64 bytes"), "{url} {more:?}: {said}");
    }
}

/// A client that opens no window and asks a hundred times, with the longest fields that a head takes.
#[test]
fn facts_that_a_client_does_not_take_are_memory_that_counts() {
    let args = ["--ws=0", "--facts=ws", "--max-buffered=256KiB", "--log-format=json"];
    let server = Running::start(&args);
    let mut stream = std::net::TcpStream::connect(server.address("ws")).unwrap();
    // The preface, and SETTINGS with INITIAL_WINDOW_SIZE 0 (RFC 9113 section 6.5.2).
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0")
        .unwrap();
    let value = "v".repeat(4000);
    for stream_id in (1..200_u32).step_by(2) {
        // Literal fields without indexing (RFC 7541 section 6.2.2), and three of the static table.
        let mut block = vec![0x82, 0x86, 0x04, 6];
        block.extend(b"/facts");
        block.extend([0x01, 1]);
        block.push(b'h');
        block.extend([0x00, 1, b'x', 0x7F]);
        let mut rest = value.len() - 0x7F;
        while rest >= 128 {
            block.push((rest % 128) as u8 | 0x80);
            rest /= 128;
        }
        block.push(rest as u8);
        block.extend(value.as_bytes());
        // HEADERS with END_STREAM and END_HEADERS.
        let length = (block.len() as u32).to_be_bytes();
        let frame = [&length[1..], &[1, 0x05], &stream_id.to_be_bytes(), &block].concat();
        stream.write_all(&frame).unwrap();
    }
    server.wait_for_line("The limit on buffered bytes is reached");
    // A client with a window gets its own meanwhile.
    let response = http::send(server.address("ws"), "GET", "/facts", "");
    assert_eq!(response.status, 200);
}

/// What nobody asks for is not written: a request costs no more because of what the server saw.
#[tokio::test]
async fn large_client_hellos_are_told_in_part() {
    let server = server(Protocol::Tls).await;
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots())
        .with_no_client_auth();
    config.alpn_protocols = (0..6000_u32).map(|n| format!("name-{n}").into_bytes()).collect();
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
    let mut client = Client::Bytes(Box::new(tls));
    let facts = client.facts().await;
    let offered = facts["tls"]["alpn_offered"].as_array().unwrap();
    assert!((100..1000).contains(&offered.len()), "{}", offered.len());
    assert_eq!(offered[0], "name-0");
    assert!(facts.to_string().len() < 10_000, "{facts}");
    assert_eq!(client.echo(b"hello").await, b"hello");
}

/// `sent` counts the facts, on every protocol.
#[test]
fn facts_count_as_sent() {
    for protocol in ["tcp", "ws"] {
        let args = [&format!("--{protocol}=0"), "--facts=all", "--log-format=json"];
        let server = Running::start(&args);
        let mut stream = std::net::TcpStream::connect(server.address(protocol)).unwrap();
        let sent = if protocol == "ws" {
            common::client::upgrade(&mut stream);
            let mut head = [0; 4];
            stream.read_exact(&mut head).unwrap();
            let length = u16::from_be_bytes([head[2], head[3]]);
            stream.read_exact(&mut vec![0; length.into()]).unwrap();
            u64::from(length)
        } else {
            let mut line = Vec::new();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            stream.read_to_end(&mut line).unwrap();
            line.len() as u64
        };
        drop(stream);
        server.wait_for_line("Connection closed");
        let (_, log) = server.terminate();
        let closed = log.lines().find(|line| line.contains("Connection closed")).unwrap();
        let closed: Value = serde_json::from_str(closed).unwrap();
        assert_eq!(closed["sent"], sent, "{protocol}: {closed}");
        assert_eq!(closed["received"], 0, "{protocol}: {closed}");
    }
}

#[test]
fn a_page_of_another_origin_is_not_told() {
    let server = Running::start(&["--ws=0", "--facts=ws", "--ws-origin=https://example.com"]);
    for (origin, status) in [("https://example.com", 200), ("https://example.org", 403)] {
        let fields = format!("Origin: {origin}\r\n");
        let response = http::send(server.address("ws"), "GET", "/facts", &fields);
        assert_eq!(response.status, status, "{origin}");
    }
}

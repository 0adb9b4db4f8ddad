//! `probe --facts` against scripted servers: what it shows, what it compares, and what it says where
//! there are no facts.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::binary::{Running, command};
use common::cert;
use common::schema::Schema;
use echo_server::probe::{
    Arrival, ChangeKind, EchoCheck, FactsOptions, NoFacts, Probe, ProbeError, ProxyHeader, Sni,
};
use serde_json::{Value, json};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, Stream};
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::{self, Message};

/// What every scripted server says.
fn facts(protocol: &str, peer: SocketAddr, local: SocketAddr) -> Value {
    json!({
        "echo_facts": 1, "protocol": protocol, "time": "2026-11-28T01:25:03.123456Z",
        "peer": peer.to_string(), "local": local.to_string(),
    })
}

/// Facts as a line, which the schema must allow.
fn line(facts: &Value) -> String {
    let line = facts.to_string();
    Schema::of_facts().facts(&line);
    line
}

/// A server for one connection, which is its peer's.
fn tcp_server(
    serve: impl FnOnce(std::net::TcpStream, SocketAddr) + Send + 'static,
) -> (SocketAddr, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (tcp, peer) = listener.accept().unwrap();
        serve(tcp, peer);
    });
    (address, serving)
}

/// Echoes until the client has enough.
fn echo(stream: &mut (impl Read + Write)) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

fn probe(url: &str) -> Probe {
    Probe::new(url.parse().unwrap())
}

async fn ask(probe: &Probe) -> Result<Arrival, ProbeError> {
    probe.facts(FactsOptions::new().timeout(Duration::from_secs(10))).run().await
}

/// Runs `echo-server probe --facts`. A server that is silent is waited for shortly.
async fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = command();
    command.args(["probe", "--facts"]).args(args);
    let output: Output =
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn facts_of_a_stream_are_shown_and_compared() {
    let serve = |mut tcp: std::net::TcpStream, peer| {
        let local = tcp.local_addr().unwrap();
        let mut facts = facts("tcp", peer, local);
        facts["connection"] = 7.into();
        facts["tcp"] = json!({ "mss": 1448 });
        // In pieces, as a stream may bring them.
        for piece in (line(&facts) + "\n").as_bytes().chunks(9) {
            tcp.write_all(piece).unwrap();
        }
        echo(&mut tcp);
    };
    let (address, serving) = tcp_server(serve);
    let arrival = ask(&probe(&format!("tcp://{address}"))).await.unwrap();
    let facts = arrival.facts.unwrap();
    assert_eq!(facts.peer(), arrival.connected.local);
    assert_eq!((facts.protocol(), facts.number("/tcp/mss")), (Some("tcp"), Some(1448)));
    assert_eq!((arrival.differences, arrival.echo), (vec![], Some(EchoCheck::Exact(64))));
    serving.join().unwrap();

    let (address, serving) = tcp_server(serve);
    let (code, text, error) = run(&[&format!("tcp://{address}"), "--size", "1"]).await;
    assert_eq!((code, &*error), (Some(0), ""), "{text}");
    let seen = text.lines().find(|line| line.starts_with("seen as ")).unwrap();
    assert!(seen.starts_with("seen as 127.0.0.1:"), "{seen}");
    let rest = format!(" at {address}, tcp, connection 7, 2026-11-28T01:25:03.123456Z");
    assert!(seen.ends_with(&rest), "{seen}");
    assert!(
        text.ends_with(
            "\nTCP there: MSS 1448\nnothing that it tells has changed on the way\n\
             it echoes: 1 byte came back as it was sent\n"
        ),
        "{text}"
    );
    serving.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_and_a_proxy_are_told() {
    let (address, serving) = tcp_server(|mut tcp, _| {
        let seen = |text: &str| text.parse().unwrap();
        let mut facts = facts("tcp", seen("192.0.2.1:61000"), seen("203.0.113.9:8443"));
        facts["proxy"] = json!({
            "from": "10.0.0.5:33000", "version": 2, "command": "proxy", "transport": "tcp4",
            "source": "192.0.2.1:61000", "destination": "203.0.113.9:443",
            "authority": "a\u{1b}\u{202e}.test",
            "crc32c": true,
            "ssl": {
                "client_ssl": true, "client_cert_connection": true, "client_cert_session": true,
                "verify": 0, "version": "TLSv1.3", "cn": "client",
            }, "tlvs": [{ "type": "0xe5", "value": "00ff" }],
        });
        tcp.write_all((line(&facts) + "\n").as_bytes()).unwrap();
        echo(&mut tcp);
    });
    let (code, text, error) = run(&[&format!("tcp://{address}")]).await;
    assert_eq!((code, &*error), (Some(0), ""), "differences are no failure: {text}");
    for expected in [
        "PROXY header of version 2 from 10.0.0.5:33000: tcp4 from 192.0.2.1:61000 to 203.0.113.9:443\n",
        // The server's words are not the terminal's.
        "  authority: a\\u{1b}\\u{202e}.test\n",
        "  ssl version: TLSv1.3\n",
        "  ssl cn: client\n",
        "  ssl verify: 0\n",
        "  tlv 0xe5: 00ff\n",
        "  crc32c: true\n",
        "\nfrom 127.0.0.1:",
        ", seen as 192.0.2.1:61000, by a NAT or a proxy\n",
        &format!("DNAT: sent to {address}, arrived at 203.0.113.9:8443\n"),
        "it echoes: 64 bytes came back as they were sent\n",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    serving.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_echo_behind_its_facts_is_told() {
    for (answer, code, said) in [
        (
            &[0xee; 64][..],
            5,
            "\nit does not echo: what came back differs from byte 0: ee ee ee ee ee ee ee ee instead \
             of ",
        ),
        (b"", 1, "it does not echo: closed by the other side: end of stream\n"),
    ] {
        let (address, serving) = tcp_server(move |mut tcp, peer| {
            let facts = facts("tcp", peer, tcp.local_addr().unwrap());
            tcp.write_all((line(&facts) + "\n").as_bytes()).unwrap();
            let mut message = [0; 64];
            tcp.read_exact(&mut message).unwrap();
            tcp.write_all(answer).unwrap();
        });
        let (actual, text, _) = run(&[&format!("tcp://{address}")]).await;
        assert_eq!(actual, Some(code), "{text}");
        assert!(text.contains(said), "{text}");
        serving.join().unwrap();
    }
    // What comes with the facts is no echo.
    let (address, serving) = tcp_server(|mut tcp, peer| {
        let facts = facts("tcp", peer, tcp.local_addr().unwrap());
        tcp.write_all((line(&facts) + "\nmore").as_bytes()).unwrap();
        echo(&mut tcp);
    });
    let arrival = ask(&probe(&format!("tcp://{address}"))).await.unwrap();
    let Some(EchoCheck::Different(Some(difference))) = arrival.echo else { panic!("{arrival:?}") };
    assert_eq!((difference.offset, difference.received()), (0, &b"more"[..]));
    serving.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_there_are_no_facts_it_is_said_why() {
    let server = Running::start(&["--tcp", "0", "--ws", "0"]);
    for protocol in ["tcp", "ws"] {
        let address = server.address(protocol);
        let url = format!("{protocol}://{address}");
        let (code, _, error) = run(&[&url, "--timeout", "300ms"]).await;
        assert_eq!(code, Some(1), "{error}");
        let proxy = ", and does it expect a PROXY header (--proxy-protocol)";
        let expected = format!(
            "echo-server: no facts: {address} has sent nothing within 300ms; is the server started \
             with --facts {protocol}{}?\n",
            // To answer the upgrade, it has to have read what follows a header.
            if protocol == "tcp" { proxy } else { "" }
        );
        assert_eq!(error, expected);
    }
    let no_facts = async |bytes: Vec<u8>| {
        let (address, serving) = tcp_server(move |mut tcp, _| {
            // The probe has had enough before all is sent.
            let _ = tcp.write_all(&bytes);
        });
        let arrival = ask(&probe(&format!("tcp://{address}"))).await.unwrap();
        assert_eq!((arrival.echo, &*arrival.differences), (None, &[][..]));
        serving.join().unwrap();
        arrival.facts.unwrap_err()
    };
    let said = |why: NoFacts| why.to_string();
    assert_eq!(
        said(no_facts(b"220 mail.test ESMTP\r\n".to_vec()).await),
        "sent something else first: \"220 mail.test ESMTP\""
    );
    assert_eq!(said(no_facts(b"{}\n".to_vec()).await), "sent something else first: \"{}\"");
    assert_eq!(
        said(no_facts(b"{\"a".to_vec()).await),
        "sent the beginning of facts, and not their end"
    );
    assert_eq!(said(no_facts(vec![]).await), "closed the connection: end of stream");
    assert_eq!(no_facts(b"{\"echo_facts\":2}\n".to_vec()).await, NoFacts::Version(2));
    let endless = [b"{\"".to_vec(), vec![b'a'; 300 * 1024]].concat();
    assert_eq!(no_facts(endless).await, NoFacts::TooLong);
    let deep = [b"{\"echo_facts\":1,\"a\":".to_vec(), vec![b'['; 200_000], b"\n".to_vec()].concat();
    assert!(matches!(no_facts(deep).await, NoFacts::Other { .. }));
}

/// A UDP server for one client, which answers each datagram with what `answer` says.
fn udp_server(
    mut answer: impl FnMut(&[u8], SocketAddr, SocketAddr) -> Vec<Vec<u8>> + Send + 'static,
) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        // It ends with the process.
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            for reply in answer(&buffer[..length], from, address) {
                socket.send_to(&reply, from).unwrap();
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn facts_over_udp_are_asked_for_as_long_as_they_need() {
    let mut questions = Vec::new();
    let address = udp_server(move |datagram, peer, local| {
        if !datagram.starts_with(b"ECHO-FACTS?") {
            return vec![datagram.to_vec()];
        }
        questions.push(datagram.len());
        let mut facts = facts("udp", peer, local);
        facts["ip"] = json!({ "ttl": 61, "dscp": 0, "ecn": "CE" });
        match &questions[..] {
            // The first is lost.
            [1200] => vec![],
            [1200, 1200] => vec![line(&json!({ "echo_facts": 1, "need": 1300 })).into_bytes()],
            // A network may bring a reply twice.
            [1200, 1200, 1300] => vec![line(&facts).into_bytes(); 2],
            other => panic!("{other:?}"),
        }
    });
    let url = format!("udp://{address}");
    let (code, text, error) = run(&[&url, "--dscp", "EF", "--timeout", "500ms"]).await;
    assert_eq!((code, &*error), (Some(0), ""), "{text}");
    assert!(
        text.ends_with(
            "IP there: TTL 61, DSCP 0, CE\nTTL fell by 3\nDSCP 46 became 0\nECN Not-ECT became CE\n\
             it echoes: 64 bytes came back as they were sent\n"
        ),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_udp_service_without_facts_is_told() {
    let server = Running::start(&["--udp", "0"]);
    let address = server.address("udp");
    let (code, _, error) = run(&[&format!("udp://{address}")]).await;
    assert_eq!(code, Some(1), "{error}");
    let expected = format!(
        "echo-server: no facts: {address} echoed the question; is the server started with \
         --facts udp?\n"
    );
    assert_eq!(error, expected);
    let silent = udp_server(|_, _, _| vec![]);
    let options = FactsOptions::new().timeout(Duration::from_millis(50));
    let shortly = async |address| {
        probe(&format!("udp://{address}")).facts(options.clone()).run().await.unwrap()
    };
    let why = shortly(silent).await.facts.unwrap_err().to_string();
    assert_eq!(why, "has sent nothing within 150ms", "three questions");
    for (need, expected) in [
        (65_508, "needs a question of 65508 bytes, and a datagram carries 65507"),
        // It would be asked for ever.
        (1200, "sent something else first: \"{\"echo_facts\":1,\"need\":1200}\""),
    ] {
        let needs = udp_server(move |_, _, _| {
            vec![line(&json!({ "echo_facts": 1, "need": need })).into_bytes()]
        });
        assert_eq!(shortly(needs).await.facts.unwrap_err().to_string(), expected);
    }
    let mut questions = 0;
    let growing = udp_server(move |datagram, _, _| {
        questions += 1;
        assert!(questions <= 3, "it is asked for ever");
        vec![line(&json!({ "echo_facts": 1, "need": datagram.len() + 1 })).into_bytes()]
    });
    assert_eq!(
        ask(&probe(&format!("udp://{growing}"))).await.unwrap().facts.unwrap_err().to_string(),
        "wants a longer question each time, at last one of 1203 bytes"
    );
    // Replies that are none, without end.
    let is_over = Arc::new(AtomicBool::new(false));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let endless = socket.local_addr().unwrap();
    let flooding = std::thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            let (_, from) = socket.recv_from(&mut [0; 2048]).unwrap();
            while !is_over.load(Ordering::Relaxed) {
                // The client may have gone.
                let _ = socket.send_to(b"{\"echo_facts\":1,\"need\":5}", from);
            }
        }
    });
    let why = shortly(endless).await.facts.unwrap_err().to_string();
    is_over.store(true, Ordering::Relaxed);
    assert_eq!(why, "sent something else first: \"{\"echo_facts\":1,\"need\":5}\"");
    flooding.join().unwrap();
    for (reply, expected) in
        [(&b""[..], "sent an empty message first"), (b"no", "sent something else first: \"no\"")]
    {
        let other = udp_server(move |_, _, _| vec![reply.to_vec(); 2]);
        let arrival = ask(&probe(&format!("udp://{other}"))).await.unwrap();
        assert_eq!(arrival.facts.unwrap_err().to_string(), expected);
        // One of them does not end the question.
        let stray =
            udp_server(move |datagram, peer, local| match datagram.starts_with(b"ECHO-FACTS?") {
                true => vec![reply.to_vec(), line(&facts("udp", peer, local)).into_bytes()],
                false => vec![datagram.to_vec()],
            });
        let arrival = ask(&probe(&format!("udp://{stray}"))).await.unwrap();
        assert!(arrival.facts.is_ok(), "{arrival:?}");
    }
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, _, error) = run(&[&format!("udp://{closed}")]).await;
    assert_eq!(code, Some(3), "{error}");
    assert!(error.contains("port unreachable: nothing listens there"), "{error}");
}

/// The request's fields as they came.
fn fields(request: &Request) -> Vec<[String; 2]> {
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
    let fields = request.headers().iter();
    fields.map(|(name, value)| [name.to_string(), text(value.as_bytes())]).collect()
}

/// A WebSocket server that sends its facts, as `change` leaves them, and echoes.
#[expect(clippy::result_large_err, reason = "tungstenite's callback returns a response")]
fn websocket_server(
    change: impl FnOnce(&mut Value) + Send + 'static,
) -> (SocketAddr, std::thread::JoinHandle<()>) {
    tcp_server(move |tcp, peer| {
        let local = tcp.local_addr().unwrap();
        let mut facts = facts("ws", peer, local);
        let mut socket = tungstenite::accept_hdr(tcp, |request: &Request, response: Response| {
            facts["http"] = json!({
                "version": "HTTP/1.1", "method": request.method().as_str(),
                "path": request.uri().to_string(), "fields": fields(request),
            });
            Ok(response)
        })
        .unwrap();
        change(&mut facts);
        socket.send(Message::text(line(&facts))).unwrap();
        while let Ok(message) = socket.read() {
            if message.is_text() || message.is_binary() {
                socket.send(message).unwrap();
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn facts_of_a_websocket_are_compared_with_the_request() {
    let (address, serving) = websocket_server(|_| {});
    let with_field = probe(&format!("ws://{address}/a?b=1"))
        .connect(|connect| connect.headers.push(("X-Test".to_owned(), "1".to_owned())))
        .messages(|messages| messages.is_text = true);
    let arrival = ask(&with_field).await.unwrap();
    assert_eq!((arrival.differences, arrival.echo), (vec![], Some(EchoCheck::Exact(64))));
    let facts = arrival.facts.unwrap();
    assert_eq!((facts.field("x-test"), facts.text("/http/path")), (vec!["1"], Some("/a?b=1")));
    assert_eq!(facts.field("Sec-WebSocket-Key").len(), 1);
    serving.join().unwrap();

    let (address, serving) = websocket_server(|facts| {
        facts["http"]["path"] = "/other".into();
        let fields = facts["http"]["fields"].as_array_mut().unwrap();
        fields.retain(|field| field[0] != "x-test");
        for field in &mut *fields {
            if field[0] == "host" {
                field[1] = "inside.test".into();
            }
        }
        fields.push(json!(["X-Forwarded-For", "10.0.0.7"]));
    });
    let (code, text, error) = run(&[&format!("ws://{address}"), "--header", "X-Test: 1"]).await;
    assert_eq!((code, &*error), (Some(0), ""), "{text}");
    for expected in [
        "HTTP there: GET /other HTTP/1.1\n",
        "  X-Forwarded-For: 10.0.0.7\n",
        "\npath / became /other\n",
        &format!("\nchanged on the way: host: {address} became inside.test\n"),
        "\nremoved on the way: x-test: 1\n",
        "\nadded on the way: X-Forwarded-For: 10.0.0.7\n",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    serving.join().unwrap();
}

/// What a scripted TLS server tells about a handshake of the test's.
fn tls_facts(tls: &ServerConnection) -> Value {
    let name = |text: Option<&str>| text.unwrap().replace('_', ".");
    let cipher = tls.negotiated_cipher_suite().unwrap().suite();
    let group = tls.negotiated_key_exchange_group().unwrap().name();
    json!({
        "version": name(tls.protocol_version().unwrap().as_str()),
        "cipher": cipher.as_str().unwrap().replace("TLS13_", "TLS_"),
        "group": group.as_str().unwrap(),
        "sni": tls.server_name().unwrap(), "alpn": "one", "alpn_offered": ["one", "two"],
        "resumed": false,
    })
}

/// A TLS server that sends its facts, as `change` leaves them, and echoes.
fn tls_server(
    change: impl FnOnce(&mut Value) + Send + 'static,
) -> (SocketAddr, std::thread::JoinHandle<()>) {
    let chain = CertificateDer::pem_file_iter(cert("server.pem")).unwrap();
    let chain = chain.map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(cert("server.key")).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"one".to_vec()];
    tcp_server(move |mut tcp, peer| {
        let mut tls = ServerConnection::new(Arc::new(config)).unwrap();
        tls.complete_io(&mut tcp).unwrap();
        let mut facts = facts("tls", peer, tcp.local_addr().unwrap());
        facts["tls"] = tls_facts(&tls);
        change(&mut facts);
        let mut stream = Stream::new(&mut tls, &mut tcp);
        stream.write_all((line(&facts) + "\n").as_bytes()).unwrap();
        echo(&mut stream);
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn facts_of_tls_are_compared_with_our_end() {
    let trusting = |address: SocketAddr| {
        probe(&format!("tls://localhost:{}", address.port())).connect(|connect| {
            connect.tls.ca = Some(cert("ca.pem").into());
            connect.tls.alpn = vec!["one".to_owned(), "two".to_owned()];
            connect.family = Some(echo_server::probe::Family::V4);
        })
    };
    let (address, serving) = tls_server(|_| {});
    let arrival = ask(&trusting(address)).await.unwrap();
    assert_eq!((arrival.differences, arrival.echo), (vec![], Some(EchoCheck::Exact(64))));
    let facts = arrival.facts.unwrap();
    assert_eq!(facts.text("/tls/sni"), Some("localhost"));
    assert_eq!(facts.alpn_offered(), ["one", "two"]);
    serving.join().unwrap();

    let (address, serving) = tls_server(|facts| {
        facts["tls"]["version"] = "TLSv1.2".into();
        facts["tls"]["sni"] = "inside.test".into();
        facts["tls"]["ja4"] = "t12i010000_000000000000_000000000000".into();
    });
    let arrival = ask(&trusting(address)).await.unwrap();
    let kinds: Vec<ChangeKind> = arrival.differences.iter().map(|change| change.kind).collect();
    assert_eq!(kinds, [ChangeKind::TlsVersion, ChangeKind::Sni, ChangeKind::Ja4]);
    let ja4 = arrival.differences[2].sent.as_deref().unwrap();
    assert!(ja4.starts_with("t13d") && ja4.len() == 36, "{ja4}");
    serving.join().unwrap();

    // A balancer that ends TLS, and another name than the one that is verified.
    let (address, serving) = tls_server(|facts| {
        facts.as_object_mut().unwrap().remove("tls");
        facts["protocol"] = "tcp".into();
    });
    let other = trusting(address).connect(|connect| {
        connect.tls.sni = Sni::Name("other.test".to_owned());
    });
    let arrival = ask(&other).await.unwrap();
    assert_eq!(arrival.differences[0].kind, ChangeKind::Tls);
    assert_eq!(arrival.differences.len(), 1);
    serving.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_of_a_server_with_facts_says_so() {
    let (address, serving) = tcp_server(|mut tcp, peer| {
        let facts = facts("tcp", peer, tcp.local_addr().unwrap());
        tcp.write_all((line(&facts) + "\n").as_bytes()).unwrap();
        echo(&mut tcp);
    });
    let mut ping = command();
    ping.args(["probe", &format!("tcp://{address}"), "-c", "1", "--timeout", "300ms"]);
    let output = tokio::task::spawn_blocking(move || ping.output().unwrap()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // Another connection's line may have another length.
    let words = "note: the server sends facts first (--facts): use probe --facts";
    assert!(text.contains(&format!("{words}\n")), "{text}");
    serving.join().unwrap();
    let (address, serving) = websocket_server(|_| {});
    let mut ping = command();
    ping.args(["probe", &format!("ws://{address}"), "-c", "1", "--timeout", "300ms"]);
    let output = tokio::task::spawn_blocking(move || ping.output().unwrap()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&format!("{words}, or --skip-first 1\n")), "{text}");
    serving.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_long_for_facts_is_not_taken() {
    // The beginning of a text frame of 1 GiB without its bytes: they are not waited for.
    let frame = [&[0x81, 127][..], &(1_u64 << 30).to_be_bytes()].concat();
    let endless = frame.clone();
    let (address, serving) = tcp_server(move |tcp, _| {
        let mut socket = tungstenite::accept(tcp).unwrap();
        socket.get_mut().write_all(&endless).unwrap();
        let _ = socket.get_mut().read(&mut [0]);
    });
    let arrival = ask(&probe(&format!("ws://{address}"))).await.unwrap();
    assert_eq!(arrival.facts, Err(NoFacts::TooLong));
    serving.join().unwrap();

    // With a message to echo that is larger, the limit of the facts stays.
    let (address, serving) = tcp_server(|tcp, _| {
        let mut socket = tungstenite::accept(tcp).unwrap();
        let _ = socket.send(Message::text("{".repeat(300 << 10)));
        let _ = socket.read();
    });
    let larger = probe(&format!("ws://{address}")).messages(|messages| messages.size = 1 << 20);
    assert_eq!(ask(&larger).await.unwrap().facts, Err(NoFacts::TooLong));
    serving.join().unwrap();

    let (address, serving) = tcp_server(|tcp, _| {
        let mut socket = tungstenite::accept(tcp).unwrap();
        socket.send(Message::text("")).unwrap();
        let _ = socket.read();
    });
    let arrival = ask(&probe(&format!("ws://{address}"))).await.unwrap();
    assert_eq!(arrival.facts, Err(NoFacts::Empty));
    serving.join().unwrap();

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut builder = h2::server::Builder::new();
        builder.enable_connect_protocol();
        let mut connection = builder.handshake::<_, bytes::Bytes>(tcp).await.unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        let mut stream = respond.send_response(hyper::Response::new(()), false).unwrap();
        stream.send_data(frame.into(), false).unwrap();
        while connection.accept().await.is_some_and(|request| request.is_ok()) {}
    });
    let over_http2 = probe(&format!("ws://{address}"))
        .connect(|connect| connect.tls.alpn = vec!["h2".to_owned()]);
    assert_eq!(ask(&over_http2).await.unwrap().facts, Err(NoFacts::TooLong));
    serving.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_header_that_was_not_read_is_told() {
    let server = Running::start(&["--tcp", "0", "--facts", "tcp"]);
    let address = server.address("tcp");
    let url = format!("tcp://{address}");
    // One of them is longer than the message.
    let long = &*format!("authority={}", "a".repeat(200));
    for more in [&["1"][..], &["2"], &["2", "--proxy-tlv", long]] {
        let announcing =
            [&["--proxy-client", "192.0.2.1:5", "--proxy-protocol"][..], more].concat();
        let (code, text, _) = run(&[&[&*url][..], &announcing].concat()).await;
        assert_eq!(code, Some(5), "{text}");
        let expected = "\nnothing that it tells has changed on the way\n\
                        the PROXY header was not read: it came back in front of the echo\n";
        assert!(text.ends_with(expected), "{text}");
        let (_, json, _) = run(&[&[&*url, "--json"][..], &announcing].concat()).await;
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["echoed"], &json["differences"]), (&json!(false), &json!([])));
        let why = "the PROXY header was not read: it came back in front of the echo";
        assert_eq!(json["why_not_echoed"], why);
    }
    // A proxy in front has sent one of its own, and passed ours on.
    let (address, serving) = tcp_server(|mut tcp, peer| {
        let mut facts = facts("tcp", peer, tcp.local_addr().unwrap());
        facts["proxy"] = json!({
            "from": "10.0.0.5:33000", "version": 1, "command": "proxy", "transport": "tcp4",
            "source": peer.to_string(), "destination": tcp.local_addr().unwrap().to_string(),
        });
        tcp.write_all((line(&facts) + "\n").as_bytes()).unwrap();
        echo(&mut tcp);
    });
    let header = ProxyHeader::version_2().client(([192, 0, 2, 1], 5)).tlv(2, "a.test");
    let announcing =
        probe(&format!("tcp://{address}")).connect(|connect| connect.proxy = Some(header));
    let arrival = ask(&announcing).await.unwrap();
    assert_eq!((arrival.differences, arrival.echo), (vec![], Some(EchoCheck::ProxyHeader)));
    serving.join().unwrap();
    let plain = Running::start(&["--tcp", "0"]);
    for version in ["1", "2"] {
        let mut ping = command();
        ping.args(["probe", &format!("tcp://{}", plain.address("tcp")), "-c", "1"]);
        ping.args(["--timeout", "300ms", "--proxy-protocol", version]);
        let output = tokio::task::spawn_blocking(move || ping.output().unwrap()).await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let note = "\nnote: the server echoes the PROXY header: it does not expect one\n";
        assert!(text.contains(note) && !text.contains("--skip-first"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_header_that_was_read_is_compared() {
    let server = Running::start(&["--tcp", "0", "--facts", "tcp", "--proxy-protocol", "tcp"]);
    let address = server.address("tcp");
    let tlv = |kind, value: &[u8]| (kind, value.to_vec());
    let tlvs = vec![tlv(1, b"h2"), tlv(2, b"a\xff"), tlv(5, b"\0\xab"), tlv(0x30, b"blue")];
    let with_tlvs = |mut header: ProxyHeader| {
        header.tlvs = tlvs.clone();
        header
    };
    let client: SocketAddr = ([192, 0, 2, 1], 5).into();
    for header in [
        ProxyHeader::version_1().client(client),
        with_tlvs(ProxyHeader::version_2().client(client)),
        with_tlvs(ProxyHeader::local()),
    ] {
        let announcing = probe(&format!("tcp://{address}"))
            .connect(|connect| connect.proxy = Some(header.clone()));
        let arrival = ask(&announcing).await.unwrap();
        let what = (arrival.differences, arrival.echo);
        assert_eq!(what, (vec![], Some(EchoCheck::Exact(64))), "{header:?}");
    }
}

/// Interrupts `asking`, and waits for it to end.
fn interrupt(asking: std::process::Child) -> (Option<i32>, Value) {
    let pid = rustix::process::Pid::from_child(&asking);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = asking.wait_with_output().unwrap();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
}

/// Starts to ask a server that will not answer.
fn asking(url: &str) -> std::process::Child {
    let mut asking = command();
    asking.args(["probe", "--facts", "--json", "--timeout", "1h", url]);
    asking.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    asking.spawn().unwrap()
}

#[test]
fn a_question_that_is_interrupted_says_so() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let child = asking(&format!("udp://{}", socket.local_addr().unwrap()));
    socket.recv_from(&mut [0; 2048]).unwrap();
    let (code, json) = interrupt(child);
    assert_eq!((&json["event"], &json["facts"]), (&json!("facts"), &Value::Null));
    let why = json["why"].as_str().unwrap();
    assert!(why.ends_with(" had sent none when the question was interrupted"), "{why}");
    assert_eq!(code, Some(1));

    // In the middle of a TLS handshake there is no connection yet.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let child = asking(&format!("tls://{}", listener.local_addr().unwrap()));
    let tcp = listener.accept().unwrap();
    let (code, json) = interrupt(child);
    assert_eq!((&json["event"], code), (&json!("error"), Some(3)));
    assert!(json["why"].as_str().unwrap().ends_with(": interrupted"), "{json}");
    drop(tcp);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_of_facts_has_nothing_that_a_terminal_obeys() {
    let (address, serving) = tcp_server(|mut tcp, peer| {
        let mut facts = facts("tcp", peer, tcp.local_addr().unwrap());
        facts["local"] = "unix:/\u{202e}\u{200b}\u{2066}\u{feff}\u{2028}".into();
        tcp.write_all((line(&facts) + "\n").as_bytes()).unwrap();
        echo(&mut tcp);
    });
    let (code, text, _) = run(&[&format!("tcp://{address}"), "--json"]).await;
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(json["facts"]["local"], "unix:/\u{202e}\u{200b}\u{2066}\u{feff}\u{2028}");
    assert!(text.trim_end().bytes().all(|byte| matches!(byte, b' '..=b'~')), "{text}");
    serving.join().unwrap();
}

#[test]
fn the_schema_refuses_what_the_contract_does_not_have() {
    let schema = Schema::of_facts();
    let address: SocketAddr = "[::1]:9".parse().unwrap();
    let good = facts("udp", address, address);
    assert_eq!(schema.problems(&good), Vec::<String>::new());
    let with = |pointer: &str, value: Value| {
        let mut facts = good.clone();
        match pointer.split_once('/') {
            None => facts[pointer] = value,
            Some((object, name)) => facts[object] = json!({ name: value }),
        }
        schema.problems(&facts)
    };
    assert_eq!(with("connection", 7.into()), Vec::<String>::new());
    assert_eq!(with("ip/ttl", 255.into()), Vec::<String>::new());
    for (pointer, value) in [
        ("echo_facts", json!(2)),
        ("peer", json!("")),
        ("peer", Value::Null),
        ("connection", json!("7")),
        ("colour", json!(1)),
        ("ip/ttl", json!(256)),
        ("ip/ecn", json!("ECT(2)")),
        ("ip/mss", json!(1)),
        ("unix/uid", json!(-1)),
        ("tls/version", json!("TLSv1.3")),
        ("http/fields", json!([["a"]])),
    ] {
        assert!(!with(pointer, value.clone()).is_empty(), "{pointer}: {value}");
    }
    assert_eq!(schema.problems(&json!({ "echo_facts": 1, "need": 9 })), Vec::<String>::new());
    assert!(!schema.problems(&json!({ "echo_facts": 1, "need": 9, "protocol": "udp" })).is_empty());
}

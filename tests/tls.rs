//! What only TLS has, and its real client, `openssl s_client`.

mod common;

use std::process::Command;

use common::binary::Running;
use common::{TestServer, cert, identity, tls_connect, tls_connect_trusting, tools};
use echo_server::{Config, Identity, Protocol, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ALL_VERSIONS, ProtocolVersion};

async fn echoes<S>(mut stream: S)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    stream.write_all(b"hello").await.unwrap();
    stream.flush().await.unwrap();
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"hello");
}

#[tokio::test]
async fn both_versions_are_spoken() {
    let server = TestServer::start(Protocol::Tls).await;
    let old = tls_connect(server.address, &[&TLS12]).await;
    assert_eq!(old.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    echoes(old).await;
    let new = tls_connect(server.address, &[&TLS13]).await;
    assert_eq!(new.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    echoes(new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_close_notify_the_client_still_gets_all_it_is_owed() {
    let server = TestServer::start(Protocol::Tls).await;
    let stream = tls_connect(server.address, ALL_VERSIONS).await;
    common::client::half_close_gets_all(stream, &common::client::noise(10 << 20)).await;
}

#[tokio::test]
async fn the_self_signed_certificate_can_be_trusted() {
    let config = Config::new().listen(Protocol::Tls, ([127, 0, 0, 1], 0));
    assert_eq!(config.identity, Identity::SelfSigned);
    let server = Server::bind(config).await.unwrap();
    let address = server.local_addrs()[0].address.ip().unwrap();
    let roots = server.certificate_chain().to_vec();
    tokio::spawn(server.run(std::future::pending()));
    echoes(tls_connect_trusting(address, roots, ALL_VERSIONS).await).await;
}

#[tokio::test]
async fn plain_text_is_answered_with_an_alert() {
    let server = TestServer::start(Protocol::Tls).await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    client.write_all(b"EHLO localhost\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("a FIN, not a reset");
    // An alert record (RFC 8446 section 5.1), fatal (section 6).
    assert_eq!((answer.first(), answer.get(5)), (Some(&21), Some(&2)), "{answer:?}");
}

/// Sends `records`, and returns all that the server answers until it closes.
async fn answer_to(address: std::net::SocketAddr, records: &[u8]) -> Vec<u8> {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(records).await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("a FIN, not a reset");
    answer
}

#[tokio::test]
async fn whatever_comes_in_place_of_a_client_hello_is_answered_with_the_right_alert() {
    let server = Running::start(&["--tls", "0"]);
    let finished = [&[22, 3, 3, 0, 16, 20, 0, 0, 12][..], &[7; 12]].concat();
    // Ten bytes of a ClientHello, and then another record.
    let interleaved = [22, 3, 1, 0, 4, 1, 0, 0, 100, 23, 3, 3, 0, 1, 0];
    let empty = [22, 3, 3, 0, 0].repeat(100);
    let (unexpected_message, decode_error) = (10, 50);
    for (records, alert) in [
        (&[23, 3, 3, 0, 5, 1, 2, 3, 4, 5][..], Some(unexpected_message)),
        (&[20, 3, 3, 0, 1, 1], Some(unexpected_message)),
        (&finished, Some(unexpected_message)),
        (&interleaved, Some(unexpected_message)),
        (&empty, Some(decode_error)),
        // A message of 16 MiB.
        (&[22, 3, 1, 0, 4, 1, 255, 255, 255], Some(decode_error)),
        // A fatal alert is not answered with another one.
        (&[21, 3, 3, 0, 2, 2, 40], None),
    ] {
        let answer = answer_to(server.address("tls"), records).await;
        // An alert record (RFC 8446 section 5.1), fatal (section 6).
        let expected = alert.map_or_else(Vec::new, |alert| vec![21, 3, 3, 0, 2, 2, alert]);
        assert_eq!(answer, expected, "{records:?}");
    }
    let log = tokio::task::spawn_blocking(|| server.terminate()).await.unwrap().1;
    for said in [
        "alert sent: unexpected_message: the client sent application data in place of a ClientHello",
        "unexpected_message: the client sent a ChangeCipherSpec message in place of a ClientHello",
        "unexpected_message: the client sent a Finished message in place of a ClientHello",
        "unexpected_message: the client sent another record within a handshake message",
        "alert sent: decode_error",
        "failed: the client sent an alert in place of a ClientHello",
    ] {
        assert!(log.contains(said), "{said}: {log}");
    }
}

#[tokio::test]
async fn a_silent_client_does_not_stall_other_handshakes() {
    let server = TestServer::start(Protocol::Tls).await;
    let _silent = TcpStream::connect(server.address).await.unwrap();
    echoes(tls_connect(server.address, ALL_VERSIONS).await).await;
}

#[tokio::test]
async fn a_key_of_another_certificate_is_refused() {
    let config = Config::new()
        .listen(Protocol::Tls, ([127, 0, 0, 1], 0))
        .identity(Identity::files(cert("server.pem"), cert("client.key")));
    let error = Server::bind(config).await.unwrap_err();
    assert!(error.to_string().contains("not the key of the certificate"), "{error}");
    assert!(error.is_config());
    let config = Config::new().listen(Protocol::Tls, ([127, 0, 0, 1], 0)).identity(identity());
    Server::bind(config).await.expect("the right key is accepted");
}

#[test]
fn every_form_of_private_key_is_read() {
    if !tools::have_openssl() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let openssl = |args: &[&str]| {
        let output = tools::run(Command::new("openssl").args(args), b"");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let (ec, sec1) = (path("ec.pem"), path("sec1.key"));
    openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &sec1]);
    openssl(&["req", "-x509", "-key", &sec1, "-subj", "/CN=localhost", "-out", &ec]);
    let (rsa, pkcs8, pkcs1) = (path("rsa.pem"), path("pkcs8.key"), path("pkcs1.key"));
    openssl(&["genpkey", "-algorithm", "RSA", "-out", &pkcs8]);
    openssl(&["rsa", "-traditional", "-in", &pkcs8, "-out", &pkcs1]);
    openssl(&["req", "-x509", "-key", &pkcs8, "-subj", "/CN=localhost", "-out", &rsa]);
    for (cert, key) in [(&ec, &sec1), (&rsa, &pkcs8), (&rsa, &pkcs1)] {
        let server = Running::start(&["--tls", "0", "--cert", cert, "--key", key]);
        let (status, log) = server.terminate();
        assert!(status.success(), "{key}: {log}");
    }
}

#[test]
fn s_client_verifies_and_gets_its_bytes_back() {
    if !tools::have_openssl() {
        return;
    }
    let (server_pem, server_key) = (cert("server.pem"), cert("server.key"));
    let server = Running::start(&[
        "--tls",
        "0",
        "--cert",
        server_pem.to_str().unwrap(),
        "--key",
        server_key.to_str().unwrap(),
    ]);
    let address = server.address("tls").to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let mut s_client = Command::new("openssl");
        s_client
            .args(["s_client", "-connect", &address, "-servername", "localhost", version])
            .args(["-verify_return_error", "-quiet", "-no_ign_eof", "-CAfile"])
            .arg(cert("ca.pem"));
        let output = tools::run(&mut s_client, b"");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{version}: {said}");
        assert!(said.contains("depth=0 CN = localhost\nverify return:1"), "{version}: {said}");
    }
    let (status, log) = server.terminate();
    assert!(status.success());
    let facts = ["version=TLSv1.2", "version=TLSv1.3", "cipher=", "group=", "alpn="];
    for fact in facts {
        assert!(log.contains(fact), "{fact} is not in: {log}");
    }
    assert!(log.contains("sni=localhost"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s_client_gets_its_echo() {
    use tokio::process::Command;
    if !tools::have_openssl() {
        return;
    }
    let server = TestServer::start(Protocol::Tls).await;
    let mut s_client = Command::new("openssl")
        .args(["s_client", "-quiet", "-connect", &server.address.to_string()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (mut input, mut output) = (s_client.stdin.take().unwrap(), s_client.stdout.take().unwrap());
    input.write_all(b"through openssl\n").await.unwrap();
    let mut echo = [0; 16];
    output.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"through openssl\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_renews_its_keys_and_asks_for_ours() {
    use tokio::process::Command;
    if !tools::have_openssl() {
        return;
    }
    let server = TestServer::start(Protocol::Tls).await;
    // s_client says on standard error that it has sent a KeyUpdate.
    let mut s_client = Command::new("sh")
        .args(["-c", "exec openssl s_client -connect \"$1\" 2>&1", "sh"])
        .arg(server.address.to_string())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (mut input, mut output) = (s_client.stdin.take().unwrap(), s_client.stdout.take().unwrap());
    let mut said = String::new();
    // K asks for new keys in return, and k does not. What is typed becomes no echo then.
    for (typed, expected) in [
        ("one\n", "\none\n"),
        ("K\n", "KEYUPDATE\n"),
        ("two\n", "two\n"),
        ("k\n", "KEYUPDATE\n"),
        ("three\n", "three\n"),
        ("K\n", "KEYUPDATE\n"),
        ("four\n", "four\n"),
    ] {
        said.clear();
        input.write_all(typed.as_bytes()).await.unwrap();
        while !said.contains(expected) {
            let mut piece = [0; 4096];
            let length = output.read(&mut piece).await.unwrap();
            assert!(length > 0, "s_client ended behind {typed}: {said}");
            said += &String::from_utf8_lossy(&piece[..length]);
        }
    }
}

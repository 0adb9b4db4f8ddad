//! Certificates with faults on purpose, and what clients say about them.
#![cfg(unix)]

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::SystemTime;

use common::binary::{Running, command};
use common::tools;
use echo_server::certs::{self, Name};
use echo_server::{
    CertificateFault, Config, Credentials, Fault, FaultGroup, Identity, Protocol, Server, Source,
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, Error, HandshakeKind, RootCertStore, SupportedProtocolVersion,
};

const FAULTS: [CertificateFault; 5] = [
    CertificateFault::Expired,
    CertificateFault::NotYet,
    CertificateFault::WrongName,
    CertificateFault::Untrusted,
    CertificateFault::Incomplete,
];

/// The label of a server name that asks for a fault.
fn label(fault: CertificateFault) -> String {
    Fault::Certificate(fault).to_string().split_once('=').unwrap().1.to_owned()
}

/// A server of this process with a good certificate for localhost, and the CA that has signed it,
/// which signs those with faults, too.
async fn serve(change: impl FnOnce(Config) -> Config) -> (SocketAddr, CertificateDer<'static>) {
    let names: [Name; 2] = ["localhost".parse().unwrap(), "*.good.test".parse().unwrap()];
    let made = certs::issue(&names, SystemTime::now()).unwrap();
    let ca = CertificateDer::from_pem_slice(made.ca.certificate.as_bytes()).unwrap();
    let (certificate, key) = (Source::memory(&made.ca.certificate), Source::memory(&made.ca.key));
    let config = Config::new()
        .listen(Protocol::Tls, ([127, 0, 0, 1], 0))
        .identity(Identity::pem(made.server.certificate, made.server.key))
        .faults(|faults| faults.ca = Some(Credentials::new(certificate, key)));
    let server = Server::bind(change(config)).await.expect("the server binds");
    let address = server.local_addrs()[0].address.ip().unwrap();
    tokio::spawn(server.run(std::future::pending()));
    (address, ca)
}

fn client(
    ca: &CertificateDer<'static>,
    version: &'static SupportedProtocolVersion,
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// Connects and gets an echo, with which tickets have come, too. An error is in one word.
async fn connect(
    client: &TlsConnector,
    address: SocketAddr,
    name: &str,
) -> Result<HandshakeKind, &'static str> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut stream = client.connect(name, stream).await.map_err(|error| {
        let error = error.into_inner().expect("an error of rustls");
        match *error.downcast::<Error>().expect("an error of rustls") {
            Error::InvalidCertificate(error) => match error {
                CertificateError::ExpiredContext { .. } => "expired",
                CertificateError::NotValidYetContext { .. } => "not-yet",
                CertificateError::NotValidForNameContext { .. } => "wrong-name",
                CertificateError::UnknownIssuer => "issuer",
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    })?;
    stream.write_all(b"x").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    Ok(stream.get_ref().1.handshake_kind().unwrap())
}

/// What [`connect`] says of a fault.
fn word(fault: CertificateFault) -> String {
    match fault {
        CertificateFault::Untrusted | CertificateFault::Incomplete => "issuer".to_owned(),
        other => label(other),
    }
}

#[tokio::test]
async fn a_group_presents_the_fault_to_everybody() {
    for fault in FAULTS {
        let group = FaultGroup::on(Protocol::Tls).with(Fault::Certificate(fault));
        let (address, ca) = serve(|config| config.fault(group)).await;
        for client in [client(&ca, &TLS12), client(&ca, &TLS13)] {
            for name in ["localhost", "echo.example", "127.0.0.1"] {
                let said = connect(&client, address, name).await;
                assert_eq!(said, Err(&*word(fault)), "{name}");
            }
        }
    }
}

#[tokio::test]
async fn a_server_name_asks_for_a_fault_and_others_are_served_well_next_to_it() {
    let (address, ca) = serve(|config| config.faults(|faults| faults.by_request = true)).await;
    for client in [client(&ca, &TLS12), client(&ca, &TLS13)] {
        for fault in FAULTS {
            let name = format!("{}.localhost", label(fault));
            assert_eq!(connect(&client, address, "localhost").await.err(), None);
            assert_eq!(connect(&client, address, &name).await, Err(&*word(fault)));
        }
    }
}

#[tokio::test]
async fn a_ticket_of_a_good_handshake_lets_nobody_skip_the_fault() {
    // Half of the connections have the fault; which ones, follows from the seed.
    let half = "tls:certificate=expired,share=50%".parse().unwrap();
    let (address, ca) =
        serve(|config| config.fault(half).faults(|faults| faults.seed = Some(1))).await;
    for version in [&TLS12, &TLS13] {
        let mut outcomes = Vec::new();
        let client = client(&ca, version);
        for _ in 0..32 {
            outcomes.push(connect(&client, address, "localhost").await);
        }
        let count = |wanted| outcomes.iter().filter(|outcome| **outcome == wanted).count();
        let resumed = count(Ok(HandshakeKind::Resumed));
        assert!(resumed > 0 && count(Err("expired")) > 0, "{outcomes:?}");
        // Whoever comes behind a good handshake has a ticket.
        let first = outcomes.iter().position(Result::is_ok).unwrap();
        let behind = &outcomes[first + 1..];
        assert!(behind.contains(&Err("expired")), "{outcomes:?}");
    }
}

/// The files of `echo-server certs`.
fn made() -> TempDir {
    let here = tempfile::tempdir().unwrap();
    let mut command = command();
    command.arg("certs").arg(here.path()).args(["--name", "localhost"]);
    assert!(command.output().unwrap().status.success());
    here
}

/// A server in `here` whose clients can ask for faults.
fn start(here: &Path, args: &str) -> Running {
    let mut command = command();
    command.current_dir(here).args(["--fault-by-request"]).args(args.split(' '));
    Running::spawn(&mut command)
}

const GOOD: &str = "--cert server.pem --key server.key --fault-ca ca.pem,ca.key";

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

fn s_client(here: &Path, address: SocketAddr, name: &str, args: &[&str]) -> Output {
    let mut openssl = Command::new("openssl");
    openssl
        .current_dir(here)
        .args(["s_client", "-connect", &address.to_string(), "-CAfile", "ca.pem"])
        .args(["-servername", name, "-verify_hostname", name, "-verify_return_error"])
        .args(["-x509_strict", "-quiet", "-no_ign_eof"])
        .args(args);
    tools::run(&mut openssl, b"")
}

/// Every fault, and what openssl says of it.
const SAID: [(&str, &str); 5] = [
    ("expired", "verify error:num=10:certificate has expired"),
    ("not-yet", "verify error:num=9:certificate is not yet valid"),
    ("wrong-name", "verify error:num=62:hostname mismatch"),
    ("untrusted", "verify error:num=19:self-signed certificate in certificate chain"),
    ("incomplete", "verify error:num=20:unable to get local issuer certificate"),
];

#[test]
fn openssl_names_each_fault_and_the_log_says_that_it_is_on_purpose() {
    if !tools::have_openssl() {
        return;
    }
    let here = made();
    let server = start(here.path(), &format!("--tls 127.0.0.1:0 -v {GOOD}"));
    let address = server.address("tls");
    for version in ["-tls1_2", "-tls1_3"] {
        let output = s_client(here.path(), address, "localhost", &[version]);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        for (label, words) in SAID {
            let name = format!("{label}.localhost");
            let output = s_client(here.path(), address, &name, &[version]);
            assert_eq!(output.status.code(), Some(1), "{}", said(&output));
            assert!(said(&output).contains(words), "{}", said(&output));
        }
    }
    // Who does not care gets the echo, of which the log says why it may surprise.
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-connect", &address.to_string(), "-servername"]);
    assert!(tools::run(openssl.arg("expired.localhost"), b"").status.success());
    let (_, log) = server.terminate();
    for (label, _) in SAID {
        let closing = format!("(SNI {label}.localhost) (certificate={label} on purpose)");
        assert_eq!(log.matches(&closing).count(), 2, "{closing}: {log}");
    }
    let established = log.lines().filter(|line| line.contains("TLS established"));
    let on_purpose = established.filter(|line| line.contains("certificate=\"expired on purpose\""));
    assert_eq!(on_purpose.count(), 1, "{log}");
}

#[test]
fn curl_names_each_fault() {
    if !tools::have(&["curl", "--version"], "OpenSSL") {
        return;
    }
    let here = made();
    let server = start(here.path(), &format!("--wss 127.0.0.1:0 {GOOD}"));
    let port = server.address("wss").port();
    let curl = |name: &str| {
        let resolve = format!("{name}:{port}:127.0.0.1");
        let mut curl = Command::new("curl");
        curl.current_dir(here.path()).args(["--silent", "--show-error", "--cacert", "ca.pem"]);
        curl.args(["--resolve", &resolve, &format!("https://{name}:{port}/")]);
        tools::run(&mut curl, b"")
    };
    let output = curl("localhost");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    for (label, words) in [
        ("expired", "certificate has expired"),
        ("not-yet", "certificate is not yet valid"),
        ("wrong-name", "no alternative certificate subject name matches target host name"),
        ("untrusted", "self-signed certificate in certificate chain"),
        ("incomplete", "unable to get local issuer certificate"),
    ] {
        let output = curl(&format!("{label}.localhost"));
        assert_eq!(output.status.code(), Some(60), "{}", said(&output));
        assert!(said(&output).contains(words), "{}", said(&output));
    }
}

#[test]
fn every_kind_of_ca_signs() {
    if !tools::have_openssl() {
        return;
    }
    let here = tempfile::tempdir().unwrap();
    let sh = |line: &str| {
        let mut sh = Command::new("sh");
        let output = tools::run(sh.current_dir(here.path()).args(["-ec", line]), b"");
        assert!(output.status.success(), "{line}: {}", said(&output));
    };
    for (key, subject) in [
        // rcgen would lose one of two components of the same kind.
        ("openssl genpkey -algorithm ed25519", "/DC=com/DC=example/O=One/OU=A/OU=B/CN=CA"),
        ("openssl genrsa -traditional 2048", "/C=DE/O=\u{dc}ber alles/CN=RSA"),
        ("openssl ecparam -name secp384r1 -genkey -noout", "/O=Some+CN=Both"),
        ("openssl ecparam -name secp521r1 -genkey -noout", "/CN=P-521"),
    ] {
        sh(&format!(
            "{key} > ca.key
             openssl req -x509 -utf8 -key ca.key -subj '{subject}' -days 30 -out ca.pem \
             -addext keyUsage=critical,keyCertSign
             cat ca.pem ca.key > both.pem"
        ));
        let server = start(here.path(), "--tls 127.0.0.1:0 --fault-ca both.pem");
        let (label, words) = SAID[0];
        let name = format!("{label}.localhost");
        let output = s_client(here.path(), server.address("tls"), &name, &[]);
        assert!(said(&output).contains(words), "{subject}: {}", said(&output));
        // The expired certificate is good for who does not look at the clock.
        let output = s_client(here.path(), server.address("tls"), &name, &["-no_check_time"]);
        assert_eq!(output.status.code(), Some(0), "{subject}: {}", said(&output));
    }
}

#[test]
fn an_intermediate_ca_is_sent_along() {
    if !tools::have_openssl() {
        return;
    }
    let here = tempfile::tempdir().unwrap();
    let script = "
        openssl ecparam -name prime256v1 -genkey -noout -out root.key
        openssl req -x509 -key root.key -subj /CN=root -days 30 -out ca.pem \
            -addext keyUsage=critical,keyCertSign
        openssl ecparam -name prime256v1 -genkey -noout -out middle.key
        openssl req -new -key middle.key -subj /CN=middle -out middle.csr
        printf 'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n' > middle.ext
        printf 'subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n' >> middle.ext
        openssl x509 -req -in middle.csr -CA ca.pem -CAkey root.key -CAcreateserial -days 30 \
            -extfile middle.ext -out middle.pem
        cat ca.pem middle.pem > chain.pem";
    let mut sh = Command::new("sh");
    let output = tools::run(sh.current_dir(here.path()).args(["-ec", script]), b"");
    assert!(output.status.success(), "{}", said(&output));
    let server = start(here.path(), "--tls 127.0.0.1:0 --fault-ca chain.pem,middle.key");
    for (label, words) in SAID {
        let name = format!("{label}.localhost");
        let output = s_client(here.path(), server.address("tls"), &name, &[]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(words), "{}", said(&output));
    }
}

#[test]
fn a_file_that_is_no_ca_is_refused_in_one_line() {
    let here = made();
    std::fs::write(here.path().join("empty"), "").unwrap();
    for (ca, problem) in [
        ("none.pem", "none.pem: No such file or directory"),
        ("ca.pem,none.key", "none.key: No such file or directory"),
        ("empty,ca.key", "empty: it is empty"),
        (
            "ca.pem",
            "ca.pem: it holds a certificate, and no private key; the file of its key comes behind a \
             comma: --fault-ca CERT,KEY",
        ),
        (
            "ca.key,ca.pem",
            "ca.key: it holds a private key, and no certificate; it and ca.pem are swapped",
        ),
        (
            "ca.pem,server.key",
            "server.key: not the key of the certificate in ca.pem (CN=echo-server CA, ",
        ),
        (
            "server.pem,server.key",
            "server.pem: the certificate is not that of a CA: its basicConstraints lack CA:TRUE",
        ),
    ] {
        let mut command = command();
        command.current_dir(here.path()).args(["--tls", "127.0.0.1:0", "--fault-by-request"]);
        let output = command.args(["--fault-ca", ca]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), stderr.lines().count()), (Some(2), 1), "{stderr}");
        let expected = format!("echo-server: --fault-ca {problem}");
        assert!(stderr.starts_with(&expected), "{stderr}");
    }
}

//! `echo-server certs`: the files, their contents, and the printed commands that use them.
#![cfg(unix)]

mod common;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::binary::{Running, command, shell};
use common::{tls_connect_trusting, tools};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ALL_VERSIONS, RootCertStore};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

const FILES: [&str; 6] =
    ["ca.pem", "ca.key", "server.pem", "server.key", "client.pem", "client.key"];

const DAY: i64 = 24 * 60 * 60;

fn certs(directory: &Path, args: &[&str]) -> Output {
    command().arg("certs").arg(directory).args(args).output().unwrap()
}

/// Makes certificates, and returns what the command prints.
fn make(directory: &Path, args: &[&str]) -> String {
    let output = certs(directory, args);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{error}");
    assert_eq!(error, "");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn assert_fails(output: &Output, code: i32, parts: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert_eq!(output.stdout, b"");
    assert!(said.starts_with("echo-server: ") && said.lines().count() == 1, "{said}");
    for part in parts {
        assert!(said.contains(part), "'{part}' is not in: {said}");
    }
}

fn entries(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

fn certificate(path: &Path) -> CertificateDer<'static> {
    let all: Vec<_> = CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect();
    assert_eq!(all.len(), 1, "{}", path.display());
    all[0].clone()
}

fn roots(directory: &Path) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(&directory.join("ca.pem"))).unwrap();
    Arc::new(roots)
}

#[test]
fn keys_are_for_their_owner_alone_whatever_the_umask() {
    let there = tempfile::tempdir().unwrap();
    let directory = there.path().join("made/for it");
    let made = shell("umask 000; exec echo-server certs \"$@\"").arg(&directory).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    assert_eq!(entries(&directory), FILES.len());
    for name in FILES {
        let mode = fs::metadata(directory.join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, if name.ends_with(".key") { 0o600 } else { 0o644 }, "{name}");
    }
}

#[test]
fn existing_files_are_not_overwritten_and_no_others_are_left_beside_them() {
    for name in FILES {
        let there = tempfile::tempdir().unwrap();
        let file = there.path().join(name);
        fs::write(&file, "precious").unwrap();
        assert_fails(&certs(there.path(), &[]), 1, &[file.to_str().unwrap(), "exists already"]);
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
        assert_eq!(entries(there.path()), 1, "{name}");
    }
    let there = tempfile::tempdir().unwrap();
    let link = there.path().join("client.key");
    symlink(there.path().join("nowhere"), &link).unwrap();
    assert_fails(&certs(there.path(), &[]), 1, &[link.to_str().unwrap(), "exists already"]);
    assert_eq!(entries(there.path()), 1, "a link to nowhere is not followed");
}

#[test]
fn an_unwritable_directory_is_reported_in_one_line() {
    let there = tempfile::tempdir().unwrap();
    let file = there.path().join("file");
    fs::write(&file, "").unwrap();
    assert_fails(&certs(&file, &[]), 1, &[file.to_str().unwrap(), "Not a directory"]);
    assert_fails(&certs(&file.join("below"), &[]), 1, &["file/below: Not a directory"]);
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root may write to any directory");
        return;
    }
    fs::set_permissions(there.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let refused = [certs(there.path(), &[]), certs(&there.path().join("below"), &[])];
    fs::set_permissions(there.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert_fails(&refused[0], 1, &["ca.pem: Permission denied"]);
    assert_fails(&refused[1], 1, &["below: Permission denied"]);
}

#[test]
fn an_invalid_name_is_reported_in_one_line_with_exit_code_2() {
    let there = tempfile::tempdir().unwrap();
    let directory = there.path().join("pki");
    for (name, reason) in [
        ("a b", "neither a DNS name nor an IP address"),
        ("localhost:8443", "neither"),
        ("", "neither"),
        ("192.0.2.256", "neither"),
        ("bücher.example", "xn--"),
        ("*.example", "wildcard"),
    ] {
        assert_fails(&certs(&directory, &["--name", name]), 2, &["--name", reason]);
    }
    assert_fails(&command().arg("certs").output().unwrap(), 2, &["DIR"]);
    assert!(!directory.exists());
}

#[test]
fn the_certificates_say_what_they_are_for() {
    let there = tempfile::tempdir().unwrap();
    make(there.path(), &["--name", "Echo.test", "--name", "*.echo.test,192.0.2.1,::1,echo.test"]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let mut serials = Vec::new();
    for name in ["ca", "server", "client"] {
        let der = certificate(&there.path().join(name).with_extension("pem"));
        let (_, parsed) = X509Certificate::from_der(&der).unwrap();
        let mut facts: Vec<_> = parsed.extensions().iter().map(fact).collect();
        facts.sort();
        let expected = match name {
            "ca" => vec![
                "basic constraints, critical: true Some(0)",
                "key usage, critical: Key Cert Sign, CRL Sign",
                "subject key identifier",
            ],
            _ => vec![
                "alternative names: echo.test *.echo.test 192.0.2.1 ::1",
                "authority key identifier",
                "basic constraints, critical: false None",
                match name {
                    "server" => "extended key usage: server true, client false",
                    _ => "extended key usage: server false, client true",
                },
                "key usage, critical: Digital Signature",
                "subject key identifier",
            ],
        };
        assert_eq!(facts, expected, "{name}");
        let validity = parsed.validity();
        let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        assert!((now - DAY - 60..=now - DAY).contains(&from), "{name}: {validity:?}");
        // The validity period includes both its ends (RFC 5280 section 4.1.2.5).
        let days = if name == "ca" { 3650 } else { 397 };
        assert!((days * DAY - 1..=days * DAY).contains(&(until - from)), "{name}: {validity:?}");
        assert!((1..=20).contains(&parsed.raw_serial().len()), "RFC 5280 section 4.1.2.2");
        assert!(parsed.raw_serial().len() >= 8, "not random: {:?}", parsed.raw_serial());
        serials.push(parsed.raw_serial().to_vec());
    }
    serials.dedup();
    assert_eq!(serials.len(), 3);
}

fn fact(extension: &x509_parser::extensions::X509Extension<'_>) -> String {
    let critical = if extension.critical { ", critical" } else { "" };
    match extension.parsed_extension() {
        ParsedExtension::BasicConstraints(basic) => {
            format!("basic constraints{critical}: {} {:?}", basic.ca, basic.path_len_constraint)
        }
        ParsedExtension::KeyUsage(usage) => format!("key usage{critical}: {usage}"),
        ParsedExtension::ExtendedKeyUsage(usage) => format!(
            "extended key usage{critical}: server {}, client {}",
            usage.server_auth, usage.client_auth
        ),
        ParsedExtension::SubjectKeyIdentifier(_) => format!("subject key identifier{critical}"),
        ParsedExtension::AuthorityKeyIdentifier(_) => format!("authority key identifier{critical}"),
        ParsedExtension::SubjectAlternativeName(names) => {
            let names = names.general_names.iter().map(|name| match name {
                GeneralName::DNSName(name) => (*name).to_owned(),
                GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
                    Ok(v4) => std::net::Ipv4Addr::from(v4).to_string(),
                    Err(_) => {
                        std::net::Ipv6Addr::from(<[u8; 16]>::try_from(*bytes).unwrap()).to_string()
                    }
                },
                other => panic!("{other:?}"),
            });
            format!("alternative names{critical}: {}", names.collect::<Vec<_>>().join(" "))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_server_certificate_is_valid_for_the_given_names_and_no_others() {
    let there = tempfile::tempdir().unwrap();
    make(there.path(), &["--name", "echo.test,*.echo.test,192.0.2.1,2001:db8::1"]);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier =
        WebPkiServerVerifier::builder_with_provider(roots(there.path()), provider).build().unwrap();
    let verify = |file: &str, name: &str, now| {
        let certificate = certificate(&there.path().join(file));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier.verify_server_cert(&certificate, &[], &name, &[], now)
    };
    let now = UnixTime::now();
    for name in ["echo.test", "a.echo.test", "192.0.2.1", "2001:db8::1"] {
        verify("server.pem", name, now).expect(name);
        verify("client.pem", name, now).expect_err("a client");
    }
    for name in ["localhost", "a.b.echo.test", "192.0.2.2", "::1"] {
        verify("server.pem", name, now).expect_err(name);
    }
    let in_days =
        |days: u64| UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() + days * 86_400));
    verify("server.pem", "echo.test", in_days(395)).expect("it is still valid");
    verify("server.pem", "echo.test", in_days(396)).expect_err("it has expired");
}

#[test]
fn the_client_certificate_is_valid_for_clients() {
    let there = tempfile::tempdir().unwrap();
    make(there.path(), &[]);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots(there.path()), provider).build().unwrap();
    let verify = |file| {
        verifier.verify_client_cert(&certificate(&there.path().join(file)), &[], UnixTime::now())
    };
    verify("client.pem").expect("it is signed by the CA");
    verify("server.pem").expect_err("a server");
}

/// Starts a server with the first command for one in `printed`, but on another port.
fn serve(directory: &Path, printed: &str) -> Running {
    let line = line(printed, "echo-server --tls ").replace("--tls", "--tls 0");
    Running::spawn(shell(&format!("exec {line} \"$@\"")).current_dir(directory))
}

fn line<'a>(printed: &'a str, beginning: &str) -> &'a str {
    printed.lines().find(|line| line.starts_with(beginning)).expect(printed)
}

/// Runs the first command in `printed` with this beginning, but with another port.
fn follow(directory: &Path, printed: &str, beginning: &str, address: SocketAddr) -> Output {
    let line = line(printed, beginning).replace("127.0.0.1:8443", &address.to_string());
    tools::run(shell(&line).current_dir(directory), b"")
}

#[test]
fn the_printed_commands_work() {
    let there = tempfile::tempdir().unwrap();
    for (directory, args) in [
        ("pki", &[][..]),
        ("it's $HOME", &["--name", "echo.test"]),
        ("-- --", &["--name", "192.0.2.1"]),
        ("deep/er", &["--name", "*.echo.test"]),
    ] {
        let mut command = command();
        command.current_dir(there.path()).arg("certs").args(args).args(["--", directory]);
        let made = command.output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let printed = String::from_utf8(made.stdout).unwrap();
        let server = serve(there.path(), &printed);
        let address = server.address("tls");
        let probed = follow(there.path(), &printed, "echo-server probe ", address);
        assert!(probed.status.success(), "{printed}{probed:?}");
        let report = String::from_utf8(probed.stdout).unwrap();
        assert!(report.contains("verified") && report.contains("1 received"), "{report}");
        if tools::have_openssl() {
            let connected = follow(there.path(), &printed, "openssl s_client ", address);
            assert!(connected.status.success(), "{printed}{connected:?}");
            let report = String::from_utf8(connected.stdout).unwrap();
            assert!(report.contains("Verification: OK"), "{report}");
            assert!(report.contains("Verified peername: ") || args.contains(&"192.0.2.1"));
        }
        let (_, printed) = printed.split_once("Or with a client certificate:").unwrap();
        let strict = serve(there.path(), printed);
        let address = strict.address("tls");
        let probed = follow(there.path(), printed, "echo-server probe ", address);
        assert!(probed.status.success(), "{printed}{probed:?}");
        let stranger = printed.replace("/client.", "/server.");
        let refused = follow(there.path(), &stranger, "echo-server probe ", address);
        assert!(!refused.status.success(), "a server's certificate is no client's: {refused:?}");
    }
}

#[tokio::test]
async fn rustls_trusts_the_ca_and_gets_its_echo() {
    let there = tempfile::tempdir().unwrap();
    let server = serve(there.path(), &make(there.path(), &[]));
    let ca = certificate(&there.path().join("ca.pem"));
    let mut stream = tls_connect_trusting(server.address("tls"), [ca], ALL_VERSIONS).await;
    stream.write_all(b"hello").await.unwrap();
    stream.flush().await.unwrap();
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"hello");
}

#[test]
fn openssl_verifies_strictly() {
    if !tools::have_openssl() {
        return;
    }
    let there = tempfile::tempdir().unwrap();
    make(there.path(), &["--name", "echo.test,192.0.2.1"]);
    let verify = |arguments: &str| {
        let line = format!("openssl verify -x509_strict -CAfile ca.pem {arguments}");
        tools::run(shell(&line).current_dir(there.path()), b"").status.success()
    };
    assert!(verify("-purpose sslserver -verify_hostname echo.test server.pem"));
    assert!(verify("-purpose sslserver -verify_ip 192.0.2.1 server.pem"));
    assert!(verify("-purpose sslclient client.pem"));
    assert!(!verify("-purpose sslclient server.pem"));
    assert!(!verify("-purpose sslserver client.pem"));
    assert!(!verify("-purpose sslserver -verify_hostname localhost server.pem"));
}

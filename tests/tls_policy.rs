//! The TLS settings of the binary: certificates, versions, suites, groups, ALPN protocols, and
//! client certificates. The client is rustls, and the log has to say what happened.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::binary::Running;
use common::tools;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ALL_VERSIONS, ClientConfig, HandshakeKind, RootCertStore};

/// A CA, and a directory for the files that it makes.
struct Authority {
    ca: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

/// A certificate that a CA has issued.
struct Issued {
    cert: PathBuf,
    key: PathBuf,
    der: CertificateDer<'static>,
    private: Vec<u8>,
}

impl Authority {
    fn new() -> Self {
        Authority::named("test CA")
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
        Authority { ca, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Issues a certificate for `names`, in files named after the first of them.
    fn issue(&self, names: &[&str], purpose: ExtendedKeyUsagePurpose, serial: u64) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let (cert, key) =
            (self.path(&format!("{serial}.pem")), self.path(&format!("{serial}.key")));
        let mut params = CertificateParams::new(names.clone()).unwrap();
        params.distinguished_name.push(DnType::CommonName, names[0].clone());
        params.extended_key_usages = vec![purpose];
        params.serial_number = Some(SerialNumber::from(serial));
        let pair = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&pair, &self.ca).unwrap();
        std::fs::write(&cert, certificate.pem()).unwrap();
        std::fs::write(&key, pair.serialize_pem()).unwrap();
        Issued { cert, key, der: certificate.der().clone(), private: pair.serialize_der() }
    }

    /// A list that revokes the certificate `serial`, and is due for an update in `year`.
    fn list(&self, serial: u64, year: i32) -> String {
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(year, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: rcgen::date_time_ymd(2020, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.ca).unwrap().pem().unwrap()
    }

    fn server(&self, names: &[&str], serial: u64) -> Issued {
        self.issue(names, ExtendedKeyUsagePurpose::ServerAuth, serial)
    }

    /// The settings of a client that trusts this CA and has the certificate `client`, if any.
    fn client(&self, client: Option<&Issued>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(ALL_VERSIONS)
            .unwrap()
            .with_root_certificates(roots);
        match client {
            None => config.with_no_client_auth(),
            Some(issued) => config
                .with_client_auth_cert(
                    vec![issued.der.clone()],
                    PrivateKeyDer::Pkcs8(issued.private.clone().into()),
                )
                .unwrap(),
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Starts the server with the certificates `issued` and further arguments.
fn start(issued: &[&Issued], more: &[&str]) -> Running {
    let mut args = vec!["--tls", "0"];
    for issued in issued {
        args.extend(["--cert", text(&issued.cert), "--key", text(&issued.key)]);
    }
    args.extend(more);
    Running::start(&args)
}

async fn connect(
    server: &Running,
    config: &Arc<ClientConfig>,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(server.address("tls")).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut stream = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await?;
    // In TLS 1.3 the alert for a refused certificate, and tickets, come after the handshake.
    stream.write_all(b"hello").await?;
    // Without it, the record may stay in the client, if the task's budget is used up just here.
    stream.flush().await?;
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await?;
    assert_eq!(&echo, b"hello");
    Ok(stream)
}

async fn log_of(server: Running) -> String {
    let (_, log) = tokio::task::spawn_blocking(|| server.terminate()).await.unwrap();
    log
}

#[tokio::test]
async fn the_server_name_chooses_the_certificate() {
    let ca = Authority::new();
    let one = ca.server(&["one.example", "unknown.example"], 1);
    let wild = ca.server(&["*.example.com"], 2);
    let exact = ca.server(&["www.example.com"], 3);
    let server = start(&[&one, &wild, &exact], &[]);
    let client = Arc::new(ca.client(None));
    for (name, expected) in [
        ("one.example", &one),
        ("unknown.example", &one),
        ("www.example.com", &exact),
        ("other.example.com", &wild),
    ] {
        let stream = connect(&server, &client, name).await.unwrap();
        assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], expected.der, "{name}");
    }
    let log = log_of(server).await;
    assert!(log.contains("sni=other.example.com"), "{log}");
}

#[tokio::test]
async fn clients_authenticate_with_certificates() {
    let ca = Authority::new();
    let other = Authority::named("another CA");
    let purpose = || ExtendedKeyUsagePurpose::ClientAuth;
    let server_cert = ca.server(&["localhost"], 1);
    let known = ca.issue(&["known client"], purpose(), 2);
    let revoked = ca.issue(&["revoked client"], purpose(), 3);
    let stranger = other.issue(&["stranger"], purpose(), 4);
    std::fs::write(ca.path("crl.pem"), ca.list(3, 2100)).unwrap();
    let (client_ca, crl) = (ca.path("ca.pem"), ca.path("crl.pem"));
    let trust = ["--client-ca", text(&client_ca), "--crl", text(&crl)];
    for is_required in [true, false] {
        let how = ["--client-auth", if is_required { "required" } else { "optional" }];
        let server = start(&[&server_cert], &[&trust[..], &how].concat());
        for (who, client, is_let_in) in [
            ("nobody", None, !is_required),
            ("known", Some(&known), true),
            ("revoked", Some(&revoked), false),
            // Its certificate is not valid for client authentication.
            ("a server", Some(&server_cert), false),
        ] {
            let client = Arc::new(ca.client(client));
            assert_eq!(connect(&server, &client, "localhost").await.is_ok(), is_let_in, "{who}");
        }
        let mut client = ca.client(Some(&stranger));
        client.resumption = tokio_rustls::rustls::client::Resumption::disabled();
        assert!(connect(&server, &Arc::new(client), "localhost").await.is_err(), "a stranger");
        let log = log_of(server).await;
        for said in [
            "client=\"CN=known client, serial 02\" received=5",
            "alert sent: certificate_revoked: the client certificate is revoked",
            "alert sent: unknown_ca: the client certificate is of a CA that is not among the client CAs",
            "the client certificate is not one for clients",
        ] {
            assert!(log.contains(said), "{said}: {log}");
        }
        let refused = "alert sent: certificate_required: a client certificate is required";
        assert_eq!(log.contains(refused), is_required, "{log}");
    }
}

#[tokio::test]
async fn a_list_behind_another_counts_or_the_server_does_not_start() {
    let (ca, other) = (Authority::new(), Authority::named("another CA"));
    let server_cert = ca.server(&["localhost"], 1);
    let revoked = other.issue(&["revoked client"], ExtendedKeyUsagePurpose::ClientAuth, 3);
    let (first, second) = (ca.list(2, 2100), other.list(3, 2100));
    let both = std::fs::read_to_string(ca.path("ca.pem")).unwrap();
    let both = both.trim_end().to_owned() + &std::fs::read_to_string(other.path("ca.pem")).unwrap();
    let (client_ca, crl) = (ca.path("both.pem"), ca.path("crl.pem"));
    // The CAs are glued, too: a CA that is missed would refuse the client for another reason.
    std::fs::write(&client_ca, both).unwrap();
    let trust = ["--client-ca", text(&client_ca), "--crl", text(&crl)];
    for lists in [format!("{}{second}", first.trim_end()), format!("{first}{second}")] {
        std::fs::write(&crl, lists).unwrap();
        let server = start(&[&server_cert], &trust);
        let client = Arc::new(ca.client(Some(&revoked)));
        assert!(connect(&server, &client, "localhost").await.is_err());
        let log = log_of(server).await;
        let said = "alert sent: certificate_revoked: the client certificate is revoked";
        assert!(log.contains(said), "{log}");
    }
    let cut = &second[..second.find("-----END").unwrap()];
    for (lists, said) in [
        (format!("{first}  {second}"), "its -----BEGIN is not at the beginning of a line"),
        (format!("{cut}{first}"), "its -----END line is missing, as in a truncated file"),
    ] {
        std::fs::write(&crl, lists).unwrap();
        let (cert, key) = (text(&server_cert.cert), text(&server_cert.key));
        let args = [&["--tls", "0", "--cert", cert, "--key", key][..], &trust].concat();
        let output = common::binary::command().args(args).output().unwrap();
        let line = format!("echo-server: --crl {}: not valid PEM: {said}\n", text(&crl));
        assert_eq!(String::from_utf8(output.stderr).unwrap(), line);
    }
}

#[tokio::test]
async fn a_list_that_is_outdated_counts_and_is_told() {
    let ca = Authority::new();
    let server_cert = ca.server(&["localhost"], 1);
    let revoked = ca.issue(&["revoked client"], ExtendedKeyUsagePurpose::ClientAuth, 3);
    let (client_ca, crl) = (ca.path("ca.pem"), ca.path("crl.pem"));
    std::fs::write(&crl, ca.list(3, 2021)).unwrap();
    let trust = ["--client-ca", text(&client_ca), "--crl", text(&crl)];
    let server = start(&[&server_cert], &trust);
    let client = Arc::new(ca.client(Some(&revoked)));
    assert!(connect(&server, &client, "localhost").await.is_err());
    let said = format!("The revocation list {} is outdated", text(&crl));
    server.wait_for_line(&said);
    server.signal(rustix::process::Signal::HUP);
    server.wait_for_line(&said);
    server.wait_for_line("Certificates reloaded");
    std::fs::write(&crl, ca.list(3, 2100)).unwrap();
    server.signal(rustix::process::Signal::HUP);
    server.wait_for_line("Certificates reloaded");
    let log = log_of(server).await;
    let lines: Vec<_> = log.lines().filter(|line| line.contains(&said)).collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(lines[0].contains("next_update=2021-01-01T00:00:00Z"), "{log}");
    assert!(log.contains("the client certificate is revoked"), "{log}");
}

#[tokio::test]
async fn versions_suites_and_groups_follow_the_policy() {
    let ca = Authority::new();
    let issued = ca.server(&["localhost"], 1);
    for (policy, expected) in [
        (&["--tls-max", "1.2"][..], "version=TLSv1.2"),
        (&["--tls-min", "1.3"], "version=TLSv1.3"),
        (&["--tls-ciphers", "TLS_CHACHA20_POLY1305_SHA256"], "TLS_CHACHA20_POLY1305_SHA256"),
        (&["--tls-groups", "secp384r1"], "group=secp384r1"),
        (&["--tls-groups", "X25519MLKEM768"], "group=X25519MLKEM768 handshake=\"full, after"),
    ] {
        let server = start(&[&issued], policy);
        // Each server gets a new client: its cached sessions are wrong for another one.
        let client = Arc::new(ca.client(None));
        connect(&server, &client, "localhost").await.unwrap();
        let log = log_of(server).await;
        assert!(log.contains(expected), "{policy:?}: {log}");
    }
    // By default the server picks the hybrid group, if the client's first hello has a share for it.
    let mut hybrid = aws_lc_rs::default_provider();
    hybrid.kx_groups.retain(|group| group.name().as_str() == Some("X25519MLKEM768"));
    let mut roots = RootCertStore::empty();
    roots.add(ca.ca.der().clone()).unwrap();
    let hybrid = ClientConfig::builder_with_provider(Arc::new(hybrid))
        .with_protocol_versions(ALL_VERSIONS)
        .unwrap_or_else(|_| panic!("TLS 1.3 has the group"));
    let hybrid = hybrid.with_root_certificates(roots).with_no_client_auth();
    let server = start(&[&issued], &[]);
    connect(&server, &Arc::new(hybrid), "localhost").await.unwrap();
    let log = log_of(server).await;
    assert!(log.contains("group=X25519MLKEM768 handshake=full"), "{log}");
}

#[tokio::test]
async fn alpn_is_the_clients_choice_unless_it_is_configured() {
    let ca = Authority::new();
    let issued = ca.server(&["localhost"], 1);
    let client = |protocols: &[&str]| {
        let mut client = ca.client(None);
        client.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(client)
    };
    let alpn = |stream: &TlsStream<TcpStream>| {
        stream.get_ref().1.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned())
    };
    let any = start(&[&issued], &[]);
    for (offered, expected) in
        [(&["foo", "bar"][..], Some("foo")), (&["h2"], Some("h2")), (&[], None)]
    {
        let stream = connect(&any, &client(offered), "localhost").await.unwrap();
        assert_eq!(alpn(&stream).as_deref(), expected);
    }
    let told = start(&[&issued], &["--alpn", "bar,baz"]);
    let stream = connect(&told, &client(&["foo", "bar"]), "localhost").await.unwrap();
    assert_eq!(alpn(&stream).as_deref(), Some("bar"));
    assert!(connect(&told, &client(&["foo"]), "localhost").await.is_err());
    let log = log_of(told).await;
    assert!(log.contains("alert sent: no_application_protocol: no ALPN protocol"), "{log}");
    assert!(log.contains("alpn=bar alpn_offered=foo,bar"), "{log}");
}

#[tokio::test]
async fn sessions_are_resumed() {
    let ca = Authority::new();
    let issued = ca.server(&["localhost"], 1);
    for version in ["1.2", "1.3"] {
        let server = start(&[&issued], &["--tls-min", version, "--tls-max", version]);
        let client = Arc::new(ca.client(None));
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let stream = connect(&server, &client, "localhost").await.unwrap();
            kinds.push(stream.get_ref().1.handshake_kind().unwrap());
        }
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed], "TLS {version}");
        let log = log_of(server).await;
        assert!(log.contains("handshake=resumed"), "{log}");
    }
}

/// Overwrites the server's certificate and key in place, without an atomic rename.
fn replace(issued: &Issued, by: &Issued) {
    std::fs::copy(&by.cert, &issued.cert).unwrap();
    std::fs::copy(&by.key, &issued.key).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_reloaded_while_a_thousand_connections_go_on() {
    let ca = Authority::new();
    let issued = ca.server(&["localhost"], 1);
    let server = start(&[&issued], &[]);
    let mut client = ca.client(None);
    client.resumption = tokio_rustls::rustls::client::Resumption::disabled();
    let client = Arc::new(client);
    let mut streams = Vec::new();
    for _ in 0..1000 {
        streams.push(connect(&server, &client, "localhost").await.unwrap());
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap();
    for serial in 2..=11 {
        let next = ca.server(&["localhost"], serial);
        replace(&issued, &next);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
        for stream in &mut streams {
            stream.write_all(b"still there?").await.unwrap();
            stream.flush().await.unwrap();
        }
        for stream in &mut streams {
            let mut echo = [0; 12];
            stream.read_exact(&mut echo).await.unwrap();
            assert_eq!(&echo, b"still there?");
        }
        // The reload takes a moment, so new connections are made until one gets the new
        // certificate.
        loop {
            let stream = connect(&server, &client, "localhost").await.unwrap();
            if stream.get_ref().1.peer_certificates().unwrap()[0] == next.der {
                break;
            }
        }
    }
    drop(streams);
    let log = log_of(server).await;
    assert!(!log.contains("not reloaded"), "{log}");
}

#[tokio::test]
async fn changed_files_are_reloaded_and_invalid_ones_are_not_used() {
    let ca = Authority::new();
    let issued = ca.server(&["localhost"], 1);
    let (first, second) = (issued.der.clone(), ca.server(&["localhost"], 2));
    let server = start(&[&issued], &[]);
    let client = Arc::new(ca.client(None));
    let shown = async || {
        let stream = connect(&server, &client, "localhost").await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    // A new certificate, whose key has not been written yet.
    std::fs::copy(&second.cert, &issued.cert).unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    assert_eq!(shown().await, first);
    // The key is written, and no signal is sent.
    std::fs::copy(&second.key, &issued.key).unwrap();
    while shown().await != second.der {
        tokio::task::yield_now().await;
    }
    let log = log_of(server).await;
    assert!(log.contains("not the key of the certificate in"), "{log}");
    assert!(log.contains("Certificates not reloaded; the old ones stay in use"), "{log}");
    assert!(log.contains("Certificates reloaded"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_sees_the_staple_and_resumes() {
    if !tools::have_openssl() {
        return;
    }
    let ca = Authority::new();
    let issued = ca.server(&["localhost"], 1);
    let staple = ca.path("staple.der");
    // An OCSP response with the status tryLater and no content.
    std::fs::write(&staple, [0x30, 0x03, 0x0A, 0x01, 0x03]).unwrap();
    let server = start(&[&issued], &["--ocsp", text(&staple)]);
    let address = server.address("tls").to_string();
    let (ca_file, session) = (ca.path("ca.pem"), ca.path("session"));
    let run = async |more: &[&str]| {
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(["s_client", "-connect", &address, "-CAfile", text(&ca_file)]).args(more);
        openssl.args(["-verify_return_error", "-servername", "localhost"]);
        let output = tools::run_async(openssl, b"hello\nQ\n".to_vec()).await;
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let stapled = run(&["-status"]).await;
    assert!(stapled.contains("OCSP Response Status: trylater"), "{stapled}");
    let first = run(&["-tls1_2", "-sess_out", text(&session)]).await;
    assert!(first.contains("New, TLSv1.2"), "{first}");
    let second = run(&["-tls1_2", "-sess_in", text(&session)]).await;
    assert!(second.contains("Reused, TLSv1.2"), "{second}");
}

#[test]
fn wrong_settings_are_reported_in_one_line() {
    for (args, said) in [
        (&["--tls-min", "1.3", "--tls-max", "1.2"][..], "--tls-min is higher than --tls-max"),
        (&["--tls-ciphers", "TLS_NULL"], "--tls-ciphers: TLS_NULL is not one of TLS_AES_256_GCM"),
        (&["--tls-groups", "x448"], "--tls-groups: x448 is not one of "),
        (&["--client-auth", "required"], "--client-ca"),
        (&["--client-ca", "/no/such/file"], "--client-ca /no/such/file: No such file"),
        (&["--cert", "/a", "--key", "/b", "--key", "/c"], "--key: 2 given, and 1 --cert"),
    ] {
        let output = common::binary::command().args(["--tls", "0"]).args(args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        let line = stderr.lines().next_back().unwrap();
        assert!(line.contains(said), "{args:?}: {stderr}");
    }
}

/// Starts the server with a key log at `path`, and makes one connection.
async fn with_key_log(ca: &Authority, issued: &Issued, path: &Path) -> String {
    let mut command = common::binary::shell("umask 022; exec echo-server \"$@\"");
    command.args(["--tls", "0", "--key-log", "--cert", text(&issued.cert)]);
    command.args(["--key", text(&issued.key)]).env("SSLKEYLOGFILE", path);
    let server = Running::spawn(&mut command);
    drop(connect(&server, &Arc::new(ca.client(None)), "localhost").await.unwrap());
    log_of(server).await
}

#[tokio::test]
async fn the_key_log_is_for_its_owner_alone() {
    let ca = Authority::new();
    let issued = ca.server(&["localhost"], 1);
    let path = ca.path("keys.log");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let others_may_read = "its permissions let other users read it";
    let log = with_key_log(&ca, &issued, &path).await;
    assert_eq!(mode(&path), 0o600);
    assert!(!log.contains(others_may_read), "{log}");
    let secrets = |path: &Path| {
        let content = std::fs::read_to_string(path).unwrap();
        let lines = content.lines().filter(|line| {
            let [label, random, secret] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("not a line of a key log: {line}")
            };
            let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(random.len() == 64 && is_hex(random) && is_hex(secret), "{line}");
            label == "CLIENT_TRAFFIC_SECRET_0"
        });
        lines.count()
    };
    assert_eq!(secrets(&path), 1);
    // An existing file keeps its content and its mode.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let log = with_key_log(&ca, &issued, &path).await;
    assert_eq!((mode(&path), secrets(&path)), (0o644, 2));
    assert!(log.contains(others_may_read), "{log}");
}

#[tokio::test]
async fn a_key_log_that_cannot_be_written_is_told_once() {
    if !Path::new("/dev/full").exists() {
        eprintln!("skipped: there is no /dev/full");
        return;
    }
    let ca = Authority::new();
    let issued = ca.server(&["localhost"], 1);
    let log = with_key_log(&ca, &issued, Path::new("/dev/full")).await;
    let said = log.lines().filter(|line| line.contains("lacks secrets: it could not be written"));
    assert_eq!(said.count(), 1, "a handshake has several secrets: {log}");
    assert!(log.contains("No space left on device"), "{log}");
}

/// Whether `text` has any 20 characters in a row of the base64 of `pem`.
fn shows_a_piece_of(text: &str, pem: &str) -> bool {
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    assert!(base64.len() > 100);
    (0..=base64.len() - 20).any(|at| text.contains(&base64[at..at + 20]))
}

/// `pem` with damage of several kinds. Each keeps 20 characters in a row of the base64.
fn damaged(pem: &str) -> Vec<String> {
    vec![
        pem.replace('\n', ""),
        pem.replace('\n', " "),
        pem.replace('\n', "\\n"),
        pem.replace("KEY-----\n", "KEY\n"),
        pem.replace("KEY-----\n", "KEY-----"),
        pem.replace("-----BEGIN", " -----BEGIN"),
        pem.replace("-----END", "*-----END"),
        pem[..pem.len() - 30].to_owned(),
        format!("\"{pem}\""),
        pem.lines().skip(1).collect::<Vec<_>>().join("\n"),
        pem.lines().filter(|line| !line.starts_with("-----")).collect(),
    ]
}

#[tokio::test]
async fn no_message_holds_a_piece_of_a_private_key() {
    let ca = Authority::new();
    let issued = ca.server(&["localhost"], 1);
    let pem = std::fs::read_to_string(&issued.key).unwrap();
    let (broken, cert, key) = (ca.path("broken"), text(&issued.cert), text(&issued.key));
    let ca_file = ca.path("ca.pem");
    let (bad, ca_file) = (text(&broken), text(&ca_file));
    let probe = ["probe", "tls://127.0.0.1:1"];
    for content in damaged(&pem) {
        std::fs::write(&broken, &content).unwrap();
        for args in [
            &["--tls", "0", "-vv", "--cert", cert, "--key", bad][..],
            &["--tls", "0", "-vv", "--cert", bad, "--key", key],
            &["--tls", "0", "-vv", "--client-ca", bad],
            &["--tls", "0", "-vv", "--client-ca", ca_file, "--crl", bad],
            &["--tls", "0", "-vv", "--cert", cert, "--key", key, "--ocsp", bad],
            &[&probe[..], &["--cert", cert, "--key", bad]].concat(),
            &[&probe[..], &["--cert", bad, "--key", key]].concat(),
            &[&probe[..], &["--ca", bad]].concat(),
            // The text itself, where a path is expected.
            &["--tls", "0", "-vv", "--cert", cert, "--key", &content],
            &["--tls", "0", "-vv", "--cert", cert, &format!("--key={content}")],
        ] {
            let output = common::binary::command().args(args).output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8(said).unwrap();
            assert!(!output.status.success() && !said.is_empty(), "{args:?}");
            assert!(!shows_a_piece_of(&said, &pem), "{args:?}: {said}");
        }
    }
    std::fs::write(&broken, pem.replace('\n', "")).unwrap();
    let args = ["--tls", "0", "--cert", cert, "--key", bad];
    let output = common::binary::command().args(args).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let kind = "its line breaks are lost: -----BEGIN … and the base64 are on one line";
    assert_eq!(said, format!("echo-server: --key {bad}: not valid PEM: {kind}\n"));
    // A reload logs what is wrong with the new file.
    let server = start(&[&issued], &["-vv"]);
    std::fs::write(&issued.key, pem.replace('\n', "")).unwrap();
    server.signal(rustix::process::Signal::HUP);
    server.wait_for_line("not reloaded");
    let log = log_of(server).await;
    assert!(!shows_a_piece_of(&log, &pem), "{log}");
    assert!(log.contains("its line breaks are lost"), "{log}");
}

#[tokio::test]
async fn a_handshake_that_failed_before_a_shutdown_is_logged_with_its_own_cause() {
    let ca = Authority::new();
    let issued = ca.server(&["localhost"], 1);
    let mut client = ca.client(None);
    client.alpn_protocols = vec![b"foo".to_vec()];
    let client = Arc::new(client);
    for _ in 0..10 {
        let server = start(&[&issued], &["--alpn", "bar"]);
        // The stream outlives the signal, so that the server still waits for the client to close.
        let tcp = TcpStream::connect(server.address("tls")).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connecting = TlsConnector::from(Arc::clone(&client)).connect(name, tcp);
        let (_, tcp) = connecting.into_fallible().await.map(drop).unwrap_err();
        server.signal(rustix::process::Signal::TERM);
        let waiting = tokio::task::spawn_blocking(|| server.wait());
        drop(tcp);
        let (_, log) = waiting.await.unwrap();
        assert!(log.contains("alert sent: no_application_protocol"), "{log}");
        assert!(!log.contains("the server is shutting down"), "{log}");
    }
}

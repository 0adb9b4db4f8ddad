//! Which servers a probe trusts: by a CA, by a fingerprint, or not at all; and by which name.

mod common;

use std::process::{Command, Output, Stdio};

use common::binary::{Running, command, shell};
use common::{TestServer, cert, tools};
use echo_server::probe::{Event, PingOptions, Probe, ProbeError, Sni, TlsFacts, TlsOptions};
use echo_server::{Config, Fingerprint, Protocol, Server};

/// Runs `echo-server probe`.
fn run(args: &[&str]) -> Output {
    command().arg("probe").args(args).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Pings once, and says what TLS has negotiated.
async fn facts(url: &str, tls: TlsOptions) -> Result<TlsFacts, ProbeError> {
    let probe = Probe::new(url.parse().unwrap()).connect(|connect| connect.tls = tls);
    let mut facts = None;
    let ping = probe.ping(PingOptions::new().count(1)).on_event(|event| {
        if let Event::Connected(connected) = event {
            facts = connected.tls_facts;
        }
    });
    let summary = ping.run().await?;
    assert!(summary.is_clean(), "{summary}");
    Ok(facts.unwrap())
}

#[test]
fn the_command_that_the_log_shows_trusts_the_certificate() {
    for flag in ["--tls", "--wss"] {
        let server = Running::start(&["--tcp", "0", flag, "127.0.0.1:0"]);
        let protocol = flag.trim_start_matches('-');
        let address = server.address(protocol);
        let (_, log) = server.terminate();
        let (_, line) = log.split_once("To trust it: ").expect(&log);
        let line = line.lines().next().unwrap();
        let expected = format!("echo-server probe {protocol}://{address} --pin ");
        assert!(line.starts_with(&expected), "{line}");
        assert!(log.contains(&format!("sha256={}\n", line.rsplit(' ').next().unwrap())), "{log}");
    }
    // The certificate is another one each time, so the command is tried while its server runs.
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut server = command()
        .args(["--wss", "127.0.0.1:0", "--ready-file", "/dev/stdout"])
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut ready = std::io::BufReader::new(server.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut ready, &mut String::new()).unwrap();
    let line = loop {
        let log = std::fs::read_to_string(&log).unwrap();
        // A separate thread writes the log.
        match log.lines().find_map(|line| line.split_once("To trust it: ")) {
            Some((_, line)) if log.ends_with('\n') => break line.to_owned(),
            _ => std::thread::yield_now(),
        }
    };
    let output = shell(&format!("{line} --count 1")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(output.status.success(), "{line}: {text}");
    assert!(text.contains(", trusted by its fingerprint\n"), "{text}");
    assert!(text.contains("1 sent, 1 received"), "{text}");
}

#[test]
fn a_server_with_a_certificate_of_its_own_shows_no_such_command() {
    let (chain, key) = (cert("server.pem"), cert("server.key"));
    let files = ["--cert", chain.to_str().unwrap(), "--key", key.to_str().unwrap()];
    let server = Running::start(&[&["--tls", "0"], &files[..]].concat());
    let (_, log) = server.terminate();
    assert!(!log.contains("To trust it"), "{log}");
    let (_, log) = Running::start(&["--tcp", "0"]).terminate();
    assert!(!log.contains("To trust it"), "there is no TLS: {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_trusts_its_certificate_and_no_other() {
    let config = Config::new().listen(Protocol::Tls, ([127, 0, 0, 1], 0));
    let server = Server::bind(config).await.unwrap();
    let fingerprint = Fingerprint::of(&server.certificate_chain()[0]);
    let server = TestServer::run(server);
    let url = format!("tls://{}", server.address);
    let other = Fingerprint::of(b"another certificate");
    let trusted = facts(&url, TlsOptions::new().pin(other).pin(fingerprint)).await.unwrap();
    assert_eq!((trusted.fingerprint, trusted.is_pinned), (Some(fingerprint), true));
    assert_eq!(trusted.unverified, None);
    // It says nothing about the name.
    let renamed = TlsOptions::new().pin(fingerprint).server_name("elsewhere.test");
    assert_eq!(facts(&url, renamed).await.unwrap().unverified, None);
    let error = facts(&url, TlsOptions::new().pin(other)).await.unwrap_err();
    assert!(matches!(error, ProbeError::Tls { .. }), "{error:?}");
    assert!(
        error.to_string().ends_with(&format!(
            ": the server's certificate is not the pinned one; its fingerprint is {fingerprint}"
        )),
        "{error}"
    );
    // A CA does not help, and neither does it hurt.
    let known = TestServer::start(Protocol::Tls).await;
    let known_url = format!("tls://localhost:{}", known.address.port());
    let both = TlsOptions::new().ca(cert("ca.pem")).pin(other);
    assert!(matches!(facts(&known_url, both).await, Err(ProbeError::Tls { .. })));
    let insecure = facts(&url, TlsOptions::new().pin(other).insecure()).await.unwrap();
    assert!(insecure.unverified.unwrap().contains("is not the pinned one"));
    assert!(!insecure.is_pinned);
}

#[test]
fn a_pin_that_is_none_is_refused() {
    let pin = "ab:".repeat(32);
    for (args, problem) in [
        (&["--pin", "ab:cd"][..], "--pin ab:cd: a SHA-256 fingerprint has 64 hexadecimal digits"),
        (&["--pin", "xyz"], "--pin xyz: 'x' is not a hexadecimal digit"),
        (&["--pin", pin.trim_end_matches(':'), "--insecure"], "--insecure"),
        (&["--pin", pin.trim_end_matches(':'), "--ca", "ca.pem"], "--ca"),
        (&["--sni", "127.0.0.1"], "--sni: '127.0.0.1' is an IP address, and only DNS names"),
        (&["--sni", "a b"], "--sni: 'a b' is neither a DNS name nor an IP address"),
    ] {
        let output = run(&[&["tls://127.0.0.1:1"], args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        assert!(said(&output).contains(problem), "{args:?}: {}", said(&output));
        assert_eq!(said(&output).lines().count(), 1);
    }
}

#[tokio::test]
async fn the_name_to_ask_for_is_not_the_one_to_verify() {
    let (chain, key) = (cert("server.pem"), cert("server.key"));
    let files = ["--cert", chain.to_str().unwrap(), "--key", key.to_str().unwrap()];
    let server = Running::start(&[&["-v", "--tls", "0"], &files[..]].concat());
    // The certificate is for localhost, and the server logs the name that it was asked for.
    let url = format!("tls://localhost:{}", server.address("tls").port());
    let by_address = format!("tls://127.0.0.1:{}", server.address("tls").port());
    let ca = || TlsOptions::new().ca(cert("ca.pem"));
    for (url, tls, logged) in [
        (&url, ca(), "sni=localhost "),
        (&url, ca().sni(Sni::Name("elsewhere.test".to_owned())), "sni=elsewhere.test "),
        (&url, ca().sni(Sni::Omitted), "sni=none "),
        (&by_address, ca().server_name("localhost"), "sni=localhost "),
    ] {
        assert_eq!(facts(url, tls.clone()).await.unwrap().unverified, None, "{tls:?}");
        server.wait_for_line(logged);
    }
    let error =
        facts(&url, ca().server_name("elsewhere.test").sni(Sni::Name("localhost".to_owned())));
    let error = error.await.unwrap_err().to_string();
    assert!(error.contains("is not for elsewhere.test"), "{error}");
}

#[tokio::test]
async fn a_directory_of_certificates_is_trusted() {
    let server = TestServer::start(Protocol::Tls).await;
    let url = format!("tls://localhost:{}", server.address.port());
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let of_directory = || facts(&url, TlsOptions::new().ca(directory.path().to_owned()));
    let error = of_directory().await.unwrap_err();
    assert!(error.to_string().ends_with("no file in it has a certificate"), "{error}");
    std::fs::write(file("README"), "Certificates are here.").unwrap();
    std::fs::write(file("broken.pem"), "-----BEGIN CERTIFICATE-----\nAAAA").unwrap();
    std::fs::create_dir(file("more")).unwrap();
    std::fs::copy(cert("client.pem"), file("b.pem")).unwrap();
    assert!(matches!(of_directory().await, Err(ProbeError::Tls { .. })));
    std::fs::copy(cert("ca.pem"), file("a.crt")).unwrap();
    #[cfg(unix)]
    for (link, to) in [("12345678.0", "a.crt"), ("12345679.0", "nowhere")] {
        std::os::unix::fs::symlink(to, file(link)).unwrap();
    }
    assert_eq!(of_directory().await.unwrap().unverified, None);
}

/// `openssl s_server`, which sends back what it gets, reversed line by line. It ends with the test.
struct Openssl(std::process::Child, u16);

impl Openssl {
    /// With a certificate and key in `directory`, made by `openssl req` with `request`.
    fn start(directory: &std::path::Path, request: &str, options: &[&str]) -> Openssl {
        let made = Command::new("openssl")
            .args("req -x509 -nodes -days 3 -subj /CN=localhost -keyout key -out pem".split(' '))
            .args(request.split(' '))
            .current_dir(directory)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("openssl")
            .args(["s_server", "-quiet", "-rev", "-cert", "pem", "-key", "key", "-accept"])
            .arg(format!("127.0.0.1:{port}"))
            .args(options)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::yield_now();
        }
        Openssl(child, port)
    }
}

impl Drop for Openssl {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn insecure_is_insecure_and_a_pin_is_what_openssl_prints() {
    if !tools::have_openssl() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    // webpki takes no RSA key of less than 2048 bits.
    let weak = "-newkey rsa:1024 -addext subjectAltName=DNS:localhost";
    let lax = ["-cipher", "DEFAULT:@SECLEVEL=0"];
    for version in ["-tls1_2", "-tls1_3"] {
        let options = [&lax[..], &[version]].concat();
        let server = Openssl::start(directory.path(), weak, &options);
        let url = format!("tls://localhost:{}", server.1);
        let once = ["--count", "1", "--timeout", "300ms"];
        let output = run(&[&[url.as_str()], &once[..]].concat());
        assert_eq!(output.status.code(), Some(4), "{output:?}");
        let output = run(&[&[url.as_str(), "--insecure"], &once[..]].concat());
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("certificate of CN=localhost, valid until "), "{version}: {text}");
        assert!(text.contains(", NOT VERIFIED: "), "{version}: {text}");
        // It does not echo, but what TLS has negotiated is known.
        assert_ne!(output.status.code(), Some(4), "{text}");
    }
    let server = Openssl::start(directory.path(), "-newkey rsa:2048", &[]);
    let printed = Command::new("openssl")
        .args(["x509", "-in", "pem", "-noout", "-fingerprint", "-sha256"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    let url = format!("tls://127.0.0.1:{}", server.1);
    let args = [&*url, "--pin", printed.trim(), "--count", "1", "--timeout", "300ms"];
    let output = run(&args);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(", trusted by its fingerprint\n"), "{printed}: {output:?}");
}

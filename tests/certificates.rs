//! The forms of certificates and keys that openssl and other tools write: those that are taken, and
//! the words that answer the others; and in words, too, why TLS fails.
#![cfg(unix)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::binary::{Running, command};
use common::tools;
use tempfile::TempDir;

/// A directory in which `openssl` is run by a shell.
struct Workshop(TempDir);

impl Workshop {
    /// `None` if there is no openssl.
    fn new() -> Option<Self> {
        tools::have_openssl().then(|| Workshop(tempfile::tempdir().unwrap()))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Runs each line, which must succeed.
    fn run(&self, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut shell = Command::new("sh");
            let output = tools::run(shell.args(["-ec", line]).current_dir(self.path()), b"");
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// A self-signed certificate `NAME.pem` for localhost, with the key that `key` makes in NAME.key.
    fn certify(&self, name: &str, key: &str) {
        self.run(&format!(
            "openssl {key} -out {name}.key\n\
             openssl req -x509 -key {name}.key -out {name}.pem -days 30 -subj /CN=localhost \
             -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
        ));
    }

    /// A certificate of X.509 version 1.
    fn certify_v1(&self, name: &str, key: &str) {
        self.run(&format!(
            "openssl {key} -out {name}.key\n\
             openssl req -new -key {name}.key -subj /CN=localhost -out {name}.csr\n\
             openssl x509 -req -in {name}.csr -signkey {name}.key -days 30 -out {name}.pem\n\
             openssl x509 -in {name}.pem -noout -text | grep -q 'Version: 1 '"
        ));
    }

    /// Starts a server with these arguments.
    fn serve(&self, args: &str) -> Running {
        let mut command = command();
        Running::spawn(command.current_dir(self.path()).args(args.split(' ')))
    }

    /// Runs the command to its end; its exit code, and what it prints to stdout and stderr.
    fn end(&self, args: &str) -> (Option<i32>, String, String) {
        let mut command = command();
        let output = command.current_dir(self.path()).args(args.split(' ')).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// The one line in which a server refuses to start.
    #[track_caller]
    fn refusal(&self, args: &str) -> String {
        let (code, _, stderr) = self.end(&format!("--tls 127.0.0.1:0 {args}"));
        assert_eq!((code, stderr.lines().count()), (Some(2), 1), "{args}: {stderr}");
        stderr.trim_end().strip_prefix("echo-server: ").unwrap().to_owned()
    }
}

const P256: &str = "ecparam -name prime256v1 -genkey -noout";

#[test]
fn every_form_of_certificate_and_key_is_taken() {
    let Some(here) = Workshop::new() else { return };
    here.certify("own", P256);
    here.run(
        r"
        openssl x509 -in own.pem -outform DER -out own.der
        openssl x509 -in own.pem -trustout -addtrust serverAuth -out trusted.pem
        openssl x509 -in own.pem -text -out text.pem
        { printf '\357\273\277'; cat own.pem; } > mark.pem
        sed 's/$/\r/' own.pem > crlf.pem
        sed 's/ CERTIFICATE-/ X509 CERTIFICATE-/' own.pem > old.pem
        openssl pkey -in own.key -out pkcs8.key
        openssl pkey -in own.key -outform DER -out pkcs8.der
        openssl ec -in own.key -outform DER -out sec1.der
        openssl pkcs12 -export -in own.pem -inkey own.key -passout pass: -out own.p12
        openssl pkcs12 -in own.p12 -nodes -passin pass: -out bags.pem
        cat own.pem pkcs8.key > both.pem
        { openssl genpkey -algorithm ed25519; cat own.key; } > two.key
        { openssl ecparam -name prime256v1; cat own.key; } > parameters.key
        sed 's/ PRIVATE KEY-/ RSA PRIVATE KEY-/' pkcs8.key > mislabelled.key
        openssl ec -in own.key -conv_form compressed -out compressed.key
        openssl req -x509 -key compressed.key -out compressed.pem -subj /CN=localhost
        ",
    );
    let utf16 = fs::read_to_string(here.path().join("own.pem")).unwrap();
    let utf16 = format!("\u{FEFF}{utf16}");
    let utf16: Vec<u8> = utf16.encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(here.path().join("utf16.pem"), utf16).unwrap();
    let read = |args: &str| {
        let (status, log) = here.serve(&format!("--tls 127.0.0.1:0 {args}")).terminate();
        assert!(status.success(), "{args}: {log}");
        let line = log.lines().find(|line| line.contains("sha256=")).unwrap();
        line.split_once("sha256=").unwrap().1.to_owned()
    };
    let own = read("--cert own.pem --key own.key");
    for cert in [
        "own.der",
        "trusted.pem",
        "text.pem",
        "mark.pem",
        "crlf.pem",
        "old.pem",
        "bags.pem",
        "utf16.pem",
        "both.pem",
    ] {
        assert_eq!(read(&format!("--cert {cert} --key own.key")), own, "{cert}");
    }
    for key in [
        "pkcs8.key",
        "pkcs8.der",
        "sec1.der",
        "bags.pem",
        "both.pem",
        "parameters.key",
        "mislabelled.key",
        "two.key",
    ] {
        assert_eq!(read(&format!("--cert own.pem --key {key}")), own, "{key}");
    }
    // The key is in the file of the certificate.
    assert_eq!(read("--cert both.pem"), own);
    read("--cert compressed.pem --key compressed.key");
}

#[test]
fn a_pipe_is_read_once_and_stays() {
    let Some(here) = Workshop::new() else { return };
    here.certify("own", P256);
    here.run("cat own.pem own.key > both.pem\nmkfifo pipe");
    let mut shell = common::binary::shell("cat both.pem > pipe & exec echo-server \"$@\"");
    shell.current_dir(here.path());
    let server = Running::spawn(shell.args(["--tls", "127.0.0.1:0", "--cert", "pipe"]));
    server.signal(rustix::process::Signal::HUP);
    server.wait_for_line("there is nothing to reload");
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    // A file beside a pipe can be reloaded, and the pipe keeps what came through it.
    let mut shell = common::binary::shell("cat own.key > pipe & exec echo-server \"$@\"");
    shell.current_dir(here.path());
    let args = ["--tls", "127.0.0.1:0", "--cert", "own.pem", "--key", "pipe"];
    let server = Running::spawn(shell.args(args));
    server.signal(rustix::process::Signal::HUP);
    server.wait_for_line("Certificates reloaded");
    // The standard input.
    let mut shell = common::binary::shell("cat both.pem | echo-server \"$@\"");
    shell.current_dir(here.path());
    let args = ["probe", "tls://127.0.0.1:1", "--cert", "/dev/stdin", "--count", "1"];
    let output = shell.args(args).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("connection refused"), "{said}");
}

#[test]
fn a_start_that_waits_for_a_file_ends_at_a_signal() {
    let Some(here) = Workshop::new() else { return };
    here.run("mkfifo pipe");
    for (signal, name) in
        [(rustix::process::Signal::TERM, "SIGTERM"), (rustix::process::Signal::INT, "SIGINT")]
    {
        let mut server = command();
        server.current_dir(here.path()).args(["--tls", "127.0.0.1:0", "--cert", "pipe"]);
        let server = server.stderr(std::process::Stdio::piped()).spawn().unwrap();
        // The server waits once it has opened the pipe, and signals are caught by then.
        drop(fs::OpenOptions::new().write(true).open(here.path().join("pipe")).map(|pipe| {
            rustix::process::kill_process(rustix::process::Pid::from_child(&server), signal)
                .unwrap();
            let output = server.wait_with_output().unwrap();
            drop(pipe);
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success(), "{said}");
            let line = format!("Ended before the server listened signal={name}\n");
            assert!(said.ends_with(&line), "{said}");
        }));
    }
}

#[test]
fn a_pipe_in_place_of_a_file_does_not_hold_up_later_reloads() {
    let Some(here) = Workshop::new() else { return };
    here.certify("own", P256);
    here.certify("other", P256);
    here.run("mkfifo pipe\ncp own.pem live.pem\ncp own.key live.key");
    let server = here.serve("--tls 127.0.0.1:0 --cert live.pem --key live.key");
    here.run("mv pipe live.pem");
    server.signal(rustix::process::Signal::HUP);
    server.wait_for_line("it is a pipe through which nothing came for 2 seconds");
    here.run("cp other.pem new.pem\ncp other.key live.key\nmv new.pem live.pem");
    server.wait_for_line("Certificates reloaded");
}

#[test]
fn a_key_in_place_of_its_path_is_told_and_not_shown() {
    let Some(here) = Workshop::new() else { return };
    here.certify("own", P256);
    here.certify("ed25519", "genpkey -algorithm ed25519");
    here.run(
        "
        openssl pkey -in own.key -out pkcs8.key
        openssl base64 -A -in own.key -out base64.key
        openssl pkey -in ed25519.key -outform DER | openssl base64 -A > short.key
        tail -n +2 pkcs8.key > body.key
        sed '1d;$d' pkcs8.key > inner.key
        ",
    );
    let said = "echo-server: --key (not a path): it looks like the private key itself, in place of the \
                path of its file\n";
    let all = ["base64.key", "short.key", "body.key", "inner.key", "pkcs8.key"];
    for (form, line) in all.map(|form| (form, said)) {
        let key = fs::read_to_string(here.path().join(form)).unwrap();
        for how in ["flag", "variable"] {
            let mut server = command();
            server.current_dir(here.path()).args(["--tls", "127.0.0.1:0", "--cert", "own.pem"]);
            match how {
                "flag" => server.arg(format!("--key={key}")),
                _ => server.env("ECHO_KEY", &key),
            };
            let output = server.output().unwrap();
            assert_eq!(output.status.code(), Some(2));
            assert_eq!(String::from_utf8(output.stderr).unwrap(), line, "{form} as {how}");
        }
        // Without quotes it is several arguments, or none of a flag.
        for args in [&["--cert", "own.pem", "--key", "x"][..], &[], &["--kye"]] {
            let args = args.iter().copied().chain(key.split_whitespace());
            let output = command().current_dir(here.path()).args(args).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{said}");
            let longest = key.lines().max_by_key(|line| line.len()).unwrap();
            assert!(!said.contains(&longest[..20]), "{form}: {said}");
        }
    }
    let key = fs::read_to_string(here.path().join("pkcs8.key")).unwrap();
    let output = command().args(["--key", &key]).output().unwrap();
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "echo-server: an argument is PEM text, as if it were the content of a file, such as a private \
         key; the flags take paths of files\n"
    );
}

#[test]
fn a_chain_is_put_in_order() {
    let Some(here) = Workshop::new() else { return };
    here.run(
        "
        openssl ecparam -name prime256v1 -genkey -noout -out root.key
        openssl req -x509 -key root.key -out root.pem -subj /CN=root
        openssl ecparam -name prime256v1 -genkey -noout -out middle.key
        openssl req -new -key middle.key -out middle.csr -subj /CN=middle
        echo basicConstraints=critical,CA:TRUE > ca.ext
        openssl x509 -req -in middle.csr -CA root.pem -CAkey root.key -CAcreateserial -extfile ca.ext -out middle.pem
        openssl ecparam -name prime256v1 -genkey -noout -out leaf.key
        openssl req -new -key leaf.key -out leaf.csr -subj /CN=localhost
        echo subjectAltName=DNS:localhost > leaf.ext
        openssl x509 -req -in leaf.csr -CA middle.pem -CAkey middle.key -CAcreateserial -extfile leaf.ext -out leaf.pem
        cat root.pem middle.pem leaf.pem > backwards.pem
        cat middle.pem leaf.pem > intermediate-first.pem
        cat leaf.pem root.pem middle.pem > mixed.pem
        ",
    );
    for chain in ["backwards", "intermediate-first", "mixed"] {
        let server = here.serve(&format!("--tls 127.0.0.1:0 --cert {chain}.pem --key leaf.key"));
        let address = server.address("tls");
        let probe = "--server-name localhost --ca root.pem --count 1";
        let (code, stdout, stderr) = here.end(&format!("probe tls://{address} {probe}"));
        assert_eq!(code, Some(0), "{chain}: {stderr}");
        assert!(stdout.contains("certificate of CN=localhost"), "{chain}: {stdout}");
    }
    let (code, _, stderr) = {
        let server = here.serve("--tls 127.0.0.1:0 --cert leaf.pem --key leaf.key");
        let address = server.address("tls");
        here.end(&format!("probe tls://{address} --server-name localhost --ca root.pem --count 1"))
    };
    assert_eq!(code, Some(4));
    assert!(
        stderr.ends_with(
            "TLS: alert sent: unknown_ca: the server's certificate is not trusted: it is of a CA that \
             is not among the trusted ones, or an intermediate certificate is missing; --ca \
             FILE names what to trust, --pin SHA256 the certificate itself, --insecure goes on \
             without\n"
        ),
        "{stderr}"
    );
}

#[test]
fn whatever_else_a_file_holds_is_answered_in_one_line_with_a_cure() {
    let Some(here) = Workshop::new() else { return };
    here.certify("own", P256);
    here.certify("other", P256);
    here.certify("weak", "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024");
    here.certify("koblitz", "ecparam -name secp256k1 -genkey -noout");
    here.certify("ed448", "genpkey -algorithm ed448");
    here.run(
        "
        openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.key
        openssl rsa -in rsa.key -aes256 -traditional -passout pass:x -out traditional.key
        openssl pkey -in rsa.key -aes256 -passout pass:x -out encrypted.key
        openssl pkcs12 -export -in own.pem -inkey own.key -passout pass: -out own.p12
        openssl crl2pkcs7 -nocrl -certfile own.pem -out own.p7b
        openssl crl2pkcs7 -nocrl -certfile own.pem -outform DER -out der.p7b
        openssl req -new -key own.key -subj /CN=localhost -out own.csr
        openssl pkey -in own.key -pubout -out own.pub
        openssl genpkey -algorithm x25519 -out x25519.key
        openssl ecparam -name prime256v1 -out parameters.pem
        openssl base64 -A -in own.pem -out secret.pem
        openssl x509 -in own.pem -outform DER -out own.der
        sed 's/^MII/AII/' own.pem > damaged.pem
        cat own.pem damaged.pem > half-damaged.pem
        openssl ecparam -name brainpoolP320r1 -genkey -noout -out brainpool.key
        openssl ecparam -name brainpoolP256r1 -param_enc explicit -genkey -noout -out explicit.key
        truncate -s 100M large.pem
        : > empty.pem
        echo hello > text.pem
        mkdir directory
        ",
    );
    let openssh = b"openssh-key-v1\0\0\0\0\x04none\0\0\0\x04none\0\0\0\0\0\0\0\x01\0\0\0\x33\0\0\0\x0bssh-ed25519";
    let openssh = data_encoding::BASE64.encode(openssh);
    let openssh = format!(
        "-----BEGIN OPENSSH PRIVATE KEY-----\n{openssh}\n-----END OPENSSH PRIVATE KEY-----\n"
    );
    fs::write(here.path().join("openssh.key"), openssh).unwrap();
    let taken = "this server takes RSA keys of 2048 to 8192 bits, EC keys on P-256, P-384 and P-521, \
                 and Ed25519: make a new key and certificate";
    let pkcs12 = "it is PKCS#12 (.pfx, .p12); convert it to PEM, which holds certificate and key: \
                  openssl pkcs12 -in own.p12 -nodes -out own.p12.pem (with -legacy, too, if openssl 3 \
                  says that an algorithm is unsupported)";
    for (args, said) in [
        (
            "--cert own.pem --key traditional.key",
            "--key traditional.key: the private key is encrypted; decrypt it: \
             openssl pkey -in traditional.key -out plain.pem",
        ),
        (
            "--cert own.pem --key encrypted.key",
            "--key encrypted.key: the private key is encrypted; decrypt it: \
             openssl pkey -in encrypted.key -out plain.pem",
        ),
        ("--cert own.p12 --key own.key", &format!("--cert own.p12: {pkcs12}")),
        ("--cert own.pem --key own.p12", &format!("--key own.p12: {pkcs12}")),
        ("--client-ca own.p12", &format!("--client-ca own.p12: {pkcs12}")),
        (
            "--cert own.p7b --key own.key",
            "--cert own.p7b: it is PKCS#7 (.p7b), which holds certificates; convert it to PEM: \
             openssl pkcs7 -in own.p7b -print_certs -out own.p7b.pem",
        ),
        (
            "--cert der.p7b --key own.key",
            "--cert der.p7b: it is PKCS#7 (.p7b), which holds certificates; convert it to PEM: \
             openssl pkcs7 -inform DER -in der.p7b -print_certs -out der.p7b.pem",
        ),
        (
            "--cert own.csr --key own.key",
            "--cert own.csr: it holds a certificate signing request (CSR), and no certificate; a CA \
             makes a certificate of it",
        ),
        (
            "--cert own.pem --key own.pub",
            "--key own.pub: it holds a public key, and no private key",
        ),
        (
            "--cert own.pem --key parameters.pem",
            "--key parameters.pem: it holds the parameters of an EC key, and no private key",
        ),
        (
            "--cert own.pem",
            "--cert own.pem: it holds a certificate, and no private key; --key has to name the file of \
             its key",
        ),
        (
            "--cert own.pem --key own.pem",
            "--cert own.pem: it holds a certificate, and no private key; --key has to name the file of \
             its key",
        ),
        (
            "--cert own.pem --key own.csr",
            "--key own.csr: it holds a certificate signing request (CSR), and no private key; the key \
             is in a file of its own, made with the request or before",
        ),
        (
            "--cert damaged.pem --key own.key",
            "--cert damaged.pem: the certificate cannot be read: it is damaged, or no X.509 \
             certificate",
        ),
        (
            "--cert half-damaged.pem --key own.key",
            "--cert half-damaged.pem: certificate 2 of it cannot be read: it is damaged, or no X.509 \
             certificate",
        ),
        (
            "--client-ca damaged.pem",
            "--client-ca damaged.pem: the certificate cannot be read: it is damaged, or no X.509 \
             certificate",
        ),
        (
            "--cert own.pem --key own.key --ocsp own.der",
            "--ocsp own.der: it holds a certificate, and no OCSP response",
        ),
        (
            "--cert own.pem --key own.key --ocsp text.pem",
            "--ocsp text.pem: no OCSP response in it, which would be DER",
        ),
        (
            "--cert own.pem --key openssh.key",
            "--key openssh.key: it is an Ed25519 key in a form of SSH, from which neither ssh-keygen \
             nor puttygen converts it; make a new key: openssl genpkey -algorithm ed25519",
        ),
        (
            "--cert own.pem --key brainpool.key",
            &format!("--key brainpool.key: it is an EC key on brainpoolP320r1; {taken}"),
        ),
        (
            "--cert own.pem --key explicit.key",
            &format!("--key explicit.key: it is an EC key that spells another curve out; {taken}"),
        ),
        ("--cert /dev/zero --key own.key", "--cert /dev/zero: it is neither a file nor a pipe"),
        ("--client-ca /dev/zero", "--client-ca /dev/zero: it is neither a file nor a pipe"),
        (
            "--cert own.pem --key own.key --ocsp /dev/zero",
            "--ocsp /dev/zero: it is neither a file nor a pipe",
        ),
        (
            "--cert large.pem --key own.key",
            "--cert large.pem: it is too large to be a certificate or a key: more than 4 MiB",
        ),
        (
            "--client-ca own.pem --crl large.pem",
            "--crl large.pem: it is too large to be a revocation list: more than 64 MiB",
        ),
        (
            "--tls-ciphers=",
            "--tls-ciphers: an empty name is not one of TLS_AES_256_GCM_SHA384, \
             TLS_AES_128_GCM_SHA256, TLS_CHACHA20_POLY1305_SHA256, \
             TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, \
             TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, \
             TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        ),
        (
            "--cert own.key --key own.pem",
            "--cert own.key: it holds a private key, and no certificate; it and own.pem are swapped",
        ),
        (
            "--cert own.key --key own.key",
            "--cert own.key: it holds a private key, and no certificate",
        ),
        (
            "--cert secret.pem --key own.key",
            "--cert secret.pem: it is PEM that was encoded once more, in base64, as in Kubernetes' \
             secrets; decode it: base64 -d secret.pem",
        ),
        ("--cert empty.pem --key own.key", "--cert empty.pem: it is empty"),
        (
            "--cert text.pem --key own.key",
            "--cert text.pem: no certificate in it, neither as PEM nor as DER",
        ),
        (
            "--client-ca own.pem --crl own.pem",
            "--crl own.pem: it holds a certificate, and no certificate revocation list",
        ),
        ("--cert directory --key own.key", "--cert directory: Is a directory"),
        (
            "--cert weak.pem --key weak.key",
            &format!("--key weak.key: it is an RSA key of 1024 bits; {taken}"),
        ),
        (
            "--cert koblitz.pem --key koblitz.key",
            &format!("--key koblitz.key: it is an EC key on secp256k1; {taken}"),
        ),
        (
            "--cert ed448.pem --key ed448.key",
            &format!("--key ed448.key: it is an Ed448 key; {taken}"),
        ),
        (
            "--cert own.pem --key x25519.key",
            &format!("--key x25519.key: it is an X25519 key, which cannot sign; {taken}"),
        ),
        (
            "--tls-ciphers TLS_AES_128_GCM_SHA256 --tls-max 1.2",
            "--tls-ciphers: none is of TLS 1.2, whose suites are TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, \
             TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, \
             TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, \
             TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256; \
             --tls-min and --tls-max allow no other version",
        ),
        (
            "--tls-groups X25519MLKEM768 --tls-max 1.2",
            "--tls-groups: none is of TLS 1.2, whose groups are X25519, secp256r1, secp384r1; \
             --tls-min and --tls-max allow no other version",
        ),
        (
            "--tls-groups X25519MLKEM768 --tls-ciphers TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "--tls-groups: none is of TLS 1.2, whose groups are X25519, secp256r1, secp384r1; \
             --tls-min and --tls-max and --tls-ciphers allow no other version",
        ),
    ] {
        assert_eq!(here.refusal(args), said);
    }
    let said = here.refusal("--cert own.pem --key other.key --cert other.pem --key own.key");
    let (begin, end) = said.split_once(", serial ").unwrap();
    assert_eq!(begin, "--key other.key: not the key of the certificate in own.pem (CN=localhost");
    assert!(end.ends_with("); it is the key of other.pem"), "{said}");
    let (code, _, stderr) = here.end("probe tls://127.0.0.1:1 --ca own.p12");
    assert_eq!((code, &*stderr), (Some(2), &*format!("echo-server: --ca own.p12: {pkcs12}\n")));

    // A reload says the same.
    here.run("cp own.key current.key");
    let server = here.serve("--tls 127.0.0.1:0 --cert own.pem --key current.key");
    here.run("cp encrypted.key current.key");
    server.signal(rustix::process::Signal::HUP);
    server.wait_for_line("the private key is encrypted; decrypt it: openssl pkey -in current.key");
}

#[test]
fn a_certificate_of_version_1_is_served_and_trusted_like_any_other() {
    let Some(here) = Workshop::new() else { return };
    here.certify("own", P256);
    for (name, key) in
        [("ec", P256), ("rsa", "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048")]
    {
        here.certify_v1(name, key);
        for version in ["1.2", "1.3"] {
            let versions = format!("--tls-min {version} --tls-max {version}");
            let server = here
                .serve(&format!("--tls 127.0.0.1:0 --cert {name}.pem --key {name}.key {versions}"));
            let probe = format!("probe tls://{} --count 1", server.address("tls"));
            let (code, stdout, stderr) = here.end(&format!("{probe} --insecure"));
            assert_eq!(code, Some(0), "{name}, {version}: {stderr}");
            let said = "NOT VERIFIED: the server's certificate has X.509 version 1, which has no \
                        extensions; it would have to be among the trusted ones itself";
            assert!(stdout.contains(said), "{stdout}");
            let (code, stdout, stderr) =
                here.end(&format!("{probe} --ca {name}.pem --server-name localhost"));
            assert_eq!(code, Some(0), "{name}, {version}: {stderr}");
            assert!(stdout.contains(", verified"), "{stdout}");
            let (code, _, stderr) =
                here.end(&format!("{probe} --ca {name}.pem --server-name elsewhere.test"));
            assert_eq!(code, Some(4));
            let said = "the server's certificate is not for elsewhere.test: it is for localhost; \
                        --server-name NAME verifies another name\n";
            assert!(stderr.ends_with(said), "{stderr}");

            let server = here.serve(&format!(
                "--tls 127.0.0.1:0 --cert own.pem --key own.key --client-ca {name}.pem {versions}"
            ));
            let probe = format!(
                "probe tls://{} --count 1 --ca own.pem --server-name localhost",
                server.address("tls")
            );
            let (code, _, stderr) =
                here.end(&format!("{probe} --cert {name}.pem --key {name}.key"));
            assert_eq!(code, Some(0), "{name}, {version}: {stderr}");
        }
    }
}

#[test]
fn the_certificate_of_openssl_req_x509_is_trusted_itself() {
    let Some(here) = Workshop::new() else { return };
    here.certify("own", P256);
    here.certify("other", P256);
    let server = here.serve(
        "--tls 127.0.0.1:0 --wss 127.0.0.1:0 --cert own.pem --key own.key --client-ca own.pem",
    );
    let probe = format!("probe tls://{} --count 1", server.address("tls"));
    let (code, stdout, stderr) =
        here.end(&format!("{probe} --ca own.pem --cert own.pem --key own.key"));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains(", verified"), "{stdout}");
    for (args, said) in [
        ("--ca other.pem --cert own.pem --key own.key", "is that of a CA, or self-signed"),
        ("--ca own.pem --server-name elsewhere.test", "is not for elsewhere.test"),
        (
            "--ca own.pem",
            "alert received: certificate_required: the server requires a certificate of the other \
             side, and got none; --cert FILE and --key FILE present one",
        ),
        ("--ca own.pem --cert other.pem --key other.key", "alert received: certificate_unknown"),
    ] {
        let (code, _, stderr) = here.end(&format!("{probe} {args}"));
        assert_eq!(code, Some(4), "{args}");
        assert!(stderr.contains(said), "{args}: {stderr}");
    }
    // The server refuses during the upgrade, when the client's handshake has ended.
    let probe = format!("probe wss://{} --count 1 --ca own.pem", server.address("wss"));
    let (code, _, stderr) = here.end(&probe);
    assert_eq!(code, Some(4), "{stderr}");
    assert!(stderr.contains("TLS: alert received: certificate_required"), "{stderr}");
    let (_, log) = server.terminate();
    let said = "alert sent: certificate_unknown: the client certificate is that of a CA, or \
                self-signed; it would have to be among the trusted ones itself";
    assert!(log.contains(said), "{log}");
}

#[test]
fn a_server_that_does_not_start_logs_nothing_before_it_says_why() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let there = tempfile::tempdir().unwrap();
    let bad = there.path().join("bad.pem");
    fs::write(&bad, "-----BEGIN CERTIFICATE-----\n").unwrap();
    let bad = bad.to_str().unwrap();
    for (args, begin) in [
        (&["--tls", "0", "--client-ca", bad][..], format!("echo-server: --client-ca {bad}: ")),
        (&["--tls", &address], format!("echo-server: --tls {address}: ")),
    ] {
        let output = command().args(args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.starts_with(&begin) && stderr.lines().count() == 1, "{stderr}");
    }
}

#[test]
fn a_server_name_that_is_no_host_name_is_answered_with_an_alert_and_words() {
    let Some(here) = Workshop::new() else { return };
    let server = here.serve("--tls 127.0.0.1:0");
    let address = server.address("tls").to_string();
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-connect", &address, "-servername", "a..b"]);
    let output = tools::run(&mut openssl, b"");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("illegal parameter"), "{said}");
    let (_, log) = server.terminate();
    let said = "reason=\"TLS handshake failed: alert sent: illegal_parameter: the client asked for a \
                server name (SNI) that is no host name; RFC 6066 allows exactly one DNS name\"";
    assert!(log.contains(said), "{log}");
}

#[test]
fn a_probe_says_what_the_other_side_speaks_instead() {
    let here = Workshop(tempfile::tempdir().unwrap());
    let server =
        here.serve("--tcp 127.0.0.1:0 --tls 127.0.0.1:0 --ws 127.0.0.1:0 --wss 127.0.0.1:0");
    for (scheme, protocol, code, said) in [
        (
            "tls",
            "tcp",
            4,
            "TLS: it does not speak TLS, but sends back what it gets: perhaps tcp://",
        ),
        (
            "wss",
            "tcp",
            4,
            "TLS: it does not speak TLS, but sends back what it gets: perhaps tcp://",
        ),
        (
            "tls",
            "ws",
            4,
            "TLS: it does not speak TLS, but HTTP (\"HTTP/1.1 400 Bad Request\"): perhaps ws://",
        ),
        (
            "wss",
            "ws",
            4,
            "TLS: it does not speak TLS, but HTTP (\"HTTP/1.1 400 Bad Request\"): perhaps ws://",
        ),
        ("ws", "tcp", 3, "it does not speak HTTP, but sends back what it gets: perhaps tcp://"),
        ("wss", "tls", 3, "it does not speak HTTP, but sends back what it gets: perhaps tls://"),
        (
            "ws",
            "wss",
            3,
            "the server answered 400 Bad Request instead of upgrading: This port speaks TLS: \
             https:// and wss:// lead here.",
        ),
    ] {
        let address = server.address(protocol);
        let (ended, _, stderr) =
            here.end(&format!("probe {scheme}://{address} --insecure --count 1"));
        let hint = if said.ends_with("://") { address.to_string() } else { String::new() };
        let line = format!("echo-server: {scheme}://{address}: {said}{hint}\n");
        assert_eq!((ended, &*stderr), (Some(code), &*line), "{scheme} to {protocol}");
    }
}

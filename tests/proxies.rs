//! Real proxies in front of the server: HAProxy, nginx, stunnel and curl send its PROXY headers, and
//! the facts, the log and the limits have to be about the client that they announce.

#![cfg(target_os = "linux")]

mod common;

use std::collections::HashSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use common::binary::Running;
use common::client::{ByteStream, Client, noise};
use common::log::Log;
use common::schema::Schema;
use common::{ca_certificates, cert, tools};
use echo_server::Protocol;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ALL_VERSIONS, ClientConfig, RootCertStore};

/// Where nginx has its modules, of which the one for streams is a package of its own.
const NGINX_MODULES: &str = "nginx -V 2>&1 | tr ' ' '\\n' | sed -n 's/^--modules-path=//p'";

/// Where HAProxy checks its server often: one check that takes long on a busy machine means nothing.
const PATIENT: &str = "fall 1000 rise 1";

const STREAMS: [Protocol; 4] = [Protocol::Tcp, Protocol::Tls, Protocol::Ws, Protocol::Wss];

fn have_haproxy() -> bool {
    tools::have(&["haproxy", "-v"], "HAProxy")
}

fn have_nginx() -> bool {
    let list = format!("ls \"$({NGINX_MODULES})\"");
    tools::have(&["sh", "-c", &list], "ngx_stream_module.so")
}

fn have_stunnel() -> bool {
    tools::have(&["stunnel", "-version"], "stunnel")
}

fn have_curl() -> bool {
    tools::have(&["curl", "--help", "all"], "--haproxy-protocol")
}

/// A server with the test certificate, whose log is JSON.
fn start(args: &[&str]) -> Running {
    let (pem, key) = (cert("server.pem"), cert("server.key"));
    let identity = ["--cert", text(&pem), "--key", text(&key), "--log-format", "json"];
    Running::start(&[&identity, args].concat())
}

/// A server that expects PROXY headers at all of its streams, and tells facts there.
fn start_all() -> Running {
    start(&["--tcp=0", "--tls=0", "--ws=0", "--wss=0", "--proxy-protocol=all", "--facts=all"])
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An address for a proxy, which cannot tell which port it got: a port that the system chose, at a
/// loopback address of its own, so that nobody else is given the port before the proxy has it.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let ip = Ipv4Addr::new(127, 0, 77, NEXT.fetch_add(1, Ordering::Relaxed));
    free_port((ip, 0).into()).unwrap()
}

/// A free port at an address. The socket that has had it does not listen, since a process that another
/// test starts would hold it open, and an address where somebody listens is in use.
fn free_port(any: SocketAddr) -> std::io::Result<SocketAddr> {
    let socket = Socket::new(Domain::for_address(any), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&any.into())?;
    Ok(socket.local_addr()?.as_socket().expect("an IP address"))
}

/// A proxy that listens. Dropping it kills the process.
struct Proxy {
    process: Child,
    address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Proxy {
    /// HAProxy at `address`, with further options of its `bind` line, `rules`, and the rest of its
    /// `server` line.
    fn haproxy(address: SocketAddr, bind: &str, rules: &[&str], server: &str) -> Proxy {
        let directory = tempfile::tempdir().unwrap();
        let stats = directory.path().join("stats");
        let config = format!(
            "global\n    maxconn 100\n    nbthread 1\n    stats socket {}\n\
             defaults\n    mode tcp\n    timeout connect 1m\n    timeout client 1m\n    timeout server 1m\n\
             listen echo\n    bind {address} {bind}\n    {}\n    server server {server}\n",
            text(&stats),
            rules.join("\n    "),
        );
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(file(&directory, "haproxy.cfg", &config));
        let mut proxy = Proxy::spawn(command, address, directory);
        proxy.wait_until(|proxy| proxy.statistic("status").is_some());
        proxy
    }

    /// HAProxy with a `server` line for `server`, at an address that is free.
    fn simple_haproxy(server: SocketAddr, options: &str) -> Proxy {
        Proxy::haproxy(free_address(), "", &[], &format!("{server} {options}"))
    }

    /// nginx, which sends headers of version 1.
    fn nginx(server: SocketAddr) -> Proxy {
        let (address, directory) = (free_address(), tempfile::tempdir().unwrap());
        let modules = tools::run(Command::new("sh").args(["-c", NGINX_MODULES]), b"").stdout;
        let modules = String::from_utf8(modules).unwrap();
        // One process, so that it is the one to kill.
        let config = format!(
            "load_module {}/ngx_stream_module.so;\ndaemon off;\nmaster_process off;\npid {};\n\
             events {{ worker_connections 100; }}\n\
             stream {{\n\
                 server {{ listen {address}; proxy_pass {server}; proxy_protocol on; proxy_half_close on; }}\n\
                 server {{ listen unix:{}; return ready; }}\n\
             }}\n",
            modules.trim(),
            text(&directory.path().join("pid")),
            text(&directory.path().join("ready")),
        );
        let mut command = Command::new("nginx");
        command.args(["-e", "stderr", "-p", text(directory.path())]);
        command.arg("-c").arg(file(&directory, "nginx.conf", &config));
        let mut proxy = Proxy::spawn(command, address, directory);
        proxy.wait_until(|proxy| proxy.ask("ready", "").is_some_and(|answer| answer == "ready"));
        proxy
    }

    /// stunnel, which ends TLS and sends headers of version 1.
    fn stunnel(server: SocketAddr) -> Proxy {
        let (address, directory) = (free_address(), tempfile::tempdir().unwrap());
        let config = format!(
            "foreground = yes\nsyslog = no\ndebug = info\npid = {}\n\
             [echo]\naccept = {address}\nconnect = {server}\nprotocol = proxy\ncert = {}\nkey = {}\n",
            text(&directory.path().join("pid")),
            text(&cert("server.pem")),
            text(&cert("server.key")),
        );
        let mut command = Command::new("stunnel");
        command.arg(file(&directory, "stunnel.conf", &config));
        let mut proxy = Proxy::spawn(command, address, directory);
        proxy.wait_until(|proxy| proxy.log().contains(&format!("bound to {address}")));
        proxy
    }

    fn spawn(mut command: Command, address: SocketAddr, directory: tempfile::TempDir) -> Proxy {
        let log = fs::File::create(directory.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let process = command.spawn().expect("the proxy starts");
        Proxy { process, address, directory }
    }

    /// Asks until `is_so`, while the proxy runs.
    fn wait_until(&mut self, is_so: impl Fn(&Proxy) -> bool) {
        while !is_so(self) {
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("the proxy has ended, {status}: {}", self.log());
            }
            std::thread::yield_now();
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// What the proxy answers on its Unix socket `name`; `None` while it does not listen there.
    fn ask(&self, name: &str, question: &str) -> Option<String> {
        let mut stream = UnixStream::connect(self.directory.path().join(name)).ok()?;
        stream.write_all(question.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// A column of HAProxy's statistics of its server.
    fn statistic(&self, name: &str) -> Option<String> {
        let answer = self.ask("stats", "show stat\n")?;
        let mut lines = answer.lines();
        let names = lines.next()?.trim_start_matches("# ").split(',');
        let values = lines.find(|line| line.starts_with("echo,server,"))?.split(',');
        names.zip(values).find(|(column, _)| *column == name).map(|(_, value)| value.to_owned())
    }

    /// Whether HAProxy counts its server as up, and the last check has ended with `status`.
    fn is_healthy(&self, status: &str) -> bool {
        let is = |name, expected| self.statistic(name).is_some_and(|value| value == expected);
        is("status", "UP") && is("check_status", status)
    }

    /// Ends the proxy, so that it connects no more.
    fn stop(mut self) {
        self.kill();
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A file of `directory` with this content.
fn file(directory: &tempfile::TempDir, name: &str, content: &str) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

/// Connects from `ip`.
async fn connect_from(ip: impl Into<IpAddr>, to: SocketAddr) -> TcpStream {
    let ip = ip.into();
    let socket = if ip.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
    socket.bind((ip, 0).into()).unwrap();
    socket.connect(to).await.expect("the proxy listens")
}

/// Takes the facts, has some hundred kilobytes echoed, and closes. Returns the facts.
async fn use_up(mut client: Client) -> Value {
    let facts = client.facts().await;
    let payload = noise(300_000);
    assert!(client.echo(&payload).await == payload, "{facts}");
    client.close().await;
    facts
}

/// Has a client at `ip` use the server behind the proxy at `proxy`. Returns the client's address and
/// the facts, which have to be about it.
async fn through(
    protocol: Protocol,
    proxy: SocketAddr,
    ip: impl Into<IpAddr>,
) -> (SocketAddr, Value) {
    let stream = connect_from(ip, proxy).await;
    let client = stream.local_addr().unwrap();
    let facts = use_up(Client::over(protocol, stream).await).await;
    check(&facts, client, proxy);
    (client, facts)
}

/// Checks that the facts are about `client`, who has connected to the proxy at `proxy`.
fn check(facts: &Value, client: SocketAddr, proxy: SocketAddr) {
    assert_eq!(facts["echo_facts"], 1, "{facts}");
    assert_eq!(facts["peer"], client.to_string(), "{facts}");
    assert_eq!(facts["proxy"]["command"], "proxy", "{facts}");
    assert_eq!(facts["proxy"]["source"], client.to_string(), "{facts}");
    assert_eq!(facts["proxy"]["destination"], proxy.to_string(), "{facts}");
    let transport = if client.is_ipv4() { "tcp4" } else { "tcp6" };
    assert_eq!(facts["proxy"]["transport"], transport, "{facts}");
}

/// Checks that the log has one line about the beginning of `client`'s connection and one about its
/// end, which is clean, and that both have the proxy that the facts name.
fn check_log(log: &Log, client: SocketAddr, facts: &Value) {
    let opened = log.one(&format!("New connection from: {client}"));
    let closed = log.one(&format!("Connection closed: {client}"));
    for line in [opened, closed] {
        assert_eq!(line["peer"], client.to_string(), "{line}");
        assert_eq!(line["proxy"], facts["proxy"]["from"], "{line}");
        assert_eq!(line["conn"], facts["connection"], "{line}");
    }
    let reason = closed["reason"].as_str().unwrap();
    assert!(["end of stream", "closed by the peer with 1000"].contains(&reason), "{closed}");
}

#[tokio::test]
async fn haproxy_announces_the_clients_of_every_protocol() {
    if !have_haproxy() {
        return;
    }
    let server = start_all();
    let mut seen = Vec::new();
    for (option, version) in [("send-proxy", 1), ("send-proxy-v2", 2)] {
        for (at, protocol) in (10..).zip(STREAMS) {
            let proxy = Proxy::simple_haproxy(server.address(protocol.name()), option);
            let (client, facts) = through(protocol, proxy.address, [127, 0, version, at]).await;
            assert_eq!(facts["protocol"], protocol.name(), "{facts}");
            assert_eq!(facts["local"], server.address(protocol.name()).to_string(), "{facts}");
            assert_eq!(facts["proxy"]["version"], version, "{facts}");
            // The header was in front of the ClientHello.
            let is_tls = matches!(protocol, Protocol::Tls | Protocol::Wss);
            let name = if is_tls { json!("localhost") } else { Value::Null };
            assert_eq!(facts["tls"]["sni"], name, "{facts}");
            seen.push((client, facts));
        }
    }
    let log = Log::of(server);
    for (client, facts) in &seen {
        assert!(facts["proxy"]["from"].as_str().unwrap().starts_with("127.0.0.1:"), "{facts}");
        check_log(&log, *client, facts);
    }
}

/// TLS to a proxy that asks for a client certificate.
async fn tls_with_certificate(stream: TcpStream) -> Box<dyn ByteStream> {
    let mut roots = RootCertStore::empty();
    ca_certificates().for_each(|ca| roots.add(ca).unwrap());
    let chain = CertificateDer::pem_file_iter(cert("client.pem")).unwrap();
    let chain = chain.map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(cert("client.key")).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(ALL_VERSIONS)
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    Box::new(
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS connects"),
    )
}

#[tokio::test]
async fn haproxy_tells_of_the_tls_that_it_ends() {
    if !have_haproxy() {
        return;
    }
    let server = start(&["--tcp=0", "--proxy-protocol=tcp", "--facts=tcp"]);
    let directory = tempfile::tempdir().unwrap();
    let pem = |name| fs::read_to_string(cert(name)).unwrap();
    let identity = file(&directory, "pem", &(pem("server.pem") + &pem("server.key")));
    let ca = cert("ca.pem");
    let bind =
        format!("ssl crt {} ca-file {} verify required alpn http/1.1", text(&identity), text(&ca));
    let rules = ["unique-id-format id-of-%ci"];
    let options = "send-proxy-v2 proxy-v2-options crc32c,unique-id,ssl,cert-cn,ssl-cipher,cert-sig,\
                   cert-key,authority";
    let mut seen = Vec::new();
    for (ip, options) in [([127, 0, 4, 1], options), ([127, 0, 4, 2], "send-proxy-v2-ssl-cn")] {
        let target = format!("{} {options}", server.address("tcp"));
        let proxy = Proxy::haproxy(free_address(), &bind, &rules, &target);
        let stream = connect_from(ip, proxy.address).await;
        let client = stream.local_addr().unwrap();
        let facts = use_up(Client::Bytes(tls_with_certificate(stream).await)).await;
        check(&facts, client, proxy.address);
        seen.push((client, facts));
    }
    for (_, facts) in &seen {
        let (proxy, ssl) = (&facts["proxy"], &facts["proxy"]["ssl"]);
        for field in ["client_ssl", "client_cert_connection", "client_cert_session"] {
            assert_eq!(ssl[field], true, "{facts}");
        }
        assert_eq!(ssl["verify"], 0, "{facts}");
        assert_eq!(ssl["version"], "TLSv1.3", "{facts}");
        assert_eq!(ssl["cn"], "echo-server test client", "{facts}");
        assert_eq!(proxy["alpn"], "http/1.1", "{facts}");
        assert_eq!(proxy["tlvs"], Value::Null, "{facts}");
        // The server itself has spoken none.
        assert_eq!(facts["tls"], Value::Null, "{facts}");
    }
    let (all, plain) = (&seen[0].1["proxy"], &seen[1].1["proxy"]);
    assert_eq!(all["authority"], "localhost", "{all}");
    assert_eq!(all["crc32c"], true, "{all}");
    let id: String = "id-of-127.0.4.1".bytes().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(all["unique_id"], id, "{all}");
    assert!(all["ssl"]["cipher"].as_str().unwrap().starts_with("TLS_"), "{all}");
    for field in ["sig_alg", "key_alg"] {
        assert!(all["ssl"][field].is_string(), "{field}: {all}");
        assert_eq!(plain["ssl"][field], Value::Null, "{plain}");
    }
    for field in ["authority", "crc32c", "unique_id"] {
        assert_eq!(plain[field], Value::Null, "{plain}");
    }
    let log = Log::of(server);
    for (client, facts) in &seen {
        check_log(&log, *client, facts);
        let header = log.one(&format!("PROXY header for: {client}"));
        assert_eq!(header["cn"], "echo-server test client", "{header}");
    }
}

#[tokio::test]
async fn an_ipv6_client_of_haproxy_is_announced_to_an_ipv4_server() {
    if !have_haproxy() {
        return;
    }
    let Ok(address) = free_port((Ipv6Addr::LOCALHOST, 0).into()) else {
        eprintln!("skipped: there is no IPv6 here");
        return;
    };
    let server = start(&["--tcp=0", "--proxy-protocol=tcp", "--facts=tcp"]);
    let target = server.address("tcp");
    assert!(target.is_ipv4());
    let mut seen = Vec::new();
    for option in ["send-proxy", "send-proxy-v2"] {
        let proxy = Proxy::haproxy(address, "", &[], &format!("{target} {option}"));
        seen.push(through(Protocol::Tcp, proxy.address, Ipv6Addr::LOCALHOST).await);
    }
    let log = Log::of(server);
    for (client, facts) in &seen {
        check_log(&log, *client, facts);
    }
}

#[tokio::test]
async fn haproxy_reaches_a_unix_socket() {
    if !have_haproxy() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echo.sock");
    let listen = format!("unix:{}", text(&path));
    let server = start(&["--tcp", &listen, "--proxy-protocol=tcp", "--facts=tcp"]);
    let target = format!("unix@{} send-proxy-v2", text(&path));
    let proxy = Proxy::haproxy(free_address(), "", &[], &target);
    let (client, facts) = through(Protocol::Tcp, proxy.address, [127, 0, 5, 1]).await;
    assert_eq!(facts["local"], listen, "{facts}");
    assert_eq!(facts["proxy"]["from"], "unix", "{facts}");
    assert_eq!(facts["unix"], Value::Null, "that is the proxy, not the client: {facts}");
    let pid = proxy.process.id();
    let log = Log::of(server);
    for what in ["New connection from", "Connection closed"] {
        let line = log.one(&format!("{what}: {client}"));
        let said = line["proxy"].as_str().unwrap();
        assert!(said.contains(&format!("pid {pid}")), "{line}");
    }
}

#[tokio::test]
async fn haproxy_passes_a_websocket_on_as_http() {
    if !have_haproxy() {
        return;
    }
    let server = start(&["--ws=0", "--proxy-protocol=ws", "--facts=ws"]);
    let target = format!("{} send-proxy-v2", server.address("ws"));
    let rules = ["mode http", "option forwardfor"];
    let proxy = Proxy::haproxy(free_address(), "", &rules, &target);
    let (client, facts) = through(Protocol::Ws, proxy.address, [127, 0, 6, 1]).await;
    let fields = facts["http"]["fields"].as_array().unwrap();
    let value = |name: &str| {
        let is_it = |field: &&Value| field[0].as_str().unwrap().eq_ignore_ascii_case(name);
        fields.iter().find(is_it).unwrap_or_else(|| panic!("no {name}: {facts}"))[1].clone()
    };
    assert_eq!(value("X-Forwarded-For"), "127.0.6.1", "{facts}");
    assert_eq!(value("Upgrade"), "websocket", "{facts}");
    check_log(&Log::of(server), client, &facts);
}

#[tokio::test]
async fn a_health_check_of_haproxy_speaks_for_itself() {
    if !have_haproxy() {
        return;
    }
    // If each check lost a place, there would soon be none.
    let server = start(&["--tcp=0", "--proxy-protocol=tcp", "--facts=tcp", "--max-connections=5"]);
    let rules = [
        "timeout check 1m",
        "option tcp-check",
        "tcp-check connect default",
        r#"tcp-check expect string \"command\":\"local\""#,
        "tcp-check send healthy",
        "tcp-check expect string healthy",
    ];
    let options = "send-proxy-v2 check check-send-proxy inter 100ms";
    let target = format!("{} {options} {PATIENT}", server.address("tcp"));
    let mut proxy = Proxy::haproxy(free_address(), "", &rules, &target);
    proxy.wait_until(|proxy| proxy.is_healthy("L7OK"));
    for _ in 0..10 {
        server.wait_for_line("Connection closed: ");
    }
    let (client, facts) = through(Protocol::Tcp, proxy.address, [127, 0, 7, 1]).await;
    proxy.wait_until(|proxy| proxy.is_healthy("L7OK"));
    proxy.stop();
    let log = Log::of(server);
    check_log(&log, client, &facts);
    let opened = log.beginning("New connection from: 127.0.0.1:");
    assert!(opened.len() >= 10, "{log}");
    for line in opened {
        assert_eq!(line["peer"], line["proxy"], "a check is the proxy's own: {line}");
        log.one(&format!("Connection closed: {}", line["peer"].as_str().unwrap()));
    }
    assert!(log.all("Refused connections").is_empty(), "{log}");
}

#[tokio::test]
async fn a_check_that_only_connects_takes_no_place() {
    if !have_haproxy() {
        return;
    }
    let server = start(&["--tcp=0", "--proxy-protocol=tcp", "--facts=tcp", "--max-connections=5"]);
    let address = server.address("tcp");
    let mut proxy = Proxy::simple_haproxy(address, &format!("check inter 20ms {PATIENT}"));
    proxy.wait_until(|proxy| proxy.is_healthy("L4OK"));
    let behind = Proxy::simple_haproxy(address, "send-proxy");
    let (client, facts) = through(Protocol::Tcp, behind.address, [127, 0, 8, 1]).await;
    proxy.wait_until(|proxy| proxy.is_healthy("L4OK"));
    proxy.stop();
    let log = Log::of(server);
    check_log(&log, client, &facts);
    assert_eq!(log.beginning("New connection from: ").len(), 1, "{log}");
    // Where HAProxy resets the connection instead of acknowledging it (RFC 9293 section 3.5), the
    // server never sees it. What it sees has one line.
    let is_check = |line: &&&Value| line["peer"] != client.to_string();
    let closed = log.beginning("Connection closed: ");
    let checks: Vec<_> = closed.iter().filter(is_check).map(|line| line["peer"].clone()).collect();
    let peers: HashSet<_> = checks.iter().map(Value::to_string).collect();
    assert_eq!(peers.len(), checks.len(), "{log}");
}

#[tokio::test]
async fn each_announced_client_has_a_limit_of_its_own() {
    if !have_haproxy() {
        return;
    }
    let server = start(&["--tcp=0", "--proxy-protocol=tcp", "--max-connections-per-ip=2"]);
    let proxy = Proxy::simple_haproxy(server.address("tcp"), "send-proxy-v2");
    let (one, other) = (Ipv4Addr::new(127, 0, 9, 1), Ipv4Addr::new(127, 0, 9, 2));
    let mut clients = Vec::new();
    for ip in [one, other, one, other] {
        let stream = connect_from(ip, proxy.address).await;
        let mut client = Client::over(Protocol::Tcp, stream).await;
        let payload = noise(100_000);
        assert!(client.echo(&payload).await == payload, "{ip} is served");
        clients.push(client);
    }
    let mut refused = connect_from(one, proxy.address).await;
    let address = refused.local_addr().unwrap();
    match refused.read(&mut [0]).await {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("a third connection is served: {other:?}"),
    }
    for client in &mut clients {
        assert_eq!(client.echo(b"not disturbed").await, b"not disturbed");
    }
    clients.remove(0).close().await;
    // The place is free a little after the client has seen its end.
    loop {
        let mut next = connect_from(one, proxy.address).await;
        if next.write_all(b"x").await.is_ok() && matches!(next.read(&mut [0]).await, Ok(1)) {
            break;
        }
    }
    drop(clients);
    let log = Log::of(server);
    let closed = log.one(&format!("Connection closed: {address}"));
    let why = "the limit on connections of one address is reached";
    assert!(closed["reason"].as_str().unwrap().contains(why), "{closed}");
    assert!(closed["proxy"].as_str().unwrap().starts_with("127.0.0.1:"), "{closed}");
    assert!(log.all(&format!("New connection from: {address}")).is_empty(), "{log}");
    let refusals = log.all("Refused connections");
    assert_eq!(refusals[0]["peer"], address.to_string(), "{log}");
}

#[tokio::test]
async fn only_the_proxies_that_are_listed_may_announce() {
    if !have_haproxy() {
        return;
    }
    let server = start(&[
        "--tcp=0",
        "--proxy-protocol=tcp",
        "--facts=tcp",
        "--proxy-from=10.0.0.0/8,127.0.10.0/24",
    ]);
    let address = server.address("tcp");
    let listed = Proxy::simple_haproxy(address, "send-proxy-v2 source 127.0.10.9");
    let other = Proxy::simple_haproxy(address, "send-proxy-v2 source 127.0.11.9");
    let mut refused = connect_from([127, 0, 10, 1], other.address).await;
    match refused.read(&mut [0]).await {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        read => panic!("it is served: {read:?}"),
    }
    let (client, facts) = through(Protocol::Tcp, listed.address, [127, 0, 11, 1]).await;
    assert!(facts["proxy"]["from"].as_str().unwrap().starts_with("127.0.10.9:"), "{facts}");
    let log = Log::of(server);
    check_log(&log, client, &facts);
    let lines = log.beginning("Connection closed: 127.0.11.9:");
    let [closed] = lines[..] else { panic!("not one line: {log}") };
    assert!(closed["reason"].as_str().unwrap().contains("--proxy-from"), "{closed}");
    assert_eq!(log.beginning("New connection from: ").len(), 1, "{log}");
}

#[tokio::test]
async fn nginx_announces_its_clients() {
    if !have_nginx() {
        return;
    }
    let server = start_all();
    let mut seen = Vec::new();
    for (at, protocol) in (1..).zip(STREAMS) {
        let proxy = Proxy::nginx(server.address(protocol.name()));
        let (client, facts) = through(protocol, proxy.address, [127, 0, 12, at]).await;
        assert_eq!(facts["proxy"]["version"], 1, "{facts}");
        seen.push((client, facts));
    }
    let log = Log::of(server);
    for (client, facts) in &seen {
        check_log(&log, *client, facts);
    }
}

#[tokio::test]
async fn stunnel_announces_the_clients_whose_tls_it_ends() {
    if !have_stunnel() {
        return;
    }
    let server = start(&["--tcp=0", "--proxy-protocol=tcp", "--facts=tcp"]);
    let proxy = Proxy::stunnel(server.address("tcp"));
    // To the server it is TCP.
    let (client, facts) = through(Protocol::Tls, proxy.address, [127, 0, 13, 1]).await;
    assert_eq!((&facts["protocol"], &facts["proxy"]["version"]), (&json!("tcp"), &json!(1)));
    check_log(&Log::of(server), client, &facts);
}

/// The facts that curl gets from `url`, and the address that it has connected from.
fn curl(args: &[&str], url: &str) -> (String, Value) {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--haproxy-protocol"]);
    command.arg("--cacert").arg(cert("ca.pem")).args(args);
    command.args(["--write-out", "%{local_ip}:%{local_port}", url]);
    let output = tools::run(&mut command, b"");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said} {}", String::from_utf8_lossy(&output.stderr));
    let (facts, from) = said.rsplit_once('\n').expect("a line of facts");
    (from.to_owned(), Schema::of_facts().facts(facts))
}

#[test]
fn curl_is_its_own_proxy() {
    if !have_curl() {
        return;
    }
    let server = start_all();
    let url = |scheme: &str, protocol| format!("{scheme}://{}/facts?a=b", server.address(protocol));
    let mut seen = Vec::new();
    for (args, url, version) in [
        (&["--http1.1"][..], url("http", "ws"), "HTTP/1.1"),
        (&["--http1.1"], url("https", "wss"), "HTTP/1.1"),
        (&["--http2"], url("https", "wss"), "HTTP/2"),
        (&["--http2-prior-knowledge"], url("http", "ws"), "HTTP/2"),
    ] {
        let (client, facts) = curl(args, &url);
        assert_eq!(facts["peer"], client, "{facts}");
        let proxy = &facts["proxy"];
        assert_eq!(proxy["version"], 1, "{facts}");
        assert_eq!((&proxy["from"], &proxy["source"]), (&facts["peer"], &facts["peer"]));
        assert_eq!(proxy["destination"], facts["local"], "{facts}");
        let http = &facts["http"];
        assert_eq!((&http["version"], &http["method"]), (&json!(version), &json!("GET")));
        assert_eq!(http["path"], "/facts?a=b", "{facts}");
        let fields = http["fields"].as_array().unwrap();
        let is_agent = |field: &Value| {
            field[0].as_str().unwrap().eq_ignore_ascii_case("user-agent")
                && field[1].as_str().unwrap().starts_with("curl/")
        };
        assert!(fields.iter().any(is_agent), "{facts}");
        assert_eq!(facts["tls"].is_object(), url.starts_with("https:"), "{facts}");
        seen.push((client, facts));
    }
    let log = Log::of(server);
    for (client, facts) in &seen {
        for what in ["New connection from", "Connection closed"] {
            // To two listeners, two connections may come from one address.
            let lines = log.all(&format!("{what}: {client}"));
            let mut lines = lines.iter().filter(|line| line["conn"] == facts["connection"]);
            let line = lines.next().unwrap_or_else(|| panic!("no '{what}': {log}"));
            assert!(lines.next().is_none(), "{log}");
            assert_eq!(line["proxy"], client.as_str(), "{line}");
        }
    }
}

#[test]
fn curl_announces_another_client_or_nobody() {
    if !have_curl() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("echo.sock");
    let server = start(&[
        "--ws=0",
        &format!("--ws=unix:{}", text(&path)),
        "--proxy-protocol=ws",
        "--facts=ws",
    ]);
    let url = format!("http://{}/facts", server.address("ws"));
    // Of a Unix socket it announces nothing.
    let (_, facts) = curl(&["--unix-socket", text(&path)], &url);
    assert_eq!(facts["peer"], "unix", "{facts}");
    assert_eq!(facts["proxy"]["transport"], "unspec", "{facts}");
    assert_eq!(facts["unix"]["uid"], rustix::process::getuid().as_raw(), "{facts}");
    // curl 8.2 came after Debian 12, so that this tool may be missing where tools are required.
    let help = tools::run(Command::new("curl").args(["--help", "all"]), b"").stdout;
    if !String::from_utf8_lossy(&help).contains("--haproxy-clientip") {
        eprintln!("skipped in part: this curl does not know --haproxy-clientip");
        return;
    }
    let (_, facts) = curl(&["--haproxy-clientip", "203.0.113.7"], &url);
    assert!(facts["peer"].as_str().unwrap().starts_with("203.0.113.7:"), "{facts}");
    assert!(facts["proxy"]["from"].as_str().unwrap().starts_with("127.0.0.1:"), "{facts}");
}

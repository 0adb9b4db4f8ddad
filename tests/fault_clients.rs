//! What real clients say of faults on purpose: the table in docs/faults.md, held equal to what they
//! say here. `UPDATE_DOCS=1` writes it.
#![cfg(unix)]

mod common;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};
use std::time::SystemTime;

use common::browser::Browser;
use common::{TestServer, tools};
use echo_server::certs::{self, Name};
use echo_server::{Config, Credentials, FaultGroup, Identity, Protocol, Server, Source};
use futures::future::join_all;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/faults.md");
const BEGIN: &str = "<!-- What clients say: written by tests/fault_clients.rs. -->\n";
const END: &str = "<!-- The end of what clients say. -->\n";
const HEAD: &str = "\
| fault | `nc -N` | `openssl s_client` | `curl http://` | `curl https://` (HTTP/2) | Chromium |
| --- | --- | --- | --- | --- | --- |
";

/// What byte streams and WebSockets are sent.
const LENGTH: usize = 4096;

/// A client waits so long for a fault that never ends.
const STALL: &str = "5";

/// For all else a client has more time than the slowest machine needs.
const PATIENCE: &str = "50";

/// The faults of one line of the table.
#[derive(Clone, Copy)]
struct Row {
    /// As the table shows them; empty: as they are.
    title: &'static str,
    /// As `--fault` has them.
    faults: &'static str,
    /// The clients that can meet them.
    clients: &'static [Client],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    Nc,
    Openssl,
    CurlHttp,
    CurlHttps,
    Chromium,
}

use Client::{Chromium, CurlHttp, CurlHttps, Nc, Openssl};

const ALL: &[Client] = &[Nc, Openssl, CurlHttp, CurlHttps, Chromium];
const WITH_FAREWELL: &[Client] = &[Openssl, CurlHttp, CurlHttps, Chromium];
const OVER_TLS: &[Client] = &[Openssl, CurlHttps, Chromium];
const OVER_HTTP: &[Client] = &[CurlHttp, CurlHttps, Chromium];
const WEB_SOCKET: &[Client] = &[Chromium];
const OVER_UDP: &[Client] = &[Nc];

const ROWS: &[Row] = &[
    Row {
        title: "`delay`, `jitter`, `rate`, `slice`",
        faults: "delay=20ms,jitter=20ms,rate=1MB,slice=1000",
        clients: ALL,
    },
    row("corrupt=10%", ALL),
    row("reset=0", ALL),
    row("reset=2KiB", ALL),
    row("close=2KiB", ALL),
    row("truncate=2KiB", WITH_FAREWELL),
    row("stall=0", ALL),
    row("handshake=stall", OVER_TLS),
    row("handshake=reset", OVER_TLS),
    row("handshake=garbage", OVER_TLS),
    row("handshake=plain", OVER_TLS),
    row("handshake=alert:internal_error", OVER_TLS),
    row("certificate=expired", OVER_TLS),
    row("certificate=not-yet", OVER_TLS),
    row("certificate=wrong-name", OVER_TLS),
    row("certificate=untrusted", OVER_TLS),
    row("certificate=incomplete", OVER_TLS),
    row("upgrade=503", OVER_HTTP),
    row("upgrade=stall", OVER_HTTP),
    row("ws-close=1011", WEB_SOCKET),
    row("ws-mask", WEB_SOCKET),
    row("ws-utf8", WEB_SOCKET),
    row("udp:drop=100%", OVER_UDP),
    row("udp:duplicate=100%", OVER_UDP),
];

const fn row(faults: &'static str, clients: &'static [Client]) -> Row {
    Row { title: "", faults, clients }
}

impl Row {
    fn title(&self) -> String {
        if self.title.is_empty() { format!("`{}`", self.faults) } else { self.title.to_owned() }
    }

    fn is(&self, name: &str) -> bool {
        self.faults.split(['=', ',']).next() == Some(name)
    }

    fn has_end(&self) -> bool {
        !self.is("delay") && !self.is("corrupt")
    }

    /// Whether the client is given no reason to end.
    fn is_stall(&self) -> bool {
        self.faults.contains("stall")
    }

    fn patience(&self) -> &'static str {
        if self.is_stall() { STALL } else { PATIENCE }
    }

    /// What a client of a byte stream sends. Behind an end at the beginning, it could be read or
    /// not.
    fn input(&self) -> Vec<u8> {
        let length = if self.faults.ends_with("=0") { 0 } else { LENGTH };
        vec![b'x'; length]
    }

    /// The query that asks for the faults.
    fn query(&self) -> String {
        self.faults.replace(',', "&")
    }

    /// The server name that asks for them.
    fn server_name(&self) -> String {
        let labels = self.faults.replace("handshake=", "").replace("certificate=", "");
        let labels = labels.replace('%', "pct").replace(['=', ':', '_'], "-").replace(',', ".");
        format!("{}.localhost", labels.to_lowercase())
    }

    /// Whether only a server name can ask for them.
    fn is_of_handshake(&self) -> bool {
        self.is("handshake") || self.is("certificate")
    }
}

/// The servers, each of which does what it is asked to.
struct Servers {
    tls: TestServer,
    ws: TestServer,
    wss: TestServer,
    /// Who has signed their certificates, with faults and without.
    ca: NamedTempFile,
}

impl Servers {
    async fn start() -> Servers {
        let names: [Name; 2] = ["localhost".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        let made = certs::issue(&names, SystemTime::now()).unwrap();
        let mut ca = NamedTempFile::new().unwrap();
        ca.write_all(made.ca.certificate.as_bytes()).unwrap();
        let source = |text: &str| Source::memory(text);
        let signer = Credentials::new(source(&made.ca.certificate), source(&made.ca.key));
        let identity = Identity::pem(made.server.certificate, made.server.key);
        let start = async |protocol: Protocol| {
            let config = Config::new()
                .listen(protocol, ([127, 0, 0, 1], 0))
                .identity(identity.clone())
                .faults(|faults| {
                    faults.by_request = true;
                    faults.ca = Some(signer.clone()).filter(|_| protocol.is_over_tls());
                });
            TestServer::run(Server::bind(config).await.expect("the server binds"))
        };
        Servers {
            tls: start(Protocol::Tls).await,
            ws: start(Protocol::Ws).await,
            wss: start(Protocol::Wss).await,
            ca,
        }
    }

    fn http(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://127.0.0.1:{}{path}", self.ws.address.port())
    }

    fn https(&self, scheme: &str, row: Row) -> String {
        let port = self.wss.address.port();
        match row.is_of_handshake() {
            true => format!("{scheme}://{}:{port}/", row.server_name()),
            false => format!("{scheme}://127.0.0.1:{port}/?{}", row.query()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_has_what_real_clients_say() {
    let has_curl = tools::have(&["curl", "--version"], "curl");
    let has_chromium = tools::have_chromium() && tools::have(&["certutil", "-H"], "-A");
    if !tools::have_nc() || !tools::have_openssl() || !has_curl || !has_chromium {
        return;
    }
    let servers = Servers::start().await;
    let cells =
        |client: Client| ROWS.iter().copied().filter(move |row| row.clients.contains(&client));
    let (nc, openssl, http, https, chromium) = tokio::join!(
        join_all(cells(Nc).map(nc)),
        join_all(cells(Openssl).map(|row| openssl(row, &servers))),
        join_all(cells(CurlHttp).map(|row| {
            let path = format!("/?{}", row.query());
            curl(row, servers.http("http", &path), &servers)
        })),
        join_all(cells(CurlHttps).map(|row| curl(row, servers.https("https", row), &servers))),
        chromium(cells(Chromium).collect(), &servers),
    );
    let mut found = HEAD.to_owned();
    let columns =
        [(Nc, nc), (Openssl, openssl), (CurlHttp, http), (CurlHttps, https), (Chromium, chromium)];
    let mut columns = columns.map(|(client, cells)| (client, cells.into_iter()));
    for row in ROWS {
        found += &format!("| {} |", row.title());
        for (client, cells) in &mut columns {
            match row.clients.contains(client) {
                true => found += &format!(" {} |", cells.next().expect("a cell for each row")),
                false => found += " |",
            }
        }
        found.push('\n');
    }
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (before, behind) = page.split_once(BEGIN).expect("the page has a place for the table");
    let (table, behind) = behind.split_once(END).expect("the page has a place for the table");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, format!("{before}{BEGIN}{found}{END}{behind}")).unwrap();
        return;
    }
    assert!(
        found == table,
        "docs/faults.md has not what clients say; UPDATE_DOCS=1 writes it. They say:\n{found}"
    );
}

/// `nc -N`, against a server that does nothing else: TCP has no place for requests.
async fn nc(row: Row) -> String {
    let group: FaultGroup = row.faults.parse().unwrap();
    let is_udp = group.protocol == Some(Protocol::Udp);
    let protocol = if is_udp { Protocol::Udp } else { Protocol::Tcp };
    let config = Config::new().listen(protocol, ([127, 0, 0, 1], 0)).fault(group);
    let server = TestServer::with(config).await;
    let mut command = Command::new("timeout");
    command.args([row.patience(), "nc", "-N"]);
    // UDP has no end: nothing has come for so many seconds.
    command.args(["-u", "-w", STALL].iter().filter(|_| is_udp));
    command.args(["127.0.0.1", &server.address.port().to_string()]);
    let input = row.input();
    let output = tools::run_async(command, input.clone()).await;
    assert!(output.stderr.is_empty(), "{}: {output:?}", row.faults);
    match output.status.code() {
        // A reset can come before nc has seen that it is connected, and before it has read what has
        // come.
        Some(0 | 1) if row.faults == "reset=0" => "0 or 1, no word".to_owned(),
        Some(0) if row.is("reset") => "0, no word".to_owned(),
        Some(code) => exit(code, &amount(&output.stdout, &input)),
        None => panic!("{}: {output:?}", row.faults),
    }
}

async fn openssl(row: Row, servers: &Servers) -> String {
    let mut command = Command::new("timeout");
    command.args([row.patience(), "openssl", "s_client", "-quiet", "-no_ign_eof"]);
    command.args(["-connect", &servers.tls.address.to_string()]);
    command.args(["-servername", &row.server_name(), "-verify_return_error"]);
    command.arg("-CAfile").arg(servers.ca.path());
    command.args(["-verify_hostname", &row.server_name()].iter().filter(|_| row.is("certificate")));
    let input = row.input();
    let output = {
        let input = input.clone();
        tokio::task::spawn_blocking(move || converse(&mut command, &input)).await.unwrap()
    };
    let code = output.status.code().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let telling = said.lines().find_map(|line| {
        let failed = line.split_once(":error:").and_then(|(_, error)| error.split(':').nth(3));
        let refused =
            line.strip_prefix("verify error:num=").and_then(|error| error.split_once(':'));
        let read = line.contains(":errno=").then_some(line);
        refused.map(|(_, why)| why).or(failed).or(read)
    });
    match telling {
        Some(words) => exit(code, words),
        None => exit(code, &amount(&output.stdout, &input)),
    }
}

/// Runs a command that sends `input`, and ends its input only when all has come back or nothing
/// more comes.
fn converse(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tool starts");
    let mut stdin = child.stdin.take().unwrap();
    // A client may have ended already. Only its output counts.
    let _ = stdin.write_all(input);
    let mut stdout = child.stdout.take().unwrap();
    let (mut came, mut buffer) = (Vec::new(), [0; LENGTH]);
    loop {
        let read = stdout.read(&mut buffer).unwrap();
        came.extend_from_slice(&buffer[..read]);
        if read == 0 || came.len() == input.len() {
            break;
        }
    }
    drop(stdin);
    let mut output = child.wait_with_output().expect("the tool ends");
    stdout.read_to_end(&mut came).unwrap();
    output.stdout = came;
    output
}

/// `curl`, of the page at `url`.
async fn curl(row: Row, url: String, servers: &Servers) -> String {
    let get = |url: &str, time: &str| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail", "--max-time", time, url, "--cacert"]).arg(servers.ca.path());
        tools::run_async(command, Vec::new())
    };
    let output = get(&url, row.patience()).await;
    let page = get(&servers.http("http", "/"), PATIENCE).await.stdout;
    let said = String::from_utf8(output.stderr).unwrap();
    let code = output.status.code().unwrap();
    // Behind the first line is advice.
    match said.lines().next().unwrap_or_default().split_once(") ") {
        // How it says so differs from version to version.
        Some((_, words)) if words.contains("timed out") => exit(code, "timed out"),
        Some((_, words)) => {
            let words = words.rsplit("::").next().unwrap_or(words);
            let words = words.split(" (err ").next().unwrap_or(words);
            let words = words.split(" target host").next().unwrap_or(words);
            let is_size = |word: &str| word.len() > 3 && word.bytes().all(|b| b.is_ascii_digit());
            let words = words.split(' ').map(|word| if is_size(word) { "…" } else { word });
            exit(code, &words.collect::<Vec<_>>().join(" "))
        }
        None => exit(code, &amount(&output.stdout, &page)),
    }
}

fn exit(code: i32, words: &str) -> String {
    match code {
        124 => "124 by `timeout`".to_owned(),
        0 => format!("0, {words}"),
        _ => format!("{code}, `{words}`"),
    }
}

/// How much of `all` has come.
fn amount(came: &[u8], all: &[u8]) -> String {
    match (came.len(), all.len()) {
        _ if came == all => "all bytes".to_owned(),
        _ if came == [all, all].concat() => "all bytes, twice".to_owned(),
        (came, all) if came == all => "other bytes".to_owned(),
        (came, all) => format!("{came} of {all} bytes"),
    }
}

/// What a page does: it opens a WebSocket, and loads a page. What it sends cannot be compressed,
/// but for the text.
const SCRIPT: &str = "
const binary = crypto.getRandomValues(new Uint8Array(4096)), text = 'x'.repeat(4096);
const inTime = (promise, time) =>
    Promise.race([promise, new Promise(done => setTimeout(done, time * 1000, 'nothing'))]);
const echo = (url, hasEnd, isText) => new Promise(done => {
    let words = '';
    const socket = new WebSocket(url);
    socket.binaryType = 'arraybuffer';
    socket.onopen = () => socket.send(isText ? text : binary);
    socket.onmessage = ({ data }) => {
        const [sent, back] = isText ? [text, data] : [binary, new Uint8Array(data)];
        const amount = String(sent) === String(back) ? 'all bytes' : 'other bytes';
        hasEnd ? words += amount + ', ' : done(amount);
    };
    socket.onerror = () => words += 'error, ';
    socket.onclose = ({ code, wasClean }) => done(words + code + (wasClean ? ', clean' : ''));
});
const load = async (url) => {
    try {
        const response = await fetch(url, { mode: new URL(url).origin === origin ? 'cors' : 'no-cors' });
        const body = await response.text();
        return response.ok ? body.endsWith('</html>\\n') ? 'all bytes' : `${body.length} bytes` : String(response.status);
    } catch (error) {
        return 'error';
    }
};
const meet = (socketUrl, url, hasEnd, isText, time) =>
    Promise.all([inTime(echo(socketUrl, hasEnd, isText), time), url && inTime(load(url), time)]);
";

/// A page of Chromium: what becomes of a WebSocket, and of a page that is loaded.
async fn chromium(rows: Vec<Row>, servers: &Servers) -> Vec<String> {
    let mut browser = Browser::start_trusting(servers.ca.path()).await;
    browser.navigate(&servers.http("http", "/nowhere")).await;
    browser.evaluate(SCRIPT).await;
    let mut met = HashMap::new();
    // Chromium connects WebSockets to the same address one after the other.
    for is_stall in [false, true] {
        let some: Vec<_> = rows.iter().copied().filter(|row| row.is_stall() == is_stall).collect();
        let calls: Vec<_> = some.iter().map(|row| meeting(*row, servers)).collect();
        let answers = browser.evaluate(&format!("Promise.all([{}])", calls.join(","))).await;
        for (row, answer) in some.iter().zip(answers.as_array().unwrap()) {
            met.insert(row.faults, answer.clone());
        }
    }
    let errors = browser.complaints().into_iter().map(|error| &error["params"]["entry"]);
    let errors: Vec<(String, String)> = errors.filter_map(error_of).collect();
    let error = |url: &str| errors.iter().find(|(of, _)| of == url).map(|(_, words)| &**words);
    let cell = |row: &Row| {
        let (socket_url, url) = urls(*row, servers);
        let (socket, page) = (&met[row.faults][0], &met[row.faults][1]);
        let (mut socket, page) = (socket.as_str().unwrap().to_owned(), page.as_str());
        let (mut socket_error, mut page_error) =
            (error(&socket_url), url.as_deref().and_then(error));
        if row.faults == "handshake=garbage" {
            // Random bytes can look like the head of a record, whose rest Chromium waits for.
            for error in [&mut socket_error, &mut page_error] {
                *error = error.map(|_| "net::ERR_SSL_PROTOCOL_ERROR");
            }
        }
        if row.is("corrupt") {
            // Where a bit is flipped in what is compressed, is left to chance.
            assert_ne!(socket, "all bytes");
            return "other bytes, or error, 1006 as what was compressed is invalid".to_owned();
        }
        if let Some(words) = socket_error.filter(|_| socket_error != page_error) {
            socket += &format!(", `{words}`");
        }
        match page {
            None => socket,
            Some("error") => format!("{socket}; `{}`", page_error.expect("Chromium says why")),
            Some(words) if socket == words => socket,
            Some(words) => format!("{socket}; {words}"),
        }
    };
    rows.iter().map(cell).collect()
}

/// What went wrong, and with which URL.
fn error_of(entry: &Value) -> Option<(String, String)> {
    let text = entry["text"].as_str()?;
    if let Some(words) = text.strip_prefix("Failed to load resource: ") {
        return Some((entry["url"].as_str()?.to_owned(), words.to_owned()));
    }
    let (url, words) = text.strip_prefix("WebSocket connection to '")?.split_once("' failed: ")?;
    let words = words.strip_prefix("Error in connection establishment: ").unwrap_or(words);
    Some((url.to_owned(), words.to_owned()))
}

/// The WebSocket of a row, and the page, if that can have its faults.
fn urls(row: Row, servers: &Servers) -> (String, Option<String>) {
    let query = format!("/?{}", row.query());
    if row.is_of_handshake() {
        return (servers.https("wss", row), Some(servers.https("https", row)));
    }
    let is_of_http = row.clients != WEB_SOCKET;
    (servers.http("ws", &query), is_of_http.then(|| servers.http("http", &query)))
}

/// The call that has the page meet the faults of a row.
fn meeting(row: Row, servers: &Servers) -> String {
    let (socket, page) = urls(row, servers);
    let time: u32 = row.patience().parse().unwrap();
    let arguments = json!([socket, page, row.has_end(), row.is("ws-utf8"), time]);
    format!("meet(...{arguments})")
}

//! What real clients say of faults on purpose: the table in docs/faults.md, held equal to what they
//! say here. `UPDATE_DOCS=1` writes it.
#![cfg(unix)]

mod common;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::browser::Browser;
use common::{TestServer, cert, tools};
use echo_server::{Config, FaultGroup, Protocol};
use futures::future::join_all;
use serde_json::{Value, json};

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
    row("upgrade=503", OVER_HTTP),
    row("upgrade=stall", OVER_HTTP),
    row("ws-close=1011", WEB_SOCKET),
    row("ws-mask", WEB_SOCKET),
    row("ws-utf8", WEB_SOCKET),
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
}

impl Servers {
    async fn start() -> Servers {
        let [tls, ws, wss] = [Protocol::Tls, Protocol::Ws, Protocol::Wss].map(|protocol| {
            let config = Config::new().listen(protocol, ([127, 0, 0, 1], 0));
            TestServer::with(config.faults(|faults| faults.by_request = true))
        });
        Servers { tls: tls.await, ws: ws.await, wss: wss.await }
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
    if !tools::have_nc() || !tools::have_openssl() || !has_curl || !tools::have_chromium() {
        return;
    }
    let servers = Servers::start().await;
    let cells = |client: Client| ROWS.iter().copied().filter(move |row| row.clients.contains(&client));
    let (nc, openssl, http, https, chromium) = tokio::join!(
        join_all(cells(Nc).map(nc)),
        join_all(cells(Openssl).map(|row| openssl(row, &servers))),
        join_all(cells(CurlHttp).map(|row| {
            curl(row, servers.http("http", &format!("/?{}", row.query())), servers.http("http", "/"))
        })),
        join_all(cells(CurlHttps).map(|row| {
            curl(row, servers.https("https", row), servers.http("http", "/"))
        })),
        chromium(cells(Chromium).collect(), &servers),
    );
    let mut found = HEAD.to_owned();
    let columns = [(Nc, nc), (Openssl, openssl), (CurlHttp, http), (CurlHttps, https), (Chromium, chromium)];
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
    let config = Config::new().listen(Protocol::Tcp, ([127, 0, 0, 1], 0)).fault(group);
    let server = TestServer::with(config).await;
    let mut command = Command::new("timeout");
    let port = server.address.port().to_string();
    command.args([row.patience(), "nc", "-N", "127.0.0.1", &port]);
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
    command.arg("-CAfile").arg(cert("ca.pem"));
    let input = row.input();
    let output = {
        let input = input.clone();
        tokio::task::spawn_blocking(move || converse(&mut command, &input)).await.unwrap()
    };
    let code = output.status.code().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let telling = said.lines().find_map(|line| {
        let failed = line.split_once(":error:").and_then(|(_, error)| error.split(':').nth(3));
        let refused = line.strip_prefix("verify error:num=").and_then(|error| error.split_once(':'));
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

/// `curl`, of a page that is that of `good` without its faults.
async fn curl(row: Row, url: String, good: String) -> String {
    let get = |url: &str, time: &str| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail", "--max-time", time, url, "--cacert"]).arg(cert("ca.pem"));
        tools::run_async(command, Vec::new())
    };
    let output = get(&url, row.patience()).await;
    let page = get(&good, PATIENCE).await.stdout;
    let said = String::from_utf8(output.stderr).unwrap();
    let code = output.status.code().unwrap();
    match said.trim_end().split_once(") ") {
        // How it says so differs from version to version.
        Some((_, words)) if words.contains("timed out") => exit(code, "timed out"),
        Some((_, words)) => {
            let words = words.rsplit("::").next().unwrap_or(words);
            let words = words.split(" (err ").next().unwrap_or(words);
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
        (came, all) if came == all => "other bytes".to_owned(),
        (came, all) => format!("{came} of {all} bytes"),
    }
}

/// What a page does: it opens a WebSocket, and asks for a page.
const SCRIPT: &str = "
const text = 'x'.repeat(4096);
const late = promise => time => Promise.race([promise, new Promise(done => setTimeout(done, time * 1000, 'no end'))]);
const webSocket = (url, hasEnd, isText) => new Promise(done => {
    let words = '';
    const socket = new WebSocket(url);
    socket.binaryType = 'arraybuffer';
    socket.onopen = () => socket.send(isText ? text : new TextEncoder().encode(text));
    socket.onmessage = ({ data }) => {
        const back = isText ? data : new TextDecoder().decode(data);
        const amount = back === text ? 'all bytes' : back.length === text.length ? 'other bytes' : `${back.length} bytes`;
        hasEnd ? words += amount + ', ' : done(amount);
    };
    socket.onerror = () => words += 'error, ';
    socket.onclose = ({ code, wasClean }) => done(words + code + (wasClean ? ', clean' : ''));
});
const load = async (url) => {
    try {
        const response = await fetch(url, new URL(url).origin === origin ? {} : { mode: 'no-cors' });
        const body = await response.text();
        return response.ok ? 'all bytes' : String(response.status);
    } catch (error) {
        return 'error';
    }
};
const meet = (socketUrl, url, hasEnd, isText, time) =>
    Promise.all([late(webSocket(socketUrl, hasEnd, isText))(time), url ? late(load(url))(time) : null]);
";

/// A page of Chromium.
async fn chromium(rows: Vec<Row>, servers: &Servers) -> Vec<String> {
    let mut browser = Browser::start(&[]).await;
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
    println!("{met:#?} {:#?}", browser.complaints());
    rows.iter().map(|row| met[row.faults].to_string()).collect()
}

/// The call that has the page meet the faults of a row.
fn meeting(row: Row, servers: &Servers) -> String {
    let query = format!("/?{}", row.query());
    let (socket, page) = match row.is_of_handshake() {
        true => (servers.https("wss", row), Some(servers.https("https", row))),
        false => (servers.http("ws", &query), Some(servers.http("http", &query))),
    };
    let page = page.filter(|_| !row.is("ws-close") && !row.is("ws-mask") && !row.is("ws-utf8"));
    let time: u32 = row.patience().parse().unwrap();
    let arguments = json!([socket, page, row.has_end(), row.is("ws-utf8"), time]);
    format!("meet(...{arguments})")
}

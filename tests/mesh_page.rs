//! The page of a mesh, `/mesh`, in a real browser, and what it is made of, `/mesh/row`. The hosts are
//! servers on loopback addresses of their own, of which Linux has many; each test has a network of its own.

#![cfg(target_os = "linux")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use common::binary::Running;
use common::browser::Browser;
use common::http::{self, admin, get, send};
use common::tools;
use serde_json::{Value, json};

/// A mesh of `hosts` on the addresses 127.9.`network`.1 and so on, which all have the same ports.
struct Network {
    network: u8,
    hosts: u8,
    /// Those of the first host, which the system chooses.
    ports: Option<[u16; 3]>,
}

impl Network {
    fn new(network: u8, hosts: u8) -> Network {
        Network { network, hosts, ports: None }
    }

    fn address(&self, host: u8) -> IpAddr {
        [127, 9, self.network, host].into()
    }

    /// Starts a host, named h1 and so on.
    fn start(&mut self, host: u8, arguments: &[&str]) -> Running {
        let own = self.address(host).to_string();
        let all: Vec<_> = (1..=self.hosts).map(|host| self.address(host).to_string()).collect();
        let [tcp, udp, admin_port] = self.ports.unwrap_or_default().map(|port| port.to_string());
        let admin_address = format!("{own}:{admin_port}");
        let (all, name) = (all.join(","), format!("h{host}"));
        let mut all_arguments = vec!["--host", &own, "--tcp", &tcp, "--udp", &udp];
        all_arguments.extend(["--mesh", &all, "--mesh-every", "500ms", "--mesh-name", &name]);
        all_arguments.extend(["--admin", &admin_address]);
        all_arguments.extend(arguments);
        let server = Running::start(&all_arguments);
        let addresses = [server.address("tcp"), server.address("udp"), admin(&server)];
        self.ports.get_or_insert(addresses.map(|address| address.port()));
        server
    }

    /// Listens where a host's admin endpoint would, and lets `serve` have each connection.
    fn impostor(&self, host: u8, serve: impl Fn(TcpStream) + Send + Sync + 'static) {
        let port = self.ports.expect("the first host runs")[2];
        let listener = TcpListener::bind((self.address(host), port)).unwrap();
        let serve = Arc::new(serve);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(stream.unwrap()));
            }
        });
    }
}

/// Reads the head of a request.
fn read_head(stream: &TcpStream) -> String {
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

/// Answers a request with `body`. The client may have gone.
fn answer(mut stream: &TcpStream, body: &str) {
    let head = read_head(stream);
    assert!(head.starts_with("GET /mesh/row HTTP/1.1"), "{head}");
    let length = body.len();
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_who_reaches_whom_and_refreshes_itself() {
    if !tools::have_chromium() {
        return;
    }
    let mut network = Network::new(1, 3);
    let first = network.start(1, &[]);
    let _second = network.start(2, &["--fault", "udp:drop=50%"]);
    let mut browser = Browser::start(&[]).await;
    browser.navigate(&format!("http://{}/mesh", admin(&first))).await;
    // From here on nobody asks for the page but the page.
    for (protocol, source) in [("tcp", "h1"), ("tcp", "h2"), ("udp", "h1"), ("udp", "h2")] {
        let is_down = |cell: &str| cell.starts_with("down ");
        wait_for(&mut browser, protocol, source, "127.9.1.3", is_down).await;
    }
    wait_for(&mut browser, "tcp", "h2", "h1", |cell| cell.ends_with("s")).await;
    wait_for(&mut browser, "tcp", "h1", "h1", |cell| cell == "·").await;
    wait_for(&mut browser, "udp", "h1", "h2", |cell| cell.contains("% lost ")).await;
    assert_eq!(cell(&mut browser, "tcp", "127.9.1.3", "127.9.1.3").await, "row missing");
    let down = text(&mut browser, "#down").await;
    let refused = "127.9.1.3 is not reached by anybody over any protocol: ";
    assert!(down.starts_with(refused), "{down}");
    assert!(down.contains("connection refused: nothing listens there"), "{down}");
    assert!(text(&mut browser, "#state").await.contains("1 of 3 rows missing"));
    let title = browser.evaluate("document.title").await;
    assert!(title.as_str().unwrap().ends_with(" – Mesh, seen from h1"), "{title}");

    let third = network.start(3, &[]);
    wait_for(&mut browser, "tcp", "h1", "h3", |cell| cell.ends_with("s") && !cell.contains("down"))
        .await;
    // What is down keeps its name.
    drop(third);
    wait_for(&mut browser, "tcp", "h2", "h3", |cell| cell.starts_with("down ")).await;
    assert!(browser.complaints().is_empty(), "{:#?}", browser.complaints());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_accessible_and_fits_every_window() {
    if !tools::have_chromium() {
        return;
    }
    let Some(axe) = tools::axe() else { return };
    let mut browser = Browser::start(&[]).await;
    for (net, hosts) in [(2, 4), (3, 20)] {
        let mut network = Network::new(net, hosts);
        let first = network.start(1, &[]);
        for host in 2..hosts {
            let row = row_of(&network, host);
            network.impostor(host, move |stream| answer(&stream, &row));
        }
        let page = format!("http://{}/mesh", admin(&first));
        while !get(admin(&first), "/mesh").body.contains("<li>") {
            thread::yield_now();
        }
        // In a page that goes on, the accessibility checker would come to its end with it.
        browser.navigate(&format!("{page}?paused")).await;
        browser.evaluate(&format!("{axe}; 0")).await;
        for (width, height) in [(1280, 800), (390, 844), (320, 640)] {
            for scheme in ["light", "dark"] {
                let what = format!("{hosts} hosts, {width} x {height}, {scheme}");
                browser.look(width, height, scheme).await;
                let overflowing =
                    "document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth";
                assert_eq!(browser.evaluate(overflowing).await, 0, "{what}");
                check_accessibility(&mut browser, &what).await;
            }
        }
        // A matrix that is wider than the window is scrolled by itself, and the names of its rows stay.
        let stays = "{ const matrix = document.querySelector('.scroll'); \
                     const left = () => matrix.querySelector('tbody th').getBoundingClientRect().left; \
                     const before = left(); matrix.scrollLeft = 100; \
                     matrix.scrollLeft === 100 && Math.abs(left() - before) < 5 }";
        assert_eq!(browser.evaluate(stays).await, true, "{hosts} hosts");
    }
    assert!(browser.complaints().is_empty(), "{:#?}", browser.complaints());
}

/// The row of a host with a long name, which does not reach the one of the next address and loses some to
/// the one behind.
fn row_of(network: &Network, host: u8) -> String {
    let target = |other: u8| {
        let url = format!("tcp://{}:7", network.address(other));
        let address = SocketAddr::new(network.address(other), 7).to_string();
        let loss = if other == host + 2 { 0.2 } else { 0.0 };
        let problem = (other == host + 1).then_some("timeout: no answer within 500ms");
        json!({
            "protocol": "tcp", "target": url, "address": address, "up": problem.is_none(), "since": 1_700_000_000,
            "loss": loss, "median_us": 123, "problem": problem,
        })
    };
    let others = (1..=network.hosts).filter(|other| *other != host).map(target);
    let name = format!("node-{host}-of-some-long-name-without-any-dot");
    let targets: Vec<_> = others.chain([target_at_ipv6()]).collect();
    json!({ "version": 1, "source": name, "own": [network.address(host).to_string()], "targets": targets })
        .to_string()
}

fn target_at_ipv6() -> Value {
    json!({
        "protocol": "tcp", "target": "tcp://m:7", "up": true, "loss": 0.0, "median_us": 123_456,
        "address": "[2001:db8:1234:5678:9abc:def0:1234:5678]:7",
    })
}

#[test]
fn peers_that_misbehave_neither_stop_the_page_nor_write_it() {
    let mut network = Network::new(4, 9);
    let first = network.start(1, &[]);
    let row = |name: &str| {
        json!({ "source": name, "targets": [1, {}, { "protocol": "tcp" }] }).to_string()
    };
    let [script, whole] = [row("<script>alert(1)</script>"), row("whole")];
    network.impostor(2, |mut stream| {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n");
        let _ = stream.read_to_end(&mut Vec::new());
    });
    network.impostor(3, |mut stream| {
        read_head(&stream);
        let head = b"HTTP/1.1 200 OK\r\n\r\n";
        let mut written = stream.write_all(head);
        while written.is_ok() {
            written = stream.write_all(&[b'['; 1 << 16]);
        }
    });
    network.impostor(4, |stream| drop((&stream).read_to_end(&mut Vec::new())));
    network.impostor(5, |stream| answer(&stream, "[1, 2"));
    network.impostor(6, |mut stream| {
        read_head(&stream);
        let _ = stream.write_all(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n");
    });
    network.impostor(7, drop);
    network.impostor(8, move |stream| answer(&stream, &script));
    network.impostor(9, move |stream| answer(&stream, &whole));
    while !get(admin(&first), "/mesh/row").body.contains("127.9.4.9") {
        thread::yield_now();
    }
    // On a slow machine others may take too long, too, and the one that never ends may not have sent too
    // much by then.
    let are_late = |page: &http::Response, names| {
        page.body.contains(&format!("<li><b>{names}</b>: no answer</li>"))
    };
    let page = loop {
        let page = get(admin(&first), "/mesh");
        assert_eq!(page.status, 200);
        if are_late(&page, "127.9.4.4") || are_late(&page, "127.9.4.3, 127.9.4.4") {
            break page;
        }
    };
    let missing = |host: u8| {
        let address = format!("127.9.4.{host}");
        let mut lines = page.body.lines().filter(|line| line.starts_with("<li>"));
        let line =
            lines.find(|line| line.contains(&address)).unwrap_or_else(|| panic!("{}", page.body));
        line.split_once("</b>: ").unwrap().1.trim_end_matches("</li>")
    };
    assert!(missing(2).ends_with("speaks no HTTP"), "{}", missing(2));
    let cut = "its row is cut off, or too long";
    assert!(missing(3) == cut || missing(3) == "no answer", "{}", missing(3));
    assert_eq!(missing(5), "its row cannot be read");
    assert_eq!(missing(6), "it answers with 302, and has no row");
    assert_eq!(missing(7), "it closed the connection, or speaks no HTTP");
    for name in ["<span>&lt;script&gt;alert(1)&lt;/script&gt;<", "<span>whole<"] {
        assert!(page.body.contains(name), "{}", page.body);
    }
    assert!(page.body.contains("6 of 9 rows missing"), "{}", page.body);
    assert!(!page.body.contains("<script"), "{}", page.body);
}

#[test]
fn however_many_look_the_peers_are_asked_once() {
    const VIEWERS: usize = 8;
    let mut network = Network::new(5, 2);
    let first = network.start(1, &[]);
    let (asked, all_look) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(VIEWERS + 1)));
    let (count, looked) = (Arc::clone(&asked), Arc::clone(&all_look));
    network.impostor(2, move |stream| {
        if count.fetch_add(1, Ordering::Relaxed) == 0 {
            looked.wait();
        }
        answer(&stream, r#"{"source": "peer"}"#);
    });
    while !get(admin(&first), "/mesh/row").body.contains("127.9.5.2") {
        thread::yield_now();
    }
    let viewers: Vec<_> = (0..VIEWERS)
        .map(|_| {
            let (address, looked) = (admin(&first), Arc::clone(&all_look));
            thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(http::request("GET", "/mesh", "").as_bytes()).unwrap();
                looked.wait();
                http::Response::read(stream)
            })
        })
        .collect();
    for viewer in viewers {
        assert_eq!(viewer.join().unwrap().status, 200);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[test]
fn a_row_is_json_as_documented() {
    let mut network = Network::new(6, 2);
    let first = network.start(1, &[]);
    let _second = network.start(2, &[]);
    let row = loop {
        let response = get(admin(&first), "/mesh/row");
        assert_eq!(response.status, 200);
        assert!(response.head.contains("content-type: application/json"), "{}", response.head);
        assert!(response.head.contains("cache-control: no-store"), "{}", response.head);
        let row: Value = serde_json::from_str(&response.body).unwrap();
        let targets = row["targets"].as_array().unwrap();
        if targets.len() == 2 && targets.iter().all(|target| target["up"] == true) {
            break row;
        }
        thread::yield_now();
    };
    let mut members: Vec<_> = row.as_object().unwrap().keys().collect();
    members.sort();
    assert_eq!(members, ["every_s", "own", "source", "targets", "version"]);
    assert_eq!((&row["version"], &row["source"]), (&json!(1), &json!("h1")));
    assert_eq!((&row["every_s"], &row["own"]), (&json!(0.5), &json!(["127.9.6.1"])));
    let port = network.ports.unwrap()[0];
    let tcp = &row["targets"][0];
    assert_eq!(tcp["target"], format!("tcp://127.9.6.2:{port}"));
    assert_eq!(tcp["address"], format!("127.9.6.2:{port}"));
    assert_eq!((&tcp["protocol"], &tcp["problem"]), (&json!("tcp"), &Value::Null));
    assert_eq!(tcp["failed_rounds"], 0);
    assert!(tcp["since"].as_u64().unwrap() > 1_700_000_000);
    assert!((0.0..=1.0).contains(&tcp["loss"].as_f64().unwrap()));
    assert!(tcp["median_us"].as_u64().unwrap() <= tcp["longest_us"].as_u64().unwrap());
}

#[test]
fn the_page_and_the_row_are_read_only_and_of_a_mesh_only() {
    let mut network = Network::new(7, 1);
    let first = network.start(1, &[]);
    let address = admin(&first);
    for path in ["/mesh", "/mesh?paused", "/mesh/row"] {
        let (got, head) = (get(address, path), send(address, "HEAD", path, ""));
        assert_eq!((got.status, head.status), (200, 200), "{path}");
        assert!(!got.body.is_empty() && head.body.is_empty(), "{path}");
        let length = format!("content-length: {}", got.body.len());
        assert!(head.head.contains(&length), "{path}: no {length} in {}", head.head);
        let post = send(address, "POST", path, "Content-Length: 0\r\n");
        assert_eq!(post.status, 405, "{path}");
        assert!(post.head.contains("allow: get, head"), "{path}: {}", post.head);
    }
    let page = get(address, "/mesh").head;
    assert!(
        page.contains("content-security-policy: default-src 'none'; style-src 'sha256-"),
        "{page}"
    );
    assert!(page.contains("x-content-type-options: nosniff"), "{page}");
    assert!(page.contains("refresh: 5"), "{page}");
    assert!(!get(address, "/mesh?paused").head.contains("refresh:"));
    assert_eq!(get(address, "/mesh/").status, 404);

    let alone = Running::start(&["--tcp", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    for path in ["/mesh", "/mesh/row"] {
        let response = get(admin(&alone), path);
        assert_eq!(response.status, 404, "{path}");
        assert!(!response.body.contains("/mesh"), "{path}: {}", response.body);
    }
}

/// Waits until a cell of the page that is in the browser, and refreshes itself, is as it should be.
async fn wait_for(
    browser: &mut Browser,
    protocol: &str,
    row: &str,
    column: &str,
    is_right: impl Fn(&str) -> bool,
) {
    while !is_right(&cell(browser, protocol, row, column).await) {
        while browser.event("Page.lifecycleEvent").await["name"] != "load" {}
    }
}

/// The text of a cell, with spaces between its lines; empty if there is no such cell.
async fn cell(browser: &mut Browser, protocol: &str, row: &str, column: &str) -> String {
    let text = browser
        .evaluate(&format!(
            "{{ const table = document.querySelector('section:has(#{protocol}) table'); \
             const name = (head) => head.querySelector('span').firstChild.textContent; \
             const row = [...table?.tBodies[0].rows ?? []].find((row) => name(row.cells[0]) === '{row}'); \
             const heads = [...table?.tHead.rows[0].cells ?? []]; \
             const at = heads.findIndex((head, at) => at > 0 && name(head) === '{column}'); \
             const cell = row?.cells[row.cells.length === 2 ? 1 : at]; \
             cell?.innerText.replaceAll('\\n', ' ') ?? '' }}"
        ))
        .await;
    text.as_str().unwrap().to_owned()
}

async fn text(browser: &mut Browser, selector: &str) -> String {
    let text =
        browser.evaluate(&format!("document.querySelector({}).textContent", json!(selector))).await;
    text.as_str().unwrap().trim().to_owned()
}

/// Lets axe-core look at the page.
async fn check_accessibility(browser: &mut Browser, state: &str) {
    let violations = browser
        .evaluate(
            "axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) => violations \
             .map(({ id, nodes }) => [id, nodes.map(({ html, failureSummary }) => [html, failureSummary])]))",
        )
        .await;
    assert_eq!(violations, json!([]), "{state}");
}

//! The metrics as those who watch a server see them: docs/metrics.md has all of them, promtool finds
//! nothing to complain of, a real Prometheus reads them, and the alert rules and the dashboard in
//! deploy/ ask for none that there is not.

#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use common::binary::Running;
use common::client::Client;
use common::http::{Metrics, Response, admin, send};
use common::prometheus::{
    are_valid, documented, file, has_tested_rules, have_promtool, names, promtool, queries, sorted,
    text,
};
use common::{cert, tools};
use echo_server::Protocol;
use serde_json::Value;

const PROMETHEUS: (&[&str], &str) = (&["prometheus", "--version"], "prometheus");

/// A server with all five protocols, and so all metrics.
fn start_all() -> Running {
    start_all_with(&[])
}

fn start_all_with(more: &[&str]) -> Running {
    let (pem, key) = (cert("server.pem"), cert("server.key"));
    let (pem, key) = (pem.to_str().unwrap(), key.to_str().unwrap());
    let all = [
        "--tcp=0",
        "--tls=0",
        "--udp=0",
        "--ws=0",
        "--wss=0",
        "--admin=0",
        "--cert",
        pem,
        "--key",
        key,
    ];
    Running::start(&[&all, more].concat())
}

#[test]
fn the_page_has_every_metric_and_every_reason() {
    let server = start_all_with(&["--fault=tcp:delay=0ms"]);
    let metrics = Metrics::of(admin(&server));
    let page = text("docs/metrics.md");
    assert_eq!(documented(&page, "The metrics"), sorted(metrics.families()));
    for line in metrics.0.lines().filter(|line| !line.starts_with('#')) {
        let Some((_, labels)) = line.split_once('{') else { continue };
        for label in labels.split_once('}').unwrap().0.split(',') {
            let (name, value) = label.split_once('=').unwrap();
            assert!(name == "le" || page.contains(&format!("`{name}`")), "label {name}");
            if name == "reason" {
                let value = value.trim_matches('"');
                assert!(page.contains(&format!("`{value}`")), "reason {value} is not in the page");
            }
        }
    }
}

#[test]
fn rules_and_dashboard_ask_only_for_metrics_that_there_are() {
    let server = start_all();
    let metrics = Metrics::of(admin(&server));
    let exposed: BTreeSet<_> = metrics.families().into_iter().collect();
    let queries = queries("deploy/grafana/echo-server.json", "echo-server");
    for asked in [queries.join("\n"), text("deploy/prometheus/alerts.yml")] {
        let missing: Vec<_> = names(&asked).difference(&exposed).copied().collect();
        assert!(missing.is_empty(), "no such metrics: {missing:?}");
        assert!(names(&asked).len() > 5);
    }
    are_valid(&queries);
}

#[test]
fn promtool_finds_nothing_to_complain_of() {
    if !have_promtool() {
        return;
    }
    let server = start_all();
    promtool(&["check", "metrics"], &Metrics::of(admin(&server)).0, "metrics of all protocols");
    let bare = Running::start(&["--udp=0", "--admin=0"]);
    promtool(&["check", "metrics"], &Metrics::of(admin(&bare)).0, "metrics of UDP alone");
    let config = file("deploy/prometheus/prometheus.yml");
    promtool(&["check", "config", config.to_str().unwrap()], "", "prometheus.yml");
    has_tested_rules("alerts");
}

/// A running Prometheus.
struct Prometheus {
    process: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Prometheus {
    /// Starts one that scrapes `target` every second, with our alert rules.
    fn start(target: SocketAddr) -> Prometheus {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let config = text("deploy/prometheus/prometheus.yml")
            .replace("15s", "1s\n  evaluation_interval: 1s")
            .replace(
                "- alerts.yml",
                &format!("- {}", file("deploy/prometheus/alerts.yml").display()),
            )
            .replace("- mesh.yml", &format!("- {}", file("deploy/prometheus/mesh.yml").display()))
            .replace("127.0.0.1:8082", &target.to_string());
        fs::write(path("prometheus.yml"), config).unwrap();
        // It does not tell which port it got, so it is told one that was free just now.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", path("prometheus.yml")))
            .arg(format!("--storage.tsdb.path={}", path("data")))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(path("log")).unwrap())
            .spawn()
            .unwrap();
        Prometheus { process, address, _directory: directory }
    }

    /// What its API answers; `None` while it does not listen yet.
    fn api(&mut self, path: &str) -> Option<Value> {
        let ended = self.process.try_wait().unwrap();
        assert!(ended.is_none(), "Prometheus has ended: {ended:?}");
        let mut stream = TcpStream::connect(self.address).ok()?;
        // HTTP/1.0 has no chunks.
        write!(stream, "GET /api/v1/{path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let answer: Value = serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()?;
        (answer["status"] == "success").then(|| answer["data"].clone())
    }

    /// The values of a query by the label `protocol`, sorted.
    fn query(&mut self, query: &str) -> Vec<(String, String)> {
        let Some(data) = self.api(&format!("query?query={query}")) else { return Vec::new() };
        let mut values: Vec<_> = data["result"]
            .as_array()
            .unwrap()
            .iter()
            .map(|series| {
                let protocol = series["metric"]["protocol"].as_str().unwrap_or("");
                (protocol.to_owned(), series["value"][1].as_str().unwrap().to_owned())
            })
            .collect();
        values.sort();
        values
    }

    /// Asks until the answer is `expected`, a value for each protocol.
    fn wait_for(&mut self, query: &str, expected: &[(&str, &str)]) {
        let expected: Vec<_> =
            expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        while self.query(query) != expected {
            std::thread::yield_now();
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_real_prometheus_reads_the_values_of_known_traffic() {
    if !tools::have(PROMETHEUS.0, PROMETHEUS.1) {
        return;
    }
    let server = start_all();
    let admin = admin(&server);
    let mut prometheus = Prometheus::start(admin);
    let mut clients = Vec::new();
    for (at, protocol) in Protocol::ALL.iter().copied().enumerate() {
        let address = server.address(protocol.name());
        let mut client = if protocol == Protocol::Udp {
            let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket.connect(address).await.unwrap();
            Client::Datagrams(socket)
        } else {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            Client::over(protocol, stream).await
        };
        let payload = vec![1; 100 * (at + 1)];
        assert_eq!(client.echo(&payload).await, payload);
        clients.push(client);
    }
    // In the order of their names: tcp, tls, udp, ws, wss.
    let bytes = [("tcp", "100"), ("tls", "200"), ("udp", "300"), ("ws", "400"), ("wss", "500")];
    prometheus.wait_for("echo_received_bytes_total", &bytes);
    prometheus.wait_for("echo_sent_bytes_total", &bytes);
    let one = [("tcp", "1"), ("tls", "1"), ("ws", "1"), ("wss", "1")];
    prometheus.wait_for("echo_connections", &one);
    prometheus.wait_for("echo_connections_opened_total", &one);
    prometheus.wait_for("echo_handshake_duration_seconds_count", &one[1..]);
    prometheus.wait_for("sum(echo_tls_handshakes_total)", &[("", "2")]);
    prometheus.wait_for("count(echo_build_info)", &[("", "1")]);
    prometheus.wait_for("up", &[("", "1")]);
    drop(clients);
    let none = [("tcp", "0"), ("tls", "0"), ("ws", "0"), ("wss", "0")];
    prometheus.wait_for("echo_connections", &none);
    prometheus.wait_for("sum%20by%20(protocol)%20(echo_connections_closed_total)", &one);
    // It has read what has ended, too, once.
    prometheus.wait_for("echo_sent_bytes_total", &bytes);
    let healthy = |rule: &Value| rule["health"] == "ok";
    loop {
        let rules = prometheus.api("rules").unwrap();
        let groups = rules["groups"].as_array().unwrap();
        let rules: Vec<_> =
            groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
        assert!(rules.iter().all(|rule| rule["health"] != "err"), "{rules:?}");
        if rules.into_iter().all(healthy) {
            break;
        }
    }
    let targets = prometheus.api("targets").unwrap();
    assert_eq!(targets["activeTargets"][0]["lastError"], "");
}

#[test]
fn both_formats_say_the_same() {
    let server = start_all();
    let admin = admin(&server);
    let accept = "Accept: application/openmetrics-text\r\n";
    let Response { body, .. } = send(admin, "GET", "/metrics", accept);
    let series = |text: &str| -> BTreeSet<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| {
                // One writes a bucket's bound as 1.0, the other as 1; their labels' orders differ.
                let series = line.split(' ').next().unwrap().replace(".0\"", "\"");
                let mut labels: Vec<_> = series.split(['{', ',', '}']).collect();
                labels.sort_unstable();
                labels.join(" ")
            })
            .collect()
    };
    let (open_metrics, plain) = (series(&body), series(&Metrics::of(admin).0));
    let differing: Vec<_> = open_metrics.symmetric_difference(&plain).collect();
    assert!(differing.is_empty(), "{differing:?}");
    assert!(plain.len() > 100);
}

//! The metrics as those who watch a server see them: docs/metrics.md has all of them, promtool finds
//! nothing to complain of, a real Prometheus reads them, and the alert rules and the dashboard in
//! deploy/ ask for none that there is not.

#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeSet;

use common::binary::Running;
use common::cert;
use common::client::Client;
use common::http::{Metrics, Response, admin, send};
use common::prometheus::{
    are_valid, documented, file, has_tested_rules, have_promtool, names, promtool, queries, sorted,
    text,
};
use common::prometheus_server::{Prometheus, have_prometheus};
use echo_server::Protocol;
use serde_json::Value;

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

/// The values of a query by the label `protocol`, sorted.
fn by_protocol(prometheus: &mut Prometheus, query: &str) -> Vec<(String, String)> {
    let protocol = |labels: Value| labels["protocol"].as_str().unwrap_or("").to_owned();
    let found = prometheus.query(query).into_iter();
    let mut values: Vec<_> = found.map(|(labels, value)| (protocol(labels), value)).collect();
    values.sort();
    values
}

/// Asks until the answer is `expected`, a value for each protocol.
fn wait_for(prometheus: &mut Prometheus, query: &str, expected: &[(&str, &str)]) {
    let expected: Vec<_> =
        expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    while by_protocol(prometheus, query) != expected {
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_real_prometheus_reads_the_values_of_known_traffic() {
    if !have_prometheus() {
        return;
    }
    let server = start_all();
    let admin = admin(&server);
    let mut prometheus = Prometheus::start(&[admin]);
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
    wait_for(&mut prometheus, "echo_received_bytes_total", &bytes);
    wait_for(&mut prometheus, "echo_sent_bytes_total", &bytes);
    let one = [("tcp", "1"), ("tls", "1"), ("ws", "1"), ("wss", "1")];
    wait_for(&mut prometheus, "echo_connections", &one);
    wait_for(&mut prometheus, "echo_connections_opened_total", &one);
    wait_for(&mut prometheus, "echo_handshake_duration_seconds_count", &one[1..]);
    wait_for(&mut prometheus, "sum(echo_tls_handshakes_total)", &[("", "2")]);
    wait_for(&mut prometheus, "count(echo_build_info)", &[("", "1")]);
    wait_for(&mut prometheus, "up", &[("", "1")]);
    drop(clients);
    let none = [("tcp", "0"), ("tls", "0"), ("ws", "0"), ("wss", "0")];
    wait_for(&mut prometheus, "echo_connections", &none);
    wait_for(&mut prometheus, "sum by (protocol) (echo_connections_closed_total)", &one);
    // It has read what has ended, too, once.
    wait_for(&mut prometheus, "echo_sent_bytes_total", &bytes);
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

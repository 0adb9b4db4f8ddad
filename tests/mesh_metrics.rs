//! The metrics of probes as those who watch a mesh see them: docs/metrics.md has all of them,
//! promtool finds nothing to complain of, and the rules and the dashboard of the mesh ask for none
//! that there is not.

#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Stdio};

use common::binary::{self, Running};
use common::cert;
use common::http::Metrics;
use common::prometheus::{
    are_valid, documented, has_tested_rules, have_promtool, names, promtool, queries, sorted, text,
};

/// A probe that runs for ever and serves what it finds. It ends with the test.
struct Exporting {
    process: Child,
    address: SocketAddr,
    /// Kept open, since a probe that cannot print ends.
    _stdout: BufReader<ChildStdout>,
}

impl Exporting {
    fn start(arguments: &[&str]) -> Exporting {
        let mut process = binary::command()
            .args(["probe", "--every", "100ms", "--export", "127.0.0.1:0"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "the probe has ended");
            if let Some((_, behind)) = line.split_once("Metrics at http://") {
                break behind.split('/').next().unwrap().parse().unwrap();
            }
        };
        Exporting { process, address, _stdout: stdout }
    }

    /// A scrape that has all of `expected`.
    fn wait_for(&self, expected: &[&str]) -> Metrics {
        loop {
            let metrics = Metrics::of(self.address);
            if expected.iter().all(|part| metrics.0.contains(part)) {
                return metrics;
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Exporting {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Metrics of all kinds: of a pair that is up over every protocol, of a port on which nothing
/// listens, and of a name that there is not.
fn scrape() -> Metrics {
    let (pem, key) = (cert("server.pem"), cert("server.key"));
    let (pem, key) = (pem.to_str().unwrap(), key.to_str().unwrap());
    let server = Running::start(&[
        "--tcp=0", "--tls=0", "--udp=0", "--ws=0", "--wss=0", "--cert", pem, "--key", key,
    ]);
    let url =
        |protocol: &str| format!("{protocol}://localhost:{}", server.address(protocol).port());
    let urls = ["tcp", "tls", "udp", "ws", "wss"].map(url);
    let ca = cert("ca.pem");
    let directory = tempfile::tempdir().unwrap();
    let targets = directory.path().join("targets");
    let urls = [&urls[..], &["tcp://127.0.0.1:1".to_owned(), "tcp://nobody.invalid:7".to_owned()]];
    fs::write(&targets, urls.concat().join("\n")).unwrap();
    let (ca, targets) = (ca.to_str().unwrap(), targets.to_str().unwrap());
    let probe = Exporting::start(&["--resolve-all", "-4", "--ca", ca, "--targets", targets]);
    probe.wait_for(&[
        "echo_probe_errors_total{",
        "echo_probe_lookup_failures_total{",
        "echo_probe_certificate_not_after_timestamp_seconds{",
        "echo_probe_phase_duration_seconds{",
        "echo_probe_rtt_seconds_bucket{",
        "phase=\"upgrade\"",
        "kind=\"refused\"",
    ])
}

/// The families that only probes have.
fn of_probes(metrics: &Metrics) -> Vec<&str> {
    let families = metrics.families().into_iter();
    sorted(families.filter(|name| name.starts_with("echo_probe_")).collect())
}

#[test]
fn the_page_has_every_metric_of_probes_and_every_label() {
    let metrics = scrape();
    let page = text("docs/metrics.md");
    assert_eq!(documented(&page, "The metrics of probes"), of_probes(&metrics));
    for line in metrics.0.lines().filter(|line| line.starts_with("echo_probe_")) {
        let (_, labels) = line.split_once('{').unwrap();
        for label in labels.rsplit_once('}').unwrap().0.split("\",") {
            let (name, value) = label.split_once("=\"").unwrap();
            assert!(name == "le" || page.contains(&format!("`{name}`")), "label {name}");
            if name == "kind" || name == "phase" {
                let value = value.trim_end_matches('"');
                assert!(page.contains(&format!("`{value}`")), "{name} {value} is not in the page");
            }
        }
    }
}

#[test]
fn rules_and_dashboard_ask_only_for_metrics_of_probes_that_there_are() {
    let metrics = scrape();
    let exposed: BTreeSet<_> = of_probes(&metrics).into_iter().collect();
    let queries = queries("deploy/grafana/echo-mesh.json", "echo-server mesh");
    let rules = text("deploy/prometheus/mesh.yml");
    for asked in [&queries.join("\n"), &rules] {
        let missing: Vec<_> = names(asked).difference(&exposed).copied().collect();
        assert!(missing.is_empty(), "no such metrics: {missing:?}");
        assert!(names(asked).len() > 5);
    }
    // What rules record is called echo:….
    let recorded: BTreeSet<_> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).collect();
    for query in &queries {
        for word in query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':') {
            assert!(!word.starts_with("echo:") || recorded.contains(word), "{word} in {query}");
        }
    }
    are_valid(&queries);
}

#[test]
fn promtool_finds_nothing_to_complain_of_in_a_mesh() {
    if !have_promtool() {
        return;
    }
    promtool(&["check", "metrics"], &scrape().0, "metrics of a probe");
    has_tested_rules("mesh");
}

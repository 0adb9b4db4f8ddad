//! `echo-server probe --every`, from outside: what it counts and tells, and what it reads again.

#![cfg(target_os = "linux")]

mod common;

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::binary::{Running, command};
use common::cert;
use common::http::{Metrics, get, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A watch that has announced where its metrics are.
struct Watching {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    metrics: SocketAddr,
}

impl Watching {
    fn start(args: &[&str]) -> Watching {
        let always = ["probe", "--json", "--source-name", "here", "--export", "127.0.0.1:0"];
        let mut child = command()
            .args(always)
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(first["event"], "listening");
        let metrics = first["address"].as_str().unwrap().parse().unwrap();
        Watching { child, lines, metrics }
    }

    /// The next event of this name.
    fn event(&mut self, name: &str) -> Value {
        let events = self.lines.by_ref().map(|line| serde_json::from_str(&line.unwrap()).unwrap());
        let mut events = events.filter(|event: &Value| event["event"] == name);
        events.next().unwrap_or_else(|| panic!("the watch ends without '{name}'"))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until a target has had `rounds` rounds, and returns the metrics.
    fn after_rounds(&self, rounds: u64, labels: &str) -> Metrics {
        let series = format!("echo_probe_rounds_total{labels}");
        self.until(|metrics| metrics.find(&series).is_some_and(|ended| ended >= rounds as f64))
    }

    /// Reads the metrics until they are as `wanted`.
    fn until(&self, wanted: impl Fn(&Metrics) -> bool) -> Metrics {
        let began = Instant::now();
        loop {
            let metrics = Metrics::of(self.metrics);
            if wanted(&metrics) {
                return metrics;
            }
            // Nothing takes so long; a test that would never end shows what there is.
            assert!(began.elapsed() < Duration::from_secs(60), "{}", metrics.0);
            std::thread::yield_now();
        }
    }

    /// Ends it, and returns the exit code and the summary of each target.
    fn stop(mut self) -> (Option<i32>, Vec<Value>) {
        self.signal(Signal::INT);
        let lines = self.lines.by_ref().map(|line| serde_json::from_str(&line.unwrap()).unwrap());
        let summaries = lines.filter(|event: &Value| event["event"] == "summary").collect();
        (self.child.wait().unwrap().code(), summaries)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn labels(url: &str, address: Option<SocketAddr>) -> String {
    let protocol = url.split(':').next().unwrap();
    let address = address.map(|address| format!("address=\"{address}\",")).unwrap_or_default();
    format!("{{source=\"here\",target=\"{url}\",{address}protocol=\"{protocol}\"}}")
}

fn server(args: &[&str]) -> Running {
    let (pem, key) = (cert("server.pem"), cert("server.key"));
    let identity = ["--cert", pem.to_str().unwrap(), "--key", key.to_str().unwrap()];
    Running::start(&[&identity, args].concat())
}

#[test]
fn every_protocol_is_watched_and_each_message_is_counted() {
    let server = server(&["--tcp=0", "--tls=0", "--udp=0", "--ws=0", "--wss=0"]);
    let urls: Vec<_> = ["tcp", "tls", "udp", "ws", "wss"]
        .iter()
        .map(|protocol| {
            // A name for those that verify one.
            let address = server.address(protocol);
            match *protocol {
                "tls" | "wss" => format!("{protocol}://localhost:{}", address.port()),
                _ => format!("{protocol}://{address}"),
            }
        })
        .collect();
    let ca = cert("ca.pem");
    let mut args = vec!["--every", "1s", "-c", "4", "--ca", ca.to_str().unwrap()];
    args.extend(urls.iter().map(String::as_str));
    let watching = Watching::start(&args);
    for (url, protocol) in urls.iter().zip(["tcp", "tls", "udp", "ws", "wss"]) {
        let address = Some(server.address(protocol)).filter(|_| !url.contains("localhost"));
        let labels = labels(url, address);
        let metrics = watching.after_rounds(3, &labels);
        let value = |name: &str| metrics.value(&format!("echo_probe_{name}{labels}"));
        assert_eq!((value("up"), value("failed_rounds")), (1.0, 0.0), "{url}");
        let sent = value("messages_sent_total");
        assert_eq!(sent, 4.0 * value("rounds_total"), "{url}");
        assert_eq!(sent, value("messages_received_total"), "{url}");
        assert_eq!(sent, value("rtt_seconds_count"), "{url}");
        assert_eq!(value("messages_lost_total"), 0.0, "{url}");
        let phase = |name: &str| {
            let labels = labels.replace('}', &format!(",phase=\"{name}\"}}"));
            metrics.find(&format!("echo_probe_phase_duration_seconds{labels}"))
        };
        assert_eq!(phase("connect").is_some(), protocol != "udp", "{url}");
        assert_eq!(phase("tls").is_some(), matches!(protocol, "tls" | "wss"), "{url}");
        assert_eq!(phase("upgrade").is_some(), matches!(protocol, "ws" | "wss"), "{url}");
        let expiry = format!("echo_probe_certificate_not_after_timestamp_seconds{labels}");
        assert_eq!(metrics.find(&expiry).is_some(), matches!(protocol, "tls" | "wss"), "{url}");
    }
    assert_eq!(Metrics::of(watching.metrics).value("echo_probe_targets{source=\"here\"}"), 5.0);
    let (code, summaries) = watching.stop();
    assert_eq!((code, summaries.len()), (Some(0), 5), "{summaries:?}");
    assert!(summaries.iter().all(|one| one["up"] == true && one["sent"] == one["received"]));
}

#[test]
fn who_goes_down_and_comes_back_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let url = format!("tcp://{address}");
    // It is nobody's until the server takes it.
    drop(listener);
    let mut watching = Watching::start(&["--every", "100ms", &url]);
    let down = watching.event("down");
    assert_eq!(down["why"], "connection refused: nothing listens there");
    assert_eq!(down["errors"]["refused"], 1);
    let again = server(&["--tcp", &address.to_string()]);
    let up = watching.event("up");
    assert!(up["after_s"].as_f64().unwrap() > 0.0 && up["failed_rounds"] == 0, "{up}");
    let labels = labels(&url, Some(address));
    let metrics = Metrics::of(watching.metrics);
    let refused = labels.replace('}', ",kind=\"refused\"}");
    assert!(metrics.value(&format!("echo_probe_errors_total{refused}")) >= 1.0);
    again.terminate();
    watching.event("down");
    let (code, summaries) = watching.stop();
    assert_eq!((code, &summaries[0]["up"]), (Some(1), &Value::Bool(false)));
}

#[test]
fn lost_and_duplicated_datagrams_are_counted() {
    let fault = "udp:drop=30%,duplicate=20%";
    let server = server(&["--udp=0", "--fault", fault, "--fault-seed", "7"]);
    let address = server.address("udp");
    let url = format!("udp://{address}");
    let args = ["--every", "1s", "--timeout", "100ms", "-c", "20", &url];
    let labels = labels(&url, Some(address));
    let watching = Watching::start(&args);
    let metrics = watching.after_rounds(2, &labels);
    let count = |name: &str| metrics.value(&format!("echo_probe_messages_{name}_total{labels}"));
    let (sent, received) = (count("sent"), count("received"));
    assert_eq!(sent, received + count("lost") + count("late"));
    assert!(count("lost") > 0.0 && received > 0.0 && count("duplicated") > 0.0);
    assert_eq!(metrics.value(&format!("echo_probe_up{labels}")), 1.0);
}

#[test]
fn a_round_of_a_silent_target_is_over_when_the_next_begins() {
    // The kernel accepts, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let url = format!("tcp://{address}");
    let watching = Watching::start(&["--every", "300ms", "-c", "3", &url]);
    let labels = labels(&url, Some(address));
    let metrics = watching.after_rounds(2, &labels);
    let value = |name: &str| metrics.value(&format!("echo_probe_{name}{labels}"));
    assert_eq!(value("messages_sent_total"), value("messages_lost_total"));
    let timeout = labels.replace('}', ",kind=\"timeout\"}");
    assert_eq!(metrics.value(&format!("echo_probe_errors_total{timeout}")), value("rounds_total"));
}

#[test]
fn the_file_of_targets_is_read_again() {
    let (one, other) = (server(&["--tcp=0"]), server(&["--tcp=0"]));
    let (one, other) = (one.address("tcp"), other.address("tcp"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("targets");
    let write = |text: &str| {
        // At once, as editors do: half a file is not read.
        let new = directory.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &file).unwrap();
    };
    write(&format!("tcp://{one} # the first\n"));
    let mut watching = Watching::start(&["--every", "500ms", "--targets", file.to_str().unwrap()]);
    let labels_of = |address: SocketAddr| labels(&format!("tcp://{address}"), Some(address));
    watching.after_rounds(1, &labels_of(one));
    write(&format!("tcp://{other}\n"));
    assert_eq!(watching.event("reread")["targets"], 1);
    watching.after_rounds(1, &labels_of(other));
    // What is watched no longer goes after three lookups.
    let gone = format!("echo_probe_up{}", labels_of(one));
    watching.until(|metrics| metrics.find(&gone).is_none());
    write("tcp//typo\n");
    let why = watching.event("unusable")["why"].as_str().unwrap().to_owned();
    let begin = format!("--targets {} line 1: 'tcp//typo' ", file.display());
    assert!(why.starts_with(&begin), "{why}");
    wait_for(watching.metrics, "echo_probe_last_reload_successful{source=\"here\"}", 0.0);
    let ended = Metrics::of(watching.metrics);
    let ended = ended.value(&format!("echo_probe_rounds_total{}", labels_of(other))) as u64;
    watching.after_rounds(ended + 1, &labels_of(other));
    // A pipe that nobody writes to stops nothing.
    std::fs::remove_file(&file).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &file,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let why = watching.event("unusable")["why"].as_str().unwrap().to_owned();
    assert!(why.ends_with("it is no regular file, and is not read again"), "{why}");
    watching.after_rounds(ended + 2, &labels_of(other));
    std::fs::remove_file(&file).unwrap();
    write(&format!("tcp://{other}\ntcp://{one}\n"));
    watching.signal(Signal::HUP);
    while watching.event("reread")["targets"] != 2 {}
    assert_eq!(watching.stop().0, Some(0));
}

#[test]
fn a_certificate_is_read_again() {
    let server = server(&["--tls=0"]);
    let url = format!("tls://localhost:{}", server.address("tls").port());
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    let copy = |from: &Path| {
        let new = directory.path().join("new");
        std::fs::copy(from, &new).unwrap();
        std::fs::rename(new, &ca).unwrap();
    };
    let others = command().arg("certs").arg(directory.path().join("others")).output().unwrap();
    assert!(others.status.success());
    copy(&directory.path().join("others/ca.pem"));
    let mut watching = Watching::start(&["--every", "100ms", "--ca", ca.to_str().unwrap(), &url]);
    let down = watching.event("down");
    assert_eq!(down["errors"]["certificate"], 1, "{down}");
    // When it expires is known, although nobody vouches for it.
    let expiry = "echo_probe_certificate_not_after_timestamp_seconds";
    let expiry = format!("{expiry}{}", labels(&url, None));
    assert!(Metrics::of(watching.metrics).value(&expiry) > 1.8e9);
    copy(&cert("ca.pem"));
    watching.event("reread");
    watching.event("up");
}

#[test]
fn each_address_of_a_name_is_a_target() {
    let server = server(&["--tcp", "127.0.0.1:0"]);
    let address = server.address("tcp");
    let url = format!("tcp://localhost:{}", address.port());
    let watching = Watching::start(&["--every", "100ms", "-4", "--resolve-all", &url]);
    let metrics = watching.after_rounds(1, &labels(&url, Some(address)));
    assert_eq!(metrics.value("echo_probe_targets{source=\"here\"}"), 1.0);
}

#[test]
fn a_name_that_has_no_address_is_down_and_told_once() {
    let mut watching =
        Watching::start(&["--every", "100ms", "--resolve-all", "tcp://nowhere.invalid:1"]);
    assert_eq!(watching.event("lookup_failed")["name"], "nowhere.invalid");
    let down = watching.event("down");
    assert_eq!(down["errors"]["resolve"], 1, "{down}");
    let failures = "echo_probe_lookup_failures_total{source=\"here\",name=\"nowhere.invalid\"}";
    watching.until(|metrics| metrics.find(failures).is_some_and(|count| count >= 2.0));
    let (_, summaries) = watching.stop();
    assert_eq!(summaries.len(), 1);
}

#[test]
fn the_endpoint_has_the_paths_of_a_server_and_a_row() {
    let server = server(&["--tcp=0"]);
    let url = format!("tcp://{}", server.address("tcp"));
    let watching = Watching::start(&["--every", "1s", &url]);
    watching.after_rounds(1, &labels(&url, Some(server.address("tcp"))));
    assert_eq!(get(watching.metrics, "/livez").body, "ok\n");
    assert_eq!(get(watching.metrics, "/readyz").body, "ok\n");
    let row: Value = serde_json::from_str(&get(watching.metrics, "/mesh/row").body).unwrap();
    assert_eq!((&row["source"], &row["targets"][0]["up"]), (&"here".into(), &true.into()));
    assert!(get(watching.metrics, "/mesh").body.contains(" class=\"state good\">"));
}

#[test]
fn a_signal_ends_what_waits_for_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, fifo, mode, 0).unwrap();
    let args = ["probe", "--every", "1s", "--targets", pipe.to_str().unwrap()];
    let mut child = command().args(args).stdout(Stdio::null()).spawn().unwrap();
    // The second bit: it catches SIGINT by now.
    let status = format!("/proc/{}/status", child.id());
    let caught = || {
        let status = std::fs::read_to_string(&status).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap()
    };
    while caught() & 0b10 == 0 {
        std::thread::yield_now();
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn what_is_wrong_with_a_flag_is_said_in_a_line() {
    let missing = "--targets /nonexistent/targets: No such file or directory";
    for (args, said) in [
        (&["--every", "1s"][..], "URL"),
        (&["--every", "0", "tcp://h:1"], "--every"),
        (&["--every", "1s", "--rate", "5", "tcp://h:1"], "--rate"),
        (&["--every", "1s", "--interval", "5", "tcp://h:1"], "--interval"),
        (&["--peers", "3", "tcp://h:1"], "--every"),
        (&["--every", "1s", "--peers", "0", "tcp://h:1"], "--peers"),
        (&["--every", "1s", "--targets", "/nonexistent/targets"], missing),
        (&["--every", "1s", "--export", "192.0.2.1:1", "tcp://h:1"], "--export 192.0.2.1:1: "),
        (&["--every", "1s", "--ca", "/nonexistent/ca", "tls://h:1"], "--ca /nonexistent/ca: "),
        (&["--every", "1s", "--size", "0", "tcp://h:1"], "--size: "),
    ] {
        let output = command().arg("probe").args(args).output().unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(complaint.contains(said), "{args:?}: {complaint}");
        assert_eq!(complaint.lines().count(), 1, "{args:?}: {complaint}");
        let code = if said.starts_with("--export") { 1 } else { 2 };
        assert_eq!(output.status.code(), Some(code), "{args:?}: {complaint}");
    }
}

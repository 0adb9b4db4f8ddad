//! What a mesh costs: 200 hosts that probe eight others each, and one host that probes a thousand.
//! docs/mesh.md has the figures.
//!
//! `cargo test --release --test mesh_scale -- --ignored --nocapture --test-threads 1` takes five minutes.
//! All of it is in a network namespace of its own, which takes root. Every figure is for what the machine
//! did meanwhile, too: the load is printed.
#![cfg(target_os = "linux")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use common::binary::{self, Running};
use common::http::{Metrics, get};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;
use tokio::runtime;
use tokio::time::{Instant, sleep};

/// The name of all hosts.
const NAME: &str = "echo-mesh";

/// From one round to the next.
const EVERY: Duration = Duration::from_secs(10);

const PROTOCOLS: [&str; 5] = ["tcp", "tls", "udp", "ws", "wss"];

/// How long processor time is measured, and how often. Each is one interval, so that it has one round of
/// each target.
const WINDOW: Duration = EVERY;
const WINDOWS: usize = 4;

/// A network namespace in which the current thread and its children are, with hosts of one name.
struct Net {
    directory: TempDir,
    hosts: usize,
}

impl Net {
    /// `None`, with a message, where that is not permitted.
    fn with(hosts: usize) -> Option<Net> {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS) {
            eprintln!("skipped: network namespaces are not permitted here: {error}");
            return None;
        }
        let net = Net { directory: tempfile::tempdir().unwrap(), hosts };
        let mut file = String::from("127.0.0.1 localhost\n");
        for n in 0..hosts {
            writeln!(file, "{} {NAME}", address(n)).unwrap();
        }
        let path = net.directory.path().join("hosts");
        fs::write(&path, file).unwrap();
        let run = |command: &mut Command| assert!(command.status().unwrap().success());
        run(Command::new("mount").args(["--make-rprivate", "/"]));
        run(Command::new("mount").arg("--bind").arg(&path).arg("/etc/hosts"));
        run(Command::new("ip").args(["link", "set", "lo", "up"]));
        run(binary::command()
            .args(["certs", "--name", NAME])
            .arg(net.certs())
            .stdout(Stdio::null()));
        Some(net)
    }

    fn certs(&self) -> std::path::PathBuf {
        self.directory.path().join("certs")
    }

    /// The arguments of a server.
    fn server(&self, protocols: &[&str], host: &str) -> Command {
        let mut command = binary::command();
        command.args(["--threads", "1", "-q", "--host", host]);
        command.args(protocols.iter().map(|protocol| format!("--{protocol}")));
        if protocols.iter().any(|protocol| matches!(*protocol, "tls" | "wss")) {
            command.arg("--cert").arg(self.certs().join("server.pem"));
            command.arg("--key").arg(self.certs().join("server.key"));
        }
        command
    }

    /// Starts all hosts, of which each probes `peers` others.
    fn mesh(&self, protocols: &[&str], peers: usize) -> Vec<Running> {
        let start = |n| {
            let mut command = self.server(protocols, &address(n).to_string());
            command.args(["--mesh", NAME, "--mesh-peers", &peers.to_string()]);
            command.args(["--mesh-every", &format!("{}s", EVERY.as_secs())]);
            command.args(["--mesh-name", &format!("host-{n}")]);
            command.arg("--mesh-ca").arg(self.certs().join("ca.pem"));
            command.args(["--admin", &format!("{}:8082", address(n))]);
            Running::spawn(&mut command)
        };
        (0..self.hosts).map(start).collect()
    }

    /// Bytes that the loopback interface has carried.
    fn bytes() -> u64 {
        let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let line = text.lines().find_map(|line| line.trim().strip_prefix("lo:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

fn address(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1 + (n / 250) as u8, 1 + (n % 250) as u8)
}

/// A process, as /proc has it.
struct Process(u32);

impl Process {
    /// Processor time of all threads, also of those that have ended, in seconds. The kernel knows it in
    /// nanoseconds, and writes it in hundredths of a second.
    fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks = fields.split_whitespace().skip(11).take(2).map(|n| n.parse::<f64>().unwrap());
        ticks.sum::<f64>() / rustix::param::clock_ticks_per_second() as f64
    }

    /// A line of its status in MiB.
    fn memory(&self, name: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
    }
}

/// All values of a family, with their labels.
fn values<'a>(metrics: &'a Metrics, family: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    metrics.0.lines().filter_map(move |line| {
        let (labels, value) = line.strip_prefix(family)?.strip_prefix('{')?.split_once("} ")?;
        Some((labels, value.parse().unwrap()))
    })
}

fn total(metrics: &Metrics, family: &str) -> f64 {
    values(metrics, family).map(|(_, value)| value).sum()
}

/// The address in labels.
fn address_of(labels: &str) -> SocketAddr {
    let (_, rest) = labels.split_once("address=\"").unwrap();
    rest.split_once('"').unwrap().0.parse().unwrap()
}

/// How many series of probes a scrape has, and how many bytes they are.
fn series(metrics: &Metrics) -> (usize, usize) {
    let lines = || metrics.0.lines().filter(|line| line.starts_with("echo_probe_"));
    (lines().count(), lines().map(|line| line.len() + 1).sum())
}

/// The least, the median, and the greatest.
fn spread(values: impl IntoIterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap();
    text.split_whitespace().next().unwrap().to_owned()
}

/// Measures for a while. What is measured begins when nothing else is to be waited for.
fn pass(time: Duration) {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { sleep(time).await });
}

/// Scrapes until all targets are up, which there have to be `targets` of.
fn wait_until_up(address: SocketAddr, targets: usize) -> Metrics {
    let since = Instant::now();
    loop {
        let metrics = Metrics::of(address);
        let up = total(&metrics, "echo_probe_up") as usize;
        if up == targets {
            return metrics;
        }
        assert!(since.elapsed() < 6 * EVERY, "{address}: {up} of {targets} are up");
        pass(EVERY / 10);
    }
}

/// What processes have used in each of the windows, in seconds of processor time, one after the other.
fn measure(processes: &[Process]) -> Vec<Vec<f64>> {
    let read = || processes.iter().map(Process::cpu).collect::<Vec<_>>();
    let mut before = read();
    let window = |_| {
        pass(WINDOW);
        let now = read();
        let used = before.iter().zip(&now).map(|(before, now)| now - before).collect();
        before = now;
        used
    };
    (0..WINDOWS).map(window).collect()
}

/// Percent of a core, over all windows.
fn percent(windows: &[Vec<f64>], process: usize) -> f64 {
    let used: f64 = windows.iter().map(|window| window[process]).sum();
    100.0 * used / (WINDOW * WINDOWS as u32).as_secs_f64()
}

/// The least and the median of what all processes together have used in a window, as percent of a core
/// for each process.
fn mean(windows: &[Vec<f64>]) -> [f64; 2] {
    let each = |window: &Vec<f64>| {
        100.0 * window.iter().sum::<f64>() / window.len() as f64 / WINDOW.as_secs_f64()
    };
    let [least, median, _] = spread(windows.iter().map(each));
    [least, median]
}

#[test]
#[ignore = "measures, and takes a release build"]
fn two_hundred_hosts_of_which_each_probes_eight() {
    const HOSTS: usize = 200;
    const PEERS: usize = 8;
    let Some(net) = Net::with(HOSTS) else { return };
    for protocols in [&["tcp", "udp"][..], &PROTOCOLS] {
        let hosts = net.mesh(protocols, PEERS);
        let admin = |n| SocketAddr::from((address(n), 8082));
        let targets = PEERS * protocols.len();
        for n in 0..HOSTS {
            wait_until_up(admin(n), targets);
        }
        let processes: Vec<_> = hosts.iter().map(|host| Process(host.pid())).collect();
        let scrape = || (0..HOSTS).map(|n| Metrics::of(admin(n))).collect::<Vec<_>>();
        // Each with the time at which it was read, since it takes a while to ask all.
        let rounds = || {
            let of = |n| (total(&Metrics::of(admin(n)), "echo_probe_rounds_total"), Instant::now());
            (0..HOSTS).map(of).collect::<Vec<_>>()
        };
        let rounds_before = rounds();
        let (bytes, began) = (Net::bytes(), Instant::now());
        let windows = measure(&processes);
        let bytes = (Net::bytes() - bytes) as f64 / began.elapsed().as_secs_f64();
        let rate = |((before, from), (after, to)): (&(f64, Instant), &(f64, Instant))| {
            (after - before) / (*to - *from).as_secs_f64()
        };
        let rounds_a_second: f64 = rounds_before.iter().zip(&rounds()).map(rate).sum();
        let load = load();
        let used = |processes: &[Process]| processes.iter().map(Process::cpu).sum::<f64>();
        let unscraped = used(&processes);
        let metrics = scrape();
        let scraped = used(&processes) - unscraped;

        let mut sources: BTreeMap<_, BTreeSet<usize>> = BTreeMap::new();
        for (n, metrics) in metrics.iter().enumerate() {
            assert_eq!(values(metrics, "echo_probe_up").count(), targets);
            for (labels, _) in values(metrics, "echo_probe_up") {
                sources.entry(address_of(labels).ip()).or_default().insert(n);
            }
        }
        assert_eq!(sources.len(), HOSTS, "some are probed by nobody");
        let up: f64 = metrics.iter().map(|metrics| total(metrics, "echo_probe_up")).sum();
        let mut errors = BTreeMap::new();
        for metrics in &metrics {
            for (labels, count) in values(metrics, "echo_probe_errors_total") {
                let kind = labels.rsplit_once("kind=").unwrap().1;
                *errors.entry(kind).or_insert(0.0) += count;
            }
        }
        let probed_by = spread(sources.values().map(|sources| sources.len() as f64));
        let (series_each, series_bytes) = series(&metrics[0]);

        println!("\n{HOSTS} hosts, {PEERS} peers, {}, load {load}:", protocols.join(" "));
        println!("probed by {probed_by:?} hosts");
        println!("up: {up} of {}; failed rounds since the start: {errors:?}", HOSTS * targets);
        println!("rounds a second, all hosts: {rounds_a_second:.1}");
        println!(
            "rounds missed: {}",
            metrics.iter().map(|m| total(m, "echo_probe_rounds_missed_total")).sum::<f64>()
        );
        println!(
            "series {series_each}, {series_bytes} bytes, and of {} all bytes",
            metrics[0].0.len()
        );
        let cpu = (0..HOSTS).map(|process| percent(&windows, process));
        println!(
            "CPU, % of a core: {:.3?} of hosts; mean in a window, least and median {:.3?}",
            spread(cpu),
            mean(&windows)
        );
        println!("a scrape: {:.3} ms", 1e3 * scraped / HOSTS as f64);
        println!(
            "RSS, MiB: {:.1?}",
            spread(processes.iter().map(|process| process.memory("VmRSS:")))
        );
        println!(
            "anonymous, MiB: {:.1?}",
            spread(processes.iter().map(|process| process.memory("RssAnon:")))
        );
        println!("bytes a second sent by each host: {:.0}", bytes / HOSTS as f64);

        let asked = Instant::now();
        let before = used(&processes[..1]);
        let page = get(admin(0), "/mesh");
        assert_eq!(page.status, 200);
        println!(
            "the page: {} bytes in {:.0?}, {:.3} s of its host's processor time",
            page.body.len(),
            asked.elapsed(),
            used(&processes[..1]) - before,
        );
    }
}

/// `probe --every`, which is ended with the test.
struct Watch {
    child: Child,
    admin: SocketAddr,
    _lines: BufReader<ChildStdout>,
}

impl Watch {
    fn start(net: &Net, protocols: &[&str], flags: &[&str]) -> Watch {
        let mut command = binary::command();
        command.args(["probe", "--resolve-all", "--source-name", "host-0"]).args(flags);
        command.args(["--every", &format!("{}s", EVERY.as_secs()), "--export", "0"]);
        command.arg("--ca").arg(net.certs().join("ca.pem"));
        command.args(protocols.iter().map(|protocol| {
            let port = match *protocol {
                "tls" => 8443,
                "ws" => 8081,
                "wss" => 8444,
                _ => 8080,
            };
            format!("{protocol}://{NAME}:{port}")
        }));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut lines, mut line) = (BufReader::new(child.stdout.take().unwrap()), String::new());
        lines.read_line(&mut line).unwrap();
        let address = line.strip_prefix("Metrics at http://").and_then(|rest| rest.split_once('/'));
        let admin = address.unwrap_or_else(|| panic!("{line}")).0.parse().unwrap();
        Watch { child, admin, _lines: lines }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "measures, and takes a release build"]
fn one_host_that_probes_a_thousand() {
    const HOSTS: usize = 1000;
    let Some(net) = Net::with(HOSTS) else { return };
    // A probe and a server for each protocol, so that each has a processor time of its own. The server is
    // all hosts.
    let servers = PROTOCOLS.map(|protocol| Running::spawn(&mut net.server(&[protocol], "*")));
    let alone: Vec<_> =
        PROTOCOLS.iter().map(|protocol| Watch::start(&net, &[protocol], &[])).collect();
    for watch in &alone {
        wait_until_up(watch.admin, HOSTS);
    }
    let of = |watches: &[Watch]| {
        watches.iter().map(|watch| Process(watch.child.id())).collect::<Vec<_>>()
    };
    let mut processes = of(&alone);
    processes.extend(servers.iter().map(|server| Process(server.pid())));
    let windows = measure(&processes);
    println!(
        "\na round of each protocol, µs of the probe and of the server, least and median, load {}:",
        load()
    );
    for (n, protocol) in PROTOCOLS.iter().enumerate() {
        let round = |process: usize| {
            let [least, median, _] = spread(windows.iter().map(|window| window[process]));
            [least, median].map(|seconds| 1e6 * seconds / HOSTS as f64)
        };
        let metrics = Metrics::of(alone[n].admin);
        let (series, bytes) = series(&metrics);
        println!(
            "{protocol}: {:.0?} {:.0?}; series for a target {:.3}, bytes for a series {:.1}; RSS {:.1}",
            round(n),
            round(n + PROTOCOLS.len()),
            series as f64 / HOSTS as f64,
            bytes as f64 / series as f64,
            processes[n].memory("VmRSS:"),
        );
    }
    drop(alone);

    for flags in [&["--peers", "8"][..], &[]] {
        let watch = Watch::start(&net, &PROTOCOLS, flags);
        let peers = if flags.is_empty() { HOSTS } else { 8 };
        wait_until_up(watch.admin, peers * PROTOCOLS.len());
        let before = Net::bytes();
        let process = of(std::slice::from_ref(&watch));
        let windows = measure(&process);
        let bytes = (Net::bytes() - before) as f64 / (WINDOW * WINDOWS as u32).as_secs_f64();
        let before = process[0].cpu();
        let resident = process[0].memory("VmRSS:");
        let asked = Instant::now();
        let metrics = Metrics::of(watch.admin);
        let (series, series_bytes) = series(&metrics);
        println!("\nall protocols, {peers} peers of {HOSTS}, load {}:", load());
        println!("CPU of the probe, least and median: {:.2?} %", mean(&windows));
        println!("bytes a second, both ways: {bytes:.0}");
        println!("{series} series, {series_bytes} bytes");
        println!(
            "a scrape: {:.3} s, {:.3} s of processor time",
            asked.elapsed().as_secs_f64(),
            process[0].cpu() - before
        );
        println!("RSS, MiB: {resident:.1} before, {:.1} at most", process[0].memory("VmHWM:"));
    }
}

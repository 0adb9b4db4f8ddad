//! A mesh of four hosts on a network that breaks: after each fault, the matrix of all pairs and
//! protocols has to name exactly those that cannot talk, within three rounds, and heal within three.
//!
//! Each host is a network namespace with one interface in the bridge `lan`, which the faults are
//! in, and one in the bridge `watch`, over which a real Prometheus reads all hosts whatever the
//! faults are. Hosts 3 and 4 reach each other through a cable that the test can delay. Where
//! namespaces are not permitted or a tool is missing, the test says so and is skipped.
//!
//! With `ECHO_MESH_PICTURES=DIR`, the test writes there what Prometheus answers before, during and
//! after each fault, and takes a picture of host 3's page.

#![cfg(target_os = "linux")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use common::binary::{self, Running};
use common::browser::Browser;
use common::cable::{Cable, have_socat};
use common::http::Metrics;
use common::netns::{Etc, Namespace};
use common::prometheus_server::{Prometheus, have_prometheus};
use common::tools;
use echo_server::certs;
use rustix::process::Signal;
use serde_json::Value;
use tokio::runtime::Runtime;

/// The longest that a change of the matrix takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The name that all hosts find each other by.
const NAME: &str = "echo-mesh";
const HOSTS: [u8; 4] = [1, 2, 3, 4];
const PROTOCOLS: [&str; 5] = ["tcp", "tls", "udp", "ws", "wss"];

/// The number of the address that host 4 moves to.
const MOVED: u8 = 9;

fn lan(host: u8) -> String {
    format!("10.88.0.{host}")
}

/// The address of a host's admin endpoint that no fault is in the way of.
fn admin(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 89, 0, host], 8082))
}

/// A cell of the matrix, as in `h1>h2 udp`. The target is named by the last number of its address.
type Cell = String;

/// The cells from each of `sources` to each of `targets` except itself.
fn cells(sources: &[u8], targets: &[u8], protocols: &[&str]) -> BTreeSet<Cell> {
    let mut cells = BTreeSet::new();
    for source in sources {
        for target in targets.iter().filter(|target| *target != source) {
            cells
                .extend(protocols.iter().map(|protocol| format!("h{source}>h{target} {protocol}")));
        }
    }
    cells
}

/// The cells of one pair of hosts, in both directions.
fn pair(one: u8, other: u8, protocols: &[&str]) -> BTreeSet<Cell> {
    cells(&[one, other], &[one, other], protocols)
}

/// A host with its server.
struct Host {
    number: u8,
    server: Option<Running>,
    namespace: Namespace,
    etc: Etc,
}

struct Mesh {
    cable: Cable,
    hosts: Vec<Host>,
    network: Namespace,
    certificates: Certificates,
}

impl Mesh {
    /// Makes the network, without servers. `None` if that is not permitted here.
    fn new(observer: &Namespace) -> Option<Mesh> {
        let network = Namespace::new("net")?;
        for bridge in ["lan", "watch"] {
            network.ip(&format!("link add {bridge} type bridge"));
            network.ip(&format!("link set {bridge} up"));
        }
        let plug = |bridge: &str, namespace: &Namespace, host: u8, address: &str| {
            let port = format!("{bridge}{host}");
            let other = &namespace.name;
            network.ip(&format!("link add {port} type veth peer name {bridge} netns {other}"));
            network.ip(&format!("link set {port} master {bridge} up"));
            namespace.ip(&format!("addr add {address}/24 dev {bridge}"));
            namespace.ip(&format!("link set {bridge} up"));
        };
        plug("watch", observer, 0, "10.89.0.254");
        let mut hosts = Vec::new();
        for number in HOSTS {
            let namespace = Namespace::new(&format!("host{number}"))?;
            plug("lan", &namespace, number, &lan(number));
            plug("watch", &namespace, number, &admin(number).ip().to_string());
            let etc = Etc::with_hosts(&namespace, &hosts_file(&HOSTS))?;
            hosts.push(Host { number, server: None, namespace, etc });
        }
        let cable = Cable::between(&hosts[2].namespace, &hosts[3].namespace, "cable");
        for (from, to) in [(3, 4), (4, 3)] {
            let route = format!("route add {}/32 dev cable src {}", lan(to), lan(from));
            hosts[usize::from(from) - 1].namespace.ip(&route);
        }
        let mesh = Mesh { cable, hosts, network, certificates: Certificates::new() };
        // Whether the kernel can do what the faults need.
        (mesh.drop_packets("numgen random mod 10 == 0") && mesh.drop_packets("")).then_some(mesh)
    }

    fn host(&mut self, number: u8) -> &mut Host {
        &mut self.hosts[usize::from(number) - 1]
    }

    fn start(&mut self, number: u8) {
        let pem = self.certificates.of(number);
        let ca = self.certificates.path("ca.pem");
        let source = format!("h{number}");
        let host = self.host(number);
        let mut command = host.namespace.command(binary::PATH);
        command.args(["--all", "--host", "*", "--cert"]).arg(pem);
        command.args(["--mesh", NAME, "--mesh-every", "1s", "--mesh-name", &source, "--mesh-ca"]);
        command.arg(ca).args(["--admin", ":8082"]);
        host.server = Some(Running::spawn(&mut command));
    }

    /// Has the network lose the packets that `matches` selects, in nftables' language; none if it is
    /// empty. Returns whether it can.
    fn drop_packets(&self, matches: &str) -> bool {
        let rule = if matches.is_empty() { String::new() } else { format!("{matches} drop") };
        // The first two lines remove the table if there is one.
        self.network.apply(&format!(
            "add table bridge faults
            delete table bridge faults
            table bridge faults {{
                chain forward {{
                    type filter hook forward priority 0;
                    {rule}
                }}
            }}"
        ))
    }

    /// Has host 3 serve this certificate.
    fn renew(&mut self, pem: &str) {
        fs::write(self.certificates.of(3), pem).unwrap();
        let server = self.host(3).server.as_ref().unwrap();
        server.signal(Signal::HUP);
        server.wait_for_line("Certificates reloaded");
    }

    fn scrape(&self) -> Scrape {
        let running = self.hosts.iter().filter(|host| host.server.is_some());
        Scrape(running.map(|host| Metrics::of(admin(host.number))).collect())
    }
}

/// The hosts file with the addresses of the name.
fn hosts_file(numbers: &[u8]) -> String {
    numbers.iter().map(|number| format!("{} {NAME}\n", lan(*number))).collect()
}

/// A CA's certificates: a valid one for each host, and one that has expired.
struct Certificates {
    directory: tempfile::TempDir,
    valid: String,
    expired: String,
}

impl Certificates {
    fn new() -> Certificates {
        let directory = tempfile::tempdir().unwrap();
        let made = directory.path().join("made");
        let mut command = binary::command();
        command.arg("certs").arg(&made).args(["--name", NAME]);
        assert!(tools::run(&mut command, b"").status.success());
        let read = |name: &str| fs::read_to_string(made.join(name)).unwrap();
        let valid = read("server.pem") + &read("server.key");
        // Those of 500 days ago, whose CA is still valid, and still trusted.
        let then = SystemTime::now() - Duration::from_secs(500 * 24 * 60 * 60);
        let old = certs::issue(&[NAME.parse().unwrap()], then).unwrap();
        let expired = old.server.certificate + &old.server.key;
        let certificates = Certificates { directory, valid, expired };
        fs::write(certificates.path("ca.pem"), read("ca.pem") + &old.ca.certificate).unwrap();
        for host in HOSTS {
            fs::write(certificates.of(host), &certificates.valid).unwrap();
        }
        certificates
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The file of a host's certificate and key.
    fn of(&self, host: u8) -> PathBuf {
        self.path(&format!("{host}.pem"))
    }
}

/// The metrics of all hosts, read one right after the other.
struct Scrape(Vec<Metrics>);

impl Scrape {
    /// A metric of each cell, of those series whose labels are `wanted`, too.
    fn values(&self, metric: &str, wanted: &[(&str, &str)]) -> BTreeMap<Cell, f64> {
        let samples = self.0.iter().flat_map(|metrics| metrics.samples(metric));
        let wanted = samples.filter(|(labels, _)| {
            wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
        });
        wanted.map(|(labels, value)| (cell(|name| labels.get(name).copied()), value)).collect()
    }

    fn up(&self) -> BTreeMap<Cell, f64> {
        self.values("echo_probe_up", &[])
    }

    /// The cells whose last two rounds have failed. A single one may fail on a busy machine, which is
    /// too slow for it.
    fn down(&self) -> BTreeSet<Cell> {
        let mut failed = self.values("echo_probe_failed_rounds", &[]);
        failed.retain(|_, rounds| *rounds >= 2.0);
        failed.into_keys().collect()
    }

    fn rounds(&self) -> BTreeMap<Cell, f64> {
        self.values("echo_probe_rounds_total", &[])
    }

    /// The cells whose counter is higher than in `before`.
    fn grown(&self, before: &Scrape, metric: &str, wanted: &[(&str, &str)]) -> BTreeSet<Cell> {
        let then = before.values(metric, wanted);
        let mut now = self.values(metric, wanted);
        now.retain(|cell, value| *value > then.get(cell).copied().unwrap_or(0.0));
        now.into_keys().collect()
    }

    /// The cells none of whose round trips since `before` took at most `bound` seconds, one of the
    /// histogram's. On a busy machine those of others may be as slow, but not each of them.
    fn slower_than(&self, bound: &str, before: &Scrape) -> BTreeSet<Cell> {
        const BUCKET: &str = "echo_probe_rtt_seconds_bucket";
        let all: BTreeSet<_> = self.values(BUCKET, &[("le", bound)]).into_keys().collect();
        &all - &self.grown(before, BUCKET, &[("le", bound)])
    }
}

/// The cell of a series with these labels.
fn cell<'a>(label: impl Fn(&str) -> Option<&'a str>) -> Cell {
    let label = |name| label(name).unwrap_or_else(|| panic!("a series without {name}"));
    let address: SocketAddr = label("address").parse().unwrap();
    let host = address.ip().to_string();
    let number = host.strip_prefix("10.88.0.").unwrap();
    format!("{}>h{number} {}", label("source"), label("protocol"))
}

fn which(cells: BTreeMap<Cell, f64>, value: f64) -> BTreeSet<Cell> {
    cells.into_iter().filter(|(_, each)| *each == value).map(|(cell, _)| cell).collect()
}

/// The mesh as those see it who watch it.
struct Watch {
    mesh: Mesh,
    prometheus: Prometheus,
    pictures: Option<Pictures>,
}

impl Watch {
    /// Scrapes until it is `enough`.
    #[expect(clippy::disallowed_methods, reason = "rounds are counted, and announced by nothing")]
    fn until(&self, what: &str, enough: impl Fn(&Scrape) -> bool) -> Scrape {
        let start = Instant::now();
        loop {
            let scrape = self.mesh.scrape();
            if enough(&scrape) {
                return scrape;
            }
            assert!(start.elapsed() < PATIENCE, "{what} did not come: {:?}", scrape.up());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until each cell of `before` has had this many more rounds.
    fn rounds_after(&self, before: &BTreeMap<Cell, f64>, count: f64) -> Scrape {
        self.until("rounds", |scrape| {
            let now = scrape.rounds();
            before.iter().all(|(cell, had)| now.get(cell).is_some_and(|now| *now >= had + count))
        })
    }

    /// Waits for three rounds of each cell. Then exactly those of `down` must be down, of `all`; and
    /// soon they are so for Prometheus. Returns the metrics before and after these rounds.
    fn expect(&mut self, all: &BTreeSet<Cell>, down: &BTreeSet<Cell>) -> (Scrape, Scrape) {
        let before = self.mesh.scrape();
        let after = self.rounds_after(&before.rounds(), 3.0);
        assert_eq!(after.up().into_keys().collect::<BTreeSet<_>>(), *all);
        assert_eq!(after.down(), *down);
        self.wait_for_prometheus("echo_probe_up", all, down, 0.0);
        (before, after)
    }

    /// Asks Prometheus until exactly the cells of `some` have this value, and all others of `all`
    /// another.
    #[expect(clippy::disallowed_methods, reason = "Prometheus announces nothing")]
    fn wait_for_prometheus(
        &mut self,
        query: &str,
        all: &BTreeSet<Cell>,
        some: &BTreeSet<Cell>,
        value: f64,
    ) {
        let start = Instant::now();
        loop {
            let found: BTreeMap<_, f64> = self
                .prometheus
                .query(query)
                .iter()
                .map(|(labels, text)| (cell(|name| labels[name].as_str()), text.parse().unwrap()))
                .collect();
            let cells: BTreeSet<_> = found.keys().cloned().collect();
            if cells == *all && which(found.clone(), value) == *some {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{query}: {found:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// One fault: `check` runs while it is there. Three rounds after it has healed, all are up.
    /// Returns the metrics before and after these rounds.
    fn fault(
        &mut self,
        name: &str,
        inject: impl FnOnce(&mut Mesh),
        check: impl FnOnce(&mut Watch),
        heal: impl FnOnce(&mut Mesh),
    ) -> (Scrape, Scrape) {
        let start = Instant::now();
        self.picture(name, "1-before");
        inject(&mut self.mesh);
        check(self);
        self.picture(name, "2-during");
        heal(&mut self.mesh);
        let healed = self.expect(&cells(&HOSTS, &HOSTS, &PROTOCOLS), &BTreeSet::new());
        self.picture(name, "3-after");
        eprintln!("{name}: {:.1} s", start.elapsed().as_secs_f64());
        healed
    }

    fn picture(&mut self, fault: &str, when: &str) {
        if let Some(pictures) = &mut self.pictures {
            pictures.take(&format!("{fault}-{when}"), &mut self.prometheus);
        }
    }
}

/// What shows the faults to people.
struct Pictures {
    directory: PathBuf,
    runtime: Runtime,
    browser: Browser,
}

impl Pictures {
    /// `None` if nobody wants any.
    fn new() -> Option<Pictures> {
        let directory = PathBuf::from(std::env::var_os("ECHO_MESH_PICTURES")?);
        fs::create_dir_all(&directory).unwrap();
        let runtime = Runtime::new().unwrap();
        let browser = runtime.block_on(async {
            let mut browser = Browser::start(&[]).await;
            browser.look(760, 2200, "light").await;
            browser
        });
        Some(Pictures { directory, runtime, browser })
    }

    fn take(&mut self, name: &str, prometheus: &mut Prometheus) {
        const QUERIES: [&str; 4] = [
            "echo_probe_up == 0",
            "sum by (source, address, protocol) (rate(echo_probe_messages_lost_total[10s])) \
             / sum by (source, address, protocol) (rate(echo_probe_messages_sent_total[10s])) > 0",
            "histogram_quantile(0.5, rate(echo_probe_rtt_seconds_bucket[5s])) > 0.02",
            "histogram_quantile(0.99, rate(echo_probe_rtt_seconds_bucket[10s]))",
        ];
        let mut text = String::new();
        for query in QUERIES {
            writeln!(text, "> {query}").unwrap();
            let mut lines: Vec<_> =
                prometheus.query(query).iter().map(|(labels, value)| line(labels, value)).collect();
            lines.sort();
            writeln!(text, "{}\n", lines.join("\n")).unwrap();
        }
        fs::write(self.path(name, "txt"), text).unwrap();
        let browser = &mut self.browser;
        let png = self.runtime.block_on(async {
            browser.navigate(&format!("http://{}/mesh", admin(3))).await;
            browser.screenshot().await
        });
        fs::write(self.path(name, "png"), png).unwrap();
    }

    fn path(&self, name: &str, kind: &str) -> PathBuf {
        self.directory.join(Path::new(name).with_extension(kind))
    }
}

/// A series as promtool prints it, with those labels that tell one from another.
fn line(labels: &Value, value: &str) -> String {
    let label = |name: &str| format!("{name}={}", labels[name]);
    format!("{{{}}} {value}", ["source", "address", "protocol"].map(label).join(", "))
}

#[test]
fn the_matrix_names_exactly_the_pairs_that_cannot_talk_and_heals() {
    let has_ip = tools::have(&["ip", "-V"], "iproute2");
    if !(has_ip && have_prometheus() && have_socat()) {
        return;
    }
    let Some(observer) = Namespace::new("observer") else { return };
    let Some(mesh) = Mesh::new(&observer) else { return };
    // The threads and processes that it starts, such as Prometheus, inherit the namespace.
    if let Err(panic) = observer.within(move || watch(mesh)).join() {
        std::panic::resume_unwind(panic);
    }
}

fn watch(mut mesh: Mesh) {
    for host in HOSTS {
        mesh.start(host);
    }
    let prometheus = Prometheus::start(&HOSTS.map(admin));
    let mut watch = Watch { mesh, prometheus, pictures: Pictures::new() };
    let all = cells(&HOSTS, &HOSTS, &PROTOCOLS);
    watch.until("the whole mesh", |scrape| which(scrape.up(), 1.0) == all);
    watch.expect(&all, &BTreeSet::new());

    one_link_is_cut_in_one_direction(&mut watch, &all);
    udp_is_blocked(&mut watch, &all);
    a_certificate_expires(&mut watch, &all);
    a_link_loses_a_tenth(&mut watch);
    a_link_is_delayed(&mut watch, &all);
    a_host_restarts(&mut watch);
    a_host_changes_its_address(&mut watch);
}

/// Each direction needs the other for its replies, so that neither host reaches the other.
fn one_link_is_cut_in_one_direction(watch: &mut Watch, all: &BTreeSet<Cell>) {
    let cut = format!("ip saddr {} ip daddr {}", lan(1), lan(2));
    watch.fault(
        "cut",
        |mesh| assert!(mesh.drop_packets(&cut)),
        |watch| drop(watch.expect(all, &pair(1, 2, &PROTOCOLS))),
        |mesh| assert!(mesh.drop_packets("")),
    );
}

/// The packets between two hosts, in both directions.
fn between(one: u8, other: u8) -> String {
    let both = format!("{{ {}, {} }}", lan(one), lan(other));
    format!("ip saddr {both} ip daddr {both}")
}

fn udp_is_blocked(watch: &mut Watch, all: &BTreeSet<Cell>) {
    watch.fault(
        "udp",
        |mesh| assert!(mesh.drop_packets(&format!("{} ip protocol udp", between(1, 3)))),
        |watch| drop(watch.expect(all, &pair(1, 3, &["udp"]))),
        |mesh| assert!(mesh.drop_packets("")),
    );
}

fn a_certificate_expires(watch: &mut Watch, all: &BTreeSet<Cell>) {
    let expired = watch.mesh.certificates.expired.clone();
    let valid = watch.mesh.certificates.valid.clone();
    watch.fault(
        "certificate",
        |mesh| mesh.renew(&expired),
        |watch| {
            let down = cells(&HOSTS, &[3], &["tls", "wss"]);
            let (before, after) = watch.expect(all, &down);
            let kind = [("kind", "certificate")];
            assert_eq!(after.grown(&before, "echo_probe_errors_total", &kind), down);
        },
        |mesh| mesh.renew(&valid),
    );
}

/// A datagram that is lost stays lost. TCP sends a segment again, for which its round may be too
/// short, so that of the link's streams only that they get through now and then is certain.
fn a_link_loses_a_tenth(watch: &mut Watch) {
    watch.fault(
        "loss",
        |mesh| {
            let tenth = format!("{} numgen random mod 10 == 0", between(2, 4));
            assert!(mesh.drop_packets(&tenth));
        },
        |watch| {
            const LOST: &str = "echo_probe_messages_lost_total";
            const RECEIVED: &str = "echo_probe_messages_received_total";
            let (link, datagrams) = (pair(2, 4, &PROTOCOLS), pair(2, 4, &["udp"]));
            let before = watch.mesh.scrape();
            let after = watch.until("loss", |scrape| {
                datagrams.is_subset(&scrape.grown(&before, LOST, &[]))
                    && link.is_subset(&scrape.grown(&before, RECEIVED, &[]))
            });
            // All messages of 20 rounds, there and back, come through once in a billion times.
            let (then, now) = (before.rounds(), after.rounds());
            assert!(datagrams.iter().all(|cell| now[cell] - then[cell] <= 20.0));
            let elsewhere =
                |cells: BTreeSet<_>| cells.difference(&link).cloned().collect::<Vec<_>>();
            assert!(elsewhere(after.grown(&before, LOST, &[])).is_empty());
            assert!(elsewhere(after.down()).is_empty());
        },
        |mesh| assert!(mesh.drop_packets("")),
    );
}

fn a_link_is_delayed(watch: &mut Watch, all: &BTreeSet<Cell>) {
    let (before, after) = watch.fault(
        "delay",
        |mesh| mesh.cable.delay(Duration::from_millis(20)),
        |watch| {
            let slow = pair(3, 4, &PROTOCOLS);
            let before = watch.mesh.scrape().rounds();
            // The round that was going on is over.
            let first = watch.rounds_after(&before, 1.0);
            let after = watch.rounds_after(&before, 3.0);
            assert_eq!(after.slower_than("0.02", &first), slow);
            assert_eq!(after.down(), BTreeSet::new());
            let p10 =
                "histogram_quantile(0.1, rate(echo_probe_rtt_seconds_bucket[5s])) > bool 0.02";
            watch.wait_for_prometheus(p10, all, &slow, 1.0);
        },
        |mesh| mesh.cable.delay(Duration::ZERO),
    );
    assert_eq!(after.slower_than("0.02", &before), BTreeSet::new());
}

fn a_host_restarts(watch: &mut Watch) {
    watch.fault(
        "restart",
        |mesh| drop(mesh.host(2).server.take().unwrap().terminate()),
        |watch| {
            let others = [1, 3, 4];
            let down = cells(&others, &[2], &PROTOCOLS);
            let (before, after) = watch.expect(&cells(&others, &HOSTS, &PROTOCOLS), &down);
            let refused = after.grown(&before, "echo_probe_errors_total", &[("kind", "refused")]);
            assert_eq!(refused, down);
        },
        |mesh| mesh.start(2),
    );
}

/// The name's address is another one from now on, as that of a Pod that is made anew.
fn a_host_changes_its_address(watch: &mut Watch) {
    watch.picture("address", "1-before");
    for host in &watch.mesh.hosts {
        host.etc.rewrite_hosts(&hosts_file(&[1, 2, 3, MOVED]));
    }
    let host = watch.mesh.host(4);
    host.namespace.ip(&format!("addr del {}/24 dev lan", lan(4)));
    host.namespace.ip(&format!("addr add {}/24 dev lan", lan(MOVED)));
    let mut before = watch.mesh.scrape().rounds();
    before.retain(|cell, _| !cell.contains(">h4"));
    watch.rounds_after(&before, 2.0);
    watch.picture("address", "2-during");
    // Three lookups, after the round that was going on.
    let after = watch.rounds_after(&before, 4.0);
    let mut all = cells(&[1, 2, 3], &[1, 2, 3, MOVED], &PROTOCOLS);
    all.extend(cells(&[4], &[1, 2, 3], &PROTOCOLS));
    assert_eq!(after.up().into_keys().collect::<BTreeSet<_>>(), all);
    assert_eq!(after.down(), BTreeSet::new());
    watch.wait_for_prometheus("echo_probe_up", &all, &BTreeSet::new(), 0.0);
    watch.picture("address", "3-after");
}

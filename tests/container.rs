//! The image of `deploy/container`, run by a real engine and driven from outside of its containers.
//!
//! `IMAGE=echo-server cargo test --test container -- --ignored --test-threads=1` needs docker and the image, which
//! `deploy/container/build.sh` builds.
#![cfg(target_os = "linux")]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use common::binary;
use common::cert;
use serde_json::Value;

/// The most that the image may take. Faults on purpose are types of their own, so that a server without
/// them does not look for any; that costs some 2 MB.
const MAX_SIZE: u64 = 17_500_000;

/// What a careful operator adds to `docker run`.
const RESTRICTIONS: [&str; 10] = [
    "--read-only",
    "--cap-drop=ALL",
    "--user=65532",
    "--security-opt=no-new-privileges",
    "--memory=64m",
    "--memory-swap=64m",
    "--pids-limit=64",
    "--env=ECHO_LOG_FORMAT=text",
    "--env=NO_COLOR=1",
    "--health-interval=1s",
];

fn image() -> String {
    std::env::var("IMAGE").expect("IMAGE is the image to test")
}

fn docker(arguments: &[&str]) -> Output {
    Command::new("docker").args(arguments).stdin(Stdio::null()).output().expect("docker runs")
}

/// The standard output of a docker command that has to succeed.
fn docker_says(arguments: &[&str]) -> String {
    let output = docker(arguments);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {arguments:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A container, which is removed with the test.
struct Container(String);

impl Container {
    /// Starts the server with `flags`, under [`RESTRICTIONS`] and what `options` add to them.
    fn start(options: &[&str], flags: &[&str]) -> Container {
        let certs = format!("--volume={}:/certs:ro", cert("").display());
        let image = image();
        let mut arguments = vec!["run", "--detach", certs.as_str()];
        arguments.extend(RESTRICTIONS);
        arguments.extend(options);
        arguments.push(&image);
        arguments.extend(flags);
        let container = Container(docker_says(&arguments));
        container.wait_for_line("Server listening on ", 1);
        container
    }

    /// Follows the log until `count` lines contain `text`.
    fn wait_for_line(&self, text: &str, count: usize) {
        let mut follow = Command::new("docker")
            .args(["logs", "--follow", &self.0])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(follow.stderr.take().unwrap()).lines().map(Result::unwrap);
        let found = lines.filter(|line| line.contains(text)).take(count).count();
        let _ = follow.kill();
        let _ = follow.wait();
        assert_eq!(found, count, "the log ends without '{text}': {}", self.log());
    }

    fn log(&self) -> String {
        String::from_utf8(docker(&["logs", &self.0]).stderr).unwrap()
    }

    fn inspect(&self, template: &str) -> String {
        docker_says(&["inspect", "--format", template, &self.0])
    }

    fn ip(&self) -> String {
        self.inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
    }

    /// Where the host reaches a port that was published with `--publish 127.0.0.1::PORT`.
    fn published(&self, port: &str) -> String {
        docker_says(&["port", &self.0, port])
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        docker(&["rm", "--force", &self.0]);
    }
}

/// A network whose name server knows the containers in it. It is removed with the test.
struct Network(String);

impl Network {
    fn create() -> Network {
        let name = format!("echo-server-test-{}", std::process::id());
        docker_says(&["network", "create", &name]);
        Network(name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        docker(&["network", "rm", &self.0]);
    }
}

/// The probe in a container of its own, in `network`.
fn probe_inside(network: &str, options: &[&str], arguments: &[&str]) -> Output {
    let image = image();
    let network = format!("--network={network}");
    let mut command = vec!["run", "--rm", network.as_str()];
    command.extend(options);
    command.extend([image.as_str(), "probe"]);
    command.extend(arguments);
    docker(&command)
}

/// The probe on the host.
fn probe(arguments: &[&str]) -> Command {
    let mut command = binary::command();
    command.arg("probe").args(arguments);
    command
}

#[test]
#[ignore = "needs docker, and IMAGE"]
fn the_image_holds_one_static_binary_and_its_licences() {
    let image = image();
    let inspected = docker_says(&["image", "inspect", &image]);
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    let (config, size) = (&inspected[0]["Config"], inspected[0]["Size"].as_u64().unwrap());
    assert!(size < MAX_SIZE, "{size} bytes");
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["StopSignal"], "SIGTERM");
    assert_eq!(config["Entrypoint"], serde_json::json!(["/echo-server"]));
    let label = |name: &str| config["Labels"][format!("org.opencontainers.image.{name}")].as_str();
    assert_eq!(label("version"), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(label("licenses"), Some(env!("CARGO_PKG_LICENSE")));
    assert_eq!(label("description").map(|text| text.starts_with("An echo server")), Some(true));

    // A directory or an empty file that is not of the image is a mount point of the engine's.
    let container = Container(docker_says(&["create", &image]));
    let list = format!("docker export {} | tar --list --verbose", container.0);
    let list = Command::new("sh").args(["-c", &list]).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let mut files: Vec<_> = list
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[0].starts_with('-') && fields[2] != "0")
        .map(|fields| fields[5].to_owned())
        .collect();
    files.sort();
    assert_eq!(
        files,
        ["LICENSE-APACHE", "LICENSE-MIT", "THIRD-PARTY-NOTICES", "echo-server"],
        "{list}"
    );
}

#[test]
#[ignore = "needs docker, and IMAGE"]
fn all_five_protocols_echo_under_every_restriction() {
    let publish = ["8080/tcp", "8080/udp", "8443", "8081", "8444"]
        .map(|p| format!("--publish=127.0.0.1::{p}"));
    let publish: Vec<_> = publish.iter().map(String::as_str).collect();
    let flags =
        ["--all", "--cert=/certs/server.pem", "--key=/certs/server.key", "--handshake-timeout=60s"];
    let server = Container::start(&publish, &flags);
    let ca = cert("ca.pem");
    let trust = ["--ca", ca.to_str().unwrap(), "--server-name", "localhost"];
    for (scheme, port, connections) in [
        ("tcp", "8080/tcp", "200"),
        ("tls", "8443/tcp", "20"),
        ("ws", "8081/tcp", "200"),
        ("wss", "8444/tcp", "20"),
        // Datagrams get lost under a load, and the server limits the replies to one address.
        ("udp", "8080/udp", "1"),
    ] {
        let url = format!("{scheme}://{}", server.published(port));
        let tls = if matches!(scheme, "tls" | "wss") { &trust[..] } else { &[] };
        let run = |arguments: &[&str]| {
            let output = probe(&[&url]).args(arguments).args(tls).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            let code = output.status.code();
            assert_eq!(code, Some(0), "{url} {arguments:?}: {said}{}", server.log());
        };
        run(&["--count=3", "--interval=10ms", "--timeout=60s", "--connect-timeout=60s"]);
        // Up to 12 MiB in flight, of the 64 that are all there is.
        let load = [
            "--in-flight=4",
            "--count=2000",
            "--size=16KiB",
            "--timeout=60s",
            "--connect-timeout=60s",
        ];
        if connections != "1" {
            run(&[&["--connections", connections], &load[..]].concat());
        }
    }
    assert_eq!(server.inspect("{{.State.OOMKilled}} {{.State.Running}}"), "false true");
}

#[test]
#[ignore = "needs docker, and IMAGE"]
fn its_own_probe_finds_it_healthy() {
    let server = Container::start(&[], &["--all"]);
    // Events of the past come first, so that none is missed.
    let filter = format!("container={}", server.0);
    let mut events = Command::new("docker")
        .args(["events", "--since=10m", "--filter=event=health_status", "--filter", &filter])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut event = String::new();
    BufReader::new(events.stdout.take().unwrap()).read_line(&mut event).unwrap();
    let _ = events.kill();
    let _ = events.wait();
    assert!(event.contains("health_status: healthy"), "{event}{}", server.log());
}

#[test]
#[ignore = "needs docker, and IMAGE"]
fn stopped_while_it_echoes_it_drains_and_exits_with_0() {
    let server = Container::start(&[], &["--tcp"]);
    let load: Child = probe(&[&format!("tcp://{}:8080", server.ip())])
        .args(["--connections=8", "--duration=60s", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    server.wait_for_line("New connection from: ", 8);
    // SIGTERM, and SIGKILL only much later.
    docker_says(&["stop", "--time=30", &server.0]);
    let load = load.wait_with_output().unwrap();
    let log = server.log();
    assert_eq!(server.inspect("{{.State.ExitCode}}"), "0", "{log}");
    assert!(log.contains("signal=SIGTERM"), "{log}");
    assert!(log.contains("Server stopped drained=8 aborted=0"), "{log}");
    let summary = String::from_utf8(load.stdout).unwrap();
    let summary: Value = serde_json::from_str(summary.lines().last().unwrap()).unwrap();
    assert_ne!(summary["received"], 0, "{summary}");
    assert_eq!(summary["corrupted"], 0, "{summary}");
}

#[test]
#[ignore = "needs docker, and IMAGE"]
fn a_static_binary_looks_names_up_in_an_empty_root() {
    let network = Network::create();
    let within = format!("--network={}", network.0);
    // It listens on a name, too: on that of localhost, and on the one that the engine gave it.
    let options = [within.as_str(), "--network-alias=echo.test", "--hostname=echo"];
    let server =
        Container::start(&options, &["--tcp=localhost:7", "--tcp=echo:8080", "--udp=8080"]);
    let log = server.log();
    assert!(log.contains("address=127.0.0.1:7"), "{log}");
    assert!(log.contains(&format!("address={}:8080", server.ip())), "{log}");

    // By DNS: the engine's name server stands in /etc/resolv.conf.
    let by_dns = ["tcp://echo.test:8080", "udp://echo.test:8080", "--count=1"];
    let output = probe_inside(&network.0, &[], &by_dns);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    // By /etc/hosts.
    let host = format!("--add-host=far.example:{}", server.ip());
    let output = probe_inside(&network.0, &[&host], &["tcp://far.example:8080", "--count=1"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    // A name that nobody knows is one line, and not a wait.
    let output = probe_inside(&network.0, &[], &["tcp://nobody.invalid:8080", "--count=1"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("nobody.invalid"), "{error}");
}

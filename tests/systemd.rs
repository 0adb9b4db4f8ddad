//! What systemd passes to the command, and what the command tells it: with systemd's own tool for
//! socket activation, and with a notify socket of the test's own.

#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use common::binary::{self, Running, command, shell};
use common::http::get;
use common::tools;
use rustix::process::{Pid, Signal, kill_process};

fn have_socket_activate() -> bool {
    tools::have(&["systemd-socket-activate", "--version"], "systemd")
}

/// systemd-socket-activate, which becomes the server when the first client comes.
struct Activated {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Activated {
    /// Starts the tool with the arguments `tool` and a socket for each of `addresses`: a path, or an
    /// IP address, which gets a free port. Returns the addresses with their ports.
    ///
    /// The tool does not take port 0. If another program takes a port just then, all is done again.
    fn start(tool: &[&str], addresses: &[&str], server: &[&str]) -> (Activated, Vec<String>) {
        let with_port = |address: &&str| match address.starts_with('/') {
            true => (*address).to_owned(),
            false if tool.contains(&"--datagram") => {
                let socket = UdpSocket::bind(format!("{address}:0")).unwrap();
                socket.local_addr().unwrap().to_string()
            }
            false => {
                let listener = TcpListener::bind(format!("{address}:0")).unwrap();
                listener.local_addr().unwrap().to_string()
            }
        };
        for _ in 0..20 {
            let addresses: Vec<_> = addresses.iter().map(with_port).collect();
            let mut command = Command::new("systemd-socket-activate");
            command.args(tool);
            for address in &addresses {
                command.args(["-l", address]);
            }
            command.arg(binary::PATH).args(server);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut child = command.spawn().expect("the tool starts");
            let stderr = BufReader::new(child.stderr.take().unwrap());
            let mut activated = Activated { child, stderr };
            if addresses.iter().all(|_| activated.line().starts_with("Listening on ")) {
                return (activated, addresses);
            }
        }
        panic!("the tool does not listen on {addresses:?}");
    }

    /// The next line of the log; nothing if it has ended.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        line
    }

    /// The line that says why the server did not start.
    fn refusal(&mut self) -> String {
        loop {
            let said = self.line();
            assert!(!said.is_empty(), "the log ends");
            if said.starts_with("echo-server: ") {
                return said;
            }
        }
    }

    /// Stops the server with SIGTERM, and returns its log.
    fn stop(mut self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let mut log = String::new();
        self.stderr.read_to_string(&mut log).unwrap();
        assert!(self.child.wait().unwrap().success(), "{log}");
        log
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Pings `target` once with the probe, which compares the bytes.
fn ping(target: &str) {
    let mut probe = command();
    probe.args(["probe", target, "--count", "1"]);
    if target.starts_with("tls") || target.starts_with("wss") {
        probe.arg("--insecure");
    }
    let Output { status, stdout, stderr } = probe.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(status.success(), "{target}: {}{}", text(&stdout), text(&stderr));
}

#[test]
fn every_stream_protocol_takes_the_socket_of_its_name() {
    if !have_socket_activate() {
        return;
    }
    let protocols = ["ws", "tls", "wss", "tcp"];
    let flags = ["--tcp", "systemd", "--tls", "systemd", "--ws", "systemd", "--wss", "systemd"];
    let (activated, addresses) =
        Activated::start(&["--fdname=ws:tls:wss:tcp"], &["127.0.0.1"; 4], &flags);
    for (protocol, address) in protocols.iter().zip(addresses) {
        ping(&format!("{protocol}://{address}"));
    }
    let log = activated.stop();
    assert_eq!(log.matches("Server listening on port").count(), 4, "{log}");
}

#[test]
fn the_admin_endpoint_takes_the_socket_of_its_name() {
    if !have_socket_activate() {
        return;
    }
    for flag in ["systemd", "systemd:admin"] {
        let flags = ["--tcp", "systemd", "--admin", flag];
        let (activated, addresses) =
            Activated::start(&["--fdname=admin:tcp"], &["127.0.0.1"; 2], &flags);
        ping(&format!("tcp://{}", addresses[1]));
        assert_eq!(get(addresses[0].parse().unwrap(), "/readyz").body, "ok\n");
        activated.stop();
    }
}

/// systemd-socket-activate starts the server with the first client, which gets no answer then.
#[test]
fn a_socket_that_no_flag_uses_is_an_error() {
    if !have_socket_activate() {
        return;
    }
    let many: Vec<_> = (0..8).map(|number| format!("a{number}")).collect();
    let names = format!("--fdname=tcp:{}", many.join(":"));
    let (mut activated, addresses) =
        Activated::start(&[&names], &["127.0.0.1"; 9], &["--tcp", "systemd"]);
    let _client = TcpStream::connect(&addresses[0]).unwrap();
    assert_eq!(
        activated.refusal(),
        "echo-server: LISTEN_FDS: no flag uses the inherited 'a0', 'a1', 'a2', 'a3', 'a4' and 3 more; \
         --tcp systemd:a0, for example, would\n"
    );
}

#[test]
fn several_datagram_sockets_of_one_name_are_all_echoed_on_several_threads() {
    if !have_socket_activate() {
        return;
    }
    let (activated, addresses) = Activated::start(
        &["--datagram", "--fdname=x:x:x"],
        &["127.0.0.1", "[::1]", "127.0.0.1"],
        &["--threads", "2", "--udp", "systemd:x"],
    );
    for address in addresses {
        ping(&format!("udp://{address}"));
    }
    let log = activated.stop();
    assert_eq!(log.matches("Socket closed").count(), 3, "{log}");
}

#[test]
fn unix_sockets_are_taken_and_their_file_is_left() {
    if !have_socket_activate() {
        return;
    }
    let there = tempfile::tempdir().unwrap();
    let path = there.path().join("echo.sock");
    let (activated, _) =
        Activated::start(&["--fdname=web"], &[path.to_str().unwrap()], &["--ws", "systemd:web"]);
    ping(&format!("ws+unix://{}", path.display()));
    let log = activated.stop();
    assert!(log.contains(&format!("Server listening on unix:{}", path.display())), "{log}");
    assert!(path.exists(), "whoever has bound it removes it");
}

#[test]
fn a_single_connection_is_refused_with_the_name_of_the_setting() {
    if !have_socket_activate() {
        return;
    }
    let (mut activated, addresses) =
        Activated::start(&["-a"], &["127.0.0.1"], &["--tcp", "systemd"]);
    let _client = TcpStream::connect(&addresses[0]).unwrap();
    assert_eq!(
        activated.refusal(),
        "echo-server: --tcp systemd: the descriptor 'unknown' is a connection and no listener: its \
         socket unit has Accept=yes, and this server needs Accept=no\n"
    );
}

/// Runs a line of shell, in which $$ is the process that echo-server becomes by exec.
fn refusal(line: &str) -> String {
    let output = shell(line).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{line}: {said}");
    said
}

#[test]
fn what_is_wrong_with_a_descriptor_is_said() {
    for (line, expected) in [
        (
            "LISTEN_FDS=1 LISTEN_PID=1 exec echo-server --tcp systemd",
            "--tcp systemd: LISTEN_PID=1 is another process, and this one is ",
        ),
        (
            "exec echo-server --udp systemd:x",
            "--udp systemd:x: no descriptors were handed over: LISTEN_FDS is not set",
        ),
        ("LISTEN_FDS=1 exec echo-server --tcp systemd", "LISTEN_FDS is set, and LISTEN_PID is not"),
        (
            "LISTEN_FDS=x LISTEN_PID=$$ exec echo-server --tcp systemd",
            "LISTEN_FDS=x is not a number",
        ),
        (
            "LISTEN_FDS=99999999999 LISTEN_PID=$$ exec echo-server --tcp systemd",
            "LISTEN_FDS=99999999999 is more than a process can have",
        ),
        (
            "LISTEN_FDS=2 LISTEN_FDNAMES=a LISTEN_PID=$$ exec echo-server --tcp systemd",
            "LISTEN_FDNAMES has 1 names for LISTEN_FDS=2 descriptors",
        ),
        (
            "LISTEN_FDS=1 LISTEN_FDNAMES=a LISTEN_PID=$$ exec echo-server --tcp systemd:b 3</dev/null",
            "--tcp systemd:b: no descriptor has the name 'b'; there are 'a'",
        ),
        (
            "LISTEN_FDS=1 LISTEN_PID=$$ exec echo-server --tcp systemd 3</dev/null",
            "--tcp systemd: the descriptor 'unknown': it is no TCP, UDP or Unix socket",
        ),
        (
            "LISTEN_FDS=1 LISTEN_PID=$$ exec echo-server --tcp systemd 3<&-",
            "--tcp systemd: the descriptor 'unknown': it is no TCP, UDP or Unix socket, or it is not open",
        ),
        (
            "LISTEN_FDS=1 LISTEN_FDNAMES=web LISTEN_PID=$$ exec echo-server --tcp 0 3</dev/null",
            "LISTEN_FDS: the inherited 'web': it is no TCP, UDP or Unix socket, or it is not open",
        ),
        (
            "LISTEN_FDS=9 LISTEN_PID=$$ exec echo-server --admin systemd:x --tcp 0",
            "--admin systemd:x: no descriptor has the name 'x'; there are 'unknown'",
        ),
        (
            "exec echo-server --tcp 0 --admin systemd",
            "--admin systemd: no descriptors were handed over: LISTEN_FDS is not set",
        ),
        (
            "LISTEN_FDS=2 LISTEN_FDNAMES=a:b LISTEN_PID=$$ exec echo-server --tcp 0 --admin systemd \
             3</dev/null 4<&-",
            "--admin systemd: the descriptor 'b': it is no TCP, UDP or Unix socket",
        ),
        ("exec echo-server --tcp systemd:", "the name of the descriptor is missing after systemd:"),
        (
            "exec echo-server --host systemd",
            "expected an IP address, a name, or '*' for all interfaces",
        ),
    ] {
        let said = refusal(line);
        assert!(said.contains(expected) && said.lines().count() == 1, "{line}: {said}");
    }
}

#[test]
fn descriptors_of_another_process_are_none_of_ours() {
    let server = Running::spawn(command().args(["--tcp", "127.0.0.1:0"]).envs([
        ("LISTEN_FDS", "1"),
        ("LISTEN_PID", "1"),
        ("LISTEN_FDNAMES", "tcp"),
    ]));
    ping(&format!("tcp://{}", server.address("tcp")));
    assert!(server.terminate().0.success());
}

/// The socket of a service manager, and a server that tells it.
struct Manager {
    socket: UnixDatagram,
    name: String,
    _directory: tempfile::TempDir,
}

impl Manager {
    fn new() -> Manager {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Manager { socket, name: path.to_str().unwrap().to_owned(), _directory: directory }
    }

    fn start(&self, variables: &[(&str, &str)]) -> Running {
        let mut command = command();
        command.args(["--tcp", "127.0.0.1:0", "--threads", "2"]);
        command.env("NOTIFY_SOCKET", &self.name).envs(variables.iter().copied());
        Running::spawn(&mut command)
    }

    /// The next message.
    fn message(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    /// The next message that begins with `begin`.
    fn next(&self, begin: &str) -> String {
        loop {
            let message = self.message();
            if message.starts_with(begin) {
                return message;
            }
        }
    }
}

#[test]
fn a_service_manager_is_told_what_the_service_does() {
    let manager = Manager::new();
    let server = manager.start(&[("ECHO_DRAIN_DELAY", "1ms")]);
    assert_eq!(manager.message(), "READY=1\nSTATUS=0 connections open, 0 since the start");

    let mut client = TcpStream::connect(server.address("tcp")).unwrap();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    assert_eq!(manager.message(), "STATUS=1 connection open, 1 since the start");

    server.signal(Signal::HUP);
    let reloading = manager.message();
    let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&reloading);
    assert!(time.parse::<u64>().unwrap() > 0);
    assert_eq!(manager.message(), "READY=1");

    server.signal(Signal::TERM);
    // The delay, the drain of 10 s, and five more.
    let stopping = "STOPPING=1\nEXTEND_TIMEOUT_USEC=15001000\nSTATUS=Draining";
    assert_eq!(manager.next("STOPPING=1"), stopping);
    drop(client);
    assert!(server.wait().0.success());
}

#[test]
fn a_service_that_drains_says_so_until_its_end_and_still_reloads() {
    let manager = Manager::new();
    let delay = [("ECHO_DRAIN_DELAY", "1h"), ("ECHO_DRAIN_TIMEOUT", "100000000000d")];
    let server = manager.start(&delay);
    manager.next("READY=1");
    server.signal(Signal::TERM);
    // Times are 64-bit numbers for systemd, and the largest one means none.
    let stopping = format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}\nSTATUS=Draining", u64::MAX / 2);
    assert_eq!(manager.next("STOPPING=1"), stopping);
    server.signal(Signal::HUP);
    server.wait_for_line("there is nothing to reload");
    let mut client = TcpStream::connect(server.address("tcp")).unwrap();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    // The next message: no RELOADING=1 or READY=1 comes before it.
    let status = manager.message();
    let count = status.strip_prefix("STATUS=Draining: ").expect(&status);
    assert!(count.ends_with(" since the start"), "{status}");
    // A second signal ends it at once.
    server.terminate();
}

/// Else the manager would wait for the end of the reload.
#[test]
fn a_service_manager_that_reads_late_is_told_the_last_state() {
    let manager = Manager::new();
    let server = manager.start(&[]);
    manager.next("READY=1");
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"full", &manager.name).is_ok() {}
    server.signal(Signal::HUP);
    for _ in 0..2 {
        server.wait_for_line("The service manager does not read what it is told");
    }
    manager.next("READY=1");
    assert!(server.terminate().0.success());
}

#[test]
fn a_service_manager_may_have_an_abstract_name() {
    let name = format!("echo-server-test-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let manager =
        Manager { socket, name: format!("@{name}"), _directory: tempfile::tempdir().unwrap() };
    let server = manager.start(&[]);
    manager.next("READY=1");
    server.terminate();
}

#[test]
fn a_service_manager_that_reads_nothing_keeps_nobody_waiting() {
    let manager = Manager::new();
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"full", &manager.name).is_ok() {}
    let server = manager.start(&[("WATCHDOG_USEC", "100000")]);
    ping(&format!("tcp://{}", server.address("tcp")));
    server.signal(Signal::HUP);
    server.wait_for_line("there is nothing to reload");
    ping(&format!("tcp://{}", server.address("tcp")));
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    assert!(log.contains("The service manager does not read what it is told"), "{log}");
}

#[test]
fn a_notify_socket_that_cannot_be_used_is_logged_and_ignored() {
    for (name, said) in
        [("nowhere", "NOTIFY_SOCKET"), ("/nowhere/notify", "cannot be told anything")]
    {
        let mut command = command();
        let server =
            Running::spawn(command.args(["--tcp", "127.0.0.1:0"]).env("NOTIFY_SOCKET", name));
        ping(&format!("tcp://{}", server.address("tcp")));
        let (status, log) = server.terminate();
        assert!(status.success() && log.contains(said), "{log}");
    }
}

#[test]
fn the_watchdog_is_fed_if_it_watches_this_process() {
    let manager = Manager::new();
    let server = manager.start(&[("WATCHDOG_USEC", "100000")]);
    for _ in 0..3 {
        manager.next("WATCHDOG=1");
    }
    server.terminate();

    let manager = Manager::new();
    let server = manager.start(&[("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "1")]);
    manager.next("READY=1");
    ping(&format!("tcp://{}", server.address("tcp")));
    server.signal(Signal::TERM);
    let told = std::iter::repeat_with(|| manager.message());
    for message in told.take_while(|message| !message.starts_with("STOPPING=1")) {
        assert!(!message.contains("WATCHDOG"), "{message}");
    }
}

/// strace delays a system call of one thread, which is then stuck.
#[test]
fn the_watchdog_is_not_fed_while_one_thread_is_stuck() {
    if !tools::have(&["strace", "-V"], "strace") {
        return;
    }
    let manager = Manager::new();
    let server = manager.start(&[("WATCHDOG_USEC", "1000000")]);
    manager.next("WATCHDOG=1");
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let is_worker = |task: &Path| {
        fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "echo-2")
    };
    let worker = tasks.map(|task| task.unwrap().path()).find(|task| is_worker(task)).unwrap();
    let worker = worker.file_name().unwrap().to_str().unwrap().to_owned();
    let mut strace = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "-e", "trace=epoll_wait"])
        .args(["-e", "inject=epoll_wait:delay_exit=600s", "-p", &worker])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    server.wait_for_line("A thread is stuck");
    manager.socket.set_nonblocking(true).unwrap();
    while manager.socket.recv(&mut [0; 100]).is_ok() {}
    server.wait_for_line("A thread is stuck");
    let fed = manager.socket.recv(&mut [0; 100]);
    assert_eq!(fed.unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "it is stuck");

    strace.kill().unwrap();
    strace.wait().unwrap();
    manager.socket.set_nonblocking(false).unwrap();
    manager.next("WATCHDOG=1");
    assert!(server.terminate().0.success());
}

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd")
}

#[test]
fn the_units_are_valid_and_give_the_server_few_rights() {
    if !tools::have(&["systemd-analyze", "--version"], "systemd") {
        return;
    }
    // The tool wants the program to exist where the unit says it is.
    let there = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(units()).unwrap() {
        let path = entry.unwrap().path();
        let unit = fs::read_to_string(&path).unwrap().replace("/usr/bin/echo-server", binary::PATH);
        fs::write(there.path().join(path.file_name().unwrap()), unit).unwrap();
    }
    let analyze = |args: &[&str]| {
        let output =
            Command::new("systemd-analyze").args(args).current_dir(&there).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    };
    let units = ["./echo-server.socket", "./echo-server.service", "./echo-server@main.service"];
    let verified = analyze(&[&["verify", "--man=no"], &units[..]].concat());
    assert_eq!(verified, (true, String::new()));
    for unit in ["./echo-server.service", "./echo-server@.service"] {
        let (is_safe, said) =
            analyze(&["security", "--offline=true", "--threshold=20", "--no-pager", unit]);
        assert!(is_safe, "{said}");
    }
}

//! The real binary, as a child process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, mpsc};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The path of the binary.
pub const PATH: &str = env!("CARGO_BIN_EXE_echo-server");

/// The command, without the developer's own environment variables for it.
pub fn command() -> Command {
    without_settings(Command::new(PATH))
}

/// A shell with the command in its PATH, for a line as people type it. Arguments become `"$@"`.
pub fn shell(line: &str) -> Command {
    let directory = Path::new(PATH).parent().unwrap();
    let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = without_settings(Command::new("sh"));
    shell.env("PATH", path).args(["-c", line, "sh"]);
    shell
}

/// Removes the developer's own environment variables for the echo server.
pub fn without_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ECHO_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command
}

/// A running server that has announced its addresses. Dropping it kills the process.
pub struct Running {
    child: Child,
    /// Reads the log as it comes, since a full pipe would block the server.
    log: Option<JoinHandle<String>>,
    /// The same lines, for whoever waits for one.
    lines: Mutex<mpsc::Receiver<String>>,
    pub ready: Value,
}

impl Running {
    /// Starts the binary with `args`, which must name port 0, and waits until it is ready.
    pub fn start(args: &[&str]) -> Running {
        Running::spawn(command().args(args))
    }

    /// Starts `command` and waits until it is ready. Its ready file is a pipe that we read.
    pub fn spawn(command: &mut Command) -> Running {
        let mut child = command
            .args(["--ready-file", "/dev/stdout"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        let log = std::thread::spawn(move || {
            let (mut log, mut read) = (String::new(), 0);
            while stderr.read_line(&mut log).expect("the log is UTF-8") > 0 {
                // Hardly any test waits for a line.
                let _ = sender.send(log[read..].to_owned());
                read = log.len();
            }
            log
        });
        if line.is_empty() {
            panic!("the binary did not get ready: {}", log.join().unwrap());
        }
        let ready = serde_json::from_str(&line).expect("a line of JSON");
        Running { child, log: Some(log), lines: Mutex::new(lines), ready }
    }

    /// The address of the listener for `protocol`.
    pub fn address(&self, protocol: &str) -> SocketAddr {
        let listeners = self.ready["listeners"].as_array().unwrap();
        let listener = listeners.iter().find(|l| l["protocol"] == protocol).unwrap();
        listener["address"].as_str().unwrap().parse().unwrap()
    }

    /// Waits until the log has a line, after those that were waited for, that contains `text`.
    pub fn wait_for_line(&self, text: &str) {
        let lines = self.lines.lock().unwrap();
        let mut seen = String::new();
        while !seen.contains(text) {
            seen = lines.recv().unwrap_or_else(|_| panic!("the log ends without '{text}'"));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until the process ends. Returns its exit status and its log.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        (status, self.log.take().unwrap().join().unwrap())
    }

    /// Sends SIGTERM, then [`Running::wait`]s.
    pub fn terminate(self) -> (ExitStatus, String) {
        self.signal(Signal::TERM);
        self.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! A server as a child process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use echo_server::Protocol;
use serde_json::Value;

use super::cores::Cores;
use super::ours;
use super::sample::{Metric, Sample, Trouble};
use crate::certificates::certs;
use crate::controls::Control;

/// Whose server.
#[derive(Debug, Clone, PartialEq)]
pub enum Which {
    Ours,
    /// Another build of ours: its name, and the binary.
    Build(String, PathBuf),
    /// Our server with another protocol.
    OursOver(Protocol),
    Control(Control),
}

impl Which {
    pub fn name(&self) -> &str {
        match self {
            Which::Ours => "echo-server",
            Which::Build(name, _) => name,
            Which::OursOver(Protocol::Tcp) => "our own TCP",
            Which::OursOver(Protocol::Tls) => "our own TLS",
            Which::OursOver(_) => "another protocol of ours",
            Which::Control(control) => control.name(),
        }
    }

    fn command(&self, protocol: Protocol) -> Result<Command, Trouble> {
        match self {
            Which::Ours | Which::OursOver(_) => Ok(command_of_ours(ours::binary(), protocol)),
            Which::Build(_, path) => Ok(command_of_ours(path, protocol)),
            Which::Control(control) => control.command().map_err(|error| error.to_string()),
        }
    }
}

/// Ours, with its default settings. It writes its log, which is discarded.
fn command_of_ours(path: &Path, protocol: Protocol) -> Command {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ECHO_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command.args([&format!("--{protocol}"), "0", "--ready-file", "/dev/stdout"]);
    if protocol.is_over_tls() {
        command.arg("--cert").arg(certs("server.pem")).arg("--key").arg(certs("server.key"));
    }
    command
}

/// A server that listens. It is killed when this is dropped.
pub struct Running {
    child: Child,
    pub protocol: Protocol,
    pub address: SocketAddr,
    /// The line with the addresses.
    ready: Value,
    took: Duration,
}

impl Running {
    /// Starts a server on the servers' core, and waits until it listens.
    pub fn start(which: &Which, protocol: Protocol, cores: &Cores) -> Result<Running, Trouble> {
        Running::start_with(which, protocol, &[], cores)
    }

    /// The same, with more arguments.
    pub fn start_with(
        which: &Which,
        protocol: Protocol,
        arguments: &[&str],
        cores: &Cores,
    ) -> Result<Running, Trouble> {
        let protocol = if let Which::OursOver(other) = which { *other } else { protocol };
        let trouble = |what: &dyn std::fmt::Display| format!("{}: {what}", which.name());
        let mut command = which.command(protocol)?;
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        if !matches!(which, Which::Control(_)) {
            command.stderr(Stdio::null());
        }
        let began = Instant::now();
        let mut child = cores.as_a_server(|| command.spawn()).map_err(|error| trouble(&error))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).map_err(|error| trouble(&error))?;
        }
        let took = began.elapsed();
        let ready = serde_json::from_str(&line).unwrap_or_default();
        let address = address_in(&ready, 0);
        let unknown = SocketAddr::from(([0; 4], 0));
        let running = Running { child, protocol, address: address.unwrap_or(unknown), ready, took };
        // On an error the server is dropped here, which kills it.
        address.map(|_| running).ok_or_else(|| trouble(&"it does not print its address"))
    }

    /// The address of one of its listeners.
    pub fn address_of(&self, protocol: Protocol) -> Option<SocketAddr> {
        let listeners = self.ready["listeners"].as_array()?;
        let at = listeners.iter().position(|one| one["protocol"] == protocol.name())?;
        address_in(&self.ready, at)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How long it took to start.
    pub fn start_sample(&self) -> Sample {
        let values = [(Metric::Start, self.took.as_nanos() as f64)].into();
        Sample { values, right: 1, ..Sample::default() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // This fails if the process has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address_in(ready: &Value, listener: usize) -> Option<SocketAddr> {
    ready["listeners"][listener]["address"].as_str()?.parse().ok()
}

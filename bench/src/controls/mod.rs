//! The servers that ours is compared with: one written without much thought, one written with care,
//! and one that does the least that the kernel requires.
//!
//! `client` is the counterpart of the probe.
//!
//! Each server runs in a process of its own, with the benchmark's executable; only OpenSSL's is in C.

mod classic;
pub mod client;
mod datagrams;
mod epoll;
mod mmsg;
mod openssl;
mod rustls;
mod tungstenite;
mod uring;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::{Command, ExitCode};

use tokio::runtime::{Builder, Runtime};

/// The hidden argument that makes the benchmark's executable a control.
pub const COMMAND: &str = "serve-control";

/// A server to compare ours with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// TCP: the loop of every tutorial.
    Classic,
    /// TCP: epoll without a runtime.
    Epoll,
    /// TCP: io_uring without a runtime.
    Uring,
    /// TLS: the same loop over tokio-rustls.
    Rustls,
    /// TLS: OpenSSL over epoll, in C.
    OpenSsl,
    /// WebSocket: tungstenite with its defaults.
    Tungstenite,
    /// WebSocket: tungstenite with smaller buffers and fewer flushes.
    TungsteniteTuned,
    /// UDP: `recv_from` and `send_to`.
    Datagrams,
    /// UDP: recvmmsg and sendmmsg without a runtime.
    Mmsg,
}

impl Control {
    const ALL: [Control; 9] = [
        Control::Classic,
        Control::Epoll,
        Control::Uring,
        Control::Rustls,
        Control::OpenSsl,
        Control::Tungstenite,
        Control::TungsteniteTuned,
        Control::Datagrams,
        Control::Mmsg,
    ];

    /// Its name, in tables and on its command line.
    pub fn name(self) -> &'static str {
        match self {
            Control::Classic => "classic loop",
            Control::Epoll => "bare epoll",
            Control::Uring => "bare io_uring",
            Control::Rustls => "tokio-rustls loop",
            Control::OpenSsl => "OpenSSL, epoll",
            Control::Tungstenite => "tungstenite",
            Control::TungsteniteTuned => "tungstenite, tuned",
            Control::Datagrams => "recv_from loop",
            Control::Mmsg => "bare recvmmsg",
        }
    }

    /// Makes it ready to start, or says why it cannot be had here, and what would help.
    pub fn prepare(self) -> Result<(), String> {
        match self {
            Control::Uring => uring::check(),
            Control::OpenSsl => openssl::compile(),
            _ => Ok(()),
        }
    }

    /// Starts it, and prints its address when it listens.
    pub fn command(self) -> io::Result<Command> {
        if self == Control::OpenSsl {
            return Ok(openssl::command());
        }
        let mut command = Command::new(std::env::current_exe()?);
        command.args([COMMAND, self.name()]);
        Ok(command)
    }
}

/// Runs the control called `name` until the process is killed.
pub fn serve(name: &str) -> ExitCode {
    let Some(control) = Control::ALL.into_iter().find(|control| control.name() == name) else {
        eprintln!("there is no control '{name}'");
        return ExitCode::from(2);
    };
    let outcome = match control {
        Control::Classic => classic::serve(),
        Control::Epoll => epoll::serve(),
        Control::Uring => uring::serve(),
        Control::Rustls => rustls::serve(),
        Control::OpenSsl => Err(io::Error::other("it has an executable of its own")),
        Control::Tungstenite => tungstenite::serve(tungstenite::Manner::Plain),
        Control::TungsteniteTuned => tungstenite::serve(tungstenite::Manner::Tuned),
        Control::Datagrams => datagrams::serve(),
        Control::Mmsg => mmsg::serve(),
    };
    if let Err(error) = outcome {
        eprintln!("{name}: {error}");
    }
    ExitCode::FAILURE
}

/// Prints the address, in the format of our server's ready file.
fn announce(address: SocketAddr) -> io::Result<()> {
    let line = serde_json::json!({ "listeners": [{ "address": address.to_string() }] });
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// The runtime of `#[tokio::main]`: a worker for each core that the process may use.
fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().build()
}

//! SIGINT and SIGTERM, which shut the server down, SIGHUP, which reloads the certificates, and
//! SIGQUIT, which has the probe print its summary so far.

use std::io;

/// Catches SIGINT (Ctrl-C) and SIGTERM from the moment that it is created.
#[cfg(unix)]
pub struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    pub fn catch() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next signal, and returns its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// Catches SIGHUP, which would end the process otherwise. A service manager sends it to every
/// server alike, whether or not there is anything to reload.
#[cfg(unix)]
pub struct Hangups(tokio::signal::unix::Signal);

#[cfg(unix)]
impl Hangups {
    pub fn catch() -> io::Result<Self> {
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).map(Hangups)
    }

    pub async fn next(&mut self) {
        self.0.recv().await;
    }
}

/// Other systems have no SIGHUP.
#[cfg(not(unix))]
pub struct Hangups;

#[cfg(not(unix))]
impl Hangups {
    pub fn catch() -> io::Result<Self> {
        Ok(Hangups)
    }

    pub async fn next(&mut self) {
        std::future::pending::<()>().await;
    }
}

/// Catches SIGQUIT (Ctrl-\\), which would dump core otherwise.
#[cfg(unix)]
pub struct Quits(tokio::signal::unix::Signal);

#[cfg(unix)]
impl Quits {
    pub fn catch() -> io::Result<Self> {
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::quit()).map(Quits)
    }

    pub async fn next(&mut self) {
        self.0.recv().await;
    }
}

/// Other systems have no SIGQUIT.
#[cfg(not(unix))]
pub struct Quits;

#[cfg(not(unix))]
impl Quits {
    pub fn catch() -> io::Result<Self> {
        Ok(Quits)
    }

    pub async fn next(&mut self) {
        std::future::pending::<()>().await;
    }
}

/// Catches Ctrl-C.
#[cfg(not(unix))]
pub struct Signals;

#[cfg(not(unix))]
impl Signals {
    pub fn catch() -> io::Result<Self> {
        Ok(Signals)
    }

    pub async fn next(&mut self) -> &'static str {
        match tokio::signal::ctrl_c().await {
            Ok(()) => "Ctrl-C",
            Err(_) => std::future::pending().await,
        }
    }
}

//! `--mesh`: the server probes its peers, and logs who is not reached.

use std::net::SocketAddr;
use std::time::Duration;

use echo_server::probe::{Series, Target, Watch, WatchEvent, Watcher};
use echo_server::{LocalAddr, Protocol, Source};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::cli::Mesh;
use crate::flags;

/// So many lines on hosts that are not reached, or reached again, are logged in a minute. If a whole
/// network is cut off, the first ones say it.
const LINES: u32 = 20;

/// How long connecting to a peer may take, with TLS and the upgrade: a lost SYN is sent again after a
/// second, and after three.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// Prepares to probe the peers of a server that listens at `served`.
pub fn prepare(mesh: Mesh, served: &[LocalAddr]) -> Result<Watcher, String> {
    let Mesh { names, mut options, ca } = mesh;
    let addresses = addresses(served);
    if addresses.is_empty() {
        return Err(
            "--mesh: this server listens on no TCP or UDP port, as its peers would".to_owned()
        );
    }
    options.own = served.iter().filter_map(|listener| listener.address.ip()).collect();
    let mut watch = Watch::new(options).connect(|connect| {
        connect.tls.ca = ca.map(Source::from);
        connect.timeout = CONNECT_TIMEOUT;
    });
    for name in &names {
        for (protocol, address) in &addresses {
            watch = watch.target(target(*protocol, name, address.port())?);
        }
    }
    watch.prepare().map_err(|error| flags::mesh_error(&error))
}

/// The first address of each protocol that has one.
fn addresses(served: &[LocalAddr]) -> Vec<(Protocol, SocketAddr)> {
    let first = |protocol: &Protocol| {
        let mut of_protocol = served.iter().filter(|listener| listener.protocol == *protocol);
        Some((*protocol, of_protocol.find_map(|listener| listener.address.ip())?))
    };
    Protocol::ALL.iter().filter_map(first).collect()
}

fn target(protocol: Protocol, name: &str, port: u16) -> Result<Target, String> {
    let host = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
    let url = format!("{protocol}://{host}:{port}");
    url.parse().map_err(|error| format!("--mesh {name}: {error}"))
}

/// Logs what a watch notices.
pub struct Log {
    began: Instant,
    lines: u32,
    left_out: u32,
}

impl Log {
    pub fn new() -> Self {
        Log { began: Instant::now(), lines: 0, left_out: 0 }
    }

    pub fn event(&mut self, event: &WatchEvent) {
        match event {
            WatchEvent::Down(series) if self.has_room() => {
                let problem = series.problem.as_deref().unwrap_or_default();
                warn!(
                    target = %series.target, address = address(series),
                    "A peer is not reached: {problem}"
                );
            }
            WatchEvent::Up { series, after, .. } if self.has_room() => {
                let after = humantime::format_duration(Duration::from_secs(after.as_secs()));
                // As loud as the line that it answers.
                warn!(
                    target = %series.target, address = address(series),
                    "A peer is reached again after {after}"
                );
            }
            WatchEvent::LookupFailed { name, problem, .. } if self.has_room() => {
                warn!(name, "The peers' name could not be looked up: {problem}");
            }
            WatchEvent::Reread { .. } => info!("The mesh has read its certificates again"),
            WatchEvent::Unusable(error) => {
                warn!("The mesh keeps the certificates that it has: {}", flags::mesh_error(error));
            }
            _ => {}
        }
    }

    /// Whether another line can be logged in this minute.
    fn has_room(&mut self) -> bool {
        if self.began.elapsed() >= Duration::from_secs(60) {
            if self.left_out > 0 {
                warn!(lines = self.left_out, "More was to be said of peers in the minute before");
            }
            *self = Log::new();
        }
        let has_room = self.lines < LINES;
        *(if has_room { &mut self.lines } else { &mut self.left_out }) += 1;
        has_room
    }
}

/// `None` if the name has no address.
fn address(series: &Series) -> Option<String> {
    series.address.map(|address| address.to_string())
}

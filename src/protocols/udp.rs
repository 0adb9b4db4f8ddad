//! UDP: one session for each socket of an address. A socket serves many peers, without connections.

use std::io;
use std::net::{self, IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::net::UdpSocket;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use crate::config::{Protocol, UdpPolicy};
use crate::connection::{Member, Session, Sessions, Throttle};
use crate::echo::{
    Answerable, AnsweringEcho, Answers, Asked, DatagramEcho, DetouringEcho, Rules, Traffic,
    Unanswered,
};
use crate::facts::datagram::{QUESTION, Seen};
use crate::faults::{Detour, Faults, Tally};
use crate::net::Peer;

/// How often the kernel's drop counters are read.
const DROP_CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The rules that decide which datagrams are answered. `own` are the addresses of the server
/// itself.
pub(crate) fn rules(policy: &UdpPolicy, own: Vec<SocketAddr>) -> Arc<Rules> {
    let has_wildcard = own.iter().any(|own| own.ip().is_unspecified());
    let machine = if has_wildcard { machine_addresses() } else { Vec::new() };
    let answerable = Answerable {
        low_ports: policy.allow_low_ports,
        rate: policy.rate_limit,
        limits_loopback: policy.rate_limit_loopback,
        total_rate: policy.total_rate_limit,
        own,
        machine,
    };
    let throttles: [Throttle; Unanswered::ALL.len()] = Default::default();
    let report = move |peer: SocketAddr, reason: Unanswered| {
        if let Some(times) = throttles[reason as usize].count() {
            let peer = Peer::ip_of(peer);
            info!(protocol = %Protocol::Udp, %peer, %reason, times, "Datagrams not answered");
        }
    };
    Arc::new(Rules::new(answerable, Box::new(report)))
}

/// The sockets of one UDP address, ready to echo.
#[derive(Debug)]
pub(crate) struct Udp {
    local: SocketAddr,
    sockets: Vec<Arc<UdpSocket>>,
    /// The echo of each socket, with the worker whose runtime the socket is registered with.
    echoes: Vec<(SocketEcho, u16, Handle)>,
    totals: Arc<Mutex<Traffic>>,
    /// What is done wrong on purpose, if anything is.
    tally: Option<Arc<Tally>>,
    drops: Arc<KernelDrops>,
}

/// The echo of one socket. The three are different types, so that a server without facts does not
/// look for questions, and one without faults does not look for those.
#[derive(Debug)]
enum SocketEcho {
    Exact(DatagramEcho),
    WithFacts(AnsweringEcho<Facts>),
    WithFaults(Box<DetouringEcho<Option<Facts>, Detour>>),
}

/// Answers the datagrams that ask for facts.
#[derive(Debug, Clone, Copy)]
struct Facts {
    /// The address that the socket is bound to.
    bound: SocketAddr,
}

impl Answers for Facts {
    const ANY: bool = true;

    fn answer(&self, asked: &Asked<'_>) -> Option<Vec<u8>> {
        let Asked { peer, destination, ttl, tos, bytes } = *asked;
        if !bytes.starts_with(QUESTION) {
            return None;
        }
        let mut local = self.bound;
        if !destination.is_unspecified() {
            local.set_ip(destination);
        }
        let seen = Seen { time: SystemTime::now(), peer, local, ttl, tos };
        seen.reply(bytes.len()).map(String::into_bytes)
    }
}

impl Udp {
    /// Registers the sockets `bound`, all bound to `local`, each with the runtime of one of
    /// `workers`. There are at most as many sockets as workers. `has_facts` says whether datagrams
    /// that ask for facts are answered with them, and `faults` what is done wrong on purpose.
    ///
    /// # Errors
    /// A socket could not be registered, or one of its options could not be set.
    pub(crate) fn new(
        bound: Vec<net::UdpSocket>,
        workers: &[(u16, &Handle)],
        local: SocketAddr,
        rules: &Arc<Rules>,
        has_facts: bool,
        faults: Option<&Arc<Faults>>,
    ) -> io::Result<Self> {
        let totals = Arc::default();
        let tally = faults.map(|_| Arc::<Tally>::default());
        let (mut sockets, mut echoes) = (Vec::new(), Vec::new());
        for (socket, (worker, runtime)) in bound.into_iter().zip(workers) {
            let _guard = runtime.enter();
            let socket = Arc::new(UdpSocket::from_std(socket)?);
            sockets.push(Arc::clone(&socket));
            let (rules, totals) = (Arc::clone(rules), Arc::clone(&totals));
            let facts = has_facts.then_some(Facts { bound: local });
            let echo = match (faults.zip(tally.as_ref()), facts) {
                (Some((faults, tally)), facts) => {
                    let detour = Detour::new(Arc::clone(faults), *worker, Arc::clone(tally));
                    let echo = DatagramEcho::detouring(socket, facts, detour, rules, totals)?;
                    SocketEcho::WithFaults(Box::new(echo))
                }
                (None, Some(facts)) => {
                    SocketEcho::WithFacts(DatagramEcho::answering(socket, facts, rules, totals)?)
                }
                (None, None) => SocketEcho::Exact(DatagramEcho::new(socket, rules, totals)?),
            };
            echoes.push((echo, *worker, Handle::clone(runtime)));
        }
        let drops = Arc::new(KernelDrops::of(&sockets));
        Ok(Udp { local, sockets, echoes, totals, tally, drops })
    }

    /// The number of sockets.
    pub(crate) fn sockets(&self) -> usize {
        self.sockets.len()
    }

    /// The datagrams that the kernel dropped.
    pub(crate) fn drops(&self) -> Arc<KernelDrops> {
        Arc::clone(&self.drops)
    }

    /// Echoes until the server drains, then logs the totals. `_member` makes the drain wait for
    /// that log line.
    pub(crate) async fn run(self, sessions: Arc<Sessions>, _member: Member) {
        let Udp { local, sockets, echoes, totals, tally, drops } = self;
        let mut running = JoinSet::new();
        for (echo, worker, runtime) in echoes {
            match echo {
                SocketEcho::Exact(echo) => {
                    running.spawn_on(Session::of_socket(&sessions, worker, echo), &runtime);
                }
                SocketEcho::WithFacts(echo) => {
                    running.spawn_on(Session::of_socket(&sessions, worker, echo), &runtime);
                }
                SocketEcho::WithFaults(echo) => {
                    running.spawn_on(Session::of_socket(&sessions, worker, *echo), &runtime);
                }
            }
        }
        let mut logged = 0;
        let mut checks = interval(DROP_CHECK_INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ended = running.join_next() => match ended {
                    None => break,
                    Some(Err(error)) => error!(protocol = %Protocol::Udp, address = %local, %error, "A task failed; its UDP socket is not echoed any more"),
                    Some(Ok(())) => {}
                },
                _ = checks.tick() => report(&drops, &mut logged, local),
            }
        }
        // We still hold the sockets, so the kernel still has their counters.
        report(&drops, &mut logged, local);
        drop(sockets);
        let Traffic { received, sent, messages } =
            *totals.lock().unwrap_or_else(PoisonError::into_inner);
        let dropped = logged;
        // As a string, so that the log quotes it.
        let faults = tally.map(|tally| tally.to_string());
        info!(protocol = %Protocol::Udp, address = %local, received, sent, messages, dropped, faults, "Socket closed: {local}");
    }
}

/// Logs how many datagrams were not answered, and why.
pub(crate) fn summarize(rules: &Rules) {
    for reason in Unanswered::ALL {
        let datagrams = rules.unanswered(reason);
        if datagrams > 0 {
            info!(protocol = %Protocol::Udp, datagrams, %reason, "Datagrams not answered in all");
        }
    }
}

/// Counts the datagrams that the kernel dropped because a receive buffer was full.
#[derive(Debug)]
pub(crate) struct KernelDrops {
    inodes: Vec<u64>,
    /// The highest sum that was read. With the sockets, their counters go.
    highest: AtomicU64,
}

impl KernelDrops {
    fn of(sockets: &[Arc<UdpSocket>]) -> Self {
        let inodes = sockets.iter().filter_map(|socket| inode(socket)).collect();
        KernelDrops { inodes, highest: AtomicU64::new(0) }
    }

    /// How many were dropped. This asks the kernel.
    pub(crate) fn read(&self) -> u64 {
        let now = dropped(&self.inodes);
        self.highest.fetch_max(now, Ordering::Relaxed).max(now)
    }
}

/// Logs how many more than `logged` were dropped.
fn report(drops: &KernelDrops, logged: &mut u64, local: SocketAddr) {
    let now = drops.read();
    let more = now.saturating_sub(*logged);
    if more > 0 {
        *logged = now;
        warn!(protocol = %Protocol::Udp, address = %local, datagrams = more, "Dropped by the kernel: the receive buffer was full (SO_RCVBUF)");
    }
}

/// The sum of the drop counters of these sockets.
fn dropped(inodes: &[u64]) -> u64 {
    let tables = ["/proc/self/net/udp", "/proc/self/net/udp6"];
    let tables = tables.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    let drops = |line: &str| -> Option<u64> {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        // As in proc(5): the inode is the tenth field, the drop counter the last.
        let inode = fields.get(9)?.parse().ok()?;
        if inodes.contains(&inode) { fields.last()?.parse().ok() } else { None }
    };
    tables.map(|table| table.lines().filter_map(drops).sum::<u64>()).sum()
}

/// The inode of a socket, which identifies it in /proc/net/udp.
#[cfg(target_os = "linux")]
fn inode(socket: &UdpSocket) -> Option<u64> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    let link = format!("/proc/self/fd/{}", socket.as_raw_fd());
    std::fs::metadata(link).ok().map(|metadata| metadata.ino())
}

#[cfg(not(target_os = "linux"))]
fn inode(_socket: &UdpSocket) -> Option<u64> {
    None
}

/// The addresses of this machine's interfaces. It misses addresses that are added later; with
/// those, only the rate limit ends a loop.
#[cfg(target_os = "linux")]
fn machine_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    interfaces
        .filter_map(|interface| interface.address)
        .filter_map(|address| match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
            (_, Some(v6)) => Some(IpAddr::V6(v6.ip())),
            _ => None,
        })
        .collect()
}

#[cfg(not(target_os = "linux"))]
fn machine_addresses() -> Vec<IpAddr> {
    Vec::new()
}

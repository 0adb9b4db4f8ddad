//! Which datagrams are not answered, so that the echo is of no use for attacks.
//!
//! A datagram's source address is easily forged, and a reply then goes to somebody who did not ask.
//! If both ends answer everything, one forged datagram starts a loop that never stops. The first
//! datagram that one of them leaves unanswered ends it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::batch::Received;
use super::rate::{Buckets, Rate, Shared};

/// NFS, a UDP service above port 1024.
const NFS: u16 = 2049;

/// Why a datagram got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Unanswered {
    /// From port 0, which nobody can receive on.
    PortZero,
    /// From a port below 1024, or 2049: a service's, not a client's.
    LowPort,
    /// From a broadcast, multicast or unspecified address.
    SourceAddress,
    /// Sent to a broadcast or multicast address.
    SentToMany,
    /// From one of this server's own addresses.
    Ourselves,
    /// Over the rate limit of its network.
    RateLimit,
    /// Over the rate limit of all networks together.
    TotalRateLimit,
    /// The socket's send buffer stayed full for too long.
    NoRoom,
    /// The system refused to send the reply.
    SendFailed,
}

impl Unanswered {
    /// All of them, in the order of their counters.
    pub const ALL: [Unanswered; 9] = [
        Unanswered::PortZero,
        Unanswered::LowPort,
        Unanswered::SourceAddress,
        Unanswered::SentToMany,
        Unanswered::Ourselves,
        Unanswered::RateLimit,
        Unanswered::TotalRateLimit,
        Unanswered::NoRoom,
        Unanswered::SendFailed,
    ];
}

impl Unanswered {
    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Unanswered::PortZero => "port_zero",
            Unanswered::LowPort => "low_port",
            Unanswered::SourceAddress => "source_address",
            Unanswered::SentToMany => "sent_to_many",
            Unanswered::Ourselves => "ourselves",
            Unanswered::RateLimit => "rate_limit",
            Unanswered::TotalRateLimit => "total_rate_limit",
            Unanswered::NoRoom => "no_room",
            Unanswered::SendFailed => "send_failed",
        }
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unanswered::PortZero => "from port 0",
            Unanswered::LowPort => "from a port below 1024, or 2049",
            Unanswered::SourceAddress => "from a broadcast, multicast or unspecified address",
            Unanswered::SentToMany => "sent to a broadcast or multicast address",
            Unanswered::Ourselves => "from one of the server's own addresses",
            Unanswered::RateLimit => "over the rate limit of its source",
            Unanswered::TotalRateLimit => "over the total rate limit",
            Unanswered::NoRoom => "no room in the send buffer",
            Unanswered::SendFailed => "sending failed",
        })
    }
}

/// Who is answered, and how much.
#[derive(Debug, Clone, Default)]
pub struct Answerable {
    /// Whether ports below 1024, and 2049, are answered.
    pub low_ports: bool,
    /// Replies a second to one IPv4 address or IPv6 /64. A burst may be twice as many.
    pub rate: Option<u32>,
    /// Whether `rate` applies to loopback addresses too.
    pub limits_loopback: bool,
    /// Replies a second to all peers together. A burst may be twice as many.
    pub total_rate: Option<u32>,
    /// Addresses that the server itself answers from. An unspecified one stands for loopback and
    /// all of `machine`.
    pub own: Vec<SocketAddr>,
    /// The addresses of this machine.
    pub machine: Vec<IpAddr>,
}

/// Is called with the peer and the reason when datagrams are not answered.
pub type Report = Box<dyn Fn(SocketAddr, Unanswered) + Send + Sync>;

/// The rules, and how often each was applied. All sockets of a server share them.
pub struct Rules {
    answerable: Answerable,
    sources: Option<Buckets>,
    total: Option<Shared>,
    began: Instant,
    unanswered: [AtomicU64; Unanswered::ALL.len()],
    report: Report,
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").field("answerable", &self.answerable).finish_non_exhaustive()
    }
}

impl Rules {
    /// Rules that answer what is `answerable`, and `report` the rest.
    pub fn new(answerable: Answerable, report: Report) -> Self {
        let sources = answerable.rate.map(|rate| Buckets::new(Rate::new(rate)));
        let total = answerable.total_rate.map(|rate| Shared::new(Rate::new(rate)));
        let (began, unanswered) = (Instant::now(), Default::default());
        Rules { answerable, sources, total, began, unanswered, report }
    }

    /// How many datagrams were not answered for this reason.
    pub fn unanswered(&self, reason: Unanswered) -> u64 {
        self.unanswered[reason as usize].load(Ordering::Relaxed)
    }

    pub(super) fn give_up(&self, peer: SocketAddr, datagrams: usize, reason: Unanswered) {
        self.unanswered[reason as usize].fetch_add(datagrams as u64, Ordering::Relaxed);
        (self.report)(peer, reason);
    }

    /// The time now, as [`Rules::judge`] takes it: nanoseconds since the rules were made.
    pub(super) fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// How many of the received datagrams are to be answered, and why the others are not.
    pub(super) fn judge(&self, received: &Received, now: u64) -> (usize, Option<Unanswered>) {
        let count = received.datagrams();
        if let Some(reason) = self.refusal(received) {
            return (0, Some(reason));
        }
        let peer = received.peer.ip().to_canonical();
        let mut answered = count;
        let mut reason = None;
        if let Some(sources) = &self.sources
            && (self.answerable.limits_loopback || !peer.is_loopback())
        {
            answered = sources.take(peer, count, now);
            if answered < count {
                reason = Some(Unanswered::RateLimit);
            }
        }
        if let Some(total) = &self.total
            && answered > 0
        {
            let wanted = answered;
            answered = total.take(wanted, now);
            if answered < wanted {
                reason = Some(Unanswered::TotalRateLimit);
            }
        }
        (answered, reason)
    }

    /// Why a datagram is not answered at all, whatever the rates.
    fn refusal(&self, received: &Received) -> Option<Unanswered> {
        let (ip, port) = (received.peer.ip().to_canonical(), received.peer.port());
        let is_unicast = match ip {
            IpAddr::V4(ip) => !ip.is_broadcast() && !ip.is_multicast() && !ip.is_unspecified(),
            IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unspecified(),
        };
        if port == 0 {
            Some(Unanswered::PortZero)
        } else if (port < 1024 || port == NFS) && !self.answerable.low_ports {
            Some(Unanswered::LowPort)
        } else if !is_unicast {
            Some(Unanswered::SourceAddress)
        } else if received.is_to_many {
            Some(Unanswered::SentToMany)
        } else if self.is_own(ip, port) {
            Some(Unanswered::Ourselves)
        } else {
            None
        }
    }

    fn is_own(&self, ip: IpAddr, port: u16) -> bool {
        let Answerable { own, machine, .. } = &self.answerable;
        own.iter().any(|own| {
            own.port() == port
                && (own.ip().to_canonical() == ip
                    || own.ip().is_unspecified() && (ip.is_loopback() || machine.contains(&ip)))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;

    fn rules_of(answerable: Answerable) -> Rules {
        Rules::new(answerable, Box::new(|_, _| {}))
    }

    fn judge(rules: &Rules, peer: &str) -> (usize, Option<Unanswered>) {
        let peer = peer.parse().unwrap();
        rules.judge(&Received { peer, length: 10, ..Received::NOTHING }, 0)
    }

    #[test]
    fn a_source_that_is_no_client_gets_no_answer() {
        let rules = rules_of(Answerable {
            own: vec!["192.0.2.9:8080".parse().unwrap(), "0.0.0.0:9000".parse().unwrap()],
            machine: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            ..Answerable::default()
        });
        let cases = [
            ("192.0.2.7:0", Some(Unanswered::PortZero)),
            ("192.0.2.7:7", Some(Unanswered::LowPort)),
            ("192.0.2.7:1023", Some(Unanswered::LowPort)),
            ("192.0.2.7:1024", None),
            ("192.0.2.7:2049", Some(Unanswered::LowPort)),
            ("127.0.0.1:5000", None),
            ("127.8.9.10:5000", None),
            ("0.0.0.0:5000", Some(Unanswered::SourceAddress)),
            ("255.255.255.255:5000", Some(Unanswered::SourceAddress)),
            ("224.0.0.1:5000", Some(Unanswered::SourceAddress)),
            ("[::]:5000", Some(Unanswered::SourceAddress)),
            ("[ff02::1]:5000", Some(Unanswered::SourceAddress)),
            ("[::ffff:224.0.0.1]:5000", Some(Unanswered::SourceAddress)),
            ("[2001:db8::7]:5000", None),
            ("192.0.2.9:8080", Some(Unanswered::Ourselves)),
            ("[::ffff:192.0.2.9]:8080", Some(Unanswered::Ourselves)),
            ("192.0.2.1:8080", None),
            ("192.0.2.1:9000", Some(Unanswered::Ourselves)),
            ("127.0.0.5:9000", Some(Unanswered::Ourselves)),
            ("[2001:db8::1]:9000", Some(Unanswered::Ourselves)),
        ];
        for (peer, expected) in cases {
            let answered = usize::from(expected.is_none());
            assert_eq!(judge(&rules, peer), (answered, expected), "{peer}");
        }
        let lenient = rules_of(Answerable { low_ports: true, ..Answerable::default() });
        assert_eq!(judge(&lenient, "192.0.2.7:7"), (1, None));
        assert_eq!(judge(&lenient, "192.0.2.7:0").1, Some(Unanswered::PortZero));
    }

    #[test]
    fn rates_apply_to_sources_and_to_all_together() {
        let rules = |limits_loopback| {
            let rate = Some(1);
            rules_of(Answerable { rate, limits_loopback, ..Answerable::default() })
        };
        let last = |rules: &Rules, peer| (0..3).fold(0, |_, _| judge(rules, peer).0);
        assert_eq!(last(&rules(false), "192.0.2.7:5000"), 0);
        assert_eq!(last(&rules(false), "127.0.0.1:5000"), 1);
        assert_eq!(last(&rules(true), "127.0.0.1:5000"), 0);
        let total = rules_of(Answerable { total_rate: Some(1), ..Answerable::default() });
        let judged: Vec<_> =
            (1..=3).map(|host| judge(&total, &format!("192.0.2.{host}:5000")).1).collect();
        assert_eq!(judged, [None, None, Some(Unanswered::TotalRateLimit)]);
    }

    #[test]
    fn a_train_is_answered_as_far_as_the_rate_allows() {
        let rules = rules_of(Answerable { rate: Some(2), ..Answerable::default() });
        let mut train = Received { length: 1000, ..Received::NOTHING };
        train.peer = "192.0.2.7:5000".parse().unwrap();
        train.ancillary.segment = 100;
        assert_eq!(rules.judge(&train, 0), (4, Some(Unanswered::RateLimit)));
    }

    #[test]
    fn each_reason_has_its_own_counter_and_its_own_words() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let report = Arc::clone(&told);
        let report = move |peer, reason| report.lock().unwrap().push((peer, reason));
        let rules = Rules::new(Answerable::default(), Box::new(report));
        let peer = SocketAddr::from(([192, 0, 2, 7], 5000));
        for (i, reason) in Unanswered::ALL.into_iter().enumerate() {
            rules.give_up(peer, 10 + i, reason);
            rules.give_up(peer, 100, reason);
        }
        let counts = Unanswered::ALL.map(|reason| rules.unanswered(reason));
        assert_eq!(counts, [110, 111, 112, 113, 114, 115, 116, 117, 118]);
        let twice = Unanswered::ALL.into_iter().flat_map(|reason| [(peer, reason); 2]);
        assert_eq!(*told.lock().unwrap(), twice.collect::<Vec<_>>());
        let words = HashSet::from(Unanswered::ALL.map(|reason| reason.to_string()));
        assert_eq!(words.len(), Unanswered::ALL.len());
        assert!(words.contains("from a port below 1024, or 2049"), "{words:?}");
    }

    #[test]
    fn debug_output_shows_who_is_answered() {
        let shown =
            format!("{:?}", rules_of(Answerable { rate: Some(77), ..Answerable::default() }));
        assert!(shown.starts_with("Rules { answerable: Answerable {"), "{shown}");
        assert!(shown.contains("rate: Some(77)"), "{shown}");
    }

    #[test]
    fn the_time_is_counted_from_when_the_rules_were_made() {
        let mut rules = rules_of(Answerable::default());
        rules.began -= Duration::from_secs(1);
        let (now, later) = (rules.now(), rules.began.elapsed());
        assert!((1_000_000_000..=later.as_nanos()).contains(&now.into()), "{now}");
    }

    #[test]
    fn the_total_rate_counts_only_what_the_rate_of_each_network_allows() {
        let mut answerable =
            Answerable { rate: Some(1), total_rate: Some(2), ..Answerable::default() };
        let rules = rules_of(answerable.clone());
        let train = |host: u8| {
            let mut train = Received { length: 500, ..Received::NOTHING };
            train.peer = SocketAddr::from(([192, 0, 2, host], 5000));
            train.ancillary.segment = 100;
            train
        };
        // Each network has two, and all together have four.
        let judged = [1, 1, 2, 3].map(|host| rules.judge(&train(host), 0));
        assert_eq!(
            judged,
            [
                (2, Some(Unanswered::RateLimit)),
                (0, Some(Unanswered::RateLimit)),
                (2, Some(Unanswered::RateLimit)),
                (0, Some(Unanswered::TotalRateLimit)),
            ]
        );
        answerable.rate = Some(10);
        let judged = rules_of(answerable.clone()).judge(&train(1), 0);
        assert_eq!(judged, (4, Some(Unanswered::TotalRateLimit)));
        answerable.total_rate = Some(10);
        assert_eq!(rules_of(answerable).judge(&train(1), 0), (5, None));
    }
}

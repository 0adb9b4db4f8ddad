//! Faults on purpose: how the server misbehaves, for tests of its clients. Plain data, and the
//! syntax of `--fault`.

mod parse;
mod probability;

use std::fmt;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

pub use parse::FaultError;
pub(crate) use parse::{fault, is_fault};
pub use probability::Probability;

use super::{Credentials, Protocol};

/// The default of [`FaultPolicy::max_delay`].
const DEFAULT_MAX_DELAY: Duration = Duration::from_secs(10);

/// How the server misbehaves on purpose. By default it does not.
///
/// Everything that is left to chance follows from the seed, the protocol, the number of the
/// connection (as in its log lines) or of the UDP flow, and the place in its output. It depends on
/// neither time nor threads, so that the same seed and the same order of connections give the same
/// faults.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FaultPolicy {
    /// Groups of faults. A connection gets those of all groups that it falls under; where two set
    /// the same, the later one counts.
    pub groups: Vec<FaultGroup>,
    /// The seed of everything that is left to chance. `None`: a random one, which is logged at
    /// start.
    pub seed: Option<u64>,
    /// Whether clients can ask for faults: WebSocket and HTTP by the query of the path, such as
    /// `/?delay=200ms&ws-close=1011`, TLS by the server name (SNI), such as `expired.localhost`.
    /// Default: `false`.
    pub by_request: bool,
    /// The longest time that a client can ask for. Default: 10 seconds.
    pub max_delay: Duration,
    /// The CA that signs the certificates of [`Fault::Certificate`], so that a client that trusts
    /// it sees nothing but the fault that was asked for. Files are read at start only, and not again
    /// when they change. `None`: a CA that nobody knows, made at start.
    ///
    /// ```
    /// use std::time::SystemTime;
    /// use echo_server::certs::{self, Name};
    /// use echo_server::{
    ///     CertificateFault, Config, Credentials, Fault, FaultGroup, Protocol, Source, blocking,
    /// };
    ///
    /// let made = certs::issue(&Name::of_this_machine(), SystemTime::now())?;
    /// let (ca, key) = (Source::memory(&made.ca.certificate), Source::memory(&made.ca.key));
    /// let expired = FaultGroup::on(Protocol::Tls)
    ///     .with(Fault::Certificate(CertificateFault::Expired));
    /// let config = Config::new()
    ///     .listen(Protocol::Tls, ([127, 0, 0, 1], 0))
    ///     .fault(expired)
    ///     .faults(|faults| faults.ca = Some(Credentials::new(ca, key)));
    /// let server = blocking::TestServer::with(config)?;
    /// // A client that trusts `made.ca.certificate` finds that the server's certificate has expired.
    /// # let _ = server;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub ca: Option<Credentials>,
}

impl Default for FaultPolicy {
    fn default() -> Self {
        FaultPolicy {
            groups: Vec::new(),
            seed: None,
            by_request: false,
            max_delay: DEFAULT_MAX_DELAY,
            ca: None,
        }
    }
}

/// Faults that come together.
///
/// It can be written as the flag `--fault` has it:
/// ```
/// use std::time::Duration;
/// use echo_server::{Fault, FaultGroup, Probability, Protocol, When};
///
/// let written: FaultGroup = "tcp:delay=20ms,reset=64KiB,share=10%".parse()?;
/// let built = FaultGroup::on(Protocol::Tcp)
///     .with(Fault::Delay(Duration::from_millis(20)))
///     .with(Fault::Reset(When::Bytes(65_536)))
///     .share(Probability::percent(10.0));
/// assert_eq!(written, built);
/// # Ok::<(), echo_server::FaultError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FaultGroup {
    /// The protocol that misbehaves. `None`: all that are served.
    pub protocol: Option<Protocol>,
    /// What it does, each at most once.
    pub faults: Vec<Fault>,
    /// The share of connections, or of UDP flows, that the group applies to. Default: all.
    pub share: Probability,
}

impl FaultGroup {
    /// A group without faults, on all protocols.
    pub fn everywhere() -> Self {
        FaultGroup { protocol: None, faults: Vec::new(), share: Probability::ALWAYS }
    }

    /// A group without faults, on `protocol`.
    pub fn on(protocol: Protocol) -> Self {
        FaultGroup { protocol: Some(protocol), ..FaultGroup::everywhere() }
    }

    /// Adds a fault. One of the same kind that the group has already is replaced.
    #[must_use]
    pub fn with(mut self, fault: Fault) -> Self {
        self.faults.retain(|other| other.name() != fault.name());
        self.faults.push(fault);
        self
    }

    /// Sets [`FaultGroup::share`].
    #[must_use]
    pub fn share(mut self, share: Probability) -> Self {
        self.share = share;
        self
    }
}

impl fmt::Display for FaultGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(protocol) = self.protocol {
            write!(f, "{protocol}:")?;
        }
        for (at, fault) in self.faults.iter().enumerate() {
            write!(f, "{}{fault}", if at == 0 { "" } else { "," })?;
        }
        if self.share != Probability::ALWAYS {
            write!(f, ",share={}", self.share)?;
        }
        Ok(())
    }
}

/// One way to misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// What is sent leaves this much later. It takes no bandwidth, as on a long path, up to 4 MiB
    /// on the way for each connection.
    Delay(Duration),
    /// Up to this much more delay, at random. Byte streams stay in order.
    Jitter(Duration),
    /// Bytes a second to each client: of payload in datagrams, and in streams of everything above
    /// TLS.
    Rate(NonZeroU64),
    /// At most so many bytes in one write, and so in one TCP segment or one TLS record.
    Slice(NonZeroUsize),
    /// The share of payload bytes of a stream, or of datagrams, in which one bit is flipped.
    Corrupt(Probability),
    /// The share of datagrams that get no echo.
    Drop(Probability),
    /// The share of datagrams that get no echo, lost in bursts of four on average (a
    /// Gilbert-Elliott model whose good state loses nothing and whose bad state loses all).
    Burst(Probability),
    /// The share of datagrams that are echoed twice.
    Duplicate(Probability),
    /// The share of datagrams whose echo leaves behind that of the next one of the same flow, or
    /// after 100 ms if none comes.
    Reorder(Probability),
    /// The connection is reset (a TCP RST; over HTTP/2, RST_STREAM).
    Reset(When),
    /// The connection is closed as its protocol prescribes.
    Close(When),
    /// The stream ends without the protocol's own farewell: without close_notify (RFC 8446 section
    /// 6.1), without a Close frame (RFC 6455 section 5.5.1).
    Truncate(When),
    /// From then on nothing is read or sent, and nothing ends, as if the server hung.
    Stall(When),
    /// What happens in the place of a TLS handshake.
    Handshake(HandshakeFault),
    /// What is wrong with the server's certificate.
    Certificate(CertificateFault),
    /// What happens in the place of an upgrade to WebSocket.
    Upgrade(UpgradeFault),
    /// The connection is closed with a Close frame that has this code: at once, or when
    /// [`Fault::Close`] says.
    WsClose(u16),
    /// Frames to the client are masked, which it must refuse (RFC 6455 section 5.1).
    WsMask,
    /// The echo of each text that is not empty begins with a byte that UTF-8 never has.
    WsUtf8,
}

/// When a connection ends on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// When so many bytes of payload have been sent to the client. 0: when the handshakes are done.
    Bytes(u64),
    /// So long after the handshakes are done.
    After(Duration),
}

/// What happens in the place of a TLS handshake, once the ClientHello is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeFault {
    /// Nothing, and no end.
    Stall,
    /// The connection is reset.
    Reset,
    /// Random bytes are sent.
    Garbage,
    /// An HTTP response is sent in plain text, as by a server that lacks TLS.
    Plain,
    /// The handshake is refused with a fatal alert of this code (RFC 8446 section 6.2).
    Alert(u8),
}

/// What is wrong with the server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateFault {
    /// It expired yesterday.
    Expired,
    /// It will be valid from tomorrow on.
    NotYet,
    /// It is for another name, `wrong-name.invalid`.
    WrongName,
    /// Its CA is one that nobody knows.
    Untrusted,
    /// It was issued by an intermediate CA whose certificate is not sent.
    Incomplete,
}

/// What happens in the place of an upgrade to WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum UpgradeFault {
    /// Nothing: the request is never answered.
    Stall,
    /// A response with this status, from 200 to 599.
    Status(u16),
}

impl CertificateFault {
    /// All of them.
    pub(crate) const ALL: [CertificateFault; 5] = [
        CertificateFault::Expired,
        CertificateFault::NotYet,
        CertificateFault::WrongName,
        CertificateFault::Untrusted,
        CertificateFault::Incomplete,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            CertificateFault::Expired => "expired",
            CertificateFault::NotYet => "not-yet",
            CertificateFault::WrongName => "wrong-name",
            CertificateFault::Untrusted => "untrusted",
            CertificateFault::Incomplete => "incomplete",
        }
    }
}

impl Fault {
    /// The names of all kinds, in the order of their counters.
    pub(crate) const NAMES: [&str; 19] = [
        "delay",
        "jitter",
        "rate",
        "slice",
        "corrupt",
        "drop",
        "burst",
        "duplicate",
        "reorder",
        "reset",
        "close",
        "truncate",
        "stall",
        "handshake",
        "certificate",
        "upgrade",
        "ws-close",
        "ws-mask",
        "ws-utf8",
    ];

    /// The name that flags, metrics and the log use.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Delay(_) => "delay",
            Fault::Jitter(_) => "jitter",
            Fault::Rate(_) => "rate",
            Fault::Slice(_) => "slice",
            Fault::Corrupt(_) => "corrupt",
            Fault::Drop(_) => "drop",
            Fault::Burst(_) => "burst",
            Fault::Duplicate(_) => "duplicate",
            Fault::Reorder(_) => "reorder",
            Fault::Reset(_) => "reset",
            Fault::Close(_) => "close",
            Fault::Truncate(_) => "truncate",
            Fault::Stall(_) => "stall",
            Fault::Handshake(_) => "handshake",
            Fault::Certificate(_) => "certificate",
            Fault::Upgrade(_) => "upgrade",
            Fault::WsClose(_) => "ws-close",
            Fault::WsMask => "ws-mask",
            Fault::WsUtf8 => "ws-utf8",
        }
    }

    /// Whether it ends a connection. A connection has one end.
    pub(crate) fn is_end(self) -> bool {
        matches!(self, Fault::Reset(_) | Fault::Close(_) | Fault::Truncate(_) | Fault::Stall(_))
    }

    /// The times that it lasts, or waits for.
    pub(crate) fn time(self) -> Option<Duration> {
        match self {
            Fault::Delay(time) | Fault::Jitter(time) => Some(time),
            Fault::Reset(when)
            | Fault::Close(when)
            | Fault::Truncate(when)
            | Fault::Stall(when) => match when {
                When::After(time) => Some(time),
                When::Bytes(_) => None,
            },
            _ => None,
        }
    }

    /// Why `protocol` cannot misbehave in this way; `None` if it can.
    pub(crate) fn misfit(self, protocol: Protocol) -> Option<&'static str> {
        let is_udp = protocol == Protocol::Udp;
        let is_websocket = matches!(protocol, Protocol::Ws | Protocol::Wss);
        let problem = match self {
            Fault::Delay(_) | Fault::Jitter(_) | Fault::Rate(_) | Fault::Corrupt(_) => return None,
            Fault::Slice(_) if is_udp => "a datagram is sent whole",
            Fault::Drop(_) | Fault::Burst(_) if !is_udp => {
                "a byte stream that lacks bytes is corrupt, and not lossy"
            }
            Fault::Duplicate(_) | Fault::Reorder(_) if !is_udp => {
                "a byte stream has no messages that could be doubled or swapped"
            }
            Fault::Reset(_) | Fault::Close(_) | Fault::Truncate(_) | Fault::Stall(_) if is_udp => {
                "datagrams have no connection that could end; drop=100% echoes none"
            }
            Fault::Truncate(_) if protocol == Protocol::Tcp => {
                "TCP has no farewell but its FIN, which close sends"
            }
            Fault::Handshake(_) | Fault::Certificate(_) if !protocol.is_over_tls() => {
                "it does not run over TLS"
            }
            Fault::Upgrade(_) | Fault::WsClose(_) | Fault::WsMask | Fault::WsUtf8
                if !is_websocket =>
            {
                "it is not WebSocket"
            }
            _ => return None,
        };
        Some(problem)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        match self {
            Fault::Delay(time) | Fault::Jitter(time) => {
                write!(f, "{name}={}", humantime::format_duration(*time))
            }
            Fault::Rate(bytes) => write!(f, "{name}={}", Size(bytes.get())),
            Fault::Slice(bytes) => write!(f, "{name}={}", Size(bytes.get() as u64)),
            Fault::Corrupt(share)
            | Fault::Drop(share)
            | Fault::Burst(share)
            | Fault::Duplicate(share)
            | Fault::Reorder(share) => write!(f, "{name}={share}"),
            Fault::Reset(when)
            | Fault::Close(when)
            | Fault::Truncate(when)
            | Fault::Stall(when) => write!(f, "{name}={when}"),
            Fault::Handshake(fault) => write!(f, "{name}={fault}"),
            Fault::Certificate(fault) => write!(f, "{name}={}", fault.name()),
            Fault::Upgrade(UpgradeFault::Stall) => write!(f, "{name}=stall"),
            Fault::Upgrade(UpgradeFault::Status(status)) => write!(f, "{name}={status}"),
            Fault::WsClose(code) => write!(f, "{name}={code}"),
            Fault::WsMask | Fault::WsUtf8 => f.write_str(name),
        }
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            When::Bytes(bytes) => Size(*bytes).fmt(f),
            When::After(time) => humantime::format_duration(*time).fmt(f),
        }
    }
}

impl fmt::Display for HandshakeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandshakeFault::Stall => f.write_str("stall"),
            HandshakeFault::Reset => f.write_str("reset"),
            HandshakeFault::Garbage => f.write_str("garbage"),
            HandshakeFault::Plain => f.write_str("plain"),
            HandshakeFault::Alert(code) => write!(f, "alert:{}", parse::alert_name(*code)),
        }
    }
}

/// A number of bytes, in the largest unit that divides it.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.iter().find(|(unit, _)| self.0 > 0 && self.0.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

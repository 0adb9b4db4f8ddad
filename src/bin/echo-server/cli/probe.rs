//! The flags of `echo-server probe`.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{ArgAction, Args};

use super::Command;
use super::usage::without_scheme;
use super::values::{
    host_name, parse_number, parse_own_address, parse_positive_time, parse_source,
    parse_time_up_to_a_year as parse_time,
};
use echo_server::probe::{
    self, ConnectOptions, FactsOptions, Family, LineEnding, LoadOptions, Messages, MtuOptions,
    PingOptions, ProxyHeader, ProxyKind, Sni, Target, WatchOptions,
};
use echo_server::{Credentials, Fingerprint, FingerprintError, ListenAddress, Source};

/// What `echo-server probe` was told to do.
#[derive(Debug)]
pub struct Probe {
    /// At least one. Only pings have several.
    pub probes: Vec<probe::Probe>,
    pub mode: Mode,
    pub output: Output,
}

/// What `echo-server probe --every` was told to do.
#[derive(Debug)]
pub struct Watch {
    pub watch: probe::Watch,
    /// Where to serve metrics, if anywhere.
    pub export: Option<ListenAddress>,
    pub output: Output,
}

/// How the probe is run.
#[derive(Debug)]
pub enum Mode {
    Ping(PingOptions),
    Load(LoadOptions),
    FindMtu(MtuOptions),
    Facts(FactsOptions),
}

/// How the probe reports.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub format: Format,
    /// Nothing but the summary.
    pub is_quiet: bool,
    /// A time stamp in front of each reply. JSON and CSV always have one.
    pub has_timestamps: bool,
}

/// The format of a probe's report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
    Csv,
}

#[derive(Debug, Args)]
#[command(
    after_help = "URL is tcp://HOST:PORT, tls://HOST:PORT, udp://HOST:PORT, ws://HOST[:PORT]/PATH or \
                        wss://HOST[:PORT]/PATH; for a Unix socket tcp+unix:///FILE, tls+unix:///FILE, \
                        ws+unix:///FILE:/PATH or wss+unix:///FILE:/PATH, on Linux also tcp+unix://@NAME.\n\n\
                        It is a ping, one message an interval, unless there is a flag of a load. Ctrl-C ends \
                        it, Ctrl-\\ prints the summary so far.\n\n\
                        Exit codes: 0 all echoed; 1 some lost, late, duplicated or not sent, or the \
                        connection failed, or nothing came back; 2 wrong usage; 3 could not connect; 4 TLS or certificate failure; 5 a \
                        reply differed from what was sent. Of several URLs, the highest. With --every: 0 all up and \
                        all echoed; 1 not; 2; 5.\n\n\
Examples:
  echo-server probe tcp://127.0.0.1:8080 -c 3
  echo-server probe udp://192.0.2.1:7 tcp://192.0.2.1:7 -D --reconnect
  echo-server probe wss://localhost:8444 --ca certs/ca.pem --connect-each
  echo-server probe tcp://127.0.0.1:8080 --connections 50 --duration 3s --warm-up 1s
  echo-server probe udp://127.0.0.1:8080 --rate 10000 -c 100000 --json"
)]
pub(super) struct ProbeArgs {
    /// The echo service; a ping and a watch take several
    #[arg(value_name = "URL", value_parser = parse_target, num_args = 1..)]
    #[arg(required_unless_present = "target_file")]
    targets: Vec<Target>,

    /// Messages to send, a load's over all connections together [until Ctrl-C]
    #[arg(short, long, value_name = "N", help_heading = "Length", value_parser = parse_number::<u64>)]
    count: Option<u64>,

    /// How long to send [ping: until Ctrl-C; load without --count: 10s]
    #[arg(long, value_name = "TIME", help_heading = "Length")]
    #[arg(value_parser = parse_positive_time)]
    duration: Option<Duration>,

    /// From one message to the next; 0: flood, as fast as they come back, at least 100 a second
    #[arg(short, long, value_name = "TIME", default_value = "1s", help_heading = "Ping")]
    #[arg(value_parser = parse_time)]
    interval: Duration,

    /// Connect again when the connection fails, and tell how long there was none
    #[arg(long, help_heading = "Ping", conflicts_with = "connect_each")]
    reconnect: bool,

    /// A connection for each message, and how long it took to establish
    #[arg(long, help_heading = "Ping")]
    connect_each: bool,

    /// Connections; over UDP, flows [1]
    #[arg(long, value_name = "N", help_heading = "Load", conflicts_with_all = PING_FLAGS)]
    #[arg(value_parser = parse_number::<usize>)]
    connections: Option<usize>,

    /// Messages in flight on each connection [1]
    #[arg(long, value_name = "N", help_heading = "Load", conflicts_with_all = PING_FLAGS)]
    #[arg(value_parser = parse_number::<usize>)]
    in_flight: Option<usize>,

    /// Messages a second over all connections, on a schedule, and timed from it
    #[arg(long, value_name = "R", help_heading = "Load", conflicts_with_all = PING_FLAGS)]
    #[arg(conflicts_with = "in_flight")]
    rate: Option<f64>,

    /// Threads that send and receive [1]
    #[arg(long, value_name = "N", help_heading = "Load", conflicts_with_all = PING_FLAGS)]
    threads: Option<NonZeroUsize>,

    /// Send this long before anything is counted [0]
    #[arg(long, value_name = "TIME", help_heading = "Load", conflicts_with_all = PING_FLAGS)]
    #[arg(value_parser = parse_time)]
    warm_up: Option<Duration>,

    /// Watch: a round of each URL this often, for ever, with 5 messages unless --count says otherwise
    #[arg(long, value_name = "TIME", help_heading = "Watch", value_parser = parse_positive_time)]
    #[arg(conflicts_with_all = ["connections", "in_flight", "rate", "threads", "warm_up"])]
    #[arg(conflicts_with_all = ["duration", "find_mtu", "facts", "csv", "timestamps"])]
    #[arg(conflicts_with_all = PING_FLAGS)]
    every: Option<Duration>,

    /// Serve the metrics of a watch, and a page, over HTTP: /metrics, /mesh; a port alone is on
    /// 127.0.0.1 [off; without ADDR 127.0.0.1:8083]
    #[arg(long, value_name = "ADDR", help_heading = "Watch", requires = "every")]
    #[arg(num_args = 0..=1, default_missing_value = "default", value_parser = parse_export)]
    export: Option<ListenAddress>,

    /// Watch the URLs in this file, too, one a line; it is read again when it changes, and on SIGHUP
    #[arg(long = "targets", value_name = "FILE", help_heading = "Watch", requires = "every")]
    target_file: Option<PathBuf>,

    /// Watch each address of a name by itself, and look the names up again each round
    #[arg(long, help_heading = "Watch", requires = "every")]
    resolve_all: bool,

    /// Watch only K of the hosts, chosen so that many that watch each other share the work
    #[arg(long, value_name = "K", help_heading = "Watch", requires = "every")]
    #[arg(value_parser = parse_number::<NonZeroUsize>)]
    peers: Option<NonZeroUsize>,

    /// Who watches, in metrics [the host's name]
    #[arg(long, value_name = "NAME", help_heading = "Watch", requires = "every")]
    #[arg(value_parser = parse_source)]
    source_name: Option<String>,

    /// Bytes in a message; over UDP 65507 at most
    #[arg(short, long, value_name = "SIZE", default_value = "64", help_heading = "Messages")]
    #[arg(value_parser = parse_size)]
    size: usize,

    /// Send this text instead of random bytes
    #[arg(long, value_name = "TEXT", help_heading = "Messages")]
    #[arg(conflicts_with_all = ["size", "data_file", "find_mtu"])]
    data: Option<String>,

    /// Send what is in this file instead of random bytes
    #[arg(long, value_name = "FILE", help_heading = "Messages")]
    #[arg(conflicts_with_all = ["size", "find_mtu"])]
    data_file: Option<PathBuf>,

    /// How long to wait for a reply
    #[arg(short, long, value_name = "TIME", default_value = "2s", help_heading = "Messages")]
    #[arg(value_parser = parse_positive_time)]
    timeout: Duration,

    /// WebSocket: text messages
    #[arg(long, help_heading = "Messages", conflicts_with = "binary")]
    text: bool,

    /// WebSocket: binary messages, the default
    #[arg(long, help_heading = "Messages")]
    binary: bool,

    /// End each message with a newline, for services that answer lines
    #[arg(long, value_name = "lf|crlf", num_args = 0..=1, default_missing_value = "lf")]
    #[arg(require_equals = true, help_heading = "Messages", value_parser = parse_line_ending)]
    lines: Option<LineEnding>,

    /// Ignore what comes first: N bytes of a stream, N WebSocket messages, N datagrams
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    #[arg(help_heading = "Messages", value_parser = parse_number::<u64>)]
    skip_first: u64,

    /// For all phases of connecting together
    #[arg(long, value_name = "TIME", default_value = "10s", help_heading = "Connection")]
    #[arg(value_parser = parse_positive_time)]
    connect_timeout: Duration,

    /// Connect from this address
    #[arg(long, value_name = "IP", help_heading = "Connection")]
    source: Option<IpAddr>,

    /// IPv4 only
    #[arg(short = '4', long, help_heading = "Connection", conflicts_with = "ipv6")]
    ipv4: bool,

    /// IPv6 only
    #[arg(short = '6', long, help_heading = "Connection")]
    ipv6: bool,

    /// Mark packets with this DSCP: 0 to 63, or a name such as EF, AF41 or CS5
    #[arg(long, value_name = "DSCP", help_heading = "Connection", value_parser = parse_dscp)]
    dscp: Option<u8>,

    /// UDP: set the DF bit
    #[arg(long, help_heading = "Connection")]
    dont_fragment: bool,

    /// UDP: find the largest payload that comes back with the DF bit set
    #[arg(long, help_heading = "Connection")]
    #[arg(conflicts_with_all = ["count", "connections", "in_flight", "duration", "rate", "threads", "warm_up", "size"])]
    find_mtu: bool,

    /// Ask a server with --facts what it saw, and compare that with what was sent
    #[arg(long, help_heading = "Connection")]
    #[arg(conflicts_with_all = ["count", "connections", "in_flight", "duration", "rate", "threads", "warm_up", "find_mtu"])]
    #[arg(conflicts_with_all = PING_FLAGS)]
    facts: bool,

    /// Send a PROXY header first, before TLS: of version 1 or 2, or LOCAL, which announces no client
    #[arg(long, value_name = "1|2|local", help_heading = "Connection")]
    #[arg(value_parser = parse_proxy_kind)]
    proxy_protocol: Option<ProxyKind>,

    /// The client that the PROXY header announces [the address connected from]
    #[arg(long, value_name = "IP:PORT", help_heading = "Connection", requires = "proxy_protocol")]
    #[arg(value_parser = parse_client)]
    proxy_client: Option<SocketAddr>,

    /// Add this to a PROXY header of version 2: alpn, authority, unique-id or netns and a text, noop
    /// and a number of bytes, or a type like 0xE0 and hexadecimal digits; can be given several times
    #[arg(
        long,
        value_name = "NAME=VALUE",
        help_heading = "Connection",
        requires = "proxy_protocol"
    )]
    #[arg(value_parser = parse_tlv)]
    proxy_tlv: Vec<(u8, Vec<u8>)>,

    /// WebSocket: offer this subprotocol; can be given several times
    #[arg(long, value_name = "NAME", help_heading = "Connection")]
    subprotocol: Vec<String>,

    /// WebSocket: send this header field; can be given several times
    #[arg(long, value_name = "NAME: VALUE", help_heading = "Connection")]
    #[arg(value_parser = parse_header)]
    header: Vec<(String, String)>,

    /// Trust these certificates instead of the system's, PEM or DER; or those of a directory
    #[arg(long, value_name = "FILE", help_heading = "TLS", conflicts_with = "insecure")]
    ca: Option<PathBuf>,

    /// Trust only the certificate with this fingerprint, as the server's log and openssl show it;
    /// can be given several times
    #[arg(long, value_name = "SHA256", help_heading = "TLS", value_parser = parse_pin)]
    #[arg(conflicts_with_all = ["ca", "insecure"])]
    pin: Vec<Fingerprint>,

    /// Go on when the certificate does not verify, and say so
    #[arg(long, help_heading = "TLS")]
    insecure: bool,

    /// The name to verify [the URL's host; for a Unix socket localhost]
    #[arg(long, value_name = "NAME", help_heading = "TLS")]
    server_name: Option<String>,

    /// The name to ask for, or none [the one to verify]
    #[arg(long, value_name = "NAME|none", help_heading = "TLS")]
    sni: Option<String>,

    /// Protocols to offer, the preferred first; h2 opens a WebSocket over HTTP/2, on ws without TLS
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = "TLS")]
    alpn: Vec<String>,

    /// Certificate chain to present
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    cert: Option<PathBuf>,

    /// Its private key [the file of the certificate]
    #[arg(long, value_name = "FILE", requires = "cert", help_heading = "TLS")]
    key: Option<PathBuf>,

    /// Nothing but the summary
    #[arg(short, long, help_heading = "Output")]
    quiet: bool,

    /// The time in front of each reply, in seconds since 1970
    #[arg(short = 'D', long, help_heading = "Output")]
    timestamps: bool,

    /// One JSON object per event, and a summary at the end (docs/probe-json.md)
    #[arg(long, help_heading = "Output", conflicts_with_all = ["csv", "timestamps"])]
    json: bool,

    /// One line per reply; of a load, one line
    #[arg(long, help_heading = "Output", conflicts_with_all = ["timestamps", "find_mtu", "facts"])]
    csv: bool,

    /// Print this help
    #[arg(short, long, help_heading = "Output", action = ArgAction::Help)]
    help: Option<bool>,
}

/// What makes no sense for a load.
const PING_FLAGS: [&str; 3] = ["interval", "reconnect", "connect_each"];

impl ProbeArgs {
    /// The command that the flags ask for.
    pub(super) fn command(self) -> Result<Command, String> {
        match self.every {
            Some(every) => Ok(Command::Watch(Box::new(self.watch(every)?))),
            None => Ok(Command::Probe(Box::new(self.try_into()?))),
        }
    }

    fn watch(self, every: Duration) -> Result<Watch, String> {
        let source = self.source_name.clone().unwrap_or_else(host_name);
        let mut options = WatchOptions::new(source).every(every).timeout(self.timeout);
        if let Some(count) = self.count {
            let count = u32::try_from(count).map_err(|_| "--count: the number is too large")?;
            if count == 0 {
                return Err("--count: a round has at least 1 message".to_owned());
            }
            options = options.count(count);
        }
        options.resolve_all = self.resolve_all;
        options.peers = self.peers;
        let (export, output) = (self.export.clone(), self.output());
        let (targets, file) = (self.targets.clone(), self.target_file.clone());
        let (messages, connect) = self.settings()?;
        let mut watch = probe::Watch::new(options)
            .messages(|of_watch| *of_watch = messages)
            .connect(|of_watch| *of_watch = connect);
        for target in targets {
            watch = watch.target(target);
        }
        if let Some(file) = file {
            watch = watch.target_file(file);
        }
        Ok(Watch { watch, export, output })
    }

    fn output(&self) -> Output {
        let format = match (self.json, self.csv) {
            (true, _) => Format::Json,
            (_, true) => Format::Csv,
            _ => Format::Text,
        };
        Output { format, is_quiet: self.quiet, has_timestamps: self.timestamps }
    }

    /// What is sent, and how to connect.
    fn settings(self) -> Result<(Messages, ConnectOptions), String> {
        let args = self;
        let data = match (args.data, &args.data_file) {
            (Some(text), _) => Some(text.into_bytes()),
            (None, Some(file)) => Some(
                std::fs::read(file)
                    .map_err(|error| format!("--data-file {}: {error}", file.display()))?,
            ),
            (None, None) => None,
        };
        let mut messages = Messages::new().size(args.size);
        messages.data = data.map(Into::into);
        messages.is_text = args.text;
        messages.line_ending = args.lines;
        let mut connect = ConnectOptions::new().timeout(args.connect_timeout);
        connect.family = match (args.ipv4, args.ipv6) {
            (true, _) => Some(Family::V4),
            (_, true) => Some(Family::V6),
            _ => None,
        };
        connect.source = args.source;
        connect.skip_first = args.skip_first;
        connect.subprotocols = args.subprotocol;
        connect.headers = args.header;
        connect.dscp = args.dscp;
        connect.dont_fragment = args.dont_fragment;
        connect.proxy = args.proxy_protocol.map(|kind| {
            let mut header = ProxyHeader::new(kind);
            header.client = args.proxy_client;
            header.tlvs = args.proxy_tlv;
            header
        });
        connect.tls.ca = args.ca.map(Source::from);
        connect.tls.pins = args.pin;
        connect.tls.insecure = args.insecure;
        connect.tls.server_name = args.server_name;
        connect.tls.sni = match args.sni {
            None => Sni::AsVerified,
            Some(name) if name == "none" => Sni::Omitted,
            Some(name) => Sni::Name(name),
        };
        connect.tls.alpn = args.alpn;
        let key = args.key.or_else(|| args.cert.clone());
        connect.tls.client_credentials =
            args.cert.zip(key).map(|(cert, key)| Credentials::new(cert, key));
        Ok((messages, connect))
    }
}

impl TryFrom<ProbeArgs> for Probe {
    type Error = String;

    fn try_from(args: ProbeArgs) -> Result<Probe, String> {
        let is_load = args.connections.is_some()
            || args.in_flight.is_some()
            || args.rate.is_some()
            || args.threads.is_some()
            || args.warm_up.is_some();
        if args.targets.len() > 1 && (is_load || args.find_mtu) {
            return Err("several URLs can be pinged, but not loaded or searched".to_owned());
        }
        let mode = if args.find_mtu {
            Mode::FindMtu(MtuOptions::new().timeout(args.timeout))
        } else if args.facts {
            Mode::Facts(FactsOptions::new().timeout(args.timeout))
        } else if is_load {
            let mut load = LoadOptions::new().timeout(args.timeout);
            load.connections = args.connections.unwrap_or(load.connections);
            load.in_flight = args.in_flight.unwrap_or(load.in_flight);
            load.count = args.count;
            load.duration = args.duration;
            load.warm_up = args.warm_up.unwrap_or(load.warm_up);
            load.rate = args.rate;
            load.threads = args.threads.unwrap_or(load.threads);
            Mode::Load(load)
        } else {
            let mut ping = PingOptions::new().interval(args.interval).timeout(args.timeout);
            ping.count = args.count;
            ping.duration = args.duration;
            ping.reconnect = args.reconnect;
            ping.connect_each = args.connect_each;
            Mode::Ping(ping)
        };
        let output = args.output();
        let targets = args.targets.clone();
        let (messages, connect) = args.settings()?;
        let probe = |target| {
            probe::Probe::new(target)
                .messages(|of_probe| *of_probe = messages.clone())
                .connect(|of_probe| *of_probe = connect.clone())
        };
        Ok(Probe { probes: targets.into_iter().map(probe).collect(), mode, output })
    }
}

/// The default port of a watch's endpoint.
const EXPORT_PORT: u16 = 8083;

fn parse_export(text: &str) -> Result<ListenAddress, String> {
    parse_own_address(text, EXPORT_PORT)
}

fn parse_target(text: &str) -> Result<Target, String> {
    text.parse::<Target>().map_err(|error| match without_scheme(text) {
        Some(url) => format!("it has no scheme; did you mean {url}?"),
        None => error.problem().to_owned(),
    })
}

fn parse_size(text: &str) -> Result<usize, String> {
    const MAX: u64 = ByteSize::gib(1).0;
    match text.parse::<ByteSize>() {
        Ok(ByteSize(size @ ..=MAX)) => Ok(size as usize),
        Ok(_) => Err("must be 1GiB at most".to_owned()),
        Err(_) => Err("expected a size, like 64 or 16KiB".to_owned()),
    }
}

fn parse_line_ending(text: &str) -> Result<LineEnding, String> {
    match text {
        "lf" => Ok(LineEnding::Lf),
        "crlf" => Ok(LineEnding::CrLf),
        _ => Err("expected lf or crlf".to_owned()),
    }
}

fn parse_pin(text: &str) -> Result<Fingerprint, String> {
    text.parse().map_err(|error: FingerprintError| error.to_string())
}

/// A DSCP as a number, or by its name in RFC 2474, RFC 2597, RFC 3246, RFC 5865 or RFC 8622.
fn parse_dscp(text: &str) -> Result<u8, String> {
    let name = text.to_ascii_uppercase();
    let digit = |at: usize, range: RangeInclusive<u8>| {
        let digit = name.as_bytes().get(at)?.wrapping_sub(b'0');
        range.contains(&digit).then_some(digit)
    };
    let known = match (name.as_str(), name.len()) {
        ("EF", _) => Some(46),
        ("VA" | "VOICE-ADMIT", _) => Some(44),
        ("LE", _) => Some(1),
        ("DF" | "BE", _) => Some(0),
        (cs, 3) if cs.starts_with("CS") => digit(2, 0..=7).map(|class| class * 8),
        (af, 4) if af.starts_with("AF") => digit(2, 1..=4)
            .zip(digit(3, 1..=3))
            .map(|(class, precedence)| class * 8 + precedence * 2),
        _ => name.parse().ok().filter(|dscp| *dscp < 64),
    };
    known.ok_or_else(|| "expected 0 to 63, or a name such as EF, AF41 or CS5".to_owned())
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected 'NAME: VALUE'")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn parse_proxy_kind(text: &str) -> Result<ProxyKind, String> {
    match text {
        "1" => Ok(ProxyKind::Version1),
        "2" => Ok(ProxyKind::Version2),
        "local" => Ok(ProxyKind::Local),
        _ => Err("expected 1, 2 or local".to_owned()),
    }
}

fn parse_client(text: &str) -> Result<SocketAddr, String> {
    let expected = "expected IP:PORT, like 192.0.2.1:61000 or [2001:db8::1]:61000";
    text.parse().map_err(|_| expected.to_owned())
}

/// The type and the value of a TLV. The names are those of the facts, the types those of the PROXY
/// protocol's specification, section 2.2.
fn parse_tlv(text: &str) -> Result<(u8, Vec<u8>), String> {
    let expected =
        "expected alpn, authority, unique-id or netns and =TEXT, noop=BYTES, or 0xNN=HEX";
    let (name, value) = text.split_once('=').ok_or(expected)?;
    let as_text = |kind| Ok((kind, value.as_bytes().to_owned()));
    match name {
        "alpn" => as_text(0x01),
        "authority" => as_text(0x02),
        "unique-id" => as_text(0x05),
        "netns" => as_text(0x30),
        "noop" => {
            let length: u16 = value.parse().map_err(|_| "noop: expected 0 to 65535 bytes")?;
            Ok((0x04, vec![0; length.into()]))
        }
        _ => {
            let digits = name.strip_prefix("0x").filter(|digits| digits.len() == 2);
            let kind = digits.and_then(parse_hex).ok_or(expected)?;
            let value =
                parse_hex(value).ok_or("expected pairs of hexadecimal digits after 0xNN=")?;
            Ok((kind[0], value))
        }
    }
}

/// `None` if they are not pairs of hexadecimal digits.
fn parse_hex(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = digits.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some((digit(*high)? << 4 | digit(*low)?) as u8),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tlv_has_a_name_and_a_text_or_a_type_and_digits() {
        for (text, kind, value) in [
            ("alpn=h2", 0x01, &b"h2"[..]),
            ("authority=a=b", 0x02, b"a=b"),
            ("unique-id=", 0x05, b""),
            ("netns=blue", 0x30, b"blue"),
            ("noop=3", 0x04, &[0; 3]),
            ("0xE0=00fF", 0xE0, &[0, 255]),
            ("0xe5=", 0xE5, b""),
        ] {
            assert_eq!(parse_tlv(text), Ok((kind, value.to_owned())), "{text}");
        }
        for text in [
            "",
            "alpn",
            "sni=a",
            "noop=x",
            "noop=65536",
            "0x=00",
            "0x1=00",
            "0x111=00",
            "e0=00",
            "0xe0=0",
            "0xe0=+1",
            "0xé=00",
        ] {
            assert!(parse_tlv(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_dscp_is_a_number_or_a_name() {
        for (text, dscp) in
            [("0", 0), ("63", 63), ("ef", 46), ("CS5", 40), ("AF41", 34), ("af13", 14), ("LE", 1)]
        {
            assert_eq!(parse_dscp(text), Ok(dscp), "{text}");
        }
        for text in ["64", "-1", "CS8", "AF44", "AF01", "AF5", "", "EFF"] {
            assert!(parse_dscp(text).is_err(), "{text}");
        }
    }
}

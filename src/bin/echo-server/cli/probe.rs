//! The flags of `echo-server probe`.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;

use super::usage::without_scheme;
use super::values::{parse_number, parse_time as parse_any_time};
use echo_server::probe::{
    self, Family, LineEnding, LoadOptions, MtuOptions, PingOptions, Sni, Target,
};
use echo_server::{Credentials, Fingerprint, FingerprintError, Source};

/// What `echo-server probe` was told to do.
#[derive(Debug)]
pub struct Probe {
    pub probe: probe::Probe,
    pub mode: Mode,
    /// One JSON object per event instead of text.
    pub json: bool,
}

/// How the probe is run.
#[derive(Debug)]
pub enum Mode {
    Ping(PingOptions),
    Load(LoadOptions),
    FindMtu(MtuOptions),
}

#[derive(Debug, Args)]
#[command(
    after_help = "URL is tcp://HOST:PORT, tls://HOST:PORT, udp://HOST:PORT, ws://HOST[:PORT]/PATH or \
                        wss://HOST[:PORT]/PATH; for a Unix socket tcp+unix:///FILE, tls+unix:///FILE, \
                        ws+unix:///FILE:/PATH or wss+unix:///FILE:/PATH, on Linux also tcp+unix://@NAME.\n\
                        Without --connections, --in-flight, --duration, --rate or --threads it is a ping: one message \
                        an interval, until Ctrl-C.\n\
                        Exit codes: 0 all echoed; 1 some lost, late, duplicated or not sent, or the \
                        connection failed, or nothing came back; 2 wrong usage; 3 could not connect; 4 TLS or certificate failure; 5 a \
                        reply differed from what was sent."
)]
pub(super) struct ProbeArgs {
    /// The echo service
    #[arg(value_name = "URL", value_parser = parse_target)]
    target: Target,

    /// Messages to send [until Ctrl-C]
    #[arg(short, long, value_name = "N", help_heading = "Ping", value_parser = parse_number::<u64>)]
    count: Option<u64>,

    /// From one message to the next
    #[arg(short, long, value_name = "TIME", default_value = "1s", help_heading = "Ping")]
    #[arg(value_parser = parse_time)]
    interval: Duration,

    /// Connections; over UDP, flows [1]
    #[arg(long, value_name = "N", help_heading = "Load", conflicts_with = "count")]
    #[arg(value_parser = parse_number::<usize>)]
    connections: Option<usize>,

    /// Messages in flight on each connection [1]
    #[arg(long, value_name = "N", help_heading = "Load", conflicts_with = "count")]
    #[arg(value_parser = parse_number::<usize>)]
    in_flight: Option<usize>,

    /// How long to send [10s]
    #[arg(long, value_name = "TIME", help_heading = "Load", conflicts_with = "count")]
    #[arg(value_parser = parse_positive_time)]
    duration: Option<Duration>,

    /// Messages a second over all connections, on a schedule, and timed from it
    #[arg(long, value_name = "R", help_heading = "Load", conflicts_with_all = ["count", "in_flight"])]
    rate: Option<f64>,

    /// Threads that send and receive [1]
    #[arg(long, value_name = "N", help_heading = "Load", conflicts_with = "count")]
    threads: Option<NonZeroUsize>,

    /// Bytes in a message; over UDP 65507 at most
    #[arg(short, long, value_name = "SIZE", default_value = "64", help_heading = "Messages")]
    #[arg(value_parser = parse_size)]
    size: usize,

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

    /// UDP: set the DF bit
    #[arg(long, help_heading = "Connection")]
    dont_fragment: bool,

    /// UDP: find the largest payload that comes back with the DF bit set
    #[arg(long, help_heading = "Connection")]
    #[arg(conflicts_with_all = ["count", "connections", "in_flight", "duration", "rate", "threads", "size"])]
    find_mtu: bool,

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

    /// One JSON object per event, and a summary at the end
    #[arg(long)]
    json: bool,
}

impl From<ProbeArgs> for Probe {
    fn from(args: ProbeArgs) -> Probe {
        let is_load = args.connections.is_some()
            || args.in_flight.is_some()
            || args.duration.is_some()
            || args.rate.is_some()
            || args.threads.is_some();
        let mode = if args.find_mtu {
            Mode::FindMtu(MtuOptions::new().timeout(args.timeout))
        } else if is_load {
            let mut load = LoadOptions::new().timeout(args.timeout);
            load.connections = args.connections.unwrap_or(load.connections);
            load.in_flight = args.in_flight.unwrap_or(load.in_flight);
            load.duration = args.duration.unwrap_or(load.duration);
            load.rate = args.rate;
            load.threads = args.threads.unwrap_or(load.threads);
            Mode::Load(load)
        } else {
            let mut ping = PingOptions::new().interval(args.interval).timeout(args.timeout);
            ping.count = args.count;
            Mode::Ping(ping)
        };
        let probe = probe::Probe::new(args.target)
            .messages(|messages| {
                messages.size = args.size;
                messages.is_text = args.text;
                messages.line_ending = args.lines;
            })
            .connect(|connect| {
                connect.family = match (args.ipv4, args.ipv6) {
                    (true, _) => Some(Family::V4),
                    (_, true) => Some(Family::V6),
                    _ => None,
                };
                connect.source = args.source;
                connect.skip_first = args.skip_first;
                connect.timeout = args.connect_timeout;
                connect.subprotocols = args.subprotocol;
                connect.headers = args.header;
                connect.dont_fragment = args.dont_fragment;
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
            });
        Probe { probe, mode, json: args.json }
    }
}

fn parse_target(text: &str) -> Result<Target, String> {
    text.parse::<Target>().map_err(|error| match without_scheme(text) {
        Some(url) => format!("it has no scheme; did you mean {url}?"),
        None => error.problem().to_owned(),
    })
}

fn parse_time(text: &str) -> Result<Duration, String> {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    let time = parse_any_time(text)?;
    if time > YEAR { Err("must be a year at most".to_owned()) } else { Ok(time) }
}

fn parse_positive_time(text: &str) -> Result<Duration, String> {
    let time = parse_time(text)?;
    if time.is_zero() { Err("must be more than 0".to_owned()) } else { Ok(time) }
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

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected 'NAME: VALUE'")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

//! The command line: parses flags and environment variables into typed options.

mod certs;
mod probe;
mod values;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use echo_server::{
    ClientAuth, Config, Credentials, Identity, Listen, Protocol, Source, TlsVersion,
};

pub use certs::Certs;
pub use probe::{Mode, Probe};
use values::{
    AddrArg, parse_alpn, parse_buffer_size, parse_mode, parse_origin, parse_size, parse_token,
};

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Run an echo server.
    Serve(Box<Options>),
    /// Probe an echo service.
    Probe(Box<Probe>),
    /// Make certificates for an echo server.
    Certs(Certs),
}

/// The options of the server command.
#[derive(Debug)]
pub struct Options {
    pub config: Config,
    /// How many threads echo. `None`: one for each core that the process may use.
    pub threads: Option<NonZeroUsize>,
    pub log: LogOptions,
    pub ready_file: Option<PathBuf>,
}

/// How much to log, and in which form.
#[derive(Debug, Clone, Copy)]
pub struct LogOptions {
    /// -1 for `--quiet`, 0 by default, 1 for `-v`, 2 for `-vv`.
    pub verbosity: i8,
    pub format: LogFormat,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Why parsing did not produce a command.
pub enum Exit {
    /// The text of `--help` or `--version`, to be printed on stdout.
    Print(clap::Error),
    /// A usage error, in one line.
    Usage(String),
}

/// An echo server for TCP, TLS, UDP, WebSocket, and WebSocket over TLS
#[derive(Debug, Parser)]
#[command(
    name = "echo-server",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Without a listener flag, the server echoes plain TCP on 127.0.0.1:8080.\n\
                  ADDR is IP:PORT, [IPv6]:PORT, NAME:PORT, or a PORT on 127.0.0.1; port 0 means \
                  any free port. Except for --udp, it can also be a Unix socket: unix:PATH, or on \
                  Linux unix:@NAME. Listener flags can be repeated.\n\
                  TIME is written as 10s, 5m or 1h 30m; 0 means no limit. \
                  SIZE is written as 64KiB or 1MB.\n\
                  Every flag has an environment variable: ECHO_LOG_FORMAT sets --log-format. In a \
                  variable, commas separate several ADDRs, and the word default means the flag's \
                  default address."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Subcommands>,

    /// Echo plain TCP [127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", env = "ECHO_TCP", help_heading = "Listeners")]
    #[arg(num_args = 0..=1, default_missing_value = "default", value_delimiter = ',', hide_env = true)]
    tcp: Vec<AddrArg>,

    /// Echo TLS 1.2 and 1.3 [127.0.0.1:8443]
    #[arg(long, value_name = "ADDR", env = "ECHO_TLS", help_heading = "Listeners")]
    #[arg(num_args = 0..=1, default_missing_value = "default", value_delimiter = ',', hide_env = true)]
    tls: Vec<AddrArg>,

    /// Echo UDP datagrams [127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", env = "ECHO_UDP", help_heading = "Listeners")]
    #[arg(num_args = 0..=1, default_missing_value = "default", value_delimiter = ',', hide_env = true)]
    udp: Vec<AddrArg>,

    /// Echo WebSocket messages [127.0.0.1:8081]
    #[arg(long, value_name = "ADDR", env = "ECHO_WS", help_heading = "Listeners")]
    #[arg(num_args = 0..=1, default_missing_value = "default", value_delimiter = ',', hide_env = true)]
    ws: Vec<AddrArg>,

    /// Echo WebSocket messages over TLS [127.0.0.1:8444]
    #[arg(long, value_name = "ADDR", env = "ECHO_WSS", help_heading = "Listeners")]
    #[arg(num_args = 0..=1, default_missing_value = "default", value_delimiter = ',', hide_env = true)]
    wss: Vec<AddrArg>,

    /// Enable all five protocols, at their default addresses unless given
    #[arg(long, env = "ECHO_ALL", hide_env = true, help_heading = "Listeners")]
    all: bool,

    /// Permission bits of Unix socket files, in octal [0777 less the umask]
    #[arg(long, value_name = "MODE", env = "ECHO_UNIX_MODE", hide_env = true)]
    #[arg(help_heading = "Listeners", value_parser = parse_mode)]
    unix_mode: Option<u32>,

    /// Certificate chain, PEM or DER; if repeated, the client's SNI selects one [self-signed, made at
    /// start]
    #[arg(long, value_name = "FILE", env = "ECHO_CERT", hide_env = true, help_heading = "TLS")]
    cert: Vec<PathBuf>,

    /// Private key of the certificate: PKCS#8, PKCS#1 or SEC1; repeated in the order of --cert
    /// [the file of the certificate]
    #[arg(long, value_name = "FILE", env = "ECHO_KEY", hide_env = true, help_heading = "TLS")]
    #[arg(requires = "cert")]
    key: Vec<PathBuf>,

    /// DER OCSP response to staple; repeated in the order of --cert
    #[arg(long, value_name = "FILE", env = "ECHO_OCSP", hide_env = true, help_heading = "TLS")]
    #[arg(requires = "cert")]
    ocsp: Vec<PathBuf>,

    /// Ask clients for a certificate issued by one of these CAs
    #[arg(
        long,
        value_name = "FILE",
        env = "ECHO_CLIENT_CA",
        hide_env = true,
        help_heading = "TLS"
    )]
    client_ca: Option<PathBuf>,

    /// Whether a client needs a certificate [required, with --client-ca]
    #[arg(long, value_name = "HOW", env = "ECHO_CLIENT_AUTH", hide_env = true)]
    #[arg(value_enum, help_heading = "TLS", requires = "client_ca")]
    client_auth: Option<ClientAuthArg>,

    /// Certificate revocation lists (CRLs) of the client CAs
    #[arg(long, value_name = "FILE", env = "ECHO_CRL", hide_env = true, help_heading = "TLS")]
    #[arg(requires = "client_ca")]
    crl: Vec<PathBuf>,

    /// Lowest TLS version
    #[arg(long, value_name = "VERSION", env = "ECHO_TLS_MIN", hide_env = true)]
    #[arg(value_enum, default_value = "1.2", help_heading = "TLS")]
    tls_min: TlsVersionArg,

    /// Highest TLS version
    #[arg(long, value_name = "VERSION", env = "ECHO_TLS_MAX", hide_env = true)]
    #[arg(value_enum, default_value = "1.3", help_heading = "TLS")]
    tls_max: TlsVersionArg,

    /// Cipher suites, preferred one first [the defaults of rustls]
    #[arg(long, value_name = "NAME", env = "ECHO_TLS_CIPHERS", hide_env = true)]
    #[arg(value_delimiter = ',', help_heading = "TLS")]
    tls_ciphers: Vec<String>,

    /// Key-exchange groups, preferred one first [X25519MLKEM768,X25519,secp256r1,secp384r1]
    #[arg(long, value_name = "NAME", env = "ECHO_TLS_GROUPS", hide_env = true)]
    #[arg(value_delimiter = ',', help_heading = "TLS")]
    tls_groups: Vec<String>,

    /// ALPN protocols, preferred one first [--tls: the client's first offer; --wss: h2,http/1.1]
    #[arg(long, value_name = "NAME", env = "ECHO_ALPN", hide_env = true)]
    #[arg(value_delimiter = ',', help_heading = "TLS", value_parser = parse_alpn)]
    alpn: Vec<String>,

    /// Write the TLS secrets of every connection to the file named by SSLKEYLOGFILE
    #[arg(long, env = "ECHO_KEY_LOG", hide_env = true, help_heading = "TLS")]
    key_log: bool,

    /// Allowed subprotocols; the client's first allowed offer is selected [all]
    #[arg(long, value_name = "NAME", env = "ECHO_WS_SUBPROTOCOL", hide_env = true)]
    #[arg(help_heading = "WebSocket", value_delimiter = ',', num_args = 1.., value_parser = parse_token)]
    ws_subprotocol: Vec<String>,

    /// Origins whose pages may connect, such as https://example.com [all]
    #[arg(long, value_name = "ORIGIN", env = "ECHO_WS_ORIGIN", hide_env = true)]
    #[arg(help_heading = "WebSocket", value_delimiter = ',', num_args = 1.., value_parser = parse_origin)]
    ws_origin: Vec<String>,

    /// Ping at this interval, and close connections whose client sends nothing in between; 0: no
    /// pings
    #[arg(long, value_name = "TIME", env = "ECHO_WS_PING_INTERVAL", hide_env = true)]
    #[arg(help_heading = "WebSocket", default_value = "0", value_parser = humantime::parse_duration)]
    ws_ping_interval: Duration,

    /// Replies per second to one IPv4 address or IPv6 /64, with bursts of twice as many; 0: no
    /// limit [1000, no limit for loopback]
    #[arg(
        long,
        value_name = "N",
        env = "ECHO_UDP_RATE_LIMIT",
        hide_env = true,
        help_heading = "UDP"
    )]
    udp_rate_limit: Option<u32>,

    /// Replies per second to all clients together, with bursts of twice as many; 0: no limit
    #[arg(long, value_name = "N", env = "ECHO_UDP_TOTAL_RATE_LIMIT", hide_env = true)]
    #[arg(help_heading = "UDP", default_value = "0")]
    udp_total_rate_limit: u32,

    /// Also answer datagrams from source ports below 1024, and from 2049
    #[arg(long, env = "ECHO_UDP_ALLOW_LOW_PORTS", hide_env = true, help_heading = "UDP")]
    udp_allow_low_ports: bool,

    /// Size of the kernel's receive buffer [4MiB, or as much as the system allows]
    #[arg(long, value_name = "SIZE", env = "ECHO_UDP_RECV_BUFFER", hide_env = true)]
    #[arg(help_heading = "UDP", value_parser = parse_buffer_size)]
    udp_recv_buffer: Option<usize>,

    /// Maximum number of connections at a time; 0: no limit [90% of the descriptor limit]
    #[arg(long, value_name = "N", env = "ECHO_MAX_CONNECTIONS", hide_env = true)]
    #[arg(help_heading = "Limits")]
    max_connections: Option<usize>,

    /// Maximum number of connections from one IPv4 address or IPv6 /64; 0: no limit
    #[arg(long, value_name = "N", env = "ECHO_MAX_CONNECTIONS_PER_IP", hide_env = true)]
    #[arg(help_heading = "Limits", default_value = "0")]
    max_connections_per_ip: usize,

    /// Bytes in memory for all connections together: unsent echoes and unfinished messages; beyond
    /// it, the connections that stalled longest are closed; 0: no limit [a quarter of the memory,
    /// or of the cgroup's limit]
    #[arg(long, value_name = "SIZE", env = "ECHO_MAX_BUFFERED", hide_env = true)]
    #[arg(help_heading = "Limits", value_parser = parse_size)]
    max_buffered: Option<u64>,

    /// Close a connection whose TLS handshake or WebSocket upgrade takes longer
    #[arg(long, value_name = "TIME", env = "ECHO_HANDSHAKE_TIMEOUT", hide_env = true)]
    #[arg(help_heading = "Limits", default_value = "10s", value_parser = humantime::parse_duration)]
    handshake_timeout: Duration,

    /// Close a connection on which no byte was sent or received for this long
    #[arg(long, value_name = "TIME", env = "ECHO_IDLE_TIMEOUT", hide_env = true)]
    #[arg(help_heading = "Limits", default_value = "10m", value_parser = humantime::parse_duration)]
    idle_timeout: Duration,

    /// Close a connection whose client reads nothing of a pending echo for this long
    #[arg(long, value_name = "TIME", env = "ECHO_STALL_TIMEOUT", hide_env = true)]
    #[arg(help_heading = "Limits", default_value = "60s", value_parser = humantime::parse_duration)]
    stall_timeout: Duration,

    /// Close a connection after this long, whatever it is doing
    #[arg(long, value_name = "TIME", env = "ECHO_MAX_LIFETIME", hide_env = true)]
    #[arg(help_heading = "Limits", default_value = "0", value_parser = humantime::parse_duration)]
    max_lifetime: Duration,

    /// On SIGTERM or SIGINT, time for connections to receive the rest of their echo
    #[arg(long, value_name = "TIME", env = "ECHO_DRAIN_TIMEOUT", hide_env = true)]
    #[arg(help_heading = "Limits", default_value = "10s", value_parser = humantime::parse_duration)]
    drain_timeout: Duration,

    /// Size of the buffer that each thread uses to echo
    #[arg(long, value_name = "SIZE", env = "ECHO_BUFFER_SIZE", hide_env = true)]
    #[arg(default_value = "64KiB", value_parser = parse_buffer_size)]
    buffer_size: usize,

    /// Number of threads that echo [one for each core]
    #[arg(long, value_name = "N", env = "ECHO_THREADS", hide_env = true)]
    threads: Option<NonZeroUsize>,

    /// Write the bound addresses to this file, as a line of JSON, once the server listens
    #[arg(long, value_name = "PATH", env = "ECHO_READY_FILE", hide_env = true)]
    ready_file: Option<PathBuf>,

    /// Log more (-vv: even more); RUST_LOG, if set, overrides it
    #[arg(short, long, env = "ECHO_VERBOSE", hide_env = true, action = ArgAction::Count)]
    verbose: u8,

    /// Log only warnings and errors
    #[arg(short, long, env = "ECHO_QUIET", hide_env = true, conflicts_with = "verbose")]
    quiet: bool,

    /// Format of the log lines on stderr
    #[arg(long, value_name = "FORMAT", env = "ECHO_LOG_FORMAT", hide_env = true)]
    #[arg(value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Send messages to an echo service, and report on the replies
    Probe(Box<probe::ProbeArgs>),
    /// Create a private CA, and certificates for a server and a client that it has signed
    Certs(certs::CertsArgs),
}

/// Parses the process's arguments and environment variables.
pub fn parse() -> Result<Command, Exit> {
    let mut cli = Cli::try_parse().map_err(|error| match error.use_stderr() {
        false => Exit::Print(error),
        true => Exit::Usage(one_line(&error.to_string())),
    })?;
    Ok(match cli.command.take() {
        Some(Subcommands::Probe(args)) => Command::Probe(Box::new((*args).into())),
        Some(Subcommands::Certs(args)) => Command::Certs(args.into()),
        None => Command::Serve(Box::new(cli.try_into().map_err(Exit::Usage)?)),
    })
}

/// A TLS version, as a flag's value.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum TlsVersionArg {
    #[value(name = "1.2")]
    Tls12,
    #[value(name = "1.3")]
    Tls13,
}

impl From<TlsVersionArg> for TlsVersion {
    fn from(version: TlsVersionArg) -> TlsVersion {
        match version {
            TlsVersionArg::Tls12 => TlsVersion::Tls12,
            TlsVersionArg::Tls13 => TlsVersion::Tls13,
        }
    }
}

/// The values of `--client-auth`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ClientAuthArg {
    Optional,
    Required,
}

impl From<ClientAuthArg> for ClientAuth {
    fn from(auth: ClientAuthArg) -> ClientAuth {
        match auth {
            ClientAuthArg::Optional => ClientAuth::Optional,
            ClientAuthArg::Required => ClientAuth::Required,
        }
    }
}

/// Pairs certificates, keys and OCSP responses by their order on the command line.
fn identity(
    certs: Vec<PathBuf>,
    keys: Vec<PathBuf>,
    ocsp: Vec<PathBuf>,
) -> Result<Identity, String> {
    // Without --key, each file of a certificate holds its key, too, as HAProxy has it.
    let keys = if keys.is_empty() { certs.clone() } else { keys };
    if certs.len() != keys.len() {
        let (certs, keys) = (certs.len(), keys.len());
        return Err(format!("--key: {keys} given, and {certs} --cert; each --cert needs a --key"));
    }
    if ocsp.len() > certs.len() {
        return Err("--ocsp: more are given than --cert".to_owned());
    }
    if certs.is_empty() {
        return Ok(Identity::SelfSigned);
    }
    let ocsp = ocsp.into_iter().map(Some).chain(std::iter::repeat(None));
    let given = certs.into_iter().zip(keys).zip(ocsp);
    let given = given.map(|((cert, key), ocsp)| {
        let credentials = Credentials::new(cert, key);
        match ocsp {
            Some(ocsp) => credentials.stapled(ocsp),
            None => credentials,
        }
    });
    Ok(Identity::Given(given.collect()))
}

impl TryFrom<Cli> for Options {
    type Error = String;

    fn try_from(cli: Cli) -> Result<Options, String> {
        let mut config = Config::new()
            .buffer_size(cli.buffer_size)
            .limits(|limits| {
                // `None` would mean the default, which follows the descriptor limit.
                limits.max_connections = cli.max_connections.map(|max| match max {
                    0 => usize::MAX,
                    max => max,
                });
                limits.max_connections_per_ip =
                    Some(cli.max_connections_per_ip).filter(|max| *max > 0);
                // 0 is no limit.
                limits.max_buffered =
                    cli.max_buffered.map(|bytes| if bytes == 0 { u64::MAX } else { bytes });
            })
            .tls(|tls| {
                tls.min = cli.tls_min.into();
                tls.max = cli.tls_max.into();
                tls.ciphers = cli.tls_ciphers;
                tls.groups = cli.tls_groups;
                tls.alpn = cli.alpn;
                tls.client_ca = cli.client_ca.map(Source::from);
                tls.client_auth = cli.client_auth.map(ClientAuth::from);
                tls.crls = cli.crl.into_iter().map(Source::from).collect();
                tls.key_log = cli.key_log;
            })
            .websocket(|websocket| {
                websocket.subprotocols = cli.ws_subprotocol;
                websocket.origins = cli.ws_origin;
            })
            .udp(|udp| {
                if let Some(rate) = cli.udp_rate_limit {
                    udp.rate_limit = Some(rate).filter(|rate| *rate > 0);
                    // Someone who sets a limit explicitly expects it on loopback too.
                    udp.rate_limit_loopback = true;
                }
                udp.total_rate_limit = Some(cli.udp_total_rate_limit).filter(|rate| *rate > 0);
                udp.allow_low_ports = cli.udp_allow_low_ports;
                udp.recv_buffer = cli.udp_recv_buffer;
            })
            .timeouts(|timeouts| {
                timeouts.ping = unless_zero(cli.ws_ping_interval);
                timeouts.handshake = unless_zero(cli.handshake_timeout);
                timeouts.idle = unless_zero(cli.idle_timeout);
                timeouts.stall = unless_zero(cli.stall_timeout);
                timeouts.lifetime = unless_zero(cli.max_lifetime);
                timeouts.drain = cli.drain_timeout;
            });
        let given = [
            (Protocol::Tcp, cli.tcp),
            (Protocol::Tls, cli.tls),
            (Protocol::Udp, cli.udp),
            (Protocol::Ws, cli.ws),
            (Protocol::Wss, cli.wss),
        ];
        for (protocol, mut addrs) in given {
            addrs.retain(|addr| *addr != AddrArg::Unset);
            if addrs.is_empty() && cli.all {
                addrs.push(AddrArg::Default);
            }
            config.listeners.extend(addrs.into_iter().map(|addr| match addr {
                AddrArg::At(addresses) => Listen::any_of(protocol, addresses),
                AddrArg::Default | AddrArg::Unset => Listen::default_for(protocol),
            }));
        }
        if config.listeners.is_empty() {
            config.listeners.push(Listen::default_for(Protocol::Tcp));
        }
        config.unix_mode = cli.unix_mode;
        config.identity = identity(cli.cert, cli.key, cli.ocsp)?;
        let verbosity = if cli.quiet { -1 } else { cli.verbose.min(2) as i8 };
        Ok(Options {
            config,
            threads: cli.threads,
            log: LogOptions { verbosity, format: cli.log_format },
            ready_file: cli.ready_file,
        })
    }
}

/// `None` for a timeout of 0.
fn unless_zero(timeout: Duration) -> Option<Duration> {
    Some(timeout).filter(|timeout| !timeout.is_zero())
}

/// Puts clap's message on one line, without its usage section.
fn one_line(message: &str) -> String {
    let about = message.split("\n\nUsage:").next().unwrap_or(message);
    let about = about.split("\n\nFor more information").next().unwrap_or(about);
    let lines: Vec<_> = about
        .trim_start_matches("error: ")
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    lines.join(" ")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn listeners(args: &[&str]) -> Vec<String> {
        let cli = Cli::try_parse_from([&["echo-server"], args].concat()).expect("valid arguments");
        let describe = |listen: &Listen| {
            let addresses: Vec<_> = listen.addresses.iter().map(ToString::to_string).collect();
            format!("{} [{}]", listen.protocol, addresses.join(", "))
        };
        Options::try_from(cli).unwrap().config.listeners.iter().map(describe).collect()
    }

    fn refusal(text: &str) -> String {
        text.parse::<AddrArg>().expect_err("not an address")
    }

    #[test]
    fn the_command_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn plain_tcp_is_the_default() {
        assert_eq!(listeners(&[]), ["tcp [127.0.0.1:8080]"]);
        assert_eq!(listeners(&["--udp"]), ["udp [127.0.0.1:8080]"]);
    }

    #[test]
    fn flags_can_be_given_several_times() {
        assert_eq!(
            listeners(&["--tcp", "--tcp", "9000", "--ws", "[::1]:0", "--ws", "unix:/run/echo"]),
            ["tcp [127.0.0.1:8080]", "tcp [127.0.0.1:9000]", "ws [[::1]:0]", "ws [unix:/run/echo]"]
        );
    }

    #[test]
    fn all_leaves_given_addresses_alone() {
        assert_eq!(
            listeners(&["--all", "--tls", "10.0.0.1:443"]),
            [
                "tcp [127.0.0.1:8080]",
                "tls [10.0.0.1:443]",
                "udp [127.0.0.1:8080]",
                "ws [127.0.0.1:8081]",
                "wss [127.0.0.1:8444]"
            ]
        );
    }

    #[test]
    fn an_empty_variable_is_unset_and_the_word_default_is_an_address() {
        assert_eq!(listeners(&["--ws="]), ["tcp [127.0.0.1:8080]"]);
        assert_eq!(
            listeners(&["--ws=default,9000"]),
            ["ws [127.0.0.1:8081]", "ws [127.0.0.1:9000]"]
        );
    }

    #[test]
    fn an_invalid_address_is_refused_with_a_reason() {
        assert_eq!(refusal("127.0.0.1"), "it has no port; did you mean 127.0.0.1:8080?");
        assert_eq!(refusal("::1"), "it has no port; did you mean [::1]:8080?");
        assert!(refusal("unix:").contains("unix:/path"), "{}", refusal("unix:"));
        for text in
            ["::1:2:3:99999", "localhost", ":80", "a:b", "localhost:65536", "[::1]", "x/y:1"]
        {
            assert!(refusal(text).contains("expected IP:PORT"), "{text}: {}", refusal(text));
        }
    }

    #[test]
    fn a_limit_of_0_connections_is_no_limit() {
        let limits = |args: &[&str]| {
            let cli = Cli::try_parse_from([&["echo-server"], args].concat()).unwrap();
            let limits = Options::try_from(cli).unwrap().config.limits;
            (limits.max_connections, limits.max_connections_per_ip)
        };
        assert_eq!(limits(&[]), (None, None));
        assert_eq!(limits(&["--max-connections", "0"]), (Some(usize::MAX), None));
        assert_eq!(limits(&["--max-connections-per-ip", "0"]), (None, None));
        assert_eq!(
            limits(&["--max-connections", "1", "--max-connections-per-ip", "2"]),
            (Some(1), Some(2))
        );
    }

    #[test]
    fn a_mode_is_octal() {
        assert_eq!(parse_mode("0660"), Ok(0o660));
        assert_eq!(parse_mode("600"), Ok(0o600));
        for text in ["", "8", "1777", "00660", "rw", "-1"] {
            assert!(parse_mode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn buffer_sizes() {
        assert_eq!(parse_buffer_size("64KiB"), Ok(65536));
        assert_eq!(parse_buffer_size("1"), Ok(1));
        assert_eq!(parse_buffer_size("64MiB"), Ok(64 << 20));
        for text in ["0", "65MiB", "", "many", "-1"] {
            assert!(parse_buffer_size(text).is_err(), "{text}");
        }
    }
}

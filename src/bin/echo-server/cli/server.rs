//! The flags of the server. Each of them, `--log-format` for example, can be given as an environment
//! variable too, `ECHO_LOG_FORMAT`; see [`super::environment`].

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, ValueEnum};
use echo_server::probe::{Target, WatchOptions};
use echo_server::{
    Cidr, ClientAuth, Config, Credentials, FaultGroup, Identity, Listen, ListenAddress, Protocol,
    Source, TlsVersion,
};

use super::values::{
    Host, ListenerArg, host_name, parse_alpn, parse_buffer_size, parse_mode, parse_number,
    parse_origin, parse_own_address, parse_pair, parse_positive_time, parse_size, parse_source,
    parse_time, parse_token,
};
use super::{LogFormat, LogOptions, Mesh, Options};

/// The default port of the admin endpoint.
const ADMIN_PORT: u16 = 8082;

#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    #[command(flatten)]
    listeners: Listeners,
    #[command(flatten)]
    tls: Tls,
    #[command(flatten)]
    websocket: WebSocket,
    #[command(flatten)]
    udp: Udp,
    #[command(flatten)]
    proxies: Proxies,
    #[command(flatten)]
    faults: Faults,
    #[command(flatten)]
    mesh: MeshArgs,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    process: Process,
    #[command(flatten)]
    log: Log,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Listeners")]
struct Listeners {
    /// Echo plain TCP [127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    #[arg(num_args = 0..=1, default_missing_value = "default")]
    tcp: Vec<ListenerArg>,

    /// Echo TLS 1.2 and 1.3 [127.0.0.1:8443]
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    #[arg(num_args = 0..=1, default_missing_value = "default")]
    tls: Vec<ListenerArg>,

    /// Echo UDP datagrams [127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    #[arg(num_args = 0..=1, default_missing_value = "default")]
    udp: Vec<ListenerArg>,

    /// Echo WebSocket messages [127.0.0.1:8081]
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    #[arg(num_args = 0..=1, default_missing_value = "default")]
    ws: Vec<ListenerArg>,

    /// Echo WebSocket messages over TLS [127.0.0.1:8444]
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    #[arg(num_args = 0..=1, default_missing_value = "default")]
    wss: Vec<ListenerArg>,

    /// All five, each at its default address unless given
    #[arg(long)]
    all: bool,

    /// The host of every ADDR that is only a port or is left out; '*' is all interfaces [127.0.0.1]
    #[arg(long, value_name = "HOST")]
    host: Option<Host>,

    /// Permission bits of Unix socket files, in octal [0777 less the umask]
    #[arg(long, value_name = "MODE", value_parser = parse_mode)]
    unix_mode: Option<u32>,
}

impl Listeners {
    fn listen(self) -> (Vec<Listen>, Option<u32>) {
        let host = self.host.unwrap_or_default();
        let given = [
            (Protocol::Tcp, self.tcp),
            (Protocol::Tls, self.tls),
            (Protocol::Udp, self.udp),
            (Protocol::Ws, self.ws),
            (Protocol::Wss, self.wss),
        ];
        let default =
            |protocol: Protocol| Listen::new(protocol, host.with_port(protocol.default_port()));
        let mut listeners = Vec::new();
        for (protocol, args) in given {
            if args.is_empty() && self.all {
                listeners.push(default(protocol));
            }
            listeners.extend(args.into_iter().map(|arg| match arg {
                ListenerArg::Default => default(protocol),
                ListenerArg::Port(port) => Listen::new(protocol, host.with_port(port)),
                ListenerArg::At(address) => Listen::new(protocol, address),
            }));
        }
        if listeners.is_empty() {
            listeners.push(default(Protocol::Tcp));
        }
        (listeners, self.unix_mode)
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "TLS")]
struct Tls {
    /// Certificate chain, PEM or DER; if repeated, the client's SNI selects one [self-signed, made at
    /// start]
    #[arg(long, value_name = "FILE")]
    cert: Vec<PathBuf>,

    /// Private key of the certificate: PKCS#8, PKCS#1 or SEC1; repeated in the order of --cert
    /// [the file of the certificate]
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Vec<PathBuf>,

    /// DER OCSP response to staple; repeated in the order of --cert
    #[arg(long, value_name = "FILE", requires = "cert")]
    ocsp: Vec<PathBuf>,

    /// Ask clients for a certificate issued by one of these CAs
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,

    /// Whether a client needs a certificate [required, with --client-ca]
    #[arg(long, value_name = "HOW", value_enum, requires = "client_ca")]
    client_auth: Option<ClientAuthArg>,

    /// Certificate revocation lists (CRLs) of the client CAs
    #[arg(long, value_name = "FILE", requires = "client_ca")]
    crl: Vec<PathBuf>,

    /// Lowest TLS version
    #[arg(long, value_name = "VERSION", value_enum, default_value = "1.2")]
    tls_min: TlsVersionArg,

    /// Highest TLS version
    #[arg(long, value_name = "VERSION", value_enum, default_value = "1.3")]
    tls_max: TlsVersionArg,

    /// Cipher suites, preferred one first [the defaults of rustls]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    tls_ciphers: Vec<String>,

    /// Key-exchange groups, preferred one first [X25519MLKEM768,X25519,secp256r1,secp384r1]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    tls_groups: Vec<String>,

    /// ALPN protocols, preferred one first [--tls: the client's first offer; --wss: h2,http/1.1]
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = parse_alpn)]
    alpn: Vec<String>,

    /// Write the TLS secrets of every connection to the file named by SSLKEYLOGFILE
    #[arg(long)]
    key_log: bool,
}

impl Tls {
    fn configure(self, config: Config) -> Result<Config, String> {
        let identity = identity(self.cert, self.key, self.ocsp)?;
        Ok(config.identity(identity).tls(|tls| {
            tls.min = self.tls_min.into();
            tls.max = self.tls_max.into();
            tls.ciphers = self.tls_ciphers;
            tls.groups = self.tls_groups;
            tls.alpn = self.alpn;
            tls.client_ca = self.client_ca.map(Source::from);
            tls.client_auth = self.client_auth.map(ClientAuth::from);
            tls.crls = self.crl.into_iter().map(Source::from).collect();
            tls.key_log = self.key_log;
        }))
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
        return Err(format!(
            "--key: {keys} given, and {certs} --cert; with several, each --cert needs a --key, which \
             is the same file if that holds both"
        ));
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

#[derive(Debug, Args)]
#[command(next_help_heading = "WebSocket")]
struct WebSocket {
    /// Allowed subprotocols; the client's first allowed offer is selected [all]
    #[arg(long, value_name = "NAME", value_delimiter = ',', num_args = 1..)]
    #[arg(value_parser = parse_token)]
    ws_subprotocol: Vec<String>,

    /// Origins whose pages may connect, such as https://example.com, or https://*.example.com for
    /// its subdomains [all]
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',', num_args = 1..)]
    #[arg(value_parser = parse_origin)]
    ws_origin: Vec<String>,

    /// Ping at this interval, and close connections whose client sends nothing in between; 0: no
    /// pings
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_time)]
    ws_ping_interval: Duration,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "UDP")]
struct Udp {
    /// Replies per second to one IPv4 address or IPv6 /64, with bursts of twice as many; 0: no
    /// limit [1000, no limit for loopback]
    #[arg(long, value_name = "N", value_parser = parse_number::<u32>)]
    udp_rate_limit: Option<u32>,

    /// Replies per second to all clients together, with bursts of twice as many; 0: no limit
    #[arg(long, value_name = "N", default_value = "0", value_parser = parse_number::<u32>)]
    udp_total_rate_limit: u32,

    /// Also answer datagrams from source ports below 1024, and from 2049
    #[arg(long)]
    udp_allow_low_ports: bool,

    /// Size of the kernel's receive buffer [4MiB, or as much as the system allows]
    #[arg(long, value_name = "SIZE", value_parser = parse_buffer_size)]
    udp_recv_buffer: Option<usize>,
}

impl Udp {
    fn configure(self, config: Config) -> Config {
        config.udp(|udp| {
            if let Some(rate) = self.udp_rate_limit {
                udp.rate_limit = Some(rate).filter(|rate| *rate > 0);
                // Someone who sets a limit explicitly expects it on loopback too.
                udp.rate_limit_loopback = true;
            }
            udp.total_rate_limit = Some(self.udp_total_rate_limit).filter(|rate| *rate > 0);
            udp.allow_low_ports = self.udp_allow_low_ports;
            udp.recv_buffer = self.udp_recv_buffer;
        })
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Proxies and facts")]
struct Proxies {
    /// Expect a PROXY header, version 1 or 2, at the beginning of each connection; it announces the
    /// client
    #[arg(long, value_name = "PROTOCOL", value_delimiter = ',', num_args = 1..)]
    #[arg(value_parser = PossibleValuesParser::new(["tcp", "tls", "ws", "wss", "all"]).map(Served::from))]
    proxy_protocol: Vec<Served>,

    /// Networks of the proxies, such as 10.0.0.0/8; other connections there are closed [needed,
    /// except on loopback addresses and Unix sockets]
    #[arg(long, value_name = "CIDR", value_delimiter = ',', num_args = 1..)]
    #[arg(requires = "proxy_protocol")]
    proxy_from: Vec<Cidr>,

    /// Tell each client first, as JSON, what the server saw of it: its addresses, TLS, header fields,
    /// which can hold secrets
    #[arg(long, value_name = "PROTOCOL", value_delimiter = ',', num_args = 1..)]
    #[arg(value_parser = PossibleValuesParser::new(["tcp", "tls", "udp", "ws", "wss", "all"]).map(Served::from))]
    facts: Vec<Served>,
}

impl Proxies {
    /// All listeners of `config` are there already.
    fn configure(self, mut config: Config) -> Result<Config, String> {
        config.proxy.protocols = Served::protocols(&self.proxy_protocol, &config.listeners);
        if self.proxy_protocol.contains(&Served::All) {
            config.proxy.protocols.retain(|protocol| *protocol != Protocol::Udp);
            if config.proxy.protocols.is_empty() {
                return Err(
                    "--proxy-protocol all: there is no listener but for UDP, which has no \
                            PROXY headers"
                        .to_owned(),
                );
            }
        }
        config.proxy.from = self.proxy_from;
        config.facts = Served::protocols(&self.facts, &config.listeners);
        Ok(config)
    }
}

/// A protocol that is served, as a flag's value, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Served {
    One(Protocol),
    All,
}

/// The value is one of those that the flag takes.
impl From<String> for Served {
    fn from(name: String) -> Self {
        let named = Protocol::ALL.iter().find(|protocol| protocol.name() == name);
        named.map_or(Served::All, |protocol| Served::One(*protocol))
    }
}

impl Served {
    fn protocols(given: &[Served], served: &[Listen]) -> Vec<Protocol> {
        let mut protocols = Vec::new();
        for one in given {
            match one {
                Served::One(protocol) => protocols.push(*protocol),
                Served::All => protocols.extend(served.iter().map(|listen| listen.protocol)),
            }
        }
        protocols
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Faults on purpose")]
struct Faults {
    /// Misbehave: delay, jitter, rate, slice, corrupt, drop, burst, duplicate, reorder, reset, close,
    /// truncate, stall, handshake, certificate, upgrade, ws-close, ws-mask, ws-utf8; docs/faults.md
    /// explains them [all protocols, unless PROTOCOL: stands in front]
    #[arg(long, value_name = "[PROTOCOL:]ITEM[=VALUE],...", value_delimiter = ';')]
    fault: Vec<FaultGroup>,

    /// The seed of what faults leave to chance; the same gives the same faults again [random, and
    /// logged at start]
    #[arg(long, value_name = "N", value_parser = parse_number::<u64>)]
    fault_seed: Option<u64>,

    /// Misbehave as clients ask: by the query of a URL, /?delay=200ms&close=1011, or the TLS server
    /// name, expired.localhost
    #[arg(long)]
    fault_by_request: bool,

    /// The longest time that a client can ask for
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    fault_max_delay: Duration,

    /// The CA that signs certificates with faults, and its key, so that clients which trust it see
    /// only the fault [one that nobody knows, made at start]
    #[arg(long, value_name = "CERT[,KEY]", value_parser = parse_pair)]
    fault_ca: Option<Credentials>,
}

impl Faults {
    fn configure(self, config: Config) -> Config {
        config.faults(|faults| {
            faults.groups = self.fault;
            faults.seed = self.fault_seed;
            faults.by_request = self.fault_by_request;
            faults.max_delay = self.fault_max_delay;
            faults.ca = self.fault_ca;
        })
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Mesh")]
struct MeshArgs {
    /// Probe the servers at all addresses of these names, but not this one, over each protocol that
    /// this one serves and at the same ports; --admin tells what is found
    #[arg(long, value_name = "NAME", value_delimiter = ',', num_args = 1..)]
    #[arg(value_parser = parse_peer)]
    mesh: Vec<String>,

    /// How often each of them is probed, and its names are looked up
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_positive_time)]
    #[arg(requires = "mesh")]
    mesh_every: Duration,

    /// Probe only K of them; each is probed by about K others [all]
    #[arg(long, value_name = "K", requires = "mesh", value_parser = parse_number::<NonZeroUsize>)]
    mesh_peers: Option<NonZeroUsize>,

    /// Trust these certificates of theirs or of their CA, and no others [the system's CAs]
    #[arg(long, value_name = "FILE", requires = "mesh")]
    mesh_ca: Option<PathBuf>,

    /// The name of this one, in metrics and on the page [the host's name]
    #[arg(long, value_name = "NAME", requires = "mesh", value_parser = parse_source)]
    mesh_name: Option<String>,
}

impl MeshArgs {
    fn configure(self) -> Result<Option<Mesh>, String> {
        if self.mesh.is_empty() {
            return Ok(None);
        }
        let mut options =
            WatchOptions::new(self.mesh_name.unwrap_or_else(host_name)).every(self.mesh_every);
        options.resolve_all = true;
        options.peers = self.mesh_peers;
        Ok(Some(Mesh { names: self.mesh, options, ca: self.mesh_ca }))
    }
}

/// A name or an address of peers, without a port.
fn parse_peer(text: &str) -> Result<String, String> {
    const EXPECTED: &str = "expected the name or the address of the peers";
    if text.is_empty() || text == "*" {
        return Err(EXPECTED.to_owned());
    }
    if text.contains('%') {
        return Err("a link-local address has a meaning on one link only; take another".to_owned());
    }
    let host =
        text.parse::<Host>().map_err(|problem| match problem.starts_with("it has a port") {
            true => "it has a port; the peers' ports are this server's own".to_owned(),
            false => problem
                .replace("expected an IP address, a name, or '*' for all interfaces", EXPECTED),
        })?;
    match format!("tcp://{}", host.with_port(1)).parse::<Target>() {
        Ok(_) => Ok(host.name().to_owned()),
        Err(_) if !text.is_ascii() => {
            Err("an international name is written as in DNS, and begins with xn--".to_owned())
        }
        Err(_) => Err(EXPECTED.to_owned()),
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
struct Limits {
    /// Maximum number of connections at a time; 0: no limit [90% of the descriptor limit]
    #[arg(long, value_name = "N", value_parser = parse_number::<usize>)]
    max_connections: Option<usize>,

    /// Maximum number of connections from one IPv4 address or IPv6 /64; 0: no limit
    #[arg(long, value_name = "N", default_value = "0", value_parser = parse_number::<usize>)]
    max_connections_per_ip: usize,

    /// Bytes in memory for all connections together: unsent echoes and unfinished messages; beyond
    /// it, the connections that stalled longest are closed; 0: no limit [a quarter of the memory,
    /// or of the cgroup's limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_buffered: Option<u64>,

    /// Close a connection whose PROXY header, TLS handshake and WebSocket upgrade take longer together
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    handshake_timeout: Duration,

    /// Close a connection on which no byte was sent or received for this long
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_time)]
    idle_timeout: Duration,

    /// Close a connection whose client reads nothing of a pending echo for this long
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_time)]
    stall_timeout: Duration,

    /// Close a connection after this long, whatever it is doing
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_time)]
    max_lifetime: Duration,

    /// On SIGTERM or SIGINT, time in which /readyz of --admin answers 503 and connections are still
    /// accepted, so that balancers send new clients elsewhere; 0: none
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_time)]
    drain_delay: Duration,

    /// After --drain-delay, time for connections to receive the rest of their echo; what is left then
    /// is aborted; 0: at once
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    drain_timeout: Duration,
}

impl Limits {
    fn configure(self, ping: Duration, config: Config) -> Config {
        let config = config.limits(|limits| {
            // `None` would mean the default, which follows the descriptor limit.
            limits.max_connections = self.max_connections.map(|max| match max {
                0 => usize::MAX,
                max => max,
            });
            limits.max_connections_per_ip =
                Some(self.max_connections_per_ip).filter(|max| *max > 0);
            // 0 is no limit.
            limits.max_buffered =
                self.max_buffered.map(|bytes| if bytes == 0 { u64::MAX } else { bytes });
        });
        config.timeouts(|timeouts| {
            timeouts.ping = unless_zero(ping);
            timeouts.handshake = unless_zero(self.handshake_timeout);
            timeouts.idle = unless_zero(self.idle_timeout);
            timeouts.stall = unless_zero(self.stall_timeout);
            timeouts.lifetime = unless_zero(self.max_lifetime);
            timeouts.drain = self.drain_timeout;
            timeouts.drain_delay = self.drain_delay;
        })
    }
}

/// `None` for a timeout of 0.
fn unless_zero(timeout: Duration) -> Option<Duration> {
    Some(timeout).filter(|timeout| !timeout.is_zero())
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Process")]
struct Process {
    /// Number of threads that echo [one for each core]
    #[arg(long, value_name = "N", value_parser = parse_number::<NonZeroUsize>)]
    threads: Option<NonZeroUsize>,

    /// Size of the buffer that each thread uses to echo
    #[arg(long, value_name = "SIZE", default_value = "64KiB", value_parser = parse_buffer_size)]
    buffer_size: usize,

    /// Serve metrics and health checks over HTTP: /metrics, /livez, /readyz; a port alone is on
    /// 127.0.0.1, whatever --host is [off; without ADDR 127.0.0.1:8082]
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "default")]
    #[arg(value_parser = parse_admin)]
    admin: Vec<ListenAddress>,

    /// Write the bound addresses to this file, as a line of JSON, once the server listens
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Log")]
struct Log {
    /// Log every line about single connections, and what the libraries say; RUST_LOG, if set,
    /// overrides it
    #[arg(short, long)]
    verbose: bool,

    /// Log only warnings and errors
    #[arg(short, long)]
    quiet: bool,

    /// Format of the log lines on stderr
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
}

impl ServerArgs {
    /// Decides between `--quiet` and `--verbose`, where the command line overrides variables.
    pub(super) fn settle_verbosity(&mut self, matches: &ArgMatches) -> Result<(), String> {
        let is_written = |flag| matches.value_source(flag) == Some(ValueSource::CommandLine);
        if self.log.verbose && self.log.quiet {
            match (is_written("verbose"), is_written("quiet")) {
                (true, true) => return Err("--quiet excludes --verbose".to_owned()),
                (true, false) => self.log.quiet = false,
                (false, _) => self.log.verbose = false,
            }
        }
        Ok(())
    }
}

impl TryFrom<ServerArgs> for Options {
    type Error = String;

    fn try_from(args: ServerArgs) -> Result<Options, String> {
        let ServerArgs {
            listeners,
            tls,
            websocket,
            udp,
            proxies,
            faults,
            mesh,
            limits,
            process,
            log,
        } = args;
        let mesh = mesh.configure()?;
        let mut config = Config::new().buffer_size(process.buffer_size);
        (config.listeners, config.unix_mode) = listeners.listen();
        config = tls.configure(config)?;
        config = config.websocket(|settings| {
            settings.subprotocols = websocket.ws_subprotocol;
            settings.origins = websocket.ws_origin;
        });
        config = faults.configure(proxies.configure(udp.configure(config))?);
        config = limits.configure(websocket.ws_ping_interval, config);
        if process.admin.len() > 1 {
            return Err("--admin: it was given more than once, and has one address".to_owned());
        }
        let verbosity = log.verbose as i8 - log.quiet as i8;
        Ok(Options {
            config,
            threads: process.threads,
            log: LogOptions { verbosity, format: log.log_format },
            admin: process.admin.into_iter().next(),
            mesh,
            ready_file: process.ready_file,
            unknown_variables: Vec::new(),
        })
    }
}

/// The ADDR of `--admin`, which has a default port of its own.
fn parse_admin(text: &str) -> Result<ListenAddress, String> {
    parse_own_address(text, ADMIN_PORT)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        server: ServerArgs,
    }

    fn options(args: &[&str]) -> Options {
        let only = Only::try_parse_from([&["echo-server"], args].concat()).expect("valid");
        only.server.try_into().expect("consistent")
    }

    fn listeners(args: &[&str]) -> Vec<String> {
        let describe = |listen: &Listen| format!("{} {}", listen.protocol, listen.address);
        options(args).config.listeners.iter().map(describe).collect()
    }

    #[test]
    fn plain_tcp_is_the_default() {
        assert_eq!(listeners(&[]), ["tcp 127.0.0.1:8080"]);
        assert_eq!(listeners(&["--udp"]), ["udp 127.0.0.1:8080"]);
    }

    #[test]
    fn flags_can_be_given_several_times() {
        assert_eq!(
            listeners(&["--tcp", "--tcp", "9000", "--ws", "[::1]:0", "--ws", "unix:/run/echo"]),
            ["tcp 127.0.0.1:8080", "tcp 127.0.0.1:9000", "ws [::1]:0", "ws unix:/run/echo"]
        );
        assert_eq!(listeners(&["--ws=default,9000"]), ["ws 127.0.0.1:8081", "ws 127.0.0.1:9000"]);
    }

    #[test]
    fn all_leaves_given_addresses_alone() {
        assert_eq!(
            listeners(&["--all", "--tls", "10.0.0.1:443"]),
            [
                "tcp 127.0.0.1:8080",
                "tls 10.0.0.1:443",
                "udp 127.0.0.1:8080",
                "ws 127.0.0.1:8081",
                "wss 127.0.0.1:8444"
            ]
        );
    }

    #[test]
    fn the_host_is_that_of_every_listener_that_has_none() {
        assert_eq!(
            listeners(&["--host", "*", "--tcp", "--ws", "80", "--udp", "localhost:7"]),
            ["tcp *:8080", "udp localhost:7", "ws *:80"]
        );
        assert_eq!(listeners(&["--host", "::1"]), ["tcp [::1]:8080"]);
        assert_eq!(listeners(&["--host", "[::1]", "--tls"]), ["tls [::1]:8443"]);
        assert_eq!(listeners(&["--host", "fe80::1%eth0"]), ["tcp [fe80::1%eth0]:8080"]);
        assert_eq!(listeners(&["--host", "0.0.0.0", "--all"]).len(), 5);
    }

    #[test]
    fn the_admin_endpoint_stays_on_loopback_unless_an_address_says_otherwise() {
        let admin = |args: &[&str]| {
            let args = [&["--host", "*"], args].concat();
            options(&args).admin.map(|address| address.to_string())
        };
        assert_eq!(admin(&[]), None);
        assert_eq!(admin(&["--admin"]).as_deref(), Some("127.0.0.1:8082"));
        assert_eq!(admin(&["--admin", "9000"]).as_deref(), Some("127.0.0.1:9000"));
        assert_eq!(admin(&["--admin", ":9000"]).as_deref(), Some("*:9000"));
        assert_eq!(admin(&["--admin", "unix:/run/x"]).as_deref(), Some("unix:/run/x"));
        let hint = "it has no port; did you mean metrics:8082?";
        assert_eq!(parse_admin("metrics").unwrap_err(), hint);
    }

    #[test]
    fn a_limit_of_0_connections_is_no_limit() {
        let limits = |args: &[&str]| {
            let limits = options(args).config.limits;
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
}

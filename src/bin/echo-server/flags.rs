//! Words the library's errors for the command line: they name settings, but users gave flags.

use echo_server::probe::{NoFacts, Oddity, ProbeError, ProbeSetting, Target, WatchError};
use echo_server::{Address, Credential, CredentialError, Cure, Setting, StartError};

/// A line names at most this many descriptors; a process may inherit thousands.
const MAX_NAMES: usize = 5;

/// Why the server did not start, on one line.
pub fn start_error(error: &StartError) -> String {
    match error {
        StartError::Setting { setting, problem } => match setting {
            Setting::TlsVersions => "--tls-min is higher than --tls-max".to_owned(),
            Setting::ClientAuth => "--client-auth needs --client-ca".to_owned(),
            Setting::Crls => "--crl needs --client-ca".to_owned(),
            other => match flag_of(*other) {
                Some(flag) => format!("{flag}: {problem}"),
                None => error.to_string(),
            },
        },
        StartError::NotServed { setting, protocol } => {
            let flag = flag_of(*setting).unwrap_or("other settings");
            format!("{flag} {protocol}: no listener speaks it; --{protocol} starts one")
        }
        StartError::Excluded { setting, problem, with } => {
            let flag = |setting: &Setting| match setting {
                Setting::TlsVersions => "--tls-min and --tls-max",
                other => flag_of(*other).unwrap_or("other settings"),
            };
            let with: Vec<_> = with.iter().map(flag).collect();
            format!("{}: {problem}; {} allow no other version", flag(setting), with.join(" and "))
        }
        StartError::Credential(error) => credential_error(error),
        StartError::Address { protocol, address, problem } => {
            format!("--{protocol} {address}: {problem}")
        }
        StartError::Surplus { names } => {
            let example = names.first().map_or("NAME", String::as_str);
            let listed = names.iter().take(MAX_NAMES).map(|name| format!("'{name}'"));
            let listed = listed.collect::<Vec<_>>().join(", ");
            let more = match names.len().saturating_sub(MAX_NAMES) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!(
                "LISTEN_FDS: no flag uses the inherited {listed}{more}; --tcp systemd:{example}, for \
                 example, would"
            )
        }
        StartError::Inherited { name, problem } => {
            format!("LISTEN_FDS: the inherited '{name}': {problem}")
        }
        StartError::Twice { protocol, address, other_protocol, other } => {
            match (protocol == other_protocol, address == other) {
                (true, true) => format!("--{protocol} {address}: it was asked for twice"),
                (false, true) => {
                    format!("--{protocol} {address}: --{other_protocol} has it already")
                }
                _ => format!("--{protocol} {address}: --{other_protocol} {other} has it already"),
            }
        }
        StartError::Bind { protocol, address, source } => {
            format!("--{protocol} {address}: {}", bind_reason(address, source))
        }
        StartError::AdminAddress { address, problem } => format!("--admin {address}: {problem}"),
        StartError::AdminTwice { address, other_protocol, other } => match address == other {
            true => format!("--admin {address}: --{other_protocol} has it already"),
            false => format!("--admin {address}: --{other_protocol} {other} has it already"),
        },
        StartError::AdminBind { address, source } => {
            format!("--admin {address}: {}", bind_reason(address, source))
        }
        other => other.to_string(),
    }
}

/// Why a probe has no summary, on one line.
pub fn probe_error(error: &ProbeError) -> String {
    match error {
        ProbeError::Setting { setting, problem, .. } => match probe_flag_of(*setting) {
            Some(flag) => format!("{flag}: {problem}"),
            None => error.to_string(),
        },
        ProbeError::Credential(error) => credential_error(error),
        ProbeError::Tls { problem, .. } => {
            let cure = CURES.iter().find(|(cause, _)| problem.contains(cause));
            cure.map_or_else(|| error.to_string(), |(_, cure)| format!("{error}; {cure}"))
        }
        ProbeError::Connect { problem, .. } if problem.contains("HTTP/2") => {
            format!("{error}; --alpn http/1.1 does without")
        }
        other => other.to_string(),
    }
}

/// Why there is nothing to watch with, on one line.
pub fn watch_error(error: &WatchError) -> String {
    match error {
        WatchError::Probe(error) => probe_error(error),
        WatchError::TargetFile(error) => format!("--targets {error}"),
        other => other.to_string(),
    }
}

/// Why a server cannot probe its peers, on one line.
pub fn mesh_error(error: &WatchError) -> String {
    match error {
        WatchError::Probe(ProbeError::Credential(error)) => {
            format!("--mesh-ca {}: {}", error.origin, error.problem)
        }
        WatchError::Probe(ProbeError::Setting { problem, .. }) => format!("--mesh: {problem}"),
        other => format!("--mesh: {other}"),
    }
}

/// Why a watch cannot serve its metrics, on one line.
pub fn export_error(error: &StartError) -> String {
    start_error(error).replacen("--admin ", "--export ", 1)
}

/// What a service does that an echo service does not, and the flag that takes it into account.
pub fn oddity(oddity: &Oddity) -> String {
    let cure = match oddity {
        // The next connection's line may have another length.
        Oddity::SendsFacts { in_bytes: true, .. } => {
            return "the server sends facts first (--facts): use probe --facts".to_owned();
        }
        Oddity::SendsFacts { .. } => {
            return "the server sends facts first (--facts): use probe --facts, or --skip-first 1"
                .to_owned();
        }
        Oddity::EchoesProxyHeader => {
            return "the server echoes the PROXY header: it does not expect one".to_owned();
        }
        Oddity::Greets { amount: 1, .. } => "--skip-first 1 ignores it".to_owned(),
        Oddity::Greets { amount, .. } => format!("--skip-first {amount} ignores them"),
        Oddity::AnswersLines => "--lines ends each message with one".to_owned(),
        Oddity::EndsLinesWithCrLf => "--lines=crlf does so, too".to_owned(),
        _ => return oddity.to_string(),
    };
    format!("{oddity}; {cure}")
}

/// Why there are no facts, and the server's flag that may be missing.
pub fn no_facts(target: &Target, why: &NoFacts) -> String {
    let url = target.to_string();
    let place = url.split_once("://").map_or(&*url, |(_, place)| place).trim_end_matches('/');
    let hint = match why {
        NoFacts::Silent { .. } | NoFacts::Echoed => {
            format!("; is the server started with --facts {}?", target.protocol())
        }
        NoFacts::SilentWithoutProxy { .. } => format!(
            "; is the server started with --facts {}, and does it expect a PROXY header \
             (--proxy-protocol)?",
            target.protocol()
        ),
        _ => String::new(),
    };
    format!("no facts: {place} {why}{hint}")
}

/// What the words of a TLS failure contain, and the flags that help.
const CURES: [(&str, &str); 5] = [
    ("no_application_protocol", "--alpn NAME offers others"),
    ("among the trusted ones", TRUST),
    ("the system has no CA certificates", TRUST),
    ("the server's certificate is not for ", "--server-name NAME verifies another name"),
    ("certificate_required", "--cert FILE and --key FILE present one"),
];

const TRUST: &str = "--ca FILE names what to trust, --pin SHA256 the certificate itself, --insecure goes on without";

/// Why a certificate, a key or a list could not be used, on one line.
pub fn credential_error(error: &CredentialError) -> String {
    let flag = match error.credential {
        Credential::Chain => "--cert",
        Credential::Key => "--key",
        Credential::Ocsp => "--ocsp",
        Credential::ClientCa => "--client-ca",
        Credential::Crl => "--crl",
        Credential::ServerCa => "--ca",
        Credential::FaultCa => "--fault-ca",
        _ => return error.to_string(),
    };
    let cure = match (error.cure, error.credential) {
        (Some(Cure::NameKey), Credential::FaultCa) => {
            "; the file of its key comes behind a comma: --fault-ca CERT,KEY"
        }
        (Some(Cure::NameKey), _) => "; --key has to name the file of its key",
        _ => "",
    };
    format!("{flag} {}: {}{cure}", error.origin, error.problem)
}

fn flag_of(setting: Setting) -> Option<&'static str> {
    Some(match setting {
        Setting::BufferSize => "--buffer-size",
        Setting::UnixMode => "--unix-mode",
        Setting::Ciphers => "--tls-ciphers",
        Setting::Groups => "--tls-groups",
        Setting::KeyLog => "--key-log",
        Setting::Identity => "--cert",
        Setting::ProxyProtocol => "--proxy-protocol",
        Setting::ProxyFrom => "--proxy-from",
        Setting::Facts => "--facts",
        Setting::Faults => "--fault",
        Setting::FaultsByRequest => "--fault-by-request",
        Setting::FaultCa => "--fault-ca",
        _ => return None,
    })
}

fn probe_flag_of(setting: ProbeSetting) -> Option<&'static str> {
    Some(match setting {
        ProbeSetting::Target => "URL",
        ProbeSetting::Size => "--size",
        ProbeSetting::Data => "--data",
        ProbeSetting::Text => "--text",
        ProbeSetting::Lines => "--lines",
        ProbeSetting::Family => "-4, -6",
        ProbeSetting::Source => "--source",
        ProbeSetting::Dscp => "--dscp",
        ProbeSetting::ProxyHeader => "--proxy-protocol",
        ProbeSetting::ProxyClient => "--proxy-client",
        ProbeSetting::ProxyTlvs => "--proxy-tlv",
        ProbeSetting::Subprotocols => "--subprotocol",
        ProbeSetting::Headers => "--header",
        ProbeSetting::ServerName => "--server-name",
        ProbeSetting::Sni => "--sni",
        ProbeSetting::Alpn => "--alpn",
        ProbeSetting::Connections => "--connections",
        ProbeSetting::InFlight => "--in-flight",
        ProbeSetting::Count => "--count",
        ProbeSetting::Rate => "--rate",
        _ => return None,
    })
}

/// Why the system refused an address.
fn bind_reason(address: &Address, error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    let is_low = address.ip().is_some_and(|ip| (1..1024).contains(&ip.port()));
    match error.kind() {
        // What is no error number says itself what is wrong.
        _ if error.raw_os_error().is_none() => error.to_string(),
        ErrorKind::AddrInUse => "the address is in use: another program listens there".to_owned(),
        ErrorKind::PermissionDenied if is_low => {
            "permission denied: ports below 1024 usually need privileges (CAP_NET_BIND_SERVICE)"
                .to_owned()
        }
        ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        _ => error.to_string(),
    }
}

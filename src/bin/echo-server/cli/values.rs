//! Parses the values of flags. The errors say what was expected, in one line.

use std::fmt;
use std::net::IpAddr;
use std::num::{IntErrorKind, ParseIntError};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use echo_server::{Credentials, ListenAddress, Source};
use hyper::header::HeaderName;

/// The ADDR of a listener flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ListenerArg {
    /// The flag was given without an address, or with the word `default`.
    Default,
    /// A port on the host of all listeners.
    Port(u16),
    At(ListenAddress),
}

impl FromStr for ListenerArg {
    type Err = String;

    fn from_str(text: &str) -> Result<ListenerArg, String> {
        if text == "default" {
            return Ok(ListenerArg::Default);
        }
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        if let Some(port) = text.parse().ok().filter(|_| is_number) {
            return Ok(ListenerArg::Port(port));
        }
        let address = text.parse::<ListenAddress>();
        address.map(ListenerArg::At).map_err(|error| error.to_string())
    }
}

/// The value of `--host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// As it stands before `:PORT`, an IPv6 address in brackets.
    text: String,
}

impl Host {
    /// The host without brackets.
    pub(super) fn name(&self) -> &str {
        self.text.trim_start_matches('[').trim_end_matches(']')
    }

    /// This host's port.
    pub(super) fn with_port(&self, port: u16) -> ListenAddress {
        format!("{}:{port}", self.text).parse().expect("it was parsed with another port")
    }
}

impl Default for Host {
    fn default() -> Self {
        Host { text: "127.0.0.1".to_owned() }
    }
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Host, String> {
        if let Some((scheme, host)) = text.split_once("://") {
            return Err(format!("it is a URL; leave out {scheme}:// and write {host}"));
        }
        let address = text.split_once('%').map_or(text, |(address, _)| address);
        let is_v6 = address.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6());
        let text = if is_v6 { format!("[{text}]") } else { text.to_owned() };
        if text.is_empty()
            || text.starts_with("unix:")
            || text == "systemd"
            || text.contains([',', '\n'])
        {
            return Err("expected an IP address, a name, or '*' for all interfaces".to_owned());
        }
        match format!("{text}:0").parse::<ListenAddress>() {
            Ok(_) => Ok(Host { text }),
            Err(_) if text.ends_with(':') || text.parse::<ListenAddress>().is_ok() => {
                Err("it has a port; ports go to the flags of the listeners".to_owned())
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The address of an endpoint that has a default port of its own, and that is on loopback unless an
/// address says otherwise: metrics are nobody else's business.
pub(super) fn parse_own_address(text: &str, default: u16) -> Result<ListenAddress, String> {
    let arg =
        text.parse::<ListenerArg>().map_err(|problem| match problem.strip_suffix(":8080?") {
            Some(hint) => format!("{hint}:{default}?"),
            None => problem,
        })?;
    let host = Host::default();
    Ok(match arg {
        ListenerArg::Default => host.with_port(default),
        ListenerArg::Port(port) => host.with_port(port),
        ListenerArg::At(address) => address,
    })
}

/// A time: a number with a unit, several of them, or a number of seconds.
pub(super) fn parse_time(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    let bare = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    // What rounds to 0 would mean no limit.
    let bare = bare.filter(|bare| !bare.is_zero() || seconds == Some(0.0));
    bare.or_else(|| humantime::parse_duration(text).ok())
        .ok_or_else(|| "expected a time, like 10s, 1.5 (seconds), 500ms or 1h 30m".to_owned())
}

/// The name of this host.
pub(super) fn host_name() -> String {
    gethostname::gethostname().to_string_lossy().into_owned()
}

/// Who watches, in metrics and for other hosts.
pub(super) fn parse_source(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("expected a name".to_owned()) } else { Ok(text.to_owned()) }
}

/// A time of a probe.
pub(super) fn parse_time_up_to_a_year(text: &str) -> Result<Duration, String> {
    // As humantime has it: 365.25 days.
    const YEAR: Duration = Duration::from_secs(31_557_600);
    let time = parse_time(text)?;
    if time > YEAR { Err("must be a year at most".to_owned()) } else { Ok(time) }
}

/// Like [`parse_time_up_to_a_year`], but not 0.
pub(super) fn parse_positive_time(text: &str) -> Result<Duration, String> {
    let time = parse_time_up_to_a_year(text)?;
    if time.is_zero() { Err("must be more than 0".to_owned()) } else { Ok(time) }
}

/// The variable of a flag that has no value.
pub(super) fn parse_switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("expected 1 or 0, true or false".to_owned()),
    }
}

/// A whole number.
pub(super) fn parse_number<T>(text: &str) -> Result<T, String>
where
    T: FromStr<Err = ParseIntError>,
{
    text.parse::<T>().map_err(|error| match error.kind() {
        IntErrorKind::Zero => "must be at least 1".to_owned(),
        IntErrorKind::PosOverflow => "the number is too large".to_owned(),
        // A type that has no 0 says so of a 0.
        _ => match "0".parse::<T>() {
            Ok(_) => "expected a whole number, 0 or more".to_owned(),
            Err(_) => "expected a whole number, 1 or more".to_owned(),
        },
    })
}

/// The name of a subprotocol (RFC 6455 section 4.1, RFC 9110 section 5.6.2).
pub(super) fn parse_token(text: &str) -> Result<String, String> {
    // The name of an HTTP field is a token too.
    if HeaderName::from_bytes(text.as_bytes()).is_err() {
        return Err(
            "the name of a subprotocol may have letters, digits and !#$%&'*+-.^_`|~".to_owned()
        );
    }
    Ok(text.to_owned())
}

/// An origin as browsers send it (RFC 6454 section 6.1), or one with `*.` for all subdomains.
pub(super) fn parse_origin(text: &str) -> Result<String, String> {
    const EXPECTED: &str = "expected SCHEME://HOST or SCHEME://HOST:PORT, without a path";
    if text == "null" {
        return Ok(text.to_owned());
    }
    let (scheme, authority) = text.split_once("://").ok_or(EXPECTED)?;
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let domain = host.strip_prefix("*.").unwrap_or(host);
    if domain.contains('*') {
        return Err("a * stands for subdomains only, as in https://*.example.com".to_owned());
    }
    if !domain.is_ascii() {
        return Err(
            "browsers send such a host in ASCII, as in https://xn--bcher-kva.example".to_owned()
        );
    }
    let is_scheme = !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric());
    let is_host = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
    if !is_scheme || domain.is_empty() || domain.ends_with('.') || !domain.chars().all(is_host) {
        return Err(EXPECTED.to_owned());
    }
    match port.map(str::parse::<u16>) {
        Some(Err(_)) => Err(EXPECTED.to_owned()),
        Some(Ok(port)) if matches!((scheme, port), ("https", 443) | ("http", 80)) => {
            Err(format!("browsers leave out the default port: {scheme}://{host}"))
        }
        _ => Ok(text.to_owned()),
    }
}

/// An ALPN protocol's name (RFC 7301 section 3.1).
pub(super) fn parse_alpn(text: &str) -> Result<String, String> {
    if (1..=255).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("the name of an ALPN protocol must have 1 to 255 bytes".to_owned())
    }
}

/// A number of bytes.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    text.parse::<ByteSize>()
        .map(|size| size.0)
        .map_err(|_| "expected a size, like 64MiB".to_owned())
}

/// A buffer size in bytes, from 1 byte to 64 MiB.
pub(super) fn parse_buffer_size(text: &str) -> Result<usize, String> {
    const MAX: u64 = ByteSize::mib(64).0;
    let size = text.parse::<ByteSize>().map_err(|_| "expected a size, like 64KiB".to_owned())?;
    match size.0 {
        1..=MAX => Ok(size.0 as usize),
        _ => Err("must be from 1 byte to 64MiB".to_owned()),
    }
}

/// A certificate and its key, which are in one file or in two.
pub(super) fn parse_pair(text: &str) -> Result<Credentials, String> {
    let (chain, key) = text.split_once(',').unwrap_or((text, text));
    match chain.is_empty() || key.is_empty() || key.contains(',') {
        false => Ok(Credentials::new(Source::file(chain), Source::file(key))),
        true => Err("expected CERT,KEY, like ca.pem,ca.key, or one file with both".to_owned()),
    }
}

/// The permission bits of a file, in octal.
pub(super) fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode @ 0..=0o777) if text.len() <= 4 => Ok(mode),
        _ => Err("expected permission bits in octal, like 0660".to_owned()),
    }
}

/// A text in single quotes, unless it has none of what a shell or a reader would stumble over.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:%+=@,[]".contains(c);
        match self.0 {
            "" => f.write_str("''"),
            text if text.chars().all(is_plain) => f.write_str(text),
            text => write!(f, "'{}'", text.escape_debug()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_bare_number_is_a_number_of_seconds() {
        for (text, milliseconds) in
            [("5", 5000), ("0.2", 200), ("0", 0), ("0s", 0), ("10ms", 10), ("1m 30s", 90_000)]
        {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "-1", "1e-10", "soon", "5 parsecs", "inf", "NaN", "1e300"] {
            assert!(parse_time(text).unwrap_err().contains("expected a time"), "{text}");
        }
    }

    #[test]
    fn a_host_has_no_port() {
        for text in ["*", "0.0.0.0", "::1", "[::1]", "fe80::1%eth0", "localhost"] {
            let address = text.parse::<Host>().expect(text).with_port(7);
            assert!(address.to_string().ends_with(":7"), "{address}");
        }
        for (text, said) in [
            ("localhost:80", "it has a port"),
            ("*:80", "it has a port"),
            ("", "expected an IP address"),
            ("unix:/x", "expected an IP address"),
            ("a/b", "neither an IP address nor a host name"),
        ] {
            let error = text.parse::<Host>().unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn a_star_in_an_origin_stands_for_subdomains() {
        for text in ["null", "https://example.com", "http://h:81", "https://*.example.com:444"] {
            assert_eq!(parse_origin(text), Ok(text.to_owned()));
        }
        for text in [
            "https://*",
            "https://a.*.com",
            "https://*.",
            "*.example.com",
            "https://a/",
            "https://example.com:443",
            "https://a:b",
            "https://a:99999",
            "https://:80",
            "://x",
            "https://exa\"mple",
            "https://example.com.",
            "https://bücher.example",
        ] {
            assert!(parse_origin(text).is_err(), "{text}");
        }
        assert_eq!(parse_origin("http://[::1]:8080"), Ok("http://[::1]:8080".to_owned()));
    }
}

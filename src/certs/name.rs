//! The names that a certificate is for.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use rcgen::SanType;
use rcgen::string::Ia5String;
use tokio_rustls::rustls::pki_types::DnsName;

/// A name by which clients reach a server: an IP address, or a DNS name in lower case, whose first
/// label may be `*` (RFC 9525 section 6.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Dns(Ia5String),
    Ip(IpAddr),
}

/// Why a text is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// It is neither a DNS name nor an IP address.
    #[error("neither a DNS name nor an IP address")]
    Neither,
    /// It has characters outside ASCII, which DNS writes in another form (RFC 5890).
    #[error("not ASCII; the DNS form of an international name begins with xn--")]
    NotAscii,
    /// It is a wildcard that verifiers do not accept.
    #[error("a wildcard must be *.NAME, where NAME has a dot")]
    Wildcard,
}

impl Name {
    /// The names of this machine: localhost, 127.0.0.1, ::1, and the host name if it is a valid
    /// [`Name`].
    pub fn of_this_machine() -> Vec<Name> {
        let host_name = gethostname::gethostname().into_string().ok();
        let texts = ["localhost", "127.0.0.1", "::1"].into_iter().map(str::to_owned);
        texts.chain(host_name).filter_map(|text| text.parse().ok()).collect()
    }

    /// The address, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match &self.0 {
            Kind::Dns(_) => None,
            Kind::Ip(address) => Some(*address),
        }
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Name, NameError> {
        if let Ok(address) = text.parse() {
            return Ok(Name(Kind::Ip(address)));
        }
        if !text.is_ascii() {
            return Err(NameError::NotAscii);
        }
        // The dot at the end of an absolute name does not belong in a certificate (RFC 5280
        // section 4.2.1.6).
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let host = text.strip_prefix("*.").unwrap_or(&text);
        if host.contains('*') || (host.len() < text.len() && !host.contains('.')) {
            return Err(NameError::Wildcard);
        }
        // We accept exactly what the verifier in rustls accepts.
        if host.ends_with('.') || DnsName::try_from(host).is_err() {
            return Err(NameError::Neither);
        }
        Ok(Name(Kind::Dns(text.try_into().map_err(|_| NameError::NotAscii)?)))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Dns(name) => name.fmt(f),
            Kind::Ip(address) => address.fmt(f),
        }
    }
}

/// The subject alternative names (RFC 5280 section 4.2.1.6) for `names`, without duplicates.
pub(crate) fn alternative_names(names: &[Name]) -> Vec<SanType> {
    let mut alternatives = Vec::new();
    for Name(kind) in names {
        let alternative = match kind {
            Kind::Dns(name) => SanType::DnsName(name.clone()),
            Kind::Ip(address) => SanType::IpAddress(*address),
        };
        if !alternatives.contains(&alternative) {
            alternatives.push(alternative);
        }
    }
    alternatives
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_names_are_normalized() {
        for (text, name) in [
            ("localhost", "localhost"),
            ("Echo.Example.", "echo.example"),
            ("*.echo.example", "*.echo.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("my_host", "my_host"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:DB8:0::1", "2001:db8::1"),
        ] {
            assert_eq!(text.parse::<Name>().map(|name| name.to_string()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn invalid_names_are_refused_with_a_reason() {
        let long_label = "a".repeat(64);
        let long_name = format!("{}.test", ["a".repeat(62).as_str(); 4].join("."));
        for (texts, reason) in [
            (
                &["", ".", "a..b", "a.b..", "-a", "a-", "a b", "a:80", "[::1]", "https://a", "a/b"]
                    [..],
                NameError::Neither,
            ),
            (
                &["192.0.2", "192.0.2.256", "fe80::1%eth0", &long_label, &long_name],
                NameError::Neither,
            ),
            (&["bücher.example"], NameError::NotAscii),
            (
                &["*", "*.example", "*.*.example.com", "a.*.example.com", "w*.example.com"],
                NameError::Wildcard,
            ),
        ] {
            for text in texts {
                assert_eq!(text.parse::<Name>(), Err(reason), "{text}");
            }
        }
    }

    #[test]
    fn this_machine_is_localhost_at_least() {
        let names: Vec<_> = Name::of_this_machine().iter().map(Name::to_string).collect();
        assert_eq!(names[..3], ["localhost", "127.0.0.1", "::1"]);
    }
}

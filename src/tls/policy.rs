//! Selects TLS versions, cipher suites and key-exchange groups by their IANA names.

use tokio_rustls::rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{SupportedCipherSuite, SupportedProtocolVersion};

use super::negotiated::suite_name;
use super::provider;
use crate::config::{TlsPolicy, TlsVersion};
use crate::error::{Setting, StartError};

/// The crypto provider, limited to the cipher suites and groups of the policy.
pub(super) fn provider_for(policy: &TlsPolicy) -> Result<CryptoProvider, StartError> {
    let mut provider = provider();
    if !policy.ciphers.is_empty() {
        let name = |suite: &SupportedCipherSuite| suite_name(suite.suite());
        let known = aws_lc_rs::ALL_CIPHER_SUITES;
        provider.cipher_suites = select(Setting::Ciphers, &policy.ciphers, known, name)?;
    }
    if !policy.groups.is_empty() {
        let name = |group: &&dyn SupportedKxGroup| group.name().as_str().unwrap_or("").to_owned();
        let known = aws_lc_rs::ALL_KX_GROUPS;
        provider.kx_groups = select(Setting::Groups, &policy.groups, known, name)?;
    }
    Ok(provider)
}

/// The versions that the policy allows.
pub(super) fn versions(
    policy: &TlsPolicy,
) -> Result<Vec<&'static SupportedProtocolVersion>, StartError> {
    if policy.min > policy.max {
        return Err(StartError::setting(
            Setting::TlsVersions,
            "the lowest version is higher than the highest",
        ));
    }
    let mut versions = Vec::new();
    for (version, supported) in [(TlsVersion::Tls13, &TLS13), (TlsVersion::Tls12, &TLS12)] {
        if (policy.min..=policy.max).contains(&version) {
            versions.push(supported);
        }
    }
    Ok(versions)
}

/// The elements of `known` with the given `names`, in the order of `names`.
fn select<T: Copy>(
    setting: Setting,
    names: &[String],
    known: &[T],
    name: impl Fn(&T) -> String,
) -> Result<Vec<T>, StartError> {
    let find = |wanted: &String| {
        let found = known.iter().find(|one| name(one).eq_ignore_ascii_case(wanted));
        found.copied().ok_or_else(|| {
            let all: Vec<_> = known.iter().map(&name).collect();
            StartError::setting(setting, format!("{wanted} is not one of {}", all.join(", ")))
        })
    };
    names.iter().map(find).collect()
}

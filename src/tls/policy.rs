//! Selects TLS versions, cipher suites and key-exchange groups by their IANA names.

use tokio_rustls::rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ProtocolVersion, SupportedCipherSuite, SupportedProtocolVersion};

use super::negotiated::suite_name;
use super::provider;
use crate::config::{TlsPolicy, TlsVersion};
use crate::error::{Setting, StartError};

/// The crypto provider, limited to the cipher suites and groups of the policy. Some
/// version that is allowed must have one of each.
pub(super) fn provider_for(
    policy: &TlsPolicy,
    versions: &[&SupportedProtocolVersion],
) -> Result<CryptoProvider, StartError> {
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
    let has_suite = |version: &&&SupportedProtocolVersion| {
        provider.cipher_suites.iter().any(|suite| suite.version() == **version)
    };
    let with_suites: Vec<_> = versions.iter().filter(has_suite).collect();
    if with_suites.is_empty() {
        let of_versions = |suite: &&SupportedCipherSuite| versions.contains(&suite.version());
        let usable = aws_lc_rs::ALL_CIPHER_SUITES.iter().filter(of_versions);
        let usable: Vec<_> = usable.map(|suite| suite_name(suite.suite())).collect();
        let problem =
            format!("none is of {}, whose suites are {}", names(versions), usable.join(", "));
        let with = vec![Setting::TlsVersions];
        return Err(StartError::Excluded { setting: Setting::Ciphers, problem, with });
    }
    let has_group = |version: &&&SupportedProtocolVersion| {
        provider.kx_groups.iter().any(|group| group.usable_for_version(version.version))
    };
    if !with_suites.iter().any(has_group) {
        let versions: Vec<_> = with_suites.into_iter().copied().collect();
        let of_versions = |group: &&&dyn SupportedKxGroup| {
            versions.iter().any(|version| group.usable_for_version(version.version))
        };
        let usable = aws_lc_rs::ALL_KX_GROUPS.iter().filter(of_versions);
        let usable: Vec<_> = usable.filter_map(|group| group.name().as_str()).collect();
        let problem =
            format!("none is of {}, whose groups are {}", names(&versions), usable.join(", "));
        let mut with = vec![Setting::TlsVersions];
        with.extend((!policy.ciphers.is_empty()).then_some(Setting::Ciphers));
        return Err(StartError::Excluded { setting: Setting::Groups, problem, with });
    }
    Ok(provider)
}

/// The versions as people write them.
fn names(versions: &[&SupportedProtocolVersion]) -> String {
    let name = |version: &&SupportedProtocolVersion| match version.version {
        ProtocolVersion::TLSv1_2 => "TLS 1.2",
        _ => "TLS 1.3",
    };
    versions.iter().map(name).collect::<Vec<_>>().join(" and ")
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
            let wanted = if wanted.is_empty() { "an empty name" } else { wanted };
            StartError::setting(setting, format!("{wanted} is not one of {}", all.join(", ")))
        })
    };
    names.iter().map(find).collect()
}

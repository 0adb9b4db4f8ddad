//! Checks of a configuration that its types do not make.

use super::LocalAddr;
use crate::config::{Config, Protocol};
use crate::error::{Setting, StartError};

/// Checks what the types of [`Config`] do not rule out.
pub(super) fn validate(config: &Config) -> Result<(), StartError> {
    if config.listeners.is_empty() {
        return Err(StartError::setting(Setting::Listeners, "none is configured"));
    }
    if config.buffer_size == 0 {
        return Err(StartError::setting(Setting::BufferSize, "0 bytes; it must be at least 1"));
    }
    let is_served =
        |protocol: &Protocol| config.listeners.iter().any(|listen| listen.protocol == *protocol);
    for (setting, protocols) in
        [(Setting::ProxyProtocol, &config.proxy.protocols), (Setting::Facts, &config.facts)]
    {
        if let Some(protocol) = protocols.iter().copied().find(|protocol| !is_served(protocol)) {
            return Err(StartError::NotServed { setting, protocol });
        }
    }
    if config.proxy.protocols.contains(&Protocol::Udp) {
        let problem = "udp: there is no PROXY header for datagrams that proxies agree on";
        return Err(StartError::setting(Setting::ProxyProtocol, problem));
    }
    if !config.proxy.from.is_empty() && config.proxy.protocols.is_empty() {
        let problem = "no listener expects PROXY headers";
        return Err(StartError::setting(Setting::ProxyFrom, problem));
    }
    if config.unix_mode.is_some_and(|mode| mode > 0o777) {
        return Err(StartError::setting(
            Setting::UnixMode,
            "it may have only the nine permission bits, at most 0777",
        ));
    }
    Ok(())
}

/// Checks that not everybody on a network can announce any client.
pub(super) fn check_proxies(config: &Config, bound: &[LocalAddr]) -> Result<(), StartError> {
    let is_open = |local: &&LocalAddr| {
        config.proxy.protocols.contains(&local.protocol)
            && local.address.ip().is_some_and(|ip| !ip.ip().to_canonical().is_loopback())
    };
    match bound.iter().find(is_open) {
        Some(LocalAddr { protocol, address }) if config.proxy.from.is_empty() => {
            let problem = format!(
                "{protocol} on {address} can be reached from the network, where a PROXY header \
                 could announce anybody; the networks of the proxies are needed, such as 10.0.0.0/8"
            );
            Err(StartError::setting(Setting::ProxyFrom, problem))
        }
        _ => Ok(()),
    }
}

//! Checks of a configuration that its types do not make.

use std::time::Duration;

use super::LocalAddr;
use crate::config::{Config, Fault, FaultPolicy, Protocol};
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
    check_faults(config, is_served)?;
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

/// Checks that the faults on purpose are those of protocols that are served, and can be.
fn check_faults(config: &Config, is_served: impl Fn(&Protocol) -> bool) -> Result<(), StartError> {
    let FaultPolicy { groups, by_request, ca, .. } = &config.faults;
    let asked = |protocol: &&Protocol| {
        is_served(protocol) && !matches!(protocol, Protocol::Tcp | Protocol::Udp)
    };
    if *by_request && !Protocol::ALL.iter().any(|protocol| asked(&protocol)) {
        let problem = "no listener speaks a protocol that has a place for requests: tls, ws or wss";
        return Err(StartError::setting(Setting::FaultsByRequest, problem));
    }
    for group in groups {
        if let Some(protocol) = group.protocol.filter(|protocol| !is_served(protocol)) {
            return Err(StartError::NotServed { setting: Setting::Faults, protocol });
        }
        let protocols = Protocol::ALL.iter().copied().filter(|protocol| {
            is_served(protocol) && group.protocol.is_none_or(|one| one == *protocol)
        });
        for protocol in protocols {
            for fault in &group.faults {
                if protocol != Protocol::Udp {
                    check_delay(fault, config.timeouts.stall)?;
                }
                if let Some(problem) = fault.misfit(protocol) {
                    let whose = match group.protocol {
                        Some(_) => String::new(),
                        None => {
                            let fits =
                                |one: &&Protocol| is_served(one) && fault.misfit(**one).is_none();
                            let others: Vec<_> = Protocol::ALL
                                .iter()
                                .filter(fits)
                                .map(|one| format!("{one}:{fault}"))
                                .collect();
                            match others.is_empty() {
                                true => String::new(),
                                false => format!("; {} is possible", others.join(" or ")),
                            }
                        }
                    };
                    let problem = format!("{fault} on {protocol}: {problem}{whose}");
                    return Err(StartError::setting(Setting::Faults, problem));
                }
            }
        }
    }
    let wants_ca = |fault: &Fault| matches!(fault, Fault::Certificate(_));
    let has_certificates = groups.iter().any(|group| group.faults.iter().any(wants_ca));
    let is_over_tls = Protocol::ALL.iter().any(|one| is_served(one) && one.is_over_tls());
    if ca.is_some() && !(has_certificates || *by_request && is_over_tls) {
        let problem = "no fault has a certificate that it would sign";
        return Err(StartError::setting(Setting::FaultCa, problem));
    }
    Ok(())
}

/// Checks that a delay is no stall: what is on its way for too long at the end of a connection would
/// be taken for something that the client does not read.
fn check_delay(fault: &Fault, stall: Option<Duration>) -> Result<(), StartError> {
    let (Fault::Delay(time) | Fault::Jitter(time)) = fault else { return Ok(()) };
    match stall {
        Some(stall) if *time >= stall => {
            let stall = humantime::format_duration(stall);
            let problem = format!("{fault}: it has to be less than the stall timeout, {stall}");
            Err(StartError::setting(Setting::Faults, problem))
        }
        _ => Ok(()),
    }
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

//! Faults that a client asks for: by the query of a path, or by the name that it asks a TLS server
//! for.

use std::time::Duration;

use super::Plan;
use crate::config::{
    CertificateFault, Fault, FaultError, FaultGroup, HandshakeFault, Protocol, fault, is_fault,
};

/// The longest query or name that is read.
const LONGEST: usize = 1024;

/// The faults that a query asks for, such as `delay=200ms&ws-close=1011`. `close=1011`, a code
/// between 1000 and 4999, stands for `ws-close=1011`: who writes it next to a WebSocket means that.
/// What is no fault is ignored: paths have other queries, too.
///
/// # Errors
/// A fault that cannot be, or lasts longer than `most`.
pub(crate) fn of_query(
    query: Option<&str>,
    protocol: Protocol,
    most: Duration,
) -> Result<Plan, FaultError> {
    let mut group = FaultGroup::everywhere();
    let query = query.unwrap_or_default();
    if query.len() > LONGEST {
        return Ok(Plan::default());
    }
    for item in query.split('&') {
        let (name, value) = match item.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (item, None),
        };
        if !is_fault(name) {
            continue;
        }
        // The only character of an item that clients escape, such as URLSearchParams.
        let value = value.map(|value| value.replace("%25", "%"));
        let code = value.as_ref().and_then(|value| value.parse().ok());
        let is_code = name == "close" && code.is_some_and(|code| (1000..=4999).contains(&code));
        let name = if is_code { "ws-close" } else { name };
        let fault = fault(name, value.as_deref())?;
        if let Fault::Handshake(_) | Fault::Certificate(_) = fault
            && protocol.is_over_tls()
        {
            let problem = "the TLS handshake is over when a query comes; ask by the server name";
            return Err(FaultError::new(format!("{fault}: {problem}")));
        }
        group.add(fault)?;
    }
    plan(&group.faults, protocol, most)
}

/// The faults that a server name asks for by its first labels: the name of a certificate's or a
/// handshake's fault, as in `expired.localhost` or `alert-internal-error.localhost`, or another
/// fault with `-` in the place of `=`, as in `delay-200ms.localhost`.
///
/// # Errors
/// A fault that cannot be, or lasts longer than `most`.
pub(crate) fn of_server_name(
    name: &str,
    protocol: Protocol,
    most: Duration,
) -> Result<Plan, FaultError> {
    let mut group = FaultGroup::everywhere();
    for label in name.split('.') {
        match of_label(&label.to_ascii_lowercase()) {
            Some(fault) => group.add(fault?)?,
            None => break,
        }
    }
    plan(&group.faults, protocol, most)
}

/// The fault that a label asks for, if it does.
fn of_label(label: &str) -> Option<Result<Fault, FaultError>> {
    if let Some(one) = CertificateFault::ALL.into_iter().find(|fault| fault.name() == label) {
        return Some(Ok(Fault::Certificate(one)));
    }
    let of_handshake = match label {
        "stall" => Some(HandshakeFault::Stall),
        "reset" => Some(HandshakeFault::Reset),
        "garbage" => Some(HandshakeFault::Garbage),
        "plain" => Some(HandshakeFault::Plain),
        _ => None,
    };
    if let Some(one) = of_handshake {
        return Some(Ok(Fault::Handshake(one)));
    }
    if let Some(alert) = label.strip_prefix("alert-") {
        // A host name has no underscores.
        let value = format!("alert:{}", alert.replace('-', "_"));
        return Some(fault("handshake", Some(&value)));
    }
    let names = Fault::NAMES.into_iter().filter(|name| label.starts_with(name));
    let name = names.max_by_key(|name| name.len())?;
    match label[name.len()..].strip_prefix('-') {
        // A label has no dot and no percent sign, so that shares are whole percentages.
        Some(value) => Some(fault(name, Some(&value.replace("pct", "%")))),
        None => (label == name).then(|| fault(name, None)),
    }
}

/// The plan of `faults`, all of which `protocol` can have and none of which lasts longer than
/// `most`.
fn plan(faults: &[Fault], protocol: Protocol, most: Duration) -> Result<Plan, FaultError> {
    for fault in faults {
        if let Some(problem) = fault.misfit(protocol) {
            return Err(FaultError::new(format!("{fault}: {problem}")));
        }
        if fault.time().is_some_and(|time| time > most) {
            let most = humantime::format_duration(most);
            return Err(FaultError::new(format!("{fault}: it may last at most {most}")));
        }
    }
    let mut plan = Plan::default();
    plan.extend(faults);
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(10);

    #[test]
    fn a_query_asks_for_what_the_flag_would() {
        for (query, plan) in [
            ("", ""),
            ("delay=200ms&close=1011", "delay=200ms,ws-close=1011"),
            ("close=1011B", "close=1011"),
            ("close=5s&token=1&x", "close=5s"),
            ("ws-mask&ws-utf8", "ws-mask,ws-utf8"),
            ("upgrade=503&user=a%20b", "upgrade=503"),
            ("corrupt=10%25", "corrupt=10%"),
            ("%00=1&delay", "!delay: a value is missing, as in delay=200ms"),
            ("delay=11s", "!delay=11s: it may last at most 10s"),
            ("stall=1h", "!stall=1h: it may last at most 10s"),
            ("drop=1%", "!drop=1%: a byte stream that lacks bytes is corrupt, and not lossy"),
            ("reset=1&stall=2", "!stall: reset ends the connection already"),
            ("delay=1s&delay=2s", "!delay: it is there twice"),
        ] {
            let asked = of_query(Some(query), Protocol::Ws, MOST);
            let shown = asked.map_or_else(|error| format!("!{error}"), |plan| plan.to_string());
            assert_eq!(shown, plan, "{query}");
        }
        assert_eq!(of_query(None, Protocol::Ws, MOST), Ok(Plan::default()));
    }

    #[test]
    fn a_query_comes_too_late_for_a_fault_of_the_handshake() {
        for query in ["handshake=reset", "certificate=expired"] {
            let asked = of_query(Some(query), Protocol::Wss, MOST);
            let problem = "the TLS handshake is over when a query comes; ask by the server name";
            assert_eq!(asked, Err(FaultError::new(format!("{query}: {problem}"))));
        }
    }

    #[test]
    fn a_server_name_asks_by_its_first_labels() {
        for (name, plan) in [
            ("localhost", ""),
            ("expired.localhost", "certificate=expired"),
            ("Wrong-Name.example.com", "certificate=wrong-name"),
            ("stall.localhost", "handshake=stall"),
            ("stall-0.localhost", "stall=0"),
            ("alert-internal-error.localhost", "handshake=alert:internal_error"),
            ("delay-200ms.untrusted.localhost", "delay=200ms,certificate=untrusted"),
            ("truncate-64kib.localhost", "truncate=64KiB"),
            ("corrupt-1pct.localhost", "corrupt=1%"),
            ("www.expired.localhost", ""),
            ("delayed.localhost", ""),
            (
                "alert-nothing.localhost",
                "!handshake: 'nothing' is no alert of RFC 8446 section 6, like handshake_failure",
            ),
            ("delay-1h.localhost", "!delay=1h: it may last at most 10s"),
            ("ws-mask.localhost", "!ws-mask: it is not WebSocket"),
        ] {
            let asked = of_server_name(name, Protocol::Tls, MOST);
            let shown = asked.map_or_else(|error| format!("!{error}"), |plan| plan.to_string());
            assert_eq!(shown, plan, "{name}");
        }
    }
}

//! The syntax of faults, as flags, queries and server names have it.

use std::num::{NonZeroU64, NonZeroUsize};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use tokio_rustls::rustls::AlertDescription;

use super::{
    CertificateFault, Fault, FaultGroup, HandshakeFault, Probability, Protocol, UpgradeFault, When,
};
use crate::causes;

/// Why faults cannot be read, in words for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FaultError(String);

impl FaultError {
    pub(crate) fn new(problem: String) -> Self {
        FaultError(problem)
    }
}

/// Reads `[PROTOCOL:]ITEM,…`, such as `udp:drop=1%,share=10%`.
impl FromStr for FaultGroup {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let (protocol, items) = match text.split_once(':') {
            // The colon of alert:NAME stands behind a value.
            Some((before, _)) if before.contains(['=', ',']) => (None, text),
            Some((name, items)) => {
                let protocol = Protocol::ALL.iter().find(|protocol| protocol.name() == name);
                let unknown =
                    || FaultError(format!("'{name}' is no protocol: tcp, tls, udp, ws or wss"));
                (Some(*protocol.ok_or_else(unknown)?), items)
            }
            None => (None, text),
        };
        let mut group = FaultGroup { protocol, ..FaultGroup::everywhere() };
        let mut has_share = false;
        for item in items.split(',') {
            let (name, value) = match item.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (item, None),
            };
            if name == "share" {
                if std::mem::replace(&mut has_share, true) {
                    return Err(FaultError("share: it is there twice".to_owned()));
                }
                group.share = needed(name, value).and_then(parsed(name))?;
                continue;
            }
            group.add(fault(name, value)?)?;
        }
        if group.faults.is_empty() {
            return Err(FaultError(format!("share: of what? {}", known())));
        }
        Ok(group)
    }
}

impl FaultGroup {
    /// Adds a fault that the group must not have yet, and that goes with the others.
    pub(crate) fn add(&mut self, fault: Fault) -> Result<(), FaultError> {
        let name = fault.name();
        if self.faults.iter().any(|other| other.name() == name) {
            return Err(FaultError(format!("{name}: it is there twice")));
        }
        if let Some(other) = self.faults.iter().find(|other| other.is_end() && fault.is_end()) {
            let other = other.name();
            return Err(FaultError(format!("{name}: {other} ends the connection already")));
        }
        self.faults.push(fault);
        Ok(())
    }
}

/// Whether a fault has this name.
pub(crate) fn is_fault(name: &str) -> bool {
    Fault::NAMES.contains(&name)
}

/// The fault of this name.
pub(crate) fn fault(name: &str, value: Option<&str>) -> Result<Fault, FaultError> {
    let value = || needed(name, value);
    Ok(match name {
        "delay" => Fault::Delay(value().and_then(|text| time(name, text))?),
        "jitter" => Fault::Jitter(value().and_then(|text| time(name, text))?),
        "rate" => {
            let bytes = value().and_then(|text| size(name, text.trim_end_matches("/s")))?;
            Fault::Rate(NonZeroU64::new(bytes).ok_or_else(|| zero(name))?)
        }
        "slice" => {
            let bytes = value().and_then(|text| size(name, text))?;
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            Fault::Slice(NonZeroUsize::new(bytes).ok_or_else(|| zero(name))?)
        }
        "corrupt" => Fault::Corrupt(value().and_then(parsed(name))?),
        "drop" => Fault::Drop(value().and_then(parsed(name))?),
        "burst" => {
            let share: Probability = value().and_then(parsed(name))?;
            if share == Probability::ALWAYS {
                return Err(FaultError("burst: to lose all is drop=100%".to_owned()));
            }
            Fault::Burst(share)
        }
        "duplicate" => Fault::Duplicate(value().and_then(parsed(name))?),
        "reorder" => Fault::Reorder(value().and_then(parsed(name))?),
        "reset" => Fault::Reset(value().and_then(|text| when(name, text))?),
        "close" => Fault::Close(value().and_then(|text| when(name, text))?),
        "truncate" => Fault::Truncate(value().and_then(|text| when(name, text))?),
        "stall" => Fault::Stall(value().and_then(|text| when(name, text))?),
        "handshake" => Fault::Handshake(value().and_then(handshake)?),
        "certificate" => Fault::Certificate(value().and_then(certificate)?),
        "upgrade" => Fault::Upgrade(value().and_then(upgrade)?),
        "ws-close" => {
            let code = value()?.parse();
            let expected = "ws-close: expected a code, like 1011, at most 65535";
            Fault::WsClose(code.map_err(|_| FaultError(expected.to_owned()))?)
        }
        "ws-mask" | "ws-utf8" => {
            if value().is_ok() {
                return Err(FaultError(format!("{name}: it takes no value")));
            }
            if name == "ws-mask" { Fault::WsMask } else { Fault::WsUtf8 }
        }
        "" => return Err(FaultError(format!("an empty item; {}", known()))),
        _ => return Err(FaultError(format!("'{name}' is no fault; {}", known()))),
    })
}

fn known() -> String {
    format!("there are {} and share", Fault::NAMES.join(", "))
}

fn needed<'a>(name: &str, value: Option<&'a str>) -> Result<&'a str, FaultError> {
    value
        .filter(|value| !value.is_empty())
        .ok_or_else(|| FaultError(format!("{name}: a value is missing, as in {}", example(name))))
}

/// How an item with a value looks.
fn example(name: &str) -> &'static str {
    match name {
        "delay" => "delay=200ms",
        "jitter" => "jitter=50ms",
        "rate" => "rate=64KiB",
        "slice" => "slice=100",
        "corrupt" => "corrupt=0.1%",
        "drop" => "drop=1%",
        "burst" => "burst=1%",
        "duplicate" => "duplicate=1%",
        "reorder" => "reorder=1%",
        "reset" => "reset=64KiB",
        "close" => "close=5s",
        "truncate" => "truncate=1000",
        "stall" => "stall=0",
        "handshake" => "handshake=stall",
        "certificate" => "certificate=expired",
        "upgrade" => "upgrade=503",
        "ws-close" => "ws-close=1011",
        _ => "share=10%",
    }
}

fn zero(name: &str) -> FaultError {
    FaultError(format!("{name}: it must be at least 1 byte"))
}

fn parsed<T: FromStr<Err = String>>(name: &str) -> impl FnOnce(&str) -> Result<T, FaultError> {
    move |text| text.parse().map_err(|problem| FaultError(format!("{name}: {problem}")))
}

/// A time has a unit: without one, a number is a size.
fn time(name: &str, text: &str) -> Result<Duration, FaultError> {
    unit_time(text).ok_or_else(|| {
        FaultError(format!("{name}: expected a time with a unit, like 200ms, 1.5s or 2min"))
    })
}

/// A number with one unit of time. A bare `m` could be minutes or megabytes, and is neither.
fn unit_time(text: &str) -> Option<Duration> {
    let digits =
        text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    // Rounded to what is left of it in nanoseconds: 0.3 ms are 300 µs.
    let nanoseconds = (number * seconds * 1e9).round();
    (nanoseconds < 1e18).then(|| Duration::from_nanos(nanoseconds as u64))
}

fn size(name: &str, text: &str) -> Result<u64, FaultError> {
    unit_size(text)
        .ok_or_else(|| FaultError(format!("{name}: expected a size, like 1000, 64KiB or 1MB")))
}

fn unit_size(text: &str) -> Option<u64> {
    let is_size = |byte: u8| byte.is_ascii_digit() || b".kKmMgGtTiIbB".contains(&byte);
    let has_digit = text.as_bytes().first().is_some_and(u8::is_ascii_digit);
    if !has_digit
        || !text.bytes().all(is_size)
        || matches!(text.as_bytes().last(), Some(b'm' | b'M'))
    {
        return None;
    }
    text.parse::<ByteSize>().ok().map(|size| size.0)
}

fn when(name: &str, text: &str) -> Result<When, FaultError> {
    let bytes = unit_size(text).map(When::Bytes);
    bytes.or_else(|| unit_time(text).map(When::After)).ok_or_else(|| {
        FaultError(format!(
            "{name}: expected 0, a size like 64KiB, or a time with a unit, like 5s or 2min"
        ))
    })
}

fn handshake(text: &str) -> Result<HandshakeFault, FaultError> {
    Ok(match text {
        "stall" => HandshakeFault::Stall,
        "reset" => HandshakeFault::Reset,
        "garbage" => HandshakeFault::Garbage,
        "plain" => HandshakeFault::Plain,
        _ => {
            let expected = "handshake: expected stall, reset, garbage, plain or alert:NAME";
            let name = text.strip_prefix("alert:");
            let name = name.ok_or_else(|| FaultError(expected.to_owned()))?;
            let unknown = || {
                FaultError(format!(
                    "handshake: '{name}' is no alert of RFC 8446 section 6, like handshake_failure"
                ))
            };
            HandshakeFault::Alert(alert_code(name).ok_or_else(unknown)?)
        }
    })
}

fn certificate(text: &str) -> Result<CertificateFault, FaultError> {
    CertificateFault::ALL.into_iter().find(|fault| fault.name() == text).ok_or_else(|| {
        let names: Vec<_> = CertificateFault::ALL.iter().map(|fault| fault.name()).collect();
        FaultError(format!("certificate: expected one of {}", names.join(", ")))
    })
}

fn upgrade(text: &str) -> Result<UpgradeFault, FaultError> {
    if text == "stall" {
        return Ok(UpgradeFault::Stall);
    }
    let status = text.parse::<u16>().ok().filter(|status| (200..600).contains(status));
    status.map(UpgradeFault::Status).ok_or_else(|| {
        FaultError("upgrade: expected stall, or a status from 200 to 599, like 503".to_owned())
    })
}

/// The name of an alert, or its number if it has none.
pub(super) fn alert_name(code: u8) -> String {
    causes::alert_spelled(AlertDescription::from(code))
}

/// The code of an alert, by its name or number. close_notify is no error, and refuses nothing.
fn alert_code(name: &str) -> Option<u8> {
    if let Ok(code) = name.parse() {
        return Some(code).filter(|code| *code != 0);
    }
    (1..=u8::MAX).find(|code| alert_name(*code) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_read_again() {
        for text in [
            "delay=200ms",
            "udp:delay=1ms 500us,jitter=3s,rate=64KiB,corrupt=0.1%",
            "tcp:slice=100,reset=1MiB",
            "udp:drop=1%,burst=2%,duplicate=3%,reorder=4%,share=50%",
            "wss:handshake=stall,certificate=not-yet,upgrade=stall,ws-close=65535,ws-mask,ws-utf8",
            "tls:handshake=alert:handshake_failure,certificate=wrong-name,truncate=0",
            "handshake=alert:200,stall=5s",
            "upgrade=503,close=1",
        ] {
            // A duration is shown in several units, and read in one.
            let read = text.replace("1ms 500us", "1.5ms").parse::<FaultGroup>().expect(text);
            assert_eq!(read.to_string(), text);
        }
        for name in Fault::NAMES {
            let with_value = example(name);
            let text = if with_value.starts_with(name) { with_value } else { name };
            let read = text.parse::<FaultGroup>().expect(text);
            assert_eq!((read.faults[0].name(), read.to_string().as_str()), (name, text));
        }
    }

    #[test]
    fn times_have_a_unit_and_sizes_may_have_one() {
        let when = |text: &str| when("reset", text).ok();
        let bytes = |bytes| Some(When::Bytes(bytes));
        let millis = |millis| Some(When::After(Duration::from_millis(millis)));
        for (text, read) in [
            ("0", bytes(0)),
            ("1000", bytes(1000)),
            ("64KiB", bytes(65_536)),
            ("64kib", bytes(65_536)),
            ("1k", bytes(1000)),
            ("1.5MiB", bytes(1_572_864)),
            ("5s", millis(5000)),
            ("1.5s", millis(1500)),
            ("2min", millis(120_000)),
            ("0.5ms", Some(When::After(Duration::from_micros(500)))),
            ("1h", millis(3_600_000)),
            ("5m", None),
            ("5M", None),
            ("-1", None),
            ("+1", None),
            ("1e3", None),
            ("", None),
            ("KiB", None),
            (".s", None),
            ("1 s", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(when(text), read, "{text}");
        }
    }

    #[test]
    fn an_alert_has_its_name_of_the_rfc_or_a_number() {
        for (name, code) in [("handshake_failure", 40), ("unrecognized_name", 112), ("200", 200)] {
            assert_eq!(alert_code(name), Some(code), "{name}");
        }
        for name in ["", "close_notify", "0", "HandshakeFailure", "300"] {
            assert_eq!(alert_code(name), None, "{name}");
        }
    }
}

//! The faults of one connection.

use std::fmt;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use crate::config::{CertificateFault, Fault, HandshakeFault, Probability, UpgradeFault, When};

/// The faults of one connection, at most one of each kind, and at most one end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan(Vec<Fault>);

/// How a connection ends on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Reset,
    Close,
    Truncate,
    Stall,
}

/// Has a method that returns the value of one kind of fault.
macro_rules! values {
    ($($name:ident: $kind:ident -> $type:ty;)*) => {
        $(pub(crate) fn $name(&self) -> Option<$type> {
            self.0.iter().find_map(|fault| match fault {
                Fault::$kind(value) => Some(*value),
                _ => None,
            })
        })*
    };
}

impl Plan {
    values! {
        delay: Delay -> Duration;
        jitter: Jitter -> Duration;
        rate: Rate -> NonZeroU64;
        slice: Slice -> NonZeroUsize;
        corrupt: Corrupt -> Probability;
        drop: Drop -> Probability;
        burst: Burst -> Probability;
        duplicate: Duplicate -> Probability;
        reorder: Reorder -> Probability;
        handshake: Handshake -> HandshakeFault;
        certificate: Certificate -> CertificateFault;
        upgrade: Upgrade -> UpgradeFault;
        ws_close: WsClose -> u16;
    }

    /// How the connection ends, and when.
    pub(crate) fn ending(&self) -> Option<(Ending, When)> {
        let written = self.0.iter().find_map(|fault| match fault {
            Fault::Reset(when) => Some((Ending::Reset, *when)),
            Fault::Close(when) => Some((Ending::Close, *when)),
            Fault::Truncate(when) => Some((Ending::Truncate, *when)),
            Fault::Stall(when) => Some((Ending::Stall, *when)),
            _ => None,
        });
        // A code says how to close, and at once unless the plan says when.
        written.or_else(|| self.ws_close().map(|_| (Ending::Close, When::Bytes(0))))
    }

    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.0.contains(&fault)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn faults(&self) -> &[Fault] {
        &self.0
    }

    /// Adds faults, in the place of those that they exclude.
    pub(crate) fn extend(&mut self, faults: &[Fault]) {
        for fault in faults {
            let excludes =
                |other: &Fault| other.name() == fault.name() || (other.is_end() && fault.is_end());
            self.0.retain(|other| !excludes(other));
            self.0.push(*fault);
        }
    }

    /// Without what `keeps` does not keep.
    pub(crate) fn only(mut self, keeps: impl Fn(&Fault) -> bool) -> Self {
        self.0.retain(keeps);
        self
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.0.iter().enumerate() {
            write!(f, "{}{fault}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Ending {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Ending::Reset => "reset",
            Ending::Close => "close",
            Ending::Truncate => "truncate",
            Ending::Stall => "stall",
        }
    }

    /// What has happened.
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Ending::Reset => "reset",
            Ending::Close => "closed",
            Ending::Truncate => "truncated",
            Ending::Stall => "stalled",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_fault_replaces_those_that_it_excludes() {
        let mut plan = Plan::default();
        let (early, late) = (When::Bytes(1), When::Bytes(2));
        plan.extend(&[Fault::Delay(Duration::ZERO), Fault::Reset(early), Fault::WsMask]);
        plan.extend(&[Fault::Stall(late), Fault::Delay(Duration::from_secs(1))]);
        assert_eq!(plan.to_string(), "ws-mask,stall=2,delay=1s");
        assert_eq!(plan.ending(), Some((Ending::Stall, late)));
    }

    #[test]
    fn a_close_code_alone_closes_at_once() {
        let mut plan = Plan::default();
        plan.extend(&[Fault::WsClose(1011)]);
        assert_eq!(plan.ending(), Some((Ending::Close, When::Bytes(0))));
        plan.extend(&[Fault::Close(When::Bytes(5))]);
        assert_eq!(plan.ending(), Some((Ending::Close, When::Bytes(5))));
    }
}

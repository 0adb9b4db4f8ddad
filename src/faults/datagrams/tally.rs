//! What was done to the datagrams of an address, for its closing line.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// What was done to a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Done {
    Delay,
    Jitter,
    /// It was lost, because too much was on its way.
    Rate,
    Corrupt,
    Drop,
    Burst,
    Duplicate,
    Reorder,
}

impl Done {
    const ALL: [Done; 8] = [
        Done::Delay,
        Done::Jitter,
        Done::Rate,
        Done::Corrupt,
        Done::Drop,
        Done::Burst,
        Done::Duplicate,
        Done::Reorder,
    ];

    /// The name of the fault.
    pub(super) fn name(self) -> &'static str {
        match self {
            Done::Delay => "delay",
            Done::Jitter => "jitter",
            Done::Rate => "rate",
            Done::Corrupt => "corrupt",
            Done::Drop => "drop",
            Done::Burst => "burst",
            Done::Duplicate => "duplicate",
            Done::Reorder => "reorder",
        }
    }
}

/// How often each was done, by all sockets of an address.
#[derive(Debug, Default)]
pub(crate) struct Tally([AtomicU64; Done::ALL.len()]);

impl Tally {
    pub(super) fn count(&self, done: Done) {
        self.0[done as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Shows what was done, like `drop 103, duplicate 99`.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (done, times) in Done::ALL.iter().zip(&self.0) {
            let times = times.load(Ordering::Relaxed);
            if times > 0 {
                write!(f, "{separator}{} {times}", done.name())?;
                separator = ", ";
            }
        }
        if separator.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Fault;

    #[test]
    fn a_tally_shows_what_was_done() {
        let tally = Tally::default();
        assert_eq!(tally.to_string(), "none");
        for done in [Done::Duplicate, Done::Drop, Done::Drop] {
            tally.count(done);
        }
        assert_eq!(tally.to_string(), "drop 2, duplicate 1");
    }

    #[test]
    fn all_that_is_done_has_a_place_and_the_name_of_its_fault() {
        for (place, done) in Done::ALL.into_iter().enumerate() {
            assert_eq!(done as usize, place);
            assert!(Fault::NAMES.contains(&done.name()), "{done:?}");
        }
    }
}

//! Happy Eyeballs (RFC 8305): the addresses of a name are tried in turn, the next one as soon as the
//! one before has failed or has been silent for a moment, and the first that connects is taken.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{Future, StreamExt};
use tokio::time::sleep;

use crate::causes::of_connect;
use crate::error::BoxError;
use crate::probe::{FailureKind, ProbeError, Target};

/// How long an address may be silent before the next one is tried, too: the Connection Attempt
/// Delay of RFC 8305 section 8.
const DELAY: Duration = Duration::from_millis(250);

/// What became of the addresses that were tried, in the order in which that was known.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    failed: Vec<(SocketAddr, io::Error)>,
    /// Those that have not answered yet.
    silent: Vec<SocketAddr>,
}

impl Attempts {
    /// Tries `addresses`, and returns the first success. `None` if all have failed. The caller may
    /// drop the future at a deadline, and sees in `self` what was known by then.
    pub(super) async fn first<T, F>(
        &mut self,
        addresses: &[SocketAddr],
        attempt: impl Fn(SocketAddr) -> F,
    ) -> Option<T>
    where
        F: Future<Output = io::Result<T>>,
    {
        let mut running = FuturesUnordered::new();
        let mut waiting = addresses.iter().copied();
        loop {
            if let Some(address) = waiting.next() {
                self.silent.push(address);
                let connecting = attempt(address);
                running.push(async move { (address, connecting.await) });
            }
            let more = waiting.len() > 0;
            tokio::select! {
                ended = running.next() => match ended {
                    None => return None,
                    Some((_, Ok(connected))) => return Some(connected),
                    Some((address, Err(error))) => {
                        self.silent.retain(|other| *other != address);
                        self.failed.push((address, error));
                    }
                },
                () = sleep(DELAY), if more => {}
            }
        }
    }

    /// The first address that has not answered.
    pub(super) fn first_silent(&self) -> Option<SocketAddr> {
        self.silent.first().copied()
    }

    /// All of it as one error, of the kind of the last failure.
    pub(super) fn into_error(self, target: &Target) -> ProbeError {
        let last = self.failed.last();
        let kind = last.map_or(FailureKind::Timeout, |(_, error)| FailureKind::of_io(error));
        let problem = self.to_string();
        ProbeError::connect_caused_by(target, kind, problem, self.into_source())
    }

    /// As the source of an error: the only failure itself, or all of them.
    fn into_source(mut self) -> BoxError {
        match (self.failed.pop(), self.failed.is_empty() && self.silent.is_empty()) {
            (Some((_, only)), true) => only.into(),
            (last, _) => {
                self.failed.extend(last);
                self.into()
            }
        }
    }
}

impl std::error::Error for Attempts {}

/// Each address with its own cause; a single one without its address, which the target shows.
impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names_each = self.failed.len() + self.silent.len() > 1;
        let failed = self.failed.iter().map(|(address, error)| (address, of_connect(error)));
        let silent = self.silent.iter().map(|address| (address, "no answer".to_owned()));
        for (n, (address, cause)) in failed.chain(silent).enumerate() {
            f.write_str(if n > 0 { "; " } else { "" })?;
            match names_each {
                true => write!(f, "{address}: {cause}")?,
                false => f.write_str(&cause)?,
            }
        }
        Ok(())
    }
}

/// The addresses with the families taking turns (RFC 8305 section 4). The resolver has sorted them
/// by RFC 6724, and its first stays the first.
pub(super) fn interleave(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut unique: Vec<SocketAddr> = Vec::new();
    for address in addresses {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    let Some(is_v6_first) = unique.first().map(SocketAddr::is_ipv6) else { return unique };
    let (first, second): (Vec<_>, Vec<_>) =
        unique.into_iter().partition(|address| address.is_ipv6() == is_v6_first);
    let turns = first.len().max(second.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    (0..turns).flat_map(|_| [first.next(), second.next()].into_iter().flatten()).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::pending;
    use std::io::ErrorKind;

    use tokio::time::Instant;

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns() {
        let found =
            addresses(&["[::1]:1", "[::2]:1", "[::1]:1", "10.0.0.1:1", "10.0.0.2:1", "[::3]:1"]);
        let turns = addresses(&["[::1]:1", "10.0.0.1:1", "[::2]:1", "10.0.0.2:1", "[::3]:1"]);
        assert_eq!(interleave(found), turns);
        assert_eq!(interleave(addresses(&["10.0.0.1:1", "[::1]:1"]))[0].to_string(), "10.0.0.1:1");
    }

    /// The third octet says what an address does: 0 is silent, 1 refuses, 2 connects at once.
    async fn try_all(texts: &[&str]) -> (Option<SocketAddr>, Attempts, Vec<u128>) {
        let began = Instant::now();
        let tried = RefCell::new(Vec::new());
        let mut attempts = Attempts::default();
        let attempt = |address: SocketAddr| {
            tried.borrow_mut().push(began.elapsed().as_millis());
            async move {
                match address.to_string().as_bytes()[5] {
                    b'0' => pending().await,
                    b'1' => Err(ErrorKind::ConnectionRefused.into()),
                    _ => Ok(address),
                }
            }
        };
        let addresses = addresses(texts);
        let racing = attempts.first(&addresses, attempt);
        let racing = tokio::time::timeout(Duration::from_secs(9), racing).await;
        let connected = racing.unwrap_or_default();
        (connected, attempts, tried.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_delays_the_next_one_by_a_quarter_of_a_second() {
        let (connected, _, tried) = try_all(&["10.0.0.1:1", "10.0.2.1:1", "10.0.2.2:1"]).await;
        assert_eq!(connected.unwrap().to_string(), "10.0.2.1:1");
        assert_eq!(tried, [0, 250]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_has_the_next_address_tried_at_once() {
        let (connected, _, tried) = try_all(&["10.0.1.1:1", "10.0.1.2:1", "10.0.2.1:1"]).await;
        assert_eq!(connected.unwrap().to_string(), "10.0.2.1:1");
        assert_eq!(tried, [0, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn every_failed_address_is_told_with_its_own_cause() {
        let (connected, attempts, _) = try_all(&["10.0.0.1:1", "10.0.1.1:1"]).await;
        assert_eq!(connected, None);
        assert_eq!(
            attempts.to_string(),
            "10.0.1.1:1: connection refused: nothing listens there; 10.0.0.1:1: no answer"
        );
        let (_, attempts, _) = try_all(&["10.0.1.1:1"]).await;
        assert_eq!(attempts.to_string(), "connection refused: nothing listens there");
    }
}

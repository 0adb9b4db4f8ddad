//! The largest datagram that comes back whole.

use std::time::Duration;

use super::{DialOptions, Messages, PingOptions, ProbeError, Target, ping};
use crate::config::Protocol;

/// Tries for each size: a datagram can get lost for other reasons than its size.
const TRIES: u64 = 3;

/// Finds the largest payload in bytes that comes back from `target` when it is sent with the DF bit
/// set, by halving. `None` if not even an empty datagram comes back. `tell` is called with each size
/// that was tried, and whether it came back.
///
/// # Errors
/// `target` is not UDP, or there is no socket; the DF bit can be set on Linux only.
pub async fn find_mtu(
    target: &Target,
    dial_options: &DialOptions,
    timeout: Duration,
    mut tell: impl FnMut(usize, bool),
) -> Result<Option<usize>, ProbeError> {
    if target.protocol != Protocol::Udp {
        return Err(ProbeError::Usage(format!("{target}: only UDP has a largest datagram")));
    }
    let dial_options = DialOptions { dont_fragment: true, ..dial_options.clone() };
    let mut comes_back = async |size| {
        let options = PingOptions { count: Some(1), interval: Duration::ZERO, timeout };
        for _ in 0..TRIES {
            let never = std::future::pending();
            let ping = ping(target, &dial_options, Messages::of(size), &options, never, |_| {});
            if ping.await?.received > 0 {
                tell(size, true);
                return Ok::<_, ProbeError>(true);
            }
        }
        tell(size, false);
        Ok(false)
    };
    if !comes_back(0).await? {
        return Ok(None);
    }
    // `low` comes back, `high` does not.
    let (mut low, mut high) = (0, super::MAX_PAYLOAD + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if comes_back(middle).await? { low = middle } else { high = middle }
    }
    Ok(Some(low))
}

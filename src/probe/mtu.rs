//! The largest datagram that comes back whole.

use std::time::Duration;

use tokio::sync::oneshot;

use super::{DialOptions, Event, Messages, PingOptions, ProbeError, Target, ping};
use crate::config::Protocol;

/// What every path carries.
const SMALL: usize = 64;

/// Tries for each size: a datagram can get lost for other reasons than its size.
const TRIES: u64 = 3;

/// Finds the largest payload in bytes that comes back from `target` when it is sent with the DF bit
/// set, by halving. `None` if not even a small datagram comes back. `tell` is called with each size
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
            // Our own system says at once if it is too large to be sent whole.
            let (refused, refusal) = oneshot::channel::<()>();
            let mut refused = Some(refused);
            let hear = |event: &Event| {
                if matches!(event, Event::Failed { .. }) {
                    refused.take();
                }
            };
            let stop = async { drop(refusal.await) };
            let ping = ping(target, &dial_options, Messages::of(size), &options, stop, hear);
            let summary = ping.await?;
            if summary.received > 0 {
                tell(size, true);
                return Ok::<_, ProbeError>(true);
            }
            if !summary.errors.is_empty() {
                break;
            }
        }
        tell(size, false);
        Ok(false)
    };
    // Not an empty datagram: there are services that answer all but that.
    if !comes_back(SMALL).await? {
        return Ok(None);
    }
    // `low` comes back, `high` does not.
    let (mut low, mut high) = (SMALL, super::MAX_PAYLOAD + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if comes_back(middle).await? { low = middle } else { high = middle }
    }
    Ok(Some(low))
}

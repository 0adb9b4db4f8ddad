//! Datagrams that misbehave on purpose. A flow is what comes from one address and port of a peer.
//!
//! What happens to a datagram is decided in this order:
//!
//! 1. The server's rules come first, as without faults. What they refuse is not counted here.
//! 2. It is lost by `drop`, or else by `burst`.
//! 3. One bit of it is flipped by `corrupt`. An empty one has none.
//! 4. It is doubled by `duplicate`, if the rate limits let through one more reply. All that follows
//!    happens to both.
//! 5. It waits its turn by `rate`, and is lost if it would wait for more than [`BACKLOG`], or if too
//!    much from the same socket waits for whatever reason. Both count as `rate`.
//! 6. It is held by `reorder` until an echo of the same flow has got so far. It leaves right behind
//!    that, or after [`HOLD`]. Of several in a row, each leaves behind the one that follows it.
//! 7. It leaves `delay` later, and up to `jitter` later than that. It may be overtaken.
//!
//! Nothing of it depends on time but 5, the limits of 4, and the [`HOLD`]: all else follows from the
//! seed, the number of the flow and the number of the datagram in it. Flows are numbered by their
//! first datagrams, over all sockets of the server.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `fate` | what is decided of each datagram of a flow |
//! | `flows` | the flows of a socket |
//! | `tally` | what was done, for the socket's closing line |
//! | `transit` | replies on their way |

mod fate;
mod flows;
mod tally;
#[cfg(test)]
mod tests;
mod transit;

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::{Alarm, Faults};
use crate::config::Protocol;
use crate::echo::{Reply, Way};
use fate::{Fate, Lost};
use flows::{Flow, Flows};
use transit::Transit;

use tally::Done;
pub(crate) use tally::Tally;

/// How long a datagram waits for another that overtakes it.
const HOLD: Duration = Duration::from_millis(100);

/// The longest that a datagram waits for those before it to leave at their rate.
const BACKLOG: Duration = Duration::from_secs(1);

/// The way of replies that misbehave, from one socket.
#[derive(Debug)]
pub(crate) struct Detour {
    faults: Arc<Faults>,
    tally: Arc<Tally>,
    flows: Flows,
    transit: Transit,
    alarm: Alarm,
}

impl Detour {
    /// The way from a socket that `worker` serves. What is done is added to `tally`.
    pub(crate) fn new(faults: Arc<Faults>, worker: u16, tally: Arc<Tally>) -> Self {
        let alarm = faults.alarm(worker);
        let (flows, transit) = (Flows::default(), Transit::default());
        Detour { faults, tally, flows, transit, alarm }
    }
}

impl Way for Detour {
    const IS_DIRECT: bool = false;

    fn take(&mut self, mut reply: Reply, may_double: impl FnOnce() -> bool) {
        let Detour { faults, tally, flows, transit, .. } = self;
        let count = |done: Done| {
            tally.count(done);
            faults.count(Protocol::Udp, done.name(), 1);
        };
        let flow = flows.of(reply.peer, || {
            let number = faults.next_flow();
            let plan = faults.plan_of(Protocol::Udp, number);
            Flow::new(&plan, faults.chance(Protocol::Udp, number))
        });
        let Fate { lost, flipped, is_doubled, is_overtaken, jitter } = flow.fates.next();
        match lost {
            Some(Lost::Drop) => return count(Done::Drop),
            Some(Lost::Burst) => return count(Done::Burst),
            None => {}
        }
        if let Some(place) = flipped
            && !reply.bytes.is_empty()
        {
            let bit = place % (reply.bytes.len() as u64 * 8);
            reply.bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
            count(Done::Corrupt);
        }
        let is_doubled = is_doubled && may_double();
        let late = flow.delay.saturating_add(flow.jitter.mul_f64(jitter));
        let now = Instant::now();
        let (mut entered, mut last) = (0, None);
        for reply in std::iter::repeat_n(reply, if is_doubled { 2 } else { 1 }) {
            match flow.enter(transit, now, late, is_overtaken, reply) {
                None => count(Done::Rate),
                Some(key) => {
                    entered += 1;
                    last = Some(key);
                }
            }
        }
        let Some(last) = last else { return };
        if !is_overtaken {
            flow.overtake(transit, last);
        }
        for (is_done, done) in [
            (!flow.delay.is_zero(), Done::Delay),
            (!flow.jitter.is_zero(), Done::Jitter),
            (entered > 1, Done::Duplicate),
            (is_overtaken, Done::Reorder),
        ] {
            if is_done {
                count(done);
            }
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, hurry: bool) -> Poll<Option<&Reply>> {
        while let Some(due) = self.transit.next_due() {
            if !hurry {
                ready!(self.alarm.poll_until(cx, due));
                if self.transit.is_moved_on() {
                    continue;
                }
            }
            return Poll::Ready(self.transit.next());
        }
        self.alarm.clear();
        Poll::Ready(None)
    }

    fn pop(&mut self) {
        self.transit.pop();
    }
}

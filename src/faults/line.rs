//! Bytes on their way to the client: each leaves when its time has come, and no faster than the
//! rate.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::{Alarm, Chance, Plan};
use crate::echo::yield_turn;

/// What may be on its way on one connection: with a delay of 200 ms, 20 MB a second.
const MOST: usize = 4 * 1024 * 1024;

/// What may be on its way if nothing is late: one write.
const UNDELAYED: usize = 64 * 1024;

/// What a chunk costs besides its bytes.
const OVERHEAD: usize = 64;

/// What the rate lets through in this time leaves at once. With a shorter time, a slow rate would
/// have a system call for each byte.
const BEAT: Duration = Duration::from_millis(4);

/// How far the rate may lag behind and then catch up: a task is woken late when the thread is busy.
const SLACK: Duration = Duration::from_millis(20);

/// A poll writes so often at most, so that small slices do not keep others from their turn.
const WRITES_PER_POLL: usize = 32;

/// Bytes with their times, in order.
///
/// It is a time-stamped line and not a pause before each write, so that a delay takes no bandwidth.
#[derive(Debug)]
pub(super) struct Line {
    delay: Duration,
    jitter: Duration,
    /// Bytes a second.
    rate: Option<u64>,
    slice: usize,
    chance: Chance,
    chunks: VecDeque<Chunk>,
    /// The bytes in `chunks`, and what those cost.
    queued: usize,
    /// How many bytes have entered.
    entered: u64,
    /// When the last byte that has entered may leave.
    last: Option<Instant>,
    /// When the rate lets the next byte leave.
    free: Option<Instant>,
    capacity: usize,
    /// The stream has something that was written and not flushed.
    unflushed: bool,
}

#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    sent: usize,
    due: Instant,
}

impl Line {
    pub(super) fn new(plan: &Plan, chance: Chance) -> Self {
        let delay = plan.delay().unwrap_or_default();
        let jitter = plan.jitter().unwrap_or_default();
        let rate = plan.rate().map(u64::from);
        let late = delay.saturating_add(jitter);
        // With a rate, what is on the way leaves within about a second behind its delay, so that the
        // end of a connection is not far behind its last byte.
        let in_time = |rate: u64| {
            let seconds = late.saturating_add(Duration::from_secs(1)).as_secs_f64();
            (rate as f64 * seconds) as usize
        };
        let most = if late.is_zero() { UNDELAYED } else { MOST };
        Line {
            delay,
            jitter,
            rate,
            slice: plan.slice().map_or(usize::MAX, usize::from),
            chance: chance.about("jitter"),
            chunks: VecDeque::new(),
            queued: 0,
            entered: 0,
            last: None,
            free: None,
            capacity: rate.map_or(most, |rate| in_time(rate).clamp(1, MOST)),
            unflushed: false,
        }
    }

    /// How many bytes may enter now.
    pub(super) fn room(&self) -> usize {
        self.capacity.saturating_sub(self.queued)
    }

    /// The bytes that are on their way.
    pub(super) fn backlog(&self) -> u64 {
        self.chunks.iter().map(|chunk| (chunk.bytes.len() - chunk.sent) as u64).sum()
    }

    /// The memory that they take.
    pub(super) fn held(&self) -> usize {
        self.queued
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// When what enters now may leave. Nothing overtakes what has entered before.
    pub(super) fn due(&mut self) -> Instant {
        // The place of a byte decides about its jitter, and not how the stream is cut into writes.
        let jitter = self.jitter.mul_f64(self.chance.unit(self.entered));
        let due = Instant::now() + self.delay + jitter;
        let due = self.last.map_or(due, |last| last.max(due));
        self.last = Some(due);
        due
    }

    /// Takes `bytes`.
    pub(super) fn push(&mut self, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let due = self.due();
        self.entered += bytes.len() as u64;
        self.queued += bytes.len() + OVERHEAD;
        self.chunks.push_back(Chunk { bytes, sent: 0, due });
    }

    /// Drops all that is on its way, and returns how many bytes that was.
    pub(super) fn clear(&mut self) -> u64 {
        let backlog = self.backlog();
        (self.chunks, self.queued) = (VecDeque::new(), 0);
        backlog
    }

    /// Sends what may leave; all of it, and as fast as it can, if there is a `hurry`. Ready when
    /// nothing is on its way.
    pub(super) fn poll_send<S>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
        alarm: &mut Alarm,
        hurry: bool,
    ) -> Poll<io::Result<()>>
    where
        S: AsyncWrite + Unpin,
    {
        let sent = self.poll_write(cx, io, alarm, hurry);
        if self.unflushed && !matches!(sent, Poll::Ready(Err(_))) {
            // A stream such as that of HTTP/2 sends when it is flushed.
            match Pin::new(io).poll_flush(cx)? {
                Poll::Ready(()) => self.unflushed = false,
                Poll::Pending => return Poll::Pending,
            }
        }
        sent
    }

    fn poll_write<S>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
        alarm: &mut Alarm,
        hurry: bool,
    ) -> Poll<io::Result<()>>
    where
        S: AsyncWrite + Unpin,
    {
        for _ in 0..WRITES_PER_POLL {
            let Some(chunk) = self.chunks.front_mut() else { return Poll::Ready(Ok(())) };
            let bytes = &chunk.bytes[chunk.sent..];
            let mut length = bytes.len().min(self.slice);
            if !hurry {
                let at = self.free.map_or(chunk.due, |free| free.max(chunk.due));
                std::task::ready!(alarm.poll_until(cx, at));
                if let Some(rate) = self.rate {
                    length = length.min(in_beat(rate));
                }
            }
            let sent = match Pin::new(&mut *io).poll_write(cx, &bytes[..length]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(sent)) => sent,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            };
            self.unflushed = true;
            if let Some(rate) = self.rate {
                let now = Instant::now();
                let from = now.checked_sub(SLACK).unwrap_or(now).max(chunk.due);
                let from = self.free.map_or(from, |free| free.max(from));
                self.free = Some(from + Duration::from_secs_f64(sent as f64 / rate as f64));
            }
            chunk.sent += sent;
            if chunk.sent == chunk.bytes.len() {
                self.queued -= chunk.bytes.len() + OVERHEAD;
                self.chunks.pop_front();
            }
        }
        if self.chunks.is_empty() {
            return Poll::Ready(Ok(()));
        }
        yield_turn(cx);
        Poll::Pending
    }
}

/// How many bytes leave at once.
fn in_beat(rate: u64) -> usize {
    let bytes = u128::from(rate) * BEAT.as_micros() / 1_000_000;
    usize::try_from(bytes).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests;

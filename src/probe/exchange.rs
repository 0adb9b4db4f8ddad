//! Sends messages on one connection and judges the replies. Ping and load share it.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::link::{Inbox, Incoming, Link, Outbox};
use super::payload::Payloads;
use super::tracker::{Reply, Tracker, Verdict};

/// The most bytes of a stream that are read or written at once.
const CHUNK: usize = 64 * 1024;

/// How long a connection may take to close. Results do not depend on how it closes.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection, and the messages that were sent on it.
pub(super) struct Exchange {
    link: Link,
    pub(super) tracker: Tracker,
    outbox: Outbox,
    inbox: Inbox,
    /// The beginning of a stream's message whose end has not been received yet.
    partial: Vec<u8>,
    unflushed: bool,
    /// An error of [`hand_over`](Exchange::hand_over), which [`poll`](Exchange::poll) returns.
    failed: Option<io::Error>,
}

/// Why a connection ended. Over UDP it can go on after an error.
#[derive(Debug)]
pub(super) enum Ended {
    /// The other side closed it, in this way.
    Closed(String),
    Failed(io::Error),
}

impl Exchange {
    pub(super) fn new(link: Link, payloads: Payloads) -> Self {
        Exchange {
            link,
            tracker: Tracker::new(payloads),
            outbox: Outbox::default(),
            inbox: Inbox::default(),
            partial: Vec::new(),
            unflushed: false,
            failed: None,
        }
    }

    /// Whether [`send`](Exchange::send) can be called: the last messages were written.
    pub(super) fn can_send(&self) -> bool {
        !self.outbox.is_full()
    }

    /// How many bytes of the last messages the transport has taken.
    pub(super) fn taken(&self) -> usize {
        self.outbox.taken()
    }

    /// How many messages [`send`](Exchange::send) takes at once: a stream carries several in one
    /// write.
    pub(super) fn max_messages(&self) -> usize {
        match self.link {
            Link::Bytes(_) => (CHUNK / self.tracker.payloads().size().max(1)).max(1),
            Link::Datagrams(_) | Link::Messages(_) => 1,
        }
    }

    /// Makes the next messages, one for each of `times`, at which they count as sent.
    /// [`poll`](Exchange::poll) writes them.
    pub(super) fn send(&mut self, times: impl IntoIterator<Item = Instant>) {
        let tracker = &mut self.tracker;
        self.outbox.refill(|bytes| {
            for at in times {
                tracker.payloads().append(tracker.next_seq(), bytes);
                tracker.sent(at);
            }
        });
        self.unflushed = true;
    }

    /// Passes a WebSocket message to tungstenite, which buffers messages until they are flushed.
    /// Returns whether another can be sent before [`poll`](Exchange::poll) flushes them together.
    pub(super) fn hand_over(&mut self, cx: &mut Context<'_>) -> bool {
        if !matches!(self.link, Link::Messages(_)) || self.failed.is_some() {
            return false;
        }
        if !self.outbox.is_full() {
            return true;
        }
        let is_text = self.tracker.payloads().is_text();
        match self.link.poll_send(cx, &mut self.outbox, is_text) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(error)) => {
                self.failed = Some(error);
                false
            }
            Poll::Pending => false,
        }
    }

    /// Writes and reads until both would block, and calls `judged` with each reply. `Pending` until
    /// the task is woken or there is more to send.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut judged: impl FnMut(Reply),
    ) -> Poll<Ended> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Ended::Failed(error));
        }
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Ended::Failed(error));
        }
        let size = self.tracker.payloads().size();
        let capacity = size.saturating_mul(self.tracker.waiting()).clamp(4096, CHUNK);
        loop {
            let Poll::Ready(incoming) = self.link.poll_receive(cx, &mut self.inbox, capacity)
            else {
                return Poll::Pending;
            };
            let is_text = self.tracker.payloads().is_text();
            match incoming {
                Err(error) => return Poll::Ready(Ended::Failed(error)),
                Ok(Incoming::End(why)) => return Poll::Ready(Ended::Closed(why)),
                Ok(Incoming::Message(bytes, kind)) => {
                    let mut reply = self.tracker.received(bytes, Instant::now());
                    if kind != is_text {
                        reply.verdict = Verdict::Corrupted;
                    }
                    judged(reply);
                }
                Ok(Incoming::Bytes(bytes)) => {
                    split(&mut self.partial, bytes, &mut self.tracker, &mut judged);
                }
            }
        }
    }

    /// Closes the connection as its protocol requires.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.poll_close(cx)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outbox.is_full() {
            let is_text = self.tracker.payloads().is_text();
            std::task::ready!(self.link.poll_send(cx, &mut self.outbox, is_text))?;
        }
        if self.unflushed {
            std::task::ready!(self.link.poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// Splits a stream into messages. Only those that `bytes` cuts off are copied.
fn split(
    partial: &mut Vec<u8>,
    mut bytes: &[u8],
    tracker: &mut Tracker,
    judged: &mut impl FnMut(Reply),
) {
    let size = tracker.payloads().size();
    let now = Instant::now();
    if !partial.is_empty() {
        let missing = (size - partial.len()).min(bytes.len());
        partial.extend_from_slice(&bytes[..missing]);
        bytes = &bytes[missing..];
        if partial.len() < size {
            return;
        }
        judged(tracker.received(partial, now));
        partial.clear();
    }
    let mut messages = bytes.chunks_exact(size);
    for message in &mut messages {
        judged(tracker.received(message, now));
    }
    partial.extend_from_slice(messages.remainder());
}

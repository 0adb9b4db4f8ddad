//! Messages out, replies in, judged: what ping and load have in common on one connection.

use std::io;
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::link::{Inbox, Incoming, Link, Outbox};
use super::payload::Payloads;
use super::tracker::{Reply, Tracker, Verdict};

/// The most of a stream that is taken at once.
const PIECE: usize = 64 * 1024;

/// A connection, and the messages on it.
pub(super) struct Exchange {
    link: Link,
    pub(super) tracker: Tracker,
    outbox: Outbox,
    inbox: Inbox,
    /// A stream's message of which only the beginning has come.
    partial: Vec<u8>,
    unflushed: bool,
    /// What went wrong on handing over, and has not been told yet.
    failed: Option<io::Error>,
}

/// Why an exchange is over, or was disturbed: over UDP it can go on after an error.
#[derive(Debug)]
pub(super) enum Ended {
    /// The other side closed.
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

    /// Whether messages can be taken.
    pub(super) fn can_send(&self) -> bool {
        !self.outbox.is_full()
    }

    /// Bytes of the messages under way that the transport has taken.
    pub(super) fn taken(&self) -> usize {
        self.outbox.taken()
    }

    /// How many messages can be taken at once: on a stream they can follow each other in one write.
    pub(super) fn gathers(&self) -> usize {
        match self.link {
            Link::Bytes(_) => (PIECE / self.tracker.payloads().size().max(1)).max(1),
            Link::Datagrams(_) | Link::Messages(_) => 1,
        }
    }

    /// Takes the next messages, one for each of the times at which they count as sent.
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

    /// Hands the messages that were taken over to a transport that gathers them itself until it is
    /// flushed, and says whether more can be taken before [`poll`](Exchange::poll) flushes all.
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

    /// Sends and receives as far as that goes now, and calls `judged` with each reply.
    ///
    /// Pending when nothing more can be done until the task is woken or there is more to send.
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
        let capacity = size.saturating_mul(self.tracker.waiting()).clamp(4096, PIECE);
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
                Ok(Incoming::Piece(bytes)) => {
                    cut(&mut self.partial, bytes, &mut self.tracker, &mut judged);
                }
            }
        }
    }

    /// Says goodbye.
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

/// Cuts a stream into messages. Those that lie whole in `bytes` are judged where they are.
fn cut(
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

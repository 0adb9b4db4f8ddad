//! Sends messages on one connection and judges the replies. Ping and load share it.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::datagrams::BATCH;
use super::ending::{Echoed, Ended, Ending, Reason, after_failed_write};
use super::link::{Bytes, Inbox, Incoming, Link, Outbox};
use super::payload::Payloads;
use super::stranger::{Oddity, Transcript};
use super::tracker::{Reply, Tracker, Verdict};
use super::{Summary, Target};

/// The most bytes of a stream that are read or written at once.
const CHUNK: usize = 64 * 1024;

/// WebSocket messages smaller than this are written when they are flushed, and not before.
const SMALL: usize = 1024;

/// How many messages a connection tracks. A connection that is so far behind its schedule sends no
/// more until messages have come back or expired; what it does not send counts as unsent.
const MAX_TRACKED: usize = 500_000;

/// How long a connection may take to close. Results do not depend on how it closes.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a connection is read on which a write has failed. What the other side said before it went
/// is there already.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long a silent service has to answer a newline.
const NEWLINE_TIMEOUT: Duration = Duration::from_millis(500);

/// A connection, and the messages that were sent on it.
pub(super) struct Exchange {
    link: Link,
    pub(super) tracker: Tracker,
    outbox: Outbox,
    /// The beginning of a stream's message whose end has not been received yet.
    partial: Vec<u8>,
    unflushed: bool,
    /// How many of the last messages count as sent when they are flushed.
    unstamped: usize,
    sent_at: Instant,
    /// Datagrams that the system has refused to send, and that [`withdrawn`](Exchange::withdrawn) has
    /// not returned yet.
    withdrawn: u64,
    /// Whether the other side has sent anything.
    has_heard: bool,
    /// Whether the connection has ended, and whether the other side wanted that.
    has_ended: bool,
    is_closed: bool,
    /// The beginning of what was received, if somebody wants to know.
    transcript: Option<Transcript>,
    /// An error of [`hand_over`](Exchange::hand_over), which [`poll_write`](Exchange::poll_write)
    /// returns.
    failed: Option<io::Error>,
    /// The write that has failed, and when. The connection is then read to its end, for what the
    /// other side said before it went.
    failed_write: Option<(Instant, io::Error)>,
    /// How much has come back, but for the partial message.
    echoed: Echoed,
}

impl Exchange {
    pub(super) fn new(link: Link, payloads: Payloads) -> Self {
        Exchange {
            link,
            tracker: Tracker::new(payloads),
            outbox: Outbox::default(),
            partial: Vec::new(),
            unflushed: false,
            unstamped: 0,
            sent_at: Instant::now(),
            withdrawn: 0,
            has_heard: false,
            has_ended: false,
            is_closed: false,
            transcript: None,
            failed: None,
            failed_write: None,
            echoed: Echoed::default(),
        }
    }

    /// Whether [`send`](Exchange::send) can be called: the last messages were written.
    pub(super) fn can_send(&self) -> bool {
        !self.outbox.is_full() && self.failed_write.is_none()
    }

    /// How long to read on after a failed write. `None`: no write has failed.
    pub(super) fn reads_until(&self) -> Option<Instant> {
        self.failed_write.as_ref().map(|(failed_at, _)| *failed_at + LAST_WORDS)
    }

    /// Ends the connection if a write has failed.
    pub(super) fn give_up(&mut self) -> Option<Ended> {
        let (_, error) = self.failed_write.take()?;
        self.has_ended = true;
        Some(Ended::Failed(error))
    }

    /// Why the connection has ended, and how much had come back.
    pub(super) fn ending(&self, ended: &Ended) -> Ending {
        Ending::new(ended, matches!(self.link, Link::Messages(_)), self.echoed())
    }

    /// How much has come back.
    pub(super) fn echoed(&self) -> Echoed {
        let bytes = self.echoed.bytes + self.partial.len() as u64;
        Echoed { bytes, is_partial: self.tracker.is_due(&self.partial), ..self.echoed }
    }

    /// What there is to say if the other side has gone silent: the connection is open, what was sent
    /// last has not come back in time, and a transport that loses nothing carries it.
    pub(super) fn stall(&self) -> Option<Ending> {
        let is_stalled = !matches!(self.link, Link::Datagrams(_))
            && !self.has_ended
            && self.failed_write.is_none()
            && self.tracker.ends_in_silence();
        is_stalled.then(|| Ending::of_one(Reason::stalled(), self.echoed()))
    }

    /// Whether a load can make another message.
    pub(super) fn has_room(&self) -> bool {
        self.can_send() && self.tracker.tracked() < MAX_TRACKED
    }

    /// How many bytes of the last messages the transport has taken.
    pub(super) fn taken(&self) -> usize {
        self.outbox.taken()
    }

    /// How many messages [`send`](Exchange::send) takes at once: a stream carries several in one
    /// write, and several datagrams are sent with one call.
    pub(super) fn max_messages(&self) -> usize {
        match self.link {
            Link::Bytes(_) => (CHUNK / self.tracker.payloads().size().max(1)).max(1),
            Link::Datagrams(_) => BATCH,
            Link::Messages(_) => 1,
        }
    }

    /// Makes the next `count` messages. They count as sent when [`poll_write`](Exchange::poll_write)
    /// writes them, which has to be called at once.
    pub(super) fn send(&mut self, count: usize) {
        let first = self.tracker.next_seq();
        let payloads = self.tracker.payloads();
        self.outbox.refill(count, |bytes| {
            (first..).take(count).for_each(|seq| payloads.append(seq, bytes));
        });
        // Behind the work of making them, and just before the write.
        self.sent_at = Instant::now();
        for _ in 0..count {
            self.tracker.sent(self.sent_at);
        }
        if matches!(self.link, Link::Messages(_)) && self.tracker.payloads().size() < SMALL {
            self.unstamped += count;
        }
        self.unflushed = true;
    }

    /// Makes messages that the connection did not take when they were due: they count as sent then.
    pub(super) fn send_held_up(&mut self, due: impl ExactSizeIterator<Item = Instant>) {
        let tracker = &mut self.tracker;
        self.outbox.refill(due.len(), |bytes| {
            for at in due {
                tracker.payloads().append(tracker.next_seq(), bytes);
                tracker.sent(at);
            }
        });
        self.unstamped = 0;
        self.unflushed = true;
    }

    /// How many datagrams that [`send`](Exchange::send) made the system has refused since the last
    /// call. They were not sent, and nothing waits for them.
    pub(super) fn withdrawn(&mut self) -> u64 {
        std::mem::take(&mut self.withdrawn)
    }

    /// Whether anything has come from the other side, right or wrong.
    pub(super) fn has_heard(&self) -> bool {
        self.has_heard
    }

    /// When the last messages were written that [`send`](Exchange::send) made.
    pub(super) fn sent_at(&self) -> Instant {
        self.sent_at
    }

    /// Passes a WebSocket message to tungstenite, which buffers messages until they are flushed.
    /// Returns whether another can be sent before [`poll_write`](Exchange::poll_write) flushes them
    /// together.
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

    /// Whether there is something that [`poll_write`](Exchange::poll_write) has not written yet.
    pub(super) fn is_unwritten(&self) -> bool {
        self.outbox.is_full() || self.unflushed || self.failed.is_some()
    }

    /// Writes the messages that were made. An error of a datagram is returned; one of a connection is
    /// kept, and [`poll_read`](Exchange::poll_read) reads what the other side has said before.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_connection = !matches!(self.link, Link::Datagrams(_));
        match std::task::ready!(self.poll_transmit(cx)) {
            Err(error) if is_connection => {
                self.failed_write = Some((Instant::now(), error));
                self.unflushed = false;
                self.unstamped = 0;
                Poll::Ready(Ok(()))
            }
            written => Poll::Ready(written),
        }
    }

    fn poll_transmit(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        if self.outbox.is_full() {
            let is_text = self.tracker.payloads().is_text();
            let sent = std::task::ready!(self.link.poll_send(cx, &mut self.outbox, is_text));
            if sent.is_err() && matches!(self.link, Link::Datagrams(_)) {
                let behind = self.outbox.unsent_datagrams() as u64;
                self.tracker.withdraw(self.tracker.next_seq() - 1 - behind);
                self.withdrawn += 1;
            }
            sent?;
        }
        if self.unflushed {
            // Flushing is what writes small WebSocket messages, all at once.
            if self.unstamped > 0 {
                self.sent_at = Instant::now();
                self.tracker.sent_last(std::mem::take(&mut self.unstamped), self.sent_at);
            }
            std::task::ready!(self.link.poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once, and calls `judged` with each reply. Returns when the replies were there.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        inbox: &mut Inbox,
        mut judged: impl FnMut(Reply),
    ) -> Poll<Result<Instant, Ended>> {
        let size = self.tracker.payloads().size();
        let capacity = size.saturating_mul(self.tracker.waiting()).clamp(4096, CHUNK);
        let many = self.tracker.waiting() > 1;
        let incoming = std::task::ready!(self.link.poll_receive(cx, inbox, capacity, many));
        // Before the work of judging them, and just behind the read.
        let now = Instant::now();
        if self.reads_until().is_some_and(|at| at <= now)
            && let Some(ended) = self.give_up()
        {
            return Poll::Ready(Err(ended));
        }
        self.has_heard |=
            matches!(incoming, Ok(ref incoming) if !matches!(incoming, Incoming::End(_)));
        let is_text = self.tracker.payloads().is_text();
        Poll::Ready(match incoming {
            Err(error) => Err(self.ended(Ended::Failed(error))),
            Ok(Incoming::End(farewell)) => Err(self.ended(Ended::Closed(farewell))),
            Ok(Incoming::Message(bytes, kind)) => {
                if let Some(transcript) = &mut self.transcript {
                    transcript.push(bytes);
                }
                let mut reply = self.tracker.received(bytes, now);
                if kind != is_text {
                    reply.verdict = Verdict::Corrupted;
                    reply.difference = None;
                }
                self.echoed.messages += 1;
                self.echoed.bytes += bytes.len() as u64;
                judged(reply);
                Ok(now)
            }
            Ok(Incoming::Datagrams(received)) => {
                if let Some(transcript) = &mut self.transcript {
                    received.iter().for_each(|bytes| transcript.push(bytes));
                }
                received.iter().for_each(|bytes| judged(self.tracker.received(bytes, now)));
                Ok(now)
            }
            Ok(Incoming::Bytes(bytes)) => {
                if let Some(transcript) = &mut self.transcript {
                    transcript.push(bytes);
                }
                split(&mut self.partial, bytes, now, &mut self.tracker, &mut |reply| {
                    self.echoed.messages += 1;
                    self.echoed.bytes += size as u64;
                    judged(reply);
                });
                Ok(now)
            }
        })
    }

    /// The end of a connection, as it was read.
    fn ended(&mut self, read: Ended) -> Ended {
        let ended = match self.failed_write.take() {
            Some((_, write)) => after_failed_write(write, read),
            None => read,
        };
        self.has_ended = true;
        self.is_closed |= ended.is_by_peer();
        ended
    }

    /// Writes and reads until both would block, and calls `judged` with each reply. `Pending` until
    /// the task is woken or there is more to send.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        inbox: &mut Inbox,
        mut judged: impl FnMut(Reply),
    ) -> Poll<Ended> {
        if let Poll::Ready(Err(error)) = self.poll_write(cx) {
            return Poll::Ready(Ended::Failed(error));
        }
        loop {
            if let Err(ended) = std::task::ready!(self.poll_read(cx, inbox, &mut judged)) {
                return Poll::Ready(ended);
            }
        }
    }

    /// Keeps the beginning of what is received, for [`oddity`](Exchange::oddity).
    /// `header` is the PROXY header that was sent.
    pub(super) fn keep_transcript(&mut self, header: Vec<u8>) {
        let is_stream = matches!(self.link, Link::Bytes(_));
        let transcript = Transcript::new(self.tracker.payloads().size(), is_stream);
        self.transcript = Some(transcript.behind(header));
    }

    /// What the service does that an echo service does not, after the messages of `summary`.
    pub(super) fn oddity(&self, target: &Target, summary: &Summary) -> Option<Oddity> {
        let transcript = self.transcript.as_ref()?;
        let is_right = summary.corrupted() == 0 && self.partial.is_empty();
        if !is_right
            && let Some(oddity) = transcript.oddity(target, self.tracker.payloads(), summary.sent())
        {
            return Some(oddity);
        }
        let replies = summary.received();
        (self.is_closed && replies > 0).then_some(Oddity::ClosesAfter { replies })
    }

    /// Whether a stream that has been silent up to now answers a newline.
    pub(super) async fn answers_newline(&mut self, inbox: &mut Inbox, timeout: Duration) -> bool {
        let is_stream = matches!(self.link, Link::Bytes(_));
        if !is_stream || self.has_heard || self.has_ended || self.outbox.is_full() {
            return false;
        }
        let asking = async {
            if let Link::Bytes(Bytes { stream, .. }) = &mut self.link {
                stream.write_all(b"\n").await.ok()?;
                stream.flush().await.ok()?;
            }
            let answer = poll_fn(|cx| {
                self.link
                    .poll_receive(cx, inbox, CHUNK, false)
                    .map_ok(|incoming| matches!(incoming, Incoming::Bytes(_)))
            });
            answer.await.ok()
        };
        let answered = tokio::time::timeout(timeout.min(NEWLINE_TIMEOUT), asking).await;
        answered.ok().flatten().unwrap_or(false)
    }

    /// Closes the connection as its protocol requires.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.poll_close(cx)
    }
}

/// Splits a stream into messages. Only those that `bytes` cuts off are copied.
fn split(
    partial: &mut Vec<u8>,
    mut bytes: &[u8],
    now: Instant,
    tracker: &mut Tracker,
    judged: &mut impl FnMut(Reply),
) {
    let size = tracker.payloads().size();
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

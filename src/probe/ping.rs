//! Ping: one message an interval on one connection; each reply is reported as it arrives.

use std::future::{Pending, pending, poll_fn};
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::connect::connect;
use super::exchange::{CLOSE_TIMEOUT, Ended, Exchange};
use super::link::Inbox;
use super::pace::{Pace, later};
use super::payload::Payloads;
use super::{Event, Probe, ProbeError, Reply, Summary, ignore};
use crate::causes::{self, Peer};
use crate::config::Protocol;

/// How long to listen after the last reply, so that duplicates of it are counted.
const DUPLICATES: Duration = Duration::from_millis(20);

/// How often a ping sends, and how long it waits.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PingOptions {
    /// How many messages to send. `None`: until the ping is stopped. `None`.
    pub count: Option<u64>,
    /// The time from one message to the next. Zero sends the next one as soon as the connection
    /// takes it. 1 second.
    pub interval: Duration,
    /// How long to wait for a reply: one that comes later is late, one that does not come is lost.
    /// A connection that takes no bytes for this long has failed. 2 seconds.
    pub timeout: Duration,
}

impl Default for PingOptions {
    fn default() -> Self {
        PingOptions::new()
    }
}

impl PingOptions {
    /// The defaults.
    pub fn new() -> Self {
        PingOptions {
            count: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
        }
    }

    /// Sets [`PingOptions::count`].
    #[must_use]
    pub fn count(mut self, messages: u64) -> Self {
        self.count = Some(messages);
        self
    }

    /// Sets [`PingOptions::interval`].
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets [`PingOptions::timeout`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// A ping that [`run`](Ping::run) starts. [`Probe::ping`] makes one.
///
/// The type parameters are those of [`until`](Ping::until) and [`on_event`](Ping::on_event).
#[must_use = "a ping does nothing until it is run"]
pub struct Ping<Stop = Pending<()>, OnEvent = fn(Event)> {
    probe: Probe,
    options: PingOptions,
    stop: Stop,
    on_event: OnEvent,
}

impl Ping {
    pub(super) fn new(probe: Probe, options: PingOptions) -> Self {
        Ping { probe, options, stop: pending(), on_event: ignore }
    }
}

impl<Stop, OnEvent> Ping<Stop, OnEvent> {
    /// Ends the ping when `stop` completes. Messages that are in flight then count as
    /// [unanswered](Summary::unanswered), not as lost.
    pub fn until<F: Future<Output = ()>>(self, stop: F) -> Ping<F, OnEvent> {
        let Ping { probe, options, on_event, .. } = self;
        Ping { probe, options, stop, on_event }
    }

    /// Calls `on_event` with each event as it happens: [`Event::Connected`], [`Event::Reply`],
    /// [`Event::Overdue`] and [`Event::Failed`]. The ping waits meanwhile.
    pub fn on_event<F: FnMut(Event)>(self, on_event: F) -> Ping<Stop, F> {
        let Ping { probe, options, stop, .. } = self;
        Ping { probe, options, stop, on_event }
    }
}

impl<Stop: Future<Output = ()>, OnEvent: FnMut(Event)> Ping<Stop, OnEvent> {
    /// Connects, sends the messages, and returns the counts and times. If it is stopped before the
    /// connection is established, they are all zero.
    ///
    /// # Errors
    /// An option is wrong, a certificate or key cannot be used, or there is no connection. What
    /// goes wrong after that is in the summary.
    pub async fn run(self) -> Result<Summary, ProbeError> {
        let Ping { probe, options, stop, mut on_event } = self;
        let target = probe.target();
        probe.messages.check(target)?;
        let payloads = Payloads::new(probe.messages.size, probe.messages.is_text);
        let mut stop = pin!(stop);
        let (link, connected) = tokio::select! {
            connected = connect(target, &probe.connect) => connected?,
            () = &mut stop => return Ok(Summary::new(probe.messages.size)),
        };
        on_event(Event::Connected(Box::new(connected)));
        let mut exchange = Exchange::new(link, payloads);
        let mut inbox = Inbox::default();
        let mut summary = Summary::new(probe.messages.size);
        let timer = || Pace::new().map_err(|error| ProbeError::no_timer(target, error));
        let (mut send_timer, mut wait_timer) = (timer()?, timer()?);
        let start = Instant::now();
        let mut next_send = start;
        // When the last reply came.
        let mut done_at = None;
        // Since when the connection has taken no bytes, and how many it had taken by then.
        let mut stalled: Option<(Instant, usize)> = None;
        // An error of sending, which is dealt with behind what has been received until then.
        let mut failed = None;
        let was_stopped = loop {
            let is_enough = options.count.is_some_and(|count| summary.sent >= count);
            let is_done = is_enough && exchange.tracker.waiting() == 0;
            let wake = if is_done {
                Some(*done_at.get_or_insert_with(Instant::now) + DUPLICATES)
            } else if let Some(sent_at) = exchange.tracker.oldest() {
                Some(later(sent_at, options.timeout))
            } else {
                stalled.map(|(since, _)| later(since, options.timeout))
            };
            let next = poll_fn(|cx| {
                // The timers come first: a service that never stops sending must not delay them.
                if stop.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Next::Stopped);
                }
                if wake.is_some_and(|at| wait_timer.poll_until(cx, at).is_ready()) {
                    return Poll::Ready(Next::Waited);
                }
                let mut send_is_due = |exchange: &Exchange, cx: &mut _| {
                    !is_enough
                        && exchange.can_send()
                        && send_timer.poll_until(cx, next_send).is_ready()
                };
                if send_is_due(&exchange, cx) {
                    return Poll::Ready(Next::send(&mut exchange, cx));
                }
                let mut replies = Vec::new();
                if let Some(error) = failed.take() {
                    return Poll::Ready(Next::Ended(replies, Ended::Failed(error)));
                }
                if let Poll::Ready(ended) =
                    exchange.poll(cx, &mut inbox, |reply| replies.push(reply))
                {
                    return Poll::Ready(Next::Ended(replies, ended));
                }
                if !replies.is_empty() {
                    return Poll::Ready(Next::Received(replies));
                }
                // The connection may have taken the last message just now.
                if send_is_due(&exchange, cx) {
                    return Poll::Ready(Next::send(&mut exchange, cx));
                }
                Poll::Pending
            })
            .await;
            let mut count = |replies: Vec<_>| {
                for reply in replies {
                    summary.count(&reply);
                    if let Some(rtt) = reply.rtt {
                        summary.record_in_order(rtt);
                    }
                    on_event(Event::Reply(reply));
                }
            };
            match next {
                Next::Received(replies) => count(replies),
                Next::Sent(written) => {
                    summary.sent += 1;
                    stalled = None;
                    // After a delay of more than an interval, the missed messages are not made up.
                    next_send = later(next_send, options.interval).max(exchange.sent_at());
                    failed = written.err();
                }
                Next::Waited if is_done => break false,
                Next::Waited => {
                    let now = Instant::now();
                    let before = now.checked_sub(options.timeout).unwrap_or(now);
                    for seq in exchange.tracker.expire(before) {
                        on_event(Event::Overdue { seq });
                    }
                    let taken = exchange.taken();
                    if exchange.can_send() {
                        stalled = None;
                    } else if stalled.is_some_and(|(_, before)| before == taken) {
                        let reason = "the other side takes nothing".to_owned();
                        on_event(Event::Failed { reason: reason.clone() });
                        summary.fail(reason);
                        break false;
                    } else {
                        stalled = Some((now, taken));
                    }
                }
                Next::Stopped => break true,
                Next::Ended(replies, ended) => {
                    count(replies);
                    let (reason, is_final) = match ended {
                        Ended::Closed(how) => (format!("closed by the other side: {how}"), true),
                        // A TLS 1.3 server refuses the client's certificate after the client's
                        // handshake has ended.
                        Ended::Failed(error)
                            if summary.received == 0 && causes::tls_error(&error).is_some() =>
                        {
                            return Err(ProbeError::tls(target, error, None));
                        }
                        // One datagram may be refused, and the next one not.
                        Ended::Failed(error) => (
                            causes::of_io(&error, Peer::Server),
                            target.protocol() != Protocol::Udp,
                        ),
                    };
                    on_event(Event::Failed { reason: reason.clone() });
                    summary.fail(reason);
                    if is_final {
                        break false;
                    }
                }
            }
        };
        summary.elapsed = done_at.unwrap_or_else(Instant::now) - start;
        let waiting = exchange.tracker.waiting() as u64;
        summary.lost = exchange.tracker.lost();
        *(if was_stopped { &mut summary.unanswered } else { &mut summary.lost }) += waiting;
        // How the connection closes is not measured, so an error is ignored.
        let close = poll_fn(|cx| exchange.poll_close(cx));
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, close).await;
        Ok(summary)
    }
}

/// What a ping has to deal with next.
enum Next {
    Received(Vec<Reply>),
    /// A message was sent, or that failed.
    Sent(io::Result<()>),
    /// The time to wait for a reply, for room to send or for duplicates is over.
    Waited,
    Stopped,
    Ended(Vec<Reply>, Ended),
}

impl Next {
    /// Sends a message at once, so that nothing stands between its time stamp and the write.
    fn send(exchange: &mut Exchange, cx: &mut Context<'_>) -> Next {
        exchange.send(1);
        match exchange.poll_write(cx) {
            Poll::Ready(written) => Next::Sent(written),
            // The rest is written when there is room.
            Poll::Pending => Next::Sent(Ok(())),
        }
    }
}

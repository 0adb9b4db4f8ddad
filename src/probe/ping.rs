//! Ping: one message after the other, each told of as it comes back.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::dial::dial;
use super::exchange::{Ended, Exchange};
use super::pace::{Pace, later};
use super::payload::Payloads;
use super::summary::Summary;
use super::{DialOptions, Event, Messages, ProbeError, Target};

/// After the last reply: an answer that comes twice comes again at once.
const GRACE: Duration = Duration::from_millis(20);

/// What a ping does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PingOptions {
    /// How many messages to send; `None` goes on until it is stopped.
    pub count: Option<u64>,
    /// From one message to the next. 1 second.
    pub interval: Duration,
    /// How long to wait for a reply before it is late. 2 seconds.
    pub timeout: Duration,
}

impl Default for PingOptions {
    fn default() -> Self {
        PingOptions {
            count: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
        }
    }
}

/// Sends messages at an interval until there have been enough or `stop` completes, tells of each
/// event as it happens, and returns what they add up to.
///
/// # Errors
/// There was no connection to send anything on.
pub async fn ping(
    target: &Target,
    dial_options: &DialOptions,
    messages: Messages,
    options: &PingOptions,
    stop: impl Future<Output = ()>,
    mut tell: impl FnMut(&Event),
) -> Result<Summary, ProbeError> {
    let payloads = Payloads::new(messages.checked_for(target)?.size, messages.is_text);
    let mut stop = pin!(stop);
    let (link, connected) = tokio::select! {
        dialled = dial(target, dial_options) => dialled?,
        () = &mut stop => return Ok(Summary::default()),
    };
    tell(&Event::Connected(Box::new(connected)));
    let mut exchange = Exchange::new(link, payloads);
    let mut summary = Summary::default();
    let no_timer = |error| ProbeError::Connect(format!("no timer: {error}"));
    let (mut send, mut wait) = (Pace::new().map_err(no_timer)?, Pace::new().map_err(no_timer)?);
    let start = Instant::now();
    let mut next_send = start;
    let mut done_at = None;
    // Since when the other side has taken nothing, and how much it had taken then.
    let mut stuck: Option<(Instant, usize)> = None;
    let was_stopped = loop {
        let is_enough = options.count.is_some_and(|count| summary.sent >= count);
        let is_done = is_enough && exchange.tracker.waiting() == 0;
        let wake = if is_done {
            Some(*done_at.get_or_insert_with(Instant::now) + GRACE)
        } else if let Some(sent_at) = exchange.tracker.oldest() {
            Some(later(sent_at, options.timeout))
        } else {
            stuck.map(|(since, _)| later(since, options.timeout))
        };
        let happened = poll_fn(|cx| {
            // The timers first: replies without end must not hold them up.
            if stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Happened::Stopped);
            }
            if wake.is_some_and(|at| wait.poll_until(cx, at).is_ready()) {
                return Poll::Ready(Happened::Waited);
            }
            if !is_enough && exchange.can_send() && send.poll_until(cx, next_send).is_ready() {
                return Poll::Ready(Happened::SendDue);
            }
            let mut replies = Vec::new();
            if let Poll::Ready(ended) = exchange.poll(cx, |reply| replies.push(reply)) {
                return Poll::Ready(Happened::Ended(replies, ended));
            }
            if !replies.is_empty() {
                return Poll::Ready(Happened::Received(replies));
            }
            // Polling may have made room.
            if !is_enough && exchange.can_send() && send.poll_until(cx, next_send).is_ready() {
                return Poll::Ready(Happened::SendDue);
            }
            Poll::Pending
        })
        .await;
        let mut hear = |replies: Vec<_>| {
            for reply in replies {
                summary.count(&reply);
                if let Some(rtt) = reply.rtt {
                    summary.time(rtt);
                }
                tell(&Event::Reply(reply));
            }
        };
        match happened {
            Happened::Received(replies) => hear(replies),
            Happened::SendDue => {
                let now = Instant::now();
                exchange.send([now]);
                summary.sent += 1;
                stuck = None;
                // After a pause that was longer than the interval, there is nothing to catch up.
                next_send = later(next_send, options.interval).max(now);
            }
            Happened::Waited if is_done => break false,
            Happened::Waited => {
                let now = Instant::now();
                let before = now.checked_sub(options.timeout).unwrap_or(now);
                for seq in exchange.tracker.expire(before) {
                    tell(&Event::Overdue { seq });
                }
                let taken = exchange.taken();
                if exchange.can_send() {
                    stuck = None;
                } else if stuck.is_some_and(|(_, before)| before == taken) {
                    let why = "the other side takes nothing".to_owned();
                    tell(&Event::Failed { why: why.clone() });
                    summary.fail(why);
                    break false;
                } else {
                    stuck = Some((now, taken));
                }
            }
            Happened::Stopped => break true,
            Happened::Ended(replies, ended) => {
                hear(replies);
                let (why, is_final) = match ended {
                    Ended::Closed(why) => (format!("closed by the other side: {why}"), true),
                    // In TLS 1.3 a server refuses a client's certificate after our handshake.
                    Ended::Failed(error) if summary.received == 0 && is_tls(&error) => {
                        return Err(ProbeError::tls(target, &error));
                    }
                    // A datagram may be refused and the next one not.
                    Ended::Failed(error) => {
                        (error.to_string(), target.protocol != crate::Protocol::Udp)
                    }
                };
                tell(&Event::Failed { why: why.clone() });
                summary.fail(why);
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
    // The other side may be gone; that is not what was asked.
    let goodbye = poll_fn(|cx| exchange.poll_close(cx));
    let _ = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
    Ok(summary)
}

enum Happened {
    Received(Vec<super::Reply>),
    SendDue,
    /// For a reply, for room to send, or for a moment after the last reply.
    Waited,
    Stopped,
    Ended(Vec<super::Reply>, Ended),
}

/// Whether TLS, and not the connection below it, has failed.
fn is_tls(error: &std::io::Error) -> bool {
    let inner = error.get_ref();
    inner.and_then(|inner| inner.downcast_ref::<tokio_rustls::rustls::Error>()).is_some()
}

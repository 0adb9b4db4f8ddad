//! Ping: one message after the other, each told of as it comes back.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::dial::dial;
use super::exchange::{Ended, Exchange};
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
    let (link, connected) = dial(target, dial_options).await?;
    tell(&Event::Connected(Box::new(connected)));
    let mut exchange = Exchange::new(link, payloads);
    let mut summary = Summary::default();
    let (mut stop, mut send_timer) = (pin!(stop), pin!(sleep(Duration::ZERO)));
    let mut expiry_timer = pin!(sleep(Duration::ZERO));
    let start = Instant::now();
    let mut next_send = start;
    let mut done_at = None;
    loop {
        let is_enough = options.count.is_some_and(|count| summary.sent >= count);
        let is_done = is_enough && exchange.tracker.waiting() == 0;
        let finish = is_done.then(|| *done_at.get_or_insert_with(Instant::now) + GRACE);
        let expiry = exchange.tracker.oldest().map(|at| at + options.timeout);
        let happened = poll_fn(|cx| {
            if stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Happened::Stopped);
            }
            let mut replies = Vec::new();
            if let Poll::Ready(ended) = exchange.poll(cx, |reply| replies.push(reply)) {
                return Poll::Ready(Happened::Ended(replies, ended));
            }
            if !replies.is_empty() {
                return Poll::Ready(Happened::Received(replies));
            }
            if finish.is_some_and(|at| is_due(&mut expiry_timer, at, cx)) {
                return Poll::Ready(Happened::Finished);
            }
            if expiry.is_some_and(|at| is_due(&mut expiry_timer, at, cx)) {
                return Poll::Ready(Happened::Expired);
            }
            // Asked only now: polling may have made room.
            if !is_enough && exchange.can_send() && is_due(&mut send_timer, next_send, cx) {
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
                // After a pause that was longer than the interval, there is nothing to catch up.
                next_send = (next_send + options.interval).max(now);
            }
            Happened::Expired => {
                for seq in exchange.tracker.expire(Instant::now() - options.timeout) {
                    tell(&Event::Overdue { seq });
                }
            }
            Happened::Stopped | Happened::Finished => break,
            Happened::Ended(replies, ended) => {
                hear(replies);
                let (why, is_final) = match ended {
                    Ended::Closed(why) => (format!("closed by the other side: {why}"), true),
                    // A datagram may be refused and the next one not.
                    Ended::Failed(error) => {
                        (error.to_string(), target.protocol != crate::Protocol::Udp)
                    }
                };
                tell(&Event::Failed { why: why.clone() });
                summary.fail(why);
                if is_final {
                    break;
                }
            }
        }
    }
    summary.elapsed = done_at.unwrap_or_else(Instant::now) - start;
    let answered = summary.received + summary.corrupted;
    summary.lost = summary.sent.saturating_sub(answered);
    // The other side may be gone; that is not what was asked.
    let goodbye = poll_fn(|cx| exchange.poll_close(cx));
    let _ = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
    Ok(summary)
}

enum Happened {
    Received(Vec<super::Reply>),
    SendDue,
    Expired,
    Finished,
    Stopped,
    Ended(Vec<super::Reply>, Ended),
}

/// Whether `at` has come; if not, `timer` wakes the task then.
fn is_due(
    timer: &mut std::pin::Pin<&mut Sleep>,
    at: Instant,
    cx: &mut std::task::Context<'_>,
) -> bool {
    if timer.deadline() != at {
        timer.set(sleep_until(at));
    }
    timer.as_mut().poll(cx).is_ready()
}

//! The messages of a ping on one connection.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::Run;
use crate::causes;
use crate::config::Protocol;
use crate::pace::{Pace, later};
use crate::probe::datagrams::is_refusal;
use crate::probe::ending::Ended;
use crate::probe::exchange::{CLOSE_TIMEOUT, Exchange};
use crate::probe::link::{Inbox, Link};
use crate::probe::{Event, Oddity, ProbeError, Reply};

/// How long to listen after the last reply, so that duplicates of it are counted.
const DUPLICATES: Duration = Duration::from_millis(20);

/// A flood waits for a reply at most this long before it sends the next message.
const FLOOD_INTERVAL: Duration = Duration::from_millis(10);

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Everything was sent, and has come back or is overdue.
    Done,
    /// The ping was stopped.
    Stopped,
    /// The connection has failed or was closed.
    Lost,
}

/// A connection, and the messages that are sent on it.
pub(super) struct Session<'r, 'a, OnEvent> {
    run: &'r mut Run<'a, OnEvent>,
    exchange: Exchange,
    send_timer: Pace,
    wait_timer: Pace,
    /// How many messages the ping has sent in all when this session has sent its own.
    limit: u64,
    /// The ping's number of the first message of this session.
    first: u64,
}

impl<'r, 'a, OnEvent: FnMut(Event)> Session<'r, 'a, OnEvent> {
    pub(super) fn new(
        run: &'r mut Run<'a, OnEvent>,
        link: Link,
        limit: u64,
    ) -> Result<Self, ProbeError> {
        let timer = || Pace::new().map_err(|error| ProbeError::no_timer(run.probe.target(), error));
        let mut exchange = Exchange::new(link, run.payloads.for_another());
        exchange.keep_transcript(run.proxy_header.clone());
        Ok(Session {
            exchange,
            send_timer: timer()?,
            wait_timer: timer()?,
            limit,
            first: run.summary.sent + run.summary.unsent,
            run,
        })
    }

    /// Sends the messages, waits for the replies, and closes the connection.
    pub(super) async fn run<Stop>(mut self, stop: Pin<&mut Stop>) -> Result<End, ProbeError>
    where
        Stop: Future<Output = ()>,
    {
        let end = self.exchange_messages(stop).await?;
        let is_stopped = end == End::Stopped;
        self.run.summary.lost += self.exchange.tracker.lost();
        let has_told = !self.run.options.connect_each && self.notice(is_stopped).await;
        if end == End::Done && !has_told {
            self.tell_stall();
        }
        let waiting = self.exchange.tracker.waiting() as u64;
        let summary = &mut self.run.summary;
        *(if is_stopped { &mut summary.unanswered } else { &mut summary.lost }) += waiting;
        // How the connection closes is not measured, so an error is ignored.
        let close = poll_fn(|cx| self.exchange.poll_close(cx));
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, close).await;
        Ok(end)
    }

    /// Tells what the service does that an echo service does not. Returns whether there is something.
    async fn notice(&mut self, is_stopped: bool) -> bool {
        let has_time = !is_stopped && self.run.summary.errors().next().is_none();
        let timeout = self.run.options.timeout;
        let target = self.run.probe.target();
        if has_time && self.exchange.answers_newline(&mut Inbox::default(), timeout).await {
            (self.run.on_event)(Event::Noticed(Oddity::AnswersLines));
            return true;
        }
        if let Some(oddity) = self.exchange.oddity(target, &self.run.summary) {
            (self.run.on_event)(Event::Noticed(oddity));
            return true;
        }
        false
    }

    /// Tells that the service has gone silent, if it has.
    fn tell_stall(&mut self) {
        if let Some(how) = self.exchange.stall() {
            if !self.run.options.connect_each {
                (self.run.on_event)(Event::Noticed(Oddity::Stalls { how: how.clone() }));
            }
            self.run.summary.ended(how);
        }
    }

    async fn exchange_messages<Stop>(&mut self, mut stop: Pin<&mut Stop>) -> Result<End, ProbeError>
    where
        Stop: Future<Output = ()>,
    {
        let options = self.run.options;
        let is_udp = self.run.probe.target().protocol() == Protocol::Udp;
        let is_flood = options.interval.is_zero();
        let duplicates = if options.connect_each { Duration::ZERO } else { DUPLICATES };
        let asked = self.run.asked;
        let mut notified = pin!(asked.notified());
        let mut inbox = Inbox::default();
        // Since when the connection has taken no bytes, and how many it had taken by then.
        let mut stalled: Option<(Instant, usize)> = None;
        // An error of sending, which is dealt with behind what has been received until then.
        let mut failed = None;
        // Whether the other side, or the network in its place, has said anything.
        let mut has_answered = self.run.summary.received > 0;
        self.run.done_at = None;
        loop {
            let next_send = self.run.next_send;
            // A flood may send now, whenever the next message is due.
            let earliest = if is_flood { Instant::now() } else { next_send };
            let sent = self.run.summary.sent + self.run.summary.unsent;
            let is_enough = sent >= self.limit || self.run.is_over(earliest);
            let is_done = is_enough && self.exchange.tracker.waiting() == 0;
            let wake = if let Some(at) = self.exchange.reads_until() {
                Some(at)
            } else if is_done {
                Some(*self.run.done_at.get_or_insert_with(Instant::now) + duplicates)
            } else if let Some(sent_at) = self.exchange.tracker.oldest() {
                Some(later(sent_at, options.timeout))
            } else {
                stalled.map(|(since, _)| later(since, options.timeout))
            };
            let Session { exchange, send_timer, wait_timer, .. } = &mut *self;
            let next = poll_fn(|cx| {
                // The timers come first: a service that never stops sending must not delay them.
                if stop.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Next::Stopped);
                }
                if notified.as_mut().poll(cx).is_ready() {
                    notified.set(asked.notified());
                    return Poll::Ready(Next::Asked);
                }
                if wake.is_some_and(|at| wait_timer.poll_until(cx, at).is_ready()) {
                    return Poll::Ready(match exchange.give_up() {
                        Some(ended) => Next::Ended(Vec::new(), ended),
                        None => Next::Waited,
                    });
                }
                let mut send_is_due = |exchange: &Exchange, cx: &mut _| {
                    !is_enough
                        && exchange.can_send()
                        && (is_flood && exchange.tracker.waiting() == 0
                            || send_timer.poll_until(cx, next_send).is_ready())
                };
                if send_is_due(exchange, cx) {
                    return Poll::Ready(Next::send(exchange, cx));
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
                if send_is_due(exchange, cx) {
                    return Poll::Ready(Next::send(exchange, cx));
                }
                Poll::Pending
            })
            .await;
            let withdrawn = self.exchange.withdrawn();
            has_answered |= self.exchange.has_heard();
            match next {
                Next::Received(replies) => self.count(replies),
                Next::Sent(written) => {
                    self.run.summary.sent += 1;
                    stalled = None;
                    let sent_at = self.exchange.sent_at();
                    // After a delay of more than an interval, the missed messages are not made up.
                    self.run.next_send = match is_flood {
                        true => sent_at + FLOOD_INTERVAL,
                        false => later(next_send, options.interval).max(sent_at),
                    };
                    failed = written.err();
                }
                Next::Waited if is_done => return Ok(End::Done),
                Next::Waited => {
                    let now = Instant::now();
                    let before = now.checked_sub(options.timeout).unwrap_or(now);
                    for seq in self.exchange.tracker.expire(before) {
                        (self.run.on_event)(Event::Overdue { seq: self.first + seq });
                    }
                    let taken = self.exchange.taken();
                    if self.exchange.can_send() {
                        stalled = None;
                    } else if stalled.is_some_and(|(_, before)| before == taken) {
                        self.run.failed("the other side takes nothing".to_owned());
                        return Ok(End::Lost);
                    } else {
                        stalled = Some((now, taken));
                    }
                }
                Next::Asked => {
                    let tracker = &self.exchange.tracker;
                    self.run.interim(tracker.lost(), tracker.waiting() as u64);
                }
                Next::Stopped => return Ok(End::Stopped),
                Next::Ended(replies, ended) => {
                    self.count(replies);
                    match ended {
                        // A TLS 1.3 server refuses the client's certificate after the client's
                        // handshake has ended.
                        Ended::Failed(error)
                            if self.run.summary.received == 0
                                && causes::tls_error(&error).is_some() =>
                        {
                            return Err(ProbeError::tls(self.run.probe.target(), error, None));
                        }
                        // Nothing listens there, which over TCP would have refused the connection.
                        Ended::Failed(error) if is_udp && !has_answered && is_refusal(&error) => {
                            let target = self.run.probe.target();
                            return Err(ProbeError::port_unreachable(target, Some(error)));
                        }
                        // One datagram may be refused, and the next one not.
                        Ended::Failed(error) if is_udp => {
                            has_answered = true;
                            self.run.failed(causes::of_datagram(&error));
                        }
                        ended => {
                            self.run.ended(self.exchange.ending(&ended), self.exchange.echoed());
                            return Ok(End::Lost);
                        }
                    }
                }
            }
            // The system refused to send them.
            self.run.summary.sent -= withdrawn;
            self.run.summary.unsent += withdrawn;
        }
    }

    fn count(&mut self, replies: Vec<Reply>) {
        for mut reply in replies {
            self.run.summary.count(&reply);
            if let Some(rtt) = reply.rtt {
                self.run.summary.record_in_order(rtt);
            }
            reply.seq = reply.seq.map(|seq| self.first + seq);
            (self.run.on_event)(Event::Reply(reply));
        }
    }
}

/// What a ping has to deal with next.
enum Next {
    Received(Vec<Reply>),
    /// A message was sent, or that failed.
    Sent(io::Result<()>),
    /// The time to wait for a reply, for room to send or for duplicates is over.
    Waited,
    /// Somebody wants to know the summary so far.
    Asked,
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

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
    use tokio::sync::Notify;

    use super::*;
    use crate::probe::link::Bytes;
    use crate::probe::payload::Payloads;
    use crate::probe::{PingOptions, Probe, Summary};

    /// A connection whose other side has said something and closed, which a write finds out.
    struct Closed {
        said: &'static [u8],
        refusal: io::ErrorKind,
        /// Whether the first look finds nothing: the runtime has not been told yet what is there.
        is_unnoticed: bool,
    }

    impl AsyncRead for Closed {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if std::mem::take(&mut self.is_unnoticed) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            into.put_slice(std::mem::take(&mut self.said));
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Closed {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(self.refusal.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_was_said_before_a_write_failed_is_read_and_told() {
        let (pipe, reset) = (io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset);
        for (refusal, said) in [
            (pipe, "closed by the peer after 28 bytes"),
            (reset, "reset by the peer after 28 bytes"),
        ] {
            let probe = Probe::new("tcp://localhost:1".parse().unwrap());
            let options = PingOptions::new().count(1);
            let mut told = Vec::new();
            let mut run = Run {
                payloads: Payloads::new(&probe.messages),
                summary: Summary::new(64),
                probe: &probe,
                options: &options,
                asked: &Notify::new(),
                on_event: |event: Event| told.push(event),
                start: Instant::now(),
                next_send: Instant::now(),
                done_at: None,
                proxy_header: Vec::new(),
            };
            let answer = b"HTTP/1.1 400 Bad Request\r\n\r\n";
            let stream = Closed { said: answer, refusal, is_unnoticed: true };
            let link = Link::Bytes(Bytes { stream: Box::new(stream), is_over_tls: false });
            let session = Session::new(&mut run, link, 1).unwrap();
            assert_eq!(session.run(pin!(pending::<()>())).await.unwrap(), End::Lost);
            let [Event::Failed { reason, .. }, Event::Noticed(oddity)] = &told[..] else {
                panic!("{told:?}")
            };
            assert_eq!(reason, said);
            assert!(matches!(oddity, Oddity::Speaks { name: "HTTP", .. }), "{oddity}");
        }
    }
}

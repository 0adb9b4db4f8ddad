//! One round of one target: a new connection, a few messages one after the other, and its close.
//!
//! The next message is sent as soon as the one before has come back, so that a round on a path that is in
//! order is short, and no two of its messages are in each other's way. On one that loses messages they
//! follow each other after a tenth of a second.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use crate::causes::{self, Peer};
use crate::pace::later;
use crate::probe::connect::connect_trusting;
use crate::probe::ending::Ended;
use crate::probe::exchange::Exchange;
use crate::probe::link::{Inbox, Link};
use crate::probe::payload::Payloads;
use crate::probe::tls::Keyring;
use crate::probe::{ConnectOptions, Connected, FailureKind, ProbeError, Reply, Target, Verdict};

/// From one message to the next if the first does not come back.
const SPACING: Duration = Duration::from_millis(100);

/// How long to listen after the last reply over UDP, so that duplicates of it are counted.
const DUPLICATES: Duration = Duration::from_millis(20);

/// How long a connection may take to close, at most. Nothing depends on how it closes.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// What a round needs.
pub(super) struct Round<'a> {
    pub(super) target: &'a Target,
    pub(super) connect: &'a ConnectOptions,
    pub(super) keyring: &'a Keyring,
    pub(super) payloads: &'a Payloads,
    pub(super) count: u32,
    pub(super) timeout: Duration,
    /// When it is over, whatever has come by then: before the next one begins.
    pub(super) end: Instant,
}

/// Messages, by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Messages that were sent.
    pub sent: u64,
    /// They came back unchanged and in time.
    pub received: u64,
    /// They had not come back when they were waited for no longer.
    pub lost: u64,
    /// They came back unchanged after the timeout, within the same round.
    pub late: u64,
    /// Replies that differed from what was sent.
    pub corrupted: u64,
    /// Replies to messages that had come back already.
    pub duplicated: u64,
    /// Messages that came back behind one that was sent later.
    pub reordered: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Tally) {
        let Tally { sent, received, lost, late, corrupted, duplicated, reordered } = other;
        self.sent += sent;
        self.received += received;
        self.lost += lost;
        self.late += late;
        self.corrupted += corrupted;
        self.duplicated += duplicated;
        self.reordered += reordered;
    }
}

/// What came of a round.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) connected: Option<Connected>,
    pub(super) tally: Tally,
    pub(super) round_trips: Vec<Duration>,
    /// When the certificate expires that did not verify.
    pub(super) rejected: Option<SystemTime>,
    /// Why the target is not up.
    pub(super) failure: Option<(FailureKind, String)>,
}

impl Outcome {
    fn of_error(error: &ProbeError) -> Self {
        let kind = error.kind().unwrap_or(FailureKind::Other);
        let problem = match error {
            // Who it is about, everybody knows here.
            ProbeError::Connect { problem, .. } | ProbeError::Tls { problem, .. } => {
                problem.clone()
            }
            other => other.to_string(),
        };
        let rejected = match error {
            ProbeError::Tls { expires, .. } => *expires,
            _ => None,
        };
        Outcome { failure: Some((kind, problem)), rejected, ..Outcome::default() }
    }
}

impl Round<'_> {
    pub(super) async fn run(self) -> Outcome {
        match connect_trusting(self.target, self.connect, self.keyring).await {
            Ok((link, connected)) => {
                let outcome = self.exchange(link).await;
                Outcome { connected: Some(connected), ..outcome }
            }
            Err(error) => Outcome::of_error(&error),
        }
    }

    async fn exchange(&self, link: Link) -> Outcome {
        let is_udp = matches!(link, Link::Datagrams(_));
        let mut talk = Talk {
            exchange: Exchange::new(link, self.payloads.for_another()),
            left: self.count,
            timeout: self.timeout,
            end: self.end,
            last_sent: None,
            outcome: Outcome::default(),
            ended: None,
        };
        {
            let mut timer = pin!(sleep_until(Instant::now()));
            let mut inbox = Inbox::default();
            poll_fn(|cx| talk.poll(cx, &mut inbox, timer.as_mut(), is_udp)).await;
        }
        let Talk { mut exchange, mut outcome, ended, .. } = talk;
        outcome.tally.lost = exchange.tracker.lost() + exchange.tracker.waiting() as u64;
        outcome.failure = failure(&outcome.tally, ended.as_ref(), is_udp);
        let closed = self.end.min(Instant::now() + CLOSE_TIMEOUT);
        let _ = timeout_at(closed, poll_fn(|cx| exchange.poll_close(cx))).await;
        outcome
    }
}

/// Why the target is not up, if it is not.
fn failure(tally: &Tally, ended: Option<&Ended>, is_udp: bool) -> Option<(FailureKind, String)> {
    if tally.corrupted > 0 {
        let problem = "a reply differed from what was sent".to_owned();
        return Some((FailureKind::Corrupted, problem));
    }
    // What has come back over UDP has come back, whatever became of the others.
    if tally.received > 0 && (is_udp || ended.is_none()) {
        return None;
    }
    Some(match ended {
        Some(Ended::Failed(error)) if is_udp => {
            (FailureKind::of_io(error), causes::of_datagram(error))
        }
        Some(Ended::Failed(error)) => {
            (FailureKind::of_io(error), causes::of_io(error, Peer::Server))
        }
        Some(Ended::Closed(farewell)) => {
            (FailureKind::Closed, format!("the server closed the connection: {farewell}"))
        }
        None => (FailureKind::Timeout, "no reply".to_owned()),
    })
}

/// The messages of a round, while they are exchanged.
struct Talk {
    exchange: Exchange,
    /// How many messages are still to be sent.
    left: u32,
    timeout: Duration,
    end: Instant,
    last_sent: Option<Instant>,
    outcome: Outcome,
    /// How the connection ended, if it did. Over UDP, the last error.
    ended: Option<Ended>,
}

impl Talk {
    /// Ready when all has been sent, and has come back or is waited for no longer.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        inbox: &mut Inbox,
        mut timer: Pin<&mut Sleep>,
        is_udp: bool,
    ) -> Poll<()> {
        let timeout = self.timeout;
        loop {
            let now = Instant::now();
            if now >= self.end {
                return Poll::Ready(());
            }
            if let Some(before) = now.checked_sub(timeout) {
                self.exchange.tracker.expire(before);
            }
            let waiting = self.exchange.tracker.waiting();
            let is_spaced = self.last_sent.is_none_or(|at| later(at, SPACING) <= now);
            if self.left > 0 && self.exchange.can_send() && (waiting == 0 || is_spaced) {
                self.exchange.send(1);
                self.left -= 1;
                self.outcome.tally.sent += 1;
                self.last_sent = Some(self.exchange.sent_at());
            }
            let Talk { exchange, outcome, .. } = self;
            let polled = exchange.poll(cx, inbox, |reply| count(outcome, &reply));
            if let Poll::Ready(ended) = polled {
                self.outcome.tally.sent -= self.exchange.withdrawn();
                self.ended = Some(ended);
                if !is_udp {
                    return Poll::Ready(());
                }
                // An ICMP error answers one datagram; the next one may come through.
                continue;
            }
            if !is_udp && self.outcome.tally.corrupted > 0 {
                // Behind what was changed, nobody knows where the next message begins.
                self.outcome.tally.corrupted = 1;
                return Poll::Ready(());
            }
            let waiting = self.exchange.tracker.waiting();
            if waiting == 0 && self.left > 0 && self.exchange.can_send() {
                continue;
            }
            let is_done = self.left == 0 && waiting == 0;
            let wake = if is_done {
                // A stream has no duplicates.
                match is_udp && self.outcome.tally.received > 0 {
                    true => later(self.last_sent.unwrap_or(now), DUPLICATES),
                    false => return Poll::Ready(()),
                }
            } else {
                let overdue = self.exchange.tracker.oldest().map(|at| later(at, timeout));
                let spaced = self.last_sent.map(|at| later(at, SPACING));
                let next = spaced.filter(|_| self.left > 0 && self.exchange.can_send());
                let given_up = self.exchange.reads_until();
                let stuck = self.last_sent.map(|at| later(at, timeout));
                let first = [overdue, next, given_up].into_iter().flatten().min();
                first.or(stuck).unwrap_or(now).min(self.end)
            };
            if wake <= now {
                if is_done {
                    return Poll::Ready(());
                }
                if let Some(ended) = self.exchange.give_up() {
                    self.ended = Some(ended);
                    return Poll::Ready(());
                }
                if !self.exchange.can_send() && waiting == 0 {
                    // What was written is not taken.
                    return Poll::Ready(());
                }
            }
            timer.as_mut().reset(wake);
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

fn count(outcome: &mut Outcome, reply: &Reply) {
    let Outcome { tally, round_trips, .. } = outcome;
    match reply.verdict {
        Verdict::Echoed => {
            tally.received += 1;
            round_trips.extend(reply.rtt);
        }
        Verdict::Late => tally.late += 1,
        Verdict::Duplicated => tally.duplicated += 1,
        Verdict::Corrupted => tally.corrupted += 1,
    }
    tally.reordered += u64::from(reply.is_reordered);
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::probe::Messages;
    use crate::probe::link::Bytes;
    use crate::probe::tls::TlsOptions;

    const SIZE: usize = 64;

    /// A round of four messages with somebody at the other end, and how long it took.
    async fn round<F>(peer: impl FnOnce(DuplexStream) -> F) -> (Outcome, Duration)
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        round_of(4096, Duration::from_secs(10), peer).await
    }

    /// The stream takes `room` bytes that nobody reads.
    async fn round_of<F>(
        room: usize,
        lasts: Duration,
        peer: impl FnOnce(DuplexStream) -> F,
    ) -> (Outcome, Duration)
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let (here, there) = duplex(room);
        tokio::spawn(peer(there));
        let stream = Box::new(here);
        let target = "tcp://h:1".parse().unwrap();
        let keyring = Keyring::read(&TlsOptions::new().insecure()).unwrap();
        let round = Round {
            target: &target,
            connect: &ConnectOptions::new(),
            keyring: &keyring,
            payloads: &Payloads::new(&Messages::new().size(SIZE)),
            count: 4,
            timeout: Duration::from_secs(1),
            end: Instant::now() + lasts,
        };
        let began = Instant::now();
        let outcome = round.exchange(Link::Bytes(Bytes { stream, is_over_tls: false })).await;
        (outcome, began.elapsed())
    }

    fn kind(outcome: &Outcome) -> Option<FailureKind> {
        outcome.failure.as_ref().map(|(kind, _)| *kind)
    }

    #[tokio::test(start_paused = true)]
    async fn messages_follow_each_other_without_a_pause() {
        let (outcome, took) = round(|mut peer| async move {
            let mut message = [0; SIZE];
            loop {
                peer.read_exact(&mut message).await?;
                peer.write_all(&message).await?;
            }
        })
        .await;
        let Tally { sent, received, lost, .. } = outcome.tally;
        assert_eq!((sent, received, lost, kind(&outcome)), (4, 4, 0, None));
        assert_eq!((outcome.round_trips.len(), took), (4, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_costs_the_timeout_and_the_spaces_between() {
        let (outcome, took) = round(|peer| async move {
            let peer = peer;
            std::future::pending::<()>().await;
            drop(peer);
            Ok(())
        })
        .await;
        let Tally { sent, lost, .. } = outcome.tally;
        assert_eq!((sent, lost, kind(&outcome)), (4, 4, Some(FailureKind::Timeout)));
        let expected = Duration::from_millis(1300);
        assert!((expected..expected + Duration::from_millis(5)).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_is_over_at_its_end() {
        let lasts = Duration::from_millis(250);
        let (outcome, took) = round_of(4096, lasts, |peer| async move {
            let peer = peer;
            std::future::pending::<()>().await;
            drop(peer);
            Ok(())
        })
        .await;
        assert_eq!((outcome.tally.sent, outcome.tally.lost), (3, 3));
        assert!((lasts..lasts + Duration::from_millis(5)).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_ends_the_round() {
        let (outcome, took) = round_of(SIZE / 2, Duration::from_secs(10), |peer| async move {
            let peer = peer;
            std::future::pending::<()>().await;
            drop(peer);
            Ok(())
        })
        .await;
        assert_eq!((outcome.tally.sent, outcome.tally.lost), (1, 1));
        assert_eq!(kind(&outcome), Some(FailureKind::Timeout));
        assert!(took < Duration::from_secs(3), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_closes_in_the_middle_is_not_up() {
        let (outcome, _) = round(|mut peer| async move {
            let mut message = [0; SIZE];
            peer.read_exact(&mut message).await?;
            peer.write_all(&message).await
        })
        .await;
        assert_eq!((outcome.tally.received, kind(&outcome)), (1, Some(FailureKind::Closed)));
        let (outcome, _) = round(|_| async { Ok(()) }).await;
        assert!(matches!(kind(&outcome), Some(FailureKind::Closed | FailureKind::Reset)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_that_differs_is_corrupted_and_one_that_comes_late_is_late() {
        let (outcome, _) = round(|mut peer| async move {
            let mut message = [0; SIZE];
            loop {
                peer.read_exact(&mut message).await?;
                message[SIZE - 1] ^= 1;
                peer.write_all(&message).await?;
            }
        })
        .await;
        assert_eq!((outcome.tally.corrupted, kind(&outcome)), (1, Some(FailureKind::Corrupted)));
        let (outcome, _) = round(|mut peer| async move {
            let mut first = [0; SIZE];
            peer.read_exact(&mut first).await?;
            tokio::time::sleep(Duration::from_millis(1050)).await;
            peer.write_all(&first).await?;
            std::future::pending().await
        })
        .await;
        let Tally { sent, received, lost, late, .. } = outcome.tally;
        assert_eq!((sent, received, lost, late), (4, 0, 3, 1));
    }
}

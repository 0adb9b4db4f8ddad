//! Echoes datagrams: each goes back whole to the address that it came from, from the address that
//! it was sent to.
//!
//! A *train* is a run of datagrams of one peer and one size that the kernel passes on as one
//! buffer: received with UDP_GRO, sent with UDP_SEGMENT.

mod answers;
mod batch;
#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "plain.rs")]
mod calls;
mod rate;
mod rules;
mod socket;
#[cfg(all(test, target_os = "linux"))]
mod tests;
mod way;

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Future;
use tokio::net::UdpSocket;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tracing::{info, warn};

use super::{Echo, EchoError, Goodbye, Moved, Step, Traffic, yield_turn};
use batch::{Ancillary, Batch, LIMIT, Received};
use socket::{DatagramSocket, KernelSocket};

pub use answers::{Answers, Asked, Verbatim};
pub(crate) use batch::LARGEST;
pub use rules::{Answerable, Rules, Unanswered};
pub use way::{Direct, Reply, Way};

/// How long replies wait for room in the socket's send buffer before they are dropped. Meanwhile
/// nothing is received, and the kernel drops what its receive buffer cannot hold.
const PATIENCE: Duration = Duration::from_millis(100);

/// The pauses after failed receives: the first, and the longest.
const BACKOFF: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(1);

/// An episode of failed receives is over once none has failed for this long. Single ones may succeed
/// in between, while memory is scarce.
const RECOVERED_AFTER: Duration = Duration::from_secs(5);

/// The most replies that one step sends, if they do not leave at once: two for each datagram that a
/// step receives.
const RELEASES: usize = 2 * LIMIT;

thread_local! {
    /// A batch is in use only during a poll, so each thread has one instead of each socket.
    static BATCH: Cell<Option<Box<Batch>>> = const { Cell::new(None) };
}

/// Echoes the datagrams of one socket.
///
/// It never ends by itself: what a peer or the network does to one datagram is no reason to stop
/// answering the others. A datagram that has no answer is counted by its [`Rules`].
#[derive(Debug)]
pub struct DatagramEcho<S: DatagramSocket = KernelSocket, A: Answers = Verbatim, W: Way = Direct> {
    socket: S,
    answers: A,
    way: W,
    rules: Arc<Rules>,
    /// Where its traffic is added when it ends.
    totals: Arc<Mutex<Traffic>>,
    /// The last receive returned more than one message, so more than one are to be expected.
    many: bool,
    /// Replies that the socket's send buffer had no room for.
    owed: Option<Box<Batch>>,
    /// The end of the pause after the last failed receive, and its length.
    failed: Option<(Instant, Duration)>,
    /// The end of a wait for room, or after a failed receive.
    until: Option<Pin<Box<Sleep>>>,
    /// The end of a wait for room for a reply that does not leave at once. Such a wait may fall into
    /// one after a failed receive.
    room: Option<Pin<Box<Sleep>>>,
    traffic: Traffic,
}

/// An echo that has other answers, of type `A`, for some datagrams.
pub type AnsweringEcho<A> = DatagramEcho<KernelSocket<true>, A>;

/// The same, with replies that take the way `W`. A reply may have to go another way than the one
/// before it, so that each datagram arrives by itself.
pub type DetouringEcho<A, W> = DatagramEcho<KernelSocket<true>, A, W>;

impl DatagramEcho {
    /// Echoes what `socket` receives and `rules` let through. When it ends, what has gone through
    /// is added to `totals`.
    ///
    /// # Errors
    /// The socket cannot be told to say where its datagrams were sent to.
    pub fn new(
        socket: Arc<UdpSocket>,
        rules: Arc<Rules>,
        totals: Arc<Mutex<Traffic>>,
    ) -> io::Result<Self> {
        Ok(DatagramEcho::over(KernelSocket::new(socket)?, Verbatim, Direct, rules, totals))
    }
}

impl<A: Answers> AnsweringEcho<A> {
    /// Like [`DatagramEcho::new`], with what `answers` has in the place of echoes.
    ///
    /// # Errors
    /// The socket cannot be told to say where its datagrams were sent to, or what their TTL is.
    pub fn answering(
        socket: Arc<UdpSocket>,
        answers: A,
        rules: Arc<Rules>,
        totals: Arc<Mutex<Traffic>>,
    ) -> io::Result<Self> {
        Ok(DatagramEcho::over(KernelSocket::new(socket)?, answers, Direct, rules, totals))
    }
}

impl<A: Answers, W: Way> DetouringEcho<A, W> {
    /// Like [`DatagramEcho::answering`], with replies that take `way`.
    ///
    /// # Errors
    /// The socket cannot be told to say where its datagrams were sent to, or what their TTL is.
    pub fn detouring(
        socket: Arc<UdpSocket>,
        answers: A,
        way: W,
        rules: Arc<Rules>,
        totals: Arc<Mutex<Traffic>>,
    ) -> io::Result<Self> {
        Ok(DatagramEcho::over(KernelSocket::new(socket)?, answers, way, rules, totals))
    }
}

impl<S: DatagramSocket, A: Answers, W: Way> DatagramEcho<S, A, W> {
    fn over(socket: S, answers: A, way: W, rules: Arc<Rules>, totals: Arc<Mutex<Traffic>>) -> Self {
        let traffic = Traffic::default();
        DatagramEcho {
            socket,
            answers,
            way,
            rules,
            totals,
            many: false,
            owed: None,
            failed: None,
            until: None,
            room: None,
            traffic,
        }
    }

    /// Receives a batch, which is empty if that failed.
    fn poll_receive(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<()> {
        if let Some(until) = &mut self.until {
            ready!(until.as_mut().poll(cx));
            self.until = None;
        }
        match ready!(self.socket.poll_receive(cx, batch, self.many)) {
            Ok(count) => {
                self.many = count > 1;
                if self.failed.is_some_and(|(at, _)| at.elapsed() >= RECOVERED_AFTER) {
                    self.failed = None;
                    info!(
                        protocol = "udp",
                        address = self.socket.name(),
                        "Receiving datagrams again"
                    );
                }
            }
            Err(error) => {
                let pause = match self.failed {
                    None => {
                        let address = self.socket.name();
                        warn!(protocol = "udp", address, %error, "Receiving datagrams failed; backing off");
                        *BACKOFF.start()
                    }
                    Some((_, pause)) => (pause * 2).min(*BACKOFF.end()),
                };
                let _ = batch.begin();
                let until = Instant::now() + pause;
                self.failed = Some((until, pause));
                self.until = Some(Box::pin(sleep_until(until)));
            }
        }
        Poll::Ready(())
    }

    /// Counts what was received, and removes what the rules do not answer.
    fn filter(&mut self, batch: &mut Batch) {
        let now = self.rules.now();
        batch.received.retain_mut(|received| {
            let datagrams = received.datagrams();
            self.traffic.received += received.length as u64;
            self.traffic.messages += datagrams as u64;
            let (answered, reason) = self.rules.judge(received, now);
            if let Some(reason) = reason {
                self.rules.give_up(received.peer, datagrams - answered, reason);
                received.cut(answered);
            }
            answered > 0
        });
    }

    /// Puts other answers in the place of the datagrams that have one.
    fn replace(&self, batch: &mut Batch) {
        batch.replace(|received, bytes| {
            let Received { peer, ancillary, ttl, .. } = *received;
            let asked =
                Asked { peer, destination: ancillary.source, ttl, tos: ancillary.tos, bytes };
            self.answers.answer(&asked)
        });
    }

    /// Sends the batch until the send buffer is full. Returns whether all of it was dealt with.
    fn answer(&mut self, batch: &mut Batch) -> bool {
        while !batch.is_done() {
            let first = batch.answered;
            let mut ends = [first; LIMIT];
            match self.socket.try_send(batch, &mut ends) {
                Ok(sent) => {
                    batch.answered = ends[sent.max(1) - 1];
                    for received in &batch.received[first..batch.answered] {
                        self.traffic.sent += received.length as u64;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) => {
                    let end = ends[0].max(first + 1);
                    let is_train = end - first > 1 || batch.received[first].ancillary.segment > 0;
                    if is_train && calls::is_segmentation_error(&error) {
                        self.answer_one_by_one(batch, end);
                    } else {
                        for received in &batch.received[first..end] {
                            self.rules.give_up(
                                received.peer,
                                received.datagrams(),
                                Unanswered::SendFailed,
                            );
                        }
                    }
                    batch.answered = end;
                }
            }
        }
        true
    }

    /// Sends the datagrams of a train one by one, after the train itself was refused.
    fn answer_one_by_one(&mut self, batch: &Batch, end: usize) {
        for received in &batch.received[batch.answered..end] {
            for datagram in batch.datagrams(received) {
                match self.socket.try_send_one(datagram, received.peer, received.ancillary) {
                    Ok(()) => self.traffic.sent += datagram.len() as u64,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.rules.give_up(received.peer, 1, Unanswered::NoRoom);
                    }
                    Err(_) => self.rules.give_up(received.peer, 1, Unanswered::SendFailed),
                }
            }
        }
    }

    /// Sends the owed replies, or drops them after [`PATIENCE`].
    fn poll_settle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(mut batch) = self.owed.take() {
            if self.answer(&mut batch) {
                self.until = None;
                BATCH.set(Some(batch));
                break;
            }
            let until = self.until.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
            if until.as_mut().poll(cx).is_ready() {
                self.until = None;
                for received in &batch.received[batch.answered..] {
                    self.rules.give_up(received.peer, received.datagrams(), Unanswered::NoRoom);
                }
                BATCH.set(Some(batch));
                break;
            }
            self.owed = Some(batch);
            // If there is an error, the next send reports it.
            let _ = ready!(self.socket.poll_writable(cx));
        }
        Poll::Ready(())
    }
}

/// What only an echo does whose replies do not leave at once.
impl<S: DatagramSocket, A: Answers, W: Way> DatagramEcho<S, A, W> {
    /// Receives a batch, puts its replies on their way, and sends what has to leave by now.
    fn poll_detour(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.room.is_some() {
            ready!(self.poll_release(cx, false));
        }
        // What came while the thread was busy comes before what waits for its time, and for what
        // comes.
        let mut batch = BATCH.take().unwrap_or_else(|| Box::new(Batch::new()));
        let received = self.poll_receive(cx, &mut batch);
        if received.is_ready() {
            self.filter(&mut batch);
            if A::ANY {
                self.replace(&mut batch);
            }
            self.depart(&batch);
        }
        BATCH.set(Some(batch));
        match self.poll_release(cx, false) {
            Poll::Ready(Released::Some) => Poll::Ready(()),
            Poll::Ready(Released::All) | Poll::Pending => received,
        }
    }

    /// Puts the replies of the batch on their way.
    fn depart(&mut self, batch: &Batch) {
        let now = self.rules.now();
        for received in &batch.received {
            let ancillary = Ancillary { segment: 0, ..received.ancillary };
            let single = Received { ancillary, ..*received };
            for datagram in batch.datagrams(received) {
                let reply = Reply { peer: received.peer, bytes: datagram.to_vec(), ancillary };
                self.way.take(reply, || self.rules.judge(&single, now).0 > 0);
            }
        }
    }

    /// Sends what has to leave by now, or in a `hurry` all. It is pending while there is no room in
    /// the send buffer, and after [`PATIENCE`] it drops what there was no room for.
    fn poll_release(&mut self, cx: &mut Context<'_>, hurry: bool) -> Poll<Released> {
        for _ in 0..RELEASES {
            let Poll::Ready(Some(reply)) = self.way.poll_next(cx, hurry) else {
                return Poll::Ready(Released::All);
            };
            match self.socket.try_send_one(&reply.bytes, reply.peer, reply.ancillary) {
                Ok(()) => self.traffic.sent += reply.bytes.len() as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let room = self.room.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
                    if room.as_mut().poll(cx).is_pending() {
                        // If there is an error, the next send reports it.
                        let _ = ready!(self.socket.poll_writable(cx));
                        continue;
                    }
                    self.room = None;
                    while let Poll::Ready(Some(reply)) = self.way.poll_next(cx, hurry) {
                        self.rules.give_up(reply.peer, 1, Unanswered::NoRoom);
                        self.way.pop();
                    }
                    return Poll::Ready(Released::All);
                }
                Err(_) => self.rules.give_up(reply.peer, 1, Unanswered::SendFailed),
            }
            self.room = None;
            self.way.pop();
        }
        Poll::Ready(Released::Some)
    }
}

/// How much of what has to leave by now has left.
enum Released {
    All,
    Some,
}

impl<S: DatagramSocket, A: Answers, W: Way> Echo for DatagramEcho<S, A, W> {
    /// A datagram socket has no peer that closes.
    const LINGER: Duration = Duration::ZERO;

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, EchoError>> {
        if !W::IS_DIRECT {
            return self.poll_detour(cx).map(|()| Ok(Step::Moved));
        }
        ready!(self.poll_settle(cx));
        let mut batch = BATCH.take().unwrap_or_else(|| Box::new(Batch::new()));
        let received = self.poll_receive(cx, &mut batch);
        if received.is_pending() {
            BATCH.set(Some(batch));
            return Poll::Pending;
        }
        self.filter(&mut batch);
        if A::ANY {
            self.replace(&mut batch);
        }
        if self.answer(&mut batch) {
            BATCH.set(Some(batch));
        } else {
            self.owed = Some(batch);
        }
        Poll::Ready(Ok(Step::Moved))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, _why: Goodbye) -> Poll<Result<(), EchoError>> {
        if W::IS_DIRECT {
            return self.poll_settle(cx).map(Ok);
        }
        match ready!(self.poll_release(cx, true)) {
            Released::All => Poll::Ready(Ok(())),
            Released::Some => {
                yield_turn(cx);
                Poll::Pending
            }
        }
    }

    fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// What is on its way is not owed: a drain sends it at once, and does not wait for its time.
    fn owes(&self) -> bool {
        self.owed.is_some() || self.room.is_some()
    }

    fn moved(&self) -> Moved {
        Moved { inward: self.traffic.received, outward: self.traffic.sent }
    }
}

impl<S: DatagramSocket, A: Answers, W: Way> Drop for DatagramEcho<S, A, W> {
    fn drop(&mut self) {
        *self.totals.lock().unwrap_or_else(PoisonError::into_inner) += self.traffic;
    }
}

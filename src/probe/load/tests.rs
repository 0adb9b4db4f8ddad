//! The engine on scripted connections: what it calls, how often, and what it makes of the times. The
//! clock is the real one, so times are chosen so far apart that no delay of the machine matters.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::engine::{Engine, Orders, Plan};
use super::ready::Ready;
use super::schedule::{Schedule, Share};
use crate::pace::Pace;
use crate::probe::link::{Bytes, Link};
use crate::probe::payload::Payloads;
use crate::probe::{Messages, Summary};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// A connection whose other side does what a test tells it to.
#[derive(Default)]
struct Script {
    written: Vec<u8>,
    to_read: Vec<u8>,
    is_blocked: bool,
    /// What becomes of a write, in place of taking it.
    refusal: Option<io::ErrorKind>,
    /// Whether nothing comes behind what there is to read.
    has_ended: bool,
    waker: Option<Waker>,
    reads: usize,
    writes: usize,
}

#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Script>>);

impl Scripted {
    fn get<T>(&self, of: impl FnOnce(&mut Script) -> T) -> T {
        of(&mut self.0.lock().unwrap())
    }

    /// Sends back what was written, and reports that to the engine.
    fn echo(&self) {
        let waker = self.get(|script| {
            script.to_read.append(&mut script.written);
            script.waker.take()
        });
        waker.unwrap().wake();
    }

    fn unblock(&self) {
        let waker = self.get(|script| {
            script.is_blocked = false;
            script.waker.take()
        });
        waker.unwrap().wake();
    }

    /// How often the engine has read and written, whether or not there was something.
    fn calls(&self) -> (usize, usize) {
        self.get(|script| (script.reads, script.writes))
    }
}

impl AsyncRead for Scripted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get(|script| {
            script.reads += 1;
            if script.to_read.is_empty() {
                if script.has_ended {
                    return Poll::Ready(Ok(()));
                }
                script.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let length = buffer.remaining().min(script.to_read.len());
            buffer.put_slice(&script.to_read[..length]);
            script.to_read.drain(..length);
            Poll::Ready(Ok(()))
        })
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get(|script| {
            script.writes += 1;
            if let Some(kind) = script.refusal {
                return Poll::Ready(Err(kind.into()));
            }
            if script.is_blocked {
                script.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            script.written.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Counts how often the engine's task is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn bytes(peer: &Scripted) -> Link {
    Link::Bytes(Bytes { stream: Box::new(peer.clone()), is_over_tls: false })
}

struct Bench {
    engine: Engine,
    peers: Vec<Scripted>,
    woken: Arc<Woken>,
}

impl Bench {
    fn new(connections: usize, orders: Orders) -> Bench {
        Bench::with_size(64, connections, orders)
    }

    fn with_size(size: usize, connections: usize, orders: Orders) -> Bench {
        let peers: Vec<_> = (0..connections).map(|_| Scripted::default()).collect();
        let links: Vec<_> = peers.iter().map(bytes).collect();
        let payloads = Payloads::new(&Messages::new().size(size));
        let mut engine =
            Engine::new(links, &payloads, Pace::new().unwrap(), Arc::<Ready>::default());
        engine.begin(orders);
        Bench { engine, peers, woken: Arc::default() }
    }

    /// Has the engine's task polled once. Returns whether it is done.
    fn turn(&mut self) -> bool {
        let waker = Waker::from(Arc::clone(&self.woken));
        self.engine.poll(&mut Context::from_waker(&waker)).is_ready()
    }

    /// Turns until the engine waits for something to happen.
    fn settle(&mut self) {
        loop {
            let before = self.woken.0.load(Ordering::Relaxed);
            if self.turn() || self.woken.0.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }

    fn calls(&self) -> (usize, usize) {
        let calls = self.peers.iter().map(Scripted::calls);
        calls.fold((0, 0), |sum, calls| (sum.0 + calls.0, sum.1 + calls.1))
    }

    fn finish(self) -> Summary {
        self.engine.finish().0
    }
}

/// `total` messages, one a second, the first of which is due at `start`.
fn each_second(connections: usize, start: Instant, total: u32) -> Orders {
    let end = start + total * SECOND;
    let share = Share { rate: 1.0, of_connections: connections, thread: 0, of_threads: 1 };
    let plan = Plan::Schedule(Schedule::new(share, connections, start, end));
    Orders { start, count_from: start, end, limit: u64::MAX, timeout: HOUR, plan, is_udp: false }
}

fn replies(in_flight: usize) -> Orders {
    let start = Instant::now();
    let plan = Plan::Replies(in_flight);
    let (end, limit) = (start + HOUR, u64::MAX);
    Orders { start, count_from: start, end, limit, timeout: HOUR, plan, is_udp: false }
}

fn ago(time: Duration) -> Instant {
    Instant::now().checked_sub(time).expect("the machine has been up for a while")
}

#[tokio::test]
async fn connections_share_one_timer_which_is_armed_once_a_due_time() {
    let mut bench = Bench::new(1000, each_second(1000, Instant::now() + HOUR, 5000));
    for _ in 0..10 {
        assert!(!bench.turn());
    }
    assert_eq!(bench.engine.arms(), 1);
    assert_eq!(bench.woken.0.load(Ordering::Relaxed), 0, "it sleeps");
}

#[tokio::test]
async fn a_turn_touches_only_connections_that_were_woken_or_are_due() {
    let mut bench = Bench::new(100, replies(1));
    bench.settle();
    // Each was read once, before the beginning and when it got its first turn.
    let before = bench.calls();
    assert_eq!(before.1, 100);
    bench.turn();
    assert_eq!(bench.calls(), before);
    bench.peers[7].echo();
    bench.turn();
    // One read that finds the reply, one that finds no more, and a write.
    assert_eq!(bench.calls(), (before.0 + 2, before.1 + 1));
    assert_eq!(bench.engine.counts().replies, 1);
}

#[tokio::test]
async fn the_kernel_is_asked_between_a_few_messages_however_many_are_due() {
    let mut bench = Bench::new(300, each_second(300, ago(30 * SECOND), 30));
    let mut most = 0;
    loop {
        let before = bench.calls().1;
        let woken = bench.woken.0.load(Ordering::Relaxed);
        bench.turn();
        most = most.max(bench.calls().1 - before);
        if bench.woken.0.load(Ordering::Relaxed) == woken {
            break;
        }
    }
    assert_eq!((bench.calls().1, most), (30, 4));
}

#[tokio::test]
async fn a_connection_that_is_far_behind_sends_in_one_write() {
    let mut bench = Bench::new(1, each_second(1, ago(30 * SECOND), 30));
    bench.settle();
    assert_eq!((bench.calls().1, bench.engine.counts().sent), (1, 30));
}

#[tokio::test]
async fn what_the_probe_is_late_by_is_its_own() {
    let mut bench = Bench::new(1, each_second(1, ago(20 * SECOND), 10));
    bench.settle();
    bench.peers[0].echo();
    bench.settle();
    let summary = bench.finish();
    assert_eq!((summary.received(), summary.sent_late()), (10, 10));
    assert!(summary.late_by_max() >= Some(20 * SECOND), "{summary}");
    assert!(summary.rtt_max() < Some(10 * SECOND), "{summary}");
    assert!(summary.to_string().contains("the probe was late"), "{summary}");
}

#[tokio::test]
async fn what_a_service_that_takes_nothing_delays_is_the_services() {
    // One message fills a write. So the first is made when the probe comes to it, and the others find
    // that the connection takes nothing.
    let mut bench = Bench::with_size(64 * 1024, 1, each_second(1, ago(30 * SECOND), 10));
    bench.peers[0].get(|script| script.is_blocked = true);
    bench.settle();
    assert_eq!(bench.engine.counts().sent, 1);
    bench.peers[0].unblock();
    bench.settle();
    assert_eq!(bench.engine.counts().sent, 10);
    bench.peers[0].echo();
    bench.settle();
    let summary = bench.finish();
    assert_eq!((summary.received(), summary.sent_late(), summary.unsent()), (10, 1, 0));
    assert!(summary.rtt_min() < Some(20 * SECOND), "{summary}");
    // The second was due 29 seconds ago.
    assert!(summary.rtt_max() >= Some(29 * SECOND), "{summary}");
}

#[tokio::test]
async fn what_a_connection_never_takes_is_not_sent() {
    let mut bench = Bench::with_size(64 * 1024, 2, each_second(2, ago(30 * SECOND), 10));
    bench.peers[1].get(|script| script.is_blocked = true);
    bench.settle();
    let summary = bench.finish();
    // One of the blocked connection's messages is half sent.
    assert_eq!((summary.sent(), summary.unsent()), (6, 4), "{summary}");
}

#[tokio::test]
async fn a_round_trip_lies_between_the_write_and_the_read() {
    let mut bench = Bench::new(1, replies(1));
    let before = Instant::now();
    bench.settle();
    for _ in 0..100 {
        bench.peers[0].echo();
        bench.settle();
    }
    let elapsed = before.elapsed();
    let summary = bench.finish();
    assert_eq!(summary.received(), 100);
    // One follows the other, so together they take no longer than all of it.
    assert!(summary.rtt_mean().unwrap() * 100 <= elapsed, "{summary}, {elapsed:?}");
}

#[tokio::test]
async fn replies_that_come_together_are_answered_together() {
    let mut bench = Bench::new(1, replies(16));
    bench.settle();
    assert_eq!(bench.calls().1, 1);
    bench.peers[0].echo();
    bench.settle();
    assert_eq!((bench.calls().1, bench.engine.counts().sent), (2, 32));
}

#[tokio::test]
async fn a_write_that_fails_does_not_hide_what_came_before() {
    for (refusal, said) in [
        (io::ErrorKind::BrokenPipe, "closed by the peer after 64 bytes"),
        (io::ErrorKind::ConnectionReset, "reset by the peer after 64 bytes"),
    ] {
        let mut bench = Bench::new(1, each_second(1, ago(SECOND / 2), 3));
        bench.settle();
        assert_eq!(bench.engine.counts().sent, 1);
        // The echo is there, and nobody is told of it.
        bench.peers[0].get(|script| script.to_read = std::mem::take(&mut script.written));
        bench.peers[0].get(|script| (script.refusal, script.has_ended) = (Some(refusal), true));
        while bench.engine.counts().failures == 0 {
            bench.settle();
        }
        let summary = bench.finish();
        assert_eq!((summary.sent(), summary.received()), (2, 1), "{summary}");
        assert!(summary.to_string().contains(&format!("once: {said}")), "{summary}");
    }
}

#[tokio::test]
async fn a_load_that_is_stopped_leaves_messages_unanswered() {
    let ready = Arc::<Ready>::default();
    let peer = Scripted::default();
    let links = [bytes(&peer)];
    let payloads = Payloads::new(&Messages::new());
    let mut engine = Engine::new(links, &payloads, Pace::new().unwrap(), Arc::clone(&ready));
    engine.begin(replies(3));
    let waker = Waker::from(Arc::<Woken>::default());
    let mut cx = Context::from_waker(&waker);
    assert!(engine.poll(&mut cx).is_pending());
    ready.stop();
    assert!(engine.poll(&mut cx).is_ready());
    let summary = engine.finish().0;
    assert_eq!((summary.sent(), summary.unanswered(), summary.lost()), (3, 3, 0));
}

#[tokio::test]
async fn a_load_of_so_many_messages_ends_when_they_have_come_back() {
    let mut bench = Bench::new(3, Orders { limit: 10, ..replies(2) });
    bench.settle();
    for peer in [0, 1] {
        bench.peers[peer].echo();
        bench.settle();
    }
    // Six at first, two for the first two replies, and two more for two others.
    assert_eq!(bench.engine.counts().sent, 10);
    bench.peers.clone().iter().for_each(Scripted::echo);
    bench.settle();
    assert!(bench.turn(), "it is over");
    let summary = bench.finish();
    assert_eq!((summary.sent(), summary.received(), summary.unanswered()), (10, 10, 0));
}

#[tokio::test]
async fn a_load_of_fewer_messages_than_connections_ends_too() {
    let mut bench = Bench::new(5, Orders { limit: 2, ..replies(1) });
    bench.settle();
    assert_eq!(bench.engine.counts().sent, 2);
    for peer in bench.peers.clone() {
        if peer.get(|script| !script.written.is_empty()) {
            peer.echo();
        }
    }
    bench.settle();
    assert!(bench.turn(), "it is over");
    assert_eq!(bench.finish().received(), 2);
}

#[tokio::test]
async fn a_schedule_of_so_many_messages_ends_with_the_last() {
    let mut bench = Bench::new(2, Orders { limit: 3, ..each_second(2, ago(30 * SECOND), 20) });
    bench.settle();
    bench.peers.clone().iter().for_each(Scripted::echo);
    bench.settle();
    assert!(bench.turn(), "it is over");
    let summary = bench.finish();
    assert_eq!((summary.sent(), summary.received(), summary.unsent()), (3, 3, 0));
}

#[tokio::test]
async fn what_a_warm_up_sends_is_not_counted_even_if_it_comes_back_later() {
    let mut bench = Bench::new(2, replies(1));
    bench.engine.begin(Orders { count_from: Instant::now() + HOUR, limit: 3, ..replies(2) });
    bench.settle();
    assert_eq!(bench.engine.counts().sent, 4);
    bench.engine.end_warm_up();
    assert_eq!(bench.engine.counts().sent, 0);
    // Two replies to messages of the warm-up, each of which makes room for one that counts.
    bench.peers[0].echo();
    bench.settle();
    assert_eq!((bench.engine.counts().sent, bench.engine.counts().replies), (2, 0));
    bench.peers.clone().iter().for_each(Scripted::echo);
    bench.settle();
    bench.peers[0].echo();
    bench.settle();
    assert!(bench.turn(), "it is over");
    let summary = bench.finish();
    assert_eq!((summary.sent(), summary.received(), summary.lost()), (3, 3, 0), "{summary}");
    assert_eq!(summary.rtt().count(), 3);
}

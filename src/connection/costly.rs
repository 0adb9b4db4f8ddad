//! Turns for work that costs much processor time: one piece of it at a time on each thread, and
//! between two pieces the runtime asks the kernel for events.
//!
//! A task that wakes itself is polled again before the runtime asks the kernel, some sixty times
//! over. With many such tasks, a thread would not hear of its sockets for as long as all their work
//! takes. So whoever has costly work to do waits here for its turn, first come, first served. However
//! many clients make such work, the others wait for one piece of it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::clock::Moment;
use crate::echo::yield_turn;

thread_local! {
    /// A task that moves to another thread stays in the queue in which it asked first.
    static QUEUE: Arc<Mutex<Queue>> = Arc::default();
}

/// Who has the turn of a thread, and who waits for it.
#[derive(Debug, Default)]
struct Queue {
    next_ticket: u64,
    holder: Option<u64>,
    waiting: VecDeque<(u64, Waker)>,
}

impl Queue {
    /// Gives the turn to the one that has waited longest.
    fn pass_on(&mut self) {
        self.holder = self.waiting.pop_front().map(|(ticket, waker)| {
            waker.wake();
            ticket
        });
    }
}

/// One task's way to its turns.
#[derive(Debug, Default)]
pub(crate) struct CostlyTurn {
    place: Option<Place>,
    /// The work of this turn is done; it ends when the kernel has been asked.
    is_used: bool,
}

/// A place in the queue of a thread.
#[derive(Debug)]
struct Place {
    queue: Arc<Mutex<Queue>>,
    ticket: u64,
}

impl Place {
    /// A place in the queue of the current thread.
    fn here() -> Self {
        let queue = QUEUE.with(Arc::clone);
        let mut locked = lock(&queue);
        locked.next_ticket += 1;
        let ticket = locked.next_ticket;
        drop(locked);
        Place { queue, ticket }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queue = lock(&self.queue);
        if queue.holder == Some(self.ticket) {
            queue.pass_on();
        } else {
            queue.waiting.retain(|(waiting, _)| *waiting != self.ticket);
        }
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CostlyTurn {
    /// Ready when it is the task's turn to do one piece of work. Whoever has done it calls
    /// [`CostlyTurn::done`].
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_used {
            // The wake of a yield comes after the kernel has been asked.
            self.leave();
        }
        let Place { queue, ticket } = self.place.get_or_insert_with(Place::here);
        let mut queue = lock(queue);
        let holder = *queue.holder.get_or_insert(*ticket);
        if holder == *ticket {
            return Poll::Ready(());
        }
        match queue.waiting.iter_mut().find(|(waiting, _)| waiting == ticket) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => queue.waiting.push_back((*ticket, cx.waker().clone())),
        }
        Poll::Pending
    }

    /// The piece of work is done. The task is woken once the runtime has asked the kernel, and has
    /// to poll again or drop this, which ends the turn.
    pub(crate) fn done(&mut self, cx: &mut Context<'_>) {
        self.is_used = true;
        yield_turn(cx);
    }

    /// Ends the turn, or the wait for it.
    pub(crate) fn leave(&mut self) {
        self.is_used = false;
        self.place = None;
    }
}

/// How long one costly step counts: a connection may do 256 of them a second.
const STEP: Duration = Duration::from_nanos(1_000_000_000 / 256);

/// How far a connection may be ahead of that: 64 steps in one go.
const BURST: Duration = Duration::from_millis(250);

/// The costly steps of one session: each in a turn of its own, and no more of them than a connection
/// may do in a second.
#[derive(Debug)]
pub(super) struct CostlySteps {
    turn: CostlyTurn,
    /// The last step was costly, and more such work is to come.
    is_expected: bool,
    /// The instant up to which its steps so far count (ITU-T I.371).
    due: Moment,
    /// No step before this.
    pub(super) paused_until: Option<Moment>,
}

impl CostlySteps {
    pub(super) fn new(now: Moment) -> Self {
        CostlySteps {
            turn: CostlyTurn::default(),
            is_expected: false,
            due: now,
            paused_until: None,
        }
    }

    /// Ready when the session may do its next step. Pending: it is woken for it, or
    /// `paused_until` says when it may go on.
    pub(super) fn poll_step(&mut self, cx: &mut Context<'_>, now: Moment) -> Poll<()> {
        if !self.is_expected {
            return Poll::Ready(());
        }
        if self.due > now.after(BURST) {
            self.turn.leave();
            self.paused_until = Some(self.due.before(BURST));
            return Poll::Pending;
        }
        self.turn.poll(cx)
    }

    /// A costly step is done. The session is woken for the next one.
    pub(super) fn done(&mut self, cx: &mut Context<'_>, now: Moment) {
        self.is_expected = true;
        self.due = self.due.max(now).after(STEP);
        self.turn.done(cx);
    }

    /// What the session does next is not costly.
    pub(super) fn leave(&mut self) {
        self.is_expected = false;
        self.turn.leave();
    }
}

/// Does a piece of costly work in a turn of its own, and returns once that is over.
pub(crate) async fn in_turn<T>(work: impl FnOnce(&mut Context<'_>) -> T) -> T {
    let mut turn = CostlyTurn::default();
    let mut work = Some(work);
    let mut outcome = None;
    poll_fn(|cx| {
        if let Some(work) = work.take_if(|_| turn.poll(cx).is_ready()) {
            outcome = Some(work(cx));
            turn.done(cx);
            return Poll::Pending;
        }
        // The poll after that of the work: the kernel has been asked.
        outcome.take().map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::LocalSet;
    use tokio::task::yield_now;

    use super::super::clock::Clock;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Pieces of work that all tasks have done.
    type Pieces = Rc<Cell<usize>>;

    /// Works without end, as a client can make a session do.
    async fn toil(pieces: Pieces) {
        let mut turn = CostlyTurn::default();
        poll_fn(|cx| {
            if turn.poll(cx).is_ready() {
                pieces.set(pieces.get() + 1);
                turn.done(cx);
            }
            Poll::<()>::Pending
        })
        .await;
    }

    #[tokio::test]
    async fn between_two_pieces_of_work_the_kernel_is_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let local = LocalSet::new();
        let pieces = Pieces::default();
        for _ in 0..50 {
            local.spawn_local(toil(Rc::clone(&pieces)));
        }
        local.spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            while let Ok(byte) = stream.read_u8().await {
                stream.write_u8(byte).await.unwrap();
            }
        });
        let bystander = async {
            let mut client = TcpStream::connect(address).await.unwrap();
            for _ in 0..100 {
                let before = pieces.get();
                client.write_u8(b'x').await.unwrap();
                client.read_u8().await.unwrap();
                // There and back, both ends wait for the kernel once.
                let waited = pieces.get() - before;
                assert!(waited <= 4, "{waited} pieces of work");
            }
        };
        local.run_until(bystander).await;
        assert!(pieces.get() >= 100, "the work goes on all the same: {}", pieces.get());
    }

    #[tokio::test]
    async fn turns_go_round() {
        let local = LocalSet::new();
        let all: Vec<Pieces> = (0..10).map(|_| Pieces::default()).collect();
        for pieces in &all {
            local.spawn_local(toil(Rc::clone(pieces)));
        }
        local
            .run_until(async {
                while all[0].get() < 20 {
                    yield_now().await;
                }
            })
            .await;
        for pieces in &all {
            assert!((19..=21).contains(&pieces.get()), "{}", pieces.get());
        }
    }

    #[tokio::test]
    async fn who_is_dropped_keeps_no_turn() {
        let mut first = CostlyTurn::default();
        let mut second = CostlyTurn::default();
        let mut third = CostlyTurn::default();
        poll_fn(|cx| {
            assert!(first.poll(cx).is_ready());
            assert!(second.poll(cx).is_pending() && third.poll(cx).is_pending());
            second.leave();
            Poll::Ready(())
        })
        .await;
        drop(first);
        poll_fn(|cx| {
            assert!(third.poll(cx).is_ready());
            assert!(second.poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
    }

    /// The outcome of a poll with a waker of its own, and how often that waker was called.
    fn poll_with<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> (bool, Arc<Wakes>) {
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        (poll(&mut Context::from_waker(&waker)).is_ready(), wakes)
    }

    /// Counts its wakes.
    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wakes {
        fn count(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_turn_goes_to_whoever_has_waited_longest_by_its_last_waker() {
        let [mut first, mut second, mut third] = [(); 3].map(|()| CostlyTurn::default());
        assert!(poll_with(|cx| first.poll(cx)).0);
        assert!(poll_with(|cx| first.poll(cx)).0, "it has the turn until it is done");
        let (_, old) = poll_with(|cx| second.poll(cx));
        let (_, other) = poll_with(|cx| third.poll(cx));
        let (is_ready, last) = poll_with(|cx| second.poll(cx));
        assert!(!is_ready);
        first.leave();
        assert_eq!([&old, &last, &other].map(|wakes| wakes.count()), [0, 1, 0]);
        assert!(!poll_with(|cx| third.poll(cx)).0);
        assert!(!poll_with(|cx| first.poll(cx)).0, "the turn is given to the second already");
        assert!(poll_with(|cx| second.poll(cx)).0);
        drop(second);
        assert!(!poll_with(|cx| first.poll(cx)).0, "it is behind the third");
        assert!(poll_with(|cx| third.poll(cx)).0);
        drop(third);
        assert!(poll_with(|cx| first.poll(cx)).0);
    }

    #[tokio::test]
    async fn a_turn_ends_at_the_poll_after_the_kernel_was_asked() {
        let [mut one, mut other] = [(); 2].map(|()| CostlyTurn::default());
        assert!(poll_with(|cx| one.poll(cx)).0);
        let (_, other_wakes) = poll_with(|cx| other.poll(cx));
        let (_, wakes) = poll_with(|cx| {
            one.done(cx);
            Poll::<()>::Pending
        });
        assert_eq!((wakes.count(), other_wakes.count()), (0, 0));
        yield_now().await;
        assert_eq!((wakes.count(), other_wakes.count()), (1, 0), "the turn lasts until the poll");
        assert!(!poll_with(|cx| one.poll(cx)).0, "the other one is first");
        assert_eq!(other_wakes.count(), 1);
        assert!(poll_with(|cx| other.poll(cx)).0);
    }

    fn do_step(steps: &mut CostlySteps, now: Moment) {
        poll_with(|cx| {
            steps.done(cx, now);
            Poll::Ready(())
        });
    }

    #[tokio::test]
    async fn a_connection_has_a_burst_and_then_its_rate() {
        let start = Clock::new().now();
        let mut steps = CostlySteps::new(start);
        // Does as many steps as it may, and returns how many, and when it may do the next.
        let mut burst = |now| {
            for count in 0.. {
                if poll_with(|cx| steps.poll_step(cx, now)).0 {
                    do_step(&mut steps, now);
                } else {
                    let until = steps.paused_until.take().expect("there is no other turn");
                    return (count, until);
                }
            }
            unreachable!("the loop has no end")
        };
        // 250 ms have room for 64 steps, if the first of them is over at once.
        let (count, mut until) = burst(start);
        assert_eq!((count, until), (65, start.after(STEP)));
        for i in 2..100 {
            let (count, next) = burst(until);
            assert_eq!((count, next), (1, start.after(STEP * i)));
            until = next;
        }
        assert_eq!(STEP * 256, SECOND);
        // Time in which there was nothing to do gives it one burst and no more.
        let later = until.after(100 * SECOND);
        assert_eq!(burst(later), (65, later.after(STEP)));
        assert_eq!(burst(later.after(SECOND)), (65, later.after(SECOND + STEP)));
        assert_eq!(burst(later.after(SECOND + 10 * STEP)).0, 10);
    }

    #[tokio::test]
    async fn a_connection_that_pauses_or_does_cheap_work_leaves_the_turn_to_others() {
        let now = Clock::new().now();
        let is_free = || {
            let mut turn = CostlyTurn::default();
            poll_with(|cx| turn.poll(cx)).0
        };
        let mut steps = CostlySteps::new(now);
        assert!(poll_with(|cx| steps.poll_step(cx, now)).0);
        assert!(is_free(), "no costly work is expected yet");
        do_step(&mut steps, now);
        assert!(poll_with(|cx| steps.poll_step(cx, now)).0);
        assert!(!is_free());
        steps.leave();
        assert!(is_free());
        let mut other = CostlyTurn::default();
        assert!(poll_with(|cx| other.poll(cx)).0);
        assert!(poll_with(|cx| steps.poll_step(cx, now)).0, "cheap work needs no turn");
        do_step(&mut steps, now);
        assert!(!poll_with(|cx| steps.poll_step(cx, now)).0, "the other one has the turn");
        assert_eq!(steps.paused_until, None);
        drop(other);
        while steps.paused_until.is_none() {
            if poll_with(|cx| steps.poll_step(cx, now)).0 {
                assert!(!is_free());
                do_step(&mut steps, now);
            }
        }
        assert!(is_free(), "during the pause");
    }

    #[tokio::test]
    async fn a_piece_of_work_has_a_turn_that_ends_when_the_kernel_was_asked() {
        let mut blocker = CostlyTurn::default();
        poll_fn(|cx| blocker.poll(cx)).await;
        let is_done = Cell::new(false);
        let mut work = pin!(in_turn(|_| is_done.set(true)));
        assert!(futures::poll!(work.as_mut()).is_pending());
        assert!(!is_done.get(), "another one has the turn");
        drop(blocker);
        assert!(futures::poll!(work.as_mut()).is_pending());
        assert!(is_done.get());
        let mut next = CostlyTurn::default();
        assert!(!poll_with(|cx| next.poll(cx)).0, "the turn lasts until the next poll");
        work.await;
        assert!(poll_with(|cx| next.poll(cx)).0);
    }
}

//! Replies that do not leave at once.

use std::collections::VecDeque;
use std::task::Waker;

use super::*;
use crate::echo::Goodbye;
use crate::echo::datagrams::way::{Reply, Way};
use crate::echo::datagrams::{PATIENCE, RELEASES};

/// A way on which replies stay until it is opened.
#[derive(Debug, Default)]
struct Gate {
    waiting: VecDeque<Reply>,
    is_open: bool,
    doubles: bool,
}

impl Way for Gate {
    const IS_DIRECT: bool = false;

    fn take(&mut self, reply: Reply, may_double: impl FnOnce() -> bool) {
        if self.doubles && may_double() {
            self.waiting.push_back(reply.clone());
        }
        self.waiting.push_back(reply);
    }

    fn poll_next(&mut self, _cx: &mut Context<'_>, hurry: bool) -> Poll<Option<&Reply>> {
        if self.waiting.is_empty() || self.is_open || hurry {
            return Poll::Ready(self.waiting.front());
        }
        Poll::Pending
    }

    fn pop(&mut self) {
        self.waiting.pop_front();
    }
}

type Detouring = DatagramEcho<Scripted, Verbatim, Gate>;

fn detouring(socket: Scripted, answerable: Answerable) -> Detouring {
    let rules = Arc::new(Rules::new(answerable, Box::new(|_, _| {})));
    DatagramEcho::over(socket, Verbatim, Gate::default(), rules, Arc::default())
}

/// An echo that will receive datagrams of these sizes, each by itself.
fn receiving(sizes: &[usize]) -> Detouring {
    let received = sizes.iter().map(|size| Ok(vec![*size])).collect();
    detouring(Scripted { received, ..Scripted::default() }, Answerable::default())
}

/// Makes steps until there is nothing to do.
fn settle(echo: &mut Detouring) {
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(step) = echo.poll_step(&mut cx) {
        assert_eq!(step.unwrap(), Step::Moved);
    }
}

fn sent(echo: &Detouring) -> Vec<usize> {
    echo.socket.replies.lock().unwrap().iter().map(Vec::len).collect()
}

#[tokio::test(start_paused = true)]
async fn replies_leave_when_their_way_lets_them_and_are_not_owed_before() {
    let mut echo = receiving(&[10, 0, 20]);
    settle(&mut echo);
    assert_eq!(echo.traffic(), Traffic { received: 30, sent: 0, messages: 3 });
    assert!(!echo.owes());
    echo.way.is_open = true;
    settle(&mut echo);
    assert_eq!(sent(&echo), [10, 0, 20]);
    assert_eq!(echo.traffic(), Traffic { received: 30, sent: 30, messages: 3 });
}

#[tokio::test(start_paused = true)]
async fn at_the_end_all_are_sent_at_once() {
    let mut echo = receiving(&[10; 3 * RELEASES]);
    settle(&mut echo);
    assert_eq!(sent(&echo).len(), 0);
    poll_fn(|cx| echo.poll_close(cx, Goodbye::GoingAway)).await.unwrap();
    assert_eq!(sent(&echo), [10; 3 * RELEASES]);
}

#[tokio::test(start_paused = true)]
async fn one_step_does_not_send_for_ever() {
    let mut echo = receiving(&[10; 3 * RELEASES]);
    settle(&mut echo);
    echo.way.is_open = true;
    run_one(&mut echo).await;
    assert_eq!(sent(&echo).len(), RELEASES);
}

async fn run_one(echo: &mut Detouring) {
    assert_eq!(poll_fn(|cx| echo.poll_step(cx)).await.unwrap(), Step::Moved);
}

#[tokio::test(start_paused = true)]
async fn what_finds_no_room_is_dropped_after_a_while() {
    let mut echo = receiving(&[10, 20, 30]);
    settle(&mut echo);
    echo.way.is_open = true;
    echo.socket.sent_alone.extend([Ok(()), Err(EAGAIN), Err(EAGAIN), Err(EAGAIN)]);
    settle(&mut echo);
    assert!(echo.owes());
    // Nothing is received while there is no room.
    echo.socket.received.push_back(Ok(vec![40]));
    settle(&mut echo);
    assert_eq!(echo.traffic().messages, 3);
    let start = Instant::now();
    run_one(&mut echo).await;
    assert_eq!(start.elapsed(), PATIENCE);
    assert_eq!(echo.rules.unanswered(Unanswered::NoRoom), 2);
    assert!(!echo.owes());
    assert_eq!(sent(&echo), [10, 40]);
}

#[tokio::test(start_paused = true)]
async fn what_finds_room_in_time_is_sent() {
    let mut echo = receiving(&[10, 20]);
    settle(&mut echo);
    echo.socket.sent_alone.extend([Err(EAGAIN)]);
    let closed = poll_fn(|cx| echo.poll_close(cx, Goodbye::GoingAway)).now_or_never();
    assert!(closed.is_none() && echo.owes());
    poll_fn(|cx| echo.poll_close(cx, Goodbye::GoingAway)).await.unwrap();
    assert_eq!(sent(&echo), [10, 20]);
    assert_eq!(echo.rules.unanswered(Unanswered::NoRoom), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_the_system_refuses_is_counted_and_the_next_one_leaves() {
    let mut echo = receiving(&[10, 20]);
    echo.way.is_open = true;
    echo.socket.sent_alone.extend([Err(EPERM)]);
    settle(&mut echo);
    assert_eq!(echo.rules.unanswered(Unanswered::SendFailed), 1);
    assert_eq!(sent(&echo), [20]);
}

#[tokio::test(start_paused = true)]
async fn replies_leave_during_a_pause_after_a_failed_receive() {
    let mut echo = receiving(&[10]);
    echo.socket.received.push_back(Err(ENOMEM));
    settle(&mut echo);
    echo.way.is_open = true;
    settle(&mut echo);
    assert_eq!(sent(&echo), [10]);
}

#[tokio::test(start_paused = true)]
async fn a_second_reply_counts_against_the_rate_limit() {
    let limited = Answerable { rate: Some(2), ..Answerable::default() };
    let received = (1..=5).map(|size| Ok(vec![size])).collect();
    let mut echo = detouring(Scripted { received, ..Scripted::default() }, limited);
    (echo.way.is_open, echo.way.doubles) = (true, true);
    settle(&mut echo);
    // A burst has four.
    assert_eq!(sent(&echo), [1, 1, 2, 2]);
    assert_eq!(echo.rules.unanswered(Unanswered::RateLimit), 3);
}

#[tokio::test(start_paused = true)]
async fn a_train_is_taken_apart() {
    let ancillary = Ancillary { segment: 4, ..Received::NOTHING.ancillary };
    let received = [Ok(vec![10])].into_iter().collect();
    let socket = Scripted { received, ancillary: Some(ancillary), ..Scripted::default() };
    let mut echo = detouring(socket, Answerable::default());
    echo.way.is_open = true;
    settle(&mut echo);
    assert_eq!(sent(&echo), [4, 4, 2]);
    assert_eq!(echo.traffic(), Traffic { received: 10, sent: 10, messages: 3 });
}

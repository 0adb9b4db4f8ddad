//! The datagram echo on a socket whose system calls are scripted.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use nix::libc::{EAGAIN, EMSGSIZE, ENOBUFS, ENOMEM, ENOSYS, EPERM};
use tokio::time::Instant;

use super::batch::{Ancillary, Batch, LIMIT, Received};
use super::rules::{Answerable, Rules, Unanswered};
use super::socket::DatagramSocket;
use super::{DatagramEcho, RECOVERY};
use crate::echo::{Echo, Step, Traffic};

/// The results of calls, in order. An error is an errno.
type Script<T> = VecDeque<Result<T, i32>>;

/// Plays its scripts, one entry a call. After their end nothing more is received, and every send
/// succeeds.
#[derive(Default)]
struct Scripted {
    received: Script<Vec<usize>>,
    sent: Script<()>,
    sent_alone: Script<()>,
    calls: Arc<Mutex<Calls>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Calls {
    receive: usize,
    send: usize,
    send_one: usize,
}

fn peer() -> SocketAddr {
    ([192, 0, 2, 7], 5000).into()
}

impl DatagramSocket for Scripted {
    fn poll_receive(
        &mut self,
        _cx: &mut Context<'_>,
        batch: &mut Batch,
        _many: bool,
    ) -> Poll<io::Result<usize>> {
        let Some(result) = self.received.pop_front() else { return Poll::Pending };
        self.calls.lock().unwrap().receive += 1;
        let sizes = result.map_err(io::Error::from_raw_os_error)?;
        let (_slots, received) = batch.begin();
        for (slot, length) in sizes.iter().copied().enumerate() {
            received.push(Received { slot, length, peer: peer(), ..Received::NOTHING });
        }
        Poll::Ready(Ok(sizes.len()))
    }

    fn try_send(&mut self, batch: &Batch, ends: &mut [usize; LIMIT]) -> io::Result<usize> {
        self.calls.lock().unwrap().send += 1;
        // As on Linux: a run of equal sizes is one train, and one call sends the whole batch.
        let mut count = 0;
        let mut at = batch.answered;
        while at < batch.received.len() {
            at = batch.train(at);
            ends[count] = at;
            count += 1;
        }
        match self.sent.pop_front() {
            Some(Err(number)) => Err(io::Error::from_raw_os_error(number)),
            Some(Ok(())) | None => Ok(count),
        }
    }

    fn try_send_one(
        &mut self,
        _payload: &[u8],
        _peer: SocketAddr,
        _ancillary: Ancillary,
    ) -> io::Result<()> {
        self.calls.lock().unwrap().send_one += 1;
        match self.sent_alone.pop_front() {
            Some(Err(number)) => Err(io::Error::from_raw_os_error(number)),
            Some(Ok(())) | None => Ok(()),
        }
    }

    fn poll_writable(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

/// An echo over `socket`, with its rules and the socket's counters.
fn echo(socket: Scripted) -> (DatagramEcho<Scripted>, Arc<Rules>, Arc<Mutex<Calls>>) {
    let rules = Arc::new(Rules::new(Answerable::default(), Box::new(|_, _| {})));
    let calls = Arc::clone(&socket.calls);
    (DatagramEcho::over(socket, Arc::clone(&rules), Arc::default()), rules, calls)
}

/// Makes `steps` steps.
async fn run(echo: &mut DatagramEcho<Scripted>, steps: usize) {
    for _ in 0..steps {
        assert_eq!(poll_fn(|cx| echo.poll_step(cx)).await.unwrap(), Step::Moved);
    }
}

#[tokio::test(start_paused = true)]
async fn a_receive_that_fails_is_tried_again_after_a_pause() {
    for number in [EPERM, ENOSYS, ENOMEM, ENOBUFS] {
        let received = [Err(number), Err(number), Err(number), Ok(vec![10])].into_iter().collect();
        let (mut echo, _, calls) = echo(Scripted { received, ..Scripted::default() });
        let start = Instant::now();
        run(&mut echo, 4).await;
        assert_eq!(start.elapsed(), 3 * RECOVERY, "{number}");
        assert_eq!(*calls.lock().unwrap(), Calls { receive: 4, send: 1, send_one: 0 });
        assert_eq!(echo.traffic(), Traffic { received: 10, sent: 10, messages: 1 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_the_system_refuses_is_counted_and_the_next_one_is_sent() {
    for number in [EPERM, ENOBUFS, ENOSYS, EMSGSIZE] {
        let received = [Ok(vec![10]), Ok(vec![20])].into_iter().collect();
        let sent = [Err(number)].into_iter().collect();
        let (mut echo, rules, calls) = echo(Scripted { received, sent, ..Scripted::default() });
        run(&mut echo, 2).await;
        assert_eq!(rules.unanswered(Unanswered::SendFailed), 1, "{number}");
        assert_eq!(*calls.lock().unwrap(), Calls { receive: 2, send: 2, send_one: 0 });
        assert_eq!(echo.traffic(), Traffic { received: 30, sent: 20, messages: 2 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_train_that_the_system_refuses_is_sent_as_its_datagrams() {
    let received = [Ok(vec![100; 4])].into_iter().collect();
    let sent = [Err(EMSGSIZE)].into_iter().collect();
    let sent_alone = [Ok(()), Err(EPERM), Err(EAGAIN), Ok(())].into_iter().collect();
    let (mut echo, rules, calls) =
        echo(Scripted { received, sent, sent_alone, ..Scripted::default() });
    run(&mut echo, 1).await;
    assert_eq!(*calls.lock().unwrap(), Calls { receive: 1, send: 1, send_one: 4 });
    assert_eq!(echo.traffic(), Traffic { received: 400, sent: 200, messages: 4 });
    assert_eq!(rules.unanswered(Unanswered::SendFailed), 1);
    assert_eq!(rules.unanswered(Unanswered::NoRoom), 1);
}

/// The error is not about segmentation, so its datagrams are not tried one by one.
#[tokio::test(start_paused = true)]
async fn a_train_that_a_firewall_refuses_is_given_up_whole() {
    let received = [Ok(vec![100; 4])].into_iter().collect();
    let sent = [Err(EPERM)].into_iter().collect();
    let (mut echo, rules, calls) = echo(Scripted { received, sent, ..Scripted::default() });
    run(&mut echo, 1).await;
    assert_eq!(*calls.lock().unwrap(), Calls { receive: 1, send: 1, send_one: 0 });
    assert_eq!(rules.unanswered(Unanswered::SendFailed), 4);
}

#[tokio::test(start_paused = true)]
async fn replies_that_find_no_room_are_dropped_after_a_while() {
    let received = [Ok(vec![10, 20, 30]), Ok(vec![40])].into_iter().collect();
    let sent = [Err(EAGAIN), Err(EAGAIN), Err(EAGAIN)].into_iter().collect();
    let (mut echo, rules, _) = echo(Scripted { received, sent, ..Scripted::default() });
    run(&mut echo, 1).await;
    assert!(echo.owes());
    let start = Instant::now();
    // Nothing is received while replies wait.
    run(&mut echo, 1).await;
    assert_eq!(start.elapsed(), Duration::from_millis(100));
    assert!(!echo.owes());
    assert_eq!(rules.unanswered(Unanswered::NoRoom), 3);
    assert_eq!(echo.traffic(), Traffic { received: 100, sent: 40, messages: 4 });
}

#[tokio::test(start_paused = true)]
async fn replies_that_find_room_in_time_are_all_sent() {
    let received = [Ok(vec![10, 20]), Ok(vec![40])].into_iter().collect();
    let sent = [Err(EAGAIN)].into_iter().collect();
    let (mut echo, rules, calls) = echo(Scripted { received, sent, ..Scripted::default() });
    run(&mut echo, 1).await;
    assert!(echo.owes());
    run(&mut echo, 1).await;
    assert_eq!(rules.unanswered(Unanswered::NoRoom), 0);
    assert_eq!(*calls.lock().unwrap(), Calls { receive: 2, send: 3, send_one: 0 });
    assert_eq!(echo.traffic(), Traffic { received: 70, sent: 70, messages: 3 });
}

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
use super::{BACKOFF, DatagramEcho, RECOVERED_AFTER};
use crate::echo::{Echo, Step, Traffic};
use crate::logged::Logged;

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
    fn name(&self) -> String {
        "192.0.2.1:7".to_owned()
    }

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
        assert_eq!(start.elapsed(), (1 + 2 + 4) * *BACKOFF.start(), "{number}");
        assert_eq!(*calls.lock().unwrap(), Calls { receive: 4, send: 1, send_one: 0 });
        assert_eq!(echo.traffic(), Traffic { received: 10, sent: 10, messages: 1 });
    }
}

#[tokio::test(start_paused = true)]
async fn receives_that_fail_for_ever_are_tried_once_a_second_and_told_once() {
    let received = (0..65).map(|_| Err(ENOMEM)).collect();
    let (mut echo, _, _) = echo(Scripted { received, ..Scripted::default() });
    let log = Logged::here();
    let start = Instant::now();
    run(&mut echo, 65).await;
    // After 0.1, 0.3, 0.7 and 1.5 seconds, then once a second.
    assert_eq!(start.elapsed().as_secs(), 61);
    let lines = log.take();
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in ["WARN", "backing off", "192.0.2.1:7", "memory"] {
        assert!(lines[0].contains(part), "{part} is not in {lines:?}");
    }
    // One success does not end the episode, a while without failures does.
    echo.socket.received.extend([Ok(vec![10]), Err(EPERM), Ok(vec![10])]);
    run(&mut echo, 3).await;
    assert_eq!(log.take(), Vec::<String>::new());
    tokio::time::advance(RECOVERED_AFTER).await;
    echo.socket.received.extend([Ok(vec![10]), Ok(vec![10])]);
    run(&mut echo, 2).await;
    let lines = log.take();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("INFO") && lines[0].contains("again"), "{lines:?}");
    // The next episode is told again, and begins with a short pause.
    echo.socket.received.extend([Err(ENOMEM), Ok(vec![10])]);
    let start = Instant::now();
    run(&mut echo, 2).await;
    assert_eq!(start.elapsed(), *BACKOFF.start());
    assert_eq!(log.take().len(), 1);
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

//! The datagram echo on a socket whose system calls are scripted.

mod detour;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use nix::libc::{EAGAIN, EMSGSIZE, ENOBUFS, ENOMEM, ENOSYS, EPERM};
use proptest::prelude::*;
use tokio::time::Instant;

use super::answers::{Answers, Asked, Verbatim};
use super::batch::{Ancillary, Batch, LIMIT, Received};
use super::rules::{Answerable, Rules, Unanswered};
use super::socket::DatagramSocket;
use super::{BACKOFF, DatagramEcho, Direct, RECOVERED_AFTER};
use crate::echo::{Echo, Step, Traffic};
use crate::logged::Logged;

/// The results of calls, in order. An error is an errno.
type Script<T> = VecDeque<Result<T, i32>>;

/// Plays its scripts, one entry a call. After their end nothing more is received, and every send
/// succeeds.
#[derive(Default)]
struct Scripted {
    received: Script<Vec<usize>>,
    /// How the received datagrams begin. Those that are left over hold what their slot held.
    beginnings: VecDeque<Vec<u8>>,
    /// What the received datagrams have in common, beside their peer.
    ancillary: Option<Ancillary>,
    ttl: Option<u8>,
    sent: Script<()>,
    sent_alone: Script<()>,
    calls: Arc<Mutex<Calls>>,
    /// The datagrams that were sent.
    replies: Arc<Mutex<Vec<Vec<u8>>>>,
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
        let (slots, received) = batch.begin();
        for ((slot, place), length) in slots.enumerate().zip(sizes.iter().copied()) {
            if let Some(beginning) = self.beginnings.pop_front() {
                place[..beginning.len()].copy_from_slice(&beginning);
            }
            let mut datagram = Received { slot, length, peer: peer(), ..Received::NOTHING };
            datagram.ancillary = self.ancillary.unwrap_or(datagram.ancillary);
            datagram.ttl = self.ttl;
            received.push(datagram);
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
            Some(Ok(())) | None => {
                let sent = batch.received[batch.answered..].iter();
                self.replies.lock().unwrap().extend(sent.map(|each| batch.payload(each).to_vec()));
                Ok(count)
            }
        }
    }

    fn try_send_one(
        &mut self,
        payload: &[u8],
        _peer: SocketAddr,
        _ancillary: Ancillary,
    ) -> io::Result<()> {
        self.calls.lock().unwrap().send_one += 1;
        match self.sent_alone.pop_front() {
            Some(Err(number)) => Err(io::Error::from_raw_os_error(number)),
            Some(Ok(())) | None => {
                self.replies.lock().unwrap().push(payload.to_vec());
                Ok(())
            }
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
    (DatagramEcho::over(socket, Verbatim, Direct, Arc::clone(&rules), Arc::default()), rules, calls)
}

/// Peer, destination, TTL, TOS and bytes of a datagram that was asked about.
type Question = (SocketAddr, IpAddr, Option<u8>, u8, Vec<u8>);

/// Answers each datagram that begins with `?` with its second byte, as often as its third says.
#[derive(Debug, Default)]
struct Repeat {
    /// What it was asked.
    asked: RefCell<Vec<Question>>,
}

impl Answers for Repeat {
    const ANY: bool = true;

    fn answer(&self, asked: &Asked<'_>) -> Option<Vec<u8>> {
        let Asked { peer, destination, ttl, tos, bytes } = *asked;
        self.asked.borrow_mut().push((peer, destination, ttl, tos, bytes.to_vec()));
        match *bytes {
            [b'?', byte, times, ..] => Some(vec![byte; times.into()]),
            _ => None,
        }
    }
}

/// An echo of `datagrams`, all of one batch, that answers questions.
fn answering(
    datagrams: &[&[u8]],
    mut socket: Scripted,
    answerable: Answerable,
) -> DatagramEcho<Scripted, Repeat> {
    socket.received.push_back(Ok(datagrams.iter().map(|each| each.len()).collect()));
    socket.beginnings.extend(datagrams.iter().map(|each| each.to_vec()));
    let rules = Rules::new(answerable, Box::new(|_, _| {}));
    DatagramEcho::over(socket, Repeat::default(), Direct, Arc::new(rules), Arc::default())
}

/// Makes `steps` steps.
async fn run<A: Answers>(echo: &mut DatagramEcho<Scripted, A>, steps: usize) {
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

#[tokio::test]
async fn questions_are_answered_among_echoes() {
    let mut socket = Scripted { ttl: Some(61), ..Scripted::default() };
    let destination = IpAddr::from([192, 0, 2, 1]);
    socket.ancillary =
        Some(Ancillary { source: destination, tos: 0xb9, ..Received::NOTHING.ancillary });
    let datagrams: [&[u8]; 5] = [b"first", b"?a\x04.....", b"", b"?b\x00..", b"last"];
    let mut echo = answering(&datagrams, socket, Answerable::default());
    let replies = Arc::clone(&echo.socket.replies);
    run(&mut echo, 1).await;
    assert_eq!(*replies.lock().unwrap(), [&b"first"[..], b"aaaa", b"", b"", b"last"]);
    assert_eq!(echo.traffic(), Traffic { received: 22, sent: 13, messages: 5 });
    let asked = datagrams.map(|each| (peer(), destination, Some(61), 0xb9, each.to_vec()));
    assert_eq!(*echo.answers.asked.borrow(), asked);
}

#[tokio::test]
async fn an_answer_that_is_longer_than_its_question_is_not_sent() {
    let datagrams: [&[u8]; 3] = [b"?a\x05.", b"?b\x04.", b"?c\xff"];
    let mut echo = answering(&datagrams, Scripted::default(), Answerable::default());
    let replies = Arc::clone(&echo.socket.replies);
    run(&mut echo, 1).await;
    assert_eq!(*replies.lock().unwrap(), [&b"?a\x05."[..], b"bbbb", b"?c\xff"]);
}

#[tokio::test]
async fn what_the_rules_refuse_is_not_asked() {
    let limited = Answerable { rate: Some(1), ..Answerable::default() };
    let mut echo = answering(&[&b"?a\x01"[..]; 5], Scripted::default(), limited);
    run(&mut echo, 1).await;
    // A burst has two.
    assert_eq!(echo.answers.asked.borrow().len(), 2);
    assert_eq!(echo.rules.unanswered(Unanswered::RateLimit), 3);
    assert_eq!(*echo.socket.replies.lock().unwrap(), [b"a", b"a"]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_waits_for_room_is_sent_as_it_was() {
    // Its answer begins as a question does, so that asking again would be seen.
    let mut socket = Scripted::default();
    socket.sent.extend([Err(EAGAIN)]);
    let mut echo = answering(&[&b"??\x02."[..]], socket, Answerable::default());
    run(&mut echo, 1).await;
    assert!(echo.owes());
    echo.socket.received.push_back(Ok(vec![]));
    run(&mut echo, 1).await;
    assert_eq!(*echo.socket.replies.lock().unwrap(), [b"??"]);
    assert_eq!(echo.answers.asked.borrow().len(), 1);
}

#[tokio::test]
async fn answers_of_one_length_are_a_train_and_go_one_by_one_if_it_is_refused() {
    let datagrams: [&[u8]; 3] = [b"?a\x04...", b"?b\x04.", b"?c\x03.."];
    let mut socket = Scripted::default();
    socket.sent.extend([Err(EMSGSIZE)]);
    let mut echo = answering(&datagrams, socket, Answerable::default());
    run(&mut echo, 1).await;
    let calls = Calls { receive: 1, send: 1, send_one: 3 };
    assert_eq!(*echo.socket.calls.lock().unwrap(), calls);
    assert_eq!(*echo.socket.replies.lock().unwrap(), [&b"aaaa"[..], b"bbbb", b"ccc"]);
}

proptest! {
    #[test]
    fn no_reply_is_longer_than_its_datagram(
        datagrams in prop::collection::vec(
            prop_oneof![
                (any::<u8>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..300))
                    .prop_map(|(byte, times, rest)| [&[b'?', byte, times][..], &rest].concat()),
                prop::collection::vec(any::<u8>(), 0..300),
            ],
            1..LIMIT,
        ),
    ) {
        let each: Vec<&[u8]> = datagrams.iter().map(Vec::as_slice).collect();
        let mut echo = answering(&each, Scripted::default(), Answerable::default());
        run(&mut echo, 1).now_or_never().expect("nothing is waited for");
        let replies = echo.socket.replies.lock().unwrap();
        prop_assert_eq!(replies.len(), datagrams.len());
        for (reply, datagram) in replies.iter().zip(&datagrams) {
            match datagram[..] {
                [b'?', byte, times, ..] if usize::from(times) <= datagram.len() => {
                    prop_assert_eq!(reply, &vec![byte; times.into()]);
                }
                _ => prop_assert_eq!(reply, datagram),
            }
        }
    }
}

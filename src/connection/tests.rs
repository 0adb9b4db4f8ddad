//! Sessions on tokio's paused clock, which advances only when no task can run.

use std::fmt::Debug;
use std::future::{pending, poll_fn, ready};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};
use futures::{Future, FutureExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::{JoinHandle, JoinSet, coop, yield_now};
use tokio::time::{Instant, advance, timeout};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::costly::CostlyTurn;
use super::{Admitted, End, HandshakeError, Opened, Opening, Refused, Session, Sessions, Stage};
use crate::config::{Limits, Protocol, Timeouts};
use crate::echo::{Echo, EchoError, Frames, Goodbye, Moved, PeerEnd, Step, StreamEcho, Traffic};
use crate::logged::Logged;
use crate::net::Peer;

const SECOND: Duration = Duration::from_secs(1);

/// The capacity in bytes of the pipe between client and session, each way.
const PIPE: usize = 64;

fn sessions(change: impl FnOnce(&mut Timeouts)) -> Arc<Sessions> {
    let mut timeouts = Timeouts::default();
    change(&mut timeouts);
    Arc::new(Sessions::new(Limits::default(), 100, timeouts, 1))
}

fn admit(sessions: &Sessions) -> Admitted {
    sessions.admit(Protocol::Tcp, Peer::Ip(([127, 0, 0, 1], 1).into())).expect("there is room")
}

/// A session whose handshake is done at once.
fn session_of<E: Echo + Send + 'static>(sessions: &Arc<Sessions>, echo: E) -> Session<E> {
    Session::of_connection(sessions, admit(sessions), Opening::Done(Opened::new(echo, None)))
}

/// A client, and the session that echoes it.
fn connect(sessions: &Arc<Sessions>) -> (DuplexStream, JoinHandle<()>) {
    let (client, server) = duplex(PIPE);
    let session = session_of(sessions, StreamEcho::new(server, 1024));
    (client, tokio::spawn(session))
}

fn drained_and_aborted(sessions: &Sessions) -> (u64, u64) {
    let statistics = sessions.statistics();
    (statistics.drained, statistics.aborted)
}

/// Seconds on the paused clock until `session` is over.
async fn seconds_of(session: JoinHandle<()>) -> u64 {
    let start = Instant::now();
    session.await.unwrap();
    start.elapsed().as_secs()
}

/// Seconds until the client sees the server's end of stream; what came before is dropped.
async fn seconds_to_eof(client: &mut DuplexStream) -> u64 {
    let start = Instant::now();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    start.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_a_busy_one_is_not() {
    let sessions = sessions(|timeouts| timeouts.idle = Some(10 * SECOND));
    let (mut client, session) = connect(&sessions);
    for _ in 0..10 {
        tokio::time::sleep(9 * SECOND).await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'x');
    }
    assert_eq!(seconds_to_eof(&mut client).await, 10);
    drop(client);
    assert_eq!(seconds_of(session).await, 0);
}

#[tokio::test(start_paused = true)]
async fn without_an_idle_timeout_a_connection_stays() {
    let sessions = sessions(|timeouts| timeouts.idle = None);
    let (mut client, _session) = connect(&sessions);
    assert!(timeout(100_000 * SECOND, client.read_u8()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_is_closed_one_that_takes_little_is_not() {
    let sessions = sessions(|timeouts| {
        timeouts.idle = Some(1000 * SECOND);
        timeouts.stall = Some(60 * SECOND);
    });
    let (mut client, session) = connect(&sessions);
    // More than the pipe holds, so that something stays owed.
    client.write_all(&[7; PIPE]).await.unwrap();
    client.write_all(&[7; PIPE]).await.unwrap();
    client.write_all(&[7; PIPE / 2]).await.unwrap();
    for _ in 0..5 {
        tokio::time::sleep(59 * SECOND).await;
        assert_eq!(client.read_u8().await.unwrap(), 7);
    }
    assert_eq!(seconds_of(session).await, 60);
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_ends_the_busiest_connection() {
    let sessions = sessions(|timeouts| timeouts.lifetime = Some(100 * SECOND));
    let (mut client, session) = connect(&sessions);
    let start = Instant::now();
    while client.write_all(b"x").await.is_ok() && client.read_u8().await.is_ok() {
        tokio::time::sleep(SECOND).await;
    }
    // The byte of second 100 and the end of the lifetime meet.
    assert!((100..=101).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    drop(client);
    session.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_ends_a_stalled_connection_too() {
    let sessions = sessions(|timeouts| {
        timeouts.lifetime = Some(100 * SECOND);
        timeouts.stall = None;
        timeouts.idle = None;
    });
    let (mut client, session) = connect(&sessions);
    for _ in 0..2 {
        client.write_all(&[7; PIPE]).await.unwrap();
    }
    assert_eq!(seconds_of(session).await, 102);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_never_ends_is_ended() {
    let sessions = sessions(|timeouts| timeouts.handshake = Some(10 * SECOND));
    let admitted = admit(&sessions);
    let silence =
        std::future::pending::<Result<Opened<StreamEcho<DuplexStream>>, Refused>>().boxed();
    let session =
        tokio::spawn(Session::of_connection(&sessions, admitted, Opening::Handshake(silence)));
    assert_eq!(sessions.connections(), 1);
    assert_eq!(seconds_of(session).await, 10);
    assert_eq!(sessions.connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_ends_a_handshake_too() {
    let sessions = sessions(|timeouts| {
        timeouts.handshake = None;
        timeouts.lifetime = Some(10 * SECOND);
    });
    let silence =
        std::future::pending::<Result<Opened<StreamEcho<DuplexStream>>, Refused>>().boxed();
    let session = tokio::spawn(Session::of_connection(
        &sessions,
        admit(&sessions),
        Opening::Handshake(silence),
    ));
    assert_eq!(seconds_of(session).await, 10);
}

/// The reasons of the closing lines that the current thread has logged.
#[derive(Clone, Default)]
struct Reasons(Arc<Mutex<Vec<String>>>);

impl Reasons {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Subscriber for Reasons {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Visit for Reasons {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "reason" {
            self.0.lock().unwrap().push(value.to_owned());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

/// A session whose handshake has failed, and that tells its peer so for `farewell`.
fn refused(sessions: &Arc<Sessions>, farewell: Duration) -> JoinHandle<()> {
    let end = End::Handshake(HandshakeError::Tls("alert sent".to_owned()));
    let refused = Refused::with_farewell(end, tokio::time::sleep(farewell).boxed());
    let opening: Opening<StreamEcho<DuplexStream>> =
        Opening::Handshake(ready(Err(refused)).boxed());
    tokio::spawn(Session::of_connection(sessions, admit(sessions), opening))
}

#[tokio::test(start_paused = true)]
async fn a_failed_handshake_keeps_its_cause_whatever_ends_the_farewell() {
    let reasons = Reasons::default();
    let _log = tracing::subscriber::set_default(reasons.clone());
    let sessions = sessions(|timeouts| {
        timeouts.handshake = Some(SECOND);
        timeouts.lifetime = Some(SECOND);
    });
    // The farewell ends by itself, later than the timeout of a handshake.
    assert_eq!(seconds_of(refused(&sessions, 2 * SECOND)).await, 2);
    // A drain begins during the farewell, and waits for it.
    let session = refused(&sessions, 2 * SECOND);
    tokio::task::yield_now().await;
    sessions.advance(Stage::Draining);
    assert_eq!(seconds_of(session).await, 2);
    // The drain began before the session's first poll, and is over before the farewell.
    let session = refused(&sessions, 100 * SECOND);
    tokio::time::sleep(SECOND).await;
    sessions.advance(Stage::Aborting);
    assert_eq!(seconds_of(session).await, 0);
    assert_eq!(reasons.all(), ["TLS handshake failed: alert sent"; 3]);
    assert_eq!(drained_and_aborted(&sessions), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_close_is_waited_for_but_not_long() {
    let sessions = sessions(|timeouts| timeouts.idle = Some(10 * SECOND));
    let (mut client, session) = connect(&sessions);
    assert_eq!(seconds_to_eof(&mut client).await, 10);
    // The client has got the farewell, and goes on sending all the same.
    let start = Instant::now();
    while client.write_all(b"and another thing").await.is_ok() {
        tokio::time::sleep(SECOND / 10).await;
    }
    assert!(start.elapsed() >= 2 * SECOND, "what it sent meanwhile was not read");
    assert!(start.elapsed() < 3 * SECOND, "{:?}", start.elapsed());
    session.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drain_echoes_what_has_been_sent() {
    let sessions = sessions(|_| {});
    let (mut client, _session) = connect(&sessions);
    // Both happen before the session's first poll.
    client.write_all(b"sent before the drain").await.unwrap();
    sessions.advance(Stage::Draining);
    let mut echo = String::new();
    client.read_to_string(&mut echo).await.unwrap();
    assert_eq!(echo, "sent before the drain");
    drop(client);
    sessions.drain.emptied().await;
    assert_eq!(drained_and_aborted(&sessions), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_a_peer_that_never_pauses() {
    let sessions = sessions(|_| {});
    let (client, session) = connect(&sessions);
    let (mut reading, mut writing) = tokio::io::split(client);
    let sender = tokio::spawn(async move { while writing.write_all(&[7; PIPE]).await.is_ok() {} });
    let mut first = [0; 1000];
    reading.read_exact(&mut first).await.unwrap();
    sessions.advance(Stage::Draining);
    let mut rest = Vec::new();
    reading.read_to_end(&mut rest).await.unwrap();
    sender.abort();
    drop(reading);
    session.await.unwrap();
    assert_eq!(drained_and_aborted(&sessions), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_stuck_in_a_drain_is_aborted() {
    let sessions = sessions(|_| {});
    let (_idle_client, idle) = connect(&sessions);
    let (mut stuck_client, stuck) = connect(&sessions);
    for _ in 0..2 {
        stuck_client.write_all(&[7; PIPE]).await.unwrap();
    }
    sessions.advance(Stage::Draining);
    assert!(timeout(5 * SECOND, sessions.drain.emptied()).await.is_err());
    assert!(idle.is_finished() && !stuck.is_finished());
    sessions.advance(Stage::Aborting);
    sessions.drain.emptied().await;
    assert_eq!(drained_and_aborted(&sessions), (1, 1));
    // All that was sent before the abort is still there to read.
    let mut rest = Vec::new();
    stuck_client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, [7; PIPE]);
}

#[tokio::test(start_paused = true)]
async fn input_of_a_stalled_peer_does_not_postpone_its_end() {
    let sessions = sessions(|timeouts| timeouts.stall = Some(60 * SECOND));
    let (mut client, server) = duplex(PIPE);
    let echo = StreamEcho::framed(server, 1024, Frames::new(false, 1024));
    let session = tokio::spawn(session_of(&sessions, echo));
    // A binary frame that does not fit into the pipe on its way back.
    client.write_all(&[0x82, 0x80 | 100, 0, 0, 0, 0]).await.unwrap();
    client.write_all(&[7; 100]).await.unwrap();
    let start = Instant::now();
    // Pongs that nobody asked for need no answer.
    while client.write_all(&[0x8A, 0x80, 0, 0, 0, 0]).await.is_ok() {
        tokio::time::sleep(SECOND).await;
    }
    assert!((60..=62).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    session.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_pinged_at_intervals_and_closed_if_it_does_not_answer() {
    let sessions = sessions(|timeouts| {
        timeouts.ping = Some(10 * SECOND);
        timeouts.idle = Some(25 * SECOND);
    });
    let (mut client, server) = duplex(PIPE);
    let echo = StreamEcho::framed(server, 1024, Frames::new(false, 1024));
    let session = tokio::spawn(session_of(&sessions, echo));
    let start = Instant::now();
    for pings in 1..=5 {
        let mut ping = [0; 13];
        client.read_exact(&mut ping).await.unwrap();
        assert_eq!((ping[0], ping[1], &ping[2..]), (0x89, 11, &b"echo-server"[..]));
        assert_eq!(start.elapsed(), 10 * SECOND * pings);
        // A Pong of any payload will do. This one is empty, with a masking key of zeros.
        client.write_all(&[0x8A, 0x80, 0, 0, 0, 0]).await.unwrap();
    }
    // From now on the client does not answer.
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest.len(), 13 + 4, "a ping, and a Close");
    assert_eq!(rest[13..], [0x88, 2, 0x03, 0xE9]);
    assert_eq!(start.elapsed(), 75 * SECOND, "5 seconds after that, for an answer to the Close");
    drop(client);
    session.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_dies_inside_a_frame_is_closed_by_the_next_ping() {
    for (sent, echo) in [
        (&[0x82, 0x82, 0, 0, 0, 0, 7][..], &[0x82, 2, 7][..]),
        // A frame that is kept until it is whole can be pinged in front of.
        (&[0x81, 0x82, 0, 0, 0, 0, b'x'], b"\x89\x0becho-server\x88\x02\x03\xe9"),
        // Half of a header.
        (&[0x82, 0x82, 0], b"\x89\x0becho-server\x88\x02\x03\xe9"),
    ] {
        let sessions = sessions(|timeouts| timeouts.ping = Some(10 * SECOND));
        let (mut client, server) = duplex(PIPE);
        let stream = StreamEcho::framed(server, 1024, Frames::new(false, 1024));
        let session = tokio::spawn(session_of(&sessions, stream));
        client.write_all(sent).await.unwrap();
        let start = Instant::now();
        let mut received = vec![0; echo.len()];
        client.read_exact(&mut received).await.unwrap();
        assert_eq!(received, echo);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        let farewell = if echo.len() > 3 { 5 } else { 0 };
        assert_eq!(start.elapsed().as_secs(), 20 + farewell, "{sent:x?}");
        // The peer is dead and does not close.
        session.await.unwrap();
        assert!(start.elapsed() <= 30 * SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_goes_on_with_its_frame_is_not_closed_for_want_of_a_ping() {
    let sessions = sessions(|timeouts| timeouts.ping = Some(10 * SECOND));
    let (mut client, server) = duplex(PIPE);
    let echo = StreamEcho::framed(server, 1024, Frames::new(false, 1024));
    let session = tokio::spawn(session_of(&sessions, echo));
    client.write_all(&[0x82, 0x80 | 20, 0, 0, 0, 0]).await.unwrap();
    client.read_exact(&mut [0; 2]).await.unwrap();
    for _ in 0..19 {
        tokio::time::sleep(9 * SECOND).await;
        client.write_all(&[7]).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), 7);
    }
    assert!(!session.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_the_end_of_a_frame_but_not_for_ever() {
    for is_finished in [true, false] {
        let sessions = sessions(|timeouts| timeouts.stall = Some(60 * SECOND));
        let (mut client, server) = duplex(PIPE);
        let echo = StreamEcho::framed(server, 1024, Frames::new(false, 1024));
        let session = tokio::spawn(session_of(&sessions, echo));
        // Half of a binary frame.
        client.write_all(&[0x82, 0x82, 0, 0, 0, 0, 7]).await.unwrap();
        let mut echo = [0; 3];
        client.read_exact(&mut echo).await.unwrap();
        sessions.advance(Stage::Draining);
        tokio::time::sleep(10 * SECOND).await;
        let start = Instant::now();
        let mut rest = Vec::new();
        if is_finished {
            client.write_all(&[7]).await.unwrap();
            let mut rest = [0; 5];
            client.read_exact(&mut rest).await.unwrap();
            assert_eq!(rest, [7, 0x88, 2, 0x03, 0xE9]);
            client.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await.unwrap();
        }
        client.read_to_end(&mut rest).await.unwrap();
        drop(client);
        session.await.unwrap();
        assert_eq!(start.elapsed().as_secs(), if is_finished { 0 } else { 50 });
        assert!(rest.is_empty(), "{rest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_stall_timeout_closing_is_bounded_all_the_same() {
    let sessions = sessions(|timeouts| {
        timeouts.stall = None;
        timeouts.idle = Some(10 * SECOND);
    });
    let (mut client, session) = connect(&sessions);
    for _ in 0..2 {
        client.write_all(&[7; PIPE]).await.unwrap();
    }
    assert_eq!(seconds_of(session).await, 20);
}

#[tokio::test(start_paused = true)]
async fn the_longest_lifetime_does_not_overflow() {
    let sessions = sessions(|timeouts| {
        timeouts.lifetime = Some(Duration::MAX);
        timeouts.idle = Some(SECOND);
    });
    let (_client, session) = connect(&sessions);
    assert_eq!(seconds_of(session).await, 3);
    assert_eq!(sessions.statistics().panicked, 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stalls_in_a_drain_is_not_counted_as_drained() {
    let sessions = sessions(|timeouts| timeouts.stall = Some(SECOND));
    let (mut client, session) = connect(&sessions);
    for _ in 0..2 {
        client.write_all(&[7; PIPE]).await.unwrap();
    }
    sessions.advance(Stage::Draining);
    session.await.unwrap();
    assert_eq!(drained_and_aborted(&sessions), (0, 1));
}

fn sessions_within(max_buffered: usize) -> Arc<Sessions> {
    let limits = Limits { max_buffered: Some(max_buffered as u64), ..Limits::default() };
    let timeouts = Timeouts { idle: None, stall: None, ..Timeouts::default() };
    Arc::new(Sessions::new(limits, 100, timeouts, 1))
}

/// A client that has not read the first [`PIPE`] bytes of its echo, and the session, which holds as
/// many again. A second later nothing has changed.
async fn stalled(sessions: &Arc<Sessions>) -> (DuplexStream, JoinHandle<()>) {
    let (mut client, session) = connect(sessions);
    for _ in 0..2 {
        client.write_all(&[7; PIPE]).await.unwrap();
    }
    tokio::time::sleep(SECOND).await;
    (client, session)
}

fn finished(clients: &[(DuplexStream, JoinHandle<()>)]) -> Vec<bool> {
    clients.iter().map(|(_, session)| session.is_finished()).collect()
}

#[tokio::test(start_paused = true)]
async fn over_the_memory_limit_the_peers_that_stalled_longest_are_closed_and_nobody_else() {
    let sessions = sessions_within(3 * PIPE);
    let (mut bystander, bystanding) = connect(&sessions);
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(stalled(&sessions).await);
    }
    assert_eq!(finished(&clients), [true, true, false, false, false]);
    assert_eq!(sessions.statistics().evicted, 2);
    // What was sent before is still there to read.
    let mut echo = Vec::new();
    clients[0].0.read_to_end(&mut echo).await.unwrap();
    assert_eq!(echo, [7; PIPE]);
    bystander.write_all(b"x").await.unwrap();
    assert_eq!(bystander.read_u8().await.unwrap(), b'x');
    assert!(!bystanding.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_its_echo_makes_room_and_one_that_takes_some_is_not_the_oldest() {
    let sessions = sessions_within(3 * PIPE);
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(stalled(&sessions).await);
    }
    // The first takes all, the second a little.
    clients[0].0.read_exact(&mut [0; 2 * PIPE]).await.unwrap();
    clients[1].0.read_exact(&mut [0; 8]).await.unwrap();
    tokio::time::sleep(SECOND).await;
    clients.push(stalled(&sessions).await);
    assert_eq!(finished(&clients), [false, false, false, false]);
    clients.push(stalled(&sessions).await);
    assert_eq!(finished(&clients), [false, false, true, false, false]);
    assert_eq!(sessions.statistics().evicted, 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_kept_until_it_is_whole_counts_as_memory() {
    let sessions = sessions_within(150);
    let mut clients = Vec::new();
    for _ in 0..3 {
        let (mut client, server) = duplex(PIPE);
        let echo = StreamEcho::framed(server, 1024, Frames::new(false, 1024));
        let session = tokio::spawn(session_of(&sessions, echo));
        // A text frame of 100 bytes, of which 50 come.
        client.write_all(&[0x81, 0x80 | 100, 0, 0, 0, 0]).await.unwrap();
        client.write_all(&[b'x'; 50]).await.unwrap();
        tokio::time::sleep(SECOND).await;
        clients.push((client, session));
    }
    assert_eq!(finished(&clients), [true, false, false]);
}

#[tokio::test(start_paused = true)]
async fn without_a_memory_limit_nobody_is_closed_for_it() {
    let sessions = sessions(|timeouts| timeouts.stall = None);
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(stalled(&sessions).await);
    }
    assert_eq!(finished(&clients), [false; 5]);
}

/// Panics at its first step, as a bug would.
struct Buggy;

impl Echo for Buggy {
    const LINGER: Duration = Duration::ZERO;

    fn poll_step(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Step, EchoError>> {
        panic!("as the test asked")
    }

    fn poll_close(&mut self, _cx: &mut Context<'_>, _: Goodbye) -> Poll<Result<(), EchoError>> {
        Poll::Ready(Ok(()))
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    fn owes(&self) -> bool {
        false
    }

    fn moved(&self) -> Moved {
        Moved::default()
    }
}

#[tokio::test]
async fn a_panic_ends_only_its_own_connection() {
    let sessions = sessions(|_| {});
    let (mut bystander, _session) = connect(&sessions);
    let buggy = tokio::spawn(session_of(&sessions, Buggy));
    assert!(buggy.await.unwrap_err().is_panic());
    assert_eq!(sessions.statistics().panicked, 1);
    assert_eq!(sessions.connections(), 1, "its permit is free again");
    assert_eq!(sessions.drain.members(), 1, "and nobody waits for it in a drain");
    bystander.write_all(b"x").await.unwrap();
    assert_eq!(bystander.read_u8().await.unwrap(), b'x');
}

/// What a [`Scripted`] echo was asked for.
#[derive(Debug, Default)]
struct Asked {
    steps: usize,
    /// Each goodbye once, however often it was polled for.
    goodbyes: Vec<Goodbye>,
}

/// The outcome of the step of this number. The first step is 1.
type Steps = fn(usize, &mut Context<'_>) -> Poll<Result<Step, EchoError>>;

/// What has moved after this many steps, and whether the echo owes something.
type Progress = fn(usize) -> (Moved, bool);

/// An echo that does what a test says, step by step.
struct Scripted {
    steps: Steps,
    close: fn() -> Poll<Result<(), EchoError>>,
    progress: Progress,
    asked: Arc<Mutex<Asked>>,
}

impl Scripted {
    fn new(steps: Steps) -> Self {
        Scripted {
            steps,
            close: || Poll::Ready(Ok(())),
            progress: |_| (Moved::default(), false),
            asked: Arc::default(),
        }
    }

    fn progress(&self) -> (Moved, bool) {
        (self.progress)(self.asked.lock().unwrap().steps)
    }
}

impl Echo for Scripted {
    const LINGER: Duration = Duration::from_secs(3);

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, EchoError>> {
        let step = {
            let mut asked = self.asked.lock().unwrap();
            asked.steps += 1;
            asked.steps
        };
        (self.steps)(step, cx)
    }

    fn poll_close(&mut self, _cx: &mut Context<'_>, why: Goodbye) -> Poll<Result<(), EchoError>> {
        let goodbyes = &mut self.asked.lock().unwrap().goodbyes;
        if goodbyes.last() != Some(&why) {
            goodbyes.push(why);
        }
        (self.close)()
    }

    fn traffic(&self) -> Traffic {
        Traffic { received: 1, sent: 2, messages: 3 }
    }

    fn owes(&self) -> bool {
        self.progress().1
    }

    fn moved(&self) -> Moved {
        self.progress().0
    }
}

const OWES: Progress = |_| (Moved { inward: 1, outward: 0 }, true);
const OWES_NOT: Progress = |_| (Moved { inward: 1, outward: 1 }, false);
const MOVES: Poll<Result<Step, EchoError>> = Poll::Ready(Ok(Step::Moved));
const COSTS: Poll<Result<Step, EchoError>> = Poll::Ready(Ok(Step::Costly));

/// A waker that records whether it was called.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Polls a session once. Returns whether it was woken for another turn, at the latest when the
/// runtime had asked the kernel for events.
async fn take_turn(session: Pin<&mut impl Future<Output = ()>>) -> bool {
    let flag = Arc::new(Flag::default());
    let waker = Waker::from(Arc::clone(&flag));
    assert!(session.poll(&mut Context::from_waker(&waker)).is_pending());
    yield_now().await;
    flag.0.load(Ordering::Relaxed)
}

#[tokio::test]
async fn a_turn_ends_after_sixteen_steps_or_a_costly_one() {
    let cases: [(Steps, [usize; 3]); 3] = [
        (|_, _| MOVES, [16, 32, 48]),
        (|_, _| COSTS, [1, 2, 3]),
        (|step, _| if step == 5 { COSTS } else { MOVES }, [5, 21, 37]),
    ];
    for (steps, turns) in cases {
        let echo = Scripted::new(steps);
        let asked = Arc::clone(&echo.asked);
        let mut session = pin!(session_of(&sessions(|_| {}), echo));
        for steps in turns {
            assert!(
                take_turn(session.as_mut()).await,
                "the session is woken, since there is more to do"
            );
            assert_eq!(asked.lock().unwrap().steps, steps);
        }
    }
    let mut silent = pin!(session_of(&sessions(|_| {}), Scripted::new(|_, _| Poll::Pending)));
    assert!(!take_turn(silent.as_mut()).await, "there is nothing more to do");
}

#[tokio::test]
async fn a_message_that_inflates_to_much_takes_a_turn_of_its_own() {
    let mut text = Vec::with_capacity(1024);
    let mut compress = Compress::new(Compression::default(), false);
    // With its header it costs just more than a pass may cost.
    compress.compress_vec(&[b'x'; 256 * 1024 - 63], &mut text, FlushCompress::Sync).unwrap();
    text.truncate(text.len() - 4);
    let length = (text.len() as u16).to_be_bytes();
    // The same bytes as compressed text, and as binary.
    for (first, in_a_turn) in [(0xC1, 1), (0xC2, 6)] {
        let message = [&[first, 0x80 | 126][..], &length, &[0; 4], &text].concat();
        let echoed = [&[first, 126][..], &length, &text].concat();
        let (mut client, server) = duplex(4096);
        let echo = StreamEcho::framed(server, message.len(), Frames::new(true, 1024));
        let mut session = pin!(session_of(&sessions(|_| {}), echo));
        client.write_all(&message.repeat(6)).await.unwrap();
        let mut read = Vec::new();
        for turn in 1..=6 / in_a_turn {
            let has_more = take_turn(session.as_mut()).await;
            assert_eq!(
                has_more,
                in_a_turn == 1,
                "the session is woken only if there is more to do"
            );
            while client.read_buf(&mut read).now_or_never().is_some() {}
            assert_eq!(read, echoed.repeat(in_a_turn * turn));
        }
    }
}

/// Steps without an end, all of them costly.
fn costly_without_end() -> (Scripted, Arc<Mutex<Asked>>) {
    let echo = Scripted::new(|_, _| COSTS);
    let asked = Arc::clone(&echo.asked);
    (echo, asked)
}

#[tokio::test(start_paused = true)]
async fn a_connection_does_so_many_costly_steps_a_second_and_no_more() {
    let sessions = sessions(|_| {});
    let (echo, asked) = costly_without_end();
    let session = tokio::spawn(session_of(&sessions, echo));
    let steps = || asked.lock().unwrap().steps;
    tokio::time::sleep(Duration::from_micros(1)).await;
    // The first step and a burst of 64. The next one has to wait.
    assert!((64..=65).contains(&steps()), "{}", steps());
    for second in 1..=20 {
        tokio::time::sleep(SECOND).await;
        let expected = 64 + 256 * second;
        assert!((expected - 2..=expected + 1).contains(&steps()), "{second}: {}", steps());
    }
    assert!(!session.is_finished());
    // The server can end the session during a pause.
    sessions.advance(Stage::Aborting);
    session.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn costly_steps_of_one_connection_do_not_delay_those_of_another() {
    let sessions = sessions(|_| {});
    let echoes = [(); 3].map(|()| costly_without_end());
    let asked = echoes.each_ref().map(|(_, asked)| Arc::clone(asked));
    for (echo, _) in echoes {
        tokio::spawn(session_of(&sessions, echo));
    }
    tokio::time::sleep(10 * SECOND).await;
    for asked in asked {
        let steps = asked.lock().unwrap().steps;
        assert!((64 + 2560 - 2..=64 + 2560 + 1).contains(&steps), "{steps}");
    }
}

#[tokio::test(start_paused = true)]
async fn cheap_steps_are_not_limited_even_after_costly_ones() {
    // Each second step is costly: then 64 of them are followed by a pause, as above.
    let echo = Scripted::new(|step, _| match step {
        1..=200 if step % 2 == 0 => COSTS,
        1..10_000 => MOVES,
        _ => Poll::Pending,
    });
    let asked = Arc::clone(&echo.asked);
    let session = tokio::spawn(session_of(&sessions(|_| {}), echo));
    let start = Instant::now();
    while asked.lock().unwrap().steps < 10_000 {
        assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // A hundred costly steps, a burst of 64 of them at once.
    let pauses = start.elapsed().as_millis();
    assert!((100..200).contains(&pauses), "{pauses} ms");
    assert!(!session.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_ends_a_connection_whose_costly_steps_pause() {
    let sessions = sessions(|timeouts| timeouts.lifetime = Some(10 * SECOND));
    let (echo, asked) = costly_without_end();
    let session = tokio::spawn(session_of(&sessions, echo));
    assert_eq!(seconds_of(session).await, 10);
    assert_eq!(asked.lock().unwrap().goodbyes, [Goodbye::GoingAway]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_waits_for_its_turn_is_closed_like_any_other() {
    let mut others = CostlyTurn::default();
    poll_fn(|cx| others.poll(cx)).await;
    let sessions = sessions(|timeouts| timeouts.lifetime = Some(10 * SECOND));
    let (echo, asked) = costly_without_end();
    let session = tokio::spawn(session_of(&sessions, echo));
    tokio::time::sleep(SECOND).await;
    assert_eq!(asked.lock().unwrap().steps, 1, "the first one was not expected to be costly");
    assert_eq!(seconds_of(session).await, 9);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_says_goodbye_has_no_turn_and_waits_for_none() {
    async fn is_free() -> bool {
        yield_now().await;
        let mut turn = CostlyTurn::default();
        poll_fn(|cx| Poll::Ready(turn.poll(cx).is_ready())).await
    }
    let sessions = sessions(|timeouts| timeouts.lifetime = Some(10 * SECOND));
    let waits = |echo| Scripted { close: || Poll::Pending, ..echo };
    // It waits for its turn when its lifetime is over.
    let mut others = CostlyTurn::default();
    poll_fn(|cx| others.poll(cx)).await;
    let (echo, asked) = costly_without_end();
    let session = tokio::spawn(session_of(&sessions, waits(echo)));
    tokio::time::sleep(11 * SECOND).await;
    assert_eq!(asked.lock().unwrap().goodbyes, [Goodbye::GoingAway]);
    drop(others);
    assert!(is_free().await);
    assert!(!session.is_finished(), "the peer has time to close");
    // It has the turn when it has drained for long enough.
    sessions.advance(Stage::Draining);
    let (echo, asked) = costly_without_end();
    let session = tokio::spawn(session_of(&sessions, waits(echo)));
    tokio::time::sleep(SECOND).await;
    assert_eq!(asked.lock().unwrap().goodbyes, [Goodbye::GoingAway]);
    assert!(is_free().await);
    assert!(!session.is_finished(), "the peer has time to close");
}

#[tokio::test]
async fn a_draining_session_goes_on_until_its_input_pauses() {
    /// Uses up the budget that tokio gives to one poll of a task.
    fn tires(cx: &mut Context<'_>) -> Poll<Result<Step, EchoError>> {
        while pin!(coop::consume_budget()).poll(cx).is_ready() {}
        Poll::Pending
    }
    // How many other tasks there are, and how many steps the session asks for. The last two of the
    // steps bring nothing: before the first of these, the runtime may not have polled the kernel.
    let cases: [(&str, usize, Steps, usize); 8] = [
        ("silent", 0, |_, _| Poll::Pending, 2),
        ("a burst", 0, |step, _| if step <= 40 { MOVES } else { Poll::Pending }, 42),
        (
            "a late burst",
            0,
            |step, _| if (2..18).contains(&step) { MOVES } else { Poll::Pending },
            19,
        ),
        ("tired", 0, |step, cx| if step <= 5 { tires(cx) } else { Poll::Pending }, 7),
        ("without a pause", 0, |_, _| MOVES, 64 * 16),
        ("all costly", 0, |_, _| COSTS, 64),
        // With the session's own and the one that drives its deadlines, these are 1023 and 1024
        // tasks. A runtime takes 1024 events at a time.
        ("silent among fewer", 1021, |_, _| Poll::Pending, 2),
        ("silent among many", 1022, |_, _| Poll::Pending, 3),
    ];
    let mut others = JoinSet::new();
    for (name, tasks, steps, expected) in cases {
        while others.len() < tasks {
            others.spawn(pending::<()>());
        }
        let sessions = sessions(|_| {});
        let echo = Scripted::new(steps);
        let asked = Arc::clone(&echo.asked);
        sessions.advance(Stage::Draining);
        tokio::spawn(session_of(&sessions, echo)).await.unwrap();
        let asked = asked.lock().unwrap();
        assert_eq!(
            (asked.steps, &asked.goodbyes[..]),
            (expected, &[Goodbye::GoingAway][..]),
            "{name}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_stall_begins_when_something_is_owed_or_was_last_taken() {
    // The first step is at once, and one follows each second. The number is the seconds until the
    // session is over.
    let cases: [(&str, Progress, u64); 3] = [
        (
            "the peer sends, and takes nothing",
            |step| (Moved { inward: step as u64, outward: 0 }, true),
            10,
        ),
        (
            "the peer takes something until second 30",
            |step| (Moved { inward: 100, outward: step.min(31) as u64 }, true),
            40,
        ),
        (
            "the peer is owed something from second 15 on",
            |step| (Moved { inward: u64::from(step > 15), outward: 0 }, step > 15),
            25,
        ),
    ];
    for (name, progress, expected) in cases {
        let sessions = sessions(|timeouts| timeouts.stall = Some(10 * SECOND));
        let echo = Scripted { progress, ..Scripted::new(|_, _| Poll::Pending) };
        let mut session = Box::pin(session_of(&sessions, echo));
        let mut seconds = 0;
        while futures::poll!(session.as_mut()).is_pending() {
            assert!(seconds < expected, "{name}");
            advance(SECOND).await;
            seconds += 1;
        }
        assert_eq!(seconds, expected, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_a_handshake() {
    let sessions = sessions(|_| {});
    let admitted = admit(&sessions);
    let silence = pending::<Result<Opened<StreamEcho<DuplexStream>>, Refused>>().boxed();
    let session =
        tokio::spawn(Session::of_connection(&sessions, admitted, Opening::Handshake(silence)));
    yield_now().await;
    assert!(!session.is_finished());
    sessions.advance(Stage::Draining);
    assert_eq!(seconds_of(session).await, 0);
    assert_eq!(drained_and_aborted(&sessions), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn the_closing_line_has_all_of_its_fields() {
    let sessions = sessions(|_| {});
    let opening = async {
        advance(Duration::from_micros(2500)).await;
        Ok(Opened::new(
            Scripted::new(|_, _| Poll::Ready(Ok(Step::Ended(PeerEnd::Close(Some(1000)))))),
            Some(String::from("CN=somebody")),
        ))
    };
    let session =
        Session::of_connection(&sessions, admit(&sessions), Opening::Handshake(opening.boxed()));
    let lines = Logged::here();
    session.await;
    let line = "INFO message=Connection closed: 127.0.0.1:1 protocol=tcp conn=1 peer=127.0.0.1:1 \
        client=\"CN=somebody\" received=1 sent=2 messages=3 duration_ms=2.5 \
        reason=\"closed by the peer with 1000\"";
    assert_eq!(lines.take(), [line]);
}

#[tokio::test(start_paused = true)]
async fn the_closing_line_gives_the_reason() {
    const SILENT: Steps = |_, _| Poll::Pending;
    const ENDED: Steps = |_, _| Poll::Ready(Ok(Step::Ended(PeerEnd::EndOfStream)));
    const FAILED: Steps =
        |_, _| Poll::Ready(Err(EchoError::Read(io::ErrorKind::ConnectionReset.into())));
    const WRONG: Steps =
        |_, _| Poll::Ready(Err(EchoError::Protocol { code: 1002, detail: "it is a test" }));
    type Close = fn() -> Poll<Result<(), EchoError>>;
    const SAID: Close = || Poll::Ready(Ok(()));
    const BROKEN: Close = || Poll::Ready(Err(EchoError::Write(io::ErrorKind::BrokenPipe.into())));
    const WAITS: Close = || Poll::Pending;
    const DRAIN: Option<(u32, Stage)> = Some((5, Stage::Draining));
    let abort = |after| Some((after, Stage::Aborting));
    let (answer, going_away) = ([Goodbye::Answer], [Goodbye::GoingAway]);
    let last_word = [Goodbye::GoingAway, Goodbye::Answer];
    // What the echo does at a step and at its close, whether it owes, what the server does after how
    // many seconds, which goodbyes the echo is asked for, and the reason.
    type Case<'a> = (Steps, Close, Progress, Option<(u32, Stage)>, &'a [Goodbye], &'a str);
    let cases: [Case<'_>; 14] = [
        (ENDED, SAID, OWES_NOT, None, &answer, "end of stream"),
        (ENDED, BROKEN, OWES_NOT, None, &answer, "end of stream"),
        (FAILED, SAID, OWES_NOT, None, &[], "read failed: connection reset"),
        (
            WRONG,
            SAID,
            OWES_NOT,
            None,
            &answer,
            "protocol violation, closed with 1002: it is a test",
        ),
        (SILENT, SAID, OWES_NOT, None, &going_away, "idle timeout"),
        (SILENT, BROKEN, OWES_NOT, None, &going_away, "write failed: broken pipe"),
        (SILENT, WAITS, OWES_NOT, None, &last_word, "idle timeout"),
        (
            SILENT,
            WAITS,
            OWES,
            None,
            &going_away,
            "stall timeout: the peer took nothing of what it was owed",
        ),
        (SILENT, SAID, OWES_NOT, DRAIN, &going_away, "the server is shutting down"),
        (SILENT, BROKEN, OWES_NOT, DRAIN, &going_away, "write failed: broken pipe"),
        (SILENT, WAITS, OWES_NOT, abort(5), &[], "aborted by the server's shutdown"),
        (SILENT, WAITS, OWES, abort(5), &[], "aborted by the server's shutdown"),
        // The goodbye began after 10 seconds. A peer that has everything is not counted as aborted.
        (SILENT, WAITS, OWES_NOT, abort(11), &going_away, "idle timeout"),
        (SILENT, WAITS, OWES, abort(11), &going_away, "aborted by the server's shutdown"),
    ];
    let lines = Logged::here();
    for (i, (steps, close, progress, server, goodbyes, reason)) in cases.into_iter().enumerate() {
        let sessions = sessions(|timeouts| timeouts.idle = Some(10 * SECOND));
        let echo = Scripted { close, progress, ..Scripted::new(steps) };
        let asked = Arc::clone(&echo.asked);
        let mut session = Box::pin(session_of(&sessions, echo));
        if let Some((after, stage)) = server {
            assert!(timeout(after * SECOND, session.as_mut()).await.is_err());
            sessions.advance(stage);
        }
        session.await;
        assert_eq!(asked.lock().unwrap().goodbyes, goodbyes, "case {i}: {reason}");
        let lines = lines.take();
        let line = lines.last().unwrap();
        assert!(line.starts_with("INFO message=Connection closed: "), "case {i}: {line}");
        assert!(line.ends_with(&format!(" reason=\"{reason}\"")), "case {i}: {line}");
    }
}

#[tokio::test]
async fn a_panic_is_logged_as_an_error() {
    let lines = Logged::here();
    let session = session_of(&sessions(|_| {}), Buggy);
    assert!(tokio::spawn(session).await.unwrap_err().is_panic());
    let lines = lines.take();
    let line = lines.last().unwrap();
    assert!(line.starts_with("ERROR message=Connection closed: "), "{line}");
    assert!(line.ends_with(" reason=\"a bug: the connection's task panicked\""), "{line}");
}

#[tokio::test(start_paused = true)]
async fn a_socket_has_no_deadline_and_no_closing_line() {
    let lines = Logged::here();
    let sessions = sessions(|timeouts| timeouts.lifetime = Some(SECOND));
    let echo = Scripted { progress: OWES, ..Scripted::new(|_, _| Poll::Pending) };
    let mut session = Box::pin(Session::of_socket(&sessions, 0, echo));
    assert!(timeout(100_000 * SECOND, session.as_mut()).await.is_err());
    sessions.advance(Stage::Aborting);
    session.await;
    assert_eq!((lines.take(), drained_and_aborted(&sessions)), (vec![], (0, 0)));
}

/// An idle connection's memory is its task, which is mostly its session. Allocators round a task up
/// to their next size class, and a larger session would be in the class after that.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
#[test]
fn a_session_is_small() {
    type TcpStream = <crate::net::TcpListener as crate::net::Listener>::Stream;
    let tcp = size_of::<Session<StreamEcho<TcpStream>>>();
    let websocket = size_of::<Session<StreamEcho<TcpStream, Frames>>>();
    assert!(tcp <= 408 && websocket <= 536, "TCP {tcp}, WebSocket {websocket}");
}

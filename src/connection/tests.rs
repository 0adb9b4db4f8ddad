//! Sessions on tokio's paused clock, which advances only when no task can run.

use std::future::ready;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::{Admitted, End, Opened, Opening, Session, Sessions, Stage};
use crate::config::{Limits, Protocol, Timeouts};
use crate::echo::{Echo, EchoError, Frames, Goodbye, Moved, Step, StreamEcho, Traffic};
use crate::net::Peer;

const SECOND: Duration = Duration::from_secs(1);

/// The capacity in bytes of the pipe between client and session, each way.
const PIPE: usize = 64;

fn sessions(change: impl FnOnce(&mut Timeouts)) -> Arc<Sessions> {
    let mut timeouts = Timeouts::default();
    change(&mut timeouts);
    Arc::new(Sessions::new(Limits::default(), 100, timeouts))
}

fn admit(sessions: &Sessions) -> Admitted {
    sessions.admit(Protocol::Tcp, Peer::Ip(([127, 0, 0, 1], 1).into())).expect("there is room")
}

/// A session whose handshake is done at once.
fn session_of<E: Echo + Send + 'static>(sessions: &Arc<Sessions>, echo: E) -> Session<E> {
    let opening: Opening<E> = ready(Ok(Opened::new(echo, None))).boxed();
    Session::of_connection(sessions, admit(sessions), opening)
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
    let silence = std::future::pending::<Result<Opened<StreamEcho<DuplexStream>>, End>>().boxed();
    let session = tokio::spawn(Session::of_connection(&sessions, admitted, silence));
    assert_eq!(sessions.connections(), 1);
    assert_eq!(seconds_of(session).await, 10);
    assert_eq!(sessions.connections(), 0);
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
    sessions.drain.advance(Stage::Draining);
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
    sessions.drain.advance(Stage::Draining);
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
    sessions.drain.advance(Stage::Draining);
    assert!(timeout(5 * SECOND, sessions.drain.emptied()).await.is_err());
    assert!(idle.is_finished() && !stuck.is_finished());
    sessions.drain.advance(Stage::Aborting);
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
    let echo = StreamEcho::framed(server, |io| io, 1024, Frames::new(false, 1024));
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
    let echo = StreamEcho::framed(server, |io| io, 1024, Frames::new(false, 1024));
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
        let stream = StreamEcho::framed(server, |io| io, 1024, Frames::new(false, 1024));
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
    let echo = StreamEcho::framed(server, |io| io, 1024, Frames::new(false, 1024));
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
        let echo = StreamEcho::framed(server, |io| io, 1024, Frames::new(false, 1024));
        let session = tokio::spawn(session_of(&sessions, echo));
        // Half of a binary frame.
        client.write_all(&[0x82, 0x82, 0, 0, 0, 0, 7]).await.unwrap();
        let mut echo = [0; 3];
        client.read_exact(&mut echo).await.unwrap();
        sessions.drain.advance(Stage::Draining);
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
    sessions.drain.advance(Stage::Draining);
    session.await.unwrap();
    assert_eq!(drained_and_aborted(&sessions), (0, 1));
}

fn sessions_within(max_buffered: usize) -> Arc<Sessions> {
    let limits = Limits { max_buffered: Some(max_buffered as u64), ..Limits::default() };
    let timeouts = Timeouts { idle: None, stall: None, ..Timeouts::default() };
    Arc::new(Sessions::new(limits, 100, timeouts))
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
        let echo = StreamEcho::framed(server, |io| io, 1024, Frames::new(false, 1024));
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

/// An idle connection's memory is its task, which is mostly its session. Allocators round a task up
/// to their next size class, and a larger session would be in the class after that.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
#[test]
fn a_session_is_small() {
    use tokio::net::TcpStream;
    let tcp = size_of::<Session<StreamEcho<TcpStream>>>();
    let websocket = size_of::<Session<StreamEcho<TcpStream, Frames>>>();
    assert!(tcp <= 408 && websocket <= 536, "TCP {tcp}, WebSocket {websocket}");
}

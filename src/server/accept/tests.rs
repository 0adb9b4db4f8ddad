//! The accept loop on a listener whose results are scripted, with a paused clock.

use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::libc::{
    ECONNABORTED, ECONNRESET, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSYS, EPERM, ETIMEDOUT,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::*;
use crate::config::{Limits, Timeouts};
use crate::logged::Logged;
use crate::net;
use crate::protocols::bytes::Bytes;
use crate::transport::Plain;

impl net::Stream for DuplexStream {
    type Detached = DuplexStream;

    fn attach(stream: DuplexStream) -> io::Result<DuplexStream> {
        Ok(stream)
    }
}

/// A listener that returns the entries of its script, one per call: a connection, or an errno.
struct Scripted {
    script: Mutex<VecDeque<Result<DuplexStream, i32>>>,
    /// The errno that every call after the script fails with. `None`: accept never completes.
    then: Option<i32>,
    calls: Arc<AtomicUsize>,
}

impl Scripted {
    fn next(&self) -> Option<io::Result<(DuplexStream, Peer)>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let next = self.script.lock().unwrap().pop_front().or(self.then.map(Err))?;
        let peer = Peer::Ip(([192, 0, 2, 1], 5000).into());
        Some(next.map(|stream| (stream, peer)).map_err(io::Error::from_raw_os_error))
    }
}

impl Listener for Scripted {
    type Stream = DuplexStream;

    async fn accept(&self) -> io::Result<(DuplexStream, Peer)> {
        match self.next() {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    fn into_backlog(
        self,
    ) -> io::Result<impl Iterator<Item = io::Result<(DuplexStream, Peer)>> + Send> {
        Ok(std::iter::from_fn(move || self.next()))
    }
}

/// A running accept loop.
struct Running {
    sessions: Arc<Sessions>,
    calls: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Running {
    /// Starts the loop on a listener that returns `script`, then `then` for ever.
    fn start(script: Vec<Result<DuplexStream, i32>>, then: Option<i32>) -> Running {
        let sessions = Arc::new(Sessions::new(Limits::default(), 1000, Timeouts::default(), 1));
        let calls = Arc::default();
        let listener =
            Scripted { script: Mutex::new(script.into()), then, calls: Arc::clone(&calls) };
        let acceptor = Acceptor {
            protocol: Protocol::Tcp,
            handshake: Bytes { transport: Plain, buffer_size: 1024, shows_facts: false },
            sessions: Arc::clone(&sessions),
            workers: Arc::new(Workers::over(vec![Handle::current()])),
        };
        let task = tokio::spawn(acceptor.run(listener, sessions.drain.join()));
        Running { sessions, calls, task }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

async fn echo(client: &mut DuplexStream) {
    client.write_all(b"x").await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'x');
}

#[tokio::test(start_paused = true)]
async fn lasting_errors_are_retried_with_growing_pauses() {
    for number in [EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSYS] {
        let running = Running::start(Vec::new(), Some(number));
        tokio::time::sleep(Duration::from_secs(60)).await;
        // After 0.1, 0.3, 0.7 and 1.5 seconds, then once a second.
        assert!((60..=64).contains(&running.calls()), "{number}: {}", running.calls());
    }
}

/// EPERM concerns one connection if a firewall refused it, and all if seccomp refuses the call.
#[tokio::test(start_paused = true)]
async fn endless_errors_of_single_connections_count_as_a_shortage() {
    for number in [EPERM, ECONNABORTED] {
        let running = Running::start(Vec::new(), Some(number));
        tokio::time::sleep(Duration::from_secs(60)).await;
        let calls = running.calls() - MAX_CONSECUTIVE_FAILURES as usize;
        assert!((60..=64).contains(&calls), "{number}: {calls}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_episode_is_one_line_of_the_log() {
    for number in [EPERM, EMFILE] {
        let log = Logged::here();
        let running = Running::start(Vec::new(), Some(number));
        tokio::time::sleep(Duration::from_secs(600)).await;
        running.task.abort();
        let lines = log.take();
        assert_eq!(lines.len(), 1, "{lines:?}");
        let cause = io::Error::from_raw_os_error(number).to_string();
        for part in ["WARN", "backing off", "tcp", &cause] {
            assert!(lines[0].contains(part), "{part} is not in {lines:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_died_in_the_backlog_delays_no_other() {
    let (mut client, server) = duplex(64);
    let died = [ECONNABORTED, ECONNRESET, ETIMEDOUT, EPERM].map(Err);
    let running = Running::start(died.into_iter().chain([Ok(server)]).collect(), None);
    let start = Instant::now();
    echo(&mut client).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(running.sessions.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_shortage_connections_are_accepted_again() {
    let (mut client, server) = duplex(64);
    let script = vec![Err(EMFILE), Err(ENFILE), Ok(server)];
    let _running = Running::start(script, None);
    let start = Instant::now();
    echo(&mut client).await;
    assert_eq!(start.elapsed(), Duration::from_millis(300));
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_a_pause_to_end() {
    let running = Running::start((0..20).map(|_| Err(EMFILE)).collect(), None);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let start = Instant::now();
    running.sessions.advance(Stage::Draining);
    running.task.await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    running.sessions.drain.emptied().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_accepts_the_backlog_and_then_stops() {
    let (clients, servers): (Vec<_>, Vec<_>) = (0..3).map(|_| duplex(64)).unzip();
    let mut script: Vec<_> = servers.into_iter().map(Ok).collect();
    script.insert(1, Err(ECONNABORTED));
    let running = Running::start(script, Some(EMFILE));
    running.sessions.advance(Stage::Draining);
    running.task.await.unwrap();
    assert_eq!(running.sessions.connections(), 3);
    assert_eq!(running.calls.load(Ordering::Relaxed), 5, "three, one that died, and the end");
    drop(clients);
    running.sessions.drain.emptied().await;
}

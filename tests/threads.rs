//! Several threads that echo: connections are spread evenly over them, and served fairly.

mod common;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use common::binary::Running;
use common::client::Client;
use common::{TestServer, identity};
use echo_server::{Config, Protocol, Server};
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Threads with a runtime each.
struct Threads {
    handles: Vec<Handle>,
    running: Vec<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Threads {
    fn start(count: usize) -> Threads {
        let start = |_| {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            let (stop, stopped) = oneshot::channel::<()>();
            let handle = runtime.handle().clone();
            let thread = std::thread::spawn(move || {
                let _ = runtime.block_on(stopped);
            });
            (handle, (stop, thread))
        };
        let (handles, running) = (0..count).map(start).unzip();
        Threads { handles, running }
    }

    /// The number of tasks of each thread.
    fn tasks(&self) -> Vec<usize> {
        self.handles.iter().map(|handle| handle.metrics().num_alive_tasks()).collect()
    }

    /// Blocks the `n`th thread in a task until the returned value is dropped.
    fn block(&self, n: usize) -> mpsc::Sender<()> {
        let (stuck, is_stuck) = mpsc::channel();
        let (free, freed) = mpsc::channel();
        self.handles[n].spawn(async move {
            stuck.send(()).unwrap();
            let _ = freed.recv();
        });
        is_stuck.recv().unwrap();
        free
    }

    /// Waits until all threads together have this many tasks.
    async fn wait_for(&self, tasks: usize) {
        let arrived = async {
            while self.tasks().iter().sum::<usize>() != tasks {
                tokio::task::yield_now().await;
            }
        };
        let arrived = tokio::time::timeout(Duration::from_secs(30), arrived).await;
        arrived.unwrap_or_else(|_| panic!("there are not {tasks} tasks: {:?}", self.tasks()));
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        for (stop, thread) in self.running.drain(..) {
            drop(stop);
            thread.join().unwrap();
        }
    }
}

async fn serve(config: Config, threads: &Threads) -> TestServer {
    let server = Server::bind_over(config.identity(identity()), threads.handles.clone());
    TestServer::run(server.await.unwrap())
}

fn config(protocol: Protocol) -> Config {
    Config::new().listen(protocol, ([127, 0, 0, 1], 0))
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

async fn echo(client: &mut TcpStream) {
    client.write_all(b"x").await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn every_protocol_can_be_served_by_several_threads() {
    let threads = Threads::start(3);
    for &protocol in Protocol::ALL {
        let server = serve(config(protocol), &threads).await;
        for size in [0, 1, 1000, 60_000] {
            let payload = common::client::noise(size);
            let mut clients = Vec::new();
            for _ in 0..3 {
                let mut client = Client::connect(protocol, &server).await;
                assert!(client.echo(&payload).await == payload, "{protocol}, {size} bytes");
                clients.push(client);
            }
            // Each thread has one UDP socket; or one connection, and what wakes it at its deadline.
            let each = if protocol == Protocol::Udp { 1 } else { 2 };
            threads.wait_for(3 * each).await;
            assert_eq!(threads.tasks(), [each; 3], "{protocol}");
            drop(clients);
            threads.wait_for(3).await;
        }
        server.stop().await;
        // Tasks end a moment after the server.
        threads.wait_for(0).await;
    }
}

#[tokio::test]
async fn connections_are_spread_evenly_and_again_when_some_have_left() {
    let threads = Threads::start(4);
    let server = serve(config(Protocol::Tcp), &threads).await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = connect(server.address).await;
        echo(&mut client).await;
        clients.push(client);
    }
    // One task wakes the others at their deadlines.
    assert_eq!(threads.tasks(), [11; 4]);
    // Connections went round robin, so every fourth is on the same thread.
    let mut n = 0;
    clients.retain(|_| {
        n += 1;
        n % 4 != 0
    });
    threads.wait_for(34).await;
    let uneven = threads.tasks();
    assert_eq!(uneven.iter().min(), Some(&1), "{uneven:?}");
    for _ in 0..10 {
        let mut client = connect(server.address).await;
        echo(&mut client).await;
        clients.push(client);
    }
    assert_eq!(threads.tasks(), [11; 4]);
    drop(clients);
    server.stop().await;
}

#[tokio::test]
async fn a_stuck_thread_stalls_only_its_own_connections() {
    let threads = Threads::start(3);
    let server = serve(config(Protocol::Tcp), &threads).await;
    let free = threads.block(1);
    let (mut waiting, mut served) = (FuturesUnordered::new(), Vec::new());
    for _ in 0..20 {
        let mut client = connect(server.address).await;
        waiting.push(async move {
            echo(&mut client).await;
            client
        });
        // An echo takes far less time, unless it is on the stuck thread.
        let a_while = Duration::from_millis(50);
        while let Ok(Some(client)) = tokio::time::timeout(a_while, waiting.next()).await {
            // It stays connected, so that the stuck thread has fewer connections than the others.
            served.push(client);
        }
    }
    assert!(waiting.len() <= 1, "{} of 20 wait", waiting.len());
    drop(free);
    while waiting.next().await.is_some() {}
    server.stop().await;
}

#[tokio::test]
async fn a_busy_thread_is_not_taken_for_a_stuck_one() {
    let threads = Threads::start(2);
    let server = serve(config(Protocol::Tcp), &threads).await;
    let free = threads.block(0);
    // These tasks are always ready, so a new one has to wait for its turn.
    for _ in 0..40 {
        threads.handles[1].spawn(async {
            loop {
                tokio::task::yield_now().await;
            }
        });
    }
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(connect(server.address).await);
        // Long enough for the server to notice the stuck thread.
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let tasks = threads.tasks();
    // The stuck thread has its blocking task, and connections from before the server noticed.
    assert!(tasks[0] < 10 && tasks[1] > 60, "{tasks:?}");
    drop(free);
    drop(clients);
    server.stop().await;
}

/// A session may learn of the drain before its runtime has learned from the kernel of its input.
#[tokio::test]
async fn a_drain_over_several_threads_echoes_what_has_been_sent() {
    const CLIENTS: usize = 100;
    let threads = Threads::start(2);
    let server = serve(config(Protocol::Tcp), &threads).await;
    let address = server.address;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = connect(address).await;
        echo(&mut client).await;
        clients.push(client);
    }
    let stuck = [threads.block(0), threads.block(1)];
    for client in &mut clients {
        client.write_all(b"sent before the drain").await.unwrap();
    }
    let stopping = tokio::spawn(server.stop());
    // The listener is closed once the drain has begun.
    while TcpStream::connect(address).await.is_ok() {}
    drop(stuck);
    for mut client in clients {
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "sent before the drain");
    }
    let summary = stopping.await.unwrap();
    assert_eq!(summary.aborted, 0);
}

#[tokio::test]
async fn a_stuck_thread_does_not_delay_the_end() {
    let threads = Threads::start(2);
    let mut config = config(Protocol::Tcp);
    config.timeouts.drain = Duration::from_millis(10);
    let server = serve(config, &threads).await;
    let mut client = connect(server.address).await;
    echo(&mut client).await;
    let free = threads.block(0);
    let summary = server.stop().await;
    assert_eq!((summary.drained, summary.aborted), (0, 1));
    drop(free);
}

#[tokio::test]
async fn a_thread_that_is_gone_gets_no_connections() {
    let threads = Threads::start(2);
    let gone = Builder::new_current_thread().enable_all().build().unwrap();
    let handles = vec![gone.handle().clone(), threads.handles[0].clone()];
    let server = Server::bind_over(config(Protocol::Tcp), handles).await.unwrap();
    let server = TestServer::run(server);
    gone.shutdown_background();
    // The server notices when it gives this connection to the thread.
    let mut first = connect(server.address).await;
    let mut rest = Vec::new();
    assert!(matches!(first.read_to_end(&mut rest).await, Ok(0) | Err(_)));
    for _ in 0..10 {
        echo(&mut connect(server.address).await).await;
    }
    server.stop().await;
}

#[tokio::test]
#[should_panic = "timers are disabled"]
async fn a_runtime_without_timers_is_noticed_at_once() {
    let runtime = Builder::new_current_thread().enable_io().build().unwrap();
    let server = Server::bind_over(config(Protocol::Tcp), vec![runtime.handle().clone()]).await;
    runtime.shutdown_background();
    drop(server);
}

/// Waits are counted in echoes of the other clients: while a client waits, the others should not
/// get much more than one echo each.
#[tokio::test]
async fn none_of_many_connections_waits_much_longer_than_the_others() {
    const CONNECTIONS: usize = 600;
    const ECHOES: usize = 60;
    let server = Running::start(&["--tcp", "0", "--threads", "1"]);
    let address = server.address("tcp");
    let clients = join_all((0..CONNECTIONS).map(|_| connect(address))).await;
    let in_all = Arc::new(AtomicUsize::new(0));
    // Each client has its own task, because tasks take turns in order.
    let visits = clients.into_iter().map(|mut client| {
        let in_all = Arc::clone(&in_all);
        tokio::spawn(async move {
            let mut waits = Vec::new();
            for _ in 0..ECHOES {
                let before = in_all.load(Ordering::Relaxed);
                echo(&mut client).await;
                waits.push(in_all.fetch_add(1, Ordering::Relaxed) - before);
            }
            waits
        })
    });
    let waits = join_all(visits.collect::<Vec<_>>()).await;
    let mut waits: Vec<usize> = waits.into_iter().flat_map(Result::unwrap).collect();
    waits.sort_unstable();
    let longest = waits[waits.len() - waits.len() / 1000];
    assert!(longest < 4 * CONNECTIONS, "one of a thousand waits for {longest} echoes of others");
}

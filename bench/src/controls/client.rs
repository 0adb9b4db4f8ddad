//! The floor for clients: epoll, read, write, on one thread and without a runtime; and a blocking
//! client, for pings. They keep the schedule and take the times by the rules of the probe.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// The size of a message.
pub const SIZE: usize = 64;

/// The most events for one epoll_wait.
const EVENTS: usize = 1024;

/// The timer's epoll data. A connection's is its index.
const TIMER: u64 = u64::MAX;

/// How long to wait for the last replies.
const PATIENCE: Duration = Duration::from_secs(2);

/// Times in nanoseconds.
pub type Times = Histogram<u64>;

/// What a client has found.
pub struct Found {
    pub sent: u64,
    pub received: u64,
    pub round_trips: Times,
    /// By how much messages left later than they were due.
    pub lateness: Times,
}

/// Puts load on `server`. With a `rate`, in messages a second, connections take turns in sending;
/// without, each has one message in flight.
pub fn load(
    server: SocketAddr,
    connections: usize,
    rate: Option<f64>,
    duration: Duration,
) -> io::Result<Found> {
    let mut client = Client::connect(server, connections)?;
    let start = Instant::now();
    let end = start + duration;
    let due = |message: u64| {
        rate.map(|rate| start + Duration::from_nanos((message as f64 * 1e9 / rate) as u64))
            .filter(|due| *due < end)
    };
    if rate.is_none() {
        (0..connections).try_for_each(|index| client.send(index).map(drop))?;
    }
    let mut events = Vec::<Event>::with_capacity(EVENTS);
    let mut next = 0;
    loop {
        let now = Instant::now();
        while let Some(at) = due(next).filter(|at| *at <= now) {
            let sent_at = client.send((next % connections as u64) as usize)?;
            record(&mut client.found.lateness, sent_at.saturating_duration_since(at));
            next += 1;
        }
        let is_over = now >= end && due(next).is_none();
        if is_over && (client.found.received == client.found.sent || now >= end + PATIENCE) {
            return Ok(client.found);
        }
        client.arm(due(next).unwrap_or(if now < end { end } else { end + PATIENCE }))?;
        events.clear();
        epoll::wait(&client.epoll, spare_capacity(&mut events), None)?;
        for event in &events {
            let index = event.data.u64();
            if index != TIMER {
                let replied = client.receive(index as usize)?;
                if replied.is_some_and(|at| rate.is_none() && at < end) {
                    client.send(index as usize)?;
                }
            }
        }
    }
}

struct Client {
    epoll: OwnedFd,
    timer: OwnedFd,
    armed: Option<Instant>,
    peers: Vec<Peer>,
    buffer: Vec<u8>,
    found: Found,
}

struct Peer {
    stream: TcpStream,
    message: [u8; SIZE],
    /// When the messages were sent that have not come back.
    sent: VecDeque<Instant>,
    /// How many bytes of the next one have.
    partial: usize,
}

impl Client {
    fn connect(server: SocketAddr, connections: usize) -> io::Result<Client> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        // Edge-triggered, since then an expiry need not be read.
        let edges = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), edges)?;
        let mut peers = Vec::with_capacity(connections);
        for index in 0..connections {
            let stream = TcpStream::connect(server)?;
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let mark = EventData::new_u64(index as u64);
            epoll::add(&epoll, &stream, mark, EventFlags::IN)?;
            let message = std::array::from_fn(|i| (index + i) as u8);
            peers.push(Peer { stream, message, sent: VecDeque::new(), partial: 0 });
        }
        let found = Found { sent: 0, received: 0, round_trips: times(), lateness: times() };
        let buffer = vec![0; 64 * 1024];
        Ok(Client { epoll, timer, armed: None, peers, buffer, found })
    }

    /// Sends a message. Returns when that was.
    fn send(&mut self, index: usize) -> io::Result<Instant> {
        let peer = &mut self.peers[index];
        let at = Instant::now();
        // 64 bytes always fit, unless the server is stuck.
        peer.stream.write_all(&peer.message)?;
        peer.sent.push_back(at);
        self.found.sent += 1;
        Ok(at)
    }

    /// Reads once. Returns when that was if a message has come back.
    fn receive(&mut self, index: usize) -> io::Result<Option<Instant>> {
        let peer = &mut self.peers[index];
        let length = match peer.stream.read(&mut self.buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        let at = Instant::now();
        let before = self.found.received;
        let mut bytes = &self.buffer[..length];
        while !bytes.is_empty() {
            let rest = &peer.message[peer.partial..];
            let (echo, behind) = bytes.split_at(rest.len().min(bytes.len()));
            if *echo != rest[..echo.len()] {
                return Err(io::Error::new(ErrorKind::InvalidData, "an echo differs"));
            }
            bytes = behind;
            peer.partial = (peer.partial + echo.len()) % SIZE;
            if peer.partial == 0 {
                let sent = peer.sent.pop_front().ok_or(ErrorKind::InvalidData)?;
                record(&mut self.found.round_trips, at - sent);
                self.found.received += 1;
            }
        }
        Ok((self.found.received > before).then_some(at))
    }

    fn arm(&mut self, at: Instant) -> io::Result<()> {
        if self.armed.replace(at) == Some(at) {
            return Ok(());
        }
        let wait = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let spec = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec {
                tv_sec: wait.as_secs() as i64,
                tv_nsec: i64::from(wait.subsec_nanos()),
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)?;
        Ok(())
    }
}

/// Sends one message an `interval` for `duration`, and waits for each reply. Returns how long the
/// round trips took.
#[expect(clippy::disallowed_methods, reason = "a ping is due after a while, not after an event")]
pub fn ping(server: SocketAddr, interval: Duration, duration: Duration) -> io::Result<Times> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    let message: [u8; SIZE] = std::array::from_fn(|i| i as u8);
    let (mut times, start) = (times(), Instant::now());
    while times.is_empty() || start.elapsed() < duration {
        let (sent, mut echo) = (Instant::now(), [0; 4096]);
        stream.write_all(&message)?;
        let length = stream.read(&mut echo)?;
        let took = sent.elapsed();
        if echo[..length] != message {
            return Err(io::Error::new(ErrorKind::InvalidData, "an echo differs"));
        }
        record(&mut times, took);
        thread::sleep(interval.saturating_sub(took));
    }
    Ok(times)
}

fn times() -> Times {
    Times::new(3).expect("a histogram has up to five digits")
}

fn record(times: &mut Times, time: Duration) {
    let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
    times.record(nanoseconds).expect("a histogram that resizes itself takes every value");
}

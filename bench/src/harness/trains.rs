//! Trains: datagrams of one size that the kernel passes on as one buffer (UDP_SEGMENT), as QUIC
//! sends them.

use std::io::{self, ErrorKind, IoSlice};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg, setsockopt, sockopt};

use super::counter::{COUNTING, Counted, Counter};
use super::process;
use super::sample::{Metric, Sample, Trouble};
use super::servers::Running;

/// Sockets that send one train after the other. Everything in flight fits into a receive buffer of
/// the default size, since with losses the timeout would be measured instead of the server.
const FLOWS: usize = 4;

/// Datagrams in a train, and the bytes of each.
const DATAGRAMS: usize = 16;
const SIZE: usize = 1200;

pub const NAME: &str = "1200 B, 4 flows, trains of 16";

/// Datagrams that have not come back after this are lost.
const PATIENCE: Duration = Duration::from_millis(250);

/// How long a server is warmed up.
const WARM_UP: Duration = Duration::from_millis(300);

/// Sends trains to `server` for this many `seconds`.
pub fn measure(server: &Running, seconds: f64) -> Result<Sample, Trouble> {
    let duration = Duration::from_secs_f64(seconds);
    let trouble = |error: io::Error| error.to_string();
    let flow = |n| Flow::to(server, n).map_err(trouble);
    let mut flows = (0..FLOWS).map(flow).collect::<Result<Vec<_>, _>>()?;
    run(&mut flows, duration.min(WARM_UP)).map_err(trouble)?;
    let (cpu, began) = (process::cpu_time(server.pid()), Instant::now());
    let Count { right, lost, wrong } = run(&mut flows, duration).map_err(trouble)?;
    let took = began.elapsed();
    let wrong = (wrong > 0).then(|| format!("{wrong} corrupted"));
    let mut sample = Sample { right, lost, wrong, ..Sample::default() };
    sample.values.insert(Metric::Rate, right as f64 / took.as_secs_f64());
    if let Some((from, to)) = cpu.zip(process::cpu_time(server.pid())) {
        let spent = to.saturating_sub(from).as_nanos() as f64;
        sample.values.insert(Metric::Cpu, spent / right.max(1) as f64);
    }
    Ok(sample)
}

/// What `server` does for a datagram. `None` if it cannot be counted.
pub fn count(server: &Running, counter: Counter) -> Result<Option<(Counted, u64)>, Trouble> {
    let trouble = |error: io::Error| error.to_string();
    let flow = |n| Flow::to(server, n).map_err(trouble);
    let mut flows = (0..FLOWS).map(flow).collect::<Result<Vec<_>, _>>()?;
    run(&mut flows, WARM_UP).map_err(trouble)?;
    let Some(counting) = counter.attach(server.pid()) else { return Ok(None) };
    let Count { right, .. } = run(&mut flows, COUNTING).map_err(trouble)?;
    Ok(counting.detach().map(|counted| (counted, right)))
}

#[derive(Default)]
struct Count {
    right: u64,
    lost: u64,
    wrong: u64,
}

/// Every flow has one train in flight, and sends the next when that has come back.
fn run(flows: &mut [Flow], duration: Duration) -> io::Result<Count> {
    let end = Instant::now() + duration;
    let mut count = Count::default();
    for flow in &mut *flows {
        flow.send()?;
    }
    loop {
        let is_over = Instant::now() >= end;
        for flow in &mut *flows {
            flow.receive(&mut count)?;
            if !is_over {
                flow.send()?;
            }
        }
        if is_over {
            return Ok(count);
        }
    }
}

struct Flow {
    socket: UdpSocket,
    /// The train in flight. Each of its datagrams begins with the train's number.
    train: Vec<u8>,
    number: u64,
    buffer: Vec<u8>,
}

impl Flow {
    fn to(server: &Running, n: usize) -> io::Result<Flow> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(server.address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        // Receiving trains whole (UDP_GRO) keeps the load cheaper than the server.
        setsockopt(&socket, sockopt::UdpGroSegment, &true)?;
        // No two datagrams are alike.
        let train =
            (0..DATAGRAMS * SIZE).map(|i| (i / SIZE * 16 + n * 3 + i % SIZE) as u8).collect();
        Ok(Flow { socket, train, number: 0, buffer: vec![0; 64 * 1024] })
    }

    fn send(&mut self) -> io::Result<()> {
        self.number += 1;
        for datagram in self.train.chunks_mut(SIZE) {
            datagram[..8].copy_from_slice(&self.number.to_be_bytes());
        }
        let size = SIZE as u16;
        let segments = [ControlMessage::UdpGsoSegments(&size)];
        let train = [IoSlice::new(&self.train)];
        let flags = MsgFlags::empty();
        sendmsg::<SockaddrIn>(self.socket.as_raw_fd(), &train, &segments, flags, None)?;
        Ok(())
    }

    /// Waits for a whole train, in however many pieces.
    fn receive(&mut self, count: &mut Count) -> io::Result<()> {
        let mut missing = DATAGRAMS;
        while missing > 0 {
            let length = match self.socket.recv(&mut self.buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            for datagram in self.buffer[..length].chunks(SIZE) {
                let is_late = datagram.get(..8).is_some_and(|number| number != &self.train[..8]);
                if self.train.chunks(SIZE).any(|sent| sent == datagram) {
                    count.right += 1;
                    missing = missing.saturating_sub(1);
                } else if !is_late {
                    count.wrong += 1;
                }
            }
        }
        count.lost += missing as u64;
        Ok(())
    }
}

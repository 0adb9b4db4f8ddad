//! A link between two network namespaces that the test carries frame by frame, so that it can delay
//! them: not every kernel has netem.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::netns::Namespace;
use super::tools;

/// A cable with an Ethernet interface at each end. Dropping it removes the interfaces.
pub struct Cable {
    delay: Arc<Mutex<Duration>>,
    _ends: [End; 2],
}

pub fn have_socat() -> bool {
    tools::have(&["socat", "-V"], "socat version")
}

impl Cable {
    /// Puts it between `one` and `other`, with an interface of this name in both. Needs `socat`.
    pub fn between(one: &Namespace, other: &Namespace, interface: &str) -> Cable {
        let ends = [End::new(one, interface), End::new(other, interface)];
        let delay = Arc::new(Mutex::new(Duration::ZERO));
        for (from, to) in [(0, 1), (1, 0)] {
            let (from, to) = (&ends[from].frames, &ends[to].frames);
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            carry(from, to, Arc::clone(&delay));
        }
        Cable { delay, _ends: ends }
    }

    /// Delays each frame by this much, in both directions.
    pub fn delay(&self, delay: Duration) {
        *self.delay.lock().unwrap() = delay;
    }
}

/// A TAP interface, whose frames a process of its own puts into a socket: to attach to one takes an
/// ioctl, and that would be unsafe code here.
struct End {
    process: Child,
    frames: Socket,
}

impl End {
    fn new(namespace: &Namespace, interface: &str) -> End {
        // It keeps the boundaries of frames, and tells its end.
        let (frames, theirs) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        let tap = format!("TUN,tun-type=tap,iff-no-pi,tun-name={interface},iff-up");
        let process = namespace
            .command("socat")
            .args(["-b", "65536", &tap, "STDIO"])
            .stdin(Stdio::from(OwnedFd::from(theirs.try_clone().unwrap())))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        let mut end = End { process, frames };
        let show = ["-brief", "link", "show", "up"];
        loop {
            let output = tools::run(namespace.command("ip").args(show), b"");
            if String::from_utf8_lossy(&output.stdout)
                .lines()
                .any(|line| line.starts_with(interface))
            {
                return end;
            }
            assert!(end.process.try_wait().unwrap().is_none(), "socat has ended");
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Carries frames in their order, until one of the ends has gone.
#[expect(clippy::disallowed_methods, reason = "the delay of the link")]
fn carry(from: Socket, to: Socket, delay: Arc<Mutex<Duration>>) {
    let (sender, frames) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut frame = vec![0; 65_536];
        while let Ok(length @ 1..) = (&from).read(&mut frame) {
            let arrives = Instant::now() + *delay.lock().unwrap();
            if sender.send((arrives, frame[..length].to_vec())).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (arrives, frame) in frames {
            thread::sleep(arrives.saturating_duration_since(Instant::now()));
            if (&to).write(&frame).is_err() {
                return;
            }
        }
    });
}

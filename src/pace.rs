//! A timer that is more precise than tokio's, which has a resolution of a millisecond: that error
//! would be most of what a probe measures at many messages a second, and of a short delay on purpose.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

/// `at` plus `time`, but at most 30 years, so that it does not overflow.
pub(crate) fn later(at: Instant, time: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
    at + time.min(FAR)
}

/// Wakes its task at a given instant, again and again.
pub(crate) struct Pace {
    timer: Timer,
    armed: Option<Instant>,
    #[cfg(test)]
    pub(crate) arms: usize,
}

impl Pace {
    pub(crate) fn new() -> io::Result<Pace> {
        Ok(Pace {
            timer: Timer::new()?,
            armed: None,
            #[cfg(test)]
            arms: 0,
        })
    }

    /// Ready from `at` on. The task is woken then.
    pub(crate) fn poll_until(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        if Instant::now() >= at {
            return Poll::Ready(());
        }
        if self.armed != Some(at) {
            self.timer.arm(at);
            self.armed = Some(at);
            #[cfg(test)]
            {
                self.arms += 1;
            }
        }
        loop {
            std::task::ready!(self.timer.poll_fired(cx));
            if Instant::now() >= at {
                self.armed = None;
                return Poll::Ready(());
            }
        }
    }
}

#[cfg(target_os = "linux")]
struct Timer(tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>);

#[cfg(target_os = "linux")]
impl Timer {
    fn new() -> io::Result<Timer> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // `AsyncFd::new` is deprecated because it is unsound for a type that does not keep its
        // descriptor open. `OwnedFd` does, and the replacement is an unsafe function.
        #[expect(deprecated)]
        Ok(Timer(tokio::io::unix::AsyncFd::new(timer)?))
    }

    fn arm(&mut self, at: Instant) {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        let wait = at.saturating_duration_since(Instant::now());
        // A timerfd is disarmed by a time of zero.
        let nanoseconds = i64::from(wait.subsec_nanos().max(u32::from(wait.as_secs() == 0)));
        let spec = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: nanoseconds as _ },
        };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &spec)
            .expect("a relative time of less than a second's nanoseconds is valid");
    }

    /// Ready if the timer has fired since it was last ready. It may be that of an earlier arming.
    fn poll_fired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Ok(mut guard) = std::task::ready!(self.0.poll_read_ready(cx)) {
            // The descriptor is watched for edges, and each expiry is one. So the count of expiries
            // need not be read; arming resets it.
            guard.clear_ready();
        }
        Poll::Ready(())
    }
}

#[cfg(not(target_os = "linux"))]
struct Timer(std::pin::Pin<Box<tokio::time::Sleep>>);

#[cfg(not(target_os = "linux"))]
impl Timer {
    fn new() -> io::Result<Timer> {
        Ok(Timer(Box::pin(tokio::time::sleep(std::time::Duration::ZERO))))
    }

    fn arm(&mut self, at: Instant) {
        self.0.as_mut().reset(at);
    }

    fn poll_fired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

//! Ping: one message an interval, and each reply is reported as it arrives.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `mod` | what a ping is asked to do, and the connections that it needs one after the other |
//! | `session` | the messages on one connection |

mod session;

use std::future::{Pending, pending};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use self::session::{End, Session};
use super::connect::{connect, proxy_header};
use super::link::Link;
use super::payload::Payloads;
use super::{Connected, Echoed, Ending, Event, Probe, ProbeError, Summary, ignore};
use crate::pace::later;

/// The time from one attempt to connect again to the next.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// How often a ping sends, and how long it waits.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PingOptions {
    /// How many messages to send. `None`: until the ping is stopped or the duration is over. `None`.
    pub count: Option<u64>,
    /// How long to send messages. Replies are waited for. `None`: until the ping is stopped or the
    /// count is reached. `None`.
    pub duration: Option<Duration>,
    /// The time from one message to the next. Zero is a flood: the next message is sent when the
    /// reply to the last one has come, but at least 100 are sent a second. 1 second.
    pub interval: Duration,
    /// How long to wait for a reply: one that comes later is late, one that does not come is lost.
    /// A connection that takes no bytes for this long has failed. 2 seconds.
    pub timeout: Duration,
    /// Whether to connect again when the connection fails or is closed, until that succeeds. The
    /// first connection has to succeed at once. `false`.
    pub reconnect: bool,
    /// Whether to establish a connection for each message, and to close it when its reply has come
    /// or is overdue. A message is not sent before the one before it is done. `false`.
    pub connect_each: bool,
}

impl Default for PingOptions {
    fn default() -> Self {
        PingOptions::new()
    }
}

impl PingOptions {
    /// The defaults.
    pub fn new() -> Self {
        PingOptions {
            count: None,
            duration: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
            reconnect: false,
            connect_each: false,
        }
    }

    /// Sets [`PingOptions::count`].
    #[must_use]
    pub fn count(mut self, messages: u64) -> Self {
        self.count = Some(messages);
        self
    }

    /// Sets [`PingOptions::duration`].
    #[must_use]
    pub fn duration(mut self, duration: Duration) -> Self {
        self.duration = Some(duration);
        self
    }

    /// Sets [`PingOptions::interval`].
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets [`PingOptions::timeout`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets [`PingOptions::reconnect`].
    #[must_use]
    pub fn reconnect(mut self) -> Self {
        self.reconnect = true;
        self
    }

    /// Sets [`PingOptions::connect_each`].
    #[must_use]
    pub fn connect_each(mut self) -> Self {
        self.connect_each = true;
        self
    }
}

/// A ping that [`run`](Ping::run) starts. [`Probe::ping`] makes one.
///
/// The type parameters are those of [`until`](Ping::until) and [`on_event`](Ping::on_event).
#[must_use = "a ping does nothing until it is run"]
pub struct Ping<Stop = Pending<()>, OnEvent = fn(Event)> {
    probe: Probe,
    options: PingOptions,
    stop: Stop,
    asked: Arc<Notify>,
    on_event: OnEvent,
}

impl Ping {
    pub(super) fn new(probe: Probe, options: PingOptions) -> Self {
        Ping { probe, options, stop: pending(), asked: Arc::default(), on_event: ignore }
    }
}

impl<Stop, OnEvent> Ping<Stop, OnEvent> {
    /// Ends the ping when `stop` completes. Messages that are in flight then count as
    /// [unanswered](Summary::unanswered), not as lost.
    pub fn until<F: Future<Output = ()>>(self, stop: F) -> Ping<F, OnEvent> {
        let Ping { probe, options, asked, on_event, .. } = self;
        Ping { probe, options, stop, asked, on_event }
    }

    /// Calls `on_event` with each event as it happens: [`Event::Connected`], [`Event::Reply`],
    /// [`Event::Overdue`], [`Event::Failed`], [`Event::Reconnected`] and [`Event::Interim`]. The ping
    /// waits meanwhile.
    pub fn on_event<F: FnMut(Event)>(self, on_event: F) -> Ping<Stop, F> {
        let Ping { probe, options, stop, asked, .. } = self;
        Ping { probe, options, stop, asked, on_event }
    }

    /// Reports an [`Event::Interim`] each time that `asked` is notified.
    pub fn interim_on(mut self, asked: Arc<Notify>) -> Self {
        self.asked = asked;
        self
    }
}

impl<Stop: Future<Output = ()>, OnEvent: FnMut(Event)> Ping<Stop, OnEvent> {
    /// Connects, sends the messages, and returns the counts and times. If it is stopped before the
    /// connection is established, they are all zero.
    ///
    /// # Errors
    /// An option is wrong, a certificate or key cannot be used, or the first connection could not be
    /// established. What goes wrong after that is in the summary.
    pub async fn run(self) -> Result<Summary, ProbeError> {
        let Ping { probe, options, stop, asked, on_event } = self;
        probe.messages.check(probe.target())?;
        let start = Instant::now();
        let mut run = Run {
            payloads: Payloads::new(&probe.messages),
            summary: Summary::new(probe.messages.bytes()),
            probe: &probe,
            options: &options,
            asked: &asked,
            on_event,
            start,
            next_send: start,
            done_at: None,
            proxy_header: Vec::new(),
        };
        let stop = pin!(stop);
        match options.connect_each {
            true => run.on_each(stop).await?,
            false => run.on_one(stop).await?,
        }
        if run.summary.connections() > 0 {
            run.summary.elapsed = run.done_at.unwrap_or_else(Instant::now) - run.start;
        }
        Ok(run.summary)
    }
}

/// What a ping keeps from one connection to the next.
struct Run<'a, OnEvent> {
    probe: &'a Probe,
    options: &'a PingOptions,
    asked: &'a Notify,
    on_event: OnEvent,
    payloads: Payloads,
    summary: Summary,
    start: Instant,
    next_send: Instant,
    /// When the last reply came.
    done_at: Option<Instant>,
    /// The PROXY header that was sent first on the last connection. Empty: none was.
    proxy_header: Vec<u8>,
}

impl<OnEvent: FnMut(Event)> Run<'_, OnEvent> {
    /// All messages on one connection, or on another one when that has failed.
    async fn on_one<Stop>(&mut self, mut stop: Pin<&mut Stop>) -> Result<(), ProbeError>
    where
        Stop: Future<Output = ()>,
    {
        let (mut link, connected) = tokio::select! {
            connected = connect(self.probe.target(), &self.probe.connect) => connected?,
            () = &mut stop => return Ok(()),
        };
        self.connected(connected);
        // The duration does not include the time that it took to connect.
        self.start = Instant::now();
        self.next_send = self.start;
        let limit = self.options.count.unwrap_or(u64::MAX);
        loop {
            let end = Session::new(self, link, limit)?.run(stop.as_mut()).await?;
            if end != End::Lost || !self.options.reconnect {
                return Ok(());
            }
            match self.connect_again(stop.as_mut()).await {
                Some(again) => link = again,
                None => return Ok(()),
            }
        }
    }

    /// Tries to connect until that succeeds. `None` if there is nothing more to send, or if the ping
    /// is stopped.
    async fn connect_again<Stop>(&mut self, mut stop: Pin<&mut Stop>) -> Option<Link>
    where
        Stop: Future<Output = ()>,
    {
        let probe = self.probe;
        let lost_at = Instant::now();
        let mut attempts = 0;
        while self.options.count.is_none_or(|count| self.summary.sent + self.summary.unsent < count)
            && !self.is_over(Instant::now())
        {
            attempts += 1;
            let attempt = pin!(async {
                let connected = connect(probe.target(), &probe.connect).await;
                if connected.is_err() {
                    sleep(RETRY_INTERVAL).await;
                }
                connected
            });
            if let Ok((link, connected)) = self.unless_stopped(stop.as_mut(), attempt).await? {
                let after = lost_at.elapsed();
                self.proxy_header = proxy_header(&probe.connect, &connected);
                self.summary.connected(&connected);
                self.summary.reconnected(after);
                let connected = Box::new(connected);
                (self.on_event)(Event::Reconnected { after, attempts, connected });
                self.next_send = Instant::now();
                return Some(link);
            }
        }
        None
    }

    /// Each message on a connection of its own.
    async fn on_each<Stop>(&mut self, mut stop: Pin<&mut Stop>) -> Result<(), ProbeError>
    where
        Stop: Future<Output = ()>,
    {
        let probe = self.probe;
        let mut attempts = 0;
        while self.options.count.is_none_or(|count| attempts < count)
            && !self.is_over(self.next_send)
        {
            let due = self.next_send;
            let next = pin!(async {
                sleep_until(due).await;
                connect(probe.target(), &probe.connect).await
            });
            let Some(connected) = self.unless_stopped(stop.as_mut(), next).await else { break };
            attempts += 1;
            match connected {
                Ok((link, connected)) => {
                    self.connected(connected);
                    let limit = self.summary.sent + self.summary.unsent + 1;
                    if Session::new(self, link, limit)?.run(stop.as_mut()).await? == End::Stopped {
                        break;
                    }
                }
                // Nothing has worked yet, so that it is probably the command that is wrong.
                Err(error) if attempts == 1 => return Err(error),
                Err(error) => {
                    self.failed(error.to_string());
                    self.next_send = later(due, self.options.interval).max(Instant::now());
                }
            }
        }
        Ok(())
    }

    /// Waits for `work`, and meanwhile reports what is asked for. `None` if the ping is stopped.
    async fn unless_stopped<Stop, Work>(
        &mut self,
        mut stop: Pin<&mut Stop>,
        mut work: Pin<&mut Work>,
    ) -> Option<Work::Output>
    where
        Stop: Future<Output = ()>,
        Work: Future,
    {
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                () = &mut stop => return None,
                () = self.asked.notified() => self.interim(0, 0),
            }
        }
    }

    fn connected(&mut self, connected: Connected) {
        self.proxy_header = proxy_header(&self.probe.connect, &connected);
        self.summary.connected(&connected);
        (self.on_event)(Event::Connected(Box::new(connected)));
    }

    fn failed(&mut self, reason: String) {
        (self.on_event)(Event::Failed { reason: reason.clone(), echoed: None });
        self.summary.fail(reason);
    }

    /// The connection has ended before its time.
    fn ended(&mut self, ending: Ending, echoed: Echoed) {
        (self.on_event)(Event::Failed { reason: ending.to_string(), echoed: Some(echoed) });
        self.summary.ended(ending);
    }

    /// Reports the summary so far, with what only the session knows.
    fn interim(&mut self, lost: u64, unanswered: u64) {
        let mut summary = self.summary.clone();
        summary.lost += lost;
        summary.unanswered += unanswered;
        summary.elapsed = self.start.elapsed();
        (self.on_event)(Event::Interim(Box::new(summary)));
    }

    /// Whether no message is to be sent at `at` any more.
    fn is_over(&self, at: Instant) -> bool {
        self.options.duration.is_some_and(|duration| at >= later(self.start, duration))
    }
}

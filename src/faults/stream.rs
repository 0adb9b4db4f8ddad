//! A stream that misbehaves on purpose: late, slow, in slices, corrupt, or with a bad end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::corruption::Corruption;
use super::frames::{self, Frames};
use super::line::Line;
use super::plan::Ending;
use super::{Alarm, Chance, Control, Faults, Misbehaving, Plan};
use crate::config::{Fault, When};
use crate::connection::{Connection, Sessions, Stage};
use crate::echo::{Carrier, Injected, LowerStream};

/// How long a reset waits until all before it is sent: what is not would be lost.
const RESET_PATIENCE: Duration = Duration::from_secs(1);

/// How often it looks.
const RESET_LOOK: Duration = Duration::from_millis(1);

/// How long a stalled connection outlives its client's end: as long as the client's kernel keeps
/// its side (tcp_fin_timeout).
pub(crate) const STALL_LINGER: Duration = Duration::from_secs(60);

/// The Close frame's code if the plan has none: the server goes away.
const GOING_AWAY: u16 = 1001;

/// The stream `S`, which misbehaves as planned.
#[derive(Debug)]
pub(crate) struct Faulty<S> {
    io: S,
    /// `None` if nothing is planned, and nobody can ask for anything.
    active: Option<Box<Active>>,
}

#[derive(Debug)]
struct Active {
    faults: Arc<Faults>,
    sessions: Arc<Sessions>,
    connection: Connection,
    control: Arc<Control>,
    plan: Plan,
    chance: Chance,
    carries: Carries,
    line: Line,
    /// Wakes for the line, and for an end behind it.
    alarm: Alarm,
    /// Wakes for an end at its time, and for what follows a stall.
    timer: Alarm,
    corruption: Option<Corruption>,
    /// When the end comes, if that is a time.
    ends_at: Option<Instant>,
    /// How much more payload may enter the line before the end.
    left: u64,
    /// How much has entered.
    payload: u64,
    /// How much that was to be sent is not, because of the end.
    discarded: u64,
    state: State,
    /// Somebody has found that it has stalled, and waits. If it is to be closed then, a timeout has
    /// passed, and no stall outlives that.
    is_awaited: bool,
    /// Our side was to be closed before that, so that the stall is what comes of the close.
    is_closing: bool,
}

/// What the stream carries.
#[derive(Debug)]
enum Carries {
    /// HTTP. What the server says there may be late and slow, but has no end on purpose.
    Http,
    Bytes,
    Frames(Frames),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// Nothing enters the line any more. The end comes behind it, at this time.
    Cut(Instant),
    /// The end before which all has to be sent, and until when that may take.
    Resetting(Instant),
    Ended(Ending),
    /// Stalled, and the client has ended its side: the time at which it is given up.
    Forgotten(Instant),
}

impl<S: Carrier> Faulty<S> {
    /// Has `io` misbehave as planned. Over HTTP that begins with the first byte, and the rest when
    /// HTTP says so.
    pub(crate) fn new(
        io: S,
        plan: Plan,
        faults: &Arc<Faults>,
        sessions: &Arc<Sessions>,
        connection: Connection,
        is_http: bool,
    ) -> Self {
        if plan.is_empty() && (faults.by_request().is_none() || !is_http) {
            return Faulty { io, active: None };
        }
        let chance = faults.chance(connection.protocol, connection.number);
        let control = Control::new(faults, connection, plan.clone());
        let mut active = Box::new(Active {
            faults: Arc::clone(faults),
            sessions: Arc::clone(sessions),
            connection,
            control: Arc::new(control),
            line: Line::new(&plan, chance),
            plan,
            chance,
            carries: Carries::Http,
            alarm: faults.alarm(connection.worker),
            timer: faults.alarm(connection.worker),
            corruption: None,
            ends_at: None,
            left: u64::MAX,
            payload: 0,
            discarded: 0,
            state: State::Running,
            is_awaited: false,
            is_closing: false,
        });
        if !is_http {
            active.begin(Carries::Bytes);
        }
        Faulty { io, active: Some(active) }
    }
}

impl Active {
    /// What is carried from now on can end on purpose.
    fn begin(&mut self, carries: Carries) {
        if !matches!(carries, Carries::Bytes) || self.connection.is_bytes() {
            let corruption = |share| Corruption::new(self.chance, share);
            self.corruption = self.plan.corrupt().map(corruption);
        }
        self.carries = carries;
        match self.plan.ending() {
            Some((_, When::Bytes(bytes))) => self.left = bytes,
            Some((_, When::After(time))) => self.ends_at = Some(Instant::now() + time),
            None => {}
        }
        for fault in self.plan.faults() {
            if let Fault::Delay(_)
            | Fault::Jitter(_)
            | Fault::Rate(_)
            | Fault::Slice(_)
            | Fault::WsMask
            | Fault::WsUtf8 = fault
            {
                self.faults.count(self.connection.protocol, fault.name(), 1);
            }
        }
        if self.left == 0 {
            self.cut();
        }
    }

    /// Does what the request asks for that is about to be answered.
    fn heed(&mut self) {
        let Some((asked, is_upgrade)) = self.control.take() else { return };
        self.plan.extend(asked.faults());
        self.line = Line::new(&self.plan, self.chance);
        if !is_upgrade {
            // The end of the connection follows the response.
            self.is_closing = true;
            self.begin(Carries::Bytes);
        }
    }

    fn is_in_hurry(&self) -> bool {
        self.sessions.drain.stage() >= Stage::Draining
    }

    fn ending(&self) -> Option<Ending> {
        self.plan.ending().map(|(ending, _)| ending)
    }

    /// Takes what is to be sent, as far as it is, and drops the rest.
    fn take(&mut self, bytes: &[u8]) {
        let flipped =
            |corruption: &Option<Corruption>| corruption.as_ref().map_or(0, Corruption::flipped);
        let before = flipped(&self.corruption);
        let is_over = match &mut self.carries {
            Carries::Http => {
                self.line.push(bytes.to_vec());
                false
            }
            Carries::Bytes => {
                let length = self.left.min(bytes.len() as u64);
                let mut piece = bytes[..length as usize].to_vec();
                if let Some(corruption) = &mut self.corruption {
                    corruption.pass(&mut piece);
                }
                self.line.push(piece);
                self.payload += length;
                self.discarded += bytes.len() as u64 - length;
                self.left -= length;
                self.left == 0
            }
            Carries::Frames(frames) => {
                let is_whole = self.plan.ending().is_some_and(|(end, _)| end == Ending::Close);
                let (out, payload) =
                    frames.pass(bytes, self.left, is_whole, self.corruption.as_mut());
                self.line.push(out);
                self.payload += payload;
                self.left = self.left.saturating_sub(payload);
                self.left == 0 && (!is_whole || frames.is_at_boundary())
            }
        };
        let flipped = flipped(&self.corruption) - before;
        if flipped > 0 {
            self.faults.count(self.connection.protocol, "corrupt", flipped);
        }
        if is_over {
            self.cut();
        }
    }

    /// Nothing enters any more, and the end follows what has.
    fn cut(&mut self) {
        if let Carries::Frames(_) = self.carries
            && self.ending() == Some(Ending::Close)
        {
            let code = self.plan.ws_close();
            if let Some(code) = code {
                self.control.count(Fault::WsClose(code));
            }
            self.line.push(frames::close(code.unwrap_or(GOING_AWAY)));
        }
        self.state = State::Cut(self.line.due());
    }

    /// Sends what may leave, and does what the plan has next. Ready when nothing is on its way, and
    /// no end is under way.
    fn poll_progress<S: Carrier>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
    ) -> Poll<io::Result<()>> {
        let hurry = self.is_in_hurry();
        if let Some(at) = self.ends_at
            && self.state == State::Running
            && self.timer.poll_until(cx, at).is_ready()
        {
            self.ends_at = None;
            self.end_in_time();
        }
        loop {
            ready!(self.line.poll_send(cx, io, &mut self.alarm, hurry))?;
            match self.state {
                State::Running | State::Ended(_) | State::Forgotten(_) => {
                    return Poll::Ready(Ok(()));
                }
                State::Cut(at) => {
                    if !hurry {
                        ready!(self.alarm.poll_until(cx, at));
                    }
                    let ending = self.ending().expect("what has no end is not cut");
                    self.state = match ending {
                        Ending::Reset => State::Resetting(Instant::now() + RESET_PATIENCE),
                        _ => State::Ended(ending),
                    };
                    self.faults.count(self.connection.protocol, ending.name(), 1);
                }
                State::Resetting(until) => {
                    if !io.lower().has_sent_all() && Instant::now() < until && !hurry {
                        let look = Instant::now() + RESET_LOOK;
                        ready!(self.alarm.poll_until(cx, look));
                    } else {
                        io.lower().reset_on_drop();
                        self.state = State::Ended(Ending::Reset);
                    }
                }
            }
        }
    }

    /// The time of the end has come.
    fn end_in_time(&mut self) {
        self.left = 0;
        if self.ending() != Some(Ending::Close) {
            let cleared = self.line.clear();
            self.discarded += cleared;
            if let Carries::Bytes = self.carries {
                self.payload -= cleared.min(self.payload);
            }
            self.state = State::Cut(Instant::now());
            return;
        }
        // A Close frame follows the frame that has begun.
        match &self.carries {
            Carries::Frames(frames) if !frames.is_at_boundary() => {}
            _ => self.cut(),
        }
    }

    /// Waits as a server that hangs, until the client has gone.
    fn poll_stalled<S: Carrier>(&mut self, cx: &mut Context<'_>, io: &mut S) -> Poll<()> {
        if self.state == State::Ended(Ending::Stall) {
            ready!(io.lower().poll_peer_end(cx));
            self.state = State::Forgotten(Instant::now() + STALL_LINGER);
        }
        match self.state {
            State::Forgotten(at) => self.timer.poll_until(cx, at),
            _ => Poll::Ready(()),
        }
    }

    /// The error with which the end comes to the session. Behind what is invalid, the protocol says
    /// its farewell, which this stream replaces.
    fn end(&self, ending: Ending) -> io::Error {
        let kind = match ending {
            Ending::Close | Ending::Truncate => io::ErrorKind::InvalidData,
            // Then it is a drain that ends it, with a FIN.
            Ending::Stall if self.is_in_hurry() => io::ErrorKind::InvalidData,
            Ending::Reset | Ending::Stall => io::ErrorKind::Other,
        };
        kind.into()
    }

    fn in_words(&self, ending: Ending) -> String {
        let (words, payload) = (ending.in_words(), self.payload - self.lost());
        format!("{words} on purpose after {payload} bytes")
    }

    /// How much payload has entered the line and will not be sent.
    fn lost(&self) -> u64 {
        match self.carries {
            Carries::Bytes => self.line.backlog().min(self.payload),
            _ => 0,
        }
    }

    fn describe(&self) -> String {
        match &self.corruption {
            Some(corruption) => format!("{} ({} bytes corrupted)", self.plan, corruption.flipped()),
            None => self.plan.to_string(),
        }
    }
}

impl<S: Carrier> AsyncRead for Faulty<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Faulty { io, active } = &mut *self;
        let Some(active) = active else { return Pin::new(io).poll_read(cx, into) };
        if let Poll::Ready(Err(error)) = active.poll_progress(cx, io) {
            return Poll::Ready(Err(error));
        }
        match active.state {
            State::Running if active.line.room() == 0 => Poll::Pending,
            State::Running => Pin::new(io).poll_read(cx, into),
            State::Cut(_) | State::Resetting(_) => Poll::Pending,
            State::Ended(Ending::Stall) | State::Forgotten(_) if !active.is_in_hurry() => {
                active.is_awaited = true;
                ready!(active.poll_stalled(cx, io));
                Poll::Ready(Err(active.end(Ending::Stall)))
            }
            State::Ended(ending) => Poll::Ready(Err(active.end(ending))),
            State::Forgotten(_) => Poll::Ready(Err(active.end(Ending::Stall))),
        }
    }
}

impl<S: Carrier> AsyncWrite for Faulty<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Faulty { io, active } = &mut *self;
        let Some(active) = active else { return Pin::new(io).poll_write(cx, bytes) };
        if matches!(active.carries, Carries::Http) {
            active.heed();
        }
        if active.state != State::Running {
            active.discarded += bytes.len() as u64;
            return Poll::Ready(Ok(bytes.len()));
        }
        if active.line.room() == 0 {
            if let Poll::Ready(Err(error)) = active.poll_progress(cx, io) {
                return Poll::Ready(Err(error));
            }
            if active.line.room() == 0 {
                return Poll::Pending;
            }
        }
        let bytes = &bytes[..bytes.len().min(active.line.room())];
        active.take(bytes);
        match active.poll_progress(cx, io) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(bytes.len())),
        }
    }

    /// What is on its way has left as far as anybody above is concerned: who waited for it would
    /// read nothing meanwhile.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Faulty { io, active } = &mut *self;
        let Some(active) = active else { return Pin::new(io).poll_flush(cx) };
        match active.poll_progress(cx, io) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Faulty { io, active } = &mut *self;
        let Some(active) = active else { return Pin::new(io).poll_shutdown(cx) };
        let is_stalled = |state| matches!(state, State::Ended(Ending::Stall) | State::Forgotten(_));
        active.is_closing |= !active.is_awaited;
        ready!(active.poll_progress(cx, io))?;
        match active.state {
            State::Ended(Ending::Truncate) => io.lower().poll_end(cx),
            State::Ended(Ending::Reset) => Poll::Ready(Err(active.end(Ending::Reset))),
            state if is_stalled(state) => {
                if active.is_in_hurry() || !active.is_closing {
                    return io.lower().poll_end(cx);
                }
                ready!(active.poll_stalled(cx, io));
                Poll::Ready(Err(active.end(Ending::Stall)))
            }
            _ => Pin::new(io).poll_shutdown(cx),
        }
    }
}

impl<S: Carrier> Carrier for Faulty<S> {
    fn lower(&mut self) -> &mut dyn LowerStream {
        self.io.lower()
    }

    fn holds(&self) -> bool {
        self.io.holds() || self.active.as_ref().is_some_and(|active| !active.line.is_empty())
    }

    fn backlog(&self) -> usize {
        self.active.as_ref().map_or(0, |active| active.line.held())
    }

    fn unsent(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| active.line.backlog() + active.discarded)
    }

    fn injected(&self) -> Option<Injected> {
        let active = self.active.as_ref().filter(|active| !active.plan.is_empty())?;
        let end = match active.state {
            State::Ended(ending) => Some(active.in_words(ending)),
            State::Forgotten(_) => Some(active.in_words(Ending::Stall)),
            State::Running | State::Cut(_) | State::Resetting(_) => None,
        };
        Some(Injected { faults: active.describe(), end })
    }

    fn begin_step(&mut self) {
        self.io.begin_step();
    }

    fn end_step(&mut self) -> bool {
        self.io.end_step()
    }
}

impl<S> Misbehaving for Faulty<S> {
    fn control(&self) -> Option<Arc<Control>> {
        self.active.as_ref().map(|active| Arc::clone(&active.control))
    }

    fn begin_frames(&mut self) {
        if let Some(active) = &mut self.active {
            active.heed();
            active.begin(Carries::Frames(Frames::new(&active.plan, active.chance)));
        }
    }

    fn patience(&self) -> Duration {
        let Some(active) = &self.active else { return Duration::ZERO };
        if active.ending() == Some(Ending::Stall) {
            // A session has no other bound on a stall.
            return active.sessions.longest_stall();
        }
        let late =
            active.plan.delay().unwrap_or_default() + active.plan.jitter().unwrap_or_default();
        let rate = active.plan.rate().map_or(f64::INFINITY, |rate| rate.get() as f64);
        let slow = active.line.backlog() as f64 / rate;
        late + Duration::try_from_secs_f64(slow).unwrap_or(STALL_LINGER)
    }

    fn planned(&self) -> Option<String> {
        let planned = self.active.as_ref().filter(|active| !active.plan.is_empty());
        planned.map(|active| active.plan.to_string())
    }
}

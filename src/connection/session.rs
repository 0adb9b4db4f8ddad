//! The future that drives one echo from its handshake to its closing log line.

use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Future;
use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::coop;
use tracing::{error, info};

use super::admission::{Permit, Refusal};
use super::clock::Moment;
use super::costly::CostlySteps;
use super::counts::Live;
use super::drain::Stage;
use super::memory::Account;
use super::roster::Seat;
use super::{
    Admitted, Announced, Connection, End, Opened, Opening, Reason, Refused, Sessions, shows,
};
use crate::echo::{Echo, EchoError, Goodbye, Moved, PeerEnd, Step, Traffic, yield_turn};
use crate::net::Peer;

/// A session yields after this many steps in one poll, so that a peer that always sends does not
/// starve the other tasks.
const STEPS_PER_TURN: usize = 16;

/// A draining session echoes until its input pauses, but for at most this many polls if the peer
/// never pauses.
const TURNS_WHILE_DRAINING: u8 = 64;

/// The most events that a runtime takes from the kernel at a time: tokio's default.
const EVENTS: usize = 1024;

pin_project_lite::pin_project! {
    /// Drives one echo.
    ///
    /// Written by hand and not as an `async fn`, because its size is what an idle connection
    /// costs.
    pub(crate) struct Session<E: Echo> {
        phase: Phase<E>,
        // Set once an open session is closing.
        goodbye: Option<Goodbye>,
        // Set once the session is closing or its handshake has failed.
        end: Option<Box<End>>,
        seat: Seat,
        worker: u16,
        began: Moment,
        // When bytes last moved in either direction, or the goodbye began.
        moved: Moment,
        // When bytes last moved out, or began to be owed.
        taken: Moment,
        // When a ping was last due.
        pinged: Moment,
        turns_while_draining: u8,
        // How often the runtime has polled the kernel since the input of a draining session paused.
        kernel_polls: u8,
        // None for a datagram socket, whose peers come and go. It has no deadlines.
        connection: Option<Connection>,
        // Boxed, since few sessions have any of it, and each pays for the field.
        rare: Option<Box<Rare>>,
        // Where the traffic is published, if somebody has asked for metrics.
        live: Option<Arc<Live>>,
        permit: Option<Permit>,
        // Dropped last, so that when a drain is over, nothing is left of the sessions.
        sessions: Membership,
    }

    impl<E: Echo> PinnedDrop for Session<E> {
        // Logged here and nowhere else, so that each session has a closing line, however it ended.
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            this.sessions.roster(*this.worker).leave(this.seat);
            let end = match this.end.take() {
                _ if std::thread::panicking() => End::Panicked,
                Some(end) => *end,
                None => End::Aborted,
            };
            if this.connection.is_some() || end.is_our_fault() {
                this.sessions.count_end(&end, this.phase.owes());
            }
            // An end on purpose and one of the peer's can come together, and either is seen first.
            let injected = this.phase.echo().and_then(Echo::injected);
            let end = match injected.and_then(|injected| injected.end) {
                Some(how) if matches!(end, End::Peer(_) | End::Failed(_)) => End::OnPurpose(how),
                _ => end,
            };
            if let Some(counts) = this.sessions.counts()
                && let Some(live) = this.live
            {
                let protocol = this.connection.map(|connection| connection.protocol);
                counts.end(protocol, live, this.phase.traffic(), Reason::from(&end));
            }
            // An address may have several datagram sockets. Their protocol logs one line for all.
            let Some(connection) = this.connection else { return };
            if end.is_our_fault() || shows!(this.sessions.log) {
                let duration = this.sessions.clock.since(*this.began);
                log_end(connection, this.rare.as_deref(), this.phase, duration, &end);
            }
        }
    }
}

/// Gives a session what all share, and counts it among those that a drain waits for.
struct Membership(Arc<Sessions>);

impl Membership {
    fn of(sessions: &Arc<Sessions>) -> Self {
        sessions.drain.enter();
        Membership(Arc::clone(sessions))
    }
}

impl Deref for Membership {
    type Target = Sessions;

    fn deref(&self) -> &Sessions {
        &self.0
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.0.drain.leave();
    }
}

/// What only few sessions have.
#[derive(Default)]
struct Rare {
    /// Who the client has proved to be.
    client: Option<String>,
    /// The proxy that has announced the client.
    proxy: Option<Peer>,
    /// What was done on purpose to the bytes of a handshake that has failed.
    faults: Option<String>,
    /// The client has made costly work.
    costly: Option<CostlySteps>,
    /// The session holds memory beyond what an idle one does.
    account: Option<Account>,
}

impl Rare {
    fn is_evicted(&self) -> bool {
        self.account.as_ref().is_some_and(Account::is_evicted)
    }
}

/// What a session drives.
enum Phase<E> {
    /// The proxy has yet to announce the client.
    Announcing(BoxFuture<'static, Result<Announced<E>, Refused>>),
    Opening(BoxFuture<'static, Result<Opened<E>, Refused>>),
    Open(E),
    /// The handshake has failed, and the peer is being told.
    Refused(BoxFuture<'static, ()>),
}

/// The outcome of one poll of the echo: a turn of at most [`STEPS_PER_TURN`] steps.
enum Turn {
    /// Nothing can be done until the task is woken.
    Waiting,
    /// There is more to do; the task has been woken for it.
    Busy,
    Ended(Result<PeerEnd, EchoError>),
}

/// A deadline that has passed.
#[derive(Debug, Clone, Copy)]
enum Passed {
    Handshake,
    Idle,
    Ping,
    Stall,
    Lifetime,
    /// Everything has been sent to the peer, farewell included, and it does not close.
    Linger,
    /// The session may do costly work again.
    Pause,
}

impl<E: Echo> Session<E> {
    /// A session for a connection, which will run on the worker of the connection.
    pub(crate) fn of_connection(
        sessions: &Arc<Sessions>,
        admitted: Admitted,
        opening: Opening<E>,
    ) -> Self {
        let worker = admitted.connection.worker;
        let (phase, client) = Phase::of(opening);
        let proxy = admitted.proxy;
        let mut session = Session::new(sessions, worker, Some(admitted), phase);
        if client.is_some() || proxy.is_some() {
            let rare = session.rare.get_or_insert_default();
            (rare.client, rare.proxy) = (client, proxy);
        }
        session
    }

    /// A session for a datagram socket, which has no handshake. It will run on `worker`.
    pub(crate) fn of_socket(sessions: &Arc<Sessions>, worker: u16, echo: E) -> Self {
        Session::new(sessions, worker, None, Phase::Open(echo))
    }

    fn new(
        sessions: &Arc<Sessions>,
        worker: u16,
        admitted: Option<Admitted>,
        phase: Phase<E>,
    ) -> Self {
        let (connection, permit) =
            admitted.map(|admitted| (admitted.connection, admitted.permit)).unzip();
        let now = sessions.clock.now();
        let protocol = connection.map(|connection: Connection| connection.protocol);
        let live = sessions.counts().map(|counts| counts.begin(protocol));
        Session {
            phase,
            goodbye: None,
            end: None,
            seat: sessions.roster(worker).enter(),
            worker,
            began: now,
            moved: now,
            taken: now,
            pinged: now,
            turns_while_draining: 0,
            kernel_polls: 0,
            connection,
            rare: None,
            live,
            permit,
            sessions: Membership::of(sessions),
        }
    }
}

impl<E: Echo> Future for Session<E> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.as_mut().project();
        // The row comes first: a stage that the session does not see yet will wake it.
        if !this.seat.is_taken() {
            this.sessions.roster(*this.worker).sit(this.seat, cx);
        }
        let stage = this.sessions.drain.stage();
        if stage == Stage::Aborting {
            return self.abort();
        }
        if self.as_mut().project().rare.as_ref().is_some_and(|rare| rare.is_evicted()) {
            return self.finish(End::Evicted);
        }
        loop {
            let (moved, owed) = (self.phase.moved(), self.phase.owes());
            if self.as_mut().poll_life(cx, stage).is_ready() {
                return Poll::Ready(());
            }
            let now = self.as_mut().record_progress(moved, owed);
            self.as_mut().record_memory(cx);
            let Some((at, passed)) = self.next_deadline() else { return Poll::Pending };
            let this = self.as_mut().project();
            let now = now.unwrap_or_else(|| this.sessions.clock.now());
            ready!(this.sessions.roster(*this.worker).poll_passed(this.seat, at, now));
            match passed {
                Passed::Handshake => return self.finish(End::HandshakeTimeout),
                Passed::Stall => return self.finish(End::Stalled),
                Passed::Linger => {
                    if let Phase::Open(echo) = self.project().phase {
                        // Shuts our side down, if that takes no waiting.
                        let _ = echo.poll_close(cx, Goodbye::Answer);
                    }
                    return Poll::Ready(());
                }
                Passed::Idle => self.as_mut().begin_goodbye(Goodbye::GoingAway, End::Idle),
                Passed::Ping => self.as_mut().ping(),
                Passed::Pause => {
                    let rare = self.as_mut().project().rare.as_mut();
                    if let Some(costly) = rare.and_then(|rare| rare.costly.as_mut()) {
                        costly.paused_until = None;
                    }
                }
                // Before the handshake is done, there is no echo that could say goodbye.
                Passed::Lifetime
                    if matches!(self.phase, Phase::Announcing(_) | Phase::Opening(_)) =>
                {
                    return self.finish(End::Lifetime);
                }
                Passed::Lifetime => self.as_mut().begin_goodbye(Goodbye::GoingAway, End::Lifetime),
            }
        }
    }
}

impl<E: Echo> Session<E> {
    /// Drives handshake, echo and farewell as far as possible. Ready when the session is over.
    fn poll_life(mut self: Pin<&mut Self>, cx: &mut Context<'_>, stage: Stage) -> Poll<()> {
        if !matches!(self.phase, Phase::Open(_))
            && let Some(polled) = self.as_mut().poll_opening(cx, stage)
        {
            return polled;
        }
        if self.goodbye.is_none() {
            match self.as_mut().turn(cx) {
                Turn::Ended(Ok(peer)) => {
                    self.as_mut().begin_goodbye(Goodbye::Answer, End::Peer(peer));
                }
                Turn::Ended(Err(error)) if error.allows_farewell() => {
                    self.as_mut().begin_goodbye(Goodbye::Answer, End::Failed(error));
                }
                Turn::Ended(Err(error)) => return self.finish(End::Failed(error)),
                turn if stage == Stage::Draining && self.as_mut().may_leave(&turn, cx) => {
                    self.as_mut().begin_goodbye(Goodbye::GoingAway, End::GoingAway);
                }
                Turn::Waiting | Turn::Busy => return Poll::Pending,
            }
        }
        let this = self.project();
        let (Phase::Open(echo), Some(goodbye)) = (this.phase, *this.goodbye) else {
            unreachable!("only an open session begins a goodbye")
        };
        let farewell = ready!(echo.poll_close(cx, goodbye));
        if let Err(error) = farewell
            && this.end.as_ref().is_some_and(|end| end.is_ours())
        {
            // The peer did not get everything, so the failure is the end to report.
            *this.end = Some(Box::new(End::Failed(error)));
        }
        Poll::Ready(())
    }

    /// Drives what comes before the echo, and what ends it there. `None` when the echo begins.
    #[inline(never)]
    fn poll_opening(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        stage: Stage,
    ) -> Option<Poll<()>> {
        if let Phase::Announcing(announcing) = self.as_mut().project().phase {
            match announcing.as_mut().poll(cx) {
                Poll::Ready(Ok(announced)) => {
                    if let Err(reason) = self.as_mut().meet(announced) {
                        return Some(self.finish(End::NotAdmitted(reason)));
                    }
                }
                Poll::Ready(Err(Refused { end, .. })) => return Some(self.finish(end)),
                // The header may have come, with what is to be echoed behind it.
                Poll::Pending
                    if stage == Stage::Draining && self.as_mut().may_leave(&Turn::Waiting, cx) =>
                {
                    return Some(self.finish(End::GoingAway));
                }
                Poll::Pending => return Some(Poll::Pending),
            }
        }
        let this = self.as_mut().project();
        if let Phase::Opening(opening) = this.phase {
            match opening.as_mut().poll(cx) {
                Poll::Ready(Ok(Opened { echo, client, is_carrier })) => {
                    *this.phase = Phase::Open(echo);
                    if client.is_some() {
                        this.rare.get_or_insert_default().client = client;
                    }
                    if let (Some(counts), Some(connection), false) =
                        (this.sessions.counts(), this.connection, is_carrier)
                    {
                        counts
                            .handshake(connection.protocol, this.sessions.clock.since(*this.began));
                    }
                }
                Poll::Ready(Err(Refused { end, farewell: None, .. })) => {
                    return Some(self.finish(end));
                }
                Poll::Ready(Err(Refused { end, farewell: Some(farewell), faults })) => {
                    if faults.is_some() {
                        this.rare.get_or_insert_default().faults = faults;
                    }
                    *this.end = Some(Box::new(end));
                    *this.phase = Phase::Refused(farewell);
                }
                Poll::Pending if stage == Stage::Draining => {
                    return Some(self.finish(End::GoingAway));
                }
                Poll::Pending => return Some(Poll::Pending),
            }
            *this.moved = this.sessions.clock.now();
            *this.pinged = *this.moved;
        }
        if let Phase::Refused(farewell) = self.as_mut().project().phase {
            return Some(farewell.as_mut().poll(cx));
        }
        None
    }

    /// Goes on for the client that the proxy has announced.
    ///
    /// # Errors
    /// A limit on its connections is reached.
    fn meet(self: Pin<&mut Self>, announced: Announced<E>) -> Result<(), Refusal> {
        let this = self.project();
        let Announced { client: peer, opening } = announced;
        if let (Some(connection), Some(permit)) = (this.connection, this.permit) {
            let proxy = std::mem::replace(&mut connection.peer, peer);
            this.rare.get_or_insert_default().proxy = Some(proxy);
            this.sessions.announce(connection, permit, proxy)?;
        }
        let (phase, client) = Phase::of(opening);
        this.rare.get_or_insert_default().client = client;
        *this.phase = phase;
        *this.kernel_polls = 0;
        *this.moved = this.sessions.clock.now();
        *this.pinged = *this.moved;
        Ok(())
    }

    /// Postpones the deadlines, if something has moved since `moved` and `owed` were read. Returns
    /// the time, if it was read.
    fn record_progress(self: Pin<&mut Self>, moved: Moved, owed: bool) -> Option<Moment> {
        let this = self.project();
        let now_moved = this.phase.moved();
        let is_taking = now_moved.outward != moved.outward;
        // A lingering session drops its input, which must not postpone its end.
        let has_moved = now_moved != moved && (this.goodbye.is_none() || owed);
        if has_moved {
            *this.moved = this.sessions.clock.now();
        }
        // Of empty datagrams no byte moves.
        if (has_moved || this.connection.is_none())
            && let Some(live) = this.live
        {
            live.set(this.phase.traffic());
        }
        if is_taking || (!owed && this.phase.owes()) {
            *this.taken = *this.moved;
        }
        has_moved.then_some(*this.moved)
    }

    /// Keeps the session's account of the memory that it holds, if it holds any.
    #[inline]
    fn record_memory(self: Pin<&mut Self>, cx: &mut Context<'_>) {
        let holds = self.phase.echo().is_some_and(Echo::holds);
        if holds || self.rare.as_ref().is_some_and(|rare| rare.account.is_some()) {
            self.keep_account(holds, cx);
        }
    }

    /// Opens, updates or closes the session's account. Out of line, as few polls come here.
    #[cold]
    #[inline(never)]
    fn keep_account(self: Pin<&mut Self>, holds: bool, cx: &mut Context<'_>) {
        let this = self.project();
        // A datagram socket holds one batch at most.
        if this.connection.is_none() {
            return;
        }
        let Phase::Open(echo) = this.phase else { return };
        let memory = &this.sessions.memory;
        let bytes = if holds { echo.held() } else { 0 };
        if bytes == 0 || !memory.is_limited() {
            if let Some(rare) = this.rare {
                rare.account = None;
            }
            return;
        }
        let since = if echo.owes() { *this.taken } else { *this.moved };
        let account = &mut this.rare.get_or_insert_default().account;
        let evicted = match account {
            Some(account) => account.update(bytes, since),
            None => {
                let (opened, evicted) = memory.open(bytes, since, cx.waker());
                *account = Some(opened);
                evicted
            }
        };
        this.sessions.report_evicted(evicted);
    }

    /// Steps until there is nothing to do, the echo is over, or the turn is.
    fn turn(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Turn {
        let this = self.project();
        let Phase::Open(echo) = this.phase else { unreachable!("a turn follows the handshake") };
        let mut costly = this.rare.as_mut().and_then(|rare| rare.costly.as_mut());
        if let Some(costly) = &mut costly
            && costly.poll_step(cx, this.sessions.clock.now()).is_pending()
        {
            return Turn::Busy;
        }
        for _ in 0..STEPS_PER_TURN {
            let step = echo.poll_step(cx);
            if let Poll::Ready(Ok(Step::Costly)) = step {
                let now = this.sessions.clock.now();
                let costly = &mut this.rare.get_or_insert_default().costly;
                costly.get_or_insert_with(|| CostlySteps::new(now)).done(cx, now);
                return Turn::Busy;
            }
            if let Some(costly) = &mut costly {
                costly.leave();
            }
            match step {
                Poll::Ready(Ok(Step::Moved | Step::Costly)) => {}
                Poll::Ready(Ok(Step::Ended(peer))) => return Turn::Ended(Ok(peer)),
                Poll::Ready(Err(error)) => return Turn::Ended(Err(error)),
                // tokio's budget for the task is used up. tokio has woken the task already.
                Poll::Pending if !coop::has_budget_remaining() => return Turn::Busy,
                Poll::Pending => return Turn::Waiting,
            }
        }
        yield_turn(cx);
        Turn::Busy
    }

    /// Whether a draining session has echoed what the peer had sent, or has drained long enough.
    fn may_leave(self: Pin<&mut Self>, turn: &Turn, cx: &mut Context<'_>) -> bool {
        let this = self.project();
        *this.turns_while_draining = this.turns_while_draining.saturating_add(1);
        if *this.turns_while_draining >= TURNS_WHILE_DRAINING {
            return true;
        }
        if !matches!(turn, Turn::Waiting) {
            *this.kernel_polls = 0;
            return false;
        }
        if this.phase.owes() {
            return false;
        }
        // The runtime learns from the kernel that a socket is readable, and it polls the kernel
        // between tasks. This task may have been woken before that, so it waits for the next
        // kernel poll. With more sockets than EVENTS, ours may be reported by a later one.
        let enough = Handle::current().metrics().num_alive_tasks() / EVENTS + 1;
        if usize::from(*this.kernel_polls) < enough {
            *this.kernel_polls += 1;
            yield_turn(cx);
            return false;
        }
        true
    }

    /// Has a ping sent, or closes if the peer has sent nothing since the last one.
    fn ping(mut self: Pin<&mut Self>) {
        let this = self.as_mut().project();
        *this.pinged = this.sessions.clock.now();
        if let Phase::Open(echo) = this.phase
            && !echo.heartbeat()
        {
            self.begin_goodbye(Goodbye::GoingAway, End::Unanswered);
        }
    }

    /// Begins to close the session, because of `end`.
    fn begin_goodbye(self: Pin<&mut Self>, goodbye: Goodbye, end: End) {
        let this = self.project();
        if let Some(rare) = this.rare {
            // It does no more steps, so it must neither keep a turn nor wait for one.
            rare.costly = None;
        }
        *this.goodbye = Some(goodbye);
        *this.end = Some(Box::new(end));
        *this.moved = this.sessions.clock.now();
        *this.taken = *this.moved;
    }

    /// Ends the session at once, because of `end`.
    fn finish(self: Pin<&mut Self>, end: End) -> Poll<()> {
        *self.project().end = Some(Box::new(end));
        Poll::Ready(())
    }

    /// Ends the session when the server aborts. If the peer has got everything and only its end was
    /// awaited, the session does not count as aborted.
    fn abort(self: Pin<&mut Self>) -> Poll<()> {
        if self.end.is_none() || self.phase.owes() {
            return self.finish(End::Aborted);
        }
        Poll::Ready(())
    }

    /// The next deadline: when it passes, and which one it is.
    fn next_deadline(&self) -> Option<(Moment, Passed)> {
        self.connection?;
        let timeouts = &self.sessions.timeouts;
        let after = |start: Moment, timeout: Option<Duration>, passed: Passed| {
            timeout.map(|timeout| (start.after(timeout), passed))
        };
        let owes = self.phase.owes();
        // A goodbye is always bounded, even without a stall timeout.
        let patience = timeouts.stall.or(timeouts.idle).unwrap_or(E::LINGER);
        let patience = if self.goodbye.is_some() { Some(patience) } else { timeouts.stall };
        let stall = after(self.taken, patience.filter(|_| owes), Passed::Stall);
        let lifetime = after(self.began, timeouts.lifetime, Passed::Lifetime);
        let of_phase = match (&self.phase, self.goodbye) {
            (Phase::Announcing(_) | Phase::Opening(_), _) => {
                [after(self.began, timeouts.handshake, Passed::Handshake), lifetime, None]
            }
            (Phase::Open(_), None) => {
                let ping = timeouts.ping.filter(|_| E::PINGS);
                let ping = after(self.pinged, ping, Passed::Ping);
                [after(self.moved, timeouts.idle, Passed::Idle), lifetime, ping]
            }
            (Phase::Open(_), Some(_)) => {
                // Past its lifetime a connection gets a farewell, and no more time than the linger.
                let hard = timeouts.lifetime.map(|lifetime| lifetime.saturating_add(E::LINGER));
                let linger = Some(E::LINGER).filter(|_| !owes);
                let hard = after(self.began, hard, Passed::Linger);
                [after(self.moved, linger, Passed::Linger), hard, None]
            }
            // The farewell has a timeout of its own.
            (Phase::Refused(_), _) => [None; 3],
        };
        let costly = self.rare.as_ref().and_then(|rare| rare.costly.as_ref());
        let pause = costly.and_then(|costly| costly.paused_until);
        let pause = pause.map(|until| (until, Passed::Pause));
        of_phase.into_iter().chain([stall, pause]).flatten().min_by_key(|(at, _)| *at)
    }
}

impl<E: Echo> Phase<E> {
    /// The phase that a connection begins with, and who its client has proved to be by then.
    fn of(opening: Opening<E>) -> (Self, Option<String>) {
        match opening {
            Opening::Done(Opened { echo, client, .. }) => (Phase::Open(echo), client),
            Opening::Announced(announcing) => (Phase::Announcing(announcing), None),
            Opening::Handshake(opening) => (Phase::Opening(opening), None),
        }
    }

    fn traffic(&self) -> Traffic {
        self.echo().map_or_else(Traffic::default, Echo::traffic)
    }

    fn moved(&self) -> Moved {
        self.echo().map_or_else(Moved::default, Echo::moved)
    }

    fn owes(&self) -> bool {
        self.echo().is_some_and(Echo::owes)
    }

    fn echo(&self) -> Option<&E> {
        match self {
            Phase::Announcing(_) | Phase::Opening(_) | Phase::Refused(_) => None,
            Phase::Open(echo) => Some(echo),
        }
    }
}

/// Logs the closing line.
fn log_end<E: Echo>(
    connection: &Connection,
    rare: Option<&Rare>,
    phase: &Phase<E>,
    duration: Duration,
    end: &End,
) {
    let traffic = phase.traffic();
    let refused = || rare.and_then(|rare| rare.faults.clone());
    let injected = phase.echo().and_then(Echo::injected);
    let faults = injected.map(|injected| injected.faults).or_else(refused);
    let Connection { protocol, number, peer, .. } = connection;
    let client = rare.and_then(|rare| rare.client.as_deref());
    let proxy = rare.and_then(|rare| rare.proxy).map(tracing::field::display);
    let duration_ms = duration.as_micros() as f64 / 1000.0;
    let (received, sent, messages) = (traffic.received, traffic.sent, traffic.messages);
    // As a string, so that the log quotes it and escapes what a peer may have put into it.
    let reason = end.to_string();
    if end.is_our_fault() {
        error!(
            %protocol, conn = number, %peer, proxy, client, received, sent, messages, faults, duration_ms, reason,
            "Connection closed: {peer}"
        );
    } else {
        info!(
            %protocol, conn = number, %peer, proxy, client, received, sent, messages, faults, duration_ms, reason,
            "Connection closed: {peer}"
        );
    }
}

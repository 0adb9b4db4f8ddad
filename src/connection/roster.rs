//! The sessions of one worker: whom to wake when the server's stage changes, and when a deadline may
//! have passed.
//!
//! A tokio timer and a waiter for the stage would cost each connection 184 bytes, and shared locks
//! whenever one comes or goes. The first timer that a thread arms even costs a system call, since
//! tokio wakes the thread to have it look. A row of this table has 20 bytes, and all rows share one
//! timer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;

use super::clock::{Clock, Moment};

/// Deadlines are rounded up to a multiple of this.
const TICK: u64 = Duration::from_millis(4).as_nanos() as u64;

/// The tick of a row without a deadline.
const NEVER: u32 = 0;

/// A row is woken after this time at the latest, some fifty days, and then waits again: ticks wrap
/// around.
const LONGEST: Duration = Duration::from_nanos((u32::MAX / 4) as u64 * TICK);

/// A table that has grown beyond this many rows is given back when it is empty.
const KEPT_ROWS: usize = 1024;

/// The sessions of one worker.
#[derive(Debug)]
pub(crate) struct Roster {
    clock: Clock,
    /// How many sessions there are. Those that were not polled yet have no row.
    sessions: AtomicUsize,
    table: Mutex<Table>,
    /// The driver has to look at the table again.
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Table {
    wakers: Vec<Option<Waker>>,
    /// When each row is to be woken, modulo 2^32. An array of its own, because the driver reads all
    /// of it.
    ticks: Vec<u32>,
    free: Vec<u32>,
    /// The driver sleeps until then; `None` if there is no driver.
    driven_until: Option<Moment>,
}

/// A session's row in the roster of its worker. It must be given back by [`Roster::leave`].
#[derive(Debug)]
pub(super) struct Seat {
    row: Option<u32>,
    /// When the row is to be woken. If that has passed, it has no tick any more.
    armed: Moment,
}

impl Seat {
    /// Whether the session has its row.
    pub(super) fn is_taken(&self) -> bool {
        self.row.is_some()
    }
}

impl Roster {
    pub(super) fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Roster {
            clock,
            sessions: AtomicUsize::new(0),
            table: Mutex::default(),
            changed: Arc::default(),
        })
    }

    /// How many sessions there are.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Counts a session in, which takes its row when it is first polled.
    pub(super) fn enter(&self) -> Seat {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        Seat { row: None, armed: Moment::from_nanos(0) }
    }

    /// Gives a row to a session that has none. From now on [`Roster::wake_all`] wakes it, provided
    /// that it is always polled with the same waker, as a spawned task is.
    pub(super) fn sit(&self, seat: &mut Seat, cx: &Context<'_>) {
        let mut table = self.table();
        let waker = Some(cx.waker().clone());
        let row = match table.free.pop() {
            Some(row) => {
                table.wakers[row as usize] = waker;
                row
            }
            None => {
                table.wakers.push(waker);
                table.ticks.push(NEVER);
                u32::try_from(table.ticks.len() - 1).expect("a session has a file descriptor")
            }
        };
        seat.row = Some(row);
    }

    /// Counts a session out.
    pub(super) fn leave(&self, seat: &mut Seat) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
        let Some(row) = seat.row.take() else { return };
        let mut table = self.table();
        table.ticks[row as usize] = NEVER;
        // The waker may be the last owner of its task, so it is dropped without the lock.
        let waker = table.wakers[row as usize].take();
        table.free.push(row);
        if table.free.len() == table.ticks.len() && table.ticks.len() > KEPT_ROWS {
            let driven_until = table.driven_until;
            *table = Table { driven_until, ..Table::default() };
        }
        drop(table);
        drop(waker);
    }

    /// Ready once `deadline` has passed; `now` says whether. Otherwise the session is woken when it
    /// has.
    ///
    /// Each message postpones a connection's idle deadline, so the row keeps an earlier tick, and the
    /// session is woken then to name its deadline of that moment.
    pub(super) fn poll_passed(
        self: &Arc<Self>,
        seat: &mut Seat,
        deadline: Moment,
        now: Moment,
    ) -> Poll<()> {
        if deadline <= now {
            return Poll::Ready(());
        }
        let is_later = seat.armed.to_nanos() >= deadline.to_nanos().saturating_add(TICK);
        if seat.armed <= now || is_later {
            let wake = deadline.min(now.after(LONGEST)).to_nanos().div_ceil(TICK);
            seat.armed = Moment::from_nanos(wake * TICK);
            self.arm(seat.row.expect("a session sits before it waits"), seat.armed);
        }
        Poll::Pending
    }

    /// Has a row woken at a multiple of the tick.
    fn arm(self: &Arc<Self>, row: u32, at: Moment) {
        let mut table = self.table();
        // If the tick is NEVER's, the next one does.
        table.ticks[row as usize] = ((at.to_nanos() / TICK) as u32).max(NEVER + 1);
        match table.driven_until {
            Some(until) if until <= at => {}
            Some(_) => {
                table.driven_until = Some(at);
                drop(table);
                self.changed.notify_one();
            }
            None => {
                table.driven_until = Some(at);
                drop(table);
                let changed = Arc::clone(&self.changed);
                tokio::spawn(drive(Arc::downgrade(self), changed, self.clock));
            }
        }
    }

    /// Wakes every session.
    pub(super) fn wake_all(&self) {
        let wakers: Vec<_> = self.table().wakers.iter().flatten().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Wakes the sessions whose tick has come, and returns when the next one comes. `None`: no
    /// session has a deadline, and the driver ends.
    fn sweep(&self) -> Option<Moment> {
        let now = self.clock.now().to_nanos() / TICK;
        let mut due = Vec::new();
        let mut table = self.table();
        let Table { wakers, ticks, driven_until, .. } = &mut *table;
        let mut next = None;
        for (row, tick) in ticks.iter_mut().enumerate().filter(|(_, tick)| **tick != NEVER) {
            let ahead = tick.wrapping_sub(now as u32);
            if ahead == 0 || ahead > u32::MAX / 2 {
                *tick = NEVER;
                due.extend(wakers[row].clone());
            } else {
                next = Some(next.map_or(ahead, |next: u32| next.min(ahead)));
            }
        }
        *driven_until = next.map(|ahead| Moment::from_nanos((now + u64::from(ahead)) * TICK));
        let next = *driven_until;
        drop(table);
        due.into_iter().for_each(Waker::wake);
        next
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Roster {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

/// Sweeps the roster at each tick that a row has, until no row has one or the roster is gone.
async fn drive(roster: Weak<Roster>, changed: Arc<Notify>, clock: Clock) {
    let mut until = None;
    loop {
        if let Some(moment) = until {
            let passed = tokio::time::sleep_until(clock.at(moment));
            tokio::select! {
                () = passed => {}
                () = changed.notified() => {}
            }
        }
        let Some(roster) = roster.upgrade() else { return };
        until = roster.sweep();
        if until.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    use tokio::runtime::Handle;
    use tokio::task::yield_now;
    use tokio::time::{advance, sleep};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[derive(Default)]
    struct Flag(AtomicBool);

    impl Flag {
        fn take(&self) -> bool {
            self.0.swap(false, Ordering::Relaxed)
        }
    }

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn roster() -> Arc<Roster> {
        Roster::new(Clock::new())
    }

    fn seat(roster: &Roster, woken: &Arc<Flag>) -> Seat {
        let mut seat = roster.enter();
        roster.sit(&mut seat, &Context::from_waker(&Arc::clone(woken).into()));
        seat
    }

    fn moment(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    fn has_passed(roster: &Arc<Roster>, seat: &mut Seat, seconds: u64) -> bool {
        roster.poll_passed(seat, moment(seconds), roster.clock.now()).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_later_passes_at_its_last_value() {
        let roster = roster();
        let mut seat = roster.enter();
        let mut wakes = 0;
        poll_fn(|cx| {
            wakes += 1;
            if !seat.is_taken() {
                roster.sit(&mut seat, cx);
            }
            let now = roster.clock.now();
            // As if a message came just before each wake, until ten have come.
            let last_message = now.min(moment(9));
            roster.poll_passed(&mut seat, last_message.after(SECOND), now)
        })
        .await;
        assert_eq!(roster.clock.now(), moment(10));
        assert!(wakes <= 12, "{wakes} wakes");
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_earlier_passes_there() {
        let (roster, woken) = (roster(), Arc::default());
        let mut seat = seat(&roster, &woken);
        assert!(!has_passed(&roster, &mut seat, 100));
        // The driver has gone to sleep.
        sleep(SECOND).await;
        assert!(!has_passed(&roster, &mut seat, 2));
        sleep(SECOND / 2).await;
        assert!(!woken.take());
        sleep(SECOND).await;
        assert!(woken.take());
        assert!(has_passed(&roster, &mut seat, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_stays_is_armed_once() {
        let (roster, woken) = (roster(), Arc::default());
        let mut seat = seat(&roster, &woken);
        let deadline = Moment::from_nanos(1_000_000_007);
        assert!(roster.poll_passed(&mut seat, deadline, moment(0)).is_pending());
        let armed = std::mem::replace(&mut roster.table().ticks[0], NEVER);
        assert_eq!(armed, 251);
        assert!(roster.poll_passed(&mut seat, deadline, moment(1)).is_pending());
        assert_eq!(roster.table().ticks[0], NEVER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_woken_for_no_deadline_but_its_own() {
        let roster = roster();
        let woken: [Arc<Flag>; 3] = Default::default();
        let mut seats = woken.each_ref().map(|woken| seat(&roster, woken));
        for (seconds, seat) in (1..).zip(&mut seats) {
            assert!(!has_passed(&roster, seat, seconds));
        }
        roster.leave(&mut seats[1]);
        sleep(SECOND / 2).await;
        for expected in [[true, false, false], [false; 3], [false, false, true]] {
            sleep(SECOND).await;
            assert_eq!(woken.each_ref().map(|woken| woken.take()), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_too_far_for_a_tick_is_waited_for_in_parts() {
        let (roster, woken) = (roster(), Arc::default());
        let mut seat = seat(&roster, &woken);
        const DAY: u64 = 24 * 60 * 60;
        let far = moment(500 * DAY);
        let mut wakes = 0;
        while roster.poll_passed(&mut seat, far, roster.clock.now()).is_pending() {
            while !woken.take() {
                advance(Duration::from_secs(DAY)).await;
                yield_now().await;
            }
            wakes += 1;
        }
        assert!((10..=12).contains(&wakes), "{wakes} wakes, of some 50 days each");
    }

    #[tokio::test(start_paused = true)]
    async fn all_are_woken_at_once() {
        let roster = roster();
        let woken: [Arc<Flag>; 3] = Default::default();
        let mut seats = woken.each_ref().map(|woken| seat(&roster, woken));
        roster.leave(&mut seats[0]);
        roster.wake_all();
        assert_eq!(woken.each_ref().map(|woken| woken.take()), [false, true, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_driver_ends_with_the_last_deadline_and_with_the_roster() {
        let tasks = || Handle::current().metrics().num_alive_tasks();
        let (roster, woken) = (roster(), Arc::default());
        let mut seat = seat(&roster, &woken);
        assert_eq!(tasks(), 0);
        assert!(!has_passed(&roster, &mut seat, 1));
        assert_eq!(tasks(), 1);
        sleep(2 * SECOND).await;
        assert_eq!(tasks(), 0);
        assert!(!has_passed(&roster, &mut seat, 1000));
        assert_eq!(tasks(), 1);
        sleep(SECOND).await;
        roster.leave(&mut seat);
        drop(roster);
        sleep(SECOND).await;
        assert_eq!(tasks(), 0);
    }

    #[test]
    fn rows_are_used_again_and_given_back() {
        let (roster, woken) = (roster(), Arc::default());
        for count in [10, 2 * KEPT_ROWS] {
            let mut seats: Vec<_> = (0..count).map(|_| seat(&roster, &woken)).collect();
            assert_eq!(roster.sessions(), count);
            seats.iter_mut().for_each(|seat| roster.leave(seat));
            assert_eq!(roster.sessions(), 0);
        }
        assert_eq!(roster.table().ticks.capacity(), 0);
        assert_eq!(Arc::strong_count(&woken), 1);
    }
}

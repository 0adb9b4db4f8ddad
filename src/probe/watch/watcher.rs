//! The loop of a watch: when a round is due, when a name is looked up, and what of it is written down.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::board::{Board, Key};
use super::files::Stamped;
use super::hash::stable;
use super::lookups::{Found, Lookups};
use super::plan::{Addresses, Plan, names};
use super::round::{Outcome, Round};
use super::series::Turn;
use super::settings::{Read, Rereading, Settings};
use super::{Series, Watch, WatchError, WatchOptions};
use crate::probe::Target;
use crate::probe::payload::Payloads;

/// For how many intervals a target has to be missing before nothing is known of it any more.
const FORGET: u32 = 3;

/// The longest interval: a year of 365.25 days.
const LONGEST: Duration = Duration::from_secs(31_557_600);

/// How long a plan holds although nothing has changed that is looked up: addresses of this machine may
/// have.
const REPLAN: Duration = Duration::from_secs(60);

/// That something is not as it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum WatchEvent {
    /// A target is not up. [`Series::problem`] says why.
    Down(Box<Series>),
    /// A target is up again.
    Up {
        /// The target.
        series: Box<Series>,
        /// For how long it was not up.
        after: Duration,
    },
    /// A name cannot be looked up, and could before, or is looked up for the first time. The addresses
    /// that it had are probed on. It is told again when it has been looked up in between.
    LookupFailed {
        /// The name.
        name: String,
        /// Why.
        problem: String,
    },
    /// Files were read, since one has changed or it was asked for: this many targets are watched now.
    Reread {
        /// Targets, of which each may have several addresses.
        targets: usize,
    },
    /// A file was read again and cannot be used; what was read before is kept.
    Unusable(WatchError),
}

/// A [`Watch`] that has read its files, and can run.
#[derive(Debug)]
pub struct Watcher {
    options: WatchOptions,
    settings: Arc<Settings>,
    /// The files, as they were before they were read.
    stamps: Stamped,
    read: Read,
    board: Board,
}

impl Watcher {
    pub(super) fn new(watch: Watch) -> Result<Self, WatchError> {
        let Watch { mut options, targets: given, target_file, mut connect, messages } = watch;
        options.every = options.every.clamp(Duration::from_millis(1), LONGEST);
        options.count = options.count.max(1);
        connect.timeout = connect_timeout(connect.timeout, options.every);
        let settings = Settings { given, target_file, connect, messages };
        let stamps = settings.stamps();
        let read = settings.read()?;
        let board = Board::new(&options.source, options.every);
        board.state().are_files_usable = stamps.has_any().then_some(true);
        Ok(Watcher { options, settings: Arc::new(settings), stamps, read, board })
    }

    /// Where to read what is known.
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// Watches until it is dropped, and tells what changes. Files are read again when they have changed,
    /// and when `reread` is notified.
    pub async fn run(mut self, reread: &Notify, on_event: impl FnMut(WatchEvent)) -> Infallible {
        let payloads = Payloads::new(&self.settings.messages);
        let settings = Arc::clone(&self.settings);
        let mut rereading = Rereading::new(std::mem::take(&mut self.stamps));
        let mut run = Run {
            start: Instant::now(),
            watcher: self,
            payloads,
            on_event,
            addresses: Addresses::new(),
            lookups: Lookups::default(),
            planned_at: None,
            failing: BTreeSet::new(),
            entries: BTreeMap::new(),
            timetable: BTreeSet::new(),
            absent: BTreeMap::new(),
            rounds: FuturesUnordered::new(),
        };
        let mut refresh = run.start;
        loop {
            let next_round = run.timetable.first().map(|(due, _)| *due);
            tokio::select! {
                // What has ended makes room for what is due, and is not missed because we are late.
                biased;
                Some((key, outcome)) = run.rounds.next() => run.ended(&key, outcome),
                (name, found) = run.lookups.next() => run.found(name, found),
                read = rereading.done(&settings) => run.reread(read),
                () = reread.notified() => rereading.reread(&settings),
                () = sleep_until(refresh) => {
                    refresh += run.watcher.options.every;
                    // After a standstill, none is made up for.
                    refresh = refresh.max(Instant::now());
                    rereading.look(&settings);
                    run.refresh();
                }
                () = until(next_round) => run.begin(),
            }
        }
    }
}

/// A target at an address, while it is probed or its last round goes on.
struct Entry {
    target: Arc<Target>,
    is_running: bool,
    /// Whether it is in the plan. What comes of a round does not count when it is not.
    is_planned: bool,
}

/// What a watcher keeps while it runs.
struct Run<OnEvent> {
    watcher: Watcher,
    on_event: OnEvent,
    start: Instant,
    payloads: Payloads,
    addresses: Addresses,
    lookups: Lookups,
    planned_at: Option<Instant>,
    /// The names whose last lookup has failed.
    failing: BTreeSet<String>,
    entries: BTreeMap<Key, Entry>,
    /// When the next round of each entry is due.
    timetable: BTreeSet<(Instant, Key)>,
    /// What is on the board and not in the plan, and for how many intervals.
    absent: BTreeMap<Key, u32>,
    rounds: FuturesUnordered<BoxFuture<'static, (Key, Outcome)>>,
}

impl<OnEvent: FnMut(WatchEvent)> Run<OnEvent> {
    /// Begins the rounds that are due.
    fn begin(&mut self) {
        let every = self.watcher.options.every;
        let now = Instant::now();
        while let Some((due, _)) = self.timetable.first()
            && *due <= now
            && let Some((due, key)) = self.timetable.pop_first()
        {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            // A standstill, such as that of a laptop, leaves rounds out.
            let skipped = ((now - due).as_nanos() / every.as_nanos()) as u64;
            let next = next_at(due, every, now);
            let missed = skipped + u64::from(entry.is_running);
            if missed > 0
                && let Some(series) = self.watcher.board.state().series.get_mut(&key)
            {
                series.missed += missed;
            }
            self.timetable.insert((next, key.clone()));
            if !entry.is_running {
                entry.is_running = true;
                let target = Arc::clone(&entry.target);
                let round = self.round(key, target);
                self.rounds.push(round);
            }
        }
    }

    fn round(&self, key: Key, target: Arc<Target>) -> BoxFuture<'static, (Key, Outcome)> {
        let mut connect = self.watcher.settings.connect.clone();
        connect.address = key.1.map(|address| address.ip());
        let keyring = Arc::clone(&self.watcher.read.keyring);
        let payloads = self.payloads.clone();
        let WatchOptions { count, every, timeout, .. } = self.watcher.options;
        Box::pin(async move {
            let round = Round {
                target: &target,
                connect: &connect,
                keyring: &keyring,
                payloads: &payloads,
                count,
                timeout,
                end: Instant::now() + every * 9 / 10,
            };
            let outcome = round.run().await;
            (key, outcome)
        })
    }

    fn ended(&mut self, key: &Key, outcome: Outcome) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.is_running = false;
        if !entry.is_planned {
            self.entries.remove(key);
            return;
        }
        let mut state = self.watcher.board.state();
        let Some(series) = state.series.get_mut(key) else { return };
        let turn = series.ended(outcome);
        let series = turn.map(|turn| (turn, Box::new(series.clone())));
        drop(state);
        match series {
            Some((Turn::Down, series)) => (self.on_event)(WatchEvent::Down(series)),
            Some((Turn::Up(after), series)) => (self.on_event)(WatchEvent::Up { series, after }),
            None => {}
        }
    }

    /// What is to be done in each interval.
    fn refresh(&mut self) {
        let Watcher { options, settings, read, .. } = &self.watcher;
        self.lookups.begin(names(&read.targets, options), settings.connect.family);
        if self.planned_at.is_none_or(|at| at.elapsed() >= REPLAN) {
            self.plan();
        }
        self.forget();
    }

    /// Takes what was looked up into account.
    fn found(&mut self, name: String, found: Found) {
        let addresses = match found {
            Ok(addresses) => {
                self.failing.remove(&name);
                addresses
            }
            Err(problem) => {
                let mut state = self.watcher.board.state();
                *state.lookup_failures.entry(name.clone()).or_default() += 1;
                drop(state);
                if self.failing.insert(name.clone()) {
                    let name = name.clone();
                    (self.on_event)(WatchEvent::LookupFailed { name, problem });
                }
                // A failure takes no address away.
                self.addresses.get(&name).cloned().unwrap_or_default()
            }
        };
        if self.addresses.get(&name) != Some(&addresses) {
            self.addresses.insert(name, addresses);
            self.plan();
        }
    }

    /// Makes a new plan. One of a thousand hosts costs as much as hundreds of rounds.
    fn plan(&mut self) {
        let Watcher { options, read, .. } = &self.watcher;
        let plan = Plan::new(&read.targets, &self.addresses, options);
        self.planned_at = Some(Instant::now());
        self.follow(plan);
    }

    /// Probes what is in `plan` and nothing else.
    fn follow(&mut self, plan: Plan) {
        let Plan { probed, members, own } = plan;
        self.entries.retain(|key, entry| {
            entry.is_planned = probed.contains_key(key);
            entry.is_planned || entry.is_running
        });
        self.timetable.retain(|(_, key)| probed.contains_key(key));
        let planned: BTreeSet<_> = self.timetable.iter().map(|(_, key)| key.clone()).collect();
        let mut state = self.watcher.board.state();
        state.members = members.into_iter().collect();
        state.own = own.into_iter().collect();
        state
            .series
            .iter_mut()
            .for_each(|(key, series)| series.is_probed = probed.contains_key(key));
        for (key, target) in &probed {
            let series = || Series::new(Arc::clone(target), key.1);
            state.series.entry(key.clone()).or_insert_with(series);
            // One that has come back may still be in a round, which is then missed and not joined.
            let entry =
                || Entry { target: Arc::clone(target), is_running: false, is_planned: true };
            self.entries.entry(key.clone()).or_insert_with(entry);
            if !planned.contains(key) {
                let due = first_round(&self.watcher.options, self.start, key);
                self.timetable.insert((due, key.clone()));
            }
        }
    }

    /// Forgets what has not been in the plan for a few intervals.
    fn forget(&mut self) {
        let Run { watcher, entries, absent, .. } = self;
        let mut state = watcher.board.state();
        let is_planned = |key: &Key| entries.get(key).is_some_and(|entry| entry.is_planned);
        absent.retain(|key, _| !is_planned(key));
        for key in state.series.keys().filter(|key| !is_planned(key)) {
            *absent.entry(key.clone()).or_default() += 1;
        }
        absent.retain(|key, intervals| {
            let is_remembered = *intervals < FORGET;
            if !is_remembered {
                state.series.remove(key);
            }
            is_remembered
        });
    }

    /// Takes what was read again, or keeps what was read before.
    fn reread(&mut self, read: Result<Read, WatchError>) {
        let mut state = self.watcher.board.state();
        if let Some(are_usable) = &mut state.are_files_usable {
            *are_usable = read.is_ok();
        }
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                drop(state);
                return (self.on_event)(WatchEvent::Unusable(error));
            }
        };
        // Names that are gone come back as new ones.
        let names = names(&read.targets, &self.watcher.options);
        state.lookup_failures.retain(|name, _| names.contains(name));
        self.failing.retain(|name| names.contains(name));
        self.addresses.retain(|name, _| names.contains(name));
        drop(state);
        let targets = read.targets.len();
        self.watcher.read = read;
        self.lookups.begin(names, self.watcher.settings.connect.family);
        self.plan();
        (self.on_event)(WatchEvent::Reread { targets });
    }
}

/// How long a round may connect. The other half of the interval is left for the messages: a round that
/// ended when the next one is due would have that one missed, and a dead target would be probed every
/// other time.
fn connect_timeout(given: Duration, every: Duration) -> Duration {
    given.min(every / 2)
}

/// When the first round of an entry begins.
fn first_round(options: &WatchOptions, start: Instant, key: &Key) -> Instant {
    let (first, now) = (start + place(options, key), Instant::now());
    if first >= now { first } else { next_at(first, options.every, now) }
}

/// The first time behind `now` that is a whole number of intervals after `due`.
fn next_at(due: Instant, every: Duration, now: Instant) -> Instant {
    let into = (now - due).as_nanos() % every.as_nanos();
    now + Duration::from_nanos((every.as_nanos() - into) as u64)
}

/// When the rounds of an entry begin, within the intervals of this process: at a place of its own, which is
/// another one on another host.
pub(super) fn place(options: &WatchOptions, key: &Key) -> Duration {
    let address = key.1.map(|address| address.to_string()).unwrap_or_default();
    let hash = stable(&[options.source.as_bytes(), key.0.as_bytes(), address.as_bytes()]);
    Duration::from_nanos(((u128::from(hash) * options.every.as_nanos()) >> 64) as u64)
}

/// Sleeps until `at`, or for ever.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_round_of_a_target_that_does_not_answer_is_missed() {
        // The system accepts for it, and the TLS handshake hears nothing.
        let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let at = silent.local_addr().unwrap();
        for target in [format!("tls://{at}"), format!("tcp://{at}")] {
            let watch = Watch::new(WatchOptions::new("here")).target(target.parse().unwrap());
            let watcher = watch.prepare().unwrap();
            let board = watcher.board();
            // Three rounds have ended by then, wherever in the interval they begin, and no fourth.
            let time = Duration::from_secs(39);
            let _ = timeout(time, watcher.run(&Notify::new(), |_| {})).await;
            let series = &board.series()[0];
            assert_eq!((series.failed_rounds, series.missed), (series.rounds, 0), "{target}");
            assert!((3..=4).contains(&series.rounds), "{target}: {}", series.rounds);
        }
    }
}

//! The loop of a watch: when a round is due, when a name is looked up, and what of it is written down.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, join_all};
use futures::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::board::{Board, Key};
use super::hash::stable;
use super::plan::{Addresses, Plan, names};
use super::round::{Outcome, Round};
use super::series::Turn;
use super::settings::{Read, Rereading, Settings};
use super::{Series, Watch, WatchError, WatchOptions};
use crate::probe::payload::Payloads;
use crate::probe::{Family, Target, connect};

/// A lookup that takes longer has failed.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// With how many lookups a target has to be missing before nothing is known of it any more.
const FORGET: u32 = 3;

/// The longest interval: a year of 365.25 days.
const LONGEST: Duration = Duration::from_secs(31_557_600);

/// How long a plan holds although nothing has changed that is looked up: addresses of this machine may
/// have.
const REPLAN: Duration = Duration::from_secs(5 * 60);

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
    /// A name could be looked up, and now cannot. The addresses that it had are probed on.
    LookupFailed {
        /// The name.
        name: String,
        /// Why.
        problem: String,
    },
    /// A file has changed and was read: this many targets are watched now.
    Reread {
        /// Targets, of which each may have several addresses.
        targets: usize,
    },
    /// A file has changed and cannot be used; what was read before is kept.
    Unusable(WatchError),
}

/// A [`Watch`] that has read its files, and can run.
#[derive(Debug)]
pub struct Watcher {
    options: WatchOptions,
    settings: Arc<Settings>,
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
        let read = settings.read()?;
        let board = Board::new(&options.source, options.every);
        let has_files = !settings.files().is_empty();
        board.state().are_files_usable = has_files.then_some(true);
        Ok(Watcher { options, settings: Arc::new(settings), read, board })
    }

    /// Where to read what is known.
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// How many targets there are, of which each may have several addresses.
    pub fn targets(&self) -> usize {
        self.read.targets.len()
    }

    /// Watches until it is dropped, and tells what changes. Files are read again when they have changed,
    /// and when `reread` is notified.
    pub async fn run(self, reread: &Notify, on_event: impl FnMut(WatchEvent)) -> Infallible {
        let payloads = Payloads::new(&self.settings.messages);
        let settings = Arc::clone(&self.settings);
        let mut rereading = Rereading::new(&settings);
        let mut run = Run {
            start: Instant::now(),
            watcher: self,
            payloads,
            on_event,
            addresses: Addresses::new(),
            settled: None,
            failing: BTreeSet::new(),
            entries: BTreeMap::new(),
            timetable: BTreeSet::new(),
            absent: BTreeMap::new(),
            rounds: FuturesUnordered::new(),
        };
        let mut lookups: Option<BoxFuture<'static, Lookups>> = Some(run.look_up());
        let mut refresh = run.start;
        loop {
            let next_round = run.timetable.first().map(|(due, _)| *due);
            tokio::select! {
                Some((key, outcome)) = run.rounds.next() => run.ended(&key, outcome),
                () = until(next_round) => run.begin(),
                found = ready(&mut lookups) => {
                    lookups = None;
                    run.found(found);
                }
                () = sleep_until(refresh) => {
                    refresh += run.watcher.options.every;
                    // After a standstill, none is made up for.
                    refresh = refresh.max(Instant::now());
                    rereading.look(&settings);
                    lookups.get_or_insert_with(|| run.look_up());
                }
                () = reread.notified() => rereading.reread(&settings),
                read = rereading.done(&settings) => {
                    run.reread(read);
                    // What is being looked up are the names of before.
                    lookups = Some(run.look_up());
                }
            }
        }
    }
}

/// The addresses of each name, or why they are not known.
type Lookups = Vec<(String, Result<BTreeSet<IpAddr>, String>)>;

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
    /// When the plan was made, if nothing that it was made of has changed since.
    settled: Option<Instant>,
    /// The names whose last lookup has failed.
    failing: BTreeSet<String>,
    entries: BTreeMap<Key, Entry>,
    /// When the next round of each entry is due.
    timetable: BTreeSet<(Instant, Key)>,
    /// What is on the board and not in the plan, and since how many lookups.
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
            let skipped = ((now - due).as_nanos() / every.as_nanos()) as u32;
            let next = due + every * (skipped + 1);
            let missed = u64::from(skipped) + u64::from(entry.is_running);
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

    /// Looks up all names at the same time.
    fn look_up(&self) -> BoxFuture<'static, Lookups> {
        let Watcher { options, settings, read, .. } = &self.watcher;
        let family = settings.connect.family;
        let lookups = names(&read.targets, options).into_iter().map(move |name| async move {
            let found = match timeout(LOOKUP_TIMEOUT, addresses_of(&name, family)).await {
                Ok(Ok(found)) if found.is_empty() => Err("it has no address".to_owned()),
                Ok(Ok(found)) => Ok(found),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the resolver did not answer".to_owned()),
            };
            (name, found)
        });
        Box::pin(join_all(lookups))
    }

    /// Takes what was looked up into account, and makes a new plan.
    fn found(&mut self, lookups: Lookups) {
        for (name, found) in lookups {
            match found {
                Ok(addresses) => {
                    self.failing.remove(&name);
                    if self.addresses.get(&name) != Some(&addresses) {
                        self.addresses.insert(name, addresses);
                        self.settled = None;
                    }
                }
                Err(problem) => {
                    let mut state = self.watcher.board.state();
                    *state.lookup_failures.entry(name.clone()).or_default() += 1;
                    drop(state);
                    if !self.addresses.contains_key(&name) {
                        self.addresses.insert(name.clone(), BTreeSet::new());
                        self.settled = None;
                    }
                    if self.failing.insert(name.clone()) {
                        (self.on_event)(WatchEvent::LookupFailed { name, problem });
                    }
                }
            }
        }
        // A plan of a thousand hosts costs as much as hundreds of rounds.
        if self.settled.is_none_or(|planned| planned.elapsed() >= REPLAN) {
            let Watcher { options, read, .. } = &self.watcher;
            let plan = Plan::new(&read.targets, &self.addresses, options);
            // A name may have an address of this machine before the machine has it.
            let is_settled = options.own.is_empty() || !plan.own.is_empty();
            self.settled = is_settled.then(Instant::now);
            self.follow(plan);
        }
        self.forget();
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

    /// Forgets what has not been in the plan for a few lookups.
    fn forget(&mut self) {
        let Run { watcher, entries, absent, .. } = self;
        let mut state = watcher.board.state();
        let is_planned = |key: &Key| entries.get(key).is_some_and(|entry| entry.is_planned);
        absent.retain(|key, _| !is_planned(key));
        for key in state.series.keys().filter(|key| !is_planned(key)) {
            *absent.entry(key.clone()).or_default() += 1;
        }
        absent.retain(|key, lookups| {
            let is_remembered = *lookups < FORGET;
            if !is_remembered {
                state.series.remove(key);
            }
            is_remembered
        });
    }

    /// Takes what was read again, or keeps what was read before.
    fn reread(&mut self, read: Result<Read, WatchError>) {
        self.watcher.board.state().are_files_usable = Some(read.is_ok());
        (self.on_event)(match read {
            Ok(read) => {
                let targets = read.targets.len();
                self.watcher.read = read;
                self.settled = None;
                WatchEvent::Reread { targets }
            }
            Err(error) => WatchEvent::Unusable(error),
        });
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
    let place = place(options, key);
    let every = options.every.as_nanos();
    let now = Instant::now();
    let passed = now.saturating_duration_since(start + place);
    let whole = (passed.as_nanos() / every) as u32 + u32::from(now > start + place);
    start + place + options.every * whole
}

/// When the rounds of an entry begin, within the interval: at a place of its own, which a restart does not
/// change, and which is another one on another host.
pub(super) fn place(options: &WatchOptions, key: &Key) -> Duration {
    let address = key.1.map(|address| address.to_string()).unwrap_or_default();
    let hash = stable(&[options.source.as_bytes(), key.0.as_bytes(), address.as_bytes()]);
    Duration::from_nanos(((u128::from(hash) * options.every.as_nanos()) >> 64) as u64)
}

async fn addresses_of(name: &str, family: Option<Family>) -> io::Result<BTreeSet<IpAddr>> {
    let found = connect::addresses_of(name).await?.into_iter().map(|address| address.ip());
    Ok(found
        .filter(|ip| match family {
            None => true,
            Some(Family::V4) => ip.is_ipv4(),
            Some(Family::V6) => ip.is_ipv6(),
        })
        .collect())
}

/// Sleeps until `at`, or for ever.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Waits for `work`, or for ever if there is none.
async fn ready<T>(work: &mut Option<BoxFuture<'static, T>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

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

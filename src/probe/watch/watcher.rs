//! The loop of a watch: when a round is due, when a name is looked up, and what of it is written down.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, join_all};
use futures::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::board::{Board, Key};
use super::files::{Stamped, read_targets};
use super::hash::stable;
use super::plan::{Addresses, Plan, names};
use super::round::{Outcome, Round};
use super::series::Turn;
use super::{Series, Watch, WatchError, WatchOptions};
use crate::config::Source;
use crate::probe::payload::Payloads;
use crate::probe::tls::{ClientTls, Keyring};
use crate::probe::{ConnectOptions, Family, Messages, Target};

/// A lookup that takes longer has failed.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// With how many lookups a target has to be missing before nothing is known of it any more.
const FORGET: u32 = 3;

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
    given: Vec<Target>,
    target_file: Option<PathBuf>,
    connect: ConnectOptions,
    messages: Messages,
    read: Read,
    board: Board,
}

/// What was read of files.
#[derive(Debug)]
struct Read {
    targets: Vec<Arc<Target>>,
    keyring: Arc<Keyring>,
}

impl Watcher {
    pub(super) fn new(watch: Watch) -> Result<Self, WatchError> {
        let Watch { options, targets: given, target_file, mut connect, messages } = watch;
        connect.timeout = connect_timeout(connect.timeout, options.every);
        let read = Read::all(&given, target_file.as_deref(), &connect, &messages)?;
        let board = Board::new(&options.source, options.every);
        board.state().is_file_usable = target_file.as_ref().map(|_| true);
        Ok(Watcher { options, given, target_file, connect, messages, read, board })
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
        let mut files = Stamped::new(self.files());
        let payloads = Payloads::new(&self.messages);
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
                    if files.have_changed() {
                        run.reread();
                    }
                    lookups.get_or_insert_with(|| run.look_up());
                }
                () = reread.notified() => {
                    files.have_changed();
                    run.reread();
                    lookups.get_or_insert_with(|| run.look_up());
                }
            }
        }
    }

    /// The files that are read again.
    fn files(&self) -> Vec<PathBuf> {
        let tls = &self.connect.tls;
        let credentials = tls.client_credentials.iter();
        let of_credentials = credentials.flat_map(|given| [&given.chain, &given.key]);
        let sources = tls.ca.iter().chain(of_credentials);
        let paths = sources.filter_map(Source::path).map(Path::to_owned);
        paths.chain(self.target_file.clone()).collect()
    }
}

impl Read {
    fn all(
        given: &[Target],
        file: Option<&Path>,
        connect: &ConnectOptions,
        messages: &Messages,
    ) -> Result<Self, WatchError> {
        let mut targets = given.to_vec();
        if let Some(file) = file {
            targets.extend(read_targets(file)?);
        }
        let keyring = Keyring::read(&connect.tls)?;
        for target in &targets {
            messages.check(target)?;
            connect.check(target)?;
            if target.protocol().is_over_tls() {
                ClientTls::with(target, &connect.tls, &keyring)?;
            }
        }
        let targets = targets.into_iter().map(Arc::new).collect();
        Ok(Read { targets, keyring: Arc::new(keyring) })
    }
}

/// The addresses of each name, or why they are not known.
type Lookups = Vec<(String, Result<BTreeSet<IpAddr>, String>)>;

/// A target at an address, while it is probed.
struct Entry {
    target: Arc<Target>,
    is_running: bool,
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
        let mut connect = self.watcher.connect.clone();
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
                timeout: timeout.min(every),
            };
            let outcome = round.run().await;
            (key, outcome)
        })
    }

    fn ended(&mut self, key: &Key, outcome: Outcome) {
        // It may be probed no longer.
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.is_running = false;
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
        let Watcher { options, connect, read, .. } = &self.watcher;
        let family = connect.family;
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
        self.entries.retain(|key, _| probed.contains_key(key));
        self.timetable.retain(|(_, key)| probed.contains_key(key));
        let mut state = self.watcher.board.state();
        state.members = members.into_iter().collect();
        state.own = own.into_iter().collect();
        for (key, target) in &probed {
            let series = || Series::new(Arc::clone(target), key.1);
            state.series.entry(key.clone()).or_insert_with(series);
            if !self.entries.contains_key(key) {
                let due = first_round(&self.watcher.options, self.start, key);
                self.timetable.insert((due, key.clone()));
                let entry = Entry { target: Arc::clone(target), is_running: false };
                self.entries.insert(key.clone(), entry);
            }
        }
    }

    /// Forgets what has not been in the plan for a few lookups.
    fn forget(&mut self) {
        let Run { watcher, entries, absent, .. } = self;
        let mut state = watcher.board.state();
        absent.retain(|key, _| !entries.contains_key(key));
        for key in state.series.keys().filter(|key| !entries.contains_key(*key)) {
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

    /// Reads all files again, or keeps what was read before.
    fn reread(&mut self) {
        let Watcher { given, target_file, connect, messages, .. } = &self.watcher;
        let read = Read::all(given, target_file.as_deref(), connect, messages);
        if target_file.is_some() {
            let is_usable = !matches!(read, Err(WatchError::TargetFile(_)));
            self.watcher.board.state().is_file_usable = Some(is_usable);
        }
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

/// How long a round may connect. Half of the interval is left for the messages: a round that ended when
/// the next one is due would have that one missed, and a dead target would be probed every other time.
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
    let found = tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip());
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
        let target = format!("tls://{}", silent.local_addr().unwrap());
        let watch = Watch::new(WatchOptions::new("here")).target(target.parse().unwrap());
        let watcher = watch.prepare().unwrap();
        let board = watcher.board();
        // Three rounds have ended by then, wherever in the interval they begin, and no fourth.
        let time = Duration::from_secs(35);
        let _ = timeout(time, watcher.run(&Notify::new(), |_| {})).await;
        let series = &board.series()[0];
        assert_eq!((series.failed_rounds, series.rounds, series.missed), (3, 3, 0));
    }
}

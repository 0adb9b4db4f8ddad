//! The probe itself: its engine beside a bare epoll client with the same schedule, and its ping
//! beside a blocking client, each against the bare epoll server on the other core.
//!
//! What both clients see is mostly the kernel's and the machine's doing; the difference is the
//! engine's own share.

use std::time::Duration;

use echo_server::Protocol;
use echo_server::probe::{LoadOptions, PingOptions, Probe, Summary};
use rustix::time::{ClockId, clock_gettime};

use super::args::Args;
use super::cores::Cores;
use super::plan;
use super::sample::Trouble;
use super::servers::{Running, Which};
use super::table;
use crate::controls::Control;
use crate::controls::client::{self, Found, Times};

const CONNECTIONS: [usize; 4] = [1, 100, 1000, 10_000];
/// Messages a second.
const RATES: [f64; 3] = [1000.0, 20_000.0, 60_000.0];

/// The connections of the load without a schedule.
const BUSY: usize = 50;

/// From one ping to the next.
const INTERVAL: Duration = Duration::from_millis(10);

/// The length of a measurement.
const DURATION: Duration = Duration::from_millis(700);

/// Pairs of measurements, at most: all of it is to take less than two minutes.
const ROUNDS: usize = 2;

/// Measures what `args` ask for, and returns tables.
pub fn measure(
    args: &Args,
    runtime: &tokio::runtime::Runtime,
    cores: &Cores,
) -> Result<String, Trouble> {
    let bench = Bench {
        runtime,
        cores,
        duration: if args.is_smoke { Duration::from_secs_f64(args.seconds) } else { DURATION },
        rounds: args.rounds.min(ROUNDS),
    };
    let connections = if args.is_smoke { &CONNECTIONS[..2] } else { &CONNECTIONS[..] };
    let is_asked = |name: &str| args.only.as_ref().is_none_or(|only| name.contains(&**only));
    let mut parts = Vec::new();
    if is_asked("closed loop") {
        parts.push(bench.busy()?);
    }
    if is_asked("ping") {
        parts.push(bench.ping()?);
    }
    if is_asked("schedule") {
        parts.push(bench.scheduled(connections)?);
    }
    Ok(parts.join("\n"))
}

struct Bench<'a> {
    runtime: &'a tokio::runtime::Runtime,
    cores: &'a Cores,
    duration: Duration,
    rounds: usize,
}

/// What one client saw. Times are in microseconds.
#[derive(Debug, Clone, Copy)]
struct Seen {
    p50: f64,
    p99: f64,
    p999: f64,
    /// By how much messages left late: p50 and p99.
    late: [f64; 2],
    rate: f64,
    /// The client's processor time for each message.
    cpu: f64,
}

impl Bench<'_> {
    /// Runs each client `rounds` times in turn; who goes first alternates.
    fn pairs(
        &self,
        engine: impl Fn(&Running) -> Result<Seen, Trouble>,
        bare: impl Fn(&Running) -> Result<Seen, Trouble>,
    ) -> Result<Vec<(Seen, Seen)>, Trouble> {
        let mut pairs = Vec::new();
        for round in 0..self.rounds {
            let server =
                Running::start(&Which::Control(Control::Epoll), Protocol::Tcp, self.cores)?;
            pairs.push(if round % 2 == 0 {
                let first = engine(&server)?;
                (first, bare(&server)?)
            } else {
                let first = bare(&server)?;
                (engine(&server)?, first)
            });
        }
        Ok(pairs)
    }

    fn scheduled(&self, counts: &[usize]) -> Result<String, Trouble> {
        let heading = [
            "connections",
            "a second",
            "p50, µs",
            "bare",
            "p99, µs",
            "bare",
            "p99.9, µs",
            "bare",
            "p50 more, µs",
            "p99 ÷ bare's",
            "late p50/p99, µs",
            "bare",
            "CPU each, µs",
            "bare",
        ];
        let mut lines = vec![heading.map(str::to_owned).to_vec()];
        let mut skipped = String::new();
        for &connections in counts {
            if plan::raise_descriptors(connections) < connections {
                skipped =
                    format!("\n{connections} connections: the descriptor limit is too low.\n");
                continue;
            }
            for rate in RATES {
                let pairs = self.pairs(
                    |server| self.engine(server, connections, Some(rate)),
                    |server| self.bare(server, connections, Some(rate)),
                )?;
                let [p50, p99, p999, cpu] =
                    [|s: &Seen| s.p50, |s: &Seen| s.p99, |s: &Seen| s.p999, |s: &Seen| s.cpu]
                        .map(|of| medians(&pairs, of));
                let late = [0, 1].map(|n| medians(&pairs, move |seen| seen.late[n]));
                let more = median(pairs.iter().map(|(ours, bare)| ours.p50 - bare.p50));
                let ratio = median(pairs.iter().map(|(ours, bare)| ours.p99 / bare.p99));
                lines.push(vec![
                    connections.to_string(),
                    format!("{rate:.0}"),
                    format!("{:.0}", p50.0),
                    format!("{:.0}", p50.1),
                    format!("{:.0}", p99.0),
                    format!("{:.0}", p99.1),
                    format!("{:.0}", p999.0),
                    format!("{:.0}", p999.1),
                    format!("{more:+.0}"),
                    format!("{ratio:.2}"),
                    format!("{:.0}/{:.0}", late[0].0, late[1].0),
                    format!("{:.0}/{:.0}", late[0].1, late[1].1),
                    format!("{:.2}", cpu.0),
                    format!("{:.2}", cpu.1),
                ]);
            }
        }
        let table = table::aligned(&lines);
        Ok(format!("On a schedule, {SIZE} B, beside a bare epoll client\n\n{table}{skipped}"))
    }

    fn busy(&self) -> Result<String, Trouble> {
        let pairs = self.pairs(
            |server| self.engine(server, BUSY, None),
            |server| self.bare(server, BUSY, None),
        )?;
        let mut lines = vec![
            ["client", "per second", "CPU each, µs", "p50, µs", "p99, µs"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for (name, seen) in [
            ("engine", pairs.iter().map(|pair| pair.0).collect::<Vec<_>>()),
            ("bare epoll", pairs.iter().map(|pair| pair.1).collect()),
        ] {
            let of = |of: fn(&Seen) -> f64| median(seen.iter().map(of));
            lines.push(vec![
                name.to_owned(),
                format!("{:.0}", of(|seen| seen.rate)),
                format!("{:.2}", of(|seen| seen.cpu)),
                format!("{:.0}", of(|seen| seen.p50)),
                format!("{:.0}", of(|seen| seen.p99)),
            ]);
        }
        let ratio = |of: fn(&Seen) -> f64| median(pairs.iter().map(|(a, b)| of(a) / of(b)));
        let (cpu, rate) = (ratio(|seen| seen.cpu), ratio(|seen| seen.rate));
        let table = table::aligned(&lines);
        Ok(format!(
            "{SIZE} B, {BUSY} connections, 1 in flight on each\n\n{table}\n\
             The engine's CPU is {cpu:.2} of the bare client's, its rate {rate:.2}.\n"
        ))
    }

    fn ping(&self) -> Result<String, Trouble> {
        let pairs = self.pairs(
            |server| {
                let count = (self.duration.as_nanos() / INTERVAL.as_nanos()).max(2) as u64;
                let ping = probe(server)?.ping(PingOptions::new().count(count).interval(INTERVAL));
                let ping = self.runtime.block_on(ping.run());
                checked(&ping.map_err(|error| error.to_string())?, 0.0)
            },
            |server| {
                let times = client::ping(server.address, INTERVAL, self.duration);
                Ok(Seen::of(&times.map_err(|error| format!("the blocking client: {error}"))?))
            },
        )?;
        let (p50, p99) = (medians(&pairs, |seen| seen.p50), medians(&pairs, |seen| seen.p99));
        let more = median(pairs.iter().map(|(ours, theirs)| ours.p50 - theirs.p50));
        let row = |name: &str, p50: f64, p99: f64| {
            vec![name.to_owned(), format!("{p50:.1}"), format!("{p99:.1}")]
        };
        let lines = [
            ["client", "p50, µs", "p99, µs"].map(str::to_owned).to_vec(),
            row("ping", p50.0, p99.0),
            row("blocking", p50.1, p99.1),
        ];
        let table = table::aligned(&lines);
        Ok(format!(
            "Ping, {SIZE} B, one in {INTERVAL:?}\n\n{table}\nThe ping's p50 is {more:+.1} µs.\n"
        ))
    }

    fn engine(
        &self,
        server: &Running,
        connections: usize,
        rate: Option<f64>,
    ) -> Result<Seen, Trouble> {
        let mut options = LoadOptions::new().connections(connections).duration(self.duration);
        options.rate = rate;
        let before = cpu_time();
        let load = self.runtime.block_on(probe(server)?.load(options).run());
        let cpu = cpu_time() - before;
        checked(&load.map_err(|error| error.to_string())?, cpu)
    }

    fn bare(
        &self,
        server: &Running,
        connections: usize,
        rate: Option<f64>,
    ) -> Result<Seen, Trouble> {
        let before = cpu_time();
        let found = client::load(server.address, connections, rate, self.duration);
        let cpu = cpu_time() - before;
        let Found { sent, received, round_trips, lateness } =
            found.map_err(|error| format!("the bare client: {error}"))?;
        if received < sent {
            return Err(format!("the bare client: {received} of {sent} came back"));
        }
        Ok(Seen {
            late: [50.0, 99.0].map(|percent| at(&lateness, percent)),
            rate: received as f64 / self.duration.as_secs_f64(),
            cpu: cpu / received as f64,
            ..Seen::of(&round_trips)
        })
    }
}

const SIZE: usize = client::SIZE;

fn probe(server: &Running) -> Result<Probe, Trouble> {
    let target = format!("tcp://{}", server.address).parse();
    Ok(Probe::new(target.map_err(|error| format!("{error}"))?).size(SIZE))
}

impl Seen {
    /// Round trips only.
    fn of(round_trips: &Times) -> Seen {
        let [p50, p99, p999] = [50.0, 99.0, 99.9].map(|percent| at(round_trips, percent));
        Seen { p50, p99, p999, late: [0.0; 2], rate: 0.0, cpu: 0.0 }
    }
}

/// What the probe saw, with `cpu` microseconds of processor time.
fn checked(summary: &Summary, cpu: f64) -> Result<Seen, Trouble> {
    if !summary.is_clean() {
        return Err(format!("the probe is not content: {summary}"));
    }
    let micros = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64() * 1e6;
    Ok(Seen {
        p50: micros(summary.rtt_percentile(50.0)),
        p99: micros(summary.rtt_percentile(99.0)),
        p999: micros(summary.rtt_percentile(99.9)),
        late: [50.0, 99.0].map(|percent| micros(summary.late_by_percentile(percent))),
        rate: summary.rate(),
        cpu: cpu / summary.received() as f64,
    })
}

fn at(times: &Times, percent: f64) -> f64 {
    times.value_at_percentile(percent) as f64 / 1e3
}

/// This process's processor time in microseconds.
fn cpu_time() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// The medians of both clients.
fn medians(pairs: &[(Seen, Seen)], of: impl Fn(&Seen) -> f64) -> (f64, f64) {
    let (ours, theirs) =
        (pairs.iter().map(|pair| of(&pair.0)), pairs.iter().map(|pair| of(&pair.1)));
    (median(ours), median(theirs))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    super::rounds::median(values.collect())
}

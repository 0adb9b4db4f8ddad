//! The harness plans, starts servers, puts load on one after the other, and reports.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `args` | the command line |
//! | `plan` | which servers are asked which questions |
//! | `ours` | builds our binary |
//! | `servers` | a server as a child process |
//! | `cores` | one core for servers, another for the load |
//! | `process` | what /proc says of a server: processor time, memory |
//! | `counter` | system calls and instructions, counted by perf or strace |
//! | `traffic`, `trains`, `churn`, `idle` | the questions |
//! | `fairness` | a bystander's echoes while other clients make costly work |
//! | `probe` | the probe's engine beside a bare epoll client |
//! | `visit` | a connection made by hand, for churn and idle |
//! | `rounds` | one server after the other, and the ratios |
//! | `sample` | what a measurement found |
//! | `targets` | what ratios are to be at most |
//! | `table`, `summary`, `chart`, `files` | the report |

mod args;
mod chart;
mod churn;
mod cores;
mod counter;
mod fairness;
mod files;
mod idle;
mod ours;
mod plan;
mod probe;
mod process;
mod rounds;
mod sample;
mod servers;
mod summary;
mod table;
mod targets;
mod traffic;
mod trains;
mod visit;

use std::process::ExitCode;
use std::time::Instant;

use args::{Args, Asked, Section};
use counter::Counter;
use plan::{Case, Work};
use rounds::Comparison;
use sample::{Metric, Sample, Trouble};
use servers::{Running, Which};

/// Measures what `arguments` ask for.
pub fn run(arguments: &[String]) -> ExitCode {
    // cargo starts us in our package's directory. Paths are meant from the top.
    if let Err(error) = std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")) {
        println!("the repository of this benchmark is gone: {error}");
        return ExitCode::FAILURE;
    }
    let args = match args::parse(arguments) {
        Asked::Measure(args) => args,
        Asked::Nothing(code) => return code,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let mut bench = Bench {
        runtime: runtime.expect("a runtime needs an epoll descriptor only"),
        cores: cores::Cores::split(),
        counter: if args.is_smoke { Counter::None } else { Counter::find() },
        args,
    };
    bench.run()
}

struct Bench {
    runtime: tokio::runtime::Runtime,
    cores: cores::Cores,
    counter: Counter,
    args: Args,
}

impl Bench {
    fn run(&mut self) -> ExitCode {
        let began = Instant::now();
        if let Err(trouble) = ours::prepare(self.args.ours.as_deref()) {
            println!("{trouble}");
            return ExitCode::FAILURE;
        }
        let cases = match plan::cases(&mut self.args) {
            Ok(cases) => cases,
            Err(trouble) => {
                println!("{trouble}");
                return ExitCode::FAILURE;
            }
        };
        let is_fairness_asked = self.args.sections.contains(&Section::Fairness);
        let is_probe_asked = self.args.sections.contains(&Section::Probe);
        if cases.is_empty() && !is_fairness_asked && !is_probe_asked {
            println!("--only: no question's name contains that");
            return ExitCode::FAILURE;
        }
        if !self.args.is_smoke {
            println!("{}", self.setting());
        }
        let mut code = ExitCode::SUCCESS;
        let mut comparisons = Vec::new();
        for case in &cases {
            match self.compare(case) {
                // The times of a smoke run mean nothing.
                Ok(_) if self.args.is_smoke => println!("{}: all right", case.name),
                Ok(comparison) => {
                    println!("\n### {}\n\n{}", case.name, table::of(&comparison).trim_end());
                    comparisons.push(comparison);
                }
                Err(trouble) => {
                    println!("{}: not measured: {trouble}", case.name);
                    code = ExitCode::FAILURE;
                }
            }
        }
        if is_fairness_asked {
            match fairness::measure(&self.args, &self.runtime, &self.cores) {
                Ok(_) if self.args.is_smoke => println!("Fairness: all right"),
                Ok(table) => {
                    let seconds = fairness::SECONDS;
                    println!("\n### Fairness, {seconds} s each\n\n{}", table.trim_end());
                }
                Err(trouble) => {
                    println!("Fairness: not measured: {trouble}");
                    code = ExitCode::FAILURE;
                }
            }
        }
        if is_probe_asked {
            match probe::measure(&self.args, &self.runtime, &self.cores) {
                Ok(_) if self.args.is_smoke => println!("Probe: all right"),
                Ok(tables) => println!("\n### The probe\n\n{}", tables.trim_end()),
                Err(trouble) => {
                    println!("Probe: not measured: {trouble}");
                    code = ExitCode::FAILURE;
                }
            }
        }
        if !comparisons.is_empty() {
            println!("\n### All of it\n\n{}", summary::of(&comparisons).trim_end());
            println!("\n{}", chart::text(&comparisons).trim_end());
            match files::write(&self.setting(), &comparisons) {
                Ok(directory) => println!("\nIn {}: {}", directory.display(), files::NAMES),
                Err(error) => {
                    println!("\nthe report could not be written: {error}");
                    code = ExitCode::FAILURE;
                }
            }
        }
        let questions = cases.len() + usize::from(is_fairness_asked) + usize::from(is_probe_asked);
        println!("\n{questions} questions in {:.0?}", began.elapsed());
        code
    }

    /// The conditions of the measurement.
    fn setting(&self) -> String {
        let Args { rounds, seconds, .. } = self.args;
        let (cores, clock) = (&self.cores, process::clock());
        format!("{rounds} rounds of {seconds} s; {cores}; {clock}; {}", self.counter)
    }

    fn compare(&self, case: &Case) -> Result<Comparison, Trouble> {
        let rounds = match case.work {
            // Memory hardly differs from one measurement to the next.
            Work::Idle(_) => self.args.rounds.min(2),
            _ => self.args.rounds,
        };
        let mut comparison = rounds::compare(case, rounds, |which| self.measure(case, which))?;
        if self.counter != Counter::None {
            for row in &mut comparison.rows {
                row.values.extend(self.count(case, &row.which)?);
            }
        }
        Ok(comparison)
    }

    /// Counts what a server does for each message or connection, in a run of its own, since counting
    /// slows it down.
    fn count(&self, case: &Case, which: &Which) -> Result<Vec<(Metric, f64)>, Trouble> {
        let counter = self.counter;
        let start = || Running::start(which, case.protocol, &self.cores);
        let counted = match &case.work {
            Work::Traffic(load) => self.runtime.block_on(traffic::count(&start()?, load, counter)),
            Work::Trains => trains::count(&start()?, counter),
            Work::Churn => self.runtime.block_on(churn::count(&start()?, counter)),
            Work::Idle(_) | Work::Start => Ok(None),
        }?;
        Ok(counted.map(|(counted, count)| counted.each(count)).unwrap_or_default())
    }

    /// Makes one measurement, with a new process: memory layout differs between processes and
    /// affects speed.
    fn measure(&self, case: &Case, which: &Which) -> Result<Sample, Trouble> {
        let seconds = self.args.seconds;
        let server = Running::start(which, case.protocol, &self.cores)?;
        let sample = self.runtime.block_on(async {
            match &case.work {
                Work::Traffic(load) => traffic::measure(&server, load, seconds).await,
                Work::Trains => trains::measure(&server, seconds),
                Work::Churn => churn::measure(&server, seconds).await,
                Work::Idle(connections) => idle::measure(&server, *connections).await,
                Work::Start => Ok(server.start_sample()),
            }
        })?;
        if self.args.is_smoke {
            sample.check(case.protocol)?;
        }
        Ok(sample)
    }
}

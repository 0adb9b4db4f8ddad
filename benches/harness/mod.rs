//! The harness plans, starts servers, puts load on them in pairs, and reports.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `args` | the command line |
//! | `plan` | which servers are asked which questions |
//! | `servers` | a server as a child process |
//! | `cores` | one core for servers, another for the load |
//! | `process` | what /proc says of a server: processor time, memory |
//! | `syscalls` | system calls, counted by perf or strace |
//! | `traffic`, `trains`, `churn`, `idle` | the questions |
//! | `fairness` | a bystander's echoes while other clients make costly work |
//! | `probe` | the probe's engine beside a bare epoll client |
//! | `visit` | a connection made by hand, for churn and idle |
//! | `pairs` | one server, then the other, and the ratios |
//! | `sample` | what a measurement found |
//! | `table`, `files`, `chart` | the report |

mod args;
mod chart;
mod churn;
mod cores;
mod fairness;
mod files;
mod idle;
mod pairs;
mod plan;
mod probe;
mod process;
mod sample;
mod servers;
mod syscalls;
mod table;
mod traffic;
mod trains;
mod visit;

use std::process::ExitCode;
use std::time::Instant;

use args::{Args, Asked, Section};
use pairs::Comparison;
use plan::{Case, Work};
use sample::{Sample, Trouble};
use servers::{Running, Which};
use syscalls::Counter;

/// Measures what `arguments` ask for.
pub fn run(arguments: &[String]) -> ExitCode {
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
        let cases = plan::cases(&mut self.args);
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
        let mut comparison = pairs::compare(case, rounds, |which| self.measure(case, which))?;
        if let Work::Traffic(load) = &case.work {
            for row in &mut comparison.rows {
                let server = Running::start(&row.which, case.protocol, &self.cores)?;
                let counted =
                    self.runtime.block_on(traffic::syscalls(&server, load, &self.counter))?;
                row.add_syscalls(counted);
            }
        }
        Ok(comparison)
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

//! Counts what a server does from outside: its system calls, with perf or else with strace, which
//! slows the server down but counts the same; and its instructions, if the processor counts them.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::sample::Metric;

/// How long is counted.
pub const COUNTING: Duration = Duration::from_millis(250);

/// A tool that counts, and what it can count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    Perf { has_instructions: bool },
    Strace,
    None,
}

const SYSCALLS: &str = "raw_syscalls:sys_enter";
/// Those outside the kernel, as the budgets of the tests have them.
const INSTRUCTIONS: &str = "instructions:u";

/// The interval of perf's output in milliseconds. The first output shows that it is attached.
const INTERVAL: &str = "50";

impl Counter {
    /// Finds a tool that is installed and permitted.
    pub fn find() -> Counter {
        let printed = |command: &mut Command| {
            let output = command.arg("true").output().ok().filter(|o| o.status.success());
            output.map(|output| String::from_utf8_lossy(&output.stderr).into_owned())
        };
        if printed(&mut perf(&[SYSCALLS])).is_some() {
            let counted = printed(perf(&[INSTRUCTIONS]).args(["-x", ","])).unwrap_or_default();
            let has_instructions = counted.lines().any(|line| {
                line.split(',').next().is_some_and(|count| count.parse::<u64>().is_ok())
            });
            Counter::Perf { has_instructions }
        } else if printed(&mut strace(&[])).is_some() {
            Counter::Strace
        } else {
            Counter::None
        }
    }

    /// Begins to count what `pid` does.
    pub fn attach(self, pid: u32) -> Option<Counting> {
        let pid = pid.to_string();
        let mut command = match self {
            Counter::Perf { has_instructions } => {
                let events: &[&str] =
                    if has_instructions { &[SYSCALLS, INSTRUCTIONS] } else { &[SYSCALLS] };
                let mut command = perf(events);
                command.args(["-x", ",", "-I", INTERVAL, "-p", &pid]);
                command
            }
            Counter::Strace => strace(&["-p", &pid]),
            Counter::None => return None,
        };
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().ok()?;
        let mut output = BufReader::new(child.stderr.take()?);
        let mut first = String::new();
        // perf's first count, or strace's message that it is attached.
        let has_begun = output.read_line(&mut first).is_ok_and(|length| length > 0);
        let counting = Counting { counter: self, child, output, first };
        has_begun.then_some(counting)
    }
}

fn perf(events: &[&str]) -> Command {
    let mut command = Command::new("perf");
    command.args(["stat", "-e", &events.join(",")]);
    command
}

fn strace(arguments: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-c"]).args(arguments);
    command
}

/// A tool that is counting.
pub struct Counting {
    counter: Counter,
    child: Child,
    output: BufReader<ChildStderr>,
    first: String,
}

/// What was counted.
pub struct Counted {
    syscalls: u64,
    instructions: Option<u64>,
}

impl Counted {
    /// For each of that many messages or connections.
    pub fn each(&self, count: u64) -> Vec<(Metric, f64)> {
        let each = |total: u64| total as f64 / count.max(1) as f64;
        let instructions = self.instructions.map(|total| (Metric::Instructions, each(total)));
        [(Metric::Syscalls, each(self.syscalls))].into_iter().chain(instructions).collect()
    }
}

impl Counting {
    /// Stops counting, and returns what was counted.
    pub fn detach(mut self) -> Option<Counted> {
        kill_process(Pid::from_child(&self.child), Signal::INT).ok()?;
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).ok()?;
        match self.counter {
            Counter::Perf { has_instructions } => {
                let text = self.first.clone() + &rest;
                Some(Counted {
                    syscalls: total(&text, SYSCALLS),
                    instructions: has_instructions.then(|| total(&text, INSTRUCTIONS)),
                })
            }
            // A table whose last line is: 100.00 seconds usecs/call calls errors total
            Counter::Strace | Counter::None => {
                let total = rest.lines().find(|line| line.trim_end().ends_with("total"))?;
                let syscalls = total.split_whitespace().nth(3)?.parse().ok()?;
                Some(Counted { syscalls, instructions: None })
            }
        }
    }
}

/// The sum of an event's counts. A line of perf's is: time,count,unit,event,…
fn total(text: &str, event: &str) -> u64 {
    let counts = text.lines().filter_map(|line| {
        let mut fields = line.split(',').skip(1);
        let count = fields.next()?.parse::<u64>().ok()?;
        (fields.nth(1)? == event).then_some(count)
    });
    counts.sum()
}

impl Drop for Counting {
    fn drop(&mut self) {
        // This fails if the tool has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Counter::Perf { has_instructions: true } => {
                "system calls and instructions counted by perf"
            }
            Counter::Perf { has_instructions: false } => {
                "system calls counted by perf, instructions not: the machine has no counter"
            }
            Counter::Strace => "system calls counted by strace, instructions not: they need perf",
            Counter::None => "system calls not counted: neither perf nor strace is available",
        })
    }
}

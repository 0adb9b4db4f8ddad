//! Counts a server's system calls from outside: with perf, or with strace, which slows the server
//! down but counts the same.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A tool that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    Perf,
    Strace,
    None,
}

/// The interval of perf's output in milliseconds. The first output shows that it is attached.
const INTERVAL: &str = "50";

impl Counter {
    /// Finds a tool that is installed and permitted.
    pub fn find() -> Counter {
        let works = |command: &mut Command| {
            let command = command.arg("true").stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        if works(&mut perf(&[])) {
            Counter::Perf
        } else if works(&mut strace(&[])) {
            Counter::Strace
        } else {
            Counter::None
        }
    }

    /// Begins to count the system calls of `pid`.
    pub fn attach(self, pid: u32) -> Option<Counting> {
        let pid = pid.to_string();
        let mut command = match self {
            Counter::Perf => perf(&["-x", ",", "-I", INTERVAL, "-p", &pid]),
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

fn perf(arguments: &[&str]) -> Command {
    let mut command = Command::new("perf");
    command.args(["stat", "-e", "raw_syscalls:sys_enter"]).args(arguments);
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

impl Counting {
    /// Stops counting, and returns how many there were.
    pub fn detach(mut self) -> Option<u64> {
        kill_process(Pid::from_child(&self.child), Signal::INT).ok()?;
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).ok()?;
        match self.counter {
            // time,count,unit,event,…
            Counter::Perf => {
                let lines = self.first.lines().chain(rest.lines());
                let counts = lines.filter_map(|line| line.split(',').nth(1)?.parse::<u64>().ok());
                Some(counts.sum())
            }
            // A table whose last line is: 100.00 seconds usecs/call calls errors total
            _ => {
                let total = rest.lines().find(|line| line.trim_end().ends_with("total"))?;
                total.split_whitespace().nth(3)?.parse().ok()
            }
        }
    }
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
            Counter::Perf => "system calls counted by perf",
            Counter::Strace => "system calls counted by strace",
            Counter::None => "system calls not counted: neither perf nor strace is available",
        })
    }
}

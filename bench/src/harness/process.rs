//! A server's memory and CPU time, from /proc.

use std::fs;
use std::time::Duration;

/// Resident bytes.
pub fn resident(pid: u32) -> Option<u64> {
    // The sum over all mappings is exact. The counter in `status` is batched per CPU, and lags.
    let exact = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
    let line = |text: &str, label| -> Option<u64> {
        let line = text.lines().find(|line| line.starts_with(label))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let kib = exact.ok().and_then(|text| line(&text, "Rss:")).or_else(|| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        line(&status, "VmRSS:")
    });
    kib.map(|kib| kib * 1024)
}

/// Processor time of all threads, so far.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    by_scheduler(pid).or_else(|| by_ticks(pid))
}

/// The resolution of [`cpu_time`].
pub fn clock() -> &'static str {
    match by_scheduler(std::process::id()) {
        Some(_) => "CPU time from schedstat",
        None => "CPU time in ticks of 10 ms: the kernel has no schedstat",
    }
}

/// The sum over each thread's `schedstat`, in nanoseconds.
fn by_scheduler(pid: u32) -> Option<Duration> {
    let mut total = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        // A thread may have ended since.
        let Ok(text) = fs::read_to_string(thread.ok()?.path().join("schedstat")) else { continue };
        total += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    (total > 0).then(|| Duration::from_nanos(total))
}

/// utime and stime of proc(5).
fn by_ticks(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain blanks and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    let ticks = next()? + next()?;
    Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

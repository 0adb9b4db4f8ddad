//! What the process uses, by the names that Prometheus' client libraries give it. Only Linux tells.

use std::fmt;

use super::families::Families;

/// Reads what the process uses.
#[derive(Debug)]
pub(super) struct Process {
    /// Seconds from 1970 until the machine started.
    #[cfg(target_os = "linux")]
    machine_started: Option<u64>,
}

#[cfg(not(target_os = "linux"))]
impl Process {
    pub(super) fn new() -> Self {
        Process {}
    }

    pub(super) fn encode(&self, _families: &mut Families<'_>) -> fmt::Result {
        Ok(())
    }
}

#[cfg(target_os = "linux")]
impl Process {
    pub(super) fn new() -> Self {
        // This file is long on machines with many cores, and the line never changes.
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
        Process { machine_started: line.and_then(|seconds| seconds.trim().parse().ok()) }
    }

    /// What cannot be read is left out.
    pub(super) fn encode(&self, families: &mut Families<'_>) -> fmt::Result {
        use rustix::process::{Resource, getrlimit};

        if let Some(stat) = Stat::read() {
            let ticks = rustix::param::clock_ticks_per_second() as f64;
            let seconds = stat.cpu_ticks as f64 / ticks;
            let help = "User and system CPU time spent, in seconds";
            families.counter("process_cpu_seconds", help, seconds)?;
            let bytes = stat.resident_pages * rustix::param::page_size() as u64;
            let help = "Resident memory, in bytes";
            families.gauge("process_resident_memory_bytes", help, bytes)?;
            let help = "Virtual memory, in bytes";
            families.gauge("process_virtual_memory_bytes", help, stat.virtual_bytes)?;
            if let Some(machine_started) = self.machine_started {
                let started = machine_started as f64 + stat.started_ticks as f64 / ticks;
                let help = "When the process started, in seconds since 1970";
                families.gauge("process_start_time_seconds", help, started)?;
            }
        }
        if let Some(descriptors) = open_descriptors() {
            families.gauge("process_open_fds", "Open file descriptors", descriptors)?;
        }
        if let Some(limit) = getrlimit(Resource::Nofile).current {
            families.gauge("process_max_fds", "The limit on open file descriptors", limit)?;
        }
        Ok(())
    }
}

/// Fields of /proc/self/stat (proc(5)).
#[cfg(target_os = "linux")]
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: u64,
    started_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

#[cfg(target_os = "linux")]
impl Stat {
    fn read() -> Option<Stat> {
        Stat::parse(&std::fs::read_to_string("/proc/self/stat").ok()?)
    }

    fn parse(text: &str) -> Option<Stat> {
        // The second field is the name in parentheses, which may contain anything.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The first field here is the third of proc(5).
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Stat {
            cpu_ticks: field(14)? + field(15)?,
            started_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// The number of open descriptors. Since Linux 6.2 it is the size of the directory, which is read in
/// one step whatever the number.
#[cfg(target_os = "linux")]
fn open_descriptors() -> Option<u64> {
    const DIRECTORY: &str = "/proc/self/fd";
    match std::fs::metadata(DIRECTORY).ok()?.len() {
        // An older kernel. The descriptor that reads the directory is among them.
        0 => Some(std::fs::read_dir(DIRECTORY).ok()?.count().saturating_sub(1) as u64),
        descriptors => Some(descriptors),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_contain_anything() {
        let text = "7 (a) b) S 1 7 7 0 -1 4194560 5 0 0 0 30 12 0 0 20 0 3 0 99 4096 25 184467 1";
        let stat =
            Stat { cpu_ticks: 42, started_ticks: 99, virtual_bytes: 4096, resident_pages: 25 };
        assert_eq!(Stat::parse(text), Some(stat));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
        assert!(Stat::read().is_some());
    }

    #[test]
    fn descriptors_are_counted() {
        let before = open_descriptors().unwrap();
        assert!(before > 0);
    }
}

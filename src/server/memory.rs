//! How much memory this process may use, as far as the system tells.

use std::path::Path;

/// The default of [`Limits::max_buffered`](crate::Limits::max_buffered) where the system does not
/// tell how much memory there is.
const FALLBACK: u64 = 1 << 30;

/// The default of [`Limits::max_buffered`](crate::Limits::max_buffered): a quarter of the memory.
/// The rest is for connections that hold nothing, for the kernel's socket buffers, which a control
/// group may be charged for, and for others.
pub(super) fn default_max_buffered() -> u64 {
    memory(Path::new("/")).map_or(FALLBACK, |bytes| bytes / 4)
}

/// The machine's memory in bytes, or the limit of the process's control group if that is less. The
/// files are those of Linux, below `root`.
fn memory(root: &Path) -> Option<u64> {
    let machine = read(&root.join("proc/meminfo")).and_then(|text| mem_total(&text));
    let groups = read(&root.join("proc/self/cgroup")).unwrap_or_default();
    machine.into_iter().chain(limits(root, &groups)).min()
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// MemTotal of /proc/meminfo, which is in KiB.
fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The limits of the process's control groups and of their ancestors, all of which hold. `groups` is
/// /proc/self/cgroup, with lines like `0::/path` for version 2 and `4:memory:/path` for version 1
/// (cgroups(7)).
fn limits(root: &Path, groups: &str) -> Vec<u64> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(hierarchy), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (mounts, file): (&[_], _) = if hierarchy == "0" {
            (&["sys/fs/cgroup", "sys/fs/cgroup/unified"], "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            (&["sys/fs/cgroup/memory"], "memory.limit_in_bytes")
        } else {
            continue;
        };
        for mount in mounts {
            // A container may see its own group as the root of the mount, at a path that is the
            // host's. So a directory that does not exist is skipped.
            let mut group = root.join(mount);
            let mut names = Path::new(path).components().skip(1);
            loop {
                // "max" in version 2 is no number; version 1 has one that is beyond all memory.
                let text = read(&group.join(file));
                limits.extend(text.and_then(|text| text.trim().parse::<u64>().ok()));
                let Some(name) = names.next() else { break };
                group.push(name);
            }
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MEMINFO: &str = "MemTotal:       24684096 kB\nMemFree:        16178780 kB\n";

    /// The memory that `files` tell of.
    fn told(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        memory(root.path())
    }

    #[test]
    fn without_a_control_group_it_is_the_machines() {
        assert_eq!(told(&[("proc/meminfo", MEMINFO)]), Some(24_684_096 * 1024));
        assert_eq!(told(&[]), None);
    }

    #[test]
    fn the_lowest_limit_of_a_control_group_and_its_ancestors_holds() {
        let version_2 = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/slice/scope\n"),
            ("sys/fs/cgroup/slice/memory.max", "67108864\n"),
            ("sys/fs/cgroup/slice/scope/memory.max", "max\n"),
        ];
        assert_eq!(told(&version_2), Some(64 << 20));
        let version_1 = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "5:cpu,memory:/a/b\n3:cpuset:/\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "134217728\n"),
            ("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "67108864\n"),
        ];
        assert_eq!(told(&version_1), Some(64 << 20));
    }

    #[test]
    fn a_container_that_sees_its_group_as_the_root_finds_its_limit() {
        let docker = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "4:memory:/docker/0123456789abcdef\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "67108864\n"),
        ];
        assert_eq!(told(&docker), Some(64 << 20));
    }

    #[test]
    fn a_limit_beyond_the_machines_memory_is_none() {
        let files = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "9223372036854771712\n"),
        ];
        assert_eq!(told(&files), Some(24_684_096 * 1024));
    }
}

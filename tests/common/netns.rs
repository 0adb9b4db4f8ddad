//! Network namespaces: hosts, routers and switches on one machine. They need root; where they are
//! not permitted, the test says so and is skipped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::{binary, tools};

/// A network namespace. Dropping it removes it.
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    /// Makes one, with loopback. `None` if that is not permitted here.
    pub fn new(role: &str) -> Option<Namespace> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("echo-{role}-{}-{count}", std::process::id());
        if !ip(&format!("netns add {name}")) {
            eprintln!("skipped: network namespaces are not permitted here");
            return None;
        }
        let namespace = Namespace { name };
        namespace.ip("link set lo up");
        Some(namespace)
    }

    /// Runs `ip` in it, which must succeed.
    pub fn ip(&self, arguments: &str) {
        let arguments = format!("-n {} {arguments}", self.name);
        assert!(ip(&arguments), "ip {arguments}");
    }

    /// A command that runs in it, without the developer's own settings for the echo server.
    pub fn command(&self, program: &str) -> Command {
        let mut command = binary::without_settings(Command::new("ip"));
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs `work` in it, on a thread of its own, since each thread has its namespace.
    pub fn within<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let file = File::open(format!("/run/netns/{}", self.name)).unwrap();
        thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    /// Applies `rules`, in nftables' language. Returns whether it can.
    pub fn apply(&self, rules: &str) -> bool {
        if !tools::have(&["nft", "--version"], "nftables") {
            return false;
        }
        let output = tools::run(self.command("nft").args(["-f", "-"]), rules.as_bytes());
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            eprintln!("skipped: the kernel takes no such rules: {error}");
        }
        output.status.success()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.name));
    }
}

fn ip(arguments: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(arguments.split(' ')).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// `/etc/netns/NAME`, whose files `ip netns exec NAME` mounts over those in `/etc`.
pub struct Etc(PathBuf);

impl Etc {
    /// A hosts file for the namespace. `None` if it cannot be written.
    pub fn with_hosts(namespace: &Namespace, hosts: &str) -> Option<Etc> {
        let directory = Path::new("/etc/netns").join(&namespace.name);
        let written = std::fs::create_dir_all(&directory)
            .and_then(|()| std::fs::write(directory.join("hosts"), hosts))
            // Without it, the system's own could ask a name server.
            .and_then(|()| std::fs::write(directory.join("nsswitch.conf"), "hosts: files\n"));
        if let Err(error) = written {
            eprintln!("skipped: {}: {error}", directory.display());
            return None;
        }
        Some(Etc(directory))
    }

    /// Overwrites the hosts file in its place, since a new file would not be the one that is
    /// mounted. `hosts` must be as long as before, so that no reader finds a part of it.
    pub fn rewrite_hosts(&self, hosts: &str) {
        let path = self.0.join("hosts");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), hosts.len() as u64);
        let file = File::options().write(true).open(path).unwrap();
        std::io::Write::write_all(&mut &file, hosts.as_bytes()).unwrap();
    }
}

impl Drop for Etc {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
        // Only if it is empty.
        let _ = std::fs::remove_dir("/etc/netns");
    }
}

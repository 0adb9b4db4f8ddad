//! The Debian package, installed into a system of its own, run and purged.
//!
//! `DEB=target/release-artifacts/echo-server_VERSION_amd64.deb cargo test --test debian -- --ignored`
//! needs root, debootstrap, and a Debian archive that debootstrap reaches.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::binary;
use common::tools::run;
use rustix::process::{Pid, Signal, kill_process};

/// A Debian system in a directory, which is removed with the test.
struct System(tempfile::TempDir);

impl System {
    /// The packages that every system has, and systemd, without starting it.
    fn bootstrap() -> System {
        let system = System(tempfile::tempdir().unwrap());
        let codename = "sed -n 's/^VERSION_CODENAME=//p' /etc/os-release";
        let suite = succeed(Command::new("sh").args(["-c", codename]));
        let mut bootstrap = Command::new("debootstrap");
        bootstrap.args(["--variant=minbase", "--include=systemd", suite.trim()]).arg(system.root());
        succeed(&mut bootstrap);
        system
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new("chroot");
        command.arg(self.root()).args(line).env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    fn has(&self, path: &str) -> bool {
        self.root().join(path).symlink_metadata().is_ok()
    }

    /// Every file, except for dpkg's own notes, its log, and caches.
    fn files(&self) -> BTreeSet<PathBuf> {
        let list = "cd \"$1\" && find . -xdev \\( -path ./var/lib/dpkg -o -path ./var/log -o -path \
                    ./var/cache -o -path ./tmp \\) -prune -o -print";
        let list = succeed(Command::new("sh").args(["-c", list, "sh"]).arg(self.root()));
        list.lines().map(PathBuf::from).collect()
    }

    fn has_user(&self) -> bool {
        run(&mut self.command(&["getent", "passwd", "echo-server"]), b"").status.success()
    }
}

/// The standard output of a command that has to succeed.
fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = run(command, b"");
    let said = [&stdout[..], &stderr[..]].concat();
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
    String::from_utf8(stdout).unwrap()
}

#[test]
#[ignore = "needs root, debootstrap, and DEB"]
fn the_package_installs_echoes_and_is_purged_without_a_trace() {
    let package = std::env::var_os("DEB").expect("DEB is the package to test");
    let system = System::bootstrap();
    let before = system.files();
    assert!(!system.has_user());

    fs::copy(package, system.root().join("tmp/echo-server.deb")).unwrap();
    succeed(&mut system.command(&["dpkg", "--install", "/tmp/echo-server.deb"]));
    for file in [
        "usr/bin/echo-server",
        "usr/share/man/man1/echo-server.1.gz",
        "usr/share/bash-completion/completions/echo-server",
        "usr/share/zsh/vendor-completions/_echo-server",
        "usr/share/fish/vendor_completions.d/echo-server.fish",
        "usr/share/doc/echo-server/copyright",
        "usr/share/doc/echo-server/THIRD-PARTY-NOTICES.gz",
        "etc/default/echo-server",
    ] {
        assert!(system.has(file), "{file} is missing");
    }
    let conffiles = "dpkg-query --show --showformat='${Conffiles}' echo-server";
    let conffiles = succeed(&mut system.command(&["sh", "-c", conffiles]));
    assert!(conffiles.contains("/etc/default/echo-server"), "{conffiles}");
    assert!(system.has_user());
    // Nothing listens before somebody has asked for it.
    let mut is_enabled = Command::new("systemctl");
    is_enabled.arg("--root").arg(system.root()).args(["is-enabled", "echo-server.service"]);
    assert_eq!(String::from_utf8_lossy(&run(&mut is_enabled, b"").stdout).trim(), "disabled");

    // Without a ready file: as this user, the server may not open our pipe.
    let as_user = ["--userspec=echo-server", system.root().to_str().unwrap()];
    let mut server = Command::new("chroot")
        .args(as_user)
        .args(["/usr/bin/echo-server", "--tcp", "0", "--tls", "0", "--udp", "0"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(server.stderr.take().unwrap()).lines().map(Result::unwrap);
    let listening = log.by_ref().filter(|line| line.contains("Server listening")).take(3);
    for line in listening.collect::<Vec<_>>() {
        let value = |field| line.split(field).nth(1).unwrap().split(' ').next().unwrap();
        let url = format!("{}://{}", value(" protocol="), value(" address="));
        let mut probe = binary::command();
        succeed(probe.args(["probe", &url, "--insecure", "--count", "2", "--interval", "10ms"]));
    }
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    let rest: Vec<_> = log.collect();
    assert_eq!(server.wait().unwrap().code(), Some(0), "{rest:?}");

    succeed(&mut system.command(&["dpkg", "--purge", "echo-server"]));
    // Files may still belong to it, and its number must not go to somebody else.
    assert!(system.has_user());
    let after = system.files();
    let left: Vec<_> = after.difference(&before).collect();
    let lost: Vec<_> = before.difference(&after).collect();
    assert!(left.is_empty() && lost.is_empty(), "left behind: {left:?}; gone: {lost:?}");
}

//! What `echo-server completions` and `echo-server man` print, as shells and man take it.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::binary::command;
use common::tools;

/// Writes the completions of `shell` to a file of a new directory.
fn completions(shell: &str, file: &str) -> tempfile::TempDir {
    let there = tempfile::tempdir().unwrap();
    let output = command().args(["completions", shell]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    fs::write(there.path().join(file), output.stdout).unwrap();
    there
}

/// Runs `line` in `shell`, without the user's own settings, and returns what it prints.
fn run(shell: &[&str], line: &str, directory: &Path) -> String {
    let mut command = Command::new(shell[0]);
    command.args(&shell[1..]).args(["-c", line]).current_dir(directory).env("HOME", directory);
    let output = tools::run(&mut command, b"");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {stderr}");
    assert!(stderr.is_empty(), "{line}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn bash_completes() {
    if !tools::have(&["bash", "--version"], "bash") {
        return;
    }
    let there = completions("bash", "echo-server");
    let bash = ["bash", "--noprofile", "--norc"];
    run(&bash, "bash -n echo-server", there.path());
    let complete = |words: &str| {
        let line = format!(
            "source ./echo-server; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             $(complete -p echo-server | sed 's/.*-F \\([^ ]*\\).*/\\1/') echo-server \
             \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; \
             echo \"${{COMPREPLY[@]}}\""
        );
        run(&bash, &line, there.path())
    };
    assert_eq!(complete("echo-server --log-f").trim(), "--log-format");
    assert_eq!(complete("echo-server --log-format ''").trim(), "text json");
    assert_eq!(complete("echo-server comp").trim(), "completions");
}

#[test]
fn zsh_completes() {
    if !tools::have(&["zsh", "--version"], "zsh") {
        return;
    }
    let there = completions("zsh", "_echo-server");
    let zsh = ["zsh", "--no-rcs"];
    run(&zsh, "zsh --no-rcs -n _echo-server", there.path());
    // Completion needs a terminal, which zsh's own module makes. The matches are listed at the first
    // tab.
    let line = r#"
zmodload zsh/zpty
zpty shell 'zsh --no-rcs -i'
zpty -w shell 'PS1=; unsetopt zle_bracketed_paste; fpath=($PWD $fpath); autoload -U compinit; compinit -u -D; echo read''y'
zpty -r -m shell line '*ready*'
zpty -w -n shell $'echo-server --log-fo\t'
zpty -r -m shell line '*--log-format*'
print -r -- complete
zpty -d shell
"#;
    assert_eq!(run(&zsh, line, there.path()).trim(), "complete");
}

#[test]
fn fish_completes() {
    if !tools::have(&["fish", "--version"], "fish") {
        return;
    }
    let there = completions("fish", "echo-server.fish");
    let fish = ["fish", "--no-config"];
    run(&fish, "fish --no-config -n echo-server.fish", there.path());
    let complete = |words: &str| {
        let line = format!("source echo-server.fish; complete -C '{words}'");
        run(&fish, &line, there.path())
    };
    assert!(complete("echo-server --log-fo").starts_with("--log-format\t"));
    assert_eq!(complete("echo-server --log-format=").lines().count(), 2);
    assert!(complete("echo-server prob").starts_with("probe\t"));
}

#[test]
fn every_command_has_a_man_page() {
    let there = tempfile::tempdir().unwrap();
    let directory = there.path().join("man1");
    for _ in ["the first time", "over what is there"] {
        let output = command().arg("man").arg(&directory).output().unwrap();
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    }
    let mut names: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let commands = ["-certs", "-completions", "-man", "-probe", ""];
    assert_eq!(names, commands.map(|command| format!("echo-server{command}.1")));

    let printed = command().arg("man").output().unwrap();
    assert_eq!(printed.stdout, fs::read(directory.join("echo-server.1")).unwrap());

    if !tools::have(&["mandoc", "-Tlint", "/dev/null"], "mandoc") {
        return;
    }
    for name in names {
        let mut lint = Command::new("mandoc");
        lint.args(["-Tlint", "-Wwarning"]).arg(directory.join(&name));
        let said = String::from_utf8(tools::run(&mut lint, b"").stdout).unwrap();
        assert!(said.is_empty(), "{said}");
        let mut show = Command::new("mandoc");
        show.args(["-Tutf8"]).arg(directory.join(&name));
        let page = String::from_utf8(tools::run(&mut show, b"").stdout).unwrap();
        assert!(page.contains("User Commands"), "{page}");
        let help = "Private key of the certificate";
        assert_eq!(page.contains(help), name == "echo-server.1", "-h leaves this flag out: {page}");
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let output = command().args(["man", "/dev/null/x"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(said, "echo-server: man /dev/null/x: Not a directory\n");
    let output = command().args(["completions", "tcsh"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("expected bash or zsh or fish"), "{said}");
}

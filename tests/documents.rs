//! README.md and docs/: every console block is run as it stands, in order, and what it prints is
//! compared; every link leads somewhere.
//!
//! A page is one session in a directory of its own, which has the repository's `certs`. A command
//! that ends with `&` is a server: it is waited for, and ends with the next such command or with the
//! page; its log is not compared. Numbers and fingerprints may differ, and a line `...` stands for
//! any lines.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use common::binary::shell;
use common::tools;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What stands behind the output of each command.
const SENTINEL: &str = "-- end of output --";

/// Ends the server of the page, if it has one.
const STOP: &str = r#"[ -z "$server" ] || kill "$server"; wait; server="#;

/// The pages, README first.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut docs: Vec<_> =
        docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect();
    docs.sort();
    docs.extend(["CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root.join(name)));
    docs.insert(0, root.join("README.md"));
    docs
}

/// A command, and the lines that it prints.
struct Step {
    line: usize,
    command: String,
    expected: Vec<String>,
}

/// The steps of all console blocks of a page.
fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut is_console = false;
    for (number, line) in text.lines().enumerate() {
        if let Some(kind) = line.strip_prefix("```") {
            is_console = !is_console && kind == "console";
        } else if is_console {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(Step {
                    line: number + 1,
                    command: command.to_owned(),
                    expected: Vec::new(),
                }),
                (None, Some(step)) => step.expected.push(line.to_owned()),
                (None, None) => panic!("output without a command in line {}", number + 1),
            }
        }
    }
    steps
}

/// A shell that runs the commands of one page.
struct Session {
    shell: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    directory: tempfile::TempDir,
}

impl Session {
    fn start() -> Session {
        let directory = tempfile::tempdir().unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(Path::new(ROOT).join("certs"), directory.path().join("certs"))
            .unwrap();
        // The shell reads its commands from standard input, so they must not.
        let mut shell = shell("exec 2>&1; exec sh -s 3>&-")
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (shell.stdin.take().unwrap(), shell.stdout.take().unwrap());
        Session { shell, input, output: BufReader::new(output), directory }
    }

    /// Runs a command, and returns the lines that it printed.
    fn run(&mut self, command: &str) -> Vec<String> {
        writeln!(self.input, "{{ {command}\n}} </dev/null; echo; echo '{SENTINEL}'").unwrap();
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).expect("text");
            assert!(read > 0, "the shell has ended in: {command}");
            if line.trim_end() == SENTINEL {
                break;
            }
            lines.push(line.trim_end().to_owned());
        }
        // The line break before the sentinel, and the one that the output may end with.
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }

    fn start_server(&mut self, command: &str) {
        self.stop_servers();
        let log = self.directory.path().join("server.log");
        let _ = fs::remove_file(&log);
        self.run(&format!("{command} >server.log 2>&1 & server=$!"));
        loop {
            let text = fs::read_to_string(&log).unwrap_or_default();
            if text.contains("Server listening on ") {
                break;
            }
            assert!(!text.starts_with("echo-server: "), "{command}: {text}");
            std::thread::yield_now();
        }
    }

    fn stop_servers(&mut self) {
        self.run(STOP);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = writeln!(self.input, "{STOP}; exit");
        let _ = self.shell.wait();
    }
}

/// A line without what differs from run to run: numbers, fingerprints, serial numbers.
fn shape(line: &str) -> String {
    let is_fingerprint = |word: &str| {
        word.matches(':').count() > 3 && word.chars().all(|c| c.is_ascii_hexdigit() || c == ':')
    };
    let words: Vec<_> = line
        .split(' ')
        .map(|word| {
            let (before, value) = word.rsplit_once('=').map_or(("", word), |(a, b)| (a, b));
            let bare = value.trim_matches(['"', ',']);
            match is_fingerprint(bare) {
                true => format!("{before}=#"),
                false => word.to_owned(),
            }
        })
        .collect();
    let mut shape = String::new();
    for c in words.join(" ").chars() {
        match c.is_ascii_digit() {
            true if shape.ends_with('#') => {}
            true => shape.push('#'),
            // A fraction.
            false if c == '.' && shape.ends_with('#') => {}
            false => shape.push(c),
        }
    }
    shape.trim_end().to_owned()
}

/// Whether `found` is what was expected, where `...` stands for any lines.
fn matches(expected: &[String], found: &[String]) -> bool {
    match expected.split_first() {
        None => found.is_empty(),
        Some((first, rest)) if first == "..." => {
            (0..=found.len()).any(|skipped| matches(rest, &found[skipped..]))
        }
        Some((first, rest)) => found
            .split_first()
            .is_some_and(|(line, more)| shape(first) == shape(line) && matches(rest, more)),
    }
}

/// The programs that blocks use, and how to see whether they are there.
const CLIENTS: [(&str, &[&str], &str); 7] = [
    ("nc ", &["nc", "-h"], "-N"),
    ("openssl ", &["openssl", "version"], "OpenSSL"),
    ("socat ", &["socat", "-V"], "socat"),
    ("curl ", &["curl", "--version"], "curl"),
    ("python3 ", &["python3", "-c", "import websockets.cli; print('has websockets')"], "has"),
    ("ss ", &["ss", "-V"], "ss"),
    ("systemd-socket-activate ", &["systemd-socket-activate", "--version"], "systemd"),
];

#[test]
fn every_console_block_runs_as_it_stands() {
    for port in [8080, 8081, 8082, 8443, 8444] {
        if let Err(error) = std::net::TcpListener::bind(("127.0.0.1", port)) {
            eprintln!("skipped: the default port {port} is not free: {error}");
            return;
        }
    }
    let (mut wrong, mut run) = (Vec::new(), 0);
    for page in pages() {
        let steps = steps(&fs::read_to_string(&page).unwrap());
        if steps.is_empty() {
            continue;
        }
        let mut session = Session::start();
        for step in steps {
            let mut clients = CLIENTS.iter().filter(|(name, ..)| step.command.contains(name));
            if !clients.all(|(_, probe, expected)| tools::have(probe, expected)) {
                continue;
            }
            run += 1;
            if let Some(server) = step.command.strip_suffix(" &") {
                session.start_server(server);
                continue;
            }
            let found = session.run(&step.command);
            if !matches(&step.expected, &found) {
                let page = page.file_name().unwrap().display();
                let (line, command) = (step.line, &step.command);
                wrong.push(format!("{page}:{line}: $ {command}\n{}\n", found.join("\n")));
            }
        }
        session.stop_servers();
    }
    assert!(wrong.is_empty(), "these print something else:\n{}", wrong.join("\n"));
    assert!(run >= 10, "only {run} commands were run");
}

/// The links of a page: what stands in `](…)`, outside of code.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    let mut is_code = false;
    for line in text.lines() {
        if line.starts_with("```") {
            is_code = !is_code;
        }
        let mut rest = if is_code { "" } else { line };
        while let Some((_, behind)) = rest.split_once("](") {
            let (link, behind) = behind.split_once(')').expect("a link ends with )");
            links.push(link.to_owned());
            rest = behind;
        }
    }
    links
}

/// The anchors of a page's headings, as forges make them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_leads_somewhere() {
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text) {
            if link.starts_with("https://") || link.starts_with("http://127.0.0.1") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path {
                "" => page.clone(),
                path => page.parent().unwrap().join(path),
            };
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
            if !anchor.is_empty() {
                let known = anchors(&fs::read_to_string(&target).unwrap());
                assert!(known.iter().any(|one| one == anchor), "{}: {link}", page.display());
            }
        }
    }
}

#[test]
fn the_readme_is_short() {
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    assert!(readme.lines().count() <= 150, "{} lines", readme.lines().count());
}

//! `cargo bench` and `cargo test` at the top run the benchmark through this: it is a package of its
//! own, `bench/`, so that what its servers need is no dependency of ours.
//!
//! `cargo bench` passes on its arguments. `cargo test` sees one test, called `smoke`: a run of a few
//! seconds that checks echoes and ignores times.

use std::env;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    // cargo sets CARGO for what it runs, and adds --bench if it is `cargo bench`.
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    if arguments.iter().any(|argument| argument == "--bench") {
        // Without our package, and so without the features that our tests enable.
        cargo.args(["bench", "--package", "echo-bench", "--bench", "harness", "--"]);
        cargo.args(arguments.iter().filter(|argument| *argument != "--bench"));
    } else if is_listed(&arguments) {
        println!("smoke: test");
        return ExitCode::SUCCESS;
    } else if is_asked(&arguments) {
        // With our package, and so with the dependencies that have just been compiled.
        cargo.args(["test", "--quiet", "--package", "echo-server", "--package", "echo-bench"]);
        cargo.args(["--bench", "harness", "--", "--smoke"]);
        cargo.args(["--ours", env!("CARGO_BIN_EXE_echo-server")]);
    } else {
        return ExitCode::SUCCESS;
    }
    match cargo.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        // The benchmark, or cargo, has said what is wrong.
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{}: {error}", cargo.get_program().display());
            ExitCode::FAILURE
        }
    }
}

fn is_listed(arguments: &[String]) -> bool {
    arguments.iter().any(|argument| argument == "--list")
}

/// Whether libtest's arguments ask for a test called `smoke`.
fn is_asked(arguments: &[String]) -> bool {
    const VALUED: [&str; 6] =
        ["--skip", "--test-threads", "--format", "--color", "--logfile", "--report-time"];
    let mut filters = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--ignored" => return false,
            valued if VALUED.contains(&valued) => drop(rest.next()),
            flag if flag.starts_with('-') => {}
            filter => filters.push(filter),
        }
    }
    filters.is_empty() || filters.iter().any(|filter| "smoke".contains(filter))
}

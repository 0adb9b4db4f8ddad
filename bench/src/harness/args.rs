//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

/// Measures our server beside others.
#[derive(Debug, Parser)]
#[command(name = "cargo bench --", version)]
pub struct Args {
    /// What to measure [everything]
    #[arg(value_enum)]
    pub sections: Vec<Section>,

    /// Measurements of each server, and so of each ratio
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = positive)]
    pub rounds: usize,

    /// Length of a measurement. Its first 0.2 s are not evaluated, and progress is told every 0.2 s
    #[arg(long, value_name = "S", default_value_t = 0.8)]
    pub seconds: f64,

    /// Idle connections
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = positive)]
    pub idle: usize,

    /// Only the questions whose names contain this
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,

    /// A look, in some three minutes: short and few measurements, and neither fairness nor probe
    #[arg(long = "quick")]
    pub is_quick: bool,

    /// Only check that everything runs and echoes
    #[arg(long = "smoke")]
    pub is_smoke: bool,

    /// The binary of ours, where `cargo test` has built one
    #[arg(long = "ours", value_name = "PATH", hide = true)]
    pub ours: Option<PathBuf>,

    /// Another build of ours to compare with; can be given several times
    #[arg(long = "server", value_name = "NAME=PATH", value_parser = build)]
    pub builds: Vec<(String, PathBuf)>,

    /// The flag that cargo adds
    #[arg(long = "bench", hide = true)]
    _is_bench: bool,
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Section {
    /// Echoes over TCP
    Tcp,
    /// Echoes over TLS
    Tls,
    /// Echoes over WebSocket
    Ws,
    /// Echoes over UDP
    Udp,
    /// Connections that connect, echo once and close
    Churn,
    /// Memory of idle connections
    Idle,
    /// Time from exec to listening
    Start,
    /// A bystander's echoes while other clients make costly work
    Fairness,
    /// The probe beside a bare epoll client, and beside a blocking one
    Probe,
    /// What io_uring could give: bare io_uring beside bare epoll and ours. Only if asked for
    Uring,
}

impl Section {
    /// Those that are measured unless some are named.
    pub fn every() -> impl Iterator<Item = Section> {
        Section::value_variants().iter().copied().filter(|section| *section != Section::Uring)
    }
}

/// What the arguments ask for.
pub enum Asked {
    Measure(Args),
    /// Nothing to measure: end with this exit code. Any message has been printed.
    Nothing(ExitCode),
}

/// Reads the arguments after the program's name.
pub fn parse(arguments: &[String]) -> Asked {
    let name = "cargo bench --".to_owned();
    match Args::try_parse_from([&name].into_iter().chain(arguments)) {
        Ok(args) if args.is_smoke => Asked::Measure(smoke(args)),
        Ok(args) if args.is_quick => Asked::Measure(quick(args)),
        Ok(args) => Asked::Measure(args),
        Err(error) => {
            // If printing fails, there is nowhere to report it.
            let _ = error.print();
            Asked::Nothing(ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1)))
        }
    }
}

/// What shows whether something has changed much.
fn quick(mut args: Args) -> Args {
    if args.sections.is_empty() {
        args.sections = Section::every().collect();
        args.sections.retain(|section| !matches!(section, Section::Fairness | Section::Probe));
    }
    Args { rounds: 2, seconds: 0.7, idle: args.idle.min(2000), ..args }
}

/// The shortest run.
fn smoke(args: Args) -> Args {
    Args { rounds: 1, seconds: 0.05, idle: 50, is_smoke: true, ..args }
}

fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a number from 1 on".to_owned())
}

fn build(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("expected NAME=PATH")?;
    Ok((name.to_owned(), path.into()))
}

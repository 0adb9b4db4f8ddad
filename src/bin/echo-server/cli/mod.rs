//! The command line: parses flags and environment variables into typed options.

mod certs;
mod environment;
#[cfg(test)]
mod environment_file;
mod nearest;
mod probe;
#[cfg(test)]
mod reference;
mod server;
mod shell;
mod usage;
mod values;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::Styles;
use clap::builder::styling::AnsiColor;
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use echo_server::probe::WatchOptions;
use echo_server::{Config, ListenAddress};

pub use certs::Certs;
pub use probe::{Format, Mode, Output, Probe, Watch};
pub use shell::Shell;

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Run an echo server.
    Serve(Box<Options>),
    /// Probe an echo service.
    Probe(Box<Probe>),
    /// Probe echo services for ever.
    Watch(Box<Watch>),
    /// Make certificates for an echo server.
    Certs(Certs),
    /// Print the completions of a shell.
    Completions(Shell),
    /// Write the man pages to a directory, or print the command's.
    Man(Option<PathBuf>),
}

/// The options of the server command.
#[derive(Debug)]
pub struct Options {
    pub config: Config,
    /// How many threads echo. `None`: one for each core that the process may use.
    pub threads: Option<NonZeroUsize>,
    pub log: LogOptions,
    /// Where the admin endpoint listens, if there is to be one.
    pub admin: Option<ListenAddress>,
    /// The mesh that the server is part of, if it is part of one.
    pub mesh: Option<Mesh>,
    pub ready_file: Option<PathBuf>,
    /// What is wrong with each environment variable that looks like a setting and is none.
    pub unknown_variables: Vec<String>,
}

/// The servers that a server probes.
#[derive(Debug)]
pub struct Mesh {
    /// Names, all of whose addresses are peers, and addresses.
    pub names: Vec<String>,
    pub options: WatchOptions,
    /// The file of the certificates to trust. `None`: the system's.
    pub ca: Option<PathBuf>,
}

/// How much to log, and in which form.
#[derive(Debug, Clone, Copy)]
pub struct LogOptions {
    /// -1 for `--quiet`, 0 by default, 1 for `--verbose`.
    pub verbosity: i8,
    pub format: LogFormat,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Why parsing did not produce a command.
pub enum Exit {
    /// The text of `--help` or `--version`, to be printed on stdout.
    Print(clap::Error),
    /// A usage error, in one line.
    Usage(String),
}

/// Headings and flags stand out on a terminal, in the colours that cargo uses.
const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// An echo server for TCP, TLS, UDP, WebSocket, and WebSocket over TLS
#[derive(Debug, Parser)]
#[command(
    name = "echo-server",
    version,
    args_conflicts_with_subcommands = true,
    args_override_self = true,
    styles = STYLES,
    disable_help_flag = true,
    disable_version_flag = true,
    disable_help_subcommand = true,
    after_help = "Examples:
  echo-server                        plain TCP on 127.0.0.1:8080
  echo-server --all --host '*'       all five protocols on all interfaces
  echo-server --tls 8443 --cert server.pem --key server.key
  echo-server probe wss://localhost:8444 --insecure",
    after_long_help = "Without a listener flag, the server echoes plain TCP on 127.0.0.1:8080.

ADDR is a PORT, IP:PORT, [IPv6]:PORT, [IPv6%INTERFACE]:PORT, NAME:PORT, or :PORT for all interfaces; \
port 0 is any free port. Except for --udp, it can also be a Unix socket: unix:PATH, or on Linux \
unix:@NAME. The word systemd, or systemd:NAME, means sockets that systemd hands over. Listener flags \
can be repeated.
TIME is written as 10s, 5m or 1h 30m, or as a number of seconds; 0 means no limit, except that \
--drain-timeout 0 aborts connections at once.
SIZE is written as 64KiB or 1MB.

Every flag has an environment variable: ECHO_LOG_FORMAT sets --log-format, and ECHO_ALL=1 gives --all. \
In a variable, commas separate several ADDRs, and the word default means the flag's default address.

Examples:
  echo-server                        plain TCP on 127.0.0.1:8080
  echo-server --all --host '*'       all five protocols on all interfaces
  echo-server --tls 8443 --cert server.pem --key server.key
  echo-server probe wss://localhost:8444 --insecure"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Subcommands>,

    #[command(flatten)]
    server: server::ServerArgs,

    /// Print a summary with -h, everything with --help
    #[arg(short, long, action = ArgAction::Help, help_heading = "Other")]
    help: Option<bool>,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = "Other")]
    version: Option<bool>,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Send messages to an echo service, and report on the replies
    Probe(Box<probe::ProbeArgs>),
    /// Create a private CA, and certificates for a server and a client
    Certs(certs::CertsArgs),
    /// Print completions for a shell
    Completions(shell::CompletionsArgs),
    /// Print the man page, or write all pages to a directory
    Man(shell::ManArgs),
}

/// The command line's definition. `-h` shows only the listeners, so that it fits a screen.
pub fn definition() -> clap::Command {
    Cli::command().mut_args(|arg| {
        let is_short = matches!(arg.get_help_heading(), Some("Listeners" | "Other"));
        let hides = !is_short || arg.get_long() == Some("unix-mode");
        let arg = arg.hide_short_help(hides);
        // A negative number is a wrong value, and no flag that does not exist.
        let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
        if takes_value { arg.allow_negative_numbers(true) } else { arg }
    })
}

/// Parses the process's arguments and environment variables.
pub fn parse() -> Result<Command, Exit> {
    let arguments: Vec<_> = std::env::args_os().collect();
    // The variables are the server's. What is wrong with one must not end a probe.
    let is_server =
        arguments.get(1).is_none_or(|name| Cli::command().find_subcommand(name).is_none());
    let definition = || match is_server {
        true => environment::with_variables(definition()),
        false => definition(),
    };
    let matches = definition().try_get_matches_from(&arguments);
    let parsed = matches.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (mut cli, matches) = parsed.map_err(|error| match error.use_stderr() {
        false => Exit::Print(error),
        true => {
            let args: Vec<_> =
                arguments.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
            Exit::Usage(usage::explain(&error, &definition(), &args))
        }
    })?;
    Ok(match cli.command.take() {
        Some(Subcommands::Probe(args)) => (*args).command().map_err(Exit::Usage)?,
        Some(Subcommands::Certs(args)) => Command::Certs(args.into()),
        Some(Subcommands::Completions(args)) => Command::Completions(args.shell),
        Some(Subcommands::Man(args)) => Command::Man(args.directory),
        None => {
            let usage = |problem| Exit::Usage(format!("{problem}; see 'echo-server --help'"));
            cli.server.settle_verbosity(&matches).map_err(usage)?;
            let mut options: Options = cli.server.try_into().map_err(usage)?;
            options.unknown_variables = environment::unknown_variables(&definition());
            Command::Serve(Box::new(options))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_consistent() {
        definition().debug_assert();
    }

    #[test]
    fn the_short_help_fits_a_screen() {
        let help = definition().render_help().to_string();
        let widest = help.lines().map(|line| line.chars().count()).max();
        assert!(help.lines().count() <= 32, "{help}");
        assert!(widest <= Some(100), "{widest:?}: {help}");
    }
}

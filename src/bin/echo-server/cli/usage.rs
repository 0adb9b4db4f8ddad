//! Says what is wrong with a command line: the flag or the variable, the value, the cure, and where
//! to look, on one line.

use std::error::Error as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, Error};
use echo_server::ListenAddress;
use echo_server::probe::Target;

use super::environment::variable;
use super::nearest::nearest;
use super::values::{ListenerArg, Quoted};

/// What is wrong with `args`, of which `error` was made.
pub(super) fn explain(error: &Error, command: &Command, args: &[String]) -> String {
    let given = args.get(1).and_then(|name| command.find_subcommand(name));
    let (name, command) = match given {
        Some(subcommand) => (format!("echo-server {}", subcommand.get_name()), subcommand),
        None => ("echo-server".to_owned(), command),
    };
    let problem = problem(error, command, args);
    match problem.ends_with('?') {
        true => format!("{problem} See '{name} --help'"),
        false => format!("{problem}; see '{name} --help'"),
    }
}

fn problem(error: &Error, command: &Command, args: &[String]) -> String {
    let value = text(error, ContextKind::InvalidValue);
    let flag = text(error, ContextKind::InvalidArg);
    match error.kind() {
        ErrorKind::UnknownArgument => unknown(&flag, command),
        ErrorKind::InvalidSubcommand => {
            stray(&text(error, ContextKind::InvalidSubcommand), command)
        }
        ErrorKind::ValueValidation => {
            let reason = error.source().map(ToString::to_string).unwrap_or_default();
            format!("{}: {reason}", setting(&flag, &value, command, args))
        }
        ErrorKind::InvalidValue if value.is_empty() => {
            format!("{} needs a value", setting(&flag, "", command, args))
        }
        ErrorKind::InvalidValue => {
            let valid = match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(valid)) => valid.join(" or "),
                _ => "another value".to_owned(),
            };
            format!("{}: expected {valid}", setting(&flag, &value, command, args))
        }
        ErrorKind::TooManyValues => format!("{} takes no value", without_brackets(&flag)),
        ErrorKind::MissingRequiredArgument => missing(&without_brackets(&flag), command, args),
        ErrorKind::ArgumentConflict => conflict(error, &flag, command),
        _ => one_line(&error.to_string()),
    }
}

/// An argument that is missing by itself, or because of another flag.
fn missing(needed: &str, command: &Command, args: &[String]) -> String {
    const NEEDS: [(&str, &[&str]); 3] = [
        ("--cert", &["key", "ocsp"]),
        ("--client-ca", &["client-auth", "crl"]),
        ("--proxy-protocol", &["proxy-client", "proxy-tlv", "proxy-from"]),
    ];
    let name = needed.split(' ').next().unwrap_or(needed);
    let needing = NEEDS.iter().filter(|(missing, _)| *missing == name).flat_map(|(_, by)| *by);
    let given = needing.filter_map(|by| {
        let flag = format!("--{by}");
        let arg = command.get_arguments().find(|arg| arg.get_long() == Some(by))?;
        let is_written = |arg: &String| arg.split('=').next() == Some(&flag);
        let is_set = variable(arg).filter(|name| std::env::var_os(name).is_some());
        if args.iter().any(is_written) { Some(flag.clone()) } else { is_set }
    });
    match given.map(|by| format!("{by} needs {needed}")).next() {
        Some(problem) => problem,
        None => format!("{needed} is missing"),
    }
}

/// A piece of what clap knows of an error.
fn text(error: &Error, kind: ContextKind) -> String {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    }
}

/// What other programs call our flags.
const SYNONYMS: [(&str, &str); 12] = [
    ("--port", "--tcp"),
    ("-p", "--tcp"),
    ("--listen", "--tcp"),
    ("-l", "--tcp"),
    ("--bind", "--host"),
    ("--address", "--host"),
    ("--addr", "--host"),
    ("--cacert", "--ca"),
    ("--cacert", "--client-ca"),
    ("-k", "--insecure"),
    ("--certificate", "--cert"),
    ("--websocket", "--ws"),
];

/// A flag that does not exist, or a stray argument.
fn unknown(flag: &str, command: &Command) -> String {
    if !flag.starts_with('-') {
        return stray(flag, command);
    }
    let name = flag.split('=').next().unwrap_or(flag);
    let longs = command.get_arguments().filter_map(Arg::get_long).map(|long| format!("--{long}"));
    let longs: Vec<_> = longs.collect();
    let synonym =
        SYNONYMS.iter().find(|(other, ours)| *other == name && longs.iter().any(|l| l == ours));
    if let Some((_, ours)) = synonym {
        return format!("there is no flag {}; did you mean {ours}?", Quoted(flag));
    }
    match nearest(name, longs.iter().map(String::as_str)) {
        Some(known) => format!("there is no flag {}; did you mean {known}?", Quoted(flag)),
        None => format!("there is no flag {}", Quoted(flag)),
    }
}

/// An argument that is no flag.
fn stray(argument: &str, command: &Command) -> String {
    let quoted = Quoted(argument);
    let is_server = command.has_subcommands();
    let is_address = argument.parse::<ListenerArg>().is_ok_and(|arg| arg != ListenerArg::Default);
    let flag = command.get_arguments().find(|arg| arg.get_long() == Some(argument));
    let hint = if flag.is_some() {
        format!("--{argument}")
    } else if !is_server {
        return format!("{quoted} is one argument too many");
    } else if is_server && is_address {
        format!("--tcp {argument}")
    } else if is_server && argument.parse::<Target>().is_ok() {
        format!("echo-server probe {argument}")
    } else if let Some(name) = nearest(argument, command.get_subcommands().map(Command::get_name)) {
        name.to_owned()
    } else {
        return format!("there is no command {quoted}");
    };
    format!("there is no command {quoted}; did you mean {hint}?")
}

/// A flag among those that exclude each other, or after which a command stands.
fn conflict(error: &Error, flag: &str, command: &Command) -> String {
    let subcommand = text(error, ContextKind::InvalidSubcommand);
    if !subcommand.is_empty() {
        return match command.find_subcommand(&subcommand) {
            Some(_) => format!("the command {subcommand} takes none of the server's flags"),
            None => stray(&subcommand, command),
        };
    }
    let prior = text(error, ContextKind::PriorArg);
    match prior.is_empty() {
        true => one_line(&error.to_string()),
        false => format!("{} excludes {}", without_brackets(flag), without_brackets(&prior)),
    }
}

/// `--key <FILE>` as `--key FILE`.
fn without_brackets(flag: &str) -> String {
    flag.replace(['<', '>', '[', ']'], "").trim_end_matches("...").to_owned()
}

/// The flag and its value as they are written, or the variable that set it.
fn setting(flag: &str, value: &str, command: &Command, args: &[String]) -> String {
    let value = match value {
        "" => String::new(),
        value => format!(" {}", Quoted(value)),
    };
    let Some(long) = flag.split([' ', '[']).next().and_then(|flag| flag.strip_prefix("--")) else {
        return format!("{}{value}", without_brackets(flag));
    };
    let Some(arg) = command.get_arguments().find(|arg| arg.get_long() == Some(long)) else {
        return format!("--{long}{value}");
    };
    let written = |argument: &String| {
        let name = argument.split('=').next().unwrap_or(argument);
        let short = arg.get_short().map(|short| format!("-{short}"));
        name == format!("--{long}") || short.is_some_and(|short| argument.starts_with(&short))
    };
    match variable(arg).filter(|name| std::env::var_os(name).is_some()) {
        Some(variable) if !args.iter().any(written) => {
            format!("{variable}={}", value.trim_start())
        }
        _ => format!("--{long}{value}"),
    }
}

/// A hint for a probe's URL that has no scheme.
pub(super) fn without_scheme(url: &str) -> Option<String> {
    let is_address = url.parse::<ListenAddress>().is_ok() && !url.starts_with([':', '*']);
    (is_address && !url.starts_with("unix:")).then(|| format!("tcp://{url}"))
}

/// Puts clap's message on one line, without its usage section.
fn one_line(message: &str) -> String {
    let about = message.split("\n\nUsage:").next().unwrap_or(message);
    let about = about.split("\n\nFor more information").next().unwrap_or(about);
    let lines: Vec<_> = about
        .trim_start_matches("error: ")
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    lines.join(" ")
}

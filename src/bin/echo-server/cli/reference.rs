//! `docs/flags.md`, made of the command line's definition.

use clap::builder::ArgAction;
use clap::{Arg, Command};

use super::environment::variable;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/flags.md");

/// The reference of all flags, as Markdown.
fn reference(definition: &Command) -> String {
    let mut text =
        "# Flags\n\nThis page is made of the command line's definition; a test holds them equal \
                    (`UPDATE_DOCS=1 cargo test --bins reference`).\n"
            .to_owned();
    text += "\n## echo-server\n";
    text += &tables(definition, true);
    if let Some(notes) = definition.get_after_long_help() {
        let notes = notes.to_string();
        let notes = notes.split("\n\nExamples:").next().unwrap_or_default();
        text += &format!("\n{}\n", escaped(notes));
    }
    for subcommand in definition.get_subcommands() {
        text += &format!("\n## echo-server {}\n", subcommand.get_name());
        text += &tables(subcommand, false);
        if let Some(notes) = subcommand.get_after_help() {
            text += &format!("\n{}\n", escaped(&notes.to_string()));
        }
    }
    text
}

/// A table for each heading, in the order of `--help`.
fn tables(command: &Command, has_variables: bool) -> String {
    let mut text = String::new();
    let mut headings: Vec<Option<&str>> = Vec::new();
    for arg in command.get_arguments().filter(|arg| !is_help(arg)) {
        if !headings.contains(&arg.get_help_heading()) {
            headings.push(arg.get_help_heading());
        }
    }
    for heading in headings {
        if let Some(heading) = heading {
            text += &format!("\n### {heading}\n");
        }
        text += match has_variables {
            true => "\n| flag | variable | default | what |\n| --- | --- | --- | --- |\n",
            false => "\n| argument | default | what |\n| --- | --- | --- |\n",
        };
        for arg in command.get_arguments() {
            if arg.get_help_heading() == heading && !is_help(arg) {
                text += &row(arg, has_variables);
            }
        }
    }
    text
}

fn is_help(arg: &Arg) -> bool {
    matches!(arg.get_long(), Some("help" | "version"))
}

fn row(arg: &Arg, has_variables: bool) -> String {
    let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    let values = arg.get_value_names().unwrap_or_default();
    let value = values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let mut name = match (arg.get_short(), arg.get_long()) {
        (Some(short), Some(long)) => format!("-{short}, --{long}"),
        (None, Some(long)) => format!("--{long}"),
        (Some(short), None) => format!("-{short}"),
        (None, None) => String::new(),
    };
    if takes_value {
        let is_optional = arg.get_num_args().is_some_and(|count| count.min_values() == 0);
        let value = if is_optional { format!("[{value}]") } else { value };
        name = format!("{name} {value}").trim().to_owned();
    }
    let (help, default) = help_and_default(arg);
    let possible: Vec<_> = match takes_value {
        true => arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect(),
        false => Vec::new(),
    };
    let mut help = escaped(&help);
    if !possible.is_empty() {
        help += &format!(": {}", possible.join(", "));
    }
    let variable = match has_variables {
        true => format!(" `{}` |", variable(arg).unwrap_or_default()),
        false => String::new(),
    };
    // A cell of a table ends at a bar, even within code.
    let name = name.replace('|', "\\|");
    format!("| `{name}` |{variable} {} | {help} |\n", escaped(&default))
}

/// The help of a flag on one line, and its default. A help text ends with its default in brackets
/// where clap knows of none.
pub(super) fn help_and_default(arg: &Arg) -> (String, String) {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let (help, noted) = match help.rsplit_once(" [") {
        Some((help, noted)) if noted.ends_with(']') => {
            (help.to_owned(), noted.trim_end_matches(']').to_owned())
        }
        _ => (help, String::new()),
    };
    let defaults: Vec<_> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    let default = if defaults.is_empty() || !takes_value { noted } else { defaults.join(",") };
    (help, default)
}

/// What Markdown would take for something else.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('*', "\\*").replace('<', "&lt;").replace('_', "\\_")
}

#[test]
fn the_reference_of_flags_is_up_to_date() {
    let expected = reference(&super::definition());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PATH, &expected).unwrap();
    }
    let found = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(found == expected, "docs/flags.md is not that of the flags; UPDATE_DOCS=1 writes it");
}

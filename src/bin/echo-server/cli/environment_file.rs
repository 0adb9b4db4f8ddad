//! `deploy/systemd/echo-server.env`, an example of an EnvironmentFile with every variable, made of
//! the command line's definition.

use clap::{Arg, ArgAction, Command};

use super::environment::variable;
use super::reference::help_and_default;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/systemd/echo-server.env");

/// How wide a comment may be.
const WIDTH: usize = 100;

fn environment_file(definition: &Command) -> String {
    let mut text = "\
# Settings of echo-server, as systemd's EnvironmentFile= reads them: /etc/default/echo-server.
# Every flag has its variable; those below have their defaults. A switch is 1 or 0; where an ADDR
# is expected, 1 is a port, and the word default is the flag's own. Commas separate several values,
# and what is empty counts as not set. `echo-server --help` explains ADDR, TIME and SIZE.
#
# This file is made of the command line's definition; a test holds them equal
# (UPDATE_DOCS=1 cargo test --bins environment_file).
"
    .to_owned();
    let mut heading = None;
    for arg in definition.get_arguments() {
        let Some(variable) = variable(arg) else { continue };
        if arg.get_help_heading() != heading {
            heading = arg.get_help_heading();
            text += &format!("\n### {}\n", heading.unwrap_or_default());
        }
        text += &entry(arg, &variable);
    }
    text
}

/// The comment and the line of one variable.
fn entry(arg: &Arg, variable: &str) -> String {
    let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
    let (mut help, default) = help_and_default(arg);
    let values: Vec<_> =
        arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    if !is_switch && !values.is_empty() {
        help += &format!(": {}", values.join(" or "));
    }
    // A default in words is no value.
    let is_value = !default.contains(' ') && default != "all";
    if !is_value {
        help += &format!(" [{default}]");
    }
    let value = match (is_switch, is_value) {
        (true, _) => "0",
        (false, true) => &default,
        (false, false) => "",
    };
    let mut text = "\n".to_owned();
    let mut line = "#".to_owned();
    for word in help.split(' ') {
        if line.len() + 1 + word.len() > WIDTH {
            text += &format!("{line}\n");
            line = "#".to_owned();
        }
        line += &format!(" {word}");
    }
    format!("{text}{line}\n#{variable}={value}\n")
}

#[test]
fn the_environment_file_is_up_to_date() {
    let expected = environment_file(&super::definition());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PATH, &expected).unwrap();
    }
    let found = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(found == expected, "{PATH} is not that of the flags; UPDATE_DOCS=1 writes it");
}

/// What the file proposes has to be a setting that the server takes.
#[test]
fn every_proposed_value_is_valid() {
    let flags = super::definition();
    for arg in flags.get_arguments() {
        let Some(variable) = variable(arg) else { continue };
        let entry = entry(arg, &variable);
        let value = entry.trim_end().rsplit_once('=').map_or("", |(_, value)| value);
        let flag = arg.get_long().unwrap();
        let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
        if value.is_empty() || is_switch {
            continue;
        }
        let parsed =
            super::definition().try_get_matches_from(["echo-server", &format!("--{flag}={value}")]);
        let is_missing =
            |error: &clap::Error| error.kind() == clap::error::ErrorKind::MissingRequiredArgument;
        assert!(parsed.as_ref().err().is_none_or(is_missing), "{entry}: {:?}", parsed.err());
    }
}

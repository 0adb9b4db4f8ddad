//! The environment variables that set flags: `ECHO_LOG_FORMAT` sets `--log-format`.

use std::ffi::OsString;

use clap::builder::Resettable;
use clap::{Arg, ArgAction, Command};

use super::nearest::nearest;
use super::values::parse_switch;

const PREFIX: &str = "ECHO_";

/// Gives every flag of `command` its variable. One that is empty counts as not set, because many
/// launchers cannot unset one.
pub(super) fn with_variables(command: Command) -> Command {
    command.mut_args(|arg| {
        let Some(variable) = variable(&arg) else { return arg };
        if std::env::var_os(&variable).is_some_and(|value| value.is_empty()) {
            return arg;
        }
        let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
        let arg = arg.env(Resettable::Value(OsString::from(variable).into())).hide_env(true);
        if is_switch { arg.value_parser(parse_switch) } else { arg }
    })
}

/// The variable of a flag; `None` for what is no setting of the server.
pub(super) fn variable(arg: &Arg) -> Option<String> {
    let long = arg.get_long().filter(|long| !matches!(*long, "help" | "version"))?;
    Some(format!("{PREFIX}{}", long.to_ascii_uppercase().replace('-', "_")))
}

/// What is wrong with each variable that looks like a setting and is none.
pub(super) fn unknown_variables(command: &Command) -> Vec<String> {
    let known: Vec<_> = command.get_arguments().filter_map(variable).collect();
    let mut unknown: Vec<_> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with(PREFIX) && !known.contains(name) && !is_of_a_service(name))
        .map(|name| match nearest(&name, known.iter().map(String::as_str)) {
            Some(known) => format!("{name} sets nothing; did you mean {known}?"),
            None => format!("{name} sets nothing"),
        })
        .collect();
    unknown.sort();
    unknown
}

/// Whether Kubernetes or Docker has set the variable, for a service whose name begins with `echo-`.
fn is_of_a_service(name: &str) -> bool {
    let is_port = |rest: &str| rest.is_empty() || rest.starts_with('_');
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.match_indices("_PORT").any(|(at, port)| is_port(&name[at + port.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variables_of_services_are_not_settings() {
        for name in [
            "ECHO_SERVER_SERVICE_HOST",
            "ECHO_SERVER_SERVICE_PORT_WS",
            "ECHO_SERVER_PORT",
            "ECHO_SERVER_PORT_8080_TCP_ADDR",
        ] {
            assert!(is_of_a_service(name), "{name}");
        }
        for name in ["ECHO_HOSTS", "ECHO_TCPS", "ECHO_UDP_ALLOW_LOW_PORTSS"] {
            assert!(!is_of_a_service(name), "{name}");
        }
    }
}

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
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with(PREFIX) && !known.contains(name))
        .filter(|(name, value)| !is_of_a_service(name, &value.to_string_lossy()))
        .map(|(name, _)| match nearest_variable(&name, &known) {
            Some(known) => format!("{name} sets nothing; did you mean {known}?"),
            None => format!("{name} sets nothing"),
        })
        .collect();
    unknown.sort();
    unknown
}

/// The known variable that `name` was probably meant to be. The prefix that all have does not count.
fn nearest_variable<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let short = |name: &'a str| name.strip_prefix(PREFIX).unwrap_or(name);
    let meant = nearest(name.strip_prefix(PREFIX)?, known.iter().map(|name| short(name)))?;
    known.iter().map(String::as_str).find(|name| short(name) == meant)
}

/// Whether Kubernetes or Docker has set the variable, for a service whose name begins with `echo-`.
fn is_of_a_service(name: &str, value: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && value.contains("://"))
        || name
            .match_indices("_PORT_")
            .any(|(at, port)| name[at + port.len()..].starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variables_of_services_are_not_settings() {
        for (name, value) in [
            ("ECHO_SERVER_SERVICE_HOST", "10.0.0.1"),
            ("ECHO_SERVER_SERVICE_PORT_WS", "80"),
            ("ECHO_SERVER_PORT", "tcp://10.0.0.1:80"),
            ("ECHO_SERVER_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ] {
            assert!(is_of_a_service(name, value), "{name}");
        }
        for (name, value) in
            [("ECHO_HOSTS", "x"), ("ECHO_PORT", "9000"), ("ECHO_UDP_ALLOW_LOW_PORTSS", "1")]
        {
            assert!(!is_of_a_service(name, value), "{name}");
        }
    }

    #[test]
    fn the_common_prefix_of_variables_does_not_count() {
        let known = ["ECHO_ALL", "ECHO_TCP", "ECHO_LOG_FORMAT"].map(str::to_owned);
        assert_eq!(nearest_variable("ECHO_TPC", &known), Some("ECHO_TCP"));
        assert_eq!(nearest_variable("ECHO_LOGFORMAT", &known), Some("ECHO_LOG_FORMAT"));
        assert_eq!(nearest_variable("ECHO_HELP", &known), None);
        assert_eq!(nearest_variable("ECHO_PORT", &known), None);
    }
}

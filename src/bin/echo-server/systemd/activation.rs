//! Socket activation: the descriptors that the service manager passes, as sd_listen_fds(3) has it.

use std::env;
use std::os::fd::OwnedFd;

use echo_server::Inherited;
use listenfd::ListenFd;
use rustix::process::{Resource, getrlimit};

/// What a descriptor is called if its service manager names none.
const UNNAMED: &str = "unknown";

/// The descriptors that this process was handed. It has to be called once, before any thread starts
/// and any file is opened: listenfd removes LISTEN_FDS and LISTEN_PID from the environment, and takes
/// the descriptors from 3 on for its own.
pub fn inherited() -> Inherited {
    match announced() {
        Ok(names) => Inherited::new(take(names)),
        Err(why) => Inherited::none(why),
    }
}

/// The names of the descriptors, or why there are none. As convention has it, that is no error
/// unless somebody asks for one.
fn announced() -> Result<Vec<String>, String> {
    let text = |variable| env::var_os(variable).map(|value| value.to_string_lossy().into_owned());
    let Some(count) = text("LISTEN_FDS") else {
        return Err(
            "no descriptors were handed over: LISTEN_FDS is not set, as systemd sets it for \
                    the service of a socket unit"
                .to_owned(),
        );
    };
    let ours = std::process::id();
    match text("LISTEN_PID") {
        Some(pid) if pid.parse() == Ok(ours) => {}
        Some(pid) => {
            return Err(format!(
                "LISTEN_PID={pid} is another process, and this one is {ours}: the descriptors were \
                 handed to a shell, say, that started this process without exec"
            ));
        }
        None => return Err("LISTEN_FDS is set, and LISTEN_PID is not".to_owned()),
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let count = match count.parse::<usize>() {
        Ok(0) => return Err("LISTEN_FDS=0: no descriptors were handed over".to_owned()),
        Ok(number) if (number as u64) < limit => number,
        Ok(_) => return Err(format!("LISTEN_FDS={count} is more than a process can have")),
        Err(_) => return Err(format!("LISTEN_FDS={count} is not a number")),
    };
    let Some(names) = text("LISTEN_FDNAMES") else { return Ok(vec![UNNAMED.to_owned(); count]) };
    let names: Vec<_> = names.split(':').map(str::to_owned).collect();
    match names.len() {
        found if found == count => Ok(names),
        found => {
            Err(format!("LISTEN_FDNAMES has {found} names for LISTEN_FDS={count} descriptors"))
        }
    }
}

/// Takes the descriptors. listenfd makes each an owned one only after it has looked what it is.
fn take(names: Vec<String>) -> Vec<(String, Result<OwnedFd, String>)> {
    let mut passed = ListenFd::from_env();
    let mut socket = |at| -> Option<OwnedFd> {
        if let Ok(Some(socket)) = passed.take_tcp_listener(at) {
            return Some(socket.into());
        }
        if let Ok(Some(socket)) = passed.take_unix_listener(at) {
            return Some(socket.into());
        }
        if let Ok(Some(socket)) = passed.take_udp_socket(at) {
            return Some(socket.into());
        }
        passed.take_unix_datagram(at).ok().flatten().map(OwnedFd::from)
    };
    let unusable = "it is no TCP, UDP or Unix socket, or it is not open";
    let take = |(at, name)| (name, socket(at).ok_or_else(|| unusable.to_owned()));
    names.into_iter().enumerate().map(take).collect()
}

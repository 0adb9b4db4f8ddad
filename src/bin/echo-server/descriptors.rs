//! The limit on open file descriptors (RLIMIT_NOFILE); each connection needs one.

use std::io;

/// Raises the soft limit to the hard limit. The soft limit is low by default only because select(2)
/// cannot handle large descriptors, and we do not use it.
#[cfg(unix)]
pub fn raise_limit() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// Other systems have no such limit.
#[cfg(not(unix))]
pub fn raise_limit() -> io::Result<()> {
    Ok(())
}

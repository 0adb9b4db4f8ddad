//! The limit on open descriptors: a connection needs one.

use std::io;

/// Raises the limit to what the process may raise it to. Its soft value is low for the sake of
/// programs that use select(2), which we do not.
#[cfg(unix)]
pub fn raise_limit() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// There is none.
#[cfg(not(unix))]
pub fn raise_limit() -> io::Result<()> {
    Ok(())
}

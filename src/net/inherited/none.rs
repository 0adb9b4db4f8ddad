//! Inherited sockets on systems that have no way to hand them over.

use super::AnyListener;
use super::bind::{Options, SharedAddress};
use crate::address::Address;
use crate::config::Inherited;

pub(crate) fn listeners(
    _flag: &str,
    _name: Option<&str>,
    inherited: &Inherited,
    _options: &Options,
) -> Result<Vec<(Address, AnyListener)>, String> {
    Err(inherited.absence().to_owned())
}

pub(crate) fn datagrams(
    _name: Option<&str>,
    inherited: &Inherited,
    _options: &Options,
) -> Result<Vec<SharedAddress>, String> {
    Err(inherited.absence().to_owned())
}

//! What is known of all targets, for whoever asks: the engine writes it, metrics and pages read it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Series;

/// What a [`Watch`](super::Watch) knows. A clone shows the same.
#[derive(Debug, Clone)]
pub struct Board {
    source: Arc<str>,
    every: Duration,
    state: Arc<Mutex<State>>,
}

/// What a target at one address is known by: its URL, and the address.
pub(super) type Key = (Arc<str>, Option<SocketAddr>);

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) series: BTreeMap<Key, Series>,
    /// How many lookups of each name have failed.
    pub(super) lookup_failures: BTreeMap<String, u64>,
    /// The addresses of all members, also of those that are not probed from here, but without this
    /// process' own.
    pub(super) members: Vec<IpAddr>,
    /// Addresses of this process that the names have.
    pub(super) own: Vec<IpAddr>,
    /// Whether all files could be used when they were last read. `None` if there are none.
    pub(super) are_files_usable: Option<bool>,
}

impl Board {
    pub(super) fn new(source: &str, every: Duration) -> Self {
        Board { source: source.into(), every, state: Arc::default() }
    }

    /// Who probes.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// From one round of a target to its next.
    pub fn every(&self) -> Duration {
        self.every
    }

    /// All targets at all addresses, in the order of their URLs.
    pub fn series(&self) -> Vec<Series> {
        self.state().series.values().cloned().collect()
    }

    /// How many lookups of each name have failed, of names that are looked up to find their addresses.
    pub fn lookup_failures(&self) -> BTreeMap<String, u64> {
        self.state().lookup_failures.clone()
    }

    /// The addresses of all members, also of those that are not probed from here, but without this
    /// process' own.
    pub fn members(&self) -> Vec<IpAddr> {
        self.state().members.clone()
    }

    /// Which of this process' own addresses the targets' names have.
    pub fn own(&self) -> Vec<IpAddr> {
        self.state().own.clone()
    }

    /// Whether the file of targets, certificates and keys could be used when they were last read. `None`
    /// if there are none.
    pub fn are_files_usable(&self) -> Option<bool> {
        self.state().are_files_usable
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

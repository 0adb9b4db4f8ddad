//! Sockets that the process was handed when it was started, such as by systemd.

use std::fmt;
#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::StartError;

/// A socket that somebody else has bound. Only Linux has such.
#[cfg(target_os = "linux")]
pub(crate) type InheritedSocket = OwnedFd;
#[cfg(not(target_os = "linux"))]
pub(crate) type InheritedSocket = std::convert::Infallible;

/// Sockets that the process was handed, each with a name, for the listeners whose address is
/// [`ListenAddress::Inherited`](crate::ListenAddress::Inherited).
///
/// A socket can be used once: clones share what is left. A server does not start if it leaves one of
/// them unused, because nobody would accept the connections that wait there.
#[derive(Clone, Default)]
pub struct Inherited(Arc<Shared>);

#[derive(Default)]
struct Shared {
    descriptors: Mutex<Vec<Descriptor>>,
    /// Why there are none.
    absence: String,
}

/// A descriptor that was handed over.
#[derive(Debug)]
pub(crate) struct Descriptor {
    pub(crate) name: String,
    pub(crate) state: State,
}

/// What became of a descriptor.
#[derive(Debug)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "there are none"))]
pub(crate) enum State {
    Free(InheritedSocket),
    /// A listener has it.
    Taken,
    /// It is of no use, and why.
    Unusable(String),
}

impl Inherited {
    /// The descriptors by name, in the order of the listeners' addresses. One that is no socket
    /// comes as an error that says what it is, such as `it is no socket`; a listener that wants it
    /// repeats that.
    #[cfg(target_os = "linux")]
    pub fn new(descriptors: impl IntoIterator<Item = (String, Result<OwnedFd, String>)>) -> Self {
        let descriptors = descriptors.into_iter().map(|(name, socket)| Descriptor {
            name,
            state: socket.map_or_else(State::Unusable, State::Free),
        });
        Inherited(Arc::new(Shared {
            descriptors: Mutex::new(descriptors.collect()),
            absence: String::new(),
        }))
    }

    /// No descriptors, and why: the error of a listener that wants one ends with it.
    pub fn none(why: impl Into<String>) -> Self {
        Inherited(Arc::new(Shared { descriptors: Mutex::default(), absence: why.into() }))
    }

    pub(crate) fn descriptors(&self) -> MutexGuard<'_, Vec<Descriptor>> {
        self.0.descriptors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why there are no descriptors.
    pub(crate) fn absence(&self) -> &str {
        match self.0.absence.as_str() {
            "" => "no descriptors were handed over",
            why => why,
        }
    }

    /// Checks that listeners have taken all.
    pub(crate) fn check_all_taken(&self) -> Result<(), StartError> {
        let mut names = Vec::new();
        for Descriptor { name, state } in &*self.descriptors() {
            match state {
                State::Taken => {}
                State::Free(_) => names.push(name.clone()),
                // No listener could have taken it.
                State::Unusable(problem) => {
                    let (name, problem) = (name.clone(), problem.clone());
                    return Err(StartError::Inherited { name, problem });
                }
            }
        }
        match names.is_empty() {
            true => Ok(()),
            false => Err(StartError::Surplus { names }),
        }
    }
}

impl fmt::Debug for Inherited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Inherited").field(&*self.descriptors()).finish()
    }
}

/// Equal are two that hold the same sockets, or none.
impl PartialEq for Inherited {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.descriptors().is_empty() && other.descriptors().is_empty())
    }
}

impl Eq for Inherited {}

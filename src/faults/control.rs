//! How HTTP and the stream below it agree on what a request asks for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Faults, Plan};
use crate::config::{Fault, FaultError};
use crate::connection::Connection;

/// A stream that may misbehave, and how HTTP tells it what a request asks for.
pub(crate) trait Misbehaving {
    /// Where to ask for faults; `None` if there are none.
    fn control(&self) -> Option<Arc<Control>> {
        None
    }

    /// The handshakes are done, and what follows are WebSocket frames.
    fn begin_frames(&mut self) {}

    /// How much longer than others the stream takes to send all and to end.
    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    /// What is planned, for facts.
    fn planned(&self) -> Option<String> {
        None
    }
}

impl<S: crate::net::Stream> Misbehaving for S {}

/// What HTTP and the stream below it know of each other.
#[derive(Debug)]
pub(crate) struct Control {
    faults: Arc<Faults>,
    connection: Connection,
    planned: Plan,
    request: Mutex<Request>,
}

/// A request, as far as the stream has to know it.
#[derive(Debug, Default)]
struct Request {
    /// What it asks for.
    asked: Plan,
    /// Whether it becomes a WebSocket, once that is decided.
    is_upgrade: Option<bool>,
}

impl Control {
    pub(super) fn new(faults: &Arc<Faults>, connection: Connection, planned: Plan) -> Self {
        Control { faults: Arc::clone(faults), connection, planned, request: Mutex::default() }
    }

    /// The faults of a request with this query: what is planned, and what it asks for, which comes
    /// from now on.
    ///
    /// # Errors
    /// There cannot be such faults.
    pub(crate) fn ask(&self, query: Option<&str>) -> Result<(&Plan, Plan), FaultError> {
        let asked = self.faults.ask(self.connection.protocol, query)?;
        self.request().asked = asked.clone();
        Ok((&self.planned, asked))
    }

    /// Has the stream send what follows as it was asked to.
    pub(crate) fn answered(&self, is_upgrade: bool) {
        self.request().is_upgrade = Some(is_upgrade);
    }

    /// Counts that a fault was done.
    pub(crate) fn count(&self, fault: Fault) {
        self.faults.count(self.connection.protocol, fault.name(), 1);
    }

    /// What the request asks for, and whether it becomes a WebSocket, when it is about to be answered.
    pub(super) fn take(&self) -> Option<(Plan, bool)> {
        let mut request = self.request();
        let is_upgrade = request.is_upgrade.take()?;
        Some((std::mem::take(&mut request.asked), is_upgrade))
    }

    fn request(&self) -> MutexGuard<'_, Request> {
        self.request.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The number of a server's connections, for whoever watches it from outside.

use std::sync::{Arc, OnceLock};

use crate::connection::Sessions;

/// Tells how many connections a [`Server`](crate::Server) has, while it runs. A WebSocket over
/// HTTP/2 counts as a connection of its own; UDP has none.
#[derive(Debug, Clone, Default)]
pub struct Connections {
    /// Set when the server runs.
    sessions: Arc<OnceLock<Arc<Sessions>>>,
}

impl Connections {
    /// The number of open connections.
    pub fn open(&self) -> usize {
        self.sessions.get().map_or(0, |sessions| sessions.connections())
    }

    /// The number of connections that were admitted since the start.
    pub fn opened(&self) -> u64 {
        self.sessions.get().map_or(0, |sessions| sessions.opened())
    }

    /// Begins to count those of `sessions`.
    pub(super) fn begin(&self, sessions: &Arc<Sessions>) {
        let _ = self.sessions.set(Arc::clone(sessions));
    }
}

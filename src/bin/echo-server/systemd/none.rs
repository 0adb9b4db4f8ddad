//! Without systemd, which only Linux has.

use std::time::Duration;

use echo_server::{Inherited, Server};

pub fn inherited() -> Inherited {
    Inherited::none("only Linux has systemd")
}

/// Nobody who is told anything.
#[derive(Clone)]
pub struct Service;

#[allow(clippy::unused_async, reason = "on Linux they wait")]
impl Service {
    pub fn from_environment() -> Self {
        Service
    }

    pub fn ready(&self, _server: &Server) {}

    pub async fn reloading(&self) {}

    pub async fn reloaded(&self) {}

    pub async fn stopping(&self, _drain: Duration) {}
}

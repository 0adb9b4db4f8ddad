//! What systemd passes to its services, and what it is told: sockets (sd_listen_fds(3)), the state
//! of the service (sd_notify(3)), the watchdog (sd_watchdog_enabled(3)).

mod activation;
mod notify;
mod service;

pub use activation::inherited;
pub use service::Service;

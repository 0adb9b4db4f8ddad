//! An echo server with five doors: TCP, TLS, UDP, WebSocket, and WebSocket over TLS.
//!
//! What comes in goes back unchanged, in order, to where it came from. The binary is described in
//! the README; this library is the same server for tests and programs: bind it to port 0, ask for
//! its addresses, run it until you say stop.
//!
//! # The house
//! | room | what it holds |
//! | --- | --- |
//! | [`echo`] | the shared core: what a transport that can echo must do, byte streams, WebSocket frames rewritten in place, datagrams |
//! | `session` | one connection's life: accept, the thread that gets it, permit, handshake, echo, farewell, deadlines, drain, the closing log line |
//! | `listeners` | the front-ends, one protocol a file |
//! | `http` | what a request on a WebSocket port is answered with |
//! | `page` | the page that a browser gets there |
//! | `tls` | certificates and rustls' settings |
//! | [`certs`] | makes a private CA, and certificates that it has signed |
//! | `bind` | addresses become sockets |
//! | `server` | starts the front-ends, ends them together |
//! | [`probe`] | the other end of the wire: pings and loads an echo service |
//! | [`Config`], [`StartError`] | what a server is told, and why it did not start |
//!
//! Arrows point inward: `server -> listeners -> session -> echo -> tokio`.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod address;
pub mod certs;
mod config;
mod connection;
mod echo;
mod error;
mod net;
pub mod probe;
mod protocols;
mod server;
mod tls;
mod transport;

pub use address::{Address, UnixAddress, UnixAddressError};
pub use config::{
    ClientAuth, Config, Credentials, DEFAULT_BUFFER_SIZE, Identity, Limits, Listen, Protocol,
    Source, Timeouts, TlsPolicy, TlsVersion, UdpPolicy, WebSocketPolicy,
};
pub use error::{BoxError, Credential, CredentialError, Setting, StartError};
pub use server::{LocalAddr, Server, Summary};
pub use tls::TlsReloader;

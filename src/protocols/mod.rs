//! Protocols: what is spoken on a listener's streams, or on a datagram socket. No protocol imports
//! another. TCP and TLS are [`bytes`] over two transports, WebSocket is [`ws`] over the same two;
//! the server combines them. Each of them can be [`proxied`].

pub(crate) mod bytes;
pub(crate) mod proxied;
pub(crate) mod udp;
pub(crate) mod ws;

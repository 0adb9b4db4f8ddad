//! Protocols: what is spoken on a listener's streams, or on a datagram socket. None imports another:
//! TCP and TLS are [`bytes`] on two transports, WebSocket is [`ws`] on the same two, and it is the
//! server that puts them together.

pub(crate) mod bytes;
pub(crate) mod udp;
pub(crate) mod ws;

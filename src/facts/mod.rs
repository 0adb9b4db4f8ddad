//! What the server saw of its clients, as JSON.

pub(crate) mod datagram;

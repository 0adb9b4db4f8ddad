//! Sockets.

pub(crate) mod bind;

//! What is spoken, one protocol a file.

pub(crate) mod tcp;
pub(crate) mod tls;
pub(crate) mod udp;
pub(crate) mod ws;

//! What the server saw of a client, as JSON: `docs/facts.schema.json` describes it. Facts are told on
//! request only, since header fields can hold secrets.

pub(crate) mod datagram;
mod http;
mod object;
mod proxy;
mod stream;
mod tls;

pub(crate) use http::HttpSeen;
pub(crate) use stream::Seen;
pub(crate) use tls::TlsSeen;

/// The version of the schema, which every reply begins with. It grows when a key goes away or changes
/// its meaning; new keys do not change it.
const VERSION: u32 = 1;

/// The path of the facts on a WebSocket port.
pub(crate) const PATH: &str = "/facts";

/// Text for JSON, with U+FFFD in place of what is not UTF-8.
fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

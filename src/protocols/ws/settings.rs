//! Opens a WebSocket after its handshake, over any version of HTTP, and logs what was negotiated.

use std::sync::Arc;

use hyper::header::HeaderValue;
use hyper::http::Version;
use tracing::info;

use super::handshake::{Agreed, Answers};
use crate::connection::{Connection, Sessions, shows};
use crate::echo::{Frames, StreamEcho};
use crate::faults::Faults;

/// A request's head may have this many bytes; with more, the response is 431.
pub(super) const MAX_HEAD: usize = 16 * 1024;

/// Compressed input can take many passes, and what waits for the next one is copied each time. So a
/// connection that compresses gets its input in smaller pieces.
const COMPRESSED_BATCH: usize = 16 * 1024;

/// What all WebSockets of a server share.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) answers: Answers,
    pub(crate) buffer_size: usize,
    /// Whether each client can ask what the server saw of it, and is told first on a WebSocket.
    pub(crate) shows_facts: bool,
    pub(crate) sessions: Arc<Sessions>,
    /// What is done wrong on purpose, if anything is.
    pub(crate) faults: Option<Arc<Faults>>,
}

/// The WebSocket on `stream`, whose handshake is done and has read `early_input` past its own end.
/// `facts` are its first message.
pub(super) fn open<S>(
    stream: S,
    agreed: &Agreed,
    settings: &Settings,
    early_input: &[u8],
    facts: Option<&str>,
) -> StreamEcho<S, Frames> {
    let compression = agreed.deflate.is_some();
    let most = if compression { COMPRESSED_BATCH } else { usize::MAX };
    let batch = settings.buffer_size.min(most);
    let mut frames = Frames::new(compression, settings.buffer_size).with_early_input(early_input);
    let greeting = facts.map_or_else(Vec::new, |facts| frames.greeting(facts));
    StreamEcho::framed(stream, batch, frames).with_greeting(greeting)
}

/// Logs what was negotiated.
pub(super) fn log_opened(
    connection: Connection,
    version: Version,
    path: &str,
    agreed: &Agreed,
    settings: &Settings,
) {
    let Connection { protocol, number, peer, .. } = connection;
    if !shows!(settings.sessions.log) {
        return;
    }
    // A client can make each of these as long as a request's head; the log line has to stay short.
    let shorten = |text: &str| text.chars().take(200).collect::<String>();
    let text = |value: &Option<HeaderValue>| {
        let value = value.as_ref().and_then(|value| value.to_str().ok());
        shorten(value.unwrap_or("none"))
    };
    info!(
        %protocol,
        conn = number,
        %peer,
        http = ?version,
        path = shorten(path),
        subprotocol = text(&agreed.subprotocol),
        extensions = text(&agreed.deflate),
        "WebSocket established with: {peer}"
    );
}

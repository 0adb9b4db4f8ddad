//! Opens a WebSocket after its handshake, over any version of HTTP, and logs what was negotiated.

use std::sync::Arc;

use hyper::header::HeaderValue;
use hyper::http::Version;
use tracing::info;

use super::handshake::{Agreed, Answers};
use crate::connection::{Connection, Sessions};
use crate::echo::{Frames, StreamEcho, Underlying};

/// A request's head may have this many bytes; with more, the response is 431.
pub(super) const MAX_HEAD: usize = 16 * 1024;

/// How many bytes a compressed connection reads at a time. Each may inflate to a thousand, so it
/// reads smaller pieces than others.
const COMPRESSED_BATCH: usize = 16 * 1024;

/// What all WebSockets of a server share.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) answers: Answers,
    pub(crate) buffer_size: usize,
    pub(crate) sessions: Arc<Sessions>,
}

/// Makes the echo for `stream`, whose handshake is done.
pub(super) fn open<S>(
    stream: S,
    underlying: Underlying<S>,
    agreed: &Agreed,
    settings: &Settings,
) -> StreamEcho<S, Frames> {
    let compression = agreed.deflate.is_some();
    let most = if compression { COMPRESSED_BATCH } else { usize::MAX };
    let batch = settings.buffer_size.min(most);
    StreamEcho::framed(stream, underlying, batch, Frames::new(compression, settings.buffer_size))
}

/// Logs what was negotiated.
pub(super) fn log_opened(
    connection: Connection,
    version: Version,
    path: &str,
    agreed: &Agreed,
    settings: &Settings,
) {
    let Connection { protocol, number, peer } = connection;
    if !settings.sessions.log.shows() {
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
        http = ?version,
        path = shorten(path),
        subprotocol = text(&agreed.subprotocol),
        extensions = text(&agreed.deflate),
        "WebSocket established with: {peer}"
    );
}

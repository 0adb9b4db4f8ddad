//! Remembers the first bytes that the other side sends, so that a failed handshake can say what
//! the other side speaks instead.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::Target;
use crate::config::Protocol;

/// How many bytes are remembered.
const SIZE: usize = 64;

/// A stream whose first bytes are remembered.
pub(super) struct FirstBytes<S> {
    inner: S,
    seen: Seen,
    /// Whether nobody will ask any more.
    is_over: bool,
}

/// What has come first, and how much since when nothing has.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<Mutex<Beginning>>);

#[derive(Default)]
struct Beginning {
    bytes: Vec<u8>,
    /// How much has come in all.
    total: u64,
    /// When the last of it has come.
    last: Option<Instant>,
    is_over: bool,
}

impl<S> FirstBytes<S> {
    pub(super) fn new(inner: S) -> (Self, Seen) {
        let seen = Seen::default();
        (FirstBytes { inner, seen: seen.clone(), is_over: false }, seen)
    }
}

impl Beginning {
    /// Takes what has come. Returns whether nothing is taken any more.
    fn push(&mut self, read: &[u8]) -> bool {
        if !self.is_over {
            let room = SIZE - self.bytes.len();
            self.bytes.extend_from_slice(&read[..read.len().min(room)]);
            self.total += read.len() as u64;
            self.last = Some(Instant::now());
        }
        self.is_over
    }
}

impl Seen {
    /// The handshake is over. What comes from now on is not looked at, and costs no lock.
    pub(super) fn finish(&self) {
        self.lock().is_over = true;
    }

    fn lock(&self) -> MutexGuard<'_, Beginning> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a handshake that began at `began` has gone silent, up to `now`. `said` is what this side
    /// said first.
    pub(super) fn silence(&self, began: Instant, now: Instant, said: &str) -> String {
        let seen = self.lock();
        let silent = about(now - seen.last.unwrap_or(began));
        match seen.total {
            0 => format!("nothing came for {silent} after {said}"),
            1 => format!("1 byte came after {said}, and nothing more for {silent}"),
            total => format!("{total} bytes came after {said}, and nothing more for {silent}"),
        }
    }

    /// When in a handshake the connection has ended.
    pub(super) fn end(&self) -> String {
        match self.lock().total {
            0 => "before any answer".to_owned(),
            1 => "after 1 byte".to_owned(),
            total => format!("after {total} bytes"),
        }
    }

    /// What the other side seems to speak if it is not TLS. `None`: it may well be TLS.
    pub(super) fn in_place_of_tls(&self, target: &Target) -> Option<String> {
        let bytes = &self.lock().bytes;
        Some(match &bytes[..] {
            // A record with a ClientHello, which only clients send.
            [0x16, 3, _, _, _, 1, ..] => format!(
                "it does not speak TLS, but sends back what it gets: perhaps {}",
                target.over(Protocol::Tcp)
            ),
            // The other types of records (RFC 8446 section 5.1).
            [] | [0x14..=0x17, 3, ..] => return None,
            bytes if bytes.starts_with(b"HTTP/") => format!(
                "it does not speak TLS, but HTTP ({}): perhaps {}",
                line(bytes),
                target.over(Protocol::Ws)
            ),
            bytes => format!("it does not speak TLS: it answered {}", line(bytes)),
        })
    }

    /// What the other side seems to speak if it is not HTTP. `None`: it may well be HTTP.
    pub(super) fn in_place_of_http(&self, target: &Target) -> Option<String> {
        let bytes = &self.lock().bytes;
        let is_over_tls = target.protocol().is_over_tls();
        Some(match &bytes[..] {
            bytes if bytes.is_empty() || bytes.starts_with(b"HTTP/") => return None,
            bytes if bytes.starts_with(b"GET ") => {
                let echo = if is_over_tls { Protocol::Tls } else { Protocol::Tcp };
                let other = target.over(echo);
                format!("it does not speak HTTP, but sends back what it gets: perhaps {other}")
            }
            [0x15, 3, ..] if !is_over_tls => {
                format!("it does not speak HTTP, but TLS: perhaps {}", target.over(Protocol::Wss))
            }
            bytes => format!("it does not speak HTTP: it answered {}", line(bytes)),
        })
    }

    /// What the other side seems to speak if it is not HTTP/2. `None`: it may well be HTTP/2.
    pub(super) fn in_place_of_http2(&self, target: &Target) -> Option<String> {
        let is_preface = {
            let bytes = &self.lock().bytes;
            match &bytes[..] {
                bytes if bytes.starts_with(b"HTTP/1.") => {
                    return Some(format!(
                        "it does not speak HTTP/2, but HTTP/1.1: it answered {}",
                        line(bytes)
                    ));
                }
                // A frame begins with its length, and SETTINGS (RFC 9113 section 4.1) are short.
                [] | [0, 0, _, 4, ..] => return None,
                bytes => bytes.starts_with(b"PRI "),
            }
        };
        if is_preface {
            let echo = if target.protocol().is_over_tls() { Protocol::Tls } else { Protocol::Tcp };
            let other = target.over(echo);
            return Some(format!(
                "it does not speak HTTP, but sends back what it gets: perhaps {other}"
            ));
        }
        self.in_place_of_http(target)
    }
}

/// A time in seconds, and to a tenth if it is short. The connections of a load that wait for the same
/// deadline then say the same.
fn about(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let said = format!("{seconds:.*}", usize::from(seconds < 2.0));
    format!("{}s", said.strip_suffix(".0").unwrap_or(&said))
}

/// The first line of `bytes` in quotes, or what else they are.
fn line(bytes: &[u8]) -> String {
    let line = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or(bytes);
    match !line.is_empty() && line.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        true => format!("\"{}\"", String::from_utf8_lossy(line)),
        false => "with bytes that are no text".to_owned(),
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FirstBytes<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, into);
        let read = &into.filled()[before..];
        if !self.is_over && !read.is_empty() {
            let this = &mut *self;
            this.is_over = this.seen.lock().push(read);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FirstBytes<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_other_side_speaks_is_guessed_from_its_first_bytes() {
        let seen = |bytes: &[u8]| {
            Seen(Arc::new(Mutex::new(Beginning { bytes: bytes.to_vec(), ..Beginning::default() })))
        };
        let target = |url: &str| -> Target { url.parse().unwrap() };
        let tls = target("tls://localhost:1");
        for (bytes, said) in [
            (&[][..], None),
            (&[0x16, 3, 3, 0, 90, 2, 0, 0, 86], None),
            (&[0x15, 3, 3, 0, 2, 2, 40], None),
            (
                &[0x16, 3, 1, 0, 90, 1, 0],
                Some(
                    "it does not speak TLS, but sends back what it gets: perhaps tcp://localhost:1",
                ),
            ),
            (
                b"HTTP/1.1 400 Bad Request\r\n",
                Some(
                    "it does not speak TLS, but HTTP (\"HTTP/1.1 400 Bad Request\"): perhaps \
                     ws://localhost:1",
                ),
            ),
            (b"SSH-2.0-x\r\n", Some("it does not speak TLS: it answered \"SSH-2.0-x\"")),
            (&[0, 1], Some("it does not speak TLS: it answered with bytes that are no text")),
        ] {
            assert_eq!(seen(bytes).in_place_of_tls(&tls).as_deref(), said, "{bytes:?}");
        }
        for (url, bytes, said) in [
            ("ws://localhost:1/a", &b"HTTP/1.1 101 "[..], None),
            (
                "ws://localhost:1/a",
                b"GET /a HTTP/1.1",
                Some(
                    "it does not speak HTTP, but sends back what it gets: perhaps tcp://localhost:1",
                ),
            ),
            (
                "wss://localhost:1",
                b"GET / HTTP/1.1",
                Some(
                    "it does not speak HTTP, but sends back what it gets: perhaps tls://localhost:1",
                ),
            ),
            (
                "ws://localhost:1/a",
                &[0x15, 3, 3, 0, 2],
                Some("it does not speak HTTP, but TLS: perhaps wss://localhost:1/a"),
            ),
        ] {
            assert_eq!(seen(bytes).in_place_of_http(&target(url)).as_deref(), said, "{url}");
        }
    }
}

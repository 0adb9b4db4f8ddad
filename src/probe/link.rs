//! A connection to an echo service: one interface to streams, datagrams and WebSocket messages.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::datagrams::{Datagrams, Received};
use super::ending::Farewell;
use crate::causes;

/// A byte stream: TCP or a Unix socket, with TLS or without.
pub(super) trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for T {}

/// A connection.
pub(super) enum Link {
    /// A stream has no message boundaries: messages are told apart by their size.
    Bytes(Bytes),
    Datagrams(Datagrams),
    Messages(Box<Messages>),
}

/// A byte stream, and what ends it.
pub(super) struct Bytes {
    pub(super) stream: Box<dyn ByteStream>,
    /// Whether it ends with close_notify.
    pub(super) is_over_tls: bool,
}

/// A WebSocket.
pub(super) struct Messages {
    pub(super) socket: WebSocketStream<Box<dyn ByteStream>>,
    /// How many of the next messages are ignored.
    pub(super) to_skip: u64,
}

/// What was received.
pub(super) enum Incoming<'a> {
    /// The next bytes of a stream.
    Bytes(&'a [u8]),
    /// Datagrams that were received together.
    Datagrams(&'a Received),
    /// A WebSocket message, and whether it is text.
    Message(&'a [u8], bool),
    /// The other side closed the connection, in this way.
    End(Farewell),
}

/// The buffer that [`Incoming`] borrows from.
#[derive(Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    datagrams: Received,
    message: Option<Message>,
}

/// The buffer of messages to write: one, or on a stream and as datagrams several of one size.
#[derive(Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    /// How many messages there are.
    count: usize,
    /// How many bytes were written; of datagrams how many messages.
    sent: usize,
    is_full: bool,
}

impl Outbox {
    /// Replaces the contents, which must have been written, by `count` messages that `fill` appends.
    pub(super) fn refill(&mut self, count: usize, fill: impl FnOnce(&mut Vec<u8>)) {
        debug_assert!(!self.is_full && count > 0);
        self.bytes.clear();
        self.sent = 0;
        self.count = count;
        self.is_full = true;
        fill(&mut self.bytes);
    }

    /// How much the transport has taken.
    pub(super) fn taken(&self) -> usize {
        self.sent
    }

    /// How many messages are still to be written; of a stream it is not known.
    pub(super) fn unsent_datagrams(&self) -> usize {
        self.count - self.sent
    }

    /// Whether there is something to write, which may be a message of 0 bytes.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }
}

impl Link {
    /// Ignores what comes first: bytes of a stream, or messages.
    pub(super) fn skip_first(self, amount: u64) -> Link {
        match self {
            Link::Bytes(Bytes { stream, is_over_tls }) if amount > 0 => Link::Bytes(Bytes {
                stream: Box::new(SkipFirst { inner: stream, left: amount }),
                is_over_tls,
            }),
            Link::Bytes(bytes) => Link::Bytes(bytes),
            Link::Datagrams(mut socket) => {
                socket.skip_first(amount);
                Link::Datagrams(socket)
            }
            Link::Messages(mut socket) => {
                socket.to_skip = amount;
                Link::Messages(socket)
            }
        }
    }

    /// Writes the contents of `outbox`. Ready when the transport has taken them; they still have to
    /// be flushed.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        outbox: &mut Outbox,
        is_text: bool,
    ) -> Poll<io::Result<()>> {
        let sent = ready!(self.poll_transmit(cx, outbox, is_text));
        // Also after an error: a datagram that the system refused is not sent again, but those behind
        // it are.
        let has_more = matches!(self, Link::Datagrams(_)) && outbox.sent < outbox.count;
        outbox.is_full = has_more;
        Poll::Ready(sent)
    }

    fn poll_transmit(
        &mut self,
        cx: &mut Context<'_>,
        outbox: &mut Outbox,
        is_text: bool,
    ) -> Poll<io::Result<()>> {
        match self {
            Link::Bytes(Bytes { stream, .. }) => {
                while outbox.sent < outbox.bytes.len() {
                    let rest = &outbox.bytes[outbox.sent..];
                    match ready!(Pin::new(&mut **stream).poll_write(cx, rest))? {
                        0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                        sent => outbox.sent += sent,
                    }
                }
            }
            Link::Datagrams(socket) => {
                let size = outbox.bytes.len() / outbox.count;
                while outbox.sent < outbox.count {
                    let rest = &outbox.bytes[outbox.sent * size..];
                    let count = outbox.count - outbox.sent;
                    let sent = ready!(socket.poll_send(cx, rest, size, count));
                    outbox.sent += *sent.as_ref().unwrap_or(&1);
                    sent?;
                }
            }
            Link::Messages(socket) => {
                let mut socket = Pin::new(&mut socket.socket);
                ready!(socket.as_mut().poll_ready(cx)).map_err(to_io)?;
                let message = if is_text {
                    let text = String::from_utf8(std::mem::take(&mut outbox.bytes));
                    Message::text(text.expect("text payloads are ASCII"))
                } else {
                    Message::binary(std::mem::take(&mut outbox.bytes))
                };
                socket.start_send(message).map_err(to_io)?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Flushes what was written.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Link::Bytes(Bytes { stream, .. }) => Pin::new(&mut **stream).poll_flush(cx),
            Link::Datagrams(_) => Poll::Ready(Ok(())),
            Link::Messages(socket) => Pin::new(&mut socket.socket).poll_flush(cx).map_err(to_io),
        }
    }

    /// Receives a message, up to `capacity` bytes of a stream, or the datagrams that have come, of which
    /// several are expected if `many`.
    pub(super) fn poll_receive<'a>(
        &mut self,
        cx: &mut Context<'_>,
        inbox: &'a mut Inbox,
        capacity: usize,
        many: bool,
    ) -> Poll<io::Result<Incoming<'a>>> {
        match self {
            Link::Bytes(Bytes { stream, is_over_tls }) => {
                // It only grows: connections share it, and growing it again would clear it each time.
                if inbox.bytes.len() < capacity {
                    inbox.bytes.resize(capacity, 0);
                }
                let mut into = ReadBuf::new(&mut inbox.bytes[..capacity]);
                match ready!(Pin::new(&mut **stream).poll_read(cx, &mut into)) {
                    Err(error) if *is_over_tls && is_truncation(&error) => {
                        return Poll::Ready(Ok(Incoming::End(Farewell::WithoutCloseNotify)));
                    }
                    read => read?,
                }
                let length = into.filled().len();
                Poll::Ready(Ok(match length {
                    0 if *is_over_tls => Incoming::End(Farewell::CloseNotify),
                    0 => Incoming::End(Farewell::EndOfStream),
                    _ => Incoming::Bytes(&inbox.bytes[..length]),
                }))
            }
            Link::Datagrams(socket) => {
                ready!(socket.poll_receive(cx, &mut inbox.datagrams, many))?;
                Poll::Ready(Ok(Incoming::Datagrams(&inbox.datagrams)))
            }
            Link::Messages(socket) => loop {
                match ready!(Pin::new(&mut socket.socket).poll_next(cx)) {
                    Some(Err(Error::ConnectionClosed)) => {
                        return Poll::Ready(Ok(Incoming::End(Farewell::CloseFrame(None))));
                    }
                    None
                    | Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
                        return Poll::Ready(Ok(Incoming::End(Farewell::WithoutCloseFrame)));
                    }
                    Some(Err(Error::Io(error))) if is_truncation(&error) => {
                        return Poll::Ready(Ok(Incoming::End(Farewell::WithoutEither)));
                    }
                    Some(Err(error)) => return Poll::Ready(Err(to_io(error))),
                    Some(Ok(Message::Close(frame))) => {
                        let said = frame
                            .map(|frame| (u16::from(frame.code), frame.reason.as_str().to_owned()));
                        return Poll::Ready(Ok(Incoming::End(Farewell::CloseFrame(said))));
                    }
                    Some(Ok(Message::Text(_) | Message::Binary(_))) if socket.to_skip > 0 => {
                        socket.to_skip -= 1;
                    }
                    Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                        return Poll::Ready(Ok(match inbox.message.insert(message) {
                            Message::Text(text) => Incoming::Message(text.as_bytes(), true),
                            Message::Binary(bytes) => Incoming::Message(bytes, false),
                            _ => unreachable!("matched above"),
                        }));
                    }
                    // Pings, which tungstenite answers, and pongs.
                    Some(Ok(_)) => {}
                }
            },
        }
    }

    /// Closes the connection as its protocol requires: FIN, close_notify or a Close frame.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Link::Bytes(Bytes { stream, .. }) => Pin::new(&mut **stream).poll_shutdown(cx),
            Link::Datagrams(_) => Poll::Ready(Ok(())),
            Link::Messages(socket) => Pin::new(&mut socket.socket).poll_close(cx).map_err(to_io),
        }
    }
}

/// Whether a TLS stream has ended without close_notify. Nothing else below a WebSocket is told in this
/// way: tungstenite has an error of its own for it, and [`Carrier`](super::connect) another.
fn is_truncation(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
}

fn to_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::Capacity(_) => io::Error::other(TooLong(causes::of_websocket(&error))),
        other => io::Error::other(causes::of_websocket(&other)),
    }
}

/// A WebSocket message was larger than what is taken.
#[derive(Debug)]
struct TooLong(String);

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TooLong {}

/// Whether a WebSocket has failed because a message was larger than what is taken.
pub(super) fn is_too_long(error: &io::Error) -> bool {
    error.get_ref().and_then(|error| error.downcast_ref::<TooLong>()).is_some()
}

/// A stream whose first bytes are ignored.
struct SkipFirst {
    inner: Box<dyn ByteStream>,
    left: u64,
}

impl AsyncRead for SkipFirst {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let before = into.filled().len();
            ready!(Pin::new(&mut *self.inner).poll_read(cx, into))?;
            let read = into.filled().len() - before;
            let skipped = read.min(self.left.try_into().unwrap_or(usize::MAX));
            self.left -= skipped as u64;
            into.filled_mut()[before..].copy_within(skipped.., 0);
            into.set_filled(before + read - skipped);
            // The end of the stream is one, skipped or not.
            if read == 0 || skipped < read {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for SkipFirst {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_shutdown(cx)
    }
}

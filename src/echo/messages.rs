//! WebSocket messages, through tungstenite's stream: each goes back as it came, text as text and
//! binary as binary. tungstenite answers pings and Close frames.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

use super::{Echo, EchoError, Goodbye, Moved, PeerEnd, Raw, Step, Traffic, scratch};

/// tungstenite allocates this much for each connection, at once.
const READ_BUFFER: usize = 16 * 1024;

/// Replies gather up to here before they are written without waiting for the flush.
const WRITE_BUFFER: usize = 64 * 1024;

/// The longest message. tungstenite assembles messages, so there has to be a limit.
const MAX_MESSAGE: usize = 16 << 20;

/// Lingering reads go through a buffer of this size.
const DISCARD: usize = 16 * 1024;

/// Echoes the messages of a WebSocket connection (RFC 6455) whose handshake is done.
///
/// What is buffered is drained, then flushed once. While a pong or more than 64 KiB of replies
/// wait for the peer, nothing is read.
#[derive(Debug)]
pub struct MessageEcho<S> {
    socket: WebSocketStream<Metered<S>>,
    raw: Raw<S>,
    unflushed: bool,
    /// A pong is queued. Unless it is flushed before the next read, a peer that only pings and
    /// never reads grows the buffer without end.
    pong_queued: bool,
    /// The Close frame to send, once the peer has broken the protocol.
    verdict: Option<CloseFrame>,
    end: Option<PeerEnd>,
    farewell: Farewell,
    traffic: Traffic,
}

/// How far [`MessageEcho::poll_close`] has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Farewell {
    Unsent,
    /// Our Close frame is queued; it has to be flushed.
    Flushing(Goodbye),
    /// Our Close frame is out; the peer's answer comes before the TCP close (RFC 6455 section
    /// 7.1.1).
    Awaiting,
    /// Both Close frames are on their way, or the peer's never will be: close TCP.
    Closing,
    Lingering,
    Done,
}

impl<S: AsyncRead + AsyncWrite + Unpin> MessageEcho<S> {
    /// Echoes the messages on `io`, of which `read` was received already. `raw` gives the
    /// connection below, as for [`StreamEcho::over`](super::StreamEcho::over).
    pub async fn new(io: S, raw: Raw<S>, read: Vec<u8>) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(WRITE_BUFFER)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let io = Metered { io, moved: Moved::default() };
        let socket =
            WebSocketStream::from_partially_read(io, read, Role::Server, Some(config)).await;
        MessageEcho {
            socket,
            raw,
            unflushed: false,
            pong_queued: false,
            verdict: None,
            end: None,
            farewell: Farewell::Unsent,
            traffic: Traffic::default(),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), EchoError>> {
        if self.unflushed {
            ready!(Pin::new(&mut self.socket).poll_flush(cx)).map_err(write_error)?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn take(&mut self, message: Message) -> Result<(), EchoError> {
        match message {
            Message::Text(_) | Message::Binary(_) => {
                let length = message.len() as u64;
                self.traffic.received += length;
                self.traffic.messages += 1;
                self.unflushed = true;
                Pin::new(&mut self.socket).start_send(message).map_err(write_error)?;
                self.traffic.sent += length;
            }
            // tungstenite has queued the pong, or the answer to the Close.
            Message::Ping(_) => {
                self.unflushed = true;
                self.pong_queued = true;
            }
            Message::Close(frame) => {
                self.unflushed = true;
                self.end = Some(PeerEnd::Close(frame.map(|frame| frame.code.into())));
            }
            Message::Pong(_) | Message::Frame(_) => {}
        }
        Ok(())
    }

    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        scratch::with(DISCARD, |buffer| {
            let mut into = ReadBuf::new(buffer);
            let io = (self.raw)(&mut self.socket.get_mut().io);
            let read = ready!(Pin::new(io).poll_read(cx, &mut into));
            if read.is_err() || into.filled().is_empty() {
                self.farewell = Farewell::Done;
            }
            Poll::Ready(())
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Echo for MessageEcho<S> {
    /// For the closing handshake.
    const LINGER: Duration = Duration::from_secs(5);

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, EchoError>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(write_error)?;
        if self.pong_queued || self.end.is_some() {
            ready!(self.poll_flush(cx))?;
            self.pong_queued = false;
        }
        if let Some(end) = self.end.clone() {
            return Poll::Ready(Ok(Step::Ended(end)));
        }
        let message = match Pin::new(&mut self.socket).poll_next(cx) {
            Poll::Ready(Some(Ok(message))) => message,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(self.fail(error)),
            Poll::Ready(None) => {
                self.end = Some(PeerEnd::EndOfStream);
                return Poll::Ready(Ok(Step::Moved));
            }
            // Drained: now the one flush for all of it.
            Poll::Pending => {
                ready!(self.poll_flush(cx))?;
                return Poll::Pending;
            }
        };
        self.take(message)?;
        Poll::Ready(Ok(Step::Moved))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, why: Goodbye) -> Poll<Result<(), EchoError>> {
        loop {
            match self.farewell {
                Farewell::Unsent => {
                    // Once the peer has sent its Close frame, all that is left is to answer it.
                    let why = if self.end.is_some() { Goodbye::Answer } else { why };
                    let close = match why {
                        Goodbye::Answer => self.verdict.take(),
                        Goodbye::GoingAway => Some(close_frame(CloseCode::Away, "")),
                    };
                    if let Some(close) = close {
                        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(write_error)?;
                        let close = Message::Close(Some(close));
                        Pin::new(&mut self.socket).start_send(close).map_err(write_error)?;
                        self.unflushed = true;
                    }
                    self.farewell = Farewell::Flushing(why);
                }
                Farewell::Flushing(why) => {
                    ready!(self.poll_flush(cx))?;
                    self.farewell = match why {
                        Goodbye::Answer => Farewell::Closing,
                        Goodbye::GoingAway => Farewell::Awaiting,
                    };
                }
                // The driver has waited long enough.
                Farewell::Awaiting if why == Goodbye::Answer => {
                    self.farewell = Farewell::Closing;
                }
                Farewell::Awaiting => match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => self.farewell = Farewell::Closing,
                },
                Farewell::Closing => {
                    let io = Pin::new(self.socket.get_mut());
                    ready!(io.poll_shutdown(cx)).map_err(EchoError::Write)?;
                    self.farewell = Farewell::Lingering;
                }
                Farewell::Lingering => ready!(self.poll_discard(cx)),
                Farewell::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    fn traffic(&self) -> Traffic {
        self.traffic
    }

    fn owes(&self) -> bool {
        self.unflushed || matches!(self.farewell, Farewell::Flushing(_) | Farewell::Closing)
    }

    fn moved(&self) -> Moved {
        self.socket.get_ref().moved
    }
}

impl<S> MessageEcho<S> {
    /// What a failed read means, and what the peer is to be told.
    fn fail(&mut self, error: Error) -> Result<Step, EchoError> {
        let code = match &error {
            Error::Io(_) => {
                let Error::Io(error) = error else { unreachable!("matched above") };
                return Err(EchoError::Read(error));
            }
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                self.end = Some(PeerEnd::Truncated);
                return Ok(Step::Moved);
            }
            Error::Utf8(_) => CloseCode::Invalid,
            Error::Capacity(CapacityError::MessageTooLong { .. }) => CloseCode::Size,
            _ => CloseCode::Protocol,
        };
        let detail = error.to_string();
        self.verdict = Some(close_frame(code, ""));
        Err(EchoError::Protocol { code: code.into(), detail })
    }
}

fn close_frame(code: CloseCode, reason: &'static str) -> CloseFrame {
    CloseFrame { code, reason: reason.into() }
}

fn write_error(error: Error) -> EchoError {
    EchoError::Write(match error {
        Error::Io(error) => error,
        other => io::Error::other(other),
    })
}

/// Counts the bytes that move below tungstenite, which does not tell.
#[derive(Debug)]
struct Metered<S> {
    io: S,
    moved: Moved,
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, into))?;
        self.moved.inward += (into.filled().len() - before) as u64;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.moved.outward += sent as u64;
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

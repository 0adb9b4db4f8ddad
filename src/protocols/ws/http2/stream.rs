//! One stream of HTTP/2 as a stream of bytes: what carries a WebSocket (RFC 8441).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{SEND_BUFFER, Streams};
use crate::echo::LowerStream;

/// The bytes of one stream, in both directions.
///
/// Its memory is bounded by flow control. What the client sends is taken out of h2 as soon as it
/// comes, since h2 keeps each DATA frame by itself, which costs more than a small frame's payload;
/// the client gets its window back only when the bytes are read. What it is sent waits in h2 only
/// as far as the client's window and h2's own limit for each stream have room.
pub(in crate::protocols::ws) struct Http2Stream {
    receiving: RecvStream,
    sending: SendStream<Bytes>,
    /// Taken out of h2, and not read yet.
    received: Vec<u8>,
    read: usize,
    /// Read, but the client has not got its window back for it.
    unreleased: usize,
    /// How the client's side of the stream has ended.
    end: Option<End>,
    /// Our END_STREAM is on its way.
    is_shut_down: bool,
    /// Something was written that found no room in the client's window.
    is_waiting: bool,
    streams: Arc<Streams>,
}

/// How the client's side has ended.
#[derive(Debug, Clone, Copy)]
enum End {
    EndStream,
    Failed(Option<Reason>),
}

impl Http2Stream {
    pub(super) fn new(
        receiving: RecvStream,
        sending: SendStream<Bytes>,
        streams: Arc<Streams>,
    ) -> Self {
        streams.opened();
        Http2Stream {
            receiving,
            sending,
            received: Vec::new(),
            read: 0,
            unreleased: 0,
            end: None,
            is_shut_down: false,
            is_waiting: false,
            streams,
        }
    }

    /// Takes out of h2 what has come. Pending: the task is woken when there is more.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.end.is_none() {
            match ready!(self.receiving.poll_data(cx)) {
                Some(Ok(bytes)) => self.received.extend_from_slice(&bytes),
                Some(Err(error)) => self.end = Some(End::Failed(error.reason())),
                None => self.end = Some(End::EndStream),
            }
        }
        Poll::Ready(())
    }

    /// Gives the client the window back for what has been read.
    fn release(&mut self) {
        // It fails only if the stream has ended, and then there is no window.
        let _ = self.receiving.flow_control().release_capacity(self.unreleased);
        self.unreleased = 0;
    }

    /// How many bytes the client's window has room for, of `wanted`.
    fn poll_window(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        self.sending.reserve_capacity(wanted);
        let window = match self.sending.capacity() {
            0 => match ready!(self.sending.poll_capacity(cx)) {
                Some(Ok(window)) => window,
                Some(Err(error)) => return Poll::Ready(Err(reset(error.reason()))),
                None => return Poll::Ready(Err(self.reset())),
            },
            window => window,
        };
        Poll::Ready(Ok(window.min(wanted)))
    }

    /// The error of a stream that has been reset.
    fn reset(&self) -> io::Error {
        reset(match self.end {
            Some(End::Failed(reason)) => reason,
            Some(End::EndStream) | None => None,
        })
    }
}

fn reset(reason: Option<Reason>) -> io::Error {
    let why = match reason {
        Some(reason) => format!("the stream was reset: {}", reason.description()),
        None => "the HTTP/2 connection failed".to_owned(),
    };
    io::Error::new(io::ErrorKind::ConnectionReset, why)
}

impl LowerStream for Http2Stream {
    fn held(&self, _is_flushed: bool) -> usize {
        let unsent = if self.is_waiting { SEND_BUFFER } else { 0 };
        self.received.capacity() + unsent
    }
}

impl AsyncRead for Http2Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // A read follows the echo of the reads before.
        this.release();
        let taken = this.poll_take(cx);
        let received = &this.received[this.read..];
        if received.is_empty() {
            return match this.end {
                Some(End::EndStream) => Poll::Ready(Ok(())),
                Some(End::Failed(_)) => Poll::Ready(Err(this.reset())),
                None => taken.map(Ok),
            };
        }
        let length = received.len().min(into.remaining());
        into.put_slice(&received[..length]);
        this.read += length;
        this.unreleased += length;
        if this.read == this.received.len() {
            // An idle stream owns no buffer.
            (this.received, this.read) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Http2Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        match this.poll_window(cx, bytes.len()) {
            Poll::Ready(window) => {
                let window = window?;
                let mut bytes = bytes;
                let sent = this.sending.send_data(bytes.copy_to_bytes(window), false);
                this.streams.queued(window);
                this.is_waiting = false;
                Poll::Ready(sent.map(|()| window).map_err(|error| reset(error.reason())))
            }
            Poll::Pending => {
                this.is_waiting = true;
                // Nothing is read while this waits, but what comes must not pile up in h2.
                if this.poll_take(cx).is_ready() && matches!(this.end, Some(End::Failed(_))) {
                    return Poll::Ready(Err(this.reset()));
                }
                Poll::Pending
            }
        }
    }

    /// h2 sends as soon as it can; its connection's task does.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_shut_down {
            self.is_shut_down = true;
            let sent = self.sending.send_data(Bytes::new(), true);
            sent.map_err(|error| reset(error.reason()))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        self.release();
        // Without an explicit reset, h2 would keep what it has not sent until the client takes it.
        // A stream that has been shut down is left to h2, which sends what is queued.
        let is_abandoned = !self.is_shut_down && !matches!(self.end, Some(End::Failed(_)));
        if is_abandoned {
            self.sending.send_reset(Reason::CANCEL);
        }
        self.streams.closed(is_abandoned && self.is_waiting);
    }
}

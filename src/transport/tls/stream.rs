//! The stream of an established TLS connection.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::{AlertDescription, Error};

use super::record::{self, Breach, MAX_PLAINTEXT, Opened, Records};
use super::wire::Wire;
use crate::echo::{Carrier, LowerStream, yield_turn};
use crate::faults::Misbehaving;

/// What one write takes: it leaves in one system call, and is all that the connection holds if the
/// client stops reading.
const MAX_WRITE: usize = 4 * MAX_PLAINTEXT;

/// TLS 1.3 renews its keys instead.
const KEY_IS_USED_UP: &str =
    "the key has encrypted as many records as is safe, and TLS 1.2 has no way to renew it";

/// How many records are opened before others have their turn. With 64 bytes in each, a step of the
/// echo is full before that.
const MAX_WORK: u16 = 1152;

/// What a change of keys counts as: it takes as long as a hundred small records.
const NEW_KEYS_WORK: u16 = MAX_WORK / 8;

const HAS_ENDED: &str = "the TLS connection has ended";

/// A TLS connection over `S`.
pub(crate) struct TlsStream<S> {
    wire: Wire<S>,
    pub(super) records: Records,
    /// Where in the first record there is plaintext that has yet to be read, and the length of that
    /// record.
    opened: Option<(Range<usize>, usize)>,
    input: Input,
    /// What our side ends with.
    farewell: AlertDescription,
    /// How many records were opened since others had their turn.
    work: u16,
    /// That was [`MAX_WORK`] since the last step of the echo.
    was_costly: bool,
    /// An echo reads, which ends our side if reading fails.
    is_echoed: bool,
}

/// Whether more can come from the client.
enum Input {
    Open,
    /// It has sent close_notify. What stands behind that means nothing (RFC 8446 section 6.1).
    Ended,
    /// It has broken the protocol, which is told to the reader when all data before that was read.
    Broken(Option<Box<Breach>>),
}

impl<S> TlsStream<S> {
    pub(super) fn new(wire: Wire<S>, records: Records) -> Self {
        TlsStream {
            wire,
            records,
            opened: None,
            input: Input::Open,
            farewell: AlertDescription::CloseNotify,
            work: 0,
            was_costly: false,
            is_echoed: false,
        }
    }

    /// Moves plaintext into `into`: of as many records as are there and fit.
    fn take_records(&mut self, into: &mut ReadBuf<'_>) {
        while into.remaining() > 0 {
            if let Some((plaintext, length)) = &mut self.opened {
                let taken = plaintext.len().min(into.remaining());
                let end = plaintext.start + taken;
                into.put_slice(&self.wire.unread()[plaintext.start..end]);
                plaintext.start = end;
                if plaintext.start == plaintext.end {
                    self.wire.consume(*length);
                    self.opened = None;
                }
            } else if self.work >= MAX_WORK || !self.open_next() {
                break;
            }
        }
    }

    /// Opens the next record, if there is a whole one.
    fn open_next(&mut self) -> bool {
        let unread = self.wire.unread();
        let opened = match record::length(unread) {
            _ if !matches!(self.input, Input::Open) => return false,
            None => return false,
            Some(Ok(length)) if length > unread.len() => return false,
            Some(length) => length.and_then(|length| {
                let opened = self.records.open(&mut unread[..length])?;
                Ok((opened, length))
            }),
        };
        self.work += 1;
        match opened {
            Ok((Opened::Data(plaintext), length)) => self.opened = Some((plaintext, length)),
            Ok((other, length)) => {
                self.wire.consume(length);
                match other {
                    Opened::Declined(warning) => {
                        // The client may do without it, if it cannot be encrypted.
                        let record = self.records.seal_warning(warning).unwrap_or_default();
                        self.wire.queue(&record);
                    }
                    Opened::NewKeys => self.work += NEW_KEYS_WORK,
                    Opened::End => self.input = Input::Ended,
                    Opened::Data(_) | Opened::Nothing => {}
                }
            }
            Err(breach) => self.input = Input::Broken(Some(Box::new(breach))),
        }
        true
    }

    /// What a reader is told behind all data.
    fn end_of_input(&mut self) -> Option<io::Result<()>> {
        match &mut self.input {
            Input::Open => None,
            Input::Ended => Some(Ok(())),
            Input::Broken(breach) => Some(match breach.take() {
                Some(breach) => {
                    match breach.alert {
                        // It is sent when our side ends, behind the echo of all data.
                        Some(alert) if self.is_echoed => self.farewell = alert,
                        // HTTP drops the stream.
                        Some(alert) => {
                            let last = self.records.seal_last(alert);
                            self.wire.queue(&last.unwrap_or_default());
                        }
                        // The client has sent one, behind which it reads nothing (RFC 8446 section
                        // 6.2).
                        None => self.records.close(),
                    }
                    Err(io::Error::new(io::ErrorKind::InvalidData, breach.error))
                }
                // The reader knows.
                None => Ok(()),
            }),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = into.filled().len();
        loop {
            this.take_records(into);
            if into.filled().len() > before || into.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let end = this.end_of_input();
            if this.wire.has_unsent() {
                // An alert. What does not leave now leaves with the next write, or before the end of
                // our side.
                let _ = this.wire.poll_flush(cx);
            }
            if let Some(end) = end {
                return Poll::Ready(end);
            }
            if this.work >= MAX_WORK {
                (this.work, this.was_costly) = (0, true);
                yield_turn(cx);
                return Poll::Pending;
            }
            let more = this.wire.poll_more(cx);
            if more.is_pending() {
                this.work = 0;
            }
            if ready!(more)? == 0 {
                let truncated = "the stream has ended without close_notify";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, truncated)));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> TlsStream<S> {
    /// Encrypts `data` and sends it, and returns how much of it that was.
    fn send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> io::Result<usize> {
        let records = &mut self.records;
        if data.len() <= MAX_PLAINTEXT && !records.needs_new_keys() {
            let record = records.seal_data(data).map_err(to_io)?;
            self.wire.send(cx, &[record])?;
            return Ok(data.len());
        }
        if records.has_closed() {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, HAS_ENDED));
        }
        let mut sealed = Vec::new();
        let mut length = 0;
        for data in data.chunks(MAX_PLAINTEXT) {
            if records.needs_new_keys() {
                let Ok(renewed) = records.renew_keys() else { break };
                sealed.push(renewed);
            }
            sealed.push(records.seal_data(data).map_err(to_io)?);
            length += data.len();
        }
        if length == 0 {
            // All that was sealed before has left. What the socket does not take of this is lost.
            let close = self.records.seal_last(AlertDescription::CloseNotify);
            self.wire.queue(&close.unwrap_or_default());
            if let Poll::Ready(flushed) = self.wire.poll_flush(cx) {
                flushed?;
            }
            return Err(io::Error::other(KEY_IS_USED_UP));
        }
        self.wire.send(cx, &sealed)?;
        Ok(length)
    }
}

fn to_io(error: Error) -> io::Error {
    io::Error::other(error)
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        // While the client does not take one write, there is no other.
        ready!(self.wire.poll_flush(cx))?;
        let data = &data[..data.len().min(MAX_WRITE)];
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        Poll::Ready(self.send(cx, data))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let alert = self.farewell;
        let last = self.records.seal_last(alert);
        self.wire.queue(&last.unwrap_or_default());
        self.wire.poll_shutdown(cx)
    }
}

impl<S: LowerStream + AsyncWrite> Misbehaving for TlsStream<S> {}

impl<S: LowerStream + AsyncWrite> Carrier for TlsStream<S> {
    fn lower(&mut self) -> &mut dyn LowerStream {
        &mut self.wire
    }

    fn holds(&self) -> bool {
        self.wire.holds()
    }

    fn begin_step(&mut self) {
        (self.work, self.is_echoed) = (0, true);
    }

    fn end_step(&mut self) -> bool {
        std::mem::take(&mut self.was_costly)
    }
}

//! The stream of an established TLS connection.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::{AlertDescription, Error};

use super::record::{self, Breach, MAX_PLAINTEXT, Opened, Records};
use super::wire::Wire;
use crate::echo::{Carrier, LowerStream};

/// What one write takes: it leaves in one system call, and is all that the connection holds if the
/// client stops reading.
const MAX_WRITE: usize = 4 * MAX_PLAINTEXT;

/// TLS 1.3 renews its keys instead.
const KEY_IS_USED_UP: &str =
    "the key has encrypted as many records as is safe, and TLS 1.2 has no way to renew it";

/// A TLS connection over `S`.
pub(crate) struct TlsStream<S> {
    wire: Wire<S>,
    pub(super) records: Records,
    /// Where in the first record there is plaintext that has yet to be read, and the length of that
    /// record.
    opened: Option<(Range<usize>, usize)>,
    input: Input,
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
        TlsStream { wire, records, opened: None, input: Input::Open }
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
            } else if !self.open_next() {
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
        match opened {
            Ok((Opened::Data(plaintext), length)) => self.opened = Some((plaintext, length)),
            Ok((other, length)) => {
                self.wire.consume(length);
                match other {
                    Opened::Declined(warning) => {
                        // Only an exhausted key can refuse, and then nothing more is sent anyway.
                        let record = self.records.seal_warning(warning).unwrap_or_default();
                        self.wire.queue(&record);
                    }
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
                    let alert = breach.alert.and_then(|alert| self.records.seal_last(alert));
                    self.wire.queue(&alert.unwrap_or_default());
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
        // The record layer limits how often records come that carry nothing.
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
            if ready!(this.wire.poll_more(cx))? == 0 {
                let truncated = "the stream has ended without close_notify";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, truncated)));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> TlsStream<S> {
    /// Encrypts `data` and sends it.
    fn send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> io::Result<()> {
        let records = &mut self.records;
        if data.len() <= MAX_PLAINTEXT && !records.needs_new_keys() {
            let record = records.seal_data(data).map_err(to_io)?;
            return self.wire.send(cx, &[record]);
        }
        let mut sealed = Vec::new();
        for data in data.chunks(MAX_PLAINTEXT) {
            if records.needs_new_keys() {
                sealed.push(records.renew_keys().map_err(|_| io::Error::other(KEY_IS_USED_UP))?);
            }
            sealed.push(records.seal_data(data).map_err(to_io)?);
        }
        self.wire.send(cx, &sealed)
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
        if !data.is_empty() {
            self.send(cx, data)?;
        }
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let close = self.records.seal_last(AlertDescription::CloseNotify);
        self.wire.queue(&close.unwrap_or_default());
        self.wire.poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Carrier for TlsStream<S> {
    fn lower(&mut self) -> &mut dyn LowerStream {
        &mut self.wire
    }
}

//! A stream of which a part was read already, and that tells how much has moved on it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::echo::{Moved, yield_turn};

/// Gives what was read first, then the stream itself.
#[derive(Debug)]
pub(crate) struct Replay<S> {
    io: S,
    read: Vec<u8>,
    replayed: usize,
    meter: Arc<Meter>,
    record: Option<Record>,
}

/// A copy of what has been read of a stream, shared with whoever wants it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record(Arc<Mutex<Vec<u8>>>);

impl Record {
    /// What has been read so far.
    pub(crate) fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has moved on a stream that somebody else owns, and how much more may be read of it.
#[derive(Debug)]
pub(crate) struct Meter {
    inward: AtomicU64,
    outward: AtomicU64,
    allowance: AtomicUsize,
    /// The last write found no room.
    is_blocked: AtomicBool,
    /// What is written is discarded.
    is_muted: AtomicBool,
}

impl Default for Meter {
    fn default() -> Self {
        let allowance = AtomicUsize::new(usize::MAX);
        Meter {
            inward: AtomicU64::new(0),
            outward: AtomicU64::new(0),
            allowance,
            is_blocked: AtomicBool::new(false),
            is_muted: AtomicBool::new(false),
        }
    }
}

impl Meter {
    /// Lets `bytes` be read before the task has to give others a turn.
    pub(crate) fn allow(&self, bytes: usize) {
        self.allowance.store(bytes, Ordering::Relaxed);
    }

    /// Discards what the other owner writes, or no longer.
    pub(crate) fn mute(&self, is_muted: bool) {
        self.is_muted.store(is_muted, Ordering::Relaxed);
    }

    /// Whether the stream took nothing when it was last written to.
    pub(crate) fn is_blocked(&self) -> bool {
        self.is_blocked.load(Ordering::Relaxed)
    }

    pub(crate) fn moved(&self) -> Moved {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Moved { inward: read(&self.inward), outward: read(&self.outward) }
    }
}

impl<S: AsyncRead + Unpin> Replay<S> {
    /// Reads until it is decided whether `io` begins with `word`, and says so. Nothing is lost. Of
    /// the stream, `read` was read before.
    pub(crate) async fn begins_with(
        mut io: S,
        mut read: Vec<u8>,
        word: &[u8],
    ) -> io::Result<(Self, bool)> {
        while read.len() < word.len() && word.starts_with(&read) {
            if poll_fn(|cx| poll_append(&mut io, cx, &mut read)).await? == 0 {
                break;
            }
        }
        let is_word = read.starts_with(word);
        let meter = Arc::default();
        Ok((Replay { io, read, replayed: 0, meter, record: None }, is_word))
    }
}

/// Reads once, by way of the stack: while nothing comes, there is no buffer.
pub(crate) fn poll_append<S: AsyncRead + Unpin>(
    io: &mut S,
    cx: &mut Context<'_>,
    read: &mut Vec<u8>,
) -> Poll<io::Result<usize>> {
    let mut buffer = [0; 1024];
    let mut buffer = ReadBuf::new(&mut buffer);
    ready!(Pin::new(io).poll_read(cx, &mut buffer))?;
    read.extend_from_slice(buffer.filled());
    Poll::Ready(Ok(buffer.filled().len()))
}

impl<S> Replay<S> {
    /// The stream, and what was read of it and nobody has taken.
    pub(crate) fn into_parts(mut self) -> (S, Vec<u8>) {
        self.read.drain(..self.replayed);
        (self.io, self.read)
    }

    /// The stream itself.
    pub(crate) fn get_ref(&self) -> &S {
        &self.io
    }

    /// The first byte that was read and nobody has taken.
    pub(crate) fn first(&self) -> Option<u8> {
        self.read.get(self.replayed).copied()
    }

    /// Records what is read from now on.
    pub(crate) fn record(&mut self) -> Record {
        self.record.get_or_insert_default().clone()
    }

    pub(crate) fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replay<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let this = &mut *self;
        let allowance = this.meter.allowance.load(Ordering::Relaxed);
        if allowance == 0 {
            yield_turn(cx);
            return Poll::Pending;
        }
        let early = &this.read[this.replayed..];
        if early.is_empty() {
            ready!(Pin::new(&mut this.io).poll_read(cx, into))?;
        } else {
            let length = early.len().min(into.remaining());
            into.put_slice(&early[..length]);
            this.replayed += length;
            if this.replayed == this.read.len() {
                (this.read, this.replayed) = (Vec::new(), 0);
            }
        }
        let read = into.filled().len() - before;
        if let Some(record) = &self.record {
            record.bytes().extend_from_slice(&into.filled()[before..]);
        }
        self.meter.inward.fetch_add(read as u64, Ordering::Relaxed);
        self.meter.allowance.store(allowance.saturating_sub(read), Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replay<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.meter.is_muted.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.meter.is_blocked.store(written.is_pending(), Ordering::Relaxed);
        let sent = ready!(written)?;
        self.meter.outward.fetch_add(sent as u64, Ordering::Relaxed);
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

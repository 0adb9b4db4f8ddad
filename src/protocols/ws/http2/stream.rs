//! One stream of HTTP/2 as a stream of bytes: what carries a WebSocket (RFC 8441).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{SEND_BUFFER, Streams};
use crate::echo::{Carrier, LowerStream};
use crate::faults::Misbehaving;

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

    /// The same stream, of which nothing is read.
    pub(super) fn without_input(mut self) -> Self {
        self.end = Some(End::EndStream);
        self
    }

    /// The same stream, of which `received` was taken out of h2 already.
    pub(super) fn with_received(mut self, received: Vec<u8>) -> Self {
        self.received = received;
        self
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
        if self.streams.poll_frame(cx).is_pending() {
            // The window has nothing to tell meanwhile, but the end of the stream may come.
            return match ready!(self.sending.poll_reset(cx)) {
                Ok(reason) => Poll::Ready(Err(reset(Some(reason)))),
                Err(error) => Poll::Ready(Err(reset(error.reason()))),
            };
        }
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

impl Misbehaving for Http2Stream {}

impl LowerStream for Http2Stream {
    /// A reset drops what h2 has not sent.
    fn has_sent_all(&self) -> bool {
        self.streams.queued.load(Ordering::Relaxed) == 0
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self).poll_shutdown(cx)
    }

    fn poll_peer_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_take(cx)
    }

    fn held(&self, _is_flushed: bool) -> usize {
        let unsent = if self.is_waiting { SEND_BUFFER } else { 0 };
        self.received.capacity() + unsent
    }
}

impl Carrier for Http2Stream {
    fn lower(&mut self) -> &mut dyn LowerStream {
        self
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

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use h2::client::{self, SendRequest};
    use h2::server;
    use hyper::{Request, Response};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::task::yield_now;

    use super::super::{FRAME_OVERHEAD, MAX_FRAMES};
    use super::*;

    /// A client's stream and the server's, of one connection.
    struct Pair {
        server: Http2Stream,
        streams: Arc<Streams>,
        sending: SendStream<Bytes>,
        receiving: RecvStream,
        _requests: SendRequest<Bytes>,
    }

    /// HTTP/2's initial window (RFC 9113 section 6.9.2), which both sides have here.
    const WINDOW: usize = 65_535;

    async fn pair() -> Pair {
        let (near, far) = duplex(1 << 20);
        let (opened, connection) = tokio::join!(client::handshake(near), server::handshake(far));
        let ((mut requests, carrier), mut connection) = (opened.unwrap(), connection.unwrap());
        tokio::spawn(carrier);
        let (response, sending) = requests.send_request(Request::default(), false).unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let accepted = respond.send_response(Response::new(()), false).unwrap();
        tokio::spawn(async move { while connection.accept().await.is_some() {} });
        let receiving = response.await.unwrap().into_body();
        let streams = Arc::<Streams>::default();
        let server = Http2Stream::new(request.into_body(), accepted, Arc::clone(&streams));
        assert_eq!(streams.open(), 1);
        Pair { server, streams, sending, receiving, _requests: requests }
    }

    /// Lets both connections do what they can.
    async fn settle() {
        for _ in 0..100 {
            yield_now().await;
        }
    }

    /// Takes what has come for the client, and returns it.
    fn taken(receiving: &mut RecvStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(data) = receiving.data().now_or_never().flatten() {
            let data = data.unwrap();
            receiving.flow_control().release_capacity(data.len()).unwrap();
            bytes.extend_from_slice(&data);
        }
        bytes
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_up_to_the_end_of_each() {
        let Pair { mut server, streams, mut sending, mut receiving, _requests } = pair().await;
        for frame in [&b"ab"[..], b"", b"c", b"defgh"] {
            sending.send_data(Bytes::copy_from_slice(frame), false).unwrap();
        }
        settle().await;
        let mut some = [0; 3];
        assert_eq!(server.read(&mut some).await.unwrap(), 3);
        assert_eq!(&some, b"abc");
        sending.send_data(Bytes::from_static(b"i"), true).unwrap();
        let mut rest = String::new();
        server.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "defghi");
        assert_eq!(server.received.capacity(), 0, "an idle stream owns no buffer");
        server.write_all(b"and back").await.unwrap();
        server.shutdown().await.unwrap();
        server.shutdown().await.unwrap();
        drop(server);
        settle().await;
        let mut back = Vec::new();
        while let Some(data) = receiving.data().await {
            back.extend_from_slice(&data.expect("it is not reset"));
        }
        assert_eq!(back, b"and back");
        assert!(receiving.is_end_stream());
        assert_eq!((streams.open(), streams.have_all_stalled()), (0, false));
    }

    #[tokio::test]
    async fn the_client_gets_its_window_back_when_more_is_read() {
        let Pair { mut server, mut sending, receiving: _receiving, _requests, .. } = pair().await;
        sending.send_data(vec![7; WINDOW].into(), false).unwrap();
        sending.reserve_capacity(WINDOW);
        settle().await;
        assert_eq!(sending.capacity(), 0, "the window is used up");
        let mut half = vec![0; WINDOW / 2 + 1];
        server.read_exact(&mut half).await.unwrap();
        settle().await;
        assert_eq!(sending.capacity(), 0, "what was read may not be echoed yet");
        let mut rest = vec![0; WINDOW / 2];
        server.read_exact(&mut rest).await.unwrap();
        settle().await;
        assert_eq!(sending.capacity(), WINDOW / 2 + 1);
        assert!(server.read_u8().now_or_never().is_none());
        settle().await;
        assert_eq!(sending.capacity(), WINDOW);
    }

    #[tokio::test]
    async fn no_more_is_written_than_the_client_has_room_for_and_what_comes_is_taken_meanwhile() {
        let Pair { mut server, streams, mut sending, mut receiving, _requests } = pair().await;
        let mut written = 0;
        while let Some(sent) = server.write(&[7; 10_000]).now_or_never() {
            written += sent.unwrap();
            settle().await;
        }
        assert_eq!(written, WINDOW);
        assert!(server.is_waiting);
        sending.send_data(Bytes::from_static(b"more"), false).unwrap();
        settle().await;
        assert!(server.write(&[7; 10_000]).now_or_never().is_none());
        assert_eq!(server.received, b"more");
        assert_eq!(taken(&mut receiving), vec![7; WINDOW]);
        settle().await;
        assert_eq!(server.write(b"and more").await.unwrap(), 8);
        assert!(!server.is_waiting);
        assert_eq!(server.read_u8().await.unwrap(), b'm');
        drop(server);
        assert!(!streams.have_all_stalled(), "its client takes what it is sent");
    }

    #[tokio::test]
    async fn h2_is_given_so_many_frames_at_most_until_it_has_sent_them() {
        let Pair { mut server, streams, mut receiving, sending: _sending, _requests } =
            pair().await;
        // A client that is sent so many small ones would not believe it.
        for _ in 0..MAX_FRAMES - 1 {
            streams.queued(1);
        }
        assert_eq!(server.write(b"x").now_or_never().unwrap().unwrap(), 1);
        assert!(server.write(b"y").now_or_never().is_none());
        assert_eq!(streams.held(), MAX_FRAMES * (1 + FRAME_OVERHEAD));
        assert!(server.is_waiting);
        settle().await;
        assert_eq!(taken(&mut receiving), b"x");
        let waiting = tokio::spawn(async move { server.write(b"y").await });
        settle().await;
        assert!(!waiting.is_finished());
        streams.sent_all();
        assert_eq!(waiting.await.unwrap().unwrap(), 1);
    }

    #[tokio::test]
    async fn what_waits_to_give_h2_a_frame_learns_of_a_reset() {
        let Pair { mut server, streams, receiving: _receiving, mut sending, _requests } =
            pair().await;
        for _ in 0..MAX_FRAMES {
            streams.queued(1);
        }
        let waiting = tokio::spawn(async move { server.write(b"x").await });
        settle().await;
        assert!(!waiting.is_finished());
        sending.send_reset(Reason::CANCEL);
        assert_eq!(waiting.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_stream_that_is_dropped_is_reset_with_what_it_has_not_sent() {
        for has_stalled in [false, true] {
            let Pair { mut server, streams, mut receiving, sending: _sending, _requests } =
                pair().await;
            server.write_all(&[7; WINDOW]).await.unwrap();
            settle().await;
            if has_stalled {
                assert!(server.write(b"x").now_or_never().is_none());
            }
            drop(server);
            settle().await;
            let error = loop {
                match receiving.data().await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break error,
                    None => panic!("the stream was not reset"),
                }
            };
            assert_eq!(error.reason(), Some(Reason::CANCEL));
            assert_eq!((streams.open(), streams.have_all_stalled()), (0, has_stalled));
        }
    }

    #[tokio::test]
    async fn a_reset_by_the_client_fails_reads_and_writes_with_its_reason() {
        let Pair { mut server, streams, mut sending, receiving: _receiving, _requests } =
            pair().await;
        server.write_all(&[7; WINDOW]).await.unwrap();
        settle().await;
        assert!(server.write(b"x").now_or_never().is_none());
        sending.send_data(Bytes::from_static(b"hi"), false).unwrap();
        settle().await;
        assert_eq!(server.read_u8().await.unwrap(), b'h');
        sending.send_reset(Reason::ENHANCE_YOUR_CALM);
        settle().await;
        assert_eq!(server.read_u8().await.unwrap(), b'i', "what came before is still there");
        let why = "the stream was reset: detected excessive load generating behavior";
        for error in [server.read_u8().await.unwrap_err(), server.write(b"x").await.unwrap_err()] {
            assert_eq!(
                (error.kind(), error.to_string().as_str()),
                (io::ErrorKind::ConnectionReset, why)
            );
        }
        drop(server);
        assert!(!streams.have_all_stalled(), "the client has ended it");
    }
}
